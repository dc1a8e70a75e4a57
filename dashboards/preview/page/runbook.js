/** A page of docs/runbooks: what a rule or an alert means, what to look at, what to do. */
import { get } from "./ask.js";
import { element } from "./figures.js";
import { markdown } from "./markdown.js";

/** @param name of the page, without .md */
export async function runbook(name) {
  const { text } = await get(`/api/runbooks/${encodeURIComponent(name)}.md`);
  const made = element("article", { class: "prose runbook" });
  made.append(markdown(text, leading));
  return made;
}

/** Pages lead to each other; the rest of the documentation is not served. */
function leading(url) {
  const page = /^([\w-]+)\.md(?:#.*)?$/.exec(url);
  if (page) return `/runbooks/${page[1]}`;
  return /^https:\/\//.test(url) ? url : null;
}

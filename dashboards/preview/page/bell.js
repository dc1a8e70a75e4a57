/**
 * The bell on top of every page: how much rings, and with a click what, since when, and what to do. The server looks
 * once an interval; this asks it what it saw.
 */
import { get } from "./ask.js";
import { element } from "./figures.js";
import { timeText, zoneOf } from "./time.js";

const PAUSE = 5000;
const SHAPE =
  "M12 2.5a1.6 1.6 0 0 0-1.6 1.6v.6A6 6 0 0 0 6 10.5v4L4 17v1h16v-1l-2-2.5v-4a6 6 0 0 0-4.4-5.8v-.6" +
  "A1.6 1.6 0 0 0 12 2.5zM9.8 19.2a2.2 2.2 0 0 0 4.4 0z";

export class Bell {
  /** @param place the element that it is put in */
  constructor(place) {
    this.count = element("b", {});
    this.what = element("span", { class: "what" });
    this.button = element("button", { type: "button", id: "bell" }, drawn(), this.count, this.what);
    this.button.onclick = () => this.open();
    this.dialog = document.getElementById("dialog");
    this.list = null;
    place.replaceChildren(this.button);
    this.show();
  }

  /** Asks now, and again and again while somebody looks. */
  async watch() {
    document.addEventListener("visibilitychange", () => this.ask());
    for (;;) {
      await this.ask();
      await new Promise((over) => setTimeout(over, PAUSE));
    }
  }

  async ask() {
    if (document.hidden) return;
    try {
      this.seen = await get("/api/ringing");
      this.lost = null;
    } catch (error) {
      this.lost = error.message;
    }
    this.show();
  }

  show() {
    const { rules = [], alerts = [] } = this.seen ?? {};
    const ringing = rules.filter(({ state }) => state !== "pending");
    const all = [...ringing, ...alerts];
    const known = this.seen?.looked_ms !== null && this.seen !== undefined;
    this.count.textContent = known ? all.length : "…";
    this.what.textContent = all[0]?.title ?? "";
    this.button.dataset.rings = all.some(({ severity }) => severity === "critical")
      ? "critical"
      : all.length
        ? "warning"
        : "none";
    this.button.classList.toggle("stale", this.late() !== null);
    this.button.title = this.late() ?? `${counted(ringing, "rule")} ring, ${counted(alerts, "alert")} open`;
    if (this.list?.isConnected && this.dialog.open) this.list.replaceChildren(...this.entries());
  }

  /** Why what is known may no longer be so, or null. */
  late() {
    if (this.lost) return this.lost;
    if (!this.seen) return "Not asked yet";
    const { looked_ms: looked, every_s: every } = this.seen;
    if (looked === null) return "The first look is under way";
    return Date.now() - looked > 3000 * every + 30_000 ? `Nobody has looked since ${this.time(looked)}` : null;
  }

  open() {
    this.list = element("div", { class: "ringing" }, ...this.entries());
    const close = element("button", { type: "button", textContent: "Close", autofocus: true });
    close.onclick = () => this.dialog.close();
    this.dialog.replaceChildren(element("h2", {}, "What rings"), this.list, element("p", {}, close));
    this.dialog.showModal();
  }

  entries() {
    const late = this.late();
    const { rules = [], alerts = [], looked_ms: looked, alerts_ms: read, every_s: every, faster } = this.seen ?? {};
    const groups = alike(rules.filter(({ state }) => state !== "pending"));
    const waiting = rules.filter(({ state }) => state === "pending");
    const behind = looked && read !== looked;
    const when = read ? `as of ${this.time(read)}` : "not read yet";
    return [
      late === null ? null : element("p", { class: "bad" }, `${late}.`),
      ...(groups.length ? groups.map((group) => this.entry(...group)) : [element("p", {}, "No rule rings.")]),
      waiting.length ? element("h3", {}, "About to ring") : null,
      ...waiting.map((rung) => this.entry(rung)),
      element("h3", {}, "Open alerts of the stream", behind ? element("span", { class: "weak" }, ` ${when}`) : null),
      element(
        "div",
        { class: behind ? "stale" : "" },
        ...(alerts.length ? alerts.map((rung) => this.entry(rung)) : [element("p", {}, "None is open.")]),
      ),
      element(
        "p",
        { class: "weak" },
        looked ? `Looked at ${this.time(looked)}, every ${every} s, as Grafana would; nobody is told.` : "",
        faster > 1 ? ` This is a drill: ages and waiting times are a ${faster}th of theirs.` : "",
      ),
    ].filter((made) => made !== null);
  }

  /** @param others rules that say the same */
  entry(rung, ...others) {
    const { state, severity, title, labels, since_ms: since, said, advice, panel, link } = rung;
    const labelled = Object.entries(labels).map(([name, text]) => element("code", {}, `${name} ${text}`));
    const names = others.map((other) => other.title).join(", ");
    const made = element(
      "article",
      {},
      element(
        "header",
        {},
        element("strong", {}, title),
        ...labelled,
        element("span", { class: "weak" }, `${WORDS[state] ?? severity} since ${this.time(since)}, ${lasted(since)}`),
      ),
      element("p", {}, said),
      ...(advice.length ? [element("ul", {}, ...advice.map((each) => element("li", {}, each)))] : []),
      names ? element("p", {}, `Nor can ${names}.`) : null,
      element(
        "p",
        {},
        element("a", { href: link }, `Panel ${panel}`),
        " · ",
        this.page(rung.page),
      ),
    );
    made.dataset.rings = state === "pending" ? "none" : severity;
    made.querySelector("a").onclick = () => this.dialog.close();
    return made;
  }

  /** A link to a page of what to do; where there are no pages its name alone. */
  page(name) {
    if (!this.seen.pages.includes(name)) return element("span", {}, `What to do: docs/runbooks/${name}`);
    return element("a", { href: `/runbooks/${name.replace(/\.md$/, "")}` }, "What to do");
  }

  time(ms) {
    return timeText(ms, zoneOf(this.seen?.zone), "today");
  }
}

const WORDS = { pending: "pending", alerting: "ringing", error: "cannot be asked", open: "open" };

/** Rules that cannot be asked for the same reason are one entry, that of the worst. */
function alike(rules) {
  const groups = new Map();
  for (const rung of rules) {
    const key = rung.state === "error" ? rung.said : rung;
    groups.set(key, [...(groups.get(key) ?? []), rung]);
  }
  return [...groups.values()];
}

function counted(list, name) {
  return `${list.length} ${name}${list.length === 1 ? "" : "s"}`;
}

function lasted(since) {
  const minutes = Math.max(0, Math.floor((Date.now() - since) / 60_000));
  if (minutes < 1) return "less than a minute";
  if (minutes < 120) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} days`;
}

function drawn() {
  const space = "http://www.w3.org/2000/svg";
  const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS(space, tag));
  svg.setAttribute("viewBox", "0 0 24 24");
  path.setAttribute("d", SHAPE);
  svg.append(path);
  return svg;
}

/** Markdown of text panels as elements: headings, lists, tables, code, emphasis and links. No HTML comes through. */

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*|\[([^\]]+)\]\(([^)\s]+)\)/g;

/** @param address from the address that is written to the one that a click leads to, or null: then it is text alone */
export function markdown(text, address) {
  const out = document.createDocumentFragment();
  const lines = text.split("\n");
  let block = [];
  const close = () => {
    if (block.length) out.append(made("p", block.join(" "), address));
    block = [];
  };
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at];
    const heading = /^(#{1,5})\s+(.*)/.exec(line);
    const item = /^\s*([-*]|\d+\.)\s+(.*)/.exec(line);
    if (heading) {
      close();
      out.append(made(`h${heading[1].length}`, heading[2], address));
    } else if (item) {
      close();
      const list = document.createElement(/\d/.test(item[1]) ? "ol" : "ul");
      const items = [];
      for (; at < lines.length; at++) {
        const next = /^\s*(?:[-*]|\d+\.)\s+(.*)/.exec(lines[at]);
        if (next) items.push(next[1]);
        else if (/^\s+\S/.test(lines[at])) items.push(`${items.pop()} ${lines[at].trim()}`);
        else break;
      }
      at--;
      list.append(...items.map((each) => made("li", each, address)));
      out.append(list);
    } else if (/^\|.*\|\s*$/.test(line)) {
      close();
      const table = document.createElement("table");
      for (; at < lines.length && /^\|.*\|\s*$/.test(lines[at]); at++) {
        if (/^[|\s:-]+$/.test(lines[at])) continue;
        const row = table.insertRow();
        const cells = lines[at].trim().slice(1, -1).split("|");
        row.append(...cells.map((cell) => made(table.rows.length === 1 ? "th" : "td", cell.trim(), address)));
      }
      at--;
      out.append(table);
    } else if (/^```/.test(line)) {
      close();
      const code = document.createElement("pre");
      for (at++; at < lines.length && !/^```/.test(lines[at]); at++) code.append(lines[at], "\n");
      out.append(code);
    } else if (line.trim()) {
      block.push(line.trim());
    } else {
      close();
    }
  }
  close();
  return out;
}

function made(tag, text, address) {
  const element = document.createElement(tag);
  element.append(...inline(text, address));
  return element;
}

function inline(text, address) {
  const out = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    out.push(text.slice(at, found.index));
    const [, code, strong, emphasis, label, url] = found;
    const to = url ? address(url) : null;
    const element = document.createElement(code ? "code" : strong ? "strong" : to === null ? "em" : "a");
    element.textContent = code ?? strong ?? emphasis ?? label;
    if (to !== null) element.href = to;
    out.push(element);
    at = found.index + found[0].length;
  }
  out.push(text.slice(at));
  return out;
}

/** Figures, bars, tables and text: what is drawn with elements. */
import { visible } from "./charts.js";
import { css, faded, ink, light } from "./colors.js";
import { barColor, byName, paletteColor, reduced, share, shown, text } from "./frames.js";
import { markdown } from "./markdown.js";
import { address } from "./template.js";

const SHOWN_ROWS = 500;

/** An element with a class, its properties and children. */
export function element(tag, { class: name, style, ...rest } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), rest);
  if (name) made.className = name;
  for (const [key, value] of Object.entries(style ?? {})) {
    if (key.startsWith("--")) made.style.setProperty(key, value);
    else made.style[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** What reduceOptions make of frames: a figure each with name, field, value, color, and the values it comes from. */
export function figures(panel, frames) {
  const { calcs = ["lastNotNull"], values: each, limit, fields: wanted = "" } = panel.options?.reduceOptions ?? {};
  const found = [];
  for (const frame of frames) {
    const names = frame.fields.find(({ type }) => type === "string");
    const fields = visible(frame).filter((field) => chosen(field, wanted) && !(each && field === names && !wanted));
    const time = frame.fields.find(({ type }) => type === "time");
    if (each) {
      const rows = Math.min(frame.length, limit ?? 25);
      for (let row = 0; row < rows; row++) {
        for (const field of fields) {
          const own = names ? text(names, names.values[row]) : field.display;
          found.push({
            name: fields.length > 1 && names ? `${own} ${field.display}` : own,
            field,
            value: field.values[row],
            row,
            frame,
          });
        }
      }
    } else {
      for (const field of fields) {
        const value = reduced(field.values, calcs[0]);
        found.push({
          name: field.display,
          field,
          value,
          times: time?.values,
          frame,
          row: field.values.lastIndexOf(value),
        });
      }
    }
  }
  const taken = new Set();
  return found.map((figure, index) => {
    const mode = figure.field.config.color?.mode ?? "thresholds";
    const named = each && mode.startsWith("palette");
    const place = mode === "palette-classic-by-name" ? byName(figure.name, taken) : index;
    return { ...figure, color: named ? paletteColor(place) : shown(figure.field, figure.value).color };
  });
}

/** Big figures, each with its line. */
export function stat(panel, frames, { width, height, link }) {
  const { options = {} } = panel;
  const found = figures(panel, frames);
  const across = options.orientation === "vertical" || (options.orientation !== "horizontal" && width > height);
  const named = { auto: found.length > 1, name: true, value_and_name: true }[options.textMode] ?? false;
  const [tall, wide] = across ? [height, width / found.length] : [height / found.length, width];
  const texts = found.map(({ field, value }) => shown(field, value));
  const longest = Math.max(...texts.map((said) => measure(said)), 1);
  const lined = options.graphMode === "area" && found.some(({ times }) => times?.length > 1);
  const room = tall * (lined ? 0.68 : 1) - (named ? 20 : 0);
  const size = Math.max(13, Math.min((wide - 20) / longest, room * 0.72, 68));
  const tiles = found.map((figure, index) => {
    const { prefix, text: middle, suffix } = texts[index];
    const background = options.colorMode?.startsWith("background");
    const colored = options.colorMode && options.colorMode !== "none" && !background;
    const color = figure.color;
    const value = element(
      "div",
      { class: "figure", style: { fontSize: `${size}px`, color: colored ? color : "" } },
      prefix,
      middle,
      element("small", {}, suffix),
    );
    if (options.textMode === "name") value.replaceChildren(figure.name);
    const tile = element(
      "div",
      { class: "tile" },
      named && options.textMode !== "name" ? element("div", { class: "name" }, figure.name) : null,
      options.textMode === "none" ? null : value,
    );
    if (background)
      Object.assign(tile.style, {
        background: `linear-gradient(120deg, ${faded(color, 0.62)}, ${faded(color, 0.78)})`,
        color: light() ? "#111217" : "#ffffff",
      });
    if (lined && figure.times?.length > 1) {
      tile.classList.add("lined");
      tile.prepend(sparkline(figure, background ? tile.style.color : color));
    }
    return linked(tile, figure, link);
  });
  return element("div", { class: `tiles ${across ? "across" : "down"}` }, ...tiles);
}

/** A bar for each figure. */
export function barGauge(panel, frames, { height, link }) {
  const { options = {} } = panel;
  const found = figures(panel, frames);
  const upright = options.orientation === "vertical";
  const bars = found.map((figure) => {
    const said = text(figure.field, figure.value);
    const part = figure.value === null ? 0 : share(zeroed(figure.field), figure.value);
    const fill = element("div", {
      class: "fill",
      style: {
        [upright ? "height" : "width"]: `${part * 100}%`,
        background:
          options.displayMode === "gradient"
            ? `linear-gradient(${upright ? 0 : 90}deg, ${faded(figure.color, 0.35)}, ${figure.color})`
            : faded(figure.color, 0.75),
      },
    });
    const value = element("b", { style: { color: figure.color } }, said);
    return linked(
      element(
        "div",
        { class: "bar" },
        element("span", { class: "name", title: figure.name }, figure.name),
        element("div", { class: options.showUnfilled === false ? "track bare" : "track" }, fill),
        value,
      ),
      figure,
      link,
    );
  });
  const tall = Math.min(Math.max((height - 4) / Math.max(bars.length, 1), 17), 44);
  return element("div", { class: `bars ${upright ? "upright" : ""}`, style: { "--bar": `${tall}px` } }, ...bars);
}

/** One figure on an arc. */
export function gauge(panel, frames, { width, height }) {
  const found = figures(panel, frames);
  const size = Math.min(width / Math.max(found.length, 1), height * 1.5);
  return element(
    "div",
    { class: "tiles across" },
    ...found.map(({ name, field, value, color }) => {
      const arc = (part) =>
        `M 10 52 A 42 42 0 0 1 ${52 - 42 * Math.cos(Math.PI * part)} ${52 - 42 * Math.sin(Math.PI * part)}`;
      const drawn = svg("svg", { class: "arc", viewBox: "0 0 104 60", width: size * 0.9, height: size * 0.55 });
      drawn.append(
        svg("path", { d: arc(1), class: "track" }),
        svg("path", { d: arc(value === null ? 0 : share(field, value)), stroke: color }),
      );
      return element(
        "div",
        { class: "tile" },
        drawn,
        element(
          "div",
          { class: "figure", style: { fontSize: `${Math.max(16, size / 9)}px`, color } },
          text(field, value),
        ),
        found.length > 1 ? element("div", { class: "name" }, name) : null,
      );
    }),
  );
}

/**
 * Rows and columns; a click on a heading sorts.
 * @param sorting what is sorted by, {name, down}: kept by the caller
 */
export function table(panel, frames, { link, sorting, resort }) {
  const frame = frames[0];
  const columns = visible(frame);
  const order = Array.from({ length: frame.length }, (_, row) => row);
  const by =
    sorting ??
    (panel.options?.sortBy?.[0] && { name: panel.options.sortBy[0].displayName, down: panel.options.sortBy[0].desc });
  const key = by && columns.find(({ display }) => display === by.name);
  if (key) order.sort((one, other) => (by.down ? -1 : 1) * compared(key.values[one], key.values[other]));
  const head = element(
    "tr",
    {},
    ...columns.map((field) => {
      const mark = key === field ? (by.down ? " ▾" : " ▴") : "";
      const cell = element("th", { class: alignment(field), title: "Sort" }, field.display + mark);
      cell.onclick = () =>
        resort(key === field && by.down ? { name: field.display, down: false } : { name: field.display, down: true });
      if (field.config.custom?.width) cell.style.width = `${field.config.custom.width}px`;
      return cell;
    }),
  );
  const rows = order
    .slice(0, SHOWN_ROWS)
    .map((row) => element("tr", {}, ...columns.map((field) => cell(field, row, frame, link))));
  const made = element("table", { class: "rows" }, element("thead", {}, head), element("tbody", {}, ...rows));
  if (panel.options?.footer?.show) {
    made.append(
      element(
        "tfoot",
        {},
        element(
          "tr",
          {},
          ...columns.map((field) =>
            element(
              "td",
              { class: alignment(field) },
              field.type === "number"
                ? text(field, reduced(field.values, panel.options.footer.reducer?.[0] ?? "sum"))
                : "",
            ),
          ),
        ),
      ),
    );
  }
  const rest = frame.length - SHOWN_ROWS;
  return element(
    "div",
    { class: "scroll" },
    made,
    rest > 0 ? element("p", { class: "weak" }, `${rest} more rows`) : null,
  );
}

/** Markdown. */
export function prose(panel, lookup) {
  const written =
    panel.options?.mode === "html" ? "```\n" + (panel.options.content ?? "") : (panel.options?.content ?? "");
  return element(
    "div",
    { class: "scroll prose" },
    markdown(written, (url) => address(url, lookup)),
  );
}

/** What colour, name and figures stand in a legend: `entries` have name, color, values. */
export function legend(options, entries, hidden, toggle) {
  if (options?.showLegend === false || options?.displayMode === "hidden" || !entries.length) return null;
  const side = options?.placement === "right";
  const heads = entries[0].values.map(({ head }) => head);
  const items = entries.map(({ name, color, values }) => {
    const said = values.map(({ head, text: figure }) =>
      element("b", { title: head }, side || options?.displayMode === "table" ? "" : `${head}: `, figure),
    );
    const item = element(
      "button",
      { class: hidden.has(name) ? "off" : "", type: "button", title: name },
      element("i", { style: { background: color } }),
      element("span", {}, name),
      ...said,
    );
    item.onclick = (event) => toggle(name, event.ctrlKey || event.metaKey || event.shiftKey);
    return item;
  });
  const made = element(
    "div",
    { class: `legend ${side ? "side" : ""} ${options?.displayMode === "table" ? "columns" : ""}` },
    ...items,
  );
  made.style.setProperty("--figures", heads.length);
  return made;
}

function cell(field, row, frame, link) {
  const { custom = {}, links = [] } = field.config;
  const value = field.values[row];
  const { prefix, text: middle, suffix, color } = shown(field, value);
  const said = prefix + middle + suffix;
  const kind = custom.cellOptions?.type ?? OLD_CELLS[custom.displayMode] ?? "auto";
  const made = element("td", { class: alignment(field), title: said });
  const inner =
    links.length && value !== null
      ? element("a", { href: link(links[0].url, { field, value, row, frame }), title: links[0].title ?? "" }, said)
      : said;
  if (kind === "gauge" && typeof value === "number") {
    const fill = element("div", {
      class: "fill",
      style: { width: `${share(zeroed(field), value) * 100}%`, background: faded(barColor(field, value), 0.7) },
    });
    made.append(element("div", { class: "cell" }, element("div", { class: "track" }, fill), element("b", {}, inner)));
  } else {
    made.append(inner);
    if (kind === "color-text") made.style.color = color;
    if (kind.startsWith("color-background") && value !== null) {
      const soft = css("--text") !== color;
      if (soft) Object.assign(made.style, { background: color, color: ink(color) });
    }
  }
  return made;
}

const OLD_CELLS = {
  "color-background-solid": "color-background",
  "color-background": "color-background",
  "color-text": "color-text",
  basic: "gauge",
  "gradient-gauge": "gauge",
  "lcd-gauge": "gauge",
};

/** A bar begins at nothing, unless somebody says otherwise or there is less. */
function zeroed(field) {
  const [low, high] = field.bounds;
  return field.config.min === undefined ? { ...field, bounds: [Math.min(0, low), high] } : field;
}

function alignment(field) {
  return field.config.custom?.align && field.config.custom.align !== "auto"
    ? field.config.custom.align
    : field.type === "number"
      ? "right"
      : "left";
}

function compared(one, other) {
  if (one === null || other === null) return (one === null) - (other === null);
  return typeof one === "string" ? one.localeCompare(other, undefined, { numeric: true }) : one - other;
}

function chosen(field, wanted) {
  if (!wanted) return field.type === "number";
  const pattern = /^\/(.*)\/$/.exec(wanted);
  return pattern ? new RegExp(pattern[1]).test(field.display) : field.display === wanted || field.name === wanted;
}

function linked(tile, figure, link) {
  const { links = [] } = figure.field.config;
  if (!links.length) return tile;
  return element("a", { class: "bare", href: link(links[0].url, figure), title: links[0].title ?? "" }, tile);
}

function sparkline({ field, times }, color) {
  const points = field.values.map((value, at) => [times[at], value]).filter(([, value]) => value !== null);
  const drawn = svg("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none" });
  if (points.length < 2) return drawn;
  const [left, right] = [points[0][0], points.at(-1)[0]];
  const own = points.map(([, value]) => value);
  const [low, high] = [field.config.min ?? Math.min(...own), field.config.max ?? Math.max(...own)];
  const at = ([time, value]) => {
    const [x, y] = [(time - left) / (right - left || 1), (value - low) / (high - low || 1)];
    return `${(x * 100).toFixed(2)} ${(28 - y * 26).toFixed(2)}`;
  };
  const path = points.map(at).join(" L ");
  drawn.append(
    svg("path", { d: `M ${path} L 100 30 L 0 30 Z`, fill: color, "fill-opacity": 0.18 }),
    svg("path", {
      d: `M ${path}`,
      fill: "none",
      stroke: color,
      "stroke-width": 1.5,
      "vector-effect": "non-scaling-stroke",
      "stroke-opacity": 0.85,
    }),
  );
  return drawn;
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** About how wide a figure is, in sizes of its letters. */
function measure({ prefix, text: middle, suffix }) {
  const wide = (said) =>
    [...said].reduce(
      (sum, letter) => sum + (/[.,: ]/.test(letter) ? 0.3 : letter.codePointAt(0) > 0x2e80 ? 1 : 0.6),
      0,
    );
  return wide(prefix + middle) + wide(suffix) * 0.65;
}

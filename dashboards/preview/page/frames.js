/**
 * Answers of ClickHouse as Grafana's data frames, and what a panel's configuration makes of their fields: names, units,
 * thresholds, colours, mappings. Times are UTC ms; what is missing is null.
 */
import { colorOf, css, interpolated, PALETTE } from "./colors.js";
import { filled } from "./template.js";
import { timeText } from "./time.js";
import { inUnit } from "./units.js";

/**
 * A frame of an answer: fields with name, type (time, number, string, boolean), values and, of series, labels.
 * Rows of a query for series become a field for each combination of texts, as the plugin does it.
 */
export function frameOf({ ref, series, result }) {
  const fields = result.meta.map(({ name, type }, column) => {
    const kind = kindOf(type);
    return { name, type: kind, values: result.data.map((row) => read(row[column], kind)) };
  });
  const frame = { ref, fields, length: result.data.length };
  return series ? wide(frame) : frame;
}

/** What the panel's transformations make of frames; `unknown` names those that only Grafana does. */
export function transformed(frames, transformations = []) {
  const unknown = [];
  for (const { id, options = {}, disabled } of transformations) {
    if (disabled) continue;
    if (TRANSFORMATIONS[id]) frames = TRANSFORMATIONS[id](frames, options);
    else unknown.push(id);
  }
  return { frames, unknown };
}

/** Gives each field its configuration, its name on the screen, and how its values are shown. */
export function configured(frames, panel, { zone, lookup }) {
  const single = singleLabel(frames);
  let index = 0;
  const made = frames.map((frame) => ({
    ...frame,
    fields: frame.fields.map((field) => {
      const automatic = automaticName(field, single);
      const config = structuredClone(panel.fieldConfig?.defaults ?? {});
      for (const { matcher, properties } of panel.fieldConfig?.overrides ?? []) {
        if (MATCHERS[matcher.id]?.(matcher.options, field, automatic, frame)) {
          for (const { id, value } of properties) put(config, id, value);
        }
      }
      const made = { ...field, config, zone };
      made.display = config.displayName
        ? filled(config.displayName, (name) => ofField(name, made, automatic) ?? lookup(name))
        : automatic;
      if (field.type === "number") made.index = index++;
      return made;
    }),
  }));
  const numbers = made.flatMap(({ fields }) => fields.filter(({ type }) => type === "number"));
  const everywhere = range(numbers.flatMap(({ values }) => values));
  const taken = new Set();
  for (const field of numbers) {
    // As Grafana does: a field whose least and highest nobody gives has those of all fields together.
    const [low, high] = field.config.fieldMinMax ? range(field.values) : everywhere;
    field.bounds = [field.config.min ?? low, field.config.max ?? high];
    field.palette = field.config.color?.mode === "palette-classic-by-name" ? byName(field.display, taken) : field.index;
  }
  return made;
}

/** A place in the palette that hangs on the name, and is not taken. */
export function byName(name, taken) {
  const size = PALETTE.length;
  let place = [...name].reduce((hash, letter) => (hash * 31 + letter.codePointAt(0)) % 1_000_003, 7) % size;
  while (taken.has(place) && taken.size < size) place = (place + 1) % size;
  taken.add(place);
  return place;
}

/** How a value is shown: its prefix, text, suffix, colour and number. */
export function shown(field, value, decimals) {
  const { config } = field;
  const mapped = mapping(config.mappings, value);
  const number = typeof value === "number" ? value : NaN;
  const missing = value === null || value === undefined;
  // What is not known is neither good nor bad.
  const color = mapped?.color ? colorOf(mapped.color) : missing ? css("--weak") : colorFor(field, number);
  if (mapped?.text !== undefined) return { prefix: "", text: mapped.text, suffix: "", color, number, mapped: true };
  if (missing) return { prefix: "", text: config.noValue ?? "", suffix: "", color, number };
  const [prefix, text, suffix] = parts(field, value, decimals);
  return { prefix, text, suffix, color, number };
}

/** The same as one text. */
export function text(field, value, decimals) {
  const { prefix, text: middle, suffix } = shown(field, value, decimals);
  return prefix + middle + suffix;
}

/** The colour of a field's line or slice. */
export function seriesColor(field) {
  const { color = {} } = field.config;
  if (color.mode === "fixed" || color.mode === "shades") return colorOf(color.fixedColor ?? "text");
  if (!color.mode || color.mode.startsWith("palette")) return paletteColor(field.palette);
  return colorFor(
    field,
    reduced(field.values, color.seriesBy === "min" ? "min" : color.seriesBy === "max" ? "max" : "lastNotNull"),
  );
}

/** The colour of a place in the palette. */
export function paletteColor(place = 0) {
  return colorOf(PALETTE[place % PALETTE.length]);
}

/** The colour that thresholds, or a scale, give a value. */
export function colorFor(field, value) {
  const mode = field.config.color?.mode ?? "thresholds";
  if (mode === "fixed" || mode === "shades") return colorOf(field.config.color.fixedColor ?? "text");
  if (mode.startsWith("palette")) return paletteColor(field.palette);
  if (mode.startsWith("continuous")) return interpolated(mode, share(field, value));
  return colorOf(step(field, value)?.color ?? "text");
}

/** The colour of one bar of a field: of its value, or that of all. */
export function barColor(field, value) {
  const mode = field.config.color?.mode ?? "thresholds";
  return mode === "thresholds" || mode.startsWith("continuous") ? colorFor(field, value) : seriesColor(field);
}

function step(field, value) {
  const { mode, steps = [] } = field.config.thresholds ?? {};
  const at = mode === "percentage" ? share(field, value) * 100 : value;
  return steps.findLast((each) => each.value === null || each.value === undefined || at >= each.value) ?? steps[0];
}

/** Where a value lies between the field's least and highest, 0 to 1. */
export function share(field, value) {
  const [low, high] = field.bounds ?? [0, 1];
  return high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0;
}

/** One figure of many values, by Grafana's name for it. */
export function reduced(values, calc) {
  const numbers = values.filter((value) => value !== null && value !== undefined && !Number.isNaN(value));
  if (calc === "count") return values.length;
  if (calc === "last") return values.at(-1) ?? null;
  if (calc === "first") return values[0] ?? null;
  if (!numbers.length) return null;
  const [first, last] = [numbers[0], numbers.at(-1)];
  switch (calc) {
    case "firstNotNull":
      return first;
    case "min":
      return numbers.reduce((low, value) => (value < low ? value : low));
    case "max":
      return numbers.reduce((high, value) => (value > high ? value : high));
    case "sum":
    case "total":
      return numbers.reduce((sum, value) => sum + value, 0);
    case "mean":
      return numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
    case "median":
      return numbers.toSorted((one, other) => one - other)[Math.floor((numbers.length - 1) / 2)];
    case "range":
      return reduced(numbers, "max") - reduced(numbers, "min");
    case "diff":
      return last - first;
    case "diffperc":
      return first ? (last - first) / first : null;
    case "distinctCount":
      return new Set(numbers).size;
    default:
      return last;
  }
}

/** `${__field.labels.x}` and what else belongs to one field; undefined: something else is meant. */
export function ofField(name, field, automatic = field.display) {
  const label = /^__field\.labels(?:\.(\w+)|\[["'](.+)["']\])$/.exec(name);
  if (label) return [field.labels?.[label[1] ?? label[2]] ?? ""];
  if (name === "__field.name") return [field.name];
  if (name === "__field.displayName" || name === "__series.name") return [automatic];
  return undefined;
}

function kindOf(type) {
  const plain = type.replace(/(Nullable|LowCardinality)\(/g, "").replace(/\)+$/, "");
  if (/^Date/.test(plain)) return "time";
  if (/^(U?Int|Float|Decimal)/.test(plain)) return "number";
  return plain === "Bool" ? "boolean" : "string";
}

function read(value, kind) {
  if (value === null) return null;
  if (kind === "time") return Date.parse(value);
  if (kind === "string") return Array.isArray(value) ? value.join(", ") : String(value);
  return value;
}

function wide(frame) {
  const time = frame.fields.find((field) => field.type === "time");
  const labels = frame.fields.filter((field) => field.type === "string");
  if (!time || !labels.length) return frame;
  const times = [...new Set(time.values)].sort((one, other) => one - other);
  const place = new Map(times.map((at, index) => [at, index]));
  const groups = new Map();
  for (let row = 0; row < frame.length; row++) {
    const own = Object.fromEntries(labels.map((field) => [field.name, field.values[row] ?? ""]));
    const key = JSON.stringify(own);
    if (!groups.has(key)) groups.set(key, { own, rows: [] });
    groups.get(key).rows.push(row);
  }
  const fields = [{ ...time, values: times }];
  for (const value of frame.fields.filter((field) => field.type === "number" || field.type === "boolean")) {
    for (const { own, rows } of groups.values()) {
      const values = Array(times.length).fill(null);
      for (const row of rows) values[place.get(time.values[row])] = value.values[row];
      fields.push({ ...value, labels: own, values });
    }
  }
  return { ...frame, fields, length: times.length };
}

function singleLabel(frames) {
  const names = new Set(frames.flatMap((frame) => frame.fields.flatMap((field) => Object.keys(field.labels ?? {}))));
  return names.size === 1 ? [...names][0] : null;
}

function automaticName(field, single) {
  if (!field.labels) return field.name;
  const label = single
    ? field.labels[single]
    : Object.entries(field.labels)
        .map(([name, value]) => `${name}="${value}"`)
        .join(", ");
  const own = single ? label : `{${label}}`;
  return [field.name === "Value" ? "" : field.name, own].filter(Boolean).join(" ");
}

const MATCHERS = {
  byName: (name, field, automatic) => name === field.name || name === automatic,
  byNames: ({ names, mode }, field, automatic) =>
    (names.includes(field.name) || names.includes(automatic)) !== (mode === "exclude"),
  byRegexp: (pattern, field, automatic) => expression(pattern).test(automatic) || expression(pattern).test(field.name),
  byType: (type, field) => type === field.type,
  byFrameRefID: (ref, field, automatic, frame) => ref === frame.ref,
};

function expression(pattern) {
  const found = /^\/(.*)\/([a-z]*)$/s.exec(pattern);
  return found ? new RegExp(found[1], found[2].replace("g", "")) : new RegExp(pattern);
}

function put(config, id, value) {
  const path = id.split(".");
  let at = config;
  for (const part of path.slice(0, -1)) at = at[part] ??= {};
  at[path.at(-1)] = value;
}

function parts(field, value, decimals) {
  const { unit } = field.config;
  const zoned = { text: (ms, kind) => timeText(ms, field.zone, kind) };
  if (field.type === "time")
    return inUnit(value, unit?.startsWith("dateTime") ? unit : "dateTimeAsSystem", null, zoned);
  if (typeof value === "boolean") return inUnit(value, unit?.startsWith("bool") ? unit : "bool");
  if (typeof value !== "number") return ["", String(value), ""];
  return inUnit(value, unit, decimals ?? field.config.decimals, zoned);
}

function range(values) {
  return [reduced(values, "min") ?? 0, reduced(values, "max") ?? 1];
}

function mapping(mappings = [], value) {
  for (const { type, options } of mappings) {
    if (type === "value" && value !== null && options[String(value)]) return options[String(value)];
    if (
      type === "range" &&
      typeof value === "number" &&
      value >= (options.from ?? -Infinity) &&
      value <= (options.to ?? Infinity)
    ) {
      return options.result;
    }
    if (type === "regex" && value !== null && expression(options.pattern).test(String(value))) return options.result;
    if (type === "special" && SPECIAL[options.match]?.(value)) return options.result;
  }
  return undefined;
}

const SPECIAL = {
  null: (value) => value === null,
  nan: (value) => Number.isNaN(value),
  "null+nan": (value) => value === null || Number.isNaN(value),
  true: (value) => value === true,
  false: (value) => value === false,
  empty: (value) => value === "",
};

const TRANSFORMATIONS = {
  organize: (frames, { excludeByName = {}, indexByName = {}, renameByName = {} }) =>
    frames.map((frame) => ({
      ...frame,
      fields: frame.fields
        .filter((field) => !excludeByName[field.name])
        .toSorted((one, other) => (indexByName[one.name] ?? 999) - (indexByName[other.name] ?? 999))
        .map((field) => ({ ...field, name: renameByName[field.name] || field.name })),
    })),
  renameByRegex: (frames, { regex, renamePattern }) =>
    frames.map((frame) => ({
      ...frame,
      fields: frame.fields.map((field) => ({ ...field, name: field.name.replace(expression(regex), renamePattern) })),
    })),
  merge: joined,
  joinByField: joined,
};

/** One frame of all: rows that agree on the fields that every frame has become one. */
function joined(frames, { byField } = {}) {
  if (frames.length < 2) return frames;
  const shared = byField
    ? [byField]
    : frames[0].fields
        .map(({ name }) => name)
        .filter((name) => frames.every((frame) => frame.fields.some((field) => field.name === name)));
  const rows = new Map();
  const fields = [];
  for (const frame of frames) {
    for (const field of frame.fields) {
      if (!shared.includes(field.name) || !fields.some(({ name }) => name === field.name))
        fields.push({ ...field, from: frame });
    }
  }
  for (const frame of frames) {
    for (let row = 0; row < frame.length; row++) {
      const key = JSON.stringify(shared.map((name) => frame.fields.find((field) => field.name === name)?.values[row]));
      if (!rows.has(key)) rows.set(key, new Map());
      rows.get(key).set(frame, row);
    }
  }
  const found = [...rows.values()];
  const made = fields.map(({ from, ...field }) => ({
    ...field,
    values: found.map((places) => {
      const [frame, row] = shared.includes(field.name) ? [...places][0] : [from, places.get(from)];
      return row === undefined ? null : frame.fields.find(({ name }) => name === field.name).values[row];
    }),
  }));
  return [{ ref: frames[0].ref, fields: made, length: found.length }];
}

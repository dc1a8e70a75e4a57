/**
 * A number with its unit as Grafana writes it: https://grafana.com/docs/grafana/latest/panels-visualizations/
 * configure-standard-options/. Units that are not listed are written behind the number, as there.
 */

/** Digits of a number; without `decimals` three that matter, and no zeros at the end. */
function digits(value, decimals) {
  if (!Number.isFinite(value)) return String(value);
  if (decimals !== undefined && decimals !== null) return fixed(value, Math.max(0, decimals));
  if (value === 0 || Number.isInteger(value)) return String(value);
  const places = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return String(Number(fixed(value, Math.min(places, 20))));
}

/** Prefix, digits and suffix of a value in a unit; `time.text(ms, kind)` writes moments. */
export function inUnit(value, unit, decimals, time = {}) {
  const known = UNITS[unit ?? "none"];
  if (known) return known(value, decimals, time);
  const [kind, rest] = [unit.slice(0, unit.indexOf(":")), unit.slice(unit.indexOf(":") + 1)];
  switch (kind) {
    case "prefix":
      return [rest, digits(value, decimals), ""];
    case "suffix":
      return ["", digits(value, decimals), ` ${rest}`];
    case "currency":
      return currency(rest)(value, decimals);
    case "count":
      return counted(rest)(value, decimals);
    case "si":
      return scaled(
        1000,
        SI.map((prefix) => ` ${prefix}${rest}`),
      )(value, decimals);
    case "time":
      return ["", time.text ? time.text(value, "full") : String(value), ""];
    case "bool": {
      const [yes, no = "-"] = rest.split("/");
      return ["", value ? yes : no, ""];
    }
  }
  return ["", digits(value, decimals), ` ${unit}`];
}

const SI = ["", "k", "M", "G", "T", "P"];
const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];

function fixed(value, decimals) {
  const factor = 10 ** decimals;
  const rounded = Math.round(value * factor) / factor;
  const text = Math.abs(rounded) < 1e21 ? rounded.toFixed(Math.min(decimals, 20)) : String(rounded);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

function plain(suffix) {
  return (value, decimals) => ["", digits(value, decimals), suffix];
}

function scaled(factor, suffixes) {
  return (value, decimals) => {
    if (!value || !Number.isFinite(value)) return ["", digits(value, decimals), suffixes[0]];
    const power = Math.floor(Math.log10(Math.abs(value)) / Math.log10(factor) + 1e-12);
    const step = Math.min(Math.max(power, 0), suffixes.length - 1);
    return ["", digits(value / factor ** step, decimals), suffixes[step]];
  };
}

function counted(what) {
  return scaled(
    1000,
    ["", "K", "M", "B", "T"].map((suffix) => `${suffix} ${what}`),
  );
}

function currency(symbol) {
  const scale = scaled(1000, ["", "K", "M", "B", "T"]);
  return (value, decimals) => {
    const [, text, suffix] = scale(Math.abs(value), decimals);
    return [value < 0 ? `-${symbol}` : symbol, text, suffix];
  };
}

/** Times: the first unit whose limit the size stays below. `base`: seconds of 1. */
function lasting(base, steps) {
  return (value, decimals) => {
    const seconds = Math.abs(value) * base;
    if (!value) return ["", digits(value, decimals), ` ${base === 1 ? "s" : "ms"}`];
    const [, size, suffix] = steps.find(([limit]) => seconds < limit);
    return ["", digits((value * base) / size, decimals), ` ${suffix}`];
  };
}

const DAY = 86400;
const SECONDS = [
  [1e-6, 1e-9, "ns"],
  [1e-3, 1e-6, "µs"],
  [1, 1e-3, "ms"],
  [60, 1, "s"],
  [3600, 60, "min"],
  [DAY, 3600, "hour"],
  [7 * DAY, DAY, "day"],
  [365 * DAY, 7 * DAY, "week"],
  [Infinity, 3.15569e7, "year"],
];
const MILLISECONDS = [
  [1, 1e-3, "ms"],
  [60, 1, "s"],
  [3600, 60, "min"],
  [DAY, 3600, "hour"],
  [365 * DAY, DAY, "day"],
  [Infinity, 365 * DAY, "year"],
];
const MINUTES = [
  [3600, 60, "min"],
  [DAY, 3600, "hour"],
  [7 * DAY, DAY, "day"],
  [Infinity, 7 * DAY, "week"],
];

function clock(value) {
  const seconds = Math.floor(Math.abs(value));
  const parts = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60), seconds % 60];
  return ["", parts.map((part) => String(part).padStart(2, "0")).join(":"), value < 0 ? " ago" : ""];
}

function fromNow(value, decimals, time) {
  const seconds = ((time.now ?? Date.now()) - value) / 1000;
  const steps = [
    [60, 1, "second"],
    [3600, 60, "minute"],
    [DAY, 3600, "hour"],
    [Infinity, DAY, "day"],
  ];
  const [, size, name] = steps.find(([limit]) => Math.abs(seconds) < limit);
  const count = Math.round(Math.abs(seconds) / size);
  const text = `${count} ${name}${count === 1 ? "" : "s"}`;
  return ["", seconds >= 0 ? `${text} ago` : `in ${text}`, ""];
}

function moment(kind) {
  return (value, decimals, time) => ["", time.text ? time.text(value, kind) : new Date(value).toISOString(), ""];
}

const UNITS = {
  none: plain(""),
  string: (value) => ["", String(value), ""],
  short: scaled(1000, ["", " K", " Mil", " Bil", " Tri", " Quadr"]),
  sishort: scaled(
    1000,
    SI.map((prefix) => (prefix ? ` ${prefix}` : "")),
  ),
  locale: (value, decimals) => ["", value.toLocaleString("en-US", { maximumFractionDigits: decimals ?? 3 }), ""],
  percent: plain("%"),
  percentunit: (value, decimals) => ["", digits(value * 100, decimals), "%"],
  bytes: scaled(
    1024,
    BINARY.map((prefix) => ` ${prefix}B`),
  ),
  decbytes: scaled(
    1000,
    SI.map((prefix) => ` ${prefix}B`),
  ),
  Bps: scaled(
    1000,
    SI.map((prefix) => ` ${prefix}B/s`),
  ),
  binBps: scaled(
    1024,
    BINARY.map((prefix) => ` ${prefix}B/s`),
  ),
  s: lasting(1, SECONDS),
  ms: lasting(1e-3, MILLISECONDS),
  m: lasting(60, MINUTES),
  h: lasting(3600, [
    [DAY, 3600, "hour"],
    [7 * DAY, DAY, "day"],
    [Infinity, 7 * DAY, "week"],
  ]),
  d: lasting(DAY, [
    [7 * DAY, DAY, "day"],
    [365 * DAY, 7 * DAY, "week"],
    [Infinity, 365 * DAY, "year"],
  ]),
  dthms: clock,
  clocks: clock,
  ops: counted("ops/s"),
  reqps: counted("req/s"),
  cps: counted("c/s"),
  eps: counted("evt/s"),
  mps: counted("msg/s"),
  recps: counted("rec/s"),
  rowsps: counted("rows/s"),
  cpm: counted("c/m"),
  opm: counted("ops/m"),
  currencyCNY: currency("¥"),
  currencyJPY: currency("¥"),
  currencyUSD: currency("$"),
  currencyEUR: currency("€"),
  currencyGBP: currency("£"),
  bool: (value) => ["", value ? "True" : "False", ""],
  bool_yes_no: (value) => ["", value ? "Yes" : "No", ""],
  bool_on_off: (value) => ["", value ? "On" : "Off", ""],
  dateTimeAsIso: moment("full"),
  dateTimeAsIsoNoDateIfToday: moment("today"),
  dateTimeAsSystem: moment("full"),
  dateTimeAsLocal: moment("full"),
  dateTimeAsLocalNoDateIfToday: moment("today"),
  dateTimeFromNow: fromNow,
};

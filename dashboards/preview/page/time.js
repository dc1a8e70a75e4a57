/** Time ranges as Grafana writes them ("now-6h", "now/d", ms), and times in a zone. Times are UTC ms. */

const MS = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };
const EXPRESSION = /^now(?:([-+])(\d+)([smhdwMy]))?(?:\/([smhdwMy]))?$/;

/** The moment that a text names, or NaN. `end`: of a rounded one its end. */
export function moment(text, now, zone, end = false) {
  const given = String(text).trim();
  if (/^\d{9,}$/.test(given)) return Number(given);
  const found = EXPRESSION.exec(given);
  if (!found) {
    const wall = /^(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?))?$/.exec(given);
    return wall ? fromWall(Date.parse(`${wall[1]}T${wall[2] ?? "00:00"}Z`), zone) : Date.parse(given);
  }
  const [, sign, count, unit, rounding] = found;
  let wall = toWall(now, zone);
  if (sign) wall = shifted(wall, (sign === "-" ? -1 : 1) * Number(count), unit);
  if (rounding) {
    wall = floored(wall, rounding);
    if (end) wall = shifted(wall, 1, rounding) - 1;
  }
  // Without days in it a difference is one of time that passes, whatever clocks are set to.
  return sign && !rounding && MS[unit] < MS.d
    ? now + (sign === "-" ? -1 : 1) * Number(count) * MS[unit]
    : fromWall(wall, zone);
}

/** A range in words: "Last 6 hours", or from and to. */
export function rangeText(from, to, zone) {
  const last = /^now-(\d+)([smhdwMy])$/.exec(from);
  if (last && to === "now") {
    const name = { s: "second", m: "minute", h: "hour", d: "day", w: "week", M: "month", y: "year" }[last[2]];
    return last[1] === "1" ? `Last ${name}` : `Last ${last[1]} ${name}s`;
  }
  if (from === "now/d" && (to === "now" || to === "now/d")) return "Today";
  if (from === "now-1d/d" && to === "now-1d/d") return "Yesterday";
  const written = (text) => (/^\d{9,}$/.test(text) ? timeText(Number(text), zone, "minute") : text);
  return `${written(from)} to ${written(to)}`;
}

/** A UTC time as that zone's clocks show it, in ms as if they were UTC. */
export function toWall(ms, zone) {
  return ms + offset(ms, zone);
}

/** The UTC time at which clocks of the zone show this. */
export function fromWall(wall, zone) {
  const first = wall - offset(wall, zone);
  return wall - offset(first, zone);
}

/** A time as text: "full" 2026-01-31 12:00:00, "minute" without seconds, "today" without the date if that is today. */
export function timeText(ms, zone, kind = "full", now = Date.now()) {
  const [day, time] = new Date(toWall(ms, zone)).toISOString().split("T");
  if (kind === "today" && day === new Date(toWall(now, zone)).toISOString().slice(0, 10)) return time.slice(0, 8);
  return `${day} ${time.slice(0, kind === "minute" ? 5 : 8)}`;
}

/** The zone that a board names: "browser" is this machine's. */
export function zoneOf(name) {
  if (!name || name === "browser") return Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  if (name === "utc") return "UTC";
  try {
    offset(0, name);
    return name;
  } catch {
    return "UTC";
  }
}

/** Seconds of a group of `$__timeInterval`, as Grafana rounds them: about `points` groups in the range. */
export function groupSeconds(begin, end, points, least = 1) {
  const wanted = (end - begin) / 1000 / Math.max(points, 1);
  const step = STEPS.find(([limit]) => wanted < limit);
  return Math.max(step ? step[1] : 365 * 86_400, least, 1);
}

/** "30s", "5m" as ms; 0 if it is none. */
export function duration(text) {
  const found = /^>?(\d+)(ms|[smhdw])$/.exec(text ?? "");
  return found ? Number(found[1]) * (found[2] === "ms" ? 1 : MS[found[2]]) : 0;
}

const STEPS = [
  [1.5, 1],
  [3.5, 2],
  [7.5, 5],
  [12.5, 10],
  [17.5, 15],
  [25, 20],
  [45, 30],
  [90, 60],
  [210, 120],
  [450, 300],
  [750, 600],
  [1050, 900],
  [1500, 1200],
  [2700, 1800],
  [5400, 3600],
  [9000, 7200],
  [16_200, 10_800],
  [32_400, 21_600],
  [86_400, 43_200],
  [604_800, 86_400],
  [1_814_400, 604_800],
  [3_628_800, 2_592_000],
];

const formats = new Map();
const offsets = new Map();

function offset(ms, zone) {
  if (zone === "UTC") return 0;
  // Zones change their offset at quarters of an hour.
  const key = `${zone} ${Math.floor(ms / 900_000)}`;
  let known = offsets.get(key);
  if (known === undefined) {
    if (!formats.has(zone)) {
      const parts = { year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric" };
      formats.set(zone, new Intl.DateTimeFormat("en-US", { ...parts, timeZone: zone, hourCycle: "h23" }));
    }
    const at = Math.floor(ms / 60_000) * 60_000;
    const part = Object.fromEntries(
      formats
        .get(zone)
        .formatToParts(at)
        .map(({ type, value }) => [type, Number(value)]),
    );
    known = Date.UTC(part.year, part.month - 1, part.day, part.hour, part.minute) - at;
    if (offsets.size > 50_000) offsets.clear();
    offsets.set(key, known);
  }
  return known;
}

function shifted(wall, count, unit) {
  if (MS[unit]) return wall + count * MS[unit];
  const date = new Date(wall);
  if (unit === "M") date.setUTCMonth(date.getUTCMonth() + count);
  else date.setUTCFullYear(date.getUTCFullYear() + count);
  return date.getTime();
}

function floored(wall, unit) {
  const date = new Date(wall);
  if (unit === "w") return Math.floor(wall / MS.d) * MS.d - ((date.getUTCDay() + 6) % 7) * MS.d;
  if (unit === "M") return Date.UTC(date.getUTCFullYear(), date.getUTCMonth());
  if (unit === "y") return Date.UTC(date.getUTCFullYear(), 0);
  return Math.floor(wall / MS[unit]) * MS[unit];
}

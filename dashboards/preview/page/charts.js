/**
 * Pictures on axes, by ECharts: options for time series, bars, pies, heat maps and state timelines. ECharts knows no
 * time zones, so times go in as the zone's clocks show them, as if that were UTC.
 */
import { css, faded, ink, scale } from "./colors.js";
import { barColor, byName, colorFor, paletteColor, reduced, seriesColor, shown, text } from "./frames.js";
import { timeText, toWall } from "./time.js";

/** Time series: lines, areas, bars or points; thresholds, annotations; an axis for each unit. */
export function timeSeries(panel, frames, context) {
  const lines = seriesFields(frames).filter(({ field }) => !context.hidden.has(field.display));
  const axes = [];
  const series = lines.map(({ field, times }, index) => {
    const { custom = {}, unit } = field.config;
    const right = custom.axisPlacement === "right";
    let axis = axes.findIndex((each) => each.unit === unit && each.right === right);
    if (axis < 0) axis = axes.push({ unit, right, fields: [] }) - 1;
    axes[axis].fields.push(field);
    return line(field, times, axis, index, context);
  });
  if (!axes.length) axes.push({ unit: undefined, right: false, fields: [] });
  series.push(marks(lines, context));
  return {
    ...common(),
    grid: grid(axes.length),
    xAxis: timeAxis(context),
    yAxis: axes.map((axis, index) => valueAxis(axis, index, axes)),
    tooltip: {
      ...tooltip("axis"),
      formatter: (points) => seriesTip(panel, lines, [].concat(points)[0]?.axisValue, context),
    },
    series,
  };
}

/** Bars of a table: a group for each row, a bar for each number in it. */
export function barChart(panel, frames, context) {
  const { options = {} } = panel;
  const frame = frames[0];
  const category =
    frame.fields.find(({ name }) => name === options.xField) ??
    frame.fields.find(({ type }) => type === "string") ??
    frame.fields.find(({ type }) => type === "time");
  const fields = visible(frame).filter(
    (field) => field.type === "number" && field !== category && !context.hidden.has(field.display),
  );
  const names = frame.fields[0]
    ? Array.from({ length: frame.length }, (_, row) =>
        category ? text(category, category.values[row]) : String(row + 1),
      )
    : [];
  const across =
    options.orientation === "horizontal" || (options.orientation !== "vertical" && context.width < context.height);
  const stacked = options.stacking && options.stacking !== "none";
  const rotate = -(options.xTickLabelRotation ?? 0);
  const categories = {
    type: "category",
    data: across ? names.toReversed() : names,
    axisTick: { show: false },
    axisLine: { lineStyle: { color: css("--line") } },
    axisLabel: {
      ...label(),
      rotate,
      hideOverlap: true,
      width: across ? context.width * 0.35 : undefined,
      overflow: "truncate",
    },
  };
  const values = valueAxis({ fields, unit: fields[0]?.config.unit }, 0, [0], true);
  const room = (across ? context.height : context.width) / Math.max(names.length * (stacked ? 1 : fields.length), 1);
  const series = fields.map((field) => {
    const data = field.values.map((value) => ({
      value,
      itemStyle: { color: faded(barColor(field, value), (field.config.custom?.fillOpacity ?? 80) / 100) },
    }));
    const fits =
      options.showValue === "always" || (options.showValue !== "never" && !stacked && room > (across ? 14 : 34));
    return {
      type: "bar",
      name: field.display,
      stack: stacked ? "all" : undefined,
      data: across ? data.toReversed() : data,
      barCategoryGap: `${Math.round((1 - (options.groupWidth ?? 0.7)) * 100)}%`,
      barMaxWidth: 90,
      label: {
        show: fits,
        position: across ? "right" : "top",
        color: css("--text"),
        fontSize: 11,
        formatter: ({ data: { value } }) => text(field, value),
      },
    };
  });
  return {
    ...common(),
    grid: grid(1),
    xAxis: across ? values : categories,
    yAxis: across ? categories : values,
    tooltip: {
      ...tooltip("axis"),
      axisPointer: { type: "shadow", shadowStyle: { color: faded(css("--text"), 0.08) } },
      formatter: (points) => {
        const at = across ? names.length - 1 - points[0].dataIndex : points[0].dataIndex;
        return tip(
          names[at],
          fields.map((field) => [barColor(field, field.values[at]), field.display, text(field, field.values[at])]),
        );
      },
    },
    series,
  };
}

/** Shares of a whole: `slices` have name, field, value and color. */
export function pie(panel, slices) {
  const { options = {} } = panel;
  const sum = slices.reduce((total, { value }) => total + value, 0);
  return {
    ...common(),
    tooltip: {
      ...tooltip("item"),
      formatter: ({ dataIndex }) => {
        const { name, field, value, color } = slices[dataIndex];
        return tip(name, [[color, share(value, sum), text(field, value)]]);
      },
    },
    series: [
      {
        type: "pie",
        radius: options.pieType === "donut" ? ["56%", "94%"] : ["0%", "94%"],
        center: ["50%", "50%"],
        itemStyle: { borderColor: css("--panel"), borderWidth: 2 },
        label: { show: false },
        emphasis: { scaleSize: 3 },
        data: slices.map(({ name, value, color }) => ({ name, value, itemStyle: { color } })),
      },
    ],
  };
}

/** Colours over time and rows: each number field of a frame with times is a row. */
export function heatMap(panel, frames, context) {
  const { options = {} } = panel;
  const rows = seriesFields(frames);
  const times = [...new Set(rows.flatMap((row) => row.times))].sort((one, other) => one - other);
  const place = new Map(times.map((at, index) => [at, index]));
  const whole = context.end - context.begin;
  const data = rows.flatMap(({ field, times: own }, row) =>
    field.values.map((value, index) => [place.get(own[index]), row, value]).filter(([, , value]) => value !== null),
  );
  const colors = options.color ?? {};
  const [low, high] = [
    colors.min ?? Math.min(...data.map(([, , value]) => value), 0),
    colors.max ?? Math.max(...data.map(([, , value]) => value), 1),
  ];
  const cell = {
    ...rows[0]?.field,
    config: { ...rows[0]?.field.config, unit: options.cellValues?.unit ?? rows[0]?.field.config.unit },
  };
  return {
    ...common(),
    grid: { ...grid(1), outerBounds: { left: 4, right: 4, top: 4, bottom: 36 } },
    xAxis: {
      type: "category",
      data: times,
      axisTick: { show: false },
      axisLine: { show: false },
      axisLabel: { ...label(), hideOverlap: true, formatter: (at) => tick(toWall(Number(at), context.zone), whole) },
    },
    yAxis: {
      type: "category",
      inverse: Boolean(options.yAxis?.reverse),
      data: rows.map(({ field }) => field.display),
      axisTick: { show: false },
      axisLine: { show: false },
      axisLabel: label(),
    },
    visualMap: {
      min: low,
      max: high > low ? high : low + 1,
      show: options.legend?.show !== false,
      orient: "horizontal",
      left: "center",
      bottom: 0,
      itemHeight: 120,
      itemWidth: 10,
      calculable: false,
      text: [text(cell, high), text(cell, low)],
      textStyle: { color: css("--weak"), fontSize: 11 },
      inRange: { color: scale(colors.scheme ?? "Oranges", colors.reverse) },
    },
    tooltip: {
      ...tooltip("item"),
      formatter: ({ value: [at, row, value] }) =>
        tip(timeText(times[at], context.zone, "minute"), [
          [colorFor(rows[row].field, value), rows[row].field.display, text(cell, value)],
        ]),
    },
    series: [
      {
        type: "heatmap",
        data,
        itemStyle: { borderColor: css("--panel"), borderWidth: options.cellGap ?? 1 },
        emphasis: { itemStyle: { borderColor: css("--text") } },
      },
    ],
  };
}

/** States over time, a row for each field; equal ones that follow each other are one. */
export function stateTimeline(panel, frames, context) {
  const { options = {} } = panel;
  const rows = seriesFields(frames, () => true);
  const states = rows.flatMap(({ field, times }, row) =>
    segments(field, times, context).map((segment) => ({ ...segment, row, field })),
  );
  const height = options.rowHeight ?? 0.9;
  return {
    ...common(),
    grid: grid(1),
    xAxis: timeAxis(context),
    yAxis: {
      type: "category",
      inverse: true,
      data: rows.map(({ field }) => field.display),
      axisTick: { show: false },
      axisLine: { show: false },
      axisLabel: { ...label(), width: context.width * 0.3, overflow: "truncate" },
    },
    tooltip: {
      ...tooltip("item"),
      formatter: ({ dataIndex }) => {
        const { field, value, from, to } = states[dataIndex];
        return tip(`${timeText(from, context.zone)} to ${timeText(to, context.zone)}`, [
          [stateColor(field, value), field.display, text(field, value)],
        ]);
      },
    },
    series: [
      {
        type: "custom",
        clip: true,
        encode: { x: [0, 1], y: 2 },
        data: states.map(({ from, to, row }) => [toWall(from, context.zone), toWall(to, context.zone), row]),
        renderItem: ({ dataIndex, coordSys }, api) => {
          const { field, value } = states[dataIndex];
          const [left, middle] = api.coord([api.value(0), api.value(2)]);
          const [right] = api.coord([api.value(1), api.value(2)]);
          const tall = Math.min(api.size([0, 1])[1] * height, 64);
          const x = Math.max(left, coordSys.x);
          const wide = Math.min(right, coordSys.x + coordSys.width) - x;
          const color = stateColor(field, value);
          const said = text(field, value);
          const fits = options.showValue === "always" || (options.showValue !== "never" && said.length * 8 < wide);
          return {
            type: "rect",
            shape: { x, y: middle - tall / 2, width: Math.max(wide, 1), height: tall },
            style: {
              fill: faded(color, (field.config.custom?.fillOpacity ?? 70) / 100),
              stroke: css("--panel"),
              lineWidth: 1,
            },
            textContent: fits ? { style: { text: said, fill: ink(color), fontSize: 12 } } : undefined,
            textConfig: { position: "inside" },
          };
        },
      },
    ],
  };
}

/** The fields of frames that are lines, each with its times. */
export function seriesFields(frames, wanted = ({ type }) => type === "number") {
  return frames.flatMap((frame) => {
    const time = frame.fields.find(({ type }) => type === "time");
    return time
      ? visible(frame)
          .filter((field) => field !== time && wanted(field))
          .map((field) => ({ field, times: time.values }))
      : [];
  });
}

/** The fields of a frame that nobody hides. */
export function visible(frame) {
  return frame.fields.filter(({ config }) => !config.custom?.hideFrom?.viz && !config.custom?.hidden);
}

/** The colour of a state: of its mapping or threshold, or one by its name. */
export function stateColor(field, value) {
  const { color, mapped } = shown(field, value);
  if (mapped || typeof value === "number" || (field.config.color?.mode ?? "thresholds") === "fixed") return color;
  return paletteColor(byName(String(value), new Set()));
}

/** A share of a whole in percent. */
export function share(value, sum) {
  return sum ? `${((value / sum) * 100).toFixed(value / sum < 0.1 ? 1 : 0)}%` : "-";
}

function line(field, times, axis, index, context) {
  const { custom = {} } = field.config;
  const color = seriesColor(field);
  const bars = custom.drawStyle === "bars";
  const opacity = (custom.fillOpacity ?? 0) / 100;
  const { values } = field;
  const alone = (at) => (values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null;
  const points = custom.showPoints === "always" || custom.drawStyle === "points";
  const stacked = custom.stacking?.mode && custom.stacking.mode !== "none";
  return {
    id: `${index} ${field.display}`,
    name: field.display,
    type: bars ? "bar" : "line",
    yAxisIndex: axis,
    stack: stacked ? `${custom.stacking.group ?? "A"} ${axis}` : undefined,
    data: values.map((value, at) => {
      const point = [toWall(times[at], context.zone), value];
      return !points && value !== null && alone(at) ? { value: point, symbol: "circle", symbolSize: 6 } : point;
    }),
    connectNulls: custom.spanNulls === true,
    smooth: custom.lineInterpolation === "smooth" ? 0.35 : false,
    step: { stepBefore: "start", stepAfter: "end" }[custom.lineInterpolation] ?? false,
    symbol: points ? "circle" : "none",
    symbolSize: custom.pointSize ?? 5,
    showAllSymbol: true,
    color,
    lineStyle: {
      width: custom.drawStyle === "points" ? 0 : (custom.lineWidth ?? 1),
      type: custom.lineStyle?.fill === "dash" ? (custom.lineStyle.dash ?? [6, 6]) : "solid",
    },
    areaStyle: !bars && opacity ? { color, opacity: opacity * 0.9, origin: "start" } : undefined,
    itemStyle: bars ? { color: faded(color, Math.max(opacity, 0.25)) } : undefined,
    barMaxWidth: 40,
    emphasis: { disabled: true },
    z: stacked ? 2 + index : 20 - index * 0.01,
  };
}

/** Thresholds and annotations, on a line without points. */
function marks(lines, context) {
  const style = lines[0]?.field.config.custom?.thresholdsStyle?.mode ?? "off";
  const steps = (lines[0]?.field.config.thresholds?.steps ?? []).filter(
    ({ value }) => value !== null && value !== undefined,
  );
  const drawn = style.includes("dashed") || style.includes("line") ? steps : [];
  const type = style.includes("dashed") ? [8, 6] : "solid";
  const limits = drawn.map(({ value, color }) => ({
    yAxis: value,
    lineStyle: { color: faded(context.color(color), 0.8), type, width: 1 },
  }));
  const notes = context.notes.map(({ time, color }) => ({
    xAxis: toWall(time, context.zone),
    symbol: ["rect", "none"],
    symbolSize: [7, 5],
    lineStyle: { color, type: [4, 4], width: 1.5 },
  }));
  const areas = context.notes
    .filter(({ timeEnd }) => timeEnd)
    .map(({ time, timeEnd, color }) => [
      { xAxis: toWall(time, context.zone), itemStyle: { color: faded(color, 0.12) } },
      { xAxis: toWall(timeEnd, context.zone) },
    ]);
  return {
    id: "marks",
    type: "line",
    data: [],
    silent: true,
    markLine: { silent: true, symbol: "none", label: { show: false }, animation: false, data: [...limits, ...notes] },
    markArea: { silent: true, data: areas },
  };
}

function seriesTip(panel, lines, wall, context) {
  if (wall === undefined) return "";
  const rows = lines
    .map(({ field, times }) => ({ field, at: nearest(times, wall, context.zone) }))
    .filter(({ at }) => at >= 0);
  const away = (at) => Math.abs(toWall(at, context.zone) - wall);
  const near = lines
    .flatMap(({ times }) => times)
    .reduce((best, at) => (best === null || away(at) < away(best) ? at : best), null);
  const sort = panel.options?.tooltip?.sort;
  const valued = rows.map(({ field, at }) => ({ field, value: field.values[at] }));
  if (sort === "desc" || sort === "asc")
    valued.sort((one, other) => (sort === "desc" ? 1 : -1) * ((other.value ?? -Infinity) - (one.value ?? -Infinity)));
  const said = valued
    .filter(({ value }) => value !== null)
    .slice(0, 24)
    .map(({ field, value }) => [seriesColor(field), field.display, text(field, value)]);
  const box = tip(near === null ? "" : timeText(near, context.zone), said);
  const reach = (context.end - context.begin) / 60;
  for (const note of context.notes
    .filter(({ time }) => Math.abs(toWall(time, context.zone) - wall) < reach)
    .slice(0, 4)) {
    const row = document.createElement("p");
    row.className = "note";
    row.textContent = `${timeText(note.time, context.zone, "minute").slice(11)} ${note.text}`;
    row.style.borderLeftColor = note.color;
    box.append(row);
  }
  return box;
}

function nearest(times, wall, zone) {
  return times.findIndex((at) => toWall(at, zone) === wall);
}

/** A tooltip: a heading, and rows of colour, name and value. */
function tip(heading, rows) {
  const box = document.createElement("div");
  box.className = "tip";
  const head = document.createElement("header");
  head.textContent = heading;
  box.append(head);
  for (const [color, name, value] of rows) {
    const row = document.createElement("div");
    const [swatch, label, figure] = ["i", "span", "b"].map((tag) => row.appendChild(document.createElement(tag)));
    swatch.style.background = color;
    label.textContent = name;
    figure.textContent = value;
    box.append(row);
  }
  return box;
}

function segments(field, times, { end }) {
  const made = [];
  const gap = times.length > 1 ? Math.min(...times.slice(1).map((at, index) => at - times[index])) : end - (times[0] ?? end);
  times.forEach((at, index) => {
    const value = field.values[index];
    const last = made.at(-1);
    const to = Math.min(times[index + 1] ?? at + gap, end);
    if (value === null) return;
    if (last && last.value === value && last.to === at) last.to = to;
    else made.push({ from: at, to, value });
  });
  return made;
}

function timeAxis(context) {
  const whole = context.end - context.begin;
  const [min, max] = [context.begin, context.end].map((at) => toWall(at, context.zone));
  const customValues = ticks(min, max, Math.max(2, Math.floor(context.width / 55)));
  return {
    type: "time",
    min,
    max,
    axisLine: { lineStyle: { color: css("--line") } },
    axisTick: { customValues, lineStyle: { color: css("--line") } },
    axisLabel: { ...label(), customValues, hideOverlap: true, formatter: (wall) => tick(wall, whole) },
    axisPointer: {
      show: true,
      type: "line",
      lineStyle: { color: css("--weak"), type: "dashed" },
      label: { show: false },
    },
    splitLine: { show: true, customValues, lineStyle: { color: css("--grid") } },
  };
}

/** At most so many times between two, where clocks and calendars are even. */
function ticks(min, max, most) {
  const step = TICKS.find((each) => (max - min) / each <= most) ?? 30 * 86_400_000;
  const first = Math.ceil(min / step) * step;
  return Array.from({ length: Math.max(0, Math.floor((max - first) / step) + 1) }, (_, index) => first + index * step);
}

const TICKS = [
  ...[1, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200],
  ...[86_400, 172_800, 345_600, 604_800],
].map((seconds) => seconds * 1000);

function valueAxis({ fields, unit, right }, index, axes, fromZero = false) {
  const bars = fields.some(
    ({ config }) => config.custom?.drawStyle === "bars" || (config.custom?.stacking?.mode ?? "none") !== "none",
  );
  const given = (name) =>
    reduced(
      fields.map(({ config }) => config[name] ?? null),
      name,
    );
  const like = fields[0] ?? { config: { unit }, type: "number" };
  const whole =
    fields.length > 0 &&
    fields.every(({ values }) => values.every((value) => value === null || Number.isInteger(value)));
  const [low, high] = [given("min"), given("max")];
  const step = lasting(unit, fields, low, high);
  return {
    type: "value",
    position: right || index % 2 ? "right" : "left",
    scale: !bars && !fromZero,
    min: low === null ? undefined : ({ min }) => Math.min(low, min),
    max: high !== null ? high : step ? ({ max }) => Math.ceil(max / step) * step : undefined,
    minInterval: whole ? 1 : undefined,
    interval: step,
    splitNumber: 4,
    axisLabel: {
      ...label(),
      formatter: (value) =>
        text(
          {
            ...like,
            type: "number",
            config: { ...like.config, decimals: undefined, mappings: undefined, noValue: undefined },
          },
          value,
        ),
    },
    splitLine: { show: index === 0, lineStyle: { color: css("--grid") } },
    axisPointer: { show: false },
    show: index < 2 || axes.length < 3,
  };
}

/** Of times a distance between ticks that clocks know; of other units ECharts chooses. */
function lasting(unit, fields, low, high) {
  const base = { ms: 0.001, s: 1, m: 60 }[unit];
  if (!base) return undefined;
  const values = fields.flatMap((field) => field.values);
  const wanted = ((high ?? reduced(values, "max") ?? 1) - (low ?? reduced(values, "min") ?? 0)) * base * 0.25;
  if (wanted < 1) return undefined;
  const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200].find(
    (each) => wanted <= each,
  );
  return (step ?? Math.ceil(wanted / 86_400) * 86_400) / base;
}

function tick(wall, whole) {
  const written = new Date(wall).toISOString();
  const [day, time] = [written.slice(5, 10), written.slice(11, 16)];
  if (whole <= 300_000) return written.slice(11, 19);
  if (whole <= 90_000_000) return time;
  return whole <= 8 * 86_400_000 && time !== "00:00" ? `${day} ${time}` : day;
}

function common() {
  return {
    animation: false,
    useUTC: true,
    backgroundColor: "transparent",
    textStyle: { fontFamily: css("--font"), color: css("--text") },
  };
}

function grid(axes) {
  // Names of times may reach beyond the last of them.
  const bounds = { left: 4, right: axes > 1 ? 4 : -30, top: 4, bottom: 4 };
  return {
    left: 8,
    right: axes > 1 ? 8 : 12,
    top: 10,
    bottom: 8,
    outerBounds: bounds,
    outerBoundsContain: "axisLabel",
  };
}

function label() {
  return { color: css("--weak"), fontSize: 12 };
}

function tooltip(trigger) {
  return {
    trigger,
    confine: false,
    appendTo: () => document.body,
    className: "tooltip",
    transitionDuration: 0,
    hideDelay: 50,
    backgroundColor: css("--raised"),
    borderColor: css("--line"),
    padding: 0,
    extraCssText: "",
    textStyle: { color: css("--text"), fontSize: 12 },
  };
}

/** One panel of a board: asks its queries, draws the answer, and says so where there is none. */
import { post } from "./ask.js";
import { barChart, heatMap, pie, seriesFields, share, stateColor, stateTimeline, timeSeries } from "./charts.js";
import { colorOf } from "./colors.js";
import { barGauge, element, figures, gauge, legend, prose, stat, table } from "./figures.js";
import { configured, frameOf, ofField, reduced, seriesColor, text, transformed } from "./frames.js";
import { address, filled } from "./template.js";
import { duration, fromWall, groupSeconds } from "./time.js";

const CHARTS = { timeseries: timeSeries, barchart: barChart, heatmap: heatMap, "state-timeline": stateTimeline };
const FIGURES = { stat, bargauge: barGauge, gauge, table };
const CALCS = {
  lastNotNull: "Last",
  last: "Last",
  mean: "Mean",
  max: "Max",
  min: "Min",
  sum: "Total",
  total: "Total",
  count: "Count",
};

export class Panel {
  /**
   * @param model the panel in the board's JSON
   * @param board what the panels of a board share: uid, zone, lookup, range, notes, zoom(begin, end), crosshair
   */
  constructor(model, board) {
    this.model = model;
    this.board = board;
    this.hidden = new Set();
    this.sorting = null;
    this.visible = false;
    this.due = true;
    this.body = element("div", { class: "body" });
    this.heading = element("h2", {});
    const inspect = element("button", { type: "button", title: "Description, query and data", textContent: "ⓘ" });
    inspect.onclick = () => this.inspect();
    const header = element("header", {}, this.heading, inspect, element("span", { class: "busy" }));
    this.element = element("section", { class: `panel${model.transparent ? " clear" : ""}` }, header, this.body);
    this.element.dataset.panel = model.id;
    this.element.dataset.type = model.type;
    this.element.dataset.state = "waiting";
    this.sizes = new ResizeObserver(() => this.resized());
    this.sizes.observe(this.body);
  }

  /** Asks anew and draws; what was drawn stays until then, greyed if ClickHouse does not answer. */
  async refresh() {
    this.heading.textContent = filled(this.model.title ?? "", this.board.lookup);
    this.due = false;
    if (this.model.type === "text") return this.draw();
    if (!(this.model.targets ?? []).some(({ rawSql, hide }) => rawSql && !hide))
      return this.say("This panel has no query.", "empty");
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    this.element.classList.add("asking");
    const { begin, end } = this.board.range;
    const points = this.model.maxDataPoints ?? Math.max(this.body.clientWidth, 100);
    const interval = groupSeconds(begin, end, points, Math.ceil(duration(this.model.interval) / 1000) || 1);
    const began = performance.now();
    try {
      const { frames } = await post(
        `/api/boards/${this.board.uid}/panels/${this.model.id}`,
        { begin, end, interval, variables: this.board.chosen() },
        asking.signal,
      );
      this.answer = { frames, begin, end, took: performance.now() - began };
      this.element.classList.remove("stale");
      this.draw();
      this.board.answered();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failed(error);
    } finally {
      if (this.asking === asking) {
        this.asking = null;
        this.element.classList.remove("asking");
      }
    }
  }

  failed(error) {
    if (!error.away) {
      this.answer = null;
      return this.say(error.message, "error");
    }
    this.board.away(error.message);
    if (this.answer) this.element.classList.add("stale");
    else this.say(error.message, "error");
  }

  draw() {
    const { model, board } = this;
    if (model.type === "text") {
      this.show(prose(model, board.lookup));
      return this.state("data");
    }
    const { unknown, frames: made } = transformed(this.answer.frames.map(frameOf), model.transformations);
    if (unknown.length) return this.say(`Only Grafana has the transformation ${unknown.join(", ")}.`, "unsupported");
    this.frames = configured(made, model, board);
    const empty = this.frames.every(({ length }) => !length);
    const blank = this.frames.every(({ fields }) =>
      fields.every(({ type, values }) => type === "time" || values.every((value) => value === null)),
    );
    if (empty || (blank && model.type !== "table"))
      return this.say(model.fieldConfig?.defaults?.noValue ?? "No data", "empty");
    if (FIGURES[model.type]) this.drawFigures();
    else if (model.type === "piechart") this.drawPie();
    else if (CHARTS[model.type]) this.drawChart();
    else return this.say(`Only Grafana draws panels of type ${model.type}.`, "unsupported");
    this.state("data");
  }

  drawFigures() {
    const scrolled = this.body.querySelector(".scroll");
    const [left, top] = [scrolled?.scrollLeft ?? 0, scrolled?.scrollTop ?? 0];
    const drawing = element("div", { class: "drawing" });
    this.show(drawing);
    const resort = (sorting) => {
      this.sorting = sorting;
      this.draw();
    };
    drawing.append(
      FIGURES[this.model.type](this.model, this.frames, {
        ...this.size(),
        link: this.link,
        sorting: this.sorting,
        resort,
      }),
    );
    drawing.querySelector(".scroll")?.scrollTo(left, top);
  }

  drawPie() {
    const slices = figures(this.model, this.frames).filter(({ value }) => value !== null);
    const sum = slices.reduce((total, { value }) => total + value, 0);
    const { legend: options } = this.model.options ?? {};
    const wanted = options?.values ?? [];
    const entries = slices.map(({ name, field, value, color }) => ({
      name,
      color,
      values: [
        wanted.includes("value") && { head: "Value", text: text(field, value) },
        wanted.includes("percent") && { head: "Percent", text: share(value, sum) },
      ].filter(Boolean),
    }));
    const toggle = this.toggle(entries.map(({ name }) => name));
    this.layout(options, legend(options, entries, this.hidden, toggle));
    this.chart.setOption(
      pie(
        this.model,
        slices.filter(({ name }) => !this.hidden.has(name)),
      ),
      MERGED,
    );
  }

  drawChart() {
    const { model, frames } = this;
    const { legend: options } = model.options ?? {};
    const fields =
      model.type === "barchart"
        ? frames[0].fields.filter(({ type }) => type === "number").map((field) => ({ field }))
        : seriesFields(frames);
    let entries = fields
      .filter(({ field }) => !field.config.custom?.hideFrom?.legend)
      .map(({ field }) => ({
        name: field.display,
        color: seriesColor(field),
        values: (options?.calcs ?? []).map((calc) => ({
          head: CALCS[calc] ?? calc,
          text: text(field, reduced(field.values, calc)),
        })),
      }));
    if (model.type === "state-timeline") entries = this.states();
    if (model.type === "heatmap") entries = [];
    this.layout(options, legend(options, entries, this.hidden, this.toggle(entries.map(({ name }) => name))));
    const { begin, end } = this.answer;
    const { zone, notes } = this.board;
    const context = { ...this.size(this.drawing), begin, end, zone, notes, hidden: this.hidden, color: colorOf };
    this.chart.setOption(CHARTS[model.type](model, frames, context), MERGED);
  }

  states() {
    const found = new Map();
    for (const { field } of seriesFields(this.frames, () => true)) {
      for (const value of field.values)
        if (value !== null && found.size < 12) found.set(text(field, value), stateColor(field, value));
    }
    return [...found].map(([name, color]) => ({ name, color, values: [] }));
  }

  /** A place for a chart, with a legend below or beside it; the chart that is there stays. */
  layout(options, made) {
    if (!this.chart) {
      this.drawing = element("div", { class: "drawing" });
      this.split = element("div", { class: "split" }, this.drawing);
      this.show(this.split);
      this.chart = window.echarts.init(this.drawing);
      if (this.model.type === "timeseries") this.listen();
    }
    const side = options?.placement === "right";
    this.split.style.flexDirection = side ? "row" : "column";
    this.split.replaceChildren(this.drawing, ...(made ? [made] : []));
    this.chart.resize();
  }

  /** The crosshair that panels share, and zooming by drawing over a time. */
  listen() {
    const { chart, drawing, board } = this;
    const moment = (x) => fromWall(chart.convertFromPixel({ xAxisIndex: 0 }, x), board.zone);
    this.cursor = element("div", { class: "cursor", hidden: true });
    const zoom = element("div", { class: "zoom", hidden: true });
    drawing.append(this.cursor, zoom);
    let from = null;
    chart.getZr().on("mousemove", ({ offsetX }) => {
      board.crosshair(moment(offsetX), this);
      if (from === null) return;
      zoom.hidden = Math.abs(offsetX - from) < 4;
      Object.assign(zoom.style, { left: `${Math.min(from, offsetX)}px`, width: `${Math.abs(offsetX - from)}px` });
    });
    chart.getZr().on("globalout", () => board.crosshair(null, this));
    chart.getZr().on("mousedown", ({ offsetX }) => (from = offsetX));
    chart.getZr().on("mouseup", ({ offsetX }) => {
      if (from !== null && Math.abs(offsetX - from) > 8)
        board.zoom(moment(Math.min(from, offsetX)), moment(Math.max(from, offsetX)));
      from = null;
      zoom.hidden = true;
    });
  }

  /** Shows where the pointer is on another panel. */
  point(at) {
    if (!this.cursor) return;
    const inside = at !== null && this.answer && at >= this.answer.begin && at <= this.answer.end;
    this.cursor.hidden = !inside;
    if (inside) this.cursor.style.left = `${this.chart.convertToPixel({ xAxisIndex: 0 }, this.board.wall(at))}px`;
  }

  toggle(names) {
    return (name, single) => {
      const alone = names.every((each) => (each === name) !== this.hidden.has(each));
      if (single) this.hidden.has(name) ? this.hidden.delete(name) : this.hidden.add(name);
      else this.hidden = new Set(alone ? [] : names.filter((each) => each !== name));
      this.draw();
    };
  }

  link = (url, { field, value, row, frame }) =>
    address(url, (name, format) => {
      const column = /^__data\.fields(?:\.(\w+)|\[["']?(.+?)["']?\])$/.exec(name);
      if (column) {
        const key = column[1] ?? column[2];
        const found =
          frame.fields.find(({ name: own, display }) => own === key || display === key) ?? frame.fields[key];
        return [String(found?.values[row] ?? "")];
      }
      if (name === "__value.raw" || name === "__value.numeric") return [String(value ?? "")];
      if (name === "__value.text") return [text(field, value)];
      if (name === "__value.time") return [String(frame.fields.find(({ type }) => type === "time")?.values[row] ?? "")];
      return ofField(name, field) ?? this.board.lookup(name, format);
    });

  say(message, state) {
    this.show(element("div", { class: `message${state === "error" ? " bad" : ""}` }, message));
    this.state(state);
  }

  show(...children) {
    if (this.chart && children[0] !== this.split) {
      this.chart.dispose();
      this.chart = this.cursor = null;
    }
    this.body.replaceChildren(...children);
  }

  state(name) {
    this.element.dataset.state = name;
  }

  size(of = this.body) {
    return { width: Math.max(of.clientWidth, 40), height: Math.max(of.clientHeight, 20) };
  }

  resized() {
    const { width, height } = this.size();
    if (this.was === `${width} ${height}` || this.element.dataset.state !== "data") return;
    this.was = `${width} ${height}`;
    if (this.answer) this.draw();
  }

  inspect() {
    const dialog = document.getElementById("dialog");
    const queries = (this.model.targets ?? []).map(({ rawSql }) => element("pre", {}, rawSql));
    const read = (this.answer?.frames ?? []).map(({ result: { rows, statistics } }) => {
      const [given, seen] = [rows, statistics.rows_read].map((count) => count.toLocaleString("en-US"));
      return `${given} rows, ${seen} read, ${Math.round(statistics.elapsed * 1000)} ms in ClickHouse`;
    });
    const data = (this.answer ? configured(this.answer.frames.map(frameOf), this.model, this.board) : []).map((frame) =>
      table({ options: {} }, [frame], { link: () => "#", resort: () => {} }),
    );
    const close = element("button", { type: "button", textContent: "Close" });
    close.onclick = () => dialog.close();
    dialog.replaceChildren(
      element("h2", {}, this.heading.textContent),
      element("p", {}, this.model.description ?? ""),
      element("p", { class: "weak" }, read.join("; ")),
      ...queries,
      ...data,
      element("p", {}, close),
    );
    dialog.showModal();
  }

  close() {
    this.asking?.abort();
    this.sizes.disconnect();
    this.chart?.dispose();
  }
}

const MERGED = { replaceMerge: ["series", "xAxis", "yAxis", "visualMap"] };

/**
 * The page: a board with its variables, time range and refresh, all in the address as Grafana has them there:
 * /d/UID?from=now-6h&to=now&var-platform=douyin&refresh=5s#panel-ID. For a wall: &kiosk without controls, &cycle=30s
 * goes from board to board, &theme=light. /runbooks/NAME is a page of what to do.
 */
import { get, post } from "./ask.js";
import { Bell } from "./bell.js";
import { ALL, dropdown, rangeChoice, refreshChoice, variableChoice } from "./choices.js";
import { colorOf } from "./colors.js";
import { element } from "./figures.js";
import { frameOf } from "./frames.js";
import { Panel } from "./panel.js";
import { runbook } from "./runbook.js";
import { address, filled } from "./template.js";
import { duration, moment, toWall, zoneOf } from "./time.js";

const page = { boards: [], board: null };
const place = (id) => document.getElementById(id);
/** What of an address is the page's own, and stays when the board's part changes. */
const OWN = ["theme", "kiosk", "cycle"];

class Board {
  constructor(model, asked) {
    this.model = model;
    this.uid = model.uid;
    this.zone = zoneOf(model.timezone);
    this.from = asked.get("from") ?? model.time?.from ?? "now-6h";
    this.to = asked.get("to") ?? model.time?.to ?? "now";
    this.every = asked.get("refresh") ?? (model.refresh || "");
    this.variables = (model.templating?.list ?? []).filter(({ type }) => type !== "datasource");
    this.held = new Map(this.variables.map((variable) => [variable.name, initial(variable, asked)]));
    this.options = new Map();
    this.marks = (model.annotations?.list ?? []).filter(({ target, enable }) => target?.rawSql && enable !== false);
    this.notes = [];
    this.panels = [];
    this.look();
  }

  /** Sets the time range that panels ask for, as of now. */
  look() {
    const now = Date.now();
    const [begin, end] = [moment(this.from, now, this.zone), moment(this.to, now, this.zone, true)];
    const sound = Number.isFinite(begin) && Number.isFinite(end) && begin < end;
    this.range = sound ? { begin: Math.max(0, begin), end } : { begin: now - 6 * 3_600_000, end: now };
    if (!sound) this.from = "now-6h";
    if (!sound) this.to = "now";
  }

  async open() {
    await this.offer();
    this.controls();
    this.draw();
    await this.refresh();
  }

  /** Reads what variables may hold; what is chosen and not among it goes back to what the board begins with. */
  async offer() {
    this.unoffered = false;
    const offered = this.variables.filter(({ type }) => type !== "constant" && type !== "textbox");
    await Promise.all(
      offered.map(async (variable) => {
        try {
          const { options } = await post(`/api/boards/${this.uid}/variables/${variable.name}`, this.question());
          this.options.set(variable.name, options);
          const known = new Set(options.map(({ value }) => value));
          const kept = this.held
            .get(variable.name)
            .filter((value) => known.has(value) || (value === ALL && variable.includeAll));
          this.held.set(
            variable.name,
            kept.length ? kept : variable.includeAll ? [ALL] : options.slice(0, 1).map(({ value }) => value),
          );
        } catch (error) {
          this.unoffered = true;
          this.away(error.message);
        }
      }),
    );
  }

  /** Variables as the server takes them. */
  chosen() {
    return Object.fromEntries(
      this.variables.filter(({ type }) => type !== "constant").map(({ name }) => [name, this.held.get(name)]),
    );
  }

  question() {
    return { begin: this.range.begin, end: this.range.end, variables: this.chosen() };
  }

  /** What a name in a title or a link stands for. */
  lookup = (name, format) => {
    if (name === "__from" || name === "__to") return [String(this.range[name === "__from" ? "begin" : "end"])];
    if (name === "__url_time_range") return `from=${encodeURIComponent(this.from)}&to=${encodeURIComponent(this.to)}`;
    if (name === "__all_variables")
      return this.variables
        .filter(({ type }) => type !== "constant")
        .map(({ name: own }) => this.query(own))
        .join("&");
    if (name === "__dashboard") return [this.model.title];
    if (name === "datasource") return format === "queryparam" ? "" : ["ClickHouse"];
    if (!this.held.has(name)) return undefined;
    if (format === "queryparam") return this.query(name);
    const texts = new Map([[ALL, "All"], ...(this.options.get(name) ?? []).map(({ value, text }) => [value, text])]);
    return this.held.get(name).map((value) => (format ? value : (texts.get(value) ?? value)));
  };

  query(name) {
    return this.held
      .get(name)
      .map((value) => `var-${name}=${encodeURIComponent(value)}`)
      .join("&");
  }

  wall = (at) => toWall(at, this.zone);

  crosshair = (at, source) => {
    if (this.model.graphTooltip) for (const panel of this.panels) if (panel !== source) panel.point(at);
  };

  zoom = (begin, end) => this.rangeTo(String(Math.round(begin)), String(Math.round(end)));

  rangeTo(from, to) {
    [this.from, this.to] = [from, to];
    this.changed();
  }

  /** Something else is asked: the address says so, and everything is asked anew. */
  async changed() {
    this.look();
    this.address();
    const dependent = this.variables.some(
      ({ type, refresh, query }) => type === "query" && (refresh === 2 || JSON.stringify(query).includes("$")),
    );
    if (dependent) await this.offer();
    this.controls();
    await this.refresh();
  }

  address() {
    const asked = new URLSearchParams({ from: this.from, to: this.to, refresh: this.every });
    for (const { name, type } of this.variables)
      if (type !== "constant") for (const value of this.held.get(name)) asked.append(`var-${name}`, value);
    const now = new URLSearchParams(location.search);
    for (const name of OWN) if (now.has(name)) asked.set(name, now.get(name));
    history.replaceState(null, "", `/d/${this.uid}?${asked}`);
  }

  /** Asks everything in sight anew. `patient`: what is still being answered is left alone: it is the same question. */
  async refresh(patient = false) {
    clearTimeout(this.timer);
    this.look();
    if (this.unoffered) {
      await this.offer();
      this.controls();
    }
    for (const panel of this.panels) panel.due = true;
    await Promise.all([
      this.annotate(),
      ...this.panels.filter(({ visible, asking }) => visible && !(patient && asking)).map((panel) => panel.refresh()),
    ]);
    this.plan();
  }

  plan() {
    clearTimeout(this.timer);
    const pause = duration(this.every);
    if (!pause || page.board !== this) return;
    this.timer = setTimeout(() => (document.hidden ? this.plan() : this.refresh(true)), pause);
  }

  async annotate() {
    try {
      const answers = await Promise.all(
        this.marks.map(async ({ name, iconColor }) => {
          const { frames } = await post(
            `/api/boards/${this.uid}/annotations/${encodeURIComponent(name)}`,
            this.question(),
          );
          return notesOf(frameOf(frames[0]), name, colorOf(iconColor ?? "red"));
        }),
      );
      const before = JSON.stringify(this.notes);
      this.notes = answers.flat();
      if (before === JSON.stringify(this.notes)) return;
      for (const panel of this.panels) if (panel.chart && panel.answer) panel.draw();
    } catch (error) {
      this.away(error.message);
    }
  }

  /** Says that nothing answers, until something does. */
  away(message) {
    place("notice").textContent = `${message}. What is shown is from before; the board goes on by itself.`;
    place("notice").hidden = false;
  }

  answered() {
    place("notice").hidden = true;
  }

  controls() {
    const variables = this.variables
      .filter(({ hide, type }) => hide !== 2 && type !== "constant")
      .map((variable) =>
        variableChoice(variable, this.options.get(variable.name) ?? [], this.held.get(variable.name), (values) => {
          this.held.set(variable.name, values);
          // Somebody who chooses several is about to choose another.
          clearTimeout(this.soon);
          this.soon = setTimeout(() => this.changed(), variable.multi ? 400 : 0);
        }),
      );
    const open = place("variables").querySelector(".menu")?.closest("[data-variable]");
    const kept = open?.dataset.variable;
    place("variables").replaceChildren(
      ...variables.map((made) => (kept && made.dataset.variable === kept ? renamed(open, made) : made)),
    );
    const whole = this.range.end - this.range.begin;
    const moved = (by) => this.zoom(this.range.begin + by * whole * 0.5, this.range.end + by * whole * 0.5);
    place("controls").replaceChildren(
      ...this.links(),
      rangeChoice({
        from: this.from,
        to: this.to,
        zone: this.zone,
        choose: (from, to) => this.rangeTo(from, to),
        shift: moved,
        wider: () => this.zoom(this.range.begin - whole / 2, Math.min(this.range.end + whole / 2, Date.now())),
      }),
      refreshChoice({
        every: this.every,
        offered: this.model.timepicker?.refresh_intervals ?? ["5s", "10s", "30s", "1m", "5m"],
        now: () => this.refresh(),
        choose: (every) => {
          this.every = every;
          this.address();
          this.controls();
          this.plan();
        },
      }),
      themeButton(() => this.panels.forEach((panel) => panel.answer && panel.draw())),
    );
  }

  /** Links of the board to addresses; those to boards of a tag are the menu of boards. */
  links() {
    return (this.model.links ?? [])
      .filter(({ type, url }) => type === "link" && url)
      .map(({ url, title, tooltip, keepTime, includeVars, targetBlank }) => {
        const more = [keepTime && "${__url_time_range}", includeVars && "${__all_variables}"].filter(Boolean).join("&");
        const whole = more ? `${url}${url.includes("?") ? "&" : "?"}${more}` : url;
        const made = element("a", { href: address(whole, this.lookup), title: tooltip ?? "" }, title);
        if (targetBlank) Object.assign(made, { target: "_blank", rel: "noopener" });
        return made;
      });
  }

  draw() {
    this.seen = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          const panel = this.panels.find(({ element: own }) => own === target);
          if (!panel) continue;
          panel.visible = isIntersecting;
          if (isIntersecting && panel.due) panel.refresh();
        }
      },
      { rootMargin: "200px" },
    );
    place("board").replaceChildren();
    for (const { row, panels } of sections(this.model.panels ?? [])) {
      const grid = element("div", { class: "panels" });
      if (row) {
        const head = element(
          "button",
          { class: `row${row.collapsed ? " folded" : ""}`, type: "button" },
          filled(row.title ?? "", this.lookup),
          element("span", { class: "weak" }, row.collapsed ? counted(panels) : ""),
        );
        head.onclick = () => {
          const folded = head.classList.toggle("folded");
          if (folded) this.remove(grid);
          else this.fill(grid, panels);
          head.lastChild.textContent = folded ? counted(panels) : "";
        };
        head.dataset.panels = panels.map(({ id }) => id).join(" ");
        place("board").append(head);
      }
      place("board").append(grid);
      if (!row?.collapsed) this.fill(grid, panels);
    }
    this.point();
  }

  /** Shows the panel that the address points at, also one in a folded row. */
  point() {
    const wanted = /^#panel-(\d+)$/.exec(location.hash)?.[1];
    if (!wanted) return;
    place("board").querySelector(`.row.folded[data-panels~="${wanted}"]`)?.click();
    for (const { element: own } of this.panels) own.classList.toggle("pointed", own.dataset.panel === wanted);
    place("board").querySelector(".panel.pointed")?.scrollIntoView({ block: "center" });
  }

  fill(grid, models) {
    const top = Math.min(...models.map(({ gridPos }) => gridPos.y));
    for (const model of models) {
      const panel = new Panel(model, this);
      const { x, y, w, h } = model.gridPos;
      Object.assign(panel.element.style, { gridColumn: `${x + 1} / span ${w}`, gridRow: `${y - top + 1} / span ${h}` });
      panel.element.style.setProperty("--tall", h);
      this.panels.push(panel);
      grid.append(panel.element);
      this.seen.observe(panel.element);
    }
  }

  remove(grid) {
    for (const panel of this.panels.filter(({ element: own }) => grid.contains(own))) panel.close();
    this.panels = this.panels.filter(({ element: own }) => !grid.contains(own));
    grid.replaceChildren();
  }
}

function counted(panels) {
  return panels.length === 1 ? "1 panel" : `${panels.length} panels`;
}

/** What a variable holds at first: what the address says, or what the board does. */
function initial(variable, asked) {
  const given = asked.getAll(`var-${variable.name}`).map((value) => (value === "All" ? ALL : value));
  const { value } = variable.current ?? {};
  const found = given.length ? given : [value ?? []].flat().map(String);
  if (!found.length || found[0] === "") return variable.includeAll ? [ALL] : [];
  return variable.multi ? found : found.slice(0, 1);
}

/** Rows with their panels; those before the first row have none. */
function sections(panels) {
  const found = [];
  let open = { row: null, panels: [] };
  for (const panel of panels.toSorted(
    (one, other) => one.gridPos.y - other.gridPos.y || one.gridPos.x - other.gridPos.x,
  )) {
    if (panel.type !== "row") {
      open.panels.push(panel);
      continue;
    }
    if (open.row || open.panels.length) found.push(open);
    open = { row: panel, panels: [...(panel.panels ?? [])] };
  }
  found.push(open);
  return found.filter((section) => section.panels.length);
}

function notesOf(frame, title, color) {
  const column = (name) => frame.fields.find((field) => field.name.toLowerCase() === name)?.values ?? [];
  const [time, timeEnd, text, heading] = ["time", "timeend", "text", "title"].map(column);
  return time.map((at, row) => ({
    time: at,
    timeEnd: timeEnd[row] ?? null,
    text: [heading[row], text[row]].filter(Boolean).join(": ") || title,
    color,
  }));
}

/** An open menu with the text of the button made anew: choosing several does not close it. */
function renamed(open, made) {
  open.querySelector("button").textContent = made.querySelector("button").textContent;
  return open;
}

function themeButton(redraw) {
  const made = element("button", { type: "button", title: "Dark or light" }, "◐");
  made.onclick = () => {
    const theme = document.documentElement.dataset.theme === "light" ? "dark" : "light";
    setTheme(theme);
    localStorage.setItem("theme", theme);
    redraw();
  };
  return made;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme === "light" ? "light" : "dark";
}

function menu(current) {
  return dropdown(current?.title ?? "Boards", (box) => {
    const kept = page.board ? `?${page.board.lookup("__url_time_range")}&${page.board.lookup("__all_variables")}` : "";
    box.append(
      ...page.boards.map(({ uid, title }) => element("a", { href: `/d/${encodeURIComponent(uid)}${kept}` }, title)),
    );
  });
}

async function open() {
  const asked = new URLSearchParams(location.search);
  setTheme(asked.get("theme") ?? localStorage.getItem("theme"));
  if (asked.has("kiosk")) document.documentElement.dataset.kiosk = "";
  new Bell(place("ringing")).watch();
  try {
    page.boards = await get("/api/boards");
    const [, kind, uid] = /^\/(d|runbooks)\/([^/]+)/.exec(location.pathname) ?? [];
    if (!uid) return list();
    if (kind === "runbooks") return await read(decodeURIComponent(uid));
    const board = (page.board = new Board(await get(`/api/boards/${uid}`), asked));
    document.title = `${board.model.title} - fanpulse`;
    place("boards").replaceChildren(menu(board.model));
    cycle(duration(asked.get("cycle")), board.uid, asked);
    await board.open();
  } catch (error) {
    place("notice").textContent = error.message;
    place("notice").hidden = false;
    if (page.boards.length) list();
  }
}

/** Goes to the next board after a while, for a wall. */
function cycle(pause, uid, asked) {
  if (!pause) return;
  const next = page.boards[(page.boards.findIndex((board) => board.uid === uid) + 1) % page.boards.length];
  const own = new URLSearchParams(OWN.filter((name) => asked.has(name)).map((name) => [name, asked.get(name)]));
  setTimeout(() => location.assign(`/d/${encodeURIComponent(next.uid)}?${own}`), pause);
}

/** Shows a page of what to do. */
async function read(name) {
  place("boards").replaceChildren(menu());
  place("controls").replaceChildren(themeButton(() => {}));
  place("board").replaceChildren(await runbook(name));
  document.title = `${place("board").querySelector("h1")?.textContent ?? name} - fanpulse`;
}

function list() {
  place("boards").replaceChildren(menu());
  place("controls").replaceChildren(themeButton(() => {}));
  const cards = page.boards.map(({ uid, title, description }) =>
    element("a", { href: `/d/${encodeURIComponent(uid)}` }, element("strong", {}, title), description),
  );
  place("board").replaceChildren(element("div", { class: "cards" }, ...cards));
}

addEventListener("hashchange", () => page.board?.point());
open();

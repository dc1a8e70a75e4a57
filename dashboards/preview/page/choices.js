/** The controls above a board: variables, time range, refresh, theme. */
import { element } from "./figures.js";
import { moment, rangeText } from "./time.js";

export const ALL = "$__all";
const RANGES = [
  "now-5m",
  "now-15m",
  "now-30m",
  "now-1h",
  "now-3h",
  "now-6h",
  "now-12h",
  "now-24h",
  "now-2d",
  "now-7d",
  "now-14d",
  "now-30d",
];

/** A button that opens a menu; `fill(menu, close)` makes what is in it, each time it is opened. */
export function dropdown(label, fill, { end = false, name } = {}) {
  const button = element("button", { type: "button" }, label);
  const box = element("div", { class: "choice" }, name ? element("label", {}, name) : null, button);
  let menu = null;
  const close = () => {
    menu?.remove();
    menu = null;
    document.removeEventListener("pointerdown", outside, true);
  };
  const outside = (event) => box.contains(event.target) || close();
  button.onclick = () => {
    if (menu) return close();
    menu = element("div", { class: end ? "menu end" : "menu" });
    fill(menu, close);
    box.append(menu);
    menu.querySelector("input")?.focus();
    document.addEventListener("pointerdown", outside, true);
  };
  box.onkeydown = ({ key }) => {
    if (key === "Escape" && menu) {
      close();
      button.focus();
    }
  };
  return box;
}

function item(text, on, click) {
  const made = element("button", { type: "button", class: on ? "on" : "" }, text);
  made.onclick = click;
  return made;
}

/**
 * The choice of a variable.
 * @param variable of the board's JSON
 * @param options what it may hold: value and text
 * @param chosen values
 * @param choose takes the new values
 */
export function variableChoice(variable, options, chosen, choose) {
  const name = variable.hide === 1 ? null : variable.label || variable.name;
  if (variable.type === "textbox") {
    const input = element("input", { type: "text", value: chosen[0] ?? "" });
    input.onchange = () => choose([input.value]);
    return element("div", { class: "choice" }, name ? element("label", {}, name) : null, input);
  }
  const all = { value: ALL, text: "All" };
  const offered = [...(variable.includeAll ? [all] : []), ...options];
  const texts = chosen.map((value) => offered.find((option) => option.value === value)?.text ?? value);
  const box = dropdown(
    texts.join(" + ") || "-",
    (menu, close) => {
      let now = [...chosen];
      const list = element("div", {});
      const search = element("input", { type: "search", placeholder: "Search", hidden: offered.length < 8 });
      const draw = () => {
        const found = offered
          .filter(({ text }) => text.toLowerCase().includes(search.value.toLowerCase()))
          .slice(0, 200);
        list.replaceChildren(...found.map(({ value, text }) => item(text, now.includes(value), () => pick(value))));
      };
      const pick = (value) => {
        if (!variable.multi || value === ALL) {
          close();
          return choose([value]);
        }
        now = now.includes(value)
          ? now.filter((each) => each !== value)
          : [...now.filter((each) => each !== ALL), value];
        if (!now.length) now = variable.includeAll ? [ALL] : [value];
        draw();
        choose(now);
      };
      search.oninput = draw;
      draw();
      menu.append(search, list);
    },
    { name },
  );
  box.title = variable.description ?? "";
  box.dataset.variable = variable.name;
  return box;
}

/** The choice of the time range. */
export function rangeChoice({ from, to, zone, choose, shift, wider }) {
  const step = (text, title, click) => {
    const made = element("button", { type: "button", title }, text);
    made.onclick = click;
    return made;
  };
  const box = dropdown(
    rangeText(from, to, zone),
    (menu, close) => {
      const pick = (begin, end) => {
        close();
        choose(begin, end);
      };
      const quick = [...RANGES.map((begin) => [begin, "now"]), ["now/d", "now"], ["now-1d/d", "now-1d/d"]];
      menu.append(
        element(
          "div",
          { class: "two" },
          ...quick.map(([begin, end]) =>
            item(rangeText(begin, end, zone), begin === from && end === to, () => pick(begin, end)),
          ),
        ),
      );
      const inputs = [from, to].map((text) =>
        element("input", {
          type: "text",
          value: /^\d{9,}$/.test(text) ? rangeText(text, text, zone).split(" to ")[0] : text,
        }),
      );
      const form = element(
        "form",
        {},
        ...inputs,
        element("button", { type: "submit" }, "Apply"),
        element("span", { class: "weak" }, zone),
      );
      form.onsubmit = (event) => {
        event.preventDefault();
        const [begin, end] = inputs.map(({ value }) => value.trim());
        const moments = [moment(begin, Date.now(), zone), moment(end, Date.now(), zone, true)];
        const bad =
          inputs.find((input, index) => Number.isNaN(moments[index])) ?? (moments[0] >= moments[1] ? inputs[1] : null);
        if (!bad)
          return pick(...[begin, end].map((text, index) => (text.startsWith("now") ? text : String(moments[index]))));
        bad.setCustomValidity(
          bad === inputs[1] && !Number.isNaN(moments[1])
            ? "Must be after the beginning"
            : "Write now-6h, or 2026-01-31 12:00",
        );
        bad.oninput = () => bad.setCustomValidity("");
        form.reportValidity();
      };
      menu.append(form);
    },
    { end: true },
  );
  box.title = "Time range";
  return element(
    "div",
    { class: "joined" },
    step("‹", "Earlier", () => shift(-1)),
    box,
    step("›", "Later", () => shift(1)),
    step("−", "Twice as long", wider),
  );
}

/** The choice of how often the board asks anew. */
export function refreshChoice({ every, offered, choose, now }) {
  const button = element("button", { type: "button", title: "Ask anew now" }, "⟳");
  button.onclick = now;
  const box = dropdown(
    every || "Off",
    (menu, close) => {
      menu.append(
        ...["", ...offered].map((text) =>
          item(text || "Off", text === every, () => {
            close();
            choose(text);
          }),
        ),
      );
    },
    { end: true },
  );
  box.title = "Refresh";
  return element("div", { class: "joined" }, button, box);
}

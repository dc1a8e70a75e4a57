/** Grafana's colours by name, in the two themes, and its scales. */

const HUES = {
  red: ["#c4162a", "#e02f44", "#f2495c", "#ff7383", "#ffa6b0"],
  orange: ["#fa6400", "#ff780a", "#ff9830", "#ffb357", "#ffcb7d"],
  yellow: ["#e0b400", "#f2cc0c", "#fade2a", "#ffee52", "#fff899"],
  green: ["#37872d", "#56a64b", "#73bf69", "#96d98d", "#c8f2c2"],
  blue: ["#1f60c4", "#3274d9", "#5794f2", "#8ab8ff", "#c0d8ff"],
  purple: ["#8f3bb8", "#a352cc", "#b877d9", "#ca95e5", "#deb6f2"],
};
const SHADES = ["dark-", "semi-dark-", "", "light-", "super-light-"];

/** Colours of lines: Grafana's classic palette, without those that cannot be told apart on both themes. */
export const PALETTE = [
  "green",
  "semi-dark-yellow",
  "light-blue",
  "semi-dark-orange",
  "red",
  "semi-dark-blue",
  "purple",
  "#2bb3a3",
  "#e879a6",
  "#b08d57",
  "#9aa0b5",
  "dark-green",
];

/** Scales from low to high, by the name of the colour mode or of a heat map's scheme. */
const SCALES = {
  "continuous-GrYlRd": ["green", "yellow", "red"],
  "continuous-RdYlGr": ["red", "yellow", "green"],
  "continuous-YlRd": ["super-light-yellow", "red"],
  "continuous-BlYlRd": ["blue", "yellow", "red"],
  "continuous-BlPu": ["blue", "purple"],
  "continuous-blues": ["panel", "semi-dark-blue"],
  "continuous-greens": ["panel", "semi-dark-green"],
  "continuous-reds": ["panel", "semi-dark-red"],
  "continuous-purples": ["panel", "semi-dark-purple"],
  Oranges: ["#2b1a0c", "#8a3a05", "#e8590c", "#fd9a52", "#fee0c5"],
  Blues: ["#0b1a2b", "#0f4c8a", "#2b7bba", "#7fb6e0", "#d7e8f7"],
  Greens: ["#0c2415", "#176b35", "#3da35a", "#8fd19a", "#daf1dc"],
  Reds: ["#2b0c0f", "#8f1219", "#e0383b", "#fb8a6a", "#fdddd0"],
  Purples: ["#1b1230", "#533594", "#8478bd", "#bcb9dc", "#ecebf5"],
  Spectral: ["#3288bd", "#99d594", "#e6f598", "#fee08b", "#fc8d59", "#d53e4f"],
  Turbo: ["#30123b", "#4662d7", "#36aaf9", "#1ae4b6", "#72fe5e", "#c8ef34", "#faba39", "#f66b19", "#ca2a04", "#7a0403"],
  Viridis: ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"],
  Magma: ["#000004", "#51127c", "#b73779", "#fc8961", "#fcfdbf"],
  Plasma: ["#0d0887", "#7e03a8", "#cc4778", "#f89540", "#f0f921"],
  YlOrRd: ["#2b1a0c", "#bd0026", "#fd8d3c", "#fed976", "#ffffcc"],
};

/** A colour of Grafana, by name or as it is, for this theme. */
export function colorOf(name) {
  if (name === "text") return css("--text");
  if (name === "panel") return css("--panel");
  if (name === "transparent") return "rgba(0,0,0,0)";
  const shade = SHADES.findIndex((prefix) => prefix && name.startsWith(prefix));
  const [hue, place] = shade < 0 ? [name, 2] : [name.slice(SHADES[shade].length), shade];
  // On white the middle shades are too pale to read.
  return HUES[hue]?.[light() && place === 2 ? 1 : place] ?? name;
}

/** The colours of a scale, low to high; `reverse` turns it round. */
export function scale(name, reverse = false) {
  const colors = (SCALES[name] ?? SCALES.Oranges).map(colorOf);
  return reverse !== (light() && !name.startsWith("continuous")) ? colors.toReversed() : colors;
}

/** The colour at a place of a scale, 0 to 1. */
export function interpolated(name, at) {
  const colors = scale(name);
  const place = Math.min(Math.max(at || 0, 0), 1) * (colors.length - 1);
  const low = Math.min(Math.floor(place), colors.length - 2);
  const [from, to] = [rgb(colors[low]), rgb(colors[low + 1])];
  return `rgb(${from.map((part, index) => Math.round(part + (to[index] - part) * (place - low))).join(",")})`;
}

/** The colour with an opacity. */
export function faded(color, opacity) {
  return `rgba(${rgb(color).join(",")},${opacity})`;
}

/** Black or white, whichever is read better on the colour. */
export function ink(color) {
  const [red, green, blue] = rgb(color);
  return red * 0.299 + green * 0.587 + blue * 0.114 > 150 ? "#111217" : "#ffffff";
}

/** A value of the style sheet. */
export function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function light() {
  return document.documentElement.dataset.theme === "light";
}

function rgb(color) {
  const hex = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})/i.exec(color);
  if (hex) return hex.slice(1).map((part) => parseInt(part, 16));
  const numbers = color.match(/[\d.]+/g);
  return numbers ? numbers.slice(0, 3).map(Number) : [128, 128, 128];
}

"use strict";
// Elements made of text nodes and attributes: nothing that a run says is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = new Set(["svg", "path", "line", "text", "g", "rect", "circle", "title"]);

function el(tag, attributes = {}, ...inside) {
  const made = SHAPES.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...inside.flat().filter((one) => one !== null && one !== undefined));
  return made;
}

function named(text) { // whatever direction its letters run in, it turns nothing beside it
  return el("bdi", {}, String(text));
}

function section(id, title, ...inside) {
  return el("section", {id, "aria-labelledby": `${id}-title`}, el("h2", {id: `${id}-title`}, title), ...inside);
}

// --- numbers ---------------------------------------------------------------------------------------------------------

const FORMATS = new Map(); // making one takes longer than a hundred uses

function format(digits) {
  if (!FORMATS.has(digits)) FORMATS.set(digits, new Intl.NumberFormat("en-US", {maximumSignificantDigits: digits}));
  return FORMATS.get(digits);
}

function figure(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return Math.abs(value) < 1000 ? String(value) : format(16).format(value);
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
  return format(digits).format(value);
}

function interval(pair) {
  return pair && pair[0] !== null && pair[1] !== null ? `${figure(pair[0])} to ${figure(pair[1])}` : "–";
}

function short(value, step) { // beside an axis whose marks are a step apart
  if (Math.abs(value) < step / 1e6) return "0";
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${+(value / size).toFixed(places(step / size))}${unit}`;
  }
  return Math.abs(value) < 1e-3 ? value.toExponential(0) : `${+value.toFixed(places(step))}`;
}

function places(step) { // digits behind the point that tell marks apart
  return Math.min(12, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)));
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${figure(seconds, 3)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

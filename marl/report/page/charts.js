"use strict";
// Curves as SVG: a line for each group of seeds, its interval, the single seeds thin, values under the pointer.

const COLORS = 7; // classes c0 ... c6 of the style: Okabe and Ito's, told apart by people who see colors differently
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const TALL = 220, LEFT = 56, RIGHT = 12, TOP = 10, BOTTOM = 26;

function smoothed(values, width) { // means over the latest values, as marl plot has them
  if (width < 2) return values;
  let sum = 0, count = 0;
  return values.map((value, place) => {
    if (value !== null) { sum += value; count += 1; }
    const gone = place >= width ? values[place - width] : null;
    if (gone !== null) { sum -= gone; count -= 1; }
    return value === null || !count ? null : sum / count;
  });
}

function ticks(low, high, most) {
  const raw = (high - low || Math.abs(high) || 1) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw * 0.999);
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place += 1) {
    found.push([place * step, short(place * step, step)]);
  }
  return found;
}

function extent(all) {
  let low = Infinity, high = -Infinity;
  for (const values of all) {
    for (const value of values) {
      if (value !== null && value < low) low = value;
      if (value !== null && value > high) high = value;
    }
  }
  if (low > high) return [0, 1];
  const room = (high - low) * 0.04 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

function polyline(x, y, across, up) { // a path that is broken where there is no value
  let path = "", open = false;
  for (let place = 0; place < x.length; place += 1) {
    if (y[place] === null) { open = false; continue; }
    path += `${open ? "L" : "M"}${across(x[place]).toFixed(1)} ${up(y[place]).toFixed(1)}`;
    open = true;
  }
  return path;
}

function ribbon(x, low, high, across, up) {
  const there = x.map((_, place) => place).filter((place) => low[place] !== null && high[place] !== null);
  if (there.length < 2) return "";
  const point = (values) => (place) => `${across(x[place]).toFixed(1)} ${up(values[place]).toFixed(1)}`;
  return `M${there.map(point(high)).join("L")}L${there.reverse().map(point(low)).join("L")}Z`;
}

function chart(metric, xs, width, smooth, label = "environment steps", unit = "steps") {
  const lines = metric.lines.map((line, place) => ({
    place, ...line, x: xs[line.x], y: smoothed(line.y, smooth),
    low: line.low && smoothed(line.low, smooth), high: line.high && smoothed(line.high, smooth),
    runs: (line.runs || []).map((run) => ({x: xs[run.x], y: smoothed(run.y, smooth)})),
  }));
  const wide = Math.max(240, Math.floor(width));
  const [left, right] = extent(lines.flatMap((line) => [line.x, ...line.runs.map((run) => run.x)]));
  const [low, high] = extent(lines.flatMap((line) => [line.y, ...line.runs.map((run) => run.y)]));
  const across = (x) => LEFT + (x - left) / (right - left) * (wide - LEFT - RIGHT);
  const up = (y) => TALL - BOTTOM - (Math.min(Math.max(y, low), high) - low) / (high - low) * (TALL - BOTTOM - TOP);
  const style = (place) => ({class: `line c${place % COLORS}`, "stroke-dasharray": DASHES[Math.floor(place / COLORS) % 4]});
  const drawn = el("svg", {viewBox: `0 0 ${wide} ${TALL}`, width: wide, height: TALL, role: "img", tabindex: 0,
    "aria-label": `${metric.title}: ${lines.map((line) => `${line.label} ends at ${figure(last(line.y))}`).join("; ")}`});
  for (const [y, text] of ticks(low, high, 4)) {
    drawn.append(el("line", {class: "grid", x1: LEFT, x2: wide - RIGHT, y1: up(y), y2: up(y)}),
      el("text", {class: "tick", x: LEFT - 6, y: up(y) + 4, "text-anchor": "end"}, text));
  }
  for (const [x, text] of ticks(unit === "steps" ? Math.max(left, 0) : left, right, wide < 400 ? 3 : 5)) {
    drawn.append(el("text", {class: "tick", x: Math.min(across(x), wide - 18), y: TALL - 8, "text-anchor": "middle"},
      text));
  }
  for (const line of lines) {
    const {place} = line;
    for (const run of line.runs) drawn.append(el("path", {...style(place), class: `faint c${place % COLORS}`, d: polyline(run.x, run.y, across, up)}));
    if (line.low) drawn.append(el("path", {class: `band c${place % COLORS}`, d: ribbon(line.x, line.low, line.high, across, up)}));
    drawn.append(el("path", {...style(place), d: polyline(line.x, line.y, across, up)}));
    if (line.x.length <= 25) {
      line.x.forEach((x, n) => line.y[n] !== null && drawn.append(
        el("circle", {class: `dot c${place % COLORS}`, cx: across(x), cy: up(line.y[n]), r: 2.5})));
    }
  }
  const rule = el("line", {class: "rule", y1: TOP, y2: TALL - BOTTOM, x1: -9, x2: -9});
  drawn.append(rule);
  const said = el("p", {class: "under", "aria-live": "polite"}, label);
  const grid = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  let here = grid.length - 1;
  const show = (place) => {
    here = Math.min(Math.max(place, 0), grid.length - 1);
    const x = grid[here];
    if (x === undefined) return;
    rule.setAttribute("x1", across(x));
    rule.setAttribute("x2", across(x));
    const values = lines.map((line) => {
      const n = nearest(line.x, x);
      const range = line.low ? ` (${interval([line.low[n], line.high[n]])})` : "";
      return `${lines.length > 1 ? `${line.label} ` : ""}${figure(line.y[n])}${range}`;
    });
    said.replaceChildren(`${figure(unit === "steps" ? Math.round(x) : x)} ${unit}: `, named(values.join("; ")));
  };
  drawn.addEventListener("pointermove", (event) => {
    const box = drawn.getBoundingClientRect();
    const x = left + ((event.clientX - box.left) * wide / box.width - LEFT) / (wide - LEFT - RIGHT) * (right - left);
    show(nearest(grid, x));
  });
  drawn.addEventListener("keydown", (event) => {
    const move = {ArrowLeft: -1, ArrowRight: 1, Home: -grid.length, End: grid.length}[event.key];
    if (move === undefined) return;
    event.preventDefault();
    show(here + move);
  });
  drawn.addEventListener("pointerleave", () => { rule.setAttribute("x1", -9); rule.setAttribute("x2", -9); said.replaceChildren(label); });
  const made = el("figure", {class: "chart"}, el("figcaption", {}, named(metric.title)), drawn, said);
  made.style.maxWidth = `${wide}px`;
  return made;
}

function swatch(place) {
  return el("svg", {width: 28, height: 10, "aria-hidden": "true"}, el("path", {class: `line c${place % COLORS}`,
    "stroke-dasharray": DASHES[Math.floor(place / COLORS) % 4], d: "M1 5H27"}));
}

function last(values) {
  return values.findLast((value) => value !== null) ?? null;
}

function nearest(x, where) {
  let low = 0, high = x.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] < where) low = middle; else high = middle;
  }
  return Math.abs(x[low] - where) <= Math.abs(x[high] - where) ? low : high;
}

// --- the section of all curves ---------------------------------------------------------------------------------------

const MOST_CHARTS = 6; // that are drawn before anybody asks for more
const FIRST = ["mean_return", "evaluation_return", "entropy", "kl", "mean_length", "steps_per_second"];

class Curves { // keeps what the reader chose while new rows come in
  constructor() {
    this.smooth = 1;
    this.chosen = null;
    this.box = el("div", {class: "charts"});
    this.names = el("div", {class: "choices"});
    this.legend = el("ul", {class: "legend"});
    const value = el("output", {}, "1");
    const slider = el("input", {type: "range", min: 1, max: 50, value: 1, input: () => {
      this.smooth = +slider.value;
      value.textContent = slider.value;
      this.draw();
    }});
    this.node = section("curves", "Learning curves", this.legend,
      el("div", {class: "tools"}, el("label", {}, "Mean over the latest points ", slider, " ", value)),
      this.box, el("details", {}, el("summary", {}, "All metrics"), this.names));
    this.wide = 0;
    new ResizeObserver(() => { if (Math.abs(this.box.clientWidth - this.wide) > 8) this.draw(); }).observe(this.box);
  }

  update({xs, metrics}) {
    this.xs = xs;
    this.metrics = metrics;
    const names = metrics.map((metric) => metric.name);
    if (this.chosen === null && names.length) {
      const first = FIRST.filter((name) => names.includes(name));
      this.chosen = new Set([...first, ...names.filter((name) => !first.includes(name))].slice(0, MOST_CHARTS));
    }
    if (names.join("\n") !== this.known) {
      this.known = names.join("\n");
      this.names.replaceChildren(...metrics.map((metric) => el("label", {}, el("input", {type: "checkbox",
        checked: this.chosen.has(metric.name), change: (event) => {
          if (event.target.checked) this.chosen.add(metric.name); else this.chosen.delete(metric.name);
          this.draw();
        }}), " ", named(metric.name))));
    }
    const labels = new Map();
    for (const metric of metrics) metric.lines.forEach((line, place) => labels.has(line.label) || labels.set(line.label, [place, line.seeds]));
    this.legend.hidden = labels.size < 2 && ![...labels.values()].some(([, seeds]) => seeds > 1);
    this.legend.replaceChildren(...[...labels].map(([label, [place, seeds]]) => el("li", {}, swatch(place), " ", named(label),
      seeds > 1 ? `, mean of ${seeds} seeds with its 95 % interval over seeds` : "")));
    this.draw();
  }

  draw() {
    this.wide = this.box.clientWidth || 640;
    const columns = Math.max(1, Math.floor(this.wide / 420));
    const width = (this.wide - 16 * (columns - 1)) / columns;
    const shown = (this.metrics || []).filter((metric) => this.chosen.has(metric.name));
    this.box.replaceChildren(...(shown.length ? shown.map((metric) => chart(metric, this.xs, width, this.smooth))
      : [el("p", {}, "No rows of metrics have been logged yet.")]));
  }
}

"use strict";
// The picture of a step of a recorded episode: what the world shows, who hears whom, what agents think of.

const [VIEW, CIRCLE, BOX, LINE, TEXT, NAME] = [0, 1, 2, 3, 4, 5]; // kinds of marks, see marl/report/drawing.py
const MOST_SMALL_BARS = 12; // in the picture
const COLORS_OF = new Map();

function marksOf(pictures) { // every picture's marks, from those that changed
  let now = [];
  return pictures.map(({n, new: changed}) => {
    now = now.slice(0, n);
    for (const [place, ...mark] of changed) now[place] = mark;
    return now;
  });
}

function viewOf(pictures) { // the square that holds everything that is ever drawn
  const all = pictures.flat(), said = all.find((mark) => mark[0] === VIEW);
  if (said) return {x: said[1], y: said[2], half: said[3] || 1};
  let low = [Infinity, Infinity], high = [-Infinity, -Infinity];
  const reach = (x, y, r) => { low = [Math.min(low[0], x - r), Math.min(low[1], y - r)]; high = [Math.max(high[0], x + r), Math.max(high[1], y + r)]; };
  for (const [kind, a, b, c, d] of all) {
    if (kind === CIRCLE || kind === NAME) reach(a, b, c);
    if (kind === BOX) reach(a, b, Math.max(c, d) / 2);
    if (kind === LINE) { reach(a, b, 0); reach(c, d, 0); }
  }
  const half = Math.max(high[0] - low[0], high[1] - low[1]) / 2 * 1.06;
  return {x: (low[0] + high[0]) / 2, y: (low[1] + high[1]) / 2, half: half > 0 && Number.isFinite(half) ? half : 1};
}

function colorOf(number) {
  if (!COLORS_OF.has(number)) COLORS_OF.set(number, `#${number.toString(16).padStart(6, "0")}`);
  return COLORS_OF.get(number);
}

function heardIn(recording, episode, t, by) { // [listener, speaker, weight, message] of whatever is heard in a step
  const found = [];
  recording.teams.forEach((team, k) => {
    const weights = episode.weights[k], shares = episode[by]?.[k] ?? weights, messages = episode.messages[k];
    if (!weights || t >= weights.length) return;
    weights[t].forEach((row, listener) => row.forEach((weight, speaker) => {
      if (weight > 0 && speaker !== listener) {
        const all = messages && messages[t];
        found.push([team.agents[listener], team.agents[speaker], shares[t][listener][speaker], all && (all.length === 1 ? all[0] : all[listener])[speaker]]);
      }
    }));
  });
  return found;
}

class Picture { // a canvas with one step of an episode
  constructor(keyed, clicked) {
    this.canvas = el("canvas", {tabindex: 0, "aria-label": "picture of the step", keydown: keyed, click: (event) => clicked(this.nearest(event))});
    this.shown = {arrows: "weights", thoughts: false, eyes: false, agent: 0};
    this.step = 0;
  }

  open(recording, episode, changed) { // changed: called as pictures come in
    Object.assign(this, {recording, episode, step: Math.min(this.step, episode.length), side: 0});
    this.agents = recording.teams.flatMap((team) => team.agents);
    this.marks = recording.kind === "marks" ? marksOf(episode.pictures) : null;
    this.view = this.marks && viewOf(this.marks);
    this.images = recording.kind === "frames" ? episode.pictures.map((source) => Object.assign(new Image(), {src: source, onload: () => { this.draw(); changed?.(); }})) : null;
    this.canvas.hidden = !recording.kind;
    this.fit();
  }

  fit() {
    if (!this.recording?.kind || !this.canvas.parentNode) return;
    const side = Math.min(this.canvas.parentNode.clientWidth, 520), sharp = window.devicePixelRatio || 1;
    const image = this.images && this.images[0], shape = image && image.naturalWidth ? image.naturalHeight / image.naturalWidth : 1;
    if (side < 10 || (this.side === side && this.shape === shape && this.sharp === sharp)) return;
    [this.side, this.shape, this.sharp] = [side, shape, sharp];
    const width = shape > 1 ? side / shape : side;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${width * shape}px`;
    this.canvas.width = width * sharp;
    this.canvas.height = width * shape * sharp;
    this.draw();
  }

  show(step) {
    this.step = Math.min(step, this.episode.length);
    this.draw();
  }

  draw() {
    if (!this.recording?.kind) return;
    if (this.images) this.fit();
    const pen = this.canvas.getContext("2d", {alpha: false}), {width, height} = this.canvas;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    if (this.images) {
      const image = this.images[this.step];
      pen.imageSmoothingEnabled = image.naturalWidth > width;
      if (image.complete && image.naturalWidth) pen.drawImage(image, 0, 0, width, height);
      return;
    }
    pen.scale(this.sharp, this.sharp);
    const me = this.agents[this.shown.agent], {x, y, half} = this.seen(me), scale = this.side / 2 / half, {texts} = this.recording;
    const at = (a, b) => [this.side / 2 + (a - x) * scale, this.side / 2 - (b - y) * scale];
    this.places = new Map();
    let lines = 0;
    for (const [kind, a, b, c, d, color, thick, text] of this.marks[this.step]) {
      pen.fillStyle = pen.strokeStyle = colorOf(color);
      const [px, py] = at(a, b);
      if (kind === CIRCLE) {
        pen.beginPath();
        pen.arc(px, py, Math.max(1.5, c * scale), 0, 7);
        pen.fill();
        pen.strokeStyle = "#000a";
        pen.lineWidth = 1;
        pen.stroke();
      } else if (kind === BOX) {
        pen.fillRect(px - c * scale / 2, py - d * scale / 2, Math.max(1, c * scale), Math.max(1, d * scale));
      } else if (kind === LINE) {
        pen.lineWidth = Math.max(1, thick * this.side / 700);
        pen.beginPath();
        pen.moveTo(px, py);
        pen.lineTo(...at(c, d));
        pen.stroke();
      } else if (kind === TEXT) {
        pen.font = "15px system-ui, sans-serif";
        pen.textAlign = "left";
        pen.fillText(texts[text], 10, this.side - 12 - 20 * lines);
        lines += 1;
      } else if (kind === NAME) {
        this.places.set(texts[text], [px, py, c * scale]);
      }
    }
    if (this.shown.arrows) {
      for (const [listener, speaker, weight] of heardIn(this.recording, this.episode, this.step, this.shown.arrows)) {
        if (!this.shown.eyes || listener === me) this.arrow(pen, speaker, listener, weight);
      }
    }
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    for (const [name, [px, py, radius]] of this.places) {
      if (name === me) {
        pen.strokeStyle = "#d55e00";
        pen.lineWidth = 2.5;
        pen.beginPath();
        pen.arc(px, py, radius + 3, 0, 7);
        pen.stroke();
      }
      if (this.shown.thoughts) this.thought(pen, this.agents.indexOf(name), px, py + radius + 5);
      pen.lineWidth = 3;
      pen.strokeStyle = "#fffc";
      pen.strokeText(name, px, py - radius - 5);
      pen.fillStyle = "#222";
      pen.fillText(name, px, py - radius - 5);
    }
  }

  seen(me) { // the square that is shown: all, or what lies around whoever is looked through
    const place = this.shown.eyes && this.marks[this.step].find(([kind, , , , , , , text]) => kind === NAME && this.recording.texts[text] === me);
    return place ? {x: place[1], y: place[2], half: this.view.half / 2} : this.view;
  }

  thought(pen, agent, x, y) { // bars of its actions below it
    const scores = this.episode.scores[agent], t = this.step;
    if (!scores || t >= this.episode.length || scores[t].length > MOST_SMALL_BARS || !this.episode.acting[agent][t]) return;
    const found = scores[t], [low, high] = this.recording.scores_are[agent] === "values" ? extent([found]) : [0, 1], wide = 5;
    found.forEach((value, k) => {
      const tall = 16 * Math.max(0.05, ((value ?? low) - low) / (high - low));
      pen.fillStyle = k === this.episode.actions[agent][t] ? "#d55e00" : "#7a8794";
      pen.fillRect(x + (k - found.length / 2) * wide, y + 16 - tall, wide - 1, tall);
    });
  }

  arrow(pen, speaker, listener, weight) {
    const from = this.places.get(speaker), to = this.places.get(listener);
    if (!from || !to) return;
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]], far = Math.hypot(dx, dy) || 1, end = [to[0] - dx / far * (to[2] + 4), to[1] - dy / far * (to[2] + 4)];
    pen.strokeStyle = pen.fillStyle = "#cc79a7";
    pen.lineWidth = 0.5 + 3 * Math.min(1, weight);
    pen.beginPath();
    pen.moveTo(from[0], from[1]);
    pen.lineTo(...end);
    pen.stroke();
    pen.beginPath();
    pen.arc(...end, 4, 0, 7);
    pen.fill();
  }

  nearest(event) { // the agent that was clicked on; -1: none
    if (!this.places) return -1;
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const far = (name) => { const place = this.places.get(name); return place ? Math.hypot(place[0] - x, place[1] - y) : Infinity; };
    const best = this.agents.reduce((one, other) => far(other) < far(one) ? other : one);
    return far(best) < 60 ? this.agents.indexOf(best) : -1;
  }
}

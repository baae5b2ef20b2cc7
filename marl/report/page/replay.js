"use strict";
// Recorded episodes: the picture of a step, what everybody did, thought, heard and got, and a link to that moment.

const [VIEW, CIRCLE, BOX, LINE, TEXT, NAME] = [0, 1, 2, 3, 4, 5]; // kinds of marks, see marl/report/drawing.py
const RUNNING = 0, ENDS = ["", "terminated", "truncated"];
const NUMBERS = 8; // of a message that are written out
const MOST_BARS = 30; // actions that have a bar each; of more of them the likeliest are told

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

function sums(rewards) {
  const found = [0];
  for (const reward of rewards) found.push(found[found.length - 1] + (reward ?? 0));
  return found;
}

class Replay {
  constructor() {
    this.step = 0;
    this.playing = 0;
    this.agent = 0;
    this.canvas = el("canvas", {tabindex: 0, "aria-label": "picture of the step", keydown: (event) => this.key(event), click: (event) => this.click(event)});
    this.recordings = el("select", {change: () => this.open(+this.recordings.value, null, 0)});
    this.episodes = el("select", {id: "episode", change: () => this.open(this.place, +this.episodes.value, 0)});
    this.order = el("select", {change: () => this.list()}, ["as played", "by return", "by length"].map((name, value) => el("option", {value}, name)));
    this.slider = el("input", {type: "range", min: 0, value: 0, id: "scrubber", "aria-label": "step", input: () => this.go(+this.slider.value)});
    this.play = el("button", {type: "button", click: () => this.toggle()}, "Play");
    this.speed = el("select", {"aria-label": "speed"}, [0.25, 0.5, 1, 2, 4].map((value) => el("option", {value, selected: value === 1}, `${value}×`)));
    this.arrows = el("input", {type: "checkbox", checked: true, change: () => this.draw()});
    this.where = el("output", {id: "step"});
    this.total = el("output", {id: "return"});
    this.link = el("a", {id: "link"}, "link to this moment");
    this.rows = el("tbody");
    this.seen = el("div", {class: "seen"});
    this.heard = el("div", {id: "heard"});
    this.curve = el("div", {class: "curve"});
    this.talks = el("label", {}, this.arrows, " who hears whom");
    this.which = el("label", {}, "Recording ", this.recordings);
    const button = (name, move, says) => el("button", {type: "button", "aria-label": says, click: () => this.go(this.step + move)}, name);
    this.node = section("replay", "Replay",
      el("div", {class: "tools"}, this.which, el("label", {}, "Episode ", this.episodes), el("label", {}, "sorted ", this.order)),
      el("div", {class: "stage"},
        el("div", {class: "board"}, this.canvas,
          el("div", {class: "tools"}, button("‹", -1, "step back"), this.play, button("›", 1, "step forward"), el("label", {}, "speed ", this.speed), this.talks,
            el("button", {type: "button", click: () => this.save()}, "Save PNG")),
          this.slider, el("p", {class: "under"}, this.where, " · return so far ", this.total, " · ", this.link), this.curve),
        el("div", {class: "minds"}, el("div", {class: "wide"}, el("table", {id: "agents"}, el("thead", {}, el("tr", {},
          ["agent", "action", "what it thought", "reward", "return"].map((one) => el("th", {scope: "col"}, one)))), this.rows)), this.heard, this.seen)));
    new ResizeObserver(() => this.fit()).observe(this.canvas.parentNode);
    window.addEventListener("hashchange", () => this.follow());
  }

  update(replays) {
    this.replays = replays;
    this.which.hidden = replays.length < 2;
    this.recordings.replaceChildren(...replays.map((one, value) => el("option", {value}, `${one.name} (${one.env})`)));
    if (!this.follow()) this.open(Math.min(this.place ?? 0, replays.length - 1), null, 0, false);
  }

  follow() { // to the moment that the address names
    const asked = new URLSearchParams(location.hash.slice(1));
    if (!asked.has("episode")) return false;
    const place = Math.min(Math.max(+(asked.get("recording") ?? 0) || 0, 0), this.replays.length - 1);
    const number = +asked.get("episode"), step = +(asked.get("step") ?? 0) || 0;
    const known = this.replays[place].episodes.some((one) => one.number === number);
    if (place === this.place && this.episode?.number === number && step === this.step) return true;
    this.open(place, known ? number : null, step, false);
    return true;
  }

  open(place, number, step, link = true) {
    const found = this.replays[place], other = place !== this.place || found !== this.recording;
    this.place = place;
    this.recording = found;
    this.recordings.value = place;
    this.agents = found.teams.flatMap((team) => team.agents);
    if (number === null) number = (found.episodes.find((one) => one.rank === "best") ?? found.episodes[0]).number;
    if (other) this.list();
    this.episodes.value = number;
    this.episode = found.episodes.find((one) => one.number === number);
    const {episode} = this;
    this.so_far = episode.rewards.map(sums);
    this.marks = found.kind === "marks" ? marksOf(episode.pictures) : null;
    this.view = this.marks && viewOf(this.marks);
    this.images = found.kind === "frames" ? episode.pictures.map((source) => Object.assign(new Image(), {src: source, onload: () => this.draw()})) : null;
    this.canvas.hidden = !found.kind;
    this.slider.max = episode.length;
    this.talks.hidden = !this.marks || episode.weights.every((one) => one === null);
    this.agent = Math.min(this.agent, this.agents.length - 1);
    this.build();
    this.fit();
    this.go(step, link);
  }

  list() { // the episodes in the order that was chosen
    const value = [(one) => one.number, (one) => -one.total, (one) => -one.length][+this.order.value];
    const sorted = [...this.recording.episodes].sort((a, b) => value(a) - value(b));
    this.episodes.replaceChildren(...sorted.map((one) => el("option", {value: one.number},
      `${one.number}: return ${figure(one.total)}, ${one.length} steps${one.rank ? ` (${one.rank})` : ""}`)));
    if (this.episode) this.episodes.value = this.episode.number;
  }

  build() { // rows of agents, whose cells go() fills
    const {episode, recording} = this;
    this.cells = this.agents.map((agent, n) => {
      const cells = {action: el("td"), thought: el("td", {class: "thought"}), reward: el("td"), total: el("td")};
      const scores = episode.scores[n];
      cells.bars = scores && scores[0].length <= MOST_BARS ? scores[0].map(() => el("span", {class: "bar"})) : [];
      cells.thought.replaceChildren(...cells.bars);
      const [low, high] = scores ? extent(scores) : [0, 1];
      cells.height = recording.scores_are[n] === "values" ? (value) => (value - low) / (high - low) : (value) => value;
      cells.row = el("tr", {click: () => { this.agent = n; this.go(this.step); }}, el("th", {scope: "row"}, el("button", {type: "button", class: "name"}, named(agent))),
        cells.action, cells.thought, cells.reward, cells.total);
      return cells;
    });
    this.rows.replaceChildren(...this.cells.map((cells) => cells.row));
    const xs = [...this.so_far[0].keys()];
    this.curve.replaceChildren();
    const metric = {title: "return so far", lines: this.agents.map((label, n) => ({label, seeds: 1, x: 0, y: this.so_far[n]}))};
    this.drawn = chart(metric, [xs], this.curve.clientWidth || 480, 1, this.agents.length > 1 ? "a line for each agent" : "");
    this.curve.append(this.drawn);
    this.cursor = this.drawn.querySelector("svg").appendChild(el("line", {class: "rule", y1: TOP, y2: TALL - BOTTOM}));
  }

  go(step, link = true) {
    const {episode} = this;
    this.step = Math.min(Math.max(step, 0), episode.length);
    const t = this.step, over = t === episode.length;
    this.slider.value = t;
    this.where.textContent = `step ${t} of ${episode.length}`;
    this.total.textContent = figure(this.so_far.reduce((sum, one) => sum + one[t], 0));
    this.cells.forEach((cells, n) => {
      const acts = !over && episode.acting[n][t], ended = t > 0 ? episode.ends[n].slice(0, t).findLast((one) => one !== RUNNING) : 0;
      cells.row.classList.toggle("chosen", n === this.agent);
      cells.row.classList.toggle("away", !acts);
      const action = acts ? episode.actions[n][t] : null;
      cells.action.textContent = acts ? [action].flat().map((one) => figure(one, 3)).join(", ") : ended ? ENDS[ended] : over ? "the end" : "waits";
      if (!cells.bars.length) cells.thought.textContent = acts && episode.scores[n] ? this.likeliest(episode.scores[n][t]) : "–";
      cells.bars.forEach((bar, k) => {
        const value = acts ? episode.scores[n][t][k] : 0, legal = !acts || !episode.masks[n] || episode.masks[n][t][k];
        bar.style.height = `${Math.max(0.04, Math.min(1, cells.height(value ?? 0))) * 26}px`;
        bar.className = `bar${acts && k === action ? " taken" : ""}${legal ? "" : " illegal"}`;
        bar.title = `${this.recording.scores_are[n] === "values" ? "value" : "probability"} of ${k}: ${figure(value, 3)}${legal ? "" : " (not legal)"}`;
      });
      cells.reward.textContent = t > 0 ? figure(episode.rewards[n][t - 1], 3) : "–";
      cells.total.textContent = figure(this.so_far[n][t]);
    });
    this.hear(t);
    this.look(t);
    const xs = this.so_far[0].length - 1, [left, right] = extent([[0, xs]]);
    const wide = +this.drawn.querySelector("svg").getAttribute("width"), x = LEFT + (t - left) / (right - left) * (wide - LEFT - RIGHT);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    const hash = `#${this.replays.length > 1 ? `recording=${this.place}&` : ""}episode=${episode.number}&step=${t}`;
    this.link.setAttribute("href", hash);
    clearTimeout(this.later); // browsers refuse hundreds of addresses a second
    if (link && !this.playing) this.later = setTimeout(() => history.replaceState(null, "", hash), 100);
    this.draw();
  }

  likeliest(scores) { // the three highest of many
    const order = scores.map((_, k) => k).sort((a, b) => scores[b] - scores[a]).slice(0, 3);
    return `${order.map((k) => `${k}: ${figure(scores[k], 2)}`).join(", ")} of ${scores.length}`;
  }

  spoken(t) { // [team, listener, speaker, message] of whatever is heard in a step
    const found = [];
    this.recording.teams.forEach((team, k) => {
      const weights = this.episode.weights[k], messages = this.episode.messages[k];
      if (!weights || t >= weights.length) return;
      weights[t].forEach((row, listener) => row.forEach((weight, speaker) => {
        if (weight > 0 && speaker !== listener) {
          const all = messages && messages[t];
          found.push([team.agents[listener], team.agents[speaker], weight, all && (all.length === 1 ? all[0] : all[listener])[speaker]]);
        }
      }));
    });
    return found;
  }

  hear(t) {
    const talks = this.episode.weights.some((one) => one !== null);
    if (!talks) { this.heard.replaceChildren(); return; }
    const me = this.agents[this.agent], mine = this.spoken(t).filter(([listener]) => listener === me);
    const rows = mine.map(([, speaker, weight, message]) => [named(speaker), figure(weight, 3), message
      ? message.slice(0, NUMBERS).map((one) => figure(one, 2)).join(", ") + (message.length > NUMBERS ? `, … (${message.length} numbers)` : "") : "–"]);
    this.heard.replaceChildren(el("h3", {}, "What ", named(me), " heard"), rows.length ? table(["from", "weight", "message"], rows) : el("p", {class: "note"}, "Nothing."));
  }

  look(t) {
    const rows = this.episode.observations[this.agent], me = this.agents[this.agent];
    this.seen.replaceChildren(...(rows ? [el("h3", {}, "What ", named(me), " saw"), el("p", {class: "numbers"}, rows[t].map((one) => figure(one, 3)).join("  "))] : []));
  }

  // --- the picture ---------------------------------------------------------------------------------------------------

  fit() {
    if (!this.recording?.kind) return;
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

  draw() {
    if (!this.recording?.kind) return;
    if (this.images) this.fit();
    const pen = this.canvas.getContext("2d"), {width, height} = this.canvas;
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
    const {x, y, half} = this.view, scale = this.side / 2 / half, {texts} = this.recording;
    const at = (a, b) => [this.side / 2 + (a - x) * scale, this.side / 2 - (b - y) * scale];
    this.places = new Map();
    let lines = 0;
    for (const [kind, a, b, c, d, color, thick, text] of this.marks[this.step]) {
      pen.fillStyle = pen.strokeStyle = `#${color.toString(16).padStart(6, "0")}`;
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
    if (this.arrows.checked) for (const [listener, speaker, weight] of this.spoken(this.step)) this.arrow(pen, speaker, listener, weight);
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    for (const [name, [px, py, radius]] of this.places) {
      const chosen = name === this.agents[this.agent];
      if (chosen) {
        pen.strokeStyle = "#d55e00";
        pen.lineWidth = 2.5;
        pen.beginPath();
        pen.arc(px, py, radius + 3, 0, 7);
        pen.stroke();
      }
      pen.lineWidth = 3;
      pen.strokeStyle = "#fffc";
      pen.strokeText(name, px, py - radius - 5);
      pen.fillStyle = "#222";
      pen.fillText(name, px, py - radius - 5);
    }
  }

  arrow(pen, speaker, listener, weight) {
    const from = this.places.get(speaker), to = this.places.get(listener);
    if (!from || !to) return;
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]], far = Math.hypot(dx, dy) || 1, end = [to[0] - dx / far * (to[2] + 4), to[1] - dy / far * (to[2] + 4)];
    pen.strokeStyle = pen.fillStyle = "#cc79a7";
    pen.lineWidth = 1 + 2 * Math.min(1, weight);
    pen.beginPath();
    pen.moveTo(from[0], from[1]);
    pen.lineTo(...end);
    pen.stroke();
    pen.beginPath();
    pen.arc(...end, 4, 0, 7);
    pen.fill();
  }

  click(event) { // whoever is nearest to the pointer
    if (!this.places) return;
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const far = (name) => { const place = this.places.get(name); return place ? Math.hypot(place[0] - x, place[1] - y) : Infinity; };
    const best = this.agents.reduce((one, other) => far(other) < far(one) ? other : one);
    if (far(best) < 60) { this.agent = this.agents.indexOf(best); this.go(this.step); }
  }

  // --- time ----------------------------------------------------------------------------------------------------------

  key(event) {
    const move = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity}[event.key];
    if (event.key === " ") this.toggle(); else if (move !== undefined) this.go(this.step + move); else return;
    event.preventDefault();
  }

  toggle() {
    this.playing = this.playing ? 0 : this.playing + 1;
    this.play.textContent = this.playing ? "Pause" : "Play";
    if (!this.playing) { this.go(this.step); return; }
    if (this.step === this.episode.length) this.go(0);
    let since = performance.now();
    const next = (now) => {
      if (!this.playing) return;
      const wait = 1000 / (Math.min(this.recording.rate, 30) * +this.speed.value);
      if (now - since >= wait) {
        since = Math.max(since + wait, now - wait);
        this.go(this.step + 1);
        if (this.step === this.episode.length) { this.toggle(); return; }
      }
      requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
  }

  save() {
    el("a", {href: this.canvas.toDataURL("image/png"), download: `episode-${this.episode.number}-step-${this.step}.png`}).click();
  }
}

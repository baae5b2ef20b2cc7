"use strict";
// A person's seat: the picture as it is now, what the agent may do, and a WebSocket to the game (marl/seat/room.py).

const [VIEW, CIRCLE, BOX, LINE, TEXT, NAME] = [0, 1, 2, 3, 4, 5]; // kinds of marks, see marl/report/drawing.py
const ARROWS = {ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", a: "left", d: "right", w: "up", s: "down"};
const ENDED = {4001: "somebody has this seat already", 4002: "too many messages", 4003: "this page was too slow", 1008: "a message made no sense", 1009: "a message was too long"};
const AGAIN = 1500; // milliseconds until it asks for the seat again
const SIDE = 520; // pixels of the picture

class Picture { // what the environment shows, always of the same part of the world
  constructor(canvas) {
    this.canvas = canvas;
    this.image = null;
    this.reach = null; // of everything that was drawn so far
  }

  show({marks, source, texts}, agent, drawn) {
    this.canvas.hidden = !marks && !source;
    if (source) {
      const image = Object.assign(new Image(), {src: source, onload: () => { this.fit(image.naturalHeight / image.naturalWidth); this.pen.imageSmoothingEnabled = image.naturalWidth > this.canvas.width; this.pen.drawImage(image, 0, 0, this.canvas.width, this.canvas.height); drawn(); }});
    } else {
      if (marks) { this.fit(1); this.paint(marks, texts, agent); }
      drawn();
    }
  }

  fit(shape) {
    const sharp = window.devicePixelRatio || 1, side = Math.min(SIDE, this.canvas.parentNode.clientWidth || SIDE), wide = shape > 1 ? side / shape : side;
    this.side = side;
    if (this.canvas.width !== Math.round(wide * sharp) || this.canvas.height !== Math.round(wide * shape * sharp)) {
      Object.assign(this.canvas, {width: Math.round(wide * sharp), height: Math.round(wide * shape * sharp)});
      Object.assign(this.canvas.style, {width: `${wide}px`, height: `${wide * shape}px`});
    }
    this.pen = this.canvas.getContext("2d");
    this.pen.setTransform(sharp, 0, 0, sharp, 0, 0);
  }

  view(marks) { // the square around everything, which grows and never moves back
    const said = marks.find((mark) => mark[0] === VIEW);
    if (said) return {x: said[1], y: said[2], half: said[3] || 1};
    const now = this.reach ?? [Infinity, Infinity, -Infinity, -Infinity];
    const add = (x, y, r) => { now[0] = Math.min(now[0], x - r); now[1] = Math.min(now[1], y - r); now[2] = Math.max(now[2], x + r); now[3] = Math.max(now[3], y + r); };
    if (!this.reach) add(0, 0, 1.2);
    for (const [kind, a, b, c, d] of marks) {
      if (kind === CIRCLE || kind === NAME) add(a, b, c);
      if (kind === BOX) add(a, b, Math.max(c, d) / 2);
      if (kind === LINE) { add(a, b, 0); add(c, d, 0); }
    }
    this.reach = now;
    return {x: (now[0] + now[2]) / 2, y: (now[1] + now[3]) / 2, half: Math.max(now[2] - now[0], now[3] - now[1]) / 2 * 1.06};
  }

  paint(marks, texts, agent) {
    const {pen, side} = this, {x, y, half} = this.view(marks), scale = side / 2 / half, at = (a, b) => [side / 2 + (a - x) * scale, side / 2 - (b - y) * scale];
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, side, side);
    let lines = 0;
    for (const [kind, a, b, c, d, color, thick, text] of marks) {
      const [px, py] = at(a, b);
      pen.fillStyle = pen.strokeStyle = `#${color.toString(16).padStart(6, "0")}`;
      if (kind === CIRCLE) {
        pen.beginPath();
        pen.arc(px, py, Math.max(1.5, c * scale), 0, 7);
        pen.fill();
        pen.lineWidth = 1;
        pen.strokeStyle = "#000a";
        pen.stroke();
      } else if (kind === BOX) {
        pen.fillRect(px - c * scale / 2, py - d * scale / 2, Math.max(1, c * scale), Math.max(1, d * scale));
      } else if (kind === LINE) {
        pen.lineWidth = Math.max(1, thick * side / 700);
        pen.beginPath();
        pen.moveTo(px, py);
        pen.lineTo(...at(c, d));
        pen.stroke();
      } else if (kind === TEXT) {
        pen.font = "14px system-ui, sans-serif";
        pen.textAlign = "left";
        pen.fillText(texts[text], 10, side - 12 - 20 * lines);
        lines += 1;
      } else if (kind === NAME) {
        this.name(texts[text], px, py, c * scale, texts[text] === agent);
      }
    }
  }

  name(name, x, y, radius, mine) {
    const {pen} = this;
    if (mine) {
      pen.strokeStyle = "#d55e00";
      pen.lineWidth = 3;
      pen.beginPath();
      pen.arc(x, y, radius + 3, 0, 7);
      pen.stroke();
    }
    pen.font = `${mine ? "bold " : ""}12px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.lineWidth = 3;
    pen.strokeStyle = "#fffc";
    pen.strokeText(name, x, y - radius - 5);
    pen.fillStyle = mine ? "#a34800" : "#222";
    pen.fillText(name, x, y - radius - 5);
  }
}

class SeatPage {
  constructor() {
    const asked = new URLSearchParams(location.search);
    this.address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/seat?${new URLSearchParams({token: asked.get("token") ?? "", seat: asked.get("seat") ?? ""})}`;
    this.title = el("h1", {}, "A seat");
    this.said = el("p", {id: "said", role: "status", class: "said"}, "");
    this.refused = el("p", {id: "refused", role: "alert", class: "note bad"}, "");
    this.canvas = el("canvas", {id: "board", hidden: true, "aria-label": "what the environment shows", click: (event) => this.click(event), pointermove: (event) => this.point(event)});
    this.picture = new Picture(this.canvas);
    this.start = el("button", {type: "button", id: "start", click: () => this.begin()}, "Start");
    this.how = el("p", {class: "note", id: "how"});
    this.controls = el("div", {id: "controls"});
    this.seen = el("p", {class: "numbers", id: "seen"});
    this.scores = el("div", {id: "scores", class: "wide"});
    this.took = el("p", {class: "note", id: "took"});
    document.body.append(el("header", {}, this.title, this.said), el("main", {},
      el("section", {"aria-label": "game"}, el("div", {class: "stage"},
        el("div", {class: "board"}, this.canvas, this.took),
        el("div", {class: "minds"}, el("div", {class: "tools"}, this.start), this.refused, this.controls, this.how, el("details", {}, el("summary", {}, "What your agent sees"), this.seen)))),
      section("results", "Your games, and the agents' own from the same starts", this.scores)));
    document.addEventListener("keydown", (event) => this.key(event, true));
    document.addEventListener("keyup", (event) => this.key(event, false));
    window.addEventListener("blur", () => this.release());
    this.turn = null;
    this.phase = {phase: "wait", missing: []};
    this.sent = null; // when the newest action went out, until its picture is there
    this.latencies = [];
    this.connect();
  }

  connect() {
    this.socket = new WebSocket(this.address);
    this.socket.addEventListener("message", (event) => this.hear(JSON.parse(event.data)));
    this.socket.addEventListener("close", (event) => {
      this.turn = null;
      this.open = false;
      this.tell();
      this.said.textContent = `not connected: ${ENDED[event.code] ?? "the server does not answer"}`;
      if (event.code === 1006 || event.code === 4001 || event.code === 1012) setTimeout(() => this.connect(), AGAIN);
    });
  }

  say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  hear(message) {
    const {kind} = message;
    if (kind === "hello") { this.hello = message; this.open = true; this.build(); }
    if (kind === "picture") this.picture.show(message, this.hello.agent, () => this.arrived());
    if (kind === "turn") { this.turn = message; this.waits = false; this.refused.textContent = ""; this.seen.textContent = message.seen.map((one) => figure(one, 3)).join("  "); this.mark(); }
    if (kind === "phase") { this.phase = message; if (message.phase !== "play") this.turn = null; this.mark(); }
    if (kind === "refused") { this.waits = false; this.sent = null; this.refused.textContent = message.why; }
    if (kind === "scores") this.score(message);
    this.tell();
  }

  arrived() { // the picture that an action led to is drawn
    if (this.sent === null) return;
    const took = performance.now() - this.sent;
    this.sent = null;
    this.latencies.push(took);
    this.took.textContent = `from your action to the picture: ${took.toFixed(0)} ms`;
  }

  // --- what can be done ----------------------------------------------------------------------------------------------

  build() { // buttons, one group for each part, or sliders
    const {agent, env, parts, low, high, board, rest, tick, idle, opponent} = this.hello;
    this.title.replaceChildren(named(agent), " in ", named(env));
    this.values = low.length ? [...rest] : parts.map(() => 0);
    this.single = parts.length === 1;
    this.groups = parts.map((names, part) => names.map((name, choice) => el("button", {type: "button", "data-part": part, "data-choice": choice,
      pointerdown: () => this.press(part, choice), pointerup: () => this.release(), pointerleave: () => this.release(),
      click: (event) => { if (event.detail === 0) this.tap(part, choice); }}, // detail 0: by the keyboard
      named(name), this.single && choice < 10 && name !== String(choice) ? el("small", {}, ` ${choice}`) : null)));
    const groups = this.groups.map((buttons, part) => {
      const box = el("div", {class: "tools choices-of", role: "group", "aria-label": this.single ? "actions" : `part ${part + 1}`}, buttons);
      if (board && board.rows > 1) Object.assign(box.style, {display: "grid", gridTemplateColumns: `repeat(${board.columns}, minmax(0, max-content))`, gap: "6px"});
      if (board) buttons.forEach((button, action) => { const [row, column] = this.field(action); button.style.gridRow = row + 1; button.style.gridColumn = column + 1; });
      return box;
    });
    this.sliders = low.map((least, k) => el("input", {type: "range", min: least, max: high[k], step: (high[k] - least) / 200, value: rest[k], "aria-label": `number ${k + 1}`,
      input: () => this.slide(k)}));
    this.outputs = low.map((_, k) => el("output", {}, figure(rest[k], 3)));
    const sliders = this.sliders.map((slider, k) => el("label", {class: "tools"}, `number ${k + 1} (${figure(low[k], 3)} to ${figure(high[k], 3)}) `, slider, " ", this.outputs[k]));
    this.send = !tick && !this.single ? el("button", {type: "button", id: "send", click: () => this.act(this.values)}, "Act") : null;
    this.controls.replaceChildren(...groups, ...sliders, ...(this.send ? [this.send] : []));
    const names = this.single ? parts[0].map((name) => name.toLowerCase()) : [];
    const ways = [];
    if (board) ways.push("a click on a field of the picture");
    if (Object.values(ARROWS).some((name) => names.includes(name))) ways.push("arrow keys or WASD");
    if (this.single) ways.push(`the digits 0 to ${Math.min(9, names.length - 1)}`);
    if (this.groups.length) ways.push("the buttons");
    if (this.sliders.length) ways.push("the sliders");
    if (this.send) ways.push("Enter to act");
    const waits = tick ? `A step every ${figure(tick, 3)} s. ${{rest: `Without a key your agent does nothing (${names[rest?.[0]] ?? "its choices that do nothing"}).`, again: "Without a key your agent does the last again.", keep: "What you chose stays as it is."}[idle]}` : "The game waits for you.";
    this.how.textContent = `${waits} Act by ${new Intl.ListFormat("en", {type: "disjunction"}).format(ways)}.${opponent ? ` You play against ${opponent}.` : ""}`;
    this.mark();
  }

  field(action) { // row and column of an action
    const {rows, columns, down} = this.hello.board;
    return down ? [action % rows, Math.floor(action / rows)] : [Math.floor(action / columns), action % columns];
  }

  legal(part, choice) {
    return Boolean(this.turn?.acting && this.turn.legal[part]?.[choice]);
  }

  mark() { // what is legal now, and what is chosen
    if (!this.hello) return;
    const mine = Boolean(this.turn?.acting);
    this.groups.forEach((buttons, part) => buttons.forEach((button, choice) => {
      button.disabled = !this.legal(part, choice);
      if (!this.single) button.setAttribute("aria-pressed", this.values[part] === choice);
    }));
    if (this.send) this.send.disabled = !mine;
    this.start.disabled = this.phase.phase === "play" || this.phase.phase === "failed";
    this.start.textContent = this.phase.phase === "over" ? "Play again" : "Start";
  }

  tell() {
    if (!this.hello || !this.open) return;
    const {phase, missing, why} = this.phase, others = missing.filter((one) => one !== this.hello.agent);
    this.said.textContent = phase === "failed" ? `the game has ended: ${why}` : others.length ? `waiting for whoever plays ${others.join(", ")}`
      : phase === "wait" ? "press Start" : phase === "over" ? "the game is over; the next one begins with Play again"
      : this.turn?.acting ? `your move, step ${this.turn.step}` : "the others move";
  }

  begin() {
    this.start.blur(); // so that the keys are the game's
    this.say({do: "start"});
  }

  act(values) {
    if (!this.turn?.acting || (this.waits && !this.hello.tick)) return;
    this.waits = true;
    if (!this.hello.tick) this.sent = performance.now();
    this.say({do: "act", step: this.turn.step, action: this.single ? values[0] : values});
  }

  press(part, choice) {
    if (!this.legal(part, choice)) { if (this.turn?.acting) this.refused.textContent = "not legal now"; return; }
    this.values[part] = choice;
    if (this.single || this.hello.tick) this.act(this.values);
    this.mark();
    this.pressed = true;
  }

  tap(part, choice) {
    this.press(part, choice);
    this.release();
  }

  release() {
    if (this.pressed && this.hello?.tick && this.single) this.say({do: "release"});
    this.pressed = false;
  }

  slide(k) {
    this.values[k] = Math.min(Math.max(+this.sliders[k].value, this.hello.low[k]), this.hello.high[k]);
    this.outputs[k].textContent = figure(this.values[k], 3);
    if (this.hello.tick) this.act(this.values);
  }

  // --- keys and the pointer ------------------------------------------------------------------------------------------

  key(event, down) {
    if (!this.hello || event.ctrlKey || event.metaKey || event.altKey) return;
    const within = event.target.tagName, taken = within === "INPUT" || within === "SUMMARY" || (within === "BUTTON" && [" ", "Enter"].includes(event.key));
    if (event.key === "Enter" && down && !taken && this.send) { this.act(this.values); return; }
    if (taken) return;
    const choice = this.choiceOf(event.key);
    if (choice < 0) return;
    event.preventDefault();
    if (down && (!event.repeat || !this.hello.tick)) { this.heldKey = event.key; this.press(0, choice); }
    if (!down && event.key === this.heldKey) this.release(); // not one that was pressed before another
  }

  choiceOf(key) {
    if (!this.single) return -1;
    const names = this.hello.parts[0].map((name) => name.toLowerCase());
    if (key in ARROWS && names.includes(ARROWS[key])) return names.indexOf(ARROWS[key]);
    if (key === " ") return this.hello.rest ? this.hello.rest[0] : names.indexOf("fire");
    return /^[0-9]$/.test(key) && +key < names.length ? +key : -1;
  }

  actionAt(event) {
    if (!this.hello?.board) return -1;
    const {rows, columns, down, margin} = this.hello.board, box = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width - margin) / (1 - 2 * margin) * columns), row = Math.floor((event.clientY - box.top) / box.height * rows);
    if (column < 0 || column >= columns || row < 0 || row >= rows) return -1;
    return down ? column * rows + row : row * columns + column;
  }

  click(event) {
    const action = this.actionAt(event);
    if (action >= 0) this.tap(0, action);
  }

  point(event) {
    const action = this.actionAt(event);
    this.canvas.style.cursor = action >= 0 && this.legal(0, action) ? "pointer" : "default";
  }

  // --- results -------------------------------------------------------------------------------------------------------

  score({rows, file, trouble}) {
    const outcomes = rows.some((one) => one.person.outcome), several = !outcomes && rows.some((one) => one.person.total !== one.person.everybody);
    const cells = (one) => [figure(one.total), ...(several ? [figure(one.everybody)] : []), one.length, ...(outcomes ? [one.outcome] : [])];
    const head = ["return", ...(several ? ["of all agents"] : []), "steps", ...(outcomes ? ["outcome"] : [])];
    const mean = (who, what) => rows.reduce((sum, one) => sum + (one[who][what] ?? 0), 0) / rows.length;
    const means = (who) => [figure(mean(who, "total")), ...(several ? [figure(mean(who, "everybody"))] : []), figure(mean(who, "length")),
      ...(outcomes ? [`${rows.filter((one) => one[who].outcome === "won").length} of ${rows.length} won`] : [])];
    const line = (name, who, all) => el("tr", {}, el("th", {scope: "row"}, name), el("td", {}, who), all.map((one) => el("td", {}, String(one))));
    this.scores.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ["game", "played by", ...head].map((one) => el("th", {scope: "col"}, one)))),
      el("tbody", {}, rows.flatMap((one) => [line(one.game + 1, "you", cells(one.person)), line(one.game + 1, "the agents", cells(one.agents))]),
        rows.length > 1 ? [line("mean", "you", means("person")), line("mean", "the agents", means("agents"))] : [])),
      el("p", {class: trouble ? "note bad" : "note"}, trouble || (file ? `kept in ${file}, for marl view and marl.report.Recording` : "")));
  }
}

const seatPage = new SeatPage();

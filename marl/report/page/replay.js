"use strict";
// Recorded episodes: what everybody did, thought, heard and got in a step, another run beside it, links, clips.

const RUNNING = 0, ENDS = ["", "terminated", "truncated"];
const NUMBERS = 8; // of a message that are written out
const MOST_BARS = 30; // actions that have a bar each; of more of them the likeliest are told
const MOST_FRAMES = 1000, CLIP = 360; // of a clip: frames, and pixels of a side

function sums(rewards) {
  const found = [0];
  for (const reward of rewards) found.push(found[found.length - 1] + (reward ?? 0));
  return found;
}

function toCome(rewards, discount) { // the discounted return from each step on
  const found = new Array(rewards.length);
  let sum = 0;
  for (let t = rewards.length - 1; t >= 0; t -= 1) { sum = (rewards[t] ?? 0) + discount * sum; found[t] = sum; }
  return found;
}

function put(node, text) { // browsers lay out anew what is set, also where nothing changes
  if (node.said !== text) { node.said = text; node.textContent = text; }
}

function setClass(node, name) {
  if (node.kind !== name) { node.kind = name; node.className = name; }
}

class Replay {
  constructor() {
    this.step = 0;
    this.playing = 0;
    this.agent = 0;
    const chosen = (n) => { if (n >= 0) this.choose(n); };
    this.picture = new Picture((event) => this.key(event), chosen);
    this.beside = new Picture((event) => this.key(event), chosen);
    this.canvas = this.picture.canvas;
    this.recordings = el("select", {id: "recording", change: () => this.open(+this.recordings.value, null, 0)});
    this.episodes = el("select", {id: "episode", change: () => this.open(this.place, +this.episodes.value, 0)});
    this.others = el("select", {id: "beside", change: () => { this.pair(); this.go(this.step); }});
    this.order = el("select", {change: () => this.list()}, ["as played", "by return", "by length"].map((name, value) => el("option", {value}, name)));
    const bound = (id, says) => el("input", {type: "number", step: "any", id, "aria-label": says, input: () => this.list()});
    this.filters = {low: bound("low", "least return"), high: bound("high", "largest return"), short: bound("short", "least steps"), long: bound("long", "most steps")};
    this.outcome = el("select", {id: "outcome", change: () => this.list()});
    this.opponent = el("select", {id: "opponent", change: () => this.elsewhere()});
    this.found = el("output", {id: "found"});
    this.slider = el("input", {type: "range", min: 0, value: 0, id: "scrubber", "aria-label": "step", input: () => this.go(+this.slider.value)});
    this.play = el("button", {type: "button", click: () => this.toggle()}, "Play");
    this.speed = el("select", {"aria-label": "speed"}, [0.25, 0.5, 1, 2, 4].map((value) => el("option", {value, selected: value === 1}, `${value}×`)));
    this.arrows = el("select", {id: "arrows", "aria-label": "lines between agents", change: () => this.overlay()},
      [["weights", "who hears whom"], ["attention", "attention"], ["", "no lines"]].map(([value, name]) => el("option", {value}, name)));
    const box = (id, key) => el("input", {type: "checkbox", id, change: (event) => { this.picture.shown[key] = this.beside.shown[key] = event.target.checked; this.overlay(); }});
    this.talks = el("label", {}, "lines ", this.arrows);
    this.thoughts = el("label", {}, box("thoughts", "thoughts"), " what agents think");
    this.eyes = el("label", {}, box("eyes", "eyes"), " through its eyes");
    this.where = el("output", {id: "step"});
    this.total = el("output", {id: "return"});
    this.link = el("a", {id: "link"}, "link to this moment");
    this.rows = el("tbody");
    this.heads = el("tr");
    this.seen = el("div", {class: "seen"});
    this.heard = el("div", {id: "heard"});
    this.curve = el("div", {class: "curve", id: "over-time"});
    this.curves = el("select", {id: "drawn", change: () => { this.plot(); this.go(this.step); }});
    this.clip = {begin: el("input", {type: "number", min: 0, id: "clip-begin", "aria-label": "first step of the clip"}),
      end: el("input", {type: "number", min: 0, id: "clip-end", "aria-label": "last step of the clip"}), said: el("output", {id: "clip-said"})};
    this.which = el("label", {}, "Recording ", this.recordings);
    this.pairs = el("label", {}, "beside it ", this.others);
    this.outcomes = el("label", {}, "ended ", this.outcome);
    this.opponents = el("label", {}, "against ", this.opponent);
    this.told = el("p", {class: "under", id: "told"});
    this.caption = el("p", {class: "under", id: "beside-said"});
    this.second = el("div", {hidden: true}, this.beside.canvas, this.caption);
    const button = (name, move, says) => el("button", {type: "button", "aria-label": says, click: () => this.go(this.step + move)}, name);
    const act = (name, does, id) => el("button", {type: "button", id, click: does}, name);
    this.node = section("replay", "Replay",
      el("div", {class: "tools"}, this.which, this.opponents, el("label", {}, "Episode ", this.episodes), el("label", {}, "sorted ", this.order), this.pairs),
      el("details", {}, el("summary", {}, "Filter episodes"), el("div", {class: "tools"}, el("label", {}, "return from ", this.filters.low), el("label", {}, "to ", this.filters.high),
        el("label", {}, "steps from ", this.filters.short), el("label", {}, "to ", this.filters.long), this.outcomes, this.found)),
      el("div", {class: "stage"},
        el("div", {class: "board"}, el("div", {class: "pictures"}, el("div", {}, this.canvas), this.second),
          el("div", {class: "tools"}, button("‹", -1, "step back"), this.play, button("›", 1, "step forward"), el("label", {}, "speed ", this.speed), this.talks, this.thoughts, this.eyes),
          this.slider, el("p", {class: "under"}, this.where, " · return so far ", this.total, " · ", this.link), this.told,
          el("label", {class: "under"}, "over time: ", this.curves), this.curve,
          el("details", {}, el("summary", {}, "Save the picture or a clip"), el("div", {class: "tools"}, act("Save PNG", () => this.save(), "save-png"),
            el("label", {}, "clip from step ", this.clip.begin), el("label", {}, "to ", this.clip.end), act("Save GIF", () => this.gif(), "save-gif"), act("Save video", () => this.video(), "save-video"), this.clip.said))),
        el("div", {class: "minds"}, el("div", {class: "wide"}, el("table", {id: "agents"}, el("thead", {}, this.heads), this.rows)), this.heard, this.seen)));
    const fits = new ResizeObserver(() => { this.picture.fit(); this.beside.fit(); });
    for (const one of [this.canvas, this.beside.canvas]) fits.observe(one.parentNode);
    window.addEventListener("hashchange", () => this.follow());
  }

  update(replays) {
    this.replays = replays;
    this.which.hidden = replays.length < 2;
    this.recordings.replaceChildren(...replays.map((one, value) => el("option", {value}, `${one.name} (${one.env})`)));
    const against = [...new Set(replays.map((one) => one.against))];
    this.opponents.hidden = against.length < 2;
    this.opponent.replaceChildren(...against.map((name) => el("option", {value: name}, name || "as trained")));
    if (!this.follow()) this.open(Math.min(this.place ?? 0, replays.length - 1), null, 0, false);
  }

  elsewhere() { // to the first recording against whoever was chosen
    this.open(this.replays.findIndex((one) => one.against === this.opponent.value), null, 0);
  }

  follow() { // to the moment that the address names
    const asked = new URLSearchParams(location.hash.slice(1));
    if (!asked.has("episode")) return false;
    const place = Math.min(Math.max(+(asked.get("recording") ?? 0) || 0, 0), this.replays.length - 1);
    const number = +asked.get("episode"), step = +(asked.get("step") ?? 0) || 0, other = asked.get("beside") ?? "";
    const known = this.replays[place].episodes.some((one) => one.number === number);
    if (place !== this.place || this.episode?.number !== number) this.open(place, known ? number : null, step, false);
    const paired = other === this.others.value;
    if (!paired) { this.others.value = other; this.pair(); }
    if (!paired || step !== this.step) this.go(step, false);
    return true;
  }

  open(place, number, step, link = true) {
    const found = this.replays[place], other = place !== this.place || found !== this.recording;
    const beside = this.others.value;
    this.place = place;
    this.recording = found;
    this.recordings.value = place;
    this.opponent.value = found.against;
    this.agents = found.teams.flatMap((team) => team.agents);
    if (number === null) number = (found.episodes.find((one) => one.rank === "best") ?? found.episodes[0]).number;
    this.episode = found.episodes.find((one) => one.number === number);
    const {episode} = this;
    if (other) { this.outline(); this.list(); }
    this.episodes.value = number;
    this.so_far = episode.rewards.map(sums);
    this.whole = this.so_far[0].map((_, t) => this.so_far.reduce((sum, one) => sum + one[t], 0));
    this.slider.max = this.clip.begin.max = this.clip.end.max = episode.length;
    this.clip.begin.value = 0;
    this.clip.end.value = episode.length;
    this.talks.hidden = found.kind !== "marks" || episode.weights.every((one) => one === null);
    const attends = episode.attention.some((one) => one !== null);
    this.arrows.querySelector("[value=attention]").disabled = !attends;
    this.thoughts.hidden = found.kind !== "marks" || episode.scores.every((one) => one === null);
    this.eyes.hidden = found.kind !== "marks";
    this.agent = Math.min(this.agent, this.agents.length - 1);
    const said = Object.entries(episode.info), task = said.filter(([name]) => name.startsWith("task/")), rest = said.filter(([name]) => !name.startsWith("task/"));
    const words = (title, pairs, cut) => pairs.length ? [el("span", {}, `${title}: `, pairs.flatMap(([name, value]) => [named(name.slice(cut)), ` ${figure(value)}  `]))] : [];
    this.told.replaceChildren(...(found.against ? [el("span", {}, "against ", named(found.against), " ")] : []), ...words("task", task, 5), ...words("at its end", rest, 0));
    this.picture.open(found, episode);
    this.build();
    this.offer(beside);
    this.pair();
    this.go(step, link);
  }

  outline() { // what there is to choose from in this recording
    const outcomes = [...new Set(this.recording.episodes.map((one) => one.outcome))].sort();
    this.outcomes.hidden = outcomes.length < 2;
    this.outcome.replaceChildren(el("option", {value: ""}, "in any way"), ...outcomes.map((name) => el("option", {value: name}, name)));
  }

  list() { // the episodes that pass, in the order that was chosen
    const {low, high, short: least, long: most} = this.filters, value = [(one) => one.number, (one) => -one.total, (one) => -one.length][+this.order.value];
    const within = (one, from, to) => (from.value === "" || one >= +from.value) && (to.value === "" || one <= +to.value);
    const passing = this.recording.episodes.filter((one) => within(one.total, low, high) && within(one.length, least, most) && (!this.outcome.value || one.outcome === this.outcome.value));
    const sorted = passing.sort((a, b) => value(a) - value(b));
    this.episodes.replaceChildren(...sorted.map((one) => el("option", {value: one.number},
      `${one.number}: return ${figure(one.total)}, ${one.length} steps${one.rank ? ` (${one.rank})` : ""}${one.outcome ? `, ${one.outcome}` : ""}`)));
    this.found.textContent = `${sorted.length} of ${this.recording.episodes.length} episodes`;
    if (this.episode && sorted.includes(this.episode)) this.episodes.value = this.episode.number;
    else if (sorted.length && this.episode && this.episodes.options.length) this.open(this.place, sorted[0].number, 0);
  }

  // --- beside it ----------------------------------------------------------------------------------------------------

  offer(chosen) { // other runs' episodes of the same number, which are the same game where the seeds are the same
    const options = this.replays.map((one, k) => [one, k]).filter(([one, k]) => k !== this.place && one.kind && one.episodes.some((other) => other.number === this.episode.number));
    this.pairs.hidden = !options.length;
    this.others.replaceChildren(el("option", {value: ""}, "nothing"), ...options.map(([one, k]) => el("option", {value: k},
      `${one.name}: episode ${this.episode.number}${one.seed === this.recording.seed && one.env === this.recording.env ? " (same seed)" : ""}`)));
    this.others.value = options.some(([, k]) => String(k) === chosen) ? chosen : "";
  }

  pair() {
    const place = this.others.value, found = place === "" ? null : this.replays[+place];
    this.second.hidden = !found;
    this.node.querySelector(".stage").classList.toggle("pair", found !== null);
    this.partner = found && found.episodes.find((one) => one.number === this.episode.number);
    if (!found) return;
    this.partners = this.partner.rewards.map(sums);
    this.beside.open(found, this.partner);
  }

  // --- what stands beside the picture -------------------------------------------------------------------------------

  build() { // rows of agents, whose cells go() fills
    const {episode, recording} = this, valued = episode.values.some((one) => one !== null), shaped = episode.shaping.some((one) => one !== null);
    const gated = episode.gates.some((one) => one !== null && one.flat().some((loud) => loud !== 1));
    const columns = ["agent", "action", "what it thought", ...(valued ? ["value"] : []), "reward", ...(shaped ? ["shaping adds"] : []), "return", ...(gated ? ["spoke"] : [])];
    this.heads.replaceChildren(...columns.map((one) => el("th", {scope: "col"}, one)));
    const member = recording.teams.flatMap((team, k) => team.agents.map((_, n) => [k, n]));
    this.cells = this.agents.map((agent, n) => {
      const cells = {action: el("td"), thought: el("td", {class: "thought"}), value: valued ? el("td") : null, reward: el("td"), shaping: shaped ? el("td") : null,
        total: el("td"), spoke: gated ? el("td") : null};
      const scores = episode.scores[n], [team, place] = member[n];
      cells.bars = scores && scores[0].length <= MOST_BARS ? scores[0].map((_, k) => el("span", {class: "bar", pointerenter: (event) => { event.target.title = this.opinion(n, k); }})) : [];
      cells.thought.replaceChildren(...cells.bars);
      const [low, high] = scores ? extent(scores) : [0, 1];
      cells.height = recording.scores_are[n] === "values" ? (value) => (value - low) / (high - low) : (value) => value;
      cells.loud = (t) => episode.gates[team]?.[t][place] ?? null;
      cells.row = el("tr", {click: () => this.choose(n)}, el("th", {scope: "row"}, el("button", {type: "button", class: "name"}, named(agent))),
        cells.action, cells.thought, cells.value, cells.reward, cells.shaping, cells.total, cells.spoke);
      return cells;
    });
    this.rows.replaceChildren(...this.cells.map((cells) => cells.row));
    const options = [["return", "returns so far"], ...(valued ? [["value", "values that agents expect"], ["came", "value, and what came of it"]] : []), ["reward", shaped ? "reward, and what shaping adds" : "rewards"]];
    const before = this.curves.value;
    this.curves.replaceChildren(...options.map(([value, name]) => el("option", {value}, name)));
    this.curves.value = options.some(([value]) => value === before) ? before : "return";
    this.plot();
  }

  plot() { // the curves that go with the step
    const {episode} = this, n = this.agent, me = this.agents[n], discount = this.recording.discounts[n];
    const line = (label, y) => ({label, seeds: 1, x: 0, y: y.length > episode.length ? y : [...y, null]}); // no action at the end
    const per = (all) => this.agents.map((label, k) => all[k] && line(label, all[k])).filter((one) => one);
    const learnt = episode.rewards[n].map((one, t) => (one ?? 0) + (episode.shaping[n]?.[t] ?? 0));
    const lines = {
      return: () => per(this.so_far),
      value: () => per(episode.values),
      came: () => [...(episode.values[n] ? [line(`what ${me} expects`, episode.values[n])] : []), line("discounted return to come", toCome(learnt, discount ?? 1))],
      reward: () => [line(`reward of ${me}`, episode.rewards[n]), ...(episode.shaping[n] ? [line("shaping adds", episode.shaping[n])] : [])],
    }[this.curves.value]();
    const title = this.curves.selectedOptions[0].textContent, metric = {title, lines};
    this.curve.replaceChildren();
    const steps = [...new Array(episode.length + 1).keys()];
    this.drawn = chart(metric, [steps], this.curve.clientWidth || 480, 1, lines.length > 1 ? lines.map((one) => one.label).join(", ") : "");
    this.curve.append(this.drawn);
    const svg = this.drawn.querySelector("svg"), [left, right] = extent([steps]), wide = +svg.getAttribute("width");
    this.across = (t) => LEFT + (t - left) / (right - left) * (wide - LEFT - RIGHT);
    this.cursor = svg.appendChild(el("line", {class: "rule", x1: 0, x2: 0, y1: TOP, y2: TALL - BOTTOM}));
  }

  choose(agent) {
    this.agent = agent;
    if (["came", "reward"].includes(this.curves.value)) this.plot();
    this.go(this.step);
  }

  overlay() {
    this.picture.shown.arrows = this.beside.shown.arrows = this.arrows.value;
    this.go(this.step);
  }

  go(step, link = true) {
    const {episode} = this;
    this.step = Math.min(Math.max(Math.round(step), 0), episode.length);
    const t = this.step, over = t === episode.length;
    this.slider.value = t;
    put(this.where, `step ${t} of ${episode.length}`);
    put(this.total, figure(this.whole[t]));
    this.cells.forEach((cells, n) => {
      const acts = !over && episode.acting[n][t], ended = acts || t === 0 ? 0 : episode.ends[n].findLast((one, at) => at < t && one !== RUNNING) ?? 0;
      setClass(cells.row, `${n === this.agent ? "chosen" : ""}${acts ? "" : " away"}`);
      const action = acts ? episode.actions[n][t] : null;
      put(cells.action, acts ? (Array.isArray(action) ? action.map((one) => figure(one, 3)).join(", ") : figure(action, 3)) : ended ? ENDS[ended] : over ? "the end" : "waits");
      if (!cells.bars.length) put(cells.thought, acts && episode.scores[n] ? this.likeliest(episode.scores[n][t]) : "–");
      cells.bars.forEach((bar, k) => {
        const value = acts ? episode.scores[n][t][k] : 0, legal = !acts || !episode.masks[n] || episode.masks[n][t][k];
        const tall = `scaleY(${Math.max(0.04, Math.min(1, cells.height(value ?? 0))).toFixed(2)})`;
        if (bar.tall !== tall) { bar.tall = tall; bar.style.transform = tall; }
        setClass(bar, `bar${acts && k === action ? " taken" : ""}${legal ? "" : " illegal"}`);
      });
      if (cells.value) put(cells.value, acts && episode.values[n] ? figure(episode.values[n][t], 3) : "–");
      put(cells.reward, t > 0 ? figure(episode.rewards[n][t - 1], 3) : "–");
      if (cells.shaping) put(cells.shaping, t > 0 && episode.shaping[n] ? figure(episode.shaping[n][t - 1], 3) : "–");
      put(cells.total, figure(this.so_far[n][t]));
      if (cells.spoke) put(cells.spoke, acts ? figure(cells.loud(t), 2) : "–");
    });
    this.hear(t);
    this.look(t);
    this.cursor.setAttribute("transform", `translate(${this.across(t).toFixed(1)})`);
    const hash = `#${this.replays.length > 1 ? `recording=${this.place}&` : ""}episode=${episode.number}&step=${t}${this.others.value === "" ? "" : `&beside=${this.others.value}`}`;
    this.link.setAttribute("href", hash);
    clearTimeout(this.later); // browsers refuse hundreds of addresses a second
    if (link && !this.playing) this.later = setTimeout(() => history.replaceState(null, "", hash), 100);
    this.picture.shown.agent = this.beside.shown.agent = this.agent;
    this.picture.show(t);
    if (this.partner) {
      const at = Math.min(t, this.partner.length), sum = this.partners.reduce((all, one) => all + one[at], 0);
      put(this.caption, `${this.replays[+this.others.value].name}: step ${at} of ${this.partner.length} · return so far ${figure(sum)}`);
      this.beside.show(t);
    }
  }

  opinion(n, k) { // of an action, in words
    const {scores, masks, acting, length} = this.episode, t = this.step;
    if (t >= length || !acting[n][t]) return "";
    const legal = !masks[n] || masks[n][t][k];
    return `${this.recording.scores_are[n] === "values" ? "value" : "probability"} of ${k}: ${figure(scores[n][t][k], 3)}${legal ? "" : " (not legal)"}`;
  }

  likeliest(scores) { // the three highest of many
    const order = scores.map((_, k) => k).sort((a, b) => scores[b] - scores[a]).slice(0, 3);
    return `${order.map((k) => `${k}: ${figure(scores[k], 2)}`).join(", ")} of ${scores.length}`;
  }

  hear(t) { // a row for each of the team, of which those are seen that were heard
    const {episode, recording} = this, me = this.agents[this.agent], k = recording.teams.findIndex((team) => team.agents.includes(me));
    if (this.ear?.episode !== episode || this.ear.me !== me) {
      this.ear = {episode, me, rows: new Map()};
      const attends = episode.attention[k] !== null, talks = episode.weights.some((one) => one !== null);
      if (!talks) { this.heard.replaceChildren(); return; }
      const head = ["from", "weight", "message", ...(attends ? ["attention"] : [])], nothing = el("p", {class: "note"}, "Nothing.");
      const made = table(head, recording.teams[k].agents.filter((one) => one !== me).map((speaker) => {
        const cells = head.slice(1).map(() => el("span"));
        this.ear.rows.set(speaker, cells);
        return [named(speaker), ...cells];
      }));
      Object.assign(this.ear, {made, nothing});
      this.heard.replaceChildren(el("h3", {}, "What ", named(me), " heard"), made, nothing);
    }
    if (!this.ear.made) return;
    const mine = new Map(heardIn(recording, episode, t, "weights").filter(([listener]) => listener === me).map(([, speaker, weight, message]) => [speaker, [weight, message]]));
    this.ear.made.hidden = !mine.size;
    this.ear.nothing.hidden = mine.size > 0;
    const {agents} = recording.teams[k], shares = episode.attention[k]?.[t]?.[agents.indexOf(me)];
    for (const [speaker, cells] of this.ear.rows) {
      const [weight, message] = mine.get(speaker) ?? [];
      const row = cells[0].parentNode.parentNode;
      if (row.hidden !== (weight === undefined)) row.hidden = weight === undefined;
      if (weight === undefined) continue;
      const words = message ? message.slice(0, NUMBERS).map((one) => figure(one, 2)).join(", ") + (message.length > NUMBERS ? `, … (${message.length} numbers)` : "") : "–";
      [figure(weight, 3), words, figure(shares?.[agents.indexOf(speaker)], 3)].forEach((text, n) => cells[n] && put(cells[n], text));
    }
  }

  look(t) { // what the chosen agent saw, an entry each; names stay while numbers change
    const rows = this.episode.observations[this.agent], me = this.agents[this.agent], names = this.recording.names[this.agent];
    if (this.looking !== rows) {
      this.looking = rows;
      this.numbers = rows && rows[0].map(() => el("span"));
      this.seen.replaceChildren(...(rows ? [el("h3", {}, "What ", named(me), " saw"), el("p", {class: "numbers", id: "saw"},
        this.numbers.map((node, k) => el("span", {class: "entry"}, names?.[k] ? [el("i", {}, named(names[k])), " "] : [], node)))] : []));
    }
    rows?.[t].forEach((one, k) => put(this.numbers[k], figure(one, 3)));
  }

  // --- time ----------------------------------------------------------------------------------------------------------

  key(event) {
    const move = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity}[event.key];
    if (event.key === " ") this.toggle(); else if (move !== undefined) this.go(Math.min(Math.max(this.step + move, 0), this.episode.length)); else return;
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

  // --- clips ---------------------------------------------------------------------------------------------------------

  save() {
    this.give(this.canvas.toDataURL("image/png"), `episode-${this.episode.number}-step-${this.step}.png`);
  }

  give(address, name) {
    el("a", {href: address, download: name}).click();
  }

  frames() { // the steps of the clip, and a canvas on which paint(step) puts the picture with its caption
    const begin = Math.max(0, Math.min(+this.clip.begin.value || 0, this.episode.length)), end = Math.max(begin, Math.min(+this.clip.end.value || 0, this.episode.length));
    const steps = [...new Array(end - begin + 1).keys()].map((n) => begin + n).slice(0, MOST_FRAMES);
    const {width, height} = this.canvas, scale = Math.min(1, CLIP / Math.max(width, height)), wide = Math.round(width * scale), tall = Math.round(height * scale);
    const canvas = el("canvas", {width: wide, height: tall + 22}), pen = canvas.getContext("2d", {alpha: false, willReadFrequently: true});
    const paint = (step) => {
      this.picture.show(step);
      pen.fillStyle = "#fff";
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(this.canvas, 0, 0, wide, tall);
      pen.fillStyle = "#222";
      pen.font = "12px system-ui, sans-serif";
      const action = step < this.episode.length && this.episode.acting[this.agent][step] ? `, ${this.agents[this.agent]} does ${[this.episode.actions[this.agent][step]].flat().map((one) => figure(one, 2)).join(", ")}` : "";
      pen.fillText(`step ${step}, return ${figure(this.whole[step])}${action}`, 6, tall + 15, wide - 12);
    };
    return {steps, canvas, pen, paint};
  }

  async gif() {
    if (!this.recording.kind) return null;
    const {steps, canvas, pen, paint} = this.frames();
    put(this.clip.said, "writing …");
    await new Promise((go) => setTimeout(go, 20));
    const data = gifOf(steps.map((step) => () => { paint(step); return pen.getImageData(0, 0, canvas.width, canvas.height).data; }), canvas.width, canvas.height, 1000 / Math.min(this.recording.rate, 30));
    this.picture.show(this.step);
    put(this.clip.said, `${steps.length} frames, ${figure(Math.round(data.length / 1000))} kB`);
    this.offerFile(new Blob([data], {type: "image/gif"}), "gif");
    return data;
  }

  async video() { // as fast as it plays: browsers record what they see
    const kinds = ["video/mp4", "video/webm"].filter((kind) => window.MediaRecorder?.isTypeSupported(kind));
    if (!kinds.length || !this.recording.kind) { put(this.clip.said, "this browser records no video"); return null; }
    const {steps, canvas, paint} = this.frames(), rate = Math.min(this.recording.rate, 30), parts = [];
    paint(steps[0]);
    const recorder = new MediaRecorder(canvas.captureStream(rate), {mimeType: kinds[0]});
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.start();
    for (const step of steps) { paint(step); await new Promise((go) => setTimeout(go, 1000 / rate)); }
    const stopped = new Promise((go) => recorder.addEventListener("stop", go));
    recorder.stop();
    await stopped;
    this.picture.show(this.step);
    const data = new Blob(parts, {type: kinds[0]});
    put(this.clip.said, `${steps.length} steps, ${figure(Math.round(data.size / 1000))} kB`);
    this.offerFile(data, kinds[0].split("/")[1]);
    return data.size;
  }

  offerFile(blob, ending) {
    const address = URL.createObjectURL(blob);
    this.give(address, `episode-${this.episode.number}.${ending}`);
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}

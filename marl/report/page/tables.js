"use strict";
// Runs, their settings and troubles, comparisons and tournaments as tables.

function table(head, rows, attributes = {}) {
  return el("div", {class: "wide"}, el("table", attributes,
    el("thead", {}, el("tr", {}, head.map((one) => el("th", {scope: "col"}, named(one))))),
    el("tbody", {}, rows.map(([first, ...rest]) => el("tr", {}, el("th", {scope: "row"}, first),
      rest.map((one) => el("td", {}, one)))))));
}

function whole(text) { // in one line
  return el("span", {class: "whole"}, text);
}

function result(found) {
  return found === null ? "–" : `${figure(found.mean_return)} (${interval(found.interval)})`;
}

function summary(runs) {
  const kind = {finished: "good", failed: "bad"};
  const rows = runs.map((run) => {
    const training = run.last.mean_return === undefined ? "–" : `${figure(run.last.mean_return)} in training`;
    return [named(run.name), named(run.label), String(run.seed), el("span", {class: kind[run.status] ?? ""}, run.status),
      whole(figure(run.steps ?? run.last.steps ?? null)), whole(run.evaluation ? result(run.evaluation) : training),
      whole(result(run.random)), whole(duration(run.seconds ?? run.last.seconds ?? null))];
  });
  return section("runs", runs.length === 1 ? "Run" : "Runs",
    table(["run", "settings", "seed", "status", "steps", "return (95 % CI)", "random play", "time"], rows),
    el("p", {class: "note"}, "Returns are unshaped sums over all agents. Intervals are over the episodes of one evaluation, not over seeds."));
}

const PARTS = [["environment", "stepping the environment"], ["learning", "updates"], ["", "acting, remembering, evaluating, saving"]];

function costs(runs) { // where the time went, as a bar for each run
  const timed = runs.filter((run) => run.spent.all > 0);
  if (!timed.length) return null;
  const rows = timed.map((run) => {
    const known = (run.spent.environment ?? 0) + (run.spent.learning ?? 0), shares = PARTS.map(([name]) => name ? run.spent[name] ?? 0 : Math.max(0, run.spent.all - known));
    let x = 0;
    const bar = el("svg", {viewBox: "0 0 200 14", width: 200, height: 14, "aria-hidden": "true"}, shares.map((share, n) => {
      const wide = 200 * share / run.spent.all;
      x += wide;
      return el("rect", {class: `bar c${n}`, x: x - wide, y: 1, width: wide, height: 12});
    }));
    return [named(run.name), bar, ...shares.map((share) => whole(`${duration(share)} (${Math.round(100 * share / run.spent.all)} %)`)), whole(run.steps && run.spent.all ? figure(Math.round(run.steps / run.spent.all)) : "–")];
  });
  return section("cost", "Where the time went", table(["run", "", ...PARTS.map(([, words]) => words), "steps/s"], rows),
    el("p", {class: "note"}, "Of the training since it was last begun or resumed. Updates beside a stepping environment count as the environment's."));
}

function evaluations(runs) {
  const boxes = runs.filter((run) => run.evaluation && Object.keys(run.evaluation.agents).length).map((run) => {
    const {evaluation, random} = run;
    const rows = Object.entries(evaluation.agents).map(([agent, value]) => [named(agent), figure(value), figure(random?.agents[agent] ?? null)]);
    const teams = Object.entries(evaluation.teams);
    if (teams.length > 1) rows.push(...teams.map(([team, value]) => [el("span", {}, "team ", named(team)), figure(value), figure(random?.teams[team] ?? null)]));
    rows.push(...Object.entries(evaluation.info).map(([name, value]) => [named(name), figure(value), figure(random?.info[name] ?? null)]));
    return el("details", {open: runs.length === 1}, el("summary", {}, named(run.name), ` · ${figure(evaluation.episodes)} episodes`),
      table(["agent", "mean return", "random play"], rows), histogram(evaluation.returns));
  });
  return boxes.length ? section("evaluation", "Final evaluation", ...boxes) : null;
}

function histogram(returns) {
  const values = returns.filter((one) => one !== null);
  const low = Math.min(...values), high = Math.max(...values);
  if (values.length < 5 || high <= low) return null;
  const count = Math.min(20, Math.ceil(Math.sqrt(values.length))), bins = new Array(count).fill(0);
  for (const value of values) bins[Math.min(count - 1, Math.floor((value - low) / (high - low) * count))] += 1;
  const most = Math.max(...bins), wide = 320, tall = 90;
  return el("figure", {class: "histogram"}, el("figcaption", {}, `returns of ${values.length} episodes`),
    el("svg", {viewBox: `0 0 ${wide} ${tall + 18}`, width: wide, height: tall + 18, role: "img", "aria-label": `from ${figure(low)} to ${figure(high)}`},
      bins.map((n, place) => el("rect", {class: "bar c0", x: place * wide / count + 1, width: wide / count - 2, y: tall - tall * n / most, height: tall * n / most})),
      el("text", {class: "tick", x: 0, y: tall + 14}, figure(low)), el("text", {class: "tick", x: wide, y: tall + 14, "text-anchor": "end"}, figure(high))));
}

function comparison(made) {
  if (!made.tables) return null;
  return section("comparison", "Comparison", el("p", {}, "Compared by ", named(made.metric), "."), ...made.tables.map((one) =>
    el("div", {}, el("h3", {}, named(one.title)), table(one.head, one.rows.map((row) => row.map(([text, best]) => best ? el("strong", {}, text) : named(text)))))),
    compared(made), likelier(made.pairs), ...made.notes.map((text) => el("p", {class: "note"}, named(text))));
}

function compared(made) { // curves and profiles, the same algorithm in the same color everywhere
  const box = el("div", {class: "charts"});
  const fill = () => box.replaceChildren(...made.charts.map((one) => chart({title: one.title, lines: one.lines.map((line, x) => ({...line, x, seeds: 1}))}, one.lines.map((line) => line.x),
    Math.min(640, box.clientWidth || 640), 1, `${one.across}; ${one.lines.map((line) => line.label).join(", ")}, with 95 % intervals`, one.across === "environment steps" ? "steps" : one.across)));
  const lines = new Map(made.charts.flatMap((one) => one.lines.map((line) => [line.label, line.place])));
  fill();
  let wide = 0;
  new ResizeObserver(() => { if (Math.abs(box.clientWidth - wide) > 8) { wide = box.clientWidth; fill(); } }).observe(box);
  return made.charts.length ? el("div", {}, keys(lines), box) : null;
}

function keys(lines) {
  return el("ul", {class: "legend"}, [...lines].map(([label, place]) => el("li", {}, swatch(place), " ", named(label))));
}

function likelier(pairs) {
  if (!pairs) return null;
  const cells = pairs.rows.map((row, one) => el("tr", {}, el("th", {scope: "row"}, named(pairs.names[one])), row.map((found) => found === null ? el("td", {}, "–")
    : shade(el("td", {class: "payoff"}, figure(found[0], 2), el("small", {}, ` ${interval([found[1], found[2]])}`)), 2 * found[0] - 1))));
  return el("div", {}, el("h3", {}, "Pairs: how likely a run of the row scores higher than one of the column"), el("div", {class: "wide"}, el("table", {class: "matrix", id: "pairs"},
    el("thead", {}, el("tr", {}, el("th", {}, ""), pairs.names.map((name) => el("th", {scope: "col"}, named(name))))), el("tbody", {}, cells))));
}

function shade(cell, value) { // blue where the row is ahead, orange where it is behind
  cell.style.background = value >= 0 ? `rgb(0 114 178 / ${Math.min(1, value) * 0.45})` : `rgb(213 94 0 / ${Math.min(1, -value) * 0.45})`;
  return cell;
}

function tournament(made) {
  const order = made.players.map((_, place) => place).sort((a, b) => (made.elo[b] ?? 0) - (made.elo[a] ?? 0));
  const cells = order.map((row) => el("tr", {}, el("th", {scope: "row"}, named(made.players[row])), el("td", {}, figure(made.elo[row] === null ? null : Math.round(made.elo[row]))),
    order.map((column) => {
      const value = made.payoff[row][column], error = made.errors[row][column];
      if (row === column || value === null) return el("td", {}, "–");
      return shade(el("td", {class: "payoff"}, value.toFixed(2), error === null ? "" : el("small", {}, ` ± ${error.toFixed(2)}`), made.clear[row][column] ? "" : " ="), value);
    })));
  return el("div", {}, el("h3", {}, named(made.name)), el("div", {class: "wide"}, el("table", {class: "matrix"},
    el("thead", {}, el("tr", {}, el("th", {}, ""), el("th", {scope: "col"}, "Elo"), order.map((place) => el("th", {scope: "col"}, named(made.players[place]))))), el("tbody", {}, cells))),
    el("p", {class: "note"}, `Win rate minus loss rate of the row against the column ± standard error over ${figure(made.games)} games of each seating; =: not distinguishable.`));
}

function leagues(runs) {
  const boxes = runs.filter((run) => run.league && run.league.members.length).map((run) => {
    const {teams, members, payoff} = run.league, sorted = [...members].sort((a, b) => (b.rating ?? 0) - (a.rating ?? 0));
    const rows = [...teams.map((team) => [el("strong", {}, named(team.name), ", as it is now"), named(team.name), figure(team.rating), "–", "–", "–"]), ...sorted.map((one) =>
      [named(one.name), named(one.team), figure(one.rating), figure(one.games, 3), figure(one.beaten, 2), one.drawn ? "yes" : "no"])];
    return el("details", {open: runs.length === 1}, el("summary", {}, named(run.name), ` · ${members.length} members`),
      table(["player", "team", "rating", "recent games against learners", "learners win", "still drawn"], rows), payoff && payoffs(payoff));
  });
  return boxes.length ? section("league", "League", ...boxes, el("p", {class: "note"},
    "Of the newest checkpoint. Older games count ever less; a draw counts as half a win.")) : null;
}

function payoffs(made) { // mean returns of the row's side, as PSRO's table has them
  const most = Math.max(1e-9, ...made.mean.flat().map((one) => Math.abs(one ?? 0)));
  const cells = made.rows.map((name, row) => el("tr", {}, el("th", {scope: "row"}, named(name)), made.columns.map((_, column) => {
    const value = made.mean[row][column], error = made.errors[row][column];
    return value === null ? el("td", {}, "–") : shade(el("td", {class: "payoff"}, figure(value, 3), error === null ? "" : el("small", {}, ` ± ${figure(error, 2)}`)), value / most);
  })));
  return el("div", {}, el("h3", {}, "Payoffs: mean return of the row's side against the column ± standard error over games"), el("div", {class: "wide"}, el("table", {class: "matrix"},
    el("thead", {}, el("tr", {}, el("th", {}, ""), made.columns.map((name) => el("th", {scope: "col"}, named(name))))), el("tbody", {}, cells))));
}

function sweeps(all) {
  if (!all.length) return null;
  return section("links", "Other links", ...all.map((made) => {
    const plain = made.points.filter((one) => one.value === ""), effects = [...new Set(made.points.filter((one) => one.value !== "").map((one) => one.effect))];
    const charts = effects.map((effect) => {
      const points = made.points.filter((one) => one.effect === effect), x = points.map((one) => +one.value);
      const line = (one, place) => ({label: one.effect, place, seeds: 1, x: 0, y: x.map(() => one.mean_return)});
      const lines = [{label: effect, place: 0, seeds: 1, x: 0, y: points.map((one) => one.mean_return), low: points.map((one) => one.low), high: points.map((one) => one.high)}, ...plain.map((one, n) => line(one, n + 1))];
      return x.every(Number.isFinite) ? chart({title: `return by ${effect}`, lines}, [x], 420, 1, lines.map((one) => one.label).join(", "), effect) : null;
    });
    return el("div", {}, el("h3", {}, named(made.name)), el("div", {class: "charts"}, charts), table(["link", "value", "return (95 % CI)"],
      made.points.map((one) => [named(one.effect), named(one.value), whole(`${figure(one.mean_return)} (${interval([one.low, one.high])})`)])),
      el("p", {class: "note"}, `Over ${figure(made.episodes)} episodes each, the same ones. A flat line near "silent" says that messages do not matter.`));
  }));
}

function settings(runs) {
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
  if (!keys.length) return null;
  const differs = (key) => new Set(runs.map((run) => run.settings[key] ?? "")).size > 1;
  const shown = runs.slice(0, 12);
  const fill = (only) => table(["setting", ...shown.map((run) => run.name)], keys.filter((key) => !only || differs(key)).map((key) =>
    [named(key), ...shown.map((run) => differs(key) ? el("mark", {}, named(run.settings[key] ?? "–")) : named(run.settings[key] ?? "–"))]));
  const box = el("div", {}, fill(runs.length > 1));
  const only = runs.length < 2 ? null : el("label", {}, el("input", {type: "checkbox", checked: true, change: (event) => box.replaceChildren(fill(event.target.checked))}), " differences only");
  const one = runs.length > 1 ? box : el("details", {}, el("summary", {}, `All ${keys.length} settings`), box);
  return section("settings", "Settings", only, one, shown.length < runs.length ? el("p", {class: "note"}, `Of the first ${shown.length} of ${runs.length} runs.`) : null,
    el("details", {}, el("summary", {}, "Versions, and how to make these runs again"), ...shown.map((run) => el("div", {}, el("h3", {}, named(run.name)),
      el("pre", {}, run.commands.join("\n")), el("p", {class: "note"}, Object.entries(run.versions).map(([name, value]) => `${name} ${value}`).join(" · "))))));
}

function troubles(content) {
  const items = content.missing.map((text) => el("li", {}, named(text)));
  for (const run of content.runs) {
    for (const text of [...run.warnings, ...run.missing]) items.push(el("li", {}, el("strong", {}, named(run.name)), ": ", named(text)));
  }
  for (const one of content.replays) for (const text of one.missing) items.push(el("li", {}, el("strong", {}, "replay of ", named(one.name)), ": ", named(text)));
  return items.length ? section("notes", "Notes, faults and what is missing", el("ul", {id: "missing"}, items)) : null;
}

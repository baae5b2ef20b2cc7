"use strict";
// The page: from what stands in it, or, beside a training that runs, from what the server says every second.

const WAIT = 1000; // milliseconds between two questions
const head = el("header", {}, el("h1"), el("p", {class: "note", id: "live", role: "status"}), el("nav", {"aria-label": "sections"}));
const main = el("main");
const curvesOf = new Curves(), replayOf = new Replay(), slots = new Map();

function render(content) {
  document.title = `${content.title} · marl`;
  head.querySelector("h1").replaceChildren(named(content.title));
  const parts = [
    ["troubles", [content.missing, content.runs.map((run) => [run.name, run.warnings, run.missing]), content.replays.map((one) => one.missing)], () => troubles(content)],
    ["summary", content.runs, () => content.runs.length ? summary(content.runs) : null],
    ["curves", content.curves, () => { curvesOf.update(content.curves); return content.runs.length ? curvesOf.node : null; }],
    ["evaluation", content.runs.map((run) => [run.evaluation, run.random]), () => evaluations(content.runs)],
    ["comparison", content.comparison, () => comparison(content.comparison)],
    ["tournaments", content.tournaments, () => content.tournaments.length ? section("tournaments", "Who beats whom", ...content.tournaments.map(tournament)) : null],
    ["league", content.runs.map((run) => run.league), () => leagues(content.runs)],
    ["sweeps", content.sweeps, () => sweeps(content.sweeps)],
    ["replay", content.replays, () => content.replays.length ? replayOf.node : null],
    ["costs", content.runs.map((run) => [run.spent, run.steps]), () => costs(content.runs)],
    ["settings", content.runs.map((run) => [run.settings, run.versions]), () => settings(content.runs)],
  ];
  const order = ["summary", "curves", "evaluation", "comparison", "tournaments", "league", "sweeps", "replay", "troubles", "costs", "settings"];
  let changed = false;
  for (const [name, data, make] of parts) {
    const said = JSON.stringify(data);
    if (slots.get(name)?.said === said) continue;
    slots.set(name, {said, node: make()});
    changed = true;
  }
  if (!changed) return;
  const nodes = order.map((name) => slots.get(name).node).filter((node) => node !== null);
  for (const [place, node] of nodes.entries()) {
    if (main.children[place] !== node) main.insertBefore(node, main.children[place] ?? null);
  }
  while (main.children.length > nodes.length) main.lastChild.remove();
  head.querySelector("nav").replaceChildren(...nodes.map((node) => el("a", {href: `#${node.id}`}, node.querySelector("h2").textContent)));
  document.getElementById("foot").textContent = `Made by marl ${content.version}. Nothing in this page comes from anywhere else.`;
  if (content.replays.length && slots.get("replay").shown !== content.replays.length + slots.get("replay").said.length) {
    slots.get("replay").shown = content.replays.length + slots.get("replay").said.length;
    replayOf.update(content.replays); // once it stands in the page and has a width
  }
}

async function watch() {
  const token = new URLSearchParams(location.search).get("token") ?? "", said = document.getElementById("live");
  let mark = "", seen = 0;
  for (;;) {
    try {
      const answer = await fetch("content", {headers: {Authorization: `Bearer ${token}`, "If-None-Match": mark}, cache: "no-store"});
      if (answer.status === 200) {
        mark = answer.headers.get("ETag") ?? "";
        render(await answer.json());
        seen = Date.now();
      } else if (answer.status !== 304) {
        throw new Error(`${answer.status}: ${(await answer.text()).slice(0, 200)}`);
      }
      said.textContent = seen ? `live · last news ${Math.round((Date.now() - seen) / 1000)} s ago` : "live";
    } catch (error) {
      said.textContent = `the server does not answer (${error.message}); what is shown is the last that it said`;
    }
    await new Promise((go) => setTimeout(go, WAIT));
  }
}

document.body.append(head, main, el("footer", {}, el("p", {class: "note", id: "foot"})));
const content = JSON.parse(document.getElementById("content").textContent);
if (content === null) watch(); else render(content);

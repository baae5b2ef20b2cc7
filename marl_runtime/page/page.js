"use strict";
// The page beside a bundle: its agents act on what is typed here, or on recorded episodes (?episodes=FILE.json).
(async () => {
  const at = (id) => document.getElementById(id), NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]*\.json$/;
  const explained = (action) => async (event) => {
    event?.preventDefault();
    at("error").hidden = true;
    try {
      await action();
    } catch (error) {
      at("error").textContent = error.message;
      at("error").hidden = false;
    }
  };
  const read = async (name) => {
    const answer = await fetch(name, {redirect: "error", credentials: "omit"});
    if (!answer.ok) throw new Error(`${name} cannot be read (${answer.status})`);
    return answer.json();
  };

  // Every agent plays its observations from the beginning of each episode; the actions are shown as JSON.
  function replayed(team, recorded) {
    const found = {};
    let count = 0;
    const began = performance.now();
    for (const [name, episodes] of Object.entries(recorded)) {
      found[name] = episodes.map((observations) => {
        team[name].reset();
        count += observations.length;
        return observations.map((observation) => team[name].act(observation));
      });
    }
    at("time").textContent = `${count} actions, ${((1000 * (performance.now() - began)) / count).toFixed(0)} µs each`;
    return found;
  }

  await explained(async () => {
    const team = await MarlBundle.load("."), chosen = () => team[at("agent").value];
    at("agent").append(...Object.keys(team).map((name) => new Option(name)));
    const shown = () => { at("observation").value = JSON.stringify(example(chosen().codec.said.observation_space)); };
    at("agent").addEventListener("change", shown);
    shown();
    at("form").addEventListener("submit", explained(() => {
      const mask = at("mask").value.trim(), observation = JSON.parse(at("observation").value);
      const how = {mask: mask ? JSON.parse(mask) : undefined, explore: at("explore").checked};
      at("action").textContent = JSON.stringify(chosen().act(observation, how));
    }));
    at("reset").addEventListener("click", explained(() => chosen().reset()));
    const recorded = new URLSearchParams(location.search).get("episodes");
    if (recorded === null) return;
    if (!NAME.test(recorded)) throw new Error("episodes: expected the name of a JSON file beside this page");
    at("episodes").textContent = JSON.stringify(replayed(team, await read(recorded)));
    at("episodes").hidden = false;
  })();

  // An observation of a space: zeros, and whatever else is smallest; everything is legal.
  function example(space, key) {
    const fill = key === "action_mask" ? 1 : 0;
    const zeros = ([count, ...rest]) => (count === undefined ? fill : Array.from({length: count}, () => zeros(rest)));
    const like = (start) => (Array.isArray(start) ? start.map(like) : start);
    switch (space.type) {
      case "Discrete": return space.start;
      case "MultiDiscrete": return like(space.start);
      case "MultiBinary": return zeros([space.n].flat());
      case "Tuple": return space.spaces.map((part) => example(part));
      case "Dict": return Object.fromEntries(space.spaces.map(([key, part]) => [key, example(part, key)]));
      default: return zeros(space.shape);
    }
  }
})();

"use strict";
// What the JavaScript runtime does in recorded steps: node play.js PAGE_FOLDER CASES.json, answers on stdout.
const {readFileSync} = require("node:fs"), path = require("node:path");
const [page, cases] = process.argv.slice(2), MarlBundle = require(path.join(page, "bundle.js"));

async function played({folder, agent: name, episodes}) {
  const team = await MarlBundle.load("", async (file) => new Uint8Array(readFileSync(path.join(folder, file))));
  const agent = team[name];
  return episodes.map((steps) => {
    agent.reset();
    return steps.map(({observation, mask, heard, answers}) => {
      const turn = agent.turn(observation, {mask: mask ?? undefined, heard}), said = [];
      let next = turn.next();
      while (!next.done) {
        said.push(next.value);
        next = turn.next(answers[said.length - 1] ?? null);
      }
      return {action: next.value, said, outputs: agent.outputs};
    });
  });
}
(async () => {
  const found = [];
  for (const one of JSON.parse(readFileSync(cases))) {
    found.push(await played(one).catch((error) => ({error: String(error.stack)})));
  }
  process.stdout.write(JSON.stringify(found));
})();

"""Frames a second of a replay of ten agents while its 1,000 steps are scrubbed through, by Chromium's own trace.

``python -m tests.benchmarks.scrub [ROUNDS]``: each round moves the slider a step in every frame of the browser's.
Frames are those that the trace says were drawn (``DrawFrame``); the best round counts where other programs are at work.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import marl
from marl.report import record
from marl.report.content import Source
from marl.report.html import page
from marl.report.replays import replay
from tests.support.browser import PATIENCE, browser

STEPS, AGENTS, PART = 1000, 10, 200
CATEGORIES = ["devtools.timeline", "disabled-by-default-devtools.timeline.frame"]
SCRUB = """new Promise((done) => {
  const slider = document.getElementById('scrubber'), began = performance.now();
  let step = BEGIN;
  const next = () => {
    slider.value = step;
    slider.dispatchEvent(new Event('input'));
    step += 1;
    if (step < BEGIN + PART) requestAnimationFrame(next); else done((performance.now() - began) / 1000);
  };
  requestAnimationFrame(next);
})"""
WORK = """(() => {
  const began = performance.now();
  for (let t = 0; t <= STEPS; t += 1) replayOf.go(t);
  return (performance.now() - began) / STEPS;
})()""".replace("STEPS", str(STEPS))


def written(folder: Path) -> Path:
    """A page with the replay."""
    system = marl.MultiAgentSystem(
        marl.mappo(channel=marl.CommNet(), rollout=8, minibatches=1),
        "marl/spread-v0", num_envs=1, seed=0, env_kwargs={"N": AGENTS, "max_cycles": STEPS},
    )  # fmt: skip
    made = record(system, 1, seed=0)
    content = Source([]).nothing("") | {"replays": [replay("scrub", made)], "missing": []}
    out = folder / "scrub.html"
    out.write_text(page(content, "scrub"))
    return out


def drawn(tab) -> int:
    """Frames of the trace that has just ended."""
    tab.call("Tracing.end")
    count = 0
    while True:
        event = json.loads(tab.socket.recv(timeout=PATIENCE))
        if event.get("method") == "Tracing.dataCollected":
            count += sum(one.get("name") == "DrawFrame" for one in event["params"]["value"])
        elif event.get("method") == "Tracing.tracingComplete":
            return count
        else:
            tab.hear(event)


def main(rounds: int) -> None:
    """Print frames a second of each round, and what a step takes of the program alone."""
    with tempfile.TemporaryDirectory() as folder:
        out = written(Path(folder))
        with browser(Path(folder) / "profile") as tabs:
            tab = tabs().open(f"file://{out}")
            assert tab.said == [], tab.said
            for number in range(rounds):
                tab.call("Tracing.start", traceConfig={"includedCategories": CATEGORIES})
                parts = range(0, STEPS, PART)  # an answer of the browser's is waited for a minute at most
                seconds = sum(tab.run(SCRUB.replace("BEGIN", str(at)).replace("PART", str(PART))) for at in parts)
                frames = drawn(tab)
                work = tab.run(WORK)
                print(
                    f"round {number}: {frames} frames in {seconds:.1f} s, {frames / seconds:.1f} a second; program "
                    f"{work:.2f} ms a step; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
            assert tab.said == [], tab.said


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)

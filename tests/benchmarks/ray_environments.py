"""What Ray's actors cost beside worker processes: mpe2 simple_spread, 64 copies each, random actions, whole steps.

``python -m tests.benchmarks.ray_environments [ROUNDS]`` (extras ``mpe,ray``). Both ways are timed in turns within each
round, so that a busy machine slows them alike. The medians over rounds count, and the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

import numpy as np

from marl.adapters import make
from marl.cluster import LOCAL, Actors, joined

COPIES = 64  # of each worker or actor
STEPS = 6  # of a warm-up
SECONDS = 4.0  # of each way in each round
GOAL = 0.85


def timed(env: Any, actions: list[Any], seconds: float) -> float:
    """Environment steps per second."""
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        env.step(actions[done % len(actions)])
        done += 1
    return done * env.num_envs / took


def measure(count: int, rounds: int) -> str:
    """One line about ``count`` workers and as many actors."""
    copies = COPIES * count
    chance = np.random.default_rng(0)
    actions = [[chance.integers(0, 5, (copies, 3))] for _ in range(16)]
    world = "mpe2.simple_spread_v3"
    ways = {
        f"workers={count}": make(world, copies, workers=count),
        f"actors={count}": make(world, copies, actors=Actors(count, LOCAL)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for env in ways.values():
            env.reset(0)
            for k in range(STEPS):
                env.step(actions[k])
        for k in range(rounds):
            for name in list(ways)[:: 1 if k % 2 == 0 else -1]:
                speeds[name].append(timed(ways[name], actions, SECONDS))
    finally:
        for env in ways.values():
            env.close()
    workers, actors = speeds.values()
    ratio = statistics.median(b / a for a, b in zip(workers, actors, strict=True))
    said = ", ".join(f"{name} {statistics.median(found):,.0f}" for name, found in speeds.items())
    return f"{copies} copies, environment steps per second: {said}; actors / workers {ratio:.2f} (goal {GOAL})"


def main() -> None:
    """Two, then four."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    print(f"{os.cpu_count()} cores, load before: {load}; {rounds} rounds of {SECONDS:g} s", flush=True)
    with joined(LOCAL, cpus=4):
        for count in (2, 4):
            print(measure(count, rounds), flush=True)


if __name__ == "__main__":
    main()

"""Learning curves of 64 settings, the table on which successive halving is tested: a row for each, 12 evaluations.

    python -m tests.benchmarks.halving_table tests/studies/data/curves.csv

Independent PPO on the compiled spread with settings drawn at random, 48,000 steps each, evaluated every 4,000 steps in
the same 64 episodes. The test reads the file; whoever wants another one makes it with this command.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np

import marl
from marl import parallel

SETTINGS, RUNGS, STEPS, EPISODES = 64, 12, 4_000, 64
FIELDS = ("lr", "epochs", "minibatches", "gae_lambda", "discount", "entropy", "units")


def drawn(random: np.random.Generator) -> dict[str, Any]:
    """One row's settings."""
    return {
        "lr": float(10 ** random.uniform(-5, -1.5)),
        "epochs": int(random.integers(1, 16)),
        "minibatches": int(random.choice([1, 2, 4])),
        "gae_lambda": float(random.uniform(0.7, 1.0)),
        "discount": float(random.uniform(0.8, 0.995)),
        "entropy": float(10 ** random.uniform(-4, -1)),
        "units": int(random.choice([16, 32, 64, 128])),
    }


def curve(settings: dict[str, Any], seed: int) -> list[float]:
    """Returns at the rungs."""
    chosen = dict(settings)
    units = chosen.pop("units")
    agents = marl.ippo(network=marl.MLP((units, units)), rollout=25, **chosen)
    with marl.MultiAgentSystem(agents, "marl/spread-v0", num_envs=16, seed=seed) as system:
        found = []
        for _ in range(RUNGS):
            system.train(steps=STEPS)
            found.append(system.evaluate(EPISODES, seed=1_000_000).mean_return)
    return found


def main(path: str) -> None:
    """Write the table."""
    parallel.set_threads(1)
    random = np.random.default_rng(0)
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*FIELDS, *(STEPS * (k + 1) for k in range(RUNGS))])
        for number in range(SETTINGS):
            settings = drawn(random)
            returns = curve(settings, number)
            writer.writerow([*(f"{settings[name]:.4g}" for name in FIELDS), *(f"{one:.3f}" for one in returns)])
            file.flush()
            print(number, f"{returns[-1]:.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

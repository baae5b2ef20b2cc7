"""Whether ``marl find-lr`` proposes a good rate: its suggestion beside nine rates from 1e-5 to 1e-1.

    python -m tests.benchmarks.find_lr --tasks spread cartpole foraging --seeds 0 1

Each rate stays constant. A suggestion's share is ``(result - random) / (best of the nine - random)``, each the mean of
the seeds, in greedy episodes from seeds that no training saw. The range test has the steps of one training.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from marl_scenarios import cartpole, pendulum, spread
from marl_scenarios.studies import cooperative

import marl
from marl import parallel
from marl.studies import rate_range

RATES = np.geomspace(1e-5, 1e-1, 9)
EPISODES = 200


@dataclass(frozen=True)
class Task:
    """Settings of a scenario, where and how long they train."""

    agents: Any
    env: str
    num_envs: int
    steps: int


TASKS = {
    "spread": Task(spread.scenario.agents, "marl/spread-v0", 128, 200_000),
    "cartpole": Task(cartpole.scenario.agents, "marl/cartpole-v0", 8, 30_000),
    "foraging": Task(cooperative.foraging.agents, "marl/foraging-v0", 128, 400_000),
    "speaker_listener": Task(cooperative.speaker_listener.agents, "marl/speaker_listener-v0", 128, 400_000),
    "pendulum": Task(pendulum.scenario.agents, "marl/pendulum-v0", 8, 100_000),
}


def system_of(task: Task, rate: float, seed: int) -> marl.MultiAgentSystem:
    """A new system with a constant rate."""
    kwargs = cooperative.foraging.env_kwargs if task.env == cooperative.foraging.env else {}
    shaping = cooperative.foraging.shaping if kwargs else ()
    agents = replace(task.agents, lr=rate)
    return marl.MultiAgentSystem(
        agents, task.env, env_kwargs=kwargs, shaping=shaping, num_envs=task.num_envs, seed=seed
    )


def result(task: Task, rate: float, seeds: Sequence[int]) -> float:
    """The mean over seeds of a whole training."""
    found = []
    for seed in seeds:
        with system_of(task, rate, seed) as system:
            system.train(steps=task.steps)
            found.append(system.evaluate(EPISODES).mean_return)
    return statistics.fmean(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each task."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.find_lr")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args(arguments)
    parallel.set_threads(1)
    for name in options.tasks:
        task = TASKS[name]
        with system_of(task, 1e-3, 100) as system:
            random = system.evaluate(EPISODES, greedy=False).mean_return  # a new policy draws all but uniformly
            suggestion = rate_range.find_lr(system, task.steps).suggestion
        grid = [result(task, float(rate), options.seeds) for rate in RATES]
        print(name, "random", f"{random:.2f}", " ".join(f"{r:.1g}: {v:.2f}" for r, v in zip(RATES, grid, strict=True)))
        if suggestion is None:
            print(name, "no suggestion", flush=True)
            continue
        reached = result(task, suggestion, options.seeds)
        share = (reached - random) / (max(grid) - random)
        print(name, f"suggestion {suggestion:.2g}: {reached:.2f}, share {share:.2f}", flush=True)


if __name__ == "__main__":
    main()

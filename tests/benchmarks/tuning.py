"""A learning rate 30 times off: what ``marl tune`` finds in 24 trials, and how many steps pruning saves.

    python -m tests.benchmarks.tuning --out searches/benchmark --jobs 2

CartPole by PPO for 30,000 steps. The mis-set scenario has a learning rate 30 times below the tuned one; the search
varies the rate over four powers of ten, the epochs and lambda. Its best trial is trained with five fresh seeds and
evaluated in fresh episodes, and so is the tuned scenario, with the same seeds and in the same episodes. Run again with
the same folder, it goes on. Steps without pruning need no search of their own: there every trial trains all its steps.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
from pathlib import Path

import marl
from marl.cli import main
from marl.logs.files import read_json

TUNED, OFF = 1e-3, 30
SEEDS, EPISODES = [1, 2, 3, 4, 5], 100


def scenario(name: str, lr: float) -> marl.Scenario:
    """CartPole with the settings of the shipped scenario, but for the rate that it begins with."""
    agents = marl.PPO(
        rollout=32,
        minibatches=1,
        epochs=20,
        lr=marl.Linear(lr, 0.0),
        clip=marl.Linear(0.2, 1e-3),
        discount=0.98,
        gae_lambda=0.8,
        normalize_values=False,
    )
    return marl.Scenario(name=name, env="marl/cartpole-v0", agents=agents, num_envs=8, steps=30_000)


tuned = scenario("cartpole_tuned", TUNED)
misset = scenario("cartpole_misset", TUNED / OFF)
search = marl.Search(
    {
        "learner.lr.start": marl.LogUniform(1e-5, 1e-1),
        "learner.epochs": marl.IntUniform(4, 20),
        "learner.gae_lambda": marl.Uniform(0.8, 0.98),
    },
    task=misset,
    trials=24,
    reduction=3,
    seeds=1,
    evaluate_episodes=20,
    final_seeds=len(SEEDS),
    episodes=EPISODES,
)
reference = marl.Study(
    name="tuned",
    tasks={"cartpole": tuned},
    seeds=SEEDS,
    evaluate_every=30_000 // 9,
    evaluate_episodes=20,
    evaluate_seed=2,
    episodes=EPISODES,
)


def run() -> int:
    """Search, train the tuned scenario, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("searches/benchmark"))
    parser.add_argument("--jobs", default="1")
    asked = parser.parse_args()
    here = str(Path(__file__).absolute())
    codes = [
        main(["tune", here, "--out", str(asked.out), "--jobs", asked.jobs]),
        main(["study", "run", here, "--out", str(asked.out / "tuned"), "--jobs", asked.jobs]),
    ]
    found = read_json(asked.out / "result.json")
    files = sorted((asked.out / "tuned" / "cells").rglob("summary.json"))
    returns = [read_json(file)["evaluation"]["mean_return"] for file in files]
    best = {entry["algorithm"]: entry["mean"]["value"] for entry in found["final"]["entries"]}
    goal = statistics.mean(returns)
    print(f"best of the search {best['tuned']:.1f}, mis-set {best['default']:.1f}, tuned scenario {goal:.1f}")
    print(f"{best['tuned'] / goal:.3f} of the tuned scenario's return; {found['share']:.3f} of the steps of no pruning")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} s of processor time in this call")
    return max(codes)


if __name__ == "__main__":
    sys.exit(run())

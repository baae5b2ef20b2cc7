"""A learning rate that is far too low: a population that copies and varies against the same members left alone.

    python -m tests.benchmarks.misset_population --out populations/misset --jobs 1

All members balance the pole by PPO and begin with a rate of 1e-5. In one arm some copy better ones and vary the rate,
in the other ``exploit=None``. Each member of either arm takes the same steps. The best member of each arm is chosen by
its evaluations, and told with its return in 100 other episodes. Run again with the same folder, trained populations are
read, not trained.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import marl
from marl.cli import main
from marl.logs.files import read_json
from marl.studies import Lineage, Perturb, Truncation

MEMBERS, STEPS, COMPARISONS = 4, 20_480, 10


def population(seed: int) -> marl.Population:
    """Members that copy and vary."""
    return marl.Population(
        name=f"misset_{seed}",
        task="marl/cartpole-v0",
        algorithm=marl.ippo(rollout=32),
        members=MEMBERS,
        steps=STEPS,
        every=STEPS // COMPARISONS,
        settings=["num_envs=8"],
        spaces={"learner.lr": marl.LogUniform(1e-6, 3e-2)},
        start={"learner.lr": 1e-5},
        exploit=Truncation(0.25),
        explore=Perturb((0.5, 2.0), resample=0.25),
        seed=MEMBERS * seed,  # members' seeds do not meet those of another population
        evaluate_episodes=5,
        episodes=100,
    )


copying_0, copying_1, copying_2 = with_copies = [population(seed) for seed in range(3)]
alone_0, alone_1, alone_2 = [replace(one, name=f"{one.name}_alone", exploit=None) for one in with_copies]


def best_return(arm: str, seed: int, out: Path, jobs: str) -> float:
    """Train a population; what its best member returns in fresh episodes."""
    folder, here = out / f"{arm}-{seed}", f"{Path(__file__).absolute()}:{arm}_{seed}"
    if code := main(["population", "run", here, "--out", str(folder), "--jobs", jobs, "--quiet"]):
        sys.exit(code)
    best = Lineage.read(folder).best
    assert best is not None
    name = read_json(folder / "population.json")["members"][best]["folder"]
    found: float = read_json(folder / "members" / name / "summary.json")["evaluation"]["mean_return"]
    return found


def run() -> None:
    """Train both arms with three seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("populations/misset"))
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--seeds", type=int, nargs="+", choices=range(3), default=[0, 1, 2])
    asked = parser.parse_args()
    found = [[best_return(arm, seed, asked.out, asked.jobs) for arm in ("copying", "alone")] for seed in asked.seeds]
    print(f"{MEMBERS} members of {STEPS:,} steps each, in both arms")
    print("| seed | with copies | without |\n|---|---|---|")
    for seed, (copying, alone) in zip(asked.seeds, found, strict=True):
        print(f"| {seed} | {copying:.0f} | {alone:.0f} |")
    copying, alone = (statistics.fmean(column) for column in zip(*found, strict=True))
    print(f"| mean | {copying:.0f} | {alone:.0f} |")


if __name__ == "__main__":
    run()

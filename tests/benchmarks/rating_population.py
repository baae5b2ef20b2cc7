"""Population-based training by ratings against plain self-play of noughts and crosses, in games between the two.

    python -m tests.benchmarks.rating_population --out populations/benchmark --jobs 1

Members and the plain agent begin with the same settings, a first guess. Every member takes as many environment steps as
the plain agent; that one then goes on until it has taken as many as all members together, and plays once more. A second
plain agent has the settings of the shipped scenario, which were found by hand, without its league. The population's
best is the member with the highest rating at the last comparison. Both sides of a match draw their moves
from their policies, and each pair plays half of its matches with sides swapped. Run again with the same folder, trained
populations are read, not trained.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from marl_scenarios import tictactoe

import marl
from marl.cli import main
from marl.logs.files import read_json
from marl.run import checkpoints
from marl.studies import Lineage, Perturb, Truncation
from marl.studies.tournament import tournament
from marl.studies.versus import versus

MEMBERS, STEPS, COMPARISONS = 4, 98_304, 12
MATCHES, RANDOM_GAMES, MATCH_SEED = 400, 500, 7
T_TWO_SEEDS_MORE = 4.302653  # the 97.5 % quantile of Student's t with 2 degrees of freedom: three seeds
START = {"learner.lr": 2.5e-4, "learner.entropy": 0.01}

scenario = marl.Scenario(
    name="noughts",
    env="classic/tictactoe-v3",
    agents=marl.ippo(
        sharing="all",
        agent_id=False,
        rollout=64,
        minibatches=4,
        epochs=6,
        lr=START["learner.lr"],
        entropy=START["learner.entropy"],
        discount=0.95,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=16,
    steps=STEPS,
)
by_hand = replace(tictactoe.scenario, league=None, steps=STEPS)
PLAIN = (f"first guess, {STEPS:,} steps", f"first guess, {STEPS * MEMBERS:,} steps", f"by hand, {STEPS:,} steps")


def population(seed: int) -> marl.Population:
    """Four members that begin with the scenario's own settings."""
    return marl.Population(
        name=f"noughts_{seed}",
        task=scenario,
        members=MEMBERS,
        every=STEPS // COMPARISONS,
        spaces={"learner.lr": marl.LogUniform(1e-4, 1e-2), "learner.entropy": marl.LogUniform(1e-3, 3e-1)},
        start=START,
        fitness="rating",
        exploit=Truncation(0.25),
        explore=Perturb((0.5, 2.0), resample=0.25),
        explore_all=False,
        seed=MEMBERS * seed,  # members' seeds do not meet those of another population
        evaluate_episodes=1,
        games=50,
        episodes=1,
    )


seed_0, seed_1, seed_2 = populations = [population(seed) for seed in range(3)]


@dataclass(frozen=True)
class Met:
    """How the population's best did against a plain agent: wins minus losses of all matches, with its interval."""

    payoff: float
    low: float
    high: float
    population_random: float
    plain_random: float


def best_of(folder: Path) -> Path:
    """The newest checkpoint of the member with the highest rating at the last comparison."""
    best = Lineage.read(folder).best
    assert best is not None
    members = read_json(folder / "population.json")["members"]
    return checkpoints(folder / "members" / members[best]["folder"])[0]


def share_against_random(system: marl.MultiAgentSystem) -> float:
    """The mean share of games won from both seats against a player that moves at random."""
    scores = versus(system, games=RANDOM_GAMES, greedy=False, seed=MATCH_SEED).values()
    return statistics.fmean(score.wins / score.games for score in scores)


def meet(evolved: marl.MultiAgentSystem, plain: marl.MultiAgentSystem) -> Met:
    """Let the two play."""
    found = tournament({"population": evolved, "plain": plain}, MATCHES // 2, seed=MATCH_SEED)
    low, high = found.intervals[0, 1].tolist()
    return Met(float(found.payoff[0, 1]), low, high, share_against_random(evolved), share_against_random(plain))


def measure(seed: int, out: Path, jobs: str) -> list[Met]:
    """Train a population and the plain agents of one seed, and let them meet, in the order of :data:`PLAIN`."""
    folder = out / f"seed-{seed}"
    here = f"{Path(__file__).absolute()}:seed_{seed}"
    if code := main(["population", "run", here, "--out", str(folder), "--jobs", jobs, "--quiet"]):
        sys.exit(code)
    first = populations[seed].seed
    with (
        marl.MultiAgentSystem.load(best_of(folder), env=scenario) as evolved,
        marl.MultiAgentSystem(None, scenario, seed=first) as plain,
        marl.MultiAgentSystem(None, by_hand, seed=first) as tuned,
    ):
        plain.train(steps=STEPS)
        met = [meet(evolved, plain)]
        plain.train(steps=STEPS * (MEMBERS - 1))
        met.append(meet(evolved, plain))
        tuned.train(steps=STEPS)
        return [*met, meet(evolved, tuned)]


def row(what: str, met: Met) -> str:
    """One line of the table."""
    interval = f"{met.payoff:+.3f} ({met.low:+.3f} to {met.high:+.3f})"
    return f"| {what} | {interval} | {met.population_random:.3f} | {met.plain_random:.3f} |"


def mean_over_seeds(met: Sequence[Met]) -> str:
    """The mean and its 95 % interval over three seeds."""
    payoffs = [one.payoff for one in met]
    half = T_TWO_SEEDS_MORE * statistics.stdev(payoffs) / math.sqrt(len(payoffs))
    middle = statistics.fmean(payoffs)
    return f"{middle:+.3f} ({middle - half:+.3f} to {middle + half:+.3f})"


def run() -> None:
    """Measure the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("populations/benchmark"))
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--seeds", type=int, nargs="+", choices=range(3), default=[0, 1, 2])
    asked = parser.parse_args()
    marl.parallel.set_threads(1)
    lines = []
    found = []
    for seed in asked.seeds:
        found.append(measure(seed, asked.out, asked.jobs))
        for plain, met in zip(PLAIN, found[-1], strict=True):
            lines.append(row(f"{seed} | {plain}", met))
            print(lines[-1], flush=True)
    print(f"\n{MEMBERS} members of {STEPS:,} steps each; {MATCHES} matches of each pair, half with sides swapped")
    print("| seed | plain self-play | wins minus losses (95 % CI over games) | population, random | plain |")
    print("\n".join(["|---|---|---|---|---|", *lines]))
    if len(found) == len(populations):
        for plain, met in zip(PLAIN, zip(*found, strict=True), strict=True):
            print(f"{plain}: {mean_over_seeds(met)}, 95 % CI over seeds (t)")


if __name__ == "__main__":
    run()

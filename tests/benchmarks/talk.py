"""What is learnt without a channel in worlds of talk: the tables of ``docs/benchmarks.md``.

    python -m tests.benchmarks.talk lewis --runs 100
    python -m tests.benchmarks.talk lever --seeds 0 1 2

lewis: the share of runs that end with a perfect protocol after 10,000 games, by independent A2C with sampled actions
while it learns, judged by greedy play. The runs are pairs of one `marl_envs.Lewis` whose agents share nothing.
lever: the mean reward of agents that cannot talk and do not know their seat: they share a policy of their identity.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from math import comb

from marl_envs import Lever, Lewis

import marl
from marl import parallel

GAMES = 10_000
TABLE = ((2, 2), (3, 3), (4, 4), (8, 8), (2, 4), (3, 6), (4, 8), (8, 16))  # states, signals
JUDGED = 400  # games of each pair: a state is left out of all of them with a probability below 1e-21


def lewis(states: int, signals: int, runs: int, seed: int, games: int = GAMES) -> float:
    """The share of perfect protocols."""
    learner = marl.ia2c(
        sharing="none",
        rollout=2,
        lr=marl.Linear(3e-2, 3e-3),
        entropy=marl.Linear(0.15 + 0.4 / states, 0.0),  # cooled from where nobody says anything: more states, colder
        discount=1.0,
        network=marl.MLP((64,)),
    )
    with marl.MultiAgentSystem(learner, Lewis(states, signals, pairs=runs), num_envs=20, seed=seed) as system:
        system.train(steps=2 * games)
        returns = system.evaluate(JUDGED).returns_per_agent
    return sum(returns[f"sender_{k}"] == 1.0 for k in range(runs)) / runs


def lever(seed: int, games: int) -> tuple[float, float]:
    """The mean reward of 10,000 games after learning, by greedy play and by the policies as they are."""
    learner = marl.ia2c(rollout=1, lr=1e-3, discount=1.0, entropy=0.01, network=marl.MLP((128,)), agent_id=False)
    with marl.MultiAgentSystem(learner, Lever(), num_envs=64, seed=seed) as system:
        system.train(steps=games)
        best, sampled = (system.evaluate(10_000, greedy=greedy, num_envs=64) for greedy in (True, False))
    return best.mean_return / 5, sampled.mean_return / 5  # of five agents


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per row."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.talk", description=(__doc__ or "").split(":")[0])
    parser.add_argument("world", choices=["lewis", "lever"])
    parser.add_argument("--runs", type=int, default=100, help="pairs of each row of lewis (default: 100)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--games", type=int, help="of each run (default: 10,000 of lewis, 320,000 of lever)")
    options = parser.parse_args(arguments)
    parallel.set_threads(1)
    if options.world == "lever":
        print(f"random {1 - (4 / 5) ** 5:.5f}, best without talk {1 - comb(400, 5) / comb(500, 5):.5f}")
        for seed in options.seeds:
            began = time.perf_counter()
            greedy, sampled = lever(seed, options.games or 320_000)
            print(
                f"seed {seed}  greedy {greedy:.4f}  sampled {sampled:.4f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )
        return
    for states, signals in TABLE:
        began = time.perf_counter()
        shares = [lewis(states, signals, options.runs, seed, options.games or GAMES) for seed in options.seeds]
        perfect = 100 * sum(shares) / len(shares)
        runs = options.runs * len(options.seeds)
        print(
            f"{states} states, {signals} signals: {perfect:.1f} % of {runs} runs, {time.perf_counter() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()

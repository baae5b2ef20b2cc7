"""Games with known answers: how often each method's greedy team finds the best joint action.

    python -m tests.benchmarks.games --seeds 0 1 2 3 4

prints the table of ``docs/off-policy.md``. ``tests/test_games.py`` holds the same methods to what theory says.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import marl


@dataclass(frozen=True)
class Game:
    """A world, how long to learn in it, and what the best team earns."""

    best: float
    env: str = "marl/matrix_game-v0"
    steps: int = 6_000
    kwargs: dict[str, Any] = field(default_factory=dict)


GAMES = {
    "two_step": Game(8, "marl/two_step-v0", 8_000),  # Rashid et al. 2018
    "climbing": Game(11, kwargs={"payoff": ((11, -30, 0), (-30, 7, 0), (0, 6, 5))}),  # Claus and Boutilier 1998
    "penalty": Game(10, kwargs={"payoff": ((-100, 0, 10), (0, 2, 0), (10, 0, -100))}),  # the same, k = -100
    "qtran": Game(8, kwargs={"payoff": ((8, -12, -12), (-12, 0, 0), (-12, 0, 0))}),  # Son et al. 2019
}

SETTINGS: dict[str, Any] = {
    "lr": 2e-3,
    "batch": 64,
    "learning_starts": 200,
    "updates_per_step": 0.25,
    "tau": 0.02,
    "buffer": 5_000,
}
UNIFORM = marl.exploration.Uniform()
FALLING = marl.exploration.EpsilonGreedy(marl.Linear(1, 0.05, 4_000))

# On uniform data a method shows what it can represent. Optimists need the greedy partner: they explore by epsilon.
METHODS: dict[str, marl.DQN] = {
    "iql": marl.iql(exploration=UNIFORM, **SETTINGS),
    "iql, epsilon": marl.iql(exploration=FALLING, **SETTINGS),
    "hysteretic": marl.iql(exploration=FALLING, hysteresis=0.01, **SETTINGS),
    "lenient": marl.iql(exploration=FALLING, leniency=marl.Linear(0.99, 0.9, 4_000), **SETTINGS),
    "vdn": marl.vdn(exploration=UNIFORM, **SETTINGS),
    "qmix": marl.qmix(exploration=UNIFORM, **SETTINGS),
    "qplex": marl.qplex(exploration=UNIFORM, **SETTINGS),
    "wqmix": marl.wqmix(exploration=UNIFORM, credit=marl.WeightedQMix(weighting="central", alpha=0.1), **SETTINGS),
}


def payoff(method: str, game: Game, seed: int) -> tuple[float, marl.MultiAgentSystem]:
    """What the greedy team earns after learning, each agent, and the system that learnt."""
    with marl.MultiAgentSystem(METHODS[method], game.env, num_envs=8, seed=seed, env_kwargs=game.kwargs) as system:
        system.train(steps=game.steps)
        return system.evaluate(episodes=2).returns_per_agent["agent_0"], system


def main(arguments: Sequence[str] | None = None) -> dict[tuple[str, str], list[float]]:
    """Print one row a method, one column a game: the share of seeds that find the best, and what all of them earn."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.games", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES))
    options = parser.parse_args(arguments)
    found: dict[tuple[str, str], list[float]] = {}
    print("| method | " + " | ".join(f"{name} (best {GAMES[name].best:g})" for name in options.games) + " |")
    print("|---" * (1 + len(options.games)) + "|")
    for method in options.methods:
        cells = []
        for name in options.games:
            earned = [payoff(method, GAMES[name], seed)[0] for seed in options.seeds]
            share = sum(value == GAMES[name].best for value in earned) / len(earned)
            cells.append(f"{share:.0%}: " + " ".join(f"{value:g}" for value in earned))
            found[method, name] = earned
        print(f"| {method} | " + " | ".join(cells) + " |", flush=True)
    return found


if __name__ == "__main__":
    main()

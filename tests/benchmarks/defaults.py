"""What every recipe reaches with its defaults: nothing is said but an environment and a number of steps.

    python -m tests.benchmarks.defaults --tasks cartpole spread --recipes ppo mappo --seeds 0 1 2 --json defaults.json

Each cell trains ``marl.MultiAgentSystem(RECIPE(), ENV)``, as ``marl train ENV --algorithm RECIPE`` does, and then plays
100 greedy episodes from seeds that training never saw. A cell's share is ``(result - random) / (tuned - random)``;
tuned results are those of ``docs/benchmarks.md``. Cells that stand in the JSON file are not trained again, so a run
that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import marl
from marl import parallel
from marl.recipes import PLAIN, recipe_named, recipes
from marl.studies.versus import versus

EPISODES, GAMES = 100, 500  # of a measurement; games are from each seat
OFF_POLICY = (marl.DQN, marl.DDPG, marl.TD3, marl.SAC)
BOX = ("ppo", "a2c", "ddpg", "td3", "sac")
TEAM = tuple(recipes())
RIVALS = ("ippo", "ia2c", "iql", "iddpg", "itd3", "isac")  # whoever shares a team's reward shares nothing here


@dataclass(frozen=True)
class Task:
    """An environment, and what tuned settings reach in it.

    tuned: the mean over seeds of a row of docs/benchmarks.md, by whom says which.
    steps: of on-policy and of off-policy recipes.
    measured: where it is measured, if not where it trains.
    games: whether it is measured by games against a random player: the mean share of wins of the seats.
    """

    env: str
    recipes: tuple[str, ...]
    steps: tuple[int, int]
    tuned: float
    by: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    measured: Callable[[], Any] | None = None
    games: bool = False

    def steps_of(self, recipe: str) -> int:
        """How long a recipe trains."""
        return self.steps[isinstance(recipe_named(recipe, "recipe")(), OFF_POLICY)]


def spread(agents: int) -> Any:
    """The task as mpe2 has it."""
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env(N=agents)


TASKS = {
    "cartpole": Task("CartPole-v1", tuple(PLAIN), (50_000, 50_000), 500.0, "cartpole"),
    "acrobot": Task("Acrobot-v1", tuple(PLAIN), (100_000, 100_000), -81.0, "acrobot_dqn"),
    "pendulum": Task("Pendulum-v1", BOX, (200_000, 20_000), -139.2, "pendulum_sac"),
    "mountain_car_continuous": Task(
        "MountainCarContinuous-v0", BOX, (100_000, 32_000), 94.1, "mountain_car_continuous_sac"
    ),
    "spread": Task("marl/spread-v0", TEAM, (300_000, 300_000), -26.6, "spread_qmix", measured=lambda: spread(3)),
    "spread_five": Task(
        "marl/spread-v0",
        TEAM,
        (300_000, 300_000),
        -76.0,
        "spread_growing, seed 20 with five agents",
        env_kwargs={"N": 5},
        measured=lambda: spread(5),
    ),
    "tictactoe": Task("classic/tictactoe-v3", RIVALS, (200_000, 100_000), 0.947, "tictactoe", games=True),
}


@dataclass(frozen=True)
class Cell:
    """One training. ``recipe`` "random" is none: uniform play."""

    task: str
    recipe: str
    seed: int
    steps: int


def measure(cell: Cell) -> dict[str, Any]:
    """Train a cell and say what it reached."""
    parallel.set_threads(1)
    task = TASKS[cell.task]
    agents = marl.Random() if cell.recipe == "random" else recipe_named(cell.recipe, "recipe")()
    began = time.perf_counter()
    with marl.MultiAgentSystem(agents, task.env, env_kwargs=task.env_kwargs, seed=cell.seed) as system:
        notes = system.train(steps=cell.steps).notes if cell.steps else []
        seconds = time.perf_counter() - began
        if task.games:
            scores = versus(system, games=GAMES).values()
            result = statistics.fmean(score.wins / score.games for score in scores)
        else:
            result = system.evaluate(EPISODES, env=task.measured, greedy=cell.recipe != "random").mean_return
    return {**vars(cell), "result": round(result, 3), "seconds": round(seconds, 1), "notes": notes}


def cells(tasks: Sequence[str], chosen: Sequence[str], seeds: Sequence[int], steps: int | None) -> Iterator[Cell]:
    """What is to be trained; random play once for each task."""
    for name in tasks:
        yield Cell(name, "random", 0, 0)
        for recipe in TASKS[name].recipes:
            if not chosen or recipe in chosen:
                for seed in seeds:
                    yield Cell(name, recipe, seed, steps or TASKS[name].steps_of(recipe))


def share(task: str, result: float, rows: Sequence[Mapping[str, Any]]) -> float:
    """How much of the way from random play to the tuned result that is."""
    chance = next(row["result"] for row in rows if row["task"] == task and row["recipe"] == "random")
    return float((result - chance) / (TASKS[task].tuned - chance))


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of tables in Markdown: recipes by tasks, first those of one agent; shares, and the results of all seeds."""
    lengths: dict[str, dict[int, None]] = {}
    for row in rows:
        if row["recipe"] != "random":
            lengths.setdefault(row["task"], {})[row["steps"]] = None
    lines = []
    for names in (tuple(PLAIN), TEAM):
        tasks = [task for task in lengths if {*TASKS[task].recipes} <= {*names}]
        if not tasks:
            continue
        lines += ["", f"| recipe | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
        lines += [f"| `{name}` | {' | '.join(_cell(rows, task, name) for task in tasks)} |" for name in names]
        for task in tasks:
            steps = " or ".join(f"{count:,}" for count in lengths[task])
            chance = next(row["result"] for row in rows if row["task"] == task and row["recipe"] == "random")
            tuned = f"tuned {TASKS[task].tuned:.4g} ({TASKS[task].by})"
            lines += ["", f"`{task}`: {steps} steps; random {chance:.4g}, {tuned}"]
    return lines


def _cell(rows: Sequence[Mapping[str, Any]], task: str, recipe: str) -> str:
    """The share, and each seed's result."""
    if recipe not in TASKS[task].recipes:
        return "-"
    mine = sorted((row for row in rows if (row["task"], row["recipe"]) == (task, recipe)), key=lambda row: row["seed"])
    if not mine:
        return "not measured"
    results = [float(row["result"]) for row in mine]
    return f"{share(task, statistics.fmean(results), rows):.2f} ({', '.join(f'{one:.4g}' for one in results)})"


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure what is missing, print the table; returns all rows."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.defaults", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--recipes", nargs="+", choices=[*PLAIN, *TEAM], default=[], help="default: all that fit")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="environment steps of each training (default: the task's)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, one thread each (default: 1)")
    parser.add_argument("--json", type=Path, required=True, help="where the rows are kept")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = json.loads(options.json.read_text()) if options.json.exists() else []
    done = {tuple(row[name] for name in Cell.__dataclass_fields__) for row in rows}
    wanted = cells(options.tasks, options.recipes, options.seeds, options.steps)
    missing = [cell for cell in wanted if tuple(vars(cell).values()) not in done]
    for row in _measured(missing, options.jobs):
        rows.append(row)
        options.json.write_text(json.dumps(rows, indent=1))
        print("  ".join(f"{value}" for name, value in row.items() if name != "notes"), *row["notes"], flush=True)
    print("\n".join(table(rows)))
    return rows


def _measured(missing: Sequence[Cell], jobs: int) -> Iterator[dict[str, Any]]:
    """Rows as they come."""
    if jobs == 1:
        yield from map(measure, missing)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(measure, missing)


if __name__ == "__main__":
    main()

"""``marl race`` and ``marl find-optimizer``: learners, or optimizers, side by side, and the best kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

if TYPE_CHECKING:
    from marl.cli.asked import Asked
    from marl.cli.racing import Place
    from marl.cli.racing import Race as Racing
from marl.cli.options import NUMBER, RAY_CLUSTER
from marl.cli.output import note, print_json, quiet
from marl.cli.status import UsageError

RESULT, BEST, ASKED = "result.json", "best.py", "race.json"
OWN = "own"
OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")
FACTORS = (1 / 3, 1.0, 3.0)  # rates of each optimizer, of the scenario's own
STANDARD = {"SGD": 100.0}  # how much larger its rates are than Adam's


@dataclass(frozen=True)
class _Options:
    """What both commands take."""

    scenario: Annotated[Positional[str], arg(metavar="WHAT")]
    """What is trained, as marl train takes it."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a setting of all, as marl train does. Repeatable."""
    seeds: Annotated[int, NUMBER] = 2
    """Seeds of each, from 0 on."""
    steps: Annotated[int | None, NUMBER] = None
    """Environment steps of the one that is left; the scenario's unless given."""
    reduction: Annotated[int, NUMBER] = 2
    """After each round the best of so many goes on, and the next round is so many times as far."""
    evaluate_episodes: Annotated[int, NUMBER] = 20
    """Episodes of the evaluation at the end of a round."""
    episodes: Annotated[int, NUMBER] = 100
    """Episodes of the evaluation of the best at the end, other ones."""
    jobs: Annotated[int | None, NUMBER] = None
    """Processes that train side by side; as many as there are cores unless given."""
    ray: Annotated[str | None, RAY_CLUSTER] = None
    """Train on a Ray cluster, and not on this machine alone; auto: the one that runs here, or one for this command."""
    retries: Annotated[int, NUMBER] = 1
    """How often a run that crashed or was killed is tried again, from its newest checkpoint."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""


@dataclass(frozen=True)
class Race(_Options):
    """Train several algorithms side by side, a little at first; the better ones go on, and the best is kept."""

    algorithms: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME [NAME ...]")] = ()
    """Recipes (marl list), or own for the scenario's learners; all that the scenario has settings for unless given."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """The race's folder; races/WHAT unless given. Run again with the same one, it goes on."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return race(self)


@dataclass(frozen=True)
class FindOptimizer(_Options):
    """Train with several optimizers and rates side by side; the better ones go on, and the best is kept."""

    algorithm: Annotated[str | None, arg(metavar="NAME")] = None
    """By another algorithm than the scenario's own."""
    optimizers: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME [NAME ...]")] = ()
    """Optimizers of marl.optim, with settings as in 'RMSprop(alpha=0.95)'; Adam AdamW RMSprop SGD unless given."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """The folder; races/WHAT-optimizer unless given. Run again with the same one, it goes on."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return find_optimizer(self)


def race(asked: Race) -> int:
    """``marl race``."""
    from marl.cli.task import file_name
    from marl.recipes import names_of
    from marl.scenario import resolve_scenario

    names = list(dict.fromkeys(asked.algorithms))
    if not names:
        with quiet():
            scenario = resolve_scenario(asked.scenario)
        own = [] if scenario is None else [names_of(scenario.agents), *scenario.algorithms]
        if len(own) < 2:
            raise UsageError(f"marl race: --algorithms is missing: {asked.scenario} has no settings for several")
        names = [OWN, *own[1:]]
    entrants = {name: _asked(asked, None if name == OWN else name, ()) for name in names}
    return _run(asked, entrants, Path("races") / file_name(asked.scenario) if asked.out is None else asked.out)


def find_optimizer(asked: FindOptimizer) -> int:
    """``marl find-optimizer``."""
    from marl.cli.plan import make_plan
    from marl.cli.task import file_name

    with quiet():
        plan = make_plan(_asked(asked, asked.algorithm, ()), None)
    rate = _rate_of(plan.scenario.agents)
    entrants = {}
    for name in dict.fromkeys(asked.optimizers or OPTIMIZERS):
        words = name if "(" in name else f"{name}()"
        for factor in FACTORS:
            lr = float(f"{rate * factor * STANDARD.get(name.partition('(')[0], 1.0):.2g}")
            settings = (f"learner.optimizer={words}", f"learner.lr={lr!r}")
            entrants[f"{name} lr={lr:g}"] = _asked(asked, asked.algorithm, settings)
    default = Path("races") / f"{file_name(asked.scenario)}-optimizer"
    return _run(asked, entrants, default if asked.out is None else asked.out)


def _rate_of(agents: Any) -> float:
    """The learning rate at the start of the first learner that has one. Raises ConfigError if none has."""
    from marl.schedules import Clock, value_at
    from marl.types import ConfigError

    for learner in agents.values() if isinstance(agents, Mapping) else [agents]:
        lr = getattr(learner, "lr", None)
        if lr is not None:
            return float(value_at(lr, Clock(0, 1)))
    raise ConfigError("find-optimizer: no learner has a learning rate, so there is nothing to optimize")


def _asked(asked: _Options, algorithm: str | None, settings: tuple[str, ...]) -> Asked:
    from marl.cli.asked import Asked

    return Asked(
        scenario=asked.scenario,
        algorithm=algorithm,
        steps=asked.steps,
        seed=0,
        threads=1,
        set=(*asked.set, *settings),
        evaluate_episodes=asked.evaluate_episodes,
        evaluate_seed=0,
        evaluate=False,
        keep=1,
    )


def _run(asked: _Options, entrants: Mapping[str, Asked], out: Path) -> int:
    """Race, and tell who won."""
    from marl.cli.cell_actor import cell_workers
    from marl.cli.cells import hash_of, planned
    from marl.cli.plan import make_plan
    from marl.cli.racing import Race as Racing
    from marl.cli.study import locked
    from marl.cli.tune import tuned_file, write_json, write_text
    from marl.config import check_whole
    from marl.sources import split
    from marl.studies.halving import rungs, survivors

    for name, least in (("seeds", 1), ("reduction", 2), ("evaluate_episodes", 1), ("episodes", 1), ("retries", 0)):
        check_whole(f"--{name.replace('_', '-')}", getattr(asked, name), least)
    if asked.jobs is not None:
        check_whole("--jobs", asked.jobs, 1)
    out = out.absolute()
    with quiet():
        first = make_plan(next(iter(entrants.values())), None)
        steps = asked.steps or first.steps  # the same for all, whatever their own
        counts = survivors(len(entrants), asked.reduction)
        ends = rungs(steps, len(entrants), asked.reduction)
        commands = {
            name: planned(dataclasses.replace(one, steps=steps, evaluate_every=ends[0]), 1)
            for name, one in entrants.items()
        }
    file = split(asked.scenario)
    with cell_workers(asked.ray, asked.jobs, 1, "cpu") as workers, locked(out, "race"):
        running = Racing(commands, asked.seeds, ends, counts, out, (lambda text: None) if asked.quiet else note)
        try:
            files = {} if file is None else {file[0]: hash_of(file[0])}
            places = running.run(workers.jobs, asked.retries, files, workers.of(out))
        except KeyboardInterrupt:
            note(f"what was trained is saved; run the same command again with --out {out}")
            raise
        best = places[0]
        command = commands[best.name][0]
        plan = make_plan(dataclasses.replace(command, set=()), None)
        about = (
            f"{best.name}, the best of {len(places)} in a race: {best.value:.2f} in the mean of {asked.seeds} seeds."
        )
        write_text(out / BEST, tuned_file(plan, command, command.set, about))
        fresh = _evaluated(running, best, asked.episodes)
        used = sum(one.steps for one in places) * asked.seeds
        said: dict[str, Any] = {
            "folder": str(out),
            "places": [one.to_dict() for one in places],
            "best": {"name": best.name, "value": best.value, "fresh_episodes": fresh, "file": str(out / BEST)},
            "runs": [str(cell.folder) for cell in running.cells(best.name)],
            "steps": used,
            "share": used / (steps * len(places) * asked.seeds),
        }
        write_json(out / RESULT, said)
    if asked.json:
        print_json(said)
        return 0
    for one in places:
        why = f"  {one.why}" if one.why else ""
        print(f"  {one.name:<28} {one.value:9.2f} at {one.steps:,} steps{why}")
    print(f"{used:,} steps, {said['share']:.0%} of those of training all to the end")
    print(
        f"best: {best.name}; in {asked.episodes} other episodes {fresh:.2f} (by the same {asked.seeds} trained seeds)"
    )
    print(f"runs: {', '.join(said['runs'])}")
    print(f"scenario: {out / BEST}; next: marl train {out / BEST}")
    return 0


def _evaluated(race: Racing, best: Place, episodes: int) -> float:
    """The mean return of the best one's runs in episodes that decided nothing."""
    from marl.cli.runs import open_run

    values = []
    for cell in race.cells(best.name):
        _, system = open_run(cell.folder, "last", "cpu", True, cell.asked.scenario)
        with quiet(), system:
            values.append(system.evaluate(episodes, seed=1).mean_return)
    return sum(values) / len(values)

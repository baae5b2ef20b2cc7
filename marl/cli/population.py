"""``marl population run`` and ``marl population status``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from marl.cli.generations import Generations, Turn
    from marl.studies.lineage import Lineage
    from marl.studies.population import FoundPopulation
from marl.cli.options import NUMBER, RAY_CLUSTER
from marl.cli.output import note, print_json, quiet
from marl.cli.status import UsageError, config_error, need

NOT_ALL_FINISHED = 7
POPULATION_OR_FOLDER = arg(metavar="POPULATION")


@dataclass(frozen=True)
class PopulationRun:
    """Train the members of a population side by side; at every comparison some copy better ones and vary settings."""

    population: Annotated[Positional[str], POPULATION_OR_FOLDER]
    """A file with one marl.Population, or FILE.py:NAME."""
    jobs: Annotated[int | None, NUMBER] = None
    """Processes that train members side by side; as many as there are cores for their threads unless given."""
    ray: Annotated[str | None, RAY_CLUSTER] = None
    """Train on a Ray cluster, and not on this machine alone; auto: the one that runs here, or one for this command."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """The population's folder; populations/NAME unless given. Run again with the same one, it goes on."""
    retries: Annotated[int, NUMBER] = 1
    """How often a member that crashed or was killed is tried again, from its newest checkpoint."""
    stacked: bool = False
    """Train members of PPO on discrete actions as one, in this process. Results do not depend on it."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return run_population(self)


@dataclass(frozen=True)
class PopulationStatus:
    """How the members of a population compared last, and who descends from whom."""

    population: Annotated[Positional[str], POPULATION_OR_FOLDER]
    """The population's folder; or its file, then the folder is populations/NAME, or --out."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """The population's folder, where its file is named."""
    plot: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw fitness, settings and who copied whom."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return status_of_population(self)


def run_population(asked: PopulationRun) -> int:
    """``marl population run``."""
    from marl import parallel
    from marl.cli.cell_actor import cell_workers
    from marl.cli.cells import sources_of
    from marl.cli.generations import POPULATION, POPULATION_LOCK, Generations
    from marl.cli.schedule import Failures, Schedule
    from marl.cli.stacked import StackedTurns
    from marl.config import check_whole
    from marl.run.lock import Lock
    from marl.studies.population import find

    if asked.jobs is not None:
        check_whole("--jobs", asked.jobs, 1)
    check_whole("--retries", asked.retries, 0)
    with quiet():
        found = find(asked.population)
    population = found.population
    out = folder_of(found, asked.out)
    parallel.set_threads(population.threads)  # copies are made here, and are those of a process with as many
    with quiet():
        generations = Generations(found, out, (lambda text: None) if asked.quiet else note)
        if not (out / POPULATION).exists():
            generations.check_settings()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = Lock(out / POPULATION_LOCK, note, "population", "--out")
    except OSError as error:
        raise config_error(f"--out {out}: cannot be written ({error.strerror or error})") from None
    began = time.monotonic()
    stacked = StackedTurns(out, Failures(), note) if asked.stacked else None
    try:
        with quiet():
            generations.begin()
        files = sources_of(found.study)
        with cell_workers(asked.ray, asked.jobs, population.threads, population.device) as workers:
            jobs, start = min(workers.jobs, population.members), workers.of(out)
            schedule: Schedule[Turn] = Schedule([], out, jobs, asked.retries, files, Failures(), start=start)
            with schedule:
                try:
                    whole = generations.train(schedule, stacked)
                except KeyboardInterrupt:
                    place = "" if asked.out is None else f" --out {out}"
                    place += "" if asked.ray is None else f" --ray {asked.ray}"
                    place += " --stacked" if asked.stacked else ""
                    kept = "what was saved last is there" if asked.stacked else "what was trained is saved"
                    note(f"{kept}; to go on: marl population run {asked.population}{place}")
                    raise
    finally:
        lock.release()
    said = _told(generations, whole) | {"seconds": round(time.monotonic() - began, 3), "failed": schedule.errors}
    if asked.json:
        print_json(said)
    else:
        _print(generations, said)
    return 0 if whole else NOT_ALL_FINISHED


def _told(generations: Generations, whole: bool) -> dict[str, Any]:
    """How it stands, as JSON."""
    lineage = generations.lineage
    return {
        "population": generations.population.name,
        "folder": str(generations.out),
        "finished": whole,
        "comparisons": lineage.generations,
        "best": None if lineage.best is None else generations.turns[lineage.best].name,
        "members": _members(lineage, [turn.name for turn in generations.turns], generations.out),
    }


def _members(lineage: Lineage, names: list[str], out: Path) -> list[dict[str, Any]]:
    """Every member at the last comparison, with its evaluation at the end."""
    from marl.cli.generations import MEMBERS
    from marl.logs.files import read_json
    from marl.run import SUMMARY

    found = []
    for one in lineage.latest:
        summary = out / MEMBERS / names[one.member] / SUMMARY
        evaluation = read_json(summary).get("evaluation") if summary.exists() else None
        mean = evaluation.get("mean_return") if isinstance(evaluation, Mapping) else None
        found.append(
            {
                "folder": str(summary.parent),
                "fitness": one.fitness,
                "settings": one.to_json()["settings"],
                "ancestors": lineage.ancestors(one.member),
                "final_return": mean,
            }
        )
    return found


def _print(generations: Generations, said: Mapping[str, Any]) -> None:
    """The members, the best one, and how to see more."""
    lineage, population = generations.lineage, generations.population
    if not lineage.generations:
        print("no member was compared yet")
        return
    print(lineage)
    best = lineage.best
    if best is not None and said["finished"]:
        chosen, member = lineage.latest[best], said["members"][best]
        by = "return" if population.fitness == "return" else "Elo of games between members"
        print(f"best: {member['folder']}, {by} {chosen.fitness:.4g}, by which it was chosen")
        if population.fitness == "return" and member["final_return"] is not None:
            print(f"  in {population.episodes} episodes that nobody was chosen by: {member['final_return']:.4g}")
    print(f"next: marl population status {generations.out} --plot lineage.png")


def folder_of(found: FoundPopulation, out: Path | None) -> Path:
    """Where a population is."""
    from marl.logs.files import safe_name

    return (Path("populations") / safe_name(found.population.name) if out is None else out).absolute()


def status_of_population(asked: PopulationStatus) -> int:
    """``marl population status``."""
    from marl.cli.generations import POPULATION, POPULATION_LOCK
    from marl.logs.files import read_json, replace_file
    from marl.run.lock import writer_of
    from marl.studies.lineage import Lineage
    from marl.studies.population import find

    if asked.plot is not None:
        need("matplotlib", "plot")
    if asked.population.endswith(".py") or ".py:" in asked.population or not Path(asked.population).is_dir():
        with quiet():
            path = folder_of(find(asked.population), asked.out)
    elif asked.out is not None:
        raise UsageError("--out goes with a population's file; the folder is named already")
    else:
        path = Path(asked.population).absolute()
    if not (path / POPULATION).exists():
        raise config_error(f"{path}: there is no {POPULATION} in it; expected what marl population run FILE wrote")
    said, lineage = read_json(path / POPULATION), Lineage.read(path)
    members, asked_for = said.get("members"), said.get("population")
    if not isinstance(members, list) or not isinstance(asked_for, dict) or len(members) != lineage.members:
        raise config_error(f"{path / POPULATION}: makes no sense; was it edited?")
    names = [str(one.get("folder")) if isinstance(one, dict) else "" for one in members]
    if any(Path(name).name != name for name in names):
        raise config_error(f"{path / POPULATION}: folder: expected names of members, got {names[0]!r:.80}")
    if asked.plot is not None:
        picture = lineage.figure()
        try:
            asked.plot.parent.mkdir(parents=True, exist_ok=True)
            replace_file(asked.plot, picture.png(asked.plot.suffix[1:] or "png"))
        except OSError as error:
            raise config_error(f"--plot {asked.plot}: cannot be written ({error.strerror or error})") from None
        except ValueError as error:  # a picture of no kind that there is
            raise config_error(f"--plot {asked.plot}: {' '.join(str(error).split())}") from None
    writer = writer_of(path / POPULATION_LOCK)
    if asked.json:
        best = None if lineage.best is None else names[lineage.best]
        told = {"population": asked_for.get("name"), "folder": str(path), "process": writer}
        told |= {"comparisons": lineage.generations, "best": best, "members": _members(lineage, names, path)}
        print_json(told | {"plot": None if asked.plot is None else str(asked.plot)})
        return 0
    print(lineage)
    who = "nobody trains it now" if writer is None else f"process {writer} trains it"
    step = lineage.latest[0].step if lineage.records else 0
    print(f"population {asked_for.get('name')}: step {step:,} of {said.get('steps', 0):,}; {who}")
    if asked.plot is not None:
        print(f"wrote {asked.plot}")
    return 0

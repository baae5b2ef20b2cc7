"""``marl tune``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from marl.cli.asked import Asked
    from marl.cli.cell_process import CellWorker
    from marl.cli.cells import PlannedCell
    from marl.cli.plan import Plan
    from marl.studies.comparison import Comparison
    from marl.studies.search import FoundSearch, Search
    from marl.studies.trials import TrialRow, Trials
from marl.cli.options import NUMBER, RAY_CLUSTER
from marl.cli.output import note, print_json, quiet
from marl.cli.status import config_error, need

SEARCH, JOURNAL, RESULT, BEST, FINAL = "search.json", "optuna.journal", "result.json", "best.py", "final"
TUNED, DEFAULT = "tuned", "default"
OPTIONS = ("algorithm", "trials", "seeds", "steps", "sampler", "pruner", "final_seeds")  # that say it over the file


@dataclass(frozen=True)
class Tune:
    """Search the best settings of a scenario, and compare them with the default on fresh seeds."""

    scenario: Annotated[Positional[str], arg(metavar="WHAT")]
    """What to tune, as marl train takes it; or a file that holds a marl.Search and says it."""
    search: Annotated[str | None, arg(metavar="FILE.py[:NAME]")] = None
    """The file with the marl.Search, where WHAT is a scenario."""
    algorithm: Annotated[str | None, arg(metavar="NAME")] = None
    """By another algorithm than the scenario's own."""
    trials: Annotated[int | None, NUMBER] = None
    """Trials in all; more than before go on with a search. This and what follows: the file's unless given."""
    seeds: Annotated[int | None, NUMBER] = None
    """Seeds of each trial."""
    steps: Annotated[int | None, NUMBER] = None
    """Environment steps of each run."""
    sampler: Annotated[str | None, arg(metavar="NAME")] = None
    """What proposes settings: tpe, random, qmc or gp."""
    pruner: Annotated[str | None, arg(metavar="NAME")] = None
    """What ends bad trials: halving, hyperband, median or none."""
    final_seeds: Annotated[int | None, NUMBER] = None
    """Fresh seeds of the comparison at the end; 0: none."""
    jobs: Annotated[int | None, NUMBER] = None
    """Processes that train side by side; as many as there are cores for their threads unless given."""
    ray: Annotated[str | None, RAY_CLUSTER] = None
    """Train on a Ray cluster, and not on this machine alone; auto: the one that runs here, or one for this command."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """The search's folder; searches/WHAT unless given. Run again with the same one, it goes on."""
    retries: Annotated[int, NUMBER] = 1
    """How often a run that crashed or was killed is tried again, from its newest checkpoint."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return tune(self)


def tune(asked: Tune) -> int:
    """``marl tune``."""
    need("optuna", "tune")
    from marl.cli.cell_actor import cell_workers
    from marl.cli.cells import hash_of
    from marl.cli.study import locked
    from marl.cli.task import file_name
    from marl.cli.tuning import Tuning
    from marl.config import check_whole
    from marl.studies.search import find_search
    from marl.studies.trials import Trials

    if asked.jobs is not None:
        check_whole("--jobs", asked.jobs, 1)
    check_whole("--retries", asked.retries, 0)
    with quiet():
        found = find_search(None if asked.search is None else asked.scenario, asked.search or asked.scenario)
    said = {name: value for name in OPTIONS if (value := getattr(asked, name)) is not None}
    search = dataclasses.replace(found.search, **said)
    base, plan, identity = _base(search, found)
    out = (Path("searches") / file_name(found.task) if asked.out is None else asked.out).absolute()
    say: Callable[[str], None] = (lambda text: None) if asked.quiet else note
    assert base.evaluate_every is not None
    whole = search.seeds * (plan.steps // base.evaluate_every * base.evaluate_every)
    again = f"marl tune {asked.scenario}" + "".join(
        f" --{name} {value}" for name in ("search", "out", "ray") if (value := getattr(asked, name)) is not None
    )
    with cell_workers(asked.ray, asked.jobs, search.threads, search.device) as workers, locked(out, "search"):
        _same(out / SEARCH, identity)
        trials = Trials(out / JOURNAL, search, base.evaluate_every, whole)
        tuning = Tuning(search, trials, base, base.evaluate_every, plan.steps, out, say)
        files, start = {path: hash_of(path) for path in _files(found)}, workers.of(out)
        try:
            tuning.run(min(workers.jobs, search.trials), asked.retries, files, start)
            rows = trials.rows()
            best = trials.best()
            if best is None:
                raise config_error(f"no trial was trained to its end, of {len(rows)}; see {out}")
            write_text(out / BEST, scenario_file(plan, best, base, len(rows), search))
            pictures = _draw(search, trials, out)
            made = _compared(search, base, best, plan, out, workers.jobs, start, asked)
        except KeyboardInterrupt:
            note(f"what was trained is saved; to go on: {again}")
            raise
        result = _result(search, rows, best, trials, made, whole, out)
        write_json(out / RESULT, result)
    if asked.json:
        print_json(result)
    else:
        _print(search, rows, best, made, result, out, pictures)
    return 0


def _base(search: Search, found: FoundSearch) -> tuple[Asked, Plan, dict[str, Any]]:
    """The command of all trials, its plan, and what must be the same for the search to be gone on with.

    Raises:
        ConfigError: for settings of the space that there are not, or that cannot be what the space says.
    """
    from marl.cli.asked import Asked
    from marl.cli.cells import planned
    from marl.cli.plan import make_plan
    from marl.overrides import override
    from marl.studies.search import EVALUATIONS
    from marl.types import ConfigError

    asked = Asked(
        scenario=found.task,
        algorithm=search.algorithm,
        steps=search.steps,
        seed=0,
        device=search.device,
        threads=search.threads,
        set=tuple(search.settings),
        evaluate_every=search.evaluate_every,
        evaluate_episodes=search.evaluate_episodes,
        evaluate_seed=search.evaluate_seed,
        evaluate=False,
        keep=1,
    )
    with quiet():
        asked, config = planned(asked, EVALUATIONS)
        plan = make_plan(asked, None)
    if asked.evaluate_every is not None and asked.evaluate_every > plan.steps:
        raise config_error(
            f"search: evaluate_every: {asked.evaluate_every:,} steps are more than a run has ({plan.steps:,})"
        )
    if "steps" in search.space:
        raise config_error("search: space: steps cannot vary, since trials are compared at equal steps")
    for probe in search.probes():
        try:
            override(plan.scenario, probe)
        except ConfigError as error:
            raise config_error(f"search: space: {str(error).removeprefix('--set ')}") from None
    identity = {"task": config["scenario"], "search": search.identity(), "settings": config["settings"]}
    return asked, plan, identity


def _files(found: FoundSearch) -> list[Path]:
    """The files that a search is made of."""
    from marl import sources

    task = sources.split(found.task)
    return sorted({found.file, *([task[0]] if task is not None else [])})


def _same(file: Path, identity: Mapping[str, Any]) -> None:
    """Write what is searched, or refuse to go on with another search. Raises ConfigError."""
    import json

    from marl.config import differences
    from marl.logs.files import read_json

    here = json.loads(json.dumps(identity))
    if file.exists():
        found = differences(read_json(file), here)
        if found:
            more = [f"and {len(found) - 3} more"] if len(found) > 3 else []
            raise config_error(
                f"--out {file.parent}: holds another search ({'; '.join(found[:3] + more)}); undo that, or choose "
                "another --out"
            )
        return
    write_json(file, here)


def write_text(file: Path, text: str) -> None:
    """Write a file whole. Raises ConfigError."""
    from marl.logs.files import replace_file

    try:
        replace_file(file, text.encode())
    except OSError as error:
        raise config_error(f"{file}: cannot be written ({error.strerror or error})") from None


def write_json(file: Path, said: Mapping[str, Any]) -> None:
    """Write numbers whole. Raises ConfigError."""
    from marl.logs import files

    try:
        files.write_json(file, said)
    except OSError as error:
        raise config_error(f"{file}: cannot be written ({error.strerror or error})") from None


def scenario_file(plan: Plan, best: TrialRow, base: Asked, trials: int, search: Search) -> str:
    """A file with the scenario that has the settings of a trial."""
    about = (
        f"Trial {best.number} of {trials}, the best of a search by marl tune: {best.value:.2f} in the mean of "
        f"{search.seeds} seeds that it was chosen by."
    )
    settings = (*search.settings, *(f"{key}={value}" for key, value in best.settings.items()))
    return tuned_file(plan, base, settings, about)


def tuned_file(plan: Plan, base: Asked, settings: Sequence[str], about: str) -> str:
    """A Python file with a plan's scenario and some settings ``KEY=VALUE``.

    Args:
        plan: of a run without these settings.
        base: its command.
        settings: over the scenario's own.
        about: what the file says of itself.
    """
    from marl.cli.task import task_named
    from marl.config import in_words
    from marl.scenario import resolve_scenario

    assert base.scenario is not None
    task = task_named(base.scenario, base.algorithm, base.agents, base.set, choose=False)
    name = f"{plan.scenario.name}_tuned"
    agents = "" if not plan.agents else f"agents_said({tuple(plan.agents)!r})"
    if task.made or resolve_scenario(task.scenario.reference) is None:
        keywords = "" if not plan.scenario.env_kwargs else f", env_kwargs={in_words(plan.scenario.env_kwargs)}"
        source = f"Scenario(name={name!r}, env={plan.scenario.reference!r}, agents={agents}{keywords})"
    else:
        source = f"find({task.scenario.reference!r})"
    fields = {"name": repr(name), "steps": f"{plan.steps:_}", "algorithms": "{}"}
    if agents and not task.made:
        fields = {"agents": agents} | fields
    said = "".join(f"    {text!r},\n" for text in settings)
    imports = "agents_said, override" if agents else "override"
    finder = "Scenario" if source.startswith("Scenario") else "find"
    return (
        f'"""{about}"""\n\nimport dataclasses\n\nfrom marl.overrides import {imports}\n'
        f"from marl.scenario import {finder}\n\nSETTINGS = (\n{said})\n"
        f"scenario = override(\n    dataclasses.replace(\n        {source},\n"
        + "".join(f"        {key}={value},\n" for key, value in fields.items())
        + "    ),\n    SETTINGS,\n)\n"
    )


def _draw(search: Search, trials: Trials, out: Path) -> list[Path]:
    """The figures; none without matplotlib."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        note("no figures: matplotlib is not installed: pip install 'marl-system[plot]'")
        return []
    from marl.logs.files import replace_file
    from marl.studies.search_figures import figures

    files = []
    for name, figure in figures(search, trials.rows(), trials.importances()).items():
        files.append(out / f"{name}.png")
        replace_file(files[-1], figure.png())
    return files


def _compared(
    search: Search,
    base: Asked,
    best: TrialRow,
    plan: Plan,
    out: Path,
    jobs: int,
    start: Callable[[], CellWorker | None] | None,
    asked: Tune,
) -> Comparison | None:
    """The best settings and the default, trained with seeds and evaluated in episodes that no trial had."""
    from marl.cli.study import train_cells
    from marl.studies.compare import compare
    from marl.studies.scores import Scores
    from marl.studies.study import Study

    if not search.final_seeds:
        return None
    seeds = range(search.seeds, search.seeds + search.final_seeds)
    name = plan.scenario.name
    study = Study(
        name=f"{name} tuned",
        tasks={name: base.scenario or name},
        algorithms=(TUNED, DEFAULT),
        seeds=list(seeds),
        about=f"trial {best.number} beside the default",
    )
    fresh = dataclasses.replace(
        base, evaluate=True, episodes=search.episodes, evaluate_seed=search.evaluate_seed + 2
    )  # at the end that plus one; trials were evaluated in episodes of evaluate_seed alone
    tuned = dataclasses.replace(fresh, set=(*fresh.set, *(f"{key}={value}" for key, value in best.settings.items())))
    folder = out / FINAL
    cells = _final_cells({TUNED: tuned, DEFAULT: fresh}, name, list(seeds), folder)
    if not asked.quiet:
        note(f"comparing trial {best.number} with the default on {len(seeds)} fresh seeds")
    errors = train_cells(study, base.scenario or name, cells, folder, jobs, asked.retries, asked.quiet, start)
    if errors:
        first, error = next(iter(errors.items()))
        note(f"{len(errors)} runs of the comparison were left out: {first}: {error}; run it again")
    return compare(Scores.from_runs(folder), "final/evaluation_return")


def _final_cells(kinds: Mapping[str, Asked], task: str, seeds: Sequence[int], folder: Path) -> list[PlannedCell]:
    from marl.cli.cells import of_seed, planned
    from marl.studies.search import EVALUATIONS
    from marl.studies.study import Cell
    from marl.studies.study_folder import CELLS

    plans = {kind: planned(asked, EVALUATIONS) for kind, asked in kinds.items()}
    cells = [Cell(task, kind, (), seed) for seed in seeds for kind in kinds]
    return [of_seed(cell, folder / CELLS / cell.name, *plans[cell.algorithm]) for cell in cells]


def _result(
    search: Search,
    rows: Sequence[TrialRow],
    best: TrialRow,
    trials: Trials,
    made: Comparison | None,
    whole: int,
    out: Path,
) -> dict[str, Any]:
    """Everything in numbers."""
    from marl.config import finite

    steps = sum(row.steps for row in rows)
    said = {
        "folder": str(out),
        "trials": [
            {"number": row.number, "status": row.status, "value": row.value, "steps": row.steps}
            | {"settings": dict(row.settings), "why": row.why}
            for row in rows
        ],
        "best": {"number": best.number, "value": best.value, "settings": dict(best.settings), "file": str(out / BEST)},
        "steps": steps,
        "share": steps / (whole * len(rows)),
        "importances": trials.importances(),
        "final": None if made is None else made.to_dict(),
    }
    found: dict[str, Any] = finite(said)
    return found


def _print(
    search: Search,
    rows: Sequence[TrialRow],
    best: TrialRow,
    made: Comparison | None,
    result: Mapping[str, Any],
    out: Path,
    pictures: Sequence[Path],
) -> None:
    counts = {status: sum(row.status == status for row in rows) for status in ("complete", "pruned", "failed")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{len(rows)} trials: {told}; {result['steps']:,} steps, {result['share']:.0%} of those of no pruning")
    print(f"best: trial {best.number}, {best.value:.2f} in the mean of {search.seeds} seeds that it was chosen by:")
    for key, value in best.settings.items():
        print(f"  {key}={value}")
    if result["importances"]:
        said = ", ".join(f"{key} {share:.0%}" for key, share in result["importances"].items())
        print(f"importance (PED-ANOVA of {counts['complete']} complete trials): {said}")
    if made is None:
        print("not compared on fresh seeds (--final-seeds): a return on the seeds of the search is too high")
    else:
        _print_comparison(search, made)
    for file in pictures:
        note(f"wrote {file}")
    print(f"scenario: {out / BEST}; next: marl train {out / BEST}")


def _print_comparison(search: Search, made: Comparison) -> None:
    from marl.playing.intervals import interval_text

    print(f"on {search.final_seeds} fresh seeds, {search.episodes} fresh episodes each:")
    for (_, kind), entry in made.entries.items():
        interval = interval_text(entry.mean.low, entry.mean.high)
        print(f"  {kind:<8} {entry.mean.value:9.2f}  (95 % CI over seeds {interval})")
    found = made.improvement(TUNED, DEFAULT)
    if found is not None:
        pair = made.pairs[0]
        verdict = "" if pair.distinguishable(made.level) else "; not distinguishable"
        said = interval_text(found.low, found.high)
        print(f"  P(tuned is better) {found.value:.2f}  (95 % CI {said}){verdict}")
    for text in made.notes:
        print(f"  note: {text}")

"""``marl report``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

if TYPE_CHECKING:
    from marl.studies.compare import References
    from marl.studies.comparison import Comparison
    from marl.studies.scores import Scores
from marl.cli.options import NUMBER
from marl.cli.output import note, print_json
from marl.cli.status import UsageError, config_error, need


@dataclass(frozen=True)
class Report:
    """Compare algorithms over tasks and seeds: tables and plots with intervals; or write a page of one run or many."""

    what: Annotated[Positional[tuple[Path, ...]], arg(metavar="WHAT [WHAT ...]")]
    """Run folders, folders that hold such (a study's), JSON files of marl-eval; with --out also recordings (.npz) and
    what marl tournament --json printed."""
    out: Annotated[Path | None, arg(metavar="FILE.html")] = None
    """Write everything as one page that opens without a network, instead of printing tables."""
    metric: Annotated[str | None, arg(metavar="NAME")] = None
    """What is compared; evaluations if there are such, else returns in training, unless given."""
    reference: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TASK=RANDOM,BEST")] = ()
    """Scores of random play and of the best known, to normalize by. Repeatable; a study's own unless given."""
    rename: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="OLD=NEW")] = ()
    """Another name for a task, algorithm or metric, so that runs of other frameworks fit. Repeatable."""
    at: Annotated[int | None, NUMBER] = None
    """The step to compare at; the longest that all algorithms reached unless given."""
    threshold: Annotated[float | None, arg(metavar="SCORE")] = None
    """Also tell the steps until this score, a normalized one where there are references."""
    resamples: Annotated[int, NUMBER] = 50_000
    """Of the bootstrap."""
    markdown: bool = False
    """Print the tables as Markdown."""
    latex: bool = False
    """Print the tables as LaTeX (package booktabs)."""
    csv: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write all numbers as one tidy table."""
    marl_eval: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the scores as marl-eval's JSON."""
    plot: Annotated[Path | None, arg(metavar="DIR")] = None
    """Draw curves, profiles, aggregates and pairs as PNG."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return report(self)


def report(asked: Report) -> int:
    """``marl report``."""
    if asked.markdown + asked.latex + asked.json > 1:
        raise UsageError("marl report: --markdown, --latex and --json exclude each other: choose one")
    if asked.out is not None:
        return _page(asked, asked.out)
    if asked.plot is not None:
        need("matplotlib", "plot")
    from marl.studies.compare import compare

    scores, references = _read(asked)
    made = compare(
        scores,
        asked.metric,
        references=references,
        at=asked.at,
        threshold=asked.threshold,
        resamples=asked.resamples,
    )
    written = _write(asked, scores, made)
    if asked.json:
        print_json(made.to_dict() | {"written": [str(file) for file in written]})
        return 0
    _show(asked, made)
    for text in made.notes if not (asked.markdown or asked.latex) else ():
        print(f"note: {text}")
    for file in written:
        note(f"wrote {file}")
    return 0


def _page(asked: Report, out: Path) -> int:
    """Write the page."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"marl report: --out {out}: expected a file name that ends in .html")
    from marl.logs.files import replace_file
    from marl.report.content import Source
    from marl.report.html import page

    content = Source(asked.what).content()
    data = page(content, content["title"]).encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, data)
    except OSError as error:
        raise config_error(f"--out {out}: cannot be written ({error.strerror or error})") from None
    if asked.json:
        print_json({"out": str(out), "bytes": len(data), "missing": content["missing"]})
        return 0
    for text in content["missing"]:
        note(f"note: {text}")
    print(f"wrote {out} ({len(data) / 1e6:.2f} MB)")
    return 0


def _read(asked: Report) -> tuple[Scores, References]:
    """All scores under one roof, and what to normalize them by."""
    from marl.studies.run_folders import references_of
    from marl.studies.scores import Scores

    files = [path for path in asked.what if path.suffix == ".json" and path.is_file()]
    folders = [path for path in asked.what if path not in files]
    parts = [Scores.from_marl_eval(file) for file in files]
    if folders:
        wanted = () if asked.metric is None or parts else (asked.metric,)
        parts.insert(0, Scores.from_runs(folders, wanted))
    names = dict(_assignment("--rename", "OLD=NEW", text) for text in asked.rename)
    scores = Scores.from_rows(row for part in parts for row in part.rows).renamed(names)
    references: dict[str, tuple[float | None, float | None]] = {}
    for task, both in references_of(folders).items():
        if (task := names.get(task, task)) in scores.tasks:
            references[task] = both
    for text in asked.reference:
        task, said = _assignment("--reference", "TASK=RANDOM,BEST", text)
        references[task] = _numbers(text, said)
    return scores, references


def _assignment(option: str, form: str, text: str) -> tuple[str, str]:
    key, equals, value = text.rpartition("=")
    if not equals or not key or not value:
        raise UsageError(f"marl report: {option}: expected {form}, got {text!r}")
    return key, value


def _numbers(text: str, said: str) -> tuple[float, float]:
    try:
        random, best = map(float, said.split(","))
    except ValueError:
        raise UsageError(f"marl report: --reference: expected TASK=RANDOM,BEST, two numbers, got {text!r}") from None
    return random, best


def _write(asked: Report, scores: Scores, made: Comparison) -> list[Path]:
    """The files that were asked for."""
    from marl.studies.marl_eval import FINAL
    from marl.studies.tables import to_csv

    def table(file: Path) -> list[Path]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(to_csv(made), encoding="utf-8", newline="")
        return [file]

    def tree(file: Path) -> list[Path]:
        file.parent.mkdir(parents=True, exist_ok=True)
        scores.of(made.metric, f"{FINAL}{made.metric}").to_marl_eval(file)
        return [file]

    def pictures(folder: Path) -> list[Path]:
        from marl.studies.figures import write_figures

        return write_figures(made, folder)

    wanted: Sequence[tuple[str, Path | None, Callable[[Path], list[Path]]]] = (
        ("--csv", asked.csv, table),
        ("--marl-eval", asked.marl_eval, tree),
        ("--plot", asked.plot, pictures),
    )
    written = []
    for option, out, write in wanted:
        if out is not None:
            try:
                written += write(out)
            except OSError as error:
                raise config_error(f"{option} {out}: cannot be written ({error.strerror or error})") from None
    return written


def _show(asked: Report, made: Comparison) -> None:
    from marl.studies.tables import tables

    if asked.markdown:
        print("\n\n".join(table.to_markdown() for table in tables(made)))
        print("".join(f"\n- {text}" for text in made.notes), end="\n" if made.notes else "")
        return
    if asked.latex:
        print("\n\n".join(table.to_latex() for table in tables(made)))
        print("".join(f"% {text}\n" for text in made.notes), end="")
        return
    import rich.console

    console: Any = rich.console.Console(highlight=False)
    if not console.is_terminal:
        print("\n\n".join(map(str, tables(made))) + "\n")
        return
    for table in tables(made):
        console.print(table.to_rich())
        console.print()

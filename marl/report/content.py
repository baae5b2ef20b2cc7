"""Everything that a page shows of some runs, studies, tournaments and recordings, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from marl.checkpoint import TREE
from marl.config import finite
from marl.logs.files import read_json
from marl.report.compared import drawn
from marl.report.curves import curves
from marl.report.facts import MOST, facts, number, text
from marl.report.league import league_of
from marl.report.recording import Recording
from marl.report.replays import replay
from marl.report.rows import MetricsReader
from marl.run.folder import CONFIG, LOCK, METRICS, SUMMARY, checkpoints
from marl.studies.compare import compare
from marl.studies.run_folders import CELLS, STUDY, RunFolder, folders_below, found_runs, references_of
from marl.studies.scores import Scores
from marl.studies.seeds import named_groups
from marl.studies.tables import tables
from marl.types import ConfigError

RESAMPLES = 2_000  # of the bootstraps of a page's tables
MOST_PLAYERS = 100
EPISODES_FILE = "episodes.npz"  # of a run folder: shown in its page
HUMAN = "human"  # of a run folder: where recordings of people's games lie
MOST_HUMAN = 20  # of them in a page, the newest


class Source:
    """What a page is made of. Looked at again, it reads what is new alone.

    Args:
        what: run folders, folders that hold such, results of ``marl tournament --json``, recordings.
    """

    def __init__(self, what: Sequence[Path]) -> None:
        """Nothing has been read yet."""
        self.what = list(what)
        self._compared: dict[str, Any] = {}
        self._not_compared: list[str] = []
        self._readers: dict[Path, MetricsReader] = {}
        self._leagues: dict[Path, tuple[tuple[Path, tuple[int, int]] | None, dict[str, Any] | None]] = {}
        self._replays: dict[Path, tuple[tuple[int, int], dict[str, Any] | None, str]] = {}

    def nothing(self, why: str) -> dict[str, Any]:
        """The content of a page that has nothing to show."""
        empty = {"xs": [], "metrics": [], "points": 0}
        said: dict[str, Any] = {"runs": [], "curves": empty, "comparison": {}, "replays": [], "missing": [text(why)]}
        said |= {"tournaments": [], "sweeps": []}
        return {"title": text(_title(self.what), 120), "version": _version(), **said}

    def stamp(self) -> tuple[object, ...]:
        """What changes when a file does that the page is made of. Raises ConfigError for very many folders."""
        files = [path for path in self.what if path.is_file()]
        for path in self.what:
            for folder in folders_below(path):
                files += [folder / name for name in (STUDY, CONFIG, METRICS, SUMMARY, LOCK, EPISODES_FILE)]
                files += _with_people(folder)
                if (folder / STUDY).exists():
                    inner = [one for one in (folder / CELLS).rglob(METRICS)]
                    files += [one.parent / name for one in inner for name in (CONFIG, METRICS, SUMMARY, EPISODES_FILE)]
        return tuple((str(path), *_size(path)) for path in files)

    def content(self, compared: bool = True) -> dict[str, Any]:
        """Everything, as JSON has it.

        Args:
            compared: whether several runs are compared anew, which takes a second or more; else as they were last.

        Raises:
            ConfigError: if there is nothing at all.
        """
        missing: list[str] = []
        tournaments, sweeps, recordings, folders = [], [], [], []
        for path in self.what:
            if path.suffix == ".json" and path.is_file():
                said = read_json(path)
                if "points" in said:
                    sweeps.append(_sweep(path, said))
                else:
                    tournaments.append(_tournament(path, said))
            elif path.suffix == ".npz":
                recordings.append(path)
            else:
                folders.append(path)
        runs = _runs(folders, missing)
        recordings += [run.path / EPISODES_FILE for run in runs if (run.path / EPISODES_FILE).exists()]
        recordings += [path for run in runs for path in _with_people(run.path)]
        if compared:
            self._not_compared = []
            self._compared = _comparison(folders, runs, self._not_compared)
        missing += self._not_compared
        groups = named_groups(runs)
        label = {run.path: name for name, same in groups for run in same}
        told = []
        names = _tails([str(run.path.resolve()) for run in runs])
        for run, name in zip(runs, names, strict=True):
            said = facts(run, name, label[run.path])
            reader = self._readers.setdefault(run.path, MetricsReader(run.path))
            reader.read()
            if run.path.exists():
                said["missing"] += reader.missing
            said["last"] = {
                name: column[1][-1] for name, column in reader.columns.items() if name in ("mean_return", "seconds")
            } | ({"steps": max(column[0][-1] for column in reader.columns.values())} if reader.columns else {})
            said["league"] = self._league(run.path)
            told.append(said)
        made: dict[str, Any] = {
            "title": text(_title(self.what), 120),
            "version": _version(),
            "runs": told,
            "curves": curves([(name, [self._readers[run.path].columns for run in same]) for name, same in groups]),
            "comparison": self._compared,
            "tournaments": tournaments,
            "sweeps": sweeps,
            "replays": [one for path in recordings if (one := self._replay(path, missing)) is not None],
            "missing": [text(one) for one in missing],
        }
        whole: dict[str, Any] = finite(made)
        return whole

    def _league(self, folder: Path) -> dict[str, Any] | None:
        """A run's league, read anew where there is a newer checkpoint."""
        newest = next(iter(checkpoints(folder)), None)
        stamp = None if newest is None else (newest, _size(newest / TREE))
        if folder not in self._leagues or self._leagues[folder][0] != stamp:
            self._leagues[folder] = stamp, None if newest is None else league_of(newest)
        return self._leagues[folder][1]

    def _replay(self, path: Path, missing: list[str]) -> dict[str, Any] | None:
        """A recording, read anew where its file has changed."""
        stamp = _size(path)
        if path not in self._replays or self._replays[path][0] != stamp:
            name = path.resolve().parent.name if path.name == EPISODES_FILE else path.stem
            if path.parent.name == HUMAN:
                name = f"{path.resolve().parents[1].name}, a person as {name}"
            try:
                self._replays[path] = stamp, replay(name, Recording.load(path)), ""
            except ConfigError as error:
                self._replays[path] = stamp, None, str(error).replace(str(path), path.name)
        _, made, trouble = self._replays[path]
        if trouble:
            missing.append(trouble)
        return made


def _comparison(folders: Sequence[Path], runs: Sequence[RunFolder], missing: list[str]) -> dict[str, Any]:
    """Tables of a study or of several runs; empty where there is nothing to compare."""
    if len(runs) < 2:
        return {}
    try:
        scores = _scores(folders, runs)
        made = compare(scores, references=_references(folders, scores, missing), resamples=RESAMPLES)
    except ConfigError as error:
        missing.append(f"runs are not compared: {error}")
        return {}
    return {
        "metric": text(made.metric),
        "notes": [text(one, 2000) for one in made.notes],
        "tables": [
            {
                "title": text(table.title),
                "head": list(map(text, table.head)),
                "rows": [[[text(cell.text), cell.best] for cell in row] for row in table.rows],
            }
            for table in tables(made)
        ],
        **drawn(made),
    }


def _with_people(run: Path) -> list[Path]:
    """The recordings of people's games with a run's agents, the newest; links are not followed."""
    folder = run / HUMAN
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = [path for path in folder.glob("*.npz") if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: (_size(path)[0], path.name))[-MOST_HUMAN:]


def _scores(folders: Sequence[Path], runs: Sequence[RunFolder]) -> Scores:
    """Of studies as these call their cells; where a folder holds something damaged, of the sound runs by themselves."""
    try:
        return Scores.from_runs(folders)
    except ConfigError:
        return Scores.from_runs([run.path for run in runs if run.path.exists()])


def _size(path: Path) -> tuple[int, int]:
    """When a file was changed last, and how large it is; zeros where there is none."""
    try:
        there = path.stat()
    except OSError:
        return 0, 0
    return there.st_mtime_ns, there.st_size


def _references(folders: Sequence[Path], scores: Scores, missing: list[str]) -> dict[str, Any]:
    try:
        return {task: both for task, both in references_of(folders).items() if task in scores.tasks}
    except ConfigError as error:
        missing.append(str(error))
        return {}


def _runs(folders: Sequence[Path], missing: list[str]) -> list[RunFolder]:
    """The runs there are; those whose files make no sense are left out, and said to be."""
    if not folders:
        return []
    try:
        return found_runs(folders)
    except ConfigError as error:
        first = error
    sound = []
    for folder in (one for path in folders for one in folders_below(path)):
        try:
            found_runs([folder])
            sound.append(folder)
        except ConfigError as error:
            missing.append(str(error).replace(f"{folder.parent}/", ""))
    if not sound:
        raise first
    return found_runs(sound)


def _sweep(path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """Returns under other links than the trained one. Raises ConfigError if the file holds none."""
    points = said["points"]
    rows = [one for one in points if isinstance(one, Mapping)][:MOST] if isinstance(points, list) else []
    if not rows:
        raise ConfigError(f"{path}: expected what marl sweep --json prints, with points")
    numbers = ("mean_return", "low", "high")
    return {
        "name": text(path.stem),
        "episodes": number(said.get("episodes")),
        "points": [
            {"effect": text(str(row.get("effect"))), "value": text(str(row.get("value")))}
            | {key: number(row.get(key)) for key in numbers}
            for row in rows
        ],
    }


def _tournament(path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """The payoffs of a tournament. Raises ConfigError if the file holds none."""
    players, payoff, errors = said.get("players"), said.get("payoff"), said.get("standard_errors")
    if not isinstance(players, list) or not 1 < len(players) <= MOST_PLAYERS:
        raise ConfigError(f"{path}: expected what marl tournament --json prints, with 2 to {MOST_PLAYERS} players")
    size = len(players)

    elo = said.get("elo")
    return {
        "name": text(path.stem),
        "players": list(map(text, _tails([str(one) for one in players]))),
        "games": number(said.get("games")),
        "payoff": [[number(one) for one in row] for row in _square(payoff, size)],
        "errors": [[number(one) for one in row] for row in _square(errors, size)],
        "clear": [[one is not False for one in row] for row in _square(said.get("distinguishable"), size)],
        "elo": [number(one) for one in elo] if isinstance(elo, list) and len(elo) == size else [None] * size,
    }


def _tails(names: Sequence[str]) -> Sequence[str]:
    """Paths from as few folders below as tell them apart."""
    parts = [name.rstrip("/").split("/") for name in names]
    for count in range(1, max(map(len, parts), default=0)):
        tails = ["/".join(one[-count:]) for one in parts]
        if len(set(tails)) == len(set(names)):
            return tails
    return names


def _square(table: object, size: int) -> list[list[Any]]:
    """A table of so many rows and columns; None for what is not there."""
    rows = table if isinstance(table, list) and len(table) == size else [None] * size
    return [row if isinstance(row, list) and len(row) == size else [None] * size for row in rows]


def _title(what: Sequence[Path]) -> str:
    names = [path.resolve().name for path in what]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _version() -> str:
    try:
        return version("marl-system")
    except PackageNotFoundError:
        return ""

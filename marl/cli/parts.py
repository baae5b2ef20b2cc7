"""An answer in parts that do not depend on each other: processes work on them side by side, here or on a cluster.

Each part is the same command again, asked for that part alone; it leaves it in a file. So what is there is not done
again, and numbers do not depend on who found them.

OUT/asked.json        what was asked
OUT/parts/NAME.json   the parts that are there
OUT/logs/NAME.log     what was said meanwhile
OUT/journal.jsonl     how each attempt at a part ended
OUT/study.lock        who works on it now
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marl.cli.cell_actor import cell_workers
from marl.cli.options import SideBySide
from marl.cli.output import note
from marl.cli.schedule import Failures, Schedule
from marl.cli.status import config_error
from marl.cli.study import NOT_ALL_FINISHED, locked
from marl.config import check_whole, differences
from marl.logs.files import read_json, replace_file, write_json
from marl.types import MarlError

ASKED, PARTS = "asked.json", "parts"
LARGEST = 2**28  # bytes of a part: a game of a match has some forty


class NotAllDone(MarlError):
    """Parts are missing, since they ended badly as often as they may (exit status 7)."""

    exit_code = NOT_ALL_FINISHED


@dataclass(frozen=True)
class Part:
    """One part, as work of a :class:`~marl.cli.schedule.Schedule`.

    Args:
        name: of it.
        words: of the command, but for whose answer it is a part of.
        out: the folder.
    """

    name: str
    words: tuple[str, ...]
    out: Path

    @property
    def begun(self) -> bool:
        """Never: a part is there or not."""
        return False

    @property
    def file(self) -> Path:
        """Where it is."""
        return self.out / PARTS / f"{self.name}.json"

    def command(self, begun: bool) -> list[str]:
        """The command that does it."""
        return [*self.words, "--out", str(self.out), "--part", self.name]

    def fault(self, code: int) -> str | None:
        """Empty unless it is there."""
        return None if code == 0 and self.file.exists() else ""


def write_part(asked: SideBySide, found: Mapping[str, Any]) -> int:
    """Leave the part that a process was asked for where it belongs; returns the exit status."""
    assert asked.part is not None
    assert asked.out is not None
    replace_file(Part(asked.part, (), asked.out).file, json.dumps(dict(found)).encode())
    return 0


def gathered(
    asked: SideBySide,
    names: Sequence[str],
    question: Mapping[str, Any],
    words: Sequence[str],
    threads: int,
    device: str,
) -> list[dict[str, Any]]:
    """All parts, those that are not there yet by processes.

    Args:
        asked: where, and by how many.
        names: of the parts.
        question: as JSON: another one is not answered in the same folder.
        words: the command.
        threads: of a process.
        device: where it computes.

    Raises:
        ConfigError: if the folder cannot be written, or belongs to another question.
        NotAllDone: if a part ended badly as often as it may.
    """
    if asked.jobs is not None:
        check_whole("--jobs", asked.jobs, 1)
    check_whole("--retries", asked.retries, 0)
    workers = cell_workers(asked.ray, asked.jobs, threads, device)
    with workers as room, _folder(asked.out) as out, locked(out, str(words[0])):
        _begin(out, question)
        parts = [Part(name, tuple(words), out) for name in names]
        todo = [part for part in parts if not part.file.exists()]
        if len(todo) < len(parts):
            note(f"{out}: {len(parts) - len(todo)} of {len(parts)} parts are there")
        jobs, start = min(room.jobs, max(1, len(todo))), room.of(out)
        schedule = Schedule(todo, out, jobs, asked.retries, {}, Failures("tried again"), start=start)
        try:
            schedule.run()
        except KeyboardInterrupt:
            if asked.out is not None:
                note(f"what was done is in {out}; the same command goes on")
            raise
        for name, error in schedule.errors.items():
            raise NotAllDone(f"{words[0]}: {len(schedule.errors)} of {len(parts)} parts failed; part {name}: {error}")
        return [read_json(part.file, LARGEST, nan=True) for part in parts]


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """The one that was named, or one for this command."""
    if out is not None:
        yield out.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="marl-") as folder:
        yield Path(folder)


def _begin(out: Path, question: Mapping[str, Any]) -> None:
    """Say what is asked, or see that it is the same. Raises ConfigError."""
    here = json.loads(json.dumps(dict(question)))
    if (out / ASKED).exists() and (changed := differences(read_json(out / ASKED), here)):
        raise config_error(f"--out {out}: holds an answer to another question ({changed[0]}); choose another --out")
    (out / PARTS).mkdir(exist_ok=True)
    write_json(out / ASKED, here)

"""What stands in a run folder: whether one may be written, which checkpoints there are, which of them loads."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from marl import checkpoint
from marl.logs.files import read_json
from marl.types import CheckpointError, ConfigError, ResourceError

T = TypeVar("T")
CONFIG, METRICS, CHECKPOINTS, SUMMARY, LOCK = "config.json", "metrics.jsonl", "checkpoints", "summary.json", "run.lock"
CONTENTS = (CONFIG, METRICS, CHECKPOINTS, SUMMARY, "tensorboard", "metrics.csv", "wandb", "mlflow")
STEP = re.compile(r"step-([0-9]{1,20})")
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def holds_run(path: Path) -> bool:
    """Whether there is a run in this folder already."""
    return any((path / name).exists() for name in (CONFIG, METRICS, SUMMARY)) or bool(checkpoints(path))


def check_folder(path: Path, *, resume: bool = False, force: bool = False) -> None:
    """Whether a run can be written there, without writing anything. Raises ConfigError."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--run-dir {path}: is a file; choose another folder")
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise ConfigError(f"--run-dir {path}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--run-dir {path}: {there} is not writable")
    if holds_run(path) and not (resume or force):
        raise ConfigError(f"--run-dir {path}: holds a run already; go on with it by --resume, or replace it by --force")
    link = next((name for name in (*CONTENTS, LOCK) if (path / name).is_symlink()), None)
    if link is not None and not (force and link in CONTENTS):
        raise ConfigError(f"--run-dir {path}: {link} is a link, and a run is never written through one; remove it")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """An OSError as what it means for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in NOT_OURS:
            raise ConfigError(f"--run-dir {path}: cannot be written ({reason})") from None
        raise ResourceError(f"--run-dir {path}: cannot be written ({reason})") from None


def clear(path: Path) -> None:
    """Remove a run's own files, and nothing else that may be there."""
    for name in CONTENTS:
        target = path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = STEP.fullmatch(path.name)
    return int(match[1]) if match else -1


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, the newest first, whether they are whole or not."""
    folder = run / CHECKPOINTS
    found = [path for path in folder.iterdir() if STEP.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def read_best(run: Path) -> dict[str, Any] | None:
    """Which checkpoint is the best, by what."""
    try:
        best = read_json(run / CHECKPOINTS / "best.json")
    except ConfigError:
        return None
    fits = isinstance(best.get("checkpoint"), str) and STEP.fullmatch(best["checkpoint"])
    return best if fits and isinstance(best.get("metric"), str) and isinstance(best.get("value"), int | float) else None


def candidates(reference: str | Path, which: str = "best") -> list[Path]:
    """Checkpoints to try for a run folder (or the one that a path is), in order.

    which: ``best`` or ``last``; or a checkpoint's path or name, then that one alone.

    Raises:
        ConfigError: if there is no such run or it has no checkpoint yet.
    """
    path = Path(reference)
    if (path / checkpoint.MANIFEST).exists():
        return [path]
    if not path.is_dir() or not (path / CHECKPOINTS).is_dir():
        what = "is no run folder" if path.exists() else "does not exist"
        raise ConfigError(f"run {path} {what}: expected the folder that marl train wrote, or one of its checkpoints")
    found = checkpoints(path)
    if which not in ("best", "last"):
        return [path / CHECKPOINTS / which if (path / CHECKPOINTS / which).exists() else Path(which)]
    if not found:
        raise ConfigError(f"run {path} has no checkpoint yet")
    best = read_best(path)
    if which == "best" and best is not None:
        chosen = path / CHECKPOINTS / best["checkpoint"]
        return [chosen, *(other for other in found if other != chosen)]
    return found


def first_valid(paths: Sequence[Path], load: Callable[[Path], T], note: Callable[[str], None]) -> tuple[Path, T] | None:
    """The first of these checkpoints that loads, saying which did not; None for no paths.

    Raises:
        CheckpointError: if there are some and none loads.
    """
    failure: CheckpointError | None = None
    for path in paths:
        try:
            loaded = load(path)
        except CheckpointError as error:
            failure = CheckpointError(_short(str(error)))
            note(str(failure))
            continue
        if failure is not None:
            note(f"falling back to checkpoint {path}")
        return path, loaded
    if failure is not None:
        raise CheckpointError(f"none of the {len(paths)} checkpoints can be used; the last one tried: {failure}")
    return None


def _short(text: str, limit: int = 240) -> str:
    """One line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."

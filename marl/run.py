"""A run's folder: what was asked, every metric, checkpoints that survive crashes, and how it ended.

    RUN/config.json      what was asked and what it came to, versions, seed
    RUN/metrics.jsonl    one row of metrics a line
    RUN/checkpoints/     ``step-N`` directories; ``last`` and ``best`` point at two of them, ``best.json`` says why
    RUN/summary.json     how it ended
    RUN/run.lock         who is writing here now

A :class:`Run` is a watcher of :meth:`marl.MultiAgentSystem.train`: it logs, saves, and ends the training on a signal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from marl import checkpoint, files
from marl.logs import MetricsFile, Sink, read_metrics
from marl.logs.files import Patience, read_json, sync_folder, write_json
from marl.logs.metrics import keep_until
from marl.types import CheckpointError, ConfigError, ResourceError

if TYPE_CHECKING:
    from marl.system import MultiAgentSystem

try:
    import fcntl
except ImportError:  # Windows: the lock then rests on the process id alone
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
CONFIG, METRICS, CHECKPOINTS, SUMMARY, LOCK = "config.json", "metrics.jsonl", "checkpoints", "summary.json", "run.lock"
CONTENTS = (CONFIG, METRICS, CHECKPOINTS, SUMMARY, "tensorboard")
STEP = re.compile(r"step-([0-9]{1,20})")
GRACE = 20.0  # seconds to save in after a signal; schedulers kill after 30
ECHO = 0.2  # a signal that comes twice within this time was sent once, to the process and to its group
FIRST_EPISODES = 100  # a mean return over fewer episodes names no best checkpoint
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


def warn(text: str) -> None:
    """Say something on stderr, if it can be said there."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Run:
    """The one writer of a run folder.

    Args:
        path: the folder; made if it is not there.
        resume: go on with the run that is there, if there is one.
        force: throw away the run that is there.
        keep: how many of the newest checkpoints to keep, besides the best.
        save_every: environment steps between checkpoints.
        save_minutes: and the minutes after which one is due in any case.
        note: told what a person should know.
        retry_seconds: wait after the disk refused for the first time; doubles each time.
        patience: how often in a row it may refuse.

    Raises:
        ConfigError: if the folder cannot be used, holds another run, or is being written by another process.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        resume: bool = False,
        force: bool = False,
        keep: int = 3,
        save_every: int | None = None,
        save_minutes: float = 10.0,
        note: Callable[[str], None] = warn,
        retry_seconds: float = 10.0,
        patience: int = 6,
    ) -> None:
        """Take the folder; nothing is written but its lock."""
        self.path = Path(path).absolute()
        self.checkpoints = self.path / CHECKPOINTS
        self.keep, self.save_every, self.save_minutes, self.note = max(1, keep), save_every, save_minutes, note
        self.signal: signal.Signals | None = None
        self.sinks: list[Sink] = []
        check_folder(self.path, resume=resume, force=force)
        with _explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path / LOCK, self.note)
        try:
            check_folder(self.path, resume=resume, force=force)  # again, now that nobody else can write
            with _explained(self.path):
                if force and not resume:
                    _clear(self.path)
                self.checkpoints.mkdir(exist_ok=True)
                checkpoint.sweep_folder(self.checkpoints)
        except BaseException:
            self._lock.release()
            raise
        self._metrics: MetricsFile | None = None
        self._config: dict[str, Any] = {}
        self._usurped: ResourceError | None = None  # another process has begun a run in our folder
        self._saving = Patience("the checkpoint", lambda text: self.note(text), retry_seconds, patience)
        self._logging = Patience("the metrics", lambda text: self.note(text), retry_seconds, patience)
        self._saved_at: int | None = None
        self._best: dict[str, Any] | None = None
        self._candidate: dict[str, Any] | None = None
        self._next_steps = self._next_time = math.inf
        self._before, self._ended = 0.0, 0.0
        self._began = self._signalled_at = time.monotonic()
        self._at_once = True  # nothing has been done since the last save: a signal need not wait for a step's end
        self.cut_short = False  # a signal ended what was going on instead of waiting for its end

    # --- beginning ----------------------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any] | None:
        """What the run that is here was asked; None for a new one. Raises ConfigError if the file is damaged."""
        file = self.path / CONFIG
        return read_json(file) if file.exists() else None

    def newest(self, load: Callable[[Path], T]) -> tuple[Path, T] | None:
        """The newest checkpoint that can be loaded, saying so where newer ones cannot; None if there never was one."""
        return first_valid(checkpoints(self.path), load, self.note)

    def begin(self, config: Mapping[str, Any], steps: int = 0) -> None:
        """Write what was asked, and make the folder agree with a system at ``steps``."""
        self._config = dict(config)
        with _explained(self.path):
            write_json(self.path / CONFIG, self._config)
            self._set_aside(steps)
            dropped = keep_until(self.path / METRICS, steps)
            if dropped:
                self.note(
                    f"{dropped} rows of metrics logged after step {steps:,} were dropped: they will be logged again"
                )
            (self.path / SUMMARY).unlink(missing_ok=True)
            self._metrics = MetricsFile(self.path / METRICS, self._logging)
        rows = read_metrics(self.path / METRICS)
        seconds = rows[-1].get("seconds", 0.0) if rows else 0.0
        self._before = seconds if math.isfinite(seconds) else 0.0
        self._best = read_best(self.path)
        if self._best is not None and self._best["metric"] == "last":
            self._best = None  # there was nothing to choose by, and soon it will not be the last
        self._saved_at = steps if steps else None
        self._began, self._ended = time.monotonic(), 0.0
        self._schedule(steps)

    def _set_aside(self, steps: int) -> None:
        """Checkpoints later than where we go on from are damaged, or of a future that will not be."""
        for path in checkpoints(self.path):
            if step_of(path) > steps:
                aside = self.checkpoints / f"aside-{path.name}"
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(path, aside)
                self.note(f"checkpoint {path.name} was set aside as {aside.name}")
        best = read_best(self.path)
        if best is not None and not (self.checkpoints / best["checkpoint"]).is_dir():
            (self.checkpoints / "best.json").unlink(missing_ok=True)
            (self.checkpoints / "best").unlink(missing_ok=True)
        left = checkpoints(self.path)
        if left:
            self._point("last", left[0].name)
        else:
            (self.checkpoints / "last").unlink(missing_ok=True)

    def _restore(self) -> None:
        """Make the folder again if somebody removed it while we train: nothing that is known or learnt is lost by that.

        Raises:
            OSError: if that cannot be.
            ResourceError: if another process has begun a run there.
        """
        metrics = self._metrics
        if self._usurped is not None:
            raise self._usurped
        there = self.checkpoints.is_dir() and (self.path / CONFIG).exists()
        if metrics is None or (there and not metrics.lost and not self._lock.lost):
            return
        self.note(f"{self.path} was removed or changed while training; it is made again, and training goes on")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.renew()
        except ConfigError as error:
            self._usurped = ResourceError(f"the run folder was removed while training, and now: {error}")
            raise self._usurped from None
        self.checkpoints.mkdir(exist_ok=True)
        write_json(self.path / CONFIG, self._config)
        if metrics.lost:
            metrics.restore()
        if self._best is not None and not (self.checkpoints / self._best["checkpoint"]).is_dir():
            self._best = None
        self._next_steps = 0  # save at once

    # --- watching -----------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Seconds of training, of all the processes that worked at it."""
        return self._before + (self._ended or time.monotonic()) - self._began

    def log(self, metrics: dict[str, float]) -> None:
        """Write a row everywhere, and see whether this is the best so far."""
        row = metrics | {"seconds": round(self.seconds, 3)}
        if self._metrics is not None:
            self._metrics.log(row)
            with contextlib.suppress(OSError):  # tried again when saving, which says why it cannot be
                self._restore()
        for sink in self.sinks:
            sink.log(row)
        if "evaluation_return" in metrics:
            self._consider("evaluation_return", metrics["evaluation_return"], metrics["steps"])
        elif metrics.get("episodes", 0) >= FIRST_EPISODES and "mean_return" in metrics:
            self._consider("mean_return", metrics["mean_return"], metrics["steps"])

    def _consider(self, metric: str, value: float, steps: float) -> None:
        """Evaluations count more than what exploring agents earn while they train; of equals the later is better."""
        best = self._best
        if best is not None and best["metric"] == "evaluation_return" and metric != "evaluation_return":
            return
        upgrade = best is not None and best["metric"] != metric
        if math.isfinite(value) and (best is None or upgrade or value >= best["value"]):
            self._candidate = {"metric": metric, "value": value, "steps": int(steps)}
        elif self._candidate is not None and self._candidate["metric"] == metric:
            self._candidate = None

    def tick(self, system: MultiAgentSystem) -> bool:
        """Save if it is time; True once a signal has come and everything is saved."""
        self._at_once = False
        for sink in self.sinks:
            sink.tick(system.steps)
        if len(system.spec.teams) > 1 or system.league is not None:
            self._candidate = None  # what one side wins another may lose: no checkpoint is the best for all
        if system.curriculum is not None and self._candidate is not None and self._candidate["metric"] == "mean_return":
            self._candidate = None  # returns of an easy stage are no merit: only evaluations play the target
        evaluated = self._candidate is not None and self._candidate["metric"] == "evaluation_return"
        due = system.steps >= self._next_steps or time.monotonic() >= self._next_time
        if self.signal is None and (due or evaluated) and self._saving.ready:
            self.save(system)
        if self.signal is None:
            return False
        self._insist(system)
        return True

    def save(self, system: MultiAgentSystem) -> bool:
        """Write a checkpoint; False if the disk refused. Raises ResourceError if it has refused too often."""
        name = f"step-{system.steps:012d}"
        best, self._candidate = self._candidate, None
        try:
            self._restore()
            if self._metrics is not None:
                self._metrics.sync()
            if self._saved_at != system.steps or not (self.checkpoints / name).is_dir():
                system.save(self.checkpoints / name)
                self._point("last", name)
            if best is not None:
                self._crown(best | {"checkpoint": name})
            self._rotate()
        except OSError as error:
            self._saving.failed(error)
            return False
        self._saving.succeeded()
        self._saved_at = system.steps
        self._schedule(system.steps)
        return True

    def _schedule(self, steps: int) -> None:
        self._next_steps = math.inf if self.save_every is None else (steps // self.save_every + 1) * self.save_every
        self._next_time = time.monotonic() + 60 * self.save_minutes

    def _crown(self, best: dict[str, Any]) -> None:
        write_json(self.checkpoints / "best.json", best)
        self._point("best", best["checkpoint"])
        self._best = best

    def _point(self, name: str, target: str) -> None:
        """``checkpoints/NAME`` is for people; where there are no symbolic links, best.json and step numbers do."""
        temporary = self.checkpoints / f".{name}.link"
        try:
            temporary.unlink(missing_ok=True)
            os.symlink(target, temporary, target_is_directory=True)
            os.replace(temporary, self.checkpoints / name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            return
        sync_folder(self.checkpoints)

    def _rotate(self) -> None:
        """Remove old checkpoints, now that their successors are durable."""
        best = None if self._best is None else self._best["checkpoint"]
        for path in checkpoints(self.path)[self.keep :]:
            if path.name != best:
                going = self.checkpoints / f".{path.name}.old.tmp"
                os.rename(path, going)  # so that a half-removed one is never taken for a checkpoint
                shutil.rmtree(going, ignore_errors=True)

    def _insist(self, system: MultiAgentSystem) -> None:
        """Save, whatever it takes within reason. Raises ResourceError."""
        while not self.save(system):
            wait = self._saving.wait
            if self.signal is not None:
                wait = min(wait, 1.0)
                if time.monotonic() + wait > self._signalled_at + GRACE:
                    raise ResourceError(
                        f"{self.signal.name}: the disk refuses, so nothing newer than the last checkpoint is saved"
                    )
            end = time.monotonic() + wait
            while time.monotonic() < end and (self.signal is None or wait <= 1.0):
                time.sleep(0.05)

    # --- signals ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """While inside: the first signal ends the training after its step and saves, the second one exits at once.

        Before the first step has ended and after :meth:`end` nothing is left to be saved: there the first signal raises
        KeyboardInterrupt.
        """
        wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
        before = {number: signal.signal(number, self._signalled) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        now, name = time.monotonic(), signal.Signals(number).name
        if self.signal is None:
            self.signal, self._signalled_at = signal.Signals(number), now
            if self._at_once:
                self.cut_short = True
                raise KeyboardInterrupt
            _say(f"\n{name}: ending after this step and saving; once more ends at once\n")
        elif number != self.signal or now - self._signalled_at >= ECHO:
            _say(f"\n{name} again: ended at once; the last checkpoint is intact\n")
            os._exit(128 + number)

    @property
    def exit_code(self) -> int:
        """0; 130 after Ctrl-C, 75 after other signals (try again later)."""
        if self.signal is None:
            return 0
        return 130 if self.signal == signal.SIGINT else 75

    # --- ending -------------------------------------------------------------------------------------------------------

    def end(self, system: MultiAgentSystem) -> None:
        """Save the final state. Raises ResourceError if the disk refuses for good."""
        self._ended = self._ended or time.monotonic()
        self._insist(system)
        if self._best is None:
            with contextlib.suppress(OSError):
                steps = {"metric": "last", "value": 0.0, "steps": system.steps}
                self._crown(steps | {"checkpoint": f"step-{system.steps:012d}"})
        if self._metrics is not None:
            self._metrics.sync()
        self._at_once = True

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Write how it ended; a full disk is only reported."""
        best = None if self._best is None or self._best["metric"] == "last" else dict(self._best)
        found = checkpoints(self.path)
        last = f"{CHECKPOINTS}/{found[0].name}" if found else None
        said = {"seconds": round(self.seconds, 3), "last": last, "best": best, **summary}
        try:
            self._restore()
            write_json(self.path / SUMMARY, said)
        except ResourceError:
            return  # the folder is somebody else's now
        except OSError as error:
            self.note(f"{self.path / SUMMARY} could not be written ({error.strerror})")

    def close(self) -> None:
        """Close every sink and give the folder free."""
        try:
            for sink in [*self.sinks, *([self._metrics] if self._metrics is not None else [])]:
                with contextlib.suppress(OSError, ResourceError):
                    sink.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Run:
        """Use as a context manager to close it whatever happens."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


def _say(text: str) -> None:
    """To stderr, from inside a signal handler: no buffers, no locks."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


class Lock:
    """A file that says which process writes here. The system's own file lock decides; its words are for people."""

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        """Take it. Raises ConfigError if a living process has it."""
        self.path, self._note = path, note
        self._take()

    def _take(self) -> None:
        path, note = self.path, self._note
        while True:
            self._file = files.opened(path, os.O_RDWR | os.O_CREAT)
            taken = _flock(self._file)
            owner = _owner(self._file)
            if taken is False or (taken is None and _alive(owner)):
                os.close(self._file)
                self._file = -1
                who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another process"
                raise ConfigError(
                    f"{path.parent}: {who} is writing to this run folder; wait, stop it, or choose another --run-dir"
                )
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(self._file).st_ino == os.stat(path).st_ino:
                    break
            os.close(self._file)  # its owner has just removed it: take the new one
        if owner:
            note(f"took over the lock of process {owner.get('pid')} on {owner.get('host')}, which is gone")
        mine = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(mine).encode(), 0)

    @property
    def lost(self) -> bool:
        """Whether the file was removed or replaced, so that it keeps nobody out."""
        try:
            return self._file >= 0 and not os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except OSError:
            return True

    def renew(self) -> None:
        """Take it again if it is lost. Raises ConfigError if another process has it now."""
        if self.lost:
            os.close(self._file)
            self._file = -1
            self._take()

    def release(self) -> None:
        """Give it back."""
        if self._file >= 0:
            if not self.lost:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            os.close(self._file)
            self._file = -1


def _flock(file: int) -> bool | None:
    """Whether the lock was free; None if this file system has none."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _owner(file: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except (ValueError, OSError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _alive(owner: Mapping[str, Any]) -> bool:
    """Whether the process may still be there; one on another machine may."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()


# --- reading a run folder ---------------------------------------------------------------------------------------------


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
def _explained(path: Path) -> Iterator[None]:
    """An OSError as what it means for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in NOT_OURS:
            raise ConfigError(f"--run-dir {path}: cannot be written ({reason})") from None
        raise ResourceError(f"--run-dir {path}: cannot be written ({reason})") from None


def _clear(path: Path) -> None:
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


# --- settings as JSON -------------------------------------------------------------------------------------------------


def described(value: Any) -> Any:
    """Settings as JSON to be compared and read by people; what only code can make is named."""
    from marl.config import name_of

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [described(item) for item in value]
    fields = getattr(value, "__dataclass_fields__", None)
    if fields and not isinstance(value, type):
        return {"$class": name_of(value), **{field: described(getattr(value, field)) for field in fields}}
    return {"$code": name_of(value)}

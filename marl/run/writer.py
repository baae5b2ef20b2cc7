"""The one writer of a run folder: logs, saves, keeps the best checkpoint, and ends the training on a signal."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from marl import checkpoint
from marl.logs import MetricsFile, Sink, read_metrics
from marl.logs.files import RetryBackoff, read_json, sync_folder, write_json
from marl.logs.metrics import keep_until
from marl.run.folder import (
    CHECKPOINTS,
    CONFIG,
    LOCK,
    METRICS,
    SUMMARY,
    check_folder,
    checkpoints,
    clear,
    explained,
    first_valid,
    read_best,
    step_of,
)
from marl.run.lock import Lock
from marl.types import ConfigError, ResourceError, Spec

T = TypeVar("T")
GRACE = 20.0  # seconds to save in after a signal; schedulers kill after 30
ECHO = 0.2  # a signal that comes twice within this time was sent once, to the process and to its group
FIRST_EPISODES = 100  # a mean return over fewer episodes names no best checkpoint


class TrainingSystem(Protocol):
    """What a run folder asks of a system that trains."""

    spec: Spec
    league: Any
    curriculum: Any

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        ...

    @property
    def episodes(self) -> int:
        """Episodes that ended so far."""
        ...

    @property
    def faults(self) -> dict[str, int]:
        """Faults that training survived, by kind."""
        ...

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of training, by what they were spent on."""
        ...

    @property
    def changes(self) -> list[dict[str, Any]]:
        """When settings were changed."""
        ...

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint directory, atomically. Raises OSError if the disk refuses."""
        ...


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
        pause_at: the step at which to end for now; None: at the end of the run.
        ends_process: whether a second signal ends the process; if not, it raises KeyboardInterrupt at once.

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
        ends_process: bool = True,
        pause_at: int | None = None,
    ) -> None:
        """Take the folder; nothing is written but its lock."""
        self.path = Path(path).absolute()
        self.checkpoints = self.path / CHECKPOINTS
        self.keep, self.save_every, self.save_minutes, self.note = max(1, keep), save_every, save_minutes, note
        self.ends_process, self.pause_at = ends_process, pause_at
        self.signal: signal.Signals | None = None
        self.sinks: list[Sink] = []
        check_folder(self.path, resume=resume, force=force)
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path / LOCK, self.note)
        try:
            check_folder(self.path, resume=resume, force=force)  # again, now that nobody else can write
            with explained(self.path):
                if force and not resume:
                    clear(self.path)
                self.checkpoints.mkdir(exist_ok=True)
                checkpoint.remove_leftovers_in(self.checkpoints)
        except BaseException:
            self._lock.release()
            raise
        self._metrics: MetricsFile | None = None
        self._config: dict[str, Any] = {}
        self._usurped: ResourceError | None = None  # another process has begun a run in our folder
        self._saving = RetryBackoff("the checkpoint", lambda text: self.note(text), retry_seconds, patience)
        self._logging = RetryBackoff("the metrics", lambda text: self.note(text), retry_seconds, patience)
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
        with explained(self.path):
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

    def tick(self, system: TrainingSystem) -> bool:
        """Save if it is time; True once a signal has come and everything is saved, or where the run is to pause."""
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
            return self.pauses(system.steps)
        self._insist(system)
        return True

    def pauses(self, steps: int) -> bool:
        """Whether a run that has come to this step is to end for now."""
        return self.pause_at is not None and steps >= self.pause_at

    def save(self, system: TrainingSystem) -> bool:
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
            self._tell_changes(system)
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

    def _tell_changes(self, system: TrainingSystem) -> None:
        """Write into config.json which settings were changed since the beginning, and when."""
        if system.changes != self._config.get("changes", []):
            self._config["changes"] = system.changes
            write_json(self.path / CONFIG, self._config)

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

    def _insist(self, system: TrainingSystem) -> None:
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
        KeyboardInterrupt. Signals reach a process's main thread alone; in another thread there are none to be heard.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
        before = {number: signal.signal(number, self._signaled) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signaled(self, number: int, frame: FrameType | None) -> None:
        now, name = time.monotonic(), signal.Signals(number).name
        if self.signal is None:
            self.signal, self._signalled_at = signal.Signals(number), now
            if self._at_once:
                self.cut_short = True
                raise KeyboardInterrupt
            _say(f"\n{name}: ending after this step and saving; once more ends at once\n")
        elif number == self.signal and now - self._signalled_at < ECHO:
            return
        elif not self.ends_process:
            self.cut_short = True
            raise KeyboardInterrupt
        else:
            _say(f"\n{name} again: ended at once; the last checkpoint is intact\n")
            os._exit(128 + number)

    @property
    def exit_code(self) -> int:
        """0; 130 after Ctrl-C, 75 after other signals (try again later)."""
        if self.signal is None:
            return 0
        return 130 if self.signal == signal.SIGINT else 75

    # --- ending -------------------------------------------------------------------------------------------------------

    def end(self, system: TrainingSystem) -> None:
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

    def summarize(self, summary: Mapping[str, Any]) -> None:
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

"""A training in a run folder, from its first file to its last: one way for the command line and for Python."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from marl import checkpoint
from marl.compiled import decisions
from marl.config import described, other_settings, today
from marl.run.folder import checkpoints, holds_run, step_of
from marl.run.writer import Run, TrainingSystem
from marl.types import CheckpointError, ConfigError, ResourceError, exit_status

if TYPE_CHECKING:
    from marl.training import History
    from marl.training.loop import Request


class Trainable(TrainingSystem, Protocol):
    """What Python's run folders ask of a system beside that."""

    setup: Any
    scenario: Any
    training: Any
    device: Any
    learners: Any
    run_dir: Path | None

    @property
    def history(self) -> History:
        """Everything logged so far."""
        ...

    @property
    def workers(self) -> int:
        """Processes that the copies are spread over."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        ...


@contextlib.contextmanager
def session(run: Run, system: TrainingSystem, summary: Mapping[str, Any]) -> Iterator[None]:
    """While inside: signals end the training and save. Then the final state is saved; summary.json tells of a failure.

    A KeyboardInterrupt, with nothing to be saved, is the caller's to tell; see :func:`interrupted`.
    """
    began_at = system.steps
    try:
        with run.signals():
            yield
            if system.steps > began_at:
                run.end(system)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, ResourceError) and system.steps > began_at:
            # Workers that died for good take their episodes with them, and nothing else.
            with contextlib.suppress(Exception):
                run.save(system)
        run.summarize({**summary, **failure(error), **counts(system)})
        raise


def counts(system: TrainingSystem) -> dict[str, Any]:
    """How far a system came, for summary.json."""
    return {"steps": system.steps, "episodes": system.episodes, "faults": system.faults, "spent": system.spent}


def noted(history: History) -> dict[str, Any]:
    """What summary.json says of a training that learnt nothing."""
    return {"notes": history.notes} if history.notes else {}


def failure(error: BaseException) -> dict[str, Any]:
    """What summary.json says of an error that ended a run."""
    return {"status": "failed", "error": " ".join(str(error).split()), "exit_code": exit_status(error)}


def interrupted(run: Run, system: TrainingSystem, summary: dict[str, Any]) -> str:
    """Write that a signal ended the run, also into ``summary``; returns the status in a word."""
    status = "interrupted" if run.exit_code in (0, 130) else "preempted"
    summary |= {"steps": system.steps, "episodes": system.episodes, "status": status}
    summary |= {"exit_code": run.exit_code or 130}
    summary.setdefault("faults", system.faults)
    summary["spent"] = system.spent
    run.summarize(summary)
    return status


def train_in(
    system: Trainable, path: str | Path, resume: bool, asked: Request,
    evaluation: tuple[int | None, int, int | None],
    train: Callable[..., History],
) -> History:  # fmt: skip
    """Train a system in a run folder.

    Args:
        system: what trains.
        path: the folder. It is new, or one in which this very system trained before, unless ``resume``.
        resume: go on with the run that is there, if there is one, from its newest checkpoint; ``asked`` counts from
            the beginning of that run.
        asked: how long to train.
        evaluation: steps between evaluations, their episodes, and their seed.
        train: trains with keywords ``steps``, ``episodes``, ``log_every`` and ``watcher``.

    Raises:
        ConfigError: if the folder holds another run.
        KeyboardInterrupt: after Ctrl-C, once everything is saved. Other signals raise SystemExit.
    """
    steps = None if asked.last_step is None else asked.last_step - system.steps
    episodes = None if asked.last_episode is None else asked.last_episode - system.episodes
    with _take(system, Path(path).absolute(), resume, steps) as run:
        before = run.config
        if resume:
            _go_back(system, run)
            steps = None if steps is None else steps - system.steps
            episodes = None if episodes is None else episodes - system.episodes
        last = None if steps is None else system.steps + steps
        run.begin(_config(system, run, last, asked, evaluation), system.steps)
        system.run_dir = run.path
        summary: dict[str, Any] = {"seed": system.setup.seed, "run": str(run.path)}
        history = system.history
        rule = asked.stop
        why = ended_by_callback(system, before, last) if resume else None
        over = resume and rule is not None and system.steps > 0 and rule(history["episode_rewards"])
        if why is None and not over and min(one for one in (steps, episodes) if one is not None) > 0:
            try:
                with session(run, system, summary):
                    history = train(steps=steps, episodes=episodes, log_every=asked.log_every, watcher=run)
            except KeyboardInterrupt:
                _stop(run, system, summary)
            if run.signal is not None:
                _stop(run, system, summary)
        else:
            because = "" if why is None else f" ({why}); another number of steps goes on"
            run.note(f"{run.path}: the run is finished already, at step {system.steps:,}{because}")
        run.summarize(summary | counts(system) | noted(history) | {"exit_code": 0, "status": "finished"})
        return history


def ended_by_callback(system: Trainable, before: Mapping[str, Any] | None, last: int | None) -> str | None:
    """Why a callback has ended the run; None if none has, or somebody asks for another length of the run now.

    Args:
        system: as it was saved last.
        before: the run's config.json so far.
        last: the step at which it is to end.
    """
    asked = (before or {}).get("tunable")
    stopped: str | None = system.training.callbacks.stopped
    return stopped or None if isinstance(asked, Mapping) and asked.get("steps") == last else None


def _take(system: Trainable, path: Path, resume: bool, steps: int | None) -> Run:
    """The folder, if this system may write there. Raises ConfigError."""
    own = system.run_dir == path
    if holds_run(path) and not resume:
        newest = max((step_of(one) for one in checkpoints(path)), default=0)
        if not own or newest > system.steps:
            whose = f"this run at a later step, {newest:,}" if own else "a run of another system"
            raise ConfigError(
                f"run_dir {path}: holds {whose}; go on with it by train(run_dir=..., resume=True), which takes its "
                "newest checkpoint, or choose another folder"
            )
    every = None if steps is None else max(1, steps // 10)
    return Run(path, resume=resume or own, save_every=every, ends_process=False)


def _go_back(system: Trainable, run: Run) -> None:
    """Bring a system to the newest checkpoint of the run; if there is none it stays as it is.

    Raises:
        ConfigError: if it is not the system that began the run.
    """
    stored = run.config
    if stored is not None:
        there, here = today(stored.get("settings")), _identity(system)
        if not isinstance(there, dict):
            raise ConfigError(f"run_dir {run.path}: config.json: 'settings' is missing or no dict; was it edited?")
        if not (isinstance(there.get("env"), str) and isinstance(here["env"], str)):
            there["env"] = here["env"]  # code has no name that tells; spaces are compared once it is made
        found = other_settings(there, here)
        if found:
            more = [f"and {len(found) - 6} more"] if len(found) > 6 else []
            raise ConfigError(
                f"run_dir {run.path}: resume: this is not the run that was begun there "
                f"({'; '.join(found[:6] + more)}); undo that, or choose another folder"
            )

    def load(path: Path) -> Mapping[str, Any]:
        state, manifest = checkpoint.load(path)
        try:
            system.load_state_dict(state)
        except Exception as error:
            said = " ".join(str(error).split())
            raise CheckpointError(f"checkpoint {path} does not fit this system: {said:.300}") from error
        return manifest

    taken = run.newest(load)
    if taken is None:
        return
    path, manifest = taken
    different = checkpoint.fingerprint_differences(dict(manifest))
    if different:
        run.note(f"not bit-exact: this process differs from the one that saved ({', '.join(different)})")
    run.note(f"resuming {run.path} from step {system.steps:,} ({path.name})")


def _identity(system: Trainable) -> dict[str, Any]:
    """What makes a run the same, as JSON."""
    name = system.spec.env if system.scenario is None else system.scenario.name
    said = {"name": name, **system.setup.identity()}
    found: dict[str, Any] = json.loads(json.dumps(said))
    return found


def _config(
    system: Trainable,
    run: Run,
    last: int | None,
    asked: Request,
    evaluation: tuple[int | None, int, int | None],
) -> dict[str, Any]:
    """For config.json. A run that the command line began stays one of the command line's.

    A run from Python names no scenario: its checkpoints say what its environment was, in their own words.
    """
    every, episodes, seed = evaluation
    said = {
        "settings": _identity(system),
        "tunable": {
            "steps": last,
            "workers": system.workers,
            "device": str(system.device),
            "threads": None,
            "stop": described(asked.stop),
            "evaluate_every": every,
            "evaluate_episodes": episodes,
            "evaluate_seed": seed,
        },
        "versions": checkpoint.fingerprint(),
        "compiled": decisions(system.learners),
    }
    return {"asked": {}, "scenario": None, "set": []} | (run.config or {}) | said


def _stop(run: Run, system: Trainable, summary: dict[str, Any]) -> NoReturn:
    """Tell how a signal ended the run, then end what called it too."""
    interrupted(run, system, summary)
    newest = max((step_of(one) for one in checkpoints(run.path)), default=0)
    saved = "everything" if newest == system.steps else f"step {newest:,}" if newest else "nothing yet"
    said = f"stopped at step {system.steps:,}; saved in {run.path}: {saved}"
    if run.signal in (None, signal.SIGINT):
        raise KeyboardInterrupt(f"{said}; train(run_dir=..., resume=True) goes on") from None
    run.note(said)
    raise SystemExit(run.exit_code) from None

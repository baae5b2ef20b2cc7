"""``marl train --resume`` of a run that began in Python, with ``train(run_dir=...)``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.cli.asked import Asked
    from marl.stopping import Stop
from marl.cli.output import note, print_json
from marl.cli.plan import loggers_of
from marl.cli.runs import open_run
from marl.cli.status import UsageError, config_error

# The rest of a run's settings stands in its checkpoints.
MAY_CHANGE = {"scenario", "steps", "workers", "device", "threads", "run_dir", "resume", "trust", "quiet", "json"} | {
    "ray",
    "actors",
    "staleness",
    "evaluate_every",
    "evaluate_episodes",
    "evaluate_seed",
    "tensorboard",
    "log",
    "callback",
}


def began_in_python(folder: Path) -> bool:
    """Whether the run in a folder was not begun by the command line: it names no scenario."""
    from marl.logs.files import read_json
    from marl.run import CONFIG

    return (folder / CONFIG).exists() and read_json(folder / CONFIG).get("scenario", "") is None


def go_on(asked: Asked, folder: Path) -> int:
    """Train the system of the newest checkpoint, as ``train(run_dir=..., resume=True)`` does; the exit status.

    Raises:
        ConfigError: if the run cannot be gone on with.
    """
    from marl import parallel
    from marl.cluster import asked_actors
    from marl.config import check_whole
    from marl.environments import MISSING
    from marl.logs.files import read_json
    from marl.overrides import callbacks_said
    from marl.run import CONFIG, SUMMARY

    other = sorted(set(asked.given) - MAY_CHANGE)
    if other:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in other)
        raise UsageError(f"{names}: {folder} is a run that began in Python, which has these settings; leave that out")
    if asked.resume not in ("", "auto"):
        raise UsageError(f"--resume {asked.resume}: a run that began in Python goes on from its newest checkpoint")
    tunable = read_json(folder / CONFIG).get("tunable")
    if not isinstance(tunable, dict):
        raise config_error(f"{folder / CONFIG}: 'tunable' is missing or no dict; was it edited?")
    steps = asked.steps if asked.steps is not None else tunable.get("steps")
    if steps is None:
        raise UsageError("--steps is missing: this run was to train for so many episodes")
    device = asked.device if "device" in asked.given else tunable.get("device", "cpu")
    episodes = asked.evaluate_episodes if "evaluate_episodes" in asked.given else tunable.get("evaluate_episodes", 20)
    if not isinstance(device, str):
        raise config_error(f"{folder / CONFIG}: device: expected a text, got {device!r:.80}; was it edited?")
    seed = asked.evaluate_seed if asked.evaluate_seed is not None else tunable.get("evaluate_seed")
    every = asked.evaluate_every if asked.evaluate_every is not None else tunable.get("evaluate_every")
    callbacks = callbacks_said(asked.callback)
    if asked.threads is not None:
        parallel.set_threads(asked.threads)
    _, system = open_run(folder, "last", device, asked.trust, asked.scenario)
    if system.environments.source is None:
        raise config_error(MISSING)
    with system:
        if asked.workers is not None:
            system.workers = asked.workers
        system.environments.actors = asked_actors(asked.ray, asked.actors, asked.staleness)
        try:
            system.train(
                steps=check_whole("--steps", steps, 1),
                stop=_stop_rule(folder, tunable.get("stop")),
                evaluate_every=None if every is None else check_whole("--evaluate-every", every, 1),
                evaluate_episodes=check_whole("--evaluate-episodes", episodes, 1),
                evaluate_seed=None if seed is None else check_whole("--evaluate-seed", seed, 0),
                loggers=loggers_of(asked),
                callbacks=callbacks,
                progress=not asked.quiet,
                run_dir=folder,
                resume=True,
            )
        except KeyboardInterrupt as stopped:
            if not stopped.args:  # before the run began: main() knows the signal
                raise
            note(f"{str(stopped).partition(';')[0]}; marl train --run-dir {folder} --resume goes on")
            return 130
        except SystemExit as stopped:
            return int(stopped.code or 0)
    if asked.json:
        print_json(read_json(folder / SUMMARY))
    else:
        print(f"run folder: {folder}")
        again = "" if asked.scenario is None else f" --env {asked.scenario}"
        print(f"next: marl evaluate {folder}{again}    marl play {folder}{again}    marl plot {folder}")
    return 0


def _stop_rule(folder: Path, data: Any) -> Stop | None:
    """The rule that config.json says. Raises ConfigError for one that only its author can make again."""
    from marl.config import from_json
    from marl.stopping import MeanReturn

    try:
        stop = from_json(data)
    except Exception as error:
        raise config_error(
            f"{folder}: the run's stop rule cannot be read from its config.json ({error}); go on in Python: "
            "train(run_dir=..., resume=True, stop=...)"
        ) from None
    if stop is not None and not isinstance(stop, MeanReturn):
        raise config_error(f"{folder}: config.json: 'stop' is no rule of this library; was it edited?")
    return stop

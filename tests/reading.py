"""Which files of the library a reader opens to follow an algorithm from the environment's step to the gradient.

The lists are written by hand, in the order in which one reads; a profiler checks that nothing is missing. Levels are
those of the layer table: L0 and L1 are a vocabulary that knows no algorithm (what flows, maths on tensors with an
equation each, plain torch modules, optimizers, settings, threads), so what is called there is taken at its word.

    python -m tests.reading     # the table for docs/architecture.md, and what ran
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import marl
from marl.training import loop

ROOT = Path(marl.__file__).parent
VOCABULARY = (
    *(
        "renamed",
        "types",
        "lazy",
        "files",
        "notebook",
        "parallel",
        "reduce",
        "launched",
        "ranks",
        "compiling",
        "compiled",
        "ops",
    ),
    *(
        "spaces",
        "installed",
        "registry",
        "sources",
        "config",
        "cluster",
        "teams",
        "schedules",
        "graphs",
        "nets",
        "optim",
        "exploration",
    ),
)
# Run on the way and change no number that is learnt from: the clock, the log of episodes, what is said at the end,
# losses of others, of which there are none here.
BYSTANDERS = ("training/state.py", "training/history.py", "training/advice.py", "auxiliary.py")
ON_POLICY = ("training/loop.py", "memory/rollout.py")
OFF_POLICY = (
    *("training/loop.py", "memory/replay/ring.py", "memory/replay/draw.py", "memory/sample.py"),
    "learners/off_policy.py",
)
PATHS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "PPO, MAPPO": (
        lambda: marl.mappo(rollout=8),
        (
            *(*ON_POLICY, "learners/on_policy.py", "learners/ppo.py", "actor_critic.py"),
            *("grid/critics.py", "grid/scope.py", "grid/credit.py"),
        ),
    ),
    "MADDPG": (
        lambda: marl.maddpg(learning_starts=16, batch=16),
        (*OFF_POLICY, "learners/ddpg.py", "action_critic.py", "grid/scope.py", "grid/credit.py"),
    ),
    "QMIX": (
        lambda: marl.qmix(learning_starts=16, batch=16),
        (*OFF_POLICY, "learners/dqn.py", "grid/mixers.py", "grid/scope.py", "grid/credit.py"),
    ),
}


def lines(file: str) -> int:
    """All lines of a file, blank ones and docstrings too."""
    return len((ROOT / file).read_text().splitlines())


def table() -> list[str]:
    """Rows for docs/architecture.md: the algorithm, how many files and lines, and which."""
    rows = []
    for name, (_, files) in PATHS.items():
        listed = ", ".join(f"`{file.removesuffix('.py')}` {lines(file)}" for file in files)
        rows.append(f"| {name} | {len(files)} | {sum(map(lines, files)):,} | {listed} |")
    return rows


def ran(learner: Any) -> set[str]:
    """Files of the library in which code ran between the return of the environment's step and the end of the update."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(f"{ROOT}{os.sep}"):
            found.add(Path(file).relative_to(ROOT).as_posix())

    with marl.compiled.use("off"), marl.MultiAgentSystem(learner, "marl/spread-v0", num_envs=4) as system:
        system.train(steps=64)
        step = system.env.step
        with _noted_updates(note):

            def noted(actions: Any) -> Any:
                sys.setprofile(None)
                result = step(actions)
                sys.setprofile(note)
                return result

            system.env.step = noted  # type: ignore[method-assign]
            try:
                system.train(steps=256)
            finally:
                sys.setprofile(None)
    return found


@contextmanager
def _noted_updates(note: Callable[[FrameType, str, object], None]) -> Iterator[None]:
    """Updates are noted, also those that happen while the environment steps; after each nothing is."""
    update = loop.update

    def noted(*arguments: Any, **keywords: Any) -> bool:
        sys.setprofile(note)
        try:
            return update(*arguments, **keywords)
        finally:
            sys.setprofile(None)

    loop.update = noted
    try:
        yield
    finally:
        loop.update = update


def is_vocabulary(file: str) -> bool:
    """Whether it is of the levels that know no algorithm."""
    return file.partition("/")[0].removesuffix(".py") in VOCABULARY


if __name__ == "__main__":
    print("\n".join(table()))
    for name, (make, files) in PATHS.items():
        print(name, sorted(file for file in ran(make()) if not is_vocabulary(file) and file not in files))

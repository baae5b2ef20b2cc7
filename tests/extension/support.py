"""Values of axes that the library does not know, each a module's source: run here, and once saved in a new process."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import marl
from marl import checkpoint
from tests.support.equality import assert_equal_trees

NAME = "foreign"  # what the module is called in both processes
CLOCKS = ("steps_per_second",)
PUBLIC = (
    "marl",
    "marl.extend",
    "marl.ops",
    "marl.optim",
    "marl.types",
)  # of the library; of everybody else anything goes
RESUME = """
import importlib.util, json, sys

import marl

file, saved, resumed, steps, log_every, episodes, again = json.loads(sys.argv[1])
spec = importlib.util.spec_from_file_location("foreign", file)
foreign = sys.modules["foreign"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(foreign)
made = foreign.make()
vars(foreign).setdefault("train", dict)
with marl.MultiAgentSystem.load(saved, **{name: made[name] for name in again}) as system:
    system.train(steps=steps, log_every=log_every, **foreign.train())
    system.save(resumed)
    print(json.dumps(system.evaluate(episodes).returns))
"""


@dataclass(frozen=True)
class CreditAssigner:
    """What came of it: the run that never stopped, closed; its module; what it had in metrics."""

    system: marl.MultiAgentSystem
    module: ModuleType
    history: dict[str, list[float]]


def trains_saves_loads_resumes(
    folder: Path,
    source: str,
    *,
    again: Sequence[str] = ("env",),
    steps: int = 96,
    log_every: int = 32,
    episodes: int = 2,
) -> CreditAssigner:
    """Train, save, go on; load what was saved in a new process and go on there: both runs are the same bit for bit.

    Args:
        folder: an empty one, such as ``tmp_path``.
        source: of a module that imports public names alone. Its ``make()`` returns the keywords of
            ``MultiAgentSystem``, and ``train()``, if it has one, further keywords of each call of ``train``; what it
            registers is registered in the new process too.
        again: which of these keywords are given again to ``MultiAgentSystem.load``.
        steps: environment steps before the save, and again after it.
        log_every: environment steps between rows of metrics.
        episodes: of the evaluation at the end, which both runs play.
    """
    refuse_private(source)
    file = folder / f"{NAME}.py"
    file.write_text(source)
    module = _load(file)
    train = getattr(module, "train", dict)
    try:
        with marl.MultiAgentSystem(**module.make()) as system:
            before = _numbers(system.learners)
            system.train(steps=steps, log_every=log_every, **train())
            assert before != _numbers(system.learners) or not before, "nothing was learnt"
            system.save(folder / "saved")
            system.train(steps=steps, log_every=log_every, **train())
            system.save(folder / "straight")
            returns = system.evaluate(episodes).returns
        asked = [str(file), str(folder / "saved"), str(folder / "resumed"), steps, log_every, episodes, list(again)]
        there = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-c", RESUME, json.dumps(asked)]
        done = subprocess.run(words, capture_output=True, text=True, env=there, cwd=folder)
        assert done.returncode == 0, done.stderr
        straight, resumed = (checkpoint.load(folder / name)[0] for name in ("straight", "resumed"))
        for state in (straight, resumed):
            for clock in CLOCKS:
                state["history"].pop(clock, None)
        assert_equal_trees(straight, resumed)
        assert json.loads(done.stdout) == list(returns)
    finally:
        sys.modules.pop(NAME, None)
    return CreditAssigner(system, module, {name: list(system.history[name]) for name in system.history})


def refuse_private(source: str) -> None:
    """Fail for a module that imports or touches what is not public."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
            assert not [a.name for a in node.names if a.name.startswith("_")], f"line {node.lineno}: a private name"
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            assert getattr(node.value, "id", "") == "self", f"line {node.lineno}: {node.attr} is private"
        for name in names:
            assert name.partition(".")[0] != "marl" or name in PUBLIC, f"line {node.lineno}: {name} is not public"


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _numbers(learners: Sequence[Any]) -> list[bytes]:
    """Every parameter of every learner."""
    found: list[bytes] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif hasattr(value, "detach"):
            found.append(value.detach().cpu().numpy().tobytes())

    for learner in learners:
        walk({name: part for name, part in learner.state_dict().items() if name in ("model", "net", "actor", "nets")})
    return found

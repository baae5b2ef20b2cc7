"""Layers computed in whole numbers: the ranges of what they read, and whether that is faster than float32.

``y = (q_x W_q) s_x s_w + b`` with ``q_x = round(x / s_x)`` from -127 to 127. Static: ``s_x`` follows from the largest
number that the layer read while the exported team played; dynamic: the graph finds a range for each input anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl.deploy.playing import BundlePlayers
from marl.playing.evaluate import EvaluationPlan, evaluate
from marl.training.trained import Trained
from marl.types import Array, ConfigError
from marl_runtime.bundle import read
from marl_runtime.onnx import session_of
from marl_runtime.program import Program, Runner
from marl_runtime.team import load

EPISODES = 20  # that calibrate a team
ROUNDS, CALLS = 10, 50  # of each contender, in turns


class Recorder(Runner):
    """Computes a program, and keeps the largest number that each of its layers read."""

    def __init__(self, program: Program, bound: Mapping[str, Array], most: dict[str, float]) -> None:
        """``most``: what is kept, by the name of the layer's weights."""
        super().__init__(program, bound)
        self.most = most

    def run(self, values: list[Any], stage: int) -> dict[str, Array]:
        """The results of one stage."""
        results = super().run(values, stage)
        for step in self.program.stages[stage].operations:
            if step.kind == "layer":
                read, weight = np.abs(values[self._places[step.inputs[0]]]), step.inputs[1]
                self.most[weight] = max(self.most.get(weight, 0.0), float(read.max(initial=0.0)))
        return results


def ranges_of(system: Trained, path: Path) -> list[dict[str, float]]:
    """What the layers of each policy of a float32 bundle read while its agents play. Raises ConfigError."""
    bundle, team = read(path), load(path)
    found: list[dict[str, float]] = [{} for _ in bundle.programs]
    for name, agent in team.items():
        entry = bundle.manifest["agents"][name]
        identity = {"identity": np.array(entry["identity"], np.float32)}
        said = entry["policy"]
        numbers = [number for _, number in said] if isinstance(said, list) else [said]
        agent.policies = tuple(
            policy._replace(engine=Recorder(bundle.programs[k], _read_by(bundle.programs[k], identity), found[k]))
            for policy, k in zip(agent.policies, numbers, strict=True)
        )
    players = BundlePlayers.of(system.training.players, team, "numpy", trained=True)
    plan = EvaluationPlan(EPISODES, system.seed, True, task=system.target).checked()
    evaluate(players, plan, system.environments.lender(None, False, False), system.environments.message_entries)
    return found


def _read_by(program: Program, given: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value for name, value in given.items() if name in program.inputs}


def refuse_slower(whole: Sequence[bytes], dynamic: Sequence[bytes]) -> None:
    """Raise ConfigError unless graphs of dynamic int8 are faster than those of float32, one action, one thread."""
    before, after = microseconds(whole, dynamic)
    if after >= before:
        raise ConfigError(
            f"dynamic int8 takes {after:.0f} us an action here and float32 {before:.0f} us, so it would be slower: "
            "choose quantize='int8' (--quantize int8), which is as small"
        )


def microseconds(*contenders: Sequence[bytes]) -> list[float]:
    """The median time of one run of a policy's graphs, batch 1, for each contender."""
    ready = [[(session, _inputs(session)) for session in map(session_of, graphs)] for graphs in contenders]
    times: list[list[int]] = [[] for _ in contenders]
    for turn in range(ROUNDS + 1):  # the first one warms up
        for sessions, taken in zip(ready, times, strict=True):
            for _ in range(CALLS):
                began = time.perf_counter_ns()
                for session, given in sessions:
                    session.run(None, given)
                if turn:
                    taken.append(time.perf_counter_ns() - began)
    return [float(np.median(taken)) / 1e3 for taken in times]


def _inputs(session: Any) -> dict[str, Array]:
    random = np.random.default_rng(0)
    kinds = {"tensor(float)": np.float32, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8}
    return {
        one.name: (random.random((1, *one.shape[1:])) + 0.5).astype(kinds[one.type]) for one in session.get_inputs()
    }

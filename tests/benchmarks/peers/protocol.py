"""How the benchmark talks to a contender: one JSON object a line, on standard input and output.

The contender's first line is ``{"ready": ...}``, ``{"missing": "what is not installed"}`` or ``{"failed": "why"}``. To
``{"iterations": k}`` it answers what running ``k`` of them took: environment steps (one step moves all agents of one
copy), seconds, seconds of processor time, peak memory, and anything else that it measured. Between questions it waits
on its input, so that rounds of several contenders take turns on one machine. An empty line ends it.

Standard library only: contenders run under interpreters that have nothing of ours.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

GAMES = 100  # greedy episodes of an evaluation


@dataclass(frozen=True)
class Work:
    """What everybody has to do, by default PPO on simple_spread, one policy and one critic shared by all agents."""

    copies: int = 128
    agents: int = 3
    max_cycles: int = 25
    neighbors: int = 0  # of our own: agents that each one sees; 0: all
    rollout: int = 128
    epochs: int = 4
    minibatches: int = 4
    hidden: int = 64  # two layers, tanh, actor and critic apart
    lr: float = 2.5e-4
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy: float = 0.01
    max_grad_norm: float = 0.5
    threads: int = 1
    workers: int = 0  # processes that step the environment, where it is stepped by processes
    seed: int = 0
    part: str = "train"  # of our own: train, world, profile, quality, learn
    variant: str = "ippo"  # which learner or network: see the benchmark
    limit: int = 0  # of our own: steps at most until the quality is there; 0: the scenario's
    world: str = "native"  # native or mpe2, which are of our own; the benchmark of single agents: of ``worlds``
    device: str = "cpu"  # of our own
    graphs: bool = True  # of our own: on a GPU, record what is done again and again

    @property
    def steps(self) -> int:
        """Environment steps of one iteration."""
        return self.copies * self.rollout

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Contender:
    """Something to measure. ``iterate(k)`` runs ``k`` iterations and returns environment steps and further numbers."""

    iterate: Callable[[int], dict[str, Any]]
    versions: dict[str, str]
    close: Callable[[], None] = lambda: None


def steady(contender: Contender, count: int) -> Contender:
    """The same without what it did while others took their turns: ``count`` iterations are not measured, each time."""

    def iterate(asked: int) -> dict[str, Any]:
        contender.iterate(count)
        began = time.perf_counter()
        return contender.iterate(asked) | {"seconds": time.perf_counter() - began}

    return Contender(iterate, contender.versions, contender.close)


def peak_memory() -> int:
    """The most memory that this process had so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor_seconds() -> float:
    """Processor time of this process and of its children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def serve(make: Callable[[Work], Contender]) -> None:
    """Answer questions on standard input until it ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    work = Work(**json.loads(sys.argv[1]))

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")

    try:
        idle = peak_memory()
        contender = make(work)
    except ImportError as error:
        answer({"missing": str(error)})
        return
    except Exception:
        answer({"failed": traceback.format_exc()})
        return
    answer({"ready": True, "versions": contender.versions})
    for line in sys.stdin:
        if not line.strip():
            break
        count = int(json.loads(line)["iterations"])
        used, began = processor_seconds(), time.perf_counter()
        result = contender.iterate(count)
        seconds = time.perf_counter() - began
        took = {"seconds": seconds, "processor": processor_seconds() - used}
        answer(took | {"memory": peak_memory(), "idle": idle} | result)
    contender.close()

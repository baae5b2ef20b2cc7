"""Loads states into every world that no run came to, plays on, and prints which were refused: ``python -m`` this.

Run in a process of its own: what is not refused and is not harmless either ends it.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from marl_envs.world import World

from marl.types import CheckpointError
from tests.worlds.every import WORLDS, random_actions

STEPS = 6


def forged(state: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The name of a field, what it was filled with, and the state."""
    names = [("s", name) for name in state["s"]] + [("", name) for name in state if name != "s"]
    for group, name in names:
        value = state[group][name] if group else state[name]
        if not isinstance(value, np.ndarray) or not value.size:
            continue
        fills: list[Any] = [np.nan, np.inf, -1e300]
        if value.dtype.kind in "iu":
            info = np.iinfo(value.dtype)
            fills = [info.min, info.max, info.max // 2, 10**6]
        elif value.dtype == bool:
            fills = [False, True, 255]
        for fill in fills:
            for whole in (True, False):
                other = copy.deepcopy(state)
                place = (other[group] if group else other)[name]
                if value.dtype == bool:
                    place = place.view(np.uint8)  # what a file may say
                place[... if whole else (0,) * place.ndim] = fill
                yield f"{group}.{name}", f"{fill} {'all' if whole else 'first'}", other


def main() -> None:
    """A line for each forged state."""
    for make in WORLDS:
        play(make)


def play(make: type[World]) -> None:
    """Load all forged states of one world."""
    batch, rng = make().batch_env(3), np.random.default_rng(0)
    batch.reset(1)
    batch.step(random_actions(batch, rng))
    saved = batch.state_dict()
    whole = [f".{name}" if name in saved else f"s.{name}" for name in (*saved, *saved["s"])]
    kinds = {name: (saved["s"] if name[0] == "s" else saved).get(name.partition(".")[2]) for name in whole}
    for name, fill, state in forged(saved):
        array = kinds[name]
        says = {"world": make.__name__, "field": name, "fill": fill, "kind": array.dtype.kind, "refused": False}
        print(says, file=sys.stderr, flush=True)  # the last one is known even if the process does not survive it
        other = make().batch_env(3)
        try:
            other.load_state_dict(state)
            for _ in range(STEPS):
                other.step(random_actions(other, rng))
        except CheckpointError:
            says["refused"] = True
        print(json.dumps(says), flush=True)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()
    sys.exit(0)

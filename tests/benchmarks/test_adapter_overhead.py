"""How much of an environment's own speed is left behind the adapter: one copy, random actions, in this process."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from marl.adapters import make

STEPS = 500
ROUNDS = 10
KEPT = 0.85


def _seconds(play: Any, actions: Any) -> float:
    started = time.perf_counter()
    for action in actions:
        play(action)
    return time.perf_counter() - started


def _kept(module: Any, state: bool) -> tuple[float, float]:
    """Env-steps/s of the bare loop and behind the adapter: rounds alternate, the best of each counts."""
    bare, batch = module.parallel_env(), make(module, state=state)
    bare.reset(seed=0)
    batch.reset(0)
    actions = np.random.default_rng(0).integers(0, 5, (STEPS, 1, 3))
    dicts = [{f"agent_{n}": int(action) for n, action in enumerate(joint[0])} for joint in actions]

    def step_bare(joint: dict[str, int]) -> None:
        bare.step(joint)
        if not bare.agents:
            bare.reset()
        if state:
            bare.state()

    def step_adapter(joint: Any) -> None:
        batch.step([joint])

    rounds = [(_seconds(step_bare, dicts), _seconds(step_adapter, actions)) for _ in range(ROUNDS)]
    return STEPS / min(bare for bare, _ in rounds), STEPS / min(adapted for _, adapted in rounds)


@pytest.mark.parametrize("state", [False, True])
def test_the_adapter_keeps_85_percent_of_simple_spread(state: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """``state``: whether ``env.state()`` is read in every step, by the adapter and by the bare loop alike."""
    module = pytest.importorskip("mpe2.simple_spread_v3")
    for _ in range(3):  # another process may disturb one measurement, hardly three
        bare, adapted = _kept(module, state)
        with capsys.disabled():
            print(f"\nsimple_spread, state={state}: bare {bare:,.0f}/s, adapter {adapted:,.0f}/s, {adapted / bare:.1%}")
        if adapted >= KEPT * bare:
            return
    pytest.fail(f"the adapter keeps {adapted / bare:.1%} of the bare environment's speed, expected at least {KEPT:.0%}")

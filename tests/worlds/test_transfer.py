"""A policy trained on a compiled twin plays the original unchanged, and earns the same."""

from __future__ import annotations

import numpy as np
import pytest

import marl

pytest.importorskip("mpe2", reason="the originals need mpe2: pip install 'marl-system[mpe]'")

TWINS = {
    "marl/spread-v0": "mpe2.simple_spread_v3",
    "marl/speaker_listener-v0": "mpe2.simple_speaker_listener_v4",
    "marl/tag-v0": "mpe2.simple_tag_v3",
}


@pytest.mark.parametrize(("twin", "original"), TWINS.items(), ids=[name.split("/")[1] for name in TWINS])
def test_a_policy_of_the_twin_earns_the_same_on_mpe2(twin, original):
    config = marl.ippo(rollout=25, lr=2e-3, normalize_values=True, minibatches=2)
    system = marl.MultiAgentSystem(config, twin, num_envs=16, seed=0)
    system.train(steps=40_000)
    ours, theirs = system.evaluate(300, seed=1), system.evaluate(150, seed=2, env=original)
    for agent, mean in ours.returns_per_agent.items():
        spread = np.std(ours.returns) / len(ours.returns_per_agent) ** 0.5
        error = spread * (1 / 300 + 1 / 150) ** 0.5
        assert abs(mean - theirs.returns_per_agent[agent]) < 5 * error
    error = np.std(ours.returns) * (1 / 300 + 1 / 150) ** 0.5
    assert ours.mean_return == pytest.approx(theirs.mean_return, abs=5 * error)

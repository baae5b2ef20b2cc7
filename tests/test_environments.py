"""Every kind of environment, whole: 2,000 steps of conformance check and two updates of PPO, warnings as errors."""

from __future__ import annotations

import importlib.util

import pytest

import marl
from marl.conformance import check

MPE = ("spread_v3", "speaker_listener_v4", "reference_v3", "adversary_v3", "tag_v3", "push_v3", "crypto_v3")
# Each environment with its keywords; the extra that brings it is its family's.
ENVIRONMENTS: dict[str, dict[str, object]] = {
    **{f"mpe2.simple_{name}": {} for name in MPE},
    "classic/tictactoe-v3": {},
    "classic/connect_four-v3": {},
    "classic/leduc_holdem-v4": {},
    "classic/chess-v6": {},
    "sisl/pursuit-v5": {},
    "sisl/multiwalker-v9": {},
    "butterfly/knights_archers_zombies-v11": {},
    "butterfly/pistonball-v6": {},
    "butterfly/cooperative_pong-v6": {"render_mode": "rgb_array"},  # without it the environment warns at every step
    "CartPole-v1": {},
    "Acrobot-v1": {},
    "Pendulum-v1": {},
}
NEEDS = {"classic": ("chess", "rlcard"), "sisl": ("Box2D",), "butterfly": ("pymunk",), "mpe2": ("mpe2",)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_check_and_two_updates_without_a_warning(name):
    for module in NEEDS.get(name.replace("/", ".").partition(".")[0], ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}: pip install 'marl-system[test]'")
    report = check(name, steps=2_000) if not ENVIRONMENTS[name] else check(_factory(name), steps=2_000)
    assert report.ok, report.errors
    assert not [finding for finding in report.findings if finding.level == "warning"], report.findings
    assert not report.learners["PPO"].startswith("no"), report.learners
    config = marl.PPO(rollout=32, minibatches=2, epochs=1)
    system = marl.MultiAgentSystem(config, name, num_envs=2, env_kwargs=ENVIRONMENTS[name])
    updates = []
    system.train(
        steps=2 * 2 * 32, log_every=1, callback=lambda metrics: updates.append("policy_loss" in metrics) and None
    )
    assert sum(updates) == 2
    system.close()


def _factory(name):
    from marl.adapters.resolve import make_by_name

    return lambda: make_by_name(name, ENVIRONMENTS[name])

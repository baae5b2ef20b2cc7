"""What is said at the end of a training that learnt nothing, and that nothing is said of one that learnt."""

from __future__ import annotations

import json
import random

import pytest

import marl
from marl.cli import main
from marl.training.advice import Learning, nothing_learnt
from tests.support.tiny import Constant, Team

ROLLOUTS = Learning("team", 50_000, 1_024, "rollout=128 x num_envs=8", 48, False)
DRAWS = Learning("team", 50_000, 1_000, "learning_starts=1000", 12_250, True)


def returns(mean, count, seed=0, spread=5.0):
    draw = random.Random(seed)
    return [draw.gauss(mean, spread) for _ in range(count)]


def said(one, episodes, agents=1, **metrics):
    return nothing_learnt(one, {"episode_rewards": episodes, **metrics}, agents)


@pytest.mark.parametrize("one", [ROLLOUTS, DRAWS])
def test_returns_that_rise_are_no_reason_to_say_anything(one):
    assert said(one, returns(20, 300) + returns(24, 300, seed=1)) is None


def test_a_policy_that_hardly_moves_is_told_by_the_share_of_clipped_ratios():
    flat = [19.0, 21.0] * 300
    assert said(ROLLOUTS, flat, clip_fraction=[0.0, 0.001]) == (
        "team 'team' has learnt little: the last 100 episodes returned 20, the first 20; the policy hardly moves "
        "(clip_fraction 0.0005): raise lr or epochs"
    )
    assert "look at lr, discount and exploration" in said(ROLLOUTS, flat, clip_fraction=[0.1, 0.2])


def test_returns_that_fell_are_nothing_learnt_either():
    line = said(DRAWS, [-79.0] * 300 + [-158.0] * 300)
    assert "the last 100 episodes returned -158, the first -79; look at lr, discount and exploration" in line


def test_a_reward_that_was_never_met_is_told_by_returns_that_are_all_the_same():
    line = said(DRAWS, [-200.0] * 600)
    assert "every episode returned -200; no reward tells actions apart: look at exploration" in line


def test_returns_of_rivals_that_always_cancel_say_nothing():
    assert said(ROLLOUTS, [0.0] * 600, agents=2) is None


@pytest.mark.parametrize(
    ("one", "look"),
    [
        (Learning("team", 5_000, 1_024, "rollout=128 x num_envs=8", 4, False), "update more often (rollout=128 x num_"),
        (Learning("team", 5_000, 4_900, "learning_starts=4900", 25, True), "raise updates_per_step"),
    ],
)
def test_few_updates_are_told_by_their_number_unless_returns_rose(one, look):
    for episodes in ([], [19.0, 21.0] * 300):
        assert f"only {one.updates} updates in 5,000 steps: train longer, or {look}" in said(one, episodes)
    assert said(one, returns(20, 300) + returns(30, 300)) is None


def test_too_few_episodes_to_tell_are_no_reason_to_say_anything():
    assert said(ROLLOUTS, [5.0] * 99) is None
    assert said(ROLLOUTS, [5.0] * 100) is not None


def test_a_history_keeps_what_was_said_of_the_latest_training(caplog):
    with marl.MultiAgentSystem(marl.PPO(rollout=8), Constant, num_envs=2) as system:
        history = system.train(steps=8)
        assert "its first update comes after 16 steps (rollout=8 x num_envs=2)" in history.notes[0]
        history = system.train(steps=800)
        assert len(history.notes) == 1
        assert "every episode returned" in history.notes[0]
        assert caplog.text.count("learnt") == 2


def still(env, agents="*", **options):
    """What is said of a policy that cannot move."""
    config = marl.ippo(lr=0.0, rollout=8, minibatches=1, network=marl.MLP((4,)))
    sides = {pattern: config for pattern in agents.split()}
    with marl.MultiAgentSystem(sides, env, num_envs=4, **options) as system:
        return system.train(steps=1_600).notes


def test_nothing_is_said_of_rivals_and_of_those_who_do_not_learn():
    assert len(still(Team)) == 1
    assert still(Team, "agent_0 agent_*") == []
    with marl.MultiAgentSystem(marl.Random(), Constant) as system:
        assert system.train(steps=1_600).notes == []


def test_nothing_is_said_of_tasks_that_change():
    maze = {"env": "marl/gridworld-v0", "env_kwargs": {"width": 4, "height": 4, "max_cycles": 4}}
    assert len(still(**maze)) == 1
    distances = marl.curriculum.DomainRandomization({"distance": marl.curriculum.Between(1, 3)})
    assert still(**maze, curriculum=distances) == []


def test_a_run_folder_says_it_too(tmp_path):
    line = "team 'team' has learnt nothing yet: its first update comes after 1,000 steps (learning_starts=1000)"
    words = ["train", "CartPole-v1", "--algorithm", "dqn", "--steps", "200", "--no-evaluate"]
    assert main([*words, "--run-dir", str(tmp_path / "cli")]) == 0
    with marl.MultiAgentSystem(marl.DQN(), "CartPole-v1") as system:
        system.train(steps=200, run_dir=tmp_path / "python")
    for name in ("cli", "python"):
        assert json.loads((tmp_path / name / "summary.json").read_text())["notes"] == [line]

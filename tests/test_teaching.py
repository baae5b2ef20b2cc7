"""Shaping and curricula in a system: what is taught changes, what is measured does not, and both resume exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import marl
from marl.curriculum import Between, DomainRandomization, LearningProgress, Stage, Stages, Steps
from marl.schedules import Clock
from marl.shaping import Function, PotentialBased, TeamTransition
from marl.shaping.hook import HookContext
from tests.support.tiny import Team

GAMMA = 0.9
# A corridor of four states; 0 steps left, 1 right; the far right pays 1 and ends, the far left pays 0.8 and ends.
STATES = 4


def moves():
    """Every state, action, successor, reward and end of the corridor."""
    for state in range(STATES):
        for action in (0, 1):
            after = state + (1 if action else -1)
            ends = after in (-1, STATES)
            yield state, action, min(max(after, 0), STATES - 1), (1.0 if after == STATES else 0.8) * ends, ends


def best_actions(shape):
    """Value iteration on shaped rewards: the greedy action of each state."""
    rows = list(moves())
    states, actions, after, reward, ends = (np.array(column) for column in zip(*rows, strict=True))
    column = (len(rows), 1)
    seen = TeamTransition(
        obs=states.reshape(*column, 1).astype(np.float32),
        next_obs=after.reshape(*column, 1).astype(np.float32),
        action=actions.reshape(column),
        reward=reward.reshape(column).astype(np.float32),
        terminated=ends.reshape(column),
        truncated=np.zeros(column, dtype=bool),
        acting=np.ones(column, dtype=bool),
        has_future=~ends.reshape(column),
        started=ends,
        state=None,
        next_state=None,
        before=Clock(0),
        now=Clock(1),
    )
    paid = shape(seen, seen.reward)[:, 0]
    q = np.zeros((STATES, 2))
    for _ in range(200):
        q[states, actions] = paid + GAMMA * np.where(ends, 0, q.max(1)[after])
    return q.argmax(1).tolist()


def hook(config):
    spec = marl.MultiAgentSystem(marl.Random(), Team, num_envs=1).spec
    return config.build(HookContext(spec.teams[0], len(list(moves())), GAMMA, np.random.SeedSequence(0)))


def test_a_potential_leaves_the_best_policy_as_it_is_and_a_plain_bonus_does_not():
    plain = best_actions(lambda seen, reward: reward)
    assert plain == [0, 1, 1, 1]
    for height in (-5.0, 5.0):
        assert best_actions(hook(PotentialBased(lambda obs, k=height: k * obs[..., 0]))) == plain
    assert best_actions(hook(Function(lambda seen: -seen.next_obs[..., 0]))) != plain


def test_shaping_never_reaches_evaluation_or_history():
    bonus = [Function(lambda seen: np.full(seen.reward.shape, 100.0))]
    shaped = marl.MultiAgentSystem(marl.Random(), Team, num_envs=2, seed=1, shaping=bonus)
    plain = marl.MultiAgentSystem(marl.Random(), Team, num_envs=2, seed=1)
    for system in (shaped, plain):
        system.train(steps=200)
    assert shaped.history["episode_rewards"] == plain.history["episode_rewards"]
    assert shaped.evaluate(4).returns == plain.evaluate(4).returns
    assert shaped.history["shaped_return"][-1] > 900


@pytest.mark.parametrize("config", [marl.ippo(rollout=8), marl.iql(learning_starts=16, batch=8, buffer=500)])
def test_every_learner_learns_from_the_shaped_reward(config):
    bonus = [Function(lambda seen: np.full(seen.reward.shape, 100.0))]
    system = marl.MultiAgentSystem(config, Team, num_envs=2, seed=1, shaping=bonus)
    system.train(steps=30)
    reward = system.learners[0].memory.reward
    assert reward[reward != 0].min() >= 100


def grid(curriculum, agents=None, seed=0, **options):
    agents = agents or marl.ippo(rollout=16, network=marl.MLP((16,)))
    env_kwargs = {"width": 8, "height": 8, "max_cycles": 20}
    return marl.MultiAgentSystem(
        agents, "marl/gridworld-v0", num_envs=4, seed=seed, curriculum=curriculum, env_kwargs=env_kwargs, **options
    )


SMALL, LARGE = {"width": 3, "height": 3}, {"width": 8, "height": 8}
CURRICULA = {
    "stages": Stages([Stage(SMALL, Steps(at_least=100)), Stage(LARGE)]),
    "random": DomainRandomization({"width": Between(3, 8), "height": Between(3, 8)}),
    "progress": LearningProgress({"width": Between(3, 8), "height": Between(3, 8)}),
}


@pytest.mark.parametrize("name", CURRICULA)
def test_resuming_inside_a_curriculum_is_never_having_stopped(name, tmp_path):
    unbroken = grid(CURRICULA[name])
    unbroken.train(steps=172)
    unbroken.save(tmp_path / "saved")
    unbroken.train(steps=200)
    resumed = marl.MultiAgentSystem.load(tmp_path / "saved")
    resumed.train(steps=200)
    assert resumed.history["episode_rewards"] == unbroken.history["episode_rewards"]
    assert torch.equal(resumed.learners[0].flat.values, unbroken.learners[0].flat.values)


def test_a_stage_is_left_when_its_rule_holds_and_evaluation_plays_the_target():
    system = grid(CURRICULA["stages"])
    stages = []
    system.train(steps=480, log_every=1, callback=lambda metrics: stages.append(metrics["curriculum/stage"]))
    assert stages[0] == 0
    assert stages[-1] == 1
    assert sorted(stages) == stages
    assert system.target == LARGE


@pytest.mark.parametrize(
    ("curriculum", "message"),
    [
        (lambda: Stages([Stage({"widht": 3})]), "width"),
        (lambda: Stages([Stage({"width": 10_000})]), "width"),
        (
            lambda: Stages([Stage(SMALL), Stage(LARGE)]),
            "can never be reached",
        ),
        (lambda: Stages([]), "at least one"),
    ],
)
def test_curricula_without_meaning_are_refused_in_one_line(curriculum, message):
    with pytest.raises(marl.ConfigError) as caught:
        grid(curriculum())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_environment_without_tasks_is_refused():
    with pytest.raises(marl.ConfigError) as caught:
        marl.MultiAgentSystem(marl.ippo(), Team, curriculum=CURRICULA["stages"])
    assert "\n" not in str(caught.value)

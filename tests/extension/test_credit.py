"""Credits of one's own: rewards shared in another way, an outcome that remembers, a critic with its own advantages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import marl
from tests.extension.support import trains_saves_loads_resumes
from tests.support.learning import refused
from tests.support.tiny import Team

SHARE = '''
from dataclasses import dataclass

import marl
from marl.extend import Credit, register
from tests.support.tiny import Team


@register
@dataclass(frozen=True)
class Blend(Credit):
    """A share of one's own reward, the rest of the team's mean."""

    own: float = 0.5

    @property
    def shared(self):
        return TOGETHER

    def share_rewards(self, reward):
        return self.own * reward + (1 - self.own) * reward.mean(-1, keepdims=True)


def make():
    learner = LEARNER
    return {"agents": learner, "env": lambda: Team(length=6, die=(2, None, 4)), "num_envs": 2}
'''
LEARNERS = {
    "ppo": "marl.PPO(credit=Blend(0.25), rollout=8, minibatches=1)",
    "dqn": "marl.DQN(credit=Blend(0.25), batch=8, learning_starts=8, network=marl.MLP((8,)))",
    "sac": "marl.SAC(credit=Blend(0.25), batch=8, learning_starts=8, network=marl.MLP((8,)))",
}
OUTCOME = '''
from dataclasses import dataclass

import numpy as np

import marl
from marl.extend import Credit, TeamStep, register
from tests.support.tiny import Team


@register
@dataclass(frozen=True)
class Best(Credit):
    """The team's mean reward in as far as it is more than the episode has had so far."""

    def share_rewards(self, reward):
        return reward.mean(-1, keepdims=True)

    def outcome(self, num_envs, num_agents):
        return Record(num_envs)


class Record:
    def __init__(self, num_envs):
        self.best = np.zeros((num_envs, 1), dtype=np.float32)

    def __call__(self, step: TeamStep, started, reward=None):
        mean = (step.reward if reward is None else reward).mean(-1, keepdims=True)
        more = np.maximum(mean - self.best, 0)
        self.best = np.where(started[:, None], 0, self.best + more)
        return np.broadcast_to(more, step.reward.shape), step.terminated, step.truncated

    def state_dict(self):
        return {"best": self.best}

    def load_state_dict(self, state):
        self.best = state["best"].copy()


def make():
    learner = marl.PPO(credit=Best(), rollout=8, minibatches=1)
    return {"agents": learner, "env": Team, "num_envs": 2}
'''
CRITIC = '''
from dataclasses import dataclass

import torch
from torch import nn

import marl
from marl.extend import CriticContext, Estimating, Estimator, ValueEstimator, register
from tests.support.tiny import Team


class Pair(nn.Module):
    """``Q(x, a)``: one value for all agents of a joint input and of how many agents took each action."""

    norm = None

    def __init__(self, agents, width, actions):
        super().__init__()
        self.agents, self.carry_shape = agents, (agents, 0)
        self.layers = nn.Sequential(nn.Linear(width + actions, 8), nn.Tanh(), nn.Linear(8, 1))
        self.actions = actions

    def encode(self, x):
        return x


class Total(Estimator):
    """Values of what the team did, and advantages over what the policies would do on average."""

    joint = judges_actions = True

    def __init__(self, context: CriticContext):
        self.net = Pair(context.team.num_agents, context.shape[0], context.team.action.sizes[0])

    def read(self, x, carry, started, acting, action):
        count = marl.ops.one_hot(action, self.net.actions) * acting.unsqueeze(-1)  # (T, B, N, A)
        value = self.net.layers(torch.cat((x, count.sum(-2)), dim=-1))  # (T, B, 1)
        after = carry.unsqueeze(0).expand(x.shape[0], *carry.shape)
        return value.unsqueeze(2).expand(*x.shape[:2], self.net.agents, 1), after

    def advantage(self, estimate, outputs, action, policy):
        taken = marl.ops.batched_index(policy, action)
        return estimate * (1 - taken)


@register
@dataclass(frozen=True)
class Surprise(Estimating):
    """What was unlikely counts more."""

    def share_rewards(self, reward):
        return reward.mean(-1, keepdims=True)

    def estimator(self, context: CriticContext):
        return Total(context)


class Mean(ValueEstimator):
    def advantage(self, estimate, outputs, action, policy):
        return estimate.mean(-1, keepdim=True).expand(estimate.shape)


@register
@dataclass(frozen=True)
class Together(Estimating):
    """The same advantage for everybody."""

    def share_rewards(self, reward):
        return reward

    def estimator(self, context: CriticContext):
        return Mean(context)


def make():
    learner = LEARNER
    return {"agents": learner, "env": Team, "num_envs": 2}
'''


@pytest.mark.parametrize(("name", "together"), [("ppo", True), ("dqn", False), ("sac", True)])
def test_a_credit_of_ones_own(name, together, tmp_path):
    source = SHARE.replace("LEARNER", LEARNERS[name]).replace("TOGETHER", str(together))
    came = trains_saves_loads_resumes(tmp_path, source)
    (learner,) = came.system.learners
    credit = came.module.Blend(0.25)
    assert np.allclose(credit.share_rewards(np.array([4.0, 0.0, 2.0])), [2.5, 1.5, 2.0])
    wanted = marl.extend.TeamOutcome if together else marl.extend.OwnOutcome  # until the team's end, or each its own
    assert type(learner.memory.outcome) is wanted


def test_an_outcome_that_remembers_is_saved(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, OUTCOME, steps=80)
    (learner,) = came.system.learners
    assert type(learner.memory.outcome) is came.module.Record
    assert learner.memory.outcome.best.shape == (2, 1)


def test_a_critic_of_ones_own(tmp_path):
    learner = "marl.PPO(credit=Surprise(), critic=marl.Joint(), rollout=8, minibatches=1)"
    came = trains_saves_loads_resumes(tmp_path, CRITIC.replace("LEARNER", learner))
    (learner,) = came.system.learners
    assert type(learner.model.critic) is came.module.Pair
    assert any(name.startswith("critic.layers") for name in learner.model.state_dict())
    assert refused(learner, "Total")
    with pytest.raises(marl.ConfigError, match=r"Surprise\(\) brings a critic for on-policy learners"):
        marl.MultiAgentSystem(marl.DQN(credit=came.module.Surprise()), Team)


def test_advantages_of_ones_own(tmp_path):
    learner = "marl.A2C(credit=Together(), rollout=8, normalize_advantages=False)"
    came = trains_saves_loads_resumes(tmp_path, CRITIC.replace("LEARNER", learner))
    (learner,) = came.system.learners
    came.system.train(steps=8)
    memory = learner.memory
    memory.time = 0
    with torch.no_grad():
        batch = learner.model.prepare(memory, 0.9, 0.9, None, learner.generator)
    assert torch.equal(batch.advantage, batch.advantage[..., :1].expand(batch.advantage.shape))
    assert batch.advantage.any()

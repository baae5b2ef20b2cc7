"""A learner of one's own: settings, an equation, and everything that all on-policy learners do."""

from __future__ import annotations

import torch

from tests.extension.support import trains_saves_loads_resumes

SOURCE = '''
import marl
from marl.extend import OnPolicy, OnPolicyLearner, config, register, setting, weights_of
from tests.support.tiny import Team


@register
@config
class Reinforce(OnPolicy):
    """REINFORCE with a baseline (Williams 1992)."""

    rollout: int = setting(8, "environment steps per copy between updates", least=1)
    gae_lambda: float = setting(1.0, "lambda of the advantage estimate", least=0, most=1)

    def build(self, spec, team, num_envs, seed, device):
        return ReinforceLearner(self, spec, team, num_envs, seed, device)


class ReinforceLearner(OnPolicyLearner):
    def update(self, clock):
        batch = self.begin_update(clock)
        weight = weights_of(batch.complete, self.model.owner)  # (L, C, N)
        log_prob, _, value = self.model.evaluate(batch)  # (L, C, N)
        policy_loss = -(log_prob * batch.advantage * weight).sum()
        value_loss = 0.5 * ((value - batch.target).square() * weight).sum()
        self.flat.backward(policy_loss + value_loss)
        self.flat.clip(0.5)
        self.optimizer.step()
        self.end_update()
        return {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}


def make():
    return {"agents": Reinforce(network=marl.GRU(8)), "env": Team, "num_envs": 2}
'''
LOSS = '''
import torch

import marl
from marl.extend import PPOLearner, config, register, setting
from tests.support.tiny import Team


@register
@config
class Bold(marl.PPO):
    """PPO that wants each choice to be likely: a term more in its loss."""

    boldness: float = setting(0.0, "weight of the mean log-probability", least=0)

    def build(self, spec, team, num_envs, seed, device):
        return BoldLearner(self, spec, team, num_envs, seed, device)


class BoldLearner(PPOLearner):
    def compute_loss(self, batch, weight, clip, entropy_weight):
        loss, kl, parts = super().compute_loss(batch, weight, clip, entropy_weight)
        log_prob, _, _ = self.model.evaluate(batch)
        return loss - self.settings.boldness * (log_prob * weight).sum(), kl, parts


def make():
    learner = Bold(boldness=0.5, rollout=8, minibatches=1, network=marl.MLP((8,)))
    return {"agents": learner, "env": Team, "num_envs": 2}
'''


def test_a_learner_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE)
    (learner,) = came.system.learners
    assert type(learner) is came.module.ReinforceLearner
    assert learner.carry_width == 8
    assert len(came.history["policy_loss"]) == len(came.history["value_loss"]) == 6


def test_a_loss_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, LOSS)
    (learner,) = came.system.learners
    assert learner.chosen.reason == "BoldLearner may compute something else than PPOLearner"
    plain = came.module.marl.ippo(rollout=8, minibatches=1, network=came.module.marl.MLP((8,)))
    with came.module.marl.MultiAgentSystem(**came.module.make() | {"agents": plain}) as other:
        other.train(steps=2 * 96)
    theirs, ours = (system.learners[0].model.state_dict() for system in (other, came.system))
    assert any(not torch.equal(theirs[name], ours[name]) for name in theirs)

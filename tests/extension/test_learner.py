"""A learner of one's own: settings, an equation, and everything that all on-policy learners do."""

from __future__ import annotations

import torch

from tests.extension.support import trains_saves_loads_resumes
from tests.support.learning import refused

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
OFF_POLICY = '''
import copy
from typing import ClassVar

import torch

import marl
from marl.extend import (
    Categorical, FlatParameters, OffPolicy, OffPolicyLearner, Stepper, at_successors, config, mask_logits, register,
    setting, td_target,
)
from tests.support.tiny import Team


@register
@config
class SoftQ(OffPolicy):
    """Soft Q-learning (Haarnoja et al. 2017)."""

    action_kinds: ClassVar = frozenset(("discrete",))
    temperature: float = setting(0.5, "how much a choice may cost to be as likely as it is", above=0)

    def build(self, spec, team, num_envs, seed, device):
        return SoftQLearner(self, spec, team, num_envs, seed, device)


class SoftQLearner(OffPolicyLearner):
    def __init__(self, settings, spec, team, num_envs, seed, device):
        super().__init__(settings, spec, team, num_envs, seed, device)
        self.head = Categorical(team.action.sizes[0])
        self.net = self.make_net(self.head.size, self.generators(), gain=1.0)
        self.target = copy.deepcopy(self.net)
        self.flat, self.target_flat = (FlatParameters([net], self.owner.num_sets) for net in (self.net, self.target))
        self.optimizer = Stepper(settings.optimizer, self.flat)
        self.remember(settings.critic)

    default_exploration = marl.exploration.Greedy()  # the policy draws its own choices

    @property
    def policy_net(self):
        return self.net

    def choose(self, out, inputs, explore, generator):
        if not explore:
            return self.head.mode(out, inputs.action_mask)
        return self.head.sample(out / self.settings.temperature, inputs.action_mask, generator or self.generator)

    def compute_loss(self, sample):
        """(Q(s, a) - y)^2 / 2 with y = r + gamma T log sum_a' exp(Q'(s', a') / T)."""
        seen, next_seen, t = self.net.encode(sample.obs), self.net.encode(sample.next_obs), self.settings.temperature
        with torch.no_grad():
            next_q = at_successors(self.target, sample, seen, next_seen)  # (L, B, N, A)
            next_value = t * (mask_logits(next_q, sample.next_action_mask) / t).logsumexp(-1)
            target = td_target(sample, next_value, self.settings.n_step)  # (L, B, N)
        q, _ = self.net.read(seen, sample.carry, sample.started, sample.acting)
        error = target - q.gather(-1, sample.action.unsqueeze(-1)).squeeze(-1)
        loss = (0.5 * error.square() * self.experience.weigh(sample)).sum()
        return loss, torch.where(sample.complete, error.detach().abs(), 0.0).mean(0)

    def learn(self, sample):
        loss, error = self.compute_loss(sample)
        self.flat.backward(loss)
        norm = self.optimizer.step(self.settings.max_grad_norm)
        if self.target_due():
            self.target_flat.follow(self.flat, self.settings.tau)
        return {"loss": loss.detach(), "gradient_norm": norm.mean(), "td_error": error}

    def modules(self):
        return {"net": self.net, "target": self.target}

    def optimizers(self):
        return {"net": self.optimizer}

    def policy(self, agent=None):
        net = self.net.restrict(agent)
        return (net if agent is None else net.cpu()), self.head


def make():
    learner = SoftQ(
        batch=16, learning_starts=20, updates_per_step=0.5, prioritized=marl.memory.Prioritized(), sharing="none",
        network=marl.MLP((8,)),
    )
    return {"agents": learner, "env": Team, "num_envs": 2}
'''


def test_a_learner_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE)
    (learner,) = came.system.learners
    assert type(learner) is came.module.ReinforceLearner
    assert learner.carry_width == 8
    assert len(came.history["policy_loss"]) == len(came.history["value_loss"]) == 6


def test_an_off_policy_learner_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, OFF_POLICY)
    (learner,) = came.system.learners
    assert type(learner) is came.module.SoftQLearner
    assert learner.experience.updates == (192 - 20) // 2
    assert len(came.history["loss"]) == 6
    assert learner.memory.priorities is not None


def test_it_learns_from_sequences_as_well(tmp_path):
    recurrent = OFF_POLICY.replace("prioritized=marl.memory.Prioritized(), ", "sequence=4, n_step=2, ")
    came = trains_saves_loads_resumes(tmp_path, recurrent.replace("marl.MLP((8,))", "marl.GRU(8)"))
    assert came.system.learners[0].carry_width == 8


def test_a_loss_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, LOSS)
    (learner,) = came.system.learners
    assert refused(learner, "BoldLearner may compute something else than PPOLearner")
    plain = came.module.marl.ippo(rollout=8, minibatches=1, network=came.module.marl.MLP((8,)))
    with came.module.marl.MultiAgentSystem(**came.module.make() | {"agents": plain}) as other:
        other.train(steps=2 * 96)
    theirs, ours = (system.learners[0].model.state_dict() for system in (other, came.system))
    assert any(not torch.equal(theirs[name], ours[name]) for name in theirs)

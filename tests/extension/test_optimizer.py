"""An optimizer of one's own: Lion (Chen et al. 2023), and a class that is like those of ``torch.optim``."""

from __future__ import annotations

import pytest
import torch

from tests.extension.support import trains_saves_loads_resumes

LION = '''
from dataclasses import dataclass

import torch

import marl
from marl.extend import FlatParameters, Rule, register
from tests.support.tiny import Team


class LionRule:
    recordable = True

    def __init__(self, flat, betas):
        self.flat, self.betas, self.mean = flat, betas, torch.zeros_like(flat.values)

    def move(self, moving, rate):
        share, (b1, b2), gradient = moving.unsqueeze(1), self.betas, self.flat.gradients
        step = (b1 * self.mean + (1 - b1) * gradient).sign()
        self.flat.values.sub_(torch.where(share, rate * step, 0.0))
        self.mean.copy_(torch.where(share, b2 * self.mean + (1 - b2) * gradient, self.mean))

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean.copy_(state["mean"])


@register
@dataclass(frozen=True)
class Lion:
    """Steps of one size, along the sign of a mean of gradients."""

    betas: tuple[float, float] = (0.9, 0.99)

    def build(self, flat: FlatParameters) -> Rule:
        return LionRule(flat, self.betas)


def make():
    lr = marl.Linear(1e-2, 1e-3, 192)
    learner = LEARNER
    return {"agents": learner, "env": Team, "num_envs": 2}
'''
LEARNERS = {
    "ppo": "marl.ippo(rollout=8, minibatches=1, sharing='none', lr=lr, optimizer=Lion())",
    "dqn": "marl.iql(batch=8, learning_starts=8, network=marl.MLP((8,)), lr=lr, optimizer=Lion())",
    "sac": "marl.isac(batch=8, learning_starts=8, network=marl.MLP((8,)), lr=lr, optimizer=Lion())",
}
LIKE_TORCH = '''
import torch

import marl
from tests.support.tiny import Team


class Signs(torch.optim.Optimizer):
    """Steps along the sign of the gradient, which shrink with their number."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "taken": 0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["taken"] += 1
            for parameter in group["params"]:
                parameter.sub_(parameter.grad.sign() * group["lr"] / group["taken"])


def make():
    learner = marl.ippo(rollout=8, minibatches=1, sharing="none", lr=1e-2, optimizer=marl.optim.TorchOptim(Signs))
    return {"agents": learner, "env": Team, "num_envs": 2}
'''


@pytest.mark.parametrize("learner", LEARNERS)
def test_an_optimizer_of_ones_own(learner, tmp_path):
    came = trains_saves_loads_resumes(tmp_path, LION.replace("LEARNER", LEARNERS[learner]))
    learners = came.system.learners
    assert all(type(stepper.rule).__name__ == "LionRule" for stepper in learners[0].optimizers().values())
    flat = next(iter(learners[0].optimizers().values())).flat
    rule, before = came.module.Lion().build(flat), flat.values.clone()
    flat.gradients.fill_(-3.0)
    rule.move(torch.ones(len(flat.values), dtype=torch.bool), torch.tensor(0.5))
    assert torch.allclose(flat.values, before + 0.5)


def test_a_class_like_those_of_torch(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, LIKE_TORCH, again=("env", "agents"))
    state = came.system.learners[0].optimizer.state_dict()
    assert [row["group"]["taken"] for row in state["rows"]] == [120] * 3  # 12 rollouts of 2 x 8 steps, 10 epochs

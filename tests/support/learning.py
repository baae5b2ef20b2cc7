"""Learners on their own, and short trainings."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Discrete

import marl
from marl.compiled import backend
from tests.support.tiny import spec_of


def fill(learner, seed, agents):
    """Put random but reproducible data into a learner's rollout; ``agents`` picks columns of the full team's data."""
    memory = learner.memory
    random = torch.Generator().manual_seed(seed)
    n = 3
    time, envs = memory.steps, memory.num_envs

    def draw(*shape):
        return torch.rand(*shape, generator=random)

    width = memory.obs.shape[-1]
    memory.obs.copy_(draw(time + 1, envs, n, width)[:, :, agents])
    memory.acting.copy_((draw(time + 1, envs, n) < 0.9)[:, :, agents])
    memory.started.copy_(draw(time + 1, envs) < 0.1)
    ended = (draw(time, envs, n) < 0.05)[:, :, agents]
    memory.terminated.copy_(ended)
    if memory.action.is_floating_point():
        memory.action.copy_(torch.randn(time, envs, n, memory.action.shape[-1], generator=random)[:, :, agents])
    else:
        trailing = memory.action.shape[3:]
        memory.action.copy_((draw(time, envs, n, *trailing) * 2).long()[:, :, agents])
    memory.log_prob.copy_((-draw(time, envs, n) - 0.5)[:, :, agents])
    memory.reward.copy_(draw(time, envs, n)[:, :, agents])
    memory.time = time


def learner_of(config, n=3, envs=4, action=None):
    """A learner of ``n`` agents without an environment."""
    spec = spec_of(n, action=action or Discrete(3))
    return config.build(spec, spec.teams[0], envs, np.random.SeedSequence(11), "cpu")


QUICK = {"batch": 16, "learning_starts": 20, "buffer": 500, "network": marl.MLP((16,), "relu"), "updates_per_step": 0.5}


def trained(config, env, steps=200, **options):
    """A system after a short training."""
    system = marl.MultiAgentSystem(config, env, num_envs=2, seed=3, **options)
    system.train(steps=steps)
    return system


def refused(learner, reason):
    """Whether there is no compiled gradient for this reason, or since compiled code is switched off in these tests."""
    said = learner.chosen.reason
    return not learner.chosen.compiled and (reason in said or (not backend.enabled and said == backend.SWITCHED_OFF))

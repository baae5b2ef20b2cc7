"""Off-policy learners where the world is more than a vector and a choice: the dead, images, composite choices."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from gymnasium.spaces import MultiBinary, MultiDiscrete

import marl
from marl.memory.sample import td_target
from marl.schedules import Clock
from tests.support.tiny import Team, Turns

QUICK = {"batch": 16, "learning_starts": 40, "buffer": 1_000, "updates_per_step": 0.1}
SMALL = marl.MLP((16,), "relu")
PIXELS = marl.CNN(channels=(4,), kernels=(3,), strides=(2,), hidden=8)


@pytest.mark.skipif(importlib.util.find_spec("pymunk") is None, reason="needs the extra 'butterfly'")
@pytest.mark.parametrize("recipe", [marl.qmix, marl.vdn])
def test_the_dead_of_knights_archers_zombies_count_for_nothing(recipe):
    config = recipe(network=SMALL, **QUICK)
    env, crowd = "butterfly/knights_archers_zombies-v11", {"max_zombies": 60, "spawn_delay": 1}
    with marl.MultiAgentSystem(config, env, num_envs=2, seed=0, env_kwargs=crowd) as system:
        system.train(steps=500)
        learner = system.learners[0]
        memory = learner.memory
        acted = memory.acting[: memory.size]
        assert 0 < (~acted).sum() < acted.numel() / 2  # somebody died, the others played on

        index = memory.places(200, 1, learner.experience.sampler)
        sample = memory.sample(index, 1, 1, 0.99, generator=learner.experience.sampler)
        dead = ~sample.acting
        assert dead.any()
        assert dead[sample.complete.any(-1, keepdim=True).expand(dead.shape)].any()

        def loss(drawn):
            with torch.no_grad():
                seen = learner.net.encode(drawn.obs)
                out, _ = learner.net.read(seen, drawn.carry, drawn.started, drawn.acting)
                best = out.argmax(-1)
                return learner.mixed_loss(learner.mixer, drawn, seen, seen, out, out, best)[0]

        nonsense = dataclasses.replace(
            sample,
            obs=torch.where(dead.unsqueeze(-1), 50.0, sample.obs),
            action=torch.where(dead, (sample.action + 1) % 6, sample.action),
        )
        alive_next = dataclasses.replace(sample, next_acting=torch.zeros_like(sample.next_acting))
        assert torch.equal(loss(sample), loss(nonsense))  # what the dead saw and did; the state is the environment's
        assert not torch.equal(loss(sample), loss(alive_next))
        assert all(torch.isfinite(flat.values).all() for flat in learner.flats)


@pytest.mark.parametrize(
    "config",
    [
        marl.iql(network=PIXELS, **QUICK),
        marl.qmix(network=PIXELS, **QUICK),
        marl.maddpg(network=PIXELS, **QUICK),
        marl.masac(network=PIXELS, **QUICK),
    ],
    ids=["dqn", "qmix", "maddpg", "masac"],
)
def test_pixels_are_kept_as_bytes_and_learnt_from(config):
    with marl.MultiAgentSystem(config, "marl/gridworld_image-v0", num_envs=2, seed=0) as system:
        system.train(steps=100)
        learner = system.learners[0]
        assert learner.memory.obs.dtype == torch.uint8
        assert learner.experience.updates > 3
        assert all(torch.isfinite(module).all() for module in weights(learner) if module.is_floating_point())
        assert np.isfinite(system.evaluate(2).mean_return)


def weights(learner):
    return [value for module in learner.modules().values() for value in module.state_dict().values()]


@pytest.mark.parametrize("action", [MultiDiscrete([2, 3]), MultiBinary(2)], ids=str)
@pytest.mark.parametrize("recipe", [marl.iql, marl.vdn, marl.isac])
def test_composite_choices_are_refused_by_those_who_value_each_choice(action, recipe):
    class Composite(Team):
        def action_space(self, agent):
            return action

    with pytest.raises(marl.ConfigError, match=r"actions are not supported; it takes .*; PPO, A2C, DDPG and TD3 take"):
        marl.MultiAgentSystem(recipe(), Composite, num_envs=2)


MEMORY = {"network": marl.GRU(8), "sequence": 7, "discount": 0.9}


@pytest.mark.parametrize(
    ("config", "env"),
    [
        (marl.qmix(td_lambda=0.7, **MEMORY, **QUICK), lambda: Team(length=4)),
        (marl.iql(td_lambda=0.7, **MEMORY, **QUICK), lambda: Team(length=6, die=(2, None, 4))),
        (marl.iql(td_lambda=0.7, **MEMORY, **QUICK), lambda: Turns(together=True)),
        (marl.iql(n_step=2, **MEMORY, **QUICK), lambda: Turns(together=True)),
        (marl.maddpg(n_step=3, **MEMORY, **QUICK), lambda: Team(length=4)),
    ],
    ids=["mixer", "deaths", "turns", "turns, two steps", "three steps"],
)
def test_returns_along_sequences_are_of_own_turns(config, env):
    """``G_t = r_t + d_t ((1 - lambda) Q'_t + lambda G_u)``, or ``n`` turns; ``u`` is the next turn."""
    with marl.MultiAgentSystem(config, env, num_envs=2, seed=0) as system:
        system.train(steps=120)
        learner = system.learners[0]
        memory, sample = learner.memory, learner.experience.draw(Clock(120))
        lambda_ = getattr(config, "td_lambda", None)
        value = torch.randn(sample.reward.shape, generator=torch.Generator().manual_seed(0))
        given = td_target(sample, value, learner.settings.n_step, lambda_)
        turn = sample.acting.any(-1, keepdim=True).expand(sample.acting.shape) if memory.by_team else sample.acting

        def goal(t, b, n, turns):
            ahead = value[t, b, n]
            for u in range(t + 1, 7):
                if sample.started[u, b]:
                    break
                if turn[u, b, n]:
                    if lambda_ is not None:
                        ahead = (1 - lambda_) * ahead + lambda_ * goal(u, b, n, turns)
                    elif turns > 1:
                        ahead = goal(u, b, n, turns - 1)
                    break
            return sample.reward[t, b, n] + sample.discount[t, b, n] * ahead

        for t, b, n in sample.complete.nonzero().tolist():
            assert given[t, b, n] == pytest.approx(float(goal(t, b, n, config.n_step)), abs=1e-5)
        assert sample.started[1:].any()  # some sequences run over an episode's end

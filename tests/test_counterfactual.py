"""COMA: what an agent's own action changed, the others' held fixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

import marl
from marl import ops
from marl.schedules import Clock
from tests.support.learning import fill
from tests.support.tiny import Single, Team, Turns, spec_of

SEED = np.random.SeedSequence(5)


def built(config, agents=3, actions=3, copies=4):
    spec = spec_of(agents, action=Discrete(actions))
    return config.build(spec, spec.teams[0], copies, SEED.spawn(1)[0], "cpu")


def values_of_all(learner, batch):
    """``Q`` of every own action, ``(L, C, N, A)``, by asking the critic about each in turn."""
    with torch.no_grad():
        return learner.model.critic_value(
            batch.critic_input, batch.critic_carry, batch.started, batch.acting, batch.action
        )[0]


@pytest.mark.parametrize("sharing", ["all", "none"])
def test_an_agents_advantages_average_to_nothing_under_its_policy(sharing):
    learner = built(marl.coma(sharing=sharing, rollout=8))
    fill(learner, 0, [0, 1, 2])
    with torch.no_grad():
        batch = learner.model.prepare(learner.memory, 0.9, 0.8, None, learner.generator)
        parameters, _ = learner.model.actor.read(batch.seen, batch.carry, batch.started, batch.acting)
    policy, values = parameters.softmax(-1), values_of_all(learner, batch)
    every = torch.arange(3).expand(values.shape)
    advantage = torch.stack([ops.coma_advantage(values, every[..., a], policy) for a in range(3)], dim=-1)
    assert torch.allclose((policy * advantage).sum(-1), torch.zeros(values.shape[:-1]), atol=1e-6)
    taken = advantage.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    assert batch.complete.any()
    assert torch.allclose(batch.advantage, torch.where(batch.complete, taken, 0.0), atol=1e-6)


@pytest.mark.parametrize("sharing", ["all", "none"])
def test_a_value_depends_on_what_the_others_did_and_not_on_the_own_action(sharing):
    learner = built(marl.coma(sharing=sharing, rollout=8))
    fill(learner, 0, [0, 1, 2])
    learner.memory.acting.fill_(True)
    with torch.no_grad():
        batch = learner.model.prepare(learner.memory, 0.9, 0.8, None, learner.generator)
    before = values_of_all(learner, batch)
    batch.action[..., 0] = (batch.action[..., 0] + 1) % 3
    change = (values_of_all(learner, batch) - before).abs().amax((0, 1, 3))
    assert change[0] == 0
    assert (change[1:] > 1e-3).all()
    batch.acting[..., 0] = False  # the dead show no action
    absent = values_of_all(learner, batch)
    batch.action[..., 0] = (batch.action[..., 0] + 1) % 3
    assert torch.equal(values_of_all(learner, batch), absent)


def test_targets_are_lambda_returns_of_the_values_of_actions_taken():
    """By hand: rewards 1, 2, 4; values of what was done 10, 20, 30; the last row's drawn action 40."""
    learner = built(marl.coma(rollout=3, gae_lambda=0.5, discount=0.5), agents=1, actions=2, copies=1)
    memory, model = learner.memory, learner.model
    memory.acting.fill_(True)
    memory.reward[:, 0, 0] = torch.tensor([1.0, 2.0, 4.0])
    memory.action[:, 0, 0] = torch.tensor([0, 1, 0])
    memory.time = 3
    told = torch.tensor([[10.0, 99.0], [99.0, 20.0], [30.0, 99.0], [40.0, 40.0]]).view(4, 1, 1, 2)
    model.critic_value = lambda x, carry, started, acting, action: (
        told[: x.shape[0]],
        carry.expand(x.shape[0], *carry.shape),
    )
    batch = model.prepare(memory, 0.5, 0.5, None, learner.generator)
    last = 4 + 0.5 * 40
    middle = 2 + 0.5 * (0.5 * 30 + 0.5 * last)
    first = 1 + 0.5 * (0.5 * 20 + 0.5 * middle)
    assert batch.target.flatten().tolist() == pytest.approx([first, middle, last])
    # A uniform policy at first: advantages are half the difference between the action and the other one.
    assert batch.advantage.flatten().tolist() == pytest.approx([-44.5, -39.5, -34.5], abs=0.5)


class Lever(Team):
    """Two agents share the reward of agent 0's choice alone; agent 1's says nothing but adds noise of size ``loud``."""

    loud = 2.0

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        noise = self.loud * self.random.choice([-1.0, 1.0]) if actions.get("agent_1") else 0.0
        return observations, {agent: rewards["agent_0"] + noise for agent in rewards}, *rest


@pytest.mark.parametrize(
    "config",
    [
        marl.coma(rollout=16, lr=3e-3, discount=0.0),
        marl.coma(rollout=16, lr=3e-3, discount=0.0, sharing="none"),
        marl.PPO(critic=marl.Joint(of="state"), credit=marl.Counterfactual(), rollout=32, lr=3e-3, discount=0.0),
    ],
    ids=["coma", "coma-none", "ppo"],
)
def test_it_learns_whose_action_it_was(config):
    lever = lambda: Lever(widths=(2, 2), choices=(2, 2))  # noqa: E731
    with marl.MultiAgentSystem(config, lever, num_envs=16, seed=0) as system:
        system.train(steps=16_384 if isinstance(config, marl.PPO) else 24_576)
        agent, random = system.agent("agent_0"), np.random.default_rng(0)
        looks = random.uniform(-1, 1, (100, 2)).astype(np.float32)
        right = [agent.act(look) == (look[0] > 0) for look in looks]
    assert sum(right) >= 90


@pytest.mark.parametrize(
    ("config", "env"),
    [
        (marl.coma(rollout=8), lambda: Team(widths=(2, 3), choices=(2, 3), die=(4, None))),
        (marl.coma(rollout=8, sharing="none", normalize_values=True, normalize_obs=True), Team),
        (marl.coma(rollout=8, sequence=4, network=marl.GRU(8)), Team),
        (marl.coma(rollout=8, critic_network=marl.MLP((8,)), network=marl.GRU(8), sequence=8), Team),
        (marl.PPO(rollout=8, critic=marl.Joint(of="state"), credit=marl.Counterfactual()), Team),
        (marl.PPO(rollout=8, critic=marl.Joint(), credit=marl.Counterfactual(), sharing="none", sequential=True), Team),
        (marl.coma(rollout=8), Turns),
        (marl.coma(rollout=8), Single),
    ],
    ids=["deaths", "sets", "gru", "gru-mlp", "ppo-state", "happo", "turns", "one"],
)
def test_it_runs_on_everything_and_goes_on_bit_for_bit(config, env, tmp_path):
    whole, half = (marl.MultiAgentSystem(config, env, num_envs=2, seed=3) for _ in range(2))
    whole.train(steps=164)
    half.train(steps=84)
    half.save(tmp_path / "half")
    resumed = marl.MultiAgentSystem.load(tmp_path / "half", agents=config, env=env)
    resumed.train(steps=80)
    assert torch.isfinite(whole.learners[0].flat.values).all()
    assert torch.equal(whole.learners[0].flat.values, resumed.learners[0].flat.values)


def test_padded_actions_are_never_drawn_for_a_cut_episode():
    """Agent 0 has two actions of three: its value of a true successor is that of one of them."""
    env = lambda: Team(widths=(3, 3), choices=(2, 3), length=4)  # noqa: E731
    system = marl.MultiAgentSystem(marl.coma(rollout=8), env, num_envs=8, seed=0)
    model, seen = system.learners[0].model, []
    sample = model.distribution.sample

    def watched(parameters, action_mask, generator):
        action = sample(parameters, action_mask, generator)
        seen.append(action.reshape(-1, 2))
        return action

    model.distribution.sample = watched
    system.train(steps=64 * 8)
    drawn = torch.cat(seen)
    assert set(drawn[:, 0].tolist()) == {0, 1}
    assert set(drawn[:, 1].tolist()) == {0, 1, 2}


def test_stacked_parameters_equal_separate_updates_of_each_set():
    """What one set learns does not depend on another's parameters but through the data."""
    one, other = (built(marl.coma(sharing="none", rollout=8)) for _ in range(2))
    other.flat.values.copy_(one.flat.values)
    other.flat.values[2] += 0.1
    for learner in (one, other):
        fill(learner, 0, [0, 1, 2])
        learner.generator.manual_seed(0)
    with torch.no_grad():
        batches = [x.model.prepare(x.memory, 0.9, 0.0, None, x.generator) for x in (one, other)]
    same = [(x.advantage[..., :2], x.value[..., :2]) for x in batches]
    assert torch.equal(same[0][0], same[1][0])
    assert torch.equal(same[0][1], same[1][1])
    for learner in (one, other):
        learner.update(Clock(0, 1))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: marl.MultiAgentSystem(marl.A2C(credit=marl.Counterfactual()), Team), "use critic=Joint"),
        (lambda: marl.MultiAgentSystem(marl.coma(), "Pendulum-v1"), "needs Discrete actions, not box ones"),
        (lambda: marl.MultiAgentSystem(marl.DQN(credit=marl.Counterfactual()), Team), "use A2C or PPO"),
    ],
)
def test_what_has_no_meaning_is_refused(make, reason):
    with pytest.raises(marl.ConfigError, match=reason):
        make()


def test_images_are_judged_too():
    network = marl.CNN(channels=(4,), kernels=(3,), strides=(2,), hidden=8)
    world = "marl/gridworld_image-v0"
    with marl.MultiAgentSystem(marl.coma(rollout=4, network=network), world, num_envs=2, seed=0) as system:
        system.train(steps=16)
        assert torch.isfinite(system.learners[0].flat.values).all()

"""The losses of off-policy learners against the papers' equations, row by row and agent by agent."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import marl
from marl.action_critic import goes_on
from marl.learners import dqn
from marl.learners.off_policy import at_successors
from marl.memory.sample import td_target
from marl.schedules import Clock
from tests.support.learning import QUICK, trained
from tests.support.tiny import Steer, Team

ENVS = {"choices": lambda: Team(choices=(2, 3, 4), die=(4, None, None)), "box": lambda: Steer(die=(4, None, None))}


def drawn(config, env, steps=80):
    """A learner that has learnt a little, and a draw."""
    learner = trained(config, env, steps=steps).learners[0]
    return learner, learner.experience.draw(Clock(steps))


def output(net, agent, obs):
    """What one agent's own network says of one observation."""
    alone = net.restrict(agent)
    row = obs.view(1, 1, 1, -1)
    no, yes = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, 1, dtype=torch.bool)
    with torch.no_grad():
        return alone(row, torch.zeros(1, 1, alone.carry_shape[1]), no, yes)[0][0, 0, 0]


def shown(learner, action):
    """An action as critics see it."""
    if learner.team.action.kind == "box":
        return action
    return torch.nn.functional.one_hot(action, learner.team.action.sizes[0]).float()


def judged(learner, net, sample, b, agent, features, successor):
    """Every critic's values of one row for one agent; ``features``: what each agent does, in order."""
    obs = (sample.next_obs if successor else sample.obs)[0, b]  # (N, O)
    read = torch.cat(features) if learner.critic.joint else features[agent]
    x = obs[agent]
    if learner.critic.joint:
        x = (sample.next_joint if successor else sample.joint)[0, b]
        x = x if x.dim() == 1 else x[agent]  # the state that follows this agent's turn
    agents = len(obs)
    with torch.no_grad():
        values = learner.critic.values_of(net, x.expand(1, 1, agents, -1), read.expand(1, 1, agents, -1))
    return values[:, 0, 0, agent]  # (critics, outputs)


def encoded(learner, sample):
    """Rows and their successors as actors read them."""
    return learner.actor.encode(sample.obs), learner.actor.encode(sample.next_obs)


def targets(learner, sample, monkeypatch):
    """What ``learn`` regresses critics towards ``(B, N)``, and the values it compares."""
    caught = {}

    def note(value, target, weight, complete):
        caught["value"], caught["target"] = value[:, 0], target[0]
        raise StopIteration

    monkeypatch.setattr(sys.modules[type(learner).__module__], "td_loss", note)
    seen, next_seen = encoded(learner, sample)
    extra = (learner.temperature(),) if isinstance(learner.settings, marl.SAC) else ()
    with pytest.raises(StopIteration):
        learner.compute_critic_loss(sample, seen, next_seen, *extra)
    return caught["value"].detach(), caught["target"]


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize(
    "recipe",
    [marl.iddpg, marl.maddpg, lambda **s: marl.itd3(smoothing=0.0, **s), lambda **s: marl.matd3(smoothing=0.0, **s)],
    ids=["iddpg", "maddpg", "itd3", "matd3"],
)
def test_ddpg_and_td3_aim_at_the_target_policies_value(recipe, env, monkeypatch):
    learner, sample = drawn(recipe(n_step=2, **QUICK), ENVS[env])
    value, target = targets(learner, sample, monkeypatch)
    checked = 0
    for b in range(8):
        later, did = [], []
        for agent in range(3):
            out = output(learner.actor_target, agent, sample.next_obs[0, b, agent])
            if env == "box":
                action = torch.tanh(out)
            else:
                action_mask = sample.next_action_mask[0, b, agent]
                action = torch.where(action_mask, out, -torch.inf).argmax()
            acting = sample.complete[0, b, agent] and sample.discount[0, b, agent] > 0
            later.append(shown(learner, action) * acting)
            did.append(shown(learner, sample.action[0, b, agent]) * sample.acting[0, b, agent])
        for agent in range(3):
            if not sample.complete[0, b, agent]:
                continue
            onward = judged(learner, learner.critic.target, sample, b, agent, later, True)[:, 0].min()
            y = sample.reward[0, b, agent] + sample.discount[0, b, agent] * onward
            assert target[b, agent] == pytest.approx(float(y), abs=1e-5)
            now = judged(learner, learner.critic.online, sample, b, agent, did, False)[:, 0]
            assert torch.allclose(value[:, b, agent], now, atol=1e-5)
            checked += 1
    assert checked > 12


def test_td3_smooths_within_its_clip_and_its_actor_climbs_the_first_critic(monkeypatch):
    learner, sample = drawn(marl.itd3(smoothing=0.2, smoothing_clip=0.1, action_cost=0.0, **QUICK), Steer)
    seen, next_seen = encoded(learner, sample)
    plain = torch.tanh(at_successors(learner.actor_target, sample, seen, next_seen))
    caught = []
    original = learner.critic.next_value
    monkeypatch.setattr(learner.critic, "next_value", lambda s, actions: caught.append(actions) or original(s, actions))
    learner.compute_critic_loss(sample, seen, next_seen)
    noise = (caught[0] - plain)[goes_on(sample).expand(plain.shape)]
    assert caught[0].abs().max() <= 1
    assert noise.abs().max() <= 0.1 + 1e-6
    assert (noise.abs() > 0.09).float().mean() > 0.4  # P(|n| > .1 / .2) = .62 are clipped
    loss = learner.compute_actor_loss(sample, seen).item()
    mean = 0.0
    for b in range(16):
        for agent in range(3):
            doing = [torch.tanh(output(learner.actor, k, sample.obs[0, b, k])) for k in range(3)]
            mean += float(judged(learner, learner.critic.online, sample, b, agent, doing, False)[0, 0]) / 16
    assert loss == pytest.approx(-mean, abs=1e-4)


def test_sac_on_boxes_adds_the_entropy_of_what_it_draws(monkeypatch):
    learner, sample = drawn(marl.isac(**QUICK), ENVS["box"])
    seen, next_seen = encoded(learner, sample)
    before = learner.generator.get_state()
    out = at_successors(learner.actor, sample, seen, next_seen)
    action, _ = learner.head.reparameterized(out, learner.generator)
    learner.generator.set_state(before)
    _, target = targets(learner, sample, monkeypatch)
    alpha, action = learner.temperature().detach(), action.detach()
    for b in range(8):
        for agent in range(3):
            if not sample.complete[0, b, agent] or sample.discount[0, b, agent] == 0:
                continue
            mean, raw = output(learner.actor, agent, sample.next_obs[0, b, agent]).chunk(2)
            scale = (-5 + 3.5 * (torch.tanh(raw) + 1)).exp()
            policy = TransformedDistribution(Normal(mean, scale), TanhTransform())
            log_prob = policy.log_prob(action[0, b, agent].clamp(-1 + 1e-6, 1 - 1e-6)).sum()
            doing = list(action[0, b])
            value = judged(learner, learner.critic.target, sample, b, agent, doing, True)[:, 0].min()
            y = sample.reward[0, b, agent] + sample.discount[0, b, agent] * (value - alpha[agent] * log_prob)
            assert target[b, agent] == pytest.approx(float(y), abs=2e-3)


def test_sac_on_choices_takes_exact_expectations_over_legal_ones(monkeypatch):
    learner, sample = drawn(marl.isac(**QUICK), ENVS["choices"])
    value, target = targets(learner, sample, monkeypatch)
    alpha = learner.temperature().detach()
    seen, _ = encoded(learner, sample)
    cost, entropy = learner.compute_actor_loss(sample, seen, alpha)
    weight, total = learner.experience.weigh(sample)[0], 0.0

    def policy(obs, action_mask, agent):
        out = output(learner.actor, agent, obs)
        return torch.where(action_mask, out, -torch.inf).softmax(-1)

    def values(net, successor, b, agent):
        obs = (sample.next_obs if successor else sample.obs)[:, b : b + 1]
        with torch.no_grad():
            return learner.critic.values_of(net, obs, None)[:, 0, 0, agent]  # (2, A)

    for b in range(16):
        for agent in range(3):
            if not sample.complete[0, b, agent]:
                continue
            pi = policy(sample.next_obs[0, b, agent], sample.next_action_mask[0, b, agent], agent)
            q = values(learner.critic.target, True, b, agent).min(0).values
            soft = sum(p * (v - alpha[agent] * math.log(p)) for p, v in zip(pi, q, strict=True) if p > 0)
            y = sample.reward[0, b, agent] + sample.discount[0, b, agent] * soft
            assert target[b, agent] == pytest.approx(float(y), abs=1e-4)
            own = values(learner.critic.online, False, b, agent)
            assert torch.allclose(value[:, b, agent], own[:, sample.action[0, b, agent]], atol=1e-5)
            pi = policy(sample.obs[0, b, agent], sample.action_mask[0, b, agent], agent)
            q = own.min(0).values
            terms = [p * (alpha[agent] * math.log(p) - v) for p, v in zip(pi, q, strict=True) if p > 0]
            total += float(weight[b, agent] * sum(terms))
            surprise = -sum(float(p) * math.log(p) for p in pi if p > 0)
            assert entropy[0, b, agent] == pytest.approx(surprise, abs=1e-4)
    assert cost.item() == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize(("wanted", "sign"), [(50.0, 1), (-50.0, -1)])
def test_each_agents_temperature_moves_towards_the_wanted_entropy(env, wanted, sign):
    learner, sample = drawn(marl.masac(target_entropy=wanted, **QUICK), ENVS[env])
    before = learner.temperature().clone()
    assert before.shape == (3,)
    learner.learn(sample)
    assert (sign * (learner.temperature() - before) > 0).all()
    fixed, sample = drawn(marl.masac(temperature=0.3, **QUICK), ENVS[env])
    fixed.learn(sample)
    assert fixed.temperature().tolist() == pytest.approx([0.3] * 3)


@pytest.mark.parametrize("double", [True, False])
def test_dqn_lets_one_network_choose_and_the_other_judge(double, monkeypatch):
    learner, sample = drawn(marl.iql(double=double, dueling=True, **QUICK), ENVS["choices"])
    caught = {}

    def noted(sample, next_value, n_step, td_lambda):
        caught["value"] = next_value
        return td_target(sample, next_value, n_step, td_lambda)

    with monkeypatch.context() as patch:
        patch.setattr(dqn, "td_target", noted)
        learner.learn(dataclasses.replace(sample))
    learner, sample = drawn(marl.iql(double=double, dueling=True, **QUICK), ENVS["choices"])  # the same, not moved on
    for b in range(8):
        for agent in range(3):
            obs, action_mask = sample.next_obs[0, b, agent], sample.next_action_mask[0, b, agent]
            online, target = (learner.head.values(output(net, agent, obs)) for net in (learner.net, learner.target))
            best = torch.where(action_mask, online if double else target, -torch.inf).argmax()
            assert caught["value"][0, b, agent] == pytest.approx(float(target[best]), abs=1e-5)


def test_errors_cost_what_hysteresis_leniency_and_huber_say():
    error = torch.tensor([-2.0, -0.5, 0.5, 2.0])
    learner, _ = drawn(marl.iql(hysteresis=0.1, **QUICK), Team, steps=10 + 30)
    assert learner.cost(error).tolist() == pytest.approx([0.2, 0.0125, 0.125, 2.0])
    learner, _ = drawn(marl.iql(huber=1.0, **QUICK), Team, steps=40)
    assert learner.cost(error).tolist() == pytest.approx([1.5, 0.125, 0.125, 1.5])
    learner, _ = drawn(marl.iql(leniency=marl.Linear(1.0, 0.0, 80), **QUICK), Team, steps=40)
    many = torch.full((4_000,), -1.0)
    assert (learner.cost(many) == 0).float().mean() == pytest.approx(0.5, abs=0.05)  # half of the way at 40 steps
    assert (learner.cost(-many) == 0.5).all()


@pytest.mark.parametrize(
    "distribution", [marl.nets.Atoms(-3, 3, 7), marl.nets.Quantiles(5, huber=0.7)], ids=["c51", "qr"]
)
def test_distributions_of_returns_by_hand(distribution):
    learner, sample = drawn(marl.iql(distribution=distribution, n_step=2, **QUICK), ENVS["choices"])
    seen, next_seen = learner.net.encode(sample.obs), learner.net.encode(sample.next_obs)
    with torch.no_grad():
        aims = at_successors(learner.target, sample, seen, next_seen)
        best = learner.head.values(aims).argmax(-1)
        out, _ = learner.net.read(seen, sample.carry, sample.started, sample.acting)
        loss, error = learner.separate_loss(sample, out, aims, best)
    weight, total = learner.experience.weigh(sample)[0], 0.0
    bins = distribution.count
    for b in range(16):
        for agent in range(3):
            if not sample.complete[0, b, agent]:
                continue
            reward, worth = float(sample.reward[0, b, agent]), float(sample.discount[0, b, agent])
            rows = output(learner.target, agent, sample.next_obs[0, b, agent]).view(-1, bins)
            own = output(learner.net, agent, sample.obs[0, b, agent]).view(-1, bins)[sample.action[0, b, agent]]
            aim = rows[best[0, b, agent]]
            cost = 0.0
            if isinstance(distribution, marl.nets.Atoms):
                places, mass = np.linspace(-3, 3, 7), np.zeros(7)
                for z, p in zip(places, aim.softmax(-1).tolist(), strict=True):
                    at = (min(max(reward + worth * z, -3), 3) + 3) / 1.0
                    low, high = math.floor(at), math.ceil(at)
                    mass[low] += p * (1 if low == high else high - at)
                    mass[high] += p * (0 if low == high else at - low)
                cost = -float(mass @ own.log_softmax(-1).numpy())
            else:
                for i, q in enumerate(own.tolist()):
                    level = (i + 0.5) / bins
                    for z in aim.tolist():
                        u = reward + worth * z - q
                        huber = 0.5 * u * u if abs(u) <= 0.7 else 0.7 * (abs(u) - 0.35)
                        cost += abs(level - (u < 0)) * huber / bins
            assert error[b, agent] == pytest.approx(cost, abs=1e-4)
            total += float(weight[b, agent]) * cost
    assert loss.item() == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("weighting", ["optimistic", "central"])
def test_weighted_qmix_weighs_as_its_paper_says(weighting):
    credit = marl.WeightedQMix(weighting=weighting, alpha=0.25, state="team")
    learner, sample = drawn(marl.wqmix(credit=credit, **QUICK), lambda: Team(widths=(3, 3), choices=(2, 2)))
    every = [torch.tensor(pair) for pair in ((0, 0), (0, 1), (1, 0), (1, 1))]

    def values(net, mixer, b, obs, action, state):
        own = torch.stack([output(net, n, obs[b, n])[action[n]] for n in range(2)])
        one = torch.nn.functional.one_hot(action, 2).float()
        return float(mixer(own, own, torch.ones(2, dtype=torch.bool), state[b], one))

    now, later = sample.obs[0], sample.next_obs[0]
    state, next_state = now.flatten(1), later.flatten(1)
    central, mixer, loss = learner.mixer.central, learner.mixer.mixer, 0.0
    for b in range(16):
        with torch.no_grad():
            best = torch.stack([output(learner.net, n, later[b, n]).argmax() for n in range(2)])
            onward = values(central.target, central.mixer.target, b, later, best, next_state)
            y = float(sample.reward[0, b, 0]) + float(sample.discount[0, b, 0]) * onward
            action = sample.action[0, b]
            total = values(learner.net, mixer.online, b, now, action, state)
            free = values(central.net, central.mixer.online, b, now, action, state)
            peak = max(every, key=lambda pair: values(learner.net, mixer.online, b, now, pair, state))
            trusted = y > total
            if weighting == "central":
                top = values(central.net, central.mixer.online, b, now, peak, state)
                trusted = y > top or torch.equal(peak, action)
        loss += ((1.0 if trusted else 0.25) * 0.5 * (y - total) ** 2 + (y - free) ** 2) / 16
    assert float(learner.learn(sample)["loss"]) == pytest.approx(loss, rel=1e-4)


def test_targets_are_copied_or_follow():
    learner, sample = drawn(marl.iql(tau=1.0, target_every=3, **QUICK), Team)
    learner.experience.updates = 0
    for update in range(1, 7):
        learner.learn(sample)
        learner.experience.updates += 1
        assert torch.equal(learner.flat.values, learner.target_flat.values) == (update % 3 == 0)
    learner, sample = drawn(marl.maddpg(tau=0.1, **QUICK), Team)
    before = learner.critic.target_flat.values.clone(), learner.actor_target_flat.values.clone()
    learner.learn(sample)
    for old, online, target in zip(
        before,
        (learner.critic.flat, learner.actor_flat),
        (learner.critic.target_flat, learner.actor_target_flat),
        strict=True,
    ):
        assert torch.allclose(target.values, 0.9 * old + 0.1 * online.values, atol=1e-6)


def test_a_burn_in_warms_up_and_carries_may_start_from_nothing():
    config = {**QUICK, "network": marl.GRU(8), "sequence": 5, "burn_in": 2}
    learner, sample = drawn(marl.iql(**config), Team)
    assert sample.complete.all()
    assert learner.experience.weigh(sample)[:2].sum() == 0
    assert learner.experience.weigh(sample).sum() == pytest.approx(1)  # one set, whose mean it is
    assert sample.carry.any()
    learner, sample = drawn(marl.iql(stored_carry=False, **config), Team)
    assert learner.memory.sample(sample.index, 5, 1, 0.9).carry.any()
    assert not sample.carry.any()


def test_an_actors_outputs_cost_what_they_say():
    losses = []
    for cost in (0.0, 2.0):
        learner, sample = drawn(
            marl.iddpg(
                action_cost=cost, updates_per_step=1e-9, **{k: v for k, v in QUICK.items() if k != "updates_per_step"}
            ),
            Steer,
        )
        losses.append(float(learner.compute_actor_loss(sample, encoded(learner, sample)[0]).detach()))
    squares = sum(
        float(output(learner.actor, n, sample.obs[0, b, n]).square().mean()) for b in range(16) for n in range(3)
    )
    assert losses[1] - losses[0] == pytest.approx(2.0 * squares / 16, rel=1e-3)


@pytest.mark.parametrize("env", ["choices", "box"])
def test_facmac_mixes_everybodys_planned_actions(env):
    config = marl.facmac(action_cost=0.0, credit=marl.QMix(state="team"), **QUICK)
    learner, sample = drawn(config, ENVS[env])
    seen, next_seen = encoded(learner, sample)
    loss, _ = learner.compute_critic_loss(sample, seen, next_seen)
    state, next_state = sample.joint[0], sample.next_joint[0]
    wanted = 0.0
    for b in range(16):
        did, later, now, onward = [], [], [], []
        for n in range(3):
            out = output(learner.actor_target, n, sample.next_obs[0, b, n])
            if env == "box":
                later.append(torch.tanh(out))
            else:
                later.append(shown(learner, torch.where(sample.next_action_mask[0, b, n], out, -torch.inf).argmax()))
            did.append(shown(learner, sample.action[0, b, n]))
        for n in range(3):
            now.append(judged(learner, learner.critic.online, sample, b, n, did, False)[0, 0])
            onward.append(judged(learner, learner.critic.target, sample, b, n, later, True)[0, 0])
        with torch.no_grad():
            q, next_q = torch.stack(now), torch.stack(onward)
            nothing = torch.zeros(3, learner.head.size)
            total = learner.mixer.online(q, q, sample.acting[0, b], state[b], nothing)
            following = learner.mixer.target(next_q, next_q, sample.next_acting[0, b], next_state[b], nothing)
        y = sample.reward[0, b, 0] + sample.discount[0, b, 0] * following
        wanted += 0.5 * float(y - total) ** 2 / 16
    assert loss.item() == pytest.approx(wanted, rel=1e-3)
    assert not sample.acting.all()  # somebody was dead
    if env == "box":
        policy_loss = learner.compute_actor_loss(sample, seen)
        learner.actor_flat.backward(policy_loss)
        assert learner.actor_flat.gradients.abs().sum() > 0


def test_importance_weights_reach_the_loss():
    config = marl.iql(prioritized=marl.memory.Prioritized(alpha=0.8, beta=marl.Linear(0.0, 1.0, 160)), **QUICK)
    learner, sample = drawn(config, Team)  # after 80 steps beta is a half
    trees, index = learner.memory.priorities, sample.index  # (B, N): every agent's own places
    for agent in range(3):
        chance = trees.nodes[agent, trees.leaves + index[:, agent].numpy()] / trees.total[agent]
        wanted = (chance / chance.min()) ** -0.5
        assert sample.weight[:, agent].numpy() == pytest.approx(wanted, rel=1e-5)
        assert wanted.min() < 0.95
    even = dataclasses.replace(sample, weight=torch.ones_like(sample.weight))
    assert torch.allclose(learner.experience.weigh(sample), learner.experience.weigh(even) * sample.weight)

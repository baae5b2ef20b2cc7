"""V-trace: rollouts of an older policy are learnt from as if the policy of now had played, as far as clips allow.

At lag 0 nothing is to be corrected, so IMPALA is A2C and APPO is PPO.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete

import marl
from marl import ops
from marl.actor_critic import in_sequences
from marl.recipes import name_of
from marl.schedules import Clock
from marl.studies import train_stacked
from marl.types import ConfigError
from tests.support.equality import assert_equal_trees
from tests.support.learning import fill, learner_of
from tests.support.tiny import Acting, Team, Turns
from tests.support.watching import StopAt

VTRACE = marl.VTrace()
SMALL = {"network": marl.MLP((8,))}
PPO = marl.PPO(rollout=12, minibatches=2, epochs=2, **SMALL)
A2C = marl.A2C(rollout=12, **SMALL)


def dying():
    """Two agents of three die early, one in the middle of a rollout; the end itself is a truncation."""
    return Team(die=(None, 4, 7))


def drawing():
    return Acting(Box(-1, 1, (2,)), die=(None, 4, 7))


CASES = {
    "ppo": (PPO, dying),
    "a2c": (A2C, dying),
    "a2c, lambda": (dataclasses.replace(A2C, gae_lambda=0.7), dying),
    "separate": (dataclasses.replace(PPO, sharing="none"), dying),
    "joint": (dataclasses.replace(PPO, critic=marl.Joint(), normalize_values=True, normalize_obs=True), dying),
    "team": (dataclasses.replace(A2C, critic=marl.Joint(of="state"), credit=marl.TeamReward()), dying),
    "gru": (dataclasses.replace(PPO, network=marl.GRU(8), sequence=4, minibatches=3), dying),
    "gru, whole": (dataclasses.replace(A2C, network=marl.GRU(8), critic=marl.Joint(), sharing="none"), dying),
    "turns": (dataclasses.replace(PPO, normalize_advantages=False), Turns),
    "gaussian": (PPO, drawing),
    "squashed": (dataclasses.replace(A2C, squash=True), drawing),
    "several choices": (A2C, lambda: Acting(MultiDiscrete([2, 3]))),
    "talking": (dataclasses.replace(A2C, channel=marl.TarMAC()), dying),
}


def prepared(learner, correction):
    """What a learner would learn from with a correction; it stays as it is."""
    model, own = learner.model, learner.settings
    state = copy.deepcopy(model.state_dict())
    batch = model.prepare(learner.memory, own.discount, own.gae_lambda, own.sequence, correction=correction).clone()
    model.load_state_dict(state)
    return batch


@pytest.mark.parametrize("case", CASES)
def test_at_lag_0_it_gives_the_advantages_and_targets_of_ppo_and_a2c(case):
    """After some learning, with deaths, turns, ends and episodes that go on past the rollout."""
    config, env = CASES[case]
    compared = []
    with marl.MultiAgentSystem(config, env, num_envs=3, seed=0) as system:
        learner = system.learners[0]
        begin = learner.begin_update

        def watched(clock):
            compared.append([prepared(learner, one) for one in (None, VTRACE)])
            return begin(clock)

        learner.begin_update = watched
        system.train(steps=36 * 4)
    assert len(compared) == 4
    for plain, corrected in compared:
        assert torch.equal(plain.complete, corrected.complete)
        for name in ("advantage", "target"):
            one, other = getattr(plain, name), getattr(corrected, name)
            torch.testing.assert_close(one[plain.complete], other[plain.complete], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", [PPO, A2C], ids=["ppo", "a2c"])
def test_at_lag_0_training_ends_where_ppo_and_a2c_end(config):
    def parameters(correction):
        one = dataclasses.replace(config, correction=correction)
        with marl.MultiAgentSystem(one, dying, num_envs=3, seed=0) as system:
            system.train(steps=400)
            return system.learners[0].flat.values.clone()

    torch.testing.assert_close(parameters(None), parameters(VTRACE), rtol=0, atol=1e-4)


@pytest.mark.parametrize("clips", [(1.0, 1.0), (3.0, 1.0)], ids=["1", "3"])
def test_a_stale_rollout_has_the_targets_of_vtrace(clips):
    """All act and nobody ends, so that the textbook's function says what is right."""
    correction = marl.VTrace(rho=clips[0], c=clips[1])
    learner = learner_of(dataclasses.replace(A2C, rollout=6, gae_lambda=0.9, correction=correction, discount=0.8))
    fill(learner, 0, [0, 1, 2])
    memory, model = learner.memory, learner.model
    memory.acting.fill_(True)
    memory.terminated.fill_(False)
    with torch.no_grad():
        outputs, _ = model.actor(memory.obs[:-1], memory.carry[0], memory.started[:-1], memory.acting[:-1])
        now, _ = model.distribution.evaluate(outputs, None, memory.action)
        value, _ = model.critic(memory.obs, model.critic_carry, memory.started, memory.acting)
        memory.log_prob.copy_(now + torch.linspace(-1.5, 1.5, now.numel()).view(now.shape))
    value, rho = value.squeeze(-1), (now - memory.log_prob).exp()
    assert rho.max() > 4
    wanted = ops.vtrace_td_error_and_advantage(
        value[:-1], value[1:], memory.reward, torch.full_like(rho, 0.8), rho, 0.9, clips[0], clips[0]
    )
    batch = learner.begin_update(Clock(0, 1))

    def rows(x):
        return x.flatten(0, 1).unsqueeze(0)

    torch.testing.assert_close(batch.target, rows(wanted.errors + value[:-1]))
    torch.testing.assert_close(batch.advantage, rows(wanted.q_estimate - value[:-1]))
    assert torch.equal(batch.log_prob, rows(memory.log_prob))
    # A2C's loss is the paper's: the policy moves along the weighed advantage.
    _, parts = learner.compute_loss(batch, 0.0)
    torch.testing.assert_close(parts["policy_loss"], -(now * wanted.pg_advantage).mean())


@pytest.mark.parametrize("network", [marl.MLP((8,)), marl.GRU(8)], ids=["mlp", "gru"])
def test_ratios_are_those_of_the_loss(network):
    """Where sequences begin within an episode, too: the first step of PPO sees the ratios that V-trace saw."""
    learner = learner_of(dataclasses.replace(PPO, network=network, sequence=4, correction=VTRACE))
    fill(learner, 0, [0, 1, 2])
    seen, correct = [], learner.model._correct

    def watched(*inputs):
        seen.append(inputs[8])
        return correct(*inputs)

    learner.model._correct = watched
    batch = learner.begin_update(Clock(0, 1))
    with torch.no_grad():
        ratio = (learner.model.evaluate(batch)[0] - batch.log_prob).exp()
    ratios = in_sequences(seen[0], len(ratio))
    torch.testing.assert_close(ratio[batch.acting], ratios[batch.acting])


def test_pieces_that_fit_into_memory_give_the_numbers_of_the_whole(monkeypatch):
    learner = learner_of(dataclasses.replace(A2C, network=marl.GRU(8), sequence=4))
    fill(learner, 0, [0, 1, 2])
    prepare = learner.model.prepare
    whole = prepare(learner.memory, 0.9, 0.9, 4, correction=VTRACE)
    learner.model.critic_carry.zero_()
    monkeypatch.setattr("marl.actor_critic.CHUNK", 5 * 12)  # five rows of twelve agents: one sequence at a time
    pieces = prepare(learner.memory, 0.9, 0.9, 4, correction=VTRACE)
    torch.testing.assert_close(whole.target, pieces.target)
    torch.testing.assert_close(whole.advantage, pieces.advantage)


@pytest.mark.parametrize("lag", [1, 3])
def test_the_policy_of_some_updates_ago_plays(lag):
    """Its log-probabilities are stored, with the normalizers that it had."""
    config = dataclasses.replace(A2C, lag=lag, normalize_obs=True, lr=0.05)
    past, checked = [], 0
    with marl.MultiAgentSystem(config, dying, num_envs=3, seed=0) as system:
        learner = system.learners[0]
        past.append(copy.deepcopy(learner.model))
        begin, end = learner.begin_update, learner.end_update

        def began(clock):
            nonlocal checked
            player, memory = past[max(0, len(past) - 1 - lag)], learner.memory
            with torch.no_grad():
                rows = (memory.carry[0], memory.started[:-1], memory.acting[:-1])
                outputs, _ = player.actor(memory.obs[:-1], *rows)
                log_prob, _ = player.distribution.evaluate(outputs, None, memory.action)
            acting = memory.acting[:-1]
            torch.testing.assert_close(log_prob[acting], memory.log_prob[acting])
            checked += 1
            return begin(clock)

        def ended():
            end()
            past.append(copy.deepcopy(learner.model))

        learner.begin_update, learner.end_update = began, ended
        system.train(steps=36 * 6)
    assert checked == 6
    first, last = past[0].actor.norm.state_dict(), past[-1].actor.norm.state_dict()
    assert any(not torch.equal(first[name], last[name]) for name in first)


@pytest.mark.parametrize("network", [marl.MLP((8,)), marl.GRU(8)], ids=["mlp", "gru"])
def test_a_lagging_run_goes_on_exactly_where_it_was_cut(network, tmp_path):
    config = marl.impala(rollout=5, lag=2, network=network, normalize_obs=True)
    straight = marl.MultiAgentSystem(config, dying, num_envs=4, seed=1)
    straight.train(steps=400)
    cut = marl.MultiAgentSystem(config, dying, num_envs=4, seed=1)
    cut.train(steps=400, watcher=StopAt(228))
    cut.save(tmp_path / "checkpoint")
    resumed = marl.MultiAgentSystem.load(tmp_path / "checkpoint", env=dying)
    resumed.train(steps=400 - resumed.steps)
    assert_equal_trees(straight.state_dict()["learners"], resumed.state_dict()["learners"])


def test_recipes_are_told_from_those_without_a_correction():
    names = [name_of(one) for one in (marl.impala(), marl.ia2c(), marl.appo(), marl.ippo(), marl.maa2c())]
    assert names == ["impala", "a2c", "appo", "ppo", "maa2c"]
    assert name_of(marl.impala(critic=marl.Joint())) == "impala"
    assert name_of(marl.PPO(sequential=True)) == "ppo"


def test_what_makes_no_sense_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"expected c of at most rho, got c=1 and rho=0.5"):
        marl.VTrace(rho=0.5)
    with pytest.raises(ConfigError, match=r"Counterfactual\(\) judges actions; use correction=None or another credit"):
        learner_of(marl.coma(correction=VTRACE))
    with pytest.raises(ConfigError, match=r"lag=1 lets an older policy play.*use lag=0 or channel=None"):
        learner_of(marl.ippo(lag=1, channel=marl.TarMAC()))


def test_stacked_training_takes_corrected_members_and_refuses_lagging_ones():
    def members(**more):
        config = dataclasses.replace(PPO, correction=VTRACE, **more)
        return [marl.MultiAgentSystem(config, Team, num_envs=2, seed=seed) for seed in (0, 1)]

    with marl.compiled.use("auto"):  # what stacked training is about
        alone, together = members(), members()
        for system in alone:
            system.train(steps=96)
        train_stacked(together, steps=96)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.learners[0].flat.values, other.learners[0].flat.values)
    with marl.compiled.use("auto"), pytest.raises(ConfigError, match="lag= lets an older policy play"):
        train_stacked(members(lag=1), steps=96)

"""Networks whose agents talk: what passes between them, and what must not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import marl
from marl.schedules import Clock
from marl.topology import Complete, Graph, Nearest, Star, Where
from marl.training.loop import advance
from tests.support.channels import NETWORKS, build, play
from tests.support.equality import assert_equal_trees
from tests.support.tiny import Hear, Team, Turns

SPEECHES = [
    marl.CommNet(),
    marl.CommNet(size=4, rounds=2),
    marl.IC3Net(),
    marl.IC3Net(rounds=1),
    marl.TarMAC(signature=4, value=6),
    marl.TarMAC(signature=4, value=6, rounds=2),
    marl.GraphAttention(size=4),
    marl.GraphAttention(size=4, rounds=1),
    marl.DIAL(size=2),
    marl.DIAL(size=2, rounds=1),
]


def name(value):
    return f"{type(value).__name__}{getattr(value, 'rounds', '')}"


@pytest.mark.parametrize("network", NETWORKS, ids=name)
@pytest.mark.parametrize("channel", SPEECHES, ids=name)
def test_permuting_agents_permutes_outputs(channel, network):
    net = build(channel, network, agents=4)
    obs = torch.randn(5, 2, 4, 4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(play(net, obs)[:, :, order], play(net, obs[:, :, order]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("index", [(0, 0, 0), (0, 1, 2), (0, 1, 1)], ids=str)
@pytest.mark.parametrize("network", NETWORKS, ids=name)
@pytest.mark.parametrize("channel", SPEECHES, ids=name)
def test_messages_matter_and_a_cut_edge_blocks_information_and_gradient(channel, network, index):
    # 0 -> 1 -> 2: what 2 sees never reaches 0 or 1, what 0 sees reaches all, along the edges only
    chain = dataclasses.replace(channel, topology=Graph([(0, 1), (1, 2)]))
    net = build(chain, network, index=index, executing=False)
    if net.link_simulator.keyed:
        carry = torch.zeros(1, *net.carry_shape)
        net.seed(carry, torch.Generator().manual_seed(0))
    else:
        carry = None
    obs = torch.randn(4, 1, 3, 4, requires_grad=True)
    before = play(net, obs, carry=carry)
    changed = obs.detach().clone()
    changed[:, :, 2] += 1
    after = play(net, changed, carry=carry)
    assert torch.equal(after[:, :, :2], before[:, :, :2])
    assert not torch.equal(after[:, :, 2], before[:, :, 2])
    (gradient,) = torch.autograd.grad(before[:, :, :2].sum(), obs, retain_graph=True)
    assert not gradient[:, :, 2].any()
    (gradient,) = torch.autograd.grad(before[:, :, 1].square().sum(), obs)
    assert gradient[:, :, 0].any()  # what 0 said changes what 1 does


@pytest.mark.parametrize("channel", SPEECHES, ids=name)
def test_who_is_not_active_is_silent_and_unheard(channel):
    net = build(channel)
    obs = torch.randn(4, 2, 3, 4)
    acting = torch.ones(4, 2, 3, dtype=torch.bool)
    acting[1:, :, 2] = False
    changed = obs.clone()
    changed[1:, :, 2] *= -3
    first, second = play(net, obs, acting), play(net, changed, acting)
    assert torch.equal(first[:, :, :2], second[:, :, :2])
    assert not torch.equal(play(net, obs)[:, :, :2], play(net, changed)[:, :, :2])


@pytest.mark.parametrize("index", [(0, 0, 0), (0, 1, 2), (0, 1, 1)], ids=str)
@pytest.mark.parametrize("topology", [Complete(), Nearest(1, (0, 1))], ids=name)
@pytest.mark.parametrize("channel", SPEECHES, ids=name)
def test_many_steps_at_once_are_the_steps_one_by_one(channel, topology, index):
    net = build(dataclasses.replace(channel, topology=topology), marl.GRU(8), index=index)
    seen = net.encode(torch.randn(6, 2, 3, 4))
    carry = 0.1 * torch.randn(2, *net.carry_shape)
    start, acting = torch.rand(6, 2) < 0.3, torch.rand(6, 2, 3) < 0.8
    outputs, carries = net.read(seen, carry, start, acting)
    for t in range(6):
        here = slice(t, t + 1)
        output, after = net.read(seen[here], carry, start[here], acting[here])
        torch.testing.assert_close(outputs[here], output, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(carries[here], after, rtol=1e-5, atol=1e-6)
        carry = after[0]


@pytest.mark.parametrize("channel", [marl.CommNet(), marl.TarMAC(), marl.DIAL(link=marl.Link(delay=2))], ids=name)
def test_an_episode_begins_in_silence(channel):
    net = build(channel, NETWORKS[1])
    obs = torch.randn(6, 1, 3, 4)
    start = torch.zeros(6, 1, dtype=torch.bool)
    start[3] = True
    whole = play(net, obs, start=start)
    torch.testing.assert_close(whole[3:], play(net, obs[3:]), rtol=0, atol=0)


def test_what_is_said_at_a_step_is_heard_in_the_next_and_no_later():
    net = build(marl.CommNet())
    obs = torch.zeros(6, 1, 3, 4)
    loud = obs.clone()
    loud[2, 0, 0] = 1.0  # only here, only agent 0
    differs = (play(net, obs) != play(net, loud)).any(-1)[:, 0]  # (T, N)
    assert differs[2].tolist() == [True, False, False]
    assert differs[3].tolist()[1:] == [True, True]
    assert not differs[:2].any()
    within = build(marl.CommNet(rounds=1))
    differs = (play(within, obs) != play(within, loud)).any(-1)[:, 0]
    assert differs[2].all()
    assert differs.sum() == 3


def test_commnet_by_hand():
    net = build(marl.CommNet(rounds=1), marl.MLP((2,), "tanh"), agents=3, width=2)
    with torch.no_grad():
        net.body.layers[0].weight.copy_(torch.eye(2)[None])
        net.speech.own[0].weight.copy_(2 * torch.eye(2)[None])
        net.speech.others[0].weight.copy_(torch.eye(2)[None])
        net.head.weight.copy_(torch.eye(2, 5)[None])
    obs = torch.tensor([[[[0.1, 0.2], [0.3, 0.4], [-0.5, 0.6]]]])
    h = torch.tanh(obs[0, 0])
    mean = torch.stack([(h[1] + h[2]) / 2, (h[0] + h[2]) / 2, (h[0] + h[1]) / 2])
    torch.testing.assert_close(play(net, obs)[0, 0, :, :2], torch.tanh(2 * h + mean))


def test_tarmac_looks_where_signatures_match_its_query():
    net = build(marl.TarMAC(signature=2, value=1, rounds=1), marl.MLP((2,), "tanh"), agents=3, width=2)
    query = torch.tensor([[[1.0, 0.0]]])
    inbox = marl.channels.Inbox(
        torch.tensor([[[[1.0, 0.0, 5.0], [0.0, 1.0, 7.0], [9.0, 9.0, 100.0]]]]), torch.tensor([[[1.0, 1.0, 0.0]]])
    )
    e = np.exp(1 / np.sqrt(2))
    assert net.speech.hear(query, inbox).item() == pytest.approx((5 * e + 7) / (e + 1), rel=1e-6)
    nobody = marl.channels.Inbox(inbox.message, torch.zeros(1, 1, 3))
    assert net.speech.hear(query, nobody).item() == 0


def test_a_closed_gate_is_silence_with_a_gradient():
    net = build(marl.IC3Net(rounds=1))
    with torch.no_grad():
        net.speech.gate.bias.fill_(-50.0)
    obs = torch.randn(1, 1, 3, 4)
    changed = obs.clone()
    changed[:, :, 0] += 1
    assert torch.equal(play(net, obs)[:, :, 1:], play(net, changed)[:, :, 1:])
    with torch.no_grad():
        net.speech.gate.bias.fill_(-0.5)
        net.speech.gate.weight.zero_()
    (gradient,) = torch.autograd.grad(play(net, obs).square().sum(), net.speech.gate.bias)
    assert gradient.abs().sum() > 0


def test_dial_learns_with_noise_and_executes_with_bits():
    channel = marl.DIAL(size=3, noise=2.0)
    net = build(channel, executing=False)
    raw = torch.randn(4, 3, 3)
    spoken = net.speech.modulate(raw, torch.ones_like(raw))
    torch.testing.assert_close(spoken, 2 * torch.sigmoid(raw + 2) - 1)
    assert set(net.speech.modulate(raw, None).unique().tolist()) == {-1.0, 1.0}
    obs = torch.randn(3, 50, 3, 4)
    carry = torch.zeros(50, *net.carry_shape)
    net.seed(carry, torch.Generator().manual_seed(0))
    assert torch.equal(play(net, obs, carry=carry), play(net, obs, carry=carry))  # the key decides
    other = torch.zeros(50, *net.carry_shape)
    net.seed(other, torch.Generator().manual_seed(1))
    assert not torch.equal(play(net, obs, carry=carry), play(net, obs, carry=other))


# --- in systems -------------------------------------------------------------------------------------------------------


RECIPES = [
    marl.ippo(rollout=20, minibatches=2),
    marl.mappo(rollout=20, minibatches=2, sharing="none"),
    marl.ia2c(rollout=10),
    marl.coma(rollout=10),
    marl.iql(learning_starts=20, batch=4, sequence=5),
    marl.vdn(learning_starts=20, batch=4, sequence=5, td_lambda=0.8),
    marl.qmix(learning_starts=20, batch=4, sequence=5),
    marl.qplex(learning_starts=20, batch=4, sequence=5),
    marl.wqmix(learning_starts=20, batch=4, sequence=5),
    marl.iddpg(learning_starts=20, batch=4, sequence=5),
    marl.maddpg(learning_starts=20, batch=4, sequence=5),
    marl.matd3(learning_starts=20, batch=4, sequence=5),
    marl.masac(learning_starts=20, batch=4, sequence=5),
    marl.maa2c(rollout=10),
    marl.happo(rollout=20, minibatches=2),
    marl.itd3(learning_starts=20, batch=4, sequence=5),
    marl.isac(learning_starts=20, batch=4, sequence=5),
    marl.facmac(learning_starts=20, batch=4, sequence=5),
]


def recipe_name(value):
    return f"{type(value).__name__}-{type(value.credit).__name__}-{type(value.critic).__name__}-{value.sharing}"


@pytest.mark.parametrize("config", RECIPES, ids=recipe_name)
@pytest.mark.parametrize("which", range(3))
def test_every_recipe_talks_and_acts_alone_as_in_a_batch(config, which):
    channel = SPEECHES[(RECIPES.index(config) * 3 + which) % len(SPEECHES)]
    network = NETWORKS[which % 2]
    config = dataclasses.replace(config, channel=channel, network=network)
    with marl.MultiAgentSystem(config, lambda: Team(length=6, die=(3,)), num_envs=4, seed=1) as system:
        system.train(steps=120)
        batched = system.evaluate(6, num_envs=2)
        alone = system.evaluate(6, num_envs=2, decentralized=True)
    assert batched.returns_per_agent == alone.returns_per_agent
    assert batched.episode_lengths == alone.episode_lengths


@pytest.mark.parametrize(
    "link",
    [marl.Link(loss=0.3, noise=0.5), marl.Link(delay=1, bits=3, loss=0.1), marl.Link(budget=3, noise=0.1)],
    ids=["noisy", "late", "dear"],
)
@pytest.mark.parametrize(
    "channel",
    [
        marl.TarMAC(),
        marl.DIAL(),
        marl.CommNet(rounds=2),
        marl.IC3Net(),
        marl.GraphAttention(topology=Nearest(1, (0, 1), among=Where(speak=2))),
    ],
    ids=name,
)
def test_rows_are_judged_on_what_was_heard(channel, link):
    """Before the first update new and old probabilities are one, whatever chance did to the messages."""
    config = marl.ippo(channel=dataclasses.replace(channel, link=link), rollout=12, network=marl.MLP((8,)))
    with marl.MultiAgentSystem(config, lambda: Team(length=5), num_envs=4, seed=3) as system:
        learner = system.learners[0]
        env = system.training.open()
        for _ in range(12):
            advance(system.training, env)
        batch = learner.begin_update(marl.schedules.Clock(0, 1))
        shuffled = batch.select(torch.tensor([2, 0, 3, 1]))
        log_prob, *_ = learner.model.evaluate(shuffled)
    torch.testing.assert_close(log_prob.detach(), shuffled.log_prob, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        marl.mappo(
            channel=marl.TarMAC(link=marl.Link(loss=0.2, delay=1)), rollout=16, minibatches=2, network=marl.GRU(6)
        ),
        marl.iql(channel=marl.DIAL(), learning_starts=20, batch=4, sequence=5, network=marl.GRU(6)),
        marl.maddpg(channel=marl.CommNet(rounds=1, link=marl.Link(noise=0.1)), learning_starts=20, batch=4),
    ],
    ids=["mappo", "iql", "maddpg"],
)
def test_resume_in_mid_sentence_equals_never_having_stopped(config, tmp_path):
    def env():
        return Team(length=7)

    with marl.MultiAgentSystem(config, env, num_envs=2, seed=5) as system:
        system.train(steps=50)
        system.save(tmp_path / "half")
        system.train(steps=50)
        unbroken = system.state_dict()["learners"]
    with marl.MultiAgentSystem.load(tmp_path / "half", env=env) as system:
        system.train(steps=50)
        assert_equal_trees(system.state_dict()["learners"], unbroken)


@pytest.mark.parametrize("recipe", [marl.iql, marl.wqmix, marl.maddpg], ids=lambda recipe: recipe.__name__)
def test_sequences_from_nothing_have_noise_of_their_own(recipe):
    """A carry of zeros has no key: every sequence would be learnt with the very same noise."""
    config = recipe(channel=marl.DIAL(), learning_starts=20, batch=4, sequence=5, stored_carry=False)
    with marl.MultiAgentSystem(config, lambda: Team(length=6), num_envs=4, seed=1) as system:
        system.train(steps=80)
        learner = system.learners[0]
        carry = learner.experience.draw(Clock(80)).carry
    assert len(carry[..., -1].unique()) == carry[..., -1].numel() > 1
    assert not carry[..., :-1].any()


def test_evaluation_under_a_worse_link_changes_nothing_in_the_system():
    config = marl.ippo(channel=marl.CommNet(), rollout=20, minibatches=2)

    def run(evaluate):
        with marl.MultiAgentSystem(config, lambda: Team(length=6), num_envs=4, seed=1) as system:
            system.train(steps=100)
            if evaluate:
                system.evaluate(4, link="delay=3,loss=0.5,noise=1")
                system.evaluate(4, link=marl.Link(bits=1), decentralized=True)
            system.train(steps=100)
            return system.state_dict()["learners"]

    assert_equal_trees(run(True), run(False))


def test_delay_and_loss_take_away_what_messages_give():
    config = marl.ippo(
        channel=marl.CommNet(size=1, rounds=1, topology=Graph([(1, 0), (2, 1), (0, 2)])),
        rollout=16, lr=5e-3, minibatches=2, network=marl.MLP((32,)), discount=0.0,
    )  # fmt: skip
    with marl.MultiAgentSystem(config, lambda: Hear(length=10), num_envs=32, seed=0) as system:
        system.train(steps=12_000)
        perfect = system.evaluate(40).mean_return / 30
        silent = system.evaluate(40, link="loss=1").mean_return / 30
        late = system.evaluate(40, link="delay=1").mean_return / 30
        rough = system.evaluate(40, link="bits=6").mean_return / 30
    assert perfect > 0.9
    assert rough > 0.85
    assert silent < 0.6
    assert late < 0.6


def test_in_turns_what_was_said_last_stays_in_the_air():
    config = marl.ippo(channel=marl.CommNet(), rollout=8, minibatches=1, network=marl.MLP((8,)))
    with marl.MultiAgentSystem(config, lambda: Turns(moves=4), num_envs=2, seed=0) as system:
        system.train(steps=100)
        batched, alone = system.evaluate(4), system.evaluate(4, decentralized=True)
        assert batched.returns_per_agent == alone.returns_per_agent
        net = system.learners[0].policy_net
        assert net is not None
        obs = torch.randn(4, 1, 2, 2)
        acting = torch.tensor([[[True, False]], [[False, True]], [[False, True]], [[False, True]]])
        changed = obs.clone()
        changed[0, 0, 0] += 1
        differs = (play(net, obs, acting) != play(net, changed, acting)).any(-1)[:, 0, 1]
        assert differs.tolist() == [False, True, True, True]  # still heard, two turns of the other's later


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: marl.MultiAgentSystem(marl.ippo(channel=marl.CommNet()), "CartPole-v1"), ["nobody to talk to"]),
        (lambda: marl.iql(channel="commnet"), ["DQN.channel", "Channel"]),
        (lambda: marl.CommNet(round=1), ["unknown field 'round'", "rounds"]),
        (lambda: marl.CommNet(rounds=-1), ["CommNet.rounds"]),
        (lambda: marl.CommNet(link=0.5), ["CommNet.link", "Link"]),
        (
            lambda: marl.MultiAgentSystem(marl.iql(channel=marl.DIAL()), lambda: Turns()),
            ["turn to turn", "on-policy"],
        ),
        (
            lambda: marl.MultiAgentSystem(marl.ippo(channel=marl.TarMAC(rounds=2)), Turns),
            ["TarMAC(rounds=2)", "take turns", "rounds=0"],
        ),
        (
            lambda: marl.MultiAgentSystem(
                {"agent_0": marl.ippo(channel=marl.CommNet(topology=Star("agent_1"))), "*": marl.ippo()},
                Team,
            ),
            ["nobody to talk to", "one team"],
        ),
        (
            lambda: marl.MultiAgentSystem(
                {
                    "agent_[01]": marl.ippo(channel=marl.CommNet(topology=Star("agent_2"))),
                    "*": marl.ippo(),
                },
                Team,
            ),
            ["agent_2", "within one team", "gradients"],
        ),
        (lambda: marl.MultiAgentSystem(marl.ippo(), Team).evaluate(2, link="loss=1"), ["link", "no team", "channel"]),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_line(make, words):
    with pytest.raises(marl.ConfigError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_one_agent_by_itself_hears_and_says():
    config = marl.ippo(channel=marl.CommNet(size=3), rollout=10, minibatches=1)
    with marl.MultiAgentSystem(config, lambda: Team(length=6), num_envs=2, seed=1) as system:
        system.train(steps=20)
        agents = {one: system.agent(one) for one in system.spec.agents}
        whole = system.learners[0].policy()[0]
        rng = np.random.default_rng(0)
        carry = torch.zeros(1, *whole.carry_shape)
        for _ in range(4):
            obs = {one: rng.uniform(-1, 1, 3).astype(np.float32) for one in agents}
            rows = torch.from_numpy(np.stack([obs[one] for one in agents])).view(1, 1, 3, 3)
            out, after = whole(rows, carry, torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, 3, dtype=torch.bool))
            carry = after[0]
            acted = [agents[one].act(obs[one]) for one in agents]
            assert acted == out[0, 0].argmax(-1).tolist()
            for one, agent in agents.items():
                assert agent.said is not None
                assert agent.said.shape == (3,)
                agent.hear({other: agents[other].said for other in agents if other != one})
        with pytest.raises(marl.ConfigError, match="expected a message of shape"):
            agents["agent_0"].hear({"agent_1": np.zeros(4)})
        with pytest.raises(marl.ConfigError, match="unknown agent 'agent_7'"):
            agents["agent_0"].hear({"agent_7": np.zeros(3)})

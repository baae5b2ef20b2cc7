"""What is logged of messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import marl
from marl.channels.statistics import ActionMessageStats, ChannelStats, MessageSlot, entropy, information
from marl.types import zeros_step
from tests.support.channels import build, play
from tests.support.tiny import Hear, spec_of


def test_entropy_and_information_by_hand():
    assert entropy(np.array([0, 1, 2, 3])) == 2
    assert entropy(np.array([5, 5, 5])) == 0
    assert entropy(np.array([0, 0, 0, 1])) == pytest.approx(0.8112781)
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, 8000)
    assert information(a, a) == pytest.approx(2, abs=0.01)
    assert information(a, a // 2) == pytest.approx(1, abs=0.01)
    assert information(a, rng.integers(0, 4, 8000)) < 0.005
    noisy = np.where(rng.random(8000) < 0.11, 1 - a % 2, a % 2)  # a binary channel with 11 % of errors carries 0.5 bits
    assert information(a % 2, noisy) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("rounds", "delay"), [(0, 0), (1, 0), (0, 2), (1, 3)])
def test_a_report_pairs_messages_with_the_actions_they_reach(rounds, delay):
    """Agent 0 shouts the sign of what it sees; agent 1 does what it is told, as soon as it hears it."""
    link, graph = marl.Link(delay=delay), marl.topology.Graph([(0, 1), (1, 0)])
    net = build(marl.DIAL(size=1, rounds=rounds, topology=graph, link=link), agents=2, width=2)
    lag = delay + 1 - rounds
    overheard = ChannelStats(net)
    seen = torch.randn(64, 100, 2, 2).sign()
    told = (seen[:, :, 0, 0] > 0).long()
    for t in range(64):
        net.last = (torch.where(seen[t, ..., :1] > 0, 1.0, -1.0), torch.ones(100, 2))
        action = torch.zeros(100, 2, dtype=torch.int64)
        if t >= lag:
            action[:, 1] = told[t - lag]
        overheard.note(seen[t], action, torch.ones(100, 2, dtype=torch.bool), torch.zeros(100, dtype=torch.bool))
    report = overheard.metrics()
    assert report["messages/rate"] == 1
    assert report["messages/entropy"] == pytest.approx(1, abs=0.01)
    assert report["messages/observation"] == pytest.approx(1, abs=0.01)
    assert report["messages/action"] == pytest.approx(0.5, abs=0.02)  # one bit to agent 1, nothing to agent 0
    assert overheard.metrics() == {}


def test_what_an_episode_s_end_cuts_off_is_not_paired():
    """Every episode lasts two steps and a message takes two: nobody ever hears any."""
    net = build(marl.DIAL(size=1, link=marl.Link(delay=1)), agents=2, width=2)
    overheard = ChannelStats(net)
    signs = torch.ones(64, 50, 2, 1).bernoulli(0.5) * 2 - 1
    for t in range(64):
        net.last = signs[t], torch.ones(50, 2)
        action = (signs[max(t - 2, 0)].flip(1) > 0).long()[..., 0]
        overheard.note(
            torch.zeros(50, 2, 2), action, torch.ones(50, 2, dtype=torch.bool), torch.full((50,), t % 2 == 0)
        )
    assert overheard.metrics()["messages/action"] == 0


def test_a_spent_budget_shows_in_the_rate():
    net = build(marl.CommNet(link=marl.Link(budget=1)), agents=2)
    overheard, carry = ChannelStats(net), torch.zeros(4, *net.carry_shape)
    for _ in range(4):
        obs = torch.randn(4, 2, 4)
        with torch.no_grad():
            _, carry = net(obs[None], carry, torch.zeros(1, 4).bool(), torch.ones(1, 4, 2).bool())
        carry = carry[-1]
        overheard.note(obs, torch.zeros(4, 2).long(), torch.ones(4, 2, dtype=torch.bool), torch.zeros(4).bool())
    assert overheard.metrics()["messages/rate"] == 0.25


def test_a_closed_gate_shows_in_the_rate():
    net = build(marl.IC3Net(rounds=1))
    with torch.no_grad():
        net.speech.gate.bias.fill_(-50.0)
    overheard = ChannelStats(net)
    for _ in range(3):
        obs = torch.randn(4, 3, 4)
        with torch.no_grad():
            play(net, obs.unsqueeze(0))
        overheard.note(obs, torch.zeros(4, 3).long(), torch.ones(4, 3, dtype=torch.bool), torch.zeros(4).bool())
    assert overheard.metrics()["messages/rate"] == 0


def test_reports_are_in_the_history_of_teams_that_talk():
    config = marl.ippo(channel=marl.CommNet(size=2), rollout=10, minibatches=1)
    with marl.MultiAgentSystem(config, lambda: Hear(length=5), num_envs=4, seed=0) as system:
        history = system.train(steps=400, log_every=200)
    names = {name for name in history if name.startswith("messages/")}
    assert names == {"messages/rate", "messages/entropy", "messages/observation", "messages/action"}
    assert history["messages/rate"][-1] == 1
    assert 0 < history["messages/entropy"][-1] <= 2


@pytest.mark.parametrize("delay", [0, 2])
def test_messages_that_observations_show_are_reported_too(delay):
    """Agent 0 says what it sees in one of two words, three times of four; agent 1 obeys what it reads."""
    spec = spec_of(2, 5)
    shown = ActionMessageStats([MessageSlot((0, 1), (0, 0), 3, 4)], delay)
    rng, copies, lag = np.random.default_rng(0), 200, delay + 1
    seen, said = rng.integers(0, 2, (64, copies)), rng.random((64, copies)) < 0.75
    for t in range(64):
        step = zeros_step(spec, copies)
        step.started[...] = t == 40
        step.teams[0].acting[...] = True
        step.teams[0].obs[:, 0, 0] = 2.0 * seen[t] - 1
        if t >= lag and not 40 <= t < 40 + lag:
            word = np.eye(2)[seen[t - lag]] * said[t - lag][:, None]
            step.teams[0].obs[:, 1, 3:5] = word
        action = np.stack((rng.integers(0, 2, copies), step.teams[0].obs[:, 1, 4] > 0), axis=1)
        shown.note(step, [action])
    report = shown.metrics()
    assert report["words/rate"] == pytest.approx(0.75, abs=0.02)
    for name in ("entropy", "observation", "action"):
        assert report[f"words/{name}"] == pytest.approx(1, abs=0.02)
    assert shown.metrics() == {}


@pytest.mark.parametrize(
    ("env", "channel"), [(Hear, marl.Spoken(words=3)), ("marl/speaker_listener-v0", None)], ids=["words", "world"]
)
def test_reports_of_words_are_in_the_history(env, channel):
    config = marl.ippo(rollout=10, minibatches=1)
    with marl.MultiAgentSystem(config, env, channel=channel, num_envs=4, seed=0) as system:
        history = system.train(steps=400, log_every=200)
    names = {name for name in history if name.startswith("words/")}
    assert names == {"words/rate", "words/entropy", "words/observation", "words/action"}
    assert history["words/rate"][-1] == 1
    assert 1 < history["words/entropy"][-1] <= np.log2(3) + 1e-6
    assert history["words/action"][-1] < 0.1

"""``marl play`` carries messages, and shows who hears whom."""

from __future__ import annotations

import numpy as np
import pytest

import marl
from marl.film import play
from marl.panel import FAINT, LOW, WORDS, Talk, beside, tone
from tests.support.tiny import Team, Turns

pytest.importorskip("pygame")


class Shown(Team):
    """Team with a picture of nothing."""

    metadata = {"name": "shown_v0", "render_modes": ["rgb_array"]}

    def render(self):
        return np.full((100, 120, 3), 7, np.uint8)


class ShownTurns(Turns):
    metadata = Turns.metadata | {"render_modes": ["rgb_array"]}
    render = Shown.render

    def __init__(self, moves=3, render_mode=None):
        super().__init__(moves)
        self.render_mode = render_mode


def count(picture, color):
    return int((picture == np.array(color, np.uint8)).all(-1).sum())


def test_lines_are_where_something_is_heard_in_the_color_of_what_is_said():
    frame = np.zeros((50, 60, 3), np.uint8)
    names = ("a", "b", "c")
    weight, message = np.zeros((3, 3)), np.zeros((3, 3, 4))
    silent = beside(frame, [Talk(names, weight, message, True)])
    assert silent.shape == (220, 60 + 220, 3)
    assert (silent[:50, :60] == 0).all()
    assert count(silent, FAINT) > 3 * 60  # three agents
    assert not any(count(silent, color) for color in WORDS)
    weight[1, 0], message[1, 0] = 1, np.eye(4)[2]
    weight[0, 2], message[0, 2] = 0.5, np.eye(4)[3]
    spoken = beside(frame, [Talk(names, weight, message, True)])
    assert [count(spoken, color) > 50 for color in WORDS[:4]] == [False, False, True, True]
    assert count(spoken, WORDS[2]) > count(spoken, WORDS[3])  # thick by weight
    assert beside(frame, [Talk(names, weight, message, True)] * 2).shape == (220, 60 + 440, 3)
    tall = beside(np.zeros((600, 60, 3), np.uint8), [Talk(names, weight, message, True)])
    assert tall.shape == (600, 60 + 420, 3)


def test_numbers_are_blue_below_zero_and_red_above():
    low, none, high = (tone(np.array([x, 9.0]), False) for x in (-9, 0, 9))
    assert low == LOW
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert len(set(none)) == 1


@pytest.mark.parametrize(
    ("env", "channel"),
    [(Shown, marl.CommNet(rounds=0)), (Shown, marl.TarMAC(rounds=2)), (ShownTurns, marl.CommNet(rounds=0))],
    ids=["later", "at-once", "in-turns"],
)
def test_play_carries_messages(env, channel):
    system = marl.MultiAgentSystem(marl.ippo(channel=channel, rollout=8, minibatches=1), env, num_envs=2)
    (played,), _ = play(system, 1, seed=3, max_steps=4)
    assert played.length == 4
    assert {frame.shape for frame in played.frames} == {(220, 120 + 220, 3)}
    drawn = [len(np.unique(frame[:, 120:].reshape(-1, 3), axis=0)) for frame in played.frames]
    first = 1 if channel.rounds else 2  # what is said in the first step is heard in the second
    assert all(more > drawn[0] for more in drawn[first:])
    assert channel.rounds or drawn[1] == drawn[0]


@pytest.mark.parametrize(
    "topology", [marl.topology.Complete(), marl.topology.Nearest(1, (0, 1))], ids=["all", "nearest"]
)
def test_play_does_what_decentralized_evaluation_does(topology):
    """The same seed: the same episode, messages, deaths and all."""
    system = marl.MultiAgentSystem(
        marl.ippo(channel=marl.CommNet(topology=topology), rollout=8, minibatches=1),
        lambda **keys: Shown(die=(2,), length=40),
        num_envs=2,
    )
    system.learners[0].model.actor.head.weight.data.mul_(100)
    report = system.evaluate(1, decentralized=True, num_envs=1, seed=5)
    (played,), _ = play(system, 1, seed=5)
    assert played.returns == report.returns_per_agent
    deaf = system.evaluate(1, silence=system.spec.agents, num_envs=1, seed=5)
    assert deaf.returns_per_agent != report.returns_per_agent


def test_play_shows_words():
    system = marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), Shown, channel=marl.Spoken(words=4), num_envs=2)
    (played,), _ = play(system, 1, seed=3, max_steps=4, explore=True)
    assert not any(count(played.frames[0], color) for color in WORDS[:4])
    assert all(sum(count(frame, color) for color in WORDS[:4]) > 100 for frame in played.frames[1:])


def test_without_a_channel_frames_are_what_they_are():
    system = marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), Shown, num_envs=2)
    (played,), _ = play(system, 1, seed=3)
    assert all((frame == 7).all() for frame in played.frames)
    assert len(played.frames) == 11

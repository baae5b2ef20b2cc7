"""What ``marl play`` shows is what evaluation counts: the same episodes, with a picture after each step."""

import contextlib

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.wrappers import BaseParallelWrapper

import marl
from marl.adapters.describe import render_mode
from marl.camera import picture
from marl.film import play
from marl.types import ConfigError, EnvContractError
from tests.support.leagues import mixed
from tests.support.tiny import Team, Turns

PICTURES = {"name": "shown_v0", "render_modes": ["rgb_array"], "render_fps": 4}
ON = {"rollout": 8, "epochs": 1}


class World(ParallelEnv):
    """Two agents are paid 1 a step and both end at step 7, but stay listed. A picture shows the number of the step."""

    metadata = PICTURES
    possible_agents = ("a", "b")

    def __init__(self, render_mode=None):
        self.agents, self.render_mode = [], render_mode

    def observation_space(self, agent):
        return Box(-1, 1, (2,))

    def action_space(self, agent):
        return Discrete(2)

    def render(self):
        return np.full((4, 5, 3), self.t, np.uint8)

    def see(self):
        return {agent: np.zeros(2, np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        return self.see(), {"a": {}, "b": {}}

    def step(self, actions):
        self.t += 1
        who = list(self.agents)
        ends = dict.fromkeys(who, self.t >= 7)
        return self.see(), dict.fromkeys(who, 1.0), ends, dict.fromkeys(who, False), {agent: {} for agent in who}


class WithoutInfos(World):
    def step(self, actions):
        return *super().step(actions)[:4], None


class Lingering(World):
    """``b`` ends at step 3, stays listed, and wants an action as long as it is; its reward goes on."""

    def step(self, actions):
        assert set(actions) == set(self.agents)
        seen, rewards, _, truncated, infos = super().step(actions)
        if self.t >= 3:
            del seen["b"]
        if self.t == 7:
            self.agents = []
        return seen, rewards, {"a": self.t == 7, "b": self.t >= 3}, truncated, infos


class Dying(World):
    """``b`` ends and leaves at step 3; ``a`` is cut off at step 7."""

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        who = list(self.agents)
        self.agents = [agent for agent in who if self.t < (7 if agent == "a" else 3)]
        seen = {agent: np.zeros(2, np.float32) for agent in who}
        ended, cut = {agent: agent == "b" and self.t == 3 for agent in who}, {agent: self.t == 7 for agent in who}
        return seen, dict.fromkeys(who, 1.0), ended, cut, {agent: {} for agent in who}


class Masked(World):
    """An illegal action ends the episode; which one is legal changes with each step."""

    def observation_space(self, agent):
        return Dict({"observation": Box(-1, 1, (2,)), "action_mask": Box(0, 1, (2,), np.int8)})

    def see(self):
        mask = np.array([self.t % 2, 1 - self.t % 2], np.int8)
        return {a: {"observation": np.zeros(2, np.float32), "action_mask": mask} for a in self.possible_agents}

    def step(self, actions):
        assert set(actions.values()) == {1 - self.t % 2}
        return super().step(actions)


class Single(gymnasium.Env):
    metadata = PICTURES
    observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)
    render = World.render

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t == 7, False, {}


class InTurns(AECEnv):
    """``a``, ``b`` and ``c`` take turns. The fourth move ends ``b``, the seventh the others. Each move pays all 1."""

    metadata = {**PICTURES, "is_parallelizable": False}
    render = World.render

    def __init__(self, render_mode=None):
        self.possible_agents, self.render_mode = ["a", "b", "c"], render_mode

    def observation_space(self, agent):
        return Box(-1, 1, (2,))

    def action_space(self, agent):
        return Discrete(2)

    def observe(self, agent):
        return np.zeros(2, np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.t = list(self.possible_agents), 0
        self.rewards, self._cumulative_rewards = dict.fromkeys(self.agents, 0.0), dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = "a"

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self.t += 1
        self.rewards = dict.fromkeys(self.agents, 1.0)
        for one in self.agents:
            self.terminations[one] = self.t == 7 or (one == "b" and self.t == 4)
        order = [*self.possible_agents, *self.possible_agents]
        after = order[order.index(agent) + 1 :]
        self.agent_selection = next((one for one in after if not self.terminations.get(one, True)), agent)
        self._accumulate_rewards()
        self._deads_step_first()


BY_HAND = {
    World: {"a": 7.0, "b": 7.0},
    WithoutInfos: {"a": 7.0, "b": 7.0},
    Lingering: {"a": 7.0, "b": 7.0},
    Dying: {"a": 7.0, "b": 3.0},
    Masked: {"a": 7.0, "b": 7.0},
    Single: {"agent_0": 7.0},
    InTurns: {"a": 7.0, "b": 4.0, "c": 7.0},
}


@pytest.mark.parametrize(("env", "returns"), BY_HAND.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_play_has_the_lengths_and_returns_of_evaluation(env, returns):
    system = marl.MultiAgentSystem(marl.ippo(**ON), env, num_envs=2, seed=0)
    report = system.evaluate(2, seed=3, num_envs=1)
    played, rate = play(system, 2, seed=3)
    assert rate == 4
    assert report.returns_per_agent == returns
    assert [one.returns for one in played] == [returns, returns]
    assert [one.length for one in played] == list(report.episode_lengths) == [7, 7]
    # The last picture is of the last step, not of the reset that follows.
    assert [[int(frame[0, 0, 0]) for frame in one.frames] for one in played] == [list(range(8))] * 2


@pytest.mark.parametrize("env", BY_HAND, ids=lambda env: env.__name__)
def test_play_is_cut_where_it_is_told_to_be(env):
    system = marl.MultiAgentSystem(marl.ippo(**ON), env, num_envs=2, max_steps=5)
    for limit, length in ((3, 3), (1000, 5)):
        (played,), _ = play(system, 1, max_steps=limit)
        assert played.length == length
        assert len(played.frames) == length + 1


class Shown(Team):
    """Observations are random, so that what is played depends on every seed."""

    metadata = PICTURES
    render = World.render

    @property
    def t(self):
        return self.time


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize(
    "env",
    [
        lambda **keys: Shown(die=(2, 5), length=9, **keys),
        lambda **keys: marl.Spoken(words=3).wrap(Shown(die=(2, 5), length=9, **keys)),
    ],
    ids=["plain", "spoken"],
)
def test_play_shows_the_very_episodes_of_evaluation(env, greedy):
    system = marl.MultiAgentSystem(marl.ippo(**ON), env, num_envs=2, seed=1)
    report = system.evaluate(3, decentralized=True, num_envs=1, seed=4, greedy=greedy)
    played, _ = play(system, 3, seed=4, explore=not greedy)
    assert [sum(one.returns.values()) for one in played] == list(report.returns)
    assert play(system, 3, seed=5, explore=not greedy)[0][0].returns != played[0].returns


def test_play_draws_from_a_mixture_as_evaluation_does():
    pytest.importorskip("pygame")
    with mixed() as system:
        report = system.evaluate(20, decentralized=True, num_envs=1, seed=2)
        played, _ = play(system, 20, seed=2)
        assert tuple(one.returns["agent_0"] for one in played) == report.teams["agent_0"].returns
        assert set(report.teams["agent_0"].returns) == {-5.0, 5.0}


def test_play_shows_the_task_that_evaluation_plays():
    pytest.importorskip("pygame")
    curriculum = marl.curriculum.DomainRandomization({"max_cycles": 3}, target={"max_cycles": 6})
    system = marl.MultiAgentSystem(marl.ippo(**ON), "marl/spread-v0", num_envs=2, curriculum=curriculum)
    assert system.evaluate(2).episode_lengths == (6, 6)
    assert [one.length for one in play(system, 3)[0]] == [6, 6, 6]


def test_what_breaks_its_contract_in_play_is_named_as_in_training():
    class Broken(World):
        def step(self, actions):
            answer = super().step(actions)
            if self.t == 2:
                del answer[1]["b"]
            return answer

    system = marl.MultiAgentSystem(marl.ippo(**ON), Broken, num_envs=2)
    with pytest.raises(EnvContractError, match=r"agent 'b' step 2: reward"):
        play(system)


# --- pictures ---------------------------------------------------------------------------------------------------------


class Gives:
    """Something with a picture."""

    render_mode = "human"

    def __init__(self, frame):
        self.frame = frame

    def render(self):
        return self.frame


@pytest.mark.parametrize(
    ("frame", "pixel"),
    [
        (np.full((2, 3, 3), 9, np.uint8), 9),
        (np.full((2, 3, 4), 9, np.uint8), 9),
        (np.full((2, 3), 9, np.uint8), 9),
        (np.full((2, 3, 1), 9, np.uint8), 9),
        (np.full((2, 3, 3), 0.5, np.float32), 127),
        (np.full((2, 3, 3), 1.0), 255),
        (np.full((2, 3, 3), 77.6), 77),
        (np.full((2, 3, 3), -3.0), 0),
        (np.full((2, 3, 3), 300, np.int64), 255),
        (np.ones((2, 3, 3), np.int64), 1),
        (np.ones((2, 3), bool), 255),
        ([[[9, 9, 9]] * 3] * 2, 9),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_pictures_of_every_kind_become_bytes_of_three_colors(frame, pixel):
    found = picture(Gives(frame))
    assert found.dtype == np.uint8
    assert found.shape == (2, 3, 3)
    assert (found == pixel).all()


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (None, r"gave no picture \(its render_mode is 'human'\)"),
        (np.zeros((2, 3, 7), np.uint8), r"shape \(2, 3, 7\)"),
        ("a board", "gave str"),
        ([np.zeros((2, 2, 3)), np.zeros((2, 3, 3))], "gave list"),
    ],
)
def test_what_is_no_picture_is_refused(frame, words):
    with pytest.raises(ConfigError, match=words):
        picture(Gives(frame))


# --- factories --------------------------------------------------------------------------------------------------------


class Silent(BaseParallelWrapper):
    """A wrapper that says nothing of how it renders, as one without a base class would."""

    metadata = {"name": "silent_v0"}
    render_mode = None


class Bare(Single):
    """A class whose constructor takes nothing."""

    def __init__(self):
        super().__init__("rgb_array")


FITTING = {
    "a function without keywords": lambda: World("rgb_array"),
    "a wrapped one": lambda: Silent(Silent(World("rgb_array"))),
    "a Gymnasium wrapper": lambda: gymnasium.wrappers.TimeLimit(Single("rgb_array"), 50),
    "a class": Bare,
    "a keyword through wrappers": lambda render_mode=None: Silent(World(render_mode)),
    "an inner one that takes none": lambda **keys: Bare(**keys),
    "talking": lambda: marl.Spoken(words=2).wrap(World("rgb_array")),
}


@pytest.mark.parametrize("make", FITTING.values(), ids=FITTING)
def test_a_factory_needs_no_render_mode_if_what_it_makes_has_pictures(make):
    system = marl.MultiAgentSystem(marl.ippo(**ON), make, num_envs=2)
    assert render_mode(system.make_env(render_mode="rgb_array")) == "rgb_array"
    (played,), _ = play(system)
    assert played.length == 7


def test_a_channel_of_the_system_needs_none_either():
    system = marl.MultiAgentSystem(marl.ippo(**ON), lambda: World("rgb_array"), num_envs=2, channel=marl.Spoken())
    assert play(system)[0][0].length == 7


def test_a_factory_that_makes_no_pictures_is_told_what_to_do():
    closed = []

    class Closing(World):
        def close(self):
            closed.append(self)

    system = marl.MultiAgentSystem(marl.ippo(**ON), lambda: Closing("human"), num_envs=2)
    with pytest.raises(ConfigError, match=r"takes no render_mode .*has 'human'; .*render_mode='rgb_array'"):
        play(system)
    assert len(closed) == 1
    with pytest.raises(ConfigError, match="render_mode"):
        system.make_env(render_mode="rgb_array")
    assert system.make_env().render_mode == "human"


def test_an_environment_without_pictures_is_refused():
    system = marl.MultiAgentSystem(marl.ippo(**ON), Team, num_envs=2)
    with pytest.raises(ConfigError, match=r"renders no pictures \(render_modes: none\)"):
        play(system)


def test_a_factory_that_fails_by_itself_says_so():
    def broken():
        raise TypeError("no map")

    system = marl.MultiAgentSystem(marl.ippo(**ON), Turns, num_envs=2)
    system.environments.source = broken
    with pytest.raises(ConfigError, match="could not be made: TypeError: no map"):
        system.make_env(render_mode="rgb_array")


@pytest.mark.parametrize("fails", [None, "picture", "step"])
def test_play_closes_what_it_opens(fails):
    class Counted(World):
        opened = 0

        def __init__(self, render_mode=None):
            super().__init__(render_mode)
            Counted.opened += 1

        def render(self):
            return None if fails == "picture" and self.t == 3 else super().render()

        def step(self, actions):
            seen, rewards, *rest = super().step(actions)
            return seen, {"a": 1.0} if fails == "step" else rewards, *rest

        def close(self):
            Counted.opened -= 1

    system = marl.MultiAgentSystem(marl.ippo(**ON), Counted, num_envs=2)
    with pytest.raises((ConfigError, EnvContractError)) if fails else contextlib.nullcontext():
        play(system, 2)
    assert Counted.opened == 2
    system.close()
    assert Counted.opened == 0

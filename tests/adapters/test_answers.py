"""Answers of environments that cannot be read: a breach in one line, with field, expected and got; no crash."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

import marl
from marl.adapters import make
from marl.types import EnvContractError
from tests.adapters.envs import Scripted, Turns, Walk, act

FIELDS = ("observations", "rewards", "terminations", "truncations", "infos")


def play(batch, steps):
    batch.reset(0)
    return [batch.step(act(batch)) for _ in range(steps)]


class Answering(Scripted):
    """Gives ``change(table)`` in place of one of the five tables of step number ``at``."""

    def __init__(self, field, change, at=2, **kwargs):
        super().__init__(**kwargs)
        self.place, self.change, self.at = FIELDS.index(field), change, at

    def step(self, actions):
        answer = list(super().step(actions))
        if self.time == self.at:
            answer[self.place] = self.change(answer[self.place])
        return tuple(answer)


def entry(value, agent="b"):
    return lambda table: {**table, agent: value}


@pytest.mark.parametrize("kwargs", [{}, {"agents": (0, 1, 2)}])
@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("observations", lambda table: None, "observations: expected a dictionary by agent, got NoneType None"),
        ("observations", lambda table: 7, "observations: expected a dictionary by agent, got int 7"),
        ("rewards", lambda table: None, "rewards: expected a dictionary by agent, got NoneType None"),
        ("rewards", lambda table: 1.0, "rewards: expected a dictionary by agent, got float 1.0"),
        ("terminations", lambda table: False, "terminations: expected a dictionary by agent, got bool False"),
        ("terminations", lambda table: list(table.values()), "terminations: expected a dictionary by agent, got list"),
        ("truncations", lambda table: np.zeros(3, bool), "truncations: expected a dictionary by agent, got ndarray"),
        ("infos", lambda table: [{}, {}, {}], "infos: expected a dictionary by agent, got list"),
    ],
)
def test_a_table_that_is_no_dictionary_is_named(field, change, words, kwargs):
    with pytest.raises(EnvContractError) as caught:
        play(make(lambda: Answering(field, change, **kwargs)), 2)
    assert str(caught.value).startswith("scripted_v0: copy 0 step 2: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("terminations", np.array([True, False]), "terminated: expected True or False, got ndarray array"),
        ("truncations", np.array([False, False]), "truncated: expected True or False, got ndarray array"),
        ("terminations", "False", "terminated: expected True or False, got str 'False'"),
        ("truncations", [0], "truncated: expected True or False, got list"),
        ("rewards", 10**400, "reward: expected a finite number, got int 10000000000"),
        pytest.param("rewards", 10**5000, "reward: expected a finite number, got int", id="5000 digits"),
        ("rewards", np.longdouble("1e400"), "reward: expected a finite number, got inf"),
        ("rewards", {"sum": 1.0}, "reward: expected a finite number, got dict"),
        ("observations", [[0.0], [0.0, 1.0]], "observation: expected an array of shape"),
        ("observations", {"position": 1}, "observation: expected an array of shape"),
        ("observations", [10**400, 0], "observation: expected"),
    ],
)
def test_an_entry_that_makes_no_sense_is_named_with_its_agent(field, value, words):
    with pytest.raises(EnvContractError) as caught:
        play(make(lambda: Answering(field, entry(value))), 2)
    assert str(caught.value).startswith("scripted_v0: copy 0 agent 'b' step 2: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ([1], r"info: expected a dictionary or None, got list \[1\]"),
        ({"action_mask": [[1], [1, 0]]}, "action_mask: expected zeros and ones, got list"),
        ({"action_mask": "all"}, "action_mask: expected"),
    ],
)
def test_infos_that_should_hold_masks_are_named(info, words):
    class Masked(Answering):
        def reset(self, seed=None, options=None):
            seen, infos = super().reset(seed, options)
            return seen, {agent: {"action_mask": np.ones(3, np.int8)} for agent in infos}

    with pytest.raises(EnvContractError, match=f"copy 0 agent 'b' step 2: {words}"):
        play(make(lambda: Masked("infos", entry(info))), 2)


def test_long_after_the_first_steps_they_are_named_as_well():
    batch = make(lambda: Answering("observations", entry([10**400, 0]), at=40))
    with pytest.raises(EnvContractError, match="agent 'b' step 40: observation: expected"):
        play(batch, 40)


class Silent(Scripted):
    """Has nothing to say in its infos, and with ``masked`` masks in its observations."""

    def __init__(self, masked=False, **kwargs):
        box = Box(-1000, 1000, (2,), np.float32)
        space = Dict({"observation": box, "action_mask": MultiBinary(3)}) if masked else box
        super().__init__(({}, {"die": ["b"]}, {"cut": ["a", "c"]}), space=space, **kwargs)
        self.masked = masked

    def look(self, agents, time):
        seen = super().look(agents, time)
        mask = np.array([1, 0, 1], np.int8)
        return {a: {"observation": o, "action_mask": mask} for a, o in seen.items()} if self.masked else seen

    def reset(self, seed=None, options=None):
        return super().reset(seed, options)[0], None

    def step(self, actions):
        return (*super().step(actions)[:4], None)


@pytest.mark.parametrize("masked", [False, True])
def test_infos_that_are_none_are_empty_ones(masked):
    batch = make(lambda: Silent(masked))
    steps = play(batch, 6)
    assert len(steps[-1].finished) == 1
    assert steps[-1].finished[0].info == {}
    if masked:
        np.testing.assert_array_equal(steps[-1].teams[0].action_mask[0, 0], [True, False, True])
    system = marl.MultiAgentSystem(marl.ippo(rollout=8, epochs=1), lambda: Silent(masked), num_envs=2)
    assert system.train(steps=32)["episode_lengths"] == [3] * 10


def test_infos_of_talking_environments_may_be_none_too():
    batch = make(marl.Spoken(words=2).source(lambda: Silent()))
    batch.reset(0)
    assert sum(len(batch.step(act(batch)).finished) for _ in range(6)) == 2


def test_answers_to_reset_are_named_too():
    class Bad(Scripted):
        answer = (None, {})
        looks = 0

        def reset(self, seed=None, options=None):
            super().reset(seed, options)
            Bad.looks += 1
            return self.answer if Bad.looks > 1 else (self.look(self.agents, 0), {})

    for Bad.answer, words in (
        ((None, {}), "reset observations: expected a dictionary by agent, got NoneType None"),
        ((["a", "b", "c"], {}), "reset observations: expected a dictionary by agent, got list"),
        ((dict.fromkeys("abc", np.zeros(2, np.float32)), [{}]), "reset infos: expected a dictionary by agent or None"),
    ):
        Bad.looks = 0
        with pytest.raises(EnvContractError, match=words):
            make(Bad).reset(0)


@pytest.mark.parametrize("kind", [np.array, tuple, list])
def test_lists_of_agents_may_be_arrays_and_tuples(kind):
    class Listed(Scripted):
        def __init__(self):
            super().__init__(({"reward": {"a": 1.0}}, {"die": ["b"]}, {"cut": ["a", "c"]}))
            self.possible_agents = kind(["a", "b", "c"])

        def look(self, agents, time):
            return {a: np.array([time, "abc".index(a)], np.float32) for a in agents}

        def reset(self, seed=None, options=None):
            answer = super().reset(seed, options)
            self.agents = kind(self.agents)
            return answer

        def step(self, actions):
            answer = super().step(actions)
            self.agents = kind(self.agents)
            return answer

    (*_, last) = play(make(Listed), 3)
    assert last.finished[0].returns == {"a": 1.0, "b": 0.0, "c": 0.0}
    system = marl.MultiAgentSystem(marl.ippo(rollout=8, epochs=1), Listed, num_envs=2)
    assert system.spec.agents == ("a", "b", "c")
    system.train(steps=32)


def test_what_an_environment_raises_itself_stays_a_crash():
    class Raising(Scripted):
        def step(self, actions):
            super().step(actions)
            raise KeyError("b")

    class RaisingState(Scripted):
        def state(self):
            if self.time:
                raise KeyError("b")
            return super().state()

    for env in (Raising, RaisingState):
        batch = make(env)
        batch.reset(0)
        batch.step(act(batch))
        assert batch.faults == {"crash": 1}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (np.zeros(3, np.float32), r"state: expected 2 values, got shape \(3,\)"),
        ("north", "state: expected 2 numbers, got str 'north'"),
        (None, "state: expected 2 numbers, got NoneType None"),
        ([[1.0], [1.0, 2.0]], "state: expected 2 numbers, got list"),
        (np.array(["a", "b"]), "state: expected 2 numbers, got ndarray"),
    ],
)
def test_a_state_that_makes_no_sense_is_named(state, words):
    class Odd(Scripted):
        def state(self):
            return state if self.time == 2 else super().state()

    with pytest.raises(EnvContractError, match=f"copy 0 step 2: {words}"):
        play(make(Odd), 2)


# --- other interfaces -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (2, np.array([True, False]), "terminated: expected True or False, got ndarray"),
        (3, np.array([True, False]), "truncated: expected True or False, got ndarray"),
        (2, "no", "terminated: expected True or False, got str 'no'"),
        (1, 10**400, "reward: expected a finite number, got int"),
        (1, None, "reward: expected a finite number, got NoneType None"),
        (0, "here", "observation: expected an array of shape"),
    ],
)
def test_answers_of_a_gymnasium_environment_are_named(place, value, words):
    class Odd(Walk):
        def step(self, action):
            answer = list(super().step(action))
            answer[place] = value
            return tuple(answer)

    with pytest.raises(EnvContractError, match=f"copy 0 agent 'agent_0' step 1: {words}"):
        play(make(Odd), 1)


def test_infos_of_a_gymnasium_environment_may_be_none():
    class Silent(Walk):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0], None

        def step(self, action):
            return (*super().step(action)[:4], None)

    play(make(Silent, max_steps=3), 7)


class Odd(Turns):
    """AEC; ``last`` of the second turn is what ``change`` makes of it."""

    change = None

    def last(self, observe=True):
        answer = super().last(observe)
        return self.change(*answer) if self.moves == 1 else answer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda self, *answer: answer[:4], r"last: expected \(observation.*got tuple"),
        (lambda self, *answer: None, r"last: expected \(observation.*got NoneType None"),
        (lambda self, seen, reward, *rest: (seen, [1.0], *rest), "reward: expected a finite number, got list"),
        (lambda self, seen, *rest: ("up", *rest), "observation: expected an array of shape"),
        (
            lambda self, seen, reward, end, cut, info: (seen, reward, np.array([True, True]), cut, info),
            "terminated: expected True or False, got ndarray",
        ),
    ],
)
def test_answers_of_a_turn_based_environment_are_named(change, words):
    env = type("Odd", (Odd,), {"change": change})
    with pytest.raises(EnvContractError, match=f"copy 0 agent 'b' step 1: {words}"):
        play(make(env), 1)


def test_rewards_of_a_turn_based_environment_must_be_a_dictionary():
    class Listing(Turns):
        def step(self, action):
            super().step(action)
            self.rewards = [0.0, 0.0]

    with pytest.raises(EnvContractError, match=r"copy 0 step 1: env\.rewards: expected a dictionary of numbers"):
        play(make(Listing), 1)


def test_what_is_wrong_in_tuples_is_named():
    class Pair(gymnasium.Env):
        observation_space = gymnasium.spaces.Tuple([Box(-1, 1, (1,))] * 2)
        action_space = gymnasium.spaces.Tuple([Discrete(2)] * 2)
        answer = ([0.0, 0.0], False, None)

        def look(self):
            return (np.zeros(1, np.float32),) * 2

        def reset(self, *, seed=None, options=None):
            return self.look(), None

        def step(self, action):
            reward, end, info = self.answer
            return self.look(), reward, end, False, info

    play(make(Pair), 2)  # infos that are None are empty
    for Pair.answer, words in (
        (([0.0, None], False, {}), "agent 'agent_1' step 1: reward: expected a finite number, got NoneType"),
        (([0.0, 0.0], [np.zeros(2, bool), False], {}), "terminated.*: expected True or False for each agent"),
    ):
        with pytest.raises(EnvContractError, match=words):
            play(make(Pair), 1)


# --- state() ------------------------------------------------------------------------------------------------------


class Forgetful(Scripted):
    """``state()`` looks up an agent that is dead from step 3 on; ``lingers``: it stays in env.agents until the end."""

    def __init__(self, lingers=True):
        super().__init__(({}, {}, *({"change": self.bury} for _ in range(5)), {"change": self.finish}))
        self.lingers = lingers

    def bury(self, env, observations, rewards, terminations, truncations, infos):
        terminations["b"] = True
        if not self.lingers:
            self.agents = [a for a in self.agents if a != "b"]

    def finish(self, env, observations, rewards, terminations, truncations, infos):
        terminations.update(a=True, b=True, c=True)
        self.agents = []

    def state(self):
        if self.time >= 3:
            raise KeyError("b")
        return super().state()


@pytest.mark.parametrize("lingers", [True, False])
def test_a_state_that_fails_once_somebody_is_dead_is_an_error_like_any_other(lingers, caplog):
    batch = make(lambda: Forgetful(lingers))
    batch.reset(0)
    for t in range(1, 9):
        step = batch.step(act(batch))
        assert step.discarded[0] == (t % 3 == 0)
        assert step.state[0, 0] == t % 3
    with pytest.raises(EnvContractError, match="raised 3 times in a row, last at step 3: KeyError: 'b'"):
        batch.step(act(batch))
    assert "KeyError: 'b'" in caplog.text


def test_a_state_that_fails_when_the_episode_is_over_leaves_the_last_one():
    class Ending(Scripted):
        def state(self):
            if not self.agents or self.time == 2:
                raise RuntimeError("the world is gone")
            return super().state()

    def linger(env, observations, rewards, terminations, truncations, infos):
        env.agents = ["a", "b", "c"]  # never taken out, and all of them flagged

    for script in (({}, {"die": ["a", "b", "c"]}), ({}, {"die": ["a", "b", "c"], "change": linger})):
        batch = make(lambda script=script: Ending(script))
        batch.reset(0)
        batch.step(act(batch))
        step = batch.step(act(batch))
        assert len(step.finished) == 1
        assert step.next_state[0, 0] == 1
        assert batch.faults == {}


def test_a_step_limit_is_no_reason_for_a_state_to_fail():
    class Ending(Scripted):
        def state(self):
            if self.time == 2:
                raise RuntimeError("no state here")
            return super().state()

    batch = make(Ending, max_steps=2)
    batch.reset(0)
    batch.step(act(batch))
    assert batch.step(act(batch)).discarded.all()


def test_turn_based_games_show_their_state_until_nobody_is_left():
    class Board(Turns):
        def state(self):
            if self.moves == self.fails:
                raise KeyError("a")
            return np.array([self.moves], np.float32)

    for Board.fails, crashes in ((3, 0), (2, 1)):
        batch = make(lambda: Board(({}, {"die": ["a"]}, {"die": ["b", "c"]}), agents=("a", "b", "c")))
        batch.reset(0)
        for _ in range(3):
            batch.step(act(batch))
        assert batch.faults.get("crash", 0) == crashes

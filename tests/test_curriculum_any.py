"""Curricula on environments that know nothing of this library: the tasks asked for are those that are played."""

from __future__ import annotations

import json
import os
import signal
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo import AECEnv, ParallelEnv

import marl
from marl import conformance
from marl.adapters import make
from marl.adapters.tasks import TaskRange, as_range
from marl.cli import main
from marl.curriculum import (
    Annealed,
    Between,
    ByKwargs,
    ByOptions,
    BySetter,
    DomainRandomization,
    LearningProgress,
    Stage,
    Stages,
    Steps,
    SuccessRate,
)
from marl.overrides import override
from marl.studies import exploit
from marl.training import Part
from marl.types import CheckpointError, ConfigError, EnvContractError
from tests.support.equality import assert_equal_trees
from tests.support.ledger import Audit, Pair

posix = pytest.mark.skipif(os.name != "posix", reason="worker processes need Linux or macOS")
WORKERS = [0, pytest.param(2, marks=posix)]


class Corridor(ParallelEnv[str, Any, Any]):
    """Two agents, ``size`` steps; the last infos say how long it was and whether both went right at the end."""

    metadata: ClassVar[dict[str, Any]] = {"name": "corridor_v0"}
    possible_agents: ClassVar[list[str]] = ["a", "b"]

    def __init__(self, size: int = 2, crash: int = 0):
        self.size, self.crash, self.random = size, crash, np.random.default_rng()
        self.options: Any = None

    def observation_space(self, agent):
        return Box(-9, 9, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def set_task(self, task):
        self.size = task["size"]

    def look(self):
        return {agent: np.array([self.time, self.random.random()], np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.options = options
        self.size = (options or {}).get("task", {}).get("size", self.size)
        assert type(self.size) is int
        self.agents, self.time = list(self.possible_agents), 0
        return self.look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        if self.time == self.crash:
            raise RuntimeError("out of order")
        over = self.time >= self.size
        agents, self.agents = self.agents, [] if over else self.agents
        solved = all(actions.values())
        infos = {agent: {"size": self.size, "solved": solved} if over else {} for agent in agents}
        flags = dict.fromkeys(agents, over), dict.fromkeys(agents, False)
        return self.look(), {agent: float(actions[agent]) for agent in agents}, *flags, infos


class Declared(Corridor):
    """The same, which says what its tasks may be."""

    task_space: ClassVar[dict[str, Any]] = {"size": (1, 9)}


class Walk(gymnasium.Env[Any, Any]):
    """One agent, ``size`` steps, by options under a key of its own."""

    observation_space, action_space = Box(-9, 9, (1,), np.float32), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.size, self.time = (options or {}).get("world", {}).get("size", 1), 0
        return self.np_random.random(1).astype(np.float32), {}

    def step(self, action):
        self.time += 1
        seen = self.np_random.random(1).astype(np.float32)
        return seen, float(action), self.time >= self.size, False, {"size": self.size}


class InTurns(AECEnv[str, Any, Any]):
    """Two agents, one after the other, ``size`` turns."""

    metadata: ClassVar[dict[str, Any]] = {"name": "in_turns_v0"}

    def __init__(self, size: int = 2):
        self.size, self.possible_agents = size, ["a", "b"]

    def observation_space(self, agent):
        return Box(0, 9, (1,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def observe(self, agent):
        return np.array([self.time], np.float32)

    def set_task(self, task):
        self.size = task["size"]

    def reset(self, seed=None, options=None):
        self.size = (options or {}).get("task", {}).get("size", self.size)
        self.agents, self.time, self.agent_selection = list(self.possible_agents), 0, "a"
        self.rewards, self._cumulative_rewards = dict.fromkeys("ab", 0.0), dict.fromkeys("ab", 0.0)
        self.terminations, self.truncations = dict.fromkeys("ab", False), dict.fromkeys("ab", False)
        self.infos = {"a": {}, "b": {}}

    def step(self, action):
        mover = self.agent_selection
        if self.terminations[mover]:
            self._was_dead_step(action)
            return
        self.time += 1
        self._cumulative_rewards[mover] = 0.0
        self.rewards = {"a": float(action), "b": -float(action)}
        self._accumulate_rewards()
        if self.time >= self.size:
            self.terminations = dict.fromkeys("ab", True)
            self.infos = {agent: {"size": self.size} for agent in "ab"}
        self.agent_selection = "b" if mover == "a" else "a"


class Crowd(Corridor):
    """``size`` agents who see ``2 * size`` numbers; ``swells``: the fewer agents, the more they see."""

    def __init__(self, size: int = 2, swells: bool = False):
        super().__init__(size)
        self.possible_agents = [f"agent_{n}" for n in range(size)]
        self.width = 20 - size if swells else 2 * size

    def observation_space(self, agent):
        return Box(0, self.size, (self.width,), np.float32)

    def look(self):
        return {agent: np.full(self.width, self.size, np.float32) for agent in self.possible_agents}

    def state(self):
        return np.full(self.size, self.size, np.float32)


def curricula(name, low, high):
    """One of each kind for a task parameter; the staged one has three stages."""
    stages = [Stage({name: n}, Steps(at_least=20) if n < low + 2 else None) for n in range(low, low + 3)]
    return {
        "staged": Stages(stages),
        "annealed": Annealed({name: marl.Linear(low, high, 96)}),
        "progress": LearningProgress({name: Between(low, high)}, target={name: high}, measure="return", rate=0.5),
    }


CURRICULA, GROWING = curricula("size", 2, 5), curricula("N", 3, 5)
ROUTES = {"options": ByOptions(), "kwargs": ByKwargs(), "method": BySetter("set_task"), "function": None}
ROUTES["function"] = BySetter(Corridor.set_task)


def small(**options):
    return marl.ippo(rollout=8, minibatches=1, epochs=1, network=marl.MLP((8,)), **options)


def system_of(env, curriculum, tasks=None, workers=0, agents=None, **options):
    return marl.MultiAgentSystem(
        agents or small(), env, num_envs=options.pop("num_envs", 4), workers=workers, seed=3, curriculum=curriculum,
        tasks=tasks, **options,
    )  # fmt: skip


def watched(system):
    """The episodes that end from now on, and at each moment the tasks of every copy as the curriculum has them."""
    seen: list[Any] = []
    log, state = system.training.log, system.training.parts["curriculum"].curriculum_state
    record, take = log.record, state.take

    def taking(episodes, *rest):
        asked = {name: values.copy() for name, values in state.tasks.items()}
        seen.extend((episode, {name: values[episode.copy] for name, values in asked.items()}) for episode in episodes)
        take(episodes, *rest)

    state.take = taking
    assert record is not None
    return seen


def played(env, curriculum, tasks=None, workers=0, steps=160, **options):
    """What was played in a training: (copy, size) of every episode. All of it was asked for."""
    with system_of(env, curriculum, tasks, workers, **options) as system:
        seen = watched(system)
        system.train(steps=steps)
        for episode, asked in seen:
            assert episode.info["size"] == asked["size"] == episode.info["task/size"] == episode.length
        return [(episode.copy, episode.info["size"]) for episode, _ in seen], system.state_dict()["learners"]


# --- what is asked for is played --------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("curriculum", CURRICULA)
def test_a_plain_environment_plays_the_tasks_that_were_asked(curriculum, route):
    sizes = [size for _, size in played(Corridor, CURRICULA[curriculum], ROUTES[route])[0]]
    last = 4 if curriculum == "staged" else 5
    assert set(sizes) == set(range(2, last + 1))
    if curriculum != "progress":
        assert sizes[:4] == [2] * 4
        assert sizes[-4:] == [last] * 4


@posix
@pytest.mark.parametrize(
    ("curriculum", "route"), [("staged", "kwargs"), ("annealed", "options"), ("progress", "function")]
)
def test_workers_play_the_same_tasks_and_learn_the_same(curriculum, route):
    alone, together = (played(Corridor, CURRICULA[curriculum], ROUTES[route], workers) for workers in (0, 2))
    assert sorted(alone[0]) == sorted(together[0])
    assert_equal_trees(alone[1], together[1])


def test_an_environment_that_declares_its_tasks_is_given_them_by_options():
    with system_of(Declared, CURRICULA["staged"]) as system:
        assert system.env.task_space == {"size": TaskRange(1, 9, True)}
    assert {size for _, size in played(Declared, CURRICULA["staged"])[0]} == {2, 3, 4}
    with pytest.raises(ConfigError, match=r"size: expected a number in \[1, 9\], got 10"):
        system_of(Declared, DomainRandomization({"size": Between(2, 10)}))


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("curriculum", CURRICULA)
def test_a_gymnasium_environment_plays_them_through_options(curriculum, workers):
    sizes = {size for _, size in played(Walk, CURRICULA[curriculum], ByOptions("world"), workers)[0]}
    assert sizes == ({2, 3, 4} if curriculum == "staged" else {2, 3, 4, 5})


@pytest.mark.parametrize("route", ["options", "kwargs", "method"])
def test_a_turn_based_environment_plays_them_too(route):
    assert {size for _, size in played(InTurns, CURRICULA["staged"], ROUTES[route], steps=240)[0]} == {2, 3, 4}


def test_options_nest_as_the_key_says_and_keep_what_is_fixed():
    fixed = {"world": {"color": "red", "task": {"wind": 1}}, "level": 3}
    env = make(
        Corridor, reset_options=fixed, tasks=ByOptions("world.task"), task_ranges={"size": TaskRange(2, 4, True)}
    )
    env.reset(0, {"task": {"size": 4}})
    assert env.envs[0].options == {"world": {"color": "red", "task": {"wind": 1, "size": 4}}, "level": 3}
    env.close()
    env = make(Corridor, tasks=ByOptions(""), task_ranges={"size": TaskRange(2, 4, True)})
    env.reset(0, {"task": {"size": 4}})
    assert env.envs[0].options == {"size": 4}
    env.close()


def test_each_team_has_a_curriculum_of_its_own():
    class Two(Corridor):
        def set_task(self, task):
            self.size, self.told = task["size"], task

        def step(self, actions):
            *rest, infos = super().step(actions)
            return *rest, {agent: info | {"wind": self.told["wind"]} for agent, info in infos.items()}

    curricula = {
        "a": DomainRandomization({"size": Between(2, 3)}),
        "b": Annealed({"wind": Between(0.0, marl.Linear(0.0, 1.0, 100))}),
    }
    with system_of(Two, curricula, BySetter(), agents={"a": small(), "b": small()}) as system:
        seen = watched(system)
        system.train(steps=80)
        assert system.target == {"size": Between(2, 3), "wind": Between(0.0, 1.0)}
    for episode, asked in seen:
        assert {name: episode.info[name] for name in asked} == asked
    assert len({asked["wind"] for _, asked in seen}) > 4


class Looks(Part):
    """How many agents of each copy act in each step, and whether what the others and the padding show is zero."""

    name = "looks"

    def __init__(self):
        self.seen = []

    def stepped(self, transition):
        team = transition.step.teams[0]
        for obs, acting in zip(team.obs, team.acting, strict=True):
            n = int(acting.sum())
            absent = not acting[n:].any() and not obs[n:].any() and not obs[:, 6 * n :].any()
            self.seen.append((n, absent and bool(obs[:n].any(-1).all())))


# --- keyword arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("curriculum", GROWING)
def test_a_growing_team_of_mpe2_has_absent_agents_and_padded_observations(curriculum, workers):
    pytest.importorskip("mpe2")
    look = Looks()
    options = {"env_kwargs": {"max_cycles": 5}, "num_envs": 2, "parts": [look]}
    with system_of("mpe2.simple_spread_v3", GROWING[curriculum], ByKwargs(), workers, **options) as system:
        team = system.spec.teams[0]
        assert (team.num_agents, team.obs.shape) == (5, (30,))
        seen = watched(system)
        system.train(steps=160)
        sizes = [size for size, _ in look.seen]
        assert all(right for _, right in look.seen)
        assert sorted(set(sizes)) == [3, 4, 5]
        if curriculum != "progress":
            assert sizes[:2] == [3, 3]
            assert sizes[-2:] == [5, 5]
        for episode, asked in seen:
            assert [value != 0 for value in episode.returns.values()] == [n < asked["N"] for n in range(5)]
        present = system.evaluate(2, metrics={"N": lambda record: sum(map(any, record.acting.values()))}).metrics["N"]
        assert set(present.values) == {5}


def test_narrower_vectors_and_states_are_padded_and_keep_bounds_of_their_own():
    env = make(Crowd, 2, tasks=ByKwargs(), task_ranges={"size": TaskRange(2, 4, True)})
    step = env.reset(0, {"task": {"size": [2, 4]}})
    assert step.teams[0].obs[0].tolist() == [[2] * 4 + [0] * 4] * 2 + [[0] * 8] * 2
    assert step.teams[0].obs[1].tolist() == [[4] * 8] * 4
    assert step.state.tolist() == [[2, 2, 0, 0], [4, 4, 4, 4]]
    assert step.teams[0].acting.tolist() == [[True, True, False, False], [True] * 4]
    env.set_tasks({"size": 3}, [0])
    for _ in range(2):
        step = env.step([np.ones((2, 4), int)])
    assert step.finished[0].info["task/size"] == 2
    assert step.finished[0].returns == {"agent_0": 2, "agent_1": 2, "agent_2": 0, "agent_3": 0}
    assert step.teams[0].next_obs[0].tolist() == [[2] * 4 + [0] * 4] * 2 + [[0] * 8] * 2
    assert step.teams[0].obs[0].tolist() == [[3] * 6 + [0] * 2] * 3 + [[0] * 8]
    env.close()
    one = make(Crowd, 1, tasks=ByKwargs(), task_ranges={"size": TaskRange(2, 4, True)}, state=False)
    one.reset(0, {"task": {"size": 2}})
    one.envs[0].look = lambda: {agent: np.full(4, 3, np.float32) for agent in ("agent_0", "agent_1")}  # 3 is above 2
    with pytest.raises(EnvContractError, match=r"agent 'agent_0'.*expected values in \[0, 2\]"):
        one.step([np.ones((1, 4), int)])
    one.close()


def test_what_does_not_fit_into_the_largest_task_is_refused_by_name():
    crowd = {"tasks": ByKwargs(), "task_ranges": {"size": TaskRange(2, 3, True)}}
    env = make(Crowd, **crowd)
    with pytest.raises(
        ConfigError, match=r"task \{'size': 4\}: expected agents among .*got \['agent_3'\] too; .*ByKwargs\(largest="
    ):
        env.reset(0, {"task": {"size": 4}})
    with pytest.raises(ConfigError, match="the environments were closed"):
        env.reset(0)
    env = make(Crowd, **crowd, env_kwargs={"swells": True})
    with pytest.raises(
        ConfigError, match=r"'size': 2\}: agent 'agent_0': expected observations of at most 17 numbers, got Box"
    ):
        env.reset(0, {"task": {"size": 2}})
    env = make(Crowd, **crowd, on_bad_obs="clip")
    with pytest.raises(ConfigError, match="on_bad_obs='clip': expected one observation space"):
        env.reset(0, {"task": {"size": 2}})
    with pytest.raises(ConfigError, match=r"ByKwargs makes the environment anew.*pass a function"):
        make(Crowd(), tasks=ByKwargs())
    with pytest.raises(ConfigError, match=r"environment Corridor could not be made: TypeError.*'length'"):
        system_of(Corridor, DomainRandomization({"length": 3}), ByKwargs())


def test_a_named_largest_task_makes_room():
    env = make(Crowd, tasks=ByKwargs(largest={"size": 5}), task_ranges={"size": TaskRange(2, 3, True)})
    assert env.spec.teams[0].num_agents == 5
    assert env.reset(0, {"task": {"size": 4}}).teams[0].acting.sum() == 4
    env.close()


def test_no_change_asks_for_more_than_the_largest_task():
    curriculum = DomainRandomization({"size": Between(2, 3)})
    with system_of(Crowd, curriculum, ByKwargs()) as system:
        system.train(steps=16)
        with pytest.raises(ConfigError, match="size: expected at most 3, the largest task so far, got 5"):
            system.change("curriculum.task", {"size": Between(2, 5)})
        system.train(steps=16)


class Ledgered(Pair):
    """An environment that notes its openings and closings, with a length; there is one instance for each."""

    def __init__(self, ledger="", size=2):
        super().__init__(ledger, most=2)
        self.size = size


@pytest.mark.parametrize("workers", WORKERS)
def test_an_environment_is_made_anew_only_when_its_task_changes_and_closed_before(workers, tmp_path):
    ledger = str(tmp_path / "ledger")
    curriculum = Stages([Stage({"size": n}, Steps(at_least=40) if n < 3 else None) for n in (2, 3)])
    options = {"env_kwargs": {"ledger": ledger}, "num_envs": 2}
    with system_of(Ledgered, curriculum, ByKwargs(), workers, **options) as system:
        system.train(steps=200)
    audit = Audit(ledger)
    assert not audit.wrong
    assert not audit.open
    assert audit.peak == 2
    # Each copy once for the largest task, which is looked at, and once for each stage; the first one to be asked
    # whether it steps copies by itself is a copy where there are no workers.
    assert audit.count["open"] == 2 * 3 + (workers > 0)


# --- resuming ---------------------------------------------------------------------------------------------------------


SPREAD = "mpe2.simple_spread_v3"
ALONE = [(Corridor, "options"), (Corridor, "kwargs"), (Corridor, "method"), (InTurns, "options"), (InTurns, "kwargs")]
ALONE += [(Walk, "world"), (SPREAD, "kwargs")]
RESUMED = [(curriculum, *one, 0) for curriculum in CURRICULA for one in ALONE]


@pytest.mark.parametrize(
    ("curriculum", "env", "route", "workers"),
    [
        *RESUMED,
        pytest.param("staged", Corridor, "kwargs", 2, marks=posix),
        pytest.param("progress", SPREAD, "kwargs", 2, marks=posix),
    ],
)
def test_a_run_resumed_within_an_episode_equals_the_unbroken_one_bit_for_bit(curriculum, env, route, workers, tmp_path):
    first, second = 52, 60  # 13 steps of each copy
    route = ByOptions("world") if route == "world" else ROUTES[route]
    options = {"env_kwargs": {"max_cycles": 5}} if env == SPREAD else {}
    curriculum = (GROWING if env == SPREAD else CURRICULA)[curriculum]
    with system_of(env, curriculum, route, workers, **options) as whole:
        whole.train(steps=first)
        whole.train(steps=second)
        expected = whole.state_dict()
    with system_of(env, curriculum, route, workers, **options) as broken:
        broken.train(steps=first)
        assert any(copy["length"] for copy in broken.env.state_dict()["copies"])
        broken.save(tmp_path / "it")
    with marl.MultiAgentSystem.load(tmp_path / "it", env=env, trust=True) as resumed:
        assert resumed.setup.tasks == route
        resumed.train(steps=second)
        found = resumed.state_dict()
    for state in (expected, found):
        state["history"].pop("steps_per_second")
    assert_equal_trees(expected, found)


def test_every_episode_since_the_seed_is_repeated_with_its_own_task():
    def batch(workers):
        return make(Corridor, 2, workers=workers, tasks=ByOptions(), task_ranges={"size": TaskRange(2, 9, True)})

    rng = np.random.default_rng(0)
    actions = [[rng.integers(0, 2, (2, 2))] for _ in range(40)]
    env, other = batch(0), batch(0)
    env.reset(0, {"task": {"size": 2}})
    for k, action in enumerate(actions):
        if k == 30:
            state = env.state_dict()
        step = env.step(action)
        env.set_tasks({"size": 2 + k % 4}, [episode.copy for episode in step.finished])
        expected = step.teams[0].obs.copy()
    lengths = [len(copy["tasks"]["since_seed"]) for copy in state["copies"]]
    assert min(lengths) > 4
    assert not other.load_state_dict(state).discarded.any()
    for k in range(30, 40):
        step = other.step(actions[k])
        assert not step.discarded.any()
        other.set_tasks({"size": 2 + k % 4}, [episode.copy for episode in step.finished])
    assert np.array_equal(step.teams[0].obs, expected)
    env.close()
    other.close()


@posix
def test_a_worker_that_is_killed_is_told_the_next_tasks_of_its_copies():
    ranges = {"size": TaskRange(2, 9, True)}
    env = make(Corridor, 4, workers=2, tasks=ByOptions(), task_ranges=ranges)
    actions = [np.ones((4, 2), int)]
    env.reset(0, {"task": {"size": 9}})
    env.set_tasks({"size": [3, 4, 5, 6]})
    env.step(actions)
    os.kill(env.pids[0], signal.SIGKILL)
    assert env.step(actions).discarded.tolist() == [True, True, False, False]
    ended = {}
    for _ in range(10):
        ended |= {episode.copy: episode.length for episode in env.step(actions).finished if episode.copy not in ended}
    assert ended == {0: 3, 1: 4, 2: 9, 3: 9}
    state = env.state_dict()
    assert [task["size"] for task in state["coming"]] == [3, 4, 5, 6]
    env.set_tasks({"size": 2})
    env.load_state_dict(state)
    ended = {}
    for _ in range(20):
        for episode in env.step(actions).finished:
            ended.setdefault(episode.copy, []).append(episode.info["task/size"])
    assert [ended[copy][-1] for copy in range(4)] == [3, 4, 5, 6]
    env.close()


def test_after_a_crash_a_copy_goes_on_with_its_next_task():
    for route in (ByOptions(), ByKwargs(), BySetter()):
        env = make(Corridor, env_kwargs={"crash": 4}, tasks=route, task_ranges={"size": TaskRange(2, 5, True)})
        env.reset(0, {"task": {"size": 5}})
        env.set_tasks({"size": 3})
        steps = [env.step([np.ones((1, 2), int)]) for _ in range(4)]
        assert steps[-1].discarded.all()
        assert env.envs[0].size == 3
        env.close()


# --- another environment ----------------------------------------------------------------------------------------------


class Plain(Corridor):
    """A corridor of three steps that takes no tasks: it has no keywords, no setter, and its resets no options."""

    set_task = None

    def __init__(self):
        super().__init__(3)

    def reset(self, seed=None, options=None):
        assert options is None
        return super().reset(seed)


TARGET = Stages([Stage({"size": 2}, marl.MeanReturn(at_least=1e6, over=2)), Stage({"size": 3})], target={"size": 5})


@pytest.mark.parametrize("route", ["options", "kwargs", "method"])
def test_another_environment_is_told_tasks_in_its_own_way(route):
    sizes = {"size": lambda record: record.episode.info["size"]}

    def played(**how):
        return system.evaluate(4, metrics=sizes, **how).metrics["size"].mean

    with system_of(Corridor, TARGET, ROUTES[route], reset_options={"floor": "ice"}) as system:
        assert played() == 5
        assert played(env=Plain) == 3  # nobody knows how tasks would reach it
        assert played(env=Declared) == 5
        assert played(env=Declared, task={"size": 4}) == 4
        for other in ROUTES.values():
            scenario = marl.Scenario(name="other", env=Corridor, agents=marl.Random(), tasks=other)
            assert played(env=scenario) == 5
        with pytest.raises(ConfigError, match=r"no task_space, so say how.*for evaluate\(env=\) in a marl\.Scenario"):
            system.evaluate(1, env=Plain, task={"size": 4})


def test_a_best_response_is_told_the_target_as_the_system_is():
    class Seen(Corridor):
        sizes: ClassVar[set[int]] = set()

        def step(self, actions):
            self.sizes.add(self.size)
            return super().step(actions)

    with system_of(Seen, TARGET, ByOptions()) as system:
        exploit(system, steps=8, games=2)
    assert Seen.sizes == {5}


def test_an_environment_like_the_instance_that_trains_is_reset_with_the_same_options():
    gymnasium.register("tests/Walk-v0", Walk)
    try:
        walk = gymnasium.make("tests/Walk-v0", disable_env_checker=True)
        options = {"world": {"size": 4}}
        with marl.MultiAgentSystem(marl.Fixed(1), walk, reset_options=options) as system:
            system.train(steps=8)
            assert set(system.evaluate(4).episode_lengths) == {4}
    finally:
        del gymnasium.registry["tests/Walk-v0"]


# --- evaluation and success -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["options", "kwargs", "method"])
def test_evaluation_plays_the_target_and_never_the_stage(route):
    never = marl.MeanReturn(at_least=1e6, over=2)
    curriculum = Stages([Stage({"size": 2}, never), Stage({"size": 3})], target={"size": 5})
    sizes = {"size": lambda record: record.episode.info["size"]}
    with system_of(Corridor, curriculum, ROUTES[route]) as system:
        assert set(system.train(steps=32, evaluate_every=16)["episode_lengths"]) == {2}
        report = system.evaluate(6, metrics=sizes)
        assert report.metrics["size"].mean == 5
        assert set(report.episode_lengths) == {5}
        assert system.evaluate(6, metrics=sizes, task={"size": 4}).metrics["size"].mean == 4
        with pytest.raises(ConfigError, match=r"task: unknown task parameter 'sise'; did you mean 'size'"):
            system.evaluate(1, task={"sise": 4})


@pytest.mark.parametrize(
    "success",
    ["solved", lambda episode: episode.info["solved"] == 1, 2.0 * 2],
    ids=["a name", "a function", "a least return"],
)
def test_a_success_can_be_read_from_the_infos_of_the_last_step(success):
    """Agents that always go right have solved it in every episode: the stage is over after four of them."""
    rule = SuccessRate(at_least=1.0, over=4)
    curriculum = Stages([Stage({"size": 2}, rule), Stage({"size": 3})], success=success)
    with system_of(Corridor, curriculum, ByOptions(), agents=marl.Fixed(1)) as system:
        assert system.train(steps=4)["curriculum/stage"][-1] == 0
        assert system.train(steps=56)["curriculum/stage"][-1] == 1
    with system_of(Corridor, curriculum, ByOptions(), agents=marl.Fixed(0)) as system:
        assert set(system.train(steps=60)["curriculum/stage"]) == {0}


def test_a_success_that_nobody_reports_is_named():
    rule = SuccessRate(at_least=1.0, over=4)
    stages = [Stage({"size": 2}, rule), Stage({"size": 3})]
    for success, words in (
        (None, "the environment reports no success; say with success="),
        ("won", "got size, solved"),
    ):
        with (
            system_of(Corridor, Stages(stages, success=success), ByOptions()) as system,
            pytest.raises(ConfigError, match=words),
        ):
            system.train(steps=40)


def test_an_environment_that_only_its_author_can_name_plays_the_target_when_it_is_named_again(tmp_path, capsys):
    curriculum = Stages([Stage({"size": 2}, Steps(at_least=10)), Stage({"size": 3})])
    with system_of(Corridor, curriculum, ByOptions()) as system:
        system.train(steps=20, run_dir=tmp_path)
    capsys.readouterr()
    words = ["evaluate", str(tmp_path), "--env", "tests.test_curriculum_any:Corridor", "--episodes", "2", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["info"]["size"] == 3


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_environment_without_a_way_for_tasks_asks_for_one():
    for workers in (0, 1) if os.name == "posix" else (0,):
        with pytest.raises(
            ConfigError, match=r"corridor_v0 declares no task_space, so say how.*ByOptions.*ByKwargs.*BySetter"
        ):
            system_of(Corridor, CURRICULA["staged"], workers=workers)
    with pytest.raises(
        ConfigError, match=r"tasks: expected marl\.curriculum\.ByOptions\(\).*got <class.*write ByKwargs\(\)"
    ):
        system_of(Corridor, CURRICULA["staged"], ByKwargs)
    with pytest.raises(ConfigError, match=r"tasks: Corridor has no method 'set_size'; name another"):
        system_of(Corridor, CURRICULA["staged"], BySetter("set_size"))
    for wrong in (lambda: ByOptions("a..b"), lambda: ByKwargs({"size": "big"}), lambda: BySetter("no name")):
        with pytest.raises(ConfigError, match=r"By\w+\.\w+: expected"):
            wrong()


def test_a_declared_range_is_a_pair_a_space_or_an_object():
    assert as_range("x", (1, 5)) == as_range("x", Discrete(5, start=1)) == TaskRange(1, 5, True)
    assert as_range("x", (0.5, 1)) == as_range("x", Box(0.5, 1.0, (1,))) == TaskRange(0.5, 1, False)
    assert as_range("x", Box(0, 3, (), np.int64)) == as_range("x", TaskRange(0, 3, True)) == TaskRange(0, 3, True)
    for wrong in ((3, 1), (1,), "wide", None, Box(0, 1, (2,))):
        with pytest.raises(ConfigError, match=r"task_space: x: expected \(low, high\)"):
            as_range("x", wrong)


def test_what_an_environment_means_otherwise_by_task_space_matters_to_nobody_without_a_curriculum():
    class Odd(Corridor):
        task_space: ClassVar[dict[str, Any]] = {"cartesian": "xyz"}

    with marl.MultiAgentSystem(marl.Random(), Odd, num_envs=2) as system:
        system.train(steps=20)
        assert system.env.envs[0].options is None
    with pytest.raises(ConfigError, match="task_space: cartesian: expected"):
        system_of(Odd, CURRICULA["staged"])


class Deaf(Declared):
    """It declares tasks and never reads them."""

    def reset(self, seed=None, options=None):
        return super().reset(seed)


class Strict(Deaf):
    """It takes no options."""

    def reset(self, seed=None):
        return super().reset(seed)


def test_the_check_notes_declared_tasks_that_resets_ignore():
    notes = {}
    for env in (Corridor, Declared, Deaf, Strict):
        report = conformance.check(env, steps=10, learners=())
        assert report.ok
        notes[env] = [finding.text for finding in report.findings if finding.rule == "task_ignored"]
    assert notes[Corridor] == notes[Declared] == []
    assert "task_space declares size, and reset(options={'task': ...}) changes nothing" in notes[Deaf][0]
    assert "reset(options={'task': ...}) fails" in notes[Strict][0]


# --- saving -----------------------------------------------------------------------------------------------------------


def test_a_route_is_saved_and_one_that_is_code_is_asked_for_again(tmp_path):
    def setter(env, task):
        env.size = task["size"]

    for name, route in (
        ("setter", BySetter(setter)),
        ("method", BySetter("set_task")),
        ("kwargs", ByKwargs({"size": 4})),
    ):
        with system_of(Corridor, CURRICULA["annealed"], route) as system:
            system.train(steps=16)
            system.save(tmp_path / name)
    with marl.MultiAgentSystem.load(tmp_path / "kwargs", env=Corridor) as system:
        assert system.setup.tasks == ByKwargs({"size": 4})
    with pytest.raises(CheckpointError, match=r"call the method 'set_task' of the environment \(tasks\)"):
        marl.MultiAgentSystem.load(tmp_path / "method", env=Corridor)
    with marl.MultiAgentSystem.load(tmp_path / "method", env=Corridor, tasks=BySetter("set_task")) as system:
        system.train(steps=8)
    lost = marl.MultiAgentSystem.load(tmp_path / "setter", env=Corridor)
    for use in (lambda: lost.train(steps=4), lambda: lost.evaluate(1)):
        with pytest.raises(CheckpointError, match="its tasks holds code of yours: pass tasks="):
            use()
    with marl.MultiAgentSystem.load(tmp_path / "setter", env=Corridor, tasks=BySetter(setter)) as system:
        system.train(steps=8)
        assert system.evaluate(2).episode_lengths == (5, 5)


def test_routes_and_options_can_be_set_by_the_command_line():
    scenario = marl.Scenario(name="it", env=Corridor, agents=marl.Random())
    changed = override(scenario, ["tasks=ByOptions('world')", "reset_options={'level': 3}"])
    assert (changed.tasks, changed.reset_options) == (ByOptions("world"), {"level": 3})


def test_reset_options_reach_every_reset_and_are_saved(tmp_path):
    options = {"task": {"size": 3}, "level": 1}
    scenario = marl.Scenario(name="it", env=Corridor, agents=marl.Random(), reset_options=options)
    with marl.MultiAgentSystem(None, scenario, num_envs=2, reset_options={"level": 2}) as system:
        assert set(system.train(steps=24)["episode_lengths"]) == {3}
        assert system.env.envs[0].options == {"task": {"size": 3}, "level": 2}
        assert system.evaluate(2).episode_lengths == (3, 3)
        system.save(tmp_path / "it")
    with marl.MultiAgentSystem.load(tmp_path / "it", env=Corridor) as system:
        assert system.setup.reset_options == {"task": {"size": 3}, "level": 2}
        system.train(steps=4)
        assert system.env.envs[0].options == system.setup.reset_options
    with marl.MultiAgentSystem.load(tmp_path / "it", env=Corridor, reset_options={"task": {"size": 2}}) as system:
        assert system.evaluate(2).episode_lengths == (2, 2)
    with pytest.raises(ConfigError, match="reset_options: expected a mapping such as"):
        marl.MultiAgentSystem(marl.Random(), Corridor, reset_options=3)
    with pytest.raises(ConfigError, match=r"reset_options: .* steps its copies by itself, which take no options"):
        marl.MultiAgentSystem(marl.Random(), "marl/gridworld-v0", reset_options={"level": 2})


def test_a_received_file_gives_no_environment_a_path_as_an_option(tmp_path):
    with marl.MultiAgentSystem(marl.Random(), Corridor, num_envs=1, reset_options={"map": "/etc/passwd"}) as system:
        system.save(tmp_path / "it")
    with pytest.raises(CheckpointError, match=r"give the environment reset_options\.map='/etc/passwd'"):
        marl.MultiAgentSystem.load(tmp_path / "it", env=Corridor)

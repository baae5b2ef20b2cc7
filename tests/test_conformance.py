"""The environment check: each broken environment breaks one rule and is caught; sound ones pass."""

import json
from dataclasses import dataclass
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import AECEnv, ParallelEnv

import marl
from marl.conformance import check
from marl.types import ConfigError


@dataclass(frozen=True)
class Choosy:
    action_kinds: ClassVar[frozenset[str]] = frozenset({"discrete"})


@dataclass(frozen=True)
class Anything:
    action_kinds: ClassVar[frozenset[str]] = frozenset({"discrete", "multidiscrete", "multibinary", "box"})


@dataclass(frozen=True)
class Smooth:
    action_kinds: ClassVar[frozenset[str]] = frozenset({"box"})


LEARNERS = (Choosy, Anything, Smooth)


class Sound(ParallelEnv):
    """Three agents, one of which ends early; everything by the book. Broken environments override one thing."""

    metadata: ClassVar[dict[str, object]] = {"name": "sound"}
    possible_agents: ClassVar[list[str]] = ["a", "b", "c"]
    length = 12

    def __init__(self):
        self.agents = []
        self.observation_spaces = dict.fromkeys(self.possible_agents, Box(-1, 1, (2,), np.float32))
        self.action_spaces = {agent: Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def observation(self, agent):
        return self.rng.uniform(-1, 1, 2).astype(np.float32)

    def reward(self, agent):
        return 1.0

    def state(self):
        return np.full(4, self.time, dtype=np.float32)

    def info(self, agent):
        return {}

    def remaining(self, ended):
        return [agent for agent in self.agents if agent not in ended]

    def reset(self, seed=None, options=None):
        if seed is not None or not hasattr(self, "rng"):
            self.rng = np.random.default_rng(seed)
        self.time = 0
        self.agents = list(self.possible_agents)
        return {a: self.observation(a) for a in self.agents}, {a: self.info(a) for a in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.time += 1
        acted = list(self.agents)
        terminated = {a: a == "b" and self.time == 4 for a in acted}
        truncated = {a: self.time >= self.length for a in acted}
        answer = (
            {a: self.observation(a) for a in acted},
            {a: self.reward(a) for a in acted},
            terminated,
            truncated,
            {a: self.info(a) for a in acted},
        )
        self.agents = self.remaining({a for a in acted if terminated[a] or truncated[a]})
        return answer


class GivesNaN(Sound):
    def observation(self, agent):
        value = super().observation(agent)
        return value * np.nan if self.time == 9 and agent == "c" else value


class OutsideSpace(Sound):
    def observation(self, agent):
        return super().observation(agent) + np.float32(3.0 * (self.time == 3))


class WrongDtype(Sound):
    def observation(self, agent):
        return super().observation(agent).astype(np.float64)


class WrongShape(Sound):
    def observation(self, agent):
        return super().observation(agent)[:1]


class NotAnArray(Sound):
    def observation(self, agent):
        return super().observation(agent).tolist()


class InfiniteReward(Sound):
    def reward(self, agent):
        return float("inf") if self.time == 5 else 0.0


class NoReward(Sound):
    def reward(self, agent):
        return None


class ArrayReward(Sound):
    def reward(self, agent):
        return np.ones(1)


class MissingAgent(Sound):
    def step(self, actions):
        answer = super().step(actions)
        answer[1].pop("a")
        return answer


class UnknownAgent(Sound):
    def step(self, actions):
        answer = super().step(actions)
        answer[0]["ghost"] = answer[0]["a"]
        return answer


class Leaves(Sound):
    def remaining(self, ended):
        left = super().remaining(ended)
        return [a for a in left if a != "a"] if self.time == 6 else left


class Revives(Sound):
    def remaining(self, ended):
        left = super().remaining(ended)
        return [*left, "b"] if self.time == 7 else left


class StaysAfterEnd(Sound):
    def remaining(self, ended):
        return super().remaining(ended) or ["a"]


class Unseeded(Sound):
    def reset(self, seed=None, options=None):
        return super().reset(None)


class Stateful(Sound):
    """Fresh copies agree, but the second episode depends on the first."""

    played = 0

    def reset(self, seed=None, options=None):
        self.played += 1
        return super().reset(None if seed is None else seed + 100 * (self.played // 2))


class Raises(Sound):
    def step(self, actions):
        if self.time == 8:
            raise KeyError("scoreboard")
        return super().step(actions)


class OldSignature(Sound):
    def step(self, actions):
        observations, rewards, terminated, truncated, infos = super().step(actions)
        return observations, rewards, {a: terminated[a] or truncated[a] for a in terminated}, infos


class ShrinkingState(Sound):
    def state(self):
        return np.zeros(4 - (self.time == 2), dtype=np.float32)


class ChangingSpace(Sound):
    def observation_space(self, agent):
        self.calls = getattr(self, "calls", 0) + 1
        return Box(-1, self.calls, (2,), np.float32)


class IntegerFlag(Sound):
    def step(self, actions):
        observations, rewards, terminated, truncated, infos = super().step(actions)
        return observations, rewards, {a: int(t) for a, t in terminated.items()}, truncated, infos


class Masked(Sound):
    def __init__(self):
        super().__init__()
        inner = Dict({"observation": Box(-1, 1, (2,), np.float32), "action_mask": Box(0, 1, (3,), np.int8)})
        self.observation_spaces = dict.fromkeys(self.possible_agents, inner)

    def mask(self, agent):
        return np.array([1, self.time % 2, 0], dtype=np.int8)

    def observation(self, agent):
        return {"observation": super().observation(agent), "action_mask": self.mask(agent)}

    def step(self, actions):
        assert all(self.mask(agent)[action] for agent, action in actions.items()), "illegal"
        return super().step(actions)


class AllZeroMask(Masked):
    def mask(self, agent):
        return super().mask(agent) * np.int8(self.time != 5)


class InfoMasked(Sound):
    def info(self, agent):
        return {"action_mask": self.mask()}

    def mask(self):
        return np.array([0, 1, 1], dtype=np.int8)


class ShortMask(InfoMasked):
    def mask(self):
        return np.array([1, 1], dtype=np.int8)


class GreyMask(InfoMasked):
    def mask(self):
        return np.array([0.5, 1.0, 0.0])


class RefusesLegal(InfoMasked):
    def step(self, actions):
        if any(action == 2 for action in actions.values()):
            raise ValueError("illegal move")
        return super().step(actions)


BROKEN = {
    GivesNaN: "observation_not_finite",
    OutsideSpace: "observation_outside_space",
    WrongDtype: "observation_dtype",
    WrongShape: "observation_shape",
    NotAnArray: "observation_type",
    InfiniteReward: "reward_not_finite",
    NoReward: "reward_not_a_number",
    ArrayReward: "reward_not_a_number",
    MissingAgent: "missing_agents",
    UnknownAgent: "unknown_agents",
    Leaves: "left_without_end",
    Revives: "revived",
    StaysAfterEnd: "agents_after_end",
    Unseeded: "fresh_nondeterministic",
    Raises: "raises",
    OldSignature: "step_signature",
    ShrinkingState: "state_shape",
    ChangingSpace: "unstable_space",
    AllZeroMask: "mask_all_zero",
    ShortMask: "mask_shape",
    GreyMask: "mask_not_binary",
    RefusesLegal: "raises",
}


@pytest.mark.parametrize(("env", "rule"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", value))
def test_one_broken_rule_is_caught_and_no_other(env, rule):
    report = check(env, steps=40, learners=LEARNERS)
    rules = {finding.rule for finding in report.errors}
    assert rules == {rule}, report.findings
    assert not report.ok
    assert all(len(finding.text) > 20 and "\n" not in finding.text for finding in report.findings)


def test_findings_name_agent_expected_and_got():
    (finding,) = check(GivesNaN, steps=40, learners=()).errors
    assert finding.text.startswith("agent 'c' at step 9: observation: expected finite numbers, got NaN")


@pytest.mark.parametrize("env", [Sound, Masked, InfoMasked])
def test_a_sound_environment_passes_with_its_facts(env):
    report = check(env, steps=60, learners=LEARNERS)
    assert report.ok, report.findings
    assert not [finding for finding in report.findings if finding.level == "warning"], report.findings
    assert report.facts["kind"] == "parallel"
    assert report.facts["agents"] == ["a", "b", "c"]
    assert report.facts["episode_length"] == 12
    assert report.facts["random_return"] == {"a": 12.0, "b": 4.0, "c": 12.0}
    assert report.facts["random_return_sum"] == 28.0
    assert report.facts["state_shape"] == (4,)
    assert report.facts["masked"] == ([] if env is Sound else ["a", "b", "c"])
    assert report.facts["env_steps_per_second"] > 0
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_integer_flags_are_a_warning():
    report = check(IntegerFlag, steps=20, learners=())
    assert "flag_not_bool" in {finding.rule for finding in report.findings if finding.level == "warning"}


def test_a_buffer_reused_in_place_is_noted():
    class Reuses(Sound):
        def observation(self, agent):
            buffer = self.__dict__.setdefault("buffer", {}).setdefault(agent, np.zeros(2, np.float32))
            buffer[:] = super().observation(agent)
            return buffer

    report = check(Reuses, steps=40, learners=())
    assert report.ok, report.findings
    assert "reused_buffer" in {finding.rule for finding in report.findings}


def test_a_seed_without_effect_and_an_endless_episode_are_noted():
    class Dull(Sound):
        length = 10**9

        def observation(self, agent):
            return np.zeros(2, np.float32)

    report = check(Dull, steps=30, learners=())
    assert report.ok, report.findings
    assert {"seed_without_effect", "endless"} <= {finding.rule for finding in report.findings}
    assert report.facts["random_return"]["a"] == 30.0  # cut for the report


def test_an_instance_is_checked_as_far_as_one_can():
    report = check(Sound(), steps=30, learners=LEARNERS)
    assert report.ok, report.findings
    assert "one_instance" in {finding.rule for finding in report.findings}


@pytest.mark.parametrize("env", [Stateful, Stateful()], ids=["fresh and used", "used twice"])
def test_a_reset_that_forgets_something_is_noted(env):
    report = check(env, steps=30, learners=())
    assert report.ok, report.findings
    assert [
        finding.rule
        for finding in report.findings
        if finding.level == "note" and finding.rule == "reused_nondeterministic"
    ] == ["reused_nondeterministic"]


def test_a_factory_that_raises_is_a_finding_and_an_unknown_id_an_error():
    def broken():
        raise OSError("no such map")

    report = check(broken, steps=10, learners=LEARNERS)
    assert {finding.rule for finding in report.errors} == {"raises"}
    assert report.learners == {}
    assert {finding.rule for finding in check(lambda: 7, steps=10, learners=()).errors} == {"not_an_environment"}
    with pytest.raises(ConfigError, match="CartPole-v9000"):
        check("CartPole-v9000", steps=10, learners=())
    with pytest.raises(ConfigError, match="steps"):
        check(Sound, steps=0)


def test_what_an_environment_warns_is_noted():
    class Warns(Sound):
        def reward(self, agent):
            import warnings

            warnings.warn("deprecated reward", stacklevel=1)
            return 1.0

    report = check(Warns, steps=20, learners=())
    assert any(f.rule == "warns" and "deprecated reward" in f.text for f in report.findings)


# --- turn-based ------------------------------------------------------------------------------------------------------


class Turns(AECEnv):
    """Two players move in turn, ten moves in all; the last to move wins."""

    metadata: ClassVar[dict[str, object]] = {"name": "turns", "is_parallelizable": False}
    possible_agents: ClassVar[list[str]] = ["x", "o"]

    def __init__(self):
        self.observation_spaces = {a: Box(-20, 20, (1,), np.float32) for a in self.possible_agents}
        self.action_spaces = {a: Discrete(2) for a in self.possible_agents}

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def observe(self, agent):
        return np.array([self.time + self.offset], dtype=np.float32)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.offset = np.random.default_rng(seed).uniform()
        self.agents = list(self.possible_agents)
        self.agent_selection = "x"
        self.time = 0
        self.rewards = dict.fromkeys(self.agents, 0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {a: {} for a in self.agents}

    def step(self, action):
        if self.terminations[self.agent_selection]:
            return self._was_dead_step(action)
        agent = self.agent_selection
        self._cumulative_rewards[agent] = 0
        self._clear_rewards()
        self.time += 1
        self.agent_selection = "o" if agent == "x" else "x"
        if self.time == 10:
            self.rewards = {a: 1 if a == agent else -1 for a in self.agents}
            self.terminations = dict.fromkeys(self.agents, True)
        self._accumulate_rewards()
        return None


class SelectsTheAbsent(Turns):
    def step(self, action):
        super().step(action)
        if self.time == 3:
            self.agent_selection = "z"


class ForgetsInfos(Turns):
    def step(self, action):
        super().step(action)
        if self.time == 3:
            del self.terminations["x"]


class NeverLeaves(Turns):
    def step(self, action):
        if not self.terminations[self.agent_selection]:
            super().step(action)


def test_a_sound_turn_based_environment_passes():
    report = check(Turns, steps=60, learners=LEARNERS)
    assert report.ok, report.findings
    assert report.facts["kind"] == "aec"
    assert report.facts["random_return"] == {"x": -1.0, "o": 1.0}


@pytest.mark.parametrize(
    ("env", "rule"),
    [(SelectsTheAbsent, "selection_not_alive"), (ForgetsInfos, "missing_agents"), (NeverLeaves, "lingers")],
)
def test_broken_turns_are_caught(env, rule):
    assert {finding.rule for finding in check(env, steps=40, learners=()).errors} == {rule}


# --- episodes that begin without a seed -----------------------------------------------------------------------------


class Numbers(gymnasium.Env):
    """Shows four numbers of a stream; subclasses say which one an episode has. An episode lasts five steps."""

    observation_space, action_space = Box(0, 1, (4,), np.float32), Discrete(2)

    def stream(self, seed):
        if seed is not None or not hasattr(self, "random"):
            return np.random.default_rng(seed)
        return self.random

    def first(self):
        return self.random.random(4, dtype=np.float32)

    def reset(self, seed=None, options=None):
        self.random, self.time = self.stream(seed), 0
        return self.first(), {}

    def step(self, action):
        self.time += 1
        return self.random.random(4, dtype=np.float32), 0.0, self.time >= 5, False, {}


class Entropy(Numbers):
    def stream(self, seed):
        return np.random.default_rng(seed)


class FixedStream(Numbers):
    def stream(self, seed):
        return np.random.default_rng(0 if seed is None else seed)


class LastSeedAgain(Numbers):
    last = 0

    def stream(self, seed):
        self.last = self.last if seed is None else seed
        return np.random.default_rng(self.last)


class SameStart(Numbers):
    """The start is one for all, what follows is random."""

    def first(self):
        return np.zeros(4, np.float32)


class EntropyAfterTheStart(SameStart, Entropy):
    pass


class FixedAfterTheStart(SameStart, FixedStream):
    pass


class Coin(Numbers):
    """One of two starts, and then nothing random."""

    def first(self):
        self.side = np.full(4, self.random.random() < self.odds, np.float32)
        return self.side

    odds = 0.5

    def step(self, action):
        self.time += 1
        return self.side, 0.0, self.time >= 5, False, {}


class LoadedCoin(Coin):
    odds = 0.9


class Still(Numbers):
    """Nothing is random."""

    def first(self):
        return np.zeros(4, np.float32)

    def step(self, action):
        self.time += 1
        return np.full(4, self.time / 5, np.float32), 0.0, self.time >= 5, False, {}


class EntropyOfATeam(Sound):
    def reset(self, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        return super().reset(None)


class FixedTeam(EntropyOfATeam):
    def reset(self, seed=None, options=None):
        return super().reset(7 if seed is None else seed)


class EntropyInTurns(Turns):
    def reset(self, seed=None, options=None):
        self.offset = np.random.default_rng(seed).uniform()
        super().reset(None)


class FixedInTurns(EntropyInTurns):
    def reset(self, seed=None, options=None):
        super().reset(7 if seed is None else seed)


DRAWS, REPEATS = "unseeded_reset_nondeterministic", "unseeded_reset_repeats"


@pytest.mark.parametrize(
    ("env", "findings"),
    [
        (Numbers, set()),
        (SameStart, set()),
        (Still, set()),
        (Coin, set()),
        (LoadedCoin, set()),
        (Sound, set()),
        (Entropy, {("error", DRAWS)}),
        (EntropyAfterTheStart, {("error", DRAWS)}),
        (EntropyOfATeam, {("error", DRAWS)}),
        (EntropyInTurns, {("error", DRAWS)}),
        (FixedStream, {("error", REPEATS)}),
        (FixedAfterTheStart, {("error", REPEATS)}),
        (FixedTeam, {("error", REPEATS)}),
        (FixedInTurns, {("error", REPEATS)}),
        (LastSeedAgain, {("warning", REPEATS)}),
        (Turns, {("warning", REPEATS)}),  # its offset is drawn where a seed is given, and stays
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("how", ["a class", "an instance"])
def test_episodes_begin_without_a_seed_as_in_training(env, findings, how):
    for seed in range(3):
        report = check(env if how == "a class" else env(), steps=40, learners=(), seed=seed)
        found = {(finding.level, finding.rule) for finding in report.findings if finding.level != "note"}
        assert found == findings, report.findings


def test_a_reset_that_raises_without_a_seed_is_told_apart():
    class WantsASeed(Numbers):
        def stream(self, seed):
            return np.random.default_rng([seed])

    (finding,) = check(WantsASeed, steps=40, learners=()).errors
    assert finding.text.startswith("reset() without a seed raised TypeError")


# --- whatever training takes -----------------------------------------------------------------------------------------


class Duck:
    """Gymnasium's interface without its class, metadata or close()."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def reset(self, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(2, np.float32), 1.0, self.time >= 5, False, {}


class DuckTeam:
    """PettingZoo's Parallel interface likewise; not even possible_agents is there."""

    def __init__(self):
        self.inner = Sound()

    def observation_space(self, agent):
        return self.inner.observation_space(agent)

    def action_space(self, agent):
        return self.inner.action_space(agent)

    @property
    def agents(self):
        return self.inner.agents

    def reset(self, seed=None, options=None):
        return self.inner.reset(seed)

    def step(self, actions):
        return self.inner.step(actions)


class DuckTurns(DuckTeam):
    """PettingZoo's AEC interface likewise."""

    def __init__(self):
        self.inner = Turns()

    def __getattr__(self, name):
        if name in ("agent_selection", "rewards", "terminations", "truncations", "infos", "last", "observe"):
            return getattr(self.inner, name)
        raise AttributeError(name)


class Lingers(Sound):
    """``b`` ends at step 4, stays listed, and wants an action as long as it is."""

    def remaining(self, ended):
        return [] if self.time >= self.length else list(self.agents)

    def step(self, actions):
        observations, rewards, terminated, truncated, infos = super().step(actions)
        return observations, rewards, terminated | {"b": self.time >= 4}, truncated, infos


class WithoutInfos(Sound):
    def step(self, actions):
        return *super().step(actions)[:4], None


@pytest.mark.parametrize(
    ("env", "kind", "warns"),
    [
        (Duck, "gymnasium", set()),
        (DuckTeam, "parallel", {"no_possible_agents"}),
        (DuckTurns, "aec", {"no_possible_agents", REPEATS}),
        (Lingers, "parallel", {"lingers"}),
        (WithoutInfos, "parallel", {"infos_keys"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_trains_passes_with_warnings_at_most(env, kind, warns):
    system = marl.MultiAgentSystem(marl.Random(), env, num_envs=2)
    system.train(steps=60)
    report = check(env, steps=60, learners=LEARNERS)
    assert report.ok, report.findings
    assert {finding.rule for finding in report.findings if finding.level == "warning"} == warns
    assert report.facts["kind"] == kind
    assert set(report.facts["random_return"]) == set(system.spec.agents)
    notes = {finding.rule for finding in report.findings if finding.level == "note"}
    assert ("no_close" in notes) == (not hasattr(env, "close"))


def test_what_is_vectorized_is_refused_as_in_training():
    (finding,) = check(lambda: gymnasium.make_vec("CartPole-v1", 2), steps=20, learners=()).errors
    assert finding.rule == "not_an_environment"
    assert "already vectorized" in finding.text


class Grows(Duck):
    def __init__(self):
        self.observation_space = Box(0, 1, (2,), np.float32)

    def reset(self, seed=None, options=None):
        self.observation_space = Box(0, 1, (5,), np.float32)
        super().reset()
        return np.zeros(5, np.float32), {}

    def step(self, action):
        return np.zeros(5, np.float32), *super().step(action)[1:]

    def close(self):
        pass


class TeamGrows(Sound):
    def __init__(self):
        super().__init__()
        self.action_spaces = dict.fromkeys(self.possible_agents, Discrete(2))

    def reset(self, seed=None, options=None):
        self.action_spaces = dict.fromkeys(self.possible_agents, Discrete(3))
        return super().reset(seed)


class Late(Sound):
    """Agents and spaces are there after the first reset only."""

    def __init__(self):
        self.agents, self.possible_agents = [], []

    def reset(self, seed=None, options=None):
        if not self.possible_agents:
            self.possible_agents = ["a", "b", "c"]
            self.observation_spaces = dict.fromkeys(self.possible_agents, Box(-1, 1, (2,), np.float32))
            self.action_spaces = {agent: Discrete(3) for agent in self.possible_agents}
        return super().reset(seed)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (Grows, "observation_space of 'agent_0' was Box(0.0, 1.0, (2,), float32) before the first reset() and is Box"),
        (TeamGrows, "action_space of 'a' was Discrete(2) before the first reset() and is Discrete(3) after it, and so"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_spaces_that_change_at_the_first_reset_are_one_warning(env, words):
    report = check(env, steps=40, learners=())
    assert report.ok, report.findings
    (warning,) = (finding for finding in report.findings if finding.level == "warning")
    assert warning.rule == "spaces_change_at_reset"
    assert words in warning.text
    marl.MultiAgentSystem(marl.Random(), env, num_envs=2).train(steps=40)
    kept = next(iter(report.facts["observation_spaces" if env is Grows else "action_spaces"].values()))
    assert kept == ("Box(0.0, 1.0, (5,), float32)" if env is Grows else "Discrete(3)")


def test_spaces_that_are_known_after_the_first_reset_alone_are_as_good():
    report = check(Late, steps=40, learners=LEARNERS)
    assert not [finding for finding in report.findings if finding.level != "note"], report.findings
    assert report.learners["Choosy"] == "yes"


def test_a_first_reset_that_raises_leaves_the_spaces_that_were_declared():
    class NeverBegins(Sound):
        def reset(self, seed=None, options=None):
            raise OSError("no such map")

    report = check(NeverBegins, steps=10, learners=LEARNERS)
    assert {finding.rule for finding in report.errors} == {"raises"}
    assert report.facts["agents"] == ["a", "b", "c"]
    assert report.learners["Smooth"].startswith("no, actions of 'a' are discrete")


def test_a_close_that_raises_is_a_finding():
    class Jams(Sound):
        def close(self):
            raise OSError("the door jams")

    report = check(Jams, steps=10, learners=())
    assert {finding.rule for finding in report.errors} == {"raises"}
    assert any("close() raised OSError: the door jams" in finding.text for finding in report.errors)


# --- learners --------------------------------------------------------------------------------------------------------


def test_learners_are_judged_by_the_kind_of_action():
    assert check(Sound, steps=10, learners=LEARNERS).learners == {
        "Choosy": "yes",
        "Anything": "yes",
        "Smooth": "no, actions of 'a' are discrete; use Choosy or Anything",
    }
    verdicts = check("Pendulum-v1", steps=10, learners=LEARNERS).learners
    assert verdicts["Choosy"] == "no, actions of 'agent_0' are continuous; use Anything or Smooth"


def test_mixed_actions_need_a_team_for_each_kind():
    class Mixed(Sound):
        def __init__(self):
            super().__init__()
            self.action_spaces["c"] = Box(-1, 1, (2,), np.float32)

    report = check(Mixed, steps=20, learners=LEARNERS)
    assert report.ok, report.findings
    assert "needs_teams" in {finding.rule for finding in report.findings}
    assert report.learners["Anything"] == "yes, with one team for each kind of action"
    assert report.learners["Choosy"] == "no, actions of 'c' are continuous; use Anything or Smooth"


def test_the_learners_that_exist_are_judged_by_default():
    pytest.importorskip("marl.learners")
    report = check("CartPole-v1", steps=20)
    assert set(report.learners) >= {"A2C", "PPO"}
    assert report.learners["PPO"] == "yes"


# --- real environments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_gymnasium_environments_pass(env):
    report = check(env, steps=300, learners=LEARNERS)
    assert report.ok, report.findings
    assert report.facts["kind"] == "gymnasium"


@pytest.mark.parametrize(
    "name",
    ["simple_v3", "simple_spread_v3", "simple_speaker_listener_v4", "simple_tag_v3", "simple_crypto_v3"],
)
def test_particle_environments_pass(name):
    pytest.importorskip("mpe2")
    report = check(f"mpe2.{name}", steps=200, learners=LEARNERS)
    assert report.ok, report.findings


def test_random_play_of_spread_earns_what_the_literature_says():
    pytest.importorskip("mpe2")
    report = check("mpe2.simple_spread_v3", steps=2000, learners=())
    assert report.facts["random_return_sum"] == pytest.approx(-79.2, rel=0.15)


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("pettingzoo.classic.tictactoe_v3", "pygame"),
        ("pettingzoo.classic.connect_four_v3", "pygame"),
        ("pettingzoo.classic.rps_v2", "pygame"),
        ("pettingzoo.classic.leduc_holdem_v4", "rlcard"),
        ("pettingzoo.sisl.multiwalker_v9", "Box2D"),
    ],
)
def test_pettingzoo_families_pass(name, needs):
    pytest.importorskip(needs)
    pytest.importorskip(name)
    report = check(name, steps=200, learners=LEARNERS)
    assert report.ok, report.findings


def test_gymnasium_masks_in_info_are_obeyed():
    class Doors(gymnasium.Env):
        observation_space = Discrete(4)
        action_space = Discrete(4)

        def open(self):
            mask = np.zeros(4, dtype=np.int8)
            mask[self.door] = 1
            return {"action_mask": mask}

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            self.door, self.time = int(self.np_random.integers(4)), 0
            return self.door, self.open()

        def step(self, action):
            assert action == self.door
            self.door, self.time = int(self.np_random.integers(4)), self.time + 1
            return self.door, 1.0, False, self.time == 5, self.open()

    report = check(Doors, steps=40, learners=LEARNERS)
    assert report.facts["masked"] == ["agent_0"]
    assert report.ok, report.findings

"""Environments that break their contract or crash: one clear error, or mended where the user asked for it."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from marl import conformance
from marl.adapters import in_process, make
from marl.types import ConfigError, EnvContractError
from tests.adapters.envs import RESET, Scripted, Turns, Walk, changing

AFTER = 30  # long after the first steps, in which observations are looked at more closely


def act(batch):
    return [
        np.zeros((batch.num_envs, team.num_agents, *team.action.shape), team.action.dtype) for team in batch.spec.teams
    ]


def spoil(field, value, agent="b"):
    """A change of one entry of what step returns."""
    index = ("observations", "rewards", "terminations", "truncations", "infos").index(field)

    def change(env, *answer):
        answer[index][agent] = value

    return change


def lose(field, agent="b"):
    index = ("observations", "rewards", "terminations", "truncations", "infos").index(field)

    def change(env, *answer):
        del answer[index][agent]

    return change


def revive(env, *answer):
    if env.time == 3:
        env.agents = ["a", "c"]
        answer[2]["b"] = True
    if env.time == 5:
        env.agents = ["a", "b", "c"]


def silently_leave(env, *answer):
    env.agents = ["a", "c"]


def stranger(env, *answer):
    env.agents = ["a", "b", "c", "ghost"]
    answer[0]["ghost"] = np.zeros(2, np.float32)


def play(batch, steps):
    batch.reset(0)
    for _ in range(steps):
        batch.step(act(batch))


@pytest.mark.parametrize("after", [0, AFTER])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil("observations", np.zeros(3, np.float32)), ["'b'", "observation", "shape (2,)", "shape (3,)"]),
        (spoil("observations", np.zeros((1, 2), np.float32)), ["'b'", "observation", "shape (2,)", "shape (1, 2)"]),
        (spoil("observations", None), ["'b'", "observation", "shape (2,)", "None"]),
        (spoil("observations", "north"), ["'b'", "observation", "'north'"]),
        (spoil("observations", np.array([np.nan, 0], np.float32)), ["'b'", "observation", "finite", "NaN"]),
        (spoil("observations", np.array([0, np.inf], np.float32)), ["'b'", "observation"]),
        (spoil("rewards", None), ["'b'", "reward", "a finite number", "None"]),
        (spoil("rewards", float("nan")), ["'b'", "reward", "a finite number", "nan"]),
        (spoil("rewards", -np.inf), ["'b'", "reward", "a finite number", "-inf"]),
        (spoil("rewards", np.zeros(2)), ["'b'", "reward", "a finite number", "ndarray"]),
        (spoil("rewards", "1.0"), ["'b'", "reward", "a finite number", "str"]),
        (lose("observations"), ["'b'", "observation", "['a', 'b', 'c']", "['a', 'c']"]),
        (lose("rewards"), ["'b'", "reward", "['a', 'b', 'c']", "['a', 'c']"]),
        (lose("terminations"), ["'b'", "terminated", "['a', 'b', 'c']", "['a', 'c']"]),
        (lose("truncations"), ["'b'", "truncated", "['a', 'b', 'c']", "['a', 'c']"]),
        (spoil("rewards", 0.0, "ghost"), ["'ghost'", "reward", "['a', 'b', 'c']"]),
        (spoil("observations", np.zeros(2, np.float32), "ghost"), ["'ghost'", "observation"]),
        (stranger, ["'ghost'"]),
        (silently_leave, ["'b'", "env.agents", "terminated or truncated"]),
    ],
)
def test_a_breach_names_environment_copy_agent_step_and_field(change, words, after):
    batch = make(lambda: Scripted(changing(change, after)), 2)
    with pytest.raises(EnvContractError) as caught:
        play(batch, after + 1)
    message = str(caught.value)
    assert message.startswith("scripted_v0: copy 0 ")
    assert f"step {after + 1}" in message
    for word in words:
        assert word in message, (word, message)
    assert "\n" not in message


@pytest.mark.parametrize("method", ["observation_space", "action_space"])
def test_a_space_that_the_environment_does_not_tell_is_named(method):
    class Silent(Scripted):
        pass

    setattr(Silent, method, None)
    with pytest.raises(EnvContractError, match=rf"{method}\('a'\): expected a space of Gymnasium, got TypeError"):
        make(lambda: Silent(()))
    assert not conformance.check(lambda: Silent(()), steps=1).learners


def test_nobody_comes_back_to_life():
    with pytest.raises(EnvContractError, match=r"'b' step 5: env\.agents: expected no agent to come back"):
        play(make(lambda: Scripted(({"change": revive},))), 6)


def test_values_outside_the_space_are_noticed_in_the_first_steps():
    with pytest.raises(EnvContractError, match=r"'b' step 1: observation: expected values in \[-1000, 1000\] at \[1\]"):
        play(make(lambda: Scripted(changing(spoil("observations", np.array([0, 2000], np.float32))))), 1)


def test_a_dtype_wider_than_the_space_is_noticed_and_can_be_cast():
    script = changing(spoil("observations", np.array([1.5, 2.5])))
    with pytest.raises(EnvContractError, match=r"expected dtype float32, got dtype float64; .* on_bad_obs="):
        play(make(lambda: Scripted(script)), 1)
    batch = make(lambda: Scripted(script), on_bad_obs="cast")
    batch.reset(0)
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].obs[0, 1], [1.5, 2.5])
    assert batch.faults == {"cast": 1}


def test_bounds_can_be_clipped_and_nan_cannot():
    script = changing(spoil("observations", np.array([-3000.0, 2000.0])))
    with pytest.raises(EnvContractError, match="values in"):
        play(
            make(lambda: Scripted(changing(spoil("observations", np.array([0, 2e3], np.float32)))), on_bad_obs="cast"),
            1,
        )
    batch = make(lambda: Scripted(script), on_bad_obs="clip", max_steps=2)
    batch.reset(0)
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].obs[0, 1], [-1000, 1000])
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].next_obs[0, 1], [-1000, 1000])
    assert batch.faults["clip"] == 2
    nan = changing(spoil("observations", np.array([np.nan, 0], np.float32)))
    with pytest.raises(EnvContractError, match="NaN"):
        play(make(lambda: Scripted(nan), on_bad_obs="clip"), 1)


@pytest.mark.parametrize("field", ["observations", "rewards"])
def test_episodes_with_nan_can_be_dropped(field):
    value = np.array([np.nan, 0], np.float32) if field == "observations" else float("nan")
    batch = make(lambda: Scripted(changing(spoil(field, value), after=2)), 2, on_bad_obs="drop")
    batch.reset(0)
    for t in range(1, 10):
        step = batch.step(act(batch))
        assert step.discarded.all() == (t % 3 == 0)
        assert step.started.all() == (t % 3 == 0)
        assert np.isfinite(step.teams[0].obs).all()
        assert np.isfinite(step.teams[0].next_obs).all()
        assert np.isfinite(step.teams[0].reward).all()
        assert not step.teams[0].terminated.any()
        assert step.finished == ()
        if t % 3 == 0:
            assert (step.teams[0].obs[..., 0] == RESET).all()
    assert batch.faults == {"drop": 6}


def test_an_environment_that_is_never_right_cannot_be_dropped_for_ever():
    class Broken(Scripted):
        def look(self, agents, time):
            return {a: np.full(2, np.nan, np.float32) for a in agents}

    with pytest.raises(EnvContractError, match="step 0: observation"):
        make(Broken, on_bad_obs="drop").reset(0)


def test_a_final_observation_must_be_finite_too():
    def end(env, *answer):
        answer[0]["b"] = np.array([np.nan, 0], np.float32)
        answer[3].update(a=True, b=True, c=True)
        env.agents = []

    with pytest.raises(EnvContractError, match="'b' step 1: observation: expected finite"):
        play(make(lambda: Scripted(({"change": end},))), 1)
    batch = make(lambda: Scripted(({"change": end},)), on_bad_obs="drop")
    batch.reset(0)
    step = batch.step(act(batch))
    assert step.discarded.all()
    assert step.finished == ()
    assert np.isfinite(step.teams[0].next_obs).all()


def test_huge_rewards_only_warn_and_only_once():
    batch = make(lambda: Scripted(({"reward": {"a": 1e9}},)))
    batch.reset(0)
    with pytest.warns(UserWarning, match="reward of 1e"):
        batch.step(act(batch))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch.step(act(batch))
    assert batch.faults["huge reward"] == 2


def test_zero_agents_at_reset_are_a_breach():
    class Empty(Scripted):
        def reset(self, seed=None, options=None):
            super().reset(seed, options)
            self.agents = []
            return {}, {}

    with pytest.raises(EnvContractError, match="at least one agent after reset"):
        make(Empty).reset(0)


def test_a_missing_observation_at_reset_is_a_breach():
    class Shy(Scripted):
        def reset(self, seed=None, options=None):
            observations, infos = super().reset(seed, options)
            return {a: o for a, o in observations.items() if a != "c"}, infos

    with pytest.raises(EnvContractError, match="'c' step 0: observation: expected all of"):
        make(Shy).reset(0)


def test_answers_of_the_wrong_shape_are_a_breach():
    class Old(Scripted):
        def step(self, actions):
            return super().step(actions)[:4]

    with pytest.raises(EnvContractError, match=r"step: expected \(observations.*got a tuple of 4"):
        play(make(Old), 1)

    class OldReset(Scripted):
        def reset(self, seed=None, options=None):
            return super().reset(seed, options)[0]

    with pytest.raises(EnvContractError, match=r"reset: expected \(observations, infos\), got dict"):
        make(OldReset)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros(3, np.int8), "a mask with a legal action, got all zeros"),
        (np.ones(4, np.int8), r"a mask of 3 zeros and ones, got shape \(4,\)"),
        (np.array([0, 1, 2]), "a mask of zeros and ones"),
        (np.array([0, np.nan, 1]), "a mask of zeros and ones"),
        (None, "a mask of 3 zeros and ones, got none, which its space promises"),
    ],
)
def test_bad_masks_are_a_breach(mask, words):
    class Masked(Turns):
        def observe(self, agent):
            seen = super().observe(agent)
            if self.moves == 2 and agent == self.agent_selection:
                seen["action_mask"] = mask
            return seen

    with pytest.raises(EnvContractError, match=f"'a' step 2: action_mask: expected {words}"):
        play(make(lambda: Masked(({},), masked=True)), 3)


def test_a_dead_agent_that_is_selected_again_is_a_breach():
    class Undead(Turns):
        def step(self, action):
            super().step(action)
            if self.moves == 3 and "b" not in self.agents:
                self.agents.append("b")
                for table in (self.rewards, self._cumulative_rewards):
                    table["b"] = 0.0
                self.terminations["b"] = self.truncations["b"] = False
                self.infos["b"] = {}
                self.agent_selection = "b"

    with pytest.raises(EnvContractError, match="'b' step 3: agent_selection: expected no agent to come back"):
        play(make(lambda: Undead(({"die": ["b"]}, {}, {}))), 3)


class Crashing(Walk):
    """Raises ``error`` in the step with this number; ``made`` counts environments, only the ``first`` ones crash."""

    made = 0

    def __init__(self, at=3, error=RuntimeError, first=10_000):
        super().__init__(noise=0.0)
        Crashing.made += 1
        self.at, self.error, self.crashes = at, error, Crashing.made <= first

    def step(self, action):
        answer = super().step(action)
        if self.time == self.at and self.crashes:
            raise self.error("no more")
        return answer


@pytest.fixture(autouse=True)
def _none_made_yet():
    Crashing.made = 0


@pytest.mark.parametrize("error", [RuntimeError, KeyError, SystemExit, MemoryError])
def test_a_crash_replaces_the_environment_and_discards_the_episode(error):
    batch = make(lambda: Crashing(error=error, first=3), 2, max_steps=10)
    batch.reset(0)
    before = batch.envs
    for _ in range(2):
        batch.step(act(batch))
    step = batch.step(act(batch))
    assert Crashing.made == 4
    assert not set(map(id, before)) & set(map(id, batch.envs))
    assert step.discarded.all()
    assert step.started.all()
    assert step.finished == ()
    assert (step.teams[0].obs[..., 1] == 0).all()
    assert (step.teams[0].reward == 0).all()
    assert not (step.teams[0].terminated | step.teams[0].truncated).any()
    assert step.teams[0].next_obs is step.teams[0].obs
    assert batch.faults == {"crash": 2}
    step = batch.step(act(batch))
    assert not step.discarded.any()


def test_after_a_crash_the_seed_is_a_new_one():
    batch = make(lambda: Crashing(first=1))
    first = batch.reset(0).teams[0].obs.copy()
    for _ in range(3):
        step = batch.step(act(batch))
    assert not np.array_equal(step.teams[0].obs, first)


def test_three_crashes_in_a_row_are_a_breach_with_the_original_traceback():
    batch = make(lambda: Crashing(at=2))
    batch.reset(0)
    for _ in range(5):
        batch.step(act(batch))
    with pytest.raises(EnvContractError, match="raised 3 times in a row, last at step 1: RuntimeError: no") as caught:
        batch.step(act(batch))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert batch.faults == {"crash": 3}


def test_episodes_played_to_their_end_forgive_crashes():
    class Sometimes(Crashing):
        episodes = 0

        def reset(self, *, seed=None, options=None):
            Sometimes.episodes += 1
            self.crashes = Sometimes.episodes % 2 == 0
            return super().reset(seed=seed)

        def step(self, action):
            return (*super().step(action)[:3], self.time == 5, {})

    batch = make(Sometimes)
    batch.reset(0)
    for _ in range(60):  # every other episode crashes
        batch.step(act(batch))
    assert batch.faults["crash"] > 3


def test_a_crash_in_reset_is_tried_again_with_a_new_environment():
    class BadStart(Walk):
        made = 0

        def __init__(self):
            super().__init__()
            type(self).made += 1
            self.number = type(self).made

        def reset(self, *, seed=None, options=None):
            if self.number == 1 and options:  # none are given where it is only looked at
                raise OSError("busy")
            return super().reset(seed=seed)

    batch = make(BadStart)
    step = batch.reset(0, {"level": 1})
    assert step.started.all()
    assert not step.discarded.any()
    assert batch.faults == {"crash": 1}


def test_an_environment_that_cannot_even_reset_is_a_breach():
    class Dead(Walk):
        def reset(self, *, seed=None, options=None):
            if options:
                raise OSError("busy")
            return super().reset(seed=seed)

    with pytest.raises(EnvContractError, match=r"raised 3 times in a row.*OSError: busy"):
        make(Dead).reset(0, {"level": 1})


def test_an_environment_that_raises_at_the_first_look_is_a_breach():
    class Dead(Walk):
        def reset(self, *, seed=None, options=None):
            raise OSError("no such board")

    with pytest.raises(EnvContractError, match="Dead: reset raised OSError: no such board"):
        make(Dead)


def test_an_action_outside_its_space_is_not_the_environments_fault():
    batch = make("CartPole-v1")
    batch.reset(0)
    with pytest.raises(ConfigError, match=r"action of agent 'agent_0' in copy 0: .*Discrete\(2\), got 7"):
        batch.step([np.array([[7]])])


def test_keyboard_interrupts_go_through():
    batch = make(lambda: Crashing(at=1, error=KeyboardInterrupt))
    batch.reset(0)
    with pytest.raises(KeyboardInterrupt):
        batch.step(act(batch))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_envs": 0}, "num_envs: expected an integer of at least 1, got 0"),
        ({"num_envs": 1.0}, "num_envs"),
        ({"num_envs": True}, "num_envs"),
        ({"max_steps": 0}, "max_steps: expected an integer of at least 1 or None, got 0"),
        ({"on_bad_obs": "ignore"}, "on_bad_obs: expected one of error, clip, cast, drop, got 'ignore'"),
        ({"workers": -1}, "workers"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        make(Walk, **options)


def test_misuse_is_refused_with_what_to_do():
    batch = make(Walk, 2)
    with pytest.raises(ConfigError, match="reset"):
        batch.step(act(batch))
    with pytest.raises(ConfigError, match="reset"):
        batch.state_dict()
    with pytest.raises(ConfigError, match="seed: expected a non-negative integer, got -1"):
        batch.reset(-1)
    batch.reset(0)
    with pytest.raises(ConfigError, match=r"actions of team 'team': expected shape \(2, 1\), got \(2,\)"):
        batch.step([np.zeros(2, int)])
    with pytest.raises(ConfigError, match="expected actions of 1 teams, got 2"):
        batch.step([np.zeros((2, 1), int)] * 2)
    one = Walk()
    with pytest.raises(ConfigError, match="returned one environment twice"):
        in_process(lambda: one, 2)
    with pytest.raises(ConfigError, match="instance is one copy"):
        make(one, 2)


def test_spaces_that_no_policy_can_act_in_are_refused_with_the_reason():
    class Joint(Walk):
        action_space = gymnasium.spaces.Tuple((Box(0, 1), Box(0, 1)))

    with pytest.raises(ConfigError, match=r"agent 'agent_0': action space Tuple.*wrap the environment"):
        make(Joint)


def test_a_mask_that_nobody_had_at_reset_is_a_breach_and_never_ignored():
    def masks(env, observations, rewards, terminations, truncations, infos):
        if env.time >= AFTER:
            infos["b"]["action_mask"] = np.array([0, 1, 1], dtype=np.int8)

    words = "action_mask: expected masks in the infos of reset too .* got the first one now"
    with pytest.raises(EnvContractError, match=f"agent 'b' step {AFTER}: {words}"):
        play(make(lambda: Scripted(({"change": masks},))), AFTER + 1)

    class Late(Turns):
        def last(self, observe=True):
            *answer, info = super().last(observe)
            return *answer, info | ({"action_mask": np.array([0, 1, 1], np.int8)} if self.moves else {})

    with pytest.raises(EnvContractError, match=f"agent 'b' step 1: {words}"):
        play(make(lambda: Late(({},))), 2)

    class Single(Walk):
        def step(self, action):
            *answer, info = super().step(action)
            return *answer, {**info, "action_mask": np.array([0, 1], np.int8)}

    with pytest.raises(EnvContractError, match=f"agent 'agent_0' step 1: {words}"):
        play(make(Single), 2)
    found = conformance.check(lambda: Scripted(({"change": masks},)), steps=2 * AFTER)
    assert any(one.rule == "mask_missing" for one in found.findings), found

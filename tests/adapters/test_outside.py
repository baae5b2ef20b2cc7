"""Observations that leave their space long after the first steps: found by looks that are rare, cheap and irregular."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from marl.adapters import make
from marl.adapters.checks import FULL_CHECKS, LONGEST_GAP, Gaps
from marl.adapters.rows import CHECKED_STEPS
from marl.types import EnvContractError
from tests.adapters.envs import Scripted, Turns, act


class Sensor(gymnasium.Env):
    """Episodes of ``length`` steps; from its ``first`` step on it shows ``wrong`` in step ``at`` of each episode.

    ``at`` None: in every step; ``stays``: from ``at`` on.
    """

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def __init__(self, length=40, at=30, wrong=(0.0, 1e4), first=0, dtype=np.float32, stays=False):
        self.length, self.at, self.first, self.stays = length, at, first, stays
        self.wrong = np.array(wrong, dtype)
        self.total = 0

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        self.total += 1
        due = self.at is None or self.time == self.at or (self.stays and self.time > self.at)
        bad = due and self.total >= self.first
        seen = self.wrong if bad else np.full(2, 0.5, np.float32)
        return seen, 1.0, False, self.time == self.length, {}


def advance(batch, steps):
    for _ in range(steps):
        batch.step(act(batch))


def play(batch, steps):
    batch.reset(0)
    advance(batch, steps)


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("length", [24, 32, 50, 64, 100, 128, 200])
def test_a_sensor_that_leaves_its_space_in_one_step_of_every_episode_is_found(length, copies):
    batch = make(lambda: Sensor(length, at=22), copies)
    with pytest.raises(EnvContractError, match=r"agent 'agent_0' step 22: .*values in \[-1, 1\] at \[1\], got 10000"):
        play(batch, 200 * length)


def test_one_that_leaves_it_for_good_is_found_within_a_few_steps_early_and_within_128_later():
    for first, most in ((21, 16), (60, 32), (5_000, 2 * LONGEST_GAP)):
        batch = make(lambda first=first: Sensor(10**6, None, first=first))
        batch.reset(0)
        advance(batch, first - 1)
        with pytest.raises(EnvContractError, match="observation: expected values"):
            advance(batch, most)


def test_what_is_shown_only_as_an_episode_ends_is_found():
    batch = make(lambda: Sensor(length=25, at=25))
    with pytest.raises(EnvContractError, match="step 25: observation: expected values"):
        play(batch, 25 * 2 * LONGEST_GAP)


def test_a_reset_outside_is_found():
    class Bad(Sensor):
        def reset(self, *, seed=None, options=None):
            super().reset()
            return np.full(2, 3.0 if self.total > 40 else 0.0, np.float32), {}

    batch = make(lambda: Bad(length=10, at=-1))
    with pytest.raises(EnvContractError, match="step 0: observation: expected values"):
        play(batch, 10 * 4 * LONGEST_GAP)


def test_a_dtype_that_changes_late_is_found_and_can_be_cast():
    def sensor():
        return Sensor(40, None, wrong=(0.5, 0.5), first=CHECKED_STEPS + 5, dtype=np.float64)

    within = 2 * FULL_CHECKS * 2 * LONGEST_GAP
    with pytest.raises(EnvContractError, match="expected dtype float32, got dtype float64"):
        play(make(sensor), within)
    batch = make(sensor, on_bad_obs="cast")
    play(batch, within)
    assert 0 < batch.faults["cast"] < 20


def test_they_are_dropped_or_clipped_where_that_is_wished():
    batch = make(lambda: Sensor(40, at=34, stays=True), 2, on_bad_obs="drop")
    batch.reset(0)
    dropped = 0
    for _ in range(2_000):
        step = batch.step(act(batch))
        dropped += int(step.discarded.sum())
        if step.discarded.any():
            assert (step.teams[0].obs[step.discarded] == 0).all()
    assert batch.faults == {"drop": dropped}
    assert dropped > 0
    batch = make(lambda: Sensor(40, at=34, stays=True), 2, on_bad_obs="clip")
    batch.reset(0)
    for _ in range(2_000):
        assert batch.step(act(batch)).teams[0].next_obs.max() <= 1
    assert set(batch.faults) == {"clip"}


def test_it_does_not_depend_on_the_number_of_workers():
    def found(workers):
        batch = make(lambda: Sensor(40, at=34, stays=True), 3, workers=workers, on_bad_obs="drop")
        batch.reset(0)
        when = [t for t in range(300) if batch.step(act(batch)).discarded.any()]
        batch.close()
        return when

    assert found(0) == found(2) != []


def test_a_loaded_environment_looks_when_the_saved_one_would_have():
    def when(batch, steps):
        return [t for t in range(steps) if batch.step(act(batch)).discarded.any()]

    one = make(lambda: Sensor(40, at=34, stays=True), 2, on_bad_obs="drop")
    one.reset(0)
    when(one, 77)
    state = one.state_dict()
    other = make(lambda: Sensor(40, at=34, stays=True), 2, on_bad_obs="drop")
    other.load_state_dict(state)
    assert when(one, 900) == when(other, 900) != []


def test_agents_and_teams_are_named_rightly():
    def wander(env, observations, *others):
        if env.time > CHECKED_STEPS:
            observations["x_1"] = np.array([0, -2000], np.float32)

    batch = make(lambda: Scripted(({"change": wander},), agents=("x_0", "y_0", "x_1")), 2, patterns=["y_*", "x_*"])
    with pytest.raises(EnvContractError, match=r"copy 0 agent 'x_1' step 2\d: observation: .* at \[1\], got -2000"):
        play(batch, 40)

    class Board(Turns):
        def observe(self, agent):
            return np.array([self.moves, 5_000 if self.moves > 50 else 0], np.float32)

    with pytest.raises(EnvContractError, match=r"observation: .* at \[1\], got 5000"):
        play(make(Board), 400)


def test_looks_grow_rare_and_visit_every_phase():
    gaps, seen = Gaps(), []
    for _ in range(400):
        gaps.renew()
        seen.append(gaps.left)
    assert seen[:12] == [2, 3, 4, 6, 8, 11, 14, 18, 23, 29, 37, 47]
    assert set(seen[14:]) == set(range(LONGEST_GAP, 2 * LONGEST_GAP))
    steps = np.cumsum(seen)
    for length in range(2, 151):
        assert len(set((steps % length).tolist())) >= 0.6 * length

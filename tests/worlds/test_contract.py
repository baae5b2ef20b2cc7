"""What every world on disk must do, and what the batch promises: autoreset, streams, tasks, teams, save and restore."""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import marl_envs
import numpy as np
import pettingzoo
import pytest
from marl_envs.world import World

from marl.types import (
    BatchEnv,
    CheckpointError,
    ConfigError,
    EnvContractError,
    Step,
    SupportsBatch,
    TeamStep,
    zeros_step,
)
from tests.worlds.every import WORLDS, random_actions

with warnings.catch_warnings():  # PettingZoo's tests import its environments the old way
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import parallel_api_test, parallel_seed_test

DOCS = Path(__file__).parents[2] / "docs" / "worlds.md"


each_world = pytest.mark.parametrize("make", WORLDS, ids=[world.__name__ for world in WORLDS])


def snapshot(step: Step) -> list[np.ndarray]:
    """Copies of all arrays of a step."""
    arrays = [step.started, step.discarded]
    for team in step.teams:
        arrays += [team.obs, team.next_obs, team.reward, team.terminated, team.truncated, team.acting]
        arrays += [action_mask for action_mask in (team.action_mask, team.next_action_mask) if action_mask is not None]
    arrays += [] if step.state is None else [step.state, step.next_state]
    return [array.copy() for array in arrays]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    """Bit for bit."""
    return len(a) == len(b) and all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_every_world_on_disk_is_listed() -> None:
    listed = {world.__name__ for world in marl_envs.WORLDS.values()}
    assert {world.__name__ for world in WORLDS} == listed
    assert listed <= set(marl_envs.__all__)


@each_world
def test_the_face_is_a_parallel_env(make: type[World]) -> None:
    env = make()
    assert isinstance(env, pettingzoo.ParallelEnv)
    assert isinstance(env, SupportsBatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(env, num_cycles=200)
        parallel_seed_test(make, num_cycles=200)
    name, version = env.metadata["name"].rsplit("_", 1)
    made = pettingzoo.make("parallel", f"marl/{name}-{version}", max_cycles=None)
    assert type(made) is make
    obs, _ = made.reset(seed=1)
    for agent, seen in obs.items():
        assert made.observation_space(agent).contains(seen), agent


@each_world
def test_arrays_fit_the_spec(make: type[World]) -> None:
    batch = make().batch_env(3)
    assert isinstance(batch, BatchEnv)
    expected = zeros_step(batch.spec, 3)
    step, rng = batch.reset(0), np.random.default_rng(0)
    for _ in range(60):
        for team, pattern in zip(step.teams, expected.teams, strict=True):
            for name in ("obs", "next_obs", "reward", "terminated", "truncated", "acting", "action_mask"):
                given, wanted = getattr(team, name), getattr(pattern, name)
                assert (given is None) == (wanted is None)
                if given is not None:
                    assert (given.shape, given.dtype) == (wanted.shape, wanted.dtype), name
            assert np.isfinite(team.obs).all()
            assert not (team.terminated & team.truncated).any()
        if batch.spec.state_shape is not None:
            assert step.state is not None
            assert step.state.shape == (3, *batch.spec.state_shape)
            assert step.state.dtype == np.float32
        step = batch.step(random_actions(batch, rng))
        assert (step.teams[0].next_obs is step.teams[0].obs) == (len(step.finished) == 0)


@each_world
def test_a_copy_s_fate_depends_on_its_own_stream_only(make: type[World]) -> None:
    batch, rng = make().batch_env(3), np.random.default_rng(1)
    alone = [make().batch_env(1, first_copy=copy) for copy in range(3)]
    steps = [single.reset(5) for single in alone]
    together = batch.reset(5)
    for _ in range(40):
        for copy, step in enumerate(steps):
            assert all(
                np.array_equal(one[0], many[copy]) for one, many in zip(snapshot(step), snapshot(together), strict=True)
            )
        actions = random_actions(batch, rng)
        steps = [single.step([a[copy : copy + 1] for a in actions]) for copy, single in enumerate(alone)]
        together = batch.step(actions)
        for copy, step in enumerate(steps):  # next_obs of a copy is its own, whether or not another one ended
            for one, many in zip(step.teams, together.teams, strict=True):
                assert np.array_equal(one.next_obs[0], many.next_obs[copy])


@each_world
def test_save_and_restore_go_on_exactly(make: type[World]) -> None:
    first, second, rng = make().batch_env(4), make().batch_env(4), np.random.default_rng(2)
    first.reset(3)
    for _ in range(17):
        step = first.step(random_actions(first, rng))
    saved = first.state_dict()
    before = snapshot(step)
    for _ in range(5):
        first.step(random_actions(first, rng))
    restored = second.load_state_dict(saved)
    assert np.array_equal(restored.teams[0].obs, before[2])
    first.load_state_dict(saved)
    for _ in range(60):
        actions = random_actions(first, rng)
        a, b = first.step(actions), second.step(actions)
        assert same(snapshot(a), snapshot(b))
        assert list(a.finished) == list(b.finished)
    with pytest.raises(CheckpointError, match="number of copies"):
        make().batch_env(5).load_state_dict(saved)


@each_world
def test_step_into_equals_step(make: type[World]) -> None:
    a, b, rng = make().batch_env(3), make().batch_env(3), np.random.default_rng(4)
    a.reset(0)
    b.reset(0)
    slots = [zeros_step(b.spec, 3) for _ in range(2)]
    for team in slots[1].teams:  # one slot with room for successors, one without
        team.next_obs = np.zeros_like(team.obs)
    for t in range(60):
        actions = random_actions(a, rng)
        expected, out = a.step(actions), b.step_into(actions, slots[t % 2])
        assert out is slots[t % 2]
        assert same(snapshot(expected), snapshot(out))
        assert list(expected.finished) == list(out.finished)


@each_world
def test_pictures(make: type[World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")
    env = make(render_mode="rgb_array")  # type: ignore[call-arg]
    env.reset(seed=0)
    picture = env.render()
    assert picture is not None
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.std() > 0
    env.step({agent: env.action_space(agent).sample() for agent in env.agents})
    assert env.render() is not None
    env.close()


def test_a_window_opens_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")
    env = marl_envs.Spread(render_mode="human")
    env.metadata = {**env.metadata, "render_fps": 1000}
    env.reset(seed=0)
    env.step(dict.fromkeys(env.agents, 1))
    assert env.render() is None
    env.close()


# -- the loop, seen through a world that counts
# -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def meet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The example of the documentation, as the file a reader would write."""
    block = re.search(r"<!-- world:.*?```python\n(.*?)```", DOCS.read_text(), re.S)
    assert block is not None
    folder = tmp_path_factory.mktemp("example")
    (folder / "meet_world.py").write_text(block[1])
    sys.path.insert(0, str(folder))
    yield importlib.import_module("meet_world")
    sys.path.remove(str(folder))


def test_the_documented_world_is_short_and_passes(meet: ModuleType) -> None:
    block = re.search(r"<!-- world:.*?```python\n(.*?)```", DOCS.read_text(), re.S)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line.strip()]) <= 60
    parallel_api_test(meet.Meet(), num_cycles=100)
    parallel_seed_test(meet.Meet, num_cycles=100)
    assert meet.Meet(render_mode="rgb_array").batch_env(2).num_envs == 2


def test_deaths_end_one_agent_and_then_the_episode(meet: ModuleType) -> None:
    batch = meet.Meet(length=4, max_cycles=100).batch_env(1)
    batch.reset(0)
    place = batch._core.s.place
    place[0] = (0.0, 3.0)
    step = batch.step([np.array([[0, 1]])])  # the first walks off, the second stays
    assert step.teams[0].terminated.tolist() == [[True, False]]
    assert step.teams[0].acting.tolist() == [[False, True]]
    assert step.teams[0].obs[0, 0].tolist() == [0.0, 0.0]
    assert not step.finished
    step = batch.step([np.array([[-7, 1]])])  # actions of the dead are not looked at
    assert step.teams[0].terminated.tolist() == [[False, False]]
    place[0, 0] = -5.0
    step = batch.step([np.array([[1, 2]])])
    assert step.teams[0].terminated.tolist() == [[False, True]]
    assert step.teams[0].acting.tolist() == [[True, True]]
    assert step.started.tolist() == [True]
    (episode,) = step.finished
    assert episode.length == 3
    assert episode.returns["agent_1"] == pytest.approx(-0.3)
    assert step.teams[0].next_obs[0, 0].tolist() == [0.0, 0.0]  # died before: no successor
    assert step.teams[0].next_obs[0, 1, 0] == 1.0  # the true successor, off the end


def test_the_successor_is_never_a_reset_observation() -> None:
    batch = marl_envs.Spread(max_cycles=2).batch_env(2)
    batch.set_tasks({"max_cycles": 3}, copies=[1])
    batch.reset(0)
    s = batch._core.s
    for t in range(1, 13):
        s.pos[:, 0] = 1000.0 + t  # a sentinel that no reset can make
        s.vel[:] = 0.0
        step = batch.step([np.zeros((2, 3), dtype=np.int64)])
        team = step.teams[0]
        ends = np.array([t % 2 == 0, t % 3 == 0])
        assert (team.next_obs[:, 0, 2] == 1000.0 + t).all()
        assert ((team.obs[:, 0, 2] < 2.0) == ends).all()
        assert (step.started == ends).all()
        assert (team.truncated == ends[:, None]).all()
        assert not team.terminated.any()
        assert [episode.copy for episode in step.finished] == np.flatnonzero(ends).tolist()
        assert step.next_state is not None
        assert step.state is not None
        assert (step.next_state[:, 2] == 1000.0 + t).all()
        assert ((step.state[:, 2] < 2.0) == ends).all()
        assert (team.next_obs is team.obs) == (not ends.any())


@pytest.mark.parametrize("make", [marl_envs.TrafficJunction, marl_envs.PredatorPrey])
@pytest.mark.parametrize("split", [False, True])
def test_the_mask_of_a_cut_off_successor_is_what_would_have_been_legal(make: type[World], split: bool) -> None:
    patterns = ["*_[02]", "*"] if split else None  # a gathered team and the rest
    cut, uncut = make(max_cycles=7).batch_env(16, patterns), make().batch_env(16, patterns)
    cut.reset(0)
    uncut.reset(0)
    differs = False
    for t in range(1, 8):
        action_mask = [team.action_mask for team in cut._step.teams]
        actions = [np.where(mask[..., 1], 1, mask.argmax(-1)) for mask in action_mask]  # on, where one may go on
        step, onward = cut.step(actions), uncut.step(actions)
        for team, later in zip(step.teams, onward.teams, strict=True):
            assert (team.next_action_mask is team.action_mask) == (len(step.finished) == 0)
            if t == 7:
                goes_on = ~onward.started
                assert team.truncated[goes_on].any()
                assert np.array_equal(team.next_action_mask[goes_on], later.action_mask[goes_on])
                differs |= not np.array_equal(team.next_action_mask, team.action_mask)
    assert differs  # from what the fresh episodes allow


def test_termination_and_truncation_differ() -> None:
    batch = marl_envs.CartPole(max_cycles=10).batch_env(2)
    batch.reset(0)
    batch._core.s.x[0, 2] = 0.5
    step = batch.step([np.ones((2, 1), dtype=np.int64)])
    assert step.teams[0].terminated[:, 0].tolist() == [True, False]
    for _ in range(9):
        step = batch.step([np.ones((2, 1), dtype=np.int64) * (_ % 2)])
    assert step.teams[0].truncated[:, 0].tolist() == [False, True]


def test_success_terminates_spread_and_tag() -> None:
    for make in (marl_envs.Spread, marl_envs.Tag):
        batch = make(terminate_on_success=True, max_cycles=2).batch_env(1)
        batch.reset(0)
        actions = [np.zeros((1, len(batch.spec.agents)), dtype=np.int64)]
        s = batch._core.s
        n = s.vel.shape[1]
        s.pos[0, :n] = (
            s.pos[0, n : 2 * n] + 0.01
            if make is marl_envs.Spread
            else np.array([[0.5, 0.5], [0, 0], [-0.5, 0], [0.55, 0.5]])
        )
        step = batch.step(actions)
        assert step.teams[0].terminated.all()
        assert step.finished[0].length == 1


# -- teams
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "patterns", [["adversary_*", "agent_*"], ["agent_*", "adversary_*"], ["adversary_1", "*"], ["*_0", "*"]]
)
def test_any_division_into_teams_sees_the_same_world(patterns: list[str]) -> None:
    whole, divided = marl_envs.Tag(num_good=2).batch_env(3), marl_envs.Tag(num_good=2).batch_env(3, patterns)
    order = {agent: n for n, agent in enumerate(whole.spec.agents)}
    a, b, rng = whole.reset(0), divided.reset(0), np.random.default_rng(0)
    for _ in range(60):
        for spec, team in zip(divided.spec.teams, b.teams, strict=True):
            rows = [order[agent] for agent in spec.agents]
            width = spec.obs.shape[0]
            assert np.array_equal(team.obs, a.teams[0].obs[:, rows, :width])
            assert np.array_equal(team.next_obs, a.teams[0].next_obs[:, rows, :width])
            for name in ("reward", "terminated", "truncated", "acting"):
                assert np.array_equal(getattr(team, name), getattr(a.teams[0], name)[:, rows])
        assert a.state is not None
        assert b.state is not None
        assert np.array_equal(a.state, b.state)
        actions = random_actions(whole, rng)[0]
        a = whole.step([actions])
        b = divided.step([actions[:, [order[agent] for agent in spec.agents]] for spec in divided.spec.teams])
        assert list(a.finished) == list(b.finished)


def test_narrow_agents_get_masks_and_padding() -> None:
    batch = marl_envs.SpeakerListener().batch_env(2)
    step = batch.reset(0)
    action_mask = step.teams[0].action_mask
    assert action_mask is not None
    assert action_mask[0].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert not step.teams[0].obs[:, 0, 3:].any()
    with pytest.raises(EnvContractError, match=r"speaker_0 in copy 1.*0\.\.2.*got 4"):
        batch.step([np.array([[0, 0], [4, 0]])])
    assert marl_envs.WorldComm(continuous_actions=True).batch_env(1).spec.teams[0].action.widths == (9, 5, 5, 5, 5, 5)


# -- tasks, errors, faces
# ---------------------------------------------------------------------------------------------------


def test_tasks_hold_from_the_next_reset_and_are_reported() -> None:
    batch = marl_envs.GridWorld(width=6, height=6, max_cycles=5).batch_env(2)
    batch.reset(0, options={"task": {"width": [3, 6], "density": 0.0}})
    assert batch.tasks()["width"].tolist() == [3, 6]
    batch.set_tasks({"width": 4})
    assert batch.tasks()["width"].tolist() == [3, 6]
    finished: list[Any] = []
    while len(finished) < 2:
        finished += batch.step([np.zeros((2, 1), dtype=np.int64)]).finished
    assert batch.tasks()["width"].tolist() == [4, 4]
    assert {episode.copy: episode.info["task/width"] for episode in finished} == {0: 3.0, 1: 6.0}
    with pytest.raises(ConfigError, match="density"):
        batch.set_tasks({"density": 2.0})
    with pytest.raises(ConfigError, match="no task parameter 'widht'"):
        batch.set_tasks({"widht": 2})
    with pytest.raises(ConfigError, match="whole numbers"):
        batch.set_tasks({"width": 2.5})


def test_bad_input_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="local_ratio"):
        marl_envs.Spread(local_ratio=2.0)
    with pytest.raises(ConfigError, match="num_agent_neighbors"):
        marl_envs.Tag(num_agent_neighbors=0)
    with pytest.raises(ConfigError, match="render_mode"):
        marl_envs.CartPole(render_mode="ansi")
    batch = marl_envs.Spread(continuous_actions=True).batch_env(2)
    with pytest.raises(EnvContractError, match="reset"):
        batch.step([np.zeros((2, 3, 5), dtype=np.float32)])
    batch.reset(0)
    bad = np.zeros((2, 3, 5), dtype=np.float32)
    bad[1, 2, 3] = np.nan
    before = batch._core.s.pos.copy()
    with pytest.raises(EnvContractError, match="agent_2 in copy 1"):
        batch.step([bad])
    assert np.array_equal(before, batch._core.s.pos)
    with pytest.raises(EnvContractError, match="team 'team'"):
        batch.step([np.zeros((3, 3, 5), dtype=np.float32)])


def test_the_face_is_copy_zero_of_the_batch() -> None:
    env, batch = marl_envs.Tag(), marl_envs.Tag().batch_env(2)
    obs, _ = env.reset(seed=9)
    step = batch.reset(9)
    widths, rng = batch.spec.teams[0].obs.widths, np.random.default_rng(0)
    while env.agents:
        for n, agent in enumerate(env.agents):
            assert np.array_equal(step.teams[0].next_obs[0, n, : widths[n]], obs[agent])
        actions = random_actions(batch, rng)
        obs, reward, *_ = env.step(dict(zip(env.agents, actions[0][0].tolist(), strict=True)))
        step = batch.step(actions)
        assert list(reward.values()) == step.teams[0].reward[0].tolist()
    assert env.step({}) == ({}, {}, {}, {}, {})


# -- what the worlds are like
# -----------------------------------------------------------------------------------------------


def test_random_agents_in_spread_return_what_the_literature_says() -> None:
    batch, rng = marl_envs.Spread().batch_env(400), np.random.default_rng(0)
    batch.reset(0)
    returns = []
    for _ in range(25 * 10):
        step = batch.step([rng.integers(0, 5, (400, 3))])
        if step.finished:
            returns.append(step.finished.returns)  # type: ignore[attr-defined]
    per_agent = np.concatenate(returns)
    assert per_agent.shape == (4000, 3)
    error = per_agent.mean(1).std() / np.sqrt(len(per_agent))
    assert abs(per_agent.mean() - -26.4) < 4 * error + 0.2
    assert abs(per_agent.sum(1).mean() - -79.2) < 3 * (4 * error + 0.2)


def test_spread_with_the_whole_team_is_spread() -> None:
    for limits in ({}, {"num_agent_neighbors": 2, "num_landmark_neighbors": 3}):
        rng = np.random.default_rng(0)
        fixed = marl_envs.Spread(N=4, max_cycles=7, **limits).batch_env(3)
        growing = marl_envs.GrowingSpread(N=4, max_cycles=7, **limits).batch_env(3)
        assert same(snapshot(fixed.reset(5)), snapshot(growing.reset(5)))
        for _ in range(20):
            actions = random_actions(fixed, rng)
            assert same(snapshot(fixed.step(actions)), snapshot(growing.step(actions)))


def test_a_smaller_team_in_spread_sees_pushes_and_pays_itself_alone() -> None:
    """A team of two of five is `Spread` with two agents, whatever the others are told to do."""
    limits = {"num_agent_neighbors": 1, "num_landmark_neighbors": 2, "max_cycles": 9}
    small, large = marl_envs.Spread(N=2, **limits).batch_env(4), marl_envs.GrowingSpread(N=5, **limits).batch_env(4)
    rng = np.random.default_rng(1)
    small.reset(0)
    step = large.reset(0, {"task": {"agents": 2}})
    assert step.teams[0].acting.tolist() == [[True, True, False, False, False]] * 4
    small._core.s.pos[...] = large._core.s.pos[:, [0, 1, 5, 6]]
    small._core.s.pos[:, :2] *= 0.1  # so near that they touch
    large._core.s.pos[:, :2] = small._core.s.pos[:, :2]
    for _ in range(8):
        actions = rng.integers(0, 5, (4, 5))
        one, other = small.step([actions[:, :2]]).teams[0], large.step([actions]).teams[0]
        assert np.array_equal(one.obs, other.obs[:, :2])
        assert np.array_equal(one.reward, other.reward[:, :2])
        assert not other.obs[:, 2:].any()
        assert not other.reward[:, 2:].any()
    (episode, *_) = large.step([actions]).finished
    assert episode.info["task/agents"] == 2
    assert episode.returns["agent_4"] == 0
    assert 0 <= episode.info["success"] <= 1
    unlimited = marl_envs.GrowingSpread(N=4).batch_env(1)
    seen = unlimited.reset(0, {"task": {"agents": 1}}).teams[0].obs[0, 0]
    assert seen.shape == (4 + 8 + 6 + 6,)
    assert np.flatnonzero(seen).tolist() == [2, 3, 4, 5]  # own place, the only landmark; at rest, alone


def test_every_maze_can_be_solved() -> None:
    env = marl_envs.GridWorld(width=9, height=7, density=0.6, num_agents=3)
    for seed in range(60):
        env.reset(seed=seed)
        s = env.core.s
        for n in range(3):
            seen, queue = set(), [tuple(s.agent[0, n].tolist())]
            while queue:
                x, y = queue.pop()
                if (x, y) in seen or not (0 <= x < 9 and 0 <= y < 7) or s.wall[0, y, x]:
                    continue
                seen.add((x, y))
                queue += [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
            assert tuple(s.goal[0, n].tolist()) in seen
            assert tuple(s.goal[0, n].tolist()) != tuple(s.agent[0, n].tolist())


def test_arriving_in_the_gridworld_pays_and_is_a_success() -> None:
    batch = marl_envs.GridWorld(width=4, height=4, density=0.0, num_agents=2).batch_env(1)
    batch.reset(0)
    s = batch._core.s
    s.agent[0], s.goal[0] = [[0, 0], [3, 3]], [[1, 0], [3, 1]]
    step = batch.step([np.array([[2, 3]])])
    assert step.teams[0].reward.tolist() == [[1.0, 0.0]]
    assert step.teams[0].acting.tolist() == [[False, True]]
    step = batch.step([np.array([[0, 3]])])
    assert step.teams[0].terminated.tolist() == [[False, True]]
    assert step.finished[0].info == {"success": 1.0}
    image = marl_envs.GridWorld(width=5, height=4, obs="image")
    assert image.observation_space("agent_0").shape == (4, 5, 4)
    assert image.batch_env(2).spec.teams[0].obs.shape == (4, 4, 5)


def test_matrix_games_pay_their_table() -> None:
    game = marl_envs.MatrixGame(rounds=2).batch_env(9)
    game.reset(0)
    actions = np.stack(np.divmod(np.arange(9), 3), axis=1)
    step = game.step([actions])
    assert step.teams[0].reward[:, 1].tolist() == [11, -30, 0, -30, 7, 6, 0, 0, 5]
    assert step.teams[0].obs[5, 0].tolist() == [1, 0, 1, 0, 0, 0, 1]
    assert game.step([actions]).teams[0].terminated.all()
    from marl_envs.matrix_game import PRISONERS

    own = marl_envs.MatrixGame(PRISONERS).batch_env(1)
    own.reset(0)
    assert own.step([np.array([[0, 1]])]).teams[0].reward.tolist() == [[-3.0, 0.0]]
    with pytest.raises(ConfigError, match="payoff"):
        marl_envs.MatrixGame([[[1.0, 2.0]]], shared=False)


def test_the_two_step_game_pays_seven_or_eight() -> None:
    batch = marl_envs.TwoStep().batch_env(8)
    step = batch.reset(0)
    assert step.state is not None
    assert step.state[0].tolist() == [1, 0, 0]
    choices = np.array([[(k >> 2) & 1, (k >> 1) & 1, k & 1] for k in range(8)])
    batch.step([np.stack([choices[:, 0], choices[:, 1]], axis=1)])
    step = batch.step([choices[:, 1:]])
    assert step.teams[0].reward[:, 0].tolist() == [7, 7, 7, 7, 0, 1, 1, 8]
    assert step.teams[0].terminated.all()


def test_pursuers_catch_together() -> None:
    batch = marl_envs.Pursuit(play_evaders=True, num_evaders=1, num_pursuers=2).batch_env(1)
    batch.reset(0)
    s = batch._core.s
    s.place[0] = [[0, 0], [5, 5], [0, 1]]
    step = batch.step([np.zeros((1, 3), dtype=np.int64)])
    np.testing.assert_allclose(step.teams[0].reward, [[-0.01, -0.01, 0.01]])
    s.place[0, 1] = [1, 1]
    step = batch.step([np.zeros((1, 3), dtype=np.int64)])
    np.testing.assert_allclose(step.teams[0].reward, [[0.99, 0.99, -1.0]])
    assert step.teams[0].terminated.all()
    assert step.finished[0].info == {"caught": 1.0}


def test_step_into_checks_what_it_is_given() -> None:
    batch = marl_envs.Spread().batch_env(2)
    batch.reset(0)
    out = zeros_step(batch.spec, 3)
    with pytest.raises(ConfigError, match="step_into"):
        batch.step_into([np.zeros((2, 3), dtype=np.int64)], out)
    rollout = np.zeros((4, 2, 3, 18), dtype=np.float32)
    slot = zeros_step(batch.spec, 2)
    slot.teams = (TeamStep(**{**vars(slot.teams[0]), "obs": rollout[1], "next_obs": rollout[1]}),)
    batch.step_into([np.ones((2, 3), dtype=np.int64)], slot)
    assert rollout[1].any()
    assert not rollout[2].any()

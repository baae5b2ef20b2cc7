"""What the scenarios of PettingZoo's flagships and their kin rest on: pixels that move, a potential, two armies."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from marl_scenarios import rware

import marl
from marl.adapters import make
from marl.adapters.resolve import comes_with_library
from marl.scenario import find
from marl.types import ConfigError
from tests.benchmarks.learning import TASKS, against_random, run


@pytest.mark.parametrize(("name", "module"), [("pistonball", "pymunk"), ("cooperative_pong", "pygame")])
def test_pixels_are_small_images_in_which_something_moves(name, module):
    pytest.importorskip(module, reason="needs the extra 'butterfly'")
    scenario = find(name)
    batch = make(scenario.env, 1, env_kwargs=scenario.env_kwargs)
    seen = [batch.reset(0).teams[0].obs[0].copy()]
    assert batch.spec.teams[0].obs.is_image
    assert seen[0].size < 10_000 * batch.spec.teams[0].num_agents
    for step in range(12):
        action = np.full((1, batch.spec.teams[0].num_agents), step % 3, np.int64)
        seen.append(batch.step([action]).teams[0].obs[0].copy())
    assert sum((before != after).any() for before, after in itertools.pairwise(seen)) > 6
    batch.close()


@pytest.mark.parametrize(("name", "extra"), [("pistonball", "butterfly"), ("cooperative_pong", "butterfly")])
def test_wrapped_environments_name_their_extra_too(monkeypatch, name, extra):
    from pettingzoo.env_registry import registration

    for module in list(sys.modules):
        if module.startswith(("pygame", f"pettingzoo.butterfly.{name}")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pygame", None)  # what import does with a package that is not there
    registration._load_env_creator.cache_clear()
    scenario = find(name)
    with pytest.raises(ConfigError, match=rf"pip install 'pettingzoo\[{extra}\]'"):
        make(scenario.env, env_kwargs=scenario.env_kwargs)
    registration._load_env_creator.cache_clear()


def seen_by_a_robot(x, y, carrying=0.0, requested=0.0):
    obs = np.zeros(71, np.float32)
    obs[0], obs[1], obs[rware.CARRYING], obs[rware.REQUESTED] = x, y, carrying, requested
    return obs


def test_progress_of_a_robot_rises_to_the_goal_and_falls_with_a_shelf_that_nobody_wants():
    empty, beside_a_shelf = seen_by_a_robot(2, 3), seen_by_a_robot(2, 3, requested=1)
    taken, nearer = seen_by_a_robot(2, 3, 1, 1), seen_by_a_robot(2, 4, 1, 1)
    at_goal, unwanted = seen_by_a_robot(4, 10, 1, 1), seen_by_a_robot(4, 10, 1, 0)
    values = rware.progress(np.stack([unwanted, empty, beside_a_shelf, taken, nearer, at_goal])[:, None])[:, 0]
    np.testing.assert_allclose(values, [-0.25, 0, 0, 0.31, 0.33, 0.49], atol=1e-6)


def test_entries_that_the_potential_reads_are_those_of_rware():
    pytest.importorskip("rware", reason="needs the extra 'rware'")
    import gymnasium

    env = gymnasium.make("rware-tiny-2ag-easy-v2", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    wanted, unwanted = env.request_queue[0], next(one for one in env.shelfs if one not in env.request_queue)
    assert {(x, y) for x, y in env.goals} == {(rware.GOALS - 0.5, rware.LAST_ROW), (rware.GOALS + 0.5, rware.LAST_ROW)}
    for robot, shelf in zip(env.agents, (wanted, unwanted), strict=True):
        robot.carrying_shelf, robot.x, robot.y = shelf, shelf.x, shelf.y
    env._recalc_grid()
    seen = np.stack([env._make_obs(robot) for robot in env.agents])
    assert seen[:, rware.CARRYING].tolist() == [1, 1]
    assert seen[:, rware.REQUESTED].tolist() == [1, 0]
    assert seen[:, :2].tolist() == [[wanted.x, wanted.y], [unwanted.x, unwanted.y]]


def test_a_robots_time_limit_cuts_episodes_off_and_ends_none():
    pytest.importorskip("rware", reason="needs the extra 'rware'")
    scenario = find("rware")
    batch = make(scenario.env, 1, env_kwargs=scenario.env_kwargs, max_steps=scenario.max_steps)
    batch.reset(0)
    for _ in range(scenario.max_steps):
        step = batch.step([np.zeros((1, 2), np.int64)])
    assert step.teams[0].truncated.all()
    assert not step.teams[0].terminated.any()


def test_each_army_is_measured_against_soldiers_that_act_at_random():
    pytest.importorskip("magent2", reason="needs the extra 'magent'")
    scenario = TASKS["battle"].make()
    still = {"red_*": marl.learners.Fixed(0), "blue_*": marl.Random()}
    with marl.MultiAgentSystem(still, scenario, num_envs=2) as system:
        assert system.spec.teams[0].agents == tuple(f"red_{number}" for number in range(6))
        # Who stands still pays for every step and for dying, and earns nothing.
        assert -6.7 < against_random(system, "red", episodes=2) < -5.5


def test_random_play_is_measured_without_training():
    row = run(TASKS["cartpole"], 0, None, random=True)
    assert row["steps"] == 0
    assert 15 < row["result"] < 30


def test_files_may_name_environments_of_known_families_and_nothing_else_of_them():
    for name, module in (
        ("magent2.environments.battle_v4", "magent2"),
        ("gymnasium_robotics.mamujoco_v1", "gymnasium_robotics"),
        ("rware-tiny-2ag-v2", "rware"),
    ):
        try:
            __import__(module)
        except ImportError:
            continue
        assert comes_with_library(name)
    for name in ("magent2.environments.magent_env", "magent2.gridworld", "gymnasium_robotics.core", "rware.warehouse"):
        assert not comes_with_library(name)

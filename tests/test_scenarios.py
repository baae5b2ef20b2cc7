"""Every scenario on disk is registered, can be built, trains and is evaluated."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import tomllib
import warnings
from pathlib import Path

import pytest

import marl
from marl import parallel
from marl.installed import SCENARIOS as GROUP
from marl.scenario import find, is_installed, names
from marl.types import ConfigError
from tests.benchmarks.learning import TASKS, main

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "scenarios" / "marl_scenarios").glob("*.py") if path.stem != "__init__")
VARIANTS = [f"{path.stem}_{algorithm}" for path in FILES for algorithm in find(path.stem).algorithms]
NAMES = [*(path.stem for path in FILES), *VARIANTS]
NEEDS = {
    "mpe": ["mpe2"],
    "classic": ["rlcard"],
    "butterfly": ["pymunk"],
    "sisl": ["Box2D"],
    "magent": ["magent2"],
    "rware": ["rware"],
    "mujoco": ["gymnasium_robotics"],
    "league": ["scipy"],
}
BY_THE_CLOCK = {"pursuit_vision"}  # stages that last so many steps, more than a test has
# Environments of a few hundred steps a second, or less.
SLOW = {"pursuit", "multiwalker", "knights_archers_zombies", "pistonball", "cooperative_pong", "rware", "mamujoco"}


def scenario_of(name):
    scenario = find(name)
    for module in NEEDS.get(scenario.extra, []):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the extra {scenario.extra!r}")
    return scenario


@pytest.fixture(autouse=True)
def _box2d_is_old():
    """Box2D's bindings warn while they are imported, and crash the interpreter where that is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "builtin type .* has no __module__ attribute", DeprecationWarning)
        yield


def test_the_table_names_the_package_and_every_file_in_it_is_installed():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    assert table == {"marl": "marl_scenarios"}
    assert {path.stem for path in FILES} <= set(names())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_is_one_playable_file(path):
    module = importlib.import_module(f"marl_scenarios.{path.stem}")
    scenarios = [name for name, value in vars(module).items() if isinstance(value, marl.Scenario)]
    assert scenarios == ["scenario"]
    scenario = module.scenario
    assert scenario.name == path.stem
    assert scenario.expect
    assert scenario.about
    assert module.__doc__
    assert find(str(path)).agents == find(path.stem).agents == scenario.agents


def soon(config):
    """The same learner, learning after a few steps."""
    if isinstance(config, marl.PPO | marl.A2C):
        return config
    return dataclasses.replace(config, learning_starts=16, batch=16, buffer=1_000, updates_per_step=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_trains_and_is_evaluated(name):
    scenario = scenario_of(name)
    agents = scenario.agents if isinstance(scenario.agents, dict) else {"*": scenario.agents}
    agents = {pattern: soon(config) for pattern, config in agents.items()}
    rows = max(getattr(config, "rollout", 16) for config in agents.values())
    chosen = agents if isinstance(scenario.agents, dict) else agents["*"]
    if name in BY_THE_CLOCK:
        with (
            pytest.raises(ConfigError, match="can never be reached"),
            marl.MultiAgentSystem(chosen, scenario) as system,
        ):
            system.train(steps=4 * rows)
        scenario = dataclasses.replace(scenario, curriculum=None)
    with marl.MultiAgentSystem(chosen, scenario, num_envs=4, seed=0) as system:
        history = system.train(steps=4 * rows)
        assert system.steps == 4 * rows
        losses = [values for key, values in history.items() if key.split("/")[-1] in ("policy_loss", "loss")]
        assert len(losses) == len(system.learners)
        assert all(math.isfinite(value) for values in losses for value in values)
        if name in SLOW:  # whole episodes of these take long
            return
        report = system.evaluate(2)
        assert report.episodes == 2
        assert set(report.returns_per_agent) == set(system.spec.agents)
        assert math.isfinite(report.mean_return)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_a_slow_scenario_is_evaluated(name):
    with marl.MultiAgentSystem(None, scenario_of(name), seed=0) as system:
        assert math.isfinite(system.evaluate(1).mean_return)


def test_a_scenario_survives_worker_processes():
    pytest.importorskip("mpe2")
    with marl.MultiAgentSystem(None, "spread", num_envs=4, workers=2, seed=0) as system:
        system.train(steps=100)
        assert len(system.history["episode_rewards"]) == 4


# What trained these tasks before, in files of their own: the numbers of docs/benchmarks.md are theirs.
BEFORE = {
    "spread_iql": (marl.iql, "marl/spread-v0", 16, 800_000, {"discount": 0.8, "batch": 512, "buffer": 200_000}),
    "spread_qmix": (marl.qmix, "marl/spread-v0", 16, 800_000, {"discount": 0.8, "learning_starts": 5_000}),
    "spread_masac": (marl.masac, "marl/spread-v0", 16, 1_000_000, {"discount": 0.85, "buffer": 500_000}),
    "cartpole_a2c": (marl.A2C, "CartPole-v1", 8, 500_000, {"rollout": 5, "discount": 0.99}),
    "acrobot_dqn": (marl.DQN, "marl/acrobot-v0", 8, 100_000, {"n_step": 3, "updates_per_step": 0.25}),
    "pendulum_td3": (marl.TD3, "marl/pendulum-v0", 1, 20_000, {"batch": 128, "lr": 1e-3, "discount": 0.98}),
    "connect_four_dqn": (marl.DQN, "classic/connect_four-v3", 16, 400_000, {"updates_per_step": 0.2, "n_step": 3}),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_name_that_had_a_file_of_its_own_means_the_same_settings(name):
    recipe, env, num_envs, steps, settings = BEFORE[name]
    scenario = find(name)
    assert (scenario.name, scenario.reference) == (name, name)
    assert (scenario.env, scenario.num_envs, scenario.steps) == (env, num_envs, steps)
    plain = recipe()
    assert type(scenario.agents) is type(plain)
    for axis in ("critic", "credit"):
        assert getattr(scenario.agents, axis, None) == getattr(plain, axis, None)
    assert {key: getattr(scenario.agents, key) for key in settings} == settings


def test_a_scenario_by_another_algorithm_keeps_what_that_does_not_change():
    spread, qmix = find("spread"), find("spread").by("qmix")
    assert (qmix.name, qmix.about, qmix.algorithms) == ("spread_qmix", spread.about, {})
    assert find("tag_maddpg").agents["adversary_*"].critic == marl.Joint(of="all")
    assert find("connect_four_dqn").league.window == 5
    assert find("connect_four").league.window != 5
    with pytest.raises(ConfigError, match=r"scenario 'spread': unknown algorithm 'qmx'; did you mean 'qmix'"):
        spread.by("qmx")


def test_names_of_scenarios_by_algorithm_are_installed_and_others_are_not():
    assert is_installed("spread_qmix")
    assert is_installed("speaker_listener_maddpg")  # speaker is none, speaker_listener is one
    assert not is_installed("spread_happo")
    assert not is_installed("spread_")
    with pytest.raises(ConfigError, match="unknown scenario 'spread_happo'; did you mean"):
        find("spread_happo")


@pytest.mark.parametrize(
    ("algorithms", "message"),
    [
        ({"dqn": {"steps": 5}}, r"algorithms\['dqn'\]: expected the fields that differ, with agents"),
        ({"dqn": marl.DQN()}, r"algorithms\['dqn'\]: expected the fields that differ, with agents"),
        ({"dqn": {"agents": marl.DQN(), "stesp": 5}}, "unknown field 'stesp'; did you mean 'steps'"),
        ({"dqn": {"agents": marl.DQN(), "name": "x"}}, "unknown field 'name'"),
        ({"dqn": {"agents": marl.DQN(), "steps": 0}}, "'task_dqn': steps must be a whole number of at least 1"),
    ],
)
def test_settings_for_an_algorithm_that_make_no_sense_are_refused(algorithms, message):
    with pytest.raises(ConfigError, match=message):
        marl.Scenario(name="task", env="CartPole-v1", agents=marl.ippo(), algorithms=algorithms)


def test_an_unknown_scenario_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cartpole'"):
        find("cartpol")


def test_the_learning_benchmark_trains_shipped_scenarios(capsys, monkeypatch):
    monkeypatch.setattr(parallel, "_threads", 1)  # so that the script's own setting ends with this test
    assert {task.scenario for task in TASKS.values()} <= set(NAMES)
    assert TASKS["spread_ippo"].make().agents.critic == marl.Local()
    assert TASKS["spread_mappo"].make().agents.critic == marl.Joint()
    assert TASKS["reach"].make().agents.hindsight is not None
    assert TASKS["reach_plain"].make().agents.hindsight is None
    assert not main(["cartpole", "--seeds", "0", "--steps", "256"])
    assert "wanted at least 475: MISSED" in capsys.readouterr().out

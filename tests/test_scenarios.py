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
from marl.scenario import GROUP, find, names
from marl.types import ConfigError
from tests.benchmarks.learning import TASKS, main

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "scenarios" / "marl_scenarios").glob("*.py") if path.stem != "__init__")
NEEDS = {
    "mpe": ["mpe2"],
    "classic": ["rlcard"],
    "butterfly": ["pymunk"],
    "sisl": ["Box2D"],
    "league": ["scipy"],
}
BY_THE_CLOCK = {"pursuit_vision"}  # stages that last so many steps, more than a test has
SLOW = {"pursuit", "multiwalker", "knights_archers_zombies"}  # environments of a few hundred steps a second


def scenario_of(path):
    scenario = find(path.stem)
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_trains_and_is_evaluated(path):
    scenario = scenario_of(path)
    agents = scenario.agents if isinstance(scenario.agents, dict) else {"*": scenario.agents}
    agents = {pattern: soon(config) for pattern, config in agents.items()}
    rows = max(getattr(config, "rollout", 16) for config in agents.values())
    chosen = agents if isinstance(scenario.agents, dict) else agents["*"]
    if path.stem in BY_THE_CLOCK:
        with (
            pytest.raises(ConfigError, match="can never be reached"),
            marl.MultiAgentSystem(chosen, scenario) as system,
        ):
            system.train(steps=4 * rows)
        scenario = dataclasses.replace(scenario, curriculum=None)
    with marl.MultiAgentSystem(chosen, scenario, num_envs=4, seed=0) as system:
        history = system.train(steps=4 * rows)
        assert system.steps == 4 * rows
        losses = [values for name, values in history.items() if name.split("/")[-1] in ("policy_loss", "loss")]
        assert len(losses) == len(system.learners)
        assert all(math.isfinite(value) for values in losses for value in values)
        if path.stem in SLOW:  # whole episodes of these take long
            return
        report = system.evaluate(2)
        assert report.episodes == 2
        assert set(report.returns_per_agent) == set(system.spec.agents)
        assert math.isfinite(report.mean_return)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_a_slow_scenario_is_evaluated(name):
    with marl.MultiAgentSystem(None, scenario_of(Path(f"{name}.py")), seed=0) as system:
        assert math.isfinite(system.evaluate(1).mean_return)


def test_a_scenario_survives_worker_processes():
    pytest.importorskip("mpe2")
    with marl.MultiAgentSystem(None, "spread", num_envs=4, workers=2, seed=0) as system:
        system.train(steps=100)
        assert len(system.history["episode_rewards"]) == 4


def test_an_unknown_scenario_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cartpole'"):
        find("cartpol")


def test_the_learning_benchmark_trains_shipped_scenarios(capsys, monkeypatch):
    monkeypatch.setattr(parallel, "_threads", 1)  # so that the script's own setting ends with this test
    assert {task.scenario for task in TASKS.values()} <= {path.stem for path in FILES}
    assert TASKS["spread_ippo"].make().agents.critic == marl.Local()
    assert TASKS["spread_mappo"].make().agents.critic == marl.Joint()
    assert TASKS["reach"].make().agents.hindsight is not None
    assert TASKS["reach_plain"].make().agents.hindsight is None
    assert not main(["cartpole", "--seeds", "0", "--steps", "256"])
    assert "wanted at least 475: MISSED" in capsys.readouterr().out

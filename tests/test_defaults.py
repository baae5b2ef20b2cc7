"""What recipes do where nothing is said but an environment; `tests.benchmarks.defaults` measures them."""

from __future__ import annotations

import json
import statistics

import pytest

import marl
from marl import parallel
from marl.scenario import find
from tests.benchmarks import defaults

MEASURED = {  # epochs, minibatches and normalized values that results in docs/benchmarks.md are of
    "acrobot": (4, 32, False),
    "cartpole": (20, 1, False),
    "connect_four": (6, 4, False),
    "gridworld_adaptive": (4, 4, False),
    "gridworld_curriculum": (4, 4, False),
    "gridworld_growing": (4, 8, False),
    "kuhn": (4, 4, False),
    "lever": (2, 2, False),
    "pendulum": (10, 16, True),
    "predator_prey": (4, 4, True),
    "pursuit_vision": (4, 4, True),
    "reference_tarmac": (10, 4, True),
    "rock_paper_scissors": (4, 4, False),
    "speaker_listener": (10, 4, True),
    "spread": (15, 4, True),
    "tag_league": (10, 4, True),
    "tictactoe": (6, 4, False),
    "traffic_junction": (4, 4, True),
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_scenario_keeps_the_settings_that_it_was_measured_with(name):
    agents = find(name).agents
    for config in agents.values() if isinstance(agents, dict) else [agents]:
        assert (config.epochs, config.minibatches, config.normalize_values) == MEASURED[name]


@pytest.mark.parametrize(
    ("settings", "copies", "count"),
    [
        ({}, 8, 16),  # 1,024 rows: 64 each
        ({}, 1, 2),  # 128 rows
        ({}, 128, 16),  # no more of a large rollout
        ({"rollout": 25}, 8, 2),  # 200 rows make no three equal parts
        ({"rollout": 8}, 1, 1),
        ({"network": marl.GRU(4)}, 8, 8),  # sequences stay whole
        ({"network": marl.GRU(4), "sequence": 16}, 1, 2),
        ({"minibatches": 3, "rollout": 9}, 1, 3),
    ],
)
def test_ppo_counts_its_minibatches_by_the_rows_of_a_rollout(settings, copies, count):
    with marl.MultiAgentSystem(marl.PPO(**settings), "CartPole-v1", num_envs=copies) as system:
        assert system.learners[0].minibatches == count


def test_ppo_balances_a_pole_with_its_defaults():
    """Two of three seeds: processors round differently, and on some of them one seed comes late."""
    returns = []
    for seed in range(3):
        with marl.MultiAgentSystem(marl.PPO(), "CartPole-v1", seed=seed) as system:
            system.train(steps=30_000)
            returns.append(system.evaluate(20).mean_return)
    assert statistics.median(returns) >= 475


@pytest.mark.parametrize("recipe", ["ppo", "dqn"])
def test_defaults_are_measured_once_and_told_beside_chance(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parallel, "_threads", 1)
    file = tmp_path / "rows.json"
    words = ["--tasks", "cartpole", "--recipes", recipe, "--seeds", "0", "--steps", "64", "--json", str(file)]
    rows = defaults.main(words)
    assert [(row["recipe"], row["steps"]) for row in rows] == [("random", 0), (recipe, 64)]
    assert "its first update comes after" in rows[1]["notes"][0]
    monkeypatch.setattr(defaults, "measure", None)  # nothing is measured again
    assert defaults.main(words) == rows == json.loads(file.read_text())
    assert f"({rows[1]['result']:.4g}) |" in capsys.readouterr().out


def test_a_share_is_the_way_from_chance_to_the_tuned_result():
    rows = [{"task": "cartpole", "recipe": "random", "steps": 0, "seed": 0, "result": 20.0, "seconds": 0.0}]
    rows += [{**rows[0], "recipe": "ppo", "steps": 9, "seed": seed, "result": 140.0 + 240 * seed} for seed in (1, 0)]
    assert defaults.share("cartpole", 260.0, rows) == 0.5
    table = defaults.table(rows)
    assert table[1:4] == ["| recipe | cartpole |", "|---|---|", "| `ppo` | 0.50 (140, 380) |"]
    assert table[4] == "| `a2c` | not measured |"
    assert table[-1] == "`cartpole`: 9 steps; random 20, tuned 500 (cartpole)"


def test_every_task_names_recipes_that_fit_its_actions():
    for task in defaults.TASKS.values():
        assert len(set(task.recipes)) == len(task.recipes)
        assert {task.steps_of(recipe) for recipe in task.recipes} == set(task.steps)

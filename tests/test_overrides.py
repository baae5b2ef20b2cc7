"""``--set`` into leagues and curricula: typed by their fields, refused in one line."""

from __future__ import annotations

import dataclasses

import pytest

import marl
from marl.overrides import keys, override
from marl.scenario import find


def test_a_league_is_set_by_its_fields():
    league = override(find("kuhn"), ["league.games=10", "league.meta_solver=prd", "league.response_steps=500"]).league
    assert (league.games, league.meta_solver, league.response_steps) == (10, "prd", 500)
    tictactoe = override(find("tictactoe"), ["league.snapshot_every=none", "league.latest=0.5"]).league
    assert (tictactoe.snapshot_every, tictactoe.latest) == (None, 0.5)


def test_a_curriculum_is_set_down_to_a_stage_s_task():
    words = ["curriculum.rehearse=0.1", "curriculum.stages.0.advance.at_least=0.5", "curriculum.stages.1.task.width=6"]
    curriculum = override(find("gridworld_curriculum"), words).curriculum
    assert curriculum.rehearse == 0.1
    assert [stage.advance.at_least for stage in curriculum.stages[:2]] == [0.5, 0.9]
    assert curriculum.stages[1].task["width"] == 6
    by_team = dataclasses.replace(
        find("tag"), curriculum={"agent_*": marl.curriculum.DomainRandomization({"prey_speed": 1.0})}
    )
    assert override(by_team, ["curriculum.agent_*.task.prey_speed=1.3"]).curriculum["agent_*"].task["prey_speed"] == 1.3


def test_settings_objects_are_said_as_in_python_one_within_another():
    words = ["learner.exploration=EpsilonGreedy(marl.Linear(1.0, 0.05, steps=500), spread=2.0)", "learner.n_step=3"]
    learner = override(find("cartpole_dqn"), words).agents
    assert learner.exploration == marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.05, steps=500), spread=2.0)
    assert learner.n_step == 3


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("kuhn", "league.gmaes=3", "unknown key; did you mean 'league.games'?"),
        ("kuhn", "league.games=x", "expected a whole number, got 'x' (str)"),
        ("kuhn", "league.games=0", "at least 1"),
        ("kuhn", "league.meta_solver=best", "'nash'"),
        ("kuhn", "league.response_steps=1_000_000", "the first best response is learnt after 1,000,000 steps"),
        ("kuhn", "league=3", "only a scenario file can say this"),
        ("spread", "league.games=3", "only a scenario file can say this"),
        ("spread", "learner.learning_rate=3", "unknown key; did you mean 'learner.lr'?"),
        (
            "cartpole_dqn",
            "learner.hindsight.share=0.5",
            "is None here; give it whole, such as learner.hindsight=Hindsight(...)",
        ),
        ("cartpole_dqn", "learner.exploration=Greedy", "expected EpsilonGreedy(...), GaussianNoise(...) or another"),
        (
            "cartpole_dqn",
            "learner.exploration=EpsilonGreedy(Linaer(1.0, 0.1))",
            "'Linaer' is no settings class of the library; did you mean 'Linear'?",
        ),
        ("gridworld_curriculum", "curriculum.patience=0", "expected a whole number of at least 1"),
        ("gridworld_curriculum", "curriculum.stages.9.name=a", "unknown key"),
        ("gridworld_curriculum", "curriculum.stages.0.task.wdith=3", "did you mean 'curriculum.stages.0.task.width'?"),
        ("gridworld_curriculum", "curriculum.stages.0.advance.at_least=1.5", "at most 1"),
    ],
)
def test_mistakes_are_one_line(name, word, message):
    with pytest.raises(marl.ConfigError) as caught:
        override(find(name), [word])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_name_what_can_be_set():
    known = keys(find("gridworld_curriculum"))
    assert {"curriculum.rehearse", "curriculum.stages.3.advance.over", "curriculum.stages.0.task.width"} <= set(known)
    assert not any(key.startswith("league") for key in known)

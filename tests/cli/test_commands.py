"""The commands do what they say: train, evaluate, play, plot, list, check."""

from __future__ import annotations

import json
import subprocess
import sys

import marl
import marl.checkpoint
from marl.logs import read_metrics
from marl.playing.intervals import Difference
from tests.support.commands import DUEL
from tests.support.equality import assert_equal_trees


def test_train_writes_a_run_folder(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["settings"]["learner"]["rollout"] == 16
    assert config["tunable"]["steps"] == 1280
    assert config["scenario"].endswith("tiny.py")
    assert config["versions"]["torch"]
    rows = read_metrics(finished)
    assert rows[-1]["steps"] == 1280
    assert [row["steps"] for row in rows if "evaluation_return" in row] == [400, 800, 1200]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["best"]["metric"] == "evaluation_return"
    assert summary["evaluation"]["episodes"] == summary["random"]["episodes"] == 4
    names = sorted(path.name for path in (finished / "checkpoints").glob("step-*"))
    assert "step-000000001280" in names
    assert (finished / "checkpoints" / "last").resolve().name == "step-000000001280"
    best = (finished / "checkpoints" / "best").resolve()
    assert best.name == summary["best"]["checkpoint"]
    assert not (finished / "run.lock").exists()
    assert not list((finished / "checkpoints").glob(".*"))


def test_a_checkpoint_of_a_run_loads_by_itself(finished):
    with marl.MultiAgentSystem.load(finished / "checkpoints" / "last", trust=True) as system:
        assert system.steps == 1280
        assert system.evaluate(2).episodes == 2


def test_evaluate_plays_another_environment_with_the_same_agents_and_spaces(finished, marl_command):
    twin = marl_command("evaluate", finished, "--env", "marl/cartpole-v0", "--episodes", 2, "--json")
    assert twin.code == 0, twin.err
    assert json.loads(twin.out)["episodes"] == 2
    other = marl_command("evaluate", finished, "--env", "Acrobot-v1", "--episodes", 2)
    assert other.code == 2
    assert "environment Acrobot-v1" in other.error
    assert "expects" in other.error


def test_evaluate_prints_a_report_or_one_json_object(finished, marl_command):
    said = marl_command("evaluate", finished, "--episodes", 3, "--json")
    assert said.code == 0
    report = json.loads(said.out)
    assert report["episodes"] == 3
    assert not said.err
    again = json.loads(marl_command("evaluate", finished, "--episodes", 3, "--decentralized", "--json").out)
    assert again["returns"] == report["returns"]
    assert json.loads(marl_command("evaluate", finished, "--episodes", 3, "--seed", 9, "--json").out)["seed"] == 9
    last = marl_command("evaluate", finished / "checkpoints" / "last", "--episodes", 2)
    assert last.code == 0
    assert "step 1,280" in last.out


def test_the_final_evaluation_is_compared_with_random_play_episode_by_episode(finished):
    summary = json.loads((finished / "summary.json").read_text())
    trained, random = (summary[name]["returns"] for name in ("evaluation", "random"))
    assert summary["difference"] == Difference.paired(trained, random).to_dict()


def test_play_writes_a_gif(finished, tmp_path, marl_command):
    out = tmp_path / "episode.gif"
    said = marl_command("play", finished, "--gif", out, "--max-steps", 5, "--episodes", 2)
    assert said.code == 0, said.err
    assert out.read_bytes()[:6] == b"GIF89a"
    assert "episode 1: 5 steps" in said.out


def test_plot_draws_several_runs(finished, tmp_path, marl_command):
    out = tmp_path / "curves.png"
    assert marl_command("plot", finished, finished, "--out", out).code == 0
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_list_names_scenarios_learners_and_recipes(marl_command):
    said = marl_command("list")
    assert said.code == 0
    assert "mappo" in said.out
    assert "PPO" in said.out
    known = json.loads(marl_command("list", "--json").out)
    assert set(known) == {"scenarios", "studies", "learners", "recipes"}


def test_list_shows_each_task_once_with_its_algorithms_and_what_to_expect(marl_command):
    known = json.loads(marl_command("list", "--json").out)["scenarios"]
    assert "spread_qmix" not in known
    assert list(known["spread"]["algorithms"]) == ["mappo", "iql", "vdn", "qmix", "maddpg", "matd3", "masac"]
    assert list(known["cartpole"]["algorithms"]) == ["ppo", "a2c", "dqn"]
    assert list(known["tag"]["algorithms"]) == ["mappo, ppo", "maddpg"]
    qmix = known["spread"]["algorithms"]["qmix"]
    assert qmix == {"expect": "-27, sum of three agents (random: -79)", "steps": 800_000, "extra": None}
    assert known["spread"]["extra"] == "mpe"
    said = marl_command("list").out
    assert said.count("cover three landmarks together") == 1
    assert "    qmix        -27, sum of three agents (random: -79)" in said


def test_check_passes_a_good_environment_and_fails_a_bad_one(tmp_path, marl_command):
    said = marl_command("check", "CartPole-v1", "--steps", 100)
    assert said.code == 0
    assert "PPO yes" in said.out
    assert json.loads(marl_command("check", "CartPole-v1", "--steps", 100, "--json").out)["ok"] is True
    (tmp_path / "bad.py").write_text(
        "import marl\nfrom tests.support.tiny import Constant\n"
        "class Bad(Constant):\n    def _look(self):\n        return super()._look() * 7\n"
        "scenario = marl.Scenario(name='bad', env=Bad, agents=marl.ippo())\n"
    )
    said = marl_command("check", tmp_path / "bad.py", "--steps", 50)
    assert said.code == 3
    assert "error" in said.out


def test_teams_have_settings_of_their_own(duel, tmp_path, marl_command):
    said = marl_command(
        *("train", duel, "--run-dir", tmp_path, "--json", "--episodes", 2, "--tensorboard"),
        *("--set", "agent_0.clip=0.1", "--set", "agent.learner.lr=0.5", "--set", "learner.discount=0.9"),
        *("--set", "env_kwargs.length=4", "--set", "agent_0.network.sizes=4,4"),
    )
    assert said.code == 0, said.err
    summary = json.loads(said.out)
    assert set(summary["evaluation"]["teams"]) == {"agent_0", "agent"}
    assert set(summary["evaluation"]["episode_lengths"]) == {4}
    assert summary["difference"] is None  # one team's gain may be the other's loss
    learners = json.loads((tmp_path / "config.json").read_text())["settings"]["learner"]
    assert learners["agent_0"]["clip"] == 0.1
    assert learners["agent_0"]["network"]["sizes"] == [4, 4]
    assert learners["agent_*"]["lr"] == 0.5
    assert {learner["discount"] for learner in learners.values()} == {0.9}
    assert list((tmp_path / "tensorboard").iterdir())
    assert "agent_0/mean_return" in read_metrics(tmp_path)[-1]
    said = marl_command("play", tmp_path)
    assert said.code == 2
    assert "renders no pictures" in said.error
    assert marl_command("plot", tmp_path).code == 0


def test_in_training_evaluation_changes_nothing(scenario, finished, tmp_path, marl_command):
    assert marl_command("train", scenario, "--run-dir", tmp_path / "plain", "--no-evaluate", "--quiet").code == 0
    here, there = (marl.checkpoint.load(run / "checkpoints" / "last")[0] for run in (tmp_path / "plain", finished))
    assert_equal_trees(here["learners"], there["learners"])


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from marl.cli import main; main(['--help']); "
        "print([name for name in ('torch', 'gymnasium', 'numpy', 'rich') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip().endswith("[]")


def test_modules_beside_a_scenario_and_in_the_current_folder_are_found(tmp_path, monkeypatch, marl_command):
    """In worker processes too, and wherever the run is used later."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "worlds_of_mine.py").write_text(
        "from tests.support.tiny import Team\n\n\nclass Mine(Team):\n    pass\n"
    )
    task = tmp_path / "task.py"
    task.write_text(DUEL.replace("from tests.support.tiny import Team", "from worlds_of_mine import Mine as Team"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    said = marl_command("train", task, "--steps", 32, "--workers", 1, "--run-dir", "run", "--no-evaluate", "--quiet")
    assert said.code == 0, said.err
    assert marl_command("evaluate", "run", "--episodes", 1).code == 0
    here = tmp_path / "here"
    here.mkdir()
    (here / "others_of_mine.py").write_text("from tests.support.tiny import Team as Yours\n")
    monkeypatch.chdir(here)
    said = marl_command("check", "others_of_mine:Yours")
    assert said.code == 0, said.err

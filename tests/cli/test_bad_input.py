"""Every mistake on the command line is one line on stderr, the right exit status, and nothing on disk."""

from __future__ import annotations

import json

import pytest

from tests.support.commands import finish, start

TRAIN = [
    ("--stesp 3", "unknown option '--stesp'; did you mean --steps?"),
    ("--steps 1.5", "--steps: expected a whole number, got '1.5'"),
    ("--steps", "--steps: a value is missing"),
    ("--steps 0", "--steps: expected a whole number of at least 1, got 0"),
    ("--num-envs 0", "--num-envs: expected a whole number of at least 1"),
    ("--seed -1", "--seed: expected a whole number of at least 0"),
    ("--seed 1.5", "--seed: expected a whole number"),
    ("--save-minutes 0", "--save-minutes"),
    ("--resume --force", "exclude each other"),
    ("--force=yes", "--force takes no value"),
    ("more", "unexpected argument 'more'"),
    ("--device cuda:99", "cuda:99"),
    ("--device gpu", "no torch device"),
    ("--set learner.lrr=1", "did you mean 'learner.lr'?"),
    (
        "--set learner.lr=abc",
        "--set learner.lr=abc: expected Linear(...) or Exponential(...) or Logarithmic(...) or a number, got 'abc' "
        "(str)",
    ),
    ("--set learner.epochs=1.5", "expected a whole number, got '1.5' (float)"),
    ("--set learner.epochs=true", "expected a whole number, got 'true' (bool)"),
    ("--set learner.normalize_obs=3", "expected true or false"),
    ("--set learner.lr=nan", "finite"),
    ("--set learner.lr=-1", "at least 0"),
    ("--set learner.discount=1.5", "at most 1"),
    ("--set learner.clip=0", "above 0"),
    ("--set learner.network=GRU(0)", "GRU"),
    ("--set learner.network.sizes=a,b", "expected whole numbers separated by commas"),
    ("--set learner.lr.start=x", "learner.lr.start=x: expected a number"),
    ("--set learner.minibatches=7", "minibatches=7"),
    ("--set learner", "expected KEY=VALUE"),
    ("--set algo.lr=1", "unknown key"),
    ("--set num_envs=0", "num_envs"),
    ("--set name=x", "only a scenario file can say this"),
    ("--set env_kwargs.wrong=1", "env_kwargs"),
]


@pytest.mark.parametrize(("words", "expected"), TRAIN)
def test_train_explains_a_mistake_in_one_line(words, expected, scenario, tmp_path, marl_command):
    folder = tmp_path / "run"
    said = marl_command("train", scenario, "--run-dir", folder, *words.split())
    assert said.code == 2
    assert expected in said.error
    assert not said.out
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trian x", "unknown command 'trian'; did you mean train?"),
        ("train", "WHAT is missing"),
        ("train --resume --run-dir nothing", "nothing holds no run yet, so WHAT is missing"),
        ("train spreed", "unknown scenario 'spreed'; did you mean 'spread'?"),
        ("train knights", "unknown scenario 'knights'; did you mean 'knights_archers_zombies'?"),
        ("check my_place", "an environment is named by its id, as my_env.py, or as my_module:MyEnv"),
        ("train CartPol-v1", "unknown environment 'CartPol-v1'; did you mean CartPole-v1"),
        ("train CartPole-v1 --algorithm ppp", "unknown algorithm 'ppp'; did you mean 'ppo'?"),
        ("train spread --algorithm qmx", "unknown algorithm 'qmx'; did you mean 'qmix'?"),
        (
            "train Pendulum-v1 --algorithm qmix",
            "qmix cannot take the continuous actions of team 'team'; these",
        ),
        ("train CartPole-v1 --agents iddpgg()", "unknown algorithm 'iddpgg'; did you mean 'iddpg'?"),
        ("train CartPole-v1 --agents ippo(lrr=1)", "unknown field 'lrr'; did you mean 'lr'?"),
        ("train CartPole-v1 --agents ippo(1)", "settings are given by name"),
        ("train CartPole-v1 --agents ippo(lr=open('x'))", "'open' is no settings class"),
        ("train CartPole-v1 --agents ippo(lr=a.b)", "expected a plain value or a settings object, got 'a.b'"),
        ("train CartPole-v1 --agents ippo()()", "expected RECIPE(NAME=VALUE, ...)"),
        ("train CartPole-v1 --agents a=ippo() dqn()", "expected PATTERN=RECIPE(...) for each team"),
        ("train CartPole-v1 --agents a=ippo() a=iql()", "given twice"),
        ("train CartPole-v1 --agents other_*=ippo()", "belongs to no team"),
        ("train CartPole-v1 --agents ippo() --algorithm ppo", "exclude each other"),
        ("train nowhere.py", "does not exist"),
        ("train no_such_module:thing", "there is no module 'no_such_module'"),
        ("train marl:PPO", "PPO"),
        ("evaluate", "RUN is missing"),
        ("evaluate nowhere", "does not exist"),
        ("evaluate .", "is no run folder"),
        ("play nowhere", "does not exist"),
        ("plot nowhere", "no metrics.jsonl"),
        ("plot", "RUN is missing"),
        ("check CartPol-v1", "did you mean"),
        ("check CartPole-v1 --steps 0", "--steps"),
        ("check CartPole-v1 --env-kwargs 5", "expected NAME=VALUE, such as N=5"),
        ("check CartPole-v1 --env-kwargs sutton=1", "sutton"),
        ("list --jsn", "did you mean --json?"),
    ],
)
def test_other_commands_explain_a_mistake_in_one_line(words, expected, tmp_path, monkeypatch, marl_command):
    monkeypatch.chdir(tmp_path)
    said = marl_command(*words.split())
    assert said.code == 2
    assert expected in said.error
    assert not list(tmp_path.iterdir())


def test_a_process_of_its_own_shows_one_line_and_no_traceback(tmp_path):
    said = finish(start("train", tmp_path / "nowhere.py"))
    assert said.code == 2
    assert "nowhere.py does not exist" in said.error


def test_a_scenario_file_that_raises_is_explained(tmp_path, marl_command):
    for text, expected in (
        ("import marl\nscenario = marl.PPO(lrr=1)", "unknown field 'lrr'; did you mean 'lr'?"),
        ("1/0", "ZeroDivisionError"),
        ("x = (", "SyntaxError"),
        ("", "expected one marl.Scenario"),
    ):
        path = tmp_path / "broken.py"
        path.write_text(text)
        said = marl_command("train", path, "--run-dir", tmp_path / "run")
        assert said.code == 2
        assert expected in said.error
    path.write_bytes(b"\x00\xff\x01")
    assert marl_command("train", path).code == 2


def test_debug_shows_the_traceback(tmp_path, marl_command):
    said = marl_command("train", tmp_path / "nowhere.py", "--debug")
    assert said.code == 2
    assert "Traceback" in said.err


def test_a_run_folder_that_cannot_be_is_refused(scenario, tmp_path, marl_command):
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "below"):
        said = marl_command("train", scenario, "--run-dir", folder)
        assert said.code == 2
        assert "is a file" in said.error
    assert file.read_text() == "mine"


def test_another_run_is_never_overwritten(scenario, finished, marl_command):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    said = marl_command("train", scenario, "--run-dir", finished)
    assert said.code == 2
    assert "--resume" in said.error
    assert "--force" in said.error
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_force_replaces_a_run_and_spares_what_is_not_its_own(scenario, tmp_path, marl_command):
    words = ("train", scenario, "--run-dir", tmp_path, "--steps", 64, "--no-evaluate", "--quiet")
    assert marl_command(*words).code == 0
    (tmp_path / "notes.txt").write_text("mine")
    assert marl_command(*words, "--force", "--seed", 1).code == 0
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["seed"] == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"{\n  'a': 1}", "line 2"),
        (b'{"scenario": "a", "scenario": "b"}', "twice"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"[1]", "expected a JSON object"),
        (b"{}", "was it edited"),
    ],
)
def test_a_damaged_config_is_explained_with_its_line(content, expected, finished, tmp_path, marl_command):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "step-000000000064").symlink_to((finished / "checkpoints" / "last").resolve())
    (run / "config.json").write_bytes(content)
    for words in (("evaluate", run), ("train", "--run-dir", run, "--resume")):
        said = marl_command(*words)
        assert said.code == 2
        assert expected in said.error


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"steps": 1280', '"steps": 1' + "0" * 5000, "digits"),
        ('"steps": 1280', '"steps": NaN', "NaN is no number"),
        ('"steps": 1280', '"steps": 1e999', "steps: expected a whole number of at least 1, got inf"),
        ('"steps": 1280', '"steps": "many"', "steps: expected a whole number of at least 1, got 'many'"),
        ('"steps": 1280', '"steps": true', "steps: expected a whole number of at least 1, got True"),
        ('"workers": 0', '"workers": 1.5', "workers: expected a whole number of at least 0, got 1.5"),
        ('"seed": 0', '"seed": "x"', "seed: expected a whole number of at least 0, got 'x'"),
        ('"num_envs": 4', '"num_envs": [4]', "num_envs: expected a whole number of at least 1, got [4]"),
        ('"set": []', '"set": [5]', "'set' must be a list of texts"),
    ],
)
def test_a_config_with_values_that_make_no_sense_is_explained(old, new, expected, finished, tmp_path, marl_command):
    text = (finished / "config.json").read_text()
    assert old in text
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(text.replace(old, new))
    said = marl_command("train", "--run-dir", tmp_path, "--resume")
    assert said.code == 2
    assert expected in said.error


def test_a_huge_config_is_not_even_read(tmp_path, marl_command):
    (tmp_path / "checkpoints").mkdir()
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**30)
    said = marl_command("train", "--run-dir", tmp_path, "--resume")
    assert said.code == 2
    assert "too many for a settings file" in said.error

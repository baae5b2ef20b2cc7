"""``marl train WHAT`` for any environment by any recipe: what is chosen, kept in the run, resumed and trusted."""

from __future__ import annotations

import json
import sys

import gymnasium
import pytest

import marl
import marl.checkpoint
from marl.callbacks import ReduceLROnPlateau
from marl.cli import main
from marl.cli.task import task_named
from marl.overrides import agents_said, callbacks_said
from marl.scenario import find, resolve_scenario
from marl.types import ConfigError
from tests.support.commands import DUEL, SCENARIO
from tests.support.equality import assert_equal_trees

SMALL = ("--num-envs", 2, "--no-evaluate", "--quiet")
ENVIRONMENTS = """
from tests.support.tiny import Constant, Team
import gymnasium


class Room(Team):
    def __init__(self, size, length=5):
        super().__init__(length=length)


def env():
    return Team(length=4)
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """Modules of one test's folder are not another's."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("marl_scenario_", "rooms_of_mine")):
            del sys.modules[name]


def config(run):
    return json.loads((run / "config.json").read_text())


# --- what is trained, and by what -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "agents"),
    [
        ("CartPole-v1", "ppo()"),
        ("marl/pendulum-v0", "ppo()"),
        ("marl/spread-v0", "ippo()"),
        ("mpe2.simple_spread_v3", "ippo()"),
    ],
)
def test_an_environment_gets_a_recipe_that_fits_and_one_line_says_which_and_why(what, agents):
    if what.startswith("mpe2"):
        pytest.importorskip("mpe2")
    task = task_named(what)
    assert task.agents == (agents,)
    assert task.scenario.agents == agents_said([agents])
    assert task.scenario.env == task.scenario.reference == what
    assert task.note.count("\n") == 0
    assert f"trained by {agents[:-2]}, which fits every kind of action" in task.note


def test_the_line_names_what_else_fits():
    assert task_named("CartPole-v1").note == (
        "CartPole-v1: 1 agent with discrete actions, trained by ppo, which fits every kind of action; --algorithm "
        "takes these too: a2c, dqn, ddpg, td3, sac"
    )
    assert "dqn" not in task_named("marl/pendulum-v0").note


def test_agents_that_cannot_share_a_team_get_one_for_each_name(tmp_path):
    (tmp_path / "mixed.py").write_text(
        "from gymnasium.spaces import Box, Discrete\nfrom tests.support.tiny import Team\n"
        "class Mixed(Team):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.possible_agents = ['walker_0', 'rider_0', 'rider_1']\n"
        "    def observation_space(self, agent):\n"
        "        return Box(-1, 1, (3,))\n"
        "    def action_space(self, agent):\n"
        "        return Discrete(2) if agent == self.possible_agents[0] else Box(-1, 1, (2,))\n"
    )
    task = task_named(f"{tmp_path / 'mixed.py'}:Mixed", "mappo")
    assert task.agents == ("walker_*=mappo()", "rider_*=mappo()")


@pytest.mark.parametrize("learner", [marl.PPO, marl.A2C, marl.DQN, marl.DDPG, marl.TD3, marl.SAC])
def test_a_learners_plain_name_is_the_learner_with_its_own_defaults(learner):
    name = learner.__name__.lower()
    assert task_named("CartPole-v1", name, choose=False).scenario.agents == learner()


def test_agents_in_words_are_recipes_with_settings():
    assert agents_said(["ippo(lr=3e-4)"]) == marl.ippo(lr=3e-4)
    assert agents_said(["marl.mappo(lr=marl.Linear(1e-3, 0.0), network=MLP((8, 8)))"]) == marl.mappo(
        lr=marl.Linear(1e-3, 0.0), network=marl.MLP((8, 8))
    )
    assert agents_said(["PPO(critic=Joint(of='all'), normalize_obs=True)"]) == marl.PPO(
        critic=marl.Joint(of="all"), normalize_obs=True
    )
    assert agents_said(["adversary_* = mappo()", "agent_*=iql"]) == {"adversary_*": marl.mappo(), "agent_*": marl.iql()}
    assert agents_said(["ippo(auxiliary=(PredictActions(weight=0.5),))"]) == marl.ippo(
        auxiliary=(marl.auxiliary.PredictActions(weight=0.5),)
    )


@pytest.mark.parametrize(
    "text",
    [
        "ippo(lr=__import__('os').getpid())",
        "ippo(lr=(lambda: 1)())",
        "ippo(lr=[x for x in (1,)])",
        "ippo(**{'lr': 1})",
        "ippo(*[1])",
        "ippo.__init__(lr=1)",
        "os.system('true')",
        "(ippo)()(lr=1)",
        "ippo(",
        "",
        "f'{1}'",
        "ippo(lr=f'{1}')",
    ],
)
def test_nothing_else_is_evaluated(text):
    with pytest.raises(ConfigError, match="--agents"):
        agents_said([text])


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_of_an_environment_is_resumed_and_evaluated_like_a_scenario_s(tmp_path, capsys):
    """And without trust: what it names is registered."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = ["train", "CartPole-v1", "--algorithm", "ppo", "--set", "learner.rollout=16", *map(str, SMALL)]
    assert main([*words, "--steps", "64", "--run-dir", str(whole)]) == 0
    assert main([*words, "--steps", "32", "--run-dir", str(run)]) == 0
    assert config(run)["scenario"] == "CartPole-v1"
    assert config(run)["agents"] == ["ppo()"]
    assert config(run)["settings"]["learner"]["rollout"] == 16
    assert main(["train", "--run-dir", str(run), "--resume", "--steps", "64", "--quiet"]) == 0
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0
    resumed, unbroken = (marl.checkpoint.load(one / "checkpoints" / "last")[0]["learners"] for one in (run, whole))
    assert_equal_trees(resumed, unbroken)
    with marl.MultiAgentSystem.load(run / "checkpoints" / "last") as system:
        assert system.spec.env == "CartPole-v1"
    capsys.readouterr()


def test_what_was_chosen_is_kept_when_a_run_is_resumed(tmp_path, capsys):
    words = ["train", "CartPole-v1", "--run-dir", str(tmp_path), "--no-evaluate", "--num-envs", "2"]
    assert main([*words, "--steps", "256"]) == 0
    assert "trained by ppo, which fits" in (said := capsys.readouterr().err)
    assert "steps, unless --steps" not in said
    assert main([*words[:2], "--resume", *words[2:4], "--steps", "512"]) == 0
    assert "trained by ppo" not in capsys.readouterr().err
    assert config(tmp_path)["agents"] == ["ppo()"]
    assert main([*words[:2], "--algorithm", "dqn", "--resume", *words[2:4]]) == 2
    assert "this is not the run that was begun" in capsys.readouterr().err


def test_teams_of_an_environment_learn_by_recipes_of_their_own(tmp_path, marl_command):
    (tmp_path / "rooms.py").write_text(ENVIRONMENTS)
    said = marl_command(
        *("train", f"{tmp_path / 'rooms.py'}:env", "--run-dir", tmp_path / "run", "--steps", 64, *SMALL),
        *("--agents", "agent_0=mappo(rollout=8, minibatches=1)", "agent_*=ia2c(rollout=8)", "--set", "agent.lr=1e-3"),
    )
    assert said.code == 0, said.err
    learners = config(tmp_path / "run")["settings"]["learner"]
    assert learners["agent_0"]["critic"]["$class"].endswith("Joint")
    assert learners["agent_*"]["lr"] == 1e-3


def test_a_default_number_of_steps_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("marl.cli.plan.Plan.build", lambda plan: (_ for _ in ()).throw(ConfigError(str(plan.notes))))
    assert main(["train", "CartPole-v1", "--run-dir", str(tmp_path / "a")]) == 2
    assert "CartPole-v1: 100,000 steps, unless --steps says otherwise" in capsys.readouterr().err
    assert main(["train", "CartPole-v1", "--set", "steps=5", "--run-dir", str(tmp_path / "a")]) == 2
    assert "unless --steps" not in capsys.readouterr().err


def test_runs_are_named_after_the_environment_and_the_algorithm_that_were_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "CartPole-v1", "--algorithm", "a2c", "--steps", "20", *map(str, SMALL)]
    assert main(words) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("CartPole-v1-a2c-0-")
    assert main(["train", "CartPole-v1", "--algorithm", "a2c", "--resume", "--steps", "40", "--quiet"]) == 0
    assert main(["train", "CartPole-v1", "--resume"]) == 2
    assert "no run of CartPole-v1 in runs/" in capsys.readouterr().err


# --- a scenario by another algorithm ----------------------------------------------------------------------------------


def test_a_scenario_s_own_settings_for_an_algorithm_count():
    assert task_named("cartpole", "dqn").scenario == find("cartpole_dqn")
    assert task_named("cartpole", "iql").scenario == find("cartpole_dqn")  # one agent's name for the same
    assert task_named("spread", "mappo").scenario.agents == find("spread").agents
    assert task_named("cartpole", "ppo").scenario.agents == find("cartpole").agents


def test_an_algorithm_without_settings_of_the_scenario_s_takes_its_defaults_and_says_so():
    task = task_named("spread", "happo")
    assert task.scenario.agents == marl.algorithms.happo()
    assert (task.scenario.env, task.scenario.reference) == ("mpe2.simple_spread_v3", "spread")
    assert "spread has no settings for happo (it has for: mappo, iql, vdn, qmix, maddpg, matd3, masac)" in task.note
    chase = task_named("tag", "ia2c")
    assert chase.agents == ("adversary_*=ia2c()", "agent_*=ia2c()")


def test_an_old_name_says_what_it_is_short_for_and_its_run_is_resumed_by_either(tmp_path, capsys):
    run = ["--run-dir", str(tmp_path)]
    more = ["--num-envs", "2", "--set", "learner.learning_starts=16", "--set", "learner.batch=16", "--no-evaluate"]
    assert main(["train", "acrobot_dqn", "--steps", "32", *run, *more]) == 0
    assert "acrobot_dqn is short for: acrobot --algorithm dqn" in capsys.readouterr().err
    assert config(tmp_path)["scenario"] == config(tmp_path)["settings"]["name"] == "acrobot_dqn"
    for steps, words in enumerate(([], ["acrobot_dqn"], ["acrobot", "--algorithm", "dqn"], ["acrobot"])):
        assert main(["train", *words, *run, "--resume", "--steps", str(40 + 8 * steps), "--quiet"]) == 0
    assert main(["evaluate", str(tmp_path), "--episodes", "1"]) == 0
    assert main(["train", "acrobot", "--algorithm", "sac", *run, "--resume"]) == 2
    assert "not the run that was begun" in capsys.readouterr().err


# --- files and modules ------------------------------------------------------------------------------------------------

TWO = SCENARIO + "\nother = marl.Scenario(name='second', env='Acrobot-v1', agents=marl.ippo(),\n"
TWO += "    algorithms={'dqn': {'agents': marl.DQN(), 'steps': 7}})\n"


def test_a_file_with_several_scenarios_says_how_to_name_one_and_that_works(tmp_path):
    path = tmp_path / "two.py"
    path.write_text(TWO)
    with pytest.raises(ConfigError, match=r"found 2; name one: two\.py:scenario, two\.py:other"):
        find(str(path))
    with pytest.raises(ConfigError, match=r"there is no scenario 'third' in it; name one"):
        find(f"{path}:third")
    assert find(f"{path}:scenario").name == "tiny"
    for name in ("other", "second"):
        found = find(f"{path}:{name}")
        assert (found.name, found.reference) == ("second", f"{path}:{name}")
        assert resolve_scenario(f"{path}:{name}") == found
    rooms = tmp_path / "rooms.py"
    rooms.write_text("from tests.support.tiny import Team\nclass Room(Team):\n    pass\n")
    with pytest.raises(ConfigError, match=r"rooms\.py: environment: unknown .*; did you mean 'rooms\.py:Room'\?"):
        find(f"{rooms}:Roon")
    dqn = find(f"{path}:other").by("dqn")
    assert (dqn.name, dqn.steps, dqn.reference) == ("second_dqn", 7, f"{path}:other_dqn")
    assert find(dqn.reference) == dqn
    one = tmp_path / "one.py"
    one.write_text(TWO.replace(SCENARIO, "import marl\n"))
    assert find(find(str(one)).by("dqn").reference).steps == 7


def test_a_run_of_a_scenario_in_a_file_by_an_algorithm_is_named_again_by_the_file(tmp_path, capsys):
    path, run = tmp_path / "one.py", tmp_path / "run"
    path.write_text(TWO.replace(SCENARIO, "import marl\n").replace("DQN()", "DQN(learning_starts=4, batch=4)"))
    words = ["--run-dir", str(run), *map(str, SMALL)]
    assert main(["train", str(path), "--algorithm", "dqn", *words]) == 0
    assert config(run)["scenario"] == f"{path}:second_dqn"
    capsys.readouterr()
    assert main(["evaluate", str(run), "--episodes", "1"]) == 5
    assert "--trust, or name it again" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--episodes", "1", "--env", str(path)]) == 0
    assert main(["train", str(path), "--run-dir", str(run), "--resume", "--steps", "14", "--quiet"]) == 0


def test_modules_and_files_with_parallel_env_env_or_make_are_environments(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (
        ("rooms_of_mine_env", ENVIRONMENTS),
        ("rooms_of_mine_make", "import gymnasium\ndef make():\n    return gymnasium.make('CartPole-v1')\n"),
        ("rooms_of_mine_parallel", "from tests.support.tiny import Team as parallel_env\n"),
        ("rooms_of_mine_class", "from tests.support.tiny import Team\nclass Mine(Team):\n    pass\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        for what in (name, str(tmp_path / f"{name}.py")):
            assert resolve_scenario(what) is None
            with marl.MultiAgentSystem(marl.ia2c(rollout=4), what, num_envs=2) as system:
                system.train(steps=8)
    with marl.MultiAgentSystem(marl.ia2c(rollout=4), str(tmp_path / "rooms_of_mine_class.py"), workers=1) as system:
        system.train(steps=32)
    (tmp_path / "rooms_of_mine_two.py").write_text(
        "from tests.support.tiny import Team\nclass A(Team): pass\nclass B(Team): pass\n"
    )
    with pytest.raises(ConfigError, match="name one: rooms_of_mine_two:A, rooms_of_mine_two:B"):
        marl.MultiAgentSystem(marl.ia2c(), "rooms_of_mine_two")


def test_a_module_that_is_not_there_is_named(marl_command):
    said = marl_command("train", "rooms_of_nobody:Room")
    assert said.code == 2
    assert "there is no module 'rooms_of_nobody'; is its package installed?" in said.error


def test_missing_arguments_of_an_environment_are_named(tmp_path, marl_command):
    (tmp_path / "rooms.py").write_text(ENVIRONMENTS)
    what = f"{tmp_path / 'rooms.py'}:Room"
    said = marl_command("train", what, "--run-dir", tmp_path / "run")
    assert said.code == 2
    assert "cannot be made without size" in said.error
    assert "--set env_kwargs.size=VALUE" in said.error
    words = ("--set", "env_kwargs.size=3", "--set", "env_kwargs.length=4", "--set", "learner.rollout=8")
    said = marl_command("train", what, "--run-dir", tmp_path / "run", "--steps", 32, "--json", "--episodes", 2, *words)
    assert said.code == 0, said.err
    assert json.loads(said.out)["evaluation"]["episode_lengths"] == [4, 4]
    said = marl_command("check", what, "--env-kwargs", "size=3", "length=4", "--steps", 20, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["facts"]["episode_length"] == 4


@pytest.mark.parametrize("maker", ["parallel_env", "env", "make"])
def test_a_module_of_a_package_that_needs_arguments_works_everywhere(maker, tmp_path, monkeypatch, marl_command):
    """As ``gymnasium_robotics.mamujoco_v1`` does, whose environments need a robot and how it is divided."""
    package = tmp_path / f"rooms_of_mine_{maker}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    made = f"def {maker}(scenario, agent_conf, length=5, render_mode=None):\n    return Team(length=length)\n"
    (package / "rooms_v1.py").write_text(f"from tests.support.tiny import Team\n\n\n{made}")
    monkeypatch.syspath_prepend(tmp_path)
    what, run = f"{package.name}.rooms_v1", tmp_path / "run"
    for command in (("train", what, "--run-dir", run), ("check", what)):
        said = marl_command(*command)
        assert said.code == 2
        assert f"environment '{what}' cannot be made without scenario and agent_conf" in said.error
    with pytest.raises(
        ConfigError, match=r"without scenario and agent_conf.*env_kwargs=\{'scenario': \.\.\., 'agent_conf': \.\.\.\}"
    ):
        marl.MultiAgentSystem(marl.ia2c(), what)
    needed = {"scenario": "Ant", "agent_conf": "2x4", "length": 4}
    words = [f"{key}={value}" for key, value in needed.items()]
    assert marl_command("check", what, "--env-kwargs", *words, "--steps", 20).code == 0
    given = [part for word in words for part in ("--set", f"env_kwargs.{word}")]
    short = ("--set", "learner.rollout=8", *SMALL)
    assert marl_command("train", what, "--run-dir", run, "--steps", 16, *given, *short).code == 0
    assert marl_command("train", what, "--run-dir", run, "--resume", "--steps", 32, "--quiet").code == 0
    said = marl_command("evaluate", run, "--episodes", 2, "--json")
    assert json.loads(said.out)["episode_lengths"] == [4, 4]
    scenario = marl.Scenario(name="room", env=what, agents=marl.ia2c(rollout=4), env_kwargs=needed, num_envs=2)
    with marl.MultiAgentSystem(None, scenario) as system:
        system.train(steps=8)
        assert set(system.evaluate(2, env=scenario).episode_lengths) == {4}


def test_a_run_of_an_environment_in_a_file_chooses_no_code(tmp_path, capsys):
    (tmp_path / "rooms.py").write_text(ENVIRONMENTS)
    what, run = f"{tmp_path / 'rooms.py'}:env", str(tmp_path / "run")
    words = ["--algorithm", "ia2c", "--steps", "20", "--run-dir", run, *map(str, SMALL)]
    assert main(["train", what, *words]) == 0
    capsys.readouterr()
    for command in (["evaluate", run], ["train", "--run-dir", run, "--resume"]):
        assert main(command) == 5
        assert "neither" in (said := capsys.readouterr().err) or "no registered environment" in said
    assert main(["evaluate", run, "--episodes", "1", "--trust"]) == 0
    assert main(["evaluate", run, "--episodes", "1", "--env", what]) == 0
    assert main(["train", what, "--run-dir", run, "--resume", "--steps", "40", "--quiet"]) == 0


def test_agents_in_a_config_that_would_run_code_or_make_no_sense_are_refused(tmp_path, capsys):
    words = ["--algorithm", "dqn", "--steps", "16", "--run-dir", str(tmp_path), *map(str, SMALL)]
    assert main(["train", "CartPole-v1", *words]) == 0
    file = tmp_path / "config.json"
    whole = file.read_text()
    for agents, code, expected in (
        (["dqn(hindsight=Hindsight(reward='gift:run'))"], 5, "import and call 'gift:run'"),
        (["dqn(lr=open('x'))"], 2, "no settings class"),
        ([5], 2, "'agents': expected texts"),
        ("dqn()", 2, "'agents': expected texts"),
        (["x" * 20_000], 2, "'agents': expected texts"),
    ):
        file.write_text(json.dumps(json.loads(whole) | {"agents": agents}))
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path), "--episodes", "1"]) == code
        assert expected in capsys.readouterr().err


def test_teams_in_words_need_their_own_scenario_s_agents_no_more(tmp_path, marl_command):
    path = tmp_path / "duel.py"
    path.write_text(DUEL)
    said = marl_command("train", path, "--agents", "ia2c(rollout=8)", "--run-dir", tmp_path / "run", *SMALL)
    assert said.code == 0, said.err
    assert config(tmp_path / "run")["agents"] == ["ia2c(rollout=8)"]
    assert marl_command("evaluate", tmp_path / "run", "--episodes", 1).code == 0


def test_a_received_folder_names_no_function_in_the_user_s_own_file(tmp_path, capsys, monkeypatch):
    """Naming a file again is not naming whatever else is in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(f"{ENVIRONMENTS}\nfrom subprocess import check_output\n")
    run = tmp_path / "run"
    words = ["--algorithm", "ia2c", "--steps", "20", "--run-dir", str(run), *map(str, SMALL)]
    assert main(["train", "mine.py:env", *words]) == 0
    file = run / "config.json"
    forged = json.loads(file.read_text()) | {
        "scenario": "mine.py:check_output",
        "set": ["env_kwargs.args=touch proof", "env_kwargs.shell=true"],
    }
    file.write_text(json.dumps(forged))
    capsys.readouterr()
    assert main(["train", "mine.py", "--run-dir", str(run), "--resume"]) in (2, 5)
    main(["evaluate", str(run), "--env", "mine.py", "--episodes", "1"])
    assert not (tmp_path / "proof").exists()


def test_no_environment_is_made_with_what_a_received_folder_says_before_that_is_refused(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    words = ["train", "CartPole-v1", "--algorithm", "ppo", "--run-dir", str(run), *map(str, SMALL)]
    assert main([*words, "--steps", "16"]) == 0
    file = run / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"set": ["env_kwargs.render_mode=/evil/path"]}))
    made = []
    monkeypatch.setattr(gymnasium, "make", lambda *_, **keywords: made.append(keywords))
    capsys.readouterr()
    assert main(["train", "CartPole-v1", "--algorithm", "ppo", "--run-dir", str(run), "--resume"]) == 5
    assert "/evil/path" in capsys.readouterr().err
    assert {"render_mode": "/evil/path"} not in made


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_in_words_are_those_that_are_shipped():
    early, plateau, evaluation = callbacks_said(
        ["EarlyStopping('mean_return', patience=3)", "marl.callbacks.ReduceLROnPlateau", "Evaluation(500, episodes=2)"]
    )
    assert (early.plateau.metric, early.plateau.patience) == ("mean_return", 3)
    assert isinstance(plateau, ReduceLROnPlateau)
    assert (evaluation.every, evaluation.episodes) == (500, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("EarlyStoping()", r"unknown callback 'EarlyStoping'; did you mean 'EarlyStopping'.*Scenario\(callbacks=\["),
        ("Callback()", "unknown callback 'Callback'"),
        ("EarlyStopping(patiense=3)", "unknown argument 'patiense'; did you mean 'patience'"),
        ("EarlyStopping(patience=0)", "EarlyStopping.patience: expected a whole number of at least 1"),
        ("Evaluation()", "--callback Evaluation.*missing 1 required positional argument: 'every'"),
        ("EarlyStopping(open('/etc/passwd'))", "'open' is no settings class"),
        ("EarlyStopping(patience=2", r"expected NAME\(\.\.\.\), such as EarlyStopping"),
    ],
)
def test_no_other_callback_is_made_of_words(text, said):
    with pytest.raises(ConfigError, match=said):
        callbacks_said([text])


def test_callbacks_of_the_command_line_are_kept_and_know_what_they_knew_when_a_run_is_resumed(tmp_path, capsys):
    words = ["train", "CartPole-v1", "--set", "learner.rollout=8", *map(str, SMALL), "--steps", "320"]
    said = [
        "--callback",
        "EarlyStopping('steps', 9, mode='min')",
        "--callback",
        "ReduceLROnPlateau('steps', 2, mode='min')",
    ]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert main([*words, *said, "--run-dir", str(straight)]) == 0
    assert config(straight)["callbacks"] == said[1::2]
    assert (
        "a callback ended the training at step 160: steps was not better than 16 in 9 rows" in capsys.readouterr().err
    )
    assert json.loads((straight / "summary.json").read_text())["steps"] == 160  # ten rows of 16 steps
    assert main([*words, *said, "--run-dir", str(broken), "--steps", "80"]) == 0
    capsys.readouterr()
    assert main(["train", "--run-dir", str(broken), "--resume", "--steps", "320", "--quiet"]) == 0
    one, other = (marl.checkpoint.load(run / "checkpoints" / "last")[0] for run in (straight, broken))
    assert one["changed"] == other["changed"] != {}
    assert one["parts"]["callbacks"] == other["parts"]["callbacks"]
    assert_equal_trees(one["learners"], other["learners"])
    assert main(["train", "--run-dir", str(broken), "--resume", "--quiet"]) == 0
    assert "the run is finished already, at step 160 of 320 (steps was not better than 16 " in capsys.readouterr().err
    now = ["--callback", "EarlyStopping('steps', 2, mode='min')"]
    assert main(["train", "--run-dir", str(broken), "--resume", "--steps", "480", *now, "--quiet"]) == 0
    assert config(broken)["callbacks"] == now[1:]
    assert json.loads((broken / "summary.json").read_text())["steps"] < 480


def test_a_received_folder_chooses_no_place_that_a_callback_writes_to(tmp_path, capsys):
    run, away = tmp_path / "run", tmp_path / "away"
    words = ["train", "CartPole-v1", "--set", "learner.rollout=8", *map(str, SMALL), "--run-dir", str(run)]
    callback = ["--callback", f"Checkpoint({str(away)!r}, 16)"]
    assert main([*words, "--steps", "32", *callback]) == 0
    again = ["train", "--run-dir", str(run), "--resume", "--steps", "64", "--quiet"]
    assert main(again) == 5
    assert f"config.json: it would write to {away}" in capsys.readouterr().err
    assert main([*again, *callback]) == 0
    assert main([*again[:-2], "96", "--quiet", "--trust"]) == 0
    assert len(list(away.iterdir())) == 6
    file = run / "config.json"
    file.write_text(json.dumps(config(run) | {"callbacks": ["__import__('os')"]}))
    assert main(again) == 2
    assert "unknown callback" in capsys.readouterr().err
    file.write_text(json.dumps(config(run) | {"callbacks": "EarlyStopping"}))
    assert main(again) == 2
    assert "'callbacks': expected texts" in capsys.readouterr().err


def test_a_run_goes_on_in_python_and_on_the_command_line_in_turn(tmp_path):
    run = str(tmp_path / "run")
    words = ["train", "CartPole-v1", "--algorithm", "ia2c", "--set", "learner.rollout=8", *map(str, SMALL)]
    assert main([*words, "--steps", "32", "--run-dir", run]) == 0
    with marl.MultiAgentSystem.load(f"{run}/checkpoints/last") as system:
        system.train(steps=64, run_dir=run, resume=True)
    assert main(["train", "--run-dir", run, "--resume", "--steps", "96", "--quiet"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 96


def test_a_run_that_its_rule_has_ended_does_not_go_on_by_itself(tmp_path):
    def train(resume):
        with marl.MultiAgentSystem(marl.ia2c(rollout=8), "CartPole-v1", num_envs=2) as system:
            rule = marl.MeanReturn(at_least=1, over=1)
            system.train(steps=2_000, stop=rule, run_dir=tmp_path / "run", resume=resume)
            return system.steps

    assert train(False) == train(True) == train(True) < 2_000

"""``marl population``: turns of marl train, comparisons, whole states copied; killed anywhere, it goes on exactly."""

from __future__ import annotations

import json
import pkgutil
import shutil
import signal
import zlib

import pytest
import torch

import marl
from marl import checkpoint
from marl.config import in_words
from marl.logs import read_metrics
from marl.run import Run
from marl.studies import Lineage
from marl.studies.copying import put_in_place, tell_network, write_copy
from marl.training import stacked
from marl.types import NonFiniteError
from tests.support.commands import Here, finish, start
from tests.support.equality import assert_equal_runs, assert_equal_trees

FILE = """
import marl
from marl.studies import LogUniform, Perturb, Truncation, Uniform

tiny = marl.Scenario(
    name="tiny",
    env="CartPole-v1",
    agents=marl.ippo(rollout=16, minibatches=2, epochs=2, network=marl.MLP((8,))),
    num_envs=4,
    steps=960,
)
population = marl.Population(
    name="tiny",
    task=tiny,
    members=3,
    every=320,
    spaces={"learner.lr": LogUniform(1e-4, 1e-2), "learner.clip": Uniform(0.05, 0.4)},
    exploit=Truncation(0.4),
    evaluate_episodes=2,
    episodes=2,
)
"""
MEMBERS = ["member-0", "member-1", "member-2"]


def write(folder, *changed):
    """A population's file; ``changed``: texts of it and what stands there instead."""
    text = FILE
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "tiny.py").write_text(text)
    return folder / "tiny.py"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Members train in this process."""
    monkeypatch.setattr("marl.cli.schedule.CellProcess", Here)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("population"))


@pytest.fixture(scope="module")
def unbroken(file, tmp_path_factory):
    """The population from beginning to end."""
    from marl.cli import main

    out = tmp_path_factory.mktemp("unbroken") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marl.cli.schedule.CellProcess", Here)
        assert main(["population", "run", str(file), "--out", str(out), "--jobs", "1", "--quiet", "--json"]) == 0
    return out


def assert_equal_populations(first, second):
    assert (first / "lineage.jsonl").read_bytes() == (second / "lineage.jsonl").read_bytes()
    for name in MEMBERS:
        assert_equal_runs(first / "members" / name, second / "members" / name)
    assert not (second / "copies").exists()


def returns_at(run, step):
    return [row["evaluation_return"] for row in read_metrics(run) if row["steps"] == step]


# --- turns, comparisons, copies --------------------------------------------------------------------------------------


def test_every_comparison_replaces_the_worst_by_the_best_of_that_step(unbroken):
    lineage = Lineage.read(unbroken)
    assert (lineage.members, lineage.generations) == (3, 3)
    for number in (1, 2, 3):
        now = lineage.generation(number)
        assert [one.step for one in now] == [320 * number] * 3
        found = [returns_at(unbroken / "members" / name, 320 * number)[0] for name in MEMBERS]
        assert [one.fitness for one in now] == found
        copies = [one for one in now if one.copied]
        assert len(copies) == (number < 3)  # at the end nobody is replaced any more
        for one in copies:
            assert one.fitness == min(found)
            assert now[one.parent].fitness == max(found)
            before = lineage.generation(number - 1)[one.parent].settings
            assert all(one.settings[name] != before[name] for name in before)
    members = {one.member: one.settings for one in lineage.generation(0)}
    assert len({settings["learner.lr"] for settings in members.values()}) == 3


def test_members_that_nobody_replaces_are_runs_of_marl_train_bit_for_bit(tmp_path, marl_command):
    file, out = write(tmp_path, ("Truncation(0.4)", "None"), ("members=3", "members=2")), tmp_path / "out"
    assert marl_command("population", "run", file, "--out", out, "--quiet").code == 0
    words = json.loads((out / "population.json").read_text())["members"][1]["words"]
    assert marl_command(*words, "--run-dir", tmp_path / "run", "--quiet").code == 0
    assert_equal_runs(out / "members/member-1", tmp_path / "run")
    summaries = [json.loads((run / "summary.json").read_text()) for run in (out / "members/member-1", tmp_path / "run")]
    assert summaries[0]["evaluation"] == summaries[1]["evaluation"]
    assert {one.fitness for one in Lineage.read(out).generation(0)} == {None}


def test_a_run_that_pauses_goes_on_as_if_it_had_not(scenario, finished, tmp_path, marl_command):
    words = ("train", scenario, "--run-dir", tmp_path, "--evaluate-every", 400, "--evaluate-episodes", 2, "--quiet")
    said = marl_command(*words, "--save-every", 320, "--episodes", 4, "--json", "--pause-at", 500)
    assert (said.code, json.loads(said.out)["status"], json.loads(said.out)["steps"]) == (0, "paused", 500)
    again = marl_command("train", scenario, "--run-dir", tmp_path, "--resume", "--quiet", "--pause-at", 500)
    assert (again.code, json.loads((tmp_path / "summary.json").read_text())["status"]) == (0, "paused")
    assert marl_command("train", scenario, "--run-dir", tmp_path, "--resume", "--quiet", "--json").code == 0
    assert_equal_runs(finished, tmp_path)


# --- a copy is the whole of its parent, with other settings that really are used -------------------------------------

AGENT = {"rollout": 8, "minibatches": 1, "epochs": 2, "max_grad_norm": 1e9, "optimizer": marl.optim.SGD(), "lr": 0.01}


def run_of(folder, seed=0, steps=64, **agent):
    """A run folder of CartPole by PPO that ends between two updates."""
    config = marl.ippo(**{**AGENT, "network": marl.MLP((8,)), **agent})
    with marl.MultiAgentSystem(config, "CartPole-v1", num_envs=4, seed=seed) as system:
        system.train(steps, run_dir=folder)
        return system.state_dict()


def parameters(state):
    (team,) = state["learners"].values()
    return torch.cat([tensor.reshape(-1) for name, tensor in team["model"].items() if "norm" not in name])


def after_an_update(path, **agent):
    """Parameters after one update more, of a checkpoint whose agents are said anew where settings are given."""
    agents = marl.ippo(**{**AGENT, "network": marl.MLP((8,)), **agent}) if agent else None
    with marl.MultiAgentSystem.load(path, agents=agents) as system:
        system.train(32)
        return parameters(system.state_dict())


def copied(tmp_path, settings, **agent):
    """A parent's checkpoint, and that of a copy of it."""
    run_of(tmp_path / "parent", **agent)
    run_of(tmp_path / "child", seed=5, **agent)
    parent, child = tmp_path / "parent", tmp_path / "child"
    path = write_copy(parent, child, tmp_path / "copies", settings, 5, None, "cpu")
    return parent / "checkpoints/last", path


def test_a_copy_is_everything_of_its_parent_but_its_own_random_streams(tmp_path):
    parent, copy = copied(tmp_path, {"learner.lr": 0.02, "learner.clip": 0.1})
    (theirs, _), (mine, manifest) = checkpoint.load(parent), checkpoint.load(copy)
    own, _ = checkpoint.load(tmp_path / "child/checkpoints/last")
    assert manifest["meta"]["seed"] == 5
    assert mine.pop("changed") == {"learner.lr": 0.02, "learner.clip": 0.1}
    assert [change["setting"] for change in mine.pop("changes")] == ["learner.lr", "learner.clip"]
    (team,) = mine["learners"]
    assert torch.equal(mine["torch_rng"], own["torch_rng"])
    streams = [state["learners"][team].pop("generator") for state in (mine, own, theirs)]
    assert torch.equal(streams[0], streams[1])
    assert not torch.equal(streams[0], streams[2])
    del mine["torch_rng"], theirs["torch_rng"]
    assert_equal_trees(mine, theirs)


def test_replay_and_its_draws_are_copied_with_an_off_policy_member(tmp_path):
    settings = marl.iql(learning_starts=16, batch=8, network=marl.MLP((8,)))
    states = []
    for name, seed in (("parent", 0), ("child", 5)):
        with marl.MultiAgentSystem(settings, "CartPole-v1", num_envs=4, seed=seed) as system:
            system.train(64, run_dir=tmp_path / name)
            states.append(system.state_dict())
    path = write_copy(tmp_path / "parent", tmp_path / "child", tmp_path / "out", {"learner.lr": 0.1}, 5, None, "cpu")
    mine = checkpoint.load(path)[0]["learners"]
    (team,) = mine
    theirs, own = (state["learners"][team] for state in states)
    for stream in ("sampler", "generator"):
        assert torch.equal(mine[team].pop(stream), own[stream])
        del theirs[stream]
    assert_equal_trees(mine[team], theirs)


def test_the_very_next_update_moves_by_the_perturbed_learning_rate(tmp_path):
    """One step of plain SGD on the same rows: three times the rate is three times the way."""
    parent, copy = copied(tmp_path, {"learner.lr": 0.03}, epochs=1)
    same = write_copy(tmp_path / "parent", tmp_path / "child", tmp_path / "same", {"learner.lr": 0.01}, 5, None, "cpu")
    before = parameters(checkpoint.load(parent)[0])
    once, thrice = (after_an_update(path) - before for path in (same, copy))
    assert once.abs().max() > 1e-4
    moved = once.abs() > 1e-5  # rounding of parameters around one
    torch.testing.assert_close(thrice[moved], 3 * once[moved], rtol=0.05, atol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("clip", 0.001), ("gae_lambda", 0.1), ("entropy", 0.5)])
def test_the_very_next_update_is_that_of_a_learner_made_with_these_settings(name, value, tmp_path):
    _, copy = copied(tmp_path, {f"learner.{name}": value}, lr=0.1)
    same = write_copy(tmp_path / "parent", tmp_path / "child", tmp_path / "same", {"learner.lr": 0.1}, 5, None, "cpu")
    varied = after_an_update(copy)
    assert torch.equal(varied, after_an_update(same, lr=0.1, **{name: value}))
    assert not torch.equal(varied, after_an_update(same))


# --- crashes ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As if the power had gone."""


CRASHES = {
    "when a copy is written": "marl.studies.copying.checkpoint.save",
    "when the comparison counts": "marl.studies.lineage.Lineage.write",
    "when the copy is in its place": "marl.studies.copying.sync_folder",
}


@pytest.fixture(scope="module")
def at_the_second_comparison(unbroken, file, tmp_path_factory):
    """A population that was killed when its members had come to their second comparison, in the middle of a step."""
    from marl.cli import main
    from marl.cli.generations import Generations

    out, compare = tmp_path_factory.mktemp("killed") / "out", Generations._compare

    def die(self, turns):
        if turns[0].until == 640:
            raise Killed
        compare(self, turns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marl.cli.schedule.CellProcess", Here)
        patch.setattr(Generations, "_compare", die)
        assert main(["population", "run", str(file), "--out", str(out), "--jobs", "1", "--quiet"]) == 1
    return out


@pytest.mark.parametrize("moment", CRASHES)
def test_killed_at_any_moment_of_a_comparison_it_is_the_unbroken_population(
    moment, at_the_second_comparison, file, unbroken, tmp_path, monkeypatch, marl_command
):
    out = tmp_path / "out"
    shutil.copytree(at_the_second_comparison, out, symlinks=True)
    name = CRASHES[moment]
    real = pkgutil.resolve_name(name)

    def die(*arguments, **keywords):
        real(*arguments, **keywords)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(name, die)
        assert marl_command("population", "run", file, "--out", out, "--quiet").code == 1
    assert marl_command("population", "run", file, "--out", out, "--quiet").code == 0
    assert_equal_populations(unbroken, out)


def test_a_real_kill_between_two_renames_loses_nothing(
    at_the_second_comparison, file, unbroken, tmp_path, marl_command
):
    """``kill -9`` of the process itself, when a member's checkpoint is set aside and its successor is not there yet."""
    out = tmp_path / "out"
    shutil.copytree(at_the_second_comparison, out, symlinks=True)
    code = """
import os, signal, sys
from marl.studies import copying
rename = os.rename
def die(*arguments):
    rename(*arguments)
    if str(arguments[1]).endswith(".replaced.tmp"):
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = die
from marl.cli import main
sys.exit(main())
"""
    assert finish(start("population", "run", file, "--out", out, "--quiet", code=code)).code == -signal.SIGKILL
    assert list(out.glob("members/*/checkpoints/.*.replaced.tmp"))
    said = marl_command("population", "run", file, "--out", out)
    assert said.code == 0
    assert "copies of comparison 2 were on their way; moved" in said.err
    assert "took over the lock of process" in said.err
    assert_equal_populations(unbroken, out)


def test_killed_in_the_middle_of_a_turn_it_is_the_unbroken_population(
    at_the_second_comparison, file, unbroken, tmp_path, monkeypatch, marl_command
):
    tick, out = Run.tick, tmp_path / "out"
    shutil.copytree(at_the_second_comparison, out, symlinks=True)

    def die(self, system):
        if self.path.name == "member-1" and system.steps == 800:
            raise Killed
        return tick(self, system)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "tick", die)
        said = marl_command("population", "run", file, "--out", out, "--retries", 0, "--quiet")
    assert said.code == 7
    assert marl_command("population", "run", file, "--out", out, "--quiet").code == 0
    assert_equal_populations(unbroken, out)


# --- stacked ---------------------------------------------------------------------------------------------------------


def test_stacked_and_killed_in_the_middle_of_a_turn_it_is_the_unbroken_population(
    file, unbroken, tmp_path, monkeypatch, marl_command
):
    tick, out, trained = Run.tick, tmp_path / "out", stacked.train
    together = []

    def die(self, system):
        if self.path.name == "member-1" and system.steps == 480:
            raise Killed
        return tick(self, system)

    def train(states, *rest):
        together.append(len(states))
        return trained(states, *rest)

    monkeypatch.setattr(stacked, "train", train)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "tick", die)
        said = marl_command("population", "run", file, "--out", out, "--stacked", "--retries", 0, "--quiet")
    assert said.code == 7
    said = marl_command("population", "run", file, "--out", out, "--stacked", "--quiet")
    assert said.code == 0, said.err
    assert "not stacked" not in said.err
    assert together == [3, 3, 3]  # what was left of the second turn member-1 trained alone
    assert_equal_populations(unbroken, out)


def test_members_that_cannot_be_stacked_train_as_before_and_a_line_says_why(tmp_path, marl_command):
    learner = "marl.ippo(rollout=16, minibatches=2, epochs=2, network=marl.MLP((8,)))"
    file = write(
        tmp_path,
        (learner, "marl.iql(learning_starts=16, batch=8, network=marl.MLP((8,)))"),
        (', "learner.clip": Uniform(0.05, 0.4)', ""),
        ("members=3", "members=2"),
    )
    said = marl_command("population", "run", file, "--out", tmp_path / "out", "--stacked", "--quiet")
    assert said.code == 0
    why = "DQN is not trained stacked, only PPO is; trained one after the other"
    told = [line for line in said.err.splitlines() if line.startswith("not stacked")]
    assert told == [f"not stacked: member-0, member-1: {why}"]


GROWING = (
    ("network=marl.MLP((8,))", "network=marl.MLP((8,), 'relu')"),
    ("import LogUniform", "import Grow, LogUniform"),
    ("evaluate_episodes=2", "grow=Grow(chance=1, factor=1.5, deepest=2), evaluate_episodes=2"),
)


def test_members_whose_networks_grew_say_so_and_go_on_exactly_after_a_kill(tmp_path, monkeypatch, marl_command):
    file, whole, out = write(tmp_path, *GROWING), tmp_path / "whole", tmp_path / "out"
    assert marl_command("population", "run", file, "--out", whole, "--quiet").code == 0
    first, *_, last = (Lineage.read(whole).generation(number) for number in range(4))
    assert {one.settings["learner.network"].sizes for one in first} == {(8,)}
    sizes = [one.settings["learner.network"].sizes for one in last]
    assert set(sizes) & {(12,), (8, 8), (18,), (12, 12), (12, 8)}
    for name, expected in zip(MEMBERS, sizes, strict=True):
        config = json.loads((whole / "members" / name / "config.json").read_text())
        assert config["settings"]["learner"]["network"]["sizes"] == list(expected)
        assert any(text == f"learner.network={in_words(marl.MLP(expected, 'relu'))}" for text in config["set"])
        said = checkpoint.read_manifest(whole / "members" / name / "checkpoints/last")["meta"]["agents"]
        assert said["network"]["sizes"] == list(expected)

    said = marl_command("population", "run", file, "--out", tmp_path / "stacked", "--stacked", "--quiet")
    assert said.code == 0
    assert "network differs: MLP(" in said.err  # who has grown leaves the others
    assert_equal_populations(whole, tmp_path / "stacked")

    def die(*arguments):
        tell_network(*arguments)
        raise Killed

    with monkeypatch.context() as patch:  # config.json is that of the copy, which is not there yet
        patch.setattr("marl.studies.copying.tell_network", die)
        assert marl_command("population", "run", file, "--out", out, "--quiet").code == 1
    assert list(out.glob("copies/1/*/step-*"))
    assert marl_command("population", "run", file, "--out", out, "--quiet").code == 0
    assert_equal_populations(whole, out)
    assert marl_command("population", "run", file, "--out", out, "--quiet").code == 0  # finished: nothing to do


def test_ctrl_c_says_how_to_go_on(file, tmp_path, monkeypatch, marl_command):
    def press(self, cells=()):
        raise KeyboardInterrupt

    monkeypatch.setattr("marl.cli.schedule.Schedule.go_on", press)
    said = marl_command("population", "run", file, "--out", tmp_path / "out")
    assert said.code == 130
    assert f"what was trained is saved; to go on: marl population run {file} --out {tmp_path / 'out'}" in said.err
    assert not (tmp_path / "out/population.lock").exists()


def test_a_member_that_diverges_goes_on_as_the_best(tmp_path, monkeypatch, marl_command):
    train = marl.MultiAgentSystem.train

    def diverge(self, *arguments, **keywords):
        if self.seed == 1 and self.steps == 0:
            raise NonFiniteError("the loss is nan")
        return train(self, *arguments, **keywords)

    monkeypatch.setattr(marl.MultiAgentSystem, "train", diverge)
    file, out = write(tmp_path, ("steps=960", "steps=640")), tmp_path / "out"
    said = marl_command("population", "run", file, "--out", out)
    assert said.code == 0, said.err
    assert "member-1: the loss is nan" in said.err
    first = Lineage.read(out).generation(1)
    best = max((0, 2), key=lambda member: first[member].fitness)
    assert (first[1].fitness, first[1].parent) == (None, best)
    last = Lineage.read(out).latest
    assert all(one.fitness is not None for one in last)
    assert len(returns_at(out / "members/member-1", 640)) == 1


def test_the_best_checkpoint_of_a_copy_is_told_with_its_parents_return(tmp_path):
    for name, value in (("parent", 9.0), ("child", 2.0)):
        checkpoints = tmp_path / name / "checkpoints"
        (checkpoints / "step-000000000064").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"steps": 64, "evaluation_return": value}) + "\n")
        best = {"metric": "evaluation_return", "value": value, "steps": 64, "checkpoint": "step-000000000064"}
        (checkpoints / "best.json").write_text(json.dumps(best))
    copy = tmp_path / "copies/step-000000000064"
    copy.mkdir(parents=True)
    put_in_place(copy, tmp_path / "parent", tmp_path / "child")
    assert json.loads((tmp_path / "child/checkpoints/best.json").read_text())["value"] == 9.0
    assert not copy.exists()


# --- games -----------------------------------------------------------------------------------------------------------

GAME = """
import marl
from marl.studies import LogUniform, Truncation

population = marl.Population(
    name="noughts",
    task="tictactoe",
    members=2,
    every=128,
    steps=256,
    settings=["num_envs=4", "learner.rollout=16", "learner.minibatches=1", "learner.epochs=1"],
    spaces={"learner.lr": LogUniform(1e-4, 1e-2), "learner.entropy": LogUniform(1e-3, 1e-1)},
    fitness="rating",
    exploit=Truncation(0.5),
    evaluate_episodes=1,
    games=4,
    episodes=1,
)
"""


def test_members_of_a_game_are_rated_by_games_between_them(tmp_path, marl_command):
    pytest.importorskip("pettingzoo.classic")
    (tmp_path / "game.py").write_text(GAME)
    said = marl_command("population", "run", tmp_path / "game.py", "--out", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    lineage = Lineage.read(tmp_path / "out")
    for number in (1, 2):
        one, other = lineage.generation(number)
        assert one.fitness + other.fitness == pytest.approx(2000)  # Elo, 1000 on average
    first = lineage.generation(1)
    for one in first:
        assert one.copied == (one.fitness < first[1 - one.member].fitness)
    told = json.loads(said.out)
    assert told["best"] == f"member-{max(lineage.latest, key=lambda one: one.fitness).member}"


# --- the command line ------------------------------------------------------------------------------------------------


def test_run_again_a_finished_population_only_tells_how_it_ended(unbroken, file, marl_command):
    before = {path: zlib.crc32(path.read_bytes()) for path in unbroken.rglob("*") if path.is_file()}
    said = marl_command("population", "run", file, "--out", unbroken)
    assert said.code == 0
    assert said.out.startswith("member  fitness  learner.lr  learner.clip  goes on from  comes of\n")
    assert "in 2 episodes that nobody was chosen by: " in said.out
    assert before == {path: zlib.crc32(path.read_bytes()) for path in unbroken.rglob("*") if path.is_file()}


def test_status_tells_and_draws_the_lineage(unbroken, tmp_path, marl_command):
    said = marl_command("population", "status", unbroken, "--plot", tmp_path / "lineage.png", "--json")
    told, lineage = json.loads(said.out), Lineage.read(unbroken)
    assert (told["population"], told["comparisons"], told["process"]) == ("tiny", 3, None)
    assert [one["fitness"] for one in told["members"]] == [one.fitness for one in lineage.latest]
    assert [one["ancestors"] for one in told["members"]] == [lineage.ancestors(member) for member in range(3)]
    assert (tmp_path / "lineage.png").read_bytes().startswith(b"\x89PNG")
    assert "step 960 of 960; nobody trains it now" in marl_command("population", "status", unbroken).out


BAD = [
    (("learner.lr", "learner.lrr"), "--set learner.lrr: unknown key; did you mean 'learner.lr'"),
    (("learner.lr", "learner.max_grad_norm"), "unknown setting that may change while training 'learner.max_grad_norm'"),
    (('"learner.clip"', '"learner.epochs"'), "learner.epochs"),
    (("LogUniform(1e-4, 1e-2)", "LogUniform(0, 1e-2)"), "expected 0 < low < high"),
    (("LogUniform(1e-4, 1e-2)", "0.1"), "spaces['learner.lr']: expected a space"),
    (("every=320", "every=300"), "steps: expected a multiple of every (300), got 960"),
    (("members=3", "members=1"), "members: expected a whole number of at least 2, got 1"),
    (("Truncation(0.4)", "Truncation(0.7)"), "Truncation.share: expected a number above 0 and at most 0.5, got 0.7"),
    (("Truncation(0.4)", "Truncation"), "exploit: expected None or one such as Truncation()"),
    (("episodes=2,\n)", "episodes=2, fitness='elo')"), "fitness: unknown fitness 'elo'"),
    (("episodes=2,\n)", "episodes=2, fitness='rating')"), "expected a game of two sides (league: CartPole-v1 has"),
    (("episodes=2,\n)", "episodes=2, start={'learner.l': 1})"), "start: unknown setting with a space 'learner.l'"),
    (("task=tiny", "task='spraed'"), "spraed"),
    (("episodes=2,\n)", "episodes=2, grow=True)"), "grow: expected None or marl.studies.Grow(), got True"),
    (("exploit=Truncation(0.4)", "exploit=None, grow=marl.studies.Grow()"), "with exploit=None nobody copies"),
    (("episodes=2,\n)", "episodes=2, grow=marl.studies.Grow(deepest=2))"), "grow: deepest: with tanh a layer more"),
    (("steps=960,\n)", "steps=960, stop=marl.MeanReturn(at_least=1))"), "expected settings=['stop=none']"),
    (("population = ", "other = marl.Population(name='o', task='spread', every=1, spaces={'learner.lr': "
      "Uniform(0, 1)})\npopulation = "), "expected one marl.Population at module level, found 2"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), BAD, ids=[expected for _, expected in BAD])
def test_a_file_that_makes_no_sense_is_one_line_and_nothing_on_disk(change, expected, tmp_path, marl_command):
    file = write(tmp_path / "file", change)
    said = marl_command("population", "run", file, "--out", tmp_path / "out")
    assert said.code == 2
    assert expected in said.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("population", "marl population: expected run or status, it is missing"),
        ("population run", "POPULATION is missing: marl population run POPULATION"),
        ("population run FILE --jobs 0", "--jobs: expected a whole number of at least 1"),
        ("population run nowhere.py", "nowhere.py does not exist"),
        ("population run spread", "expected a file with one marl.Population: FILE.py or FILE.py:NAME"),
        ("population status FILE --out nowhere", "there is no population.json in it"),
        ("population status .", "there is no population.json in it"),
        ("population status . --out x", "--out goes with a population's file"),
        ("train spread --pause-at 0", "--pause-at: expected a whole number of at least 1"),
    ],
)
def test_commands_that_make_no_sense_are_one_line(words, expected, file, tmp_path, monkeypatch, marl_command):
    monkeypatch.chdir(tmp_path)
    said = marl_command(*(str(file) if word == "FILE" else word for word in words.split()))
    assert said.code == 2
    assert expected in said.error
    assert list(tmp_path.iterdir()) == []


def test_a_population_that_is_asked_otherwise_is_refused_and_stays(unbroken, file, marl_command):
    for change, expected in (
        (("Truncation(0.4)", "Truncation(0.5)"), "exploit.share: 0.4 -> 0.5"),
        (("rollout=16", "rollout=32"), "learner.rollout: 16 -> 32"),
    ):
        write(file.parent, change)
        said = marl_command("population", "run", file, "--out", unbroken)
        write(file.parent)
        assert said.code == 2
        assert expected in said.error


def test_a_damaged_lineage_is_told_by_its_line(unbroken, tmp_path, marl_command):
    shutil.copytree(unbroken, tmp_path / "out", symlinks=True)
    lines = (unbroken / "lineage.jsonl").read_text().splitlines()
    for damage, expected in (
        ([*lines[:2], "{", *lines[3:]], "line 3 makes no sense"),
        (lines[1:], "a member of a generation is missing"),
        ([line.replace('"parent": 1', '"parent": 9') for line in lines], "names a parent that is no member"),
    ):
        (tmp_path / "out/lineage.jsonl").write_text("\n".join(damage))
        said = marl_command("population", "status", tmp_path / "out")
        assert said.code == 2
        assert expected in said.error

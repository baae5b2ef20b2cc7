"""``marl tournament``, ``marl exploit``, and runs with a league that are killed and go on."""

from __future__ import annotations

import json
import signal

import pytest

from tests.support.commands import KILLED, Here, finish, start
from tests.support.equality import assert_equal_runs

SCENARIO = """
import marl

WINS = ((0, -1, 1), (1, 0, -1), (-1, 1, 0))
learner = marl.ippo(rollout=8, minibatches=2, network=marl.MLP((8,)))

scenario = marl.Scenario(
    name="throws",
    env="marl/matrix_game-v0",
    env_kwargs={"payoff": (WINS, tuple(zip(*WINS))), "rounds": 3},
    agents={"agent_0": learner, "agent_1": learner},
    num_envs=4,
    steps=1280,
    league=LEAGUE,
)
"""
LEAGUES = {
    "league": "marl.League(snapshot_every=100, window=3, matchmaking='pfsp', opponents=(marl.Fixed(0),))",
    "psro": "marl.PSRO(response_steps=200, games=8)",
}


@pytest.fixture(params=LEAGUES)
def throws(request, tmp_path):
    path = tmp_path / "throws.py"
    path.write_text(SCENARIO.replace("LEAGUE", LEAGUES[request.param]))
    return path


def words(scenario, run):
    return ("train", scenario, "--run-dir", run, "--save-every", 160, "--quiet", "--no-evaluate", "--threads", 1)


def test_a_killed_league_goes_on_as_if_nothing_had_happened(throws, tmp_path, marl_command):
    assert marl_command(*words(throws, tmp_path / "whole")).code == 0
    program = KILLED.replace("788", "700").format("os.kill(os.getpid(), signal.SIGKILL)")
    assert finish(start(*words(throws, tmp_path / "killed"), code=program)).code == -signal.SIGKILL
    said = marl_command(*words(throws, tmp_path / "killed"), "--resume")
    assert said.code == 0
    assert "from step 640" in said.err
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs of the same game."""
    from marl.cli import main

    folder = tmp_path_factory.mktemp("throws")
    path = folder / "throws.py"
    path.write_text(SCENARIO.replace("LEAGUE", LEAGUES["league"]))
    found = []
    for seed in (0, 1):
        found.append(folder / f"run-{seed}")
        given = [*words(path, found[-1]), "--seed", seed, "--steps", 320]
        assert main([str(word) for word in given]) == 0
    return found


def test_a_tournament_prints_a_table_or_json_and_draws_it(runs, tmp_path, marl_command):
    said = marl_command("tournament", *runs, "--games", 20, "--plot", tmp_path / "table.png")
    assert said.code == 0
    assert "sides swapped" in said.out
    assert "Elo    rating fitted to all games" in said.out
    assert ("is better" in said.out) != ("not distinguishable" in said.out)
    assert "run-0" in said.out
    assert (tmp_path / "table.png").stat().st_size > 5_000
    result = json.loads(marl_command("tournament", *runs, runs[0], "--games", 20, "--json").out)
    assert len(result["players"]) == 3
    payoff = result["payoff"]
    assert payoff[0][1] == -payoff[1][0]
    assert sum(result["nash"]) == pytest.approx(1)
    low, high = result["intervals"][0][1]
    assert result["distinguishable"][0][1] == (low > 0 or high < 0)
    assert all(low < elo < high for elo, (low, high) in zip(result["elo"], result["elo_intervals"], strict=True))
    again = json.loads(marl_command("tournament", *runs, runs[0], "--games", 20, "--json").out)
    assert again == result


def test_exploit_reports_what_best_responses_gain(runs, marl_command):
    said = marl_command("exploit", runs[0], "--steps", 640, "--games", 50, "--json")
    assert said.code == 0
    result = json.loads(said.out)
    assert set(result["sides"]) == {"agent_0", "agent_1"}
    assert result["nash_conv"] >= 0
    assert result["checkpoint"].endswith("step-000000000320")
    said = marl_command("exploit", runs[0], "--steps", 64, "--games", 10).out
    assert ("NashConv at least" in said) != ("not distinguishable from 0 (95 %" in said)
    assert "gain: best response minus return" in said


TOURNAMENT, EXPLOIT = (
    ("tournament", "RUN", "OTHER", "RUN", "--games", 9),
    ("exploit", "RUN", "--games", 9, "--steps", 64),
)


class Counted(Here):
    """Counts what it is asked to do, and is lost the first time if it is to."""

    asked = 0
    loses = False

    def run(self, words, log, asks=False):
        Counted.asked += 1
        if Counted.loses:
            Counted.loses = False
            self.theirs.close()
        else:
            super().run(words, log, asks)


@pytest.fixture
def side_by_side(monkeypatch):
    monkeypatch.setattr("marl.cli.schedule.CellProcess", Counted)
    monkeypatch.setattr(Counted, "asked", 0)
    return Counted


@pytest.mark.parametrize(("words", "parts"), [(TOURNAMENT, 6), (EXPLOIT, 2)], ids=["tournament", "exploit"])
def test_parts_side_by_side_are_those_of_one_process_though_one_is_lost_and_some_are_there(
    words, parts, runs, side_by_side, tmp_path, marl_command
):
    words = [{"RUN": runs[0], "OTHER": runs[1]}.get(word, word) for word in words]
    alone = json.loads(marl_command(*words, "--json").out)
    assert side_by_side.asked == 0
    side_by_side.loses = True
    said = marl_command(*words, "--jobs", 2, "--out", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == alone
    assert "died of 0; tried again" in said.err
    assert side_by_side.asked == parts + 1
    sorted(tmp_path.glob("out/parts/*.json"))[-1].unlink()
    said = marl_command(*words, "--out", tmp_path / "out", "--json")
    assert f"{parts - 1} of {parts} parts are there" in said.err
    assert json.loads(said.out) == alone
    assert side_by_side.asked == parts + 2
    said = marl_command(*words, "--seed", 1, "--out", tmp_path / "out")
    assert said.code == 2
    assert "holds an answer to another question" in said.error


def test_a_part_that_fails_is_told_and_the_others_are_kept(runs, side_by_side, tmp_path, marl_command):
    side_by_side.loses = True
    words = ("tournament", *runs, "--games", 2, "--jobs", 1, "--retries", 0)
    said = marl_command(*words, "--out", tmp_path / "out")
    assert said.code == 7
    assert "marl: error: tournament: 1 of 2 parts failed; part 0-1: died of 0" in said.err
    assert [part.name for part in tmp_path.glob("out/parts/*")] == ["1-0.json"]
    assert marl_command(*words, "--out", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("tournament", "RUN", "RUN", "--jobs", "0"), "--jobs"),
        (("tournament", "RUN", "RUN", "--ray", "nowhere"), "ray: expected auto, HOST:PORT"),
        (("exploit", "RUN", "--jobs", "2", "--retries", "-1"), "--retries"),
        (("exploit", "RUN", "--threads", "3"), "threads: expected 1 or 2"),
        (("tournament", "RUN"), "at least two"),
        (("tournament",), "RUN is missing"),
        (("tournament", "RUN", "RUN", "--games", "0"), "--games"),
        (("tournament", "RUN", "nowhere"), "nowhere"),
        (("tournament", "RUN", "RUN", "--plot", "table.xyz"), "--plot"),
        (("tournament", "RUN", "RUN", "--gmaes", "3"), "did you mean --games"),
        (("exploit",), "RUN is missing"),
        (("exploit", "RUN", "--steps", "0"), "--steps"),
        (("exploit", "RUN", "RUN"), "unexpected argument"),
        (("exploit", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(given, message, runs, marl_command):
    said = marl_command(*(runs[0] if word == "RUN" else word for word in given))
    assert said.code == 2
    assert message in said.error


def test_runs_of_different_games_cannot_meet(runs, finished, marl_command):
    said = marl_command("tournament", runs[0], finished)
    assert said.code == 2
    assert "cannot meet" in said.error


def test_a_run_of_one_agent_cannot_be_exploited(finished, marl_command):
    said = marl_command("exploit", finished, "--steps", 64)
    assert said.code == 2
    assert "one agent" in said.error

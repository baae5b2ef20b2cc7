"""``marl evaluate`` with experiments, and what it says to requests that make no sense."""

from __future__ import annotations

import json

import pytest

CHATTER = """
import marl
from marl.channels import CommNet
from tests.support.tiny import Team

scenario = marl.Scenario(
    name="chatter",
    env=Team,
    env_kwargs={"length": 5},
    agents=marl.ippo(channel=CommNet(size=3), rollout=8, minibatches=1, network=marl.MLP((8,))),
    num_envs=2,
    steps=160,
)
"""


@pytest.fixture(scope="module")
def chatter(tmp_path_factory):
    """A run whose agents talk."""
    from marl.cli import main

    folder = tmp_path_factory.mktemp("runs")
    (folder / "chatter.py").write_text(CHATTER)
    words = ["train", folder / "chatter.py", "--run-dir", folder / "run", "--quiet", "--no-evaluate"]
    assert main([str(word) for word in words]) == 0
    return folder / "run"


def test_decentralized_evaluation_stands_beside_the_batched_one(chatter, marl_command):
    said = marl_command("evaluate", chatter, "--episodes", 4, "--decentralized", "--json")
    assert said.code == 0, said.err
    assert not said.err
    report = json.loads(said.out)
    assert report["decentralized"]
    assert not report["batched"]["decentralized"]
    assert report["returns"] == report["batched"]["returns"]
    assert report["agreement"] == {"compared": 60, "different": 0, "first": None}
    assert report["faults"] == {}


def test_experiments_are_done_and_said(chatter, marl_command):
    words = ("--link", "loss=0.2,delay=1,noise=0.1,bits=4", "--silence", "agent_0", "--remove", "agent_1")
    said = marl_command("evaluate", chatter, "--episodes", 4, *words, "--shuffle-messages", "--swap", "agent_2,agent_0")
    assert said.code == 0, said.err
    for line in (
        "link: bits=4,delay=1,loss=0.2,noise=0.1",
        "agent_0 is silent",
        "agent_1 is removed",
        "agent_2 and agent_0 play with each other's policy",
        "messages are those of another episode at the same step",
    ):
        assert line in said.out
    report = json.loads(marl_command("evaluate", chatter, "--episodes", 4, *words, "--json").out)
    assert report["changes"][0] == "link: bits=4,delay=1,loss=0.2,noise=0.1"
    assert len(report["changes"]) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--silence agent_9", "silence: unknown agent 'agent_9'; did you mean"),
        ("--remove nobody", "remove: unknown agent 'nobody'"),
        ("--swap agent_0", "--swap: expected two agents, AGENT,AGENT, got 'agent_0'"),
        ("--swap agent_0,agent_9", "swap: unknown agent 'agent_9'"),
        ("--link delay=-1", "Link.delay: expected a whole number from 0 to 1000, got -1"),
        ("--link delay=1.5", "link: delay expects a whole number, got '1.5'"),
        ("--link loss=2", "Link.loss: expected a probability from 0 to 1, got 2.0"),
        ("--link los=0.1", "unknown effect 'los'; did you mean 'loss'?"),
        ("--link loss", "expected name=value pairs"),
        ("--shuffle-messages --episodes 1", "at least two episodes side by side"),
        ("--message-entries agent_0", "expected LISTENER:FIRST-LAST"),
        ("--message-entries agent_0:5-9", "'agent_0' sees entries 0 to 2"),
    ],
)
def test_what_makes_no_sense_is_one_line(chatter, marl_command, words, expected):
    said = marl_command("evaluate", chatter, *words.split())
    assert said.code == 2
    assert expected in said.error
    assert not said.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--link loss=0.1", "no team of this system has a channel"),
        ("--silence agent_0", "'agent_0' has no channel"),
        ("--shuffle-messages", "no team has a channel"),
    ],
)
def test_a_run_without_a_channel_has_no_link(finished, marl_command, words, expected):
    said = marl_command("evaluate", finished, *words.split())
    assert said.code == 2
    assert expected in said.error


def test_sweep_prints_writes_and_draws(chatter, tmp_path, marl_command):
    table, picture = tmp_path / "sweep.csv", tmp_path / "sweep.png"
    words = ("sweep", chatter, "--link", "loss=0,1", "--link", "delay=0:2:1", "--episodes", 4)
    said = marl_command(*words, "--csv", table, "--plot", picture)
    assert said.code == 0, said.err
    assert f"wrote {picture}" in said.out
    assert "as trained" in said.out
    assert len(table.read_text().splitlines()) == 1 + 2 + 5
    assert picture.read_bytes()[1:4] == b"PNG"
    points = json.loads(marl_command(*words, "--json").out)["points"]
    assert [point["effect"] for point in points] == ["as trained", "silent", *["loss"] * 2, *["delay"] * 3]
    for wrong, reason in (
        ((), "--link is missing"),
        (("--link", "loss"), "expected EFFECT=NUMBER"),
        (("--link", "loss=0", "--plot", tmp_path / "picture.nothing"), "nothing"),
        (("--link", "loss=0", "--csv", tmp_path), "cannot be written"),
    ):
        said = marl_command("sweep", chatter, "--episodes", 2, *wrong)
        assert said.code == 2
        assert reason in said.error

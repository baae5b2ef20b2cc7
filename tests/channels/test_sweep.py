"""Return against what a link does."""

from __future__ import annotations

import csv

import pytest
import torch

import marl
from marl.channels import CommNet, Link
from marl.studies.sweep import parse_effect, plot, sweep, write_csv
from tests.support.tiny import Team


@pytest.fixture(scope="module")
def talkers():
    config = marl.ippo(channel=CommNet(size=3, link=Link(bits=4)), rollout=8, minibatches=1, network=marl.MLP((16,)))
    system = marl.MultiAgentSystem(config, Team, num_envs=2, seed=4)
    with torch.no_grad():  # untrained heads hardly react to what they are told
        system.learners[0].model.actor.head.weight.mul_(100)
    return system


def test_a_sweep_has_the_ends_that_it_must_have(talkers, tmp_path):
    result = sweep(talkers, ["loss=0,0.5,1", "delay=0:2:2", "bits=4"], episodes=8)
    plain, lossy = result.plain.mean_return, [point.mean_return for point in result.curves["loss"]]
    assert plain == lossy[0] == result.curves["delay"][0].mean_return == result.curves["bits"][0].mean_return
    assert lossy[2] == result.silent.mean_return != plain  # nothing arrives, or nothing is sent
    assert [point.value for point in result.curves["delay"]] == [0, 2]
    assert all(point.low <= point.mean_return <= point.high for curve in result.curves.values() for point in curve)
    assert sweep(talkers, ["loss=0.5"], episodes=8).curves["loss"][0].mean_return == lossy[1]
    text = str(result)
    assert "as trained" in text
    *_, columns, what = text.splitlines()
    assert len(text.splitlines()) == 1 + 2 + 6 + 2
    assert columns.startswith("return: ")
    assert "95 % CI over episodes" in what
    lines = {tuple(line.split()[:2]): line for line in text.splitlines()}
    assert "+0.00   0.00 to 0.00" in lines["loss", "0"]
    assert lines["loss", "0"].endswith("not distinguishable")
    change = result.curves["loss"][2].change
    assert change.mean == pytest.approx(lossy[2] - plain)
    assert result.to_dict()["points"][4]["change"] == change.to_dict()
    assert result.to_dict()["points"][0]["change"] is None
    with open(write_csv(result, tmp_path / "sub" / "sweep.csv")) as file:
        rows = list(csv.DictReader(file))
    assert [(row["effect"], row["value"]) for row in rows[2:5]] == [("loss", "0"), ("loss", "0.5"), ("loss", "1")]
    assert float(rows[4]["mean_return"]) == lossy[2]
    assert plot(result, tmp_path / "sweep.png").read_bytes()[1:4] == b"PNG"
    assert len(result.to_dict()["points"]) == 8


def test_ranges_and_lists():
    assert parse_effect("loss=0:0.3:0.1") == ("loss", (0, 0.1, 0.2, 0.3))
    assert parse_effect(" delay = 0:4:2") == ("delay", (0, 2, 4))
    assert parse_effect("noise=0.5") == ("noise", (0.5,))


@pytest.mark.parametrize(
    ("effects", "reason"),
    [
        (["los=0.1"], "unknown effect 'los'; did you mean 'loss'"),
        (["loss"], "expected EFFECT=NUMBER"),
        (["loss=a"], "loss: expected numbers"),
        (["delay=0.5"], "delay: expected whole numbers"),
        (["delay=0:1:0.5"], "delay: expected whole numbers"),
        (["loss=1:0:0.1"], "FIRST:LAST:STEP"),
        (["loss=0:1:0"], "FIRST:LAST:STEP"),
        (["loss=0:1"], "FIRST:LAST:STEP"),
        (["loss=2"], "Link.loss: expected a probability"),
        (["delay=-1"], "Link.delay: expected a whole number from 0"),
        (["loss=0", "loss=1"], "loss is named twice"),
        ([], "name an effect"),
    ],
)
def test_what_makes_no_sense_is_refused(talkers, effects, reason):
    with pytest.raises(marl.ConfigError, match=reason):
        sweep(talkers, effects, episodes=2)


def test_a_system_without_a_channel_has_nothing_to_sweep():
    system = marl.MultiAgentSystem(marl.ippo(rollout=8), Team, num_envs=2)
    with pytest.raises(marl.ConfigError, match="no team of this system has a channel"):
        sweep(system, ["loss=0"], episodes=2)

"""Intervals say what they are over, and what may be chance is called not distinguishable."""

from __future__ import annotations

import itertools

import pytest

import marl
from marl.playing.intervals import Difference
from marl.types import ConfigError
from tests.support.tiny import Constant, Team


def test_a_difference_is_taken_episode_by_episode():
    """Two plays that both vary and differ by one in every episode differ by one for certain."""
    found = Difference.paired([1.0, 21.0, 5.0], [0.0, 20.0, 4.0])
    assert found == Difference(1.0, (1.0, 1.0))
    assert found.distinguishable
    assert str(found) == "+1.00 (95 % CI over episodes 1.00 to 1.00)"
    assert found.to_dict() == {"mean": 1.0, "confidence_interval": [1.0, 1.0], "distinguishable": True}


def test_a_difference_that_may_be_chance_says_so():
    found = Difference.paired([1.0, -1.0, 1.0, -1.0], [0.0] * 4)
    low, high = found.confidence_interval
    assert found.mean == 0
    assert low < 0 < high
    assert str(found).endswith(", not distinguishable")
    assert str(Difference(-2.0, (-3.0, -1.0))) == "-2.00 (95 % CI over episodes -3.00 to -1.00)"


def test_plays_of_other_lengths_are_refused():
    with pytest.raises(ConfigError, match="got 1 and 2 episodes"):
        Difference.paired([1.0], [1.0, 2.0])


def test_returns_come_copy_by_copy_whatever_ends_first():
    """So that two evaluations with the same seed have the same episode in the same place."""
    lengths = itertools.count(9, -2)
    with marl.MultiAgentSystem(marl.Random(), lambda: Constant(length=next(lengths)), num_envs=1) as system:
        report = system.evaluate(4, num_envs=2, metrics={"length": lambda record: float(record.episode.length)})
    first, again, second, other = report.episode_lengths
    assert first == again > second == other
    assert report.metrics["length"].values == report.episode_lengths


def test_a_report_says_what_its_intervals_are_over():
    with marl.MultiAgentSystem(marl.Random(), Team, num_envs=2) as system:
        report = system.evaluate(4, seed=1, metrics={"length": lambda record: float(record.episode.length)})
        same, other = (system.evaluate(4, seed=seed) for seed in (1, 2))
    for text in (repr(report), str(report), report._repr_html_(), repr(report.teams["team"])):
        assert text.count("95 % CI") == text.count("95 % CI over episodes") > 0
    assert report.minus(same) == Difference(0.0, (0.0, 0.0))
    assert report.minus(other).mean == pytest.approx(report.mean_return - other.mean_return)

"""Numbers of the user's choice over whole episodes: evaluate(metrics={name: function of a record})."""

from __future__ import annotations

import numpy as np
import pytest

import marl
from marl.playing.report import bootstrap_interval
from tests.support.tiny import Team, Turns


def test_records_hold_what_was_seen_done_and_paid():
    records = []

    def keep(record):
        records.append(record)
        return len(records)

    with marl.MultiAgentSystem(marl.Random(), lambda: Team(die=(4, None, None)), num_envs=2) as system:
        report = system.evaluate(5, metrics={"count": keep})
    assert report.metrics["count"].values == (1, 2, 3, 4, 5)
    assert report.metrics["count"].mean == 3.0
    assert report.metrics["count"].confidence_interval == bootstrap_interval(np.arange(1.0, 6.0))
    assert [record.episode.length for record in records] == list(report.episode_lengths) == [10] * 5
    for record, total in zip(records, report.returns, strict=True):
        assert set(record.actions) == {"agent_0", "agent_1", "agent_2"}
        for name in record.actions:
            shapes = [array[name].shape for array in (record.observations, record.actions, record.rewards)]
            assert shapes == [(11, 3), (10,), (10,)]
            steps = slice(0, 4) if name == "agent_0" else slice(None)
            right = (record.observations[name][:-1, 0] > 0) == (record.actions[name] == 1)
            assert np.array_equal(record.rewards[name][steps], right[steps].astype(float))
            assert record.acting[name].sum() == (4 if name == "agent_0" else 10)
        assert sum(rewards.sum() for rewards in record.rewards.values()) == total
        assert record.states is None  # nobody reads it


def test_metrics_of_games_in_turns_and_of_native_worlds():
    with marl.MultiAgentSystem(marl.Random(), Turns, num_envs=2) as system:
        report = system.evaluate(3, metrics={"moves": lambda record: sum(a.sum() for a in record.acting.values())})
        assert set(report.metrics["moves"].values) == {5.0}
    critic = marl.mappo(critic=marl.Joint(of="state"), rollout=8, minibatches=2)
    with marl.MultiAgentSystem(critic, "marl/spread-v0", num_envs=2) as system:
        report = system.evaluate(
            4, decentralized=True, metrics={"states": lambda record: len(record.states), "worst": worst}
        )
        assert set(report.metrics["states"].values) == {length + 1 for length in report.episode_lengths}
        assert report.metrics["worst"].mean < 0
        assert report.to_dict()["metrics"]["worst"]["mean"] == report.metrics["worst"].mean
        assert "worst" in str(report)
        assert system.evaluate(4, decentralized=True).returns == report.returns


def worst(record):
    return min(rewards.min() for rewards in record.rewards.values())


def test_what_is_no_metric_is_refused():
    with marl.MultiAgentSystem(marl.Random(), Team, num_envs=2) as system:
        with pytest.raises(marl.ConfigError, match="metrics: 'a': expected a function of an episode's record, got 3"):
            system.evaluate(2, metrics={"a": 3})
        with pytest.raises(marl.ConfigError, match="metrics: 'b': expected a number for each episode, got None"):
            system.evaluate(2, metrics={"b": lambda record: None})

"""Numbers of the user's choice over whole episodes: evaluate(metrics={name: function of a record})."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import marl
from marl.playing.intervals import bootstrap_interval
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
        assert record.states.shape == (11, 9)  # which no learner reads
        seen = np.concatenate([record.observations[name][0] for name in record.actions])
        assert np.array_equal(record.states[0], seen)


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


class Counting(Team):
    """Says in its infos how often anybody chose 1 so far, always in the same mapping and array."""

    def reset(self, seed=None, options=None):
        observations, _ = super().reset(seed, options)
        self.said = {agent: {"ones": 0, "where": np.zeros(2)} for agent in self.agents}
        return observations, self.said

    def step(self, actions):
        observations, rewards, terminated, truncated, _ = super().step(actions)
        for agent, action in actions.items():
            self.said[agent]["ones"] += int(action)
            self.said[agent]["where"] += 1
        return observations, rewards, terminated, truncated, self.said


class CountingTurns(Turns):
    """The same in turns: the number of moves so far."""

    def step(self, action):
        super().step(action)
        self.made += 1
        for agent in self.infos:
            self.infos[agent] = {"made": self.made}

    def reset(self, seed=None, options=None):
        super().reset(seed, options)
        self.made = 0


def ones(record):
    for name, said in record.infos.items():
        steps = int(record.acting[name].sum())
        assert [info.get("ones") for info in said[:steps]] == np.cumsum(record.actions[name])[:steps].tolist()
        assert [info["where"][0] for info in said[:steps]] == list(range(1, steps + 1))  # copies
        assert len(said) == record.episode.length
    return sum(said[-1]["ones"] for said in record.infos.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_records_hold_what_the_environment_said_in_each_step(workers):
    with marl.MultiAgentSystem(marl.Random(), Counting, num_envs=2, workers=workers) as system:
        report = system.evaluate(5, metrics={"ones": ones})
        assert 0 < report.metrics["ones"].mean < 30
        assert system.evaluate(5).returns == report.returns  # nothing else is another
        assert system.env.reset(0).infos is None  # nobody asked for it in training


def test_infos_of_games_in_turns_of_one_agent_and_of_native_worlds():
    with marl.MultiAgentSystem(marl.Random(), CountingTurns, num_envs=2) as system:
        counted = []

        def turns(record):
            steps = range(record.episode.length)
            counted.append([max(infos[t].get("made", 0) for infos in record.infos.values()) for t in steps])
            return 0

        system.evaluate(3, metrics={"moves": turns})
        assert counted == [[1, 2, 3, 4, 5]] * 3
    with marl.MultiAgentSystem(marl.Random(), counted_pole, num_envs=2) as system:
        report = system.evaluate(3, metrics={"length": lambda record: record.infos["agent_0"][-1]["episode"]["l"]})
        assert report.metrics["length"].values == tuple(map(float, report.episode_lengths))
    with marl.MultiAgentSystem(marl.Random(), "marl/growing_spread-v0", num_envs=2) as system:
        report = system.evaluate(
            3,
            metrics={
                "away": lambda record: record.episode.info["away"],
                "said": lambda record: sum(map(len, record.infos["agent_0"])),
            },
        )
        assert report.metrics["away"].mean == pytest.approx(report.info["away"])
        assert set(report.metrics["said"].values) == {0.0}


def counted_pole():
    return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("CartPole-v1"))


def worst(record):
    return min(rewards.min() for rewards in record.rewards.values())


def test_what_is_no_metric_is_refused():
    with marl.MultiAgentSystem(marl.Random(), Team, num_envs=2) as system:
        with pytest.raises(marl.ConfigError, match="metrics: 'a': expected a function of an episode's record, got 3"):
            system.evaluate(2, metrics={"a": 3})
        with pytest.raises(marl.ConfigError, match="metrics: 'b': expected a number for each episode, got None"):
            system.evaluate(2, metrics={"b": lambda record: None})

"""Actors that fill the learner's replay: one in lockstep is one process; several write into one ring, unmixed."""

from __future__ import annotations

import dataclasses
import os
import signal
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import marl
from marl.cluster import LOCAL, joined
from marl.memory import Prioritized
from marl.memory.recorder import Recording, kept
from marl.memory.replay.streams import Streams
from marl.training.loop import advance
from marl.types import ConfigError
from tests.support.commands import gone, wait_until
from tests.support.equality import assert_equal_trees
from tests.support.pretend import COPIES, asynchronous, made, pretend  # noqa: F401
from tests.support.tiny import Acting, Team, Turns

ROWS = 16  # of a fragment
BURST = ROWS * COPIES
HOW = {
    "network": marl.MLP((8,)),
    "batch": 8,
    "buffer": 200,
    "learning_starts": BURST,
    "update_every": BURST,
    "updates_per_step": 1 / 16,
}
DQN = marl.DQN(**HOW)
RECORDS = partial(marl.DQN, network=marl.MLP((8,)))
world = partial(Team, length=5, die=(3, 7, None))
drawing = partial(Acting, Box(-1, 1, (2,)), length=7)
LEARNERS = {
    "dqn": (dataclasses.replace(DQN, n_step=3, prioritized=Prioritized()), world),
    "qmix": (dataclasses.replace(DQN, credit=marl.QMix(), network=marl.GRU(8), sequence=6), world),
    "ddpg": (marl.DDPG(**HOW, exploration=marl.exploration.OrnsteinUhlenbeck()), drawing),
    "td3": (marl.TD3(**HOW), drawing),
    "sac": (marl.SAC(**HOW, normalize_obs=True), drawing),
    "maddpg": ({"agent_0": marl.DDPG(**HOW, critic=marl.Joint()), "agent_*": marl.SAC(**HOW)}, drawing),
    "turns": (dataclasses.replace(DQN, n_step=2), Turns),
}


def trained(system, bursts=6):
    with system:
        system.train(steps=bursts * BURST, log_every=BURST)
    return system


def modules(system):
    return [
        {name: dict(module.state_dict()) for name, module in learner.modules().items()} for learner in system.learners
    ]


@pytest.mark.parametrize("name", LEARNERS)
def test_in_lockstep_one_actor_is_one_process_bit_for_bit(name, pretend):  # noqa: F811
    agents, env = LEARNERS[name]
    with marl.compiled.use("off"):
        here, there = trained(made(agents, env)), trained(asynchronous(agents, env, actors=1, staleness=0))
    assert_equal_trees(modules(there), modules(here))
    assert there.history.episodes == here.history.episodes
    for one, other in zip(here.learners, there.learners, strict=True):
        assert_equal_trees(one.memory.state_dict()["arrays"], other.memory.state_dict()["arrays"])
        assert one.experience.updates == other.experience.updates > 0


def test_a_slow_actor_holds_nobody_up_and_every_step_is_counted_once(pretend):  # noqa: F811
    pretend.takes, bursts = {0: 1.0, 1: 10.0}, 25
    with marl.compiled.use("off"), asynchronous(DQN, world) as system:
        system.train(steps=bursts * BURST, log_every=BURST)
        counts, fleet = system.training.asynchronous, system.training.environments.training
        (learner,) = system.learners
        assert system.steps == counts["learned"] == learner.memory.seen_steps == bursts * BURST
        on_way = [one for one in fleet._asked if one.version is not None]
        assert counts["begun"] == counts["learned"] + counts["discarded"] + len(on_way) * fleet.steps
        assert counts["learned"] / fleet.steps >= 0.9 * 1.1 * pretend.now
        assert max(system.history["staleness_max"]) <= 2
        assert learner.experience.updates == (bursts - 1) * BURST // 16  # the ratio of one process


def test_exploration_and_the_start_of_learning_follow_the_steps_of_the_whole_run(pretend):  # noqa: F811
    epsilon = marl.schedules.Linear(1.0, 0.0, 4 * BURST)
    agents = marl.TD3(**(HOW | {"learning_starts": 3 * BURST}))
    with marl.compiled.use("off"):
        explored = dataclasses.replace(DQN, exploration=marl.exploration.EpsilonGreedy(epsilon))
        with asynchronous(explored, world, staleness=1) as system:
            system.train(steps=8 * BURST)
            state = pretend.handles[0].inner._state
            assert state.learners[0].clock.steps >= 4 * BURST
            assert float(state.learners[0].explorer._share) == 0.0
        with asynchronous(agents, drawing, staleness=1) as system:
            system.train(steps=BURST)
            assert pretend.handles[-1].inner._state.learners[0].experience.warming_up
            system.train(steps=4 * BURST)
            assert not pretend.handles[-1].inner._state.learners[0].experience.warming_up


# --- streams in one ring ----------------------------------------------------------------------------------------------


def fragments(count, seed, env=world, rows=5):
    """What one actor of two copies sends."""
    with made(RECORDS(memory=Recording(rows=rows)), env, num_envs=2, seed=seed) as system:
        state, found = system.training, []
        batch = state.open()
        memory = system.learners[0].memory
        for _ in range(count):
            steps = [kept(state.seen)]
            for _ in range(rows):
                advance(state, batch)
                steps.append(kept(state.seen))
            found.append((memory.packed(), steps))
            memory.restart()
    return found


def ring(env=world, buffer=400, **how):
    with made(dataclasses.replace(DQN, buffer=buffer, **how), env, num_envs=2) as system:
        return system.learners[0].memory


def tell(replay, streams, whose, number, fragment):
    told, steps = fragment
    streams.turn_to(whose, number, steps[0], torch.from_numpy(told.carry), len(told.actions))
    told.tell(replay, steps)


def transitions(replay, n_step=3):
    """What can be learnt, by who saw what: reward, worth of the successor, the successor where that is not 0."""
    places = (np.arange(replay.size) + replay.newest - replay.size) % replay.rows
    index = torch.from_numpy((places[:, None] * replay.num_envs + np.arange(replay.num_envs)).reshape(-1, 1))
    sample, found = replay.sample(index, 1, n_step, 0.9), {}
    for row, agent in torch.nonzero(sample.complete[0]).tolist():
        obs, worth = sample.obs[0, row, agent], float(sample.discount[0, row, agent])
        following = sample.next_obs[0, row, agent].tolist() if worth else None
        acted = sample.action[0, row, agent].tolist()
        found[agent, tuple(obs.tolist())] = acted, float(sample.reward[0, row, agent]), worth, following
    return found


def alone(parts):
    """What one ring makes of what one actor sends."""
    replay = ring(buffer=4000)
    replay.start(parts[0][1][0])
    for told, steps in parts:
        told.tell(replay, steps)
    return transitions(replay)


@pytest.mark.parametrize("order", ["abab", "aabbaabbab", "abbbbbbba", "aaaabaaaa"])
def test_fragments_of_two_actors_in_turns_are_the_transitions_of_each(order):
    """Sums of three turns across fragments, ends of agents and of episodes included."""
    parts = {"a": fragments(order.count("a"), 1), "b": fragments(order.count("b"), 2)}
    replay, counts = ring(), {"a": 0, "b": 0}
    streams = replay.streams = Streams(replay)
    for whose in order:
        tell(replay, streams, whose, counts[whose], parts[whose][counts[whose]])
        counts[whose] += 1
    assert transitions(replay) == alone(parts["a"]) | alone(parts["b"])


def test_a_ring_that_is_overwritten_holds_true_transitions_only():
    """Streams that wait longer than the ring is go on no more, and nothing leads to rows of others."""
    parts = {whose: fragments(30, seed) for whose, seed in (("a", 1), ("b", 2), ("c", 3))}
    wanted = {key: value for each in parts.values() for key, value in alone(each).items()}
    replay, counts, random = (
        ring(buffer=60, prioritized=Prioritized()),
        dict.fromkeys("abc", 0),
        np.random.default_rng(0),
    )
    streams = replay.streams = Streams(replay)
    shares = {"a": 0.75, "b": 0.2, "c": 0.05}
    for _ in range(30):
        whose = random.choice(list(shares), p=list(shares.values()))
        tell(replay, streams, whose, counts[whose], parts[whose][counts[whose]])
        counts[whose] += 1
        for key, found in transitions(replay, n_step=1).items():
            acted, _, worth, following = wanted[key]
            assert found[0] == acted
            if worth and found[2]:
                assert following is not None
        drawable = np.nonzero(replay.priorities.nodes[0, replay.priorities.leaves :][: replay.rows * 2])[0]
        complete = [place for place in drawable if replay.useful(np.array([place]))[0]]
        assert len(complete) == len(drawable) > 0


def test_what_a_lost_actor_sent_ends_in_its_last_row_and_is_joined_with_nothing():
    """A replacement counts from 0; a fragment that was thrown away leaves a gap in the numbers."""
    first, second = fragments(2, 1), fragments(4, 2)
    replay = ring()
    streams = replay.streams = Streams(replay)
    for number, part in enumerate(first):
        tell(replay, streams, 0, number, part)
    for number, part in enumerate(second):
        if number != 2:
            tell(replay, streams, 0, number, part)
    wanted = alone(first) | alone(second[:2]) | alone(second[3:])
    assert transitions(replay) == wanted


def test_sequences_lie_within_one_actors_rows():
    parts = {"a": fragments(6, 1, rows=8), "b": fragments(6, 2, rows=8)}
    replay = ring(network=marl.GRU(8), sequence=4)
    streams = replay.streams = Streams(replay)
    for number in range(6):
        for whose in "ab":
            told, steps = parts[whose][number]
            told = dataclasses.replace(
                told, carry=np.zeros((2, 3, 8), np.float32), carries=np.zeros((8, 2, 3, 8), np.float32)
            )
            tell(replay, streams, whose, number, (told, steps))
    seen = {}
    for whose, each in parts.items():
        every = [*(steps[:-1] for _, steps in each), each[-1][1][-1:]]
        for time, step in enumerate(step for steps in every for step in steps):
            for copy in range(2):
                seen[tuple(step.teams[0].obs[copy].ravel().tolist())] = whose, copy, time
    generator = torch.Generator().manual_seed(0)
    index = replay.places(200, 4, generator)
    sample = replay.sample(index, 4, 1, 0.9)
    for b in range(200):
        found = [seen[tuple(sample.obs[t, b].ravel().tolist())] for t in range(4)]
        assert found == [(found[0][0], found[0][1], found[0][2] + t) for t in range(4)]


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_new_goals_were_reached_in_the_same_episode_by_the_same_actor(strategy):
    env = partial(Acting, Discrete(2), goals=True, length=7)
    parts = {"a": fragments(6, 1, env), "b": fragments(6, 2, env)}
    replay = ring(env, hindsight=marl.memory.Hindsight("marl_envs.reach:compute_reward", strategy, share=1.0))
    streams, reached = Streams(replay), {}
    replay.streams = streams
    for number in range(6):
        for whose in "ab":
            tell(replay, streams, whose, number, parts[whose][number])
    for whose, each in parts.items():
        episode = np.zeros(2, int)
        for _, steps in each:
            for before, step in pairwise(steps):
                for copy in range(2):
                    for shown in (before.teams[0].obs[copy], step.teams[0].next_obs[copy]):
                        for agent in range(3):
                            reached[float(shown[agent, 0])] = whose, copy, agent, episode[copy]
                episode += step.started
    generator = torch.Generator().manual_seed(0)
    new = 0
    for _ in range(20):
        sample = replay.sample(replay.places(16, 1, generator), 1, 1, 0.9, None, generator)
        for b, n in torch.nonzero(sample.complete[0]).tolist():
            achieved, desired = sample.obs[0, b, n, :2].tolist()
            if desired in reached:
                new += 1
                assert reached[desired] == reached[achieved]
    assert new > 100


# --- faults, saving, refusals -----------------------------------------------------------------------------------------


def test_a_lost_actor_is_replaced_and_what_it_began_is_thrown_away(pretend):  # noqa: F811
    with marl.compiled.use("off"), asynchronous(DQN, world) as system:
        system.train(steps=4 * BURST)
        pretend.handles[1].dead = True
        system.train(steps=4 * BURST)
        counts = system.training.asynchronous
        assert counts["learned"] == system.steps == system.learners[0].memory.seen_steps == 8 * BURST
        assert counts["discarded"] == 2 * ROWS * 2
        assert system.faults == {"killed": 1, "lost_episodes": 2}


def test_a_saved_replay_goes_on_with_as_many_actors_and_is_filled_anew_without(pretend, tmp_path, caplog):  # noqa: F811
    with marl.compiled.use("off"):
        with asynchronous(DQN, world) as system:
            system.train(steps=4 * BURST)
            system.save(tmp_path / "saved")
        for actors in (system.environments.actors, None):
            with marl.MultiAgentSystem.load(tmp_path / "saved", env=world) as again:
                assert_equal_trees(modules(again), modules(system))
                again.environments.actors = actors
                caplog.clear()
                again.train(steps=4 * BURST)
                assert again.steps == 8 * BURST
                assert again.learners[0].memory.seen_steps == (8 * BURST if actors else 4 * BURST)
                assert ("filled anew" in caplog.text) == (actors is None)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"agents": dataclasses.replace(DQN, overlap=True)}, "overlap=True"),
        ({"agents": dataclasses.replace(DQN, exploration=marl.exploration.BoltzmannGumbel())}, "BoltzmannGumbel"),
        ({"agents": RECORDS(memory=Recording(rows=3))}, "memory= of your own"),
        ({"agents": dataclasses.replace(DQN, channel=marl.CommNet())}, "channel="),
        ({"agents": {"agent_0": marl.impala(), "agent_*": DQN}}, "give the teams PPO and A2C, or DQN"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(how, said):
    with pytest.raises(ConfigError, match=said) as error:
        asynchronous(env=world, **how)
    assert "\n" not in str(error.value)


def test_on_a_cluster_actors_fill_a_replay_and_a_killed_one_is_replaced():
    """All of it once, with processes."""
    pytest.importorskip("ray")
    with marl.compiled.use("off"), joined(LOCAL, cpus=2):
        with asynchronous(LEARNERS["dqn"][0], world, staleness=1) as system:
            system.train(steps=3 * BURST)
            pids = system.environments.training.pids
            os.kill(pids[1], signal.SIGKILL)
            system.train(steps=3 * BURST)
            pids += system.environments.training.pids
            counts = system.training.asynchronous
            assert system.faults["killed"] == 1
            assert counts["learned"] == system.steps == system.learners[0].memory.seen_steps == 6 * BURST
        assert counts["begun"] == counts["learned"] + counts["discarded"]
        wait_until(lambda: all(gone(pid) for pid in pids))

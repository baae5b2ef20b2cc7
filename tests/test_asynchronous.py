"""Actors that hold the policy: in lockstep they are one process; apart, every step is learnt from once or counted."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import marl
from marl.cluster import LOCAL, joined
from marl.memory.fragments import fill, packed
from marl.training.critic_memory import CriticMemory
from marl.training.loop import advance
from marl.types import ConfigError, EnvContractError, ResourceError
from tests.support import pretend as small
from tests.support.commands import SCENARIO, gone, marl_command, wait_until  # noqa: F401
from tests.support.equality import assert_equal_trees
from tests.support.pretend import COPIES, pretend  # noqa: F401
from tests.support.tiny import Acting, Team

ROWS = 8
SMALL = {"rollout": ROWS, "network": marl.MLP((8,))}
A2C = marl.A2C(**SMALL, correction=marl.VTrace())
PPO = marl.PPO(**SMALL, minibatches=2, epochs=2, correction=marl.VTrace())
world = partial(Team, length=5, die=(3, 7, None))
drawing = partial(Acting, Box(-1, 1, (2,)), length=5)
LEARNERS = {
    "a2c": (A2C, world),
    "ppo": (dataclasses.replace(PPO, correction=None), world),
    "appo": (dataclasses.replace(PPO, normalize_obs=True, normalize_values=True), world),
    "gaussian": (dataclasses.replace(PPO, sharing="none"), drawing),
    "mappo": (dataclasses.replace(PPO, critic=marl.Joint()), world),
    "gru": (dataclasses.replace(A2C, network=marl.GRU(8), critic=marl.Joint()), world),
    "trunk": (dataclasses.replace(A2C, shared_trunk=True), world),
    "teams": ({"agent_0": PPO, "agent_*": A2C}, world),
}


def made(agents=A2C, env=world, **how):
    return small.made(agents, env, **how)


def asynchronous(agents=A2C, env=world, **how):
    return small.asynchronous(agents, env, **how)


def trained(system, updates=4):
    with system:
        system.train(steps=updates * ROWS * COPIES, log_every=ROWS * COPIES)
    return system


def parameters(system):
    return [
        {name: x for name, x in learner.model.state_dict().items() if "carry" not in name}
        for learner in system.learners
    ]


@pytest.mark.parametrize("name", LEARNERS)
def test_in_lockstep_two_actors_are_one_process(name, pretend):  # noqa: F811
    agents, env = LEARNERS[name]
    with marl.compiled.use("off"):
        here, there = trained(made(agents, env)), trained(asynchronous(agents, env, staleness=0))
    # What a network says of a row depends in its last bits on how many rows there are.
    torch.testing.assert_close(parameters(there), parameters(here), rtol=1e-5, atol=1e-6)
    assert there.history.episodes == here.history.episodes
    assert [learner.generator.get_state().tolist() for learner in there.learners] == [
        learner.generator.get_state().tolist() for learner in here.learners
    ]
    assert there.history["staleness_max"][-1] == 0


@pytest.mark.parametrize("name", ["appo", "gru"])
def test_in_lockstep_one_actor_is_one_process_bit_for_bit(name, pretend):  # noqa: F811
    agents, env = LEARNERS[name]
    with marl.compiled.use("off"):
        here, there = trained(made(agents, env)), trained(asynchronous(agents, env, actors=1, staleness=0))
    assert_equal_trees(parameters(there), parameters(here))
    assert there.history.episodes == here.history.episodes


def test_one_actor_that_is_one_update_behind_is_a_lag_of_one(pretend):  # noqa: F811
    with marl.compiled.use("off"):
        here = trained(made(dataclasses.replace(A2C, lag=1)), updates=6)
        there = trained(asynchronous(actors=1, staleness=1), updates=6)
    assert_equal_trees(parameters(there), parameters(here))
    assert there.history["staleness"] == [0, 1, 1, 1, 1, 1]
    assert there.history["discarded_steps"][-1] == 0


def test_the_same_run_twice_is_the_same_run(pretend):  # noqa: F811
    pretend.takes = {0: 1.0, 1: 2.5}
    with marl.compiled.use("off"):
        first = trained(asynchronous())
        pretend.now = 0.0
        second = trained(asynchronous())
    assert_equal_trees(parameters(first), parameters(second))


@pytest.mark.parametrize("staleness", [1, 30])
def test_a_slow_actor_holds_nobody_up_and_every_step_is_counted_once(staleness, pretend):  # noqa: F811
    """Of the time in which two equal actors give 1 + 1 rollouts, one of which is 10 times slower, they give 1.1."""
    pretend.takes, updates = {0: 1.0, 1: 10.0}, 25
    with marl.compiled.use("off"), asynchronous(staleness=staleness) as system:
        system.train(steps=updates * ROWS * COPIES, log_every=ROWS * COPIES)
        counts, fleet = system.training.asynchronous, system.training.environments.training
        assert system.steps == counts["learned"] == updates * ROWS * COPIES
        on_way = [one for one in fleet._asked if one.version is not None]
        assert counts["begun"] == counts["learned"] + counts["discarded"] + len(on_way) * fleet.steps
        begun = sum(handle.calls for handle in pretend.handles) * fleet.steps
        assert counts["begun"] == begun
        stale = system.history["staleness_max"]
        assert max(stale) <= staleness
        # Rollouts learnt from, over those that both would have given.
        assert counts["learned"] / fleet.steps >= 0.9 * 1.1 * pretend.now
        if staleness == 30:
            assert counts["discarded"] == 0
            assert max(stale) > 2
        else:
            assert counts["discarded"] > 0
    assert counts["begun"] == counts["learned"] + counts["discarded"]  # closed: nothing is on its way


def test_no_actor_has_more_than_two_rollouts_on_its_way(pretend):  # noqa: F811
    pretend.takes = {0: 1.0, 1: 100.0}
    with marl.compiled.use("off"), asynchronous(staleness=30) as system:
        system.train(steps=10 * ROWS * COPIES)
        # With the 20th of the fast one there is enough to learn from, and one more is under way.
        assert [handle.calls for handle in pretend.handles] == [21, 2]


def test_a_lost_actor_is_replaced_with_new_episodes_and_what_it_began_is_thrown_away(pretend, caplog):  # noqa: F811
    with marl.compiled.use("off"), asynchronous() as system:
        system.train(steps=4 * ROWS * COPIES)
        pretend.handles[1].dead = True
        system.train(steps=4 * ROWS * COPIES)
        counts = system.training.asynchronous
        assert counts["learned"] == system.steps == 8 * ROWS * COPIES
        assert counts["discarded"] == 2 * ROWS * 2
        assert len(pretend.handles) == 3
        assert system.faults == {"killed": 1, "lost_episodes": 2}
        assert system.environments.training.pids[1] != 0
        seeds = [handle.inner._state.env_seed for handle in pretend.handles]
        assert seeds[0] == seeds[1] != seeds[2]
    assert "ray actor 1 (copies 2 to 3) is replaced" in caplog.text


def test_an_actor_that_does_not_live_ends_the_run(pretend):  # noqa: F811
    with marl.compiled.use("off"), asynchronous() as system:
        system.train(steps=ROWS * COPIES)
        begin = system.environments.training._start

        def start(actor):
            begin(actor)
            actor.handle.dead = True

        system.environments.training._start = start
        pretend.handles[1].dead = True
        with pytest.raises(ResourceError, match=r"ray actor 1 .* 4 times in a row"):
            system.train(steps=20 * ROWS * COPIES)


def test_a_breach_of_the_contract_ends_the_run_with_the_environments_words(pretend):  # noqa: F811
    class Wild(Team):
        def step(self, actions):
            seen, *rest = super().step(actions)
            return {agent: np.full_like(x, np.nan) for agent, x in seen.items()}, *rest

    with asynchronous(env=Wild) as system, pytest.raises(EnvContractError, match=r"nan|finite"):
        system.train(steps=4 * ROWS * COPIES)


def test_a_saved_run_goes_on_with_actors_and_without(pretend, tmp_path, caplog):  # noqa: F811
    with marl.compiled.use("off"):
        with asynchronous() as system:
            system.train(steps=4 * ROWS * COPIES)
            counts = dict(system.training.asynchronous)
            system.save(tmp_path / "saved")
        for actors in (None, system.environments.actors):
            with marl.MultiAgentSystem.load(tmp_path / "saved", env=world) as again:
                assert_equal_trees(parameters(again), parameters(system))
                again.environments.actors = actors
                caplog.clear()
                with caplog.at_level(logging.WARNING, "marl.training"):
                    again.train(steps=4 * ROWS * COPIES)
                assert again.steps == 8 * ROWS * COPIES
                told = "actors begin new episodes" in caplog.text
                assert told == (actors is not None)
        now = again.training.asynchronous
        assert (now["version"], now["learned"]) == (8, again.steps)
        assert now["discarded"] >= counts["begun"] - counts["learned"]


def test_a_critic_remembers_each_actors_copies_even_where_one_sends_twice():
    """The copies of two rollouts of one actor, one after the other: as if one process had played twice as long."""
    agents = dataclasses.replace(A2C, network=marl.GRU(8), critic=marl.Joint())

    with marl.compiled.use("off"), made(agents, num_envs=2) as source, made(agents, num_envs=4) as both:
        (learner,), (learner_of_both,) = source.learners, both.learners
        learner_of_both.model.load_state_dict(
            {**learner.model.state_dict(), "critic_carry": learner_of_both.model.critic_carry}
        )
        fragments = []
        state = source.training
        env = state.open()
        for _ in range(2):
            while not learner.memory.full:
                advance(state, env)
            found = packed(learner.memory)
            fragments.append({**found, "arrays": {name: x.copy() for name, x in found["arrays"].items()}})
            learner.model.prepare(learner.memory, 0.99, 0.95, None)  # which moves the critic's carry on
            learner.memory.restart()
            if len(fragments) == 1:
                wanted = learner.model.critic_carry.clone()
        fill(learner_of_both.memory, fragments)
        CriticMemory(learner_of_both).go_on([1, 1])
        carry = learner_of_both.model.critic_carry
        assert not carry[:2].any()
        torch.testing.assert_close(carry[2:], wanted)
        assert wanted.any()


def test_a_rollout_of_another_shape_is_refused():
    with made() as system, made(num_envs=2) as other:
        fragment = packed(other.learners[0].memory)
        with pytest.raises(ValueError, match="rollout: obs: expected"):
            fill(system.learners[0].memory, [fragment])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"agents": dataclasses.replace(A2C, correction=None)}, "correction=marl.VTrace"),
        ({"agents": dataclasses.replace(A2C, lag=2)}, "lag=2"),
        ({"agents": dataclasses.replace(A2C, channel=marl.CommNet())}, "channel="),
        ({"agents": {"agent_0": A2C, "agent_*": dataclasses.replace(A2C, rollout=4)}}, "one rollout="),
        ({"league": marl.League()}, "league="),
        ({"num_envs": 3}, "do not divide among 2 actors; set num_envs="),
        ({"env": Team(), "num_envs": 1, "actors": 1}, "a function that makes the environment"),
        ({"staleness": -1}, "staleness"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(how, said):
    with pytest.raises(ConfigError, match=said) as error:
        asynchronous(**how)
    assert "\n" not in str(error.value)


def test_staleness_needs_a_cluster():
    with pytest.raises(ConfigError, match="ray='auto' and actors=2"):
        made(staleness=1)


def test_callbacks_are_told_of_updates_and_of_episodes(pretend):  # noqa: F811
    class Told(marl.callbacks.Callback):
        updates, episodes = 0, 0

        def on_update_end(self, training, team, metrics):
            self.updates += 1

        def on_episode_end(self, training, episode):
            self.episodes += 1

    told = Told()
    with asynchronous() as system:
        system.train(steps=3 * ROWS * COPIES, callbacks=[told])
    assert (told.updates, told.episodes) == (3, system.episodes)
    assert told.episodes > 0


def test_the_command_line_trains_with_actors_and_goes_on_without(pretend, tmp_path, caplog, marl_command):  # noqa: F811
    (tmp_path / "tiny.py").write_text(SCENARIO)
    run = tmp_path / "run"
    words = ("train", tmp_path / "tiny.py", "--run-dir", run, "--no-evaluate", "--json", "--quiet")
    said = marl_command(*words, "--steps", 128, "--ray", "auto", "--actors", 2, "--staleness", 0)
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out)["status"] == "finished"
    assert len(pretend.handles) == 2
    said = marl_command(*words, "--steps", 192, "--resume")
    assert said.code == 0
    assert len(pretend.handles) == 2  # a run folder leads nobody to a cluster
    said = marl_command(*words, "--steps", 256, "--resume", "--ray", "auto", "--actors", 2, "--staleness", 0)
    assert (said.code, json.loads(said.out)["steps"]) == (0, 256)
    assert "actors begin new episodes" in caplog.text
    assert len(pretend.handles) == 4


def test_the_option_needs_a_cluster(tmp_path, marl_command):  # noqa: F811
    said = marl_command("train", "CartPole-v1", "--run-dir", tmp_path / "run", "--staleness", 1)
    assert (said.code, said.out) == (2, "")
    assert "--staleness: of whose rollouts" in said.error


def test_on_a_cluster_a_killed_actor_is_replaced_and_none_stays_behind():
    """All of it once, with processes."""
    pytest.importorskip("ray")
    with marl.compiled.use("off"), joined(LOCAL, cpus=2):
        here = trained(made(), updates=3)
        with asynchronous(staleness=0) as system:
            system.train(steps=3 * ROWS * COPIES)
            torch.testing.assert_close(parameters(system), parameters(here), rtol=1e-5, atol=1e-6)
            pids = system.environments.training.pids
            os.kill(pids[1], signal.SIGKILL)
            system.train(steps=3 * ROWS * COPIES)
            pids += system.environments.training.pids
            counts = system.training.asynchronous
            assert system.faults == {"killed": 1, "lost_episodes": 2}
            assert counts["learned"] == system.steps == 6 * ROWS * COPIES
            assert counts["begun"] - counts["learned"] == counts["discarded"] == ROWS * 2
        wait_until(lambda: all(gone(pid) for pid in pids))

"""A run that is stopped anywhere and goes on logs, and remembers, what the run that never stopped does."""

from __future__ import annotations

import random

import numpy as np
import pytest

import marl
from marl.curriculum import Stage, Stages, Steps
from tests.support.equality import assert_equal_trees
from tests.support.tiny import Hear, Team, Turns

CLOCKS = ("steps_per_second",)
STEPS, LOG_EVERY = 256, 32
PPO = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((8,)))
SIDE = {"width": 3, "height": 3, "distance": 1}
LADDER = Stages([Stage(SIDE, Steps(at_least=90)), Stage(SIDE | {"distance": 2})])


def talking(channel, **options):
    return marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1, channel=channel), Team, num_envs=2, **options)


SYSTEMS = {
    "commnet": lambda: talking(marl.CommNet(size=3)),
    "commnet, two workers": lambda: talking(marl.CommNet(size=3), workers=2),
    "ic3net": lambda: talking(marl.IC3Net(size=3)),
    "tarmac over a lossy link": lambda: talking(marl.TarMAC(link=marl.Link(loss=0.3, delay=1))),
    "words": lambda: marl.MultiAgentSystem(PPO, Hear, num_envs=2, channel=marl.Spoken(words=3)),
    "words of a world": lambda: marl.MultiAgentSystem(PPO, "marl/speaker_listener-v0", num_envs=2),
    "curriculum": lambda: marl.MultiAgentSystem(
        PPO, "marl/gridworld-v0", env_kwargs=SIDE | {"max_cycles": 6}, num_envs=2, curriculum=LADDER
    ),
    "league": lambda: marl.MultiAgentSystem(
        PPO, Turns, num_envs=2, league=marl.League(between="agents", snapshot_every=50, opponents=(marl.Random(),))
    ),
    "psro": lambda: marl.MultiAgentSystem(
        PPO, Turns, num_envs=2, league=marl.PSRO(between="agents", response_steps=100, games=4)
    ),
    "psro of a team that is heard": lambda: marl.MultiAgentSystem(
        {"agent_0": PPO, "agent_*": PPO},
        Hear,
        num_envs=2,
        channel=marl.Spoken(words=3),
        league=marl.PSRO(response_steps=100, games=4),
    ),
    "replay": lambda: marl.MultiAgentSystem(
        marl.iql(learning_starts=16, batch=8, buffer=400, network=marl.MLP((8,)), channel=marl.DIAL(size=2)),
        Team,
        num_envs=2,
    ),
}


class Saves:
    """Keeps the rows that are logged, and saves at some steps."""

    def __init__(self, folder, steps=()):
        self.folder, self.steps, self.rows = folder, steps, []

    def log(self, metrics):
        self.rows.append({name: value for name, value in metrics.items() if name not in CLOCKS})

    def tick(self, system):
        if system.steps in self.steps:
            system.save(self.folder / str(system.steps))
        return False


def remembered(system):
    """Everything that a checkpoint would hold, but for clocks."""
    state = system.state_dict()
    state["history"] = {name: values for name, values in state["history"].items() if name not in CLOCKS}
    return state


@pytest.mark.parametrize("name", SYSTEMS)
def test_stopping_anywhere_changes_neither_metrics_nor_history_nor_state(name, tmp_path):
    make = SYSTEMS[name]
    stops = sorted(2 * k for k in random.Random(name).sample(range(1, STEPS // 2), 3))
    with make() as system:
        unbroken = Saves(tmp_path, stops)
        system.train(steps=STEPS, log_every=LOG_EVERY, watcher=unbroken)
        expected = remembered(system)
        workers, env = system.workers, system.environments.world
    for stop in stops:
        with marl.MultiAgentSystem.load(tmp_path / str(stop), env=env) as system:
            assert system.workers == workers
            resumed = Saves(tmp_path)
            system.train(steps=STEPS - stop, log_every=LOG_EVERY, watcher=resumed)
            rows = [row for row in unbroken.rows if row["steps"] <= stop] + resumed.rows
            assert str(rows) == str(unbroken.rows)  # as text, so that NaN equals itself
            assert_equal_trees(remembered(system), expected)


def test_what_was_overheard_is_logged_although_the_run_stopped_in_between(tmp_path):
    with talking(marl.CommNet(size=3)) as system:
        system.train(steps=32, log_every=1_000)
        system.train(steps=40, log_every=1_000, watcher=(unbroken := Saves(tmp_path, (50,))))
    with marl.MultiAgentSystem.load(tmp_path / "50", env=Team) as system:
        system.train(steps=22, log_every=1_000, watcher=(resumed := Saves(tmp_path)))
    names = [name for name in unbroken.rows[-1] if name.startswith("messages/")]
    assert len(names) == 4
    assert [resumed.rows[-1][name] for name in names] == [unbroken.rows[-1][name] for name in names]
    assert not np.isnan([resumed.rows[-1][name] for name in names]).any()

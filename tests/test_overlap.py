"""Updates while the environment steps: the same numbers wherever it steps, and both at once where it can."""

import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import marl
from marl import adapters
from tests.support.tiny import Team


def weights(system):
    return {
        f"{place}.{name}.{key}": value
        for place, learner in enumerate(system.learners)
        for name, module in learner.modules().items()
        for key, value in module.state_dict().items()
    }


def trained(config, workers, steps=160, **kwargs):
    with marl.MultiAgentSystem(config, Team, num_envs=4, seed=3, workers=workers, **kwargs) as system:
        system.train(steps=steps)
        return system, {key: value.clone() for key, value in weights(system).items()}


CONFIGS = [
    marl.vdn(overlap=True, learning_starts=20, batch=8, updates_per_step=0.25),
    marl.masac(overlap=True, learning_starts=20, batch=8, updates_per_step=0.25),
    marl.iql(overlap=True, learning_starts=20, batch=8, updates_per_step=0.25, prioritized=marl.memory.Prioritized()),
    marl.iql(overlap=True, learning_starts=20, batch=4, updates_per_step=0.25, network=marl.GRU(6), sequence=5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["vdn", "masac", "prioritized", "gru"])
def test_results_do_not_depend_on_where_the_environment_steps(config):
    (here, one), (_, other) = trained(config, 0), trained(config, 2)
    assert (
        here.learners[0].experience.updates == (160 - 4 - 20) // 4
    )  # the last step is not seen yet when updates are made
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_that_overlaps_goes_on_bit_for_bit(tmp_path):
    _, straight = trained(CONFIGS[1], 0, steps=240)
    with marl.MultiAgentSystem(CONFIGS[1], Team, num_envs=4, seed=3) as system:
        system.train(steps=120)
        system.save(tmp_path / "half")
    with marl.MultiAgentSystem.load(tmp_path / "half", env=Team) as system:
        system.train(steps=120)
        resumed = weights(system)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_a_team_that_learns_afterwards_is_as_ever():
    config = {"agent_0": marl.iql(overlap=True, learning_starts=20, batch=8), "agent_*": marl.ippo(rollout=8)}
    with marl.MultiAgentSystem(config, Team, num_envs=4, seed=3, workers=2) as system:
        system.train(steps=160)
    assert system.history["agent_0/loss"]
    assert system.history["agent/policy_loss"]


class Awaited(gymnasium.Env):
    """Says when a step begins and ends; once there is a ``gate``, a step ends only when something was learnt in it."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder):
        self.folder, self.time = Path(folder), 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, dtype=np.float32), {}

    def step(self, action):
        self.time += 1
        (self.folder / f"begun-{self.time}").touch()
        if (self.folder / "gate").exists():
            wait_for(self.folder / f"learnt-{self.time}")
        (self.folder / f"ended-{self.time}").touch()
        return np.zeros(3, dtype=np.float32), 0.0, False, False, {}


def wait_for(path):
    until = time.monotonic() + 600  # a deadlock; the worker's own deadline is later
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} does not come"
        time.sleep(0.002)


@pytest.mark.parametrize("overlap", [False, True])
def test_stepping_and_learning_take_place_at_once_where_they_may(overlap, tmp_path, monkeypatch):
    monkeypatch.setitem(adapters.make.__kwdefaults__, "deadline", 1200.0)
    config = marl.DQN(overlap=overlap, learning_starts=4, batch=4, updates_per_step=1)
    options = {"env_kwargs": {"folder": str(tmp_path)}, "max_steps": 50, "seed": 0}
    with marl.MultiAgentSystem(config, Awaited, num_envs=1, workers=1, **options) as system:
        learner, learnt = system.learners[0], []
        learn = learner.learn

        def learning(sample):
            step = len(list(tmp_path.glob("ended-*"))) + overlap
            wait_for(tmp_path / f"begun-{step}")
            learnt.append(step)
            (tmp_path / f"learnt-{step}").touch()
            return learn(sample)

        system.train(steps=8)
        learner.learn = learning
        if overlap:
            (tmp_path / "gate").touch()
        system.train(steps=5)
    assert learnt == [9, 10, 11, 12, 13]
    assert len(list(tmp_path.glob("begun-*"))) == 13

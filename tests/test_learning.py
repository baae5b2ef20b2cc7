"""Learning on games so small that the best result is known: seconds each, every recipe, several seeds."""

from __future__ import annotations

import statistics
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from marl_scenarios.cartpole import scenario as cartpole
from pettingzoo import AECEnv, ParallelEnv

import marl

RECIPES = {"ippo": marl.ippo, "mappo": marl.mappo, "ia2c": marl.ia2c, "maa2c": marl.maa2c}


class Recall(ParallelEnv):
    """Each of two agents sees a cue of its own, then ``delay`` blanks; both are paid the share that names theirs.

    Optimum 1 for each agent. Without memory and with a delay, nothing beats 0.5.
    """

    metadata: ClassVar = {"name": "recall_v0", "render_modes": []}
    render_mode = None

    def __init__(self, delay: int = 0) -> None:
        self.delay = delay
        self.possible_agents = ["agent_0", "agent_1"]

    def observation_space(self, agent):
        return Box(-1, 1, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def _look(self):
        last = float(self.time == self.delay)
        return {a: np.array([self.cue[a] if self.time == 0 else 0, last], np.float32) for a in self.possible_agents}

    def reset(self, seed=None, options=None):
        if seed is not None or not hasattr(self, "random"):
            self.random = np.random.default_rng(seed)
        self.agents, self.time = list(self.possible_agents), 0
        self.cue = {a: int(self.random.integers(2)) * 2 - 1 for a in self.agents}
        return self._look(), {a: {} for a in self.agents}

    def step(self, actions):
        agents, over = self.agents, self.time == self.delay
        right = sum(actions[a] == (self.cue[a] > 0) for a in agents) / len(agents) if over else 0.0
        self.time += 1
        if over:
            self.agents = []
        flags = dict.fromkeys(agents, over)
        return (
            self._look(),
            dict.fromkeys(agents, float(right)),
            flags,
            dict.fromkeys(agents, False),
            {a: {} for a in agents},
        )


class Matrix(ParallelEnv):
    """A matrix game for two: ``pay[i][j]`` is the row player's pay, ``pay[j][i]`` the column player's. One step."""

    metadata: ClassVar = {"name": "matrix_v0", "render_modes": []}
    render_mode = None

    def __init__(self, pay) -> None:
        self.pay = np.asarray(pay, dtype=float)
        self.possible_agents = ["row", "column"]

    def observation_space(self, agent):
        return Box(0, 1, (1,), np.float32)

    def action_space(self, agent):
        return Discrete(len(self.pay))

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {a: np.ones(1, np.float32) for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions):
        i, j = actions["row"], actions["column"]
        self.agents = []
        both = self.possible_agents
        rewards = {"row": float(self.pay[i, j]), "column": float(self.pay[j, i])}
        look = {a: np.ones(1, np.float32) for a in both}
        return look, rewards, dict.fromkeys(both, True), dict.fromkeys(both, False), {a: {} for a in both}


class Ring(gymnasium.Env):
    """Walk round ``length`` places; every step pays 1; back at the start one is cut off, or terminates."""

    action_space = Discrete(2)

    def __init__(self, length: int = 5, terminal: bool = False) -> None:
        self.length, self.terminal = length, terminal
        self.observation_space = Box(0, 1, (length,), np.float32)

    def _look(self):
        return np.eye(self.length, dtype=np.float32)[self.place % self.length]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self._look(), {}

    def step(self, action):
        self.place += 1
        over = self.place == self.length
        return self._look(), 1.0, over and self.terminal, over and not self.terminal, {}


class Aim(gymnasium.Env):
    """Name three times the number you see, in one step: ``-(a - 3 x)^2``. Optimum 0; always answering 0 gives -3."""

    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-4, 4, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x, {}

    def step(self, action):
        return self.x, -float((action[0] - 3 * self.x[0]) ** 2), True, False, {}


class Nim(AECEnv):
    """Take one, two or three of six sticks in turn; who takes the last one wins. The first player can force it."""

    metadata: ClassVar = {"name": "nim_v0", "is_parallelizable": False, "render_modes": []}
    render_mode = None
    sticks = 6

    def __init__(self) -> None:
        self.possible_agents = ["player_0", "player_1"]

    def observation_space(self, agent):
        return Dict({"observation": Box(0, 1, (self.sticks + 1,), np.float32), "action_mask": Box(0, 1, (3,), np.int8)})

    def action_space(self, agent):
        return Discrete(3)

    def observe(self, agent):
        mask = np.array([take <= max(self.left, 1) for take in (1, 2, 3)], dtype=np.int8)
        return {"observation": np.eye(self.sticks + 1, dtype=np.float32)[self.left], "action_mask": mask}

    def reset(self, seed=None, options=None):
        self.agents, self.left = list(self.possible_agents), self.sticks
        self.rewards, self._cumulative_rewards = ({a: 0.0 for a in self.agents} for _ in range(2))
        self.terminations, self.truncations = ({a: False for a in self.agents} for _ in range(2))
        self.infos = {a: {} for a in self.agents}
        self.agent_selection = self.agents[0]

    def step(self, action):
        mover = self.agent_selection
        if self.terminations[mover]:
            self._was_dead_step(action)
            return
        assert action + 1 <= self.left, "an illegal move"
        self._cumulative_rewards[mover] = 0.0
        other = self.possible_agents[1 - self.possible_agents.index(mover)]
        self.left -= action + 1
        over = self.left == 0
        self.rewards = {mover: float(over), other: -float(over)}
        self.terminations = dict.fromkeys(self.agents, over)
        self.agent_selection = other
        self._accumulate_rewards()


def settings(recipe, **more):
    """Quick settings for games of a few steps."""
    common = {"lr": 1e-2, "network": marl.MLP((32,)), "rollout": 16}
    if recipe in (marl.ippo, marl.mappo, marl.appo):
        common |= {"minibatches": 2, "entropy": 0.01}
    return recipe(**(common | more))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("sharing", ["all", "none"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_finds_the_optimum_of_a_cooperative_game(recipe, sharing, seed):
    with marl.MultiAgentSystem(settings(recipe, sharing=sharing), Recall, num_envs=16, seed=seed) as system:
        system.train(steps=6_000)
        assert system.evaluate(64).mean_return == 2.0


@pytest.mark.parametrize("recipe", [marl.impala, marl.appo], ids=["impala", "appo"])
@pytest.mark.parametrize("lag", [0, 2])
def test_so_do_those_that_correct_for_an_older_policy(recipe, lag):
    with marl.MultiAgentSystem(settings(recipe, lag=lag), Recall, num_envs=16, seed=0) as system:
        system.train(steps=6_000)
        assert system.evaluate(64).mean_return == 2.0


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_remembers_with_a_gru(recipe, seed):
    agents = settings(recipe, network=marl.GRU(16), discount=0.95, gae_lambda=0.95)
    with marl.MultiAgentSystem(agents, Recall, env_kwargs={"delay": 2}, num_envs=32, seed=seed) as system:
        system.train(steps=24_000, stop=marl.MeanReturn(at_least=1.96, over=200))
        assert system.evaluate(64).mean_return >= 1.9
        assert system.evaluate(16, decentralized=True).mean_return >= 1.9


def test_without_memory_a_cue_of_the_past_is_out_of_reach():
    with marl.MultiAgentSystem(settings(marl.mappo), Recall, env_kwargs={"delay": 2}, num_envs=16, seed=0) as system:
        system.train(steps=6_000)
        assert system.evaluate(400).mean_return == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("credit", "choice"), [(marl.Independent(), 1), (marl.TeamReward(), 0)], ids=["own", "team"])
def test_prisoners_defect_for_themselves_and_cooperate_for_the_team(credit, choice, seed):
    dilemma = [[3, 0], [5, 1]]  # cooperate is 0, defect is 1
    agents = settings(marl.ippo, credit=credit, sharing="none")
    with marl.MultiAgentSystem(agents, Matrix, env_kwargs={"pay": dilemma}, num_envs=16, seed=seed) as system:
        system.train(steps=4_000)
        assert system.evaluate(4).mean_return == 2 * dilemma[choice][choice]


@pytest.mark.parametrize("seed", [0, 1])
def test_two_learners_meet_in_one_game(seed):
    coordination = [[0, 0, 0], [0, 4, 0], [0, 0, 1]]
    agents = {"row": settings(marl.ia2c, entropy=0.01), "column": settings(marl.ippo)}
    with marl.MultiAgentSystem(agents, Matrix, env_kwargs={"pay": coordination}, num_envs=16, seed=seed) as system:
        system.train(steps=6_000)
        report = system.evaluate(4)
        assert report.teams["row"].mean_return == report.teams["column"].mean_return == 4.0


@pytest.mark.parametrize("terminal", [False, True], ids=["truncated", "terminated"])
@pytest.mark.parametrize("recipe", [marl.ippo, marl.ia2c], ids=["ippo", "ia2c"])
@pytest.mark.parametrize("normalize_values", [False, True])
def test_values_go_on_past_a_truncation_and_stop_at_a_termination(recipe, terminal, normalize_values):
    discount, length = 0.75, 5
    rollout = 5 if recipe is marl.ia2c else 20  # A2C takes one step on each
    agents = settings(recipe, rollout=rollout, discount=discount, gae_lambda=0.9, normalize_values=normalize_values)
    with marl.MultiAgentSystem(agents, Ring, env_kwargs={"length": length, "terminal": terminal}, num_envs=8) as system:
        system.train(steps=8_000)
        learner = system.learners[0]
        obs = torch.eye(length).view(1, length, 1, length)
        rows = torch.zeros(1, length, dtype=torch.bool)
        with torch.no_grad():
            value, _ = learner.model.critic(obs, torch.zeros(length, 1, 0), rows, ~rows.unsqueeze(-1))
            value = learner.model._denormalize(value.squeeze(-1))
    left = np.arange(length, 0, -1)
    expected = (1 - discount**left) / (1 - discount) if terminal else np.full(length, 1 / (1 - discount))
    np.testing.assert_allclose(value.flatten().numpy(), expected, atol=0.25)


@pytest.mark.parametrize("squash", [False, True], ids=["clipped", "squashed"])
def test_a_continuous_action_finds_its_aim(squash):
    agents = settings(marl.PPO, squash=squash, lr=5e-3, epochs=8)
    with marl.MultiAgentSystem(agents, Aim, num_envs=16, seed=0) as system:
        system.train(steps=8_000)
        assert system.evaluate(100).mean_return > -0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_self_play_solves_nim(seed):
    agents = settings(marl.ippo, agent_id=False, discount=1.0, lr=marl.Linear(1e-2, 1e-3), entropy=0.02)
    with marl.MultiAgentSystem(agents, Nim, num_envs=16, seed=seed) as system:
        system.train(steps=10_000)
        report = system.evaluate(4)
        assert report.returns_per_agent == {"player_0": 1.0, "player_1": -1.0}


def test_ppo_balances_a_pole():
    found = []
    for seed in range(3):  # one seed depends on the last bits of sums, which differ from processor to processor
        with marl.MultiAgentSystem(cartpole.agents, "CartPole-v1", num_envs=8, seed=seed) as system:
            system.train(steps=30_000)
            found.append(system.evaluate(20).mean_return)
    assert statistics.median(found) >= 475, found  # of 500; Gymnasium calls that solved

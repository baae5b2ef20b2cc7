"""Small worlds with known answers, for tests."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import AECEnv, ParallelEnv

from marl.spaces import team_spec
from marl.types import Spec


class Team(ParallelEnv):
    """Agents see random vectors, are paid for choosing the sign of their first number; episodes last ``length`` steps.

    widths: observation width of each agent; choices: number of actions of each. ``die``: step after which each agent
    terminates (None: lives to the end); the end itself is a truncation unless ``terminal``.
    """

    metadata = {"name": "team_v0", "render_modes": []}

    def __init__(self, widths=(3, 3, 3), choices=(2, 2, 2), length=10, die=(), terminal=False, render_mode=None):
        self.possible_agents = [f"agent_{i}" for i in range(len(widths))]
        self.widths, self.length, self.terminal = widths, length, terminal
        self.die = dict(zip(self.possible_agents, die, strict=False))
        self._obs = {a: Box(-1, 1, (w,), np.float32) for a, w in zip(self.possible_agents, widths, strict=True)}
        self._act = {a: Discrete(n) for a, n in zip(self.possible_agents, choices, strict=True)}
        self.render_mode = render_mode

    def observation_space(self, agent):
        return self._obs[agent]

    def action_space(self, agent):
        return self._act[agent]

    def _look(self, agents):
        return {
            a: self.random.uniform(-1, 1, w).astype(np.float32)
            for a, w in zip(self.possible_agents, self.widths, strict=True)
            if a in agents
        }

    def reset(self, seed=None, options=None):
        if seed is not None or not hasattr(self, "random"):
            self.random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.time = 0
        self.seen = self._look(self.agents)
        return dict(self.seen), {a: {} for a in self.agents}

    def step(self, actions):
        agents = list(self.agents)
        rewards = {a: float((self.seen[a][0] > 0) == bool(actions[a])) for a in agents}
        self.time += 1
        over = self.time >= self.length
        terminated = {a: (over and self.terminal) or self.time == self.die.get(a) for a in agents}
        truncated = {a: over and not terminated[a] for a in agents}
        self.seen = self._look(agents)
        self.agents = [a for a in agents if not terminated[a] and not truncated[a]]
        return dict(self.seen), rewards, terminated, truncated, {a: {} for a in agents}

    def state(self):
        return np.concatenate(
            [self.seen.get(a, np.zeros(w, np.float32)) for a, w in zip(self.possible_agents, self.widths, strict=True)]
        )


class Acting(Team):
    """The same with any one space of actions for everybody: the choice is whether an action's first number is above 0.

    ``image``: what is seen are pixels; ``goals``: it comes as Gymnasium's goals do, three parts of the width.
    """

    def __init__(self, space, agents=3, image=False, goals=False, **how):
        super().__init__(widths=(3,) * agents, choices=(2,) * agents, **how)
        self._act = dict.fromkeys(self.possible_agents, space)
        self.image, self.goals = image, goals

    def observation_space(self, agent):
        if self.goals:
            part = Box(-1, 1, (1,), np.float32)
            return Dict({"achieved_goal": part, "desired_goal": part, "observation": part})
        return Box(0, 255, (6, 6, 1), np.uint8) if self.image else super().observation_space(agent)

    def _shown(self, seen):
        if self.goals:
            names = ("achieved_goal", "desired_goal", "observation")
            return {a: dict(zip(names, x[:, None], strict=True)) for a, x in seen.items()}
        if self.image:
            return {a: np.resize(x * 127 + 128, (6, 6, 1)).astype(np.uint8) for a, x in seen.items()}
        return seen

    def reset(self, seed=None, options=None):
        seen, infos = super().reset(seed, options)
        return self._shown(seen), infos

    def step(self, actions):
        seen, *rest = super().step({agent: np.ravel(action)[0] > 0 for agent, action in actions.items()})
        return self._shown(seen), *rest


class Constant(gymnasium.Env):
    """Reward 1 a step, one observation; ends after ``length`` steps by truncation or by termination."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, length=8, terminal=False, sentinel=False):
        self.length, self.terminal, self.sentinel = length, terminal, sentinel

    def _look(self):
        return np.ones(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return (np.full(2, -1, np.float32) if self.sentinel else self._look()), {}

    def step(self, action):
        self.time += 1
        over = self.time >= self.length
        return self._look(), 1.0, over and self.terminal, over and not self.terminal, {}


class Turns(AECEnv):
    """Two players; the first to move wins on its ``moves``-th move: +1 and -1 (or +1 ``together``), both terminate."""

    metadata = {"name": "turns_v0", "is_parallelizable": False, "render_modes": []}

    def __init__(self, moves=3, together=False):
        self.possible_agents = ["player_0", "player_1"]
        self.together = together
        self.moves = moves
        self.observation_spaces = {a: Box(0, 100, (2,), np.float32) for a in self.possible_agents}
        self.action_spaces = {a: Discrete(2) for a in self.possible_agents}

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def observe(self, agent):
        return np.array([self.count, self.possible_agents.index(agent)], dtype=np.float32)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.count = 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {a: {} for a in self.agents}
        self.agent_selection = self.agents[0]

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self.count += 1
        self.rewards = dict.fromkeys(self.agents, 0.0)
        if self.count == 2 * self.moves - 1:
            self.rewards = {"player_0": 1.0, "player_1": 1.0 if self.together else -1.0}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = self.possible_agents[self.count % 2]
        self._accumulate_rewards()


class Single(ParallelEnv):
    """A Gymnasium environment as a PettingZoo one with one agent."""

    metadata = {"name": "single_v0", "render_modes": []}

    def __init__(self, name="CartPole-v1", **kwargs):
        self.inner = gymnasium.make(name, **kwargs)
        self.possible_agents = ["agent_0"]

    def observation_space(self, agent):
        return self.inner.observation_space

    def action_space(self, agent):
        return self.inner.action_space

    def reset(self, seed=None, options=None):
        self.agents = ["agent_0"]
        obs, info = self.inner.reset(seed=seed, options=options)
        return {"agent_0": obs}, {"agent_0": info}

    def step(self, actions):
        obs, reward, terminated, truncated, info = self.inner.step(actions["agent_0"])
        if terminated or truncated:
            self.agents = []
        return tuple({"agent_0": x} for x in (obs, reward, terminated, truncated, info))


def spec_of(
    n: int, width: int = 4, action: Any = None, widths: tuple[int, ...] | None = None, masked: bool = False
) -> Spec:
    """A one-team spec without an environment."""

    widths = widths or (width,) * n
    observations = [Box(-1, 1, (w,), np.float32) for w in widths]
    actions = [action or Discrete(3)] * n
    return Spec("tiny", (team_spec("team", [f"agent_{i}" for i in range(n)], observations, actions, masked),))


class Steer(Team):
    """As Team, with boxes: paid for pointing where the first number does."""

    def __init__(self, **options):
        super().__init__(**options)
        self._act = {agent: Box(-2, 1, (2,), np.float32) for agent in self.possible_agents}

    def step(self, actions):
        return super().step({agent: int(action[0] > 0) for agent, action in actions.items()})


class Hear(Team):
    """Every agent is paid for the sign of the *next* agent's number, which it can only be told."""

    def step(self, actions):
        signs = [self.seen[a][0] > 0 for a in self.possible_agents]
        obs, rewards, *rest = super().step(actions)
        for place, agent in enumerate(self.possible_agents):
            rewards[agent] = float(signs[(place + 1) % len(signs)] == bool(actions[agent]))
        return obs, rewards, *rest


LOOK = Box(-1, 1, (3,), np.float32)


class Wide(ParallelEnv):
    """A narrow and a wide agent; the narrow one is paid for its action, whatever the wide one does."""

    metadata = {"name": "wide_v0", "render_modes": []}
    possible_agents = ["narrow", "wide"]

    def __init__(self, narrow, wide):
        self.spaces = {"narrow": narrow, "wide": wide}

    def observation_space(self, agent):
        return LOOK

    def action_space(self, agent):
        return self.spaces[agent]

    def look(self):
        return {agent: np.zeros(3, np.float32) for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents, self.time = list(self.possible_agents), 0
        return self.look(), {"narrow": {}, "wide": {}}

    def step(self, actions):
        assert all(self.spaces[agent].contains(action) for agent, action in actions.items())
        self.time += 1
        who, over = self.agents, self.time == 5
        self.agents = [] if over else self.agents
        pay = {"narrow": float(np.ravel(actions["narrow"])[0]), "wide": 0.0}
        return self.look(), pay, dict.fromkeys(who, over), dict.fromkeys(who, False), {agent: {} for agent in who}

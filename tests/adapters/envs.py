"""Environments that do exactly what a script says, for testing what the adapters make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from hypothesis import strategies as st
from pettingzoo import AECEnv, ParallelEnv

RESET = 100.0  # what observations show at reset, and never as a successor


class Scripted(ParallelEnv):
    """Parallel; ``script[t]`` says what happens in step ``t + 1``, the last entry repeats.

    Entries: ``die`` (agents terminated), ``cut`` (agents truncated), ``join`` (agents that appear), ``reward`` (agent
    to number), ``change`` (a function of the environment and the five dictionaries). Observations are ``[t, g]``, at
    reset ``[RESET, g]``; ``first`` are the agents present at reset.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "scripted_v0", "render_modes": []}
    render_mode = None

    def __init__(self, script=({},), agents=("a", "b", "c"), first=None, space=None, actions=None, state=True):
        self.script, self.possible_agents = script, list(agents)
        self.first = list(first or agents)
        self.space = space or Box(-1000, 1000, (2,), np.float32)
        self.actions = actions or Discrete(3)
        self.has_state = state
        self.taken: list[dict[str, Any]] = []
        self.seeds: list[int | None] = []
        self.options: list[Any] = []

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.actions

    def look(self, agents, time):
        return {a: np.array([time, self.possible_agents.index(a)], dtype=np.float32) for a in agents}

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        self.options.append(options)
        self.agents, self.time = list(self.first), 0
        return self.look(self.agents, RESET), {a: {} for a in self.agents}

    def step(self, actions):
        self.taken.append(dict(actions))
        entry = self.script[min(self.time, len(self.script) - 1)]
        self.time += 1
        acting = list(self.agents)
        die, cut, join = (list(entry.get(key, ())) for key in ("die", "cut", "join"))
        terminations = {a: a in die for a in acting}
        truncations = {a: a in cut for a in acting}
        self.agents = [a for a in acting if a not in die and a not in cut] + join
        observations = self.look([*acting, *join], self.time)
        rewards = {a: 0.0 for a in acting} | dict(entry.get("reward", {}))
        infos: dict[str, dict[str, Any]] = {a: {} for a in [*acting, *join]}
        answer = (observations, rewards, terminations, truncations, infos)
        if "change" in entry:
            entry["change"](self, *answer)
        return answer

    def state(self):
        if not self.has_state:
            raise NotImplementedError
        return np.array([self.time, len(self.agents)], dtype=np.float32)


class Turns(AECEnv):
    """AEC, the bare minimum by the book: agents move in turn, ``script[t]`` says what the move number ``t + 1`` brings.

    Entries: ``reward`` (agent to number), ``die``, ``cut`` (agents), ``next`` (who moves next). Observations are
    ``[moves made, g]``.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "turns_v0", "render_modes": [], "is_parallelizable": False}

    def __init__(self, script=({},), agents=("a", "b"), first=None, masked=False):
        self.script, self.possible_agents = script, list(agents)
        self.first = list(first or agents)
        self.masked = masked
        self.box = Box(-1000, 1000, (2,), np.float32)

    def observation_space(self, agent):
        if self.masked:
            return gymnasium.spaces.Dict({"observation": self.box, "action_mask": Box(0, 1, (3,), np.int8)})
        return self.box

    def action_space(self, agent):
        return Discrete(3)

    def observe(self, agent):
        seen = np.array([self.moves, self.possible_agents.index(agent)], dtype=np.float32)
        if not self.masked:
            return seen
        mask = np.zeros(3, np.int8)
        if agent == self.agent_selection:
            mask[self.moves % 3] = 1
        return {"observation": seen, "action_mask": mask}

    def reset(self, seed=None, options=None):
        self.agents, self.moves = list(self.first), 0
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {a: {} for a in self.agents}
        self.agent_selection = self.agents[0]

    def step(self, action):
        mover = self.agent_selection
        if self.terminations[mover] or self.truncations[mover]:
            self._was_dead_step(action)
            return
        entry = self.script[min(self.moves, len(self.script) - 1)]
        self.moves += 1
        self._cumulative_rewards[mover] = 0.0
        self._clear_rewards()
        for agent in entry.get("join", ()):
            self.agents.append(agent)
            for table, start in (
                (self.rewards, 0.0),
                (self._cumulative_rewards, 0.0),
                (self.terminations, False),
                (self.truncations, False),
                (self.infos, {}),
            ):
                table[agent] = start  # type: ignore[index]
        self.rewards.update(entry.get("reward", {}))
        for agent in entry.get("die", ()):
            self.terminations[agent] = True
        for agent in entry.get("cut", ()):
            self.truncations[agent] = True
        self._accumulate_rewards()
        after = self.agents.index(mover) + 1
        turns = [
            a for a in self.agents[after:] + self.agents[:after] if not (self.terminations[a] or self.truncations[a])
        ]
        self.agent_selection = entry.get("next", turns[0] if turns else self.agents[0])
        self._deads_step_first()


class Walk(gymnasium.Env):
    """Gymnasium; a random walk that shows its place and its time, and ends when it leaves ``[-3, 3]``."""

    observation_space = Box(-10_000, 10_000, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, noise: float = 0.5):
        self.noise = noise

    def look(self):
        return np.array([self.place, self.time], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = float(self.np_random.normal()), 0
        return self.look(), {}

    def step(self, action):
        self.place += (1 if action else -1) * 0.2 + self.noise * float(self.np_random.normal())
        self.time += 1
        return self.look(), -abs(self.place), abs(self.place) > 3, False, {}


class Drifting(Walk):
    """With a random stream that no seed reaches: it never does the same twice."""

    def look(self):
        return super().look() + np.random.default_rng().normal(size=2).astype(np.float32)


def changing(change: Callable[..., None], after: int = 0) -> tuple[Mapping[str, Any], ...]:
    """A script that does nothing for ``after`` steps and then lets ``change`` spoil what step returns."""
    return (*({} for _ in range(after)), {"change": change})


def act(batch, value=0):
    return [np.full((batch.num_envs, team.num_agents), value) for team in batch.spec.teams]


MOVES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "die": st.lists(st.sampled_from("abc"), unique=True, max_size=2),
            "cut": st.lists(st.sampled_from("abc"), unique=True, max_size=1),
            "reward": st.dictionaries(st.sampled_from("abc"), st.integers(-3, 3).map(float)),
        },
    ),
    min_size=1,
    max_size=10,
)


class Eventful(Turns):
    """Takes only what is possible of each event, and keeps what each agent was truly paid."""

    def __init__(self, script):
        super().__init__(script, agents="abc")

    def reset(self, seed=None, options=None):
        super().reset(seed, options)
        self.paid, self.ends = dict.fromkeys("abc", 0.0), []

    def step(self, action):
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            super().step(action)
            return
        wish = self.script[min(self.moves, len(self.script) - 1)]
        here = set(self.agents)
        entry = {key: [a for a in wish.get(key, ()) if a in here] for key in ("die", "cut")}
        entry["reward"] = {a: r for a, r in wish.get("reward", {}).items() if a in here}
        for agent, reward in entry["reward"].items():
            self.paid[agent] += reward
        self.ends.append((set(entry["die"]), set(entry["cut"]) - set(entry["die"])))
        whole, self.script = self.script, [entry] * (self.moves + 1)
        super().step(action)
        self.script = whole

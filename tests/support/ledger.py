"""Environments that write down when they are opened, played in and closed, and an audit of what they wrote."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import AECEnv, ParallelEnv

NUMBER = itertools.count()


class Accounted:
    """Notes every opening, use and closing in a file, which processes share.

    most: how many may be open at the same time, as where each needs a port or a licence. crash: the step of every
    episode in which it raises, as often as ``crashes`` over all of them.
    """

    def open(self, ledger: str, most: int, crash: int, crashes: int) -> None:
        self.ledger, self.crash, self.crashes = ledger, crash, crashes
        self.name = f"{os.getpid()}-{next(NUMBER)}"
        if most and len(Audit(ledger).open) >= most:
            raise OSError("the licence is in use")
        self.note("open")

    def note(self, event: str) -> None:
        file = os.open(self.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{event} {self.name}\n".encode())
        os.close(file)

    def begin(self) -> None:
        self.note("reset")
        self.time = 0

    def tick(self) -> None:
        self.note("step")
        self.time += 1
        if self.time == self.crash and Audit(self.ledger).count["crash"] < self.crashes:
            self.note("crash")
            raise RuntimeError("the simulator is gone")

    def close(self) -> None:
        self.note("close")


class Audit:
    """What a ledger says."""

    def __init__(self, ledger: str | Path) -> None:
        text = Path(ledger).read_text() if Path(ledger).exists() else ""
        self.count: Counter[str] = Counter()
        self.open: set[str] = set()
        self.peak = 0
        self.wrong: list[str] = []  # uses of what is not open, and second closings
        for line in text.splitlines():
            event, name = line.split()
            self.count[event] += 1
            if event == "open":
                self.open.add(name)
                self.peak = max(self.peak, len(self.open))
            elif name not in self.open:
                self.wrong.append(line)
            elif event == "close":
                self.open.remove(name)

    def without(self, process: int) -> Audit:
        """What a process that was killed had open is gone with it."""
        self.open = {name for name in self.open if not name.startswith(f"{process}-")}
        return self


class Pair(Accounted, ParallelEnv[str, Any, Any]):
    """Two agents who are paid for matching a coin, and for not matching it; four steps."""

    metadata: ClassVar[dict[str, Any]] = {"name": "pair_v0", "render_modes": ["rgb_array"], "render_fps": 10}
    possible_agents: ClassVar[list[str]] = ["even", "odd"]

    def __init__(self, ledger="", most=0, crash=0, crashes=0, render_mode=None):
        self.render_mode = render_mode
        self.open(ledger, most, crash, crashes)

    def observation_space(self, agent):
        return Box(-1, 1, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def look(self, agents):
        return {agent: np.array([self.time / 4, 1], np.float32) for agent in agents}

    def reset(self, seed=None, options=None):
        self.begin()
        self.agents = list(self.possible_agents)
        return self.look(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.tick()
        agents, over = self.agents, self.time == 4
        if over:
            self.agents = []
        same = 1.0 if actions["even"] == actions["odd"] else -1.0
        flags = dict.fromkeys(agents, over), dict.fromkeys(agents, False)
        return self.look(agents), {"even": same, "odd": -same}, *flags, {agent: {} for agent in agents}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


class Turns(Accounted, AECEnv[str, Any, Any]):
    """The same, one after the other."""

    metadata: ClassVar[dict[str, Any]] = {"name": "turns_v0", "render_modes": []}

    def __init__(self, ledger="", most=0, crash=0, crashes=0, render_mode=None):
        self.possible_agents = ["even", "odd"]
        self.open(ledger, most, crash, crashes)

    def observation_space(self, agent):
        return Box(-1, 1, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def observe(self, agent):
        return np.array([self.time / 4, 1], np.float32)

    def reset(self, seed=None, options=None):
        self.begin()
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = "even"

    def step(self, action):
        mover = self.agent_selection
        if self.terminations[mover]:
            self._was_dead_step(action)
            return
        self.tick()
        self._cumulative_rewards[mover] = 0.0
        self.rewards = {mover: float(action), self.other(mover): -float(action)}
        self._accumulate_rewards()
        if self.time == 4:
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = self.other(mover)

    def other(self, agent):
        return "odd" if agent == "even" else "even"


class Single(Accounted, gymnasium.Env[Any, Any]):
    """One agent; four steps."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)

    def __init__(self, ledger="", most=0, crash=0, crashes=0, render_mode=None):
        self.render_mode = render_mode
        self.open(ledger, most, crash, crashes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.begin()
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.tick()
        return np.array([self.time / 4, 1], np.float32), float(action), self.time == 4, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)

"""Whether a listener really listens: mpe2's speaker and listener, the message as it is or one from another episode."""

from __future__ import annotations

import math

import numpy as np
from mpe2 import simple_speaker_listener_v4
from pettingzoo.utils import BaseParallelWrapper

import marl

LISTENER, SYMBOLS = "listener_0", 3
TOUCHES = 0.075 + 0.04  # radii of the listener and of a landmark
NO_MESSAGE = -30.4  # the best mean return without a message, both agents together


class Overheard(BaseParallelWrapper):
    """``shuffled``: the listener hears, all episode long, a symbol drawn at random instead of the speaker's.

    ``distances`` takes in how far from its goal the listener was at each episode's end.
    """

    def __init__(self, shuffled: bool, distances: list[float]) -> None:
        super().__init__(simple_speaker_listener_v4.parallel_env())
        self.shuffled, self.distances = shuffled, distances
        self.random = np.random.default_rng(0)
        self.symbol = 0

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.symbol = int(self.random.integers(SYMBOLS))
        observations, infos = super().reset(seed=seed, options=options)
        return observations, infos  # nothing has been said yet

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        if self.shuffled and LISTENER in observations:
            observations[LISTENER][-SYMBOLS:] = np.eye(SYMBOLS)[self.symbol]
        if not self.agents:
            self.distances.append(math.sqrt(max(-rewards[LISTENER], 0.0)))
        return observations, rewards, *rest


def measure(system: marl.MultiAgentSystem, episodes: int = 100) -> dict[str, float]:
    """The share of episodes that end with the listener at its goal, and the mean return of a shuffled message."""
    distances: list[float] = []
    system.evaluate(episodes=episodes, env=lambda: Overheard(False, distances))
    shuffled = system.evaluate(episodes=episodes, env=lambda: Overheard(True, []))
    solved = sum(distance < TOUCHES for distance in distances) / len(distances)
    return {"solved": round(solved, 3), "shuffled message": round(shuffled.mean_return, 2)}

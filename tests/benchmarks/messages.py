"""Whether a listener really listens: mpe2's speaker and listener, the message as it is or one from another episode."""

from __future__ import annotations

import math

from mpe2 import simple_speaker_listener_v4
from pettingzoo.utils import BaseParallelWrapper

import marl

TOUCHES = 0.075 + 0.04  # radii of the listener and of a landmark


class Arrivals(BaseParallelWrapper):
    """``distances`` takes in how far from its goal the listener was at each episode's end."""

    def __init__(self, distances: list[float]) -> None:
        super().__init__(simple_speaker_listener_v4.parallel_env())
        self.distances = distances

    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        if not self.agents:
            self.distances.append(math.sqrt(max(-rewards["listener_0"], 0.0)))
        return observations, rewards, *rest


def measure(system: marl.MultiAgentSystem, episodes: int = 100) -> dict[str, float]:
    """The share of episodes that end with the listener at its goal, and the mean return of a shuffled message."""
    distances: list[float] = []
    system.evaluate(episodes=episodes, env=lambda: Arrivals(distances))
    original = "mpe2.simple_speaker_listener_v4"
    shuffled = system.evaluate(episodes=episodes, env=original, shuffle_messages=True)
    solved = sum(distance < TOUCHES for distance in distances) / len(distances)
    return {"solved": round(solved, 3), "shuffled": round(shuffled.mean_return, 2)}

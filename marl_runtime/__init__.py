"""Trained agents without torch: programs of numpy operations that act as they did in training.

team = marl_runtime.load("bundle")
action = team["agent_0"].act(observation)
"""

from marl_runtime.agent import Agent
from marl_runtime.bundle import BundleError
from marl_runtime.spaces import ValueMismatch
from marl_runtime.team import Team, load

__all__ = ["Agent", "BundleError", "Team", "ValueMismatch", "load"]

"""A hook of one's own that has to see the environment's state, what everybody does, and what infos report."""

from __future__ import annotations

import numpy as np
import pytest

import marl
from marl.shaping import PotentialBased
from tests.extension.support import trains_saves_loads_resumes
from tests.support.tiny import Constant, Team

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import marl
from marl.extend import Hook, HookContext, TeamTransition, Shaping, register
from tests.support.tiny import Team


class Reports(Team):
    """Says in the infos of its last step how many agents were right in it."""

    def step(self, actions):
        obs, rewards, terminated, truncated, infos = super().step(actions)
        return obs, rewards, terminated, truncated, {agent: {"right": sum(rewards.values())} for agent in infos}


@register
@dataclass(frozen=True)
class Balance(Shaping):
    """A bonus for where the state moves, for acting alike, and for how many of the last episode's agents were right."""

    weight: float = 0.1
    invariant: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset(("state", "actions", "infos"))

    def build(self, place: HookContext) -> Hook:
        return Balancing(self, place)


class Balancing:
    def __init__(self, settings, place):
        self.settings = settings
        self.right = np.zeros(place.num_envs)
        self.seen = 0

    def __call__(self, seen: TeamTransition, reward):
        self.seen += seen.state.shape[0]
        if "right" in seen.infos:
            told = seen.infos["right"]
            self.right = np.where(np.isnan(told), self.right, told)
        moved = (seen.next_state - seen.state).mean(axis=1)  # (E,)
        alike = sum(action.std(axis=1) for action in seen.actions)  # (E,)
        return reward + self.settings.weight * (moved - alike + self.right)[:, None]

    def state_dict(self):
        return {"right": self.right.copy(), "seen": self.seen}

    def load_state_dict(self, state):
        self.right, self.seen = np.array(state["right"]), int(state["seen"])


def make():
    agents = {"agent_0": marl.ippo(rollout=8, minibatches=1), "agent_*": marl.ippo(rollout=8, minibatches=1)}
    return {"agents": agents, "env": Reports, "num_envs": 2, "shaping": {"agent_0": [Balance(weight=0.5)]}}
'''


def test_a_hook_that_needs_the_state(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE)
    hook = came.system.training.part("shaping").shaper.hooks["agent_0"][0]
    assert hook.seen == 2 * 96  # every copy's every step
    assert (hook.right > 0).any()
    assert came.history["agent_0/shaped_return"][-1] != came.history["agent_0/mean_return"][-1]


def test_a_state_that_is_needed_and_is_not_there_is_an_error():
    for hook in (
        PotentialBased(lambda state: state, of="state"),
        marl.shaping.Function(len, needs={"state"}),
    ):
        with pytest.raises(
            marl.ConfigError, match=rf"shaping of 'team': {type(hook).__name__} needs a state\(\), and .* has none"
        ):
            marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), Constant, num_envs=1, shaping=[hook])


def test_a_function_is_shown_what_it_needs_and_nothing_more():
    shown = {}

    def look(name):
        def function(seen):
            shown[name] = [seen.state is not None, seen.actions is not None, seen.infos is not None]
            return np.zeros_like(seen.reward)

        return function

    for name, needs in (("none", ()), ("state", {"state"}), ("actions", ["actions"]), ("infos", "infos")):
        hook = marl.shaping.Function(look(name), needs=needs)
        with marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), Team, num_envs=1, shaping=[hook]) as system:
            system.train(steps=8)
    assert shown == {
        "none": [False, False, False],
        "state": [True, False, False],
        "actions": [False, True, False],
        "infos": [False, False, True],
    }


def test_what_no_hook_is_shown_cannot_be_needed():
    with pytest.raises(
        marl.ConfigError, match=r"Function.needs: expected some of actions, infos, state, got \['rgb'\]"
    ):
        marl.shaping.Function(len, needs={"rgb"})

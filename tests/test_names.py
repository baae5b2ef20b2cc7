"""Agents with brackets, stars and question marks in their names are found by them, wherever patterns are read."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

import marl
from marl.grid.sharing import owner_index
from marl.spaces import team_spec
from marl.types import partition

DRONES = ("drone[0]", "drone[1]", "drone0")


class Drones(ParallelEnv):
    metadata = {"name": "drones_v0", "render_modes": []}
    possible_agents = list(DRONES)

    def observation_space(self, agent):
        return Box(-1, 1, (2,))

    def action_space(self, agent):
        return Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {agent: np.zeros(2, np.float32) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions):
        who, self.agents = self.agents, []
        looks = {agent: np.zeros(2, np.float32) for agent in who}
        ends = dict.fromkeys(who, True), dict.fromkeys(who, False)
        return looks, dict.fromkeys(who, 1.0), *ends, {agent: {} for agent in who}


def drones():
    return team_spec("team", DRONES, [Box(-1, 1, (2,))] * 3, [Discrete(2)] * 3)


@pytest.mark.parametrize("name", ["drone[0]", "drone[!a]", "a*", "what?", "[", "a[b", "plain"])
def test_an_agents_own_name_is_a_pattern_that_it_matches(name):
    assert partition([name, "other"], [name, "other"]) == {
        name.rstrip("*?"): (name,),
        "other": ("other",),
    }


def test_a_name_with_brackets_is_no_pattern_for_anybody_else():
    """As a shell pattern ``drone[0]`` means ``drone0``, which is another agent."""
    assert partition(DRONES, ["drone[0]", "drone*"]) == {"drone[0]": ("drone[0]",), "drone": ("drone[1]", "drone0")}
    assert partition(["drone0", "drone1"], ["drone[01]"]) == {"drone[01]": ("drone0", "drone1")}


def test_an_agents_own_name_comes_before_wider_patterns():
    assert partition(["agent_0", "agent_1"], ["agent_*", "agent_0"]) == {"agent": ("agent_1",), "agent_0": ("agent_0",)}
    with pytest.raises(marl.ConfigError, match=r"'agent_\?': 'agent_0' has that agent by its name; leave one"):
        partition(["agent_0"], ["agent_0", "agent_?"])


def test_sharing_finds_names_with_brackets():
    sharing = {"drone[0]": "first", "drone[1]": "second", "drone*": "rest"}
    assert owner_index(sharing, drones()) == (0, 1, 2)
    assert owner_index({"*": "all", "drone[0]": "alone"}, drones()) == (0, 1, 1)


def test_groups_of_a_channel_find_names_with_brackets():
    adjacency = marl.topology.Groups(("drone[0]", "drone*")).build(drones())
    np.testing.assert_array_equal(adjacency.weight.numpy(), [[0, 0, 0], [0, 0, 1], [0, 1, 0]])


def test_teams_shaping_and_experiments_find_names_with_brackets():
    agents = {"drone[0]": marl.ippo(rollout=4), "drone*": marl.ippo(rollout=4, minibatches=1, channel=marl.CommNet())}
    hooks = {"drone[0]": [marl.shaping.StepCost(0.1)]}
    system = marl.MultiAgentSystem(agents, Drones, num_envs=2, seed=0, shaping=hooks)
    assert [team.agents for team in system.spec.teams] == [("drone[0]",), ("drone[1]", "drone0")]
    system.train(steps=16)
    report = system.evaluate(2, silence="drone[1]", remove="drone[0]")
    assert report.returns_per_agent["drone[0]"] == 1.0
    assert system.agent("drone[1]").name == "drone[1]"

"""A topology of one's own: who hears whom."""

from __future__ import annotations

from tests.extension.support import trains_saves_loads_resumes

SOURCE = '''
from dataclasses import dataclass

import torch

import marl
from marl.extend import Topology, Adjacency
from tests.support.tiny import Hear


@dataclass(frozen=True)
class Chain(Topology):
    """Each agent hears the one before it."""

    def build(self, team):
        return Adjacency(torch.diag(torch.ones(team.num_agents - 1), -1))


def make():
    channel = marl.CommNet(size=3, topology=Chain())
    return {"agents": marl.ippo(rollout=8, minibatches=1, channel=channel), "env": Hear, "num_envs": 2}
'''


def test_a_topology_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE, again=("env", "agents"))
    adjacency = came.module.Chain().build(came.system.spec.teams[0])
    assert adjacency.weight.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    net = came.system.learners[0].policy_net
    assert net.adjacency.weight.tolist() == adjacency.weight.tolist()

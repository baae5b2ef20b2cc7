"""Networks with channels on their own."""

from __future__ import annotations

import torch

import marl
from marl.channels import ChannelNet, policy_net
from marl.nets.owner import Owner
from tests.support.tiny import spec_of

NETWORKS = [marl.MLP((8,)), marl.GRU(6)]


def build(channel, network=NETWORKS[0], agents=3, width=4, index=None, ids=None, executing=True):
    spec = spec_of(agents, width)
    owner = Owner(index or (0,) * agents)
    generators = [torch.Generator().manual_seed(7 + k) for k in range(owner.num_sets)]
    net = policy_net(channel, spec, spec.teams[0], network, owner, 5, generators, gain=1.0, ids=ids)
    assert isinstance(net, ChannelNet)
    if executing:
        net.use(channel.link, executing=True)
    return net


def play(net, obs, acting=None, start=None, carry=None):
    """Outputs ``(T, B, N, K)`` for observations ``(T, B, N, O)``."""
    length, batch, agents = obs.shape[:3]
    carry = torch.zeros(batch, *net.carry_shape) if carry is None else carry
    start = torch.zeros(length, batch, dtype=torch.bool) if start is None else start
    acting = torch.ones(length, batch, agents, dtype=torch.bool) if acting is None else acting
    return net(obs, carry, start, acting)[0]

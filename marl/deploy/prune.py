"""Pruning: whole units of a network are left out, or its smallest weights become zeros; then it is tuned again.

A unit's worth is the product of the norms of its weights in and out: what it can change at most. The rest learns to do
what the whole network did, on the states that it visits itself (:mod:`marl.deploy.distill`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from marl.deploy.distill import Lessons, Students, imitate, teachers_of
from marl.nets.agent_net import AgentNet
from marl.nets.networks import MLP, MLPBody
from marl.nets.stacked import StackedLinear
from marl.training.trained import Trained
from marl.types import ConfigError

KINDS = ("units", "weights")


def prune(
    system: Trained, share: float, kind: str = "units", lessons: Lessons | None = None, seed: int = 0
) -> Students:
    """Networks of all teams with a share of their units or weights left out, tuned again.

    Args:
        system: what was trained; nothing in it changes.
        share: of each hidden layer's units, or of each layer's weights, from 0 to below 1.
        kind: ``"units"``, which makes networks smaller; ``"weights"``, which makes zeros of them.
        lessons: how long they are tuned; None: some seconds.
        seed: of the states that they visit.

    Raises:
        ConfigError: for shares and kinds that there are not, teams that talk or mix policies, units of other networks
            than ``MLP``.
    """
    if kind not in KINDS:
        raise ConfigError(f"prune: expected one of {', '.join(KINDS)}, got {kind!r}")
    if not 0 <= share < 1:
        raise ConfigError(f"prune: expected a share from 0 to below 1, got {share!r}")
    make = without_units if kind == "units" else without_weights
    students = {}
    for team, teacher in zip(system.spec.teams, teachers_of(system), strict=True):
        assert teacher.net is not None
        students[team.name] = make(teacher.net, share)
    return imitate(system, students, lessons, seed)


def without_weights(net: AgentNet, share: float) -> AgentNet:
    """A copy in which a share of each layer's weights, the smallest, are zeros. Files do not shrink by it."""
    copy = net.restrict(None)
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.dim() > 2:
                size = parameter.abs().flatten(1)  # (P, D)
                count = int(share * size.shape[1])
                if count:
                    least = size.kthvalue(count, dim=1).values
                    parameter.mul_(parameter.abs() > least.view(-1, *[1] * (parameter.dim() - 1)))
    return copy


def without_units(net: AgentNet, share: float) -> AgentNet:
    """A network with narrower hidden layers, made of the units that are worth most. Raises ConfigError."""
    body = net.body
    layers = [*body.layers, net.head] if type(body) is MLPBody else []
    if not layers or not all(type(layer) is StackedLinear for layer in layers) or not isinstance(net.network, MLP):
        raise ConfigError("prune: units are left out of marl.MLP without noise alone; use kind='weights', or distill")
    sizes = tuple(max(1, round((1 - share) * size)) for size in net.network.sizes)
    owner = net.owner
    small = AgentNet(
        replace(net.network, sizes=sizes),
        owner,
        net.shape,
        net.out,
        [torch.Generator() for _ in range(owner.num_sets)],
        gain=net.gain,
        ids=net.ids.clone(),
        normalize=net.norm is not None,
        learns_scale=net.learns_scale,
    )
    assert isinstance(small.body, MLPBody)
    with torch.no_grad():
        rows: Tensor | None = None  # which inputs of a layer are kept, (P, in')
        for layer, after, target in zip(layers, [*layers[1:], None], [*small.body.layers, small.head], strict=True):
            weight, bias = layer.weight, layer.bias  # (P, in, out), (P, out)
            if rows is not None:
                weight = weight.gather(1, rows.unsqueeze(-1).expand(-1, -1, weight.shape[2]))
            if after is not None:
                worth = layer.weight.norm(dim=1) * after.weight.norm(dim=2)  # (P, out)
                rows = worth.topk(target.weight.shape[2], dim=1).indices.sort(dim=1).values
                weight = weight.gather(2, rows.unsqueeze(1).expand(-1, weight.shape[1], -1))
                bias = bias.gather(1, rows)
            target.weight.copy_(weight)
            target.bias.copy_(bias)
        for own, theirs in zip(_rest(small), _rest(net), strict=True):
            own.copy_(theirs)
    return small


def _rest(net: AgentNet) -> list[Tensor]:
    """What is no layer: the free scale, and the normalizer."""
    scale: list[Tensor] = [] if net.log_std is None else [net.log_std]
    statistics: list[Tensor] = [] if net.norm is None else list(net.norm.buffers())
    return scale + statistics

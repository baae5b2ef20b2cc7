"""Members of a population whose networks grow when they are copied, and go on as if nothing had happened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from marl.config import check_whole, to_json
from marl.learners.off_policy import OffPolicy, OffPolicyLearner
from marl.learners.on_policy import OnPolicy, OnPolicyLearner
from marl.nets.growth import IDENTITY, grown
from marl.nets.networks import MLP
from marl.setup import Agents
from marl.system import MultiAgentSystem
from marl.types import ConfigError

NETWORK = "learner.network"  # the setting that grows


@dataclass(frozen=True)
class Grow:
    """Now and then a copy's network has more units or layers, and computes what its parent's does.

    One hidden layer gets more units, or one more is put before the output layer (Net2Net, Chen et al. 2016,
    https://arxiv.org/abs/1511.05641). The optimizer begins anew with it.

    Args:
        chance: that a copy grows.
        factor: units of the layer that becomes wider, times this; at most 2, since a unit has one twin at most.
        widest: units of a layer at most.
        deepest: hidden layers at most; None: none is added. Takes ``relu``, of which a layer of ones changes nothing.

    Raises:
        ConfigError: for a chance outside of (0, 1], a factor outside of (1, 2], or sizes that are no whole numbers.
    """

    chance: float = 0.25
    factor: float = 1.5
    widest: int = 512
    deepest: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (isinstance(self.chance, int | float) and 0 < self.chance <= 1):
            raise ConfigError(f"Grow.chance: expected a chance above 0 and at most 1, got {self.chance!r}")
        if not (isinstance(self.factor, int | float) and 1 < self.factor <= 2):
            raise ConfigError(f"Grow.factor: expected a number above 1 and at most 2, got {self.factor!r}")
        check_whole("Grow.widest", self.widest, 1)
        if self.deepest is not None:
            check_whole("Grow.deepest", self.deepest, 1)

    def vary(self, network: MLP, rng: np.random.Generator) -> MLP:
        """The network of a copy: its parent's, or one of those that :meth:`larger` tells, all equally likely."""
        found = self.larger(network)
        if rng.random() >= self.chance or not found:
            return network
        return found[int(rng.integers(len(found)))]

    def larger(self, network: MLP) -> list[MLP]:
        """What a network may become in one step: one layer wider, or one layer more."""
        found = []
        for place, width in enumerate(network.sizes):
            wanted = min(max(math.floor(width * self.factor), width + 1), self.widest)
            if wanted > width:
                found.append((*network.sizes[:place], wanted, *network.sizes[place + 1 :]))
        if self.deepest is not None and len(network.sizes) < self.deepest:
            found.append((*network.sizes, network.sizes[-1]))
        return [replace(network, sizes=sizes) for sizes in found]

    def check(self, where: str, agents: Agents | None, league: object) -> MLP:
        """The network that members begin with. Raises ConfigError for one that cannot grow, or not with all else."""
        if not isinstance(agents, OnPolicy | OffPolicy):
            raise ConfigError(
                f"{where}: expected one learner for all agents, since {NETWORK} grows; got {agents!r:.80}"
            )
        network, channel, auxiliary = agents.network, agents.channel, agents.auxiliary
        if type(network) is not MLP or network.noisy:
            raise ConfigError(f"{where}: expected network=marl.MLP(...) without noise, got {network!r:.80}")
        if channel is not None or auxiliary or league is not None:
            what = "a channel" if channel is not None else "auxiliary losses" if auxiliary else "a league"
            raise ConfigError(f"{where}: {what} holds networks of the sizes at the beginning; leave one of the two out")
        if self.deepest is not None and network.activation not in IDENTITY:
            said = f"with {network.activation} a layer more changes what a network computes"
            raise ConfigError(f"{where}: deepest: {said}; expected MLP(..., 'relu'), or deepest=None")
        return network


def network_of(system: MultiAgentSystem) -> object:
    """The network that grows, as the learner's settings have it; None: they leave it to the learner."""
    (settings,) = system.setup.configs
    return settings.network if isinstance(settings, OnPolicy | OffPolicy) else None


def grow_state(
    system: MultiAgentSystem, state: Mapping[str, Any], network: MLP, seed: int
) -> tuple[dict[str, Any], Any]:
    """The state of a system and its learner's settings as JSON, with a larger network; nothing else changes.

    Moments of an optimizer begin anew where any of its parameters have another shape: its count of steps is of them
    all, and moments of zero after many steps would make too large ones.

    Args:
        system: whose network :meth:`Grow.check` has found to be one that can grow; it is not changed.
        state: its own.
        network: one that :meth:`Grow.larger` tells.
        seed: of what is drawn.
    """
    setup, (team,), (before,) = system.training.setup, system.spec.teams, system.learners
    (settings,) = setup.configs
    asked = system.setup.agents
    assert isinstance(settings, OnPolicy | OffPolicy)
    assert isinstance(asked, OnPolicy | OffPolicy)
    assert isinstance(settings.network, MLP)
    begin = np.random.SeedSequence(setup.seed)
    after = replace(settings, network=network).build(system.spec, team, system.training.copies, begin, system.device)
    saved, fresh = state["learners"][team.name], after.state_dict()
    assert isinstance(before, OnPolicyLearner | OffPolicyLearner)
    assert isinstance(after, OnPolicyLearner | OffPolicyLearner)
    mine, theirs = after.optimizers(), before.optimizers()
    kept = {name for name, one in mine.items() if one.flat.values.shape == theirs[name].flat.values.shape}
    learner = dict(saved)
    if isinstance(after, OnPolicyLearner):
        learner["model"] = grown(saved["model"], fresh["model"], settings.network, network, seed)
        learner["optimizer"] = fresh["optimizer"]
    else:
        learner["modules"] = {
            name: grown(saved["modules"][name], own, settings.network, network, seed)
            for name, own in fresh["modules"].items()
        }
        learner["optimizers"] = {
            name: saved["optimizers"][name] if name in kept else own for name, own in fresh["optimizers"].items()
        }
    return {**state, "learners": {team.name: learner}}, to_json(replace(asked, network=network), code=True)

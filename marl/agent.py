"""One trained agent on its own: its parameters, its carry, its normaliser, its local observation; nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.spaces import AgentCodec, BadValue
from marl.types import Array, ConfigError, TeamSpec


class Agent:
    """A decentralised policy: ``action = agent.act(observation)``.

    Observations and actions are the environment's own (any Gymnasium space, with or without an action mask). Call
    :meth:`reset` where an episode begins.
    """

    def __init__(
        self, team: TeamSpec, index: int, net: AgentNet | None, distribution: Distribution, seed: int | None = None
    ) -> None:
        """``net`` is this agent's alone; None for policies that read nothing."""
        self.name = team.agents[index]
        self.net = net.eval() if net is not None else None
        self.distribution = distribution
        self.codec = AgentCodec(team, index)
        self.generator = torch.Generator()
        if seed is not None:
            self.generator.manual_seed(seed)
        self._carry = torch.zeros(1, 1, 0 if net is None else net.carry_shape[1])
        self._yes, self._no = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)

    def reset(self) -> None:
        """Forget the episode so far."""
        self._carry = torch.zeros_like(self._carry)

    def act(self, observation: Any, info: Mapping[str, Any] | None = None, explore: bool = False) -> Any:
        """The action for one observation, ready for ``env.step``.

        Args:
            observation: what the environment gave this agent; a dictionary with ``"action_mask"`` where it has one.
            info: this agent's info dictionary, if the action mask is there.
            explore: sample from the policy instead of taking the most likely action.

        Raises:
            ConfigError: if the observation does not fit the agent's space.
        """
        try:
            row, legal = self.codec.encode(observation, info)
        except BadValue as error:
            raise ConfigError(f"agent {self.name!r}: observation: {error}") from None
        return self.codec.decode(self.act_encoded(row, legal, explore))

    @torch.inference_mode()
    def act_encoded(self, row: Array, legal: Array | None, explore: bool = False) -> Array:
        """The same from an encoded observation ``(*O)`` and legal row ``(L,)``: the action, ``()`` or ``(A,)``."""
        mask = None if legal is None else torch.from_numpy(np.asarray(legal)).view(1, 1, 1, -1)
        parameters: Tensor = torch.zeros(1, 1, 1, self.distribution.size)
        if self.net is not None:
            x = torch.from_numpy(np.asarray(row)).view(1, 1, 1, *row.shape)
            parameters, carries = self.net(x, self._carry, self._no, self._yes)
            self._carry = carries[0].clone()
        if explore or self.net is None:
            action = self.distribution.sample(parameters, mask, self.generator)
        else:
            action = self.distribution.mode(parameters, mask)
        out: Array = self.distribution.to_env(action)[0, 0, 0].numpy()
        return out

"""What a recurrent critic remembers of copies whose rollouts come in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from marl.learners import Learner
from marl.learners.on_policy import OnPolicyLearner
from marl.training.collecting import rollout_of


class CriticMemory:
    """A critic's carry at the end of each actor's last rollout, with which its next one begins.

    Where a rollout was thrown away it begins with that of the one before.
    """

    def __init__(self, learner: Learner) -> None:
        """Nothing was played yet."""
        assert isinstance(learner, OnPolicyLearner)
        self._model, self._rollout = learner.model, rollout_of(learner)
        self._needed = not self._model.shared_trunk and self._model.critic.carry_shape[1] > 0
        self._last: dict[int, Tensor] = {}  # by actor
        self._ranks: Sequence[int] = ()  # of the actors whose rollouts were learnt from last

    @torch.no_grad()
    def go_on(self, ranks: Sequence[int]) -> None:
        """Begin with rollouts of these actors, which are in the memory side by side, in their order."""
        if not self._needed:
            return
        parts = self._model.critic_carry.chunk(len(ranks))  # (E / K, *, H) each
        for rank, carry in zip(self._ranks, parts, strict=False):
            self._last[rank] = carry.clone()
        self._ranks = ranks
        for rank, carry in zip(ranks, parts, strict=True):
            carry.copy_(self._last.get(rank, torch.zeros_like(carry)))
        for _ in range(max(Counter(ranks).values()) - 1):  # an actor's second rollout begins where its first one ends
            ends = self._ends().chunk(len(ranks))
            for place in range(1, len(ranks)):
                if ranks[place] == ranks[place - 1]:
                    parts[place].copy_(ends[place - 1])

    def _ends(self) -> Tensor:
        """The carry after the last row, ``(E, *, H)``."""
        model, rows = self._model, self._rollout
        seen = model.critic.encode(model.joint_input(rows.obs, rows.joint))[:-1]
        carry, started, acting = model.critic_carry, rows.started[:-1], rows.acting[:-1]
        return model.critic_value(seen, carry, started, acting, rows.action)[1][-1]

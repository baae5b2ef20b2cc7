"""Social influence: a bonus for actions that change what other agents do next (Jaques et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from marl.nets.distributions import mask_logits
from marl.schedules import Schedule, value_at
from marl.shaping.hook import Hook, HookContext, TeamTransition, check_number
from marl.shaping.rows import Moments, rows_of
from marl.types import Array, ConfigError, valid_choices


@dataclass(frozen=True)
class SocialInfluence:
    """``r_k + w sum_j KL( p(a'_j | s, a) || sum_b pi(b | s) p(a'_j | s, a with b for a_k) )``: causal influence.

    What the others do next, given everybody's actions, against what they would do on average over ``k``'s own
    alternatives: their mutual information. As in the paper every agent learns a model of the others from what it sees
    itself (``p``), so nobody's policy has to be known; its own policy (``pi``) is estimated in the same way. Only those
    others count who go on.

    Args:
        weight: a number or schedule.
        width: of the hidden layers.
        lr: step size of Adam; one step per environment step, on what was just seen.
    """

    weight: Schedule = 0.1
    width: int = 64
    lr: float = 1e-3
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_number("SocialInfluence.weight", self.weight)
        check_number("SocialInfluence.width", self.width, 1)
        check_number("SocialInfluence.lr", self.lr, 1e-12)

    def build(self, context: HookContext) -> Hook:
        """Models of every agent. Raises ConfigError for other actions than choices, and where there is one agent."""
        team = context.team
        if team.action.kind != "discrete":
            raise ConfigError(
                f"SocialInfluence on team {team.name!r}: expected discrete actions, got {team.action.kind}: what would "
                "have been done instead is summed over"
            )
        if team.num_agents < 2:
            raise ConfigError(f"SocialInfluence on team {team.name!r}: one agent has no others to influence")
        return _Influence(self, context)


class _Influence:
    def __init__(self, config: SocialInfluence, context: HookContext) -> None:
        self.config = config
        team = context.team
        self.agents, self.actions = team.num_agents, max(team.action.sizes)
        self.exists = torch.from_numpy(
            valid_choices(team.action)
        )  # (N, A): what only wider agents have is no alternative
        width, hidden, joint = math.prod(team.obs.shape), config.width, self.agents * self.actions
        generator = torch.Generator().manual_seed(int(context.seed.generate_state(1, np.uint64)[0] >> 1))

        def layer(inputs: int, outputs: int) -> Tensor:
            scale = 1 / math.sqrt(inputs)
            normal = torch.randn(self.agents, inputs, outputs, generator=generator, dtype=torch.float32)
            return (normal * scale).requires_grad_()

        # Of each agent: from its observation and all actions to all next actions; from its observation to its own.
        self.see, self.act = layer(width + 1, hidden), layer(joint, hidden)
        self.predict = layer(hidden + 1, joint)
        self.own_see, self.own = layer(width + 1, hidden), layer(hidden + 1, self.actions)
        self.weights = [self.see, self.act, self.predict, self.own_see, self.own]
        self.adam = torch.optim.Adam(self.weights, lr=config.lr)
        self.moments = Moments(width)
        self.before: tuple[Tensor, Tensor, Tensor] | None = None  # observations, actions, who acted and goes on

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        rows = rows_of(transition.obs)  # (E * N, O)
        self.moments.update(rows[transition.acting.reshape(-1)])
        scaled = ((rows - self.moments.mean) / self.moments.std).clip(-5, 5)
        x = torch.from_numpy(scaled.astype(np.float32).reshape(*transition.acting.shape, -1))  # (E, N, O)
        acting = torch.from_numpy(transition.acting.copy())  # (E, N)
        action = torch.from_numpy(np.where(transition.acting, transition.action, 0).astype(np.int64))  # (E, N)
        self._learn(x, action, acting)
        self.before = x, action, acting & ~torch.from_numpy(transition.started)[:, None]
        bonus = self.influence(x, action, acting, torch.from_numpy(transition.has_future)).numpy()  # (E, N)
        paid: Array = reward + value_at(self.config.weight, transition.now) * np.where(transition.acting, bonus, 0.0)
        return paid

    def _taken(self, action: Tensor, acting: Tensor) -> Tensor:
        """One-hots ``(E, N, A)`` of the actions ``(E, N)`` taken; zeros for agents that did not act."""
        return functional.one_hot(action, self.actions) * acting.unsqueeze(-1).float()

    def next_actions(self, x: Tensor, taken: Tensor) -> Tensor:
        """Log-probabilities of everybody's next action in each agent's model: ``(..., E, N, O)``, ``(..., E, N, N A)``
        to ``(..., E, N, N, A)``."""
        hidden = _stacked(_with_one(x), self.see) + _stacked(taken, self.act)
        out = _stacked(_with_one(functional.elu(hidden)), self.predict)
        return mask_logits(torch.unflatten(out, -1, (self.agents, self.actions)), self.exists).log_softmax(-1)

    def own_actions(self, x: Tensor) -> Tensor:
        """Log-probabilities of each agent's own action: ``(E, N, O)`` to ``(E, N, A)``."""
        hidden = functional.elu(_stacked(_with_one(x), self.own_see))
        return mask_logits(_stacked(_with_one(hidden), self.own), self.exists).log_softmax(-1)

    @torch.no_grad()
    def influence(self, x: Tensor, action: Tensor, acting: Tensor, has_future: Tensor) -> Tensor:
        """What each agent's action changes for all others, in nats ``(E, N)``."""
        taken = self._taken(action, acting)  # (E, N, A)
        joint = taken.flatten(1).unsqueeze(1).expand(-1, self.agents, -1)  # (E, N, N A): of each model
        own = torch.eye(self.agents, dtype=torch.float32)
        mine = own.repeat_interleave(self.actions, dim=1)  # (N, N A): where an agent's own are
        instead = torch.eye(self.actions, dtype=torch.float32).repeat(1, self.agents)  # (A, N A)
        swapped = joint * (1 - mine) + instead[:, None, None] * mine  # (A, E, N, N A): each alternative
        log_then = self.next_actions(x.expand(self.actions, *x.shape), swapped)  # (A, E, N, N, A)
        log_own = self.own_actions(x)  # (E, N, A)
        weight = log_own.permute(2, 0, 1)[..., None, None]  # (A, E, N, 1, 1)
        average = torch.logsumexp(weight + log_then, dim=0)  # (E, N, N, A)
        index = action[None, :, :, None, None].expand(1, *average.shape)
        actual = log_then.gather(0, index).squeeze(0)  # (E, N, N, A)
        divergence = (actual.exp() * (actual - average)).sum(-1)  # (E, k, j)
        others = ~torch.eye(self.agents, dtype=torch.bool) & has_future.unsqueeze(1)
        return (divergence * others).sum(-1)

    def _learn(self, x: Tensor, action: Tensor, acting: Tensor) -> None:
        """One training step of each agent's model of the others (on the step before) and of itself."""
        if not acting.any():
            return
        own = self.own_actions(x).gather(-1, action.unsqueeze(-1)).squeeze(-1)  # (E, N)
        loss = -(own * acting).sum() / acting.sum()
        if self.before is not None:
            seen, did, ready = self.before
            joint = self._taken(did, ready).flatten(1).unsqueeze(1).expand(-1, self.agents, -1)
            told = self.next_actions(seen, joint)  # (E, k, j, A)
            index = action[:, None, :, None].expand(*told.shape[:3], 1)
            found = told.gather(-1, index).squeeze(-1)  # (E, k, j)
            counts = ready.unsqueeze(2) & acting.unsqueeze(1) & ~torch.eye(self.agents, dtype=torch.bool)
            loss = loss - (found * counts).sum() / counts.sum().clamp(min=1)
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        moments = [{name: value.clone() for name, value in self.adam.state[w].items()} for w in self.weights]
        return {
            "weights": [weight.detach().clone() for weight in self.weights],
            "adam": moments,
            "seen": self.moments.state_dict(),
            "before": None if self.before is None else [part.clone() for part in self.before],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for weight, saved, moments in zip(self.weights, state["weights"], state["adam"], strict=True):
                weight.copy_(saved)
                if moments:
                    self.adam.state[weight] = {name: value.clone() for name, value in moments.items()}
        self.moments.load_state_dict(state["seen"])
        before = state["before"]
        self.before = None if before is None else (before[0].clone(), before[1].clone(), before[2].clone())


def _stacked(x: Tensor, weight: Tensor) -> Tensor:
    """Each agent's own matrix: ``(..., N, I)`` and ``(N, I, H)`` to ``(..., N, H)``."""
    return torch.einsum("...ni,nih->...nh", x, weight)


def _with_one(x: Tensor) -> Tensor:
    """A last input that is 1, whose weights are the bias."""
    return torch.cat((x, torch.ones(*x.shape[:-1], 1, dtype=torch.float32)), dim=-1)

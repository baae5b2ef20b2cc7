"""Scripted policies: pure and mixed strategies, functions of the observation; they learn nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl.grid.credit import Independent
from marl.grid.scope import Local
from marl.learners.base import check_kind, generator_from, restore_generator
from marl.memory.base import Decision, PolicyInput
from marl.memory.rollout import Rollout
from marl.nets.distributions import Constant, Distribution, make_distribution
from marl.schedules import Clock
from marl.types import ActionKind, Array, ConfigError, Spec, TeamSpec

NEVER = -80.0  # the logit of what a strategy does not play unless nothing else is legal: exp(-80) is no chance at all


@dataclass(frozen=True)
class Fixed:
    """A strategy that reads nothing: ``Fixed(2)`` always plays action 2, ``Fixed((0.5, 0.25, 0.25))`` mixes.

    Where the mask forbids what it would play, the legal actions share its probability.

    Args:
        strategy: an action, or the probability of each.
    """

    strategy: int | Sequence[float]

    action_kinds: ClassVar[frozenset[ActionKind]] = frozenset(("discrete",))

    def __post_init__(self) -> None:
        """Check that it is a strategy."""
        if isinstance(self.strategy, int) and not isinstance(self.strategy, bool) and self.strategy >= 0:
            return
        try:
            values = tuple(float(x) for x in self.strategy)  # type: ignore[union-attr]
        except (TypeError, ValueError):
            values = ()
        if not values or not all(x >= 0 for x in values) or not math.isclose(sum(values), 1.0, abs_tol=1e-6):
            raise ConfigError(
                f"Fixed: expected an action, or probabilities that add up to 1, got {self.strategy!r}"
            ) from None
        object.__setattr__(self, "strategy", values)

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return False

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> ScriptedLearner:
        """Make the player of one team. Raises ConfigError if the team has other actions."""
        check_kind("Fixed", self.action_kinds, team)
        size = team.action.sizes[0]
        if isinstance(self.strategy, int):
            if self.strategy >= size:
                raise ConfigError(f"Fixed on team {team.name!r}: expected an action below {size}, got {self.strategy}")
            logits = [0.0 if action == self.strategy else NEVER for action in range(size)]
        else:
            if len(self.strategy) != size:
                raise ConfigError(
                    f"Fixed on team {team.name!r}: expected {size} probabilities, got {len(self.strategy)}"
                )
            logits = [math.log(chance) if chance > 0 else NEVER for chance in self.strategy]
        return ScriptedLearner(spec, team, num_envs, seed, device, None, Constant(logits, device))


@dataclass(frozen=True)
class Scripted:
    """A function of the observation: ``f(obs (..., *O))`` returns scores ``(..., L)``, the highest legal one is played.

    ``L`` is the number of actions (of all components laid end to end); of equals the first. It never samples.

    Args:
        function: numpy arrays in and out; checkpoints cannot hold it.
    """

    function: Callable[[Array], Array]

    action_kinds: ClassVar[frozenset[ActionKind]] = frozenset(("discrete", "multidiscrete", "multibinary"))

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return False

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> ScriptedLearner:
        """Make the player of one team. Raises ConfigError if the team has other actions."""
        check_kind("Scripted", self.action_kinds, team)
        highest = _Highest(make_distribution(team.action, device=device))
        net = _Rule(self.function, team, highest.size)
        return ScriptedLearner(spec, team, num_envs, seed, device, net, highest)


class ScriptedLearner:
    """The learner of :class:`Fixed` and :class:`Scripted` settings."""

    carry_width = 0

    def __init__(
        self,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
        net: _Rule | None,
        distribution: Distribution,
    ) -> None:
        """A one-row memory is all it needs."""
        self.team, self.net, self.distribution = team, net, distribution
        self.generator = generator_from(seed, device)
        self.memory = Rollout(spec, team, Local(), Independent(), 1, num_envs, 0, device)

    def act(self, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None) -> Decision:
        """The strategy's action."""
        shape = *inputs.acting.shape, self.distribution.size
        parameters = torch.zeros(shape, device=inputs.acting.device, dtype=torch.float32)
        if self.net is not None:
            parameters = self.net.scores(inputs.obs)
        action = self.distribution.sample(parameters, inputs.action_mask, generator or self.generator)
        log_prob, _ = self.distribution.evaluate(parameters, inputs.action_mask, action)
        return Decision(action, self.distribution.to_env(action), log_prob, inputs.carry)

    def ready(self, clock: Clock) -> bool:
        """Each step: only to free the memory."""
        return self.memory.full

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """Forget and learn nothing."""
        self.memory.restart()
        return {}

    def skip_update(self) -> None:
        """Free the memory."""
        self.memory.restart()

    def policy(self, agent: int | None = None) -> tuple[Any, Distribution]:
        """The same for every agent."""
        return self.net, self.distribution

    def state_dict(self) -> dict[str, Any]:
        """The random stream and the row at hand."""
        return {"generator": self.generator.get_state(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        restore_generator(self.generator, state["generator"])
        self.memory.load_state_dict(state["memory"])


class _Highest:
    """A distribution that always takes the choice with the highest score."""

    learns_scale = False

    def __init__(self, inner: Distribution) -> None:
        self.inner, self.size = inner, inner.size

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        return self.inner.mode(parameters, action_mask)

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        return self.inner.mode(parameters, action_mask)

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        action = self.inner.mode(parameters, action_mask)
        return action, self.evaluate(parameters, action_mask, action)[0]

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        zeros = parameters.new_zeros(parameters.shape[:-1])
        return zeros, zeros

    def to_env(self, action: Tensor) -> Tensor:
        return self.inner.to_env(action)


class _Rule(nn.Module):
    """A user's function as a network."""

    def __init__(self, function: Callable[[Array], Array], team: TeamSpec, size: int) -> None:
        super().__init__()
        self.function, self.team, self.size = function, team, size
        self.carry_shape = (team.num_agents, 0)

    def scores(self, obs: Tensor) -> Tensor:
        found = np.asarray(self.function(obs.cpu().numpy()), dtype=np.float32)
        expected = (*obs.shape[: obs.dim() - len(self.team.obs.shape)], self.size)
        if found.shape != expected:
            raise ConfigError(
                f"Scripted on team {self.team.name!r}: expected scores of shape {expected}, got {found.shape}"
            )
        return torch.from_numpy(found).to(obs.device)

    def forward(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(x), carry.unsqueeze(0).expand(x.shape[0], *carry.shape)

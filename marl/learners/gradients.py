"""Gradients by autograd, from the losses of the learners; :func:`marl.compiled.gradient_for` may replace them.

Each fills the flat gradients of its learner's networks and returns what the learner reports. It looks its loss up when
it is called, so whatever stands there is what is learnt by.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from marl.action_critic import ActionCritic
from marl.actor_critic import Batch
from marl.auxiliary import Auxiliaries
from marl.memory.sample import Sample
from marl.nets.agent_net import AgentNet
from marl.nets.stacked import FlatParameters, HasMode, backward_through, gradients_of
from marl.parallel import both, worth_splitting


class RolloutGradient(Protocol):
    """The gradient of a loss over a rollout."""

    def begin(self, batch: Batch) -> None:
        """Take the rollout whose sequences :meth:`fill` is called with."""
        ...

    def fill(self, index: Tensor, clip: Any, entropy_weight: Any) -> Tensor:
        """Fill the gradients from some sequences; the loss's parts of every parameter set, ``(P, parts)``."""
        ...


class SampleGradient(Protocol):
    """The gradient of a loss over a draw from a replay."""

    def fill(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the gradients; the loss, what priorities are made of, and the values of the actions taken."""
        ...


class ActorCriticGradient(Protocol):
    """The gradients of an actor and of critics of its actions."""

    def fill_critic(
        self, sample: Sample, seen: Tensor, next_seen: Tensor, weight: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fill the critics' gradients; the loss, and what priorities are made of."""
        ...

    def fill_actor(self, sample: Sample, seen: Tensor, weight: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the actor's gradients; the loss, and the policy's entropy ``(L, B, N)``."""
        ...


class RolloutLearner(Protocol):
    """A learner with a loss over minibatches of a rollout."""

    flats: list[FlatParameters]
    parts_with_mode: list[nn.Module]
    auxiliary: Auxiliaries

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the loss's parts, in the order of their columns."""
        ...

    def to_static_buffer(self, batch: Batch) -> Batch:
        """Copy the batch to fixed memory, for a recorded step."""
        ...

    def weigh(self, batch: Batch) -> Tensor:
        """Weights ``(L, C, N)`` of its rows."""
        ...

    def compute_loss(
        self, batch: Batch, weight: Tensor, clip: Any, entropy_weight: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss, the approximate KL of each set ``(P,)``, and the loss's parts."""
        ...

    def auxiliary_loss(self, batch: Batch, weight: Tensor) -> Tensor:
        """What the auxiliary losses add to it."""
        ...


class RolloutAutograd:
    """The gradient of ``compute_loss``, in two halves at once where that pays."""

    def __init__(self, learner: RolloutLearner) -> None:
        """The loss is the learner's."""
        self.learner = learner
        self._batch: Batch | None = None

    def begin(self, batch: Batch) -> None:
        """Take the rollout."""
        self._batch = self.learner.to_static_buffer(batch)

    def fill(self, index: Tensor, clip: Any, entropy_weight: Any) -> Tensor:
        """Fill the gradients from some sequences; the loss's parts of every parameter set, ``(P, parts)``."""
        assert self._batch is not None
        learner = self.learner
        batch = self._batch.select(index)
        weight = learner.weigh(batch)  # (L, C, N)
        sequences = weight.shape[1]
        # A batch's statistics are those of all of it, and what is dropped must not depend on which thread is first.
        if sequences < 2 or learner.parts_with_mode or not worth_splitting(weight.numel(), weight.device):
            loss, told = self._loss(batch, weight, clip, entropy_weight)
            backward_through(loss, learner.flats)
            return told

        def half(start: int, length: int) -> tuple[list[tuple[Tensor | None, ...]], Tensor, Tensor]:
            loss, told = self._loss(batch.narrow(start, length), weight.narrow(1, start, length), clip, entropy_weight)
            return gradients_of(loss, learner.flats), told, loss.detach()

        middle = sequences // 2
        one, other = both(lambda: half(0, middle), lambda: half(middle, sequences - middle))
        for flat, first, second in zip(learner.flats, one[0], other[0], strict=True):
            flat.put(first, second)
            flat.loss = one[2] + other[2]
        return one[1] + other[1]

    def _loss(self, batch: Batch, weight: Tensor, clip: Any, entropy_weight: Any) -> tuple[Tensor, Tensor]:
        """The loss, auxiliary ones included, and its parts."""
        learner = self.learner
        loss, kl, parts = learner.compute_loss(batch, weight, clip, entropy_weight)
        if learner.auxiliary:
            more = learner.auxiliary_loss(batch, weight)
            loss, parts = loss + more, parts | {"auxiliary_loss": more.detach() / len(kl)}
        return loss, self._rows(kl, parts)

    def _rows(self, kl: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Means over parameter sets stand in the row of each; the KL is each set's own."""
        columns = [kl if name == "kl" else parts[name].expand(kl.shape) for name in self.learner.parts]
        return torch.stack(columns, dim=1)


class SampleLearner(Protocol):
    """A learner with one loss over a draw."""

    @property
    def flats(self) -> list[FlatParameters]:
        """The matrices whose gradients it has."""
        ...

    def compute_loss(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, what priorities are made of, and the values of the actions taken."""
        ...

    def backward(self, loss: Tensor, flats: Sequence[FlatParameters], sample: Sample, seen: Tensor) -> None:
        """Fill the gradients of it and of the auxiliary losses."""
        ...


class SampleAutograd:
    """The gradient of ``compute_loss``."""

    def __init__(self, learner: SampleLearner) -> None:
        """The loss is the learner's."""
        self.learner = learner

    def fill(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the gradients; the loss, what priorities are made of, and the values of the actions taken."""
        loss, error, chosen = self.learner.compute_loss(sample, seen, next_seen)
        self.learner.backward(loss, self.learner.flats, sample, seen)
        return loss.detach(), error, chosen


class ActorCriticLearner(Protocol):
    """A learner with a loss of critics and one of the actor."""

    actor: AgentNet
    critic: ActionCritic
    actor_flat: FlatParameters

    def compute_critic_loss(
        self, sample: Sample, seen: Tensor, next_seen: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The critics' loss, and what priorities are made of."""
        ...

    def compute_actor_loss(self, sample: Sample, seen: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """The actor's loss, and the policy's entropy."""
        ...

    def backward(self, loss: Tensor, flats: Sequence[FlatParameters], sample: Sample, seen: Tensor) -> None:
        """Fill the gradients of it and of the auxiliary losses."""
        ...

    def fitting(self, *nets: HasMode) -> AbstractContextManager[None]:
        """Within it dropout drops, in ``nets`` alone."""
        ...


class ActorCriticAutograd:
    """The gradients of ``compute_critic_loss`` and ``compute_actor_loss``."""

    def __init__(self, learner: ActorCriticLearner) -> None:
        """The losses are the learner's."""
        self.learner = learner

    def fill_critic(
        self, sample: Sample, seen: Tensor, next_seen: Tensor, weight: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fill the critics' gradients; the loss, and what priorities are made of."""
        learner = self.learner
        with learner.fitting(learner.critic.online):
            loss, error = learner.compute_critic_loss(sample, seen, next_seen, alpha)
            learner.critic.flat.backward(loss)
        return loss.detach(), error

    def fill_actor(self, sample: Sample, seen: Tensor, weight: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the actor's gradients; the loss, and the policy's entropy ``(L, B, N)``."""
        learner = self.learner
        with learner.critic.fixed(), learner.fitting(learner.actor):
            loss, entropy = learner.compute_actor_loss(sample, seen, alpha)
            learner.backward(loss, [learner.actor_flat], sample, seen)
        return loss.detach(), entropy

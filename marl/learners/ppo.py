"""Proximal policy optimization (Schulman et al. 2017), for every agent of a team at once.

IPPO is PPO with :class:`~marl.grid.scope.Local` critics, MAPPO is PPO with :class:`~marl.grid.scope.Joint` ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl import ops
from marl.actor_critic import Batch, explained_variance, minibatches
from marl.compiled import gradient_for
from marl.config import config, setting
from marl.graphs import Recorded, recording
from marl.learners.on_policy import OnPolicy, OnPolicyLearner
from marl.nets.owner import weights_of
from marl.nets.stacked import backward_through, gradients_of
from marl.parallel import both, worth_splitting
from marl.reduce import weighted_mean
from marl.schedules import Clock, Schedule, value_at
from marl.types import ConfigError, Spec, TeamSpec

# What is logged of the loss. The compiled gradient returns these columns in this order: one more is added there too.
PARTS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")


@config
class PPO(OnPolicy):
    """Proximal policy optimization with clipping (https://arxiv.org/abs/1707.06347)."""

    normalize_values: bool = setting(True, "train the critic on targets normalized by their running statistics")
    epochs: int = setting(10, "passes over each rollout", least=1)
    minibatches: int | None = setting(
        None, "parts of a pass, each one update; None: parts of 64 environment steps at least, at most 16", least=1
    )
    clip: Schedule = setting(0.2, "the ratio stays within 1 - clip and 1 + clip", above=0)
    value_clip: float | None = setting(None, "clip the value's change as well; None: do not", above=0)
    target_kl: float | None = setting(
        None, "stop a parameter set's epochs beyond this approximate KL; None: do not", above=0, changeable=True
    )

    sequential: bool = setting(
        False, "update parameter sets one after the other, each heeding those before it (HAPPO, Kuba et al. 2022)"
    )

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> PPOLearner:
        """Make the learner of one team."""
        return PPOLearner(self, spec, team, num_envs, seed, device)


class PPOLearner(OnPolicyLearner):
    """The learner of :class:`PPO` settings."""

    settings: PPO

    def __init__(
        self,
        settings: PPO,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
    ) -> None:
        """Refuses what does not fit the team's spaces or the number of copies."""
        super().__init__(settings, spec, team, num_envs, seed, device, settings.minibatches)
        self._recorded = Recorded(self._one_step, device)
        if settings.sequential and self.model.owner.flat and team.num_agents > 1:
            raise ConfigError(
                f"PPO on team {team.name!r}: sequential=True needs parameters to update one after the other; "
                "use sharing='none' or 'type'"
            )
        self._autograd = RolloutAutograd(self)
        self._gradient = gradient_for(self, self._autograd)

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """Epochs of minibatch steps over the rollout, then start the next one."""
        settings = self.settings
        clip, entropy_weight = value_at(settings.clip, clock), value_at(settings.entropy, clock)
        self._gradient = gradient_for(self, self._autograd)
        batch = self.begin_update(clock)
        totals: dict[str, Tensor] = {}
        if settings.sequential and self.model.owner.num_sets > 1:
            steps = self._one_by_one(batch, clip, entropy_weight, totals)
        else:
            steps = self._epochs(batch, set(range(self.model.owner.num_sets)), clip, entropy_weight, totals)
        return self.tell_update(batch, totals, steps)

    def tell_update(self, batch: Batch, totals: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
        """Begin the next rollout; the metrics of so many steps whose parts add up to ``totals``."""
        self.end_update()
        return {name: total / steps for name, total in totals.items()} | {
            "explained_variance": explained_variance(batch, self.reduce),
            "non_finite": self.flat.non_finite.clone(),
        }

    def _one_by_one(self, batch: Batch, clip: float, entropy_weight: float, totals: dict[str, Tensor]) -> int:
        """Update the parameter sets in a random order, each on advantages times the ratios of those before it.

        ``A_m = A prod_{k before m} pi_k(a_k) / pi_k,old(a_k)``: each set improves on what the others have become.
        """
        owner = self.model.owner
        sets, steps = owner.num_sets, 0
        order = torch.randperm(sets, generator=self.generator, device=self.generator.device).tolist()
        factor = torch.ones_like(batch.advantage[..., :1])  # (L, C, 1)
        for which in order:
            for other in range(sets):
                if other != which:
                    self._freeze(other)
            weighted = replace(batch, advantage=batch.advantage * factor)
            steps += self._epochs(weighted, {which}, clip, entropy_weight, totals)
            with torch.no_grad():
                log_prob, _, _ = self.model.evaluate(batch)
                members = batch.complete & (owner.on(log_prob.device) == which)
                change = torch.where(members, log_prob - batch.log_prob, 0.0)
                factor = factor * change.sum(-1, keepdim=True).exp()
        return steps

    def _epochs(
        self, batch: Batch, running: set[int], clip: float, entropy_weight: float, totals: dict[str, Tensor]
    ) -> int:
        """Passes over the batch until the KL limit stops every parameter set; returns the number of steps."""
        settings = self.settings
        self._gradient.begin(batch)
        for epoch in range(settings.epochs):
            kl_sum, parts = self._pass(batch, clip, entropy_weight)
            for name, part in parts.items():
                totals[name] = totals[name] + part if name in totals else part
            if epoch + 1 < settings.epochs and self.heed_kl(kl_sum, running):
                break
        self.thaw()
        return (epoch + 1) * self.minibatches

    def heed_kl(self, kl_sum: Tensor, running: set[int]) -> bool:
        """After a pass: freeze the ``running`` sets that are beyond the KL limit; whether none is running any more.

        ``kl_sum (P,)``: the sums of their approximate KL over minibatches.
        """
        limit = self.settings.target_kl
        if limit is None:
            return False
        for which, kl_mean in enumerate((kl_sum / self.minibatches).tolist()):
            if kl_mean > limit and which in running:
                running.discard(which)
                self._freeze(which)
        return not running

    def thaw(self) -> None:
        """Show all parameter sets to the optimizers again."""
        for flat in self.flats:
            flat.thaw()

    def _freeze(self, which: int) -> None:
        """Hide a parameter set from the optimizers."""
        for flat in self.flats:
            flat.freeze(which)

    def _pass(self, batch: Batch, clip: float, entropy_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """One step on each minibatch; sums over them of each set's approximate KL and of the loss's parts."""
        sums, norms, rows, told = None, None, [], []
        step = self._recorded if self.recordable and recording(batch.seen.device) else self._one_step
        with self.fitting():
            for index in minibatches(batch, self.minibatches, self.generator, self.ranks, self.num_envs):
                self.tell_rows(batch.complete[:, index])
                parts, norm = step(index, clip, entropy_weight)
                if not self.reduce.alone:
                    rows.append(self.rows(batch.complete[:, index]))
                    told.append(parts.float())
                # A recorded step writes where it wrote before.
                sums = parts.clone() if sums is None else sums.add_(parts)
                norms = norm.clone() if norms is None else norms.add_(norm)
        assert sums is not None
        assert norms is not None
        if not self.reduce.alone:
            means = torch.stack(told).flatten(0, 1)  # (minibatches P, parts)
            weighted_mean(self.reduce, torch.cat(rows), means)
            sums = torch.unflatten(means, 0, (len(told), -1)).sum(0)
        return self.tell_pass(sums, norms)

    def tell_pass(self, sums: Tensor, norms: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Each set's approximate KL ``(P,)`` and the loss's parts, from sums ``(P, parts)`` and ``(P,)`` of a pass."""
        sums = sums.float()
        totals = dict(zip(self.parts, sums.mean(0).unbind(), strict=True)) | {"gradient_norm": norms.mean()}
        return sums[:, PARTS.index("kl")], totals

    def _one_step(self, index: Tensor, clip: Any, entropy_weight: Any) -> tuple[Tensor, Tensor]:
        """One step on some sequences of the batch; the loss's parts ``(P, parts)``, the gradient's norms ``(P,)``."""
        if len(index):
            parts = self._gradient.fill(index, clip, entropy_weight)
        else:  # all of this minibatch is other ranks'
            parts = torch.zeros(self.model.owner.num_sets, len(self.parts), device=self.flat.values.device)
            for flat in self.flats:
                flat.gradients.zero_()
        return parts, self.step()

    @property
    def refuses_ranks(self) -> str:
        """As of every on-policy learner, and one set after the other."""
        return "sequential=True" if self.settings.sequential else super().refuses_ranks

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the loss's parts, in the order of the columns that gradients return."""
        return (*PARTS, "auxiliary_loss") if self.auxiliary else PARTS

    def weigh(self, batch: Batch) -> Tensor:
        """Weights ``(L, C, N)`` under which a sum is the mean of each parameter set."""
        return weights_of(batch.complete, self.model.owner)

    def compute_loss(
        self, batch: Batch, weight: Tensor, clip: Any, entropy_weight: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss (mean over rows, sum over parameter sets), approximate KL of each set ``(P,)``, and its parts.

        ``L = -min(r A, clip(r, 1 - c, 1 + c) A) + w_v (V - target)^2 / 2 - w_e H``, ``r = pi(a) / pi_old(a)``.
        ``weight (L, C, N)`` makes sums the means of each set: see :func:`~marl.nets.owner.weights_of`.
        """
        settings, owner = self.settings, self.model.owner
        log_prob, entropy, value = self.model.evaluate(batch)  # (L, C, N)
        log_ratio = torch.where(batch.complete, log_prob - batch.log_prob, 0.0)
        ratio = log_ratio.exp()
        cost = self.policy_cost(ratio, batch.advantage, clip)  # (L, C, N)
        error = ops.l2_loss(value, batch.target)
        if settings.value_clip is not None:
            near = batch.value + (value - batch.value).clamp(-settings.value_clip, settings.value_clip)
            clipped = ops.l2_loss(near, batch.target)
            error = torch.where(clipped > error, clipped, error)
        policy_loss = (cost * weight).sum()
        value_loss = (error * weight).sum()
        entropy_sum = (entropy * weight).sum()
        loss = policy_loss + settings.value_weight * value_loss - entropy_weight * entropy_sum
        with torch.no_grad():
            kl = owner.sum_sets(((ratio - 1 - log_ratio) * weight).sum((0, 1)))
            sets = owner.num_sets
            beyond = (((ratio - 1).abs() > clip) * weight).sum() / sets
        parts = {
            "policy_loss": policy_loss.detach() / sets,
            "value_loss": value_loss.detach() / sets,
            "entropy": entropy_sum.detach() / sets,
            "kl": kl.mean(),
            "clip_fraction": beyond,
        }
        return loss, kl, parts

    def policy_cost(self, ratio: Tensor, advantage: Tensor, clip: Any) -> Tensor:
        """``-min(r A, clip(r, 1 - c, 1 + c) A)`` of each row, ``(L, C, N)``."""
        return ops.clipped_surrogate_pg_loss(ratio.unsqueeze(0), advantage.unsqueeze(0), clip)


class RolloutAutograd:
    """The gradient of :meth:`PPOLearner.compute_loss`, in two halves at once where that pays.

    :func:`marl.compiled.gradient_for` may replace it.
    """

    def __init__(self, learner: PPOLearner) -> None:
        """The loss is looked up when it is computed: whatever stands there is what is learnt by."""
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

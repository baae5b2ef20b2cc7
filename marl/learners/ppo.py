"""Proximal policy optimisation (Schulman et al. 2017), for every agent of a team at once.

IPPO is PPO with :class:`~marl.scope.Local` critics, MAPPO is PPO with :class:`~marl.scope.Joint` ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from marl import ops
from marl.actor_critic import ActorCritic, Batch, check_minibatches, explained_variance, minibatches, weights_of
from marl.config import config, setting
from marl.credit import Credit, Independent
from marl.learners.base import ALL_KINDS, check_kind, generator_from
from marl.memory.rollout import Decision, Look, Rollout
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.networks import Network
from marl.parallel import both, worth_splitting
from marl.schedules import Clock, Schedule, value_at
from marl.scope import Joint, Local, Scope
from marl.sharing import Sharing
from marl.types import ActionKind, Spec, TeamSpec


@config
class PPO:
    """Proximal policy optimisation with clipping (https://arxiv.org/abs/1707.06347)."""

    action_kinds: ClassVar[frozenset[ActionKind]] = ALL_KINDS

    critic: Scope = setting(Local(), "what the critic sees: Local() or Joint()")
    sharing: Sharing = setting("all", "'none', 'all', 'type' or a mapping of agent patterns to groups")
    credit: Credit = setting(Independent(), "whose reward an agent learns from: Independent() or TeamReward()")
    network: Network | None = setting(None, "MLP(), CNN(), GRU() or Custom(); None: MLP(), or CNN() for images")
    critic_network: Network | None = setting(None, "the critic's; None: the same choice as the actor's")
    agent_id: bool = setting(True, "append the agent's id one-hot where agents share parameters")
    rollout: int = setting(128, "environment steps per copy between updates", least=1)
    sequence: int | None = setting(None, "rows of a recurrent training sequence; None: the whole rollout", least=1)
    epochs: int = setting(4, "passes over each rollout", least=1)
    minibatches: int = setting(4, "parts of a pass, each one update", least=1)
    lr: Schedule = setting(2.5e-4, "learning rate, a number or Linear(start, end)", least=0)
    discount: float = setting(0.99, "gamma, per own turn", least=0, most=1)
    gae_lambda: float = setting(0.95, "lambda of the advantage estimate", least=0, most=1)
    clip: Schedule = setting(0.2, "the ratio stays within 1 - clip and 1 + clip", above=0)
    value_clip: float | None = setting(None, "clip the value's change as well; None: do not", above=0)
    value_weight: float = setting(0.5, "weight of the value loss", least=0)
    entropy: Schedule = setting(0.0, "weight of the entropy bonus, a number or Linear(start, end)", least=0)
    max_grad_norm: float = setting(0.5, "largest gradient norm of a parameter set", above=0)
    target_kl: float | None = setting(
        None, "stop a parameter set's epochs beyond this approximate KL; None: do not", above=0
    )
    normalize_advantages: bool = setting(True, "zero mean and unit deviation per parameter set and rollout")
    normalize_values: bool = setting(False, "train the critic on targets normalised by their running statistics")
    normalize_obs: bool = setting(False, "running normalisation of vector observations")
    squash: bool = setting(False, "tanh-squashed instead of clipped Gaussian actions")
    adam_eps: float = setting(1e-5, "epsilon of Adam", above=0)

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return self.critic == Joint(of="state")

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> PPOLearner:
        """Make the learner of one team."""
        return PPOLearner(self, spec, team, num_envs, seed, device)


class PPOLearner:
    """See :class:`PPO`."""

    def __init__(
        self,
        settings: PPO,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
    ) -> None:
        """Refuses action spaces and batch sizes that do not fit."""
        check_kind(settings, team)
        self.settings, self.team = settings, team
        init, play = seed.spawn(2)
        self.model = ActorCritic(
            spec,
            team,
            num_envs,
            init,
            critic=settings.critic,
            sharing=settings.sharing,
            network=settings.network,
            critic_network=settings.critic_network,
            agent_id=settings.agent_id,
            normalize_obs=settings.normalize_obs,
            normalize_values=settings.normalize_values,
            squash=settings.squash,
            device=device,
        )
        self.recurrent = self.model.carry_width > 0 or self.model.critic.carry_shape[1] > 0
        check_minibatches("PPO", settings.rollout, num_envs, settings.minibatches, settings.sequence, self.recurrent)
        self.flat = self.model.parameters_flat
        self.optimiser = torch.optim.Adam(
            self.flat.rows, lr=value_at(settings.lr, Clock(0, 1)), eps=settings.adam_eps, fused=True
        )
        self.generator = generator_from(play, device)
        self.memory = Rollout(
            spec, team, settings.critic, settings.credit, settings.rollout, num_envs, self.model.carry_width, device
        )

    @property
    def carry_width(self) -> int:
        """Width of the actor's recurrent state."""
        return self.model.carry_width

    def act(self, look: Look, explore: bool, generator: torch.Generator | None = None) -> Decision:
        """Sample, or take the most likely action."""
        return self.model.act(look, generator or self.generator, explore)

    def ready(self) -> bool:
        """Whether the rollout is full."""
        return self.memory.full

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """Epochs of minibatch steps over the rollout, then start the next one."""
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = value_at(settings.lr, clock)
        clip, entropy_weight = value_at(settings.clip, clock), value_at(settings.entropy, clock)
        batch = self.model.prepare(self.memory, settings.discount, settings.gae_lambda, settings.sequence)
        if settings.normalize_advantages:
            self._normalize(batch)
        running = set(range(self.model.owner.num_sets))
        totals: dict[str, Tensor] = {}
        for epoch in range(settings.epochs):
            count = 0
            kl_sum = torch.zeros(self.model.owner.num_sets, device=batch.seen.device)
            for minibatch in minibatches(batch, settings.minibatches, self.generator):
                kl, parts = self._gradient(minibatch, clip, entropy_weight)
                parts["gradient_norm"] = self.flat.clip(settings.max_grad_norm).mean()
                self.optimiser.step()
                kl_sum += kl
                count += 1
                for name, part in parts.items():
                    totals[name] = totals[name] + part if name in totals else part.clone()
            if settings.target_kl is not None and epoch + 1 < settings.epochs:
                for which, kl_mean in enumerate((kl_sum / count).tolist()):
                    if kl_mean > settings.target_kl and which in running:
                        running.discard(which)
                        self.flat.freeze(which)
                if not running:
                    break
        self.flat.thaw()
        self.model.update_normalizers(self.memory)
        self.memory.restart()
        steps = (epoch + 1) * settings.minibatches
        return {name: total / steps for name, total in totals.items()} | {
            "explained_variance": explained_variance(batch),
            "non_finite": self.flat.non_finite,
        }

    def _gradient(self, batch: Batch, clip: float, entropy_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Fill the gradients from one minibatch, in two halves at once where that pays."""
        weight = weights_of(batch.complete, self.model.owner)  # (L, C, N)
        sequences = weight.shape[1]
        if sequences < 2 or not worth_splitting(weight.numel(), weight.device):
            loss, kl, parts = self.compute_loss(batch, weight, clip, entropy_weight)
            self.flat.backward(loss)
            return kl, parts

        def half(start: int, length: int) -> tuple[tuple[Tensor | None, ...], Tensor, dict[str, Tensor]]:
            rows = batch.narrow(start, length), weight.narrow(1, start, length)
            loss, kl, parts = self.compute_loss(*rows, clip, entropy_weight)
            return self.flat.gradient(loss), kl, parts

        middle = sequences // 2
        one, other = both(lambda: half(0, middle), lambda: half(middle, sequences - middle))
        self.flat.put(one[0], other[0])
        return one[1] + other[1], {name: part + other[2][name] for name, part in one[2].items()}

    def compute_loss(
        self, batch: Batch, weight: Tensor, clip: float, entropy_weight: float
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss (mean over rows, sum over parameter sets), approximate KL of each set ``(P,)``, and its parts.

        ``L = -min(r A, clip(r, 1 - c, 1 + c) A) + w_v (V - target)^2 / 2 - w_e H``, ``r = pi(a) / pi_old(a)``.
        ``weight (L, C, N)`` makes sums the means of each set: see :func:`~marl.actor_critic.weights_of`.
        """
        settings, owner = self.settings, self.model.owner
        log_prob, entropy, value = self.model.evaluate(batch)  # (L, C, N)
        log_ratio = torch.where(batch.complete, log_prob - batch.log_prob, 0.0)
        ratio = log_ratio.exp()
        surrogate = torch.min(ratio * batch.advantage, ratio.clamp(1 - clip, 1 + clip) * batch.advantage)
        error = (value - batch.target).square()
        if settings.value_clip is not None:
            near = batch.value + (value - batch.value).clamp(-settings.value_clip, settings.value_clip)
            error = torch.max(error, (near - batch.target).square())
        policy_loss = -(surrogate * weight).sum()
        value_loss = 0.5 * (error * weight).sum()
        entropy_sum = (entropy * weight).sum()
        loss = policy_loss + settings.value_weight * value_loss - entropy_weight * entropy_sum
        with torch.no_grad():
            kl = owner.sum_sets(((ratio - 1 - log_ratio) * weight).sum((0, 1)))
            sets = owner.num_sets
            clipped = (((ratio - 1).abs() > clip) * weight).sum() / sets
        parts = {
            "policy_loss": policy_loss.detach() / sets,
            "value_loss": value_loss.detach() / sets,
            "entropy": entropy_sum.detach() / sets,
            "kl": kl.mean(),
            "clip_fraction": clipped,
        }
        return loss, kl, parts

    def _normalize(self, batch: Batch) -> None:
        owner = self.model.owner
        index = owner.tensor.to(batch.advantage.device)
        batch.advantage.copy_(ops.masked_normalize(batch.advantage, batch.complete, index, owner.num_sets))

    def policy(self, agent: int) -> tuple[AgentNet, Distribution]:
        """One agent's own actor."""
        net, distribution = self.model.restrict(agent, self.team, self.settings.squash)
        return net, distribution

    def state_dict(self) -> dict[str, Any]:
        """Parameters, moments, normalisers, random stream, rollout."""
        return {
            "model": dict(self.model.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "memory": self.memory.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.memory.load_state_dict(state["memory"])

"""Deep Q-learning (Mnih et al. 2015) and its kin, for every agent of a team at once.

IQL is DQN; VDN, QMIX, QPLEX and weighted QMIX are DQN with a mixer as credit.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl import ops
from marl.compiled import gradient_for
from marl.config import config, setting
from marl.exploration import EpsilonGreedy, Exploration, Greedy
from marl.grid.mixers import Choices, MixerContext, Mixing, TeamMixer, team_mixer, team_values
from marl.grid.scope import Local, Scope
from marl.learners.off_policy import OffPolicy, OffPolicyLearner, at_successors, refuse, without_memory
from marl.memory.base import Decision, PolicyInput
from marl.memory.sample import Sample, td_target
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.networks import MLP
from marl.nets.q_head import Atoms, QHead, Quantiles
from marl.nets.stacked import FlatParameters
from marl.optim import Stepper
from marl.ranks import uniform
from marl.schedules import SCHEDULES, Linear, Schedule, value_at
from marl.types import ActionKind, Spec, TeamSpec


@config
class DQN(OffPolicy):
    """Deep Q-learning (https://www.nature.com/articles/nature14236)."""

    action_kinds: ClassVar[frozenset[ActionKind]] = frozenset(("discrete",))

    double: bool = setting(True, "the network chooses, the target judges the next action (van Hasselt et al. 2016)")
    dueling: bool = setting(False, "value and advantage streams (Wang et al. 2016)")
    distribution: Atoms | Quantiles | None = setting(None, "Atoms() for C51, Quantiles() for QR-DQN; None: the mean")
    huber: float | None = setting(None, "TD errors count linearly beyond this; None: squared", above=0)
    hysteresis: float = setting(
        1.0, "learning rate of negative TD errors relative to positive ones (Matignon et al. 2007)", least=0, most=1
    )
    leniency: Schedule = setting(
        0.0,
        "probability of forgiving a negative TD error (Panait et al. 2006)",
        least=0,
        most=1,
    )
    td_lambda: float | None = setting(None, "lambda-returns along sequences; None: n-step returns", least=0, most=1)

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> DQNLearner:
        """Make the learner of one team."""
        return DQNLearner(self, spec, team, num_envs, seed, device)


class DQNLearner(OffPolicyLearner):
    """The learner of :class:`DQN` settings."""

    settings: DQN
    head: QHead

    def __init__(
        self,
        settings: DQN,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
    ) -> None:
        """Refuses what does not fit the team's spaces or the settings."""
        super().__init__(settings, spec, team, num_envs, seed, device)
        where = self.where
        refuse(
            self.critic_shape is not None,
            f"{where}: critic={type(settings.critic).__name__}() has no meaning, agents must find their best action "
            "from their own observation; use credit=VDN() or QMix(), or DDPG with critic=Joint()",
        )
        refuse(
            self.mixing and settings.distribution is not None,
            f"{where}: mixers mix expected values; use distribution=None",
        )
        refuse(
            settings.td_lambda is not None and self.length == 1,
            f"{where}: td_lambda needs sequences; set sequence= to the rows of one",
        )
        refuse(
            settings.td_lambda is not None and settings.n_step > 1,
            f"{where}: td_lambda={settings.td_lambda} and n_step={settings.n_step} are two answers to one question; "
            "use n_step=1 or td_lambda=None",
        )
        if settings.distribution is not None:
            plain = {"huber": None, "hysteresis": 1.0, "leniency": 0.0, "td_lambda": None}
            ignored = [name for name, value in plain.items() if getattr(settings, name) != value]
            ignored += ["n_step"] if settings.n_step > 1 and self.length > 1 else []
            refuse(
                bool(ignored),
                f"{where}: {' and '.join(ignored)} would change errors of expected values, but "
                f"{type(settings.distribution).__name__}() has a loss of its own; leave out one of them",
            )
        self.head = QHead(team.action.sizes[0], settings.dueling, settings.distribution)
        self.net = self._make_net()
        self.target = copy.deepcopy(self.net)
        self.flat = FlatParameters([self.net], self.owner.num_sets)
        self.target_flat = FlatParameters([self.target], self.owner.num_sets)
        self.flats = [self.flat]
        self.noisy = isinstance(self.network, MLP) and self.network.noisy > 0
        self.mixer: TeamMixer | None = None
        scope: Scope = Local()
        credit = settings.credit
        if isinstance(credit, Mixing):
            scope = credit.scope(spec)
            actions, seed = self.head.actions, self._init_seed
            context = MixerContext(spec, team, scope, self.owner, actions, seed, self.device, self._make_net)
            self.mixer = team_mixer(credit, context)
            self.flats += self.mixer.flats
        self.steppers = [Stepper(settings.optimizer, flat) for flat in self.flats]
        self.remember(scope)
        self._autograd = SampleAutograd(self)
        gradient_for(self, self._autograd)

    def _make_net(self) -> AgentNet:
        return self.make_net(self.head.size, self.generators(), gain=1.0)

    # --- the equations ------------------------------------------------------------------------------------------------

    def compute_loss(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, what priorities are made of, and ``Q(s, a)``, ``(L, B, N)``, from encoded observations.

        ``y = r + gamma Q'(s', argmax_a Q(s', a))``.
        """
        with self.fitting(self.net):
            out, carries = self.net.read(seen, sample.carry, sample.started, sample.acting)  # (L, B, N, K)
        with torch.no_grad():
            known = None if self.net.parts_with_mode else (out, carries)
            next_out = at_successors(self.target, sample, seen, next_seen)  # (L, B, N, K)
            chooser = at_successors(self.net, sample, seen, next_seen, known) if self.settings.double else next_out
            best = self.head.mode(chooser, sample.next_action_mask)  # (L, B, N) a*
        if self.mixer is None:
            loss, error = self.separate_loss(sample, out, next_out, best)
        else:
            with self.fitting(self.mixer):
                loss, error = self.mixed_loss(self.mixer, sample, seen, next_seen, out, next_out, best)
        with torch.no_grad():
            value = pick(self.head.values(out), sample.action)
        return loss, error, value

    def separate_loss(self, sample: Sample, out: Tensor, next_out: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
        """Each agent's own loss, summed over parameter sets, and what priorities are made of, ``(B, N)``."""
        settings = self.settings
        weight = self.experience.weigh(sample)  # (L, B, N)
        value, next_value = pick(self.head.spread(out), sample.action), pick(self.head.spread(next_out), best)
        match settings.distribution:
            case None:
                target = td_target(sample, next_value.squeeze(-1), settings.n_step, settings.td_lambda)  # (L, B, N)
                error = target - value.squeeze(-1)
                cost = self.cost(error)
            case Atoms() as atoms:
                support = atoms.support(out.device)
                moved = sample.reward.unsqueeze(-1) + sample.discount.unsqueeze(-1) * support  # (L, B, N, Z)
                target = ops.categorical_l2_project(moved, next_value.softmax(-1), support)
                cost = ops.categorical_cross_entropy(target, value)
                error = cost.detach()
            case Quantiles() as quantiles:
                levels = quantiles.levels(out.device)
                target = sample.reward.unsqueeze(-1) + sample.discount.unsqueeze(-1) * next_value
                cost = ops.quantile_regression_loss(value, levels, target, quantiles.huber)
                error = cost.detach()
        own = torch.where(sample.complete, error.detach(), 0.0).abs().mean(0)  # (B, N)
        return (cost * weight).sum(), own

    def mixed_loss(
        self,
        mixer: TeamMixer,
        sample: Sample,
        seen: Tensor,
        next_seen: Tensor,
        out: Tensor,
        next_out: Tensor,
        best: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The team's loss: ``(Q_tot(s, a) - y)^2`` with ``y = r + gamma Q_tot'(s', a*)``, and the errors ``(B, 1)``."""
        settings, blank = self.settings, self.net.forget(sample.carry)

        def values_now(net: AgentNet) -> Tensor:
            return self.head.values(net.read(seen, blank, sample.started, sample.acting)[0])

        def values_later(net: AgentNet) -> Tensor:
            return self.head.values(at_successors(net, replace(sample, carry=blank), seen, next_seen))

        choices = Choices(self.head.values(out), sample.action, sample.action_mask, values_now)
        team = team_values(choices, sample.acting, sample.joint)
        total = mixer.now(team)  # (L, B): Q_tot(s, a)
        with torch.no_grad():
            next_choices = Choices(self.head.values(next_out), best, sample.next_action_mask, values_later)
            next_total = mixer.later(team_values(next_choices, sample.next_acting, sample.next_joint))  # (L, B)
            spread = next_total.unsqueeze(-1).expand(sample.reward.shape)
            target = td_target(sample, spread, settings.n_step, settings.td_lambda)[..., 0]  # (L, B): y
        error = target - total
        cost = mixer.loss(self.cost(error), team, total, target)  # (L, B)
        counts = self.experience.counts(sample)[..., 0]
        weight = counts / counts.sum().clamp(min=1) * sample.weight[:, 0]
        return (cost * weight).sum(), torch.where(counts, error.detach(), 0.0).abs().mean(0).unsqueeze(-1)

    def cost(self, error: Tensor) -> Tensor:
        """Half the squared (or Huber) TD error; negative ones scaled by hysteresis, or forgiven."""
        settings = self.settings
        cost = ops.l2_loss(error) if settings.huber is None else ops.huber_loss(error, settings.huber)
        leniency = value_at(settings.leniency, self.clock)
        if settings.hysteresis < 1 or leniency > 0:
            scale = torch.full_like(error, settings.hysteresis)
            if leniency > 0:
                chance = uniform(error.shape, self.generator, error.device)
                scale *= chance >= leniency
            cost = torch.where(error.detach() < 0, scale, 1.0) * cost
        return cost

    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """``y = r + gamma Q'(s', argmax_a Q(s', a))``; one step on the TD errors."""
        settings = self.settings
        if self.noisy:
            self.net.draw_noise(self.generator)
            self.target.draw_noise(self.generator)
        seen, next_seen = self.net.encode(sample.obs), self.net.encode(sample.next_obs)
        loss, error, value = gradient_for(self, self._autograd).fill(sample, seen, next_seen)
        norm, *_ = [stepper.step(settings.max_grad_norm) for stepper in self.steppers]
        self.auxiliary.step(settings.max_grad_norm)
        if self.target_due():
            self.target_flat.follow(self.flat, settings.tau)
            if self.mixer is not None:
                self.mixer.track(settings.tau)
        self.net.see(sample.obs, sample.acting, self.reduce)
        return {
            "loss": loss / self.owner.num_sets,
            **self.auxiliary_parts(),
            "value": self.experience.mean(value.view(sample.complete.shape), sample),
            "gradient_norm": norm.mean(),
            "td_error": error,
            "non_finite": self._non_finite(),
        }

    def _non_finite(self) -> Tensor:
        """Updates in a row that were skipped, in any of the parameter matrices."""
        if len(self.flats) == 1:
            return self.flat.non_finite.clone()
        return torch.stack([flat.non_finite for flat in self.flats]).amax()

    @cached_property
    def _recordable(self) -> bool:
        """Leniency changes with time, and a recording would keep one probability for ever."""
        return super()._recordable and not isinstance(self.settings.leniency, SCHEDULES)

    # --- acting -------------------------------------------------------------------------------------------------------

    @property
    def default_exploration(self) -> Exploration:
        """Epsilon falls over the first 10,000 steps; noisy networks explore by themselves."""
        if isinstance(self.network, MLP) and self.network.noisy:
            return Greedy()
        return EpsilonGreedy(Linear(1.0, 0.05, 10_000))

    @property
    def policy_net(self) -> AgentNet:
        """The network of the values."""
        return self.net

    def act_with_net(
        self, net: AgentNet, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None
    ) -> Decision:
        """As :meth:`act`, with ``net`` instead of the network."""
        if self.noisy:
            net.draw_noise((generator or self.generator) if explore else None)
        return super().act_with_net(net, inputs, explore, generator)

    def choose(self, out: Tensor, inputs: PolicyInput, explore: bool, generator: torch.Generator | None) -> Tensor:
        """The action of the highest value, or one near it."""
        if not explore:
            return self.head.mode(out, inputs.action_mask)
        return self.explore(self.head.values(out), inputs, generator)

    @torch.no_grad()
    def planned(self, obs: Tensor, action_mask: Tensor | None) -> Tensor:
        """One-hots ``(L, B, M, A)`` of the target's greedy actions, for joint critics of other teams."""
        out = without_memory(self.target, self.net.encode(obs))
        return ops.one_hot(self.head.mode(out, action_mask), self.head.actions)

    def policy(self, agent: int | None = None) -> tuple[AgentNet, Distribution]:
        """One agent's own values, or the team's, acted on greedily."""
        alone = self.net.restrict(agent) if agent is None else self.net.restrict(agent).cpu()
        alone.draw_noise(None)
        return alone, self.head

    # --- saving -------------------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        """The network, the mixer, and their targets."""
        return {"net": self.net, "target": self.target} | ({} if self.mixer is None else self.mixer.saved_modules())

    def optimizers(self) -> dict[str, Stepper]:
        """The optimizer of each matrix of parameters."""
        return {f"adam.{place}": stepper for place, stepper in enumerate(self.steppers)}


def pick(values: Tensor, action: Tensor) -> Tensor:
    """The entries of chosen actions: ``(L, B, N, A)`` to ``(L, B, N)``, or ``(L, B, N, A, Z)`` to ``(L, B, N, Z)``."""
    if values.dim() == action.dim() + 1:
        return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    index = action[..., None, None].expand(*action.shape, 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)


class SampleAutograd:
    """The gradient of :meth:`DQNLearner.compute_loss`; :func:`marl.compiled.gradient_for` may replace it."""

    def __init__(self, learner: DQNLearner) -> None:
        """The loss is looked up when it is computed: whatever stands there is what is learnt by."""
        self.learner = learner

    def fill(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the gradients; the loss, what priorities are made of, and the values of the actions taken."""
        loss, error, chosen = self.learner.compute_loss(sample, seen, next_seen)
        self.learner.backward(loss, self.learner.flats, sample, seen)
        return loss.detach(), error, chosen

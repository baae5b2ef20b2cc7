"""What on-policy learners share: they fill a rollout, learn from it once and discard it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from marl import ops
from marl.actor_critic import ActorCritic, Batch, count_minibatches
from marl.auxiliary import AuxiliaryLoss
from marl.channels import Channel, ChannelNet
from marl.config import config, setting
from marl.graphs import Recorded, recording
from marl.grid.correction import VTrace
from marl.grid.credit import Credit, Independent
from marl.grid.critics import Estimating, ValueEstimator
from marl.grid.mixers import Mixing
from marl.grid.scope import Local, Scope
from marl.grid.sharing import SharingLike
from marl.learners.base import ALL_KINDS, check_kind, generator_from, make_auxiliaries, refuse_noise, restore_generator
from marl.memory.base import Decision, PolicyInput
from marl.memory.rollout import Rollout
from marl.nets.agent_net import AgentNet
from marl.nets.delayed import Delayed
from marl.nets.distributions import Distribution
from marl.nets.networks import Network
from marl.nets.owner import weights_of
from marl.nets.stacked import backward_through, fitting, holds_own, parts_with_mode
from marl.optim import Adam, Optimizer, Stepper
from marl.ranks import CopiesGenerator, Ranks
from marl.reduce import current
from marl.schedules import Clock, Schedule, value_at
from marl.types import ActionKind, Array, ConfigError, Spec, Step, TeamSpec


@config
class OnPolicy:
    """The settings that every on-policy learner has."""

    action_kinds: ClassVar[frozenset[ActionKind]] = ALL_KINDS

    critic: Scope = setting(Local(), "what the critic sees: Local() or Joint()")
    sharing: SharingLike = setting("all", "'none', 'all', 'type' or a mapping of agent patterns to groups")
    credit: Credit = setting(
        Independent(), "whose reward an agent learns from: Independent(), TeamReward() or Counterfactual()"
    )
    network: Network | None = setting(None, "MLP(), CNN(), GRU(), LSTM() or Custom(); None: MLP(), or CNN() for images")
    critic_network: Network | None = setting(None, "the critic's; None: the same choice as the actor's")
    shared_trunk: bool = setting(
        False, "policy and critic share all layers but the last one: half the arithmetic, and one loss moves the other"
    )
    channel: Channel | None = setting(
        None, "what the team's policies tell each other: CommNet(), TarMAC(), ...; None: nothing"
    )
    agent_id: bool = setting(True, "append the agent's id one-hot where agents share parameters")
    rollout: int = setting(128, "environment steps per copy between updates", least=1)
    sequence: int | None = setting(None, "rows of a recurrent training sequence; None: the whole rollout", least=1)
    lr: Schedule = setting(2.5e-4, "learning rate, a number or Linear(start, end)", least=0)
    discount: float = setting(0.99, "gamma, per own turn", least=0, most=1)
    gae_lambda: float = setting(
        0.95, "lambda of the advantage estimate; 1: n-step returns", least=0, most=1, changeable=True
    )
    correction: VTrace | None = setting(
        None, "VTrace() corrects advantages and targets for the difference to the policy that played; None: do not"
    )
    lag: int = setting(0, "updates by which the policy that plays is behind the one that learns", least=0)
    value_weight: float = setting(0.5, "weight of the value loss", least=0)
    entropy: Schedule = setting(0.0, "weight of the entropy bonus, a number or Linear(start, end)", least=0)
    max_grad_norm: float = setting(0.5, "largest gradient norm of a parameter set", above=0)
    normalize_advantages: bool = setting(True, "zero mean and unit deviation per parameter set and rollout")
    normalize_values: bool = setting(False, "train the critic on targets normalized by their running statistics")
    normalize_obs: bool = setting(False, "running normalization of vector observations")
    squash: bool = setting(False, "tanh-squashed instead of clipped Gaussian actions")
    optimizer: Optimizer = setting(Adam(), "Adam(), AdamW(), RMSprop(), SGD() or TorchOptim(), all in marl.optim")
    auxiliary: tuple[AuxiliaryLoss, ...] = setting((), "what the policy also learns: losses of marl.auxiliary")

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return self.critic.reads_state or self.credit.reads_state


def refuse_trunk(where: str, settings: OnPolicy) -> None:
    """Raise ConfigError where a critic cannot share its policy's layers."""
    if settings.critic != Local():
        raise ConfigError(
            f"{where}: shared_trunk=True: {settings.critic} reads something else than the policy; use Local()"
        )
    if settings.critic_network is not None:
        raise ConfigError(f"{where}: shared_trunk=True and critic_network= exclude each other; leave one of them out")
    if isinstance(settings.credit, Estimating):
        name = type(settings.credit).__name__
        raise ConfigError(
            f"{where}: shared_trunk=True: {name}() has a critic of its own; use TeamReward() or Independent()"
        )


class OnPolicyLearner:
    """Acting, the rollout, checkpoints; a subclass adds the update."""

    chosen: Any = None  # what :func:`~marl.compiled.gradient_for` decided
    settings: OnPolicy

    def __init__(
        self,
        settings: OnPolicy,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
        minibatches: int | None = 1,
    ) -> None:
        """Refuses action spaces, batch sizes and sequence lengths that do not fit."""
        check_kind(type(settings).__name__, settings.action_kinds, team)
        refuse_noise(type(settings).__name__, team, settings.network, settings.critic_network)
        self.settings, self.team, self._spec = settings, team, spec
        credit, where = settings.credit, f"{type(settings).__name__} on team {team.name!r}"
        if isinstance(credit, Mixing):
            raise ConfigError(
                f"{where}: {type(credit).__name__}() mixes values of actions; use DQN or DDPG, or credit=TeamReward()"
            )
        if settings.shared_trunk:
            refuse_trunk(where, settings)
        self.reduce = current()  # with whom it learns as one
        self.ranks = self.reduce if isinstance(self.reduce, Ranks) else None
        self.num_envs = num_envs  # copies of its own, not those of other ranks
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
            channel=settings.channel,
            agent_id=settings.agent_id,
            normalize_obs=settings.normalize_obs,
            normalize_values=settings.normalize_values,
            squash=settings.squash,
            shared_trunk=settings.shared_trunk,
            estimator=credit.estimator if isinstance(credit, Estimating) else ValueEstimator,
            device=device,
        )
        if settings.correction is not None and self.model.estimator.judges_actions:
            raise ConfigError(
                f"{where}: correction={type(settings.correction).__name__}() corrects values of states, but "
                f"credit={type(credit).__name__}() judges actions; use correction=None or another credit"
            )
        if settings.lag and settings.channel is not None:
            raise ConfigError(
                f"{where}: lag={settings.lag} lets an older policy play, but what is said in a channel= is read from "
                "the newest; use lag=0 or channel=None"
            )
        recurrent = self.model.carry_width > 0 or self.model.critic.carry_shape[1] > 0
        name = type(settings).__name__
        self.minibatches = count_minibatches(
            name,
            settings.rollout,
            num_envs * (1 if self.ranks is None else self.ranks.size),
            minibatches,
            settings.sequence,
            recurrent,
        )
        self.flat = self.model.parameters_flat
        self.model.eval()
        self.auxiliary = make_auxiliaries(
            f"{name} on team {team.name!r}", settings, self.model.actor, team, seed, device
        )
        self.flats = [self.flat, *self.auxiliary.flats]
        self.parts_with_mode = [*parts_with_mode(self.model), *self.auxiliary.parts_with_mode]
        self._player = Delayed(self.model.actor, settings.lag) if settings.lag else None
        self.optimizer = Stepper(settings.optimizer, self.flat)
        self.set_lr(Clock(0, 1))
        self.generator = generator_from(play, device, self.ranks)
        self.memory = Rollout(
            spec, team, settings.critic, settings.credit, settings.rollout, num_envs, self.model.carry_width, device
        )
        # What a team says is looked at while it acts.
        self.recordable = self.optimizer.recordable and not holds_own([self.model, self.auxiliary.modules])
        talks = isinstance(self.model.actor, ChannelNet)
        self._records_acting = self.recordable and not talks and recording(self.memory.device)
        self._acting = Recorded(self._act, device, [self.generator], stay=True)
        self._static_buffer: Batch | None = None

    @property
    def refuses_ranks(self) -> str:
        """What of it is not built for several ranks, in words; empty: all of it is."""
        settings = self.settings
        found = {
            "channel=": settings.channel is not None,
            "auxiliary=": bool(settings.auxiliary),
            "a critic that judges actions (credit=Counterfactual())": self.model.estimator.judges_actions,
            "dropout, batch norm or modules of your own": bool(self.parts_with_mode) or holds_own([self.model]),
        }
        return next((what for what, used in found.items() if used), "")

    def optimizers(self) -> dict[str, Stepper]:
        """That of policy and critic, and that of the auxiliary losses, if they have parameters."""
        return {"all": self.optimizer, **self.auxiliary.optimizers}

    def set_lr(self, clock: Clock) -> None:
        """The learning rate of now."""
        for optimizer in self.optimizers().values():
            optimizer.lr = value_at(self.settings.lr, clock)

    def change(self, settings: OnPolicy) -> Callable[[], None]:
        """What goes on with these settings, which differ from the present ones in changeable fields only."""
        return functools.partial(setattr, self, "settings", settings)

    @property
    def carry_width(self) -> int:
        """Width of the actor's recurrent state."""
        return self.model.carry_width

    @property
    def policy_net(self) -> AgentNet:
        """The network that acts."""
        return self.model.actor

    def act(self, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None) -> Decision:
        """Sample, or take the most likely action."""
        if explore and generator is None and self._records_acting:
            with torch.inference_mode():
                return Decision(
                    *self._acting(inputs.obs, inputs.carry, inputs.started, inputs.acting, inputs.action_mask)
                )
        player = self._player.net if explore and generator is None and self._player is not None else None
        if generator is None and type(self.generator) is CopiesGenerator:
            with self.generator.for_copies(self.num_envs):
                return self.model.act(inputs, self.generator, explore, player)
        return self.model.act(inputs, generator or self.generator, explore, player)

    def act_with_net(
        self, net: AgentNet, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None
    ) -> Decision:
        """As :meth:`act`, with a copy of the actor."""
        return self.model.act(inputs, generator or self.generator, explore, net)

    def expected(self, step: Step, place: int, actions: Array, carry: Tensor | None) -> tuple[Array, Tensor]:
        """What the critic expects of a step: values ``(E, N)`` in units of the return, and the critic's carry."""
        model, scope, seen = self.model, self.settings.critic, step.teams[place]
        device = model.critic_carry.device
        if carry is None:
            carry = model.critic_carry.new_zeros(len(step.started), *model.critic.carry_shape)
        joint = None
        if scope.shape(self._spec, self.team) is not None and not scope.is_view(self._spec):
            joint = torch.from_numpy(scope.gather(step, place, successor=False)).to(device)
        obs, started, acting, action = (
            torch.from_numpy(array).to(device) for array in (seen.obs, step.started, seen.acting, actions)
        )
        value, carry = model.expected(obs, joint, carry, started, acting, action.to(self.memory.action.dtype))
        return value.cpu().numpy(), carry

    def _act(
        self, obs: Tensor, carry: Tensor, started: Tensor, acting: Tensor, action_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs = PolicyInput(obs, carry, started, acting, action_mask)
        player = None if self._player is None else self._player.net
        decision = self.model.act(inputs, self.generator, explore=True, actor=player)
        return decision.action, decision.env_action, decision.log_prob, decision.carry

    def ready(self, clock: Clock) -> bool:
        """Whether the rollout is full. A rollout in which no agent of the team acted is discarded."""
        if self.memory.full:
            idle = self.memory.idle
            if self.ranks is not None:
                idle = not self.ranks.any(not idle)
            if idle:
                self.skip_update()
        return self.memory.full

    def skip_update(self) -> None:
        """Discard the rollout."""
        self.memory.restart()

    def begin_update(self, clock: Clock) -> Batch:
        """Set the learning rate; values, advantages and targets of the rollout."""
        settings = self.settings
        self.set_lr(clock)
        batch = self.model.prepare(
            self.memory,
            settings.discount,
            settings.gae_lambda,
            settings.sequence,
            self.generator,
            self.reduce,
            settings.correction,
        )
        if settings.normalize_advantages:
            owner = self.model.owner
            index = owner.on(batch.advantage.device)
            batch.advantage.copy_(
                ops.masked_normalize(batch.advantage, batch.complete, index, owner.num_sets, reduce=self.reduce)
            )
        return batch

    def auxiliary_loss(self, batch: Batch, weight: Tensor) -> Tensor:
        """What the auxiliary losses add to the learner's, with gradients; ``weight (L, C, N)`` of the rows."""
        return self.auxiliary(batch.seen, batch.carry, batch, weight)

    def backward(self, loss: Tensor, batch: Batch) -> Tensor:
        """Fill the gradients of a loss of ``batch`` and of the auxiliary losses; what these add to it."""
        more = torch.zeros_like(loss)
        if self.auxiliary:
            more = self.auxiliary_loss(batch, weights_of(batch.complete, self.model.owner))
            loss = loss + more
        backward_through(loss, self.flats)
        return more.detach()

    def step(self) -> Tensor:
        """Move all parameters along their gradients; the norms of those of policy and critic, ``(P,)``."""
        most = self.settings.max_grad_norm
        norm = self.optimizer.step(most)
        self.auxiliary.step(most)
        return norm

    def tell_rows(self, complete: Tensor) -> None:
        """Let optimizers know of how many rows the next gradients are means, where other learners have others."""
        if not self.reduce.alone:
            for optimizer in self.optimizers().values():
                optimizer.rows = self.rows(complete)

    def rows(self, complete: Tensor) -> Tensor:
        """How many rows of ``complete (L, C, N)`` each parameter set has, ``(P,)``."""
        return self.model.owner.sum_sets(complete.sum((0, 1)))

    def fitting(self) -> AbstractContextManager[None]:
        """Within it dropout drops and batch norm looks at the batch: around gradient steps and nothing else."""
        return fitting(self.parts_with_mode, self.generator)

    def to_static_buffer(self, batch: Batch) -> Batch:
        """Copy the batch to fixed memory on a GPU, where a recorded step reads it."""
        if not self.recordable or not recording(batch.seen.device):
            return batch
        if self._static_buffer is None:
            self._static_buffer = batch.clone()
        else:
            self._static_buffer.copy_(batch)
        return self._static_buffer

    def end_update(self) -> None:
        """Update the normalizers with the rollout, and begin the next one."""
        self.model.update_normalizers(self.memory, self.reduce)
        if self._player is not None:
            self._player.update()
        self.memory.restart()

    def policy(self, agent: int | None = None) -> tuple[AgentNet, Distribution]:
        """One agent's own actor, or the team's."""
        return self.model.restrict(agent, self.team, self.settings.squash)

    def state_dict(self) -> dict[str, Any]:
        """Parameters, moments, normalizers, random stream, rollout."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "memory": self.memory.state_dict(),
            **({"auxiliary": self.auxiliary.state_dict()} if self.auxiliary else {}),
            **({} if self._player is None else {"player": self._player.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_generator(self.generator, state["generator"])
        self.memory.load_state_dict(state["memory"])
        if self.auxiliary:
            self.auxiliary.load_state_dict(state["auxiliary"])
        if self._player is not None:
            self._player.load_state_dict(state["player"])

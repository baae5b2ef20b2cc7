"""What off-policy learners share: exploration, a replay memory, learning from draws."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl import ops
from marl.action_critic import ActionCritic
from marl.auxiliary import AuxiliaryLoss
from marl.channels import Channel, ChannelNet, policy_net
from marl.config import config, setting
from marl.exploration import Exploration, Explorer
from marl.graphs import Recorded, recording
from marl.grid.credit import Credit, Independent
from marl.grid.critics import Estimating
from marl.grid.mixers import Mixing
from marl.grid.scope import Local, Scope
from marl.grid.sharing import SharingLike, owner_index
from marl.learners import together
from marl.learners.base import check_kind, generator_from, make_auxiliaries, restore_generator
from marl.memory.base import Decision, DrawSpec, Memory, MemoryChoice, MemoryContext, PolicyInput, RecordsOthers
from marl.memory.hindsight import Hindsight
from marl.memory.priorities import Prioritized
from marl.memory.replay import ReplayMemory
from marl.memory.sample import Sample
from marl.nets.action_head import ActionHead
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.networks import Network, default_network, remembers
from marl.nets.owner import Owner, weights_of
from marl.nets.stacked import FlatParameters, HasMode, backward_through, fitting, holds_own
from marl.optim import Adam, Optimizer, Stepper
from marl.ranks import CopiesGenerator, Ranks
from marl.reduce import current
from marl.schedules import Clock, Schedule, value_at
from marl.types import ActionKind, ConfigError, Spec, TeamSpec


@config
class OffPolicy:
    """The settings that every off-policy learner has."""

    action_kinds: ClassVar[frozenset[ActionKind]]

    critic: Scope = setting(Local(), "what the critic sees: Local() or Joint()")
    sharing: SharingLike = setting("all", "'none', 'all', 'type' or a mapping of agent patterns to groups")
    credit: Credit = setting(Independent(), "Independent(), TeamReward(), or a mixer: VDN(), QMix(), ...")
    network: Network | None = setting(None, "MLP(), CNN(), GRU(), LSTM() or Custom(); None: MLP(), or CNN() for images")
    channel: Channel | None = setting(
        None, "what the team's policies tell each other: CommNet(), DIAL(), ...; None: nothing"
    )
    agent_id: bool = setting(True, "append the agent's id one-hot where agents share parameters")
    exploration: Exploration | None = setting(
        None, "how to deviate from the greedy action; None: the learner's own", changeable=True
    )
    memory: MemoryChoice | None = setting(
        None, "what is kept and drawn from; None: ReplayMemory() of buffer, buffer_dir, prioritized and hindsight"
    )
    buffer: int = setting(100_000, "environment steps that the replay holds", least=1)
    buffer_dir: str | None = setting(None, "folder to keep observations in, for replays larger than memory")
    batch: int = setting(128, "environment steps (sequences, if recurrent) of one update", least=1)
    learning_starts: int = setting(1_000, "environment steps before the first update", least=1)
    updates_per_step: float = setting(0.25, "updates per environment step, whatever the number of copies", above=0)
    update_every: int = setting(1, "environment steps between bursts of updates, which are made together", least=1)
    overlap: bool = setting(False, "update while the environment steps: at the same time if it has worker processes")
    n_step: int = setting(1, "own turns whose rewards are summed before bootstrapping", least=1)
    prioritized: Prioritized | None = setting(None, "Prioritized() draws by TD error; None: uniformly")
    hindsight: Hindsight | None = setting(None, "Hindsight() relabels goals; None: does not")
    sequence: int | None = setting(None, "rows of a training sequence; None: 1, or 20 for recurrent networks", least=1)
    burn_in: int = setting(0, "first rows of a sequence that only warm up the carry", least=0)
    stored_carry: bool = setting(True, "start sequences from the carry met in play; False: from zeros")
    lr: Schedule = setting(5e-4, "learning rate, a number or a schedule", least=0)
    discount: float = setting(0.99, "gamma, per own turn", least=0, most=1)
    target_every: int = setting(1, "updates between two moves of the target networks", least=1)
    tau: float = setting(0.005, "share that targets move towards the networks each time; 1: copies", above=0, most=1)
    max_grad_norm: float = setting(10.0, "largest gradient norm of a parameter set", above=0)
    normalize_obs: bool = setting(False, "running normalization of vector observations")
    optimizer: Optimizer = setting(Adam(), "Adam(), AdamW(), RMSprop(), SGD() or TorchOptim(), all in marl.optim")
    auxiliary: tuple[AuxiliaryLoss, ...] = setting((), "what the policy also learns: losses of marl.auxiliary")

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return self.critic.reads_state or self.credit.reads_state


def refuse(condition: bool, message: str) -> None:
    """Raise ConfigError with a message if the condition holds."""
    if condition:
        raise ConfigError(message)


# --- what is learnt from ----------------------------------------------------------------------------------------------


class Experience:
    """A learner's memory, when updates from it are due, and how much each row of a draw counts."""

    def __init__(
        self,
        settings: OffPolicy,
        memory: Memory,
        wanted: DrawSpec,
        owner: Owner,
        net: AgentNet,
        sampler: torch.Generator,
        device: torch.device,
    ) -> None:
        """``net`` acts, ``sampler`` draws."""
        self.memory, self.wanted, self.owner, self.sampler = memory, wanted, owner, sampler
        self.updates = 0  # made or skipped
        self.settings, self._net = settings, net
        members = owner.sum_sets(torch.ones(owner.num_agents, dtype=torch.float32))
        self._even = owner.to_agents(1 / members).to(device)  # (N,) an agent's share of its set

    @property
    def warming_up(self) -> bool:
        """Whether learning has not started."""
        return self.memory.seen_steps < self.settings.learning_starts

    def due(self, clock: Clock) -> int:
        """How many updates are due: ``updates_per_step`` for every environment step since learning started.

        They are due once ``update_every`` steps have come together; in between the policy stands still.
        """
        settings = self.settings
        since = self.memory.seen_steps - settings.learning_starts
        if not self.memory.ready(self.wanted, clock) or since < 0:
            return 0
        since -= since % settings.update_every
        return math.floor(since * settings.updates_per_step + 1e-9) - self.updates

    def draw(self, clock: Clock) -> Sample:
        """What one update learns from."""
        sample = self.memory.draw(self.wanted, clock, self.sampler)
        if self.settings.stored_carry:
            return sample
        return dataclasses.replace(sample, carry=self._net.forget(sample.carry))

    def counts(self, sample: Sample) -> Tensor:
        """Which transitions ``(L, B, N)`` are learnt from: complete ones after the burn-in."""
        burn_in = self.settings.burn_in
        if not burn_in:
            return sample.complete
        counts = sample.complete.clone()
        counts[:burn_in] = False
        return counts

    def weigh(self, sample: Sample) -> Tensor:
        """Weights ``(L, B, N)`` whose sum is, for every parameter set, the weighted mean over rows that count."""
        if not self.memory.ragged and not self.settings.burn_in and sample.own is None:  # everything counts
            weight = self._even / (sample.complete.shape[0] * sample.complete.shape[1])  # (N,)
            return (weight * sample.weight).expand(sample.complete.shape)
        return weights_of(self.counts(sample), self.owner) * sample.weight

    def mean(self, x: Tensor, sample: Sample) -> Tensor:
        """The mean of ``(L, B, N)`` over what is complete."""
        return ops.masked_mean(x, sample.complete) if self.memory.ragged else x.mean()

    def state_dict(self) -> dict[str, Any]:
        """The memory, the stream of draws, how many updates there were."""
        return {"sampler": self.sampler.get_state(), "memory": self.memory.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.sampler.set_state(state["sampler"])
        self.memory.load_state_dict(state["memory"])
        self.updates = int(state["updates"])


# --- what networks say of a draw --------------------------------------------------------------------------------------


def at_successors(
    net: AgentNet, sample: Sample, seen: Tensor, next_seen: Tensor, read: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Outputs ``(L, B, N, K)`` at every row's successor, of rows and successors as the network encodes them.

    A successor that is a row of the sequence has that row's outputs; any other is one step after its own row's carry.
    Outputs of agents that do not go on mean nothing.

    Args:
        net: the network.
        sample: the draw.
        seen: (L, B, N, ...) its observations, encoded.
        next_seen: (L, B, N, ...) those at the successors.
        read: outputs and carries of the network at ``seen``, where they are known.
    """
    if not net.carry_shape[1]:
        return _one_step(net, next_seen, sample.carry, sample.next_acting)
    out, carries = net.read(seen, sample.carry, sample.started, sample.acting) if read is None else read
    rows, carries = next_seen.flatten(0, 1), carries.flatten(0, 1)
    if out.device.type != "cpu":  # on a GPU no shape may depend on a number
        return _one_step(net, rows.unsqueeze(0), carries, sample.next_acting.flatten(0, 1).unsqueeze(0)).view(out.shape)
    place = sample.successor.clamp(min=0)
    held = (sample.successor >= 0) & sample.acting.gather(0, place)
    if isinstance(net, ChannelNet):  # outputs depend on everybody: only the very next row says the same
        following = torch.arange(1, sample.length + 1).view(-1, 1, 1)
        held &= (sample.successor == following).all(-1, keepdim=True)
        held[:-1] &= (sample.next_acting[:-1] == sample.acting[1:]).all(-1, keepdim=True)
    found = out.gather(0, place.unsqueeze(-1).expand(out.shape))
    missing = ((sample.discount > 0) & ~held).any(-1).flatten().nonzero().squeeze(-1)
    if len(missing):
        acting = sample.next_acting.flatten(0, 1)[missing].unsqueeze(0)
        found.flatten(0, 1)[missing] = _one_step(net, rows[missing].unsqueeze(0), carries[missing], acting)[0]
    return found


def _one_step(net: AgentNet, rows: Tensor, carry: Tensor, acting: Tensor) -> Tensor:
    """Outputs ``(L, B, N, K)`` at rows ``(L, B, N, ...)`` with which no episode begins; ``L`` is 1 with a memory."""
    no, yes = (torch.full((), value, dtype=torch.bool, device=rows.device) for value in (False, True))
    there = acting if isinstance(net, ChannelNet) else yes.expand(acting.shape)  # the dead are mute
    return net.read(rows, carry, no.expand(rows.shape[:2]), there)[0]


def without_memory(net: AgentNet, rows: Tensor) -> Tensor:
    """Outputs ``(L, B, N, K)`` of a feed-forward network at encoded rows ``(L, B, N, ...)``."""
    no = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
    yes = torch.ones(rows.shape[:3], dtype=torch.bool, device=rows.device)
    return net.read(rows, rows.new_zeros(*rows.shape[1:3], 0), no, yes)[0]


# --- the learner ------------------------------------------------------------------------------------------------------


class OffPolicyLearner(ABC):
    """What the training loop asks of an off-policy learner; :meth:`learn` is the learner's own.

    A constructor builds its networks after this one's, and then calls :meth:`remember`.
    """

    chosen: Any = None  # what :func:`~marl.compiled.gradient_for` decided
    settings: OffPolicy
    head: Distribution  # what the outputs of the acting network mean

    def __init__(
        self,
        settings: OffPolicy,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
    ) -> None:
        """Refuses what does not fit the team's spaces or the settings."""
        name = type(settings).__name__
        check_kind(name, settings.action_kinds, team)
        self.settings, self.spec, self.team, self.num_envs = settings, spec, team, num_envs
        self.reduce = current()  # with whom it learns as one
        self.ranks = self.reduce if isinstance(self.reduce, Ranks) else None
        self.device = torch.device(device)
        self.critic_shape = settings.critic.shape(spec, team)  # of the joint input; None: an agent's own observation
        self.mixing = isinstance(settings.credit, Mixing)
        self.network = settings.network or default_network(team.obs.shape)
        channel = settings.channel
        recurrent = remembers(self.network) or (channel is not None and channel.remembers)
        self.length = settings.sequence or (20 if recurrent else 1)
        self.where = f"{name} on team {team.name!r}"
        refuse(
            settings.burn_in >= self.length and settings.burn_in > 0,
            f"{self.where}: burn_in={settings.burn_in} leaves no row of sequence={self.length} to learn from",
        )
        refuse(
            channel is not None and spec.turn_based,
            f"{self.where}: a replay's transitions run from turn to turn and lose the messages in between; use an "
            "on-policy learner with channel=, or channel=None",
        )
        refuse(
            isinstance(settings.credit, Estimating),
            f"{self.where}: {type(settings.credit).__name__}() brings a critic for on-policy learners; use A2C or PPO, "
            "or credit=TeamReward()",
        )
        refuse(
            self.mixing and self.critic_shape is not None,
            f"{self.where}: a mixer mixes local values; use critic=Local() with credit="
            f"{type(settings.credit).__name__}()",
        )
        self.owner = Owner(owner_index(settings.sharing, team))
        self._init_seed, play = seed.spawn(2)
        self._set_seeds = self._init_seed.spawn(self.owner.num_sets)
        self.generator = generator_from(play, device, self.ranks)
        self._sampler = generator_from(play.spawn(1)[0], "cpu", self.ranks)
        self.clock = Clock(0, 1)
        shares = settings.agent_id and not self.owner.identity
        self.ids = torch.eye(team.num_agents, dtype=torch.float32) if shares else None
        self._copies = num_envs * (1 if self.ranks is None else self.ranks.size)  # of all ranks
        self.explorer = self._explorer(settings, self._copies)
        self._visitor: tuple[torch.Generator, Explorer] | None = None

    def change(self, settings: OffPolicy) -> Callable[[], None]:
        """What goes on with these settings, which differ from the present ones in changeable fields only.

        Another exploration begins anew; the same kind with other numbers goes on from its state. Raises ConfigError.
        """
        explorer = self.explorer
        if settings.exploration != self.settings.exploration:
            explorer = self._explorer(settings, self._copies)
            if type(explorer) is type(self.explorer):
                explorer.load_state_dict(self.explorer.state_dict())

        def go_on() -> None:
            if explorer is not self.explorer:
                self.explorer, self._visitor = explorer, None
            self.settings = self.experience.settings = settings
            for recorded in ("_recorded", "_recordable"):  # on a GPU: they hold the settings of then
                vars(self).pop(recorded, None)

        return go_on

    # --- parts of a constructor ---------------------------------------------------------------------------------------

    def generators(self) -> list[torch.Generator]:
        """New streams, one per parameter set, to initialize networks from."""
        children = [child.spawn(1)[0] for child in self._set_seeds]
        return [torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1)) for child in children]

    def make_net(self, outputs: int, generators: Sequence[torch.Generator], gain: float) -> AgentNet:
        """A network of the team's policies or action values."""
        team, owner = self.team, self.owner
        widths = [max(team.obs.widths[agent] for agent in owner.members(which)) for which in range(owner.num_sets)]
        return policy_net(
            self.settings.channel,
            self.spec,
            team,
            self.network,
            owner,
            outputs,
            generators,
            gain=gain,
            ids=self.ids,
            true_inputs=None if team.obs.is_image else [torch.arange(width) for width in widths],
            normalize=self.settings.normalize_obs,
        ).to(self.device)

    def make_critic(
        self, network: Network | None, generators: Sequence[torch.Generator], count: int = 1, outputs: int = 1
    ) -> ActionCritic:
        """``count`` critics of the team's actions, with their targets (:class:`~marl.action_critic.ActionCritic`)."""
        settings = self.settings
        return ActionCritic(
            self.spec,
            self.team,
            self.owner,
            settings.critic,
            network,
            self.network,
            generators,
            count=count,
            outputs=outputs,
            ids=self.ids,
            normalize=settings.normalize_obs,
            device=self.device,
        )

    def remember(self, scope: Scope, other_actions: bool = False) -> None:
        """Make the memory, once the networks are known. ``scope``: what the critic or mixer reads."""
        settings, length, net = self.settings, self.length, self.policy_net
        self.auxiliary = make_auxiliaries(self.where, settings, net, self.team, self._init_seed, self.device)
        for module in self.modules().values():
            module.eval()
        # Sequences sum rewards along their own rows.
        wanted = DrawSpec(settings.batch, length, settings.n_step if length == 1 else 1, settings.discount)
        apart = not self.mixing and self.critic_shape is None and settings.channel is None
        memory = self._memory_choice().build(
            MemoryContext(
                self.where,
                self.spec,
                self.team,
                self.num_envs,
                self.device,
                scope,
                settings.credit,
                self.carry_width,
                wanted,
                other_actions=other_actions,
                separate=apart and self.team.num_agents > 1,
                ranks=self.ranks,
            )
        )
        refuse(
            other_actions and not isinstance(memory, RecordsOthers),
            f"{self.where}: critic={settings.critic} reads what other teams do, but memory={settings.memory} does not "
            "keep it (it has no record_joint_action()); use Joint(of='team'), or another memory",
        )
        self.memory, self._others = memory, len(self.spec.teams) - 1 if other_actions else 0
        self.experience = Experience(settings, memory, wanted, self.owner, self.policy_net, self._sampler, self.device)

    def _memory_choice(self) -> MemoryChoice:
        settings = self.settings
        own = {name: getattr(settings, name) for name in ("buffer", "buffer_dir", "prioritized", "hindsight")}
        replay = ReplayMemory(**own)
        if settings.memory is None:
            return replay
        said = [name for name, value in own.items() if value != getattr(ReplayMemory(), name)]
        refuse(
            bool(said),
            f"{self.where}: {' and '.join(said)} would be ignored, since memory={type(settings.memory).__name__}(...) "
            "is another memory; say it there, or leave out memory=",
        )
        return settings.memory

    @property
    def refuses_ranks(self) -> str:
        """What of it is not built for several ranks, in words; empty: all of it is."""
        return together.refusal(self)

    # --- what a learner says itself -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def default_exploration(self) -> Exploration:
        """The exploration used unless the settings name another."""

    @property
    @abstractmethod
    def policy_net(self) -> AgentNet:
        """The network that acts."""

    @abstractmethod
    def choose(self, out: Tensor, inputs: PolicyInput, explore: bool, generator: torch.Generator | None) -> Tensor:
        """Actions ``(E, N[, A])`` as they are stored, from the network's outputs ``(E, N, K)``."""

    @abstractmethod
    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """One update from a draw. The metric ``td_error (B, N)`` or ``(B, 1)``, if given, is the memory's to use."""

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Everything with parameters or buffers, by name."""

    @abstractmethod
    def optimizers(self) -> dict[str, Stepper]:
        """All optimizers, by name."""

    @abstractmethod
    def policy(self, agent: int | None = None) -> tuple[AgentNet, Distribution]:
        """One agent's own network, or the team's, and what its outputs mean."""

    # --- acting -------------------------------------------------------------------------------------------------------

    @property
    def carry_width(self) -> int:
        """Width of the recurrent state of one agent."""
        return self.policy_net.carry_shape[1]

    def act(self, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None) -> Decision:
        """What :meth:`choose` says of the network's outputs."""
        if generator is None and type(self.generator) is CopiesGenerator:
            with self.generator.for_copies(self.num_envs):
                return self.act_with_net(self.policy_net, inputs, explore)
        return self.act_with_net(self.policy_net, inputs, explore, generator)

    def act_with_net(
        self, net: AgentNet, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None
    ) -> Decision:
        """The same with a copy of the network."""
        with torch.inference_mode():  # as a decorator it takes three times as long
            net.seed(inputs.carry, generator or self.generator)
            out, carry = net.once(inputs.obs, inputs.carry, inputs.started, inputs.acting)  # (E, N, K)
            action = self.choose(out, inputs, explore, generator)
            return Decision(action, self.head.to_env(action), out[..., 0], carry)

    def _explorer(self, settings: OffPolicy, num_envs: int) -> Explorer:
        chosen = settings.exploration or self.default_exploration
        kind = "box" if self.team.action.kind == "box" else "discrete"
        refuse(
            kind not in chosen.kinds,
            f"{self.where}: {type(chosen).__name__} explores {' and '.join(sorted(chosen.kinds))} actions, not {kind} "
            "ones",
        )
        return chosen.build(self.team.action, num_envs, self.device)

    def explore(self, scores: Tensor, inputs: PolicyInput, generator: torch.Generator | None) -> Tensor:
        """An exploring action. Evaluations pass a generator of their own and change no state of training."""
        if generator is None:
            return self.explorer(scores, inputs, self.clock, self.generator)
        if self._visitor is None or self._visitor[0] is not generator:
            visitor = self._explorer(self.settings, inputs.started.shape[0])
            visitor.load_state_dict(self.explorer.state_dict())
            self._visitor = generator, visitor
        return self._visitor[1](scores, inputs, self.clock, generator)

    def near_mode(
        self,
        head: ActionHead,
        out: Tensor,
        inputs: PolicyInput,
        explore: bool,
        generator: torch.Generator | None,
        random_start: bool,
    ) -> Tensor:
        """The action of a deterministic policy, or one near it; uniform until learning starts if ``random_start``."""
        if not explore:
            action = head.mode(out, inputs.action_mask)
        elif random_start and generator is None and self.experience.warming_up:
            action = head.uniform(out, inputs.action_mask, self.generator)
        else:
            action = self.explore(head.scores(out), inputs, generator)
        return head.own_action(action)  # exploration knows nothing of padding

    # --- learning -----------------------------------------------------------------------------------------------------

    @property
    def overlaps_env_step(self) -> bool:
        """Whether updates are made while the environment steps."""
        return self.settings.overlap

    def ready(self, clock: Clock) -> bool:
        """Whether an update is due."""
        self.clock = clock
        return self.experience.due(clock) > 0

    def skip_update(self) -> None:
        """Skip the updates that are due, for good."""
        self.experience.updates += self.experience.due(self.clock)

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """All updates that are due; metrics are their means."""
        experience, lr = self.experience, value_at(self.settings.lr, clock)
        for optimizer in self._all_optimizers():
            optimizer.lr = lr
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}  # actors may be updated less often than critics
        for _ in range(experience.due(clock)):
            sample = experience.draw(clock)
            parts = self.learn_once(sample) if self.ranks is None else together.learn(self, self.ranks, sample)
            error = parts.pop("td_error", None)
            if error is not None:
                experience.memory.update_priorities(sample, error)
            experience.updates += 1
            for name, part in parts.items():
                totals[name] = totals[name] + part if name in totals else part
                counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            if count > 1 and name != "non_finite":
                totals[name] = totals[name] / count
        return totals

    def learn_once(self, sample: Sample) -> dict[str, Tensor]:
        """:meth:`learn`; on a GPU recorded."""
        if not self.reduce.alone:
            rows = self._rows(sample)
            for optimizer in self._all_optimizers():
                # Several critics of a set have as many rows of parameters.
                optimizer.rows = rows.repeat(len(optimizer.flat.values) // len(rows)) if rows.dim() else rows
        if not recording(self.device) or not self._recordable:
            return self.learn(sample)
        parts = self._recorded((*self.flags(), self.memory.ragged), *sample.tensors())
        return {name: part.clone() for name, part in parts.items()}

    def _all_optimizers(self) -> list[Stepper]:
        """Those of the learner and that of its auxiliary losses."""
        return [*self.optimizers().values(), *self.auxiliary.optimizers.values()]

    def backward(self, loss: Tensor, flats: Sequence[FlatParameters], sample: Sample, seen: Tensor) -> None:
        """Fill the gradients of a loss of the policy's network and of the auxiliary losses.

        Args:
            loss: mean over rows, summed over parameter sets.
            flats: the matrices whose gradients it has.
            sample: what it was computed from.
            seen: (L, B, N, O) its observations, encoded.
        """
        if self.auxiliary:
            with self.fitting(self.policy_net, self.auxiliary):
                more = self.auxiliary(seen, sample.carry, sample, self.experience.weigh(sample))
            self._auxiliary_loss = more.detach()
            loss, flats = loss + more, [*flats, *self.auxiliary.flats]
        backward_through(loss, flats)

    def auxiliary_parts(self) -> dict[str, Tensor]:
        """What the auxiliary losses were in the last :meth:`backward`, for metrics."""
        return {"auxiliary_loss": self._auxiliary_loss / self.owner.num_sets} if self.auxiliary else {}

    def _rows(self, sample: Sample) -> Tensor:
        """How many rows the losses are means of: of each parameter set ``(P,)``, or ``()`` of a team with a mixer."""
        counts = self.experience.counts(sample)
        return counts[..., 0].sum() if self.mixing else self.owner.sum_sets(counts.sum((0, 1)))

    @cached_property
    def _recorded(self) -> Recorded[dict[str, Tensor]]:
        def learn(flags: tuple[bool, ...], *parts: Tensor | None) -> dict[str, Tensor]:
            return self.learn(Sample.of(parts, self._others))

        return Recorded(learn, self.device, [self.generator])

    @cached_property
    def _recordable(self) -> bool:
        """Whether an update may be recorded: not with modules of the user's, whose code is unknown."""
        if not all(optimizer.recordable for optimizer in self._all_optimizers()):
            return False
        net = self.policy_net
        parts = [*self.modules().values(), self.auxiliary.modules]
        return not holds_own(parts) and (not isinstance(net, ChannelNet) or net.adjacency.dynamic is None)

    def flags(self) -> tuple[bool, ...]:
        """Which optional pieces are part of this update."""
        return (self.target_due(),)

    def target_due(self) -> bool:
        """Whether targets move after this update."""
        return (self.experience.updates + 1) % self.settings.target_every == 0

    def fitting(self, *nets: HasMode) -> AbstractContextManager[None]:
        """Within it dropout drops and batch norm looks at the batch, in ``nets`` alone: those that a loss is to fit."""
        return fitting([part for net in nets for part in net.parts_with_mode], self.generator)

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Parameters, targets, moments, streams, exploration, memory."""
        return {
            "modules": {name: dict(module.state_dict()) for name, module in self.modules().items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()},
            "generator": self.generator.get_state(),
            "explorer": self.explorer.state_dict(),
            **self.experience.state_dict(),
            **({"auxiliary": self.auxiliary.state_dict()} if self.auxiliary else {}),
            "clock": [self.clock.steps, self.clock.total],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers().items():
            optimizer.load_state_dict(state["optimizers"][name])
        restore_generator(self.generator, state["generator"])
        self.explorer.load_state_dict(state["explorer"])
        self.experience.load_state_dict(state)
        if self.auxiliary:
            self.auxiliary.load_state_dict(state["auxiliary"])
        steps, total = state["clock"]
        self.ready(Clock(int(steps), None if total is None else int(total)))  # what depends on the clock, does

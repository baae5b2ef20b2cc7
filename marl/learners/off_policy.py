"""What off-policy learners have in common: they act with exploration, keep everything in a replay, learn from draws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl import ops
from marl.actor_critic import weights_of
from marl.channels import Channel, ChannelNet
from marl.config import config, setting
from marl.exploration import Exploration, Explorer, share
from marl.graphs import Recorded, recording
from marl.grid.credit import Credit, Independent
from marl.grid.critics import Estimating
from marl.grid.mixers import Mixing, TeamMixer
from marl.grid.scope import Local, Scope
from marl.grid.sharing import SharingLike, owner_index
from marl.learners.base import check_kind, generator_from, restore_generator
from marl.memory.hindsight import Hindsight
from marl.memory.priorities import Priorities, importance_weights
from marl.memory.replay import Replay, Sample
from marl.memory.rollout import Look
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.networks import GRU, Network, default_network
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters, fitting, holds_own
from marl.optim import Adam, Optimizer, Stepper
from marl.reduce import current
from marl.schedules import Clock, Schedule, value_at
from marl.types import ActionKind, ConfigError, Spec, TeamSpec


@dataclass(frozen=True)
class Prioritised:
    """Draw transitions in proportion to ``(|TD error| + epsilon) ** alpha`` (Schaul et al. 2016).

    Args:
        alpha: 0 draws uniformly, 1 in full proportion; a number or a schedule, which holds for priorities set from then
            on.
        beta: how far importance weights undo it, a number or a schedule; 1 undoes it wholly.
        epsilon: keeps everything drawable.
    """

    alpha: Schedule = 0.6
    beta: Schedule = 0.4
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Check the numbers."""
        share("Prioritised", alpha=self.alpha, beta=self.beta)
        if not self.epsilon > 0:
            raise ConfigError(f"Prioritised.epsilon: expected a number above 0, got {self.epsilon!r}")


@config
class OffPolicy:
    """The settings that every off-policy learner has."""

    action_kinds: ClassVar[frozenset[ActionKind]]

    critic: Scope = setting(Local(), "what the critic sees: Local() or Joint()")
    sharing: SharingLike = setting("all", "'none', 'all', 'type' or a mapping of agent patterns to groups")
    credit: Credit = setting(Independent(), "Independent(), TeamReward(), or a mixer: VDN(), QMix(), ...")
    network: Network | None = setting(None, "MLP(), CNN(), GRU() or Custom(); None: MLP(), or CNN() for images")
    channel: Channel | None = setting(
        None, "what the team's policies tell each other: CommNet(), DIAL(), ...; None: nothing"
    )
    agent_id: bool = setting(True, "append the agent's id one-hot where agents share parameters")
    exploration: Exploration | None = setting(None, "how to deviate from the greedy action; None: the learner's own")
    buffer: int = setting(100_000, "environment steps that the replay holds", least=1)
    buffer_dir: str | None = setting(None, "folder to keep observations in, for replays larger than memory")
    batch: int = setting(128, "environment steps (sequences, if recurrent) of one update", least=1)
    learning_starts: int = setting(1_000, "environment steps before the first update", least=1)
    updates_per_step: float = setting(0.25, "updates per environment step, whatever the number of copies", above=0)
    overlap: bool = setting(False, "update while the environment steps: at the same time if it has worker processes")
    n_step: int = setting(1, "own turns whose rewards are summed before bootstrapping", least=1)
    prioritised: Prioritised | None = setting(None, "Prioritised() draws by TD error; None: uniformly")
    hindsight: Hindsight | None = setting(None, "Hindsight() relabels goals; None: does not")
    sequence: int | None = setting(None, "rows of a training sequence; None: 1, or 20 for recurrent networks", least=1)
    burn_in: int = setting(0, "first rows of a sequence that only warm up the carry", least=0)
    stored_carry: bool = setting(True, "start sequences from the carry met in play; False: from zeros")
    lr: Schedule = setting(5e-4, "learning rate, a number or a schedule", least=0)
    discount: float = setting(0.99, "gamma, per own turn", least=0, most=1)
    target_every: int = setting(1, "updates between two moves of the target networks", least=1)
    tau: float = setting(0.005, "share that targets move towards the networks each time; 1: copies", above=0, most=1)
    max_grad_norm: float = setting(10.0, "largest gradient norm of a parameter set", above=0)
    normalize_obs: bool = setting(False, "running normalisation of vector observations")
    optimizer: Optimizer = setting(Adam(), "Adam(), AdamW(), RMSprop(), SGD() or TorchOptim(), all in marl.optim")

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return self.critic.reads_state or self.credit.reads_state


def refuse(condition: bool, message: str) -> None:
    """Raise ConfigError with a message if the condition holds."""
    if condition:
        raise ConfigError(message)


class OffPolicyLearner(ABC):
    """Memory, draws, update ratio, random streams, checkpoints; :meth:`learn` is the learner's own."""

    chosen: Any = None  # what :func:`~marl.compiled.gradient_for` decided

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
        self._settings, self.spec, self.team, self.num_envs = settings, spec, team, num_envs
        self.reduce = current()  # with whom it learns as one
        self.device = torch.device(device)
        self.mixing = isinstance(settings.credit, Mixing)
        self.critic_shape = settings.critic.shape(spec, team)  # of the joint input; None: an agent's own observation
        self.network = settings.network or default_network(team.obs.shape)
        channel = settings.channel
        recurrent = isinstance(self.network, GRU) or (channel is not None and channel.remembers)
        self.length = settings.sequence or (20 if recurrent else 1)
        where = f"{name} on team {team.name!r}"
        refuse(
            settings.batch > settings.buffer,
            f"{where}: batch={settings.batch} is larger than buffer={settings.buffer}; raise buffer or lower batch",
        )
        refuse(
            settings.n_step * num_envs > settings.buffer,
            f"{where}: n_step={settings.n_step} own turns of {num_envs} copies are longer than "
            f"buffer={settings.buffer}; raise buffer or lower n_step",
        )
        refuse(
            self.length * num_envs > settings.buffer,
            f"{where}: sequence={self.length} rows of {num_envs} copies are longer than buffer={settings.buffer}",
        )
        refuse(
            settings.burn_in >= self.length and settings.burn_in > 0,
            f"{where}: burn_in={settings.burn_in} leaves no row of sequence={self.length} to learn from",
        )
        refuse(
            settings.prioritised is not None and self.length > 1,
            f"{where}: prioritised draws are of single transitions; use sequence=1 or prioritised=None",
        )
        refuse(
            channel is not None and spec.turn_based,
            f"{where}: a replay's transitions run from turn to turn and lose the messages in between; use an on-policy "
            "learner with channel=, or channel=None",
        )
        hindsight = settings.hindsight
        refuse(
            hindsight is not None and (self.length > 1 or settings.n_step > 1),
            f"{where}: hindsight relabels single transitions; use sequence=1 and n_step=1",
        )
        refuse(
            isinstance(settings.credit, Estimating),
            f"{where}: {type(settings.credit).__name__}() brings a critic for on-policy learners; use A2C or PPO, or "
            "credit=TeamReward()",
        )
        refuse(
            self.mixing and self.critic_shape is not None,
            f"{where}: a mixer mixes local values; use critic=Local() with credit={type(settings.credit).__name__}()",
        )
        self.owner = Owner(owner_index(settings.sharing, team))
        self._init_seed, play = seed.spawn(2)
        self._set_seeds = self._init_seed.spawn(self.owner.num_sets)
        self.generator = generator_from(play, device)
        self.sampler = generator_from(play.spawn(1)[0], "cpu")
        self.clock = Clock(0, 1)
        self.updates = 0
        shares = settings.agent_id and not self.owner.identity
        self.ids = torch.eye(team.num_agents, dtype=torch.float32) if shares else None
        members = self.owner.sum_sets(torch.ones(team.num_agents, dtype=torch.float32))
        self._even = self.owner.to_agents(1 / members).to(self.device)  # (N,) an agent's share of its set
        self.explorer = self._explorer(num_envs)
        self._visitor: tuple[torch.Generator, Explorer] | None = None
        self.own_places = self._own_places()
        self.priorities: Priorities | None = None

    def _begin(self, carry_width: int, scope: Scope, other_actions: bool = False) -> None:
        """Allocate the memory, once the networks are known."""
        settings = self._settings
        for module in self.modules().values():
            module.eval()
        self.memory = Replay(
            self.spec,
            self.team,
            scope,
            settings.credit,
            settings.buffer,
            self.num_envs,
            carry_width,
            self.device,
            other_actions=other_actions,
            keep_ends=settings.hindsight is not None,
            directory=settings.buffer_dir,
        )
        if settings.prioritised is not None:
            trees = self.team.num_agents if self.own_places else 1
            rows = self.memory.rows * self.num_envs
            chosen = settings.prioritised
            self.priorities = Priorities(trees, rows, value_at(chosen.alpha, self.clock), chosen.epsilon)
            self.memory.priorities = self.priorities
        if settings.hindsight is not None:
            self.memory.relabel(settings.hindsight)

    def _own_places(self) -> bool:
        """Whether every agent has priorities of its own: where nothing joins their losses."""
        settings = self._settings
        apart = not self.mixing and self.critic_shape is None and settings.channel is None
        if settings.hindsight is not None and settings.credit.shared:
            apart = False  # a new goal changes what the whole team earns
        return apart and self.team.num_agents > 1

    def generators(self) -> list[torch.Generator]:
        """New streams, one per parameter set, to initialise networks from."""
        children = [child.spawn(1)[0] for child in self._set_seeds]
        return [torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1)) for child in children]

    def true_widths(self) -> list[Tensor] | None:
        """The observation places that each parameter set truly has; None for images."""
        team, owner = self.team, self.owner
        if team.obs.is_image:
            return None
        widths = [max(team.obs.widths[agent] for agent in owner.members(which)) for which in range(owner.num_sets)]
        return [torch.arange(width) for width in widths]

    @property
    @abstractmethod
    def default_exploration(self) -> Exploration:
        """What explores unless the settings say otherwise."""

    @abstractmethod
    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """One update from a draw. The metric ``td_error (B, N)`` or ``(B, 1)``, if given, becomes the priorities."""

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Everything with parameters or buffers, by name."""

    @abstractmethod
    def optimizers(self) -> dict[str, Stepper]:
        """All optimizers, by name."""

    @property
    def talker(self) -> ChannelNet | None:
        """The network whose agents talk, if they do."""
        net = self.modules().get("actor", self.modules().get("net"))
        return net if isinstance(net, ChannelNet) else None

    @abstractmethod
    def policy(self, agent: int | None = None) -> tuple[AgentNet, Distribution]:
        """One agent's own network, or the team's, and what its outputs mean."""

    # --- acting -------------------------------------------------------------------------------------------------------

    def _explorer(self, num_envs: int) -> Explorer:
        chosen = self._settings.exploration or self.default_exploration
        kind = "box" if self.team.action.kind == "box" else "discrete"
        refuse(
            kind not in chosen.kinds,
            f"{type(self._settings).__name__} on team {self.team.name!r}: {type(chosen).__name__} explores "
            f"{' and '.join(sorted(chosen.kinds))} actions, not {kind} ones",
        )
        return chosen.build(self.team.action, num_envs, self.device)

    def explore(self, scores: Tensor, look: Look, generator: torch.Generator | None) -> Tensor:
        """An action near the greedy one. Evaluations (with streams of their own) begin here, without a trace."""
        if generator is None:
            return self.explorer(scores, look, self.clock, self.generator)
        if self._visitor is None or self._visitor[0] is not generator:
            visitor = self._explorer(look.started.shape[0])
            visitor.load_state_dict(self.explorer.state_dict())
            self._visitor = generator, visitor
        return self._visitor[1](scores, look, self.clock, generator)

    # --- learning -----------------------------------------------------------------------------------------------------

    @property
    def meanwhile(self) -> bool:
        """Whether updates are made while the environment steps."""
        return self._settings.overlap

    def ready(self, clock: Clock) -> bool:
        """Whether an update is due."""
        self._set_clock(clock)
        return self._due() > 0

    def _set_clock(self, clock: Clock) -> None:
        self.clock = clock
        if self.priorities is not None and self._settings.prioritised is not None:
            self.priorities.alpha = value_at(self._settings.prioritised.alpha, clock)

    def rest(self) -> None:
        """What would be due now will never be."""
        self.updates += self._due()

    def _due(self) -> int:
        settings, memory = self._settings, self.memory
        since = memory.seen_steps - settings.learning_starts
        if since < 0 or memory.size < max(self.length, 1):
            return 0
        if self.priorities is not None and not self.priorities.total.any():  # no turn has ended yet
            return 0
        return math.floor(since * settings.updates_per_step + 1e-9) - self.updates

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """All updates that are due; metrics are their means."""
        settings = self._settings
        lr = value_at(settings.lr, clock)
        for optimizer in self.optimizers().values():
            optimizer.lr = lr
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}  # actors may be updated less often than critics
        for _ in range(self._due()):
            sample = self._draw(clock)
            parts = self._learn(sample)
            error = parts.pop("td_error", None)
            if self.priorities is not None and error is not None:
                self.priorities.update(sample.index.t().cpu().numpy(), error.t().cpu().numpy())
            self.updates += 1
            for name, part in parts.items():
                totals[name] = totals[name] + part if name in totals else part
                counts[name] = counts.get(name, 0) + 1
        for name, count in counts.items():
            if count > 1 and name != "non_finite":
                totals[name] = totals[name] / count
        return totals

    def _learn(self, sample: Sample) -> dict[str, Tensor]:
        """:meth:`learn`; on a GPU recorded."""
        if not self.reduce.alone:
            for optimizer in self.optimizers().values():
                optimizer.rows = self._rows(sample)
        if not recording(self.device) or not self._recordable:
            return self.learn(sample)
        parts = self._recorded((*self.flags(), self.memory.ragged), *sample.parts())
        return {name: part.clone() for name, part in parts.items()}

    @cached_property
    def _recorded(self) -> Recorded[dict[str, Tensor]]:
        others = len(self.memory.others)
        return Recorded(lambda flags, *parts: self.learn(Sample.of(parts, others)), self.device, [self.generator])

    @cached_property
    def _recordable(self) -> bool:
        """Nobody knows what functions of a user's own do."""
        if not all(optimizer.recordable for optimizer in self.optimizers().values()):
            return False
        return not holds_own(self.modules().values()) and (self.talker is None or self.talker.wiring.moving is None)

    def flags(self) -> tuple[bool, ...]:
        """Which of the things that are not part of every update are part of this one."""
        return (self.target_due(),)

    def _draw(self, clock: Clock) -> Sample:
        """``B`` places, by chance or by priority, and what is stored there."""
        settings, memory = self._settings, self.memory
        n_step = settings.n_step if self.length == 1 else 1  # sequences sum along their own rows
        if self.priorities is None or settings.prioritised is None:
            index = memory.draw(settings.batch, self.length, self.sampler)
            return memory.sample(index, self.length, n_step, settings.discount, generator=self.sampler)
        trees = self.team.num_agents if self.own_places else 1
        uniform = torch.rand(trees, settings.batch, generator=self.sampler, dtype=torch.float64)
        place, probability = self.priorities.sample(uniform.numpy())
        beta = value_at(settings.prioritised.beta, clock)
        weight = importance_weights(probability, memory.size * self.num_envs, beta)
        index = torch.from_numpy(place).t().contiguous()
        weights = torch.from_numpy(weight).t().to(torch.float32)
        return memory.sample(index, self.length, n_step, settings.discount, weights, generator=self.sampler)

    def weigh(self, sample: Sample) -> Tensor:
        """Weights ``(L, B, N)`` whose sum is, for every parameter set, the weighted mean over rows that count."""
        if not self.memory.ragged and not self._settings.burn_in:  # everything counts
            weight = self._even / (sample.complete.shape[0] * sample.complete.shape[1])  # (N,)
            return (weight * sample.weight).expand(sample.complete.shape)
        weight = weights_of(self.counts(sample), self.owner)
        return weight * sample.weight

    def priority_errors(self, sample: Sample, error: Tensor) -> Tensor:
        """What priorities are made of: errors ``(B, N)`` as they are, or their mean over who acted, ``(B, 1)``."""
        if self.own_places or self.priorities is None:
            return error
        if not self.memory.ragged:
            return error.mean(-1, keepdim=True)
        return error.sum(-1, keepdim=True) / sample.complete[0].sum(-1, keepdim=True).clamp(min=1)

    def mean(self, x: Tensor, sample: Sample) -> Tensor:
        """The mean of ``(L, B, N)`` over what is complete."""
        return ops.masked_mean(x, sample.complete) if self.memory.ragged else x.mean()

    def _rows(self, sample: Sample) -> Tensor:
        """How many rows the losses are means of: of each parameter set ``(P,)``, or ``()`` of a team with a mixer."""
        counts = self.counts(sample)
        return counts[..., 0].sum() if self.mixing else self.owner.sum_sets(counts.sum((0, 1)))

    def counts(self, sample: Sample) -> Tensor:
        """Which transitions ``(L, B, N)`` are learnt from: complete ones after the burn-in."""
        burn_in = self._settings.burn_in
        if not burn_in:
            return sample.complete
        counts = sample.complete.clone()
        counts[:burn_in] = False
        return counts

    def start_carry(self, sample: Sample) -> Tensor:
        """The carry before the first row of each sequence."""
        return sample.carry if self._settings.stored_carry else self.blank_carry(sample)

    def blank_carry(self, sample: Sample) -> Tensor:
        """A carry that remembers nothing."""
        return torch.zeros_like(sample.carry) if self.talker is None else self.talker.forget(sample.carry)

    def multi_step(self, sample: Sample, value: Tensor, lambda_: float | None = None) -> Tensor:
        """Targets ``(L, B, N)`` from the values of successors.

        Single transitions: ``G = r + d V`` (the replay has summed ``n`` rewards). Sequences repeat
        ``G_t = r_t + d_t (G_u or, where the sequence does not hold the successor u, V_t)`` for ``n`` turns, or take the
        lambda-return ``G_t = r_t + d_t ((1 - lambda) V_t + lambda G_u)``.
        """
        target = sample.reward + sample.discount * value
        if self.length == 1:
            return target
        held, place = sample.successor >= 0, sample.successor.clamp(min=0)
        if lambda_ is not None:
            for t in range(self.length - 2, -1, -1):
                onward = torch.lerp(value[t], target.gather(0, place[t : t + 1])[0], lambda_)
                target[t] = sample.reward[t] + sample.discount[t] * torch.where(held[t], onward, value[t])
            return target
        for _ in range(self._settings.n_step - 1):
            target = sample.reward + sample.discount * torch.where(held, target.gather(0, place), value)
        return target

    def unroll(self, net: AgentNet, seen: Tensor, next_seen: Tensor, sample: Sample) -> Tensor:
        """Outputs ``(L, B, N, K)`` at every row's successor."""
        carries = sample.carry.expand(seen.shape[0], *sample.carry.shape)
        if net.carry_shape[1]:
            _, carries = net.read(seen, self.start_carry(sample), sample.started, sample.acting)
        return self.onward(net, next_seen, carries, sample)

    def onward(self, net: AgentNet, next_seen: Tensor, carries: Tensor, sample: Sample) -> Tensor:
        """Outputs ``(L, B, N, K)`` at the successors, each one step after its own row's carry."""
        length, batch, agents = next_seen.shape[:3]
        moving = (
            sample.next_acting if isinstance(net, ChannelNet) else self._moving(length, batch)
        )  # the dead are silent
        if not carries.shape[-1]:
            return net.read(next_seen, carries[0], self._still(length, batch), moving)[0]
        rows = next_seen.reshape(1, length * batch, *next_seen.shape[2:])
        still, moving = self._still(1, length * batch), moving.reshape(1, length * batch, agents)
        carry = carries.reshape(length * batch, agents, carries.shape[-1])
        out, _ = net.read(rows, carry, still, moving)
        return out.view(length, batch, agents, out.shape[-1])

    def _still(self, length: int, batch: int) -> Tensor:
        return torch.zeros((), dtype=torch.bool, device=self.device).expand(length, batch)

    def _moving(self, length: int, batch: int) -> Tensor:
        return torch.ones((), dtype=torch.bool, device=self.device).expand(length, batch, self.team.num_agents)

    def fitting(self, *nets: AgentNet | TeamMixer) -> AbstractContextManager[None]:
        """Within it dropout drops and batch norm looks at the batch, in ``nets`` alone: those that a loss is to fit."""
        return fitting([part for net in nets for part in net.parts_with_mode], self.generator)

    def target_due(self) -> bool:
        """Whether targets move after this update."""
        return (self.updates + 1) % self._settings.target_every == 0

    @torch.no_grad()
    def track(self, online: FlatParameters, target: FlatParameters) -> None:
        """Move targets towards their networks."""
        target.follow(online, self._settings.tau)

    def see_norms(self, *nets: AgentNet, sample: Sample) -> None:
        """Let observation statistics see a draw, after it was learnt from."""
        for net in nets:
            if net.norm is not None:
                net.norm.update(sample.obs, sample.acting, self.reduce)

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Parameters, targets, moments, streams, exploration, memory with priorities."""
        return {
            "modules": {name: dict(module.state_dict()) for name, module in self.modules().items()},
            "optimisers": {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()},
            "generator": self.generator.get_state(),
            "sampler": self.sampler.get_state(),
            "explorer": self.explorer.state_dict(),
            "memory": self.memory.state_dict(),
            "priorities": None if self.priorities is None else self.priorities.state_dict(),
            "updates": self.updates,
            "clock": [self.clock.steps, self.clock.total],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers().items():
            optimizer.load_state_dict(state["optimisers"][name])
        restore_generator(self.generator, state["generator"])
        self.sampler.set_state(state["sampler"])
        self.explorer.load_state_dict(state["explorer"])
        self.memory.load_state_dict(state["memory"])
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        self.updates = int(state["updates"])
        steps, total = state["clock"]
        self._set_clock(Clock(int(steps), None if total is None else int(total)))

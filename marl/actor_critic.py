"""Policies and critics of a team, and the targets they compute from a rollout; used by every on-policy learner."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from marl import ops
from marl.channels import Channel, ChannelNet, policy_net
from marl.graphs import Recorded
from marl.grid.correction import VTrace
from marl.grid.critics import CriticContext, CriticNet, Estimator, TrunkEstimator, ValueEstimator, critic_input
from marl.grid.scope import Scope
from marl.grid.sharing import SharingLike, owner_index
from marl.memory.base import Decision, PolicyInput
from marl.memory.rollout import Rollout
from marl.nets.action_head import masked_policy
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Categorical, Distribution, make_distribution
from marl.nets.networks import Network, default_network
from marl.nets.normalizers import RunningNorm
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters, seeded
from marl.ranks import Ranks
from marl.reduce import ALONE, Reduce
from marl.types import ConfigError, Spec, TeamSpec, valid_choices

CHUNK = 65_536  # values of a rollout are computed in pieces of at most this many vectors,
IMAGE_CHUNK = 2_048  # or this many images, to bound memory;
ON_GPU = 16  # times as many where many at once are faster
LEAST_ROWS, MOST_PARTS = 64, 16  # of minibatches that nobody counted: SB3's size, and no more parts of large rollouts


@dataclass(frozen=True)
class Batch:
    """A rollout arranged as ``C`` sequences of ``L`` rows: tensors ``(L, C, ...)``. Feed-forward: ``L = 1``."""

    seen: Tensor  # (L, C, N, ...) what the actor reads, encoded
    critic_input: Tensor | None  # (L, C, ...) what the critic reads, encoded; None: the same
    action_mask: Tensor | None  # (L, C, N, A)
    started: Tensor  # (L, C)
    acting: Tensor  # (L, C, N) moves the carry
    complete: Tensor  # (L, C, N) counts in the loss
    action: Tensor  # (L, C, N[, A])
    log_prob: Tensor  # (L, C, N) under the policy that played
    value: Tensor  # (L, C, N)
    advantage: Tensor  # (L, C, N)
    target: Tensor  # (L, C, N) what the critic shall say
    carry: Tensor  # (C, N, H) before the first row
    critic_carry: Tensor  # (C, *, H)

    def select(self, index: Tensor) -> Batch:
        """Some of the sequences, in that order."""
        return self._each(lambda x: x.index_select(1, index), lambda x: x.index_select(0, index))

    def narrow(self, start: int, length: int) -> Batch:
        """Neighboring sequences, without copying."""
        return self._each(lambda x: x.narrow(1, start, length), lambda x: x.narrow(0, start, length))

    def _each(self, rows: Any, carries: Any) -> Batch:
        values: dict[str, Any] = {}
        for name, value in self.__dict__.items():
            values[name] = None if value is None else (carries(value) if name.endswith("carry") else rows(value))
        return Batch(**values)

    def clone(self) -> Batch:
        """A copy."""
        return self._each(torch.clone, torch.clone)

    def copy_(self, other: Batch) -> None:
        """Copy the values of another batch of the same shape."""
        for name, value in self.__dict__.items():
            if value is not None:
                value.copy_(getattr(other, name))


class ActorCritic(nn.Module):
    """Stacked actors and critics of one team, with their normalizers and one flat parameter matrix."""

    def __init__(
        self,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        *,
        critic: Scope,
        sharing: SharingLike,
        network: Network | None,
        critic_network: Network | None,
        channel: Channel | None = None,
        agent_id: bool,
        normalize_obs: bool,
        normalize_values: bool,
        squash: bool,
        shared_trunk: bool = False,
        estimator: Callable[[CriticContext], Estimator] = ValueEstimator,
        device: torch.device | str,
    ) -> None:
        """Initialize all networks from ``seed``, one stream per parameter set. ``estimator`` makes the critic.

        ``shared_trunk``: the critic is one more output of the policy's network instead.
        """
        super().__init__()
        self.shared_trunk = shared_trunk
        self.owner = Owner(owner_index(sharing, team))
        self.num_envs = num_envs
        generators = [
            torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1))
            for child in seed.spawn(self.owner.num_sets)
        ]
        # Only agents that share parameters need to be told who they are.
        shares = agent_id and not self.owner.identity
        ids = torch.eye(team.num_agents, dtype=torch.float32) if shares else None
        vector = not team.obs.is_image
        widths = [max(team.obs.widths[agent] for agent in self.owner.members(p)) for p in range(self.owner.num_sets)]
        own = [torch.arange(width) for width in widths] if vector else None
        network = network or default_network(team.obs.shape)
        self.distribution = make_distribution(team.action, squash, device)
        self._one_choice = type(self.distribution) is Categorical
        self.actor = policy_net(
            channel,
            spec,
            team,
            network,
            self.owner,
            self.distribution.size,
            generators,
            gain=0.01,
            ids=ids,
            true_inputs=own,
            normalize=normalize_obs,
            learns_scale=self.distribution.learns_scale,
            values=int(shared_trunk),
        )
        shape = critic.shape(spec, team)
        default = network if shape is None or len(shape) == len(team.obs.shape) else default_network(shape)
        chosen = critic_network or default
        context = CriticContext(spec, team, critic, shape, self.owner, chosen, generators, ids, normalize_obs)
        with seeded(seed):
            self.estimator = TrunkEstimator(self.actor) if shared_trunk else estimator(context)
        self.critic: CriticNet = self.estimator.net
        self.value_norm = RunningNorm(self.owner, 1, clip=math.inf) if normalize_values else None
        self.to(device)
        self.parameters_flat = FlatParameters([self.actor, cast(nn.Module, self.critic)], self.owner.num_sets)
        self.register_buffer(
            "critic_carry", torch.zeros(num_envs, *self.critic.carry_shape, device=device, dtype=torch.float32)
        )
        self.critic_carry: Tensor
        self._estimate = Recorded(ops.idle_generalized_advantage_estimation, device)
        self._correct = Recorded(ops.idle_vtrace, device)

    @property
    def carry_width(self) -> int:
        """``H`` of the actor; 0 if it is feed-forward."""
        return self.actor.carry_shape[1]

    def act(
        self, inputs: PolicyInput, generator: torch.Generator | None, explore: bool, actor: AgentNet | None = None
    ) -> Decision:
        """One action for every agent of every copy; the most likely one unless exploring.

        ``actor``: a copy of the actor that acts in its place.
        """
        actor = actor or self.actor
        if explore and self._one_choice and actor.norm is None:
            compiled = actor.compiled()
            if compiled is not None:
                action, log_prob = compiled.choose(inputs.obs, inputs.action_mask, generator)
                return Decision(action, action, log_prob, inputs.carry)
        return self._act(inputs, generator, explore, actor)

    @torch.inference_mode()
    def _act(self, inputs: PolicyInput, generator: torch.Generator | None, explore: bool, actor: AgentNet) -> Decision:
        actor.seed(inputs.carry, generator)
        parameters, carry = actor.once(inputs.obs, inputs.carry, inputs.started, inputs.acting)  # (E, N, K)
        if explore:
            action, log_prob = self.distribution.draw(parameters, inputs.action_mask, generator)
        else:
            action = self.distribution.mode(parameters, inputs.action_mask)
            log_prob, _ = self.distribution.evaluate(parameters, inputs.action_mask, action)
        return Decision(action, self.distribution.to_env(action), log_prob, carry)

    def joint_input(self, obs: Tensor, joint: Tensor | None) -> Tensor:
        """The critic's input: a stored joint input, the team's observations side by side, or each agent's own."""
        return critic_input(self.estimator, obs, joint)

    def critic_value(
        self, x: Tensor, carry: Tensor, started: Tensor, acting: Tensor, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Critic outputs ``(T, B, N, 1)``, or one value for each own action, and the carry after each row."""
        return self.estimator.read(x, carry, started, acting, action)

    @torch.inference_mode()
    def expected(
        self, obs: Tensor, joint: Tensor | None, carry: Tensor, started: Tensor, acting: Tensor, action: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the critic expects of a row ``(E, N, *O)``: values ``(E, N)`` in units of the return, and its carry."""
        seen = self.critic.encode(self.joint_input(obs.unsqueeze(0), None if joint is None else joint.unsqueeze(0)))
        action = action.unsqueeze(0)
        outputs, carries = self.critic_value(seen, carry, started.unsqueeze(0), acting.unsqueeze(0), action)
        return self._denormalize(self.value_of(outputs, action))[0], carries[-1]

    def value_of(self, critic_input: Tensor, action: Tensor) -> Tensor:
        """``V``, or ``Q`` of the actions taken, ``(..., N)``."""
        return self.estimator.value_of(critic_input, action)

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability and entropy of the stored actions, and values, each ``(L, C, N)``, with gradients."""
        reads = batch.seen, batch.carry, batch.started, batch.acting
        if self.shared_trunk:
            parameters, value, _ = self.actor.read_both(*reads)
        else:
            parameters, _ = self.actor.read(*reads)
            critic_input = batch.seen if batch.critic_input is None else batch.critic_input
            value, _ = self.critic_value(critic_input, batch.critic_carry, batch.started, batch.acting, batch.action)
        log_prob, entropy = self.distribution.evaluate(parameters, batch.action_mask, batch.action)
        return log_prob, entropy, self.value_of(value, batch.action)

    @torch.no_grad()
    def prepare(
        self,
        rollout: Rollout,
        discount: float,
        lambda_: float,
        sequence: int | None,
        generator: torch.Generator | None = None,
        reduce: Reduce = ALONE,
        correction: VTrace | None = None,
    ) -> Batch:
        """Values, advantages and targets of a full rollout, arranged in sequences of ``sequence`` rows.

        A critic may judge actions: where none was taken yet (the row to act on next, true successors) the
        policy draws one from ``generator``, so that targets stay those of the policy that played. With a
        ``correction`` they are those of the policy of now.
        """
        time = rollout.steps
        seen = self.actor.encode(rollout.obs)  # (T + 1, E, N, ...)
        critic_input = None
        apart = isinstance(self.actor, ChannelNet) and self.actor.adjacency.dynamic is not None  # edges are for actors
        if not self.shared_trunk and (self.estimator.joint or self.critic.norm is not None or apart):
            critic_input = self.critic.encode(self.joint_input(rollout.obs, rollout.joint))
        action, policy = rollout.action, None
        if self.estimator.judges_actions:
            policy, drawn = self._policy(rollout, seen, generator)
            action = torch.cat((rollout.action, drawn.unsqueeze(0)))
        # (T + 1, E, N, 1 or A) and, before each row, (T + 1, E, *, H)
        outputs, carries = self._values(rollout, seen if critic_input is None else critic_input, action)
        value = self.value_of(outputs, action)  # (T + 1, E, N)
        final = torch.zeros_like(value[:-1])
        if rollout.final_rows:
            self._final_values(rollout, carries, final, generator)
        value, final = self._denormalize(value), self._denormalize(final)
        recurrent = carries.shape[-1] > 0 or rollout.carry.shape[-1] > 0
        length = (sequence or time) if recurrent else 1
        old = value[:-1]
        outcome = (
            rollout.reward,
            old,
            rollout.acting[:-1],
            rollout.terminated,
            rollout.truncated,
            final,
            value[-1],
            rollout.acting[-1],
        )
        if correction is None:
            advantage, complete = self._estimate(*outcome, discount, lambda_)
            target = advantage + old
        else:
            change = self._log_prob(rollout, seen, length) - rollout.log_prob  # (T, E, N)
            ratio = torch.where(rollout.acting[:-1], change, 0.0).exp()
            errors, advantage, complete = self._correct(
                *outcome, ratio, discount, lambda_, correction.rho, correction.c
            )
            target = errors + old
        outputs = self._denormalize(outputs[:-1], each=True)
        made = self.estimator.advantage(advantage, outputs, rollout.action, policy)
        if made is not advantage:
            advantage = torch.where(complete, made, 0.0)
        if self.value_norm is not None:
            self.value_norm.update(target.unsqueeze(-1), complete, reduce)
            mean, std = self.value_norm.scale()
            old, target = (old - mean.squeeze(-1)) / std.squeeze(-1), (target - mean.squeeze(-1)) / std.squeeze(-1)
        self.critic_carry.copy_(carries[-1])

        def arrange(x: Tensor) -> Tensor:
            return in_sequences(x, length)

        first = slice(0, time, length)
        return Batch(
            seen=arrange(seen[:-1]),
            critic_input=None if critic_input is None else arrange(critic_input[:-1]),
            action_mask=None if rollout.action_mask is None else arrange(rollout.action_mask[:-1]),
            started=arrange(rollout.started[:-1]),
            acting=arrange(rollout.acting[:-1]),
            complete=arrange(complete),
            action=arrange(rollout.action),
            log_prob=arrange(rollout.log_prob),
            value=arrange(old),
            advantage=arrange(advantage),
            target=arrange(target),
            carry=rollout.carry[first].flatten(0, 1),
            critic_carry=carries[first].flatten(0, 1),
        )

    def _pieces(self, rollout: Rollout, once: bool) -> Iterator[slice]:
        """Rows ``0..T`` in pieces that fit into memory; ``once``: agents share one vector of a step."""
        piece = self._rows_at_once(rollout, once)
        for start in range(0, rollout.steps + 1, piece):
            yield slice(start, start + piece)

    def _rows_at_once(self, rollout: Rollout, once: bool) -> int:
        """How many rows fit into memory."""
        image = rollout.obs.dim() > 4
        per_row = rollout.num_envs * (1 if once else self.owner.num_agents)
        most = (IMAGE_CHUNK if image else CHUNK) * (ON_GPU if rollout.device.type == "cuda" else 1)
        return max(1, most // per_row)

    def _values(self, rollout: Rollout, critic_input: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Raw critic outputs of rows ``0..T`` and the critic's carry before each row."""
        carry = rollout.carry[0] if self.shared_trunk else self.critic_carry
        values, carries = [], []
        for rows in self._pieces(rollout, once=self.estimator.once):
            value, after = self.critic_value(
                critic_input[rows], carry, rollout.started[rows], rollout.acting[rows], action[rows]
            )
            values.append(value)
            carries += [carry.unsqueeze(0), after[:-1]]
            carry = after[-1]
        return torch.cat(values), torch.cat(carries)

    def _log_prob(self, rollout: Rollout, seen: Tensor, length: int) -> Tensor:
        """Log-probabilities ``(T, E, N)`` of the stored actions under the policy of now.

        Sequences begin with the carry of when they were played, as they do in :meth:`evaluate`.
        """
        action_mask, log_probs = rollout.action_mask, []
        at_once = max(1, self._rows_at_once(rollout, once=False) // length) * length
        for start in range(0, rollout.steps, at_once):
            stop = min(start + at_once, rollout.steps)
            parts = (x[start:stop] for x in (seen, rollout.started, rollout.acting, rollout.action))
            x, started, acting, action = (in_sequences(part, length) for part in parts)
            masks = None if action_mask is None else in_sequences(action_mask[start:stop], length)
            parameters, _ = self.actor.read(x, rollout.carry[start:stop:length].flatten(0, 1), started, acting)
            log_prob, _ = self.distribution.evaluate(parameters, masks, action)  # (L, C, N)
            pieces = torch.unflatten(log_prob, 1, (-1, rollout.num_envs)).transpose(0, 1)  # (T / L, L, E, N)
            log_probs.append(pieces.flatten(0, 1))
        return torch.cat(log_probs)

    def _policy(self, rollout: Rollout, seen: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The policy's probabilities in rows ``0..T-1``, ``(T, E, N, A)``; actions drawn in row ``T``, ``(E, N)``."""
        carry, outputs = rollout.carry[0], []
        for rows in self._pieces(rollout, once=False):
            out, after = self.actor.read(seen[rows], carry, rollout.started[rows], rollout.acting[rows])
            outputs.append(out)
            carry = after[-1]
        parameters = torch.cat(outputs)  # (T + 1, E, N, A)
        action_mask = rollout.action_mask
        policy, _ = masked_policy(parameters[:-1], None if action_mask is None else action_mask[:-1])
        return policy, self.distribution.sample(
            parameters[-1], None if action_mask is None else action_mask[-1], generator
        )

    def _final_values(
        self, rollout: Rollout, carries: Tensor, final: Tensor, generator: torch.Generator | None
    ) -> None:
        """Put the values of true successors where episodes were truncated."""
        time = torch.cat([torch.full((len(copies),), t) for t, copies in rollout.final_rows]).to(final.device)
        copies = torch.from_numpy(np.concatenate([copies for _, copies in rollout.final_rows])).to(final.device)
        obs = torch.cat(rollout.final_obs).unsqueeze(0)  # (1, K, N, *O)
        joint = torch.cat(rollout.final_joint).unsqueeze(0) if rollout.final_joint else None
        # carries[t + 1] is the carry after row t: a successor is read by a critic that remembers its episode.
        carry = carries[time + 1, copies]
        still = torch.zeros(1, len(copies), dtype=torch.bool, device=final.device)
        acting = torch.ones(1, len(copies), self.owner.num_agents, dtype=torch.bool, device=final.device)
        action = rollout.action[time, copies].unsqueeze(0)
        if self.estimator.judges_actions:
            # Who acted last is taken to act again; where nobody says what is legal, all that exists is.
            acting = rollout.acting[time, copies].unsqueeze(0)
            out, _ = self.actor(obs, rollout.carry[time + 1, copies], still, acting)
            if rollout.final_action_mask:
                action_mask = torch.cat(rollout.final_action_mask).unsqueeze(0)
            else:
                action_mask = torch.from_numpy(valid_choices(rollout.team.action)).to(out.device).expand(out.shape)
            action = self.distribution.sample(out, action_mask, generator)
        critic_input = self.critic.encode(self.joint_input(obs, joint))
        value, _ = self.critic_value(critic_input, carry, still, acting, action)
        final[time, copies] = self.value_of(value, action)[0]

    def _denormalize(self, value: Tensor, each: bool = False) -> Tensor:
        """In true units; ``each``: values of every action, ``(..., N, A)``."""
        if self.value_norm is None:
            return value
        mean, std = self.value_norm.scale()
        return value * std + mean if each else value * std.squeeze(-1) + mean.squeeze(-1)

    def update_normalizers(self, rollout: Rollout, reduce: Reduce = ALONE) -> None:
        """Update the observation statistics with a rollout, after the update that used the old statistics."""
        if self.actor.norm is not None:
            self.actor.norm.update(rollout.obs[:-1], rollout.acting[:-1], reduce)
        if self.critic.norm is not None:
            inputs = self.joint_input(rollout.obs[:-1], None if rollout.joint is None else rollout.joint[:-1])
            acting = rollout.acting[:-1]
            if self.estimator.joint:
                columns = self.critic.carry_shape[0]
                inputs = inputs.unsqueeze(2).expand(*inputs.shape[:2], columns, *inputs.shape[2:])
                acting = acting.any(-1, keepdim=True).expand(*acting.shape[:2], columns)
            self.critic.norm.update(inputs, acting, reduce)

    def restrict(self, agent: int | None, team: TeamSpec, squash: bool) -> tuple[AgentNet, Distribution]:
        """One agent's own policy network and its action distribution; None: the whole team's."""
        if agent is None:
            return self.actor.restrict(None), self.distribution
        return self.actor.restrict(agent).cpu(), make_distribution(team.action.of(agent), squash)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy in place, so that parameters stay views of the flat matrix."""
        return super().load_state_dict(state, strict=strict, assign=False)


def in_sequences(x: Tensor, length: int) -> Tensor:
    """Rows ``(T, E, ...)`` as ``C = E T / L`` sequences of ``L`` rows, ``(L, C, ...)``: of one time beside another."""
    pieces = torch.unflatten(x, 0, (x.shape[0] // length, length)).transpose(0, 1)  # (L, T / L, E, ...)
    return pieces.flatten(1, 2)


def count_minibatches(
    name: str, rollout: int, num_envs: int, minibatches: int | None, sequence: int | None, recurrent: bool
) -> int:
    """How many equal parts a pass has; None: as many as leave each ``LEAST_ROWS`` rows, at most ``MOST_PARTS``.

    Raises:
        ConfigError: for settings that do not divide, naming both keys and a fix.
    """
    if recurrent and sequence is not None and rollout % sequence:
        raise ConfigError(
            f"{name}: rollout={rollout} is not a multiple of sequence={sequence}; "
            f"set sequence={math.gcd(rollout, sequence)}"
        )
    pieces = num_envs * (rollout // (sequence or rollout) if recurrent else rollout)
    if minibatches is None:
        most = max(1, min(MOST_PARTS, rollout * num_envs // LEAST_ROWS))
        return next(count for count in range(most, 0, -1) if pieces % count == 0)
    if pieces % minibatches:
        unit = f"sequences of {sequence or rollout} rows" if recurrent else "rows"
        raise ConfigError(
            f"{name}: minibatches={minibatches} does not divide the rollout's {pieces} {unit} (rollout={rollout} x "
            f"num_envs={num_envs}); set minibatches={math.gcd(pieces, minibatches)}"
        )
    return minibatches


def minibatches(
    batch: Batch, count: int, generator: torch.Generator, ranks: Ranks | None = None, copies: int = 1
) -> Iterator[Tensor]:
    """One epoch: every sequence's number once, in a new order, agents of one step together.

    Ranks put the sequences of all of them in one order; each takes from every part those of its own ``copies``. So the
    parts differ in size between ranks, and may even be empty, but together they are those of one process.
    """
    size = batch.seen.shape[1]
    if ranks is None:
        index = torch.randperm(size, generator=generator, device=batch.seen.device)
        return iter(torch.split(index, size // count))
    size, everybody = size * ranks.size, copies * ranks.size
    index = torch.randperm(size, generator=generator, device=batch.seen.device)
    piece, copy = index // everybody, index % everybody - ranks.rank * copies  # as ActorCritic.prepare arranges them
    own, numbers = (copy >= 0) & (copy < copies), piece * copies + copy
    parts = zip(torch.split(numbers, size // count), torch.split(own, size // count), strict=True)
    return (part[mine] for part, mine in parts)


def explained_variance(batch: Batch, reduce: Reduce = ALONE) -> Tensor:
    """``1 - Var(target - value) / Var(target)`` over the rows that count; 0 where targets do not vary."""
    count = batch.complete.sum()
    reduce.sum(count)
    weight = batch.complete.float() / count.clamp(min=1)
    error = batch.target - batch.value

    def variance(x: Tensor) -> Tensor:
        mean = (x * weight).sum()
        reduce.sum(mean)
        squares = ((x - mean).square() * weight).sum()
        reduce.sum(squares)
        return squares

    spread = variance(batch.target)
    return torch.where(spread > 1e-12, 1 - variance(error) / spread.clamp(min=1e-12), 0.0)

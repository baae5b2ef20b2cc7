"""Distillation: a smaller network that does what a trained team does, learnt on the states that it visits itself.

DAgger (Ross et al. 2011): in each round the student plays (the teacher in the first), the teacher says in every state
what it would have computed, and the student learns from all rounds. Logits of choices are matched by the divergence
``KL(teacher || student)`` under the action mask, everything else by the squared difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marl.adapters import lifecycle
from marl.channels import ChannelNet
from marl.memory.base import PolicyInput
from marl.nets.action_head import ActionHead
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Bernoulli, Categorical, Distribution, Gaussian, MultiCategorical, mask_logits
from marl.nets.networks import Network
from marl.nets.owner import Owner
from marl.playing.episodes import evaluation_seeds
from marl.playing.team import Policy
from marl.training.trained import Trained
from marl.types import ConfigError, Step

Students = Mapping[str, AgentNet]  # networks of whole teams, by the team's name


@dataclass(frozen=True)
class Lessons:
    """How long a student learns.

    Args:
        rounds: of play and learning.
        copies: of the environment that play side by side.
        steps: of each copy in each round.
        epochs: passes over everything that was seen, in each round.
        batch: rows of one gradient; of recurrent students sequences.
        sequence: steps of a sequence.
        lr: learning rate of Adam in the first round; it falls linearly, to a share of ``1 / rounds`` in the last.
    """

    rounds: int = 8
    copies: int = 32
    steps: int = 100
    epochs: int = 10
    batch: int = 256
    sequence: int = 20
    lr: float = 3e-3


@dataclass(frozen=True)
class Seen:
    """One sequence ``(T, B, ...)``: what a team saw, and what its teacher computed there."""

    obs: Tensor
    started: Tensor
    acting: Tensor
    action_mask: Tensor | None
    wanted: Tensor
    carry: Tensor  # (B, N, H), the student's at its begin


def distill(system: Trained, network: Network, lessons: Lessons | None = None, seed: int = 0) -> Students:
    """Students of all teams of a system, each one network for the whole team.

    Args:
        system: the teachers; nothing in it changes.
        network: of the students, such as ``marl.MLP((32, 32))`` or ``marl.GRU(32)``.
        lessons: how long they learn; None: some seconds.
        seed: of their parameters and of the states that they visit.

    Raises:
        ConfigError: for teams that talk, mix policies, or read nothing: there is nothing to be learnt.
    """
    students = {}
    for place, (team, teacher) in enumerate(zip(system.spec.teams, teachers_of(system), strict=True)):
        net = teacher.net
        assert net is not None
        owner = Owner((0,) * team.num_agents)
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, place]).generate_state(1)[0]))
        student = AgentNet(
            network,
            owner,
            team.obs.shape,
            net.out,
            [generator],
            gain=0.01,
            ids=torch.eye(team.num_agents) if team.num_agents > 1 else None,
            normalize=net.norm is not None,
            learns_scale=net.learns_scale,
        )
        if student.log_std is not None and net.log_std is not None:
            with torch.no_grad():
                student.log_std.copy_(net.log_std.mean(0, keepdim=True))
        students[team.name] = student
    return imitate(system, students, lessons, seed)


def teachers_of(system: Trained) -> list[Policy]:
    """The policy of each team. Raises ConfigError for those that nothing can be learnt from."""
    found = []
    players = system.training.players
    for place, team in enumerate(system.spec.teams):
        strategy = players.strategy(place)
        (_, policy), *others = strategy
        if others or policy.net is None or type(policy.net) is not AgentNet:
            talks = isinstance(policy.net, ChannelNet)
            why = "mixes policies" if others else "talks" if talks else "has no network of this library"
            raise ConfigError(f"team {team.name!r} {why}, so it cannot be made smaller; export it as it is")
        found.append(policy)
    return found


def imitate(system: Trained, students: Students, lessons: Lessons | None = None, seed: int = 0) -> Students:
    """Teach students (or go on), in place; what pruning left as zeros stays zeros. Returns them."""
    plan, teachers = lessons or Lessons(), teachers_of(system)
    pupils = [
        Policy(students[team.name], teacher.distribution)
        for team, teacher in zip(system.spec.teams, teachers, strict=True)
    ]
    env_seed, act_seed, _ = evaluation_seeds(seed)
    generator = torch.Generator().manual_seed(act_seed)
    memories: list[list[Seen]] = [[] for _ in teachers]
    optimizers = [torch.optim.Adam(students[team.name].parameters(), lr=plan.lr) for team in system.spec.teams]
    with lifecycle.closing_batch(system.environments.another(plan.copies)) as batch:
        step = batch.reset(env_seed)
        players = Side.each(teachers, pupils, batch.num_envs)
        for number in range(plan.rounds):
            for _ in range(max(1, plan.steps // plan.sequence)):
                rows: list[list[tuple[PolicyInput, Tensor]]] = [[] for _ in players]
                begun = [player.carries[1].clone() for player in players]
                for _ in range(plan.sequence):
                    actions = []
                    for place, player in enumerate(players):
                        action, inputs, wanted = player.act(step, place, generator, leads=number > 0)
                        rows[place].append((inputs, wanted))
                        actions.append(action.numpy())
                    step = batch.step(actions)
                for memory, seen, carry in zip(memories, rows, begun, strict=True):
                    memory.append(_stacked(seen, carry))
            for pupil, memory, optimizer in zip(pupils, memories, optimizers, strict=True):
                optimizer.param_groups[0]["lr"] = plan.lr * (1 - number / plan.rounds)
                _learn(pupil, memory, optimizer, plan, generator)
    return students


class Side:
    """A teacher and its student in the same states, each with its own memory; one of them acts."""

    def __init__(self, teacher: Policy, pupil: Policy, copies: int, agents: int) -> None:
        """Both remember nothing yet."""
        self.both = teacher, pupil
        self.carries = [torch.zeros(copies, agents, one.carry_width) for one in self.both]

    @classmethod
    def each(cls, teachers: Sequence[Policy], pupils: Sequence[Policy], copies: int) -> list[Side]:
        """One for each team."""
        pairs = zip(teachers, pupils, strict=True)
        return [cls(one, other, copies, other.net.owner.num_agents) for one, other in pairs if other.net is not None]

    def act(
        self, step: Step, place: int, generator: torch.Generator, leads: bool
    ) -> tuple[Tensor, PolicyInput, Tensor]:
        """Actions of the team, its input, and what the teacher computes; ``leads``: the student acts."""
        rows = step.teams[place]
        mask = None if rows.action_mask is None else torch.from_numpy(rows.action_mask.copy())
        given = [torch.from_numpy(array.copy()) for array in (rows.obs, step.started, rows.acting)]
        found = []
        for k, policy in enumerate(self.both):
            inputs = PolicyInput(given[0], self.carries[k], given[1], given[2], mask)
            parameters, self.carries[k] = policy.parameters(inputs)
            found.append(parameters)
        head = self.both[1].distribution
        return head.to_env(head.sample(found[int(leads)], mask, generator)), inputs, found[0].clone()


def _stacked(rows: Sequence[tuple[PolicyInput, Tensor]], carry: Tensor) -> Seen:
    inputs = [one for one, _ in rows]
    masks = [one.action_mask for one in inputs if one.action_mask is not None]
    return Seen(
        torch.stack([one.obs for one in inputs]),
        torch.stack([one.started for one in inputs]),
        torch.stack([one.acting for one in inputs]),
        torch.stack(masks) if masks else None,
        torch.stack([wanted for _, wanted in rows]),
        carry,
    )


def _learn(
    pupil: Policy, memory: Sequence[Seen], optimizer: torch.optim.Optimizer, plan: Lessons, generator: torch.Generator
) -> None:
    """Some passes over everything that was seen."""
    net = pupil.net
    assert net is not None
    if net.norm is not None:
        net.see(memory[-1].obs, memory[-1].acting)
    kept = {name: parameter != 0 for name, parameter in net.named_parameters()}
    net.train()
    for _ in range(plan.epochs):
        for seen in _batches(memory, plan, remembers=pupil.carry_width > 0, generator=generator):
            outputs, _ = net(seen.obs, seen.carry, seen.started, seen.acting)
            loss = divergence(pupil.distribution, outputs, seen.wanted, seen.action_mask)
            weight = seen.acting.float()
            total = (loss * weight).sum() / weight.sum().clamp(min=1)
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    if parameter.dim() > 2:
                        parameter.mul_(kept[name])
    net.eval()


def _batches(memory: Sequence[Seen], plan: Lessons, remembers: bool, generator: torch.Generator) -> Iterator[Seen]:
    """All rows in random order: sequences of copies where a student remembers, else single steps."""
    many = [_joined(memory)] if remembers else [_flat(_joined(memory))]
    for whole in many:
        count = whole.started.shape[1]
        size = max(1, plan.batch // whole.started.shape[0])
        for rows in torch.split(torch.randperm(count, generator=generator), size):
            mask = None if whole.action_mask is None else whole.action_mask[:, rows]
            yield Seen(
                whole.obs[:, rows], whole.started[:, rows], whole.acting[:, rows], mask, whole.wanted[:, rows],
                whole.carry[rows],
            )  # fmt: skip


def _joined(memory: Sequence[Seen]) -> Seen:
    """All sequences side by side."""
    masks = [one.action_mask for one in memory if one.action_mask is not None]
    return Seen(
        torch.cat([one.obs for one in memory], 1),
        torch.cat([one.started for one in memory], 1),
        torch.cat([one.acting for one in memory], 1),
        torch.cat(masks, 1) if masks else None,
        torch.cat([one.wanted for one in memory], 1),
        torch.cat([one.carry for one in memory]),
    )


def _flat(whole: Seen) -> Seen:
    """Every step as a sequence of its own."""
    parts = [whole.obs, whole.started, whole.acting, whole.wanted]
    obs, started, acting, wanted = (part.flatten(0, 1).unsqueeze(0) for part in parts)
    mask = None if whole.action_mask is None else whole.action_mask.flatten(0, 1).unsqueeze(0)
    carry = whole.carry.new_zeros(started.shape[1], *whole.carry.shape[1:])
    return Seen(obs, started, acting, mask, wanted, carry)


def divergence(head: Distribution, outputs: Tensor, wanted: Tensor, action_mask: Tensor | None) -> Tensor:
    """How far a student's outputs ``(..., K)`` are from its teacher's, ``(...)``."""
    choice = head.choice if isinstance(head, ActionHead) else head
    if isinstance(choice, Categorical):
        return _kl(outputs, wanted, action_mask)
    if isinstance(choice, MultiCategorical):
        masks = [None] * len(choice.sizes) if action_mask is None else torch.split(action_mask, choice.sizes, dim=-1)
        both = (torch.split(one, choice.sizes, dim=-1) for one in (outputs, wanted))
        parts = zip(*both, masks, strict=True)
        return torch.stack([_kl(*part) for part in parts]).sum(0)
    if isinstance(choice, Bernoulli):
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs, wanted.sigmoid(), reduction="none").sum(-1)
    if isinstance(choice, Gaussian):  # the scale is copied, and learns nothing
        outputs, wanted = outputs[..., : choice.size], wanted[..., : choice.size]
    return (outputs - wanted).square().mean(-1)


def _kl(outputs: Tensor, wanted: Tensor, action_mask: Tensor | None) -> Tensor:
    ours, theirs = (mask_logits(one, action_mask).log_softmax(-1) for one in (outputs, wanted))
    return (theirs.exp() * (theirs - ours)).sum(-1)

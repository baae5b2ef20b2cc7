"""Frozen policies on seats: teams, mixtures of policies and members of leagues."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marl.channels import ChannelNet, Link, Tamper
from marl.learners import Learner
from marl.learners.base import ActsWithNet
from marl.memory.base import PolicyInput
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.stacked import FlatParameters, holds_own
from marl.types import Array, Spec, Step

OWN = -1  # a seat that a learner plays and learns from


@dataclass(frozen=True)
class Side:
    """Agents that win or lose together: a team (its ``place``), or one agent of the only team (its ``columns``)."""

    name: str
    place: int
    columns: tuple[int, ...]
    agents: tuple[str, ...]


def team_sides(spec: Spec) -> tuple[Side, ...]:
    """A side for every team."""
    return tuple(
        Side(team.name, place, tuple(range(team.num_agents)), team.agents) for place, team in enumerate(spec.teams)
    )


class Policy:
    """A frozen policy of a team: its network (None: it reads nothing) and its action distribution.

    every_row: rows of copies in which none of its agents acts are evaluated too, as while training; what is on its way
        between agents moves on there.
    """

    every_row = False

    def __init__(
        self, net: AgentNet | None, distribution: Distribution, *, greedy: bool = False, name: str = ""
    ) -> None:
        """``greedy``: takes its most likely action; ``name``: for people."""
        self.net = None if net is None else net.eval()
        self.distribution, self.greedy, self.name = distribution, greedy, name

    def with_greedy(self, greedy: bool = False) -> Policy:
        """The same policy, greedy if it is already or if asked."""
        return Policy(self.net, self.distribution, greedy=self.greedy or greedy, name=self.name)

    @property
    def carry_width(self) -> int:
        """Width of the recurrent state of one agent."""
        return 0 if self.net is None else self.net.carry_shape[1]

    @torch.inference_mode()
    def parameters(self, inputs: PolicyInput) -> tuple[Tensor, Tensor]:
        """Parameters of the action distribution ``(R, N, K)``, and the carry after."""
        if self.net is None:
            shape = *inputs.acting.shape, self.distribution.size
            return torch.zeros(shape, device=inputs.acting.device, dtype=torch.float32), inputs.carry
        out, carries = self.net(
            inputs.obs.unsqueeze(0), inputs.carry, inputs.started.unsqueeze(0), inputs.acting.unsqueeze(0)
        )
        return out[0], carries[0]

    @torch.inference_mode()
    def act(self, inputs: PolicyInput, generator: torch.Generator, greedy: bool = False) -> tuple[Tensor, Tensor]:
        """Actions for the environment ``(R, N[, A])``, and the carry after. What reads nothing always samples."""
        parameters, carry = self.parameters(inputs)
        if (greedy or self.greedy) and self.net is not None:
            action = self.distribution.mode(parameters, inputs.action_mask)
        else:
            action = self.distribution.sample(parameters, inputs.action_mask, generator)
        return self.distribution.to_env(action), carry


class FrozenPolicy(Policy):
    """A frozen copy of a learner's policy that acts and explores by the learner's own rules.

    Nothing that it does changes the learner: neither network nor random stream.
    """

    every_row = True

    def __init__(self, learner: Learner, *, greedy: bool) -> None:
        """``greedy``: takes its most likely action; else it explores as while training."""
        net, distribution = learner.policy(None)
        if isinstance(net, AgentNet) and holds_own([net]):
            net = copy.deepcopy(net)  # a user's function may give the same module at every call
        super().__init__(net, distribution, greedy=greedy)
        self._rule = learner if isinstance(learner, ActsWithNet) and isinstance(net, AgentNet) else None
        if isinstance(net, AgentNet) and any(True for _ in net.parameters()):
            self._flat = FlatParameters([net], net.owner.num_sets)  # one matrix, as in the learner: the same kernels

    def act(self, inputs: PolicyInput, generator: torch.Generator, greedy: bool = False) -> tuple[Tensor, Tensor]:
        """Actions for the environment ``(R, N[, A])`` by the learner's rule, and the carry after."""
        if self._rule is None or self.net is None:
            return super().act(inputs, generator, greedy)
        decision = self._rule.act_with_net(self.net, inputs, not (greedy or self.greedy), generator)
        return decision.env_action, decision.carry

    def use(self, link: Link | None, tamper: Tamper | None) -> None:
        """Send messages over this link, as after training."""
        if isinstance(self.net, ChannelNet) and link is not None:
            self.net.use(link, executing=True, tamper=tamper)


Strategy = Sequence[tuple[float, Policy]]  # the policies that a side mixes, with chances that add up to 1


class SeatAssignment:
    """Which policy plays each agent of each copy: ``of[k] (E, N)`` holds a policy's number, or ``OWN``."""

    def __init__(self, spec: Spec, num_envs: int, device: torch.device | str) -> None:
        """Assign every seat to its learner."""
        self.spec, self.num_envs, self.device = spec, num_envs, torch.device(device)
        self.of = [np.full((num_envs, team.num_agents), OWN, dtype=np.int64) for team in spec.teams]
        self.carries: dict[int, Tensor] = {}  # (E, N, H) of the policies that have one

    def act(
        self,
        policies: Mapping[int, Policy],
        step: Step,
        actions: Sequence[Array],
        generator: torch.Generator,
    ) -> None:
        """Write the policies' actions into ``actions[k] (E, N[, A])``, in place; other seats keep their actions."""
        for number, carry in self.carries.items():
            if not policies[number].every_row:  # networks begin episodes by themselves where they see them begin
                carry[torch.from_numpy(step.started)] = 0.0
        for seats, team, out in zip(self.of, step.teams, actions, strict=True):
            for number in np.unique(seats).tolist():
                if number == OWN:
                    continue
                policy, mine = policies[number], seats == number
                acting = mine & team.acting  # (E, N)
                carry = self._carry(policy, number, seats.shape[1])
                if policy.every_row:
                    inputs = self._inputs(team.obs, carry, step.started, acting, team.action_mask)
                    action, after = policy.act(inputs, generator)
                    if policy.carry_width:
                        self.carries[number] = after
                    out[mine] = action.cpu().numpy()[mine]
                    continue
                rows = np.flatnonzero(acting.any(axis=1))
                if not len(rows):
                    continue
                where = torch.from_numpy(rows)
                none = np.zeros(len(rows), dtype=bool)
                action_mask = None if team.action_mask is None else team.action_mask[rows]
                inputs = self._inputs(team.obs[rows], carry[where], none, acting[rows], action_mask)
                action, after = policy.act(inputs, generator)
                if policy.carry_width:
                    carry[where] = after.to(carry.device)
                out[acting] = action.cpu().numpy()[acting[rows]]

    def _inputs(
        self, obs: Array, carry: Tensor, started: Array, acting: Array, action_mask: Array | None
    ) -> PolicyInput:
        """Rows of a step as tensors on the device."""
        rows = (torch.from_numpy(array).to(self.device) for array in (obs, started, acting))
        obs_, started_, alive_ = rows
        return PolicyInput(
            obs_,
            carry.to(self.device),
            started_,
            alive_,
            None if action_mask is None else torch.from_numpy(action_mask).to(self.device),
        )

    def _carry(self, policy: Policy, number: int, agents: int) -> Tensor:
        device = self.device if policy.every_row else torch.device("cpu")
        if not policy.carry_width:
            return torch.zeros(self.num_envs, agents, 0, dtype=torch.float32, device=device)
        if number not in self.carries:
            shape = self.num_envs, agents, policy.carry_width
            self.carries[number] = torch.zeros(shape, dtype=torch.float32, device=device)
        return self.carries[number]

    def seed(self, number: int, policy: Policy, agents: int, seed: int) -> None:
        """Give a policy whose messages depend on chance a key in every copy."""
        if isinstance(policy.net, ChannelNet):
            policy.net.seed(self._carry(policy, number, agents), torch.Generator(self.device).manual_seed(seed))


class TeamActor:
    """Frozen policies on every side; a side with several draws one for each episode."""

    def __init__(
        self,
        spec: Spec,
        num_envs: int,
        sides: Sequence[Side],
        strategies: Sequence[Strategy],
        seed: int,
        device: torch.device | str,
    ) -> None:
        """``strategies[s]`` plays side ``s``; ``seed``: of draws and of actions."""
        self.random = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self.generator = torch.Generator(device).manual_seed(seed)
        self.seats, self.sides = SeatAssignment(spec, num_envs, device), sides
        self.policies: dict[int, Policy] = {}
        self.mixtures: list[tuple[list[int], list[float]]] = []  # of each side: numbers of policies, their chances
        for side, strategy in zip(sides, strategies, strict=True):
            numbers = list(range(len(self.policies), len(self.policies) + len(strategy)))
            self.policies |= {number: one for number, (_, one) in zip(numbers, strategy, strict=True)}
            self.mixtures.append((numbers, [chance for chance, _ in strategy]))
            for number in numbers:
                if self.policies[number].every_row:
                    self.seats.seed(number, self.policies[number], spec.teams[side.place].num_agents, seed)
        self.actions = [
            np.zeros((num_envs, team.num_agents, *team.action.shape), dtype=team.action.dtype) for team in spec.teams
        ]

    def act(self, step: Step) -> list[Array]:
        """Actions of all agents, ``(E, N[, A])`` for each team; always in the same arrays."""
        for row in np.flatnonzero(step.started).tolist():
            for side, (numbers, chances) in zip(self.sides, self.mixtures, strict=True):
                chosen = numbers[0] if len(numbers) == 1 else int(self.random.choice(numbers, p=chances))
                self.seats.of[side.place][row, side.columns] = chosen
        self.seats.act(self.policies, step, self.actions, self.generator)
        return self.actions

"""The on-policy memory: ``T`` rows of ``E`` copies, allocated once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.grid.credit import Credit
from marl.grid.scope import Scope
from marl.memory.base import Decision, PolicyInput, refuse_wild_actions
from marl.types import Array, Spec, Step, TeamSpec

SEEN = ("obs", "acting", "action_mask", "started", "joint")  # T + 1 rows of what the environment shows
DECIDED = ("carry", "action", "log_prob")  # what the learner answers


class Rollout:
    """Rows ``t = 0..T`` of observations, and ``t = 0..T-1`` of actions, rewards and ends.

    All are tensors ``(T, E, N, ...)``. Row ``T`` is the step to act on next; it becomes row 0 of the next rollout. True
    successors are kept only where somebody was truncated, since nobody else needs them. ``acting[t]`` says who really
    chose an action in row ``t``.
    """

    def __init__(
        self,
        spec: Spec,
        team: TeamSpec,
        scope: Scope,
        credit: Credit,
        steps: int,
        num_envs: int,
        carry_width: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """``steps`` is ``T``; ``carry_width`` the actor's ``H``."""
        self.spec, self.team = spec, team
        self.place = spec.teams.index(team)
        self.steps, self.num_envs = steps, num_envs
        self.device = torch.device(device)
        rows = (num_envs, team.num_agents)
        obs_dtype = torch.uint8 if team.obs.dtype == "uint8" else torch.float32
        action_dtype = torch.float32 if team.action.dtype == "float32" else torch.int64

        def zeros(length: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(length, *shape, dtype=dtype, device=device)

        self.obs = zeros(steps + 1, *rows, *team.obs.shape, dtype=obs_dtype)
        self.acting = zeros(steps + 1, *rows, dtype=torch.bool)
        self.action_mask = zeros(steps + 1, *rows, team.action.num_choices, dtype=torch.bool) if team.masked else None
        self.started = zeros(steps + 1, num_envs, dtype=torch.bool)
        self.carry = zeros(steps + 1, *rows, carry_width)
        self.action = zeros(steps, *rows, *team.action.shape, dtype=action_dtype)
        self.log_prob = zeros(steps, *rows)
        self.reward = zeros(steps, *rows)
        self.terminated = zeros(steps, *rows, dtype=torch.bool)
        self.truncated = zeros(steps, *rows, dtype=torch.bool)
        shape = scope.shape(spec, team)
        self._gathered = None if shape is None or scope.is_view(spec) else scope
        self.joint = None if shape is None or self._gathered is None else zeros(steps + 1, num_envs, *shape)
        self.outcome = credit.outcome(num_envs, team.num_agents)
        self.final_rows: list[tuple[int, Array]] = []  # (t, copies) of which final_obs and final_joint hold successors
        self.final_obs: list[Tensor] = []
        self.final_joint: list[Tensor] = []
        self.final_action_mask: list[Tensor] = []  # where it is known
        self.time = 0
        # What the environment says is written in main memory. A GPU is sent the row to act on, and all of them at the
        # end; it reads pinned memory by itself, while the processor is already elsewhere.
        gpu = self.device.type == "cuda"
        self._sent = torch.cuda.Event() if gpu else None  # type: ignore[no-untyped-call]
        self._host: dict[str, Tensor] = {
            name: tensor if tensor.device.type == "cpu" else torch.zeros_like(tensor, device="cpu", pin_memory=gpu)
            for name, tensor in self._tensors()
            if name not in DECIDED
        }
        self._line_up()
        self._now = None if self.device.type == "cpu" else self._first_input()

    def _line_up(self) -> None:
        """Look at the same memory as arrays: numpy writes a small row in a third of the time that torch takes."""
        self._rows = {name: tensor.numpy() for name, tensor in self._host.items()}
        self._answers: dict[str, Array] = {}
        if self.device.type == "cpu":
            self._answers = {"action": self.action.numpy(), "log_prob": self.log_prob.numpy()}
        self._inputs: list[PolicyInput | None] = [None] * (self.steps + 1)

    def rest_in(self, whole: Rollout, copies: slice) -> None:
        """Go on in the memory of some copies of another rollout in main memory; see :mod:`marl.memory.beside`."""
        for name, tensor in self._tensors():
            own = getattr(whole, name)[:, copies].copy_(tensor)
            setattr(self, name, own)
            if name in self._host:
                self._host[name] = own
        self._line_up()

    @property
    def full(self) -> bool:
        """Whether all rows are filled."""
        return self.time == self.steps

    @property
    def idle(self) -> bool:
        """Whether no agent acted in any row."""
        return not self._rows["acting"][:-1].any()

    def start(self, step: Step) -> None:
        """Begin with the first step of a training run, or go on from a step after loading."""
        self._see(step)

    def current(self) -> PolicyInput:
        """The policy's input at the current step; on a GPU always in the same memory."""
        t = self.time
        if self._now is not None:
            for name, place in (("obs", self._now.obs), ("acting", self._now.acting), ("started", self._now.started)):
                place.copy_(self._host[name][t], non_blocking=True)
            if self._now.action_mask is not None:
                self._now.action_mask.copy_(self._host["action_mask"][t], non_blocking=True)
            if self.carry.shape[-1]:
                self._now.carry.copy_(self.carry[t])
            return self._now
        inputs = self._inputs[t]
        if inputs is None:
            action_mask = None if self.action_mask is None else self.action_mask[t]
            inputs = self._inputs[t] = PolicyInput(
                self.obs[t], self.carry[t], self.started[t], self.acting[t], action_mask
            )
        return inputs

    def _first_input(self) -> PolicyInput:
        action_mask = None if self.action_mask is None else self.action_mask[0].clone()
        return PolicyInput(
            self.obs[0].clone(), self.carry[0].clone(), self.started[0].clone(), self.acting[0].clone(), action_mask
        )

    def decide(self, decision: Decision) -> None:
        """Store the chosen actions."""
        t = self.time
        if self._now is None:
            self._answers["action"][t] = decision.action.numpy()
            self._answers["log_prob"][t] = decision.log_prob.numpy()
        else:
            self.action[t].copy_(decision.action)
            self.log_prob[t].copy_(decision.log_prob)
        if self.carry.shape[-1]:
            self.carry[t + 1].copy_(decision.carry)

    def decided(self) -> Decision:
        """What is stored of the current step already."""
        t = self.time
        action = self.action[t].clone()
        return Decision(action, action, self.log_prob[t].clone(), self.carry[t])

    def observe(self, step: Step, reward: Array | None = None) -> None:
        """Store the result of a step, and the step to act on next; ``reward`` replaces the raw reward."""
        t = self.time
        team = step.teams[self.place]
        paid, terminated, truncated = self.outcome(team, step.started, reward)
        self._put("reward", t, paid)
        self._put("terminated", t, terminated)
        self._put("truncated", t, truncated)
        if np.count_nonzero(truncated):
            copies = np.nonzero(truncated.any(axis=1))[0]
            self.final_rows.append((t, copies))
            self.final_obs.append(torch.from_numpy(team.next_obs[copies]).to(self.device))
            if self._gathered is not None:
                successor = self._gathered.gather(step, self.place, successor=True, rows=copies)
                self.final_joint.append(torch.from_numpy(successor).to(self.device))
            if team.next_action_mask is not None:
                self.final_action_mask.append(torch.from_numpy(team.next_action_mask[copies]).to(self.device))
        if np.count_nonzero(step.discarded):
            self._forget(np.nonzero(step.discarded)[0])
        self.time = t + 1
        self._see(step)
        self._send()

    def _put(self, name: str, t: int, row: Array) -> None:
        """Write one row."""
        self._rows[name][t] = row

    def _send(self) -> None:
        """Copy all rows of a full rollout to a GPU."""
        if self.full and self._now is not None:
            for name, rows in self._host.items():
                getattr(self, name).copy_(rows, non_blocking=True)
            if self._sent is not None:
                self._sent.record(torch.cuda.current_stream(self.device))

    def restart(self) -> None:
        """Begin the next rollout where this one ended."""
        if self._sent is not None:
            self._sent.synchronize()  # rows that are still on their way must not change
        for name in SEEN:
            if name in self._host:
                self._host[name][0].copy_(self._host[name][self.steps])
        self.carry[0].copy_(self.carry[self.steps])
        self.go_to(0)

    def go_to(self, time: int) -> None:
        """Go on at a row, without the true successors of others."""
        self.final_rows.clear()
        for kept in self.successors:
            kept.clear()
        self.time = time

    @property
    def successors(self) -> tuple[list[Tensor], ...]:
        """What is known of true successors, each with an entry for each of ``final_rows``, or with none."""
        return self.final_obs, self.final_joint, self.final_action_mask

    def row(self, name: str) -> Array:
        """A row of an array in main memory: the one to act on."""
        found: Array = (self._answers if name in self._answers else self._rows)[name][self.time]
        return found

    def _see(self, step: Step) -> None:
        t = self.time
        team = step.teams[self.place]
        self._put("obs", t, team.obs)
        self._put("acting", t, team.acting)
        self._put("started", t, step.started)
        if self.action_mask is not None and team.action_mask is not None:
            self._put("action_mask", t, team.action_mask)
        if self.joint is not None and self._gathered is not None:
            self._put("joint", t, self._gathered.gather(step, self.place, successor=False))

    def _forget(self, copies: Array) -> None:
        """Exclude the running episode of these copies from learning."""
        for copy in copies.tolist():
            begun = np.nonzero(self._rows["started"][: self.time + 1, copy])[0]
            first = int(begun[-1]) if len(begun) else 0
            self._rows["acting"][first : self.time + 1, copy] = False

    def state_dict(self) -> dict[str, Any]:
        """All rows, so that a run interrupted inside a rollout goes on inside it."""
        arrays = {name: self._host.get(name, tensor) for name, tensor in self._tensors()}
        finals = [
            {
                "time": t,
                "copies": copies,
                "obs": obs,
                **({"joint": self.final_joint[k]} if self.final_joint else {}),
                **({"action_mask": self.final_action_mask[k]} if self.final_action_mask else {}),
            }
            for k, ((t, copies), obs) in enumerate(zip(self.final_rows, self.final_obs, strict=True))
        ]
        return {"time": self.time, "arrays": arrays, "finals": finals, "outcome": self.outcome.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.time = int(state["time"])
        for name, tensor in self._tensors():
            self._host.get(name, tensor).copy_(state["arrays"][name])
        self.final_rows = [(int(final["time"]), final["copies"]) for final in state["finals"]]
        self.final_obs = [final["obs"].to(self.device) for final in state["finals"]]
        self.final_joint = [final["joint"].to(self.device) for final in state["finals"] if "joint" in final]
        self.final_action_mask = [
            final["action_mask"].to(self.device) for final in state["finals"] if "action_mask" in final
        ]
        self.outcome.load_state_dict(state["outcome"])
        refuse_wild_actions(self.action, self.team)
        if not 0 <= self.time <= self.steps:
            raise ValueError(f"rollout: row {self.time} of {self.steps}")
        self._send()

    def _tensors(self) -> list[tuple[str, Tensor]]:
        names = (*SEEN, *DECIDED, "reward", "terminated", "truncated")
        return [(name, tensor) for name in names if isinstance(tensor := getattr(self, name), Tensor)]

"""Several trainings of one shape in lockstep: their networks act in one compiled call, and learn in one.

Each keeps its own environment copies, rollout, normalizers, random streams, log and parts, and its learners their own
settings. So each is the training that it would be alone. Copies of native worlds and rollouts lie side by side, and one
call moves or fills those of all; a member whose steps somebody looks at goes through :func:`marl.training.loop.advance`
in the same memory. What is saved is the price of calls.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl import parallel
from marl.actor_critic import Batch
from marl.compiled import gradient_for
from marl.compiled.acting import Acting, StackedActing
from marl.compiled.adam import StackedAdam
from marl.compiled.ppo import CompiledPPO, StackedPPO
from marl.learners.ppo import PPOLearner
from marl.memory.base import Decision
from marl.memory.beside import RolloutsBeside
from marl.memory.rollout import Rollout
from marl.schedules import Clock, value_at
from marl.training.advice import tell
from marl.training.history import History
from marl.training.loop import Course, Request
from marl.training.state import TrainingState
from marl.types import Array, Step, StepsBeside

OWN = ("lr", "clip", "entropy", "discount", "gae_lambda", "max_grad_norm", "target_kl", "epochs")  # of each member


def refusal(states: Sequence[TrainingState]) -> str | None:
    """Why these cannot be trained stacked; None: they can."""
    first = states[0]
    for state in states:
        if state.setup.league is not None:
            return "a league says who plays"
        if state.workers:
            return f"its environment steps in {state.workers} worker processes"
        if state.environments.actors is not None:
            return f"its environment steps on {state.environments.actors}"
        if state.num_envs != first.num_envs:
            return f"num_envs differs: {first.num_envs} and {state.num_envs}"
        if len(state.learners) != len(first.learners):
            return "teams differ"
    for team in zip(*(state.learners for state in states), strict=True):
        found = _team_refusal(team)
        if found is not None:
            return found
    return None


def groups(states: Sequence[TrainingState]) -> tuple[list[list[int]], dict[int, str]]:
    """Which of them can be trained stacked with which, by their places; and why the others cannot."""
    found: list[list[int]] = []
    for place, state in enumerate(states):
        fits = (group for group in found if refusal([states[group[0]], state]) is None)
        group = next(fits, None)
        if group is None:
            found.append([place])
        else:
            group.append(place)
    first = max(found, key=len, default=[0])[0]
    why = {}
    for place in (group[0] for group in found if len(group) == 1):
        said = refusal([states[place]]) or refusal([states[first], states[place]])
        if said is not None:
            why[place] = said
    return [group for group in found if len(group) > 1], why


def _team_refusal(learners: Sequence[object]) -> str | None:
    """Why the learners of one team cannot learn as one."""
    first = learners[0]
    for learner in learners:
        if type(learner) is not PPOLearner or type(first) is not PPOLearner:
            return f"{type(learner).__name__.removesuffix('Learner')} is not trained stacked, only PPO is"
        gradient = gradient_for(learner, learner._autograd)
        if not isinstance(gradient, CompiledPPO):
            return f"there is no compiled gradient ({learner.chosen.reason or 'MARL_COMPILED=check'})"
        if learner.settings.sequential:
            return "sequential=True updates parameter sets one after the other"
        if learner.settings.lag:
            return "lag= lets an older policy play"
        if not learner.reduce.alone:
            return "it learns as one of several ranks"
        for field in dataclasses.fields(learner.settings):
            one, other = getattr(first.settings, field.name), getattr(learner.settings, field.name)
            if field.name not in OWN and one != other:
                return f"{field.name} differs: {one!r} and {other!r}"
        shapes = [
            (one.model.owner.index, one.memory.obs.shape, [parameter.shape for parameter in one.flat.parameters])
            for one in (first, learner)
        ]
        if shapes[0] != shapes[1]:
            return "observations or networks differ in shape"
    return None


class StackedTeam:
    """The learners of one team in all trainings."""

    def __init__(self, learners: Sequence[PPOLearner]) -> None:
        """Lay their parameters together."""
        self.learners, self._gradient = learners, StackedPPO(learners)
        optimizers = [learner.optimizer for learner in learners]
        self._adam: StackedAdam | None = None
        if not any(one.refusal for one in optimizers):
            self._adam = StackedAdam(optimizers, self._gradient.values, self._gradient.gradients)
        nets = [learner.model.actor.compiled() for learner in learners]
        acting = [net for net in nets if type(net) is Acting]
        memories = [learner.memory for learner in learners]
        self.memory: RolloutsBeside | None = None
        self._acting: StackedActing | None = None
        if all(map(RolloutsBeside.fits, memories)):
            self.memory = RolloutsBeside(_wide(learners), memories)
            if len(acting) == len(nets) and learners[0].model.actor.norm is None:
                self._acting = StackedActing(acting, self._gradient.values, memories[0].num_envs)

    def act(self) -> Array | None:
        """Draw what all do in the current step, into their memories: actions ``(M E, N)``; None: each is to act."""
        if self._acting is None or self.memory is None or not self.memory.aligned:
            return None
        whole = self.memory.current()
        action_mask = None if whole.action_mask is None else whole.row("action_mask")
        action = whole.row("action")
        generators = [learner.generator for learner in self.learners]
        self._acting.choose(whole.row("obs"), action_mask, generators, action, whole.row("log_prob"))
        return action

    def observe(self, step: Step) -> None:
        """Remember a step of the copies of all."""
        assert self.memory is not None
        self.memory.observe(step)

    def decisions(self, drawn: bool) -> list[Decision]:
        """What each does in the current step: what :meth:`act` has drawn, or what it says itself."""
        if drawn:
            return [learner.memory.decided() for learner in self.learners]
        return [learner.act(learner.memory.current(), explore=True) for learner in self.learners]

    def update(self, clocks: Sequence[Clock]) -> list[dict[str, Tensor]] | None:
        """What updating each of them at its time tells; None: not all have a full rollout, so each is to ask itself."""
        together = list(zip(self.learners, clocks, strict=True))
        if not all(learner.memory.full and not learner.memory.idle for learner in self.learners):
            return None
        if not all(isinstance(gradient_for(one, one._autograd), CompiledPPO) for one in self.learners):
            return None
        clip = np.array([value_at(learner.settings.clip, clock) for learner, clock in together])
        entropy_weight = np.array([value_at(learner.settings.entropy, clock) for learner, clock in together])
        batches = [learner.begin_update(clock) for learner, clock in together]
        self._gradient.begin(batches)
        if self._adam is not None:
            self._adam.begin([learner.settings.max_grad_norm for learner in self.learners])
        totals: list[dict[str, Tensor]] = [{} for _ in together]
        running = [set(range(learner.model.owner.num_sets)) for learner in self.learners]
        epochs = [0] * len(together)
        going = list(range(len(together)))
        while going:
            told = self._pass(batches, going, clip, entropy_weight)
            for which, (kl_sum, parts) in zip(tuple(going), told, strict=True):
                learner, total = self.learners[which], totals[which]
                for name, part in parts.items():
                    total[name] = total[name] + part if name in total else part
                epochs[which] += 1
                if epochs[which] == learner.settings.epochs or learner.heed_kl(kl_sum, running[which]):
                    learner.thaw()
                    going.remove(which)
        return [
            learner.tell_update(batch, total, count * learner.minibatches)
            for learner, batch, total, count in zip(self.learners, batches, totals, epochs, strict=True)
        ]

    def _pass(
        self, batches: Sequence[Batch], going: Sequence[int], clip: Array, entropy_weight: Array
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """One pass of those that are ``going``, each over its own minibatches; what each tells of it."""
        learners = self.learners
        count, size = learners[0].minibatches, batches[0].seen.shape[1]
        steps = np.zeros((len(learners), count, size // count), dtype=np.int64)
        for which in going:
            order = torch.randperm(size, generator=learners[which].generator)
            steps[which] = order.numpy().reshape(count, -1)
        sums: Array | None = None
        norms = np.zeros((len(learners), learners[0].model.owner.num_sets), dtype=np.float32)
        for part in range(count):
            parts = self._gradient.fill(steps[:, part], clip, entropy_weight)  # (M, P, parts)
            sums = parts if sums is None else sums + parts
            norms += self._step(going)
        assert sums is not None
        return [
            learners[which].tell_pass(torch.from_numpy(sums[which]), torch.from_numpy(norms[which])) for which in going
        ]

    def _step(self, going: Sequence[int]) -> Array:
        """Move the parameters of those that are ``going`` along their gradients; the norms of these, ``(M, P)``."""
        if self._adam is not None:
            return self._adam.step(going)
        norms = np.zeros((len(self.learners), self._gradient.sets), dtype=np.float32)
        for which in going:
            norms[which] = self.learners[which].step().numpy()
        return norms


def _wide(learners: Sequence[PPOLearner]) -> Rollout:
    """An empty memory of the copies of all."""
    first, settings, copies = learners[0], learners[0].settings, sum(learner.num_envs for learner in learners)
    return Rollout(
        first._spec, first.team, settings.critic, settings.credit, settings.rollout, copies, first.carry_width
    )


class Member(Course):
    """A training among others; an error ends it and none of them."""

    error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """End by an error."""
        self.error, self.ended = error, True

    @property
    def plain(self) -> bool:
        """Whether nobody looks at its steps or changes them."""
        state = self.state
        hooks = state.hooks
        looked_at = hooks.acted or hooks.stepped or hooks.show or state.restarts or state.overlapping
        return not looked_at and state.seen is state.step

    def advanced(self, step: Step) -> None:
        """Go on from a step that was taken, and remembered, with those of others."""
        state = self.state
        state.step = state.seen = step
        state.steps += state.num_envs
        state.record(step.finished)
        self._updated = False


class Group:
    """Members that go on together until one of them leaves."""

    def __init__(self, members: Sequence[Member]) -> None:
        """Lay what they have beside each other."""
        self.members = members
        self.teams = [StackedTeam(team) for team in zip(*(one.state.learners for one in members), strict=True)]
        first, *others = (member.env for member in members)
        self._env = first.beside(others) if isinstance(first, StepsBeside) else None

    def step(self) -> None:
        """One step of every member, and what they learn at it."""
        self._advance()
        clocks = [member.state.clock for member in self.members]
        learnt = [team.update(clocks) for team in self.teams]
        for which, member in enumerate(self.members):
            if not member.ended:
                _attempt(member, member.learn, [None if team is None else team[which] for team in learnt])

    def _advance(self) -> None:
        """One environment step of every member, in one call where nobody looks at the steps of one of them."""
        drawn = [team.act() for team in self.teams]
        if self._env is not None and all(one is not None for one in drawn) and all(one.plain for one in self.members):
            before = time.perf_counter()
            step, steps = self._env.step([one for one in drawn if one is not None])
            spent = (time.perf_counter() - before) / len(steps)
            for team in self.teams:
                team.observe(step)
            for member, own in zip(self.members, steps, strict=True):
                member.state.spent["environment"] += spent
                member.advanced(own)
            return
        decisions = [team.decisions(one is not None) for team, one in zip(self.teams, drawn, strict=True)]
        for member, *decided in zip(self.members, *decisions, strict=True):
            _attempt(member, member.advance, decided)


def _attempt(member: Member, action: Callable[[Any], None], given: Any) -> None:
    """Do what may fail for a member."""
    try:
        action(given)
    except Exception as error:
        member.fail(error)


def train(
    states: Sequence[TrainingState],
    asked: Sequence[Request],
    logs: Sequence[Callable[[dict[str, float]], None] | None],
    ticks: Sequence[Callable[[], bool] | None],
) -> list[History | Exception]:
    """Train each as :func:`marl.training.loop.train` would, all in lockstep; who has ended waits for nobody.

    Returns the history of each, or the error that ended it; the others went on.
    """
    with parallel.one_thread_each():
        members = [Member(*one) for one in zip(states, asked, logs, ticks, strict=True)]
        left = members
        while left:
            going = [member for member in left if not member.ended]
            group = Group(going)
            while left := [member for member in going if not member.ended]:
                if len(left) < len(going):
                    break  # the others go on among themselves
                group.step()
    for member in members:
        if member.error is None:
            tell(member.state)
    return [member.state.log.history if member.error is None else member.error for member in members]

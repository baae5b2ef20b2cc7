"""The training loop: act, step, remember, update. It knows learners and parts, and no feature by name."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from marl import parallel
from marl.adapters.faults import faults_of
from marl.config import check_whole
from marl.memory.base import Decision
from marl.scenario import Scenario
from marl.schedules import Clock
from marl.stopping import Stop
from marl.training.advice import tell
from marl.training.history import History, Rate
from marl.training.part import Choice, Transition
from marl.training.state import TrainingState
from marl.types import Array, BatchEnv, ConfigError, NonFiniteError, Step, StepsElsewhere


class Instead(Protocol):
    """Trains in place of :func:`train`, with its arguments."""

    def __call__(
        self,
        state: TrainingState,
        asked: Request,
        log: Callable[[dict[str, float]], None] | None,
        tick: Callable[[], bool] | None,
    ) -> History:
        """The history."""
        ...


# What trains in place of this loop; see :mod:`marl.training.meeting`.
INSTEAD: ContextVar[Instead | None] = ContextVar("instead", default=None)
PATIENCE = 10  # updates in a row whose gradient may be skipped because it is not finite


@dataclass(frozen=True)
class Request:
    """How long to train, and how often to log.

    Args:
        last_step: train until so many steps; None: no limit.
        last_episode: likewise.
        stop: a rule on episode returns.
        log_every: environment steps between two rows of metrics.
    """

    last_step: int | None
    last_episode: int | None
    stop: Stop | None
    log_every: int


def request(
    state: TrainingState,
    scenario: Scenario | None,
    steps: int | None,
    episodes: int | None,
    stop: Stop | None,
    log_every: int | None,
) -> Request:
    """The arguments of ``MultiAgentSystem.train``, checked, with the scenario's steps and rule as defaults.

    Raises:
        ConfigError: for what has no meaning.
    """
    if steps is None and episodes is None:
        if scenario is None:
            raise ConfigError("train: give steps= or episodes=")
        steps = scenario.steps
    steps = None if steps is None else check_whole("steps", steps, 1)
    episodes = None if episodes is None else check_whole("episodes", episodes, 1)
    stop = stop if stop is not None or scenario is None else scenario.stop
    if stop is not None and not callable(stop):
        raise ConfigError(f"train: stop: expected None or something to call, got {stop!r}")
    last_step = None if steps is None else state.steps + steps
    state.setup.check_training(last_step, stop is not None)
    for what, used in state.setup.plays_apart():
        if used:
            state.environments.refuse_single(what)
    last_episode = None if episodes is None else state.log.episodes + episodes
    log_every = log_every or max(1, (steps or 100_000) // 100)
    return Request(last_step, last_episode, stop, log_every)


def train(
    state: TrainingState,
    asked: Request,
    log: Callable[[dict[str, float]], None] | None = None,
    tick: Callable[[], bool] | None = None,
) -> History:
    """Train until a limit, a rule or a part ends it.

    Args:
        state: what changes.
        asked: when it ends.
        log: takes in each row of metrics.
        tick: called after every step; True stops.

    Raises:
        NonFiniteError: if losses or gradients stay NaN or infinite.
    """
    instead = INSTEAD.get()
    if instead is not None:
        return instead(state, asked, log, tick)
    with parallel.one_thread_each():
        return Course(state, asked, log, tick).to_end()


class Course:
    """A training on its way, one environment step after the other: :meth:`advance`, then :meth:`learn`."""

    def __init__(
        self,
        state: TrainingState,
        asked: Request,
        log: Callable[[dict[str, float]], None] | None,
        tick: Callable[[], bool] | None,
    ) -> None:
        """Open the environment. The arguments are those of :func:`train`."""
        self.state, self.asked, self._log, self._tick = state, asked, log, tick
        state.total = asked.last_step
        self.env = self._opened()
        self.ended = False
        self._rate, self._updated, self._began = Rate(state.steps), False, time.perf_counter()

    def _opened(self) -> BatchEnv:
        """What it trains in."""
        return self.state.open()

    def to_end(self) -> History:
        """Train until it ends."""
        while not self.ended:
            self.advance()
            self.learn()
        tell(self.state)
        return self.state.log.history

    def advance(self, decisions: Sequence[Decision] | None = None) -> None:
        """One step of all copies; ``decisions`` are those of each learner, if they are made already."""
        self._updated = advance(self.state, self.env, decisions)

    def learn(self, learnt: Sequence[Mapping[str, Tensor] | None] | None = None) -> None:
        """Update what is ready, log, and see whether training ends.

        ``learnt``: the metrics of each learner that is updated already.
        """
        state, asked, history = self.state, self.asked, self.state.log.history
        before = time.perf_counter()
        self._updated |= update(state, overlapping=False, learnt=learnt)
        now = time.perf_counter()
        state.spent["learning"] += now - before
        state.spent["all"] += now - self._began
        self._began = now
        logs = self._updated and state.steps - state.logged_at >= asked.log_every
        state.exchange(self._updated, logs)
        row = {name: number for measured in state.hooks.measured for name, number in measured().items()}
        ended = (asked.last_step is not None and state.steps >= asked.last_step) or (
            asked.last_episode is not None and state.log.episodes >= asked.last_episode
        )
        if asked.stop is not None and state.finished and asked.stop(history["episode_rewards"]):
            ended = True
        ended |= any(over() for over in state.hooks.ended)
        if row or ended or logs:
            metrics = collect(state, self.env, self._rate) | row
            history.add(metrics)
            if self._log is not None:
                self._log(metrics)
            for logged in state.hooks.logged:
                logged(metrics)
            ended |= any(over() for over in state.hooks.ended)
        for settled in state.hooks.settled:
            settled()
        self.ended = state.ends(ended, self._tick)


def advance(state: TrainingState, env: BatchEnv, decided: Sequence[Decision] | None = None) -> bool:
    """One environment step of all copies; returns whether a learner updated during it.

    ``decided``: what each learner does, if that is known already.
    """
    if state.restarts:
        state.restart()
    hooks, learners = state.hooks, state.learners
    assert state.step is not None
    assert state.seen is not None
    inputs, decisions, actions = [], [], []
    for place, learner in enumerate(learners):
        memory = learner.memory
        policy_input = memory.current()
        decision = learner.act(policy_input, explore=True) if decided is None else decided[place]
        memory.decide(decision)
        inputs.append(policy_input)
        decisions.append(decision)
        actions.append(decision.env_action.cpu().numpy())
    if hooks.acted:
        choice = Choice(state.step, state.seen, inputs, decisions, actions)
        for acted in hooks.acted:
            acted(choice)
        actions = choice.actions
    before = time.perf_counter()
    updated, step = _step(state, env, actions) if state.overlapping else (False, env.step(actions))
    state.spent["environment"] += time.perf_counter() - before
    seen: Step = step
    rewards: list[Array | None] = [None] * len(learners)
    if hooks.stepped:
        now = Clock(state.steps + state.num_envs, state.total)
        transition = Transition(env, actions, step, step, rewards, state.clock, now)
        for stepped in hooks.stepped:
            stepped(transition)
        seen, rewards = transition.seen, transition.rewards
    for learner, reward in zip(learners, rewards, strict=True):
        learner.memory.observe(seen, reward)
    state.step, state.seen = step, seen
    state.steps += state.num_envs
    state.record(step.finished)
    return updated


def _step(state: TrainingState, env: BatchEnv, actions: list[Array]) -> tuple[bool, Step]:
    """Step the environment; learners that overlap with it update meanwhile, in the same order wherever it steps."""
    if isinstance(env, StepsElsewhere):
        env.step_async(actions)
        return update(state, overlapping=True), env.step_wait()
    return update(state, overlapping=True), env.step(actions)


def update(
    state: TrainingState, overlapping: bool, learnt: Sequence[Mapping[str, Tensor] | None] | None = None
) -> bool:
    """Update every learner that is ready, of those that do so while the environment steps or of the others.

    Metrics stay tensors until they are logged. ``learnt``: those of each learner that is updated
    already, else None.
    """
    updated, clock, hooks = False, state.clock, state.hooks
    for place, (learner, team) in enumerate(zip(state.learners, state.spec.teams, strict=True)):
        metrics = None if learnt is None else learnt[place]
        if metrics is None and (state.overlaps[place] != overlapping or not learner.ready(clock)):
            continue
        if hooks.learns and not all(learns(place) for learns in hooks.learns):
            learner.skip_update()
            continue
        prefix = f"{team.name}/" if len(state.learners) > 1 else ""
        if metrics is None:
            metrics = learner.update(clock)
        for name, value in metrics.items():
            state.pending[prefix + name] = value
            updated = True
        for learned in hooks.learned:
            learned(place, metrics)
    if not overlapping:
        for after in hooks.updated:
            state.restarts += after(clock)
    return updated


def collect(state: TrainingState, env: BatchEnv, rate: Rate) -> dict[str, float]:
    """One row of metrics: where we are, how fast, what episodes return lately, what parts and learners say."""
    metrics: dict[str, float] = {
        "steps": state.steps,
        "episodes": state.log.episodes,
        "steps_per_second": rate(state.steps),
    }
    metrics |= state.log.metrics()
    metrics |= {f"faults/{kind}": count for kind, count in faults_of(env).items()}
    for part_metrics in state.hooks.metrics:
        metrics |= part_metrics()
    learnt = {name: float(value) for name, value in state.pending.items()}
    metrics |= learnt
    _tell_losses(state, learnt)
    for name, in_a_row in metrics.items():
        if name.endswith("non_finite") and in_a_row >= PATIENCE:
            raise NonFiniteError(
                f"training: the loss was not finite in the last {in_a_row:.0f} updates (step {state.steps}); its "
                "gradients were skipped, so parameters are finite still. Lower lr, raise the optimizer's eps, or scale "
                "rewards"
            )
    state.pending.clear()
    state.logged_at = state.steps
    return metrics


def _tell_losses(state: TrainingState, learnt: Mapping[str, float]) -> None:
    """Warn once about losses that were not finite, whose updates were skipped."""
    lost = [name for name, value in learnt.items() if not math.isfinite(value)]
    lost += [name for name, value in learnt.items() if name.endswith("non_finite") and value > 0]
    if lost and not state.told_of_losses:
        state.told_of_losses = True
        logging.getLogger("marl.training").warning(
            "step %s: %s: the loss was not finite, so the update was skipped; scale rewards if they are very large",
            *(f"{state.steps:,}", ", ".join(lost)),
        )

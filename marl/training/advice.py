"""What is said at the end of a training that learnt nothing: one line for a team, or none."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marl.learners.off_policy import OffPolicyLearner
from marl.training.history import RECENT

if TYPE_CHECKING:
    from marl.training.state import TrainingState

FEWEST = 25  # episodes at the beginning and at the end, below which returns are not compared
FEW = {"rollouts": 10, "draws": 100}  # updates below which nobody can expect anything
STILL = 0.002  # share of clipped ratios below which a policy hardly moves


@dataclass(frozen=True)
class Learning:
    """How a team learns, as far as its settings say.

    Args:
        team: its name.
        steps: environment steps so far.
        first: those before the first update.
        why: the settings that say so.
        updates: how many were made; None: nobody knows.
        from_draws: whether one learns from a draw of a replay, or from a whole rollout.
    """

    team: str
    steps: int
    first: int
    why: str
    updates: int | None
    from_draws: bool


def tell(state: TrainingState) -> None:
    """Put what is to be said into ``history.notes``, and warn."""
    state.log.history.notes = notes = advice(state)
    for note in notes:
        logging.getLogger("marl.training").warning("%s", note)


def advice(state: TrainingState) -> list[str]:
    """A line for each team that made no update, or clearly learnt nothing."""
    if state.hooks.learns:  # a part says who learns
        return []
    teams = learning(state)
    idle = [no_update(one) for one in teams if one.steps < one.first]
    setup, spec = state.setup, state.spec
    # Returns of rivals, or of tasks that change, say nothing of what was learnt.
    if idle or len(spec.teams) > 1 or len(teams) < 1 or setup.curriculum is not None or setup.league is not None:
        return idle
    line = nothing_learnt(teams[0], state.log.history, spec.teams[0].num_agents)
    return [] if line is None else [line]


def learning(state: TrainingState) -> list[Learning]:
    """How each team learns whose settings say so."""
    found = []
    for config, learner, team in zip(state.setup.configs, state.learners, state.spec.teams, strict=True):
        starts, rollout = getattr(config, "learning_starts", None), getattr(config, "rollout", None)
        if starts is not None:
            updates = learner.experience.updates if isinstance(learner, OffPolicyLearner) else None
            found.append(Learning(team.name, state.steps, starts, f"learning_starts={starts}", updates, True))
        elif rollout is not None:
            rows, why = rollout * state.num_envs, f"rollout={rollout} x num_envs={state.num_envs}"
            found.append(Learning(team.name, state.steps, rows, why, state.steps // rows, False))
    return found


def no_update(one: Learning) -> str:
    """The line for a team that has not begun to learn."""
    return f"team {one.team!r} has learnt nothing yet: its first update comes after {one.first:,} steps ({one.why})"


def nothing_learnt(one: Learning, history: Mapping[str, Sequence[float]], agents: int) -> str | None:
    """The line for a team whose returns are no better than at the beginning, or too few to tell after few updates.

    Args:
        one: how it learns.
        history: ``episode_rewards`` of all its training, and ``clip_fraction`` if it is PPO's.
        agents: how many are in the team: the returns of several that always sum up to the same may be those of rivals.
    """
    returns = history["episode_rewards"]
    few = one.updates is not None and one.updates < FEW["draws" if one.from_draws else "rollouts"]
    count = min(RECENT, len(returns) // 4)
    said = ""
    if count >= FEWEST:
        first, last = returns[:count], returns[-count:]
        same = len(set(returns)) == 1
        if better(first, last) or (same and agents > 1):
            return None
        means = f"{statistics.fmean(last):.4g}, the first {statistics.fmean(first):.4g}"
        said = f"every episode returned {first[0]:.4g}" if same else f"the last {count} episodes returned {means}"
    elif not few:
        return None
    return f"team {one.team!r} has learnt little: {'; '.join(filter(None, (said, look_at(one, few, history))))}"


def better(first: Sequence[float], last: Sequence[float]) -> bool:
    """Whether the mean of the last is above that of the first by more than chance explains: two standard errors."""
    error = math.sqrt(statistics.variance(first) / len(first) + statistics.variance(last) / len(last))
    return statistics.fmean(last) - statistics.fmean(first) > 2 * error


def look_at(one: Learning, few: bool, history: Mapping[str, Sequence[float]]) -> str:
    """What to look at first."""
    clipped = history.get("clip_fraction", ())
    if few:
        often = "raise updates_per_step" if one.from_draws else f"update more often ({one.why})"
        updates = "1 update" if one.updates == 1 else f"{one.updates} updates"
        return f"only {updates} in {one.steps:,} steps: train longer, or {often}"
    if clipped and statistics.fmean(clipped) < STILL:
        return f"the policy hardly moves (clip_fraction {statistics.fmean(clipped):.4f}): raise lr or epochs"
    if len(set(history["episode_rewards"])) == 1:
        return "no reward tells actions apart: look at exploration (entropy, exploration), or at the reward itself"
    return "look at lr, discount and exploration, and whether train was long enough"

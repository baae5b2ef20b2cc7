"""The switch riddle for three, judged exactly: its 729 games are equally likely, so a greedy team plays each once."""

from __future__ import annotations

from typing import Any

from marl_envs import SwitchRiddle
from marl_envs.kernel import Kernels, kernel
from marl_envs.switch_riddle import State, action_mask, info, observe, reset, state, step

import marl
from marl.types import Array

PRISONERS, DAYS = 3, 6
BEST = 20 / 27  # all are drawn in time


@kernel
def dealt(e: int, day: int) -> int:
    """Who is drawn on a day of game ``e``: digits of a ternary number."""
    return e // PRISONERS**day % PRISONERS  # type: ignore[no-any-return]


@kernel
def begin(s: State, e: int, task: Array, rng: Array) -> None:
    """The first day of game ``e``."""
    reset(s, e, task, rng)
    s.room[e] = dealt(e, 0)


@kernel
def go_on(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """The next day of game ``e``."""
    end = step(s, e, task, rng, action, reward)
    s.room[e] = dealt(e, s.day[e])
    return end  # type: ignore[no-any-return]


class EveryGame(SwitchRiddle, name="switch_riddle_v0"):
    """Copy ``e`` plays game ``e``, again and again."""

    kernels = Kernels(begin, go_on, observe, action_mask=action_mask, state=state, info=info)


def share(system: marl.MultiAgentSystem, *, shuffle_messages: bool = False, **messages: Any) -> float:
    """What three prisoners win, as a share of the most there is; ``messages``: what is done to them.

    Exact, but for shuffled messages: copies that play games of neighboring numbers hear from each other nearly what
    they would have said themselves, so those are of 20,000 random games.
    """
    if shuffle_messages:
        won = system.evaluate(20_000, num_envs=500, shuffle_messages=True, **messages).mean_return
    else:
        games = PRISONERS**DAYS
        entries = system.spec.teams[0].obs.widths[0]
        env = lambda: EveryGame(switch=entries > 1)  # noqa: E731
        won = system.evaluate(games, num_envs=games, env=env, **messages).mean_return
    return won / PRISONERS / BEST

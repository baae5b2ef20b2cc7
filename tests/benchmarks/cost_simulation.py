"""Asynchronous actors and one learner, event by event: who waits for whom, and how old is what is learnt."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """What comes of it once it runs steadily.

    Args:
        rate: fragments learnt per second.
        busy: the share of time that the learner works.
        waiting: the share of time that actors wait for the learner to take what they have, in the mean.
        lag: updates made between the beginning of a fragment and its own update, in the mean.
        largest_lag: the most of them.
    """

    rate: float
    busy: float
    waiting: float
    lag: float
    largest_lag: int


def simulate(
    collect: float,
    learn: float,
    actors: int,
    *,
    fragments: int = 1,
    ahead: int = 1,
    spread: float = 0.0,
    slower: Sequence[float] = (),
    rounds: int = 40,
    seed: int = 0,
) -> Outcome:
    """Play it.

    An actor begins its next fragment with the newest weights as soon as it has ended one, unless the learner has still
    ``ahead`` of its fragments to take: then it waits. The learner takes the oldest ``fragments`` as soon as there are
    so many.

    Args:
        collect: seconds of an actor for a fragment.
        learn: seconds of the learner for a fragment.
        actors: how many.
        fragments: of an update.
        ahead: fragments of each actor that may lie with the learner before the actor waits.
        spread: standard deviation of ``collect`` from fragment to fragment, as a share of it (gamma).
        slower: how many times slower the first actors are.
        rounds: fragments of each actor; the first half warms up.
        seed: of the times.
    """
    rng = np.random.default_rng(seed)
    pace = np.ones(actors)
    pace[: len(slower)] = slower
    shape = 1 / spread**2 if spread else 0.0

    def seconds(actor: int) -> float:
        return float(collect * pace[actor] * (rng.gamma(shape, 1 / shape) if spread else 1.0))

    events = [(seconds(actor), actor) for actor in range(actors)]  # when who ends a fragment
    heapq.heapify(events)
    began = [0] * actors  # the version of the weights that each collects with
    lying = [0] * actors  # fragments of each that are not taken yet
    stopped: dict[int, float] = {}  # actors that wait, and since when
    queue: deque[tuple[int, int]] = deque()  # who, with which version
    version, updating, free = 0, False, 0.0
    lags, taken, waits = list[int](), list[float](), list[tuple[float, float]]()

    def begin(actor: int, now: float) -> None:
        began[actor] = version
        heapq.heappush(events, (now + seconds(actor), actor))

    while len(taken) * fragments < rounds * actors:
        if updating and (not events or free <= events[0][0]):
            now, updating, version = free, False, version + 1
        else:
            now, actor = heapq.heappop(events)
            queue.append((actor, began[actor]))
            lying[actor] += 1
            if lying[actor] > ahead:
                stopped[actor] = now
            else:
                begin(actor, now)
        if updating or len(queue) < fragments:
            continue
        for actor, theirs in [queue.popleft() for _ in range(fragments)]:
            lags.append(version - theirs)
            lying[actor] -= 1
            if actor in stopped:
                waits.append((stopped.pop(actor), now))
                begin(actor, now)
        taken.append(now)
        updating, free = True, now + fragments * learn
    waits += [(since, now) for since in stopped.values()]
    half = len(taken) // 2
    first, last = taken[half], taken[-1]
    count, late = (len(taken) - 1 - half) * fragments, lags[half * fragments :]
    return Outcome(
        rate=count / (last - first),
        busy=count * learn / (last - first),
        waiting=sum(end - max(since, first) for since, end in waits if end > first) / ((last - first) * actors),
        lag=float(np.mean(late)),
        largest_lag=max(late),
    )

"""Ourselves on the real mpe2 environment, whose ``workers`` are processes, or actors of a Ray cluster of its own.

Actors step the copies for IPPO, or, ``asynchronous``, collect rollouts for APPO, which is IPPO with V-trace.
"""

from __future__ import annotations

from typing import Any

import marl
from tests.benchmarks.peers.ours import MPE2, set_threads, settings_of, train
from tests.benchmarks.peers.protocol import Contender, Work, serve, steady

BACKLOG = 2  # rollouts of all copies that actors have ready after a pause
PLACES: dict[str, dict[str, Any]] = {
    "workers": {},
    "ray": {"ray": "local"},
    "asynchronous": {"ray": "local", "staleness": 4},
}


def make_system(work: Work) -> marl.MultiAgentSystem:
    """The system that ``work`` asks for."""
    place = dict(PLACES[work.variant])
    place["actors" if place else "workers"] = work.workers
    size = {"N": work.agents, "max_cycles": work.max_cycles}
    learner = (marl.appo if "staleness" in place else marl.ippo)(**settings_of(work))
    return marl.MultiAgentSystem(learner, MPE2, num_envs=work.copies, seed=work.seed, env_kwargs=size, **place)


def make(work: Work) -> Contender:
    """The part that ``work`` asks for."""
    set_threads(work.threads)
    contender = train(work, make_system)
    return steady(contender, BACKLOG) if work.variant == "asynchronous" else contender


if __name__ == "__main__":
    serve(make)

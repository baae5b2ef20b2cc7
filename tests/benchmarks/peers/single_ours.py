"""Our PPO on a world of one agent: ``gru`` and ``lstm``, or convolutions ``apart`` and ``shared``."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import marl
from marl.nets import LSTM
from tests.benchmarks.peers.ours import set_threads, settings_of, train, versions
from tests.benchmarks.peers.protocol import GAMES, Contender, Work, serve
from tests.benchmarks.peers.worlds import CONVOLUTIONS, WORLDS


def network_of(work: Work) -> marl.GRU | LSTM | marl.CNN:
    """Convolutions, or a layer and a recurrent unit."""
    if work.world in CONVOLUTIONS:
        channels, kernels, strides = CONVOLUTIONS[work.world]
        return marl.CNN(channels, kernels, strides, hidden=work.hidden)
    return {"gru": marl.GRU, "lstm": LSTM}[work.variant](work.hidden)


def make_system(work: Work) -> marl.MultiAgentSystem:
    """The system that ``work`` asks for; a recurrent one learns from whole rollouts."""
    trunk: dict[str, Any] = {"shared_trunk": True} if work.variant == "shared" else {}
    learner = marl.ippo(network=network_of(work), **trunk, **settings_of(work))
    return marl.MultiAgentSystem(learner, WORLDS[work.world], num_envs=work.copies, seed=work.seed)


def learn(work: Work) -> Contender:
    """``iterate(n)`` trains seed ``work.seed + n`` from the start and plays greedily."""

    def iterate(which: int) -> dict[str, Any]:
        with make_system(dataclasses.replace(work, seed=work.seed + which)) as system:
            began = time.perf_counter()
            system.train(steps=work.limit)
            spent = time.perf_counter() - began
            value = system.evaluate(GAMES, num_envs=work.copies).mean_return
            return {"steps": system.steps, "training_seconds": spent, "return": value}

    return Contender(iterate, versions())


def make(work: Work) -> Contender:
    """The part that ``work`` asks for."""
    set_threads(work.threads)
    return learn(work) if work.part == "learn" else train(work, make_system)


if __name__ == "__main__":
    serve(make)

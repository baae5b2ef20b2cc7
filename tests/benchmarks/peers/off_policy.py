"""Our off-policy learners as contenders; ``work.variant``: ``dqn`` (CartPole), ``sac`` (Pendulum), ``maddpg`` (spread).

``qmix`` and ``vdn``: with a GRU on spread, an update of 32 sequences of 25 steps after an episode of every copy.
``in-turn`` and ``overlap``: MADDPG on mpe2 in worker processes, with updates after its steps or during them.
"""

from __future__ import annotations

from typing import Any

import marl_envs
import torch

import marl
from marl import graphs, parallel
from tests.benchmarks.peers.protocol import Contender, Work, serve

# Steps of an iteration, and of them before learning.
CHUNK = {"dqn": 2_000, "sac": 200, "maddpg": 20_000, "in-turn": 2_000, "overlap": 2_000, "qmix": 2_000, "vdn": 2_000}
START = {"dqn": 1_000, "sac": 300, "maddpg": 2_000, "in-turn": 2_000, "overlap": 2_000, "qmix": 1_600, "vdn": 1_600}
EPISODES = 32  # of an update of qmix and vdn


def make_system(work: Work) -> marl.MultiAgentSystem:
    """The same updates of the same networks as the peers."""
    start = START[work.variant]
    if work.variant == "dqn":
        dqn = marl.iql(batch=64, updates_per_step=0.25, learning_starts=start, buffer=50_000, double=False)
        return marl.MultiAgentSystem(dqn, "CartPole-v1", num_envs=1, seed=work.seed, device=work.device)
    if work.variant == "sac":
        network = marl.MLP((256, 256), "relu")
        sac = marl.isac(batch=256, updates_per_step=1, learning_starts=start, buffer=50_000, network=network)
        return marl.MultiAgentSystem(sac, "Pendulum-v1", num_envs=1, seed=work.seed, device=work.device)
    if work.variant in ("in-turn", "overlap"):
        maddpg = marl.maddpg(
            batch=1_024,
            updates_per_step=1 / 50,
            learning_starts=start,
            buffer=100_000,
            overlap=work.variant == "overlap",
        )
        return marl.MultiAgentSystem(
            maddpg, "mpe2.simple_spread_v3", num_envs=work.copies, workers=work.workers, seed=work.seed
        )
    world = marl_envs.Spread(N=work.agents, max_cycles=work.max_cycles)
    if work.variant in ("qmix", "vdn"):
        network, length = marl.GRU(work.hidden, encoder=marl.MLP((work.hidden,), "relu")), work.max_cycles
        recipe = {"qmix": marl.qmix, "vdn": marl.vdn}[work.variant]
        learner = recipe(
            batch=EPISODES, sequence=length, updates_per_step=1 / (work.copies * length), learning_starts=start,
            buffer=5_000, network=network,
        )  # fmt: skip
        return marl.MultiAgentSystem(learner, world, num_envs=work.copies, seed=work.seed, device=work.device)
    maddpg = marl.maddpg(batch=1_024, updates_per_step=0.01, learning_starts=start, buffer=100_000)
    return marl.MultiAgentSystem(maddpg, world, num_envs=work.copies, seed=work.seed, device=work.device)


def make(work: Work) -> Contender:
    """Learning from the first question on."""
    torch.set_num_threads(1)
    parallel.set_threads(work.threads)
    graphs.use_graphs(work.graphs)
    system = make_system(work)
    system.train(steps=2 * START[work.variant])

    def iterate(count: int) -> dict[str, Any]:
        before = system.steps
        system.train(steps=count * CHUNK[work.variant])
        return {"steps": system.steps - before}

    return Contender(iterate, {"torch": torch.__version__}, system.close)


if __name__ == "__main__":
    serve(make)

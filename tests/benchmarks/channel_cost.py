"""What a channel costs: the share of training time that it adds, for few and for many agents.

    python -m tests.benchmarks.channel_cost

Independent PPO on the compiled spread, 16 copies, rollouts of 32 steps, two layers of 64, one thread. Contenders take
turns, so that whatever else the machine does hits all of them; medians of processor time over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

import marl
from marl import parallel

ROLLOUT, COPIES = 32, 16

CONTENDERS: dict[str, tuple[marl.channels.Channel | None, object]] = {
    "MLP, no channel": (None, marl.MLP()),
    "MLP, CommNet(rounds=1)": (marl.CommNet(rounds=1), marl.MLP()),
    "MLP, TarMAC(rounds=1)": (marl.TarMAC(rounds=1), marl.MLP()),
    "MLP, TarMAC(rounds=2)": (marl.TarMAC(rounds=2), marl.MLP()),
    "GRU, no channel": (None, marl.GRU(64)),
    "GRU, CommNet()": (marl.CommNet(size=16), marl.GRU(64)),
    "GRU, IC3Net()": (marl.IC3Net(), marl.GRU(64)),
    "GRU, TarMAC()": (marl.TarMAC(), marl.GRU(64)),
    "GRU, CommNet(rounds=1)": (marl.CommNet(rounds=1), marl.GRU(64)),
    "GRU, IC3Net(rounds=1)": (marl.IC3Net(rounds=1), marl.GRU(64)),
    "GRU, TarMAC(rounds=1)": (marl.TarMAC(rounds=1), marl.GRU(64)),
    "GRU, TarMAC(), a link that loses": (marl.TarMAC(link=marl.Link(loss=0.1)), marl.GRU(64)),
}


def cost(agents: int, rounds: int, names: Sequence[str] = tuple(CONTENDERS)) -> dict[str, tuple[float, float]]:
    """Processor microseconds of an agent's step, acting alone and whole training, by contender."""
    systems = {}
    for name in names:
        channel, network = CONTENDERS[name]
        learner = marl.ippo(
            channel=channel, network=network, rollout=ROLLOUT, sequence=16, epochs=4, minibatches=4,
            normalize_values=False,
        )  # fmt: skip
        kwargs = {"N": agents}
        systems[name] = marl.MultiAgentSystem(learner, "marl/spread-v0", num_envs=COPIES, env_kwargs=kwargs)
        systems[name].train(steps=ROLLOUT * COPIES)
    steps = ROLLOUT * COPIES * agents
    acting: dict[str, list[float]] = {name: [] for name in names}
    whole: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, system in systems.items():
            learner, inputs = system.learners[0], system.learners[0].memory.current()
            began = time.process_time()
            for _ in range(ROLLOUT):
                learner.act(inputs, explore=True)
            acting[name].append((time.process_time() - began) / steps * 1e6)
            began = time.process_time()
            system.train(steps=ROLLOUT * COPIES)
            whole[name].append((time.process_time() - began) / steps * 1e6)
    for system in systems.values():
        system.close()
    return {name: (statistics.median(acting[name]), statistics.median(whole[name])) for name in names}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    about = (__doc__ or "").split(":")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.channel_cost", description=about)
    parser.add_argument("--agents", type=int, nargs="+", default=[3, 32])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    parallel.set_threads(1)
    torch.set_num_threads(1)  # acting is timed outside of training, which would say so
    print("| agents | policy | acting, us per agent-step | training, us per agent-step | share of the channel |")
    print("|---|---|---|---|---|")
    for agents in options.agents:
        found = cost(agents, options.rounds)
        for name, (acting, whole) in found.items():
            bare = found[f"{name.split(',')[0]}, no channel"][1]
            share = "" if whole == bare else f"{100 * (1 - bare / whole):.0f} %"
            print(f"| {agents} | {name} | {acting:.2f} | {whole:.1f} | {share} |", flush=True)


if __name__ == "__main__":
    main()

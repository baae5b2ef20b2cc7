"""The costs of :mod:`tests.benchmarks.cost_model`, measured with two processes (extras ``mpe,ray``).

Work is counted in processor time, so that other jobs on the machine matter little. Round trips have to be waited for:
of many the quickest tenth counts, which is what a quiet machine takes.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import marl
from marl import parallel
from marl.adapters import make
from marl.cluster import LOCAL, joined
from tests.benchmarks.cost_model import Costs, Work

WORLD = "mpe2.simple_spread_v3"
COPIES = 32
LARGE = 400_000  # bytes


def quickest(call: Callable[[], Any], count: int) -> float:
    """Seconds that the quickest tenth of so many calls takes, in the mean."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return float(np.mean(sorted(took)[: max(1, count // 10)]))


def training() -> tuple[Costs, Work]:
    """Two updates of IPPO with its defaults: processor time, shared out as the training's own clock says."""
    with marl.MultiAgentSystem(marl.ippo(), WORLD, num_envs=COPIES, seed=0) as system:
        settings: Any = system.agents
        learner: Any = system.learners[0]
        fragment = COPIES * settings.rollout
        system.train(steps=fragment)  # compiles
        before, began = dict(system.training.spent), time.process_time()
        steps = 2 * fragment
        system.train(steps=steps)
        worked = time.process_time() - began
        spent = {name: seconds - before[name] for name, seconds in system.training.spent.items()}
        share = {name: worked * spent[name] / spent["all"] / steps for name in ("environment", "learning")}
        team = system.spec.teams[0]
        row = 4 * len(team.agents) * (math.prod(team.obs.shape) + 4)  # action, its log-probability, reward, value
        weights, sums = 4 * learner.flat.values.numel(), settings.epochs * learner.minibatches
    act = worked / steps - share["environment"] - share["learning"]
    work = Work(COPIES, settings.rollout, settings.epochs, sums, row, weights)
    return Costs(step=share["environment"], act=act, learn=share["learning"] / settings.epochs), work


def pipes() -> float:
    """A worker's round trip: a cheap environment on one worker, less the same without."""
    actions = [[np.zeros((1, 1), dtype=np.int64)]]
    found = []
    for workers in (0, 1):
        env = make("CartPole-v1", 1, workers=workers)
        try:
            env.reset(0)
            found.append(quickest(lambda env=env: env.step(actions[0]), 2000))
        finally:
            env.close()
    return max(found[1] - found[0], 1e-6)


class Echo:
    """An actor that gives back what it was given."""

    def say(self, data: bytes) -> bytes:
        """The same."""
        return data


def calls() -> tuple[float, float, float]:
    """A call of Ray: its round trip, the caller's own work in it, and what each byte adds."""
    with joined(LOCAL, cpus=2) as ray:
        echo = ray.remote(Echo).options(num_cpus=1).remote()
        small, large = b"x", bytes(LARGE)
        ray.get(echo.say.remote(small))
        trip = quickest(lambda: ray.get(echo.say.remote(small)), 500)
        loaded = quickest(lambda: ray.get(echo.say.remote(large)), 100)
        began = time.process_time()
        for _ in range(500):
            ray.get(echo.say.remote(small))
        own = (time.process_time() - began) / 500
    return trip, min(own, trip), max(loaded - trip, 0.0) / (2 * LARGE)


def sums() -> tuple[float, float]:
    """A sum over two ranks: of a number, and what each byte adds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.cost_fit", f"{folder}/meet"]
        others = subprocess.Popen([*command, "1"], stdout=subprocess.DEVNULL)
        try:
            said = subprocess.run([*command, "0"], stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout
            others.wait(30)
        finally:
            others.kill()
    small, large = map(float, said.split())
    return small, max(large - small, 0.0) / LARGE


def rank(meeting: str, number: int) -> None:
    """One of two ranks; the first tells what it took."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=2)
    few, many = torch.zeros(1), torch.zeros(LARGE // 4)
    took = [quickest(lambda: dist.all_reduce(few), 1000), quickest(lambda: dist.all_reduce(many), 200)]
    if number == 0:
        print(*took)
    dist.destroy_process_group()


def measured() -> tuple[Costs, Work, str]:
    """All costs, the work, and where and when."""
    load = os.getloadavg()[0]
    parallel.set_threads(1)
    torch.set_num_threads(1)
    trip, own, byte = calls()
    small, large = sums()
    costs, work = training()
    found = Costs(costs.step, costs.act, costs.learn, pipes(), trip, own, byte, small, large)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    when = datetime.datetime.now(datetime.UTC).date()
    about = f"{WORLD}, IPPO, {COPIES} copies a worker; {platform.machine()}, {cores} cores, load {load:.1f}, {when}"
    return found, work, about


if __name__ == "__main__":
    rank(sys.argv[1], int(sys.argv[2]))

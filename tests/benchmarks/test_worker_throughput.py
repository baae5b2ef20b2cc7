"""What worker processes buy on mpe2 simple_spread: env-steps/s with random actions against the bare environment loop.

Run with ``pytest tests/benchmarks/test_worker_throughput.py -m slow -s``, or as a script. All ways are timed in turns
within each round, so that a busy machine slows them alike; the best round counts.
"""

import os
import time

import numpy as np
import pytest

from marl.adapters import make

pytestmark = pytest.mark.slow

ROUNDS = 3
SECONDS = 1.0  # per way and round


def spread():
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env(max_cycles=25)


class Bare:
    """The loop a user would write around the raw environments."""

    def __init__(self, num_envs: int) -> None:
        self.envs = [spread() for _ in range(num_envs)]
        for seed, env in enumerate(self.envs):
            env.reset(seed=seed)

    def step(self, actions) -> None:
        for env, row in zip(self.envs, actions[0].tolist(), strict=True):
            env.step(dict(zip(env.agents, row, strict=True)))
            if not env.agents:
                env.reset()

    def close(self) -> None:
        for env in self.envs:
            env.close()


def measure(num_envs: int, workers=(0, 1, 2)) -> dict[str, float]:
    """Env-steps/s of every way."""
    ways = {"bare": Bare(num_envs)}
    for count in workers:
        env = ways[f"workers={count}"] = make(spread, num_envs, workers=count)
        env.reset(0)
    rng = np.random.default_rng(0)
    actions = [[rng.integers(0, 5, (num_envs, 3))] for _ in range(64)]
    best = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for name, env in ways.items():
            steps, began = 0, time.perf_counter()
            while (took := time.perf_counter() - began) < SECONDS:
                env.step(actions[steps % len(actions)])
                steps += 1
            best[name] = max(best[name], steps * num_envs / took)
    for env in ways.values():
        env.close()
    return best


def report(num_envs: int, best: dict[str, float]) -> str:
    parts = [f"{name} {speed:,.0f} ({speed / best['bare']:.2f})" for name, speed in best.items()]
    return f"simple_spread, {num_envs} copies, env-steps/s (ratio to bare): {', '.join(parts)}"


@pytest.mark.parametrize("num_envs", [16, 128])
def test_two_workers_are_faster_than_the_bare_loop(num_envs):
    pytest.importorskip("mpe2")
    best = measure(num_envs)
    print("\n" + report(num_envs, best))
    if (os.cpu_count() or 1) >= 2:
        assert best["workers=2"] > best["bare"]


if __name__ == "__main__":
    for size in (16, 128):
        print(report(size, measure(size)), flush=True)

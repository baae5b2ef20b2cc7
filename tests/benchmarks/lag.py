"""What staleness costs and what V-trace gets back: A2C and PPO whose rollouts are played by the policy of updates ago.

`python -m tests.benchmarks.lag cartpole spread` prints a row of returns, one of each seed, for every cell.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

from marl_scenarios.cartpole import scenario as cartpole
from marl_scenarios.spread import scenario as spread

import marl

# By task: the environment and the learners, each with copies and steps. No run takes a minute.
TASKS = {
    "cartpole": (
        "CartPole-v1",
        {
            "a2c": (marl.A2C(rollout=5, lr=marl.Linear(7e-4, 0.0)), 8, 250_000),
            "ppo": (cartpole.agents, 8, 60_000),
        },
    ),
    "spread": (
        "spread_native",
        {
            "a2c": (marl.maa2c(discount=0.9, gae_lambda=0.9, normalize_values=True), 16, 120_000),
            "ppo": (spread.agents, 128, 150_000),
        },
    ),
}
LAGS = (0, 4)


def returns(env, num_envs, agents, steps, seeds):
    """Mean returns of 100 episodes, one for each seed, and the processor's seconds of a run."""
    found, start = [], time.process_time()
    for seed in range(seeds):
        with marl.MultiAgentSystem(agents, env, num_envs=num_envs, seed=seed) as system:
            system.train(steps=steps)
            found.append(system.evaluate(100, seed=1000).mean_return)
    return found, (time.process_time() - start) / seeds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lags", type=int, nargs="+", default=LAGS)
    parser.add_argument("--learners", nargs="+", default=("a2c", "ppo"))
    parser.add_argument("--share", type=float, default=1.0, help="of the steps")
    asked = parser.parse_args()
    for task in asked.tasks:
        env, learners = TASKS[task]
        for name, (agents, num_envs, steps) in learners.items():
            if name not in asked.learners:
                continue
            for lag in asked.lags:
                for correction in (None, marl.VTrace()):
                    one = dataclasses.replace(agents, lag=lag, correction=correction)
                    found, spent = returns(env, num_envs, one, int(steps * asked.share), asked.seeds)
                    told = ", ".join(f"{value:.1f}" for value in found)
                    how = "V-trace" if correction else "plain"
                    print(f"{task} {name} lag={lag} {how:8} {told}  ({spent:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

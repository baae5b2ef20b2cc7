"""stable-baselines3's DQN on CartPole and SAC on Pendulum, with its default networks."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.peers.protocol import Contender, Work, serve

CHUNK = {"dqn": 2_000, "sac": 200}
START = {"dqn": 1_000, "sac": 300}


def make(work: Work) -> Contender:
    """Learning from the first question on."""
    import gymnasium
    import stable_baselines3
    import torch

    torch.set_num_threads(work.threads)
    start, shared = START[work.variant], {"seed": work.seed, "device": "cpu", "buffer_size": 50_000}
    learner: Any
    if work.variant == "dqn":
        learner = stable_baselines3.DQN(
            "MlpPolicy", gymnasium.make("CartPole-v1"), learning_starts=start, batch_size=64, train_freq=4,
            gradient_steps=1, **shared,
        )  # fmt: skip
    else:
        learner = stable_baselines3.SAC(
            "MlpPolicy", gymnasium.make("Pendulum-v1"), learning_starts=start, batch_size=256, **shared
        )
    learner.learn(2 * start)

    def iterate(count: int) -> dict[str, Any]:
        steps = count * CHUNK[work.variant]
        learner.learn(steps, reset_num_timesteps=False)
        return {"steps": steps}

    return Contender(iterate, {"stable-baselines3": stable_baselines3.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    serve(make)

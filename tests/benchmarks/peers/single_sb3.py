"""stable-baselines3 on a world of one agent, its copies in one process.

On CartPole SB3-contrib's RecurrentPPO, actor and critic apart: ``lstm`` has our layers, a layer, an LSTM and an output;
``lstm-own`` has its own, an LSTM, two layers and an output. On images PPO with ``CnnPolicy``, the convolutions
``shared`` by actor and critic, as its default is, or ``apart``.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from tests.benchmarks.peers.protocol import GAMES, Contender, Work, serve
from tests.benchmarks.peers.sb3 import learn as keep_learning
from tests.benchmarks.peers.sb3 import settings_of


def make_learner(work: Work) -> Any:
    """The learner that ``work`` asks for, and its environments."""
    import torch
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
    from stable_baselines3.common.vec_env import DummyVecEnv
    from torch import nn

    from tests.benchmarks.peers.worlds import CONVOLUTIONS, WORLDS

    class Layer(BaseFeaturesExtractor):
        """One layer before an LSTM."""

        def __init__(self, space: Any) -> None:
            super().__init__(space, work.hidden)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(space.shape[0], work.hidden), nn.Tanh())

        def forward(self, observations: Any) -> Any:
            return self.net(observations)

    class Convolutions(BaseFeaturesExtractor):
        """Those of ``CONVOLUTIONS``, and a layer."""

        def __init__(self, space: Any) -> None:
            super().__init__(space, work.hidden)
            layers: list[nn.Module] = []
            before = space.shape[0]
            for out, kernel, stride in zip(*CONVOLUTIONS[work.world], strict=True):
                layers += [nn.Conv2d(before, out, kernel, stride), nn.ReLU()]
                before = out
            self.net = nn.Sequential(*layers, nn.Flatten())
            with torch.no_grad():
                flat = self.net(torch.zeros(1, *space.shape)).shape[1]
            self.net.extend([nn.Linear(flat, work.hidden), nn.ReLU()])

        def forward(self, observations: Any) -> Any:
            return self.net(observations)

    env = DummyVecEnv([WORLDS[work.world]] * work.copies)
    settings = settings_of(work) | {"seed": work.seed}
    policy: dict[str, Any]
    if work.world == "cartpole":
        policy = {"lstm_hidden_size": work.hidden}
        if work.variant == "lstm":
            policy |= {"features_extractor_class": Layer, "share_features_extractor": False, "net_arch": []}
        return RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=policy, **settings)
    policy = {"net_arch": [], "share_features_extractor": work.variant == "shared"}
    if work.world == "square-84":
        policy |= {"features_extractor_class": NatureCNN, "features_extractor_kwargs": {"features_dim": work.hidden}}
    else:
        policy |= {"features_extractor_class": Convolutions}
    return PPO("CnnPolicy", env, policy_kwargs=policy, **settings)


def learn(work: Work) -> Contender:
    """``iterate(n)`` trains seed ``work.seed + n`` from the start and plays greedily."""
    import stable_baselines3
    from stable_baselines3.common.evaluation import evaluate_policy

    def iterate(which: int) -> dict[str, Any]:
        learner = make_learner(dataclasses.replace(work, seed=work.seed + which))
        began = time.perf_counter()
        learner.learn(work.limit)
        spent = time.perf_counter() - began
        value, _ = evaluate_policy(learner, learner.get_env(), GAMES, deterministic=True, warn=False)
        return {"steps": learner.num_timesteps, "training_seconds": spent, "return": float(value)}

    return Contender(iterate, {"stable-baselines3": stable_baselines3.__version__})


def make(work: Work) -> Contender:
    """The part that ``work`` asks for."""
    import torch

    torch.set_num_threads(work.threads)
    return learn(work) if work.part == "learn" else keep_learning(make_learner(work), work)


if __name__ == "__main__":
    serve(make)

"""RLlib on the real mpe2 environment, its copies on env runners: PPO, APPO, IMPALA; one policy for all agents."""

from __future__ import annotations

import logging
import os
from typing import Any

from tests.benchmarks.peers.protocol import Contender, Work, serve, steady

BACKLOG = 2  # iterations of which runners have samples ready after a pause


def config_of(work: Work) -> Any:
    """The algorithm that ``work.variant`` names, with the settings that every contender has."""
    from mpe2 import simple_spread_v3
    from ray.rllib.algorithms import appo, impala, ppo
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
    from ray.tune.registry import register_env

    def world(_: Any) -> Any:
        return ParallelPettingZooEnv(simple_spread_v3.parallel_env(N=work.agents, max_cycles=work.max_cycles))

    register_env("spread", world)
    own: dict[str, Any] = {"lambda_": work.gae_lambda, "vf_loss_coeff": work.value_weight}
    if work.variant == "ppo":
        rows = work.steps * work.agents  # a minibatch counts rows of agents
        own |= {"num_epochs": work.epochs, "minibatch_size": rows // work.minibatches, "clip_param": work.clip}
        own |= {"grad_clip": work.max_grad_norm, "use_kl_loss": False}
        config = ppo.PPOConfig()
    elif work.variant == "appo":
        own |= {"clip_param": work.clip, "grad_clip": work.max_grad_norm}
        config = appo.APPOConfig()
    else:
        own = {"vf_loss_coeff": work.value_weight, "grad_clip": work.max_grad_norm}
        config = impala.IMPALAConfig()
    config = (
        config.environment("spread")
        .env_runners(
            num_env_runners=work.workers,
            num_envs_per_env_runner=work.copies // work.workers,
            rollout_fragment_length=work.rollout,
        )
        .learners(num_learners=0)
        .training(
            lr=work.lr, gamma=work.discount, entropy_coeff=work.entropy, train_batch_size_per_learner=work.steps, **own
        )
        .multi_agent(policies={"all"}, policy_mapping_fn=lambda *_, **__: "all")
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[work.hidden] * 2, fcnet_activation="tanh", vf_share_layers=False
            )
        )
        .debugging(seed=work.seed, log_level="ERROR")
    )
    return config


def make(work: Work) -> Contender:
    """RLlib on a cluster of its own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["OMP_NUM_THREADS"] = str(work.threads)
    import ray
    import torch

    torch.set_num_threads(work.threads)
    store = 512 * 1024**2
    ray.init(num_cpus=work.workers + 1, include_dashboard=False, logging_level=logging.ERROR, object_store_memory=store)
    algorithm = config_of(work).build_algo()
    seen = 0

    def iterate(count: int) -> dict[str, Any]:
        """Until as many steps more were sampled: an iteration of RLlib's asynchronous algorithms is a time."""
        nonlocal seen
        began, wanted = seen, seen + count * work.steps
        while seen < wanted:
            seen = int(algorithm.train()["num_env_steps_sampled_lifetime"])
        return {"steps": seen - began}

    def close() -> None:
        algorithm.stop()
        ray.shutdown()

    contender = Contender(iterate, {"ray": ray.__version__}, close)
    return contender if work.variant == "ppo" else steady(contender, BACKLOG)


if __name__ == "__main__":
    serve(make)

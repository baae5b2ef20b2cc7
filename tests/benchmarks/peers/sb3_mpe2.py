"""stable-baselines3 PPO on the real mpe2 environment, vectorized by SuperSuit over ``workers`` processes."""

from __future__ import annotations

from tests.benchmarks.peers.protocol import Contender, Work, serve
from tests.benchmarks.peers.sb3 import learn, make_ppo


def make(work: Work) -> Contender:
    """SB3 and SuperSuit on mpe2."""
    import supersuit
    import torch
    from mpe2 import simple_spread_v3

    torch.set_num_threads(work.threads)
    env = simple_spread_v3.parallel_env(N=work.agents, max_cycles=work.max_cycles)
    env = supersuit.pettingzoo_env_to_vec_env_v1(env)
    env = supersuit.concat_vec_envs_v1(env, work.copies, num_cpus=work.workers, base_class="stable_baselines3")
    return learn(make_ppo(env, work, None), work)


if __name__ == "__main__":
    serve(make)

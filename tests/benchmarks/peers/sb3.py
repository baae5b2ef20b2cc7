"""stable-baselines3 PPO on our native spread: the same compiled world behind a thin ``VecEnv``.

Needs stable-baselines3 and marl in one interpreter. Parameters are shared in SB3's own way: every agent of every copy
is one of its environments, all of one policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.benchmarks.peers.protocol import Contender, Work, serve


def make_ppo(env: Any, work: Work, seed: int | None) -> Any:
    """PPO with the settings of ``work``; ``seed`` None where the environment takes none."""
    from stable_baselines3 import PPO

    architecture = {"net_arch": {"pi": [work.hidden] * 2, "vf": [work.hidden] * 2}}
    return PPO("MlpPolicy", env, policy_kwargs=architecture, seed=seed, **settings_of(work))


def settings_of(work: Work) -> dict[str, Any]:
    """The settings of any kind of PPO that ``work`` asks for."""
    return dict(
        learning_rate=work.lr,
        n_steps=work.rollout,
        batch_size=work.steps * work.agents // work.minibatches,
        n_epochs=work.epochs,
        gamma=work.discount,
        gae_lambda=work.gae_lambda,
        clip_range=work.clip,
        ent_coef=work.entropy,
        vf_coef=work.value_weight,
        max_grad_norm=work.max_grad_norm,
        device="cpu",
    )


def learn(ppo: Any, work: Work) -> Contender:
    """A contender that lets ``ppo`` learn."""
    import stable_baselines3
    import torch

    def iterate(count: int) -> dict[str, Any]:
        ppo.learn(count * work.steps * work.agents, reset_num_timesteps=False)
        return {"steps": count * work.steps}

    versions = {"stable-baselines3": stable_baselines3.__version__, "torch": torch.__version__}
    return Contender(iterate, versions, ppo.get_env().close)


def make(work: Work) -> Contender:
    """SB3 on the native world."""
    import marl_envs
    import torch
    from stable_baselines3.common.vec_env import VecEnv

    class Agents(VecEnv):
        """Every agent of every copy as one environment; arrays go through as they are."""

        def __init__(self) -> None:
            self.batch = marl_envs.Spread(N=work.agents, max_cycles=work.max_cycles).batch_env(work.copies)
            (team,) = self.batch.spec.teams
            self.rows = work.copies * work.agents
            super().__init__(self.rows, team.observation_spaces[0], team.action_spaces[0])
            self.nothing: list[dict[str, Any]] = [{} for _ in range(self.rows)]

        def reset(self) -> Any:
            return self.batch.reset(work.seed).teams[0].obs.reshape(self.rows, -1).copy()

        def step_async(self, actions: Any) -> None:
            self.actions = actions.reshape(work.copies, work.agents)

        def step_wait(self) -> Any:
            (team,) = self.batch.step([self.actions]).teams
            obs, reward = team.obs.reshape(self.rows, -1), team.reward.reshape(-1)
            done = (team.terminated | team.truncated).reshape(-1)
            infos = self.nothing
            if done.any():
                last = team.next_obs.reshape(self.rows, -1)
                cut = team.truncated.reshape(-1)
                infos = list(infos)
                for row in np.flatnonzero(done):
                    infos[row] = {"terminal_observation": last[row], "TimeLimit.truncated": bool(cut[row])}
            return obs.copy(), reward.copy(), done, infos

        def close(self) -> None:
            self.batch.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * self.rows

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise AttributeError(attr_name)

        def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **keywords: Any) -> list[Any]:
            raise AttributeError(method_name)

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.rows

        def seed(self, seed: int | None = None) -> Sequence[int | None]:
            return [None] * self.rows

    torch.set_num_threads(work.threads)
    return learn(make_ppo(Agents(), work, work.seed), work)


if __name__ == "__main__":
    serve(make)

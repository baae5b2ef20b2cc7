"""PettingZoo environments whose agents talk: wrappers around parallel ones, turn-based ones and compiled worlds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.wrappers.base import BaseWrapper

from marl.adapters.exchange import Exchange
from marl.adapters.spoken_batch import SpokenBatch
from marl.types import Array

NOT_OURS = ("batch_env", "set_tasks", "task_space")  # a world's batched form knows nothing of messages


class SpokenParallel(ParallelEnv[Any, Any, Any]):
    """A parallel environment whose agents send messages as actions, see :class:`~marl.Spoken`."""

    def __init__(self, env: Any, exchange: Exchange) -> None:
        """``exchange``: the channel of this environment."""
        self.env, self.exchange = env, exchange
        self.metadata = getattr(env, "metadata", {})
        self.possible_agents = list(self.exchange.agents)

    def __getattr__(self, name: str) -> Any:
        """What the wrapper does not have is the environment's."""
        if name.startswith("_") or name in NOT_OURS or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def agents(self) -> list[Any]:  # type: ignore[override]
        """Those who are there."""
        return list(self.env.agents)

    @property
    def message_entries(self) -> tuple[str, ...]:
        """Entries of observations that show messages."""
        return self.exchange.message_entries

    @property
    def unwrapped(self) -> Any:
        """The environment itself."""
        return self.env.unwrapped

    def observation_space(self, agent: Any) -> Space[Any]:
        """With the inbox."""
        return self.exchange.observation_spaces[self.exchange.place[agent]]

    def action_space(self, agent: Any) -> Space[Any]:
        """With words."""
        return self.exchange.codecs[self.exchange.place[agent]].space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """An episode with an empty inbox."""
        observations, infos = self.env.reset(seed=seed, **({} if options is None else {"options": options}))
        self.exchange.begin(seed, observations)
        return self._told(observations, infos)

    def step(self, actions: Mapping[Any, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """All agents act and send, then observe and receive."""
        there, own, said = set(self.env.agents), {}, {}
        for agent, action in actions.items():
            own[agent], words, loud = self.exchange.codecs[self.exchange.place[agent]].part(action)
            if agent in there:
                said[agent] = words, loud
        observations, rewards, terminated, truncated, infos = self.env.step(own)
        self.exchange.pass_on(said, observations)
        told, infos = self._told(observations, infos)
        return told, rewards, terminated, truncated, infos

    def _told(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> tuple[Any, Any]:
        told = {agent: self.exchange.observation(agent, raw) for agent, raw in observations.items()}
        return told, {agent: self.exchange.info(agent, info) for agent, info in (infos or {}).items()}

    def state(self) -> Array:
        """The environment's own state, without messages on their way."""
        state: Array = self.env.state()
        return state

    def render(self) -> Any:
        """The environment's picture."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class SpokenWorld(SpokenParallel):
    """A world with a batched form whose agents send messages as actions, see :class:`~marl.Spoken`."""

    def batch_env(self, num_envs: int, patterns: Sequence[str] | None = None) -> SpokenBatch:
        """Copies of the world that step together, whose agents talk."""
        return SpokenBatch(self.env.batch_env(num_envs, patterns), self.exchange)


class SpokenAEC(BaseWrapper[Any, Any, Any]):
    """A turn-based environment whose agents send messages as actions; a message stays until the next one."""

    def __init__(self, env: AECEnv[Any, Any, Any], exchange: Exchange) -> None:
        """``exchange``: the channel of this environment."""
        super().__init__(env)
        self.exchange = exchange

    @property
    def message_entries(self) -> tuple[str, ...]:
        """Entries of observations that show messages."""
        return self.exchange.message_entries

    @property
    def infos(self) -> dict[Any, Any]:  # type: ignore[override]
        """The environment's, whose masks know of words."""
        return {agent: self.exchange.info(agent, info) for agent, info in self.env.infos.items()}

    def observation_space(self, agent: Any) -> Space[Any]:
        """With the inbox."""
        return self.exchange.observation_spaces[self.exchange.place[agent]]

    def action_space(self, agent: Any) -> Space[Any]:
        """With words."""
        return self.exchange.codecs[self.exchange.place[agent]].space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """An episode with an empty inbox."""
        super().reset(seed=seed, options=options)
        self.exchange.begin(seed, self._seen())

    def step(self, action: Any) -> None:
        """One agent acts and speaks."""
        if action is None:
            super().step(None)
            return
        agent = self.env.agent_selection
        own, words, loud = self.exchange.codecs[self.exchange.place[agent]].part(action)
        silence = np.zeros(self.exchange.words, np.float32), 0.0
        said = {
            gone: silence for gone in self.exchange.agents if gone not in self.env.agents
        }  # who waits is still heard
        super().step(own)
        self.exchange.pass_on({**said, agent: (words, loud)}, self._seen())

    def observe(self, agent: Any) -> Any:
        """What the agent sees, with its inbox."""
        return self.exchange.observation(agent, super().observe(agent))

    def _seen(self) -> dict[Any, Any]:
        """Everybody's view, if it matters for who hears whom."""
        if self.exchange.adjacency.dynamic is None:
            return {}
        return {agent: super(SpokenAEC, self).observe(agent) for agent in self.env.agents}

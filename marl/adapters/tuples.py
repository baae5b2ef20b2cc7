"""Gymnasium environments of several agents: tuples of spaces, a place for each agent, lists of rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium.spaces import Space, Tuple
from pettingzoo import ParallelEnv

from marl.types import EnvContractError


def is_tuple_env(env: Any) -> bool:
    """Whether a Gymnasium environment has a tuple of actions and one observation for each of them.

    No single agent acts in tuples here, so there is nothing else that it could mean.
    """
    if isinstance(env, ParallelEnv) or callable(getattr(env, "action_space", None)):
        return False
    acts, sees = getattr(env, "action_space", None), getattr(env, "observation_space", None)
    return isinstance(acts, Tuple) and isinstance(sees, Tuple) and len(acts) == len(sees) > 0


def by_agent(env: Any) -> Any:
    """The environment; one with tuples, as a Parallel one."""
    return TupleEnv(env) if is_tuple_env(env) else env


def make_by_agent(factory: Callable[[], Any]) -> Any:
    """What a factory makes, likewise."""
    return by_agent(factory())


class TupleEnv(ParallelEnv[str, Any, Any]):
    """Agents ``agent_0 ... agent_{N-1}``: the places in the tuples that level-based foraging and its kin use.

    Rewards come as a list with a place for each agent, or one number for all; ends as one flag for all or a list. An
    agent that has ended before the others repeats its last action, since the tuple still has a place for it.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """``env``: see :func:`is_tuple_env`."""
        self.env = env
        self.metadata = dict(getattr(env, "metadata", None) or {})
        self.render_mode = getattr(env, "render_mode", None)
        self.spec = getattr(env, "spec", None)
        self.metadata.setdefault("name", getattr(self.spec, "id", None) or type(env.unwrapped).__name__)
        assert isinstance(env.action_space, Tuple)
        assert isinstance(env.observation_space, Tuple)
        self.possible_agents = [f"agent_{place}" for place in range(len(env.action_space))]
        self.agents: list[str] = []
        self.observation_spaces = dict(zip(self.possible_agents, env.observation_space, strict=True))
        self.action_spaces = dict(zip(self.possible_agents, env.action_space, strict=True))
        self._acted: dict[str, Any] = {}

    def observation_space(self, agent: str) -> Space[Any]:
        """Its place in the tuple."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        """Its place in the tuple."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode."""
        observations, info = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        self._acted = {}
        return self._each("observations", observations), self._infos(info)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        """Act for everyone who has not ended."""
        self._acted |= actions
        answer = self.env.step(tuple(self._acted[agent] for agent in self.possible_agents))
        observations, rewards, terminated, truncated, info = answer
        seen = self._each("observations", observations)
        paid = self._each("rewards", rewards if _is_list(rewards) else [rewards] * len(self.possible_agents))
        ends = [
            self._each(field, flag if _is_list(flag) else [flag] * len(self.possible_agents))
            for field, flag in (("terminated", terminated), ("truncated", truncated))
        ]
        playing = self.agents
        try:
            self.agents = [agent for agent in playing if not (ends[0][agent] or ends[1][agent])]
        except (TypeError, ValueError):
            raise EnvContractError(
                f"{self.metadata['name']}: terminated, truncated: expected True or False for each agent, got "
                f"{terminated!r:.40}, {truncated!r:.40}"
            ) from None
        infos = self._infos(info)
        return (
            {agent: seen[agent] for agent in playing},
            {agent: paid[agent] for agent in playing},
            {agent: ends[0][agent] for agent in playing},
            {agent: ends[1][agent] for agent in playing},
            {agent: infos[agent] for agent in playing},
        )

    def render(self) -> Any:
        """As the environment does."""
        return self.env.render()

    def close(self) -> None:
        """As the environment does."""
        self.env.close()

    def _each(self, field: str, values: Any) -> dict[str, Any]:
        """Values by agent."""
        if not _is_list(values) or len(values) != len(self.possible_agents):
            found = f"{len(values)} values" if _is_list(values) else type(values).__name__
            raise EnvContractError(
                f"{self.metadata['name']}: {field}: expected one for each of {len(self.possible_agents)} agents, "
                f"got {found}"
            )
        return dict(zip(self.possible_agents, values, strict=True))

    def _infos(self, info: Any) -> dict[str, Any]:
        """One each, from a list of them or from one for all."""
        if info is None or isinstance(info, Mapping):
            return {agent: dict(info or {}) for agent in self.possible_agents}
        return self._each("infos", info)


def _is_list(values: Any) -> bool:
    """Whether there is a place for each agent: a list, a tuple or an array with an axis."""
    return isinstance(values, Sequence) or getattr(values, "ndim", 0) > 0

"""What an environment looks like from the outside: which interface it speaks, its agents, teams, spaces and state."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from pettingzoo import AECEnv, ParallelEnv

from marl.adapters.gymnasium import AGENT
from marl.spaces import MASK, team_spec
from marl.types import ConfigError, EnvContractError, Spec, partition

Interface = Literal["parallel", "aec", "gymnasium"]
LARGEST_STATE = 10_000  # values; larger states are screens, which belong into observations


def interface(env: object) -> Interface:
    """Which of the three interfaces an environment speaks: by its class, else by what it has."""
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise ConfigError(f"{env} is already vectorized: pass the single environment; num_envs makes the copies")
    if isinstance(env, ParallelEnv):
        return "parallel"
    if isinstance(env, AECEnv):
        return "aec"
    if isinstance(env, gymnasium.Env):
        return "gymnasium"
    if all(callable(getattr(env, name, None)) for name in ("reset", "step")):
        if all(callable(getattr(env, name, None)) for name in ("last", "observe")):
            return "aec"
        if callable(getattr(env, "observation_space", None)) and callable(getattr(env, "action_space", None)):
            return "parallel"
        if isinstance(getattr(env, "action_space", None), gymnasium.Space):
            return "gymnasium"
    raise ConfigError(
        f"{type(env).__module__}.{type(env).__qualname__} is no environment: expected a PettingZoo ParallelEnv or "
        "AECEnv, a gymnasium.Env, or a function that returns one"
    )


def env_name(env: Any) -> str:
    """A short name for messages and run folders."""
    spec = getattr(env, "spec", None)
    metadata = getattr(env, "metadata", None) or {}
    name = getattr(spec, "id", None) or (metadata.get("name") if isinstance(metadata, Mapping) else None)
    return str(name or type(getattr(env, "unwrapped", env)).__name__)


def layers(env: Any) -> Iterator[Any]:
    """An environment and what it wraps, outermost first."""
    seen: list[Any] = []
    while env is not None and all(env is not layer for layer in seen):
        seen.append(env)
        yield env
        env = getattr(env, "env", None)


def metadata_entry(env: Any, name: str) -> Any:
    """An entry of the metadata, through wrappers that leave it out or empty; None where nobody has it."""
    found = [getattr(layer, "metadata", None) for layer in layers(env)]
    entries = [metadata[name] for metadata in found if isinstance(metadata, Mapping) and name in metadata]
    return next((entry for entry in entries if entry), entries[0] if entries else None)


def render_mode(env: Any) -> str | None:
    """How an environment renders, through wrappers that do not say; None: not at all, or it does not say."""
    modes = (getattr(layer, "render_mode", None) for layer in layers(env))
    return next((mode for mode in modes if mode is not None), None)


def describe(
    env: Any, patterns: Sequence[str] | None, state: bool, options: Mapping[str, Any] | None = None
) -> tuple[Spec, tuple[Hashable, ...]]:
    """Look at an environment once, resetting it; returns its spec and its own agent ids in the spec's order.

    ``state``: whether ``env.state()`` is wanted at all; ``options``: those of every reset.
    """
    kind, name = interface(env), env_name(env)
    try:
        answer = env.reset(seed=0, **({"options": dict(options)} if options else {}))
    except (Exception, SystemExit) as error:
        raise EnvContractError(f"{name}: reset raised {type(error).__name__}: {error}") from error
    if kind != "aec" and (not isinstance(answer, tuple) or len(answer) != 2):
        raise EnvContractError(f"{name}: reset: expected (observations, infos), got {type(answer).__name__}")
    infos: Any
    observation_spaces: dict[Hashable, gymnasium.Space[Any]]
    action_spaces: dict[Hashable, gymnasium.Space[Any]]
    if kind == "gymnasium":
        ids: tuple[Hashable, ...] = (AGENT,)
        infos = {AGENT: answer[1]}
        observation_spaces, action_spaces = {AGENT: env.observation_space}, {AGENT: env.action_space}
    else:
        infos = answer[1] if kind == "parallel" else getattr(env, "infos", None)
        infos = {} if infos is None else infos
        if not isinstance(infos, Mapping):
            raise EnvContractError(
                f"{name}: reset infos: expected a dictionary by agent or None, got {type(infos).__name__}"
            )
        ids = known_agents(env)
        if not ids:
            raise EnvContractError(f"{name}: possible_agents: expected at least one agent, got none")
        observation_spaces, action_spaces = (
            _spaces(env, ids, method) for method in ("observation_space", "action_space")
        )
    names = {str(agent): agent for agent in ids}
    if len(names) < len(ids):
        raise EnvContractError(f"{name}: possible_agents: expected ids that differ as text, got {list(ids)}")
    info_masks = any(isinstance(info, Mapping) and MASK in info for info in infos.values())
    teams = tuple(
        team_spec(
            team,
            members,
            [observation_spaces[names[agent]] for agent in members],
            [action_spaces[names[agent]] for agent in members],
            info_masks,
        )
        for team, members in partition(list(names), patterns).items()
    )
    spec = Spec(name, teams, _state_shape(env) if state and kind != "gymnasium" else None, turn_based=kind == "aec")
    return spec, tuple(names[agent] for agent in spec.agents)


def known_agents(env: Any) -> tuple[Hashable, ...]:
    """``possible_agents``, in whatever kind of list; where there is none, the agents of the moment."""
    possible = getattr(env, "possible_agents", None)
    return tuple(env.agents if possible is None or len(possible) == 0 else possible)


def _spaces(env: Any, ids: Sequence[Hashable], method: str) -> dict[Hashable, gymnasium.Space[Any]]:
    """Every agent's space, of which the environment's ``method`` tells. Raises EnvContractError."""
    spaces = {}
    for agent in ids:
        try:
            spaces[agent] = getattr(env, method)(agent)
        except Exception as error:
            raise EnvContractError(
                f"{env_name(env)}: {method}({agent!r}): expected a space of Gymnasium, got "
                f"{type(error).__name__}: {error}; define the method"
            ) from error
    return spaces


def _state_shape(env: Any) -> tuple[int] | None:
    """Width of ``env.state()``; None where the environment has none that could be used."""
    try:
        state = np.asarray(env.state())
    except Exception:  # NotImplementedError by the book, but wrappers and older environments fail in other ways
        return None
    if state.dtype.kind not in "biuf" or not 0 < state.size <= LARGEST_STATE:
        return None
    return (int(state.size),)

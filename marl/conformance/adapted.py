"""The environment through the adapter that training uses: random returns and speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from marl.conformance.player import EnvPlayer
from marl.conformance.report import Findings
from marl.types import Array, BatchEnv, ConfigError, MarlError


def run_adapted(
    env: Any,
    steps: int,
    seed: int,
    log: Findings,
    facts: dict[str, Any],
    player: EnvPlayer,
    progress: Callable[[str], None],
) -> None:
    """Play as training will: random legal actions through the adapter."""
    limit = None if player.ended else player.limit
    try:
        batch = _adapt(env, player, limit, log)
    except MarlError as error:
        log.add("error", "adapter_refuses", "", f"marl cannot use the environment: {error}")
        return
    except Exception as error:
        log.add("error", "raises", "adapter", f"reset() raised {type(error).__name__} in the adapter: {error}")
        return
    rng = np.random.default_rng(seed)
    totals: dict[str, list[float]] = {}
    lengths: list[int] = []
    try:
        step = batch.reset(seed)
        began = time.perf_counter()
        for done in range(steps):
            if done % max(1, steps // 100) == 0:
                progress(f"playing as training does, step {done:,} of {steps:,}")
            step = batch.step(_random_actions(batch, step.teams, rng))
            for episode in step.finished:
                lengths.append(episode.length)
                for agent, value in episode.returns.items():
                    totals.setdefault(agent, []).append(value)
        facts["env_steps_per_second"] = round(steps / (time.perf_counter() - began))
    except MarlError as error:
        log.add("error", "adapter_breach", "", str(error))
        return
    except Exception as error:
        log.add("error", "raises", "adapter", f"step() raised {type(error).__name__} in long play: {error}")
        return
    finally:
        batch.close()
    if lengths:
        facts["episode_length"] = float(np.mean(lengths))
        facts["random_return"] = {agent: float(np.mean(values)) for agent, values in totals.items()}
        facts["random_return_sum"] = float(sum(facts["random_return"].values()))
    else:
        log.add("note", "no_episode", "", f"no episode ended within {steps} steps: no random return to report")


def _adapt(env: Any, player: EnvPlayer, limit: int | None, log: Findings) -> BatchEnv:
    """The environment as a batch of one; agents that cannot share a team get teams of their own."""
    from marl import adapters

    try:
        return adapters.make(env, num_envs=1, max_steps=limit, lent=True)
    except ConfigError as error:
        agents = [str(agent) for agent in player.agents]
        if len(agents) == 1:
            raise
        batch = adapters.make(env, num_envs=1, patterns=agents, max_steps=limit, lent=True)
        log.add("note", "needs_teams", "", f"one team cannot hold all agents ({error}); give each its own learner")
        return batch


def _random_actions(batch: BatchEnv, teams: Sequence[Any], rng: np.random.Generator) -> list[Array]:
    """Uniform over what is legal."""
    actions: list[Array] = []
    for team, now in zip(batch.spec.teams, teams, strict=True):
        action = team.action
        rows = (batch.num_envs, team.num_agents)
        if action.kind == "box":
            low = np.maximum(np.asarray(action.low, dtype=np.float64), -1e3)
            high = np.minimum(np.asarray(action.high, dtype=np.float64), 1e3)
            actions.append(rng.uniform(low, high, (*rows, *action.shape)).astype(np.float32))
            continue
        parts = []
        for size, stop in zip(action.sizes, np.cumsum(action.sizes), strict=True):
            scores = rng.random((*rows, size))
            if now.action_mask is not None:
                scores = np.where(now.action_mask[..., stop - size : stop], scores, -1.0)
            parts.append(scores.argmax(-1))
        actions.append(parts[0] if action.kind == "discrete" else np.stack(parts, axis=-1))
    return actions

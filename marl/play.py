"""One episode to look at: every agent acts through its own policy in the raw environment, each frame is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marl.types import Array, ConfigError, MarlError

if TYPE_CHECKING:
    from marl.agent import Agent
    from marl.system import MultiAgentSystem

FRAMES_PER_SECOND = 15.0


@dataclass
class Played:
    """An episode: its frames ``(H, W, 3)`` uint8, the return of every agent, and its length in steps."""

    frames: list[Array] = field(default_factory=list)
    returns: dict[str, float] = field(default_factory=dict)
    length: int = 0


def play(
    system: MultiAgentSystem, episodes: int = 1, seed: int = 0, max_steps: int = 1000, explore: bool = False
) -> tuple[list[Played], float]:
    """Play some episodes and return them with the environment's frames per second.

    Raises:
        ConfigError: if the environment cannot be rendered to pictures.
    """
    try:
        env = system.make_env(render_mode="rgb_array")
    except TypeError as error:
        raise ConfigError(
            f"the environment's factory takes no render_mode keyword, so it cannot be shown ({error})"
        ) from None
    modes = (getattr(env, "metadata", None) or {}).get("render_modes", ())
    if "rgb_array" not in modes:
        raise ConfigError(f"{system.spec.env} renders no pictures (render_modes: {', '.join(modes) or 'none'})")
    rate = float((getattr(env, "metadata", None) or {}).get("render_fps") or FRAMES_PER_SECOND)
    agents = {name: system.agent(name, seed + place, side_seed=seed) for place, name in enumerate(system.spec.agents)}
    try:
        return [_episode(env, agents, seed + number, max_steps, explore) for number in range(episodes)], rate
    finally:
        env.close()


def _episode(env: Any, agents: dict[str, Agent], seed: int, max_steps: int, explore: bool) -> Played:
    from marl.adapters.describe import interface

    for agent in agents.values():
        agent.reset()
    turns = {"gymnasium": _gymnasium, "parallel": _parallel, "aec": _aec}[interface(env)]
    played = Played(returns=dict.fromkeys(agents, 0.0))
    for step, rewards in enumerate(turns(env, agents, seed, explore)):
        played.length = step
        for name, reward in rewards.items():
            played.returns[name] += float(reward)
        frame = _frame(env)
        if frame is not None:
            played.frames.append(frame)
        if step == max_steps:
            break
    return played


def _gymnasium(env: Any, agents: dict[str, Agent], seed: int, explore: bool) -> Iterator[dict[str, float]]:
    """The rewards of every step; nothing at the start."""
    name, agent = next(iter(agents.items()))
    observation, info = env.reset(seed=seed)
    yield {}
    over = False
    while not over:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation, info, explore))
        over = terminated or truncated
        yield {name: reward}


def _parallel(env: Any, agents: dict[str, Agent], seed: int, explore: bool) -> Iterator[dict[str, float]]:
    observations, infos = env.reset(seed=seed)
    yield {}
    while env.agents:
        actions = {
            agent: agents[str(agent)].act(observations[agent], infos.get(agent), explore)
            for agent in env.agents
            if agent in observations
        }
        observations, rewards, _, _, infos = env.step(actions)
        yield {str(agent): reward for agent, reward in rewards.items()}


def _aec(env: Any, agents: dict[str, Agent], seed: int, explore: bool) -> Iterator[dict[str, float]]:
    env.reset(seed=seed)
    yield {}
    while env.agents:
        agent = env.agent_selection
        observation, reward, terminated, truncated, info = env.last()
        over = terminated or truncated
        env.step(None if over else agents[str(agent)].act(observation, info, explore))
        yield {str(agent): reward}


def _frame(env: Any) -> Array | None:
    try:
        frame = env.render()
    except Exception as error:
        if isinstance(error, MarlError):
            raise
        raise ConfigError(f"the environment could not be rendered: {type(error).__name__}: {error}") from None
    if frame is None:
        return None
    frame = np.asarray(frame)
    if frame.ndim != 3 or frame.shape[2] not in (3, 4):
        raise ConfigError(f"the environment's render() gave shape {frame.shape}; expected a picture (height, width, 3)")
    return np.ascontiguousarray(frame[..., :3].astype(np.uint8))


def write_gif(episodes: list[Played], rate: float, path: Path) -> Path:
    """Write the frames of all episodes as one endless GIF. Raises ConfigError."""
    frames = [frame for played in episodes for frame in played.frames]
    if not frames:
        raise ConfigError("the environment's render() gave no pictures")
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    canvas = np.zeros((len(frames), height, width, 3), dtype=np.uint8)
    for place, frame in enumerate(frames):
        canvas[place, : frame.shape[0], : frame.shape[1]] = frame
    try:
        import imageio.v3 as imageio
    except ImportError:
        raise ConfigError("imageio is not installed: pip install 'marl-system[play]'") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    # Players round a frame's time to hundredths of a second, and slow down below two of them.
    imageio.imwrite(path, canvas, duration=max(20.0, round(100 / rate) * 10), loop=0)
    return path

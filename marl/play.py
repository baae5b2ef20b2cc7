"""One episode to look at: every agent acts through its own policy in the raw environment, each frame is kept."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marl.adapters.spoken import SpokenAEC, SpokenParallel
from marl.logs.files import replace_file
from marl.panel import Talk, beside
from marl.spaces import AgentCodec, BadValue
from marl.types import Array, ConfigError, MarlError, zeros_step

if TYPE_CHECKING:
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
    table = _Table(system, env, seed, explore)
    max_steps = min(max_steps, system.max_steps or max_steps)
    try:
        return [_episode(env, table, seed + number, max_steps) for number in range(episodes)], rate
    finally:
        env.close()


class _Table:
    """All agents, each by itself, and one environment as its author made it."""

    def __init__(self, system: MultiAgentSystem, env: Any, seed: int, explore: bool) -> None:
        self.spec, self.env, self.actors = system.spec, env, system.alone(seed, not explore)
        self.spoken = isinstance(env, SpokenParallel | SpokenAEC)
        self.codecs = {
            name: (place, n, AgentCodec(team, n))
            for place, team in enumerate(self.spec.teams)
            for n, name in enumerate(team.agents)
        }

    def begin(self) -> None:
        """An episode begins."""
        self.step = zeros_step(self.spec, 1)
        self.step.started[...] = True

    def see(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> None:
        """What those who may act now see; the others wait or are dead."""
        there = set(map(str, getattr(self.env, "agents", self.codecs)))
        for team, spec in zip(self.step.teams, self.spec.teams, strict=True):
            team.alive.fill(False)
            team.obs[0, [name not in there for name in spec.agents]] = 0  # as in training, where wires look at it too
        for agent, observation in observations.items():
            place, n, codec = self.codecs[str(agent)]
            team = self.step.teams[place]
            try:
                row, legal = codec.encode(observation, infos.get(agent))
            except BadValue as error:
                raise ConfigError(f"agent {str(agent)!r}: observation: {error}") from None
            team.obs[0, n], team.alive[0, n] = row, True
            if team.legal is not None and legal is not None:
                team.legal[0, n] = legal

    def act(self) -> dict[str, Any]:
        """What everybody does who may."""
        actions = self.actors.act(self.step)
        self.step.started[...] = False
        return {
            name: codec.decode(actions[place][0, n])
            for name, (place, n, codec) in self.codecs.items()
            if self.step.teams[place].alive[0, n]
        }

    def talks(self) -> list[Talk]:
        """What was heard last."""
        if self.spoken:
            exchange = self.env.exchange
            loud = (exchange.heard != 0).any(-1)
            return [Talk(tuple(map(str, exchange.agents)), loud * 1.0, exchange.heard, not exchange.tongues[0].numbers)]
        found = []
        for team, inbox in zip(self.spec.teams, self.actors.inboxes, strict=True):
            if inbox is not None:
                count, message = team.num_agents, inbox.message[0].numpy()
                message = np.broadcast_to(message, (count, *message.shape[1:]))
                found.append(Talk(team.agents, inbox.weight[0].numpy(), message, False))
        return found


def _episode(env: Any, table: _Table, seed: int, max_steps: int) -> Played:
    from marl.adapters.describe import interface

    table.begin()
    turns = {"gymnasium": _gymnasium, "parallel": _parallel, "aec": _aec}[interface(env)]
    played = Played(returns=dict.fromkeys(table.codecs, 0.0))
    talking = table.spoken or any(hub is not None for hub in table.actors.hubs)
    for step, rewards in enumerate(turns(env, table, seed)):
        played.length = step
        for name, reward in rewards.items():
            played.returns[name] += float(reward)
        frame = _frame(env)
        if frame is not None:
            played.frames.append(beside(frame, table.talks()) if talking and step else frame)
        if step == max_steps:
            break
    if talking and len(played.frames) > 1:  # nothing is said before the first step
        played.frames[0] = beside(played.frames[0], [replace(one, weight=one.weight * 0) for one in table.talks()])
    return played


def _gymnasium(env: Any, table: _Table, seed: int) -> Iterator[dict[str, float]]:
    """The rewards of every step; nothing at the start."""
    (name,) = table.codecs
    observation, info = env.reset(seed=seed)
    yield {}
    over = False
    while not over:
        table.see({name: observation}, {name: info})
        observation, reward, terminated, truncated, info = env.step(table.act()[name])
        over = terminated or truncated
        yield {name: reward}


def _parallel(env: Any, table: _Table, seed: int) -> Iterator[dict[str, float]]:
    observations, infos = env.reset(seed=seed)
    yield {}
    while env.agents:
        there = {str(agent): agent for agent in env.agents if agent in observations}
        table.see({agent: observations[agent] for agent in there.values()}, infos)
        actions = {there[name]: action for name, action in table.act().items()}
        observations, rewards, _, _, infos = env.step(actions)
        yield {str(agent): reward for agent, reward in rewards.items()}


def _aec(env: Any, table: _Table, seed: int) -> Iterator[dict[str, float]]:
    env.reset(seed=seed)
    yield {}
    while env.agents:
        agent = env.agent_selection
        observation, reward, terminated, truncated, info = env.last()
        if terminated or truncated:
            env.step(None)
        else:
            table.see({agent: observation}, {agent: info})
            env.step(table.act()[str(agent)])
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
    gif = io.BytesIO()
    imageio.imwrite(gif, canvas, extension=".gif", duration=max(20.0, round(100 / rate) * 10), loop=0)
    replace_file(path, gif.getvalue())  # it may lie in a run folder: never through a link
    return path

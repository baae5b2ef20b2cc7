"""Who takes the pictures of an episode: the environment as it goes, or, where its camera would move, at the end."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from marl.adapters.describe import render_mode
from marl.adapters.lifecycle import innermost
from marl.panel import named
from marl.types import Array, ConfigError, MarlError

PICTURES = "rgb_array"


class Camera(Protocol):
    """Pictures of one episode."""

    def take(self) -> None:
        """A picture of what the environment shows now."""
        ...

    def pictures(self) -> list[Array]:
        """All of them, ``(H, W, 3)`` uint8, before the environment is reset. Raises ConfigError."""
        ...


def camera_for(env: Any) -> Camera:
    """The camera for an environment's next episode."""
    game = innermost(env)
    world = getattr(game, "world", None)
    moves = hasattr(game, "original_cam_range") and hasattr(world, "agents") and hasattr(world, "landmarks")
    return SteadyCamera(env, game) if moves else PlainCamera(env)


class PlainCamera:
    """The environment's own pictures, as the episode goes."""

    def __init__(self, env: Any) -> None:
        """Nothing is taken yet."""
        self.env = env
        self._pictures: list[Array] = []

    def take(self) -> None:
        """A picture of what the environment shows now. Raises ConfigError."""
        self._pictures.append(picture(self.env))

    def pictures(self) -> list[Array]:
        """All of them."""
        return self._pictures


class SteadyCamera:
    """Pictures of an environment of mpe2 in which only moves what moves, with the names of its agents.

    mpe2 scales each picture to whoever is farthest out, so that everything else moves and grows as one agent does. Here
    entities are copied while the episode goes, and drawn by mpe2 at its end, each time with an invisible entity as far
    out as anybody comes in the whole episode. For a picture the world holds these copies; then it gets its own back.
    """

    REACH = 0.9  # of half a picture: where mpe2 draws whoever is farthest out
    UNIT = 350  # pixels of a radius of 1 as mpe2 draws it

    def __init__(self, env: Any, game: Any) -> None:
        """``game``: the environment without wrappers."""
        self.env, self.game = env, game
        self._moments: list[tuple[list[Any], list[Any]]] = []

    def take(self) -> None:
        """Copy everybody and everything as they are now."""
        world = self.game.world
        self._moments.append(copy.deepcopy((world.agents, world.landmarks)))

    def pictures(self) -> list[Array]:
        """All pictures, from the same place. Raises ConfigError."""
        world, found = self.game.world, []
        entities = [entity for moment in self._moments for kind in moment for entity in kind]
        reach = max(float(np.abs(entity.state.p_pos).max()) for entity in entities)
        corner = SimpleNamespace(size=0.0, color=np.ones(3), state=SimpleNamespace(p_pos=np.full(2, reach)))
        own = world.agents, world.landmarks
        try:
            for world.agents, landmarks in self._moments:
                world.landmarks = [*landmarks, corner]
                frame = picture(self.env)
                found.append(named(frame, [self._name(agent, reach, frame) for agent in world.agents]))
        finally:
            world.agents, world.landmarks = own
        return found

    def _name(self, agent: Any, reach: float, frame: Array) -> tuple[str, float, float]:
        """An agent's name and the pixel above its disc."""
        height, width, _ = frame.shape
        x, y = (float(place) / reach * self.REACH for place in agent.state.p_pos)
        zoom = self.REACH * self.game.original_cam_range / reach if self.game.dynamic_rescaling else 1.0
        return agent.name, width / 2 * (1 + x), height / 2 * (1 - y) - agent.size * self.UNIT * zoom


def picture(env: Any) -> Array:
    """What an environment renders, as ``(H, W, 3)`` uint8. Numbers in [0, 1] are shares of 255. Raises ConfigError."""
    try:
        frame = env.render()
    except Exception as error:
        if isinstance(error, MarlError):
            raise
        raise ConfigError(f"the environment could not be rendered: {type(error).__name__}: {error}") from None
    if frame is None:
        raise ConfigError(
            f"the environment's render() gave no picture (its render_mode is {render_mode(env)!r}); "
            f"make it with render_mode={PICTURES!r}"
        )
    try:
        pixels = np.asarray(frame)
    except ValueError:  # rows of unequal length
        pixels = np.empty(0, dtype=object)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.dtype.kind not in "biuf":
        found = f"{type(frame).__name__} of shape {pixels.shape} and dtype {pixels.dtype}"
        raise ConfigError(f"the environment's render() gave {found}; expected a picture (height, width, 3)")
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    pixels = pixels[..., :3]
    if pixels.dtype != np.uint8:
        shares = pixels.dtype.kind in "bf"
        pixels = np.nan_to_num(pixels.astype(np.float64))
        if shares and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
            pixels *= 255
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)

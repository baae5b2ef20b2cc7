"""Pictures as drawing commands: what a world paints on a canvas, kept as numbers instead of pixels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from marl.adapters.lifecycle import innermost
from marl.types import Array

# What a mark is; its other numbers are (a, b, c, d, color, width, text).
VIEW = 0  # a, b: the middle; c: half of the width of a square
CIRCLE = 1  # a, b: the middle; c: the radius
BOX = 2  # a, b: the middle; c, d: width and height
LINE = 3  # from (a, b) to (c, d)
TEXT = 4  # a line of text below the picture; a text of its own, not a place
NAME = 5  # a, b: the middle of what has that name; c: its radius
COLUMNS = 8
Place = Sequence[float] | Array
Color = Sequence[int]


class Drawing:
    """A canvas that native worlds paint on (``World.draw``), which keeps what they paint.

    Args:
        texts: names and words so far; marks hold their places in it.
    """

    def __init__(self, texts: dict[str, int]) -> None:
        """Nothing is painted yet."""
        self._texts = texts
        self._marks: list[tuple[float, ...]] = []

    @property
    def marks(self) -> Array:
        """All marks, ``(K, 8)`` float32, in the order in which they were painted."""
        return np.array(self._marks, dtype=np.float32).reshape(-1, COLUMNS)

    def view(self, half_width: float, center: Place = (0.0, 0.0)) -> None:
        """Show the square of that half-width around that center."""
        self._add(VIEW, center, half_width)

    def circle(self, center: Place, radius: float, color: Color) -> None:
        """A disc."""
        self._add(CIRCLE, center, radius, 0.0, color)

    def box(self, center: Place, width: float, height: float, color: Color) -> None:
        """A filled rectangle."""
        self._add(BOX, center, width, height, color)

    def line(self, points: Sequence[Place] | Array, color: Color = (0, 0, 0), width: int = 2) -> None:
        """A line through points."""
        for start, end in itertools.pairwise(points):
            self._add(LINE, start, float(end[0]), float(end[1]), color, width)

    def text(self, words: str, color: Color = (0, 0, 0)) -> None:
        """A line of text below the picture."""
        self._add(TEXT, (0.0, 0.0), 0.0, 0.0, color, text=words)

    def name(self, words: str, center: Place, radius: float = 0.0) -> None:
        """A name above a disc."""
        self._add(NAME, center, radius, text=words)

    def _add(
        self, kind: int, place: Place, c: float = 0.0, d: float = 0.0,
        color: Color = (0, 0, 0), width: int = 0, text: str = "",
    ) -> None:  # fmt: skip
        red, green, blue = (int(one) & 255 for one in color)
        number = self._texts.setdefault(text, len(self._texts))
        mark = kind, float(place[0]), float(place[1]), float(c), float(d), red << 16 | green << 8 | blue, width, number
        self._marks.append(mark)


def draws_itself(env: Any) -> bool:
    """Whether an environment is drawn as marks: a native world, or one of mpe2."""
    game = innermost(env)
    return _is_native(game) or _is_mpe(game)


def drawn(env: Any, texts: dict[str, int]) -> Array:
    """What such an environment shows now, as marks ``(K, 8)``."""
    game, drawing = innermost(env), Drawing(texts)
    if _is_native(game):
        game.draw(drawing, game.core.s, 0)
    else:
        _draw_mpe(game, drawing)
    return drawing.marks


def _is_native(game: Any) -> bool:
    return hasattr(game, "draw") and hasattr(game, "core") and hasattr(game, "batch_env")


def _is_mpe(game: Any) -> bool:
    world = getattr(game, "world", None)
    return hasattr(game, "original_cam_range") and hasattr(world, "agents") and hasattr(world, "landmarks")


def _draw_mpe(game: Any, drawing: Drawing) -> None:
    """Discs with the names of agents, landmarks first, and what talkers said."""
    for entity in (*game.world.landmarks, *game.world.agents):
        color = [round(255 * float(one)) for one in np.clip(entity.color, 0, 1)]
        drawing.circle(entity.state.p_pos, float(entity.size), color)
    for agent in game.world.agents:
        drawing.name(str(agent.name), agent.state.p_pos, float(agent.size))
        said = getattr(agent.state, "c", None)
        if not agent.silent and said is not None and np.any(said):
            drawing.text(f"{agent.name} says {chr(ord('A') + int(np.argmax(said)) % 26)}")

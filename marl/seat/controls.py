"""What a person may do in an agent's seat: choices with names, numbers with bounds, a board to click on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from marl.adapters.describe import metadata_entry
from marl.adapters.lifecycle import innermost
from marl.spaces import AgentCodec
from marl.types import Array, ConfigError, TeamSpec

MOST_NUMBERS = 8  # of a Box that a person moves by sliders
MOST_CHOICES = 1000  # of one part of an action
MOVES = ("stay", "left", "right", "down", "up")
IDLE = frozenset(("stay", "noop", "no-op", "no_op", "nothing", "no action", "no_action", "none"))


class IllegalAction(Exception):
    """Not an action, or not one that is legal now; the text is for the person."""


@dataclass(frozen=True)
class Board:
    """Fields of a picture that stand for actions.

    Args:
        rows: of fields, ``columns`` likewise.
        down: fields are counted down the columns instead of along the rows.
        margin: the share of the picture's width left and right of them.
    """

    rows: int
    columns: int
    down: bool = False
    margin: float = 0.0

    def action(self, row: int, column: int) -> int:
        """The action of a field."""
        return column * self.rows + row if self.down else row * self.columns + column

    def names(self) -> tuple[str, ...]:
        """What the fields are called, by action."""
        fields = {self.action(row, column): (row, column) for row in range(self.rows) for column in range(self.columns)}
        if self.rows == 1:
            return tuple(f"column {fields[k][1] + 1}" for k in range(len(fields)))
        return tuple(f"row {fields[k][0] + 1}, column {fields[k][1] + 1}" for k in range(len(fields)))


# Of environments that declare none themselves (``metadata["board"] = (rows, columns)``).
BOARDS = {"tictactoe_v3": Board(3, 3, down=True), "connect_four_v3": Board(1, 7, margin=0.04)}


@dataclass(frozen=True)
class Part:
    """One part of an action: its ``place`` in the encoded action, its choices and their places in the mask."""

    place: int
    mask_places: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Controls:
    """What one agent may do.

    Args:
        agent: whose seat it is.
        parts: of a countable action; one alone of a Discrete space.
        low: of a Box, each number's lower bound; ``high`` likewise the upper one.
        board: where the picture can be clicked; None: it cannot.
        shape: of the encoded action, ``dtype`` likewise.
    """

    agent: str
    parts: tuple[Part, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    board: Board | None = None
    shape: tuple[int, ...] = field(default=())
    dtype: str = "int64"

    def legal(self, mask: Array | None) -> list[list[bool]]:
        """Which choices of each part are legal under a mask ``(L,)``; all without one."""
        return [[mask is None or bool(mask[one]) for one in part.mask_places] for part in self.parts]

    def encoded(self, chosen: object, mask: Array | None) -> Array:
        """What a person chose, as the environment's copies take it.

        Args:
            chosen: a whole number for each part, or a number for each of a Box; one alone may stand by itself.
            mask: the legal choices ``(L,)``.

        Raises:
            IllegalAction: if that is no action, or is not legal.
        """
        given = chosen if isinstance(chosen, list) else [chosen]
        wanted = len(self.parts) or len(self.low)
        if len(given) != wanted:
            raise IllegalAction(f"expected {wanted} numbers, got {len(given)}")
        out = np.zeros(self.shape, dtype=self.dtype)
        flat = out.reshape(-1)
        if self.low:
            for place, (one, low, high) in enumerate(zip(given, self.low, self.high, strict=True)):
                if isinstance(one, bool) or not isinstance(one, int | float) or not low <= one <= high:
                    raise IllegalAction(f"expected a number from {low:g} to {high:g}")
                flat[place] = one
            return out
        for part, legal, one in zip(self.parts, self.legal(mask), given, strict=True):
            if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < len(legal):
                raise IllegalAction(f"expected a whole number from 0 to {len(legal) - 1}")
            if not legal[one]:
                raise IllegalAction(f"{part.names[one]} is not legal now")
            flat[part.place] = one
        return out

    def rest(self) -> list[float] | list[int] | None:
        """The action that does nothing: the choice of such a name, or zero of each number; None if there is none."""
        if self.low:
            return [min(max(0.0, low), high) for low, high in zip(self.low, self.high, strict=True)]
        found = [next((k for k, name in enumerate(part.names) if name.lower() in IDLE), None) for part in self.parts]
        known = [one for one in found if one is not None]
        return known if len(known) == len(found) else None

    def first_legal(self, mask: Array | None) -> list[int]:
        """The first legal choice of each part."""
        return [row.index(True) if True in row else 0 for row in self.legal(mask)]


def controls_of(team: TeamSpec, index: int, env: Any) -> Controls:
    """What agent ``index`` of a team may do in an environment. Raises ConfigError if no person could do it."""
    agent, action = team.agents[index], team.action
    if action.kind == "box":
        wide = action.widths[index]
        low, high = action.low[index][:wide], action.high[index][:wide]
        if wide > MOST_NUMBERS or not all(math.isfinite(one) for one in (*low, *high)):
            raise ConfigError(
                f"agent {agent!r}: expected actions of at most {MOST_NUMBERS} bounded numbers for a person's seat, got "
                f"{team.action_spaces[index]!r:.80}; give the person another seat"
            )
        return Controls(agent, low=low, high=high, shape=action.shape, dtype=action.dtype)
    true = AgentCodec(team, index).true_choices.tolist()
    parts, begin = [], 0
    for place, size in enumerate(action.sizes):
        own = tuple(one for one in true if begin <= one < begin + size)
        begin += size
        if len(own) > MOST_CHOICES:
            raise ConfigError(f"agent {agent!r}: {len(own):,} choices are too many for a person's seat")
        if own:
            parts.append(Part(place, own, tuple(str(k) for k in range(len(own)))))
    if len(parts) > 1:
        return Controls(agent, tuple(parts), shape=action.shape, dtype=action.dtype)
    count = len(parts[0].names)
    board = _board(env, count)
    names = board.names() if board is not None else _names(env, agent, count) or parts[0].names
    only = Part(parts[0].place, parts[0].mask_places, names)
    return Controls(agent, (only,), board=board, shape=action.shape, dtype=action.dtype)


def _board(env: Any, count: int) -> Board | None:
    declared = metadata_entry(env, "board")
    if isinstance(declared, Sequence) and len(declared) == 2 and all(isinstance(one, int) for one in declared):
        board: Board | None = Board(*declared)
    else:
        board = BOARDS.get(str(metadata_entry(env, "name")))
    return board if board is not None and board.rows * board.columns == count else None


def _names(env: Any, agent: str, count: int) -> tuple[str, ...]:
    """What an environment calls an agent's actions; nothing if nobody knows."""
    game = innermost(env)
    world = getattr(game, "world", None)
    own: tuple[str, ...] = ()
    if world is not None and hasattr(world, "landmarks"):  # of mpe2, whose agents say whether they move
        own = MOVES if any(str(one.name) == agent and one.movable for one in world.agents) else ()
    elif callable(said := getattr(game, "action_names", None)):
        own = tuple(map(str, said(agent)))
    elif callable(said := getattr(game, "get_action_meanings", None)):
        own = tuple(str(one).lower() for one in said())
    return own if len(own) == count else ()

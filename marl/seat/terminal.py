"""A person's seat in a terminal: what the environment shows as text, the legal actions, and a line for each action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

from marl.adapters.describe import render_mode
from marl.camera import PICTURES
from marl.seat.controls import Controls, IllegalAction
from marl.seat.games import Score
from marl.seat.person import Left, Turn
from marl.types import Array, ConfigError

WANTS = ("ansi", PICTURES)  # how the environment is to render: what can be printed, else what can be recorded
MOST_SEEN = 60  # numbers of an observation that are printed
MARKS = "xo"  # what stands on a board: the first plane of an observation, the second one


class Terminal:
    """The person at a terminal."""

    def __init__(self, source: TextIO, out: TextIO) -> None:
        """Reads lines of ``source``, prints to ``out``."""
        self._source, self._out = source, out
        self._shown = ""  # what the environment printed last

    def check(self, controls: Controls) -> None:
        """Raise ConfigError for actions that cannot be counted."""
        if not controls.parts:
            raise ConfigError(
                f"agent {controls.agent!r}: its actions are numbers of a Box, and a terminal takes whole ones: "
                "marl view RUN --play has sliders"
            )

    def say(self, words: str) -> None:
        """Print a line."""
        if words:
            self._write(f"{words}\n")

    def _write(self, words: str) -> None:
        self._out.write(words)
        self._out.flush()

    def shows(self, env: Any, picture: Array | None, texts: Sequence[str]) -> None:
        """Keep what the environment shows as text."""
        self._shown = str(env.render()) if render_mode(env) == "ansi" else ""

    def see(self, turn: Turn) -> None:
        """Nothing yet: it is printed with the question."""

    def choose(self, turn: Turn) -> Array:
        """Ask until there is a legal action. Raises Left at the end of the input."""
        self.say(f"\nstep {turn.step}, you are {turn.controls.agent}")
        self.say(self._shown or seen(turn))
        self.say(f"legal: {legal(turn)}")
        while True:
            self._write("> ")
            line = self._source.readline()
            if not line:
                raise Left
            try:
                return turn.controls.encoded(_numbers(turn.controls, line), turn.mask)
            except IllegalAction as error:
                self.say(f"{error}; legal: {legal(turn)}")


def _numbers(controls: Controls, line: str) -> list[int]:
    """A whole number or a name for each part. Raises IllegalAction."""
    words = line.strip().lower()
    if len(controls.parts) == 1:
        names = [name.lower() for name in controls.parts[0].names]
        if words in names and not words.isdigit():
            return [names.index(words)]
    try:
        return [int(word) for word in words.split()]
    except ValueError:
        count = len(controls.parts)
        wanted = "a number" if count == 1 else f"{count} numbers with spaces between them"
        raise IllegalAction(f"expected {wanted}, got {words!r:.40}") from None


def legal(turn: Turn) -> str:
    """The legal actions in words."""
    rows = []
    for part, mask in zip(turn.controls.parts, turn.controls.legal(turn.mask), strict=True):
        plain = turn.controls.board is not None  # its names are places, which the board shows
        words = [str(k) if plain or name == str(k) else f"{k} ({name})" for k, name in enumerate(part.names) if mask[k]]
        rows.append(", ".join(words))
    return rows[0] if len(rows) == 1 else "; ".join(f"part {k + 1}: {row}" for k, row in enumerate(rows))


def seen(turn: Turn) -> str:
    """An observation as text: a board if it looks like one, else its numbers."""
    return board(turn) or _plain(turn.obs)


def board(turn: Turn) -> str:
    """The fields of a board: marks where they are taken, else the action that takes them; empty if it is none.

    A board is declared (`Controls.board`), and seen as two planes of zeros and ones with a number for each field, the
    agent's marks and the others'.
    """
    declared = turn.controls.board
    if declared is None or turn.obs.size % 2:
        return ""
    fields = turn.obs.size // 2
    # Boards of one row of actions, as of connect four, have further rows that pieces fall into.
    rows = fields // declared.columns if declared.rows == 1 else declared.rows
    if rows * declared.columns != fields:
        return ""
    planes = turn.obs.reshape(fields, 2)
    marks = [next((MARKS[k] for k in range(2) if planes[place, k]), "") for place in range(fields)]
    free = turn.controls.legal(turn.mask)[0]
    wide = len(str(len(free) - 1))
    lines = []
    if declared.rows == 1:
        lines.append(" ".join(str(k).rjust(wide) if legal else " " * wide for k, legal in enumerate(free)))
    for row in range(rows):
        cells = []
        for column in range(declared.columns):
            place = column * rows + row if declared.down else row * declared.columns + column
            open_ = str(place) if declared.rows > 1 and free[place] else "."
            cells.append((marks[place] or open_).rjust(wide))
        lines.append(" ".join(cells))
    return "\n".join(lines)


def _plain(obs: Array) -> str:
    numbers = obs.reshape(-1)
    shown = " ".join(f"{float(one):.3g}" for one in numbers[:MOST_SEEN])
    rest = len(numbers) - MOST_SEEN
    return f"you see: {shown}" + (f" ... and {rest:,} numbers more" if rest > 0 else "")


def in_words(number: int, person: Score, own: Score) -> str:
    """How a game went, and how it goes when the agents play it by themselves."""

    def one(score: Score) -> str:
        ended = f"{score.outcome}, " if score.outcome else ""
        return f"{ended}return {score.total:.2f} in {score.length} steps"

    return f"game {number + 1}: you {one(person)}; the agents themselves {one(own)}"

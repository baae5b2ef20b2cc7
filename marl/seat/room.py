"""People's seats in browsers: the thread in which games are played, and what browsers are told and say.

The episode loop waits in a thread of its own for whoever has the move. Everything that a browser sends comes through
:meth:`Room.press`, and is looked at before it reaches the game.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from marl.report.curves import short
from marl.report.facts import text
from marl.report.html import as_json
from marl.report.replays import png
from marl.seat.controls import Controls, IllegalAction
from marl.seat.games import Games, Kept, Score
from marl.seat.person import Left, Turn
from marl.types import Array, MarlError

QUICK = 1  # level of compression: a picture is sent to this machine once
BETWEEN = 0.05  # seconds of a step in which no person acts, so that they can follow it
MOST_SEEN = 200  # numbers of an observation that are shown
MOST_SCORES = 100  # games in the table, the newest
Send = Callable[[str], None]


class Nonsense(Exception):
    """What a browser sent is no message of the page."""


class Seat:
    """The person in one agent's seat, as the episode loop knows them."""

    def __init__(self, room: Room, agent: str) -> None:
        """Nobody is there yet."""
        self.room, self.agent = room, agent
        self.send: Send | None = None  # None: nobody is there
        self.turn: Turn | None = None  # the newest; None between games
        self.told = ""  # the newest turn as a message
        self.chosen: Array | None = None  # for this turn
        self.pressed: Any = None  # the newest action, as the browser sent it; None: none yet
        self.held = self.fresh = False

    def see(self, turn: Turn) -> None:
        """Tell the browser."""
        self.room.shows_turn(self, turn)

    def choose(self, turn: Turn) -> Array:
        """Wait for the browser's choice; with a tick take what is pressed now. Raises Left."""
        return self.room.choice_of(self, turn)


class Room:
    """The seats of people in browsers, and the games that they play there, one after the other."""

    def __init__(self, agents: Sequence[str], tick: float = 0.0) -> None:
        """``tick``: seconds of a step in real time; 0: the game waits for whoever has the move."""
        self.tick = tick
        self.seats = {agent: Seat(self, agent) for agent in agents}
        self._changed = threading.Condition()
        self._closed = self._started = False
        self._phase, self._picture, self._scores = ("wait", ""), "", ""
        self._rows: list[dict[str, Any]] = []
        self._controls: Mapping[str, Controls] = {}
        self._facts: dict[str, Any] = {}
        self._shown_at, self._acted = 0.0, False
        self._thread: threading.Thread | None = None

    # --- the thread in which games are played -------------------------------------------------------------------------

    def open(self, games: Games, kept: Kept) -> None:
        """Begin to play, in a thread of its own."""
        self._controls = games.controls
        self._facts = {"env": text(games.system.spec.env), "opponent": text(games.seats.opponent), "tick": self.tick}
        self._say_phase("wait")
        self._thread = threading.Thread(target=self._run, args=(games, kept), name="seat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the game that runs, unkept, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self, games: Games, kept: Kept) -> None:
        number = 0
        try:
            while True:
                self._wait_for_start()
                recording = games.play(number)
                with self._changed:
                    for seat in self.seats.values():
                        seat.turn, seat.told, seat.pressed, seat.held, seat.fresh = None, "", None, False, False
                person = games.score(recording.episodes[0])
                trouble = ""
                try:
                    kept.add(recording)
                except OSError as error:
                    trouble = f"the game could not be kept: {error.strerror or error}"
                self._add_score(number, person, games.own(number), kept, trouble)
                self._say_phase("over")
                number += 1
        except Left:
            pass
        except MarlError as error:
            self._say_phase("failed", text(str(error), 500))
        except Exception as error:  # of the environment's code, which is not ours
            self._say_phase("failed", text(f"{type(error).__name__}: {error}", 500))

    def _wait_for_start(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._started and self._all_there()))
            if self._closed:
                raise Left
            self._started = False
            self._say_phase("play")

    def _all_there(self) -> bool:
        return all(seat.send is not None for seat in self.seats.values())

    # --- what the game says -------------------------------------------------------------------------------------------

    def shows(self, env: Any, picture: Array | None, texts: Sequence[str]) -> None:
        """Show everybody what the environment shows, and let them see it before it goes on. Raises Left."""
        message: dict[str, Any] = {"kind": "picture", "marks": None, "source": None, "texts": list(map(text, texts))}
        if picture is not None and picture.ndim == 2:
            message["marks"] = [_mark(one) for one in picture]
        elif picture is not None:
            message["source"] = f"data:image/png;base64,{base64.b64encode(png(picture, QUICK)).decode()}"
        with self._changed:
            self._picture = as_json(message)
            self._tell(self._picture)
            pause = self.tick or (0.0 if self._acted else BETWEEN)
            self._acted = False
            self._changed.wait_for(lambda: self._closed, max(0.0, self._shown_at + pause - time.monotonic()))
            self._shown_at = time.monotonic()
            if self._closed:
                raise Left

    def shows_turn(self, seat: Seat, turn: Turn) -> None:
        """Tell one browser what its agent sees and may do."""
        seen = turn.obs.reshape(-1)[:MOST_SEEN] if turn.obs.ndim == 1 else np.zeros(0)
        message = {
            "kind": "turn",
            "step": turn.step,
            "acting": turn.acting,
            "legal": turn.controls.legal(turn.mask),
            "seen": [short(float(one)) for one in seen],
        }
        with self._changed:
            seat.turn, seat.chosen, seat.told = turn, None, as_json(message)
            self._tell(seat.told, seat)

    def choice_of(self, seat: Seat, turn: Turn) -> Array:
        """The action of a seat: with a tick at once, else as soon as there is one. Raises Left."""
        with self._changed:
            if self.tick:
                self._changed.wait_for(lambda: self._closed or self._all_there())
            else:
                self._changed.wait_for(lambda: self._closed or seat.chosen is not None)
            if self._closed:
                raise Left
            self._acted = True
            if seat.chosen is not None:
                return seat.chosen
            now = seat.pressed if seat.held or seat.fresh else self.without_a_key(seat)
            seat.fresh = False
            for candidate in (now, turn.controls.rest()):
                try:
                    return turn.controls.encoded(candidate, turn.mask)
                except IllegalAction:
                    continue
            return turn.controls.encoded(turn.controls.first_legal(turn.mask), turn.mask)

    def without_a_key(self, seat: Seat) -> Any:
        """With a tick: the choice that does nothing if there is one, else the last one again; so with several parts."""
        controls = self._controls[seat.agent]
        rest = controls.rest()
        return seat.pressed if rest is None or not _is_one(controls) else rest

    def _add_score(self, number: int, person: Score, own: Score, kept: Kept, trouble: str) -> None:
        row = {"game": number, "person": _row(person), "agents": _row(own)}
        self._rows = [*self._rows, row][-MOST_SCORES:]
        file = "" if kept.path is None else text("/".join(kept.path.parts[-3:]))
        message = {"kind": "scores", "rows": self._rows, "file": file, "trouble": text(trouble)}
        with self._changed:
            self._scores = as_json(message)
            self._tell(self._scores)

    def _say_phase(self, phase: str, why: str = "") -> None:
        with self._changed:
            self._phase = phase, why
            self._tell_phase()

    def _tell_phase(self) -> None:
        phase, why = self._phase
        missing = [text(name) for name, seat in self.seats.items() if seat.send is None]
        self._tell(as_json({"kind": "phase", "phase": phase, "why": why, "missing": missing}))

    def _tell(self, message: str, only: Seat | None = None) -> None:
        for seat in self.seats.values() if only is None else [only]:
            if seat.send is not None:
                seat.send(message)

    # --- what browsers say --------------------------------------------------------------------------------------------

    def enter(self, agent: str, send: Send) -> bool:
        """Take a seat; False if somebody has it. ``send`` never waits, and is called in any thread."""
        with self._changed:
            seat = self.seats[agent]
            if seat.send is not None or self._closed:
                return False
            seat.send, seat.held, seat.fresh = send, False, False
            controls = self._controls[agent]
            hello = {"kind": "hello", "agent": text(agent), **_layout(controls), **self._facts}
            if self.tick:
                hello["idle"] = "keep" if not _is_one(controls) else "again" if controls.rest() is None else "rest"
            send(as_json(hello))
            for message in (self._picture, seat.told, self._scores):
                if message:
                    send(message)
            self._tell_phase()
            self._changed.notify_all()
            return True

    def leave(self, agent: str) -> None:
        """The seat is free again; the game waits for whoever takes it next."""
        with self._changed:
            seat = self.seats[agent]
            seat.send, seat.held, seat.fresh = None, False, False
            self._tell_phase()

    def press(self, agent: str, message: str) -> None:
        """What a browser sent. Raises Nonsense if its page never sends such."""
        try:
            said = json.loads(message)
        except (ValueError, RecursionError):
            raise Nonsense("no JSON") from None
        if not isinstance(said, dict) or said.get("do") not in ("start", "act", "release"):
            raise Nonsense("neither start, act nor release")
        with self._changed:
            seat = self.seats[agent]
            if said["do"] == "start":
                self._started = self._phase[0] in ("wait", "over")
            elif said["do"] == "release":
                seat.held = False
            else:
                self._act(seat, said)
            self._changed.notify_all()

    def _act(self, seat: Seat, said: Mapping[str, Any]) -> None:
        turn, action = seat.turn, said.get("action")
        late = turn is None or not turn.acting or (not self.tick and said.get("step") != turn.step)
        if turn is None or late or seat.chosen is not None:
            self._tell(as_json({"kind": "refused", "why": "it is not your move"}), seat)
            return
        try:
            encoded = turn.controls.encoded(action, turn.mask)
        except IllegalAction as error:
            self._tell(as_json({"kind": "refused", "why": text(str(error))}), seat)
            return
        if self.tick:
            seat.pressed, seat.held, seat.fresh = action, True, True
        else:
            seat.chosen = encoded


def _is_one(controls: Controls) -> bool:
    """Whether an action is one choice: a key that is held, and let go."""
    return len(controls.parts) == 1


def _layout(controls: Controls) -> dict[str, Any]:
    """What a page draws buttons, sliders and a board from."""
    board = controls.board
    return {
        "parts": [list(map(text, part.names)) for part in controls.parts],
        "low": list(controls.low),
        "high": list(controls.high),
        "board": None
        if board is None
        else {"rows": board.rows, "columns": board.columns, "down": board.down, "margin": board.margin},
        "rest": controls.rest(),
    }


def _row(score: Score) -> dict[str, Any]:
    total, everybody = short(score.total), short(score.everybody)
    return {"total": total, "everybody": everybody, "length": score.length, "outcome": score.outcome}


def _mark(mark: Array) -> list[Any]:
    return [int(mark[0]), *(short(float(one)) for one in mark[1:5]), int(mark[5]), int(mark[6]), int(mark[7])]

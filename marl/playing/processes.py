"""An agent in an operating system process of its own, which is told what the agent may know and nothing else.

The process loads one agent's folder (`marl.Agent.save`), then sees frames (`marl_runtime.wire`) over a socket: its
rows, its flags, the messages that its links deliver. It answers with what it says and does.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from marl.adapters.spawn import die_with, kill, spawn
from marl.playing.single import Agent
from marl.types import Array, MarlError, ResourceError
from marl_runtime.process import answer as play
from marl_runtime.seat import AgentInput, LocalPlayer, ReceivedMessages, TakesTurns
from marl_runtime.wire import READY, Field, Kind, Wire, WireError

START_SECONDS = 300.0  # to import PyTorch and load the agent, maybe beside many others
DEADLINE = 60.0  # seconds for one answer


class Leaves(TakesTurns, Protocol):
    """An agent that can leave this process.

    server: the module whose ``serve`` is the main function of its process.
    """

    server: str

    def save(self, path: Path) -> Path | str:
        """Write whatever its process needs there; returns the text of the START frame."""
        ...


class ProcessPlayer:
    """A player in a process of its own. If it is lost, a random player takes its seat, and :attr:`fault` says why."""

    def __init__(self, seat: str, agent: Leaves, seeds: Sequence[int], explore: bool, stranger: LocalPlayer) -> None:
        """``seat``: whose place it takes; ``stranger``: who plays if its process is lost."""
        self.name, self.fault, self._agent, self._stranger = seat, "", agent, stranger
        self._layout = agent.layout(len(seeds))
        self._begin = [np.array(seeds, np.int64), np.array(explore)]
        self._process: subprocess.Popen[bytes] | None = None
        self._view: AgentInput | None = None

    @property
    def pid(self) -> int:
        """The process; 0 when there is none."""
        return 0 if self._process is None else self._process.pid

    def start(self, folder: Path) -> None:
        """Start the process with the agent written to ``folder``; :meth:`wait` for it to be ready.

        Raises:
            ConfigError: if the agent cannot leave this process.
            ResourceError: if there is no room for another one.
        """
        told = self._agent.save(folder)
        try:
            mine, theirs = socket.socketpair()
            with theirs:
                self._process = spawn(self._agent.server, "serve", (theirs.fileno(),))
        except OSError as error:
            raise ResourceError(f"cannot start the process of agent {self.name!r} ({error})") from error
        self._wire = Wire(mine, len(self._begin[0]))
        mine.settimeout(START_SECONDS)
        # Who cannot load the agent says why and is gone, perhaps before it is told more; `wait` reads what it said.
        with self._watched(), contextlib.suppress(ConnectionError):
            self._wire.send_text(Kind.START, str(told))
            self._wire.send(Kind.BEGIN, self._layout.begin, self._begin)

    def wait(self) -> None:
        """Wait until the agent is loaded."""
        if self.fault:
            return
        with self._watched():
            (sizes,) = self._receive(Kind.READY, READY)
            if not np.array_equal(sizes, self._layout.sizes):
                raise WireError(f"expected frames of {self._layout.sizes.tolist()}, it reads {sizes.tolist()}")
            self._wire.sock.settimeout(DEADLINE)

    def observe(self, view: AgentInput) -> None:
        """Send the agent's input of this step to its process."""
        self._view = view
        if self.fault:
            self._stranger.observe(view)
            return
        with self._watched():
            arrays = [view.started, view.acting, view.obs]
            arrays += [view.action_mask] if view.action_mask is not None else []
            arrays += [view.heard.message, view.heard.weight] if view.heard is not None else []
            self._wire.send(Kind.LOOK, self._layout.observe, arrays)

    def say(self) -> tuple[Array, Array]:
        """Messages ``(E, M)`` and loudness ``(E,)`` from the process."""
        if not self.fault:
            with self._watched():
                said, loud = self._receive(Kind.SAY, self._layout.say)
                return said, loud
        return self._stranger.say()

    def hear(self, heard: ReceivedMessages) -> None:
        """Send the messages of this round to the process."""
        if not self.fault:
            with self._watched():
                self._wire.send(Kind.HEAR, self._layout.hear, [heard.message, heard.weight])

    def act(self) -> Array:
        """Actions ``(E,)`` or ``(E, A)`` from the process."""
        if not self.fault:
            with self._watched():
                (action,) = self._receive(Kind.ACT, self._layout.act)
                return action
        return self._stranger.act()

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        if not self.fault:
            with contextlib.suppress(OSError):
                self._wire.sock.settimeout(0.1)
                self._wire.send(Kind.END)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2.0)
        self._end()

    def _receive(self, kind: Kind, fields: list[Field]) -> list[Array]:
        arrays = self._wire.receive(kind, fields)
        assert arrays is not None
        return arrays

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Whatever goes wrong with the process ends it, and the stranger takes over from the view at hand."""
        try:
            yield
        except TimeoutError:
            self._lose(f"gave no answer within {self._wire.sock.gettimeout():g} s")
        except WireError as error:
            self._lose(f"was stopped: {error}")
        except (OSError, EOFError):
            self._lose(self._how_it_ended())

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "closed its socket"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"

    def _lose(self, how: str) -> None:
        self.fault = f"process {self.pid} {how}"
        self._end()
        if self._view is not None:
            self._stranger.observe(self._view)

    def _end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            kill(process)
            self._wire.sock.close()


def assemble(players: Sequence[ProcessPlayer]) -> None:
    """Start all of them together. Raises ResourceError, with none left running, if one cannot."""
    try:
        with tempfile.TemporaryDirectory(prefix="marl-agents-") as folder:
            for place, player in enumerate(players):
                player.start(Path(folder) / str(place))
            for player in players:
                player.wait()
        for player in players:
            if player.fault:
                raise ResourceError(f"agent {player.name!r} did not start: {player.fault}")
    except BaseException:
        for player in players:
            player.close()
        raise


# --- the agent's side -------------------------------------------------------------------------------------------------


def serve(fd: int, parent: int, from_main: int) -> None:
    """The main function of an agent's process: play until the other side closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    die_with(parent, bool(from_main))
    answer(Wire(socket.socket(fileno=fd)))


def answer(wire: Wire) -> None:
    """Play as the frames say; what goes wrong is said to the other side."""
    play(wire, Agent.load, (MarlError,))

"""An agent in an operating system process of its own, which is told what the agent may know and nothing else.

The process loads one agent's folder (`marl.Agent.save`), then sees frames (`marl.playing.wire`) over a socket: its
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

import numpy as np

from marl.adapters.spawn import die_with, kill, spawn
from marl.playing.decentralized import AgentInput, LocalPlayer, ReceivedMessages
from marl.playing.single import Agent
from marl.playing.wire import Field, Kind, Wire, WireError, view_fields
from marl.types import Array, MarlError, ResourceError

START_SECONDS = 300.0  # to import PyTorch and load the agent, maybe beside many others
DEADLINE = 60.0  # seconds for one answer


class Layout:
    """Sizes of the frames of one agent in ``E`` copies; both sides compute them from the agent."""

    def __init__(self, agent: Agent, copies: int) -> None:
        """Compute the sizes."""
        team = agent.team
        num_choices = team.action.num_choices if team.masked else None
        self.talks, self.rounds = agent.talks, agent.rounds
        self.arrives = agent.talks and not agent.rounds
        obs: Field = (team.obs.shape, team.obs.dtype)
        self.observe, self.hear = view_fields(copies, obs, num_choices, team.num_agents, agent.size, self.arrives)
        self.say: list[Field] = [((copies, agent.size), "float32"), ((copies,), "float32")]
        self.act: list[Field] = [((copies, *team.action.shape), team.action.dtype)]
        self.begin: list[Field] = [((copies,), "int64"), ((), "bool")]
        self.masked = num_choices is not None

    @property
    def sizes(self) -> Array:
        """What READY says: bytes of each kind of frame, rounds, whether it talks."""
        frames = (self.observe, self.say, self.hear, self.act)
        total = [sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in frame) for frame in frames]
        return np.array([*total, self.rounds, self.talks], dtype=np.int64)


READY: list[Field] = [((6,), "int64")]


class ProcessPlayer:
    """A player in a process of its own. If it is lost, a random player takes its seat, and :attr:`fault` says why."""

    def __init__(self, seat: str, agent: Agent, seeds: Sequence[int], explore: bool, stranger: LocalPlayer) -> None:
        """``seat``: whose place it takes; ``stranger``: who plays if its process is lost."""
        self.name, self.fault, self._agent, self._stranger = seat, "", agent, stranger
        self._layout = Layout(agent, len(seeds))
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
        self._agent.save(folder)
        try:
            mine, theirs = socket.socketpair()
            with theirs:
                self._process = spawn("marl.playing.processes", "serve", (theirs.fileno(),))
        except OSError as error:
            raise ResourceError(f"cannot start the process of agent {self.name!r} ({error})") from error
        self._wire = Wire(mine, len(self._begin[0]))
        mine.settimeout(START_SECONDS)
        with self._watched():
            self._wire.send_text(Kind.START, str(folder))
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
    try:
        agent = Agent.load(wire.receive_text(Kind.START))
        layout = Layout(agent, wire.copies)
        begin = wire.receive(Kind.BEGIN, layout.begin)
        assert begin is not None
        player = LocalPlayer([agent.twin(seed) for seed in begin[0].tolist()], bool(begin[1]))
        wire.send(Kind.READY, READY, [layout.sizes])
        while (arrays := wire.receive(Kind.LOOK, layout.observe, ends=True)) is not None:
            started, acting, obs, *rest = arrays
            action_mask = rest.pop(0) if layout.masked else None
            player.observe(AgentInput(obs, action_mask, started, acting, ReceivedMessages(*rest) if rest else None))
            for _ in range(max(layout.rounds, 1) if layout.talks else 0):
                wire.send(Kind.SAY, layout.say, player.say())
                if layout.rounds:
                    heard = wire.receive(Kind.HEAR, layout.hear)
                    assert heard is not None
                    player.hear(ReceivedMessages(*heard))
            wire.send(Kind.ACT, layout.act, [player.act()])
    except (EOFError, ConnectionError):
        pass  # the other side is gone: nothing to say, and nobody to say it to
    except Exception as error:
        text = str(error) if isinstance(error, WireError | MarlError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            wire.send_text(Kind.ERROR, text)

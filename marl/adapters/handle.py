"""What a batch of workers needs of whoever hosts them: a handle on each, and a place where the arrays of a step lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from marl.adapters.faults import Tell
from marl.types import Array, Spec, Step

START_SECONDS = 120.0  # to import the environment's modules and create the copies


class WorkerFault(Exception):
    """Why a worker did not answer: ``killed``, ``hung``, ``exited`` or ``raised``, and what it left to read."""

    def __init__(self, kind: str, detail: str) -> None:
        """``kind``: one of these words."""
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Handle(ABC):
    """The learner's end of one worker: its range of copies, how it has fared, and how it is asked."""

    def __init__(self, index: int, first: int, count: int, hear: Tell) -> None:
        """Nothing is started yet."""
        self.index = index
        self.hear = hear  # what its copies tell of their first faults
        self.first = first
        self.count = count
        self.rows = slice(first, first + count)
        self.generation = 0  # how often its copies got a new process since reset
        self.strikes = 0  # faults since one of its copies last finished an episode
        self.counted: dict[str, int] = {}  # what its copies mended or threw away
        self.pending = False  # its copies start anew, which the next step has to tell
        self.fault = WorkerFault("exited", "never started")  # why it is down

    @property
    @abstractmethod
    def pid(self) -> int:
        """Its process id, 0 while there is none."""

    @abstractmethod
    def start(self) -> None:
        """Start the process; its first answer says that its copies exist."""

    @abstractmethod
    def send(self, message: tuple[Any, ...]) -> None:
        """Ask for something. A worker that cannot be asked says so in ``receive``."""

    @abstractmethod
    def receive(self, until: float) -> Any:
        """The answer to the last question. Raises what the worker reports, or a fault if it is lost."""

    def judged(self, verdict: str, value: Any) -> Any:
        """What an answer says. Raises a breach of contract; ends a worker whose environment raised, and says so."""
        if verdict == "breach":
            kind, text, where = value
            raise kind(text) from WorkerFault("raised", where)
        if verdict == "raised":
            self.fault = WorkerFault("raised", value)
            self.kill()
            raise self.fault
        return value

    @abstractmethod
    def kill(self) -> None:
        """End the process, and whatever it has started itself, at once."""

    @abstractmethod
    def ask_to_close(self) -> None:
        """Let the environment close itself; ``close`` follows."""

    @abstractmethod
    def close(self, until: float) -> None:
        """Wait for the process to end, then end it."""


class Place(Protocol):
    """Where workers live.

    called: what messages call a worker there.
    alone: how to have the environment in this process instead.
    """

    called: str
    alone: str

    def worker(self, index: int, first: int, count: int, num_envs: int, payload: bytes, hear: Tell) -> Handle:
        """A handle on the worker of copies ``first`` to ``first + count`` of ``num_envs``, not started yet."""
        ...

    def lay(self, spec: Spec, num_envs: int) -> tuple[Step, tuple[Array, ...]]:
        """The arrays of a step of all copies, which workers fill, and of the actions for it, which they read."""
        ...

    def close(self) -> None:
        """Leave it, once all workers have ended."""
        ...

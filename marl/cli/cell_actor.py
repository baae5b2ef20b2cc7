"""Cells trained on a Ray cluster: wherever there is room, an actor starts the process that trains, and passes on words.

What trains is the process of :mod:`marl.cli.cell_process`, so a cell's numbers do not depend on where it is trained.
Its folder lies on a file system that all nodes share: nothing but words and exit statuses goes over Ray.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from marl import cluster, parallel
from marl.cli.cell_process import CellProcess, CellWorker, Evaluated
from marl.cli.status import config_error

PROBE = ".ray"  # of a folder of runs: a word that whoever shares the folder reads
LOOK_SECONDS = 3.0  # a network file system may show a new file so late
NODE_SECONDS = 120.0  # for a node to begin a process and to read the word
END_SECONDS = 5.0  # for an actor to end its process
LEFT_SECONDS = 1.0  # within which a process notices that its actor is gone, and leaves the run folder


@dataclass(frozen=True)
class Place:
    """What a node has to see, and to be, to train cells.

    folder: of the runs.
    word: what stands in the probe there.
    here: the current folder of the command.
    versions: of what decides about numbers, see :func:`installed`.
    """

    folder: str
    word: str
    here: str
    versions: Mapping[str, str]

    def fault(self) -> str:
        """Why cells cannot be trained in this process; empty: they can."""
        node = socket.gethostname()
        for package, there in installed().items():
            if there != self.versions[package]:
                return f"node {node} has {package} {there}, not {self.versions[package]}: install the same on all nodes"
        until = time.monotonic() + LOOK_SECONDS
        while not self._seen():
            if time.monotonic() > until:
                return (
                    f"node {node} does not see {self.folder}, or may not write there: choose an --out on a file system "
                    "that all nodes share"
                )
            time.sleep(0.2)
        try:
            os.chdir(self.here)
        except OSError:
            return f"node {node} does not see {self.here}: run the command in a folder that all nodes share"
        return ""

    def _seen(self) -> bool:
        try:
            return (Path(self.folder) / PROBE).read_text() == self.word and os.access(self.folder, os.W_OK)
        except OSError:
            return False


def installed() -> dict[str, str]:
    """Versions of what decides about numbers."""
    return {package: version(package) for package in ("marl-system", "torch", "numpy")}


@dataclass(frozen=True)
class Gone:
    """There is no process any more.

    how: it ended.
    """

    how: str


class CellHost:
    """The actor: a process that trains, on the same node."""

    def __init__(self, place: Place) -> None:
        """Start it, where cells can be trained."""
        self._fault = place.fault()
        self._process = None if self._fault else CellProcess()

    def run(self, words: Sequence[str], log: str, asks: bool) -> int | Evaluated | Gone:
        """Begin a command, and wait for what its process says first."""
        if self._process is None:
            return Gone(self._fault)
        with contextlib.suppress(OSError):  # it is gone, as its answer says
            self._process.run(words, Path(log), asks)
        return self._answer(self._process)

    def reply(self, verdict: str) -> int | Evaluated | Gone:
        """Whether a run that was evaluated goes on; waits for what its process says next."""
        assert self._process is not None
        self._process.reply(verdict)
        return self._answer(self._process)

    def _answer(self, process: CellProcess) -> int | Evaluated | Gone:
        answer = process.answer()
        return Gone(process.end()) if answer is None else answer

    def interrupt(self) -> None:
        """Let the command save and end."""
        if self._process is not None:
            self._process.interrupt()

    def end(self) -> None:
        """End the process at once."""
        if self._process is not None:
            self._process.end()


class CellActor:
    """Runs ``marl`` commands in a process on a node of a cluster; it stands in for a :class:`CellProcess`.

    Args:
        ray: Ray's module, in a cluster.
        place: what the node has to see.
        resources: that one needs, as Ray names them.
    """

    def __init__(self, ray: Any, place: Place, resources: Mapping[str, float]) -> None:
        """Ask for one; until there is room for it, it is not :attr:`ready`."""
        self.socket, self._theirs = socket.socketpair()
        self._ray = ray
        self._said: int | Evaluated | None = None
        self._how = "its Ray worker was ended"
        self._lost = self.ended = False
        # What waits for an answer must not keep out what ends it.
        self._host = ray.remote(CellHost).options(max_concurrency=3, **resources).remote(place)
        self._ready = self._host.__ray_ready__.remote()

    @property
    def ready(self) -> bool:
        """Whether it has found room."""
        return bool(self._ray.wait([self._ready], timeout=0)[0])

    def run(self, words: Sequence[str], log: Path, asks: bool = False) -> None:
        """Begin a command; what it says is appended to ``log``."""
        self._await(self._host.run.remote(list(words), str(log), asks))

    def reply(self, verdict: str) -> None:
        """Whether a run that was evaluated goes on: GO_ON, PAUSE, or STOP with a reason behind it."""
        self._await(self._host.reply.remote(verdict))

    def answer(self) -> int | Evaluated | None:
        """What it says once its socket can be read; None: the process is gone, see :meth:`end`."""
        return self._said if self.socket.recv(1) else None

    def interrupt(self) -> None:
        """Let the command save and end."""
        self._host.interrupt.remote()

    def end(self) -> str:
        """End it at once, with what it has started; returns how it ended."""
        self.ended = True
        with contextlib.suppress(Exception):  # it, its node or the cluster is gone
            if not self._lost and self.ready:
                self._ray.get(self._host.end.remote(), timeout=END_SECONDS)
            self._ray.kill(self._host)
        self.socket.close()
        self._theirs.close()
        if self._lost:
            time.sleep(LEFT_SECONDS)  # or who goes on with its cell would find the run folder taken
        return self._how

    def _await(self, answer: Any) -> None:
        """Make the socket readable once there is an answer."""
        answer.future().add_done_callback(self._answered)

    def _answered(self, future: Any) -> None:
        """In a thread of Ray's."""
        try:
            said = future.result()
        except Exception as error:
            self._lost = True
            said = Gone(f"its Ray worker was lost ({type(error).__name__})")
        with contextlib.suppress(OSError):  # nobody listens any more
            if isinstance(said, Gone):
                self._how = said.how
                self._theirs.shutdown(socket.SHUT_RDWR)
            else:
                self._said = said
                self._theirs.sendall(b"\n")


@dataclass
class Workers:
    """What trains cells side by side.

    jobs: how many.
    """

    jobs: int
    _ray: Any = None
    _resources: Mapping[str, float] = field(default_factory=dict)
    _probe: Path | None = None
    _coming: list[CellActor] = field(default_factory=list)
    _given: list[CellActor] = field(default_factory=list)

    def of(self, folder: Path) -> Callable[[], CellWorker | None] | None:
        """Starts one for runs in a folder that is there, see :class:`~marl.cli.schedule.Schedule`.

        Raises:
            ConfigError: if a node of the cluster does not share the folder.
        """
        if self._ray is None:
            return None
        place = Place(str(folder), secrets.token_hex(8), os.getcwd(), installed())
        self._probe = folder / PROBE
        try:
            self._probe.write_text(place.word)
        except OSError as error:
            raise config_error(f"--out {folder}: cannot be written ({error.strerror or error})") from None
        self._check_nodes(place)
        return lambda: self._next(place)

    def _next(self, place: Place) -> CellActor | None:
        """One that has found room, if there is one.

        Cells go to such ones only: with one that waits, a cell would wait while others are idle, and keep its room.
        """
        self._given = [actor for actor in self._given if not actor.ended]
        ready = next((actor for actor in self._coming if actor.ready), None)
        if ready is not None:
            self._coming.remove(ready)
            self._given.append(ready)
        elif len(self._given) + len(self._coming) < self.jobs:
            self._coming.append(CellActor(self._ray, place, self._resources))
        return ready

    def _check_nodes(self, place: Place) -> None:
        """Raise ConfigError if cells cannot be trained on all nodes that there are."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        look = self._ray.remote(Place.fault)
        asked = [
            look.options(
                num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
            ).remote(place)
            for node in _nodes(self._ray)
        ]
        try:
            faults = self._ray.get(asked, timeout=NODE_SECONDS)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise config_error(f"ray: a node cannot train cells: {lines[-1]}") from None
        for fault in faults:
            if fault:
                raise config_error(f"ray: {fault}")

    def close(self) -> None:
        """End those that no cell was given to, and take away what was written."""
        for actor in self._coming:
            actor.end()
        if self._probe is not None:
            with contextlib.suppress(OSError):
                self._probe.unlink()


@contextmanager
def cell_workers(address: str | None, jobs: int | None, threads: int, device: str) -> Iterator[Workers]:
    """Within it there is room for cells: on this machine, or on a Ray cluster.

    Args:
        address: of the cluster, see :func:`marl.cluster.joined`; None: processes on this machine.
        jobs: cells at once; None: as many as there are cores for their threads, and GPUs.
        threads: of a cell.
        device: where it computes; on a cluster each that says ``cuda`` has a GPU to itself.

    Raises:
        ConfigError: if Ray is not installed, or no node has what a cell needs.
        ResourceError: if there is no cluster.
    """
    here = max(1, parallel.available_cores() // threads)
    if address is None:
        yield Workers(jobs or here)
        return
    with cluster.joined(address, cpus=(jobs or here) * threads) as ray:
        resources = {"num_cpus": float(threads), "num_gpus": float(device.startswith("cuda"))}
        room = sum(_room(node["Resources"], resources) for node in _nodes(ray))
        if not room:
            needed = f"{threads} cores" + (" and a GPU" if resources["num_gpus"] else "")
            raise config_error(f"ray: no node has {needed}, which a cell with threads={threads} on {device} needs")
        workers = Workers(jobs or room, ray, resources)
        try:
            yield workers
        finally:
            workers.close()


def _nodes(ray: Any) -> list[dict[str, Any]]:
    """Those that are there."""
    return [node for node in ray.nodes() if node["Alive"]]


def _room(there: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """How many fit on a node."""
    fits = [
        int(there.get(name, 0.0) // needed[key])
        for key, name in (("num_cpus", "CPU"), ("num_gpus", "GPU"))
        if needed[key]
    ]
    return min(fits)

"""Ray's cluster: processes on this machine or on many, begun or joined for as long as they are needed.

Everything that goes to Ray goes through here, so one place says what is missing and keeps Ray's own lines off the
screen. Ray sends Python objects by cloudpickle: who can talk to a cluster can run code in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from marl.config import check_whole
from marl.types import ConfigError, ResourceError

AUTO, LOCAL = "auto", "local"
STORE = 256 * 1024**2  # bytes of shared memory of a cluster begun here; Ray would take 30 % of the machine's


@dataclass(frozen=True)
class Actors:
    """So many actors of a cluster, one core each.

    count: how many.
    address: of the cluster, as for :func:`joined`.
    staleness: None: they step copies; a number: they hold the policy too and collect fragments, with one that is
        at most so many updates behind.
    """

    count: int
    address: str = AUTO
    staleness: int | None = None

    def __str__(self) -> str:
        """In words."""
        return f"{self.count} actors of the Ray cluster {self.address}"


def asked_actors(address: str | None, count: int | None, staleness: int | None = None) -> Actors | None:
    """What ``ray=``, ``actors=`` and ``staleness=`` say; None for none of them. Raises ConfigError for one alone."""
    if address is None and count is None:
        if staleness is not None:
            raise ConfigError(f"staleness={staleness!r}: of whose rollouts? Give ray='auto' and actors=2 as well")
        return None
    if address is None:
        raise ConfigError(f"actors={count!r}: on which cluster? Give ray='auto' as well, or ray='HOST:PORT'")
    if count is None:
        raise ConfigError(f"ray={address!r}: how many actors step the copies? Give actors=2 as well")
    behind = None if staleness is None else check_whole("staleness", staleness, 0)
    return Actors(check_whole("actors", count, 1), check_address(address), behind)


def check_address(address: object) -> str:
    """The address. Raises ConfigError if it is none."""
    if address in (AUTO, LOCAL):
        return str(address)
    host, _, port = str(address).removeprefix("ray://").rpartition(":")
    if not isinstance(address, str) or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(f"ray: expected auto, HOST:PORT or ray://HOST:PORT, got {address!r}")
    return address


def ray() -> Any:
    """Ray's module. Raises ConfigError, naming the extra, if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or a warning of what Ray is going to change
    try:
        import ray as module
    except ImportError:
        raise ConfigError("ray is not installed: pip install 'marl-system[ray]'") from None
    return module


@contextmanager
def joined(address: str = AUTO, cpus: int | None = None) -> Iterator[Any]:
    """Within it this process belongs to a Ray cluster; gives Ray's module.

    A process that belongs to one already stays there. Otherwise it joins the cluster at ``address``, and leaves it at
    the end; ``auto`` is the one that runs on this machine, or where none does, one that begins now, and ends with this.

    Args:
        address: ``auto``, ``HOST:PORT``, or ``ray://HOST:PORT`` of a cluster's client server; ``local`` begins one now,
            even if another runs on this machine.
        cpus: how many cores a cluster that begins now counts; None: as many as the machine has.

    Raises:
        ConfigError: if Ray is not installed, or the address is none.
        ResourceError: if nobody answers at the address.
    """
    check_address(address)
    module = ray()
    if module.is_initialized():
        yield module
        return
    _answers(address if address != AUTO else os.environ.get("RAY_ADDRESS", AUTO))
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place
    try:
        _enter(module, address, cpus)
    except Exception as error:  # of a node that does not start in time Ray says it by that class
        raise ResourceError(f"ray: no cluster at {address!r}: {_line(error)}") from None
    finally:
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    messages: Any = sys.modules["ray._private.worker"]
    messages._worker_logs_enabled = False  # or what Ray says of dead workers goes to stdout, as if it were our answer
    try:
        yield module
    finally:
        messages._worker_logs_enabled = True
        with contextlib.suppress(Exception):  # a cluster that is gone cannot be left
            module.shutdown()


def _enter(module: Any, address: str, cpus: int | None) -> None:
    """Join a cluster, or begin one. Raises ConnectionError where an address of the user's leads nowhere."""
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address != LOCAL:
        try:
            module.init(address=address, **quiet)
            return
        except ConnectionError:
            if address != AUTO or "RAY_ADDRESS" in os.environ:
                raise
    module.init(
        address=LOCAL,
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=STORE,
        _node_ip_address="127.0.0.1",
        **quiet,
    )


def _answers(address: str) -> None:
    """Raise unless somebody listens at ``HOST:PORT``: Ray itself would ask for two minutes, and tell each time."""
    if check_address(address) in (AUTO, LOCAL):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except OSError as error:
        raise ResourceError(f"ray: no cluster answers at {address!r}: {error}; is it up (ray status)?") from None


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

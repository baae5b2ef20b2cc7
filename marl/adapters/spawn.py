"""Fresh interpreters that do one thing and never outlive whoever started them.

They are started by ``subprocess``, not by ``multiprocessing``: the user's main module is not imported a second time, so
scripts need no ``__main__`` guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
BOOTSTRAP = (
    "import sys, json, os; "
    "sys.path[:] = json.loads(os.environ.pop('MARL_WORKER_PATH')); "
    "from {module} import {function}; "
    "{function}(*map(int, sys.argv[1:]))"
)


def spawn(module: str, function: str, fds: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start ``module.function(*fds, parent, from_main)`` in a process of its own. Raises OSError.

    It keeps the file descriptors ``fds``, has one thread for its numbers, reads nothing and prints to stderr only.
    """
    from_main = threading.current_thread() is threading.main_thread()
    environment = dict(os.environ, PYGAME_HIDE_SUPPORT_PROMPT="1", **dict.fromkeys(THREAD_VARIABLES, "1"))
    environment["MARL_WORKER_PATH"] = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
    program = BOOTSTRAP.format(module=module, function=function)
    return subprocess.Popen(
        # -P: nothing is imported from the current folder, not even json.
        [sys.executable, "-P", "-c", program, *map(str, (*fds, os.getpid(), int(from_main)))],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what it prints must not mix with what the parent prints
        pass_fds=tuple(fds),
        env=environment,
        process_group=0,  # Ctrl-C reaches the parent only, and a kill the process's own children
    )


def die_with(parent: int, from_main: bool) -> None:
    """Make sure this process does not outlive its parent, whatever it is doing.

    Linux does it by signal, but counts from the thread that started us, so only if that was the main thread. A thread
    that watches the parent's id covers the rest.
    """
    if from_main and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="marl-parent-watch", daemon=True).start()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it, and whatever it has started itself, at once."""
    process.kill()
    process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)

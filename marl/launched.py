"""Ranks do not outlive the torchrun that started them."""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE = 30.0  # seconds that a rank has to save, or to be told of the end


def end_with_launcher(first: bool) -> None:
    """End, as preempted, once the process that started this one is gone: nobody else would end this rank then.

    ``first``: whether this is rank 0, which saves and lets the others go. One that still waits for them is not heard,
    and ends with the others.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        if first:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    if hasattr(signal, "SIGKILL"):  # elsewhere a parent's id stays when it has ended
        threading.Thread(target=watch, name="marl-launcher-watch", daemon=True).start()

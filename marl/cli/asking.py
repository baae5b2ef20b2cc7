"""A callback that asks another process after each evaluation whether to go on."""

from __future__ import annotations

import socket
from typing import Any, TextIO

from marl.callbacks import Callback, Training
from marl.cli.cell_process import EVALUATED, GO_ON, STOP


class Asking(Callback):
    """Tells how a run was evaluated, and does what the answer says.

    STOP ends the run for good, with the reason behind it. Anything else than GO_ON, also if nobody is there any more,
    ends it so that it can be gone on with. What is trained does not depend on being asked.
    """

    def __init__(self, channel: socket.socket, answers: TextIO) -> None:
        """``channel``: evaluations go out there. ``answers``: come in as lines of this."""
        self._channel, self._answers = channel, answers

    def on_evaluation(self, training: Training, report: Any) -> None:
        """Ask, and wait for the answer."""
        try:
            self._channel.sendall(f"{EVALUATED} {training.steps} {report.mean_return!r}\n".encode())
            verdict = self._answers.readline().strip()
        except OSError:
            verdict = ""
        if verdict.startswith(STOP):
            training.stop(verdict.removeprefix(STOP).strip() or "it was told to")
        elif verdict != GO_ON:
            training.stop()

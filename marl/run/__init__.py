"""Run folders: what was asked, every metric, checkpoints that survive crashes, and how it ended.

    RUN/config.json      what was asked and what it came to, versions, seed
    RUN/metrics.jsonl    one row of metrics a line
    RUN/checkpoints/     ``step-N`` directories; ``last`` and ``best`` point at two of them, ``best.json`` says why
    RUN/summary.json     how it ended
    RUN/run.lock         who is writing here now

A :class:`Run` is a watcher of :meth:`marl.MultiAgentSystem.train`: it logs, saves, and ends the training on a signal.
``train(run_dir=...)`` makes one.
"""

from __future__ import annotations

from marl.run.folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    SUMMARY,
    candidates,
    check_folder,
    checkpoints,
    first_valid,
    read_best,
)
from marl.run.session import counts, ended_by_callback, failure, interrupted, session, train_in
from marl.run.writer import Run

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "METRICS",
    "SUMMARY",
    "Run",
    "candidates",
    "check_folder",
    "checkpoints",
    "counts",
    "ended_by_callback",
    "failure",
    "first_valid",
    "interrupted",
    "read_best",
    "session",
    "train_in",
]

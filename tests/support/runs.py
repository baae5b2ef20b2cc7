"""Run folders as ``marl train`` writes them, made without training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import marl
from marl.config import described
from marl.learners import LearnerConfig


def run_folder(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    task: str = "spread",
    learner: LearnerConfig | None = None,
    algorithm: str | None = None,
    summary: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run's ``config.json`` and ``metrics.jsonl``, and its ``summary.json`` if it ended."""
    path.mkdir(parents=True)
    learner = learner if learner is not None else marl.ippo()
    assert dataclasses.is_dataclass(learner)
    said = {"name": task, "env": "marl/spread-v0", "learner": described(learner), "seed": seed, **settings}
    config = {"asked": {"algorithm": algorithm}, "scenario": task, "set": [], "settings": said, "tunable": {}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary is not None:
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def learning(*values: float | None, every: int = 100, metric: str = "evaluation_return") -> list[dict[str, Any]]:
    """Rows of one metric, and of returns in training that are always 0."""
    return [{"steps": every * (n + 1), "mean_return": 0.0, metric: value} for n, value in enumerate(values)]

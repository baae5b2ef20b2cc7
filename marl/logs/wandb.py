"""Metrics to Weights & Biases (extra ``wandb``)."""

from __future__ import annotations

import importlib  # the package of this file's name
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from marl.config import finite
from marl.logs.files import read_word, replace_file
from marl.logs.logger import LoggedRun, Sink
from marl.types import ConfigError

LONGEST_ID = 64  # bytes of a file with the id of a run there


@dataclass(frozen=True)
class WandB:
    """Weights & Biases: each metric over environment steps, with the run's settings as its config (extra ``wandb``).

    A run folder remembers the id of the run there, so that a resumed run goes on with the same one.

    Args:
        project: the project there.
        name: of the run; None: that of the run's folder, or of the environment.
        entity: whose project it is; None: as ``wandb`` is set up.
        mode: ``"online"``, ``"offline"`` (``wandb sync`` sends it later) or ``"disabled"``; None: as ``wandb`` is set
            up, by ``WANDB_MODE`` for example.
        folder: where ``wandb`` keeps its files; None: ``wandb`` in the run's folder, else in the current one.
    """

    project: str = "marl"
    name: str | None = None
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] | None = None
    folder: str | Path | None = None

    def build(self, run: LoggedRun) -> Sink:
        """Begin a run there, or go on with it. Raises ConfigError where it cannot be begun."""
        try:
            wandb: Any = importlib.import_module("wandb")
        except ImportError:
            raise ConfigError("wandb is not installed: pip install 'marl-system[wandb]'") from None
        folder = Path(self.folder) if self.folder is not None else run.folder
        known = None if folder is None else folder / "wandb" / "run-id"
        own = read_word(known, LONGEST_ID) if known is not None and run.resumed_at is not None else None
        if folder is not None:
            (folder / "wandb").mkdir(parents=True, exist_ok=True)
        name = self.name or (run.name if run.folder is None else run.folder.name)
        try:
            there = wandb.init(
                project=self.project, entity=self.entity, name=name, mode=self.mode, id=own,
                resume=None if own is None else "allow", config=finite(run.settings),
                dir=None if folder is None else str(folder), reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )  # fmt: skip
        except Exception as error:
            said = " ".join(str(error).split())
            raise ConfigError(f"WandB: the run could not be begun there ({said:.300}); try mode='offline'") from error
        there.define_metric("*", step_metric="steps")  # a resumed run may go back: a step of wandb's own never does
        if known is not None:
            replace_file(known, str(there.id).encode()[:LONGEST_ID])
        return Sent(there)


class Sent:
    """Hands rows to a run of ``wandb``."""

    def __init__(self, run: Any) -> None:
        """``run``: what ``wandb.init`` returned."""
        self._run = run

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row; numbers that are not finite are left out."""
        self._run.log({name: value for name, value in metrics.items() if math.isfinite(value)})

    def tick(self, steps: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """The run is over there too."""
        self._run.finish()

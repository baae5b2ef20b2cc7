"""Metrics to MLflow (extra ``mlflow``)."""

from __future__ import annotations

import importlib  # the package of this file's name
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from marl.config import finite
from marl.logs.files import read_word, replace_file
from marl.logs.logger import LoggedRun, Sink
from marl.types import ConfigError

LONGEST_ID, LONGEST_VALUE = 64, 500  # characters of a run's id; of a parameter, as every version of MLflow takes it
MOST_AT_ONCE = 100  # parameters of one call


@dataclass(frozen=True)
class MLflow:
    """MLflow: each metric over environment steps, with the run's settings as its parameters (extra ``mlflow``).

    A run folder remembers the id of the run there, so that a resumed run goes on with the same one.

    Args:
        experiment: the experiment there; it is made if there is none.
        name: of the run; None: that of the run's folder, or of the environment.
        uri: the tracking server, or another place that MLflow knows; None: as MLflow is set up, by
            ``MLFLOW_TRACKING_URI`` for example.
    """

    experiment: str = "marl"
    name: str | None = None
    uri: str | None = None

    def build(self, run: LoggedRun) -> Sink:
        """Begin a run there, or go on with it. Raises ConfigError where it cannot be begun."""
        try:
            client: Any = importlib.import_module("mlflow.tracking").MlflowClient
            entities: Any = importlib.import_module("mlflow.entities")
        except ImportError:
            raise ConfigError("MLflow is not installed: pip install 'marl-system[mlflow]'") from None
        known = None if run.folder is None else run.folder / "mlflow" / "run-id"
        own = read_word(known, LONGEST_ID) if known is not None and run.resumed_at is not None else None
        try:
            there = client(tracking_uri=self.uri)
            if own is None:
                own = self._new_run(there, entities, run)
            else:
                there.update_run(own, status="RUNNING")
        except Exception as error:
            said = " ".join(str(error).split())
            raise ConfigError(
                f"MLflow: the run could not be begun there ({said:.300}); say where: MLflow(uri='http://...'), or "
                "MLFLOW_TRACKING_URI"
            ) from error
        if known is not None:
            known.parent.mkdir(parents=True, exist_ok=True)
            replace_file(known, own.encode()[:LONGEST_ID])
        return Sent(there, entities, own)

    def _new_run(self, there: Any, entities: Any, run: LoggedRun) -> str:
        """Begin a run; returns its id there."""
        found = there.get_experiment_by_name(self.experiment)
        experiment = there.create_experiment(self.experiment) if found is None else found.experiment_id
        name = self.name or (run.name if run.folder is None else run.folder.name)
        own = str(there.create_run(experiment, run_name=name).info.run_id)
        said = [entities.Param(key, value[:LONGEST_VALUE]) for key, value in _flat(finite(run.settings))]
        for first in range(0, len(said), MOST_AT_ONCE):
            there.log_batch(own, params=said[first : first + MOST_AT_ONCE])
        return own


class Sent:
    """Hands rows to a run of MLflow."""

    def __init__(self, there: Any, entities: Any, own: str) -> None:
        """``there``: the client; ``own``: the run's id."""
        self._there, self._entities, self._own = there, entities, own

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row; numbers that are not finite are left out."""
        now, step = int(1_000 * time.time()), int(metrics["steps"])
        row = [
            self._entities.Metric(_key(name), float(value), now, step)
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        self._there.log_batch(self._own, metrics=row)

    def tick(self, steps: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """The run is over there too."""
        self._there.set_terminated(self._own)


def _flat(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of settings by the way to them, ``tunable.steps``; lists as JSON."""
    if isinstance(tree, Mapping):
        for name, item in tree.items():
            yield from _flat(item, f"{key}.{_key(name)}" if key else _key(name))
    else:
        yield key, tree if isinstance(tree, str) else json.dumps(tree)


def _key(name: str) -> str:
    """A name that MLflow takes: letters, digits, and ``_ - . /`` and blanks."""
    return re.sub(r"[^\w./ -]", "_", name)

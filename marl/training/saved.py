"""Saved systems: the contents of a checkpoint, and the arguments that replace parts of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marl import checkpoint, received
from marl.config import differences, to_json
from marl.scenario import Scenario, resolve_scenario
from marl.setup import NUMBER, Setup, saved_as
from marl.spec_json import spec_from_json
from marl.training.state import TrainingState
from marl.types import CheckpointError, ResourceError, Spec

NOWHERE = object()  # in place of an environment: policies are wanted and nothing else


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read, its setup with what was given in place of what was saved.

    where: the checkpoint in words.
    reference: what the environment was named when it was saved.
    lost: a part of the setup that holds code and was not given again.
    """

    where: str
    setup: Setup
    scenario: Scenario | None
    reference: str | None
    spec: Spec
    state: Mapping[str, Any]
    meta: Mapping[str, Any]
    lost: str | None

    @contextmanager
    def building(self) -> Iterator[None]:
        """Turn errors while learners are built into a CheckpointError."""
        with received.explained(self.where):
            try:
                yield
            except ResourceError as error:
                raise CheckpointError(f"{self.where}: {error}") from error

    def restore(self, training: TrainingState) -> None:
        """Go on from the saved state. Whatever goes wrong there is the checkpoint's. Raises CheckpointError."""
        try:
            training.load_state_dict(self.state)
        except Exception as error:
            other = differences(self.meta["agents"], to_json(self.setup.agents, code=True))
            reason = f"trained -> given: {'; '.join(other[:4])}" if other else " ".join(str(error).split())
            raise CheckpointError(f"{self.where} does not fit its settings: {reason:.600}") from error
        training.lost = training.lost or self.lost


def read(path: str | Path, given: Setup, trust: bool) -> Saved:
    """Read a checkpoint; fields of ``given`` that are not None count instead of what was saved.

    Raises:
        CheckpointError: if it is damaged, or names what is not trusted.
    """
    state, manifest = checkpoint.load(path)
    where, env = f"checkpoint {path}", given.env
    meta = received.checked_meta(where, manifest["meta"], type(given))
    reference = None if env is NOWHERE else env if env is not None else meta["env"]
    if env is None and reference is not None and not trust:
        received.refuse_env(where, reference)
    scenario = resolve_scenario(reference) if reference is not None else None
    world = scenario.env if scenario is not None else reference
    if not trust:
        received.refuse_side_effects(where, received.side_effects(state.get("changed", {}), "changed"))
    given = replace(given, env=world)
    if env is NOWHERE:
        given = replace(given, env_kwargs={}, reset_options={})
    options = received.options(where, meta, scenario)
    said, lost = received.settings(where, meta | options, given, scenario, trust)
    numbers = {one.name: meta[one.name] for one in saved_as(type(given), NUMBER)}
    setup = replace(given, **said, **numbers, max_steps=options["max_steps"], on_bad_obs=options["on_bad_obs"])
    setup = setup.checked()
    with received.explained(where):
        spec = spec_from_json(meta["spec"])
        if given.agents is None:
            received.refuse_sizes(where, meta, spec, state.get("learners"))
    return Saved(where, setup, scenario, meta["env"], spec, state, meta, lost)

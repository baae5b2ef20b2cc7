"""A member of a population takes over the state of another one: checkpoints that are written beside, then moved."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from marl import checkpoint
from marl.logs import read_metrics
from marl.logs.files import read_json, sync_folder, write_json
from marl.run.folder import CHECKPOINTS, CONFIG, SUMMARY, checkpoints, read_best
from marl.studies.growth import NETWORK, grow_state, network_of
from marl.system import MultiAgentSystem

STREAMS = ("generator", "sampler")  # of learners: what is drawn where they act, and where they draw from memories


def write_copy(
    parent: Path, child: Path, out: Path, settings: Mapping[str, Any], seed: int, scenario: Any, device: str
) -> Path:
    """Write the checkpoint with which a member goes on as a copy of another one: all of its state, other settings.

    Parameters, optimizers, memories, normalizers, environments, schedules' clock and metrics are the parent's. Random
    streams of acting and of drawing from memories stay the child's own, so that the two do not act alike.

    Args:
        parent: run folder of the member that is copied.
        child: run folder of the member that goes on; neither is changed.
        out: a folder, where the checkpoint is written under the name that the parent's newest one has.
        settings: with which the copy goes on, by the names that :meth:`marl.MultiAgentSystem.change` takes; and the
            network, if it may grow.
        seed: of the child.
        scenario: of both.
        device: where the copy is made.

    Raises:
        ConfigError: if a setting may not change.
        CheckpointError: if a checkpoint is damaged.
        OSError: if the disk refuses.
    """
    source = checkpoints(parent)[0]
    meta = checkpoint.read_manifest(source)["meta"]
    with MultiAgentSystem.load(source, env=scenario, device=device) as system:
        for name, value in settings.items():
            if name != NETWORK:
                system.change(name, value)
        state = system.state_dict()
        network = settings.get(NETWORK)
        if network is not None and network != network_of(system):
            drawn = np.random.SeedSequence([seed, system.steps]).generate_state(1)
            state, agents = grow_state(system, state, network, int(drawn[0]))
            meta = meta | {"agents": agents}
    if own := checkpoints(child):
        before, _ = checkpoint.load(own[0])
        for team, learner in state["learners"].items():
            mine = before["learners"][team]
            learner.update({stream: mine[stream] for stream in STREAMS if stream in learner and stream in mine})
        state["torch_rng"] = before["torch_rng"]
    return checkpoint.save(out / source.name, state, meta | {"seed": seed})


def put_in_place(copy: Path, parent: Path, child: Path) -> None:
    """Move a checkpoint of :func:`write_copy` to where the child goes on from it. Repeated after a crash, it goes on.

    Raises:
        OSError: if the disk refuses.
    """
    folder = child / CHECKPOINTS
    target, replaced = folder / copy.name, folder / f".{copy.name}.replaced.tmp"  # which runs remove where it is left
    shutil.rmtree(replaced, ignore_errors=True)
    (child / SUMMARY).unlink(missing_ok=True)  # a copy of what goes on has not failed
    best = read_best(child)
    if best is not None and best["checkpoint"] == copy.name:
        write_json(folder / "best.json", best | {"value": evaluated(parent, 0) or best["value"]})
    if target.exists():
        os.rename(target, replaced)
    os.rename(copy, target)
    sync_folder(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def tell_network(run: Path, config: Mapping[str, Any]) -> None:
    """Let a run's config.json say which network the run has from now on. Repeated, it changes nothing.

    Args:
        run: the run folder.
        config: what its config.json would say if it had begun with that network.

    Raises:
        OSError: if the disk refuses.
    """
    stored = read_json(run / CONFIG)
    asked = {**stored["asked"], "set": config["asked"]["set"]}
    write_json(run / CONFIG, {**stored, "asked": asked, "set": config["set"], "settings": config["settings"]})


def evaluated(run: Path, after: int) -> float | None:
    """The return of a run's last evaluation behind a step; None: there is none."""
    rows = [row for row in read_metrics(run) if row.get("steps", 0) > after and "evaluation_return" in row]
    value = float(rows[-1]["evaluation_return"]) if rows else math.nan
    return value if math.isfinite(value) else None

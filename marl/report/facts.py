"""What a run folder says of its run, as plain values for a page; what it does not say is listed, too."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marl.config import today
from marl.logs.files import read_json
from marl.run.folder import CHECKPOINTS, CONFIG, LOCK, SUMMARY
from marl.studies.run_folders import RunFolder, flat
from marl.types import ConfigError

LONGEST, MOST = 300, 500  # characters of a text, and entries of a list
RESULTS = ("evaluation", "random")


def facts(run: RunFolder, name: str, label: str) -> dict[str, Any]:
    """Everything but the curves: status, evaluation, settings, versions, warnings, commands, what is missing.

    Args:
        run: the folder.
        name: what tells it from others.
        label: what runs of its settings are called.
    """
    missing: list[str] = []
    config = _read(run.path / CONFIG, missing)
    summary = _read(run.path / SUMMARY, missing)
    settings = config.get("settings")
    own = dict(flat(today(settings))) if isinstance(settings, dict) else run.settings
    said: dict[str, Any] = {
        "name": text(name),
        "label": text(label),
        "task": text(run.task),
        "algorithm": text(run.algorithm),
        "seed": run.seed,
        "status": text(_status(run.path, summary)),
        "settings": {text(key): text(_plain(value)) for key, value in list(own.items())[:MOST]},
        "versions": _texts(config.get("versions")),
        "commands": _commands(name, config),
        "warnings": [],
        "missing": missing,
    }
    for key in ("steps", "episodes", "seconds"):
        said[key] = number(summary.get(key))
    said["spent"] = _numbers(summary.get("spent"))
    for key in RESULTS:
        said[key] = _result(summary.get(key))
    if said["evaluation"] is None and summary:
        missing.append("there was no evaluation at the end")
    for key, words in (("error", "ended with an error"), ("notes", "note"), ("faults", "fault")):
        found = summary.get(key)
        if isinstance(found, Mapping):
            found = [f"{kind}: {_plain(how)}" for kind, how in found.items()]
        for one in found if isinstance(found, list) else [found] if found else []:
            said["warnings"].append(text(f"{words}: {_plain(one)}"))
    changes = config.get("changes")
    for one in changes[:MOST] if isinstance(changes, list) else ():
        said["warnings"].append(text(f"setting changed while training: {_plain(one)}"))
    return said


def text(value: str, longest: int = LONGEST) -> str:
    """A text that is not too long, without characters that turn the direction of what stands beside it."""
    plain = "".join(
        one if one.isprintable() else "\ufffd" if one not in "\n\t" else " " for one in value[: longest + 1]
    )
    return plain if len(plain) <= longest else f"{plain[: longest - 3]}..."


def number(value: object) -> float | None:
    """A number, or None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _read(file: Path, missing: list[str]) -> dict[str, Any]:
    """A file of the run; empty, and noted as missing, where it cannot be read."""
    if not file.exists():
        missing.append(f"there is no {file.name}")
        return {}
    try:
        return read_json(file)
    except ConfigError as error:
        missing.append(text(str(error).replace(str(file), file.name)))
        return {}


def _status(path: Path, summary: Mapping[str, Any]) -> str:
    if summary:
        return str(summary.get("status", "unknown"))
    if not (path / CONFIG).exists() and not (path / CHECKPOINTS).exists():
        return "not begun" if not path.exists() else "unknown"
    return "training, or ended without a summary" if (path / LOCK).exists() else "ended without a summary"


def _result(report: object) -> dict[str, Any] | None:
    """An evaluation's numbers."""
    if not isinstance(report, Mapping):
        return None
    interval = report.get("confidence_interval")
    pair = [number(one) for one in interval] if isinstance(interval, list) and len(interval) == 2 else [None, None]
    returns = report.get("returns")
    teams = report.get("teams")
    return {
        "episodes": number(report.get("episodes")),
        "mean_return": number(report.get("mean_return")),
        "interval": pair,
        "returns": [number(one) for one in returns[:MOST]] if isinstance(returns, list) else [],
        "agents": _numbers(report.get("returns_per_agent")),
        "teams": {
            text(str(name)): number(team.get("mean_return")) if isinstance(team, Mapping) else None
            for name, team in list(teams.items())[:MOST]
        }
        if isinstance(teams, Mapping)
        else {},
        "info": _numbers(report.get("info")),
    }


def _numbers(value: object) -> dict[str, float | None]:
    pairs = list(value.items())[:MOST] if isinstance(value, Mapping) else []
    return {text(str(name)): number(one) for name, one in pairs}


def _texts(value: object) -> dict[str, str]:
    pairs = list(value.items())[:MOST] if isinstance(value, Mapping) else []
    return {text(str(name)): text(_plain(one)) for name, one in pairs}


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _commands(name: str, config: Mapping[str, Any]) -> list[str]:
    """How the run is made again, and looked at."""
    scenario, settings, asked = config.get("scenario"), config.get("set"), config.get("asked")
    found = []
    if isinstance(scenario, str):
        words = ["marl train", shlex.quote(scenario)]
        algorithm = asked.get("algorithm") if isinstance(asked, Mapping) else None
        words += [f"--algorithm {shlex.quote(algorithm)}"] if isinstance(algorithm, str) else []
        own = config.get("settings")
        tunable = config.get("tunable")
        for option, where in (("seed", own), ("num_envs", own), ("steps", tunable), ("workers", tunable)):
            value = where.get(option) if isinstance(where, Mapping) else None
            words += [f"--{option.replace('_', '-')} {value}"] if type(value) is int else []
        said = settings if isinstance(settings, list) else []
        words += [f"--set {shlex.quote(one)}" for one in said if isinstance(one, str)]
        found.append(" ".join(words))
    return [text(one, 2000) for one in [*found, f"marl evaluate {shlex.quote(name)}"]]

"""What a run's newest checkpoint says of its league, for a page: ratings, who played whom, payoffs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marl import files
from marl.checkpoint import LARGEST_MANIFEST, MANIFEST, TREE
from marl.report.facts import MOST, number, text

LARGEST_TREE = 16 * 2**20  # bytes
MOST_PAYOFFS = 60  # members of a table's side


def league_of(checkpoint: Path) -> dict[str, Any] | None:
    """The league of a checkpoint as plain values; None where there is none, or where nothing can be read.

    Only numbers and names are taken from the checkpoint's JSON: no tensor is read, and nothing is built.
    """
    try:
        tree = json.loads(files.read(checkpoint / TREE, LARGEST_TREE))
        manifest = json.loads(files.read(checkpoint / MANIFEST, LARGEST_MANIFEST))
        found = tree["parts"]["league"]
        if not isinstance(found, dict):
            return None
        teams = [text(str(team["name"])) for team in manifest["meta"]["spec"]["teams"]]
        members = [_member(one, teams) for one in found["members"][:MOST]]
        learners = [number(rating[0]) for rating in found["ratings"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None  # a checkpoint of another version, or one that is no more
    return {
        "teams": [
            {"name": name, "rating": rating if rating is not None and math.isfinite(rating) else None}
            for name, rating in zip(teams, learners, strict=False)
        ],
        "members": members,
        "payoff": _payoffs(found, members),
    }


def _member(said: Mapping[str, Any], teams: list[str]) -> dict[str, Any]:
    games, wins = number(said["games"]), number(said["wins"])
    return {
        "uid": int(said["uid"]),
        "team": teams[int(said["place"])],
        "name": text(str(said["name"]), 120),
        "rating": number(said["rating"][0]),
        "games": games,
        "beaten": (wins + 0.5) / (games + 1.0) if games is not None and wins is not None and games >= 0 else None,
        "drawn": said["pooled"] is True,
    }


def _payoffs(found: Mapping[str, Any], members: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The table that PSRO fills: mean returns of the row's side against the column, and their standard errors."""
    paid, errors = found.get("paid"), found.get("errors")
    if not isinstance(paid, list) or not paid:
        return None
    names = {one["uid"]: f"{one['team']}, {one['name']}" for one in members}
    table = {(row[0], row[1]): number(row[2]) for row in paid if isinstance(row, list) and len(row) == 4}
    spread = {(row[0], row[1]): number(row[2]) for row in errors or [] if isinstance(row, list) and len(row) == 4}
    rows, columns = (sorted({pair[side] for pair in table if pair[side] in names})[:MOST_PAYOFFS] for side in (0, 1))
    return {
        "rows": [names[one] for one in rows],
        "columns": [names[one] for one in columns],
        "mean": [[table.get((one, other)) for other in columns] for one in rows],
        "errors": [[spread.get((one, other)) for other in columns] for one in rows],
    }

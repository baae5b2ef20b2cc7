"""Recorded episodes for a page: numbers rounded, marks as what changes, frames as PNG."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from marl.report.curves import short
from marl.report.facts import text
from marl.report.recording import TERMINATED, TRUNCATED, RecordedEpisode, Recording
from marl.types import Array

EPISODES = 20  # of a recording
BUDGET = 4_000_000  # bytes of the pictures of a recording
WIDEST_OBSERVATION = 100  # numbers
MOST_ROWS = 200_000  # numbers of an episode's observations or messages, beyond which they are left out


def replay(name: str, recording: Recording, most: int = EPISODES) -> dict[str, Any]:
    """A recording as plain values: at most so many of its episodes, the best, the median and the worst among them."""
    totals = [one.total for one in recording.episodes]
    order = sorted(range(len(totals)), key=lambda place: (totals[place], place))
    marked = {order[-1]: "best", order[0]: "worst", order[len(order) // 2]: "median"} if len(order) > 2 else {}
    rest = [place for place in range(len(totals)) if place not in marked]
    chosen = sorted([*marked, *rest][:most])
    episodes: list[dict[str, Any]] = []
    missing: list[str] = []
    room = float(BUDGET)
    for place in [*[one for one in marked if one in chosen], *[one for one in chosen if one not in marked]]:
        made = _episode(recording, recording.episodes[place], missing)
        room -= _size(made["pictures"])
        if room < 0 and episodes:
            missing.append("episodes whose pictures would make the page too large are left out")
            break
        episodes.append({"number": place, "rank": marked.get(place, ""), **made})
    if len(episodes) < len(totals):
        missing.append(f"{len(episodes):,} of {len(totals):,} episodes are shown")
    if not recording.pictures_are:
        missing.append("the environment gave no pictures")
    return {
        "name": text(name),
        "env": text(recording.env),
        "seed": recording.seed,
        "greedy": recording.greedy,
        "rate": recording.rate,
        "kind": recording.pictures_are,
        "teams": [{"name": text(team), "agents": list(map(text, who))} for team, who in recording.teams.items()],
        "scores_are": [recording.scores_are.get(agent, "") for agent in recording.agents],
        "texts": list(map(text, recording.texts)),
        "discounts": [recording.discounts.get(team) for team, who in recording.teams.items() for _ in who],
        "names": [_names(recording, agent) for agent in recording.agents],
        "against": text(", ".join(f"{team}: {who}" for team, who in recording.seats.items())),
        "mean_return": short(float(np.mean(totals))),
        "episodes": sorted(episodes, key=lambda one: one["number"]),
        "missing": list(dict.fromkeys(missing)),
    }


def _names(recording: Recording, agent: str) -> list[str] | None:
    """What the entries of an agent's observations are called; None where nobody says."""
    names = recording.names.get(agent)
    return None if names is None else [text(one, 60) for one in names[:WIDEST_OBSERVATION]]


def _episode(recording: Recording, episode: RecordedEpisode, missing: list[str]) -> dict[str, Any]:
    agents = recording.agents
    seen = {}
    for agent in agents:
        rows = episode.observations.get(agent)
        if rows is not None and rows.ndim == 2 and rows.shape[1] <= WIDEST_OBSERVATION and rows.size <= MOST_ROWS:
            seen[agent] = rows
    if len(seen) < len(agents):
        missing.append("observations that are no short vectors are left out")
    messages = []
    for team in recording.teams:
        said = episode.messages.get(team)
        if said is not None and said.size > MOST_ROWS:
            missing.append("long messages are left out")
        messages.append(None if said is None or said.size > MOST_ROWS else _rounded(said))
    return {
        "length": episode.length,
        "total": short(episode.total),
        "returns": [short(episode.returns[agent]) for agent in agents],
        "info": {text(name): short(value) for name, value in episode.info.items()},
        "actions": [_rounded(episode.actions[agent]) for agent in agents],
        "rewards": [_rounded(episode.rewards[agent], 6) for agent in agents],
        "acting": [episode.acting[agent].astype(int).tolist() for agent in agents],
        "ends": [episode.ends[agent].tolist() for agent in agents],
        "scores": [_rounded(episode.scores[agent], 3) if agent in episode.scores else None for agent in agents],
        "masks": [episode.masks[agent].astype(int).tolist() if agent in episode.masks else None for agent in agents],
        "observations": [_rounded(seen[agent], 3) if agent in seen else None for agent in agents],
        "messages": messages,
        **{name: _of(getattr(episode, name), recording.teams) for name in ("weights", "gates", "attention")},
        "values": _of(episode.values, agents),
        "shaping": _of(episode.shaping, agents),
        "outcome": _outcome(recording, episode),
        "pictures": _marks(episode.pictures) if recording.pictures_are == "marks" else _frames(episode.pictures),
    }


def _of(columns: Mapping[str, Array], who: Iterable[str]) -> list[Any]:
    """A column of everybody; None of those who have none."""
    return [_rounded(columns[one]) if one in columns else None for one in who]


def _outcome(recording: Recording, episode: RecordedEpisode) -> str:
    """How an episode ended, in words to choose by: who won, success, else whether it was cut off."""
    if "success" in episode.info:
        return "success" if episode.info["success"] > 0 else "no success"
    if len(recording.teams) == 2:
        one, other = (
            sum(episode.returns[agent] for agent in agents) / len(agents) for agents in recording.teams.values()
        )
        first, second = recording.teams
        return text("drawn" if one == other else f"{first if one > other else second} ahead")
    ends = {int(rows.max(initial=0)) for rows in episode.ends.values()}
    return "cut off" if TRUNCATED in ends else "terminated" if TERMINATED in ends else ""


def _rounded(array: Array, digits: int = 4) -> Any:
    """Nested lists with so many digits; None for what is not finite."""
    if array.dtype.kind != "f":
        return array.astype(int).tolist()
    if array.ndim > 1:
        return [_rounded(one, digits) for one in array]
    return [_plain(float(f"{one:.{digits}g}")) if math.isfinite(one) else None for one in array.tolist()]


def _plain(value: float) -> float | int:
    """Whole numbers as such: shorter in JSON."""
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _marks(pictures: Sequence[Array]) -> list[dict[str, Any]]:
    """Of each picture how many marks it has, and those that the one before had not in their place."""
    made, before = [], np.zeros((0, 8), dtype=np.float32)
    for marks in pictures:
        same = min(len(before), len(marks))
        new = [place for place in range(len(marks)) if place >= same or not np.array_equal(marks[place], before[place])]
        made.append({"n": len(marks), "new": [[place, *_mark(marks[place])] for place in new]})
        before = marks
    return made


def _mark(mark: Array) -> list[float | int | None]:
    places: list[float | int | None] = _rounded(mark[1:5], 4)
    return [int(mark[0]), *places, int(mark[5]), int(mark[6]), int(mark[7])]


def _frames(pictures: Sequence[Array]) -> list[str]:
    return [f"data:image/png;base64,{base64.b64encode(png(frame)).decode()}" for frame in pictures]


def _size(pictures: Sequence[Any]) -> int:
    return sum(len(one) if isinstance(one, str) else 12 + 40 * len(one["new"]) for one in pictures)


def png(frame: Array, level: int = 9) -> bytes:
    """A picture ``(H, W, 3)`` uint8 as PNG; ``level``: of compression, 1 to 9."""
    height, width, _ = frame.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each begins with its filter, 0
    rows[:, 1:] = frame.reshape(height, 3 * width)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")

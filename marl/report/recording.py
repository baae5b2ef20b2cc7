"""Episodes as data, and the file that holds them: arrays in a zip archive (npz), never pickled objects.

Format 1: ``header`` is JSON (UTF-8 bytes) with everything that is no array. All other entries are arrays in which the
episodes stand one after the other; ``lengths (E,)`` says how many steps each has. Of an episode with ``T`` steps an
array has ``T`` rows, ``observations`` and pictures have ``T + 1``.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from marl import files
from marl.logs.files import replace_file
from marl.report.drawing import COLUMNS
from marl.types import Array, ConfigError

FORMAT = 1
LARGEST_FILE, LARGEST = 2**30, 2**32  # bytes of a file, and of what is in it
MOST_EPISODES = 100_000
HEADER = "header"
RUNNING, TERMINATED, TRUNCATED = 0, 1, 2
COLUMNS_OF = (
    *("observations", "actions", "rewards", "acting", "ends", "masks", "scores", "values", "shaping"),
    *("messages", "weights", "gates", "attention"),
)
OF_TEAMS = ("messages", "weights", "gates", "attention")
HALVES = ("scores", "values", "attention", "gates")  # kept in half precision
DAMAGED = (  # what reading a file that means no good comes to
    *(ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError, EOFError),
)


@dataclass(frozen=True)
class RecordedEpisode:
    """One whole episode of ``T`` steps.

    Args:
        returns: raw return of every agent.
        length: ``T``.
        copy: of the environments that played side by side, this one.
        info: what the environment reported as the episode ended.
        observations: by agent, ``(T + 1, *O)``: what each step was acted on, and the true successor of the last one.
        actions: by agent, ``(T,)`` or ``(T, A)``, as the environment got them.
        rewards: by agent, ``(T,)``, unshaped.
        acting: by agent, ``(T,)`` bool: who was alive and had the move.
        ends: by agent, ``(T,)``: 1 where the agent terminated, 2 where it was truncated, else 0.
        masks: by agent, ``(T, L)`` bool, the legal actions; none where all are legal at all times.
        scores: by agent, ``(T, K)``: what the policy thought of each action (``Recording.scores_are`` says what they
            are); none of policies of which that is not known.
        values: by agent, ``(T,)``: the return that its critic expected then, or its best action's value: discounted,
            and of shaped rewards; none of learners whose critics do not say.
        shaping: by agent, ``(T,)``: what the hooks of training would have added to the reward; none without hooks.
        messages: by team that talks, ``(T, R, N, M)``: what ``R`` listeners (1 where all hear the same) heard of each.
        weights: likewise ``(T, N, N)``: how much each listener heard of each speaker; 0: nothing.
        gates: likewise ``(T, N)``: how loud each spoke, 0 where its gate was closed.
        attention: likewise ``(T, N, N)``: the share that each listener gave to each speaker, mean over heads; of
            channels with attention.
        pictures: ``T + 1`` arrays: marks ``(K, 8)`` or pixels ``(H, W, 3)``; none where nothing can be drawn.
    """

    returns: dict[str, float]
    length: int
    copy: int
    info: dict[str, float]
    observations: Mapping[str, Array]
    actions: Mapping[str, Array]
    rewards: Mapping[str, Array]
    acting: Mapping[str, Array]
    ends: Mapping[str, Array]
    masks: Mapping[str, Array] = field(default_factory=dict)
    scores: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    shaping: Mapping[str, Array] = field(default_factory=dict)
    messages: Mapping[str, Array] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)
    gates: Mapping[str, Array] = field(default_factory=dict)
    attention: Mapping[str, Array] = field(default_factory=dict)
    pictures: Sequence[Array] = ()

    @property
    def total(self) -> float:
        """The return, sum over agents."""
        return float(sum(self.returns.values()))


@dataclass(frozen=True)
class Recording:
    """Whole episodes of one system.

    Args:
        env: the environment's name.
        teams: names of the agents of every team.
        seed: ``system.evaluate(seed=...)`` with it plays the same episodes.
        greedy: whether agents took their most likely action.
        pictures_are: ``"marks"``, ``"frames"``, or ``""`` where there are none.
        rate: pictures per second.
        scores_are: by agent: ``"probabilities"`` or ``"values"``.
        texts: names and words that marks refer to by their place.
        episodes: in the order of ``evaluate``'s returns.
        discounts: by team, of its values; none where nobody knows.
        names: by agent, what the entries of its observation vector are called; none where nobody says.
        seats: by team, who played it, where that was not the system's own team.
    """

    env: str
    teams: Mapping[str, tuple[str, ...]]
    seed: int
    greedy: bool
    pictures_are: str
    rate: float
    scores_are: Mapping[str, str]
    texts: tuple[str, ...]
    episodes: tuple[RecordedEpisode, ...]
    discounts: Mapping[str, float] = field(default_factory=dict)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seats: Mapping[str, str] = field(default_factory=dict)

    @property
    def agents(self) -> tuple[str, ...]:
        """All agents, team by team."""
        return tuple(agent for agents in self.teams.values() for agent in agents)

    def __repr__(self) -> str:
        """What was played."""
        steps = sum(episode.length for episode in self.episodes)
        return f"<Recording of {self.env}: {len(self.episodes):,} episodes, {steps:,} steps>"

    # --- the file -----------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The file's contents."""
        arrays: dict[str, Array] = {"lengths": np.array([one.length for one in self.episodes], dtype=np.int64)}
        for name in COLUMNS_OF:
            parts = [getattr(episode, name) for episode in self.episodes]
            for place, who in enumerate(self.teams if name in OF_TEAMS else self.agents):
                if parts and all(who in part for part in parts):
                    arrays[f"{name}/{place}"] = _small(name, np.concatenate([part[who] for part in parts]))
        pictures = [picture for episode in self.episodes for picture in episode.pictures]
        if self.pictures_are == "marks":
            arrays["counts"] = np.array([len(picture) for picture in pictures], dtype=np.int32)
            arrays["marks"] = np.ascontiguousarray(np.concatenate(pictures).T)  # equal numbers side by side
        elif self.pictures_are == "frames":
            for place, episode in enumerate(self.episodes):
                arrays[f"frames/{place}"] = changes(episode.pictures)
        header = {
            "format": FORMAT,
            "env": self.env,
            "teams": {name: list(agents) for name, agents in self.teams.items()},
            "seed": self.seed,
            "greedy": self.greedy,
            "pictures_are": self.pictures_are,
            "rate": self.rate,
            "scores_are": dict(self.scores_are),
            "texts": list(self.texts),
            "discounts": dict(self.discounts),
            "names": {agent: list(names) for agent, names in self.names.items()},
            "seats": dict(self.seats),
            "episodes": [
                {"returns": one.returns, "copy": one.copy, "info": {k: str(v) for k, v in one.info.items()}}
                for one in self.episodes
            ],
        }
        arrays[HEADER] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, array in arrays.items():
                entry = io.BytesIO()
                np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue(), zipfile.ZIP_DEFLATED, 9)
        return out.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write it as a file. Raises OSError."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, self.to_bytes())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """A recording from a file, which may come from anybody. Raises ConfigError if it is damaged or none."""
        try:
            with zipfile.ZipFile(io.BytesIO(files.read(Path(path), LARGEST_FILE))) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                    raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
                arrays = {
                    name.removesuffix(".npy"): np.lib.format.read_array(
                        io.BytesIO(archive.read(name)), allow_pickle=False
                    )
                    for name in archive.namelist()
                }
            header = json.loads(arrays.pop(HEADER).tobytes())
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']!r:.20}; this version reads format {FORMAT}")
            return _unpacked(header, arrays)
        except OSError as error:
            raise ConfigError(f"recording {path}: cannot be read ({error.strerror or error})") from None
        except DAMAGED as error:
            raise ConfigError(f"recording {path}: is damaged, or no recording ({error!s:.200})") from None


def changes(frames: Sequence[Array]) -> Array:
    """Frames ``(T, H, W, 3)`` of which all but the first hold what has changed, modulo 256: mostly zeros."""
    whole = np.stack(frames)
    out: Array = np.concatenate([whole[:1], whole[1:] - whole[:-1]])
    return out


def frame_bytes(frames: Sequence[Array]) -> float:
    """Bytes that each further frame takes in a file, as the frames given here did."""
    moved = changes(frames)[1:]
    return len(zlib.compress(moved.tobytes(), 9)) / max(1, len(moved))


def _small(name: str, array: Array) -> Array:
    """The same numbers in fewer bytes; what was thought in half precision."""
    if name in HALVES:
        most = np.finfo(np.float16).max
        return np.clip(array, -most, most).astype(np.float16)
    if name == "actions" and array.dtype.kind == "i" and array.min(initial=0) >= 0:
        return array.astype(np.min_scalar_type(int(array.max(initial=0))))
    return array


def _unpacked(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Recording:
    """The recording of a file's contents. Raises ValueError and others where they make no sense."""
    teams = {str(name): tuple(str(agent) for agent in agents) for name, agents in header["teams"].items()}
    agents = [agent for names in teams.values() for agent in names]
    lengths = [int(one) for one in arrays["lengths"].reshape(-1)]
    said = header["episodes"]
    kind, texts = str(header["pictures_are"]), tuple(str(text) for text in header["texts"])
    if len(lengths) != len(said) or not 0 < len(lengths) <= MOST_EPISODES or min(lengths) < 1:
        raise ValueError("its lengths and its episodes do not fit")
    if kind not in ("", "marks", "frames"):
        raise ValueError(f"pictures are {kind!r:.20}")
    cuts = np.cumsum([0, *lengths]).tolist()

    def rows(name: str, who: Sequence[str], more: int = 0) -> list[dict[str, Array]]:
        found: list[dict[str, Array]] = [{} for _ in lengths]
        for place, one in enumerate(who):
            array = arrays.get(f"{name}/{place}")
            if array is None:
                continue
            if array.ndim < 1 or len(array) != cuts[-1] + more * len(lengths) or array.dtype.kind not in "biuf":
                raise ValueError(f"{name} of {one!r:.40} do not fit")
            for e in range(len(lengths)):
                found[e][one] = array[cuts[e] + e * more : cuts[e + 1] + (e + 1) * more]
        return found

    columns = {
        name: rows(name, list(teams) if name in OF_TEAMS else agents, int(name == "observations"))
        for name in COLUMNS_OF
    }
    if any(set(columns[name][0]) != set(agents) for name in ("actions", "rewards", "acting", "ends")):
        raise ValueError("actions or rewards of some agents are missing")
    pictures: list[Sequence[Array]] = [()] * len(lengths)
    if kind == "marks":
        marks = arrays["marks"].T
        counts = arrays["counts"].reshape(-1)
        if marks.ndim != 2 or marks.shape[1] != COLUMNS or counts.min(initial=0) < 0 or counts.sum() != len(marks):
            raise ValueError("its marks do not fit")
        if len(counts) != cuts[-1] + len(lengths) or not np.isin(marks[:, 7], np.arange(len(texts))).all():
            raise ValueError("its marks do not fit")
        each = np.split(marks, np.cumsum(counts)[:-1])
        pictures = [each[cuts[e] + e : cuts[e + 1] + e + 1] for e in range(len(lengths))]
    elif kind == "frames":
        for e in range(len(lengths)):
            moved = arrays[f"frames/{e}"]
            if moved.dtype != np.uint8 or moved.ndim != 4 or moved.shape[3] != 3 or len(moved) != lengths[e] + 1:
                raise ValueError("its frames do not fit")
            pictures[e] = list(np.cumsum(moved, axis=0, dtype=np.uint8))
    episodes = tuple(
        RecordedEpisode(
            returns={agent: float(said[e]["returns"][agent]) for agent in agents},
            length=lengths[e],
            copy=int(said[e]["copy"]),
            info={str(name): float(value) for name, value in said[e]["info"].items()},
            pictures=pictures[e],
            **{name: column[e] for name, column in columns.items()},
        )
        for e in range(len(lengths))
    )
    scores_are = {str(agent): str(kind) for agent, kind in header["scores_are"].items()}
    rate = float(header["rate"])
    if not 0 < rate <= 1000:
        raise ValueError("its rate makes no sense")
    said_names = {str(agent): tuple(str(one) for one in names) for agent, names in header.get("names", {}).items()}
    return Recording(
        str(header["env"]), teams, int(header["seed"]), bool(header["greedy"]), kind, rate, scores_are, texts, episodes,
        discounts={str(team): float(one) for team, one in header.get("discounts", {}).items()},
        names=said_names,
        seats={str(team): str(who) for team, who in header.get("seats", {}).items()},
    )  # fmt: skip

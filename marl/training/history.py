"""What training leaves behind: episodes, rows of metrics, and who looks on."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from marl.compiling import clock
from marl.config import unknown
from marl.notebook import html_table
from marl.ranks import Ranks
from marl.types import ConfigError, Episode, Episodes, Spec

if TYPE_CHECKING:
    import pandas

    from marl.training.curves import Curves

RECENT = 100  # episodes that means in metrics are over
MOST_NAMES = 64  # different names in infos that metrics follow


class Watcher(Protocol):
    """What may look on while a system trains: a run folder, a progress display."""

    def log(self, metrics: dict[str, float]) -> None:
        """Take in one row of metrics; ``metrics["steps"]`` says when."""
        ...

    def tick(self, system: Any) -> bool:
        """Called with the system after every step; save if it is time. True asks the run to end after this step."""
        ...


class History(dict[str, list[float]]):
    """Everything logged, a list per name, with ``episode_rewards`` (sum over agents) and ``episode_lengths``.

    Metrics come in rows, but not every row has each of them: :attr:`rows` has them as they came. ``notes`` has a line
    where the latest training learnt nothing, saying what to look at.
    """

    def __init__(self) -> None:
        """Empty."""
        super().__init__(episode_rewards=[], episode_lengths=[])
        self.places: dict[str, list[int]] = {}  # the number of the row that each value of a metric came in
        self.notes: list[str] = []

    def __missing__(self, name: str) -> list[float]:
        """Raise KeyError that names the nearest metric."""
        raise KeyError(unknown("history", name, sorted(self), "metric"))

    def add(self, metrics: Mapping[str, float]) -> None:
        """Append one row."""
        place = len(self.get("steps", ()))
        for name, value in metrics.items():
            self.setdefault(name, []).append(value)
            self.places.setdefault(name, []).append(place)

    @property
    def rows(self) -> list[dict[str, float]]:
        """Rows of metrics, as ``metrics.jsonl`` has them."""
        rows: list[dict[str, float]] = [{} for _ in self.get("steps", ())]
        for name, places in self.places.items():
            for place, value in zip(places, self[name], strict=True):
                if 0 <= place < len(rows):
                    rows[place][name] = value
        return rows

    @property
    def episodes(self) -> dict[str, list[float]]:
        """What was noted of every episode that ended: returns, of teams too, and lengths."""
        return {
            name: values for name, values in self.items() if name.startswith(("episode_rewards", "episode_lengths"))
        }

    def to_pandas(self, episodes: bool = False) -> pandas.DataFrame:
        """Rows of metrics as a table (extra ``notebook``), empty cells where a row lacks one.

        Args:
            episodes: a row for every episode that ended instead: returns and lengths.

        Raises:
            ConfigError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("pandas is not installed: pip install 'marl-system[notebook]'") from None
        return pandas.DataFrame(self.episodes if episodes else self.rows)

    def plot(self, *names: str) -> Curves:
        """Metrics over environment steps as a figure of matplotlib, which a notebook shows (extra ``plot``).

        Args:
            names: of metrics, a panel each; none: returns, of teams too, and evaluations.

        Raises:
            ConfigError: if there is no such metric, or matplotlib is not installed.
        """
        from marl.training.curves import curves

        return curves([("history", "training", self.rows)], names)

    def __repr__(self) -> str:
        """How much there is, and the latest return."""
        return f"<History: {self._words()}>"

    def _repr_html_(self) -> str:
        """The same with a table of metrics: how often logged, first, last."""
        found = [(name, len(self[name]), float(self[name][0]), float(self[name][-1])) for name in self.places]
        return html_table(self._words(), found, ("metric", "rows", "first", "last"))

    def _words(self) -> str:
        episodes, steps, returns = self["episode_lengths"], self.get("steps", ()), self.get("mean_return", ())
        words = [f"{len(episodes):,} episodes", f"{len(steps):,} rows of metrics"]
        words += [f"{int(steps[-1]):,} steps"] if steps else []
        words += [f"mean_return {returns[-1]:.2f}"] if returns else []
        return ", ".join(words)


class Rate:
    """Environment steps per second over a moving window, in which seconds of compilation do not count.

    The window reaches back to the last time that somebody asked, at least.
    """

    WINDOW = 30.0  # seconds
    MARKS = 64  # places where the window may begin

    def __init__(self, steps: int, clock: Callable[[], float] = clock) -> None:
        """``steps``: where it begins; ``clock``: gives seconds."""
        self._clock = clock
        self._marks = deque([(clock(), steps)])

    def __call__(self, steps: int) -> float:
        """At so many steps."""
        now, marks = self._clock(), self._marks
        while len(marks) > 1 and marks[1][0] <= now - self.WINDOW:
            marks.popleft()
        began, before = marks[0]
        if now - marks[-1][0] >= self.WINDOW / self.MARKS:
            marks.append((now, steps))
        return (steps - before) / max(now - began, 1e-9)


class EpisodeLog:
    """Returns and lengths of finished episodes, in the history, and what the latest of them reported."""

    def __init__(self, spec: Spec) -> None:
        """Nothing has ended yet."""
        self.spec = spec
        self.agents = [agent for team in spec.teams for agent in team.agents]
        self.history = History()
        self.episodes = 0
        self.held: list[tuple[int, Episode]] = []  # those that ended here, while other ranks' are not known
        self.said: dict[str, list[float]] = {}  # numbers in the infos of recent episodes, by name

    def record(self, finished: Sequence[Episode]) -> None:
        """Take in episodes; those of many copies without an object for each."""
        history = self.history
        self.episodes += len(finished)
        if isinstance(finished, Episodes):
            lengths, column = finished.lengths.tolist(), {agent: n for n, agent in enumerate(finished.agents)}
            returns = finished.returns[:, [column[agent] for agent in self.agents]]
        else:
            lengths = [episode.length for episode in finished]
            returns = np.array([[episode.returns[agent] for agent in self.agents] for episode in finished])
        history["episode_rewards"] += returns.sum(1).tolist()
        history["episode_lengths"] += lengths
        self._note_infos(finished)
        if len(self.spec.teams) > 1:
            start = 0
            for team in self.spec.teams:
                rewards = returns[:, start : start + team.num_agents].sum(1)
                history.setdefault(f"episode_rewards/{team.name}", []).extend(rewards.tolist())
                start += team.num_agents

    def exchange(self, ranks: Ranks) -> int:
        """Take in what ended in all ranks since the last call, in the order of one process; how many episodes."""
        mine = [(step, one.copy, one.length, list(one.returns.items()), one.info) for step, one in self.held]
        self.held = []
        found = [row for said in ranks.exchange(json.dumps(mine).encode()) for row in json.loads(said)]
        # By steps; within one, ranks and what each of them holds are in the order of copies already.
        found.sort(key=lambda row: int(row[0]))
        episodes = [Episode(copy, dict(returns), length, info) for _, copy, length, returns, info in found]
        if episodes:
            self.record(episodes)
        return len(episodes)

    def hold(self, step: int, finished: Sequence[Episode]) -> None:
        """Keep episodes that ended at a step until the next :meth:`exchange`."""
        self.held += [(step, episode) for episode in finished]

    def _note_infos(self, finished: Sequence[Episode]) -> None:
        said: dict[str, list[float]] = {}
        if isinstance(finished, Episodes):
            said = {name: values[-RECENT:].tolist() for name, values in finished.infos.items()}
        else:
            for episode in finished:
                for name, value in episode.info.items():
                    said.setdefault(name, []).append(value)
        for name, values in said.items():
            if not name.startswith("task/") and (name in self.said or len(self.said) < MOST_NAMES):
                self.said[name] = [*self.said.get(name, ()), *values][-RECENT:]

    def metrics(self) -> dict[str, float]:
        """Means over the latest episodes."""
        history, metrics = self.history, {}
        if history["episode_rewards"]:
            recent = history["episode_rewards"][-RECENT:]
            lengths = history["episode_lengths"][-RECENT:]
            metrics["mean_return"] = sum(recent) / len(recent)
            metrics["mean_length"] = sum(lengths) / len(lengths)
            if len(self.spec.teams) > 1:
                for team in self.spec.teams:
                    recent = history[f"episode_rewards/{team.name}"][-RECENT:]
                    metrics[f"{team.name}/mean_return"] = sum(recent) / len(recent)
        return metrics | {f"info/{name}": sum(values) / len(values) for name, values in self.said.items()}

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "episodes": self.episodes,
            "history": {name: np.asarray(values, dtype=np.float64) for name, values in self.history.items()},
            "places": {name: np.asarray(places, dtype=np.int64) for name, places in self.history.places.items()},
            "said": {name: np.asarray(values) for name, values in self.said.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.episodes = int(state["episodes"])
        self.history = History()
        self.history.update({name: values.tolist() for name, values in state["history"].items()})
        places = {name: found.tolist() for name, found in state.get("places", {}).items()}
        rows = len(self.history.get("steps", ()))
        for name, values in self.history.items():  # states of 0.1 do not say which row a value came in, unless all did
            if name not in self.history.episodes:
                missing = range(rows) if len(values) == rows else [-1] * len(values)
                self.history.places[name] = list(places.get(name, missing))
        self.said = {name: values.tolist() for name, values in state.get("said", {}).items()}

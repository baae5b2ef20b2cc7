"""Populations: members of a scenario that train side by side, copy the better ones and vary what they copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from marl import sources
from marl.config import check_whole, unknown
from marl.scenario import Scenario
from marl.studies.evolution import Exploit, Explore, Perturb, Truncation
from marl.studies.growth import Grow
from marl.studies.spaces import Space
from marl.studies.study import OWN, FoundStudy, Study, only
from marl.types import ConfigError

FITNESS = ("return", "rating")
# Seeds of what is drawn at the start, at comparisons, of games there, of networks that grow there.
START, STEP, GAMES, GROWTH = 0x5B70, 0x5B71, 0x5B72, 0x5B73
MOST_MEMBERS = 1_000


@dataclass(frozen=True, kw_only=True)
class Population:
    """Members of a scenario that train side by side; ``marl population run FILE`` trains them.

    Every ``every`` environment steps members are compared. Some copy the whole state of better ones (parameters,
    optimizer, replay, normalizers), and vary settings that they copied (Jaderberg et al. 2017,
    https://arxiv.org/abs/1711.09846).

    Args:
        name: what it is called.
        task: a scenario, or whatever ``marl train`` takes.
        spaces: where settings may lie, by the names that ``marl train --set`` takes; settings that may change while a
            system trains: ``{"learner.lr": marl.LogUniform(1e-5, 1e-2)}``.
        every: environment steps between two comparisons.
        algorithm: a name that ``marl train --algorithm`` takes, a learner, or learners by agents' patterns; ``"own"``:
            the scenario's own.
        members: how many.
        steps: environment steps of each; None: the scenario's.
        start: values that all members begin with, by setting; the others are drawn from their spaces.
        fitness: ``"return"``: the mean return of ``evaluate_episodes`` greedy episodes, the same for all.
            ``"rating"``: Elo of games between the members, for games of two sides, where returns sum to zero.
        exploit: who copies whom; None: nobody does.
        explore: how copies vary their settings; None: not at all.
        explore_all: members that are not replaced vary theirs too.
        grow: how networks of copies become larger; None: they do not.
        seed: of everything that is drawn here; member k trains with ``seed + k``.
        settings: ``KEY=VALUE`` for all members, as ``marl train --set`` takes them.
        evaluate_episodes: of each comparison by return.
        evaluate_seed: of these episodes, which no member trains on.
        games: of each pair and seating, of each comparison by rating.
        episodes: of the evaluation at the end, other ones.
        threads: of each member.
        device: where members compute.
        keep: newest checkpoints that a member keeps, beside its best.
        about: the question in words.

    Raises:
        ConfigError: for what makes no sense, naming the field.
    """

    name: str
    task: str | Scenario
    spaces: Mapping[str, Space]
    every: int
    algorithm: Any = OWN
    members: int = 8
    steps: int | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    fitness: Literal["return", "rating"] = "return"
    exploit: Exploit | None = field(default_factory=Truncation)
    explore: Explore | None = field(default_factory=Perturb)
    explore_all: bool = False
    grow: Grow | None = None
    seed: int = 0
    settings: Sequence[str] = ()
    evaluate_episodes: int = 20
    evaluate_seed: int = 0
    games: int = 20
    episodes: int = 100
    threads: int = 1
    device: str = "cpu"
    keep: int = 1
    about: str = ""

    def __post_init__(self) -> None:
        """Check it."""
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"population: name: expected a word, got {self.name!r}")
        where = f"population {self.name!r}"
        for name, least in (("every", 1), ("members", 2), ("seed", 0), ("games", 1)):
            check_whole(f"{where}: {name}", getattr(self, name), least)
        if self.members > MOST_MEMBERS:
            raise ConfigError(f"{where}: members: expected at most {MOST_MEMBERS:,}, got {self.members:,}")
        if self.fitness not in FITNESS:
            raise ConfigError(unknown(f"{where}: fitness", str(self.fitness), FITNESS, "fitness"))
        for name, kind, example in (("exploit", Exploit, "Truncation()"), ("explore", Explore, "Perturb()")):
            value = getattr(self, name)
            if value is not None and (isinstance(value, type) or not isinstance(value, kind)):
                raise ConfigError(f"{where}: {name}: expected None or one such as {example}, got {value!r:.80}")
        if self.grow is not None and not isinstance(self.grow, Grow):
            raise ConfigError(f"{where}: grow: expected None or marl.studies.Grow(), got {self.grow!r:.80}")
        if self.grow is not None and self.exploit is None:
            raise ConfigError(f"{where}: grow: copies grow, and with exploit=None nobody copies; leave one of them out")
        self._check_spaces(where)
        self.study()

    def _check_spaces(self, where: str) -> None:
        if not isinstance(self.spaces, Mapping) or not self.spaces:
            raise ConfigError(f"{where}: spaces: expected spaces by setting, got {self.spaces!r:.80}")
        for name, space in self.spaces.items():
            if isinstance(space, type) or not isinstance(space, Space):
                raise ConfigError(f"{where}: spaces[{name!r}]: expected a space, LogUniform(), got {space!r:.80}")
            if getattr(space, "given", None):
                raise ConfigError(f"{where}: spaces[{name!r}]: given: members vary all settings; leave it out")
        for name in self.start:
            if name not in self.spaces:
                raise ConfigError(unknown(f"{where}: start", name, self.spaces, "setting with a space"))

    def study(self) -> Study:
        """The members as cells of a study: one task, one algorithm, and a seed for each.

        Raises:
            ConfigError: for what a study would refuse.
        """
        names = ("name", "steps", "settings", "evaluate_episodes", "evaluate_seed", "episodes")
        plain = isinstance(self.algorithm, str)
        try:
            return Study(
                tasks=[self.task],
                algorithms=[self.algorithm] if plain else {"members": self.algorithm},
                seeds=[self.seed + member for member in range(self.members)],
                evaluate_every=self.every,
                **{name: getattr(self, name) for name in (*names, "threads", "device", "keep", "about")},
            )
        except ConfigError as error:
            raise ConfigError(str(error).replace("study", "population", 1)) from None

    def drawn(self) -> list[dict[str, Any]]:
        """The settings that every member begins with."""
        rng = np.random.default_rng([self.seed, START])
        found = []
        for _ in range(self.members):
            values = {name: space.sample(rng) for name, space in self.spaces.items()}
            found.append(values | dict(self.start))
        return found

    def stream(self, generation: int) -> np.random.Generator:
        """What a comparison draws from; the same however often it is repeated."""
        return np.random.default_rng([self.seed, STEP, generation])

    def growth_stream(self, generation: int) -> np.random.Generator:
        """What growing networks draw from at a comparison; apart, so that nothing else is drawn otherwise."""
        return np.random.default_rng([self.seed, GROWTH, generation])

    def __repr__(self) -> str:
        """Its name and its size."""
        varied = ", ".join(self.spaces)
        return f"<Population {self.name!r}: {self.members} members, {varied}, compared every {self.every:,} steps>"


@dataclass(frozen=True)
class FoundPopulation:
    """A population, and where it was found.

    Args:
        population: the population.
        study: its members as cells, and the names of its task.
    """

    population: Population
    study: FoundStudy


def find(reference: str) -> FoundPopulation:
    """A population by path to a ``.py`` file, or as ``FILE.py:NAME``.

    Raises:
        ConfigError: if there is none, or several.
    """
    file = sources.split(reference)
    if file is None:
        raise ConfigError(f"population {reference}: expected a file with one marl.Population: FILE.py or FILE.py:NAME")
    path, name = file
    module = sources.module_of(path)
    population = only(module, str(path), name, Population, "population")
    return FoundPopulation(population, FoundStudy(population.study(), module, str(path), path))

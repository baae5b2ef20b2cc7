"""Setups: everything that defines a training run, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from types import NoneType
from typing import Any

import torch

from marl.adapters.copies import BAD_OBS
from marl.adapters.resolve import is_instance
from marl.adapters.spoken import Spoken
from marl.adapters.tasks import Route, checked_route
from marl.channels import Channel
from marl.cluster import Actors, asked_actors
from marl.config import check_whole, described, to_json, unknown
from marl.curriculum.state import Curricula, checked_curricula
from marl.curriculum.tasks import Task
from marl.league import PSRO, Leagues, checked_league
from marl.learners import LearnerConfig
from marl.learners.base import channel_of
from marl.shaping.shaper import Hooks, checked_hooks
from marl.teams import team_named
from marl.types import ConfigError, Spec

DEFAULT_COPIES = 8
Agents = LearnerConfig | Mapping[str, LearnerConfig]
SETTINGS, OPTION, NUMBER = "settings", "option", "number"  # how a field is written into a checkpoint
OWN, BASE, BOTH = "own", "base", "both"  # what counts over a scenario: what was given, the scenario's, both mappings
WHOLE, INSIDE, FILE = "whole", "inside", "file"  # what --set may say: all of a field, fields of it, nothing


def says(
    *,
    saved: str | None = SETTINGS,
    kinds: tuple[type, ...] = (dict, NoneType),
    merge: str = OWN,
    told: str = INSIDE,
    same: bool = True,
    plays: bool = False,
    called: str = "",
) -> dict[str, Any]:
    """All that anything else needs to know of a field of a setup; an optional feature says nothing.

    Args:
        saved: how it is written into a checkpoint: SETTINGS, an environment's OPTION, a NUMBER, or not at all.
        kinds: what SETTINGS may be as JSON.
        merge: what counts over a scenario: OWN, BASE or BOTH.
        told: what the command line's ``--set`` may say of it: WHOLE, INSIDE or nothing (FILE).
        same: whether it is the same run only where this is equal.
        plays: whether nothing can even be played without it.
        called: its name in a run's config.json; empty: the field's.
    """
    return {
        "saved": saved, "kinds": kinds, "merge": merge, "told": told, "same": same, "plays": plays, "called": called,
    }  # fmt: skip


def saved_as(cls: type[Setup], how: str) -> list[Field[Any]]:
    """The fields that are written into a checkpoint in this way."""
    return [one for one in fields(cls) if one.metadata.get("saved") == how]


@dataclass(frozen=True, kw_only=True)
class Features:
    """What setups and scenarios may have beside an environment and learners. A new feature is a field here.

    Its value is a settings class; if it acts in the training loop, it is a :class:`marl.training.parts.MakesPart`.
    """

    max_steps: int | None = field(default=None, metadata=says(saved=OPTION, told=WHOLE))
    on_bad_obs: str | None = field(default=None, metadata=says(saved=OPTION, told=WHOLE))
    curriculum: Curricula | None = field(default=None, metadata=says())
    league: Leagues | None = field(default=None, metadata=says())
    channel: Spoken | None = field(default=None, metadata=says(plays=True))
    tasks: Route | None = field(default=None, metadata=says(told=WHOLE))
    reset_options: Mapping[str, Any] | None = field(default=None, metadata=says(saved=OPTION, merge=BOTH, told=WHOLE))


@dataclass(frozen=True, kw_only=True)
class Setup(Features):
    """Everything that defines a training run. None: the scenario's value, else the default.

    Args:
        agents: one learner for all agents, or a mapping from agent id patterns to learners (one team each).
        env: an id, a factory, an instance; a scenario until :meth:`over` has put its environment here.
        env_kwargs: keywords for the environment; a scenario's others stay.
        num_envs: copies that train side by side.
        workers: processes that the copies are spread over.
        ray: a Ray cluster whose actors the copies are spread over instead: ``"auto"`` or its address.
        actors: how many of these.
        staleness: these hold the policy as well and collect fragments with one at most so many updates behind.
        max_steps: truncate episodes of environments that do not end by themselves.
        on_bad_obs: what to do about observations outside their space: ``"error"``, ``"cast"``, ``"clip"``, ``"drop"``.
        seed: everything random derives from it.
        device: where to compute.
        shaping: hooks that change what agents are paid for learning.
        curriculum: what chooses the task of each copy's next episode.
        league: whom learners play against.
        channel: messages as actions.
        tasks: how the curriculum's tasks reach the environment.
        reset_options: options of every reset of the environment; a scenario's others stay.
        parts: further parts of the training loop, :class:`marl.training.Part`.
    """

    agents: Agents | None = field(default=None, metadata=says(told=FILE, plays=True, called="learner"))
    env: Any = field(default=None, metadata=says(saved=None, merge=BASE, told=FILE))
    env_kwargs: Mapping[str, Any] | None = field(default=None, metadata=says(saved=OPTION, merge=BOTH, told=WHOLE))
    num_envs: int | None = field(default=None, metadata=says(saved=NUMBER, told=WHOLE))
    workers: int | None = field(default=None, metadata=says(saved=NUMBER, told=WHOLE, same=False))
    ray: str | None = field(default=None, metadata=says(saved=None, told=FILE, same=False))
    actors: int | None = field(default=None, metadata=says(saved=None, told=FILE, same=False))
    staleness: int | None = field(default=None, metadata=says(saved=None, told=FILE, same=False))
    seed: int = field(default=0, metadata=says(saved=NUMBER, told=WHOLE))
    device: str = field(default="cpu", metadata=says(saved=None, told=WHOLE, same=False))
    shaping: Hooks | None = field(default=None, metadata=says(kinds=(dict, list, NoneType), told=FILE))
    parts: Sequence[Any] = field(default=(), metadata=says(saved=None, told=FILE, same=False))

    def over(self, base: Features | None) -> Setup:
        """These settings, filled up with those of ``base``; its environment and both's keywords. Raises ConfigError."""
        if self.workers and self.actors:
            raise ConfigError(f"copies are stepped by workers={self.workers} or by actors={self.actors}; leave one out")
        if base is None:
            return self
        merged: dict[str, Any] = {}
        for one in fields(self):
            own, other = getattr(self, one.name), getattr(base, one.name, None)
            match one.metadata["merge"]:
                case "base":
                    merged[one.name] = other
                case "both":
                    merged[one.name] = {**(other or {}), **(own or {})}
                case _:
                    merged[one.name] = other if own is None else own
        return replace(self, **merged)

    def checked(self) -> Setup:
        """The setup with every value checked and in its normal form. Raises ConfigError for invalid combinations."""
        if self.agents is None:
            raise ConfigError("agents: give a learner such as marl.ippo(), or a scenario that names its own")
        pick_device(self.device)
        on_ray = asked_actors(self.ray, self.actors, self.staleness)
        channel = checked_spoken(self.channel)
        source = self.env if channel is None or self.env is None else channel.source(self.env)
        copies = self.num_envs if self.num_envs is not None else (1 if is_instance(source) else DEFAULT_COPIES)
        return replace(
            self,
            seed=check_whole("seed", self.seed, 0),
            agents=checked_agents(self.agents),
            shaping=checked_hooks(self.shaping or ()),
            curriculum=None if self.curriculum is None else checked_curricula(self.curriculum, None),
            league=checked_league(self.league),
            channel=channel,
            tasks=checked_route(self.tasks),
            reset_options=checked_options(self.reset_options),
            env_kwargs=dict(self.env_kwargs or {}) or None,
            max_steps=None if self.max_steps is None else check_whole("max_steps", self.max_steps, 1),
            on_bad_obs=checked_on_bad_obs(self.on_bad_obs),
            num_envs=check_whole("num_envs", copies, 1),
            workers=check_whole("workers", self.workers or 0, 0),
            actors=None if on_ray is None else on_ray.count,
            parts=tuple(self.parts),
        )

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; what only its author can make again is marked as code."""
        saved: dict[str, Any] = {"options": self.options_json()}
        saved |= {one.name: to_json(getattr(self, one.name), code=True) for one in saved_as(type(self), SETTINGS)}
        return saved | {one.name: getattr(self, one.name) for one in saved_as(type(self), NUMBER)}

    def options_json(self) -> dict[str, Any]:
        """What the environment is made with, likewise."""
        return {name: to_json(value, code=True) for name, value in self.options.items()}

    def identity(self) -> dict[str, Any]:
        """What a run folder must hold the same of to be the same run, as JSON that people can read."""
        said = {}
        for one in fields(self):
            if one.metadata["same"]:
                value = getattr(self, one.name)
                said[one.metadata["called"] or one.name] = None if value == () else described(value)
        return said

    def check_training(self, steps: int | None, stops: bool) -> None:
        """Refuse a training until so many steps, or with a rule that ``stops`` it. Raises ConfigError."""
        if self.curriculum is not None:
            if stops:
                raise ConfigError("stop: training episodes are of whatever task a curriculum chose; leave stop out")
            checked_curricula(self.curriculum, steps)

    def plays_apart(self) -> list[tuple[str, bool]]:
        """Features that may need environments beside those that train, and whether this setup has them."""
        return [("PSRO", isinstance(self.league, PSRO))]

    @property
    def on_actors(self) -> Actors | None:
        """The actors that step the copies; None: workers do, or this process."""
        return None if self.ray is None or self.actors is None else Actors(self.actors, self.ray, self.staleness)

    @property
    def configs(self) -> list[LearnerConfig]:
        """The settings of each team's learner."""
        if self.agents is None:
            return []
        return list(self.agents.values()) if isinstance(self.agents, Mapping) else [self.agents]

    @property
    def patterns(self) -> list[str] | None:
        """The patterns that make the teams."""
        return list(self.agents) if isinstance(self.agents, Mapping) else None

    @property
    def channels(self) -> list[Channel | None]:
        """The channel of each team; None where nobody talks."""
        return [channel_of(config) for config in self.configs]

    def place_of(self, team: str, spec: Spec, what: str) -> int:
        """The place of the team that a name or a pattern means. Raises ConfigError, in which ``what`` names it."""
        name = team_named(team, spec, self.patterns, what)
        return [one.name for one in spec.teams].index(name)

    @property
    def options(self) -> dict[str, Any]:
        """What the environment is made with."""
        return {one.name: getattr(self, one.name) for one in saved_as(type(self), OPTION)}

    @property
    def target(self) -> Task:
        """The tasks that evaluation plays: those of the curriculum's target. Empty: the world's defaults."""
        curricula = self.curriculum.values() if isinstance(self.curriculum, Mapping) else [self.curriculum]
        return {name: value for one in curricula if one is not None for name, value in one.target.items()}


def checked_on_bad_obs(value: Any) -> str | None:
    """What to do about bad observations, or None. Raises ConfigError, naming what there is."""
    if value is not None and value not in BAD_OBS:
        raise ConfigError(unknown("on_bad_obs", str(value), BAD_OBS, "value"))
    return None if value is None else str(value)


def checked_spoken(channel: Any) -> Spoken | None:
    """Messages as actions, or none. Raises ConfigError for anything else."""
    if channel is None or isinstance(channel, Spoken):
        return channel
    learned = isinstance(channel, Channel)
    hint = "; learned messages are a learner's: marl.ippo(channel=...)" if learned else ""
    raise ConfigError(f"channel: expected marl.Spoken(words=4) or None, got {channel!r}{hint}")


def checked_options(options: Any) -> dict[str, Any] | None:
    """Options of every reset, or None if there are none. Raises ConfigError for anything but a mapping."""
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"reset_options: expected a mapping such as {{'level': 3}}, got {options!r:.80}")
    return dict(options or {}) or None


def pick_device(name: str) -> torch.device:
    """A device by name; ``auto`` takes a GPU where there is one. Raises ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: {name!r} is no torch device; use 'cpu', 'cuda' or 'auto'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r} is not available here; use device='cpu' or 'auto'")
    return device


def checked_agents(agents: Any) -> Agents:
    """Learners, in a dict where there are several. Raises ConfigError for anything else."""
    values = list(agents.values()) if isinstance(agents, Mapping) else [agents]
    if not values:
        raise ConfigError(
            "agents: expected a learner or a mapping from agent patterns to learners, got an empty mapping"
        )
    for value in values:
        if isinstance(value, type) or not isinstance(value, LearnerConfig):
            raise ConfigError(f"agents: expected a learner such as marl.ippo(), with its brackets, got {value!r}")
    return dict(agents) if isinstance(agents, Mapping) else values[0]

"""Setups: everything that defines a training run, as data."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from marl import received
from marl.adapters.resolve import is_instance
from marl.adapters.spoken import Spoken
from marl.channels import Channel
from marl.config import check_whole, to_json
from marl.curriculum.state import Curricula
from marl.curriculum.state import checked as checked_curricula
from marl.league import PSRO, Leagues
from marl.league import checked as checked_league
from marl.learners import LearnerConfig
from marl.scenario import Scenario, find, names
from marl.shaping.shaper import Hooks
from marl.shaping.shaper import checked as checked_hooks
from marl.types import ConfigError

DEFAULT_COPIES = 8
Agents = LearnerConfig | Mapping[str, LearnerConfig]
SETTINGS, OPTION, NUMBER = "settings", "option", "number"  # how a field is written into a checkpoint


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What :class:`~marl.MultiAgentSystem` is given. None: the scenario's, else the default.

    Args:
        agents: one learner for all agents, or a mapping from agent id patterns to learners (one team each).
        env: an id, a factory, an instance; a scenario until :meth:`over` has put its environment here.
        env_kwargs: keywords for the environment; a scenario's others stay.
        num_envs: copies that train side by side.
        workers: processes that the copies are spread over.
        max_steps: truncate episodes of environments that do not end by themselves.
        seed: everything random derives from it.
        device: where to compute.
        shaping: hooks that change what agents are paid for learning.
        curriculum: what chooses the task of each copy's next episode.
        league: whom learners play against.
        channel: messages as actions.
        parts: further parts of the training loop, :class:`marl.training.Part`.
    """

    agents: Agents | None = field(default=None, metadata={"saved": SETTINGS})
    env: Any = field(default=None, metadata={"merge": "base"})
    env_kwargs: Mapping[str, Any] | None = field(default=None, metadata={"saved": OPTION, "merge": "both"})
    num_envs: int | None = field(default=None, metadata={"saved": NUMBER})
    workers: int | None = field(default=None, metadata={"saved": NUMBER})
    max_steps: int | None = field(default=None, metadata={"saved": OPTION})
    seed: int = field(default=0, metadata={"saved": NUMBER})
    device: str = "cpu"
    shaping: Hooks | None = field(default=None, metadata={"saved": SETTINGS})
    curriculum: Curricula | None = field(default=None, metadata={"saved": SETTINGS})
    league: Leagues | None = field(default=None, metadata={"saved": SETTINGS})
    channel: Spoken | None = field(default=None, metadata={"saved": SETTINGS})
    parts: Sequence[Any] = ()

    def over(self, base: Scenario | Setup | None) -> Setup:
        """The same, where nothing is given that of ``base``; the environment is its, and its keywords stay."""
        if base is None:
            return self
        merged: dict[str, Any] = {}
        for one in fields(self):
            own, other = getattr(self, one.name), getattr(base, one.name, None)
            match one.metadata.get("merge"):
                case "base":
                    merged[one.name] = other
                case "both":
                    merged[one.name] = {**(other or {}), **(own or {})}
                case _:
                    merged[one.name] = other if own is None else own
        return Setup(**merged)

    def checked(self) -> Setup:
        """The same, complete and each value in its normal form. Raises ConfigError for what has no meaning."""
        if self.agents is None:
            raise ConfigError("agents: give a learner such as marl.ippo(), or a scenario that names its own")
        pick_device(self.device)
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
            env_kwargs=dict(self.env_kwargs or {}) or None,
            max_steps=None if self.max_steps is None else check_whole("max_steps", self.max_steps, 1),
            num_envs=check_whole("num_envs", copies, 1),
            workers=check_whole("workers", self.workers or 0, 0),
            parts=tuple(self.parts),
        )

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; what only its author can make again is marked as code."""
        saved: dict[str, Any] = {"options": {}}
        for one in fields(self):
            value, how = getattr(self, one.name), one.metadata.get("saved")
            if how == SETTINGS:
                saved[one.name] = to_json(value, code=True)
            elif how == OPTION:
                saved["options"][one.name] = to_json(value, code=True)
            elif how == NUMBER:
                saved[one.name] = value
        return saved

    @classmethod
    def from_json(
        cls, where: str, meta: Mapping[str, Any], given: Setup, scenario: Scenario | None, trust: bool
    ) -> tuple[Setup, str | None]:
        """A setup as it was saved, but for what is given, and the name of a part that holds code and was not given.

        Raises:
            CheckpointError: if what it needs cannot be read from a file, or is not trusted.
        """
        options = received.options(where, meta, scenario)
        asked = {
            one.name: getattr(given, one.name)
            for one in fields(cls)
            if one.metadata.get("saved") == SETTINGS or one.name == "env_kwargs"
        }
        said, lost = received.settings(where, dict(meta) | options, asked, scenario, trust)
        numbers = {one.name: meta[one.name] for one in fields(cls) if one.metadata.get("saved") == NUMBER}
        known = {**said, **numbers, "max_steps": options["max_steps"]}
        return replace(given, **known).checked(), lost

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
    def options(self) -> dict[str, Any]:
        """What the environment is made with."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.metadata.get("saved") == OPTION}


def resolve_scenario(env: Any) -> Scenario | None:
    """The scenario that ``env`` is or names; None if it is an environment. Raises ConfigError for a name of neither."""
    if isinstance(env, Scenario):
        return env
    if isinstance(env, str) and (env in names() or env.endswith(".py")):
        return find(env)
    if isinstance(env, str) and env.isidentifier() and importlib.util.find_spec(env) is None:
        return find(env)
    if isinstance(env, str) and ":" in env:
        module_name, _, attribute = env.partition(":")
        with suppress(ImportError):  # who makes the environment says what is missing
            if isinstance(getattr(importlib.import_module(module_name), attribute, None), Scenario):
                return find(env)
    return None


def checked_spoken(channel: Any) -> Spoken | None:
    """Messages as actions, or none. Raises ConfigError for anything else."""
    if channel is None or isinstance(channel, Spoken):
        return channel
    learned = isinstance(channel, Channel)
    hint = "; learned messages are a learner's: marl.ippo(channel=...)" if learned else ""
    raise ConfigError(f"channel: expected marl.Spoken(words=4) or None, got {channel!r}{hint}")


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
            raise ConfigError(f"agents: expected a learner such as marl.ippo(), got {value!r}")
    return dict(agents) if isinstance(agents, Mapping) else values[0]

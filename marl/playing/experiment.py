"""Experiments: interventions on a team and its messages during evaluation.

Messages are those of channels, and those that an environment carries itself: one agent's action that another's
observation shows. Of the latter somebody has to say where they stand: ``"listener_0<speaker_0:8-10"`` are entries 8 to
10 of what ``listener_0`` sees, and they are what ``speaker_0`` said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from marl.channels import Link, Tamper
from marl.config import unknown
from marl.types import ConfigError, Spec, Step, TeamSpec

ENTRIES = re.compile(r"(?P<listener>[^<:]+)(?:<(?P<speaker>[^<:]+))?:(?P<first>\d+)(?:-(?P<last>\d+))?")


@dataclass(frozen=True)
class Entries:
    """Entries ``first`` to ``last`` of a listener's observation that show a message."""

    listener: str
    first: int
    last: int
    speaker: str | None = None

    @classmethod
    def parse(cls, text: str) -> Entries:
        """``"listener_0:8-10"`` or ``"listener_0<speaker_0:8-10"``. Raises ConfigError."""
        found = ENTRIES.fullmatch(text.strip())
        if found is None:
            raise ConfigError(
                f"message entries: expected LISTENER:FIRST-LAST or LISTENER<SPEAKER:FIRST-LAST, got {text!r}"
            )
        first = int(found["first"])
        last = first if found["last"] is None else int(found["last"])
        return cls(found["listener"], first, last, found["speaker"])

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        said = "" if self.speaker is None else f"<{self.speaker}"
        return f"{self.listener}{said}:{self.first}-{self.last}"


@dataclass(frozen=True)
class Experiment:
    """Interventions during an evaluation: ``evaluate(experiment=Experiment(...))``.

    Args:
        silence: agents whose messages are never sent.
        remove: agents in whose seats a player acts uniformly at random among legal actions, and sends nothing.
        swap: pairs of agents who play with each other's policy; one pair may stand by itself.
        shuffle: everybody hears what was said in another copy of the environment at the same step.
        entries: where observations show what others said, such as ``"listener_0<speaker_0:8-10"``; None: what the
            environment or the scenario says.
        link: what messages suffer, a ``marl.Link`` or text such as ``"loss=0.2,delay=1"`` that changes the channel's
            own; None: the channel's link for execution.
        tamper: what is done to all messages ``(E, N, M + 1)`` that are sent, their loudness last.

    Raises:
        ConfigError: for anything that has no meaning.
    """

    silence: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    swap: tuple[tuple[str, str], ...] = ()
    shuffle: bool = False
    entries: tuple[Entries, ...] | None = None
    link: Link | str | None = None
    tamper: Tamper | None = None

    def __post_init__(self) -> None:
        """Take single names and texts for lists of one."""
        if self.link is not None and not isinstance(self.link, Link | str):
            raise ConfigError(f"link: expected a marl.Link or text such as 'loss=0.2,delay=1', got {self.link!r}")
        pair = isinstance(self.swap, Sequence) and bool(self.swap) and all(isinstance(one, str) for one in self.swap)
        swaps: Any = (self.swap,) if pair or isinstance(self.swap, str) else self.swap or ()
        for one in swaps:
            if isinstance(one, str) or len(one) != 2:
                raise ConfigError(f"swap: expected two agents, got {one!r}")
        entries: Any = self.entries
        if entries is not None:
            entries = tuple(Entries.parse(one) if isinstance(one, str) else one for one in agent_names(entries))
        for name, value in (
            ("silence", agent_names(self.silence)),
            ("remove", agent_names(self.remove)),
            ("swap", tuple(tuple(one) for one in swaps)),
            ("entries", entries),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, whole: Experiment | None, **parts: Any) -> Experiment:
        """An experiment from an object or from single keywords. Raises ConfigError if both are given."""
        given = [name for name, value in parts.items() if value is not None and value != () and value is not False]
        if whole is None:
            return cls(**parts)
        if given:
            raise ConfigError(f"evaluate: give {', '.join(given)} as a part of experiment=")
        return whole

    @property
    def mute(self) -> tuple[str, ...]:
        """Names of the agents that send nothing."""
        return tuple(dict.fromkeys((*self.silence, *self.remove)))

    @property
    def shown_in(self) -> tuple[Entries, ...]:
        """Where observations show messages, as far as it is known."""
        return self.entries or ()

    def policy_of(self, seat: str) -> str:
        """The agent whose policy plays in a seat."""
        for one, other in self.swap:
            seat = other if seat == one else one if seat == other else seat
        return seat

    def check(self, spec: Spec, talking: Sequence[bool], copies: int) -> None:
        """Refuse experiments that do not fit; ``talking``: which teams have a channel. Raises ConfigError."""
        for what, agents in (
            ("silence", self.silence),
            ("remove", self.remove),
            ("swap", [name for pair in self.swap for name in pair]),
            ("message entries", [entries.listener for entries in self.shown_in]),
            ("message entries", [entries.speaker for entries in self.shown_in if entries.speaker is not None]),
        ):
            for name in agents:
                if name not in spec.agents:
                    raise ConfigError(unknown(what, name, spec.agents, "agent"))
        swapped = [name for pair in self.swap for name in pair]
        for name in swapped:
            if swapped.count(name) > 1:
                raise ConfigError(f"swap: {name!r} is named twice; swap two agents at a time")
        for one, other in self.swap:
            _check_exchangeable(spec, one, other)
        teams = {name: place for place, team in enumerate(spec.teams) for name in team.agents}
        for entries in self.shown_in:
            team = spec.teams[teams[entries.listener]]
            width = team.obs.widths[team.agents.index(entries.listener)]
            if team.obs.is_image or not entries.first <= entries.last < width:
                has = "an image" if team.obs.is_image else f"entries 0 to {width - 1}"
                raise ConfigError(f"message entries {entries}: {entries.listener!r} sees {has}")
        for name in self.silence:
            if not talking[teams[name]] and all(entries.speaker != name for entries in self.shown_in):
                raise ConfigError(
                    f"silence: {name!r} has no channel; if its actions show in others' observations, say where "
                    f"(message entries, LISTENER<{name}:FIRST-LAST)"
                )
        if self.shuffle:
            if not any(talking) and not self.shown_in:
                raise ConfigError(
                    "shuffle messages: no team has a channel; if observations show what others said, say where "
                    "(message entries, LISTENER:FIRST-LAST)"
                )
            if copies < 2:
                raise ConfigError("shuffle messages: needs at least two episodes side by side, got one")

    def tampering(self, team: TeamSpec) -> Tamper | None:
        """The function applied to everything that a team sends, ``(E, N, M + 1)``; None: nothing."""
        also = self.tamper
        mute = [n for n, name in enumerate(team.agents) if name in self.mute]
        if not mute and not self.shuffle:
            return also

        def tamper(sent: Tensor) -> Tensor:
            sent = sent if also is None else also(sent)
            if mute:
                sent = sent.index_fill(1, sent.new_tensor(mute).long(), 0.0)
            return sent.roll(1, 0) if self.shuffle else sent

        return tamper

    def shown(self, spec: Spec, step: Step) -> Step:
        """The step with the messages that observations show changed by the experiment."""
        changed = [entries for entries in self.shown_in if self.shuffle or entries.speaker in self.mute]
        if not changed:
            return step
        teams = list(step.teams)
        for place, team in enumerate(spec.teams):
            mine = [entries for entries in changed if entries.listener in team.agents]
            if mine:
                obs = teams[place].obs.copy()
                for entries in mine:
                    n, where = team.agents.index(entries.listener), slice(entries.first, entries.last + 1)
                    if entries.speaker in self.mute:
                        obs[:, n, where] = 0
                    elif self.shuffle:
                        obs[:, n, where] = np.roll(obs[:, n, where], 1, axis=0)
                teams[place] = replace(teams[place], obs=obs)
        return replace(step, teams=tuple(teams))

    @property
    def summary(self) -> list[str]:
        """Lines that describe the experiment."""
        lines = [f"{name} is silent" for name in self.silence if name not in self.remove]
        lines += [f"{name} is removed: it takes random actions and sends nothing" for name in self.remove]
        lines += [f"{one} and {other} play with each other's policy" for one, other in self.swap]
        if self.shuffle:
            lines.append("messages are those of another episode at the same step")
        return lines


def agent_names(given: Any) -> tuple[Any, ...]:
    """A single text as a list of one."""
    return (given,) if isinstance(given, str | Entries) else tuple(given)


def in_words(link: Link) -> str:
    """A link as text that ``Link.parse`` reads."""
    plain = Link()
    parts = [
        f"{one.name}={value:g}"
        for one in fields(Link)
        if (value := getattr(link, one.name)) != getattr(plain, one.name)
    ]
    return ",".join(parts) or "perfect"


def _check_exchangeable(spec: Spec, one: str, other: str) -> None:
    seats = []
    for name in (one, other):
        team = next(team for team in spec.teams if name in team.agents)
        n = team.agents.index(name)
        seats.append((team.observation_spaces[n], team.action_spaces[n], team.obs.shape, team.action.of(n)))
    for what, mine, theirs in zip(
        ("observation space", "action space", "padded observation", "padded action"), *seats, strict=True
    ):
        if mine != theirs:
            raise ConfigError(f"swap: {one!r} and {other!r} differ in their {what}: {mine} and {theirs}")

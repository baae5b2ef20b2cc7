"""Episodes that people play with the agents, and those that the agents play themselves from the same start."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from marl.adapters.lifecycle import close_env
from marl.camera import PICTURES
from marl.config import unknown
from marl.league.matches import side_returns
from marl.league.members import Member, sides_of
from marl.playing.decentralized import DecentralizedActor
from marl.playing.single import MixedAgent
from marl.playing.team import Side, team_sides
from marl.report.content import HUMAN
from marl.report.recorder import Recorded, record
from marl.report.recording import RecordedEpisode, Recording
from marl.seat.controls import Controls, controls_of
from marl.seat.person import Person, PersonPlayer
from marl.types import Array, ConfigError, Episode
from marl_runtime.seat import LocalPlayer

ZERO_SUM = 1e-6  # of the sum of returns
MEMBER_DRAWS = 0x5EA7ED  # streams of a league's members come from (seed, this)
Shown = Callable[[Any, Array | None, Sequence[str]], None]


@dataclass(frozen=True)
class Score:
    """How an episode went for the agents in people's seats.

    Args:
        total: their return, as a sum.
        everybody: the return of all agents, as a sum.
        length: steps.
        outcome: ``won``, ``lost``, ``drawn``, as a league's games, or by returns; nothing where nobody plays against
            anybody: one team whose returns are no zero-sum game's, or sides that are paid alike.
    """

    total: float
    everybody: float
    length: int
    outcome: str


@dataclass(frozen=True)
class Seats:
    """Who sits where.

    Args:
        people: by agent.
        opponent: the member of the run's league that plays the sides on which no person sits; empty: the run's team.
    """

    people: Mapping[str, Person]
    opponent: str = ""


class Games:
    """Games of one run, one after the other, numbered from 0.

    Game ``n`` begins in the same way whoever plays it: its seed is ``seed + n``.
    """

    def __init__(
        self,
        system: Recorded,
        seats: Seats,
        *,
        seed: int = 0,
        greedy: bool = True,
        wants: Sequence[str] = (PICTURES,),
        shown: Shown | None = None,
    ) -> None:
        """Look at the seats.

        Args:
            system: the run's agents.
            seats: who sits where.
            seed: of the first game.
            greedy: agents take their most likely action; False samples.
            wants: how the environment is to render, the best first.
            shown: is given the environment, its picture and the marks' texts after every reset and step.

        Raises:
            ConfigError: for seats and members that there are not, or a seat that no person can take.
        """
        self.system, self.seats, self.seed, self.greedy = system, seats, seed, greedy
        self._wants, self._shown = wants, shown
        agents = system.spec.agents
        for name in seats.people:
            if name not in agents:
                raise ConfigError(unknown("seat", name, agents, "agent"))
        self._league = None if system.setup.league is None else system.training.league_state
        self.sides: Sequence[Side] = team_sides(system.spec) if self._league is None else self._league.sides
        if self._league is None and len(self.sides) == 1 and system.spec.turn_based and len(agents) > 1:
            self.sides = sides_of(system.spec, "agents")  # a board game in which one policy plays both
        self.taken = [side for side in self.sides if set(side.agents) & set(seats.people)]
        self._guests = self._found_guests()
        env = system.make_env()
        try:
            self.controls: dict[str, Controls] = {
                name: controls_of(team, n, env)
                for team in system.spec.teams
                for n, name in enumerate(team.agents)
                if name in seats.people
            }
        finally:
            close_env(env)

    def play(self, number: int) -> Recording:
        """Play game ``number`` with people in their seats. Raises Left if they leave."""
        return self._recorded(number, _Table(self, True), True)

    def own(self, number: int) -> Score:
        """How the agents themselves do in people's seats, in game ``number``, against the same opponents."""
        return self.score(self._recorded(number, _Table(self, False), False).episodes[0])

    def score(self, episode: RecordedEpisode) -> Score:
        """How an episode went for the agents in people's seats."""
        total = float(sum(episode.returns[name] for name in self.seats.people))
        return Score(total, episode.total, episode.length, self._outcome(episode))

    def _recorded(self, number: int, table: _Table, pictures: bool) -> Recording:
        seed = self.seed + number
        return record(self.system, 1, seed=seed, greedy=self.greedy, num_envs=1, pictures=pictures, table=table)

    def _outcome(self, episode: RecordedEpisode) -> str:
        others = [side for side in self.sides if side not in self.taken]
        if not others or not self.taken:
            return ""
        if self._league is not None and self._league.winner is not None:
            ended = Episode(episode.copy, dict(episode.returns), episode.length, dict(episode.info))
            name = self._league.winner(ended)
            return "drawn" if name is None else "won" if name in [side.name for side in self.taken] else "lost"
        ours, theirs = (max(side_returns(sides, episode.returns)) for sides in (self.taken, others))
        if self._league is None:
            shared = ours == theirs != 0  # they are paid alike: nobody plays against anybody
            one_team = len(self.system.spec.teams) == 1 and abs(sum(episode.returns.values())) > ZERO_SUM
            if shared or one_team:
                return ""
        return "won" if ours > theirs else "lost" if ours < theirs else "drawn"

    # --- who else sits there ------------------------------------------------------------------------------------------

    def _found_guests(self) -> dict[str, Member]:
        """The league's member on each agent's seat of the sides without people. Raises ConfigError."""
        asked = self.seats.opponent
        if not asked:
            return {}
        if self._league is None:
            raise ConfigError(f"opponent {asked!r:.80}: this run has no league; leave it out to play with its own team")
        found: dict[str, Member] = {}
        for side in self.sides:
            if side in self.taken:
                continue
            pool = self._league.pool(side.place)
            member = next((one for one in reversed(pool) if one.name == asked), None)
            if member is None:
                names = list(dict.fromkeys(one.name for one in pool))
                raise ConfigError(unknown(f"opponent of side {side.name!r}", asked, names, "member"))
            found |= dict.fromkeys(side.agents, member)
        if not found:
            raise ConfigError(f"opponent {asked!r:.80}: people sit on all sides, and nobody is left for it to play")
        return found

    def sit(self, actor: DecentralizedActor, with_people: bool) -> dict[str, str]:
        """Give people and the league's members their seats; returns who plays in each team."""
        spec, found = self.system.spec, {}
        for place, team in enumerate(spec.teams):
            players = list(actor.players[place])
            for n, name in enumerate(team.agents):
                if with_people and name in self.seats.people:
                    size = int(getattr(players[n], "size", 0))
                    players[n] = PersonPlayer(self.seats.people[name], self.controls[name], size)
                elif name in self._guests:
                    draws = np.random.SeedSequence([self.seed, MEMBER_DRAWS, place, n])
                    own = int(draws.generate_state(1, np.uint32)[0])
                    device = self.system.training.players.device
                    guest = MixedAgent(team, n, [(1.0, self._guests[name])], own, draws, device)
                    players[n] = LocalPlayer([guest], not self.greedy)
            people = [name for name in team.agents if with_people and name in self.seats.people]
            guests = dict.fromkeys(self._guests[name].name for name in team.agents if name in self._guests)
            said = [*([f"a person as {', '.join(people)}"] if people else []), *guests]
            if said:
                found[team.name] = ", ".join(said)
            actor.players = [players if k == place else one for k, one in enumerate(actor.players)]
        return found

    def show(self, env: Any, picture: Array | None, texts: Sequence[str]) -> None:
        """What the environment shows now, to whoever looks on."""
        if self._shown is not None:
            self._shown(env, picture, texts)


class _Table:
    """One game's seats, and its pictures up to its end."""

    def __init__(self, games: Games, with_people: bool) -> None:
        self.wants = games._wants
        self._games, self._with_people, self._over = games, with_people, False

    def sit(self, actor: DecentralizedActor) -> dict[str, str]:
        return self._games.sit(actor, self._with_people)

    def look(self, env: Any, picture: Array | None, texts: Sequence[str], over: bool) -> None:
        if not self._over and self._with_people:
            self._games.show(env, picture, texts)
        self._over |= over


class Kept:
    """The recording of people's games, written again after each of them: ``RUN/human/SEATS-NUMBER.npz``."""

    def __init__(self, run: Path, seats: Sequence[str]) -> None:
        """``run``: the run's folder; ``seats``: the agents that people play."""
        name = "+".join(re.sub(r"[^A-Za-z0-9_.]+", "_", one)[:40] for one in seats)[:100]
        self._folder, self._name = run / HUMAN, name
        self.path: Path | None = None
        self._recording: Recording | None = None

    def add(self, recording: Recording) -> Path:
        """Write a game behind those before it. Raises OSError."""
        self._recording = recording if self._recording is None else joined(self._recording, recording)
        if self.path is None:
            if self._folder.is_symlink():
                raise OSError(errno.ENOTDIR, "human is a link, which may lead anywhere", str(self._folder))
            self._folder.mkdir(parents=True, exist_ok=True)
            number = 1
            while True:
                path = self._folder / f"{self._name}-{number:04}.npz"
                try:
                    path.touch(exist_ok=False)
                except FileExistsError:
                    number += 1
                    continue
                self.path = path
                break
        return self._recording.save(self.path)


def joined(first: Recording, second: Recording) -> Recording:
    """The episodes of one recording behind those of another of the same environment."""
    texts = list(first.texts)
    places = []
    for text in second.texts:
        if text not in texts:
            texts.append(text)
        places.append(texts.index(text))
    moved = []
    for number, episode in enumerate(second.episodes):
        pictures = episode.pictures
        if second.pictures_are == "marks":
            pictures = [picture.copy() for picture in pictures]
            for picture in pictures:
                picture[:, 7] = np.array(places, dtype=picture.dtype)[picture[:, 7].astype(int)]
        moved.append(replace(episode, pictures=pictures, copy=len(first.episodes) + number))
    return replace(first, texts=tuple(texts), episodes=(*first.episodes, *moved))

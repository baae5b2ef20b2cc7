"""A population as it trains: turns of all members, a comparison, copies; killed at any moment, it goes on exactly.

OUT/population.json   what was asked, and every member with the command that trains it
OUT/lineage.jsonl     every comparison, see :mod:`marl.studies.lineage`
OUT/members/NAME/     run folders of ``marl train``
OUT/copies/N/         checkpoints of copies after comparison N, on their way to where they belong
OUT/logs/NAME.log     what was said while a member trained
OUT/journal.jsonl     how each turn ended
OUT/population.lock   who trains it now

Copies are written beside the members first. Then the comparison gets its lines in the lineage, all at once: from then
on it counts. Then copies are moved to where they belong. So whatever is there after a crash says what is still to do:
copies of a comparison without lines are thrown away and made again, those of one with lines are moved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.cli.schedule import Schedule
    from marl.cli.stacked import StackedTurns
    from marl.studies.evolution import Succession
    from marl.studies.lineage import Lineage
    from marl.studies.population import FoundPopulation
from marl.cli.asked import Asked
from marl.cli.cells import PlannedCell, plan_of
from marl.cli.plan import make_plan
from marl.cli.status import config_error

POPULATION, MEMBERS, COPIES, POPULATION_LOCK = "population.json", "members", "copies", "population.lock"
FREE = ("about", "threads", "device", "keep")  # fields that may change while a population trains


@dataclass(frozen=True)
class Turn(PlannedCell):
    """A member that trains until the next comparison.

    Args:
        until: the step of that.
    """

    until: int = 0

    @property
    def name(self) -> str:
        """Of the member."""
        return self.folder.name

    def command(self, begun: bool) -> list[str]:
        """The words of the command that trains it until then."""
        return [*super().command(begun), "--pause-at", str(self.until)]

    def options(self, begun: bool) -> Asked:
        """The same command as data."""
        return dataclasses.replace(super().options(begun), pause_at=self.until)

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        from marl.run import checkpoints
        from marl.run.folder import step_of

        found = checkpoints(self.folder)
        return bool(found) and step_of(found[0]) >= self.until and self.finished

    @property
    def finished(self) -> bool:
        """Whether the run is evaluated, where it ends with this turn; true of other turns."""
        from marl.studies.study_folder import FINISHED, state_of

        return self.until < self.steps or state_of(self.folder).status == FINISHED

    @property
    def diverged(self) -> bool:
        """Whether its numbers are no numbers any more, so that it would diverge again."""
        from marl.studies.study_folder import DIVERGED, state_of

        return state_of(self.folder).status == DIVERGED


class Generations:
    """The comparisons of a population, one after the other.

    Args:
        found: the population.
        out: its folder.
        say: told what a person should know.
    """

    def __init__(self, found: FoundPopulation, out: Path, say: Callable[[str], None]) -> None:
        """Plans every member; nothing is read or written yet. Raises ConfigError for what makes no sense."""
        self.population, self.out, self._say = found.population, out, say
        self._found, self._drawn = found, self.population.drawn()
        self.lineage: Lineage
        self._let_grow()
        self.turns = [self._planned(member, own) for member, own in enumerate(self._drawn)]
        self.steps = self.turns[0].steps
        if self.steps % self.population.every:
            raise config_error(
                f"population {self.population.name!r}: steps: expected a multiple of every "
                f"({self.population.every:,}), got {self.steps:,}"
            )
        self._scenario = make_plan(self.turns[0].asked, None).scenario

    # --- what is asked ------------------------------------------------------------------------------------------------

    def _let_grow(self) -> None:
        """Where networks grow, the one that members begin with is a setting of theirs. Raises ConfigError."""
        from marl.studies.growth import NETWORK

        if self.population.grow is not None:
            scenario = make_plan(self._planned(0, self._drawn[0]).asked, None).scenario
            where = f"population {self.population.name!r}: grow"
            network = self.population.grow.check(where, scenario.agents, scenario.league)
            self._drawn = [{**own, NETWORK: network} for own in self._drawn]

    def _planned(self, member: int, drawn: Mapping[str, Any]) -> Turn:
        """A member that begins with these settings, as ``marl train`` takes it."""
        from marl.config import in_words
        from marl.types import MarlError

        study = self._found.study.study
        settings = tuple((name, in_words(value)) for name, value in drawn.items())
        cell = dataclasses.replace(study.cells()[member], settings=settings)
        try:
            asked, config = plan_of(self._found.study, cell)
        except MarlError as error:
            raise config_error(f"population {self.population.name!r}: {error}") from None
        name = f"member-{member:0{len(str(self.population.members - 1))}}"
        return Turn(cell, self.out / MEMBERS / name, asked, config)

    def check_settings(self) -> None:
        """Raise ConfigError for a setting that may not change while a system trains, or is asked for in vain."""
        from marl.types import ConfigError

        where = f"population {self.population.name!r}"
        if self._scenario.stop is not None:
            raise config_error(f"{where}: its scenario ends by a rule; expected settings=['stop=none'] for all members")
        with make_plan(self.turns[0].asked, None).build() as system:
            for name in self.population.spaces:
                try:
                    system.change(name, self._drawn[0][name])
                except ConfigError as error:
                    raise config_error(f"{where}: spaces[{name!r}]: {error}") from None
            if self.population.fitness == "rating":
                from marl.studies.cross_play import two_sides

                try:
                    two_sides("this", system, None)
                except ConfigError as error:
                    said = f"{where}: fitness='rating': expected a game of two sides ({error})"
                    raise config_error(said) from None

    def _check_members(self) -> None:
        """Raise ConfigError if a member was asked otherwise when it began."""
        from marl.studies.study_folder import config_of

        for turn in self.turns:
            stored = config_of(turn.folder)
            if stored is not None and (changed := turn.changes(stored)):
                raise config_error(
                    f"{turn.folder}: was trained with other settings ({'; '.join(changed[:3])}); undo that, or choose "
                    "another --out"
                )

    def asked(self) -> dict[str, Any]:
        """The population as JSON, for people and to be compared."""
        from marl.config import described

        fields = dataclasses.fields(self.population)
        said = {one.name: described(getattr(self.population, one.name)) for one in fields if one.name != "task"}
        found: dict[str, Any] = json.loads(json.dumps({**said, "task": self.turns[0].config["scenario"]}))
        return found

    def begin(self) -> None:
        """Write what is asked, or see that it is the same; finish what a crash left undone. Raises ConfigError."""
        from marl.config import differences
        from marl.logs.files import read_json, write_json
        from marl.studies.lineage import Descent, Lineage

        asked = self.asked()
        if (self.out / POPULATION).exists():
            then = read_json(self.out / POPULATION).get("population")
            kept = {key: value for key, value in asked.items() if key not in FREE}
            there = {key: value for key, value in then.items() if key not in FREE} if isinstance(then, dict) else {}
            if changed := differences(there, kept):
                raise config_error(
                    f"--out {self.out}: holds a population that was asked otherwise ({'; '.join(changed[:3])}); undo "
                    "that, or choose another --out"
                )
        members = [{"folder": turn.name, "seed": turn.cell.seed, "words": list(turn.words)} for turn in self.turns]
        self.lineage = Lineage.read(self.out)
        if self.lineage.records:
            self._recover()
        self._check_members()
        write_json(self.out / POPULATION, {"population": asked, "steps": self.steps, "members": members})
        if not self.lineage.records:
            first = [Descent(0, 0, member, None, member, own) for member, own in enumerate(self._drawn)]
            self.lineage = self.lineage.with_generation(first)
            self.lineage.write(self.out)

    # --- training -----------------------------------------------------------------------------------------------------

    def train(self, schedule: Schedule[Turn], stacked: StackedTurns | None = None) -> bool:
        """Train to the end; whether all members came there that did not diverge.

        ``stacked``: trains what it can of each turn first.

        Raises:
            ConfigError: if a file of the population changes meanwhile, or nobody is left.
        """
        every = self.population.every
        for until in range((self.lineage.generations + 1) * every, self.steps + 1, every):
            turns = [dataclasses.replace(turn, until=until) for turn in self.turns]
            todo = [turn for turn in turns if not turn.over and not turn.diverged]
            if stacked is not None:
                stacked.train(todo)
            schedule.go_on([turn for turn in todo if not turn.over and not turn.diverged])
            if left := [turn for turn in todo if not turn.over and not turn.diverged]:
                self._explain(left, schedule)
                return False
            self._compare(turns)
        return True

    def _explain(self, left: Sequence[Turn], schedule: Schedule[Turn]) -> None:
        """Say why members did not come to the end of their turn."""
        for turn in left:
            error = schedule.errors.get(turn.name, f"ended before step {turn.until:,}, perhaps by a callback")
            self._say(f"{turn.name}: {error}; what was trained is saved")

    def _compare(self, turns: Sequence[Turn]) -> None:
        """Fitness of all members, who copies whom, and the copies."""
        from marl.studies.evolution import Succession, evolve
        from marl.studies.lineage import Descent

        population, number, until = self.population, self.lineage.generations + 1, turns[0].until
        fitness = self._ratings(turns, number) if population.fitness == "rating" else self._returns(turns)
        if all(one is None for one in fitness):
            raise config_error(f"population {population.name!r}: every member diverged before step {until:,}; lower lr")
        settings = [one.settings for one in self.lineage.latest]
        moves = [Succession(member, own) for member, own in enumerate(settings)]
        if until < self.steps:
            moves = evolve(
                fitness, settings, population.spaces, population.exploit, population.explore,
                population.stream(number), explore_all=population.explore_all,
            )  # fmt: skip
            moves = self._grown(moves, number)
        for member, move in enumerate(moves):
            if move.parent != member or dict(move.settings) != dict(settings[member]):
                self._write_copy(number, member, move)
        self.lineage = self.lineage.with_generation(
            [
                Descent(number, until, member, one, move.parent, move.settings)
                for member, (one, move) in enumerate(zip(fitness, moves, strict=True))
            ]
        )
        self.lineage.write(self.out)  # from here on the comparison counts
        self._place_copies(number)
        self._tell()

    def _grown(self, moves: Sequence[Succession], number: int) -> list[Succession]:
        """The same with larger networks of some copies."""
        from marl.studies.growth import NETWORK

        grow, rng, found = self.population.grow, self.population.growth_stream(number), []
        for member, move in enumerate(moves):
            if grow is not None and move.parent != member:
                network = grow.vary(move.settings[NETWORK], rng)
                move = dataclasses.replace(move, settings={**move.settings, NETWORK: network})
            found.append(move)
        return found

    def _returns(self, turns: Sequence[Turn]) -> list[float | None]:
        """What every member's evaluation at this step has returned."""
        from marl.studies.copying import evaluated

        before = turns[0].until - self.population.every
        return [evaluated(turn.folder, before) if turn.over else None for turn in turns]

    def _ratings(self, turns: Sequence[Turn], number: int) -> list[float | None]:
        """Elo of all members that did not diverge, of games between them."""
        import numpy as np

        from marl.cli.output import quiet
        from marl.cli.runs import load_system
        from marl.run import checkpoints
        from marl.studies.population import GAMES
        from marl.studies.tournament import tournament

        there = [member for member, turn in enumerate(turns) if turn.over]
        found: list[float | None] = [None] * len(turns)
        if len(there) < 2:
            return [1000.0 if member in there else None for member in range(len(turns))]
        seed = int(np.random.SeedSequence([self.population.seed, GAMES, number]).generate_state(1)[0])
        with contextlib.ExitStack() as stack, quiet():
            systems = {}
            for member in there:
                path = checkpoints(turns[member].folder)[0]
                system = load_system(path, self.population.device, self._scenario, False)
                systems[turns[member].name] = stack.enter_context(system)
            elo = tournament(systems, self.population.games, seed=seed).elo
        for member, rating in zip(there, elo.tolist(), strict=True):
            found[member] = rating
        return found

    # --- copies -------------------------------------------------------------------------------------------------------

    def _write_copy(self, number: int, member: int, move: Any) -> None:
        """The checkpoint with which a member goes on after a comparison, beside it."""
        from marl.cli.output import quiet
        from marl.studies.copying import write_copy

        child, parent = self.turns[member], self.turns[move.parent]
        place = self.out / COPIES / str(number) / child.name
        with quiet():
            write_copy(
                parent.folder, child.folder, place, move.settings, child.cell.seed, self._scenario,
                self.population.device,
            )  # fmt: skip

    def _follow_networks(self) -> None:
        """Members have the networks that the lineage says. Raises ConfigError."""
        from marl.nets.networks import MLP
        from marl.studies.growth import NETWORK

        if self.population.grow is None:
            return
        for one in self.lineage.latest:
            network = one.settings.get(NETWORK)
            if not isinstance(network, MLP):
                raise config_error(
                    f"{self.out}: lineage: {NETWORK}: expected an MLP, got {network!r:.80}; was it edited?"
                )
            self.turns[one.member] = self._planned(one.member, {**self._drawn[one.member], NETWORK: network})

    def _place_copies(self, number: int) -> None:
        """Move the copies of a comparison to where they belong, those that are not there yet."""
        from marl.studies.copying import put_in_place, tell_network

        self._follow_networks()
        for one in self.lineage.generation(number):
            child, parent = self.turns[one.member], self.turns[one.parent]
            folder = self.out / COPIES / str(number) / child.name
            for copy in folder.glob("step-*") if folder.is_dir() else ():
                if self.population.grow is not None:
                    tell_network(child.folder, child.config)
                put_in_place(copy, parent.folder, child.folder)
        shutil.rmtree(self.out / COPIES, ignore_errors=True)

    def _recover(self) -> None:
        """Finish the newest comparison if it counts; throw away the copies of one that does not yet."""
        number = self.lineage.generations
        self._follow_networks()
        if (self.out / COPIES / str(number)).is_dir():
            self._say(f"{self.out}: copies of comparison {number} were on their way; moved")
            self._place_copies(number)
        shutil.rmtree(self.out / COPIES, ignore_errors=True)

    def _tell(self) -> None:
        """Say in a line how the members compared, and in one for each who copied whom."""
        now = self.lineage.latest
        best = self.lineage.best
        assert best is not None
        comparisons = self.steps // self.population.every
        self._say(
            f"comparison {now[0].generation}/{comparisons}, step {now[0].step:,}: best {self.turns[best].name}, "
            f"{self.population.fitness} {now[best].fitness:.4g}"
        )
        for one in now:
            if one.copied:
                varied = ", ".join(f"{name}={_short(value)}" for name, value in one.settings.items())
                self._say(f"  {self.turns[one.member].name} goes on as {self.turns[one.parent].name} with {varied}")


def _short(value: Any) -> str:
    from marl.config import in_words

    return f"{value:.4g}" if isinstance(value, float) else in_words(value)

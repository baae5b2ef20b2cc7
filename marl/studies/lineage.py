"""Who descends from whom in a population, with which fitness and settings; kept as lines of JSON, and drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marl import files
from marl.config import from_json, in_words, to_json
from marl.logs.files import replace_file
from marl.types import ConfigError

if TYPE_CHECKING:
    from marl.training.curves import Curves

LINEAGE = "lineage.jsonl"
LARGEST = 2**28  # bytes; a member has some hundred in each generation


@dataclass(frozen=True)
class Descent:
    """A member at a comparison, and how it goes on from there.

    Args:
        generation: how many comparisons there were; 0: the beginning.
        step: environment steps of every member so far.
        member: which.
        fitness: at this comparison, before anything was copied; None: at the beginning, or since it diverged.
        parent: the member whose state it goes on with; its own number: its own.
        settings: with which it goes on, those that have a space.
    """

    generation: int
    step: int
    member: int
    fitness: float | None
    parent: int
    settings: Mapping[str, Any]

    @property
    def copied(self) -> bool:
        """Whether it goes on with another one's state."""
        return self.parent != self.member

    def to_json(self) -> dict[str, Any]:
        """As a line of the file."""
        values = {name: to_json(value) for name, value in self.settings.items()}
        fields = ("generation", "step", "member", "fitness", "parent")
        return {name: getattr(self, name) for name in fields} | {"settings": values}


@dataclass(frozen=True)
class Lineage:
    """All comparisons of a population so far.

    Args:
        records: of all generations, one after the other, the members of each in their order.
    """

    records: tuple[Descent, ...]

    @classmethod
    def read(cls, folder: str | Path) -> Lineage:
        """That of a population's folder; empty if nothing has begun there.

        Raises:
            ConfigError: if the file is damaged.
        """
        path = Path(folder) / LINEAGE
        try:
            lines = files.read(path, LARGEST).decode().splitlines()
        except FileNotFoundError:
            return cls(())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error})") from None
        found = [_descent(path, number, line) for number, line in enumerate(lines, 1)]
        size = sum(one.generation == 0 for one in found)
        if [(one.generation, one.member) for one in found] != [divmod(place, size) for place in range(len(found))]:
            raise ConfigError(f"{path}: a member of a generation is missing; was it edited?")
        if not all(0 <= one.parent < size for one in found):
            raise ConfigError(f"{path}: names a parent that is no member; was it edited?")
        return cls(tuple(found))

    def write(self, folder: Path) -> None:
        """Replace the file in one move: a generation is there as a whole or not at all. Raises OSError."""
        text = "".join(json.dumps(one.to_json(), allow_nan=False) + "\n" for one in self.records)
        replace_file(folder / LINEAGE, text.encode())

    @property
    def members(self) -> int:
        """How many members there are."""
        return sum(one.generation == 0 for one in self.records)

    @property
    def generations(self) -> int:
        """How many comparisons there were."""
        return self.records[-1].generation if self.records else 0

    def generation(self, number: int) -> tuple[Descent, ...]:
        """The members at a comparison."""
        return tuple(one for one in self.records if one.generation == number)

    @property
    def latest(self) -> tuple[Descent, ...]:
        """The members at the last comparison."""
        return self.generation(self.generations)

    @property
    def best(self) -> int | None:
        """The member with the largest fitness at the last comparison; None: nobody has one yet."""
        known = [one for one in self.latest if one.fitness is not None]
        return max(known, key=lambda one: one.fitness or -math.inf).member if known else None

    def with_generation(self, records: Sequence[Descent]) -> Lineage:
        """One generation more."""
        return Lineage((*self.records, *records))

    def ancestors(self, member: int) -> list[int]:
        """Whose parameters a member's come of: the member that held them in each generation, from the beginning on.

        The last entry is the member at the last comparison, before anything was copied there.
        """
        found = [member]
        for number in range(self.generations - 1, -1, -1):
            found.append(self.generation(number)[found[-1]].parent)
        return found[::-1]

    def figure(self) -> Curves:
        """Fitness and settings over time; a color for each member of the beginning and all that comes of it.

        A thin line leads from a member that is replaced to the one that it copies.

        Raises:
            ConfigError: if nobody was compared yet, or matplotlib is not installed.
        """
        if not self.generations:
            raise ConfigError("lineage: no member was compared yet, so there is nothing to draw")
        from marl.training.curves import Curves, plain, style
        from marl.training.metric_words import STEPS

        table = [self.generation(number) for number in range(self.generations + 1)]
        founders = [list(range(self.members))]  # of the state that each member has after each comparison
        for row in table[1:]:
            founders.append([founders[-1][one.parent] for one in row])
        names = [name for name, value in table[0][0].settings.items() if isinstance(value, int | float)]
        figure = Curves(figsize=(7.0, 0.6 + 2.6 * (1 + len(names))), layout="constrained")
        axes = figure.subplots(1 + len(names), 1, squeeze=False, sharex=True)[:, 0]
        for before, after, owner in zip(table, table[1:], founders, strict=False):
            for one in after:
                color = style(owner[one.member])[0]
                if before[one.member].fitness is not None and one.fitness is not None:
                    start = before[before[one.member].parent].fitness
                    axes[0].plot([before[0].step, one.step], [start, one.fitness], color=color, linewidth=1.2)
                if one.fitness is not None:
                    axes[0].plot([one.step], [one.fitness], ".", color=color, markersize=5)
                parent = after[one.parent].fitness
                if one.copied and one.fitness is not None:
                    axes[0].plot([one.step] * 2, [one.fitness, parent], ":", color="0.5", linewidth=0.8)
                for axis, name in zip(axes[1:], names, strict=True):
                    value = before[one.member].settings[name]
                    axis.plot([before[0].step, one.step], [value] * 2, color=color, linewidth=1.2)
        axes[0].set_ylabel("fitness")
        for axis, name in zip(axes[1:], names, strict=True):
            values = [one.settings[name] for one in self.records]
            if min(values) > 0 and max(values) / min(values) > 10:
                axis.set_yscale("log")
            axis.set_ylabel(plain(name))
        for axis in axes:
            axis.grid(alpha=0.3)
        axes[-1].set_xlabel(STEPS)
        return figure

    def __repr__(self) -> str:
        """Its size; ``print`` shows the last comparison."""
        return f"<Lineage: {self.members} members, {self.generations} comparisons>"

    def __str__(self) -> str:
        """The members at the last comparison, the best first: fitness, settings, where they come from."""
        names = list(self.records[0].settings) if self.records else []
        rows = [("member", "fitness", *names, "goes on from", "comes of")]
        ranked = sorted(self.latest, key=lambda one: math.inf if one.fitness is None else -one.fitness)
        for one in ranked:
            fitness = "" if one.fitness is None else f"{one.fitness:.4g}"
            said = [f"{value:.4g}" if isinstance(value, float) else in_words(value) for value in one.settings.values()]
            source = f"member {one.parent}" if one.copied else "itself"
            rows.append((str(one.member), fitness, *said, source, str(self.ancestors(one.member)[0])))
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _descent(path: Path, number: int, line: str) -> Descent:
    """A line of the file. Raises ConfigError."""
    try:
        said = json.loads(line)
        whole = [said[name] for name in ("generation", "step", "member", "parent")]
        fitness, settings = said["fitness"], said["settings"]
        if any(type(one) is not int or one < 0 for one in whole) or type(fitness) not in (int, float, type(None)):
            raise ValueError("expected whole numbers, and a number as fitness")
        values = {str(name): from_json(value) for name, value in settings.items()}
        return Descent(whole[0], whole[1], whole[2], fitness, whole[3], values)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: line {number} makes no sense ({error}); was it edited?") from None

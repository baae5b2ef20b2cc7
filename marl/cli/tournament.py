"""``marl tournament``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

if TYPE_CHECKING:
    from marl.studies.cross_play import Rules
    from marl.studies.tournament import Tournament as Result
    from marl.system import MultiAgentSystem

from tyro.conf import Positional, arg

from marl.cli.options import ENV, NUMBER, SideBySide
from marl.cli.output import print_json, quiet
from marl.cli.runs import open_run
from marl.cli.status import UsageError, config_error, need


@dataclass(frozen=True)
class Tournament(SideBySide):
    """Let the agents of some runs play each other, each on both sides, and rate them."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN [RUN ...]")]
    """Run folders, or checkpoints, of the same game."""
    games: Annotated[int, NUMBER] = 100
    """Games of every pair and seating: a pair plays twice as many."""
    greedy: bool = False
    """Take the most likely actions instead of sampling."""
    seed: Annotated[int, NUMBER] = 0
    """Of all games."""
    plot: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the table of results."""
    env: Annotated[str | None, ENV] = None
    checkpoint: Annotated[str, arg(metavar="best|last")] = "last"
    """Which checkpoint of each run folder."""
    trust: bool = False
    """Run whatever code the runs name: their .py files, modules, functions."""
    device: str = "cpu"
    """cpu, cuda, ... or auto."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return tournament(self)


def tournament(asked: Tournament) -> int:
    """``marl tournament``."""
    from marl.config import check_whole
    from marl.studies.tournament import plot as draw

    check_whole("--games", asked.games, 1)
    check_whole("--seed", asked.seed, 0)
    if asked.part is not None:
        return _play_one(asked)
    need("scipy", "league")
    if asked.plot is not None:
        need("matplotlib", "plot")
    if len(asked.runs) < 2:
        raise UsageError("marl tournament: RUN is missing: marl tournament RUN RUN (at least two)")
    result = _played(asked)
    if asked.plot is not None:
        try:
            draw(result, asked.plot)
        except OSError as error:
            raise config_error(f"--plot {asked.plot}: cannot be written ({error.strerror or error})") from None
        except ValueError as error:
            raise config_error(f"--plot {asked.plot}: {' '.join(str(error).split())}") from None
    if asked.json:
        print_json(result.to_dict() | {"plot": None if asked.plot is None else str(asked.plot)})
        return 0
    print(result)
    if asked.plot is not None:
        print(f"wrote {asked.plot}")
    return 0


def _played(asked: Tournament) -> Result:
    """All matches, in this process or by many."""
    from marl.studies.cross_play import Rules
    from marl.studies.tournament import tournament as play_all

    with contextlib.ExitStack() as stack:
        systems, paths = {}, []
        for place, folder in enumerate(asked.runs):
            path, system = open_run(folder, asked.checkpoint, asked.device, asked.trust, asked.env)
            name = str(folder)
            systems[name if name not in systems else f"{name} ({place + 1})"] = stack.enter_context(system)
            paths.append(path)
        with quiet():
            if not asked.spread:
                return play_all(systems, asked.games, greedy=asked.greedy, seed=asked.seed)
            rules = Rules.of(systems, asked.games, None, asked.seed)
    return _spread(asked, tuple(systems), paths, rules)


def _spread(asked: Tournament, players: tuple[str, ...], paths: Sequence[Path], rules: Rules) -> Result:
    """All matches, each by a process."""
    import numpy as np

    from marl.cli.parts import gathered
    from marl.studies.cross_play import pairs
    from marl.studies.tournament import Tournament as Result

    places = pairs(len(players))
    device = str(rules.device)
    words = ["tournament", *map(str, paths), "--games", str(asked.games), "--seed", str(asked.seed), "--device", device]
    words += [f"--{name}" for name in ("greedy", "trust") if getattr(asked, name)]
    words += [] if asked.env is None else ["--env", asked.env]
    names = [f"{row}-{column}" for row, column in places]
    found = gathered(asked, names, {"words": words}, words, 1, device)
    games = {place: np.array(one["returns"]) for place, one in zip(places, found, strict=True)}
    return Result.of(players, rules.names, games)


def _play_one(asked: Tournament) -> int:
    """The match that another process asks for; only who plays it is loaded, and who says where."""
    from marl.cli.parts import write_part
    from marl.studies.cross_play import Rules, frozen

    row, column = (int(word) for word in (asked.part or "").split("-"))
    with contextlib.ExitStack() as stack, quiet():
        systems: dict[int, MultiAgentSystem] = {}
        for place in (0, row, column):
            if place not in systems:
                path = asked.runs[place]
                _, system = open_run(path, asked.checkpoint, asked.device, asked.trust, asked.env)
                systems[place] = stack.enter_context(system)
        one, other = (frozen(systems[place], asked.greedy) for place in (row, column))
        rules = Rules.of({str(place): system for place, system in systems.items()}, asked.games, None, asked.seed)
        with rules.opened(systems[0]) as env:
            found = rules.play(env, (row, column), one, other)
    return write_part(asked, {"returns": found.tolist()})

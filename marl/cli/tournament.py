"""``marl tournament``."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from marl.cli.options import ENV, NUMBER
from marl.cli.output import print_json, quiet
from marl.cli.runs import open_run
from marl.cli.status import UsageError, config_error, need


@dataclass(frozen=True)
class Tournament:
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
    from marl.studies.tournament import tournament as play_all

    check_whole("--games", asked.games, 1)
    check_whole("--seed", asked.seed, 0)
    need("scipy", "league")
    if asked.plot is not None:
        need("matplotlib", "plot")
    if len(asked.runs) < 2:
        raise UsageError("marl tournament: RUN is missing: marl tournament RUN RUN (at least two)")
    with contextlib.ExitStack() as stack:
        systems = {}
        for place, folder in enumerate(asked.runs):
            _, system = open_run(folder, asked.checkpoint, asked.device, asked.trust, asked.env)
            name = str(folder)
            systems[name if name not in systems else f"{name} ({place + 1})"] = stack.enter_context(system)
        with quiet():
            result = play_all(systems, asked.games, greedy=asked.greedy, seed=asked.seed)
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

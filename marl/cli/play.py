"""``marl play``."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction, arg

if TYPE_CHECKING:
    from marl.system import MultiAgentSystem
from marl.cli.options import ENV, NUMBER
from marl.cli.output import note, print_json, quiet
from marl.cli.runs import open_run
from marl.cli.status import UsageError, config_error, need


@dataclass(frozen=True)
class Play:
    """Play with a run's agents, each through its own policy, and write what happens as a GIF or as data."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or one of its checkpoints."""
    gif: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; RUN/episode.gif unless given."""
    record: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write whole episodes as data instead, a .npz file: RUN/episodes.npz is shown in the run's page."""
    human: Annotated[str | None, arg(metavar="AGENT")] = None
    """Take an agent's seat in the terminal, if its actions can be counted; the games are kept in RUN/human."""
    opponent: Annotated[str | None, arg(metavar="MEMBER")] = None
    """With --human: the member of the run's league that plays the other sides, such as 'step 50000'."""
    against: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEAM=RUN")] = ()
    """Who plays a team of recorded episodes instead: another run of the same game. Repeatable."""
    episodes: Annotated[int, NUMBER] = 1
    """How many, one after the other in one file."""
    seed: Annotated[int, NUMBER] = 0
    """Of the environment and of everything that is drawn."""
    max_steps: Annotated[int | None, NUMBER] = None
    """Stop each episode after so many steps; the scenario's, else 1000, unless given."""
    sample: bool = False
    """Sample actions instead of taking the most likely ones."""
    env: Annotated[str | None, ENV] = None
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return play(self)


def play(asked: Play) -> int:
    """``marl play``."""
    from marl.config import check_whole
    from marl.film import play as play_episodes
    from marl.film import write_gif

    check_whole("--episodes", asked.episodes, 1)
    check_whole("--seed", asked.seed, 0)
    _check_record(asked)
    if asked.record is None and asked.human is None:
        need("imageio", "play")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures, no windows
    path, system = open_run(asked.run_folder, asked.checkpoint, "cpu", asked.trust, asked.env)
    if asked.human is not None:
        return _sit(asked, asked.human, path, system)
    if asked.record is not None:
        return _record(asked, asked.record, path, system)
    default = system.scenario.max_steps if system.scenario is not None else None
    limit = asked.max_steps or default or 1000
    out = asked.gif
    if out is None:
        folder = asked.run_folder
        out = (folder if (folder / "checkpoints").is_dir() else Path(".")) / "episode.gif"
    if out.suffix.lower() != ".gif":
        raise UsageError(f"--gif {out}: expected a file name that ends in .gif")
    with system, quiet():
        played, rate = play_episodes(system, asked.episodes, asked.seed, limit, asked.sample)
        try:
            write_gif(played, rate, out)
        except OSError as error:
            raise config_error(f"--gif {out}: cannot be written ({error.strerror or error})") from None
    _say(asked, path, "gif", out, [(one.length, one.returns) for one in played])
    return 0


def _check_record(asked: Play) -> None:
    """Refuse options that have no meaning together."""
    if asked.opponent is not None and asked.human is None:
        raise UsageError("marl play: --opponent is for --human")
    if asked.human is not None:
        for option, other in (("--gif", asked.gif), ("--record", asked.record), ("--max-steps", asked.max_steps)):
            if other is not None:
                raise UsageError(f"marl play: --human and {option} exclude each other")
    if asked.record is None:
        if asked.against:
            raise UsageError("marl play: --against is for --record: give it a file")
        return
    if asked.record.suffix.lower() != ".npz":
        raise UsageError(f"--record {asked.record}: expected a file name that ends in .npz")
    for option, value in (("--gif", asked.gif), ("--max-steps", asked.max_steps)):
        if value is not None:
            raise UsageError(f"marl play: --record and {option} exclude each other: recorded episodes are whole ones")


def _record(asked: Play, out: Path, path: Path, system: MultiAgentSystem) -> int:
    """Write episodes as data."""
    from marl.report import record

    with contextlib.ExitStack() as stack:
        stack.enter_context(system)
        against = {}
        for words in asked.against:
            team, equals, run = words.partition("=")
            if not equals or not team or not run:
                raise UsageError(f"marl play: --against: expected TEAM=RUN, got {words!r}")
            _, other = open_run(Path(run), "best", "cpu", asked.trust, asked.env)
            against[team] = run, stack.enter_context(other)
        stack.enter_context(quiet())
        made = record(system, asked.episodes, seed=asked.seed, greedy=not asked.sample, against=against, tell=note)
        try:
            made.save(out)
        except OSError as error:
            raise config_error(f"--record {out}: cannot be written ({error.strerror or error})") from None
    _say(asked, path, "record", out, [(one.length, one.returns) for one in made.episodes])
    return 0


def _sit(asked: Play, agent: str, path: Path, system: MultiAgentSystem) -> int:
    """Play games with a person at the terminal."""
    from marl.cli.runs import folder_of
    from marl.seat.games import Games, Kept, Seats
    from marl.seat.person import Left
    from marl.seat.terminal import WANTS, Terminal, in_words

    with system:
        terminal = Terminal(sys.stdin, sys.stderr if asked.json else sys.stdout)
        games = Games(
            system, Seats({agent: terminal}, asked.opponent or ""),
            seed=asked.seed, greedy=not asked.sample, wants=WANTS, shown=terminal.shows,
        )  # fmt: skip
        terminal.check(games.controls[agent])
        kept = Kept(folder_of(asked.run_folder, path), [agent])
        played, whole = [], True
        for number in range(asked.episodes):
            try:
                recording = games.play(number)
            except (Left, KeyboardInterrupt):
                whole = False
                break
            try:
                kept.add(recording)
            except OSError as error:
                raise config_error(f"{kept.path}: cannot be written ({error.strerror or error})") from None
            played.append((games.score(recording.episodes[0]), recording.episodes[0].returns))
            terminal.say(in_words(number, played[-1][0], games.own(number)))
        terminal.say("" if whole else "\nleft: the game that ran is not kept")
    file = None if kept.path is None else str(kept.path)
    if asked.json:
        said = [{"length": score.length, "returns": returns, "outcome": score.outcome} for score, returns in played]
        print_json({"checkpoint": str(path), "human": agent, "record": file, "episodes": said})
    elif file is not None:
        print(f"kept in {file}")
    return 0


def _say(asked: Play, path: Path, kind: str, out: Path, episodes: list[tuple[int, dict[str, float]]]) -> None:
    """What was played, and where it was written."""
    if asked.json:
        said = [{"length": length, "returns": returns} for length, returns in episodes]
        print_json({"checkpoint": str(path), kind: str(out), "episodes": said})
        return
    for number, (length, returns) in enumerate(episodes):
        agents = ", ".join(f"{agent} {value:.2f}" for agent, value in returns.items())
        print(f"episode {number}: {length} steps, return {sum(returns.values()):.2f} ({agents})")
    print(f"wrote {out}")

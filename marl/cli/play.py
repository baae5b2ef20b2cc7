"""``marl play``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from marl.cli.options import ENV, NUMBER
from marl.cli.output import print_json, quiet
from marl.cli.runs import open_run
from marl.cli.status import UsageError, config_error, need


@dataclass(frozen=True)
class Play:
    """Play with a run's agents, each through its own policy, and write what happens as a GIF."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or one of its checkpoints."""
    gif: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; RUN/episode.gif unless given."""
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
    need("imageio", "play")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures, no windows
    path, system = open_run(asked.run_folder, asked.checkpoint, "cpu", asked.trust, asked.env)
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
    said = [{"length": one.length, "returns": one.returns} for one in played]
    if asked.json:
        print_json({"checkpoint": str(path), "gif": str(out), "episodes": said})
        return 0
    for number, one in enumerate(played):
        agents = ", ".join(f"{agent} {value:.2f}" for agent, value in one.returns.items())
        print(f"episode {number}: {one.length} steps, return {sum(one.returns.values()):.2f} ({agents})")
    print(f"wrote {out}")
    return 0

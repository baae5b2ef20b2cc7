"""``marl sweep``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from marl.cli.options import ENV, NUMBER
from marl.cli.output import print_json, quiet
from marl.cli.runs import open_run
from marl.cli.status import UsageError, config_error, need


@dataclass(frozen=True)
class Sweep:
    """Evaluate a run's agents under one link after the other: return against loss, delay, bits, noise."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or one of its checkpoints, of agents that talk."""
    link: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="EFFECT=NUMBER,...")] = ()
    """What to vary: loss=0,0.1,0.5 or delay=0:4:1 (first, last, step). Repeatable: a curve each."""
    episodes: Annotated[int, NUMBER] = 100
    """Of each point; the same ones."""
    sample: bool = False
    """Sample actions instead of taking the most likely ones."""
    seed: Annotated[int | None, NUMBER] = None
    """Of environments and chance; the run's plus one unless given."""
    csv: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the table."""
    plot: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the curves with their confidence intervals."""
    env: Annotated[str | None, ENV] = None
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    device: str = "cpu"
    """cpu, cuda, ... or auto."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return sweep(self)


def sweep(asked: Sweep) -> int:
    """``marl sweep``."""
    from marl.config import check_whole
    from marl.studies.sweep import plot as draw
    from marl.studies.sweep import sweep as evaluate_all
    from marl.studies.sweep import write_csv

    check_whole("--episodes", asked.episodes, 1)
    if asked.seed is not None:
        check_whole("--seed", asked.seed, 0)
    if not asked.link:
        raise UsageError("marl sweep: --link is missing: name what to vary, such as --link loss=0,0.1,0.5")
    if asked.plot is not None:
        need("matplotlib", "plot")
    path, system = open_run(asked.run_folder, asked.checkpoint, asked.device, asked.trust, asked.env)
    seed = asked.seed if asked.seed is not None else system.seed + 1
    with system, quiet():
        result = evaluate_all(system, asked.link, asked.episodes, seed, greedy=not asked.sample)
    for option, out, write in (("--csv", asked.csv, write_csv), ("--plot", asked.plot, draw)):
        if out is not None:
            try:
                write(result, out)
            except OSError as error:
                raise config_error(f"{option} {out}: cannot be written ({error.strerror or error})") from None
            except ValueError as error:
                raise config_error(f"{option} {out}: {' '.join(str(error).split())}") from None
    if asked.json:
        print_json({"checkpoint": str(path), "steps": system.steps, "seed": seed, **result.to_dict()})
        return 0
    print(f"checkpoint {path} (step {system.steps:,})")
    print(result)
    for out in (asked.csv, asked.plot):
        if out is not None:
            print(f"wrote {out}")
    return 0

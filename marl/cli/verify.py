"""``marl verify``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from marl.cli.options import ENV, NUMBER
from marl.cli.output import note, print_json, quiet
from marl.cli.runs import open_run


@dataclass(frozen=True)
class Verify:
    """Check a bundle; with RUN play it beside what it was exported from, and keep the certificate in it."""

    bundle: Annotated[Positional[Path], arg(metavar="DIR")]
    """A bundle that marl export wrote."""
    run_folder: Annotated[Positional[Path | None], arg(metavar="RUN")] = None
    """The run, or checkpoint, that it came from; without it files and programs are checked alone."""
    engine: Annotated[str, arg(metavar="numpy|onnx|torch")] = "numpy"
    """What computes the bundle."""
    states: Annotated[int, NUMBER] = 10_000
    """In how many states each agent's action is compared, at least."""
    episodes: Annotated[int, NUMBER] = 100
    """Of each return."""
    calls: Annotated[int, NUMBER] = 10_000
    """Timed actions of each agent."""
    min_agreement: Annotated[float | None, NUMBER] = None
    """Fail if a smaller share of an agent's greedy actions is equal, such as 1.0."""
    max_difference: Annotated[float | None, NUMBER] = None
    """Fail if outputs differ by more, such as 1e-5."""
    max_drop: Annotated[float | None, NUMBER] = None
    """Fail if a larger share of the gap between random and trained agents is lost, such as 0.02."""
    seed: Annotated[int | None, NUMBER] = None
    """Of the episodes; the run's plus one unless given: not the episodes that chose the checkpoint."""
    processes: bool = True
    """Every exported agent plays in a process of its own, which never imports torch."""
    keep: bool = True
    """Write the certificate into the bundle's manifest."""
    env: Annotated[str | None, ENV] = None
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return verify(self)


def verify(asked: Verify) -> int:
    """``marl verify``."""
    from marl.deploy import verify as prove
    from marl.deploy.playing import open_bundle

    team = open_bundle(asked.bundle, asked.engine)
    if asked.run_folder is None:
        said = {"bundle": str(asked.bundle), "agents": list(team), "bytes": team.size}
        if asked.json:
            print_json({**said, "certificate": team.manifest["certificate"]})
        else:
            print(f"{asked.bundle}: {len(team)} agents, {team.size:,} bytes; names, hashes and programs are right")
            note("name its RUN too to have it played beside what was trained")
        return 0
    path, system = open_run(asked.run_folder, asked.checkpoint, "cpu", asked.trust, asked.env)
    with system, quiet():
        certificate = prove(
            asked.bundle,
            system,
            engine=asked.engine,
            states=asked.states,
            episodes=asked.episodes,
            calls=asked.calls,
            seed=asked.seed if asked.seed is not None else system.seed + 1,
            processes=asked.processes,
            keep=asked.keep,
        )
    if asked.json:
        print_json({"checkpoint": str(path), "bundle": str(asked.bundle), **certificate.to_dict()})
    else:
        print(f"checkpoint {path} (step {system.steps:,})")
        print(certificate)
    certificate.check(asked.min_agreement, asked.max_difference, asked.max_drop)
    return 0

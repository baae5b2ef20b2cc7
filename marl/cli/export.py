"""``marl export``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from marl.cli.options import ENV, NUMBER
from marl.cli.output import print_json, quiet
from marl.cli.runs import open_run
from marl.cli.status import UsageError, need


@dataclass(frozen=True)
class Export:
    """Write a run's agents as a bundle, which marl_runtime runs without torch."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or one of its checkpoints."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where to write; a bundle that is there is replaced."""
    format: Annotated[str, arg(metavar="numpy|torch|onnx")] = "numpy"
    """Programs that numpy and torch run alike, or ONNX graphs beside them (extra export)."""
    quantize: Annotated[str | None, arg(metavar="int8|dynamic|static|fp16")] = None
    """Smaller weights: int8 with a scale for each output channel, or fp16; with --format onnx layers may be computed in
    whole numbers too: dynamic, where that is faster, or static, with ranges that the team is played for."""
    distill: Annotated[str | None, arg(metavar="SIZE,...")] = None
    """First teach a smaller network, an MLP of these hidden sizes, such as 32,32."""
    prune: Annotated[float | None, NUMBER] = None
    """First leave out this share of the units of each hidden layer, and tune the rest, such as 0.5."""
    sweep: bool = False
    """Export in several sizes, each into a folder of DIR, verify all of them, and print the trade."""
    episodes: Annotated[int, NUMBER] = 100
    """With --sweep: of each return."""
    states: Annotated[int, NUMBER] = 10_000
    """With --sweep: in how many states each agent's action is compared."""
    plot: Annotated[Path | None, arg(metavar="FILE")] = None
    """With --sweep: draw return against size (extra plot)."""
    agents: Annotated[str | None, arg(metavar="AGENT,...")] = None
    """Only these agents; all unless given."""
    page: bool = False
    """Write a page beside the agents that runs them in a browser, static files alone."""
    license: Annotated[str, arg(metavar="TEXT")] = ""
    """Under which license others may use the bundle."""
    env: Annotated[str | None, ENV] = None
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return export(self)


def export(asked: Export) -> int:
    """``marl export``."""
    from marl.deploy import distill, prune
    from marl.deploy import export as write
    from marl.nets import MLP

    if asked.out is None:
        raise UsageError("marl export: --out is missing: name the folder to write, such as --out bundle")
    if asked.sweep:
        return _sweep(asked)
    if asked.distill is not None and asked.prune is not None:
        raise UsageError("marl export: --distill and --prune both make a smaller network: choose one")
    sizes = () if asked.distill is None else _sizes(asked.distill)
    if asked.format == "onnx":
        for package in ("onnx", "onnxruntime"):
            need(package, "export")
    names = None if asked.agents is None else [name.strip() for name in asked.agents.split(",")]
    path, system = open_run(asked.run_folder, asked.checkpoint, "cpu", asked.trust, asked.env)
    with system, quiet():
        students = None
        if sizes:
            students = distill(system, MLP(sizes))
        elif asked.prune is not None:
            students = prune(system, asked.prune)
        out = write(
            system,
            asked.out,
            agents=names,
            format=asked.format,
            quantize=asked.quantize,
            students=students,
            page=asked.page,
            license=asked.license,
        )
    written = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    if asked.json:
        print_json({"checkpoint": str(path), "bundle": str(out), "bytes": written})
        return 0
    print(f"checkpoint {path} (step {system.steps:,})")
    print(f"wrote {out}: {sum(written.values()):,} bytes in {len(written)} files")
    if asked.page:
        print(f"open it: python -m http.server --bind 127.0.0.1 --directory {asked.out}")
    if asked.format != "numpy":
        print(f"load it: marl_runtime.load({str(asked.out)!r}, engine={asked.format!r})")
    again = " --trust" * asked.trust + ("" if asked.env is None else f" --env {shlex.quote(asked.env)}")
    print(f"prove it: marl verify {asked.out} {asked.run_folder}{again}")
    return 0


def _sweep(asked: Export) -> int:
    """``marl export --sweep``."""
    from marl.deploy.trade import plot, trade

    assert asked.out is not None
    given_too = {"agents": asked.agents, "quantize": asked.quantize, "license": asked.license, "page": asked.page}
    for option, given in given_too.items():
        if given:
            raise UsageError(f"marl export: --sweep writes all agents in every precision: leave --{option} out")
    if asked.plot is not None:
        need("matplotlib", "plot")
    sizes = (16, 16) if asked.distill is None else _sizes(asked.distill)
    path, system = open_run(asked.run_folder, asked.checkpoint, "cpu", asked.trust, asked.env)
    with system, quiet():
        found = trade(
            system,
            asked.out,
            sizes=[sizes],
            shares=[0.5 if asked.prune is None else asked.prune],
            format=asked.format,
            states=asked.states,
            episodes=asked.episodes,
            seed=system.seed + 1,
        )
    if asked.json:
        print_json({"checkpoint": str(path), "bundles": found.to_dict()})
    else:
        print(f"checkpoint {path} (step {system.steps:,})")
        print(found)
    if asked.plot is not None:
        plot(found, asked.plot)
    return 0


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"marl export: --distill: expected sizes such as 32,32, got {text!r}") from None

"""How fast off-policy learners train, beside peers on the same work in the same run.

    python -m tests.benchmarks.off_policy --python sb3=/path/to/sb3/python jaxmarl=/path/to/jax/python --json rates.json

DQN: CartPole, two layers of 64, batch 64, one update in 4 steps. SAC: Pendulum, two layers of 256, batch 256, one
update a step. MADDPG: simple_spread, 3 agents, 100 copies, batch 1,024, one update of all agents in 100 steps. QMIX and
VDN: simple_spread, 8 copies, a GRU of 64, one update of 32 sequences of 25 steps after an episode of every copy; peers
are a plain torch implementation on the same world, and JaxMARL's world with a loop in plain jax. Overlap: MADDPG on
mpe2's, 50 copies in a worker process, one update in 50 steps, after the environment's steps or during them. Contenders
take turns as in :mod:`tests.benchmarks.throughput`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.protocol import Work
from tests.benchmarks.throughput import Contender, Run, machine, number, plural, tell

WORKS = ("dqn", "sac", "maddpg", "qmix", "vdn", "overlap")
TEAMS = ("qmix", "vdn")  # recurrent, with a mixer


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Measure, print tables; returns what was measured."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.off_policy", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round of one contender (default: 2)")
    parser.add_argument("--python", nargs="*", default=[], metavar="PEER=PATH", help="interpreters of sb3 and jaxmarl")
    parser.add_argument("--device", default="cpu", help="of our own learners (default: cpu)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    pythons = {"sb3": sys.executable, "jaxmarl": sys.executable} | dict(
        entry.split("=", maxsplit=1) for entry in options.python
    )
    run = Run(options.repeats, options.seconds, {}, say)
    run.results["machine"] = here = machine()
    say(f"{here['processor']}, {here['cores']} cores, load {here['load']:.1f} at the start")
    for kind in options.works:
        work = Work(copies=8 if kind in TEAMS else 100, variant=kind)
        starts = [ours(f"{kind}, {plural(t)}", replace(work, threads=t)) for t in options.threads]
        if kind == "overlap":
            spread = replace(work, copies=50, workers=1)
            starts = [ours(name, replace(spread, variant=name)) for name in ("in-turn", "overlap")]
        elif options.device != "cpu":
            gpu = replace(work, device=options.device)
            starts = [ours(f"{kind}, {options.device}", gpu)]
            starts.append(ours(f"{kind}, {options.device}, no graphs", replace(gpu, graphs=False)))
        elif kind in TEAMS:
            starts.append(peer("torch, 1 thread", "torch_q", work, sys.executable))
            starts.append(peer("jaxmarl, 1 thread", "jaxmarl_q", work, pythons["jaxmarl"]))
        elif kind != "maddpg":
            sb3 = "sb3_off_policy", pythons["sb3"]
            starts += [peer(f"sb3, {plural(t)}", sb3[0], replace(work, threads=t), sb3[1]) for t in options.threads]
        with run.rounds(starts) as able:
            run.keep(kind, able)
            base = max((c for c in able if c.ours), key=lambda c: c.rate)
            rows = [[c.name, number(c.rate), f"{base.against(c):.2f}", number(c.per_processor_second)] for c in able]
            head = ("who", "environment steps a second", f"{base.name} / this", "per processor second")
            run.table(kind, head, rows)
    for absence in sorted(set(run.absent)):
        say(f"\nleft out: {absence}")
    if options.json:
        options.json.write_text(json.dumps(run.results, indent=1))
    return run.results


def ours(name: str, work: Work) -> Callable[[], Contender]:
    """A start of marl."""
    return lambda: Contender(name, "off_policy", work)


def peer(name: str, module: str, work: Work, python: str) -> Callable[[], Contender]:
    """A start of somebody else."""
    return lambda: Contender(name, module, work, python, ours=False)


if __name__ == "__main__":
    main()

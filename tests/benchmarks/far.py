"""How fast PPO learns where the environment is stepped by other processes, beside RLlib in the same run.

    python -m tests.benchmarks.far --python /path/to/rllib/python --json far.json

mpe2's spread, one policy for its three agents, two processes that step the copies, one thread each: our worker
processes, our actors on a Ray cluster, and RLlib's PPO, APPO and IMPALA with as many env runners. PPO has rollouts of
128 steps and 4 epochs of 4 minibatches everywhere. Contenders take turns as in :mod:`tests.benchmarks.throughput`.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.far_ours import PLACES
from tests.benchmarks.peers.protocol import Work
from tests.benchmarks.throughput import Contender, Run, best, columns, machine, rate_row, say_ratios, tell

RIVALS = ("ppo", "appo", "impala")


def starts(options: argparse.Namespace) -> Iterator[Callable[[], Contender]]:
    """Everybody."""
    work = Work(copies=options.copies, workers=options.workers, world="mpe2")
    for place in options.ours:
        yield functools.partial(Contender, place, "far_ours", replace(work, variant=place))
    for rival in options.rivals:
        one = replace(work, variant=rival)
        yield functools.partial(Contender, f"rllib {rival}", "rllib", one, options.python, ours=False)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Measure, print a table; returns what was measured."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.far", description=about)
    parser.add_argument("--ours", nargs="*", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--copies", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="processes that step the copies (default: 2)")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has ray[rllib] (default: this one)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round of one contender (default: 5)")
    parser.add_argument(
        "--pause",
        type=float,
        default=15.0,
        help="seconds before each turn, while others' actors end (default: 15)",
    )
    parser.add_argument("--json", type=Path, help="also write everything measured there")
    options = parser.parse_args(arguments)
    run = Run(options.repeats, options.seconds, {}, say, pause=options.pause)
    run.results["machine"] = here = machine()
    say(f"{here['processor']}, {here['cores']} cores, load {here['load']:.1f} at the start")
    with run.rounds(starts(options)) as able:
        run.keep("far", able)
        base = best(c for c in able if c.ours)
        title = f"mpe2, E={options.copies}, {options.workers} processes: environment steps a second"
        rows = [rate_row(contender, base)[:-1] for contender in able]  # others use processor time of their own
        run.table(title, columns(base)[:-1], rows)
        say_ratios(run, "mpe2", able, base)
    run.results["absent"] = sorted(set(run.absent))
    for absence in run.results["absent"]:
        say(f"\nleft out: {absence}")
    if options.json:
        options.json.write_text(json.dumps(run.results, indent=1))
    return run.results


if __name__ == "__main__":
    main()

"""How fast PPO with memory or with convolutions learns for one agent, beside stable-baselines3 in the same run.

    python -m tests.benchmarks.single --python /path/to/sb3/python --json single.json
    python -m tests.benchmarks.single --works cartpole --learn --python /path/to/sb3/python

Eight copies in one process, rollouts of 128 steps, 4 epochs of 4 minibatches, one thread. CartPole without velocities:
a layer, a GRU or an LSTM of 64 and an output for each of actor and critic, whole rollouts, beside SB3-contrib's
RecurrentPPO with the same layers (``lstm``) and with its own (``lstm-own``). A square on an image: the default
convolutions on 84 x 84 x 4 and two small ones on 7 x 7 x 3, ``shared`` by actor and critic or ``apart``, beside SB3's
``CnnPolicy`` with the same. Contenders take turns as in :mod:`tests.benchmarks.throughput`; ``--learn`` trains each
from several seeds instead and shows what its greedy policy reaches.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.protocol import Work
from tests.benchmarks.throughput import (
    Contender,
    Run,
    best,
    columns,
    machine,
    number,
    plural,
    rate_row,
    say_ratios,
    tell,
)

SMALL = Work(copies=8, agents=1)
WORKS = {
    "cartpole": replace(SMALL, world="cartpole", lr=1e-3, limit=200_000),
    "square-84": replace(SMALL, world="square-84", hidden=512, limit=50_000),
    "square-7": replace(SMALL, world="square-7", lr=1e-3, limit=200_000),
}
OURS = {"cartpole": ("gru", "lstm"), "square-84": ("shared", "apart"), "square-7": ("shared", "apart")}
PEERS = {"cartpole": ("lstm", "lstm-own"), "square-84": ("shared", "apart"), "square-7": ("shared", "apart")}


def starts(work: Work, options: argparse.Namespace) -> Iterator[Callable[[], Contender]]:
    """Everybody who does ``work``."""
    for variant in OURS[work.world]:
        if variant in options.variants:
            name = f"{variant}, {plural(work.threads)}"
            yield functools.partial(Contender, name, "single_ours", replace(work, variant=variant))
    for variant in PEERS[work.world]:
        if variant in options.variants:
            name, one = f"sb3 {variant}, {plural(work.threads)}", replace(work, variant=variant)
            yield functools.partial(Contender, name, "single_sb3", one, options.python, ours=False)


def rates(run: Run, work: Work, options: argparse.Namespace) -> None:
    """Environment steps a second, in turns."""
    with run.rounds(starts(work, options)) as able:
        run.keep(work.world, able)
        base = best(c for c in able if c.ours)
        title = f"{work.world}, E={work.copies}: environment steps a second"
        run.table(title, columns(base), [rate_row(contender, base) for contender in able])
        say_ratios(run, work.world, able, base)


def learn(run: Run, work: Work, options: argparse.Namespace) -> None:
    """Greedy returns after a fixed number of steps, seed after seed, contender after contender."""
    work = replace(work, part="learn", limit=options.steps or work.limit)
    with run.started(starts(work, options)) as able:
        for seed in options.seeds:
            for contender in able:
                contender.answers.append(answer := contender.ask(seed))
                run.say(f"seed {seed}, {contender.name}: {answer['return']:.1f} after {answer['steps']:,} steps")
    run.results[f"{work.world} learning"] = [{"name": c.name, "answers": c.answers} for c in able]
    rows = []
    for contender in able:
        reached = [answer["return"] for answer in contender.answers]
        rate = statistics.median(answer["steps"] / answer["training_seconds"] for answer in contender.answers)
        each = ", ".join(f"{value:.1f}" for value in reached)
        rows.append([contender.name, f"{statistics.mean(reached):.1f}", each, number(rate)])
    head = ("who", "mean return", "each seed", "environment steps a second")
    run.table(f"{work.world}, greedy returns after {work.limit:,} steps", head, rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.single", description=about)
    every = sorted({name for names in (*OURS.values(), *PEERS.values()) for name in names})
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--variants", nargs="+", choices=every, default=every, help="of ours and of peers")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has sb3-contrib (default: this one)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round of one contender (default: 3)")
    parser.add_argument("--learn", action="store_true", help="greedy returns instead of rates")
    parser.add_argument("--steps", type=int, default=0, help="of learning (default: as the work says)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, help="also write everything measured there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = tell) -> dict[str, Any]:
    """Measure, print tables; returns what was measured."""
    options = parse(arguments)
    run = Run(options.repeats, options.seconds, {}, say)
    run.results["machine"] = here = machine()
    say(f"{here['processor']}, {here['cores']} cores, load {here['load']:.1f} at the start")
    for name in options.works:
        (learn if options.learn else rates)(run, WORKS[name], options)
    run.results["absent"] = sorted(set(run.absent))
    for absence in run.results["absent"]:
        say(f"\nleft out: {absence}")
    if options.json:
        options.json.write_text(json.dumps(run.results, indent=1))
    return run.results


if __name__ == "__main__":
    main()

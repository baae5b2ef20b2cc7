"""What several ranks buy: environment steps a second of one process, of worker processes, and of ranks, in turns.

    python -m tests.benchmarks.ranks --json ranks.json

IPPO on mpe2's spread, 32 copies in all, as whole commands. ``training`` counts from the first row of metrics, after
imports, compilation and the launcher's start, to the last row; ``command`` counts everything. ``2 apart`` are two
processes that train at the same time with half of the copies and steps each, and know nothing of each other: what the
machine's cores give two of anything, which no ranks can exceed. ``sums`` is the part of a rank's updates in which it
adds up with the others, or waits for them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.throughput import environment, machine, tell

TRAIN = ("-m", "marl", "train", "mpe2.simple_spread_v3", "--algorithm", "ippo", "--quiet", "--episodes", "2")
RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
WAYS: dict[str, tuple[int, tuple[str, ...]]] = {  # how many commands at once, and each
    "one process": (1, TRAIN),
    "2 apart": (2, TRAIN),
    "2 workers": (1, (*TRAIN, "--workers", "2")),
    "2 ranks": (1, (*RANKS, "2", *TRAIN)),
    "4 ranks": (1, (*RANKS, "4", *TRAIN)),
}


def measure(way: str, steps: int, copies: int, folder: Path) -> dict[str, float]:
    """Steps a second of all commands of a way, and the part of updates that sums take."""
    count, command = WAYS[way]
    words = ["--num-envs", str(copies // count), "--steps", str(steps // count)]
    one_thread = environment() | {"OMP_NUM_THREADS": "1"}
    runs = [folder / str(number) for number in range(count)]
    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            [sys.executable, *command, *words, "--run-dir", str(run)],
            env=one_thread, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for run in runs
    ]  # fmt: skip
    if any(process.wait() for process in processes):
        raise RuntimeError(f"{way}: a command failed")
    took, rate, sums = time.perf_counter() - began, 0.0, 0.0
    for run in runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        rate += (rows[-1]["steps"] - rows[0]["steps"]) / (rows[-1]["seconds"] - rows[0]["seconds"])
        spent = json.loads((run / "summary.json").read_text())["spent"]
        sums = spent.get("sums", 0.0) / spent["learning"]
    return {"training": rate, "command": steps / took, "sums": sums}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print medians, and medians of the ratios to the first way."""
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ranks", description=about)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int, default=65_536)
    parser.add_argument("--copies", type=int, default=32, help="of all ranks together (default: 32)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write everything measured there")
    options = parser.parse_args(arguments)
    here = machine()
    tell(f"{here['processor']}, {here['cores']} cores, load {here['load']:.1f} at the start")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
    for _ in range(options.repeats):
        for way, rates in found.items():
            with tempfile.TemporaryDirectory() as folder:
                rates.append(measure(way, options.steps, options.copies, Path(folder)))
    base = found[options.ways[0]]

    def said(rates: list[dict[str, float]], kind: str) -> str:
        ratio: Any = statistics.median(rate[kind] / one[kind] for rate, one in zip(rates, base, strict=True))
        return f"{statistics.median(rate[kind] for rate in rates):,.0f} ({ratio:.2f})"

    for way, rates in found.items():
        sums = statistics.median(rate["sums"] for rate in rates)
        tell(
            f"{way:12} steps a second: training {said(rates, 'training')}, command {said(rates, 'command')}; "
            f"sums {sums:.0%} of updates"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": here, "found": found}, indent=1))


if __name__ == "__main__":
    main()

"""What stacking saves: processor seconds of members trained as one, alone, and of one run with all their copies.

``python -m tests.benchmarks.stacked`` takes turns and prints medians; ``--commands`` also runs 16 commands of ``marl
train`` one after the other, and the study of the same cells with ``--stacked``.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import marl
from marl import parallel
from marl.studies import train_stacked

MEMBERS, COPIES = 16, 8
ENV = "marl/spread-v0"
STUDY = """
import marl

study = marl.Study(
    name="stacked", tasks=["{env}"], algorithms={{"ippo": marl.ippo()}}, seeds={members}, steps={steps},
    settings=["num_envs={copies}"], episodes=2, evaluate_every={steps}, evaluate_episodes=2,
)
"""


def system(seed: int, copies: int = COPIES) -> marl.MultiAgentSystem:
    """One member."""
    return marl.MultiAgentSystem(marl.ippo(), ENV, num_envs=copies, seed=seed)


def measure(steps: int) -> dict[str, float]:
    """Processor seconds of training alone; systems are made before."""
    found = {}
    members, wide = [system(seed) for seed in range(MEMBERS)], system(0, COPIES * MEMBERS)
    alone = [system(seed) for seed in range(MEMBERS)]
    began = time.process_time()
    train_stacked(members, steps)
    found["stacked"], began = time.process_time() - began, time.process_time()
    wide.train(steps * MEMBERS)
    found["one run with all copies"], began = time.process_time() - began, time.process_time()
    for member in alone:
        member.train(steps)
    found["one after the other"] = time.process_time() - began
    return found


def commands(steps: int, folder: Path) -> dict[str, float]:
    """Processor seconds of whole commands, everything included."""

    def seconds(*words: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "marl", *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    file = folder / "stacked_study.py"
    file.write_text(STUDY.format(env=ENV, members=MEMBERS, steps=steps, copies=COPIES))
    train = ("train", ENV, "--algorithm", "ippo", "--num-envs", str(COPIES), "--steps", str(steps), "--threads", "1")
    ends = ("--episodes", "2", "--evaluate-every", str(steps), "--evaluate-episodes", "2", "--quiet")
    alone = [
        seconds(*train, *ends, "--seed", str(seed), "--run-dir", str(folder / f"run-{seed}")) for seed in range(MEMBERS)
    ]
    return {
        "marl study run --stacked": seconds("study", "run", str(file), "--out", str(folder / "out"), "--stacked"),
        "16 times marl train": sum(alone),
    }


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4096, help="of each member")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commands", action="store_true")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    parallel.set_threads(1)
    train_stacked([system(seed) for seed in range(2)], 1024)  # compile
    rounds = [measure(asked.steps) for _ in range(asked.rounds)]
    for name in rounds[0]:
        print(f"{name}: {statistics.median(one[name] for one in rounds):.2f} s of processor time")
    for name in ("one run with all copies", "one after the other"):
        ratio = statistics.median(one["stacked"] / one[name] for one in rounds)
        print(f"stacked / {name}: {ratio:.2f}")
    if asked.commands:
        with tempfile.TemporaryDirectory() as folder:
            for name, took in commands(asked.steps, Path(folder)).items():
                print(f"{name}: {took:.1f} s of processor time")


if __name__ == "__main__":
    main()

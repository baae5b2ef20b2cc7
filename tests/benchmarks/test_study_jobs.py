"""What a second job buys: seconds of a study with one process and with two, in turns; the median of three counts.

Run with ``pytest tests/benchmarks/test_study_jobs.py -m slow -s`` on a machine that does nothing else, or as a script.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import pytest

from marl import parallel
from marl.cli import main

ROUNDS = 3
STUDY = """
import marl

study = marl.Study(
    name="jobs",
    tasks=["marl/spread-v0"],
    algorithms={"ippo": marl.ippo(rollout=25), "vdn": marl.vdn(learning_starts=1_000)},
    settings=["num_envs=16"],
    seeds=4,
    steps=60_000,
    evaluate_episodes=16,
)
"""


def seconds(jobs: int, folder: Path) -> float:
    """Of the whole command, from nothing to the last cell."""
    (folder / "jobs.py").write_text(STUDY)
    out = folder / f"out-{jobs}"
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    assert main(["study", "run", str(folder / "jobs.py"), "--out", str(out), "--jobs", str(jobs), "--quiet"]) == 0
    return time.perf_counter() - began


def measure(folder: Path) -> dict[int, float]:
    """The median of each number of jobs; what is compiled once is compiled before."""
    seconds(1, folder)
    took: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for jobs, found in took.items():
            found.append(seconds(jobs, folder))
    return {jobs: statistics.median(found) for jobs, found in took.items()}


def report(median: dict[int, float]) -> str:
    """In words."""
    return f"study of 8 cells: one job {median[1]:.1f} s, two jobs {median[2]:.1f} s ({median[2] / median[1]:.2f})"


def test_two_jobs_take_at_most_six_tenths_of_the_time_of_one(tmp_path):
    if parallel.available_cores() < 2:
        pytest.skip("needs two cores")
    median = measure(tmp_path)
    print("\n" + report(median))
    assert median[2] <= 0.6 * median[1]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(report(measure(Path(place))))

"""The throughput benchmark runs: every section of it at the smallest size, in seconds."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import throughput

pytestmark = pytest.mark.slow
SMALL = ["--copies", "4", "--threads", "1", "--repeats", "2", "--seconds", "0.05"]


def test_rates_ratios_and_profile(tmp_path):
    lines: list[str] = []
    path = tmp_path / "rates.json"
    found = throughput.main(
        [*SMALL, "--variants", "ippo", "independent", "--profile", "--json", str(path)], lines.append
    )
    assert json.loads(path.read_text())["rates"][1]["rate"] == found["rates"][1]["rate"]
    world, ippo, independent = found["rates"]
    assert world["rate"] > ippo["rate"] > 0
    assert set(throughput.PARTS) <= set(ippo["parts"])
    assert independent["work"]["variant"] == "independent"
    assert "rates E=4 independent / ippo" in found["ratios"]
    (profile,) = found["profile"]
    # Every part is found: otherwise the profile's list of methods is behind the code.
    assert {"stepping", "acting", "storing", "advantages", "forward", "backward", "optimizer"} <= set(profile["parts"])
    assert abs(sum(profile["parts"].values()) * profile["rate"] - 1) < 0.2
    assert any("share of the matrix limit" in line for line in lines)


def measured(name: str, variant: str, rates: list[float], ours: bool = True) -> throughput.Contender:
    """A contender with such rates, without a process."""
    contender = throughput.Contender.__new__(throughput.Contender)
    contender.name, contender.work, contender.ours = name, throughput.Work(variant=variant), ours
    contender.answers = [{"steps": rate, "seconds": 1.0} for rate in rates]
    return contender


def test_every_variant_is_compared_with_every_peer_by_its_fastest():
    able = [
        measured("recurrent-whole, 1 thread", "recurrent-whole", [10, 20, 40]),
        measured("recurrent-whole, 2 threads", "recurrent-whole", [20, 40, 80]),
        measured("lstm, 1 thread", "lstm", [5, 10, 20]),
        measured("one, 1 thread", "ippo", [5, 5, 5], ours=False),
        measured("other, 1 thread", "ippo", [20, 20, 20], ours=False),
    ]
    run = throughput.Run(3, 1.0, {}, lambda line: None)
    throughput.say_ratios(run, "here", able, able[0])
    assert run.results["ratios"] == {
        "here recurrent-whole / one": 8.0,
        "here recurrent-whole / other": 2.0,
        "here lstm / one": 2.0,
        "here lstm / other": 0.5,
        "here lstm / recurrent-whole": 0.5,
    }


def test_recurrent_variants_run_without_a_plain_one():
    options = ["--variants", "recurrent-whole", "lstm", "mappo-recurrent"]
    found = throughput.main([*SMALL, *options], lambda line: None)
    assert [row["work"]["variant"] for row in found["rates"][1:]] == options[1:]
    assert len(found["ratios"]) == 2  # of the others to the fastest


def test_growth_with_its_plot(tmp_path):
    plot = tmp_path / "growth.png"
    options = ["--growth", "--growth-agents", "2", "3", "--growth-copies", "1", "2", "--plot", str(plot)]
    found = throughput.main([*SMALL, "--variants", *options], lambda line: None)
    grown = [rows for name, rows in found.items() if name.startswith("growth")]
    assert [len(rows) for rows in grown] == [2, 2, 2]
    assert plot.stat().st_size > 1_000


def test_a_peer_that_is_not_installed_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise ImportError('no jax here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines: list[str] = []
    found = throughput.main([*SMALL, "--peers", "jaxmarl"], lines.append)
    assert [absence for absence in found["absent"] if absence.startswith("jaxmarl")]
    assert any("left out: jaxmarl" in line for line in lines)


def test_a_contender_that_fails_says_why():
    contender = throughput.Contender("ours", "ours", throughput.Work(part="nonsense"))
    try:
        with pytest.raises(RuntimeError, match="KeyError"):
            contender.ready()
    finally:
        contender.stop()

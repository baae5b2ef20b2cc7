"""Curves are kept by seed and drawn."""

from pathlib import Path

import pytest

from tests.benchmarks import curves, learning


def test_a_training_leaves_its_curve_and_a_seed_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning.parallel, "_threads", 1)
    table = tmp_path / "catch.csv"
    arguments = ["catch", "--steps", "400", "--curves", str(tmp_path), "--seeds"]
    learning.main([*arguments, "0", "1"])
    first = curves.read(table)
    assert [point.seed for point in first] == [0] * curves.POINTS + [1] * curves.POINTS
    assert all(-1 <= point.result <= 1 for point in first)
    assert [point.steps for point in first[: curves.POINTS]] == sorted(
        {point.steps for point in first}
    )  # both seeds were looked at after the same steps
    learning.main([*arguments, "1"])
    assert curves.read(table) == first


def test_a_picture_has_a_panel_for_every_table(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one", "two", "three", "four", "five"):
        curves.keep(tmp_path / f"{name}.csv", [curves.Point(0, step, -step / 2) for step in range(1, 4)])
    curves.main([str(tmp_path), str(tmp_path / "img" / "curves.png")])
    assert (tmp_path / "img" / "curves.png").stat().st_size > 10_000

"""What an action costs is measured for every contender."""

from __future__ import annotations

from tests.benchmarks.deploy import main


def test_the_table_has_a_row_for_each(capsys):
    main(["--calls", "20", "--networks", "MLP 64-64"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| MLP")]
    assert len(rows) >= 3

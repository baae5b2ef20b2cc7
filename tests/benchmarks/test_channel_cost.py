"""What a channel costs is measured, and an agent's talk does not grow dearer with the number of agents."""

from __future__ import annotations

from tests.benchmarks.channel_cost import CONTENDERS, cost, main


def test_an_agents_step_is_no_dearer_in_a_larger_team():
    names = ["MLP, TarMAC(rounds=1)"]
    few, many = cost(3, 3, names)[names[0]], cost(12, 3, names)[names[0]]
    assert many[0] < few[0]  # a loop over agents or edges would cost each as much as before, or more


def test_the_table_has_a_row_for_each(capsys):
    main(["--agents", "2", "--rounds", "1"])
    rows = capsys.readouterr().out.strip().splitlines()
    assert len(rows) == 2 + len(CONTENDERS)
    assert all("%" in row for row in rows[3:6])

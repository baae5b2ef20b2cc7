"""What it costs to read an algorithm from the environment's step to the gradient, as docs/architecture.md says it."""

from __future__ import annotations

import pytest

from tests.reading import BYSTANDERS, PATHS, ROOT, VOCABULARY, is_vocabulary, lines, ran, table

LOWEST = ("| L0", "| L1")


def test_the_architecture_page_has_the_same_table():
    """If this fails: python -m tests.reading."""
    page = (ROOT.parent / "docs" / "architecture.md").read_text().splitlines()
    assert [line for line in page if line in table()] == table()


def test_the_vocabulary_is_the_two_lowest_levels():
    rows = [line for line in (ROOT.parent / "docs" / "architecture.md").read_text().splitlines() if line[:4] in LOWEST]
    assert [word.strip("`") for row in rows for word in row.split("|")[2].split()] == list(VOCABULARY)


@pytest.mark.parametrize("name", PATHS)
def test_nothing_else_runs_on_the_way_and_all_of_it_does(name):
    make, files = PATHS[name]
    found = {file for file in ran(make()) if not is_vocabulary(file)}
    assert found - {*files, *BYSTANDERS} == set(), "put it into PATHS, where a reader should open it too"
    assert set(files) - found == set(), "nobody needs to open this"


@pytest.mark.parametrize("name", PATHS)
def test_an_algorithm_is_read_in_nine_files_and_3000_lines(name):
    files = PATHS[name][1]
    assert len(files) <= 9
    assert sum(map(lines, files)) <= 3_000


def test_the_facade_is_short():
    assert lines("system.py") < 300

"""The docs tell the truth: their Python runs, and their links lead somewhere."""

from __future__ import annotations

import re
import sys
import types
from fractions import Fraction
from pathlib import Path

import pytest

import marl

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>\w+): (?P<reason>.*?) -->\n)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
STEPS, EPISODES = 3_200, 3  # no training on a page takes more than this here


def blocks(page: Path) -> list[tuple[int, str]]:
    """Line and code of every block to run. ``<!-- skip: reason -->`` above a block leaves it out; ``<!-- world: ...
    -->`` marks those that tests/worlds runs."""
    text = page.read_text()
    return [
        (text.count("\n", 0, found.start("code")) + 1, found["code"])
        for found in BLOCK.finditer(text)
        if found["mark"] not in ("skip", "world")
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_python_on_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    train, evaluate = marl.MultiAgentSystem.train, marl.MultiAgentSystem.evaluate

    def short_train(self, steps=None, *arguments, **keywords):
        return train(self, min(steps or STEPS, STEPS), *arguments, **keywords)

    def short_evaluate(self, episodes=EPISODES, **keywords):
        return evaluate(self, min(episodes, EPISODES), **keywords)

    monkeypatch.setattr(marl.MultiAgentSystem, "train", short_train)
    monkeypatch.setattr(marl.MultiAgentSystem, "evaluate", short_evaluate)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for line, code in blocks(page):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), vars(module))


def anchors(page: Path) -> set[str]:
    """Where links into a page may point: its headings, as mkdocs and GitHub name them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for found in LINK.finditer(text):
        target, _, anchor = found["target"].partition("#")
        if "://" in target:
            continue
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{page.name}: [{target}] does not exist"
        if anchor and place.name == "api.md":
            there = f"::: {anchor}\n" in place.read_text() or anchor in anchors(place)
            assert there, f"{page.name}: {anchor} is not on the API page"
        elif anchor and place.name == "api-ops.md":
            assert anchor.removeprefix("marl.ops.") in marl.ops.__all__, f"{page.name}: {anchor} is not in marl.ops"
        elif anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page.name}: {target} has no heading #{anchor}"


def test_every_page_is_in_the_table_of_contents():
    contents = (ROOT / ".ci" / "mkdocs.yml").read_text().partition("\nnav:")[2]
    listed = set(re.findall(r": (\S+\.md)$", contents, flags=re.MULTILINE))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_table_of_tuned_defaults_is_what_recipes_bring():
    lines = (ROOT / "docs" / "recipes.md").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("| recipes | batch"))
    fields = [cell.strip().replace(" ", "_") for cell in lines[start].strip("|").split("|")][1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : start + 4]]
    seen = [name for row in rows for name in row[0].strip("`").split()]
    assert len(seen) == len(set(seen)) == 12
    for names, *numbers in rows:
        for name in names.strip("`").split():
            settings = getattr(marl, name)()
            for field, number in zip(fields, numbers, strict=True):
                assert getattr(settings, field) == float(Fraction(number.replace(",", ""))), (name, field)

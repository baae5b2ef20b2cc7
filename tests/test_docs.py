"""The docs tell the truth: their Python runs, and their links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
import types
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import marl
from marl.cli import main
from marl.cli.parsing import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>\w+): (?P<reason>.*?) -->\n)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
SHELL = re.compile(r"^```sh\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
WORDS = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")  # code within a sentence
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


def commands(text: str) -> list[list[str]]:
    """The words of every ``marl`` command in the shell blocks of a text."""
    lines = [line for found in SHELL.finditer(text) for line in found["code"].splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("marl ")]


@pytest.fixture
def short(monkeypatch):
    """Train and evaluate little."""
    train, evaluate = marl.MultiAgentSystem.train, marl.MultiAgentSystem.evaluate

    def short_train(self, steps=None, *arguments, **keywords):
        return train(self, min(steps or STEPS, STEPS), *arguments, **keywords)

    def short_evaluate(self, episodes=EPISODES, **keywords):
        return evaluate(self, min(episodes, EPISODES), **keywords)

    monkeypatch.setattr(marl.MultiAgentSystem, "train", short_train)
    monkeypatch.setattr(marl.MultiAgentSystem, "evaluate", short_evaluate)


# Pages that make files, and give commands beside a session of Python.
FROM_NOTHING = ("tutorial", "studies", "populations")
RUN = [page for page in PAGES if blocks(page) and page.stem not in FROM_NOTHING]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_python_on_a_page_runs_from_top_to_bottom(page, short, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for line, code in blocks(page):
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), vars(module))


def shortened(words: list[str]) -> list[str]:
    """The same command for few steps and episodes."""
    few = {
        "train": {"--steps": STEPS, "--episodes": EPISODES},
        "check": {"--steps": 100},
        "plot": {},
        "play": {},
        "study": {},
        "population": {},
        "report": {},
    }
    wanted = {option: str(number) for option, number in few.get(words[0], {"--episodes": EPISODES}).items()}
    kept = [word for n, word in enumerate(words) if not {word, words[n - 1]} & wanted.keys()]
    return kept + [word for pair in wanted.items() for word in pair]


@pytest.mark.parametrize("name", FROM_NOTHING)
def test_the_page_works_from_nothing_in_an_empty_folder(name, short, tmp_path, monkeypatch, capfd):
    """Blocks with a title are files, the other blocks of Python a session, the commands a terminal beside it."""
    page = ROOT / "docs" / f"{name}.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    session = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", session)
    done = {"file": 0, "python": 0, "command": 0}
    fences = re.compile(r'^```(python|sh)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
    for kind, title, code in fences.findall(page.read_text()):
        if title:
            (tmp_path / title).write_text(code)
            done["file"] += 1
        elif kind == "python":
            exec(compile(code, str(page), "exec"), vars(session))
            done["python"] += 1
        for words in commands(f"```sh\n{code}```") if kind == "sh" else ():
            assert main(shortened(words)) == 0, (words, capfd.readouterr().err)
            done["command"] += 1
    torch.set_num_threads(1)  # a command may have changed it
    assert min(done.values()) >= 2, done


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page.read_text())], ids=lambda page: page.stem)
def test_the_commands_on_a_page_are_commands_with_these_options(page):
    for words in commands(page.read_text()):
        parse(words)


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "changelog"], ids=lambda page: page.stem)
def test_names_in_the_text_of_a_page_exist(page):
    """``marl.some.name``, and expressions of such names: ``marl.PPO(clip=0.1)`` has the settings that it says."""
    for text in WORDS.findall(FENCE.sub("", page.read_text())):
        if text in GROUPS:
            continue
        for name in re.findall(r"\bmarl(?:\.[A-Za-z]\w*)+(?![\w./-])", text):
            assert exists(name), f"{page.name}: `{text}`: there is no {name}"
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError:
            continue
        free = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        if free <= {"marl", "torch"} and calls and not calls & ACTIONS and "..." not in text:
            eval(compile(tree, f"{page.name}: {text}", "eval"), {"marl": marl, "torch": torch})


GROUPS = {f"marl.{group}" for group in ("environments", "loggers", "scenarios", "settings")}  # of entry points
ACTIONS = {  # calls that do something, or whose arguments stand for what a reader has
    *("marl.compiled.use", "marl.conformance.check", "marl.MultiAgentSystem", "marl.MultiAgentSystem.load"),
    *("marl.Agent.load", "marl.reduce.use", "marl.reduce.current"),
}


def exists(name: str) -> bool:
    """Whether a dotted name can be imported."""
    parts, place = name.split("."), marl
    for number, part in enumerate(parts[1:], 2):
        if not hasattr(place, part):
            try:
                importlib.import_module(".".join(parts[:number]))
            except ImportError:
                return False
        place = getattr(place, part)
    return True


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

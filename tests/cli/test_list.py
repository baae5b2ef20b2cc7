"""``marl list`` tells of scenarios, learners and recipes without running their files."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from marl.cli import listing
from marl.cli.list import _facts
from marl.cli.output import first_line
from marl.installed import SCENARIOS, installed_scenarios
from marl.learners import LEARNERS, Random
from marl.recipes import PLAIN
from marl.recipes import recipes as real_recipes
from tests.support.commands import finish, start

LOOK = """
import sys
from marl.cli import main
code = main()
assert "torch" not in sys.modules, "PyTorch was imported"
assert not any(name.startswith(("marl_scenarios.", "marl_envs.")) for name in sys.modules)
sys.exit(code)
"""


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_the_list_imports_neither_torch_nor_a_scenario(words):
    said = finish(start("list", *words, code=LOOK))
    assert (said.code, said.err) == (0, "")
    if words:
        assert set(json.loads(said.out)) == {"scenarios", "studies", "learners", "recipes"}


def test_what_is_read_from_files_is_what_running_them_says():
    for name, point in installed_scenarios().items():
        assert listing.facts_of(point) == _facts(name), name
    assert listing.recipes() == {name: first_line(recipe) for name, recipe in real_recipes().items()}
    assert listing.learners() == {cls.__name__: first_line(cls) for cls in (*LEARNERS, Random)}
    assert list(listing.learners()) == [cls.__name__ for cls in (*LEARNERS, Random)]
    assert listing.plain_names() == PLAIN


PLAIN_FILE = """
import marl

shared = {"rollout": 8}
scenario = marl.Scenario(name="odd", about="odd", env="CartPole-v1", agents=marl.ippo(**shared), steps=10, extra="mpe")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a scenario's file into a package; returns the entry point of it."""
    (tmp_path / "odd_tasks").mkdir()
    (tmp_path / "odd_tasks" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def write(text):
        (tmp_path / "odd_tasks" / "odd.py").write_text(text)
        listing.names_in.cache_clear()
        return EntryPoint("odd", "odd_tasks.odd:scenario", SCENARIOS)

    return write


@pytest.mark.parametrize(
    ("this", "instead", "algorithm"),
    [
        ("", "", "ppo"),
        ("marl.ippo(**shared)", "marl.DQN()", "dqn"),
        ("marl.ippo(**shared)", "{'a_*': marl.mappo(), 'b_*': marl.SAC(), 'c': marl.mappo()}", "mappo, sac"),
        ("marl.ippo(**shared)", "marl.vdn(lr=marl.Linear(1e-3, 1 / 10_000))", "vdn"),
        ("marl.ippo(**shared)", "marl.ippo(critic=marl.Joint())", None),
        ("marl.ippo(**shared)", "marl.DQN(**values)", None),
        ("marl.ippo(**shared)", "mine.reinforce()", None),
        ("marl.ippo(**shared)", "marl.ippo if shared else None", None),
        ("steps=10", "steps=10 * 2", None),
        ("steps=10, ", "", None),
        ('about="odd"', 'about=f"{shared}"', None),
        ("import marl\n", "from marl import Scenario\nimport marl\nmarl = 3\n", None),
        ("shared = ", "if True:\n    shared = ", None),
        ("import marl", "import marl as library", None),
        ("import marl", "import marl, (", None),
    ],
)
def test_only_what_is_plain_is_read_and_nothing_is_run(this, instead, algorithm, package):
    found = listing.facts_of(package(PLAIN_FILE.replace(this, instead) if this else PLAIN_FILE))
    if algorithm is None:
        assert found is None
        return
    said = {"expect": "", "steps": 10, "extra": "mpe"}
    assert found == {"about": "odd", **said, "algorithms": {algorithm: said}}


def test_a_file_that_is_not_plain_is_run(package, monkeypatch, tmp_path, marl_command):
    point = package(PLAIN_FILE.replace("steps=10", "steps=10 * 2"))
    (tmp_path / "odd_tasks" / "__init__.py").write_text("")
    for module in ("marl.installed", "marl.scenario", "marl.cli.list"):
        monkeypatch.setattr(f"{module}.installed_scenarios", lambda: {"odd": point})
    assert json.loads(marl_command("list", "--json").out)["scenarios"]["odd"]["steps"] == 20

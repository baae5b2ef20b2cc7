"""Scenarios of installed packages: an entry point names one, or a package with one in each file."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from marl import received
from marl.installed import SCENARIOS as GROUP
from marl.scenario import find, names
from marl.types import CheckpointError, ConfigError

TASK = "import marl\n\nscenario = marl.Scenario(name={name!r}, env='CartPole-v1', agents=marl.ippo())\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lets entry points be installed, beside a package ``tasks_of_mine`` with the scenarios ``walk`` and ``run``."""
    package = tmp_path / "tasks_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("walk", "run"):
        (package / f"{name}.py").write_text(TASK.format(name=name))
    (package / "_shared.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def entry_points(**points):
        table = [EntryPoint(name, value, GROUP) for name, value in points.items()]
        monkeypatch.setattr("marl.installed.entry_points", lambda group: table if group == GROUP else [])
        return package

    yield entry_points
    for module in [name for name in sys.modules if name.startswith("tasks_of_mine")]:
        del sys.modules[module]


def test_an_entry_point_of_a_package_gives_every_public_file_in_it(install):
    install(mine="tasks_of_mine")
    assert names() == ["run", "walk"]
    scenario = find("walk")
    assert (scenario.name, scenario.reference) == ("walk", "walk")


def test_listing_names_imports_no_scenario(install):
    install(mine="tasks_of_mine")
    names()
    assert "tasks_of_mine.walk" not in sys.modules


def test_a_new_file_is_found_without_another_install(install):
    package = install(mine="tasks_of_mine")
    assert "swim" not in names()
    (package / "swim.py").write_text(TASK.format(name="swim"))
    assert names() == ["run", "swim", "walk"]
    assert find("swim").name == "swim"


def test_an_entry_point_of_one_scenario_gives_that_one_under_its_name(install):
    install(stroll="tasks_of_mine.walk:scenario")
    assert names() == ["stroll"]
    assert find("stroll").name == "walk"
    with pytest.raises(ConfigError, match="did you mean 'stroll'"):
        find("strol")


def test_both_kinds_may_name_the_same_scenario(install):
    """As where files are newer than the installation that lists them."""
    install(walk="tasks_of_mine.walk:scenario", mine="tasks_of_mine")
    assert names() == ["run", "walk"]
    assert find("walk").name == "walk"


def test_a_file_without_a_scenario_and_a_package_that_is_gone_are_named(install):
    package = install(mine="tasks_of_mine", gone="no_such_package_of_mine")
    (package / "rules.py").write_text("x = 1\n")
    assert names() == ["rules", "run", "walk"]
    with pytest.raises(ConfigError, match=r"scenario 'rules': expected a marl\.Scenario"):
        find("rules")


def test_what_others_wrote_may_name_installed_scenarios_of_packages_and_no_other_module_of_them(install):
    install(mine="tasks_of_mine")
    received.refuse_scenario("runs/given", "walk")
    for name in ("_shared", "tasks_of_mine.walk", "tasks_of_mine.walk:scenario", "tasks_of_mine", "mine"):
        with pytest.raises(CheckpointError, match="no installed scenario"):
            received.refuse_scenario("runs/given", name)

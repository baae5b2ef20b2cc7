"""The public interface is what `marl.__all__` says, all of it documented."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from pathlib import Path

import pytest

import marl
from marl.learners import LEARNERS, LearnerConfig
from marl.renamed import ROOT as ROOT_NAMES
from tests.support.stubs import LAZY, stub

ROOT = Path(__file__).parents[1]
NAMES = list(marl.__all__)
WHOLE = ("auxiliary", "compiled", "conformance", "optim", "ops", "types")  # modules that the pages describe as such
HOMES = {"": marl} | {f"{name}.": getattr(marl, name) for name in marl._NAMESPACES if name not in WHOLE}
PUBLIC = {prefix + name: getattr(home, name) for prefix, home in HOMES.items() for name in home.__all__}
SETTINGS = [
    value
    for name, value in PUBLIC.items()
    if dataclasses.is_dataclass(value) and isinstance(value, type) and not name.startswith("extend.")
]


def test_every_public_name_has_one_home():
    homes = [name for names in marl._HOMES.values() for name in names.split()]
    assert sorted(homes) == NAMES
    assert len(set(homes)) == len(homes)


@pytest.mark.parametrize("name", LAZY)
def test_type_checkers_see_the_same_names_from_the_same_homes(name):
    """If this fails: python -m tests.support.stubs."""
    assert (ROOT / LAZY[name]).read_text() == stub(name)


def test_an_unknown_name_for_extensions_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'marl\.extend' has no attribute 'Hooks'; did you mean 'Hook'"):
        marl.extend.Hooks  # noqa: B018


def test_the_root_holds_what_is_typed_every_day():
    assert len(marl.__all__) <= 69
    assert not set(marl.__all__) & set(marl._NAMESPACES)
    assert set(dir(marl)) == {*marl.__all__, *marl._NAMESPACES}


def test_every_public_name_is_on_the_api_page():
    page = (ROOT / "docs" / "api.md").read_text()
    documented = re.findall(r"^::: marl\.([\w.]+)$", page, flags=re.MULTILINE)
    assert len(documented) == len(set(documented))
    of_modules = {name for name in documented if name.partition(".")[0] in WHOLE}
    elsewhere = {name for name, value in PUBLIC.items() if "." in name and value is PUBLIC.get(name.rpartition(".")[2])}
    assert set(documented) - of_modules == PUBLIC.keys() - elsewhere
    assert {name for name in WHOLE if name != "ops"} <= of_modules  # which have a page of their own


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_importable_and_explained(name):
    value = PUBLIC[name]
    if isinstance(value, types.UnionType):  # which has no words of its own
        return
    doc = inspect.getdoc(value)
    assert doc, f"marl.{name} has no docstring"
    assert not doc.startswith(f"{value.__name__}("), f"marl.{name} has only the docstring that dataclasses make"
    if inspect.isclass(value):
        for member, function in vars(value).items():
            if inspect.isfunction(function) and not member.startswith("_"):
                assert inspect.getdoc(function), f"marl.{name}.{member} has no docstring"


@pytest.mark.parametrize("name", ROOT_NAMES)
def test_old_names_answer_with_the_new_ones(name):
    with pytest.raises(AttributeError, match=rf"^marl\.{name} is now marl\.{re.escape(ROOT_NAMES[name])}$"):
        getattr(marl, name)
    namespace, _, new = ROOT_NAMES[name].rpartition(".")
    assert hasattr(getattr(marl, namespace), new)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda cls: cls.__name__)
def test_every_setting_is_explained(settings):
    doc = inspect.getdoc(settings) or ""
    for field in dataclasses.fields(settings):
        assert field.metadata.get("doc") or re.search(rf"\b{field.name}\b", doc), (
            f"{settings.__name__}.{field.name} is not explained"
        )


@pytest.mark.parametrize("learner", [*LEARNERS, marl.Random], ids=lambda cls: cls.__name__)
def test_learners_are_settings_with_a_meaning_for_each_field(learner):
    assert isinstance(learner(), LearnerConfig)
    assert all(field.metadata["doc"] for field in dataclasses.fields(learner))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'MAPPO'; did you mean 'PPO'"):
        marl.MAPPO  # noqa: B018

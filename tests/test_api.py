"""The public interface is what `marl.__all__` says, all of it documented."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import marl
from marl.learners import LEARNERS, LearnerConfig
from tests.support.stubs import LAZY, stub

ROOT = Path(__file__).parents[1]
NAMES = [name for name in marl.__all__ if name not in ("ops", "optim")]
SETTINGS = [
    value for name in NAMES if dataclasses.is_dataclass(value := getattr(marl, name)) and isinstance(value, type)
]


def test_every_public_name_has_one_home():
    homes = [name for names in marl._HOMES.values() for name in names.split()]
    assert sorted(homes) == sorted(NAMES)
    assert len(set(homes)) == len(homes)


@pytest.mark.parametrize("name", LAZY)
def test_type_checkers_see_the_same_names_from_the_same_homes(name):
    """If this fails: python -m tests.support.stubs."""
    assert (ROOT / LAZY[name]).read_text() == stub(name)


@pytest.mark.parametrize("name", marl.extend.__all__)
def test_every_name_for_extensions_is_importable_and_explained(name):
    value = getattr(marl.extend, name)
    assert name in dir(marl.extend)
    if not isinstance(value, type(int | str)):  # a union has no words of its own
        doc = inspect.getdoc(value)
        assert doc, f"marl.extend.{name} has no docstring"
        assert not doc.startswith(f"{name}("), f"marl.extend.{name} has only the docstring that dataclasses make"


def test_an_unknown_name_for_extensions_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'marl\.extend' has no attribute 'Hooks'; did you mean 'Hook'"):
        marl.extend.Hooks  # noqa: B018


def test_every_public_name_is_on_the_api_page():
    page = (ROOT / "docs" / "api.md").read_text()
    documented = set(re.findall(r"^::: marl\.(\w+)$", page, flags=re.MULTILINE))
    documented -= {"types", "conformance", "optim"}  # modules
    assert documented == set(NAMES)


@pytest.mark.parametrize("name", marl.__all__)
def test_every_public_name_is_importable_and_explained(name):
    value = getattr(marl, name)
    assert name in dir(marl)
    doc = inspect.getdoc(value)
    assert doc, f"marl.{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"marl.{name} has only the docstring that dataclasses make"
    if inspect.isclass(value):
        for member, function in vars(value).items():
            if inspect.isfunction(function) and not member.startswith("_"):
                assert inspect.getdoc(function), f"marl.{name}.{member} has no docstring"


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

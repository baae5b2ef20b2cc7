"""What editors and notebooks show of public names: fields with types, defaults and words, live and without running."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from pathlib import Path

import jedi
import pytest

import marl
from marl import algorithms

ROOT = Path(__file__).parents[1]
HOMES = {"": marl} | {f"{name}.": getattr(marl, name) for name in marl._NAMESPACES}


def names_of(home):
    """What a module lists; of one that lists nothing, what it defines."""
    own = [name for name, value in vars(home).items() if getattr(value, "__module__", None) == home.__name__]
    return getattr(home, "__all__", [name for name in own if not name.startswith("_")])


PUBLIC = {prefix + name: getattr(home, name) for prefix, home in HOMES.items() for name in names_of(home)}
RECIPES = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value) and "." not in name}
SETTINGS = {
    value.__name__: value for value in PUBLIC.values() if isinstance(value, type) and dataclasses.is_dataclass(value)
}


def callables():
    """Functions, and classes with their own public methods; protocols and errors are not called by users."""
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            yield pytest.param(value, id=name)
        elif isinstance(value, type) and not issubclass(value, Exception):
            if not getattr(value, "_is_protocol", False):
                yield pytest.param(value, id=name)
            for member, function in vars(value).items():
                if inspect.isfunction(function) and not member.startswith("_"):
                    yield pytest.param(function, id=f"{name}.{member}")


@pytest.mark.parametrize("called", list(callables()))
def test_every_parameter_has_a_type_and_every_function_says_what_it_returns(called):
    try:
        signature = inspect.signature(called)
    except ValueError:  # made in C, such as a tuple's
        assert called.__init__ is object.__init__ or called.__module__ == "builtins"
        return
    untyped = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name not in ("self", "cls")
    ]
    assert not untyped, f"without a type: {', '.join(untyped)}"
    assert isinstance(called, type) or signature.return_annotation is not signature.empty
    assert inspect.getdoc(called)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_settings_class_shows_its_fields_with_types_and_defaults(name):
    cls = SETTINGS[name]
    parameters = inspect.signature(cls).parameters
    fields = [field for field in dataclasses.fields(cls) if field.init]
    assert set(parameters) == {field.name for field in fields}
    hints = typing.get_type_hints(cls)
    for field in fields:
        assert field.name in hints
        assert str(parameters[field.name].annotation) == str(field.type)
        if field.default is not dataclasses.MISSING:
            assert parameters[field.name].default is field.default


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_shows_its_learners_fields_with_its_own_defaults(name):
    recipe = RECIPES[name]
    made = recipe()
    parameters = inspect.signature(recipe).parameters
    assert list(parameters) == list(inspect.signature(type(made)).parameters)
    assert {field: parameter.default for field, parameter in parameters.items()} == {
        field: getattr(made, field) for field in parameters
    }
    assert {parameter.kind for parameter in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_recipes_are_all_there():
    assert len(RECIPES) == 20
    assert all(recipe.__module__ == algorithms.__name__ for recipe in RECIPES.values())


def test_defaults_of_a_recipe_give_way_to_what_is_asked_for():
    assert marl.maddpg().lr == 1e-3
    assert marl.maddpg(lr=5e-4).lr == 5e-4
    assert marl.mappo(critic=marl.Local()).critic == marl.Local()


def fields_completed(script):
    return {one.name.removesuffix("=") for one in script.complete() if one.name.endswith("=")}


@pytest.mark.parametrize("name", ["mappo", "maddpg", "PPO", "League", "curriculum.Stages"])
def test_an_editor_completes_fields_without_running_anything(name):
    value = PUBLIC[name]
    script = jedi.Script(f"import marl\nmarl.{name}(", path=ROOT / "page.py", project=jedi.Project(ROOT))
    assert fields_completed(script) == set(inspect.signature(value).parameters)
    assert "critic: Scope" in script.get_signatures()[0].to_string() or name in ("League", "curriculum.Stages")


@pytest.mark.parametrize("name", ["mappo", "PPO", "MultiAgentSystem"])
def test_a_notebook_completes_fields_of_live_objects(name):
    script = jedi.Interpreter(f"marl.{name}(", [{"marl": marl}])
    assert fields_completed(script) == set(inspect.signature(PUBLIC[name]).parameters)


def test_an_editor_knows_what_a_recipe_returns():
    script = jedi.Script("import marl\nmarl.qmix().cred", path=ROOT / "page.py", project=jedi.Project(ROOT))
    assert [one.name for one in script.complete()] == ["credit"]


def test_type_checkers_take_a_setting_for_a_default():
    """A field specifier whose default is positional has none for them, so every field would have to be given."""
    from marl.config import config, setting

    said = config.__dataclass_transform__
    assert said["kw_only_default"]
    assert setting not in said["field_specifiers"]

"""What a system was made with comes back equal, or is asked for again: never an environment or learner without it."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import marl
from marl import checkpoint
from marl.adapters import make
from marl.config import SETTINGS, from_json, name_of, to_json
from marl.curriculum import Among, Stage
from marl.overrides import override
from marl.types import CheckpointError, ConfigError, EnvContractError
from tests.support.tiny import Constant, Team


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Word(str):
    pass


class Far(Constant):
    """Shows what its space does not allow."""

    def _look(self):
        return super()._look() * 7


class Keen(Constant):
    """Takes any keyword, and remembers it."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given = given


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types all the way down; NaN equals itself."""
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and bool(np.array_equal(one, other))
        )
    if isinstance(one, np.generic):
        one = one.item()
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


PLAIN: tuple[Any, ...] = (
    *(None, True, False, 0, -7, 2**70, 0.1, math.inf, math.nan, "", "grün", "$class", b"", b"\x00\xff"),
    *((), (1, (2, "x")), [], [1, [2.5, None]], {}, {"a": {"b": [1, (2,)]}}, {1: "one", (1, 2): [3]}, {"$class": "x"}),
    *({1, 2}, frozenset({"a"}), np.arange(6, dtype=np.int16).reshape(2, 3), np.array(2.5), np.array(["a", "bc"])),
    *(np.array([True, False]), np.zeros((0, 3), np.float32), np.array([np.inf], np.float64)),
    *(np.True_, np.int64(4), np.float32(0.1), np.float64(0.1), np.uint8(255), np.str_("word"), np.bytes_(b"x")),
)
CODE: tuple[Any, ...] = (
    *(Color.RED, Level.LOW, Word("w"), Color, len, math.sqrt, lambda: 1, Constant, Constant(), range(3), 1j),
    *(functools.partial(len), object(), np, [1, {"deep": (len,)}], {"a": Color.RED}, np.array([None])),
    np.datetime64(1, "s"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("options")


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{type(value).__name__} {value!r:.30}")
def test_options_come_back_as_they_were(value, folder):
    options = {"x": value, "y": 3}
    system = marl.MultiAgentSystem(marl.Random(), Keen, num_envs=1, env_kwargs=options, max_steps=np.int64(9))
    loaded = marl.MultiAgentSystem.load(system.save(folder / "it"), env=Keen)
    assert same(options, loaded.setup.env_kwargs)
    assert same(options, loaded.make_env().given)
    assert type(loaded.max_steps) is int
    assert loaded.max_steps == 9


@pytest.mark.parametrize("value", CODE, ids=lambda value: f"{type(value).__name__} {value!r:.20}")
def test_options_that_hold_code_are_asked_for_again(value, folder):
    options = {"x": value, "y": 3}
    system = marl.MultiAgentSystem(marl.Random(), Keen, num_envs=1, env_kwargs=options, max_steps=9)
    path = system.save(folder / "it")
    with pytest.raises(CheckpointError, match=r"env_kwargs hold code of yours \(env_kwargs\.x") as caught:
        marl.MultiAgentSystem.load(path, env=Keen)
    assert "\n" not in str(caught.value)
    loaded = marl.MultiAgentSystem.load(path, env=Keen, env_kwargs=options)
    assert loaded.make_env().given["x"] is value
    assert loaded.max_steps == 9
    scenario = marl.Scenario(name="keen", env=Keen, env_kwargs={"x": value, "y": 4, "z": 5}, agents=marl.Random())
    given = marl.MultiAgentSystem.load(path, env=scenario).make_env().given
    assert given["x"] is value
    assert (given["y"], set(given)) == (3, {"x", "y"})


def test_paths_in_options_are_paths_that_the_user_names_again(folder):
    options = {"map": Path("maps") / "one.txt"}
    system = marl.MultiAgentSystem(marl.Random(), Keen, num_envs=1, env_kwargs=options)
    path = system.save(folder / "it")
    with pytest.raises(CheckpointError, match=r"it would .*maps/one\.txt"):
        marl.MultiAgentSystem.load(path, env=Keen)
    for loaded in (
        marl.MultiAgentSystem.load(path, env=Keen, trust=True),
        marl.MultiAgentSystem.load(path, env=Keen, env_kwargs=options),
    ):
        assert loaded.make_env().given == options


def test_the_first_schema_could_not_write_options_and_that_is_not_the_same_as_none(folder):
    system = marl.MultiAgentSystem(marl.Random(), Keen, num_envs=1, env_kwargs={"x": len}, max_steps=5)
    path = system.save(folder / "it")
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    manifest["schema"], manifest["meta"]["options"] = 1, None
    manifest["sha256"] = checkpoint._own_hash(manifest)
    (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="could not write the environment's options"):
        marl.MultiAgentSystem.load(path, env=Keen)
    scenario = marl.Scenario(name="keen", env=Keen, env_kwargs={"x": len}, agents=marl.Random(), max_steps=5)
    loaded = marl.MultiAgentSystem.load(path, env=scenario)
    assert loaded.setup.options == {"env_kwargs": {"x": len}, "max_steps": 5, "reset_options": None, "on_bad_obs": None}


def test_what_is_done_about_bad_observations_is_a_setting_that_is_saved(folder):
    with marl.MultiAgentSystem(marl.ia2c(rollout=4), Far, num_envs=2, on_bad_obs="clip") as system:
        system.train(steps=16)
        assert system.faults["clip"] >= 4
        path = system.save(folder / "it")
    with marl.MultiAgentSystem.load(path, env=Far) as loaded:
        assert loaded.setup.on_bad_obs == "clip"
        assert "clip" in loaded.evaluate(2).faults
    with (
        marl.MultiAgentSystem(marl.ia2c(rollout=4), Far) as plain,
        pytest.raises(EnvContractError, match="expected values in"),
    ):
        plain.train(steps=16)
    with pytest.raises(marl.ConfigError, match="on_bad_obs: unknown value 'clipp'; did you mean 'clip'"):
        marl.MultiAgentSystem(marl.ia2c(), Far, on_bad_obs="clipp")


def test_bad_observations_are_a_setting_of_scenarios_and_of_the_command_line():
    scenario = marl.Scenario(name="far", env=Far, agents=marl.ia2c(rollout=4), on_bad_obs="drop")
    assert marl.MultiAgentSystem(None, scenario).setup.on_bad_obs == "drop"
    assert override(scenario, ["on_bad_obs=cast"]).on_bad_obs == "cast"
    assert override(scenario, ["on_bad_obs=none"]).on_bad_obs is None
    with pytest.raises(marl.ConfigError, match=r"--set on_bad_obs=clipp: .*did you mean 'clip'"):
        override(scenario, ["on_bad_obs=clipp"])


def test_numpy_numbers_are_numbers_at_every_door(folder):
    one, two = np.int64(1), np.uint16(2)
    learner = marl.ippo(rollout=np.int64(8), minibatches=one, lr=np.float32(0.001), network=marl.MLP((4,)))
    system = marl.MultiAgentSystem(learner, Constant, num_envs=two, seed=np.int64(3), workers=np.int8(0), max_steps=two)
    system.train(steps=np.int64(32), evaluate_every=np.int64(16), evaluate_episodes=one)
    assert system.evaluate(episodes=two, num_envs=one).episodes == 2
    loaded = marl.MultiAgentSystem.load(system.save(folder / "it"), env=Constant)
    assert loaded.agents == system.agents
    assert (loaded.seed, loaded.num_envs, loaded.max_steps) == (3, 2, 2)
    assert [type(x) for x in (system.seed, system.num_envs, system.steps)] == [int] * 3
    scenario = marl.Scenario(name="it", env=Constant, agents=learner, num_envs=two, steps=np.int64(16))
    assert [type(x) for x in (scenario.num_envs, scenario.steps)] == [int] * 2
    with closing(make(Constant, np.int64(2), workers=np.int64(0), max_steps=np.int64(3))) as env:
        assert env.num_envs == 2


# --- settings ---------------------------------------------------------------------------------------------------------

EXAMPLES: tuple[Any, ...] = (
    *(None, True, 0, 1, 7, 0.25, 1e-3, "all", "none", "relu", "uniform", (64, 64), (1,), (0.5, 0.5), [8, 8]),
    *(np.int64(3), np.float32(0.5), np.True_, np.float64(0.125), np.str_("all"), math.nan, -1, Color.RED, len),
    *(Path("x"), {"a_*": "x"}, marl.Linear(1e-3, 0.0), marl.MLP((8,)), marl.GRU(4), marl.Joint(), marl.TeamReward()),
    *(
        marl.QMix(),
        marl.CommNet(),
        marl.Link(loss=0.1),
        marl.topology.Ring(),
        marl.memory.Prioritized(),
        Among((1, 2)),
    ),
    *(marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.0, 10)), {"$class": "x"}, b"x", frozenset((1,))),
)
CLASSES = [getattr(importlib.import_module(module), name) for module, names in SETTINGS.items() for name in names]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_settings_come_back_as_they_were_or_are_refused(cls):
    """Every field of every class that a checkpoint may name, with values of every type."""
    plain = _example(cls)
    tried = [] if plain is None else [plain]
    for field in dataclasses.fields(cls):
        for value in EXAMPLES:
            try:
                base = {f.name: getattr(plain, f.name) for f in dataclasses.fields(cls)} if plain is not None else {}
                tried.append(cls(**{**base, field.name: value}))
            except (ConfigError, TypeError, ValueError, AttributeError):
                continue  # refused at the door, where a person sees what was meant
    assert tried
    for settings in tried:
        try:
            data = to_json(settings)
        except ConfigError:  # it holds code: the checkpoint says so, and it has to be given again
            assert "$code" in str(to_json(settings, code=True))
            continue
        again = _read(data)
        assert again is None or same_settings(settings, again), (settings, again)


def _read(data: Any) -> Any:
    """What comes back; None where a value of no right type was refused, which no system could have been built with."""
    try:
        return from_json(json.loads(json.dumps(data)))
    except ConfigError:
        return None


def _example(cls: type) -> Any:
    """One of a class with its defaults, and the plainest of whatever has none."""
    graph = {"nodes": (0, 1), "edges": ((0, 1, 1.0),)}
    guesses = (0.5, 1, "a:b", "SGD", (1, 2), {"x": 1.0}, (Stage({"x": 1.0}),), graph)
    fields = [f for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    candidates: list[dict[str, Any]] = [{}]
    for field in fields:
        candidates = [{**known, field.name: guess} for known in candidates for guess in guesses]
    for known in candidates:
        try:
            return cls(**known)
        except Exception:
            continue
    return None


def same_settings(one: Any, other: Any) -> bool:
    if dataclasses.is_dataclass(one):
        fields = [field.name for field in dataclasses.fields(one)]
        return type(one) is type(other) and all(same_settings(getattr(one, f), getattr(other, f)) for f in fields)
    if isinstance(one, dict):
        return isinstance(other, dict) and all(same_settings(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same_settings, one, other))
    return same(one, other)


def test_every_settings_class_of_the_public_interface_is_one_that_a_file_may_name_or_holds_code():
    held = {"Custom", "DifferenceReward", "Dynamic", "Function", "PotentialBased", "Scripted"}
    others = {"Experiment", "Population", "Report", "Scenario", "Search", "Study", "TeamTransition"}
    others |= {"Choice", "IntUniform", "LogUniform", "Uniform"}  # of searches and populations, which are files of code
    axes = "auxiliary curriculum exploration memory nets optim schedules shaping stopping topology"
    homes = [marl, *(getattr(marl, namespace) for namespace in axes.split())]
    public = {name for home in homes for name in home.__all__ if dataclasses.is_dataclass(getattr(home, name))}
    assert public - held - others <= {cls.__name__ for cls in CLASSES}
    for cls in CLASSES:
        assert dataclasses.is_dataclass(cls)


def test_a_settings_class_is_written_under_one_name_that_does_not_change_with_the_files_of_its_package():
    names = [f"{module}:{name}" for module, names in SETTINGS.items() for name in names]
    assert [name_of(cls) for cls in CLASSES] == names
    assert to_json(marl.curriculum.Stages([Stage({"x": 1.0})]))["$class"] == "marl.curriculum:Stages"
    assert name_of(marl.shaping.Function(len)) == "marl.shaping:Function"


def test_files_from_before_a_class_moved_are_read():
    assert from_json({"$class": "marl.influence:SocialInfluence", "width": 8}) == marl.shaping.SocialInfluence(width=8)
    assert from_json({"$class": "marl.credit:QMix", "embed": 8}) == marl.QMix(embed=8)
    assert from_json({"$class": "marl.credit:TeamReward"}) == marl.TeamReward()
    assert from_json({"$class": "marl.scope:Joint", "of": "state"}) == marl.Joint(of="state")
    assert from_json({"$class": "marl.topology:Ring", "hops": 2}) == marl.topology.Ring(hops=2)
    assert from_json({"$class": "marl.learners.off_policy:Prioritized"}) == marl.memory.Prioritized()


def test_a_channel_that_holds_code_is_asked_for_again(folder):
    edges = marl.topology.Dynamic(lambda seen: seen.new_ones(seen.shape[0], 3, 3))
    spoken = marl.Spoken(words=2, topology=edges)
    path = marl.MultiAgentSystem(marl.Random(), Team, num_envs=1, channel=spoken).save(folder / "it")
    with pytest.raises(CheckpointError, match=r"channel hold code of yours \(channel\.topology: marl\.topology"):
        marl.MultiAgentSystem.load(path, env=Team)
    loaded = marl.MultiAgentSystem.load(path, env=Team, channel=spoken)
    assert loaded.spoken is spoken
    assert loaded.evaluate(1).episodes == 1

"""Settings classes of users: saved by name, loaded where they are registered, checked, and never imported unasked."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import pytest

import marl
from marl import checkpoint
from marl.checkpoint import MANIFEST
from marl.cli import main
from marl.config import from_json, to_json
from marl.extend import Network, config, register, setting
from marl.types import CheckpointError, ConfigError
from tests.support.equality import assert_equal_systems


@register
@config
class Patient(marl.PPO):
    """PPO under another name."""

    patience: int = setting(3, "updates to wait", least=1)


@register
@dataclass(frozen=True)
class Halved:
    """An MLP of half the width."""

    width: int = 8
    inner: Network = field(default_factory=marl.MLP)
    names: tuple[str, ...] = ()
    rate: float | None = None

    def build(self, owner, inputs, generators):
        return marl.MLP((self.width,)).build(owner, inputs, generators)


@dataclass(frozen=True)
class Stranger:
    """Registered by nobody."""

    width: int = 8

    def build(self, owner, inputs, generators):
        return marl.MLP((self.width,)).build(owner, inputs, generators)


def save(folder: Path, **fields: Any) -> Path:
    learner = Patient(rollout=8, minibatches=1, patience=7, **{"network": Halved(4, rate=1), **fields})
    with marl.MultiAgentSystem(learner, "CartPole-v1", num_envs=2) as system:
        system.train(steps=32)
        return system.save(folder / "saved")


def forge(path: Path, change: Any) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest["meta"])
    manifest["sha256"] = checkpoint._own_hash(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_registered_settings_are_saved_by_name_and_loaded_as_they_were(tmp_path):
    path = save(tmp_path)
    saved = json.loads((path / MANIFEST).read_text())["meta"]["agents"]
    assert saved["$class"] == "tests.test_registry:Patient"
    assert saved["patience"] == 7
    first, second = (marl.MultiAgentSystem.load(path) for _ in range(2))
    assert first.agents == Patient(rollout=8, minibatches=1, patience=7, network=Halved(4, rate=1))
    assert type(first.agents.network) is Halved
    first.train(steps=32)
    second.train(steps=32)
    assert_equal_systems(first, second)
    agent = first.agent("agent_0")
    assert type(marl.Agent.load(agent.save(tmp_path / "agent")).net.network) is Halved


def test_what_is_not_registered_is_given_again_or_registered(tmp_path, capsys):
    path = save(tmp_path, network=Stranger(4))
    line = r"hold code of yours \(agents\.network: tests\.test_registry:Stranger\).*pass agents= as then; .*register"
    with pytest.raises(CheckpointError, match=line):
        marl.MultiAgentSystem.load(path)
    assert main(["evaluate", str(path), "--episodes", "1"]) == 5
    assert "marl.extend.register" in capsys.readouterr().err
    forge(path, lambda meta: meta["agents"].update(network={"$class": "tests.test_registry:Stranger", "width": 4}))
    with pytest.raises(CheckpointError, match=r"'tests\.test_registry:Stranger' is not registered here: .*register"):
        marl.MultiAgentSystem.load(path)
    assert main(["evaluate", str(path), "--episodes", "1"]) == 5
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "is not registered here: import it and call marl.extend.register" in said
    assert marl.MultiAgentSystem.load(path, agents=Patient(rollout=8, minibatches=1, network=Stranger(4))).steps == 32


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("width", "wide", "Halved.width: expected int, got 'wide'"),
        ("width", 4.5, "Halved.width: expected int, got 4.5"),
        ("inner", 3, "Halved.inner: expected Network, got 3"),
        ("names", [1], r"Halved.names: expected tuple\[str, ...\], got \(1,\)"),
        ("rate", "x", "Halved.rate: expected float or None, got 'x'"),
        ("rates", 1, "unexpected keyword argument 'rates'"),
        ("inner", {"$class": "os:system"}, "'os:system' is not registered here"),
        ("inner", {"$code": "os:system"}, "hold code of yours"),
        ("width", 2**40, "larger than anything that it holds"),
    ],
)
def test_forged_fields_of_a_registered_class_are_refused(name, value, line, tmp_path, capsys):
    path = save(tmp_path)
    forge(path, lambda meta: meta["agents"]["network"].update({name: value}))
    with pytest.raises(CheckpointError, match=line):
        marl.MultiAgentSystem.load(path)
    assert main(["evaluate", str(path), "--episodes", "1"]) == 5
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_fields_of_registered_learners_keep_their_ranges(tmp_path):
    path = save(tmp_path)
    forge(path, lambda meta: meta["agents"].update(patience=0))
    with pytest.raises(CheckpointError, match=r"Patient.patience: expected a number at least 1, got 0"):
        marl.MultiAgentSystem.load(path)


def test_only_frozen_dataclasses_at_the_top_of_a_module_are_registered():
    class Plain:
        pass

    @dataclass(frozen=True)
    class Inner:
        x: int = 1

    for wrong, word in (
        (Plain, "expected a frozen dataclass"),
        (Halved(), "expected a frozen dataclass"),
        (make_dataclass("Loose", ["x"]), "can change"),
        (Inner, "stands inside"),
        (print, "expected a frozen dataclass"),
    ):
        with pytest.raises(ConfigError, match=word):
            register(wrong)
    assert to_json(Inner(), code=True)["$code"].endswith("Inner")


def test_a_subclass_or_a_namesake_of_a_registered_class_is_not_registered():
    class Sub(Halved):
        pass

    namesake = make_dataclass("Halved", [("width", int, 8)], frozen=True)
    namesake.__module__ = __name__
    for value in (Sub(), namesake()):
        with pytest.raises(ConfigError, match="cannot be written as JSON"):
            to_json(value)


PACKAGE = """
from dataclasses import dataclass
from pathlib import Path

Path(__file__).with_name("IMPORTED").touch()


@dataclass(frozen=True)
class Wide:
    width: int = 8

    def build(self, owner, inputs, generators):
        import marl

        return marl.MLP((self.width,)).build(owner, inputs, generators)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that registers one class; nothing has imported it yet."""
    place = tmp_path / "site"
    info = place / "wide_networks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wide-networks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[marl.settings]\nwide = wide_networks:Wide\n")
    (place / "wide_networks.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(place)
    yield place
    sys.modules.pop("wide_networks", None)


def test_an_installed_package_is_imported_when_a_file_names_its_class_and_not_before(package):
    marked = package / "IMPORTED"
    for other in ("wide_networks:Path", "wide_networks:Wide.build", "wide_networks", "wide_networks:dataclass"):
        with pytest.raises(ConfigError, match="is not registered here"):
            from_json({"$class": other})
    assert from_json(to_json(Halved())) == Halved()
    assert not marked.exists()
    wide = from_json({"$class": "wide_networks:Wide", "width": 3})
    assert marked.exists()
    assert wide.width == 3
    assert to_json(wide) == {"$class": "wide_networks:Wide", "width": 3}


def test_a_registered_class_is_written_without_being_loaded_again(package):
    import wide_networks

    assert to_json(wide_networks.Wide(5)) == {"$class": "wide_networks:Wide", "width": 5}


def test_types_that_only_type_checkers_know_are_said():
    @dataclass(frozen=True)
    class Unseen:
        x: Nowhere = 1  # noqa: F821

    Unseen.__qualname__ = "Unseen"
    with pytest.raises(ConfigError, match=r"Unseen: the types of its fields cannot be looked at here \(name 'Nowhere'"):
        from_json(to_json(register(Unseen)(2)))


TASK = """
from dataclasses import dataclass

import marl
from tests.support.tiny import Constant


@marl.extend.register
@dataclass(frozen=True)
class Thin:
    width: int = 8

    def build(self, owner, inputs, generators):
        return marl.MLP((self.width,)).build(owner, inputs, generators)


learner = marl.ippo(rollout=8, minibatches=1, network=Thin(4))
scenario = marl.Scenario(name="task", env=Constant, agents=learner, num_envs=1, steps=16)
"""


def test_a_scenario_file_registers_classes_of_its_own(tmp_path, capsys):
    file, run = tmp_path / "task.py", tmp_path / "run"
    file.write_text(TASK)
    assert main(["train", str(file), "--run-dir", str(run), "--quiet", "--no-evaluate"]) == 0
    network = json.loads((run / "checkpoints" / "last" / MANIFEST).read_text())["meta"]["agents"]["network"]
    assert network == {"$class": "marl_scenario_task:Thin", "width": 4}
    assert main(["evaluate", str(run), "--env", str(file), "--episodes", "1"]) == 0, capsys.readouterr().err


def test_files_of_one_name_in_two_folders_register_classes_of_one_name(tmp_path, capsys):
    """What a run is called by does not depend on which files the process has met before."""
    runs = {}
    for folder in ("one", "other"):
        file = tmp_path / folder / "task.py"
        file.parent.mkdir()
        file.write_text(TASK.replace("width: int = 8", f"width: int = 8\n    {folder}: int = 1"))
        runs[file] = run = tmp_path / f"run-{folder}"
        assert main(["train", str(file), "--run-dir", str(run), "--quiet", "--no-evaluate"]) == 0
        network = json.loads((run / "checkpoints" / "last" / MANIFEST).read_text())["meta"]["agents"]["network"]
        assert network == {"$class": "marl_scenario_task:Thin", "width": 4, folder: 1}
    for file, run in runs.items():
        assert main(["evaluate", str(run), "--env", str(file), "--episodes", "1"]) == 0, capsys.readouterr().err

"""Checkpoints: whole or refused, never half; nothing in them is ever executed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import marl
from marl import checkpoint
from marl.checkpoint import MANIFEST, SCHEMA, TENSORS, TREE
from marl.types import CheckpointError, ConfigError, NonFiniteError
from tests.support.tiny import Team

STATE = {
    "learners": {
        "team": {"model": {"w": torch.arange(6.0).view(2, 3), "step": torch.tensor(3)}, "moments": {0: torch.ones(2)}}
    },
    "env": {"seed": 7, "copies": [{"actions": np.arange(4, dtype=np.uint8), "hash": "ab"}], "none": None},
    "tuple": (1, 2.5, "x"),
    "bytes": b"\x00\xff",
    "flag": np.bool_(True),
    "$": "odd key",
}
META = {"seed": 0, "steps": 3}


@pytest.fixture
def saved(tmp_path):
    return checkpoint.save(tmp_path / "it", STATE, META)


def rehash(path: Path, **changes: object) -> None:
    """Make the manifest right about what is there now, as somebody who means harm would."""
    manifest = json.loads((path / MANIFEST).read_text()) | changes
    if "files" not in changes:
        contents = {name: (path / name).read_bytes() for name in (TREE, TENSORS)}
        manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        manifest["sizes"] = {name: len(data) for name, data in contents.items()}
    manifest["sha256"] = checkpoint._own_hash(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_a_tree_comes_back_as_it_was(saved):
    state, manifest = checkpoint.load(saved)
    assert manifest["meta"] == META
    assert (state["learners"]["team"]["model"]["w"] == STATE["learners"]["team"]["model"]["w"]).all()
    assert state["learners"]["team"]["model"]["step"].shape == ()
    assert list(state["learners"]["team"]["moments"]) == [0]
    assert state["env"]["copies"][0]["actions"].dtype == np.uint8
    assert state["tuple"] == (1, 2.5, "x")
    assert state["bytes"] == b"\x00\xff"
    assert state["flag"] is True
    assert state["$"] == "odd key"
    assert not checkpoint.fingerprint_differences(manifest)


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "one bit": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "longer": lambda data: data + b"\0",
    "garbage": lambda data: os.urandom(len(data)),
    "a pickle": lambda data: pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", [MANIFEST, TREE, TENSORS])
def test_a_damaged_file_is_refused_before_it_is_parsed(name, how, saved, monkeypatch):
    data = DAMAGE[how]((saved / name).read_bytes())
    (saved / name).write_bytes(data)
    parsed = []
    monkeypatch.setattr(checkpoint, "load_tensors", parsed.append)
    with pytest.raises(CheckpointError, match=r"damaged|JSON") as error:
        checkpoint.load(saved)
    assert str(saved) in str(error.value)
    assert not parsed


def test_every_bit_of_a_manifest_matters(saved):
    whole = (saved / MANIFEST).read_bytes()
    for place in range(0, len(whole), 7):
        (saved / MANIFEST).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            _, manifest = checkpoint.load(saved)
        except CheckpointError:
            continue
        assert manifest == json.loads(whole)  # white space


def test_missing_and_wrong_things_are_refused(saved, tmp_path):
    for path in (tmp_path / "nowhere", saved / TREE):
        with pytest.raises(CheckpointError, match=r"does not exist|is a file"):
            checkpoint.load(path)
    (saved / TENSORS).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(saved)
    (saved / TENSORS).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(saved)
    (saved / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        checkpoint.load(saved)
    archive = tmp_path / "policy.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../data", "x")
    with pytest.raises(CheckpointError, match="is a file, not a checkpoint directory"):
        checkpoint.load(archive)


def test_an_edited_manifest_is_refused_and_a_newer_one_names_the_versions(saved):
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps(manifest | {"meta": META | {"seed": 1}}))
    with pytest.raises(CheckpointError, match="edited"):
        checkpoint.load(saved)
    rehash(saved, schema=checkpoint.SCHEMA + 1)
    with pytest.raises(CheckpointError, match=f"schema {SCHEMA + 1} is newer than this version's {SCHEMA}; upgrade"):
        checkpoint.load(saved)
    for files in ({}, {TREE: "0", TENSORS: "0", "../../evil.py": "0"}):
        rehash(saved, schema=checkpoint.SCHEMA, files=files)
        with pytest.raises(CheckpointError, match="components"):
            checkpoint.load(saved)


def test_a_malicious_checkpoint_with_right_hashes_executes_nothing(saved, tmp_path):
    proof = tmp_path / "proof"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {proof}",)

    whole = (saved / TENSORS).read_bytes()
    (saved / TENSORS).write_bytes(pickle.dumps(Evil()))
    rehash(saved)
    with pytest.raises(CheckpointError, match="make no sense"):
        checkpoint.load(saved)
    (saved / TENSORS).write_bytes(whole)
    for tree in ('{"a": {"$": "pickle", "at": "x"}}', '{"a": {"$": "tensor", "at": "../x"}}', "[1]", "[" * 100_000):
        (saved / TREE).write_text(tree)
        rehash(saved)
        with pytest.raises(CheckpointError):
            checkpoint.load(saved)
    assert not proof.exists()


def test_settings_of_foreign_classes_are_refused(tmp_path):
    with marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), "CartPole-v1", num_envs=1) as system:
        path = system.save(tmp_path / "it")
    manifest = json.loads((path / MANIFEST).read_text())
    for change in (
        {"agents": {"$class": "os:system", "command": "true"}},
        {"agents": {"$class": "marl.cli:main"}},
        {"spec": 3},
    ):
        rehash(path, meta=manifest["meta"] | change)
        with pytest.raises(CheckpointError, match=r"make no sense|spec: expected dict, got 3"):
            marl.MultiAgentSystem.load(path)


def test_parameters_that_are_not_finite_are_never_saved(saved):
    broken = {"learners": {"team": {"model": {"w": torch.tensor([1.0, float("nan")])}}}}
    with pytest.raises(NonFiniteError, match="/learners/team/model/w"):
        checkpoint.save(saved, broken, META)
    assert checkpoint.load(saved)[1]["meta"] == META
    assert [path.name for path in saved.parent.iterdir()] == ["it"]


def test_what_is_no_checkpoint_is_never_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    for path in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(ConfigError, match="choose another path"):
            checkpoint.save(path, STATE, META)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename"])
def test_a_disk_that_refuses_leaves_the_old_checkpoint(call, number, saved, monkeypatch):
    """At the first, second and third call; the old state loads and nothing is left over."""
    true = getattr(os, call)
    for failing in range(3):
        count = 0

        def refuse(*args, failing=failing, **kwargs):
            nonlocal count
            count += 1
            if count == failing + 1:
                raise OSError(number, os.strerror(number))
            return true(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            try:
                checkpoint.save(saved, STATE, {"seed": 1})
            except OSError as error:
                assert error.errno == number  # noqa: PT017
                assert checkpoint.load(saved)[1]["meta"] == META
            else:
                assert checkpoint.load(saved)[1]["meta"] == {
                    "seed": 1
                }  # it was never called so often, or did not matter
        assert [path.name for path in saved.parent.iterdir()] == ["it"]
        checkpoint.save(saved, STATE, META)


KILL = """
import json, os, shutil, signal, sys
from pathlib import Path
from marl import checkpoint
path, names = Path(sys.argv[1]), ("mkdir", "fsync", "rename", "open", "rmdir", "unlink")
true = {name: getattr(os, name) for name in names}

def child(point):
    count = 0
    def wrap(name):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return true[name](*args, **kwargs)
        return call
    for name in names:
        setattr(os, name, wrap(name))
    checkpoint.save(path, {"value": point}, {"number": point})
    os._exit(0)

outcomes = []
for point in range(1, 100):
    checkpoint.save(path, {"value": 0}, {"number": 0})
    pid = os.fork()
    if pid == 0:
        try:
            child(point)
        finally:
            os._exit(3)
    status = os.waitpid(pid, 0)[1]
    state, manifest = checkpoint.load(path)
    assert state["value"] == manifest["meta"]["number"]
    outcomes.append([os.waitstatus_to_exitcode(status), state["value"] == point])
    checkpoint.remove_leftovers_in(path.parent)
    left = [entry.name for entry in path.parent.iterdir()]
    assert left == [path.name], left
    assert checkpoint.load(path)[0]["value"] == state["value"]
    if os.WIFEXITED(status):
        break
print(json.dumps(outcomes))
"""


def test_a_kill_at_any_point_of_a_save_leaves_the_old_or_the_new_checkpoint(tmp_path):
    said = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path / "it")], capture_output=True, text=True, check=False, timeout=600
    )
    assert said.returncode == 0, said.stderr
    outcomes = json.loads(said.stdout)
    codes = [code for code, _ in outcomes]
    assert codes == [-9] * (len(codes) - 1) + [0]
    assert len(codes) > 8
    new = [is_new for _, is_new in outcomes]
    assert new == sorted(new)  # the old one up to some point, the new one from there on
    assert not new[0]
    assert new[-1]


def test_a_save_that_died_between_its_moves_is_finished_by_the_next_reader(saved):
    os.rename(saved, saved.with_name(".it.previous"))
    (saved.parent / ".it.0123.tmp").mkdir()
    assert checkpoint.load(saved)[1]["meta"] == META
    checkpoint.remove_leftovers_in(saved.parent)
    assert [path.name for path in saved.parent.iterdir()] == ["it"]
    assert checkpoint.load(saved)[1]["meta"] == META


def test_other_learners_than_the_saved_ones_are_named_in_one_line(tmp_path):
    system = marl.MultiAgentSystem(marl.iql(learning_starts=10, batch=8), Team, num_envs=2)
    system.train(steps=40)
    assert repr(system) == "<MultiAgentSystem on team_v0, 2 copies; team: DQN of 3; 40 steps>"
    system.save(tmp_path / "saved")
    for agents, word in ((marl.maddpg(), "DDPG"), (marl.iql(network=marl.MLP((32,))), r"network: null -> .*MLP")):
        with pytest.raises(marl.CheckpointError, match=word) as caught:
            marl.MultiAgentSystem.load(tmp_path / "saved", env=Team, agents=agents)
        assert "\n" not in str(caught.value)

"""Regular files only: pipes, sockets and links are refused before they are opened; nothing goes through links."""

from __future__ import annotations

import json
import os
import socket

import pytest

import marl
from marl import checkpoint, files
from marl.checkpoint import MANIFEST, TENSORS, TREE
from marl.logs import MetricsFile, read_metrics
from marl.logs.files import RetryBackoff, read_json, write_json
from marl.run import Run, candidates, first_valid
from marl.studies.run_curves import plot_runs
from marl.types import CheckpointError, ConfigError
from tests.support.tiny import Constant

OURS = b'{"ours": 1}'


@pytest.fixture
def secret(tmp_path):
    """A file that lies outside of whatever is read or written."""
    path = tmp_path / "secret"
    path.write_bytes(OURS)
    return path


def socket_at(path, secret):
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


FOREIGN = {
    "a link": lambda path, secret: path.symlink_to(secret),
    "a pipe": lambda path, secret: os.mkfifo(path),
    "a folder": lambda path, secret: path.mkdir(),
    "a socket": socket_at,
    "a hard link": lambda path, secret: os.link(secret, path),
    "a dead link": lambda path, secret: path.symlink_to("nowhere"),
    "an endless link": lambda path, secret: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_regular_file_is_neither_read_nor_written(kind, secret, tmp_path, monkeypatch):
    path = tmp_path / "file"
    FOREIGN[kind](path, secret)
    opened = []
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments))
    word = kind.removeprefix("a dead ").removeprefix("an endless ")
    for attempt in (
        lambda: files.read(path, 100),
        lambda: files.opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND),
        lambda: files.opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        lambda: files.write_new(path, b"x"),
    ):
        with pytest.raises(OSError, match=word):
            attempt()
    assert not opened
    assert secret.read_bytes() == OURS


def test_a_link_that_comes_between_the_look_and_the_opening_is_refused_too(secret, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    regular = os.lstat(path)
    path.unlink()
    path.symlink_to(secret)
    monkeypatch.setattr(os, "lstat", lambda *_: regular)
    with pytest.raises(OSError):
        files.read(path, 100)


def test_the_size_is_right_before_anything_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert files.read(path, 5) == files.read(path, 5, 5) == b"12345"
    for most, size in ((4, None), (5, 4), (10, 6)):
        with pytest.raises(files.WrongSizeError):
            files.read(path, most, size)
    os.truncate(path, 2**40)  # holes are no bytes on the disk
    with pytest.raises(files.WrongSizeError, match="1,099,511,627,776 bytes instead of 5"):
        files.read(path, 2**50, 5)


def test_settings_and_metrics_are_replaced_not_written_through_links(secret, tmp_path):
    for name in ("config.json", ".config.json.tmp"):
        (tmp_path / name).symlink_to(secret)
    write_json(tmp_path / "config.json", {"new": 1})
    assert json.loads((tmp_path / "config.json").read_text()) == {"new": 1}
    assert not (tmp_path / "config.json").is_symlink()
    (tmp_path / "metrics.jsonl").symlink_to(secret)
    with pytest.raises(OSError, match="a link"):
        MetricsFile(tmp_path / "metrics.jsonl", RetryBackoff("metrics", print))
    with pytest.raises(ConfigError, match="a link"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "best.json").symlink_to(secret)
    with pytest.raises(ConfigError, match="a link"):
        read_json(tmp_path / "best.json")
    assert secret.read_bytes() == OURS


def test_pictures_in_a_run_folder_replace_links_that_lie_there(secret, tmp_path):
    import numpy as np

    from marl.film import Played, write_gif

    (tmp_path / "metrics.jsonl").write_text('{"steps": 1, "mean_return": 1.0}\n{"steps": 2, "mean_return": 2.0}\n')
    for name in ("curves.png", "episode.gif"):
        (tmp_path / name).symlink_to(secret)
    plot_runs([tmp_path], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    played = Played(frames=[np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8)])
    write_gif([played], 15.0, tmp_path / "episode.gif")
    assert (tmp_path / "episode.gif").read_bytes().startswith(b"GIF8")
    assert secret.read_bytes() == OURS


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    learner = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,)))
    with marl.MultiAgentSystem(learner, Constant, num_envs=1) as system:
        system.train(steps=8)
        yield system


@pytest.mark.parametrize("kind", [*FOREIGN, "sparse", "nothing"])
@pytest.mark.parametrize("name", [MANIFEST, TREE, TENSORS])
def test_the_older_checkpoint_is_taken_where_a_file_is_none(name, kind, trained, secret, tmp_path):
    notes = []
    older, newer = (trained.save(tmp_path / "run" / "checkpoints" / f"step-{number}") for number in (1, 2))
    (newer / name).unlink()
    if kind == "sparse":
        (newer / name).touch()
        os.truncate(newer / name, 2**40)
    elif kind != "nothing":
        FOREIGN[kind](newer / name, secret)
    path, _ = first_valid(candidates(tmp_path / "run", "last"), checkpoint.load, notes.append)
    assert path == older
    assert name in notes[0]
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        checkpoint.load(newer)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_a_link_is_taken_only_beside_what_it_leads_to(trained, tmp_path):
    folder = tmp_path / "checkpoints"
    real = trained.save(folder / "step-1")
    (folder / "last").symlink_to("step-1")
    assert checkpoint.load(folder / "last")[1]["meta"]["steps"] == 8
    for place, target in (("away", real), ("up", "../checkpoints/step-1"), ("again", "last"), ("dead", "step-7")):
        (folder / place).symlink_to(target)
        with pytest.raises(CheckpointError, match=r"is a link|does not exist"):
            checkpoint.load(folder / place)


def test_checkpoints_without_sizes_still_load_and_false_sizes_are_refused(trained, tmp_path):
    path = trained.save(tmp_path / "it")
    whole = json.loads((path / MANIFEST).read_text())
    for sizes, words in (
        (None, None),
        ({}, None),
        ({TREE: 1}, "damaged"),
        ({TREE: -1}, "damaged"),
        ({TREE: True}, "damaged"),
        (7, "damaged"),
    ):
        manifest = whole | {"schema": 1, "sizes": sizes}
        if sizes is None:
            del manifest["sizes"]
        manifest["sha256"] = checkpoint._own_hash(manifest)
        (path / MANIFEST).write_text(json.dumps(manifest))
        if words is None:
            assert checkpoint.load(path)[1]["meta"] == whole["meta"]
        else:
            with pytest.raises(CheckpointError, match=words):
                checkpoint.load(path)


# --- run folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "checkpoints", "summary.json", "run.lock", "tensorboard"]
)
def test_a_run_is_never_written_through_a_link(name, secret, tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / name).symlink_to(outside if name in ("checkpoints", "tensorboard") else secret)
    with pytest.raises(ConfigError, match=f"{name}.*a link"):
        Run(folder, resume=True)
    assert secret.read_bytes() == OURS
    assert not list(outside.iterdir())


def test_force_removes_links_and_nothing_behind_them(secret, tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "step-1").mkdir()
    (folder / "checkpoints").symlink_to(outside)
    (folder / "metrics.jsonl").symlink_to(secret)
    with Run(folder, force=True) as run:
        run.begin({})
    assert secret.read_bytes() == OURS
    assert [path.name for path in outside.iterdir()] == ["step-1"]
    assert not (folder / "checkpoints").is_symlink()

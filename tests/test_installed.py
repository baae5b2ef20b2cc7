"""Entry points are read once, and again when a package was installed."""

import importlib.metadata
import os
import shutil

import pytest

from marl.installed import entry_points

GROUP = "marl.test"


def install(folder, name):
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}:made\n")
    later(folder)
    return info


def later(folder):
    """A clock may be coarser than a test is fast."""
    then = folder.stat().st_mtime_ns + 10**9
    os.utime(folder, ns=(then, then))


def found():
    return [point.name for point in entry_points(GROUP)]


@pytest.fixture
def reads(monkeypatch):
    calls, read = [], importlib.metadata.entry_points
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **which: (calls.append(which), read(**which))[1])
    return calls


def test_packages_are_read_once(tmp_path, monkeypatch, reads):
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(5):
        assert found() == []
    assert reads == [{"group": GROUP}]


def test_what_is_installed_and_uninstalled_meanwhile_is_seen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert found() == []
    one = install(tmp_path, "one")
    assert found() == ["one"]
    install(tmp_path / "later", "two")
    monkeypatch.syspath_prepend(tmp_path / "later")
    assert sorted(found()) == ["one", "two"]
    shutil.rmtree(one)
    later(tmp_path)
    assert found() == ["two"]


def test_a_folder_that_is_not_there_and_the_current_one_are_no_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "nowhere")
    monkeypatch.syspath_prepend("")
    monkeypatch.chdir(tmp_path)
    install(tmp_path, "here")
    assert found() == ["here"]

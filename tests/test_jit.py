"""Compiled functions are made anew when anything that they were built from changes."""

from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import marl
from marl.compiled import cache, tiles

ROOT = Path(marl.__file__).parents[1]


def test_code_in_another_file_is_compiled_again_when_that_file_changes(tmp_path):
    """In a copy of the library, with the clock of its files turned back and no file deleted."""
    shutil.copytree(ROOT / "marl", tmp_path / "marl", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "caller.py").write_text(
        "from marl.compiled.tiles import fast_kernel, tanh\n"
        "@fast_kernel\n"
        "def twice(x):\n"
        "    return 2 * tanh(x)\n"
        "print(round(float(twice(20.0)), 1), sum(twice.stats.cache_hits.values()))\n"
    )
    source = tmp_path / "marl" / "compiled" / "tiles.py"
    before = source.stat()
    assert said(tmp_path) == "2.0 0"
    assert said(tmp_path) == "2.0 1"  # from the cache
    text = source.read_text()
    assert text.count("return v * p / q") == 1
    source.write_text(text.replace("return v * p / q", "return v + p / q"))  # at 8: 8 + 1 / 8
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert said(tmp_path) == "16.2 0"


def test_code_whose_argument_types_were_renamed_is_compiled_again(tmp_path):
    """The old machine code was kept under a class that is gone."""
    shutil.copytree(ROOT / "marl", tmp_path / "marl", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "caller.py").write_text("import kernels\nprint(kernels.answer)\n")
    source = (
        "from typing import NamedTuple\n"
        "from marl.compiled.cache import jit\n"
        "class Pair(NamedTuple):\n"
        "    one: int\n"
        "    other: int\n"
        "@jit()\n"
        "def total(pair):\n"
        "    return pair.one + pair.other\n"
        "answer = (total(Pair(1, 2)), sum(total.stats.cache_hits.values()))\n"
    )
    (tmp_path / "kernels.py").write_text(source)
    assert said(tmp_path) == "(3, 0)"
    assert said(tmp_path) == "(3, 1)"
    (tmp_path / "kernels.py").write_text(source.replace("Pair", "Couple"))
    assert said(tmp_path) == "(3, 0)"


def said(folder):
    """What the caller prints in a process of its own."""
    # Python's own cache looks at size and time of a file, which stay.
    paths = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "caller.py"], cwd=folder, env=os.environ | paths, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def kernels():
    """Every compiled function of the library that is kept on disk."""
    for part in pkgutil.walk_packages(marl.__path__, "marl."):
        if part.name.split(".")[1] in ("compiled", "memory", "ops"):
            for value in vars(importlib.import_module(part.name)).values():
                if isinstance(value, numba.core.registry.CPUDispatcher) and value.__module__ == part.name:
                    yield value


def test_every_kernel_s_cache_is_stamped_with_its_sources():
    found = list(kernels())
    assert len(found) > 30
    for kernel in found:
        assert kernel._cache._cache_file._source_stamp == cache.stamp(kernel.py_func), kernel


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("marl.compiled.ppo._policy", {"ppo.py", "tiles.py", "vectors.py"}),
        ("marl.compiled.dqn._td_gradient", {"dqn.py", "tiles.py", "vectors.py"}),
        ("marl.compiled.sac._critics", {"sac.py", "tiles.py", "vectors.py"}),
        ("marl.compiled.acting._choose", {"acting.py", "tiles.py", "vectors.py"}),
        ("marl.compiled.mlp._backward", {"mlp.py", "tiles.py", "vectors.py"}),
        ("marl.compiled.tiles.forward", {"tiles.py", "vectors.py"}),
        ("marl.compiled.adam._adam", {"adam.py"}),
    ],
)
def test_the_sources_of_a_kernel_are_all_files_it_calls_into(name, files):
    module, _, function = name.rpartition(".")
    kernel = getattr(importlib.import_module(module), function)
    assert {Path(path).name for path in cache.sources(kernel.py_func)} == files


def test_a_constant_from_elsewhere_counts_as_source(monkeypatch):
    before = cache.stamp(tiles.forward.py_func)
    monkeypatch.setitem(tiles.forward.py_func.__globals__, "ZERO", -7)  # comes from vectors.py
    assert cache.stamp(tiles.forward.py_func) != before

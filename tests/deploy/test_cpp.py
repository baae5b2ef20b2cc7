"""The example in C++ runs an exported graph by onnxruntime, and acts as the runtime does."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import marl
import marl_runtime
from tests.support.policies import ACTIONS, VECTOR, rows, system_of

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "act.cpp"
COMPILER = shutil.which("g++") or shutil.which("clang++")
EPISODES, STEPS = 2, 20


@pytest.fixture(scope="module")
def act(tmp_path_factory):
    """The example, compiled with the library that the wheel of onnxruntime holds."""
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'marl-system[export]'")
    folder = Path(importlib.util.find_spec("onnxruntime").submodule_search_locations[0]) / "capi"
    library = next(iter(sorted(folder.glob("libonnxruntime.so*"))), None)
    if library is None:
        pytest.skip("this wheel of onnxruntime has no library for C++")
    out = tmp_path_factory.mktemp("cpp") / "act"
    (out.parent / "libonnxruntime.so.1").symlink_to(library)  # the name by which programs look for it
    strict = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror")
    subprocess.run([COMPILER, *strict, EXAMPLE, "-o", out, library, f"-Wl,-rpath,{out.parent}"], check=True)
    return out


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_the_example_acts_as_the_runtime_and_remembers_within_an_episode(act, kind, tmp_path):
    system = system_of(
        marl.PPO(network=marl.GRU(8), sequence=4, normalize_obs=True, rollout=8, minibatches=1), ACTIONS[kind]
    )
    with torch.no_grad():
        system.learners[0].policy_net.head.weight.mul_(30)  # a new policy's outputs are all but equal
    out = system.export(tmp_path / "bundle", format="onnx")
    agent, seen = marl_runtime.load(out)["b"], rows(VECTOR, STEPS)
    lines, expected = [], []
    for _ in range(EPISODES):
        agent.reset()
        lines += ["", *(" ".join(f"{number:.9g}" for number in row) for row in seen)]
        expected += [np.ravel(agent.act(row)).tolist() for row in seen]
    command = [act, out / "policy_0.onnx", "0,1,0"]
    said = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True).stdout
    found = [[float(word) for word in line.split()] for line in said.splitlines()]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[:STEPS] == found[STEPS:]


def test_what_is_wrong_is_one_line(act, tmp_path):
    done = subprocess.run([act, tmp_path / "missing.onnx"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("onnxruntime: ")

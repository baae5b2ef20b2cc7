"""What a stranger installs: the wheel, made through the sdist, beside a user's own ``envs``, ``scenarios`` and
``tests``."""

from __future__ import annotations

import configparser
import email
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS = {"marl", "marl_runtime", "marl_envs", "marl_scenarios"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(dist):
    """The wheel, open."""
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as file:
        yield file


@pytest.fixture(scope="module")
def metadata(wheel):
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_holds_our_packages_and_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == OURS
    for root, package in ((".", "marl"), (".", "marl_runtime"), ("envs", "marl_envs"), ("scenarios", "marl_scenarios")):
        sources = {str(path.relative_to(ROOT / root)) for path in (ROOT / root / package).rglob("*.py")}
        assert sources <= set(wheel.namelist())
    for page in ("marl_runtime/page", "marl/report/page"):
        assert {f"{page}/{path.name}" for path in (ROOT / page).iterdir()} <= set(wheel.namelist())
    assert not [name for name in wheel.namelist() if "__pycache__" in name or name.endswith((".pyc", ".nbi", ".nbc"))]


def test_the_sdist_holds_what_is_needed_to_build_and_test(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    for needed in ("pyproject.toml", "README.md", "constraints.txt", "tests/conftest.py", "docs/index.md", ".ci/test"):
        assert needed in names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "runs", ".git/"))]


def test_the_metadata_ask_for_a_safe_torch_and_name_no_index(metadata):
    needs = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    core = {need.name: need for need in needs if need.marker is None}
    assert metadata["Name"] == "marl-system"
    assert str(core["torch"].specifier) == ">=2.10"
    assert {"numpy", "gymnasium", "pettingzoo", "supersuit", "networkx", "safetensors", "tyro", "rich"} <= set(core)
    assert all(need.url is None for need in needs)
    assert {"mpe", "classic", "butterfly", "sisl", "tensorboard", "test", "dev"} <= set(
        metadata.get_all("Provides-Extra")
    )


def test_the_wheel_has_the_command_and_the_scenarios(wheel):
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode())
    assert dict(parser["console_scripts"]) == {"marl": "marl.__main__:main"}
    assert dict(parser["marl.scenarios"]) == {"marl": "marl_scenarios"}
    files = {path.relative_to(ROOT / "scenarios").as_posix() for path in (ROOT / "scenarios").rglob("*.py")}
    assert "marl_scenarios/studies/cooperative.py" in files
    assert files == {name for name in wheel.namelist() if name.startswith("marl_scenarios/")}


def test_it_imports_beside_a_users_own_folders(wheel, tmp_path):
    site, home = tmp_path / "site", tmp_path / "home"
    wheel.extractall(site)
    for decoy in ("envs", "scenarios", "tests"):
        (home / decoy).mkdir(parents=True)
        (home / decoy / "__init__.py").write_text("mine = True\n")
    code = """
import json, sys
import envs, scenarios, tests
assert envs.mine and scenarios.mine and tests.mine
import marl, marl_envs, marl_scenarios
from importlib.metadata import distribution
from marl.scenario import find, names
system = marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), "CartPole-v1", num_envs=2)
system.train(steps=16)
found = find("spread")
print(json.dumps({
    "files": [module.__file__ for module in (marl, marl_envs, marl_scenarios, sys.modules[type(found).__module__])],
    "names": names(), "steps": system.steps, "version": distribution("marl-system").version,
}))
"""
    environment = {**os.environ, "PYTHONPATH": str(site), "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert all(file.startswith(str(site)) for file in said["files"])
    assert said["steps"] == 16
    assert "spread" in said["names"]


def pins() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(need.name): need for need in map(Requirement, lines)}


def test_constraints_pin_everything_we_ask_for_exactly():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins()
    extras = {name: needs for name, needs in project["optional-dependencies"].items() if name != "jax"}
    for need in map(Requirement, [*project["dependencies"], *(need for needs in extras.values() for need in needs)]):
        name = canonicalize_name(need.name)
        if name == "marl-system":
            continue
        assert name in pinned, f"{need.name} is missing in constraints.txt"
        (only,) = pinned[name].specifier
        assert only.operator == "=="
        assert need.specifier.contains(only.version), f"constraints.txt pins {only} where {need} is asked for"
    for need in pinned.values():
        assert re.fullmatch(r"==[\w.!]+", str(need.specifier)), f"{need}: one exact version, without a local suffix"
        assert need.url is None


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", ".ci/setup", ".ci/demo", ".ci/test", ".ci/run"])
def test_installing_names_no_index_and_no_machine(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"://|--(extra-)?index|-index-url|find-links|/home/|/root/|/opt/|/work/", text)


def test_the_top_level_holds_what_it_should():
    allowed = {
        "pyproject.toml",
        "README.md",
        "constraints.txt",
        "marl",
        "marl_runtime",
        "envs",
        "scenarios",
        "tests",
        "docs",
    }
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    tops = {line.partition("/")[0] for line in tracked.stdout.splitlines()}
    assert {top for top in tops if not top.startswith(".")} <= allowed


@pytest.mark.parametrize("name", ["setup", "demo", "test", "run"])
def test_scripts_are_whole_and_in_the_readme_or_called_by_those_that_are(name):
    path = ROOT / ".ci" / name
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert os.access(path, os.X_OK)
    texts = [ROOT / "README.md", ROOT / "docs" / "architecture.md", ROOT / ".ci" / "demo"]
    assert any(f"bash .ci/{name}" in text.read_text() for text in texts)

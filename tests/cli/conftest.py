"""A tiny scenario and one finished run of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import DUEL, SCENARIO, marl_command  # noqa: F401


@pytest.fixture(scope="session")
def scenario(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "tiny.py"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="session")
def duel(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "duel.py"
    path.write_text(DUEL)
    return path


@pytest.fixture(scope="session")
def finished(scenario, tmp_path_factory) -> Path:
    """The folder of an unbroken run, with evaluations on the way."""
    from marl.cli import main

    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    words = ["train", scenario, "--run-dir", folder, "--evaluate-every", 400, "--evaluate-episodes", 2, "--quiet"]
    assert main([*map(str, words), "--save-every", "320", "--episodes", "4", "--json"]) == 0
    return folder

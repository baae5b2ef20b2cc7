"""Speeds depend on what else a machine does: benchmarks run when asked for (``pytest -m slow tests/benchmarks``)."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)

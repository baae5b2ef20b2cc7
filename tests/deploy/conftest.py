"""The command line as somebody else's files meet it: nothing is trusted."""

from __future__ import annotations

import pytest

from tests.support.commands import Said


@pytest.fixture
def command(capsys):
    """``marl ...`` in this process, which says what it printed."""
    from marl.cli import main

    def call(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call

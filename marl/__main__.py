"""The ``marl`` command, also as ``python -m marl``: Ctrl-C is quiet from the first import on."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; returns its exit status."""
    try:
        from marl.cli import main as command

        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

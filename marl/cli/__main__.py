"""``python -m marl.cli``: the same as ``python -m marl``."""

import sys

from marl.cli import main

if __name__ == "__main__":
    sys.exit(main())

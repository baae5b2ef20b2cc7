"""What options of several commands share."""

from __future__ import annotations

from tyro.conf import arg

NUMBER = arg(metavar="N")

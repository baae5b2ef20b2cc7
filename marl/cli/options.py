"""What options of several commands share."""

from __future__ import annotations

from tyro.conf import arg

NUMBER = arg(metavar="N")
ENV = arg(
    metavar="ENV",
    help="The run's environment, named again: needed if it was given in Python as a class, function or object.",
)
RAY_CLUSTER = arg(metavar="auto|ADDRESS")

"""The ``marl`` command: train, study, population, tune, race, evaluate, sweep, play, plot, report, tournament, exploit,
export, verify, serve, view, list, check.

Nothing heavy is imported before it is needed. Whatever goes wrong by a user's mistake is one line on stderr and an exit
status: 2 bad input, 3 environment contract, 4 non-finite training, 5 checkpoint, 6 resources, 75 preempted and saved,
130 interrupted.
"""

from marl.cli.entry import main

__all__ = ["main"]

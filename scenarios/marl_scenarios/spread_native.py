"""Spread on the compiled twin of mpe2's: the same task, a good team in a few minutes.

Evaluate the run on mpe2 itself with ``marl evaluate RUN --env mpe2.simple_spread_v3``.
"""

import dataclasses

from marl_scenarios import spread

scenario = dataclasses.replace(
    spread.scenario,
    name="spread_native",
    about="the same on the compiled twin: a good team in a few minutes",
    env="marl/spread-v0",
    extra=None,
    algorithms={},  # those of spread train on the twin anyway
)

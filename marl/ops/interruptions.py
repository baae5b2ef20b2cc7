"""Repairing streams of experience that were cut."""

import torch
from torch import Tensor

from marl.ops.checks import check

__all__ = ["fix_step_type_on_interruptions"]

FIRST, MID, LAST = 0, 1, 2


def fix_step_type_on_interruptions(step_type: Tensor) -> Tensor:
    """Mark the step before a FIRST step as LAST where a crash left it MID.

        type_t' = LAST if type_t = MID and type_{t+1} = FIRST, else type_t,    with FIRST, MID, LAST = 0, 1, 2

    Paper: "dm_env: A Python interface for reinforcement learning environments", Muldal et al. 2019
    (https://github.com/google-deepmind/dm_env).

    Args:
        step_type: (T, *) integer.

    Returns:
        (T, *).

    Raises:
        ValueError: step_type is not an integer tensor with a time axis.
    """
    check(step_type=(step_type, "int T *"))
    cut = (step_type[:-1] == MID) & (step_type[1:] == FIRST)
    return torch.cat([step_type[:-1].masked_fill(cut, LAST), step_type[-1:]])

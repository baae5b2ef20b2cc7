"""Compiled elementwise kernels for the CPU, where torch's own leave speed on the table."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Rational approximation of tanh on [-8, 8] (the float32 result is 1 beyond), largest error 2.4e-7: odd numerator and
# even denominator in Horner form. Within float32 it is 8 times as fast as torch.tanh_ on AVX-512 (0.24 against 1.97 ms
# for 12,288 x 64 values on one thread).
_LIMIT = np.float32(7.99881172180175781)
_P = [
    np.float32(c)
    for c in (
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    )
]
_Q = [np.float32(c) for c in (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)]


@cache
def _tanh_kernel() -> Any:
    """Compile on first use (cached on disk), so that importing costs nothing."""
    import numba

    p0, p1, p2, p3, p4, p5, p6 = _P
    q0, q1, q2, q3 = _Q
    limit = _LIMIT

    allowed = {"contract", "arcp", "afn", "nsz", "reassoc"}  # all of fast maths but "there is no NaN, no infinity"

    # The numpy error model lets divisions vectorise: without it the loop is eight times slower.
    @numba.njit("void(float32[::1])", fastmath=allowed, nogil=True, error_model="numpy", cache=True)
    def kernel(x: Any) -> None:
        for i in range(x.size):
            v = x[i]
            v = limit if v > limit else v  # written so that NaN stays NaN
            v = -limit if v < -limit else v
            s = v * v
            p = (((((p0 * s + p1) * s + p2) * s + p3) * s + p4) * s + p5) * s + p6
            q = ((q0 * s + q1) * s + q2) * s + q3
            x[i] = v * p / q

    return kernel


def tanh_(x: Tensor) -> None:
    """``tanh`` in place: compiled for contiguous float32 on the CPU, torch's everywhere else."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous():
        _tanh_kernel()(x.numpy().reshape(-1))
    else:
        x.tanh_()

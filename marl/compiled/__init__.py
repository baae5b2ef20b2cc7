"""Compiled code that replaces torch where it is faster, behind one interface.

:func:`gradient_for` and :func:`network_for` decide what computes a learner's gradients and a network's outputs;
:func:`use` switches compiled code off, or has it compared with torch.
"""

from marl.compiled.backend import DenseLayers, MismatchError, decisions, gradient_for, network_for, recorded, use

__all__ = ["DenseLayers", "MismatchError", "decisions", "gradient_for", "network_for", "recorded", "use"]

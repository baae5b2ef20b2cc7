"""Corrections: what is done about rollouts that another policy played than the one that learns."""

from __future__ import annotations

from marl.config import config, setting
from marl.types import ConfigError


@config
class VTrace:
    """V-trace: clipped ratios of the policy of now to the one that played weigh errors of the value.

    The ratios are ``pi(a) / mu(a)`` of each agent's own action, where ``pi`` is the policy at the start of the update
    and ``mu`` the one that played: see :func:`marl.ops.idle_vtrace`. A2C weighs its policy's loss by them as well.
    Where both policies are the same nothing changes. Espeholt et al. 2018 (https://arxiv.org/abs/1802.01561).
    """

    rho: float = setting(1.0, "largest ratio on an action's own error; it decides whose values are learnt", above=0)
    c: float = setting(1.0, "largest ratio by which later errors pass back; at most rho", above=0)

    def __post_init__(self) -> None:
        """Refuse what the paper's proof of convergence excludes."""
        if self.c > self.rho:
            raise ConfigError(f"VTrace: expected c of at most rho, got c={self.c:g} and rho={self.rho:g}")

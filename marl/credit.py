"""Credit: whose reward an agent learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marl.types import Array, ConfigError, TeamStep


@dataclass(frozen=True)
class Independent:
    """Every agent learns from its own reward, until its own end."""


@dataclass(frozen=True)
class TeamReward:
    """Every agent learns from the mean of its team's rewards, until the whole team's end.

    A member that dies still shares what the team earns afterwards: its discount lives while any member lives. The team
    terminates if every member terminated, and is truncated otherwise.
    """


@dataclass(frozen=True)
class Counterfactual:
    """The team's reward, and of it what an agent's own action changed (COMA, Foerster et al. 2018).

    ``A_i = Q(s, a) - sum_a' pi_i(a' | o_i) Q(s, (a_-i, a'))`` by a joint critic with a value for every own action. The
    baseline does not depend on the agent's action, so it changes the gradient's variance and not its mean.
    """


@dataclass(frozen=True)
class VDN:
    """The team's value is the sum of its members': ``Q_tot = sum_i Q_i`` (Sunehag et al. 2018)."""


@dataclass(frozen=True)
class QMix:
    """The team's value rises with each member's, by a network whose weights the state makes (Rashid et al. 2018).

    ``Q_tot = |W_2(s)| ELU(|W_1(s)| (Q_1 ... Q_N) + b_1(s)) + V(s)``.

    Args:
        embed: width of the mixing layer.
        hypernet: width of the hidden layer of the networks that make the weights; 0: linear ones.
        state: ``"state"`` (the environment's ``state()``), ``"team"`` (the team's observations side by side) or
            ``"auto"`` (the first, where there is one).
    """

    embed: int = 32
    hypernet: int = 64
    state: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        _check_mixer(self, embed=self.embed, hypernet=self.hypernet + 1)


@dataclass(frozen=True)
class QPlex:
    """Duplex dueling: any team value whose best joint action is made of the members' own best ones (Wang et al. 2021).

    ``Q_tot = sum_i (w_i(s) V_i + b_i(s)) + sum_i lambda_i(s, a) w_i(s) (Q_i - V_i)`` with ``V_i = max_a Q_i`` and
    positive ``w``, ``lambda``.

    Args:
        heads: attention heads that make ``lambda``.
        hypernet: width of the hidden layers.
        state: as for :class:`QMix`.
    """

    heads: int = 4
    hypernet: int = 64
    state: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        _check_mixer(self, heads=self.heads, hypernet=self.hypernet)


@dataclass(frozen=True)
class WeightedQMix:
    """QMIX that cares less about joint actions it overestimates, beside an unrestricted ``Q*`` (Rashid et al. 2020).

    ``sum w(s, a) (Q_tot - y)^2`` with ``y = r + gamma Q*'(s', argmax Q_tot)``. Optimistic: ``w = 1`` where
    ``Q_tot < y``, else ``alpha``; central: ``w = 1`` where ``y > Q*(s, argmax Q_tot)`` or ``a`` is that action.

    Args:
        weighting: ``"optimistic"`` or ``"central"``.
        alpha: the smaller weight.
        embed: as for :class:`QMix`.
        hypernet: as for :class:`QMix`.
        state: as for :class:`QMix`.
    """

    weighting: str = "optimistic"
    alpha: float = 0.5
    embed: int = 32
    hypernet: int = 64
    state: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        _check_mixer(self, embed=self.embed, hypernet=self.hypernet + 1)
        if self.weighting not in ("optimistic", "central"):
            raise ConfigError(f"WeightedQMix.weighting: expected 'optimistic' or 'central', got {self.weighting!r}")
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"WeightedQMix.alpha: expected a number above 0 and at most 1, got {self.alpha!r}")


def _check_mixer(credit: QMix | QPlex | WeightedQMix, **sizes: int) -> None:
    name = type(credit).__name__
    for field, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{name}.{field}: expected a positive whole number, got {getattr(credit, field)!r}")
    if credit.state not in ("auto", "state", "team"):
        raise ConfigError(f"{name}.state: expected 'auto', 'state' or 'team', got {credit.state!r}")


Credit = Independent | TeamReward
Advantage = Independent | TeamReward | Counterfactual
Mixing = VDN | QMix | QPlex | WeightedQMix


class Outcome:
    """Turns a team's step into the reward and ends that its learner sees, in place and without allocating."""

    def __init__(self, credit: Advantage | Mixing, num_envs: int, num_agents: int) -> None:
        """One per team; keeps track of who has ended in the running episode of each copy."""
        self.shared = not isinstance(credit, Independent)
        shape = (num_envs, num_agents)
        self.over = np.zeros(shape, dtype=bool)
        self.cut = np.zeros(shape, dtype=bool)
        self._reward = np.zeros(shape, dtype=np.float32)
        self._terminated = np.zeros(shape, dtype=bool)
        self._truncated = np.zeros(shape, dtype=bool)

    def __call__(self, step: TeamStep, started: Array, reward: Array | None = None) -> tuple[Array, Array, Array]:
        """Reward, terminated, truncated ``(E, N)`` for learning; ``reward`` replaces the raw one (shaping)."""
        raw = step.reward if reward is None else reward
        if not self.shared:
            return raw, step.terminated, step.truncated
        self._reward[:] = raw.mean(axis=1, keepdims=True)
        self.cut |= step.truncated
        self.over |= step.terminated | step.truncated
        ended: Array = np.all(self.over, axis=1)
        cut: Array = ended & np.any(self.cut, axis=1)
        self._truncated[:] = cut[:, None]
        self._terminated[:] = (ended & ~cut)[:, None]
        self.over[started] = False
        self.cut[started] = False
        return self._reward, self._terminated, self._truncated

    def state_dict(self) -> dict[str, Array]:
        """Who has ended so far."""
        return {"over": self.over, "cut": self.cut}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Go back to a saved state."""
        self.over[:] = state["over"]
        self.cut[:] = state["cut"]

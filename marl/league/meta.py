"""Payoff tables of games between policies: equilibria and exploitability.

Tables are numpy arrays. ``payoff (I, J)`` of a zero-sum game is what the row player gets; ``payoffs`` is one table for
each of two players, both indexed ``(row, column)``. An antisymmetric table ``(P, P)`` compares policies of one kind.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import numpy as np

from marl.types import Array, ConfigError

Solver = Literal["nash", "prd", "uniform"]


def optimization() -> ModuleType:
    """The module ``scipy.optimize``. Raises ConfigError if it is not installed."""
    try:
        import scipy.optimize
    except ImportError:
        raise ConfigError("scipy is not installed: pip install 'marl-system[league]'") from None
    module: ModuleType = scipy.optimize
    return module


def nash(payoff: Array) -> tuple[Array, Array]:
    """An equilibrium ``(I,)``, ``(J,)`` of a zero-sum game, by linear programming.

    ``max_x min_j (x^T A)_j`` for the row player, ``min_y max_i (A y)_i`` for the column player (von Neumann 1928).
    """
    payoff = _table(payoff)
    return _maximin(payoff), _maximin(-payoff.T)


def _maximin(payoff: Array) -> Array:
    """The mixture of rows whose worst column is best: maximize ``v`` where ``x^T A >= v``."""
    rows, columns = payoff.shape
    found = optimization().linprog(
        c=np.append(np.zeros(rows), -1.0),
        A_ub=np.hstack([-payoff.T, np.ones((columns, 1))]),
        b_ub=np.zeros(columns),
        A_eq=np.append(np.ones(rows), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * rows + [(None, None)],
        method="highs",
    )
    if not found.success:
        raise ConfigError(f"nash: the linear program was not solved ({found.message})")
    return _normalized(found.x[:-1])


def replicator_dynamics(
    payoffs: tuple[Array, Array], steps: int = 10_000, rate: float = 0.01, floor: float = 1e-6
) -> tuple[Array, Array]:
    """Time-averaged projected replicator dynamics of two players (Lanctot et al. 2017), any payoffs.

    ``dx_i = x_i ((A y)_i - x^T A y)``, each probability kept at least ``floor``.
    """
    a, b = (_table(payoff) for payoff in payoffs)
    x, y = (np.full(size, 1 / size) for size in a.shape)
    total_x, total_y = np.zeros_like(x), np.zeros_like(y)
    for _ in range(steps):
        of_x, of_y = a @ y, x @ b
        x = _normalized(np.maximum(x + rate * x * (of_x - x @ of_x), floor))
        y = _normalized(np.maximum(y + rate * y * (of_y - of_y @ y), floor))
        total_x += x
        total_y += y
    return total_x / steps, total_y / steps


def solve(payoffs: tuple[Array, Array], solver: Solver) -> tuple[Array, Array]:
    """How two players mix their policies. ``"nash"`` solves the zero-sum game ``(A - B) / 2``."""
    a, b = payoffs
    if solver == "uniform":
        return tuple(np.full(size, 1 / size) for size in a.shape)  # type: ignore[return-value]
    return nash((a - b) / 2) if solver == "nash" else replicator_dynamics(payoffs)


def nash_conv(payoffs: tuple[Array, Array], x: Array, y: Array) -> float:
    """The sum of both players' gains from best responses to ``(x, y)``; 0 at equilibria.

    ``max_i (A y)_i - x^T A y + max_j (x^T B)_j - x^T B y``. Exploitability is half of it.
    """
    a, b = (_table(payoff) for payoff in payoffs)
    return float((a @ y).max() - x @ a @ y + (x @ b).max() - x @ b @ y)


def nash_averaging(payoff: Array) -> tuple[Array, Array]:
    """The most mixed equilibrium ``p`` of an antisymmetric table, and each policy's payoff against it (Balduzzi 2018).

    Copies of a policy share its weight and change nobody's skill.

    Raises:
        ConfigError: if the table is not antisymmetric.
    """
    payoff = _antisymmetric("nash averaging", payoff)
    size = len(payoff)
    optimize = optimization()
    # ``p`` is an equilibrium (value 0) where no row gains against it: A p <= 0. Rounding is given some room.
    room = 1e-9
    start = 0.999 * nash(payoff)[0] + 0.001 / size
    found = optimize.minimize(
        lambda p: float(np.sum(p * np.log(np.maximum(p, 1e-12)))),
        start,
        jac=lambda p: np.log(np.maximum(p, 1e-12)) + 1,
        bounds=[(0, 1)] * size,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(size)},
            {"type": "ineq", "fun": lambda p: room - payoff @ p, "jac": lambda p: -payoff},
        ],
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    mixed = _normalized(np.maximum(found.x, 0)) if found.success else nash(payoff)[0]
    return mixed, payoff @ mixed


def alpha_rank(payoff: Array, alpha: float = 10.0, population: int = 50) -> Array:
    """How much of the long run each policy holds where better ones invade (Omidshafiei et al. 2019), ``(P,)``.

    A mutant ``j`` takes over a population of ``i`` with probability
    ``(1 - e^{-alpha d}) / (1 - e^{-m alpha d})``, ``d = A_ji - A_ij``; the stationary distribution of that chain.

    Raises:
        ConfigError: if the table is not antisymmetric.
    """
    payoff = _antisymmetric("alpha rank", payoff)
    size = len(payoff)
    if size == 1:
        return np.ones(1)
    x = alpha * np.abs(payoff.T - payoff)  # (i, j), positive
    with np.errstate(divide="ignore", invalid="ignore"):
        better = -np.expm1(-x) / -np.expm1(-population * x)
        worse = better * np.exp(-(population - 1) * x)
    takes_over = np.where(payoff < payoff.T, better, worse)
    takes_over[x == 0] = 1 / population
    # What underflows to 0 could split the chain into parts that never meet.
    chain = np.maximum(takes_over, 1e-12) / (size - 1)
    np.fill_diagonal(chain, 0)
    np.fill_diagonal(chain, 1 - chain.sum(1))
    system = np.vstack([chain.T - np.eye(size), np.ones(size)])
    stationary: Array = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0]
    return _normalized(np.maximum(stationary, 0))


def _table(payoff: Array) -> Array:
    payoff = np.asarray(payoff, dtype=np.float64)
    if payoff.ndim != 2 or 0 in payoff.shape or not np.isfinite(payoff).all():
        raise ConfigError(f"payoff: expected a finite table of at least one row and column, got shape {payoff.shape}")
    return payoff


def _antisymmetric(what: str, payoff: Array) -> Array:
    payoff = _table(payoff)
    if payoff.shape[0] != payoff.shape[1] or not np.allclose(payoff, -payoff.T, atol=1e-8):
        raise ConfigError(f"{what}: expected an antisymmetric table, A = -A^T: play each pair with sides swapped")
    return payoff


def _normalized(values: Array) -> Array:
    values = np.maximum(values, 0)
    out: Array = values / values.sum()
    return out

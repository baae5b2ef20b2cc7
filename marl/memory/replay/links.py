"""Which row an agent's transition leads to: links, made while rows are written and followed while they are read."""

from __future__ import annotations

from marl.compiled.cache import jit
from marl.types import Array

PENDING = -1  # a link not known yet; links below it name kept successors: -2 is slot 0, -3 slot 1, ...


@jit(nogil=True)
def settle(
    last: Array,
    paid: Array,
    terminated: Array,
    truncated: Array,
    kept: Array,
    slots: Array,
    reward: Array,
    is_terminated: Array,
    is_truncated: Array,
    link: Array,
) -> None:
    """Add rewards and ends to the row of each agent's running turn."""
    for e in range(last.shape[0]):
        for n in range(last.shape[1]):
            row = last[e, n]
            if row < 0:
                continue
            reward[row, e, n] += paid[e, n]
            if terminated[e, n] or truncated[e, n]:
                is_terminated[row, e, n] = terminated[e, n]
                is_truncated[row, e, n] = truncated[e, n]
                link[row, e, n] = -2 - slots[e] if kept[e, n] else row
                last[e, n] = -1


@jit(nogil=True)
def take_turns(last: Array, turn: Array, row: int, link: Array) -> None:
    """End the previous turn of every agent that acts now, and begin the next one."""
    for e in range(last.shape[0]):
        for n in range(last.shape[1]):
            if last[e, n] == row:  # waited for as long as the ring is: its turn has been overwritten
                last[e, n] = -1
            if turn[e, n]:
                if last[e, n] >= 0:
                    link[last[e, n], e, n] = row
                last[e, n] = row


@jit(nogil=True)
def walk(
    cells: Array,
    reward: Array,
    terminated: Array,
    truncated: Array,
    link: Array,
    acting: Array,
    by_team: bool,
    copies: int,
    n_step: int,
    discount: float,
    total: Array,
    worth: Array,
    successor: Array,
    complete: Array,
) -> bool:
    """Follow each agent's links for ``n_step`` turns: summed reward, worth of the successor, where it is.

    Returns whether any of the successors is a kept end.
    """
    over = False
    for b in range(cells.shape[0]):
        for n in range(cells.shape[1]):
            place = cells[b, n]
            known = link[place, n] != -1 and (by_team or acting[place, n])
            complete[b, n] = known
            total[b, n], worth[b, n], successor[b, n] = 0.0, 0.0, place
            if not known:
                continue
            factor = 1.0
            for _ in range(n_step):
                after = link[place, n]
                if after == -1:  # the newest row: stop at it, with as many turns as there are
                    break
                total[b, n] += factor * reward[place, n]
                factor *= discount
                if terminated[place, n]:
                    factor = 0.0
                    successor[b, n] = after if after < 0 else place
                    break
                if truncated[place, n]:
                    successor[b, n] = after
                    break
                place = after * copies + place % copies
                successor[b, n] = place
            worth[b, n] = factor
            over |= successor[b, n] < 0
    return over

"""Faults of an environment's copies: counted, the first of each kind logged, and limited."""

from __future__ import annotations

import logging
import traceback
from collections import Counter, deque
from collections.abc import Callable

from marl.types import EnvContractError, MarlError, ResourceError

# How often in a row one copy may crash. Only an episode played to its end starts a new count, however far the copy
# came before it crashed: an environment that raises at step 1,001 of every episode never finishes one.
CRASHES_IN_A_ROW = 3
# How many episodes in a row one copy may lose in any way: crashes, lost workers, and observations that
# ``on_bad_obs="drop"`` throws away. More than of crashes, since whoever asks for "drop" expects some.
LOST_IN_A_ROW = 10
# Of the last 100 episodes of all copies, ended or lost: with 20 lost and more than three quarters of them, what is left
# is no fair sample of what the environment does.
RECENT_EPISODES, LEAST_LOST, MOST_LOST = 100, 20, 0.75
LONGEST_TRACE = 4_000  # characters of a traceback that are told, its end

Tell = Callable[[str, str], None]  # the kind of fault, and the text


class Ledger:
    """The faults of one batch of copies.

    counts: how often each kind came.
    last: the last of each kind in words.
    lost: how many episodes were lost.
    """

    def __init__(self, env: str) -> None:
        """``env``: its name, for messages."""
        self.env = env
        self.counts: dict[str, int] = {}
        self.last: dict[str, str] = {}
        self.lost = 0
        self.tell: Tell = _log
        self.outbox: list[tuple[int, str, str]] | None = None  # in a worker: losses that the learner's ledger judges
        self._told: set[str] = set()
        self._in_a_row: dict[int, int] = {}
        self._recent: deque[str] = deque(maxlen=RECENT_EPISODES)  # the kind of fault that cost it; "" if it ended

    def forward(self, tell: Tell) -> None:
        """Have another ledger, the learner's, tell faults and judge how many episodes of all workers are lost."""
        self.tell, self.outbox = tell, []

    def taken(self) -> list[tuple[int, str, str]]:
        """The losses since this was last asked: copy, kind and text of each."""
        losses, self.outbox = self.outbox or [], []
        return losses

    def note(self, kind: str, text: str, error: BaseException | None = None) -> None:
        """Count a fault; the first of its kind is told, with the traceback of the environment's exception."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first(kind, text, error)

    def first(self, kind: str, text: str, error: BaseException | None = None) -> None:
        """Tell a fault that is counted elsewhere, if it is the first of its kind."""
        self.last[kind] = text
        if kind not in self._told:
            self._told.add(kind)
            trace = "" if error is None else f"\n{trace_of(error)}"
            self.tell(kind, f"{text} (the first {kind}; more are counted, and not told one by one){trace}")

    def hear(self, kind: str, text: str) -> None:
        """Record a fault that a worker reports."""
        if kind not in self._told:
            self._told.add(kind)
            self.tell(kind, text)

    def end(self, copy: int) -> None:
        """A copy has played an episode to its end."""
        self._in_a_row.pop(copy, None)
        self._recent.append("")

    def lose(self, copy: int, kind: str, text: str) -> None:
        """A copy's episode is lost. Raises EnvContractError (ResourceError for lost workers) after too many."""
        self.lost += 1
        self.last[kind] = text
        in_a_row = self._in_a_row[copy] = self._in_a_row.get(copy, 0) + 1
        if in_a_row >= LOST_IN_A_ROW:
            raise _error(kind, f"{self.env}: copy {copy} lost {in_a_row} episodes in a row; last: {text}")
        if self.outbox is not None:
            self.outbox.append((copy, kind, text))
            return
        self._recent.append(kind)
        lost = Counter(self._recent)
        total = len(self._recent)
        del lost[""]
        if lost.total() >= LEAST_LOST and lost.total() > MOST_LOST * total:
            often, times = lost.most_common(1)[0]
            raise _error(
                often,
                f"{self.env}: {lost.total()} of the last {total} episodes were lost, {times} of them by {often}; last: "
                f"{self.last[often]}",
            )


def faults_of(env: object) -> dict[str, int]:
    """What went wrong in a batch so far, by kind and only what did, and how many episodes were lost."""
    counted: dict[str, int] = getattr(env, "faults", {})
    found = {kind.replace(" ", "_"): count for kind, count in counted.items() if count}
    lost: int = getattr(env, "lost_episodes", 0)
    return found | ({"lost_episodes": lost} if lost else {})


def trace_of(error: BaseException) -> str:
    """The traceback of an environment's exception without the adapters' own frames."""
    own, trace = error.__traceback__, error.__traceback__
    while own is not None and str(own.tb_frame.f_globals.get("__name__")).startswith("marl.adapters."):
        own = own.tb_next
    text = "".join(traceback.format_exception(type(error), error, own or trace)).strip()
    return text if len(text) <= LONGEST_TRACE else f"...{text[-LONGEST_TRACE:]}"


def _error(kind: str, text: str) -> MarlError:
    return (ResourceError if kind in ("killed", "hung") else EnvContractError)(text)


def _log(kind: str, text: str) -> None:
    logging.getLogger("marl.adapters").warning("%s", text)

"""One copy of a Gymnasium environment: a team of one agent, called ``agent_0``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marl.adapters.rows import UNREADABLE, ContractViolation, Rows, is_flag, shown

AGENT = "agent_0"


class GymnasiumCopy:
    """Plays episodes of one Gymnasium environment into its row; Gymnasium's own autoreset is not involved."""

    def __init__(self, env: Any, rows: Rows, max_steps: int | None) -> None:
        """``max_steps``: truncate episodes after this many steps."""
        self.env = env
        self.rows = rows
        self.max_steps = max_steps

    def begin(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        """Start an episode."""
        extra = {} if options is None else {"options": dict(options)}
        answer = self.env.reset(seed=seed, **extra)
        rows = self.rows
        rows.clear()
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ContractViolation(AGENT, "reset", "(observation, info)", type(answer).__name__)
        observation, info = answer
        rows.observe(0, observation)
        rows.choose(0, observation, info)
        rows.acting[0] = True

    def step(self, actions: Sequence[Any]) -> bool:
        """Act; True when the episode is over."""
        rows = self.rows
        answer = self.env.step(rows.decoders[0](actions[0]))
        rows.length += 1
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise ContractViolation(AGENT, "step", "(observation, reward, terminated, truncated, info)", shown(answer))
        observation, reward, terminated, truncated, info = answer
        if rows.noted is not None:
            rows.note({AGENT: info})
        rows.earn(0, reward)
        rows.observe(0, observation)
        if rows.checking:
            rows.settle()
        try:
            over = bool(terminated or truncated or rows.length == self.max_steps)
        except UNREADABLE:
            field, flag = ("truncated", truncated) if is_flag(terminated) else ("terminated", terminated)
            raise ContractViolation(AGENT, field, "True or False", shown(flag)) from None
        if over:
            rows.end(0, terminated, truncated or not terminated, info)
            if rows.masked:
                rows.choose_last(0, observation, info)
            rows.keep_successor()
        elif rows.masked or info:
            rows.choose(0, observation, info)
        return over

"""What a check finds, and the report it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from marl.notebook import html_table
from marl.types import ConfigError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing the check noticed.

    level: ``error`` breaks training or makes its results wrong, ``warning`` may, ``note`` is worth knowing.
    rule: a short name that stays the same between versions, such as ``observation_outside_space``.
    text: who, what was expected, what came, what to do.
    """

    level: Severity
    rule: str
    text: str


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    facts: ``kind``, ``agents``, ``observation_spaces``, ``action_spaces``, ``masked``, ``state_shape``,
        ``episode_length``, and if the environment is sound ``random_return`` per agent, its sum
        ``random_return_sum`` and ``env_steps_per_second``.
    learners: for every learner ``"yes"``, or ``"no, ..."`` with the reason.
    """

    env: str
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    learners: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The environment, and how many findings of each level."""
        levels = [finding.level for finding in self.findings]
        found = ", ".join(f"{levels.count(level)} {level}s" for level in dict.fromkeys(levels)) or "nothing found"
        return f"<CheckReport of {self.env}: {found}>"

    def _repr_html_(self) -> str:
        """Findings, then learners."""
        rows: list[tuple[str, str, str]] = [(one.level, one.rule, one.text) for one in self.findings]
        rows += [("learner", name, fits) for name, fits in self.learners.items()]
        return html_table(repr(self).strip("<>"), rows)

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that must be mended."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        findings = [{"level": f.level, "rule": f.rule, "text": f.text} for f in self.findings]
        return {"env": self.env, "ok": self.ok, "findings": findings, "facts": self.facts, "learners": self.learners}


class Unplayable(Exception):
    """The environment cannot be played on."""


class Findings:
    """Findings, each kind once per agent, with how often it came."""

    def __init__(self) -> None:
        """None yet."""
        self._found: dict[tuple[str, str, str], tuple[str, int]] = {}

    def add(self, level: Severity, rule: str, who: object, text: str) -> None:
        """Note something; repetitions are counted."""
        key = (level, rule, str(who))
        first, count = self._found.get(key, (text, 0))
        self._found[key] = (first, count + 1)

    def has_errors(self) -> bool:
        """Whether anything must be mended."""
        return any(level == "error" for level, _, _ in self._found)

    def findings(self) -> tuple[Finding, ...]:
        """Errors first."""
        order: tuple[Severity, ...] = ("error", "warning", "note")
        return tuple(
            Finding(level, rule, text if count == 1 else f"{text} ({count} times)")
            for level in order
            for (found, rule, _), (text, count) in self._found.items()
            if found == level
        )


def attempt(log: Findings, what: str, action: Callable[[], Any]) -> Any:
    """Run a piece of the environment; if it raises, say so and stop playing."""
    try:
        return action()
    except (Unplayable, KeyboardInterrupt, ConfigError):
        raise
    except BaseException as error:
        text = f"{what} raised {type(error).__name__}: {error}; run it alone to see where, and mend it"
        log.add("error", "raises", what, text)
        raise Unplayable from error

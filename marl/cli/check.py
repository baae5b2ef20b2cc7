"""``marl check``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from marl.cli.options import NUMBER
from marl.cli.output import print_json, quiet


@dataclass(frozen=True)
class Check:
    """Examine an environment: does it follow the API, and which learners can train it?"""

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """A Gymnasium or PettingZoo id, a module, module:attribute, FILE.py, FILE.py:NAME, or a scenario."""
    steps: Annotated[int, NUMBER] = 2000
    """Steps of random legal play."""
    seed: Annotated[int, NUMBER] = 0
    """Of everything random."""
    env_kwargs: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """A keyword for the environment: --env-kwargs N=5 max_cycles=50. Repeatable."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return check(self)


def check(asked: Check) -> int:
    """``marl check``."""
    from marl import conformance
    from marl.adapters.resolve import resolve
    from marl.config import check_whole
    from marl.overrides import keywords_said
    from marl.scenario import resolve_scenario

    check_whole("--steps", asked.steps, 1)
    check_whole("--seed", asked.seed, 0)
    given = keywords_said(asked.env_kwargs)
    with quiet():
        scenario = resolve_scenario(asked.env)
        env: Any = asked.env if scenario is None else scenario.env
        keywords = {**(scenario.env_kwargs if scenario is not None else {}), **given}
        env = resolve(env, keywords)[0] if keywords else env
        report = conformance.check(env, steps=asked.steps, seed=asked.seed, progress=_progress(asked))
    if asked.json:
        print_json(report.to_dict() | {"env": asked.env})
        return 0 if report.ok else 3
    print(f"{asked.env}: {'follows the API' if report.ok else 'breaks the API'}")
    for finding in report.findings:
        print(f"  {finding.level:<8} {finding.rule}: {' '.join(finding.text.split())}")
    for name, value in report.facts.items():
        print(f"  {name.replace('_', ' ')}: {_fact(value)}")
    if report.learners:
        print("  learners: " + "; ".join(f"{name} {verdict}" for name, verdict in report.learners.items()))
    return 0 if report.ok else 3


def _progress(asked: Check) -> Callable[[str], None]:
    """Says on a terminal what the check is doing, in one line that the next one overwrites."""
    shown = not asked.json and sys.stderr is not None and sys.stderr.isatty()

    def say(text: str) -> None:
        if shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    return say


def _fact(value: Any) -> str:
    """A fact in one line."""
    if value is None or (isinstance(value, list | tuple | Mapping) and not value):
        return "none"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        distinct = {_fact(item) for item in value.values()}
        if len(distinct) == 1 and len(value) > 1:
            return f"{distinct.pop()} ({len(value)} agents)"
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_fact(item) for item in value)
    return str(value)

"""``marl check``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from marl.cli.options import NUMBER
from marl.cli.output import print_json, quiet
from marl.cli.runs import scenario_named


@dataclass(frozen=True)
class Check:
    """Examine an environment: does it keep its contract, and which learners can train it?"""

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """A Gymnasium or PettingZoo id, a module, module:attribute, or a scenario."""
    steps: Annotated[int, NUMBER] = 2000
    """Steps of random legal play."""
    seed: Annotated[int, NUMBER] = 0
    """Of everything random."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return check(self)


def check(asked: Check) -> int:
    """``marl check``."""
    from marl import conformance
    from marl.config import check_whole
    from marl.scenario import names
    from marl.types import ConfigError

    check_whole("--steps", asked.steps, 1)
    check_whole("--seed", asked.seed, 0)
    env: Any = asked.env
    if asked.env in names() or asked.env.endswith(".py") or ":" in asked.env:
        from marl.adapters.resolve import resolve

        try:
            scenario = scenario_named(asked.env)
        except ConfigError:
            if asked.env in names() or asked.env.endswith(".py"):
                raise
        else:
            env = resolve(scenario.env, scenario.env_kwargs)[0] if scenario.env_kwargs else scenario.env
    with quiet():
        report = conformance.check(env, steps=asked.steps, seed=asked.seed)
    if asked.json:
        print_json(report.to_dict() | {"env": asked.env})
        return 0 if report.ok else 3
    print(f"{asked.env}: {'keeps its contract' if report.ok else 'breaks its contract'}")
    for finding in report.findings:
        print(f"  {finding.level:<8} {finding.rule}: {' '.join(finding.text.split())}")
    for name, value in report.facts.items():
        print(f"  {name.replace('_', ' ')}: {_fact(value)}")
    if report.learners:
        print("  learners: " + "; ".join(f"{name} {verdict}" for name, verdict in report.learners.items()))
    return 0 if report.ok else 3


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

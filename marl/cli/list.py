"""``marl list``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marl.cli import listing
from marl.cli.output import print_json, quiet
from marl.installed import installed_scenarios, installed_studies


@dataclass(frozen=True)
class List:
    """Show scenarios, studies, learners and recipes."""

    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return show(self)


def show(asked: List) -> int:
    """``marl list``."""
    installed = installed_scenarios()
    scenarios = {name: listing.facts_of(installed[name]) or _facts(name) for name in sorted(installed)}
    studies = listing.studies(dict(sorted(installed_studies().items())))
    learners, recipes = listing.learners(), listing.recipes()
    if asked.json:
        print_json({"scenarios": scenarios, "studies": studies, "learners": learners, "recipes": recipes})
        return 0
    width = max((len(name) for name in [*scenarios, *studies, *learners, *recipes]), default=0)
    print("scenarios (marl train NAME), with their algorithms (--algorithm ALGORITHM) and the returns to expect")
    for name, facts in scenarios.items():
        extra = f"; needs pip install 'marl-system[{facts['extra']}]'" if facts["extra"] else ""
        print(f"  {name:{width}}  {facts['about']}{extra}")
        for algorithm, own in facts["algorithms"].items():
            print(f"  {'':{width}}    {algorithm:10}  {own['expect'] or 'not measured'}")
    plain = ", ".join(listing.plain_names())
    for title, table in (
        ("studies (marl study run NAME)", studies),
        ("learners", learners),
        (f"recipes (marl train ANY_ENVIRONMENT --algorithm NAME; {plain} are those of one agent)", recipes),
    ):
        print(f"\n{title}")
        for name, about in table.items():
            print(f"  {name:{width}}  {about}")
    return 0


def _facts(name: str) -> dict[str, Any]:
    """What ``listing.facts_of`` tells, of a scenario whose file has to be run for that."""
    from marl.recipes import names_of
    from marl.scenario import find
    from marl.types import MarlError

    try:
        with quiet():
            found = find(name)
    except (MarlError, ImportError, AttributeError) as error:
        about = f"cannot be used: {' '.join(str(error).split())}"
        return {"about": about, "expect": "", "steps": None, "extra": None, "algorithms": {}}
    ways = {names_of(found.agents): found, **{algorithm: found.by(algorithm) for algorithm in found.algorithms}}
    algorithms = {way: {"expect": one.expect, "steps": one.steps, "extra": one.extra} for way, one in ways.items()}
    own = {"about": found.about, "expect": found.expect, "steps": found.steps, "extra": found.extra}
    return own | {"algorithms": algorithms}

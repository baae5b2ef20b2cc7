"""``marl list``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marl.cli.output import first_line, print_json, quiet


@dataclass(frozen=True)
class List:
    """Show scenarios, learners and recipes."""

    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return show(self)


def show(asked: List) -> int:
    """``marl list``."""
    import inspect

    from marl import algorithms
    from marl.learners import LEARNERS, Random
    from marl.scenario import find, names
    from marl.types import MarlError

    scenarios: dict[str, dict[str, Any]] = {}
    for name in names():
        try:
            with quiet():
                found = find(name)
        except (MarlError, ImportError, AttributeError) as error:
            scenarios[name] = {
                "about": f"cannot be used: {' '.join(str(error).split())}",
                "expect": "",
                "steps": None,
                "extra": None,
            }
            continue
        scenarios[name] = {"about": found.about, "expect": found.expect, "steps": found.steps, "extra": found.extra}
    learners = {cls.__name__: first_line(cls) for cls in (*LEARNERS, Random)}
    recipes = {
        name: first_line(recipe)
        for name, recipe in vars(algorithms).items()
        if inspect.isfunction(recipe) and recipe.__module__ == algorithms.__name__ and not name.startswith("_")
    }
    if asked.json:
        print_json({"scenarios": scenarios, "learners": learners, "recipes": recipes})
        return 0
    width = max((len(name) for name in [*scenarios, *learners, *recipes]), default=0)
    print("scenarios (marl train NAME)")
    for name, facts in scenarios.items():
        extra = f"; needs pip install 'marl-system[{facts['extra']}]'" if facts["extra"] else ""
        expect = f"\n  {'':{width}}  expect {facts['expect']}" if facts["expect"] else ""
        print(f"  {name:{width}}  {facts['about']}{extra}{expect}")
    for title, table in (("learners", learners), ("recipes", recipes)):
        print(f"\n{title}")
        for name, about in table.items():
            print(f"  {name:{width}}  {about}")
    return 0

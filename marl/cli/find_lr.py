"""``marl find-lr``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction, arg

if TYPE_CHECKING:
    from marl.studies.rate_range import RateRange
from marl.cli.options import NUMBER
from marl.cli.output import note, print_json
from marl.cli.status import config_error


@dataclass(frozen=True)
class FindLr:
    """Suggest a learning rate: train once while it grows exponentially, and see where that breaks."""

    scenario: Annotated[Positional[str], arg(metavar="WHAT")]
    """What is trained, as marl train takes it."""
    algorithm: Annotated[str | None, arg(metavar="NAME")] = None
    """By another algorithm than the scenario's own."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a setting, as marl train does. Repeatable."""
    setting: Annotated[str, arg(metavar="NAME")] = "learner.lr"
    """Which rate: TEAM.lr for one team's alone."""
    steps: Annotated[int | None, NUMBER] = None
    """Environment steps of the test; half of the scenario's unless given."""
    low: Annotated[float, NUMBER] = 1e-6
    """The first rate."""
    high: Annotated[float, NUMBER] = 1.0
    """The last rate."""
    points: Annotated[int, NUMBER] = 100
    """How many rates."""
    seed: Annotated[int, NUMBER] = 0
    """Everything random derives from it."""
    threads: Annotated[int | None, NUMBER] = None
    """Threads that PyTorch computes with."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to draw; find-lr-WHAT.png unless given."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return find_lr(self)


def find_lr(asked: FindLr) -> int:
    """``marl find-lr``."""
    from marl import parallel
    from marl.cli.asked import Asked
    from marl.cli.plan import check_numbers, make_plan
    from marl.cli.task import file_name
    from marl.studies import rate_range

    wanted = Asked(
        scenario=asked.scenario,
        algorithm=asked.algorithm,
        steps=asked.steps,
        seed=asked.seed,
        threads=asked.threads,
        set=asked.set,
    )
    check_numbers(wanted)
    rate_range.growing(asked.low, asked.high, asked.points)
    plan = make_plan(wanted, None)
    if asked.threads is not None:
        parallel.set_threads(asked.threads)
    steps = plan.steps if asked.steps is not None else max(1, plan.steps // 2)
    if not asked.json:
        note(f"{plan.scenario.name}: {steps:,} steps while {asked.setting} grows from {asked.low:g} to {asked.high:g}")
    with plan.build() as system:
        found = rate_range.find_lr(
            system, steps, low=asked.low, high=asked.high, points=asked.points, setting=asked.setting
        )
    out = Path(f"find-lr-{file_name(asked.scenario)}.png") if asked.out is None else asked.out
    drawn = _draw(found, out)
    if asked.json:
        print_json({"setting": asked.setting, **found.to_dict(), "figure": str(out) if drawn else None})
        return 0
    for name, rate in found.limits.items():
        print(f"  {name:<24} good up to {rate:.3g}")
    if found.suggestion is None:
        print("no suggestion: nothing in this range learnt or broke; try other --low, --high or more --steps")
    else:
        print(f"suggestion: {asked.setting}={found.suggestion:.2g}")
    if drawn:
        print(f"wrote {out}")
    return 0


def _draw(found: RateRange, out: Path) -> bool:
    """The figure, where there is matplotlib. Raises ConfigError if it cannot be written."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        note("no figure: matplotlib is not installed: pip install 'marl-system[plot]'")
        return False
    from marl.logs.files import replace_file
    from marl.studies.range_figure import range_figure

    try:
        replace_file(out, range_figure(found).png())
    except OSError as error:
        raise config_error(f"--out {out}: cannot be written ({error.strerror or error})") from None
    return True

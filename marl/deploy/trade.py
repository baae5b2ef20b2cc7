"""The trade: what smaller bundles of the same team return, how often they agree, how large and how fast they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marl.deploy.distill import Lessons, Students, distill
from marl.deploy.export import export
from marl.deploy.prune import prune
from marl.deploy.quantize import INTEGERS, PRECISIONS
from marl.deploy.verify import Certificate, verify
from marl.nets.networks import MLP
from marl.notebook import html_table
from marl.training.trained import Trained
from marl.types import ConfigError

HEAD = ("bundle", "return", "95 % CI, episodes", "equal actions", "bytes", "us", "us, 99 %")


@dataclass(frozen=True)
class Trade:
    """Certificates of several bundles of one team.

    Args:
        certificates: by the name of the bundle's folder.
    """

    certificates: dict[str, Certificate]

    def rows(self) -> list[tuple[str, float, str, str, str, str, str]]:
        """A row for each bundle."""
        return [
            (
                name,
                round(one.exported.mean, 2),
                f"{one.exported.low:.2f} to {one.exported.high:.2f}",
                f"{100 * one.agreement:.2f} %",
                f"{sum(one.sizes.values()):,}",
                f"{one.latency[0]:.1f}",
                f"{one.latency[1]:.1f}",
            )
            for name, one in self.certificates.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: one.to_dict() for name, one in self.certificates.items()}

    def _repr_html_(self) -> str:
        """The table."""
        return html_table("the trade", self.rows(), HEAD)

    def __str__(self) -> str:
        """The table."""
        return "\n".join(
            f"{name:<18} {mean!s:>10}  {interval:<20} {equal:>13} {size:>10} {middle:>8} {late:>8}"
            for name, mean, interval, equal, size, middle, late in (HEAD, *self.rows())
        )


def trade(
    system: Trained,
    out: str | Path,
    *,
    sizes: Sequence[Sequence[int]] = ((16, 16),),
    shares: Sequence[float] = (0.5,),
    lessons: Lessons | None = None,
    format: str = "numpy",
    states: int = 10_000,
    episodes: int = 100,
    calls: int = 10_000,
    seed: int | None = None,
    processes: bool = True,
) -> Trade:
    """Export a team in several sizes, each into a folder of its own, and play all of them beside what was trained.

    Args:
        system: what was trained.
        out: the folder of the bundles.
        sizes: hidden sizes of students, one after the other.
        shares: of the units that are left out.
        lessons: how long smaller networks learn.
        format: as of :func:`export`; what it names plays.
        states: as of :func:`verify`, likewise ``episodes``, ``calls``, ``seed`` and ``processes``.

    Raises:
        ConfigError: for teams that cannot be made smaller.
    """
    made: list[tuple[str, str | None, Students | None]] = [("float32", None, None)]
    made += [(quantize, quantize, None) for quantize in PRECISIONS if quantize not in INTEGERS]
    for hidden in sizes:
        taught = distill(system, MLP(tuple(hidden)), lessons)
        name = f"distill-{'-'.join(map(str, hidden))}"
        made += [(name, None, taught), (f"{name}-int8", "int8", taught)]
    made += [(f"prune-{share:g}", None, prune(system, share, lessons=lessons)) for share in shares]
    certificates = {}
    for name, quantize, students in made:
        path = export(system, Path(out) / name, format=format, quantize=quantize, students=students)
        certificates[name] = verify(
            path, system, engine=format, states=states, episodes=episodes, calls=calls, seed=seed, processes=processes
        )
    return Trade(certificates)


def plot(result: Trade, out: Path) -> Path:
    """Draw return, with its interval, against size. Raises ConfigError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("matplotlib is not installed: pip install 'marl-system[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, one in result.certificates.items():
        size, found = sum(one.sizes.values()), one.exported
        axis.errorbar(size, found.mean, [[found.mean - found.low], [found.high - found.mean]], fmt="o", capsize=3)
        axis.annotate(name, (size, found.mean), xytext=(5, 5), textcoords="offset points", fontsize="small")
    trained = next(iter(result.certificates.values())).trained
    axis.axhline(trained.mean, linestyle="--", color="0.4", linewidth=1)
    axis.set_xscale("log")
    axis.set_xlabel("bytes")
    axis.set_ylabel("return, sum over agents")
    axis.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out

"""``marl plot``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from marl.cli.options import NUMBER
from marl.cli.status import config_error, need


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of some runs; seeds of the same settings become one line with its interval."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Run folders, or folders that hold such, drawn into one picture."""
    metric: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """A metric to draw, a panel each. Repeatable; returns and evaluations unless given."""
    smooth: Annotated[int, NUMBER] = 1
    """Draw means over so many rows, the latest ones."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; RUN/curves.png of the first run unless given."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return plot(self)


def plot(asked: Plot) -> int:
    """``marl plot``."""
    need("matplotlib", "plot")
    from marl.config import check_whole
    from marl.studies.run_curves import plot_runs
    from marl.types import ConfigError

    check_whole("--smooth", asked.smooth, 1)
    out = asked.out if asked.out is not None else asked.runs[0] / "curves.png"
    try:
        plot_runs(asked.runs, out, asked.metric, asked.smooth)
    except OSError as error:
        raise config_error(f"--out {out}: cannot be written ({error.strerror or error})") from None
    except ConfigError:
        raise
    except ValueError as error:  # a picture of no kind that there is
        raise config_error(f"--out {out}: {' '.join(str(error).split())}") from None
    print(f"wrote {out}")
    return 0

"""``marl plot``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from marl.cli.status import config_error


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of some runs."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Run folders, drawn into one picture."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; RUN/curves.png of the first run unless given."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return plot(self)


def plot(asked: Plot) -> int:
    """``marl plot``."""
    from marl.logs.curves import plot_curves as draw

    for run in asked.runs:
        if not (run / "metrics.jsonl").exists():
            raise config_error(f"run {run}: there is no metrics.jsonl; expected a folder that marl train wrote")
    out = asked.out if asked.out is not None else asked.runs[0] / "curves.png"
    try:
        draw(asked.runs, out)
    except OSError as error:
        raise config_error(f"--out {out}: cannot be written ({error.strerror or error})") from None
    except ValueError as error:
        raise config_error(f"--out {out}: {' '.join(str(error).split())}") from None
    print(f"wrote {out}")
    return 0

"""What options of several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

NUMBER = arg(metavar="N")
ENV = arg(
    metavar="ENV",
    help="The run's environment, named again: needed if it was given in Python as a class, function or object.",
)
RAY_CLUSTER = arg(metavar="auto|ADDRESS")


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Options of commands whose answer has parts that do not depend on each other, see :mod:`marl.cli.parts`."""

    jobs: Annotated[int | None, NUMBER] = None
    """Processes that work side by side; all is done in this one unless --jobs, --ray or --out is given."""
    ray: Annotated[str | None, RAY_CLUSTER] = None
    """Work on a Ray cluster, and not on this machine alone; auto: the one that runs here, or one for this command."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Keep what is done in this folder: run again with the same one, the command goes on."""
    retries: Annotated[int, NUMBER] = 1
    """How often a part whose process was lost is tried again."""
    part: Annotated[str | None, arg(metavar="NAME")] = None
    """Do this part alone and leave it in --out: what the processes of --jobs and --ray are told."""

    @property
    def spread(self) -> bool:
        """Whether the parts are done by processes."""
        return self.jobs is not None or self.ray is not None or self.out is not None

"""Where the arrays of a replay lie, in memory or in files, and whether there is room for them."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from marl.memory.limits import free_memory
from marl.types import ConfigError, ResourceError, TeamSpec


class Room:
    """Room for the rows of one team, in memory, or in files where they are large."""

    def __init__(self, team: TeamSpec, cells: tuple[int, int, int], directory: str | None) -> None:
        """Room for ``cells = (R, E, N)``; large arrays go to files in ``directory``, if there is one.

        Raises:
            ConfigError: if the directory cannot be written to.
        """
        self.team, self.cells, self.directory = team, cells, directory
        if directory is None:
            return
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=directory).close()
        except OSError as error:
            raise ConfigError(f"buffer_dir: cannot write to {directory!r} ({error.strerror})") from None

    def check(self, carry: int, joint: tuple[int, ...] | None, recorded_teams: Sequence[TeamSpec]) -> None:
        """Refuse what cannot fit, before anything is allocated.

        Args:
            carry: width of the recurrent state of one agent.
            joint: shape of a joint input that is kept, if there is one.
            recorded_teams: other teams whose actions are kept.

        Raises:
            ResourceError: if there is not as much free memory.
        """
        cells, obs, action = self.cells, self.team.obs, self.team.action
        here = self.directory is None  # else observations and joint inputs go to files
        per_agent = here * math.prod(obs.shape) * (1 if obs.is_image else 4) + 4 * carry + 4 + 4 + 3
        per_agent += (action.num_choices if self.team.masked else 0) + math.prod(action.shape) * (
            4 if action.kind == "box" else 8
        )
        per_step = per_agent * cells[2] + 1 + (4 * math.prod(joint) if joint and here else 0)
        per_step += sum(
            other.num_agents
            * (8 * math.prod(other.action.shape) + 1 + (other.action.num_choices if other.masked else 0))
            for other in recorded_teams
        )
        needed = per_step * cells[0] * cells[1]
        free = free_memory()
        if free is not None and needed > free:
            raise ResourceError(
                f"replay of team {self.team.name!r}: {cells[0] * cells[1]:,} steps of {per_step:,} bytes need "
                f"{needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free; lower buffer="
                + (", or keep it on disk with buffer_dir=" if here else "")
            )

    def array(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A large array of zeros, in memory or in a file in the chosen directory.

        Raises:
            ResourceError: if the file would not fit on its disk.
        """
        if self.directory is None:
            return torch.zeros(shape, dtype=dtype)
        kind = np.dtype(np.uint8 if dtype == torch.uint8 else np.float32)
        needed, free = math.prod(shape) * kind.itemsize, shutil.disk_usage(self.directory).free
        if needed > free:  # a file with holes would end in a bus error
            raise ResourceError(
                f"replay of team {self.team.name!r}: {name} of {shape[0] * shape[1]:,} steps needs "
                f"{needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free in {self.directory}; lower buffer="
            )
        # Without a name: no two replays can meet in it, and it goes when its process does.
        with tempfile.TemporaryFile(dir=self.directory) as file:
            return torch.from_numpy(np.memmap(file, dtype=kind, mode="w+", shape=shape))

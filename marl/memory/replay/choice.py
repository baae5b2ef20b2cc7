"""The choice of a replay as a memory."""

from __future__ import annotations

import math

from marl.config import config, setting
from marl.memory.base import MemoryContext
from marl.memory.hindsight import Hindsight
from marl.memory.priorities import Prioritized
from marl.memory.replay.ring import Replay
from marl.types import ConfigError


@config
class ReplayMemory:
    """A ring buffer of recent transitions, drawn from uniformly or by TD error.

    It is what off-policy learners have without ``memory=``, made from their settings of the same names.
    """

    buffer: int = setting(default=100_000, doc="environment steps that the replay holds", least=1)
    buffer_dir: str | None = setting(default=None, doc="folder to keep observations in, for replays larger than memory")
    prioritized: Prioritized | None = setting(default=None, doc="Prioritized() draws by TD error; None: uniformly")
    hindsight: Hindsight | None = setting(default=None, doc="Hindsight() relabels goals; None: does not")

    def build(self, context: MemoryContext) -> Replay:
        """Make the memory of one team.

        Raises:
            ConfigError: for what has no meaning.
            ResourceError: if it does not fit into memory.
        """
        self._check(context)
        size = 1 if context.ranks is None else context.ranks.size
        replay = Replay(
            context.spec,
            context.team,
            context.scope,
            context.credit,
            math.ceil(self.buffer / size),
            context.num_envs,
            context.carry_width,
            context.device,
            other_actions=context.other_actions,
            keep_ends=self.hindsight is not None,
            directory=self.buffer_dir,
            ranks=context.ranks,
        )
        if self.prioritized is not None:
            # A new goal changes what the whole team earns.
            joined = self.hindsight is not None and context.credit.shared
            replay.prioritize(self.prioritized, context.separate and not joined)
        if self.hindsight is not None:
            replay.relabel(self.hindsight)
        return replay

    def _check(self, context: MemoryContext) -> None:
        wanted, copies, buffer = context.wanted, context.num_envs, self.buffer
        copies *= 1 if context.ranks is None else context.ranks.size
        reasons = {
            f"batch={wanted.batch} is larger than buffer={buffer}; raise buffer or lower batch": wanted.batch > buffer,
            f"n_step={wanted.n_step} own turns of {copies} copies are longer than buffer={buffer}; raise buffer or "
            "lower n_step": wanted.n_step * copies > buffer,
            f"sequence={wanted.length} rows of {copies} copies are longer than buffer={buffer}": (
                wanted.length * copies > buffer
            ),
            "prioritized draws are of single transitions; use sequence=1 or prioritized=None": (
                self.prioritized is not None and wanted.length > 1
            ),
            "hindsight relabels single transitions; use sequence=1 and n_step=1": (
                self.hindsight is not None and (wanted.length > 1 or wanted.n_step > 1)
            ),
        }
        for reason, holds in reasons.items():
            if holds:
                raise ConfigError(f"{context.learner}: {reason}")

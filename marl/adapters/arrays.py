"""The arrays of a step of copies in this process: each copy's rows, and successors where there are any."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from marl.adapters.rows import Rows
from marl.spaces import base_action_mask
from marl.types import Episode, Spec, Step, TeamStep, zeros_step


class StepArrays:
    """Every array of every step. Flags of all teams lie side by side; each team sees its columns.

    step: what :meth:`finish` returns. rows: each copy's share of it. flags: by name, ``(E, agents)``.
    dirty: there is more in the arrays than rewards, which the next step must wipe.
    """

    def __init__(self, spec: Spec, ids: Sequence[Hashable], num_envs: int, infos: bool) -> None:
        """``ids``: the environment's own, in the order of the teams; ``infos``: whether steps have the infos too."""
        self.step, self.spare = zeros_step(spec, num_envs), zeros_step(spec, num_envs)
        columns = (num_envs, len(spec.agents))
        self.flags = {name: np.zeros(columns, dtype=bool) for name in ("terminated", "truncated", "acting")}
        self.flags["reward"] = np.zeros(columns, dtype=np.float32)
        teams, first = [], 0
        for team, arrays in zip(spec.teams, self.step.teams, strict=True):
            mine = slice(first, first + team.num_agents)
            first += team.num_agents
            action_mask = None
            if arrays.action_mask is not None:
                action_mask = np.broadcast_to(
                    base_action_mask(team.action, team.action_spaces), arrays.action_mask.shape
                ).copy()
            flags = {name: flag[:, mine] for name, flag in self.flags.items()}
            teams.append(
                TeamStep(
                    obs=arrays.obs, next_obs=arrays.obs, action_mask=action_mask, next_action_mask=action_mask, **flags
                )
            )
        self.step.teams = tuple(teams)
        self.rows = [Rows(spec, ids, e, self.step, self.flags, self.spare) for e in range(num_envs)]
        self.action_shapes = [(num_envs, team.num_agents, *team.action.shape) for team in spec.teams]
        self.dirty = False
        self._infos = infos
        for rows in self.rows if infos else ():
            rows.noted = {}

    def wipe(self) -> None:
        """Forget last step's rewards and flags."""
        self.flags["reward"].fill(0)
        if self.dirty:
            self.wipe_ends()
            self.step.started.fill(False)
            self.step.discarded.fill(False)
            self.dirty = False

    def wipe_ends(self) -> None:
        """Nobody's episode ends here: ``next_obs`` is ``obs`` again."""
        for team in self.step.teams:
            team.next_obs, team.next_action_mask = team.obs, team.action_mask
        self.step.next_state = self.step.state
        self.flags["terminated"].fill(False)
        self.flags["truncated"].fill(False)
        for rows in self.rows:
            rows.has_successor = False

    def finish(self, finished: tuple[Episode, ...]) -> Step:
        """Point ``next_obs`` at the true successors: ``obs`` itself unless somebody's episode ended."""
        step, spare = self.step, self.spare
        step.finished = finished
        if self._infos:
            step.infos = tuple(rows.noted or {} for rows in self.rows)
        if not (self.dirty and any(rows.has_successor for rows in self.rows)):
            return step
        for e, rows in enumerate(self.rows):
            if not rows.has_successor:
                for now, successor in zip(
                    (*rows.obs, *rows.action_mask), (*rows.next_obs, *rows.next_action_mask), strict=True
                ):
                    if successor is not None:
                        successor[...] = now
                if step.state is not None and spare.state is not None:
                    spare.state[e] = step.state[e]
        for team, other in zip(step.teams, spare.teams, strict=True):
            team.next_obs, team.next_action_mask = other.obs, other.action_mask
        step.next_state = spare.state
        return step

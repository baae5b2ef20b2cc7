"""Playing a Gymnasium environment, whose one agent is ``agent_0``."""

from __future__ import annotations

from collections.abc import Hashable
from copy import deepcopy
from typing import Any

from marl.conformance.player import EnvPlayer
from marl.conformance.report import Unplayable, attempt
from marl.conformance.spaces import form


class GymnasiumPlayer(EnvPlayer):
    """Plays the one agent there is."""

    kind = "gymnasium"
    agent = "agent_0"

    def _listed(self) -> list[Hashable]:
        return [self.agent]

    def _declared(self, name: str, agent: Hashable) -> Any:
        return getattr(self.env, name, None)

    def _episode(self, seed: int | None) -> None:
        env, agent = self.env, self.agent
        answer = self._reset(seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            self._error("reset_signature", "", f"reset(): expected (observation, info), got {form(answer)}")
            raise Unplayable
        observation, info = answer
        self._begin_row()
        self._observation(agent, observation)
        while self.length < self.limit and not self.ended:
            action = self._action(agent, observation, info)
            self._see(f"action of {agent!r}", action)
            given = deepcopy(action)
            answer = attempt(self.log, "step() with a legal action", lambda given=given: env.step(given))  # type: ignore[misc]
            if not (isinstance(answer, tuple) and len(answer) == 5):
                text = "step(): expected (observation, reward, terminated, truncated, info)"
                self._error("step_signature", "", f"{text}, got {form(answer)}")
                raise Unplayable
            self.length += 1
            self._begin_row()
            observation, reward, terminated, truncated, info = answer
            self._observation(agent, observation)
            self._reward(agent, reward)
            self.ended = self._flag(agent, "terminated", terminated) | self._flag(agent, "truncated", truncated)

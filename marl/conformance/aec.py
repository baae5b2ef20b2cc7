"""Playing a PettingZoo AEC environment."""

from __future__ import annotations

from collections.abc import Hashable
from copy import deepcopy

from marl.conformance.player import EnvPlayer
from marl.conformance.report import Unplayable, attempt


class AECPlayer(EnvPlayer):
    """Plays one agent after the other."""

    kind = "aec"

    def _episode(self, seed: int | None) -> None:
        env = self.env
        self._reset(seed)
        self._begin_row()
        if not len(env.agents):
            self._error("no_agents", "", "env.agents: expected at least one agent after reset, got none")
            raise Unplayable
        gone: set[Hashable] = set()
        known: list[Hashable] = list(env.agents)
        turns = 0
        self._tables()
        self._state()
        while len(env.agents) and self.length < self.limit:
            turns += 1
            self._begin_row()
            agent = env.agent_selection
            self._see("agent_selection", str(agent))
            members: list[Hashable] = list(env.agents)
            self._announced(members)
            for back in sorted(gone.intersection(members), key=str):
                self._error(
                    "revived", back, "came back within the episode after its end; end it for good, or not at all"
                )
                raise Unplayable
            if agent not in members:
                text = f"agent_selection: expected one of env.agents {members}, got {agent!r}"
                self._error("selection_not_alive", "", text)
                raise Unplayable
            observation, reward, terminated, truncated, info = attempt(self.log, "last()", env.last)
            self._reward(agent, reward)
            over = self._flag(agent, "terminated", terminated) | self._flag(agent, "truncated", truncated)
            if observation is not None or not over:
                self._observation(agent, observation)
            if over:
                attempt(self.log, "step(None) of an agent that has ended", lambda: env.step(None))
                if agent in env.agents:
                    self._error("lingers", agent, "has ended but stays in env.agents after step(None)")
                    raise Unplayable
                gone.add(agent)
            else:
                action = self._action(agent, observation, info)
                self._see(f"action of {agent!r}", action)
                given = deepcopy(action)
                attempt(self.log, "step() with a legal action", lambda given=given: env.step(given))  # type: ignore[misc]
                self.length += 1
                for left in [other for other in members if other not in env.agents]:
                    text = (
                        "left env.agents without a turn of its own (step(None)) after its end; what it earned last is "
                        "read from _cumulative_rewards, if it is there"
                    )
                    self._warn("left_without_end", left, text)
                    gone.add(left)
            known += [other for other in env.agents if other not in known]
            self._tables()
            self._state()
            if turns > 4 * self.limit + 4 * len(self.agents):
                break
        self.ended = not len(env.agents)

    def _tables(self) -> None:
        """``rewards``, ``terminations``, ``truncations`` and ``infos`` hold exactly the agents of the moment."""
        env = self.env
        for name in ("rewards", "terminations", "truncations", "infos"):
            self._keys(name, getattr(env, name, None), env.agents, env.agents)

"""Playing a PettingZoo Parallel environment."""

from __future__ import annotations

from collections.abc import Hashable
from copy import deepcopy

from marl.conformance.player import EnvPlayer
from marl.conformance.report import Unplayable, attempt
from marl.conformance.spaces import form


class ParallelPlayer(EnvPlayer):
    """Plays all agents at once."""

    kind = "parallel"

    def _episode(self, seed: int | None) -> None:
        env = self.env
        answer = self._reset(seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            self._error("reset_signature", "", f"reset(): expected (observations, infos), got {form(answer)}")
            raise Unplayable
        observations, infos = answer
        live: list[Hashable] = list(env.agents)
        self._begin_row()
        self._announced(live)
        if not live:
            self._error("no_agents", "", "env.agents: expected at least one agent after reset, got none")
            raise Unplayable
        self._keys("observations", observations, live, live)
        self._keys("infos", infos, live, live)
        for agent in live:
            self._observation(agent, observations[agent])
        self._state()
        dead: set[Hashable] = set()
        gone: set[Hashable] = set()
        lingering: list[Hashable] = []  # ended, but still in env.agents: training sends them actions too
        while self.length < self.limit:
            told = infos or {}
            actions = {agent: self._action(agent, observations.get(agent), told.get(agent)) for agent in live}
            for agent in live:
                self._see(f"action of {agent!r}", actions[agent])
            actions |= {agent: self._samplers[agent].sample() for agent in lingering}
            given = {agent: deepcopy(action) for agent, action in actions.items()}
            answer = attempt(self.log, "step() with legal actions", lambda given=given: env.step(given))  # type: ignore[misc]
            if not (isinstance(answer, tuple) and len(answer) == 5):
                text = "step(): expected (observations, rewards, terminations, truncations, infos)"
                self._error("step_signature", "", f"{text}, got {form(answer)}")
                raise Unplayable
            self.length += 1
            self._begin_row()
            observations, infos = answer[0], answer[4]
            members: list[Hashable] = list(env.agents)
            self._announced(members)
            joined = [agent for agent in members if agent not in live and agent not in dead]
            allowed = {*live, *members, *dead}  # a team reward may go on after a member's death
            names = ("observations", "rewards", "terminations", "truncations", "infos")
            for name, value in zip(names, answer, strict=True):
                required = [*live, *joined] if name == "observations" else live
                self._keys(name, value, required, {*self.agents, *allowed} if name == "rewards" else allowed)
            for agent in [*live, *joined]:
                self._observation(agent, observations[agent])
            now_dead: set[Hashable] = set()
            for agent in answer[1]:
                self._reward(agent, answer[1][agent])
                if agent not in allowed and agent in self.agents:
                    text = "is paid before it has joined: its return counts that, and no action of its own earned it"
                    self._warn("reward_without_agent", agent, f"{text}; pay it once it is in env.agents")
            for agent in live:
                terminated = self._flag(agent, "terminated", answer[2][agent])
                truncated = self._flag(agent, "truncated", answer[3][agent])
                if terminated or truncated:
                    now_dead.add(agent)
                elif agent not in members:
                    text = "left env.agents without being terminated or truncated; set one of the two"
                    self._error("left_without_end", agent, text)
            for agent in sorted(gone.intersection(members), key=str):
                self._error(
                    "revived", agent, "came back within the episode after its end; end it for good, or not at all"
                )
                raise Unplayable
            for agent in sorted(dead.intersection(answer[2]) - gone, key=str):
                if not (answer[2][agent] or answer[3].get(agent, False)):
                    self._error("revived", agent, "was terminated or truncated and now is not; once ended, stay ended")
            dead |= now_dead
            gone |= dead.difference(members)
            for agent in sorted(now_dead.intersection(members), key=str):
                self._warn("lingers", agent, "has ended but stays in env.agents; take it out in the same step")
            self._state()
            live = [agent for agent in members if agent not in dead]
            lingering = [agent for agent in members if agent in dead]
            if not live:
                self.ended = True
                break
        if self.ended and list(env.agents):
            text = f"every agent has ended but env.agents is {list(env.agents)}; it must be empty then"
            self._error("agents_after_end", "", text)

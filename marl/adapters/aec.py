"""One copy of a PettingZoo AEC environment: one agent acts per step, the others wait with ``acting`` False.

A row is one turn. Rewards are read the public way, by ``env.last()`` when an agent's turn comes, and delivered in the
row that makes it come: everything an agent earned since its last turn arrives exactly once, at the latest in the dead
turn in which its environment lets it go. Dead turns (``step(None)``) are taken inside the row that brings them. Of an
agent that leaves ``env.agents`` without one, ``_cumulative_rewards`` says what ``last()`` would have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from marl.adapters.rows import UNREADABLE, ContractViolation, Rows, is_flag, shown


class AECCopy:
    """Plays episodes of one AEC environment into its rows."""

    def __init__(self, env: Any, rows: Rows, max_steps: int | None) -> None:
        """``max_steps``: truncate episodes after this many turns."""
        self.env = env
        self.rows = rows
        self.max_steps = max_steps
        self.members: set[Hashable] = set()  # in env.agents after the last step
        self.dead: set[Hashable] = set()
        self.mover = 0  # g of the agent to move
        self.unread: set[Hashable] = set()  # who has earned anything since its last turn
        self.counted = True  # whether the environment has the rewards of a step to count them by
        self.early: list[tuple[int, float]] = []  # rewards read before anybody moved; they go into the first row

    def begin(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        """Start an episode and let the first agent see."""
        extra = {} if options is None else {"options": dict(options)}
        self.env.reset(seed=seed, **extra)
        rows = self.rows
        rows.clear()
        self.members, self.dead = set(self.env.agents), set()
        self._count_ante()
        for agent in self.members:
            rows.agent(agent, "env.agents")
        if not self.members:
            raise ContractViolation(None, "env.agents", "at least one agent after reset", "none")
        rows.read_state(self.env)
        # The row of the episode that has just ended, if there was one, must stay as it is.
        ending = rows.reward.copy(), rows.terminated.copy(), rows.truncated.copy()
        rows.reward.fill(0)
        self._hand_over()
        self.early = [(int(g), float(rows.reward[g])) for g in rows.reward.nonzero()[0]]
        rows.reward[...], rows.terminated[...], rows.truncated[...] = ending
        if not rows.acting.any():
            raise ContractViolation(
                None, "env.agents", "an agent that can act after reset", "all of them terminated or truncated"
            )

    def step(self, actions: Sequence[Any]) -> bool:
        """Act for the agent whose turn it is; True when the episode is over."""
        rows, env, g = self.rows, self.env, self.mover
        for early, reward in self.early:
            rows.reward[early] += reward
        self.early = []
        env.step(rows.decoders[g](actions[g]))
        rows.length += 1
        if rows.noted is not None:
            rows.note({agent: _entry(env, "infos", agent) for agent in env.agents})
        self._pass_turn(g)
        if rows.state is not None:
            self._read_state()
        self._count_unread(rows.ids[g])
        self._hand_over()
        self._recount()
        over = len(env.agents) == 0
        if rows.length == self.max_steps and not over:
            self._cut()
            over = True
        ended = rows.terminated | rows.truncated
        if over or ended.any():
            rows.keep_successor()
            for dead in ended.nonzero()[0]:
                rows.die(int(dead))
        if rows.checking:
            rows.settle()
        return over

    def _hand_over(self) -> None:
        """Take dead turns until an agent can move, reading every reward on the way."""
        rows, env = self.rows, self.env
        for _ in range(2 * len(rows.ids) + 2):
            if len(env.agents) == 0:
                return
            agent = env.agent_selection
            g = rows.agent(agent, "agent_selection")
            answer = env.last()
            try:
                observation, reward, terminated, truncated, info = answer
            except UNREADABLE:
                expected = "(observation, reward, terminated, truncated, info)"
                raise ContractViolation(agent, "last", expected, shown(answer)) from None
            if agent in self.dead:
                raise ContractViolation(
                    agent, "agent_selection", "no agent to come back within an episode", repr(agent)
                )
            rows.earn(g, reward)
            self.unread.discard(agent)
            try:
                acting = not (terminated or truncated)
            except UNREADABLE:
                field, flag = ("truncated", truncated) if is_flag(terminated) else ("terminated", terminated)
                raise ContractViolation(agent, field, "True or False", shown(flag)) from None
            if acting:
                rows.observe(g, observation)
                rows.choose(g, observation, info)
                rows.acting[g] = True
                self.mover = g
                return
            if observation is not None:
                rows.observe(g, observation)
                rows.choose_last(g, observation, info)
            rows.end(g, terminated, truncated, info)
            self.dead.add(agent)
            env.step(None)
            if agent in env.agents:
                raise ContractViolation(
                    agent, "env.agents", "step(None) to remove the dead agent", f"{list(env.agents)}"
                )

    def _pass_turn(self, g: int) -> None:
        """The agent that has just moved waits again; its choices are open until its next turn."""
        self.rows.acting[g] = False
        action_mask = self.rows.agent_action_mask[g]
        if action_mask is not None:
            action_mask[...] = self.rows.codecs[g].base_action_mask

    def _recount(self) -> None:
        """Notice who joined, and who left without a dead turn."""
        now = set(self.env.agents)
        if now == self.members:
            return
        rows = self.rows
        for agent in now - self.members:
            rows.agent(agent, "env.agents")
            if agent in self.dead:
                raise ContractViolation(
                    agent, "env.agents", "no agent to come back within an episode", f"{self.env.agents}"
                )
        for agent in sorted(self.members - now - self.dead, key=rows.index.__getitem__):
            self.dead.add(agent)
            self._let_go(agent, rows.index[agent])
        self.members = now

    def _let_go(self, agent: Hashable, g: int) -> None:
        """An agent has left without a dead turn. It ended as its flags say, by termination where they say nothing."""
        rows, env = self.rows, self.env
        self._collect(agent, g)
        terminated = _entry(env, "terminations", agent)
        truncated = not terminated and _entry(env, "truncations", agent)
        if truncated:
            observation = None
            with contextlib.suppress(Exception):  # it is gone: the environment need not know any more what it sees
                observation = env.observe(agent)
            if observation is not None:
                rows.observe(g, observation)
                rows.choose_last(g, observation, None)
        rows.end(g, terminated or not truncated, truncated, _entry(env, "infos", agent))

    def _collect(self, agent: Hashable, g: int) -> None:
        """Read what an agent has earned since its last turn from where ``last()`` has it.

        Some environments clear it only when the next cycle ends, so it counts only for those who earned anything since.
        """
        if self.counted and agent not in self.unread:
            return
        self.unread.discard(agent)
        try:
            reward = self.env._cumulative_rewards[agent]
        except UNREADABLE:
            expected = "a dead turn of the agent, by step(None), or its entry in _cumulative_rewards"
            raise ContractViolation(agent, "reward", expected, "neither: what it earned last cannot be read") from None
        self.rows.earn(g, reward)

    def _read_state(self) -> None:
        """Write the global state. An environment that is over may have torn down its world: then the last one stays."""
        env = self.env
        try:
            self.rows.read_state(env)
        except ContractViolation:
            raise
        except Exception:
            if not all(_entry(env, "terminations", agent) or _entry(env, "truncations", agent) for agent in env.agents):
                raise

    def _count_ante(self) -> None:
        """Who has earned anything before anybody moved."""
        self.unread = set()
        self.counted = getattr(self.env, "rewards", None) is not None
        owed = getattr(self.env, "_cumulative_rewards", None)
        if isinstance(owed, Mapping):
            self.unread = {agent for agent, reward in owed.items() if reward}

    def _count_unread(self, mover: Hashable) -> None:
        """Who has earned anything in this move; what the mover earned before has been read."""
        self.unread.discard(mover)
        if not self.counted:
            return
        rewards = self.env.rewards
        try:
            for agent, reward in rewards.items():
                if reward:
                    self.unread.add(agent)
        except UNREADABLE:
            raise ContractViolation(None, "env.rewards", "a dictionary of numbers by agent", shown(rewards)) from None

    def _cut(self) -> None:
        """End the episode by truncation: everyone still in it gets its pending reward and its true observation."""
        rows, env = self.rows, self.env
        for agent in env.agents:
            g = rows.index[agent]
            self._collect(agent, g)
            observation = env.observe(agent)
            info = _entry(env, "infos", agent)
            if observation is not None:
                rows.observe(g, observation)
                rows.choose_last(g, observation, info)
            terminated = _entry(env, "terminations", agent)
            rows.end(g, terminated, not terminated, info)


def _entry(env: Any, table: str, agent: Hashable) -> Any:
    """An agent's entry in one of the environment's dictionaries; None where there is none."""
    found = getattr(env, table, None)
    return found.get(agent) if isinstance(found, Mapping) else None

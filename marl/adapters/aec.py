"""One copy of a PettingZoo AEC environment: one agent acts per step, the others wait with ``alive`` False.

A row is one turn. Rewards are read the public way, by ``env.last()`` when an agent's turn comes, and delivered in the
row that makes it come: everything an agent earned since its last turn arrives exactly once, at the latest in the dead
turn in which its environment lets it go. Dead turns (``step(None)``) are taken inside the row that brings them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from marl.adapters.rows import Breach, Rows


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
        self.unread: dict[Hashable, float] = {}  # rewards since an agent's last turn; kept only where max_steps may cut
        self.early: list[tuple[int, float]] = []  # rewards read before anybody moved; they go into the first row

    def begin(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        """Start an episode and let the first agent see."""
        extra = {} if options is None else {"options": dict(options)}
        self.env.reset(seed=seed, **extra)
        rows = self.rows
        rows.clear()
        self.members, self.dead, self.unread = set(self.env.agents), set(), {}
        for agent in self.members:
            rows.agent(agent, "env.agents")
        if not self.members:
            raise Breach(None, "env.agents", "at least one agent after reset", "none")
        rows.read_state(self.env, ended=False)
        # The row of the episode that has just ended, if there was one, must stay as it is.
        ending = rows.reward.copy(), rows.terminated.copy(), rows.truncated.copy()
        rows.reward.fill(0)
        self._hand_over()
        self.early = [(int(g), float(rows.reward[g])) for g in rows.reward.nonzero()[0]]
        rows.reward[...], rows.terminated[...], rows.truncated[...] = ending
        if not rows.alive.any():
            raise Breach(None, "env.agents", "an agent that can act after reset", "all of them terminated or truncated")

    def step(self, actions: Sequence[Any]) -> bool:
        """Act for the agent whose turn it is; True when the episode is over."""
        rows, env, g = self.rows, self.env, self.mover
        for early, reward in self.early:
            rows.reward[early] += reward
        self.early = []
        env.step(rows.decoders[g](actions[g]))
        rows.length += 1
        self._pass_turn(g)
        rows.read_state(env, ended=any(env.terminations.values()) or any(env.truncations.values()))
        if self.max_steps is not None:
            self.unread[rows.ids[g]] = 0.0
            self._count_unread()
        self._hand_over()
        self._recount()
        over = not env.agents
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
            if not env.agents:
                return
            agent = env.agent_selection
            g = rows.agent(agent, "agent_selection")
            observation, reward, terminated, truncated, info = env.last()
            if agent in self.dead:
                raise Breach(agent, "agent_selection", "no agent to come back within an episode", repr(agent))
            rows.earn(g, reward)
            if not (terminated or truncated):
                rows.observe(g, observation)
                rows.choose(g, observation, info)
                rows.alive[g] = True
                self.mover = g
                if self.unread:
                    self.unread[agent] = 0.0
                return
            if observation is not None:
                rows.observe(g, observation)
                rows.choose_last(g, observation, info)
            rows.terminated[g] = bool(terminated)
            rows.truncated[g] = not terminated
            self.dead.add(agent)
            env.step(None)
            if agent in env.agents:
                raise Breach(agent, "env.agents", "step(None) to remove the dead agent", f"{list(env.agents)}")

    def _pass_turn(self, g: int) -> None:
        """The agent that has just moved waits again; its choices are open until its next turn."""
        self.rows.alive[g] = False
        legal = self.rows.agent_legal[g]
        if legal is not None:
            legal[...] = self.rows.codecs[g].base_legal

    def _recount(self) -> None:
        """Notice who joined, and who left without a dead turn."""
        now = set(self.env.agents)
        if now == self.members:
            return
        rows = self.rows
        for agent in now - self.members:
            rows.agent(agent, "env.agents")
            if agent in self.dead:
                raise Breach(agent, "env.agents", "no agent to come back within an episode", f"{self.env.agents}")
        for agent in self.members - now - self.dead:
            self.dead.add(agent)
            rows.terminated[rows.index[agent]] = True
        self.members = now

    def _count_unread(self) -> None:
        for agent, reward in self.env.rewards.items():
            self.unread[agent] = self.unread.get(agent, 0.0) + float(reward or 0.0)

    def _cut(self) -> None:
        """End the episode by truncation: everyone still in it gets its pending reward and its true observation.

        ``_cumulative_rewards`` is what ``last()`` would report at the agent's next turn. Some environments clear it
        only when the next cycle ends, so it counts only for agents that earned anything since their last turn.
        """
        rows, env = self.rows, self.env
        for agent in env.agents:
            g = rows.index[agent]
            if self.unread.get(agent, 0.0) != 0.0:
                rows.earn(g, env._cumulative_rewards[agent])
            observation = env.observe(agent)
            if observation is not None:
                rows.observe(g, observation)
                rows.choose_last(g, observation, env.infos.get(agent))
            rows.terminated[g] = bool(env.terminations.get(agent, False))
            rows.truncated[g] = not rows.terminated[g]

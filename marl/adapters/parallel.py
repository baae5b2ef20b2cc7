"""One copy of a PettingZoo Parallel environment: every living agent acts in every step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from marl.adapters.rows import Breach, Rows

FIELDS = ("observation", "reward", "terminated", "truncated", "info")


class ParallelCopy:
    """Plays episodes of one Parallel environment into its rows.

    ``live`` are the agents that act now. Agents leave it when they are terminated or truncated and join it when they
    appear in ``env.agents``; nobody comes back within an episode.
    """

    def __init__(self, env: Any, rows: Rows, max_steps: int | None) -> None:
        """``max_steps``: truncate episodes after this many steps."""
        self.env = env
        self.rows = rows
        self.max_steps = max_steps
        self.live: list[Hashable] = []
        self.slots: list[tuple[Hashable, int, Any]] = []  # (agent, g, action decoder) of everyone in `live`
        self.dead: set[Hashable] = set()
        self.gone: set[Hashable] = set()  # dead and out of env.agents: seeing one of these again is a breach
        self.lingering: list[Hashable] = []  # dead but still in env.agents: such environments want an action for them

    def begin(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        """Start an episode."""
        extra = {} if options is None else {"options": dict(options)}
        answer = self.env.reset(seed=seed, **extra)
        rows, env = self.rows, self.env
        rows.clear()
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise Breach(None, "reset", "(observations, infos)", f"{type(answer).__name__}")
        observations, infos = answer
        self.dead, self.gone, self.lingering = set(), set(), []
        self._set_live(list(env.agents))
        if not self.live:
            raise Breach(None, "env.agents", "at least one agent after reset", "none")
        for agent, g, _ in self.slots:
            if agent not in observations:
                raise Breach(agent, "observation", f"all of {self.live} at reset", f"only {list(observations)}")
            self._join(agent, g, observations[agent], infos)
        rows.read_state(env, ended=False)

    def step(self, actions: Sequence[Any]) -> bool:
        """Act for everyone alive; True when the episode is over."""
        rows, env = self.rows, self.env
        joint = {agent: decode(actions[g]) for agent, g, decode in self.slots}
        if self.lingering:
            joint |= {agent: rows.decoders[rows.index[agent]](actions[rows.index[agent]]) for agent in self.lingering}
        answer = env.step(joint)
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise Breach(None, "step", "(observations, rewards, terminations, truncations, infos)", _shape(answer))
        observations, rewards, terminations, truncations, infos = answer
        rows.length += 1
        count = len(self.live)
        try:
            for agent, g, _ in self.slots:
                rows.earn(g, rewards[agent])
                if terminations[agent] or truncations[agent]:
                    if observations.get(agent) is not None:  # else the last one stays as the best known successor
                        rows.observe(g, observations[agent])
                        if rows.masked:
                            rows.choose_last(g, observations[agent], infos.get(agent))
                else:
                    rows.observe(g, observations[agent])
                    info = infos.get(agent) if infos else None
                    if rows.masked or info:
                        rows.choose(g, observations[agent], info)
        except KeyError:
            self._refuse_missing(answer)
            raise
        ended = any(terminations.values()) or any(truncations.values())
        rows.read_state(env, ended)
        cut = rows.length == self.max_steps
        quiet = (
            env.agents == self.live
            and len(rewards) == len(terminations) == len(truncations) == len(observations) == count
            and not (cut or ended)
        )
        over = False if quiet else self._change(observations, rewards, terminations, truncations, infos, cut)
        if rows.checking:
            rows.settle()
        return over

    def _change(
        self,
        observations: Mapping[Any, Any],
        rewards: Mapping[Any, Any],
        terminations: Mapping[Any, Any],
        truncations: Mapping[Any, Any],
        infos: Mapping[Any, Any],
        cut: bool,
    ) -> bool:
        """Deaths, late rewards, newcomers and the end of the episode."""
        rows = self.rows
        members = list(self.env.agents)
        for field, given in zip(FIELDS, (observations, rewards, terminations, truncations), strict=False):
            for agent in given:
                rows.agent(agent, field)
        for agent in rewards:  # a team's stream goes on after a member's death
            if agent in self.dead:
                rows.earn(rows.index[agent], rewards[agent])
        ended = [slot for slot in self.slots if terminations[slot[0]] or truncations[slot[0]]]
        newly_dead = {agent for agent, _, _ in ended}
        for agent in members:
            rows.agent(agent, "env.agents")
            if agent in self.gone:
                raise Breach(agent, "env.agents", "no agent to come back within an episode", f"{members}")
        stayed = set(members) - newly_dead - self.dead
        for agent in self.live:
            if agent not in stayed and agent not in newly_dead:
                raise Breach(
                    agent, "env.agents", "an agent that leaves to be terminated or truncated", f"only {members}"
                )
        joined = [agent for agent in members if agent in stayed and agent not in self.live]
        over = not stayed
        for agent, g, _ in ended:
            rows.terminated[g] = bool(terminations[agent])
            rows.truncated[g] = not terminations[agent]
        if cut and not over:
            over = True
            for agent, g, _ in self.slots:
                rows.truncated[g] = agent not in newly_dead or rows.truncated[g]
        for agent in joined:
            if agent not in observations:
                raise Breach(agent, "observation", "one of the agent that joined", f"only {list(observations)}")
            self._join(agent, rows.index[agent], observations[agent], infos)
        if ended or over:
            rows.keep_successor()
        for _, g, _ in ended:
            rows.die(g)
        self.dead |= newly_dead
        self.lingering = [agent for agent in members if agent in self.dead]
        self.gone = self.dead - set(members)
        self._set_live([agent for agent in members if agent in stayed])
        return over

    def _join(self, agent: Hashable, g: int, observation: Any, infos: Mapping[Any, Any]) -> None:
        rows = self.rows
        rows.observe(g, observation)
        rows.alive[g] = True
        rows.choose(g, observation, infos.get(agent) if infos else None)

    def _set_live(self, agents: list[Hashable]) -> None:
        rows = self.rows
        self.live = agents
        indices = [rows.agent(agent, "env.agents") for agent in agents]
        if len(set(indices)) < len(indices):
            raise Breach(None, "env.agents", "each agent once", f"{agents}")
        self.slots = [(agent, g, rows.decoders[g]) for agent, g in zip(agents, indices, strict=True)]

    def _refuse_missing(self, answer: Sequence[Any]) -> None:
        for field, given in zip(FIELDS[:4], answer[:4], strict=True):
            for agent in self.live:
                if agent not in given:
                    raise Breach(agent, field, f"all of {self.live}", f"only {list(given)}")


def _shape(answer: object) -> str:
    return f"a tuple of {len(answer)}" if isinstance(answer, tuple) else type(answer).__name__

"""One copy of a PettingZoo Parallel environment: every living agent acts in every step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from marl.adapters.rows import UNREADABLE, ContractViolation, Rows, is_flag, shown

FIELDS = ("observation", "reward", "terminated", "truncated", "info")
TABLES = ("observations", "rewards", "terminations", "truncations", "infos")


class ParallelCopy:
    """Plays episodes of one Parallel environment into its rows.

    ``live`` are the agents that act now. Agents leave it when they are terminated or truncated and join it when they
    appear in ``env.agents``; nobody comes back within an episode.

    Rewards of agents that do not act count in their returns, and in the row in which they arrive, where a team's reward
    stream has them. What an agent is paid in the step in which it joins comes with its own first row, since it has done
    nothing before that could have earned it.
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
        self.early: list[tuple[int, float]] = []  # (g, what it was paid on joining), until its first row
        self.listed = True  # env.agents is a list; of what else it may be, a list has to be made to compare it

    def begin(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        """Start an episode."""
        extra = {} if options is None else {"options": dict(options)}
        answer = self.env.reset(seed=seed, **extra)
        rows, env = self.rows, self.env
        rows.clear()
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ContractViolation(None, "reset", "(observations, infos)", f"{type(answer).__name__}")
        observations, infos = answer
        if not isinstance(observations, Mapping):
            raise ContractViolation(None, "reset observations", "a dictionary by agent", shown(observations))
        if infos is not None and not isinstance(infos, Mapping):
            raise ContractViolation(None, "reset infos", "a dictionary by agent or None", shown(infos))
        self.dead, self.gone, self.lingering, self.early = set(), set(), [], []
        self.listed = isinstance(env.agents, list)
        self._set_live(list(env.agents))
        if not self.live:
            raise ContractViolation(None, "env.agents", "at least one agent after reset", "none")
        for agent, g, _ in self.slots:
            if agent not in observations:
                raise ContractViolation(
                    agent, "observation", f"all of {self.live} at reset", f"only {list(observations)}"
                )
            self._join(agent, g, observations[agent], infos)
        rows.read_state(env)

    def step(self, actions: Sequence[Any]) -> bool:
        """Act for everyone alive; True when the episode is over."""
        rows, env = self.rows, self.env
        joint = {agent: decode(actions[g]) for agent, g, decode in self.slots}
        if self.lingering:
            joint |= {agent: rows.decoders[rows.index[agent]](actions[rows.index[agent]]) for agent in self.lingering}
        answer = env.step(joint)
        rows.length += 1
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise ContractViolation(None, "step", f"({', '.join(TABLES)})", _shape(answer))
        try:
            return self._take(*answer)
        except UNREADABLE:
            self._explain(answer)
            raise

    def _take(self, observations: Any, rewards: Any, terminations: Any, truncations: Any, infos: Any) -> bool:
        """Write what came of a step into the rows; True when the episode is over."""
        rows, env = self.rows, self.env
        if infos is None:
            infos = {}
        if rows.noted is not None:
            rows.note(infos)
        if self.early:
            for g, reward in self.early:
                rows.reward[g] += reward
            self.early = []
        count = len(self.live)
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
        ended = any(terminations.values()) or any(truncations.values())
        if rows.state is not None:
            self._read_state(terminations, truncations)
        cut = rows.length == self.max_steps
        quiet = (
            (env.agents if self.listed else list(env.agents)) == self.live
            and len(rewards) == len(terminations) == len(truncations) == len(observations) == count
            and not (cut or ended)
        )
        over = False if quiet else self._change(observations, rewards, terminations, truncations, infos, cut)
        if rows.checking:
            rows.settle()
        return over

    def _read_state(self, terminations: Mapping[Any, Any], truncations: Mapping[Any, Any]) -> None:
        """Write the global state. An environment that is over may have torn down its world: then the last one stays."""
        try:
            self.rows.read_state(self.env)
        except ContractViolation:
            raise
        except Exception:
            left = [agent for agent in self.env.agents if agent not in self.dead]
            if not all(terminations.get(agent) or truncations.get(agent) for agent in left):
                raise

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
        ended = [slot for slot in self.slots if terminations[slot[0]] or truncations[slot[0]]]
        newly_dead = {agent for agent, _, _ in ended}
        for agent in members:
            rows.agent(agent, "env.agents")
            if agent in self.gone:
                raise ContractViolation(agent, "env.agents", "no agent to come back within an episode", f"{members}")
        stayed = set(members) - newly_dead - self.dead
        for agent in self.live:
            if agent not in stayed and agent not in newly_dead:
                raise ContractViolation(
                    agent, "env.agents", "an agent that leaves to be terminated or truncated", f"only {members}"
                )
        joined = [agent for agent in members if agent in stayed and agent not in self.live]
        over = not stayed
        acting = set(self.live)
        for agent in rewards:
            if agent not in acting:
                self._earn_idle(rows.index[agent], rewards[agent], agent in joined and not cut)
        for agent, g, _ in ended:
            rows.end(g, terminations[agent], truncations[agent], infos.get(agent) if infos else None)
        if cut and not over:
            over = True
            for agent, g, _ in self.slots:
                if agent not in newly_dead:
                    rows.end(g, False, True, infos.get(agent) if infos else None)
        for agent in joined:
            if agent not in observations:
                raise ContractViolation(
                    agent, "observation", "one of the agent that joined", f"only {list(observations)}"
                )
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

    def _earn_idle(self, g: int, reward: Any, later: bool) -> None:
        """Take in the reward of an agent that did not act; ``later``: it comes with the agent's first row."""
        rows = self.rows
        rows.earn(g, reward)
        if later:
            self.early.append((g, float(rows.reward[g])))
            rows.reward[g] = 0

    def _join(self, agent: Hashable, g: int, observation: Any, infos: Mapping[Any, Any] | None) -> None:
        rows = self.rows
        rows.observe(g, observation)
        rows.acting[g] = True
        rows.choose(g, observation, infos.get(agent) if infos else None)

    def _set_live(self, agents: list[Hashable]) -> None:
        rows = self.rows
        self.live = agents
        indices = [rows.agent(agent, "env.agents") for agent in agents]
        if len(set(indices)) < len(indices):
            raise ContractViolation(None, "env.agents", "each agent once", f"{agents}")
        self.slots = [(agent, g, rows.decoders[g]) for agent, g in zip(agents, indices, strict=True)]

    def _explain(self, answer: Sequence[Any]) -> None:
        """Raise the ContractViolation of an unreadable answer. Returns if there is none: the environment raised."""
        for table, given in zip(TABLES, answer, strict=True):
            if not isinstance(given, Mapping) and not (table == "infos" and given is None):
                raise ContractViolation(None, table, "a dictionary by agent", shown(given))
        for field, given in zip(FIELDS[2:4], answer[2:4], strict=True):
            for agent, flag in given.items():
                if not is_flag(flag):
                    raise ContractViolation(agent, field, "True or False", shown(flag))
        ended = {agent for given in answer[2:4] for agent, flag in given.items() if flag}  # they need not be observed
        for field, given in zip(FIELDS[:4], answer[:4], strict=True):
            for agent in self.live:
                if agent not in given and not (field == "observation" and agent in ended):
                    raise ContractViolation(agent, field, f"all of {self.live}", f"only {list(given)}")
        for agent, info in (answer[4] or {}).items():
            if info is not None and not isinstance(info, Mapping):
                raise ContractViolation(agent, "info", "a dictionary or None", shown(info))
        if not isinstance(self.env.agents, Sequence) and self.listed:
            raise ContractViolation(None, "env.agents", "a list, as after reset", shown(self.env.agents))


def _shape(answer: object) -> str:
    return f"a tuple of {len(answer)}" if isinstance(answer, tuple) else type(answer).__name__

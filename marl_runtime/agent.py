"""One agent of a bundle: its policy, spaces, recurrent state, inbox and random stream."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from marl_runtime.bundle import BundleError
from marl_runtime.program import Array
from marl_runtime.seat import Heard, Turn
from marl_runtime.spaces import Codec, ValueMismatch
from marl_runtime.wire import Field, Layout

MIXTURE = 0x313E  # streams of draws from mixtures come from (seed, this, side)


class Engine(Protocol):
    """What computes a policy, step by step; see :class:`marl_runtime.program.Runner`."""

    @property
    def stages(self) -> Sequence[Any]:
        """Its stages, between which messages are exchanged."""
        ...

    @property
    def heads(self) -> Mapping[str, Any]:
        """Its heads by name."""
        ...

    def begin(self, **inputs: Any) -> Any:
        """The values of one step."""
        ...

    def give(self, values: Any, **inputs: Any) -> None:
        """Set inputs of a step; those that the policy does not read are left out."""
        ...

    def run(self, values: Any, stage: int) -> Mapping[str, Array]:
        """The results of one stage."""
        ...

    def head(self, values: Any, name: str) -> Array:
        """The action by one head."""
        ...

    def step(self, head: str, **inputs: Any) -> tuple[Array, Array | None]:
        """One step of an agent that hears nobody: its action, and its next carry if it has one."""
        ...


class Policy(NamedTuple):
    """A policy that an agent plays: with which chance, by what engine.

    inputs: shapes by name; noise: the random inputs that each head reads.
    """

    chance: float
    engine: Engine
    inputs: Mapping[str, tuple[int, ...]]
    noise: Mapping[str, tuple[str, ...]]


class Channel(NamedTuple):
    """How the agents of a team talk: exchanges within a step, numbers of a message, who hears whom ``(N, N)``.

    dynamic: who hears whom depends on what they all observe; ``adjacency`` says who may hear whom at all.
    """

    rounds: int
    size: int
    adjacency: Array
    dynamic: bool


class Agent:
    """A trained policy: ``action = agent.act(observation)``. Call :meth:`reset` where an episode begins.

    name, team, side: its own and those that it belongs to; codec: its spaces; policies: one, or those of a mixture;
    policy: which of them plays now; said: what it says to others, None if nothing; rounds, size: of its messages;
    side_seeds: side seeds of its twins, one after the other.
    """

    server = "marl_runtime.process"  # whose process plays it

    def __init__(
        self,
        name: str,
        team: Sequence[str],
        side: int,
        codec: Codec,
        policies: Sequence[Policy],
        action: Field,
        channel: Channel | None,
    ) -> None:
        """``team``: names of its team in order; ``side``: a number for those that draw from a mixture together."""
        self.name, self.team, self.side, self.codec, self.policies = name, tuple(team), side, codec, tuple(policies)
        self.action, self.channel = action, channel
        self.side_seeds: Iterator[int] | None = None
        self.talks = channel is not None
        self.rounds, self.size = (0, 0) if channel is None else (channel.rounds, channel.size)
        agents = len(self.team)
        self._silence = np.zeros((agents, self.size), np.float32), np.zeros(agents, np.float32)
        self.said: Array | None = None
        self.outputs: Array | None = None  # of its network in its newest turn
        self._random, self._draws = np.random.default_rng(), np.random.default_rng()
        self.reset()

    def __repr__(self) -> str:
        """Its name, and how it decides."""
        how = f", a mixture of {len(self.policies)} policies" if len(self.policies) > 1 else ""
        return f"<Agent {self.name!r}{how}{f', says {self.size} numbers' if self.talks else ''}>"

    def reset(self, seed: int | None = None, side_seed: int | None = None) -> None:
        """Begin an episode: nothing is remembered or heard, and a mixture draws the policy that plays.

        Args:
            seed: begins the random stream of its actions anew; None: it goes on.
            side_seed: the same of draws from a mixture; agents of a side that are given the same play the same policy.
                None: ``seed``.
        """
        side_seed = seed if side_seed is None else side_seed
        if seed is not None:
            self._random = np.random.default_rng(seed)
        if side_seed is not None:
            self._draws = np.random.default_rng([side_seed, MIXTURE, self.side])
        self.policy = 0
        if len(self.policies) > 1:
            chances = np.cumsum([policy.chance for policy in self.policies])
            self.policy = int(np.searchsorted(chances[:-1], self._draws.random() * chances[-1], side="right"))
        self._begin()

    @property
    def draws(self) -> bool:
        """Whether the policy that plays now draws its actions even if it need not explore: it reads nothing."""
        return bool(self.policies[self.policy].noise["greedy"])

    def play(self, policy: int) -> None:
        """Begin an episode with this policy of a mixture."""
        self.policy = policy
        self._begin()

    def _begin(self) -> None:
        self._carry = np.zeros(self.policies[self.policy].inputs.get("carry", (0,)), np.float32)
        self._heard, self.said = self._silence, None

    def twin(self, seed: int | None = None, side_seed: int | None = None) -> Agent:
        """A copy with an episode and a random stream of its own; the policy is shared."""
        twin = copy.copy(self)
        twin._random, twin._draws = copy.deepcopy((self._random, self._draws))
        if side_seed is None and self.side_seeds is not None:
            side_seed = next(self.side_seeds)
        twin.reset(seed, side_seed)
        return twin

    # --- acting -------------------------------------------------------------------------------------------------------

    def act(self, observation: Any, action_mask: Any = None, explore: bool = False) -> Any:
        """The action for one observation, ready for ``env.step``.

        Args:
            observation: what the environment gives this agent.
            action_mask: which of its choices are legal; a dictionary with ``"action_mask"`` brings it along.
            explore: draw from the policy instead of taking its most likely action.

        Raises:
            ValueMismatch: if one of them does not fit the agent's spaces.
        """
        try:
            row, mask = self.codec.encode(observation, action_mask)
        except ValueMismatch as error:
            raise ValueMismatch(f"agent {self.name!r}: observation: {error}") from None
        return self.codec.decode(self.act_encoded(row, mask, explore))

    def act_encoded(self, row: Array, action_mask: Array | None, explore: bool = False) -> Array:
        """The same from an encoded observation ``(*O)`` and legal choices ``(L,)``: the action in its padded shape.

        Agents that talk in rounds within a step hear nobody here; see :meth:`turn`.
        """
        if not self.talks:
            return self._decide(row, action_mask, explore)
        turn = self.conversation(row, action_mask, explore, self._heard)
        self._heard = self._silence
        try:
            said = next(turn)
            while True:
                self.said = said[0] if said[1] > 0 else None
                said = turn.send(self._silence)
        except StopIteration as end:
            action: Array = end.value
            return action

    def hear(self, messages: Mapping[str, Any]) -> None:
        """Receive what others of the team said, by name (None: nothing); the next :meth:`act` reads it.

        Raises:
            ValueMismatch: for names that are not in the team, and messages of another size.
        """
        self._heard = self.inbox(messages)

    def inbox(self, messages: Mapping[str, Any]) -> Heard:
        """Messages ``(N, M)`` with their weights ``(N,)``, for :meth:`turn`. Raises ValueMismatch."""
        heard, weight = (array.copy() for array in self._silence)
        for name, message in messages.items():
            if name not in self.team or self.channel is None:
                raise ValueMismatch(f"agent {self.name!r}: hear: {name!r} is not one of {', '.join(self.team)}")
            if message is None:
                continue
            found = np.asarray(message, np.float32)
            if found.shape != (self.size,):
                raise ValueMismatch(
                    f"agent {self.name!r}: hear: expected a message of shape ({self.size},) from {name!r}, got "
                    f"{found.shape}"
                )
            place = self.team.index(name)
            loud = 1.0 if self.channel.dynamic else self.channel.adjacency[self.team.index(self.name), place]
            if loud > 0:
                heard[place], weight[place] = found, loud
        return heard, weight

    def turn(self, row: Array, action_mask: Array | None, explore: bool = False, heard: Heard | None = None) -> Turn:
        """One step as a conversation: yields messages ``(M,)`` with their loudness, returns the padded action.

        With rounds within the step each message is answered by sending what is heard, messages ``(N, M)`` and weights
        ``(N,)``; without, ``heard`` is what was heard since the last step and the one message is sent off unanswered.
        Choices are counted from 0, as in the arrays of the team.
        """
        action = yield from self.conversation(row, action_mask, explore, heard)
        return self.codec.padded(action)

    def conversation(self, row: Array, action_mask: Array | None, explore: bool, heard: Heard | None) -> Turn:
        """The same as :meth:`turn`, with the action in the environment's own space, as :attr:`codec` decodes it."""
        heard = self._silence if heard is None else heard
        policy = self.policies[self.policy]
        engine = policy.engine
        values = engine.begin(observation=row, carry=self._carry, message=heard[0], weight=heard[1])
        last = len(engine.stages) - 1
        head = self._head(engine, action_mask, explore)
        engine.give(values, action_mask=action_mask, **self._noise(policy, head))
        for stage in range(last + 1):
            results = engine.run(values, stage)
            if "message" in results:
                answer = yield results["message"], results["loudness"]
                if stage < last:
                    heard = self._silence if answer is None else answer
                    engine.give(values, message=heard[0], weight=heard[1])
        self._carry = results.get("carry", self._carry)
        self.outputs = results["parameters"]
        return engine.head(values, head)

    def _decide(self, row: Array, action_mask: Array | None, explore: bool) -> Array:
        policy = self.policies[self.policy]
        head = self._head(policy.engine, action_mask, explore)
        noise = self._noise(policy, head)
        action, carry = policy.engine.step(head, observation=row, carry=self._carry, action_mask=action_mask, **noise)
        if carry is not None:
            self._carry = carry
        return action

    def _head(self, engine: Engine, action_mask: Array | None, explore: bool) -> str:
        name = "sample" if explore else "greedy"
        masked = f"{name}_masked"
        return name if action_mask is None or masked not in engine.heads else masked

    def _noise(self, policy: Policy, head: str) -> dict[str, Array]:
        """The random numbers that a head reads."""
        found: dict[str, Array] = {}
        for name in policy.noise[head]:
            draw = self._random.random if name == "uniform" else self._random.standard_normal
            found[name] = draw(policy.inputs[name], np.float32)
        return found

    # --- in a process of its own --------------------------------------------------------------------------------------

    def layout(self, copies: int) -> Layout:
        """The frames in which its process is told what it may know."""
        choices, rounds = self.codec.choices, self.rounds if self.talks else None
        obs = self.codec.shape, self.codec.dtype
        num_choices = None if choices is None else len(choices)
        return Layout(copies, obs, self.action, num_choices, len(self.team), self.size, rounds)


def channel_from(said: Any, agents: int) -> Channel | None:
    """A channel as a manifest has it. Raises BundleError."""
    if said is None:
        return None
    rounds, size, adjacency = said["rounds"], said["size"], np.array(said["adjacency"], np.float32)
    right = type(rounds) is int and 0 <= rounds <= 64 and type(size) is int and 0 < size <= 2**20
    if not right or adjacency.shape != (agents, agents) or not np.isfinite(adjacency).all():
        said = f"{rounds!r:.20} rounds and {size!r:.20} numbers"
        raise BundleError(f"a channel of {said} makes no sense for {agents} agents")
    return Channel(rounds, size, adjacency, bool(said["dynamic"]))

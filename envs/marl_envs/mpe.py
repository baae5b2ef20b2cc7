"""The particle physics that the MPE tasks share: a twin of mpe2 1.1.1's world and of its agents' actions.

Agents and landmarks are discs in the plane. Each step: forces from actions and from contacts, then
``x += v dt``; ``v = (1 - damping) v + F dt / m`` with ``m = 1``; speeds are capped. Computed in float64 like the
original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from marl.types import Array, ConfigError
from marl_envs.kernel import kernel, uniform
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

DT = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
MOVES = 5  # stay, left, right, down, up
PUSH = 5.0  # force of an agent that has no acceleration of its own


class Particles(NamedTuple):
    """State of all copies (first axis ``E``), then what they share. Entities are the agents, then the landmarks."""

    pos: Array  # (E, M, 2) of entities
    vel: Array  # (E, N, 2) of agents
    comm: Array  # (E, N, C) what each agent said last
    goal: Array  # (E, 2) int64: chosen landmarks, by their index among landmarks
    drive: Array  # (E, N, 2) acceleration and top speed of agents
    force: Array  # (N, 2) scratch
    order: Array  # (M,) int64 scratch
    size: Array  # (M,) radius of entities
    pairs: Array  # (P, 2) int64: entities that push each other, the first one an agent
    mover: Array  # (N,) bool: has a body that moves
    talker: Array  # (N,) bool: has a voice
    groups: Array  # int64, numbers of entities by kind and what else a task fixes
    near: Array  # (2,) int64: how many agents and landmarks are seen, nearest first; -1 for all in fixed order


@dataclass(frozen=True)
class Body:
    """One entity's fixed properties; ``accel`` None means a plain push of 5."""

    size: float = 0.05
    collide: bool = True
    moves: bool = True
    talks: bool = False
    accel: float | None = None
    max_speed: float = np.inf


@kernel
def contact(s: Particles, e: int, a: int, b: int, num_agents: int) -> None:
    """A soft push apart: ``100 d/|d| softplus((r - |d|) / 0.001) 0.001`` for centers ``d`` apart, radii sum to r."""
    dx = s.pos[e, a, 0] - s.pos[e, b, 0]
    dy = s.pos[e, a, 1] - s.pos[e, b, 1]
    reach = s.size[a] + s.size[b]
    far = reach + 50.0 * CONTACT_MARGIN
    squared = dx * dx + dy * dy
    if squared > far * far:  # exp(-50): no effect on a double
        return
    distance = np.sqrt(squared)
    depth = (reach - distance) / CONTACT_MARGIN
    soft = depth if depth > 50.0 else np.log1p(np.exp(depth))
    scale = CONTACT_FORCE * soft * CONTACT_MARGIN / distance
    if s.mover[a]:
        s.force[a, 0] += scale * dx
        s.force[a, 1] += scale * dy
    if b < num_agents and s.mover[b]:
        s.force[b, 0] -= scale * dx
        s.force[b, 1] -= scale * dy


@kernel
def integrate(s: Particles, e: int) -> None:
    """Contacts, then one Euler step with the velocity from before."""
    num_agents = s.vel.shape[1]
    for p in range(s.pairs.shape[0]):
        contact(s, e, s.pairs[p, 0], s.pairs[p, 1], num_agents)
    for n in range(num_agents):
        if s.mover[n]:
            vx, vy = s.vel[e, n, 0], s.vel[e, n, 1]
            s.pos[e, n, 0] += vx * DT
            s.pos[e, n, 1] += vy * DT
            vx = vx * (1.0 - DAMPING) + s.force[n, 0] * DT
            vy = vy * (1.0 - DAMPING) + s.force[n, 1] * DT
            limit = s.drive[e, n, 1]
            if vx * vx + vy * vy > limit * limit:
                speed = np.sqrt(vx * vx + vy * vy)
                vx, vy = vx / speed * limit, vy / speed * limit
            s.vel[e, n, 0], s.vel[e, n, 1] = vx, vy


@kernel
def _fraction(x: float) -> float:
    return min(max(x, np.float32(0.0)), np.float32(1.0))  # type: ignore[return-value]


@kernel
def _act_vector(s: Particles, e: int, action: Array) -> None:
    """Movers give five numbers in [0, 1] (nothing, left, right, down, up), talkers then their message."""
    for n in range(s.vel.shape[1]):
        k = 0
        if s.mover[n]:
            s.force[n, 0] = (_fraction(action[e, n, 2]) - _fraction(action[e, n, 1])) * s.drive[e, n, 0]
            s.force[n, 1] = (_fraction(action[e, n, 4]) - _fraction(action[e, n, 3])) * s.drive[e, n, 0]
            k = MOVES
        if s.talker[n]:
            for c in range(s.comm.shape[2]):
                s.comm[e, n, c] = _fraction(action[e, n, k + c])


@kernel
def _act_choice(s: Particles, e: int, action: Array) -> None:
    """A mover's choice is ``move + 5 * word``, a silent mover's is its move, a pure talker's is its word."""
    for n in range(s.vel.shape[1]):
        move = word = action[e, n]
        if s.mover[n]:
            if s.talker[n]:
                move = word % MOVES
                word = word // MOVES
            push = s.drive[e, n, 0]
            s.force[n, 0] = push if move == 2 else -push if move == 1 else 0.0
            s.force[n, 1] = push if move == 4 else -push if move == 3 else 0.0
        if s.talker[n]:
            for c in range(s.comm.shape[2]):
                s.comm[e, n, c] = 1.0 if c == word else 0.0


@kernel
def move(s: Particles, e: int, action: Array) -> None:
    """Everything that happens to bodies and messages in one step."""
    if action.ndim == 3:
        _act_vector(s, e, action)
    else:
        _act_choice(s, e, action)
    integrate(s, e)


@kernel
def scatter(s: Particles, e: int, rng: Array, landmark_range: float) -> None:
    """Agents uniform in the square of half-width 1, landmarks in theirs, all at rest and silent."""
    num_agents = s.vel.shape[1]
    for m in range(s.pos.shape[1]):
        half = 1.0 if m < num_agents else landmark_range
        s.pos[e, m, 0] = uniform(rng, e, -half, half)
        s.pos[e, m, 1] = uniform(rng, e, -half, half)
    for n in range(num_agents):
        s.vel[e, n, 0] = 0.0
        s.vel[e, n, 1] = 0.0
        for c in range(s.comm.shape[2]):
            s.comm[e, n, c] = 0.0


@kernel
def squared(s: Particles, e: int, a: int, b: int) -> float:
    """Squared distance of two entities."""
    dx = s.pos[e, a, 0] - s.pos[e, b, 0]
    dy = s.pos[e, a, 1] - s.pos[e, b, 1]
    return dx * dx + dy * dy  # type: ignore[no-any-return]


@kernel
def distance(s: Particles, e: int, a: int, b: int) -> float:
    """Distance of two entities."""
    return np.sqrt(squared(s, e, a, b))  # type: ignore[no-any-return]


@kernel
def touches(s: Particles, e: int, a: int, b: int) -> bool:
    """Whether two discs overlap."""
    reach = s.size[a] + s.size[b]
    return squared(s, e, a, b) < reach * reach  # type: ignore[no-any-return]


@kernel
def outside(x: float) -> float:
    """The fine for a coordinate that leaves the square: from 0.9 on, steeply from 1 on, 10 at most."""
    away = abs(x)
    if away < 0.9:
        return 0.0
    if away < 1.0:
        return (away - 0.9) * 10.0
    return min(np.exp(2.0 * away - 2.0), 10.0)  # type: ignore[no-any-return]


@kernel
def put_velocity(s: Particles, e: int, n: int, obs: Array, i: int, k: int) -> int:
    """Write the velocity of agent ``n`` into the observation of ``i`` at ``k``; returns the next place."""
    obs[e, i, k] = s.vel[e, n, 0]
    obs[e, i, k + 1] = s.vel[e, n, 1]
    return k + 2


@kernel
def put_position(s: Particles, e: int, obs: Array, i: int, k: int) -> int:
    """Write the position of agent ``i`` into its own observation."""
    obs[e, i, k] = s.pos[e, i, 0]
    obs[e, i, k + 1] = s.pos[e, i, 1]
    return k + 2


@kernel
def put_relative(s: Particles, e: int, m: int, obs: Array, i: int, k: int) -> int:
    """Write where entity ``m`` is as seen from agent ``i``."""
    obs[e, i, k] = s.pos[e, m, 0] - s.pos[e, i, 0]
    obs[e, i, k + 1] = s.pos[e, m, 1] - s.pos[e, i, 1]
    return k + 2


@kernel
def put_message(s: Particles, e: int, n: int, obs: Array, i: int, k: int) -> int:
    """Write what agent ``n`` said last."""
    for c in range(s.comm.shape[2]):
        obs[e, i, k + c] = s.comm[e, n, c]
    return k + s.comm.shape[2]  # type: ignore[no-any-return]


@kernel
def put_nothing(count: int, e: int, obs: Array, i: int, k: int) -> int:
    """Write zeros."""
    for c in range(count):
        obs[e, i, k + c] = 0.0
    return k + count


@kernel
def nearest(s: Particles, e: int, i: int, first: int, last: int, limit: int) -> int:
    """Which ``limit`` of entities ``first .. last - 1`` but ``i`` are nearest to ``i``, nearest first, in ``s.order``.

    Returns how many there are.
    """
    count = 0
    for m in range(first, last):
        if m != i and limit > 0:
            away = squared(s, e, i, m)
            if count == limit:
                if squared(s, e, i, s.order[count - 1]) <= away:
                    continue
                count -= 1
            at = count
            while at > 0 and squared(s, e, i, s.order[at - 1]) > away:
                s.order[at] = s.order[at - 1]
                at -= 1
            s.order[at] = m
            count += 1
    return count


@kernel
def put_all_relative(s: Particles, e: int, first: int, last: int, limit: int, obs: Array, i: int, k: int) -> int:
    """Entities ``first .. last - 1`` but ``i``, seen from ``i``: all in order, or the ``limit`` nearest, then zeros."""
    if limit < 0:
        x, y = s.pos[e, i, 0], s.pos[e, i, 1]  # read once: the compiler must assume that writing obs changes pos
        for m in range(first, last):
            if m != i:
                obs[e, i, k] = s.pos[e, m, 0] - x
                obs[e, i, k + 1] = s.pos[e, m, 1] - y
                k += 2
        return k
    count = nearest(s, e, i, first, last, limit)
    for slot in range(limit):
        if slot < count:
            k = put_relative(s, e, s.order[slot], obs, i, k)
        else:
            k = put_nothing(2, e, obs, i, k)
    return k


def slots(others: int, limit: int | None) -> int:
    """How many places an observation has for ``others`` entities when at most ``limit`` are seen."""
    return others if limit is None else limit


def proportion(name: str, value: float) -> float:
    """Check a number in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} is a proportion: expected a number in [0, 1], got {value}")
    return value


class ParticleWorld(World):
    """What the MPE tasks have in common: bodies, spaces, allocation, mpe2's keyword arguments, and pictures."""

    shared = ("size", "pairs", "mover", "talker", "groups", "near")
    scratch = ("force", "order")
    landmark_color: ClassVar[tuple[int, int, int]] = (64, 64, 64)
    half_width: ClassVar[float] = 1.4  # of pictures: everybody starts within 1

    def __init__(
        self,
        *,
        agents: Mapping[str, Body],
        landmarks: Sequence[Body],
        obs_widths: Sequence[int],
        words: int,
        max_cycles: int,
        continuous_actions: bool,
        render_mode: str | None,
        dynamic_rescaling: bool,
        benchmark_data: bool,
        groups: Sequence[int] = (),
        num_agent_neighbors: int | None = None,
        num_landmark_neighbors: int | None = None,
        tasks: Mapping[str, Parameter] | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        for name, limit in (
            ("num_agent_neighbors", num_agent_neighbors),
            ("num_landmark_neighbors", num_landmark_neighbors),
        ):
            if limit is not None and (not isinstance(limit, int) or limit < 1):
                raise ConfigError(f"{name}: expected None or a whole number of at least 1, got {limit!r}")
        self.continuous_actions = continuous_actions
        self.dynamic_rescaling = dynamic_rescaling
        self.benchmark_data = benchmark_data
        self._bodies = [*agents.values(), *landmarks]
        self._num_agents, self._words, self._groups = len(agents), words, tuple(groups)
        self._near = tuple(-1 if limit is None else limit for limit in (num_agent_neighbors, num_landmark_neighbors))
        actions: dict[str, Space[Any]] = {}
        for name, body in agents.items():
            if continuous_actions:
                actions[name] = Box(0.0, 1.0, (MOVES * body.moves + words * body.talks,), np.float32)
            else:
                actions[name] = Discrete((MOVES if body.moves else 1) * (words if body.talks else 1))
        super().__init__(
            observation_spaces={
                name: Box(-np.inf, np.inf, (width,), np.float32) for name, width in zip(agents, obs_widths, strict=True)
            },
            action_spaces=actions,
            max_cycles=max_cycles,
            tasks=tasks,
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> Particles:
        """Arrays of all copies."""
        bodies, agents = self._bodies, self._bodies[: self._num_agents]
        pairs = [
            (a, b)
            for a in range(len(agents))
            for b in range(a + 1, len(bodies))
            if bodies[a].collide and bodies[b].collide and (bodies[a].moves or (b < len(agents) and bodies[b].moves))
        ]
        drive = [[PUSH if body.accel is None else body.accel, body.max_speed] for body in agents]
        return Particles(
            pos=np.zeros((num_envs, len(bodies), 2)),
            vel=np.zeros((num_envs, len(agents), 2)),
            comm=np.zeros((num_envs, len(agents), self._words)),
            goal=np.zeros((num_envs, 2), dtype=np.int64),
            drive=np.tile(np.array(drive), (num_envs, 1, 1)),
            force=np.zeros((len(agents), 2)),
            order=np.zeros(len(bodies), dtype=np.int64),
            size=np.array([body.size for body in bodies]),
            pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
            mover=np.array([body.moves for body in agents]),
            talker=np.array([body.talks for body in agents]),
            groups=np.array(self._groups, dtype=np.int64),
            near=np.array(self._near, dtype=np.int64),
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Landmarks and entities, by their numbers."""
        landmarks = len(self._bodies) - self._num_agents
        return {"goal": (0, max(landmarks - 1, 0)), "order": (0, len(self._bodies) - 1)}

    def shown(self, s: Particles, e: int) -> Sequence[int]:
        """The entities in pictures."""
        return range(len(self._bodies))

    def colors(self, s: Particles, e: int) -> list[tuple[int, int, int]]:
        """Color of each entity in pictures."""
        return [(90, 90, 217)] * self._num_agents + [self.landmark_color] * (len(self._bodies) - self._num_agents)

    def benchmark(self, s: Particles, e: int, n: int) -> Any:
        """What mpe2 reports as ``benchmark_data`` of agent ``n``."""
        return {}

    def _infos(self, agents: Sequence[str]) -> dict[str, dict[str, Any]]:
        if not self.benchmark_data or self.core.clock[0] == 0:
            return {agent: {} for agent in agents}
        s = self.core.s
        return {agent: {"benchmark_data": self.benchmark(s, 0, n)} for n, agent in enumerate(self.possible_agents)}

    def action_names(self, agent: str) -> tuple[str, ...]:
        """Of those who move and do not talk."""
        body = self._bodies[self.possible_agents.index(agent)]
        return ("stay", "left", "right", "down", "up") if body.moves and not (body.talks and self._words) else ()

    def draw(self, canvas: Canvas, s: Particles, e: int) -> None:
        """Discs with the names of agents, hollow at the edge where somebody is farther out, and what talkers said.

        The view is the same in all pictures, unlike mpe2's: what stands still stands still in them. So there is nothing
        that ``dynamic_rescaling`` could change.
        """
        canvas.view(self.half_width)
        colors = self.colors(s, e)
        for m in self.shown(s, e):
            place, size = s.pos[e, m], self._bodies[m].size
            inside = np.clip(place, -self.half_width, self.half_width)
            canvas.circle(inside, size, colors[m] if np.array_equal(place, inside) else (255, 255, 255))
            if m < self._num_agents:
                canvas.name(self.possible_agents[m], inside, size)
        for n in np.flatnonzero(s.talker):
            said = s.comm[e, n]
            if not said.any():
                word = "_"
            elif self.continuous_actions:
                word = "[" + ", ".join(f"{value:.2f}" for value in said) + "]"
            else:
                word = chr(ord("A") + int(said.argmax()))
            canvas.text(f"{self.possible_agents[n]} says {word}")

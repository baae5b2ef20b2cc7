"""Messages as actions: the spaces with words and inboxes, and the exchange of messages."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

from marl.adapters.describe import env_name, interface, known_agents
from marl.channels.link import Link
from marl.channels.link_simulator import ActiveEdges, LinkSimulator
from marl.spaces import MASK, flat_width, has_mask, image_axes, leaf_bounds, obs_spec, observation_writer, without_mask
from marl.topology import Topology
from marl.types import ActionSpec, Array, ConfigError, ObsSpec, TeamSpec


class ActionCodec:
    """One agent's actions with words: the joint space, and how to split an action."""

    def __init__(self, agent: Hashable, space: Space[Any], words: int, quiet: bool, link: Link, heard: bool) -> None:
        """``heard``: whether anybody can hear it; else its actions are what they were. For the rest see ``Spoken``."""
        self.inner, self.words, self.quiet, self.heard = space, words, quiet, heard
        self.numbers = isinstance(space, Box)
        if not isinstance(space, Discrete | MultiDiscrete | MultiBinary | Box):
            raise ConfigError(
                f"Spoken: agent {agent!r}: a message fits beside a Discrete, MultiDiscrete, MultiBinary or Box action, "
                f"got {space}"
            )
        if self.numbers and quiet:
            raise ConfigError(f"Spoken: agent {agent!r}: quiet has no meaning for numbers; leave it out")
        if not self.numbers:
            for name in ("floats", "bits", "saturation"):
                if getattr(link, name) is not None:
                    raise ConfigError(
                        f"Spoken: agent {agent!r}: Link.{name} has no meaning for words, only for the numbers that go "
                        "with Box actions; loss, delay, noise and budget do"
                    )
        self.space = self._space() if heard else space

    def _space(self) -> Space[Any]:
        inner, words = self.inner, self.words
        if isinstance(inner, Discrete):
            return Discrete(int(inner.n) * words, start=int(inner.start))
        if isinstance(inner, MultiDiscrete):
            start = np.broadcast_to(inner.start, inner.nvec.shape).reshape(-1)
            return MultiDiscrete(
                np.append(inner.nvec.reshape(-1), words), dtype=inner.dtype.type, start=np.append(start, 0)
            )
        if isinstance(inner, MultiBinary):
            return MultiBinary(int(np.prod(inner.shape)) + words)
        assert isinstance(inner, Box)
        dtype = inner.dtype.type if inner.dtype is not None and np.issubdtype(inner.dtype, np.floating) else np.float32
        low, high = (np.append(bound.reshape(-1), [side] * words) for bound, side in ((inner.low, -1), (inner.high, 1)))
        return Box(low.astype(dtype), high.astype(dtype), dtype=dtype)

    def part(self, action: Any) -> tuple[Any, Array, float]:
        """The action, the message ``(M,)`` and its loudness, 0 or 1."""
        inner, words = self.inner, self.words
        if not self.heard:
            return action, np.zeros(words, np.float32), 0.0
        if isinstance(inner, Discrete):
            choice, word = divmod(int(action) - int(inner.start), words)
            return choice + int(inner.start), _one_hot(word, words), float(not self.quiet or word > 0)
        flat = np.asarray(action).reshape(-1)
        shape = inner.shape or ()
        count = int(np.prod(shape))
        own, said = flat[:count].reshape(shape), flat[count:]
        if isinstance(inner, Box) and inner.dtype is not None and np.issubdtype(inner.dtype, np.integer):
            own = np.rint(own)
        own = own.astype(inner.dtype)
        if isinstance(inner, MultiDiscrete):
            word = int(said[0])
            return own, _one_hot(word, words), float(not self.quiet or word > 0)
        loud = float(not self.quiet or bool(said.any()))
        return own, said.astype(np.float32), loud

    def mask(self, mask: Any) -> Any:
        """The agent's legal actions, each with any word."""
        if not self.heard:
            return mask
        parts = mask if isinstance(mask, tuple) else (mask,)
        flat = np.concatenate([np.ravel(part) for part in parts])
        if isinstance(self.inner, Discrete):
            return np.repeat(flat, self.words)
        choices = self.words * (2 if isinstance(self.inner, MultiBinary) else 1)
        return np.append(flat, np.ones(choices, flat.dtype))

    @property
    def mask_length(self) -> int:
        """Choices of the space with words."""
        if isinstance(self.space, Discrete):
            return int(self.space.n)
        if isinstance(self.space, MultiDiscrete):
            return int(self.space.nvec.sum())
        return 2 * int(np.prod(self.space.shape or ()))


class Exchange:
    """Messages of one environment; shared by its wrappers and its batched form."""

    def __init__(self, env: Any, words: int, topology: Topology, link: Link, quiet: bool) -> None:
        """Lays the topology on all agents; see ``Spoken``. Raises ConfigError if that, or a space, does not do."""
        self.agents: tuple[Hashable, ...] = known_agents(env)
        self.place = {agent: n for n, agent in enumerate(self.agents)}
        names = tuple(map(str, self.agents))
        if len(names) < 2:
            raise ConfigError(f"Spoken: {env_name(env)} has one agent, who has nobody to talk to")
        raw = [env.observation_space(agent) for agent in self.agents]
        self.masked = [has_mask(space) for space in raw]
        self.inner = [without_mask(space) for space in raw]
        for name, space in zip(names, self.inner, strict=True):
            if image_axes(space) is not None:
                raise ConfigError(
                    f"Spoken: agent {name!r} sees images {space.shape}, in which an inbox has no place; wrap the "
                    "environment to show vectors, or let the learner talk: channel=marl.CommNet()"
                )
        acts = [env.action_space(agent) for agent in self.agents]
        width = max(map(flat_width, self.inner))
        team = TeamSpec(
            "everybody",
            names,
            ObsSpec((width,), "float32", obs_spec(names, self.inner).widths),
            ActionSpec("discrete", (1,), (1,) * len(names)),
            tuple(raw),
            tuple(acts),
        )
        self.adjacency = topology.build(team)
        edges = self.adjacency.weight.numpy() > 0
        self.senders = [np.flatnonzero(row) for row in edges]
        self.codecs = [
            ActionCodec(agent, space, words, quiet, link, bool(edges[:, n].any()))
            for n, (agent, space) in enumerate(zip(self.agents, acts, strict=True))
        ]
        self.words = words
        dynamic = self.adjacency.dynamic is not None
        self.link_simulator = LinkSimulator(
            len(names), words, 0, link, dynamic=dynamic, keep_last=interface(env) == "aec"
        )
        self.rows = np.zeros((len(names), width), np.float32)  # what everybody sees of the world itself
        self.widths = team.obs.widths
        self.writers = [
            observation_writer(space, row[:own])
            for space, row, own in zip(self.inner, self.rows, self.widths, strict=True)
        ]
        free = link.noise > 0 or dynamic
        most = np.inf if free else max(1.0, float(self.adjacency.weight.max())) * (link.saturation or 1.0)
        self.observation_spaces = [self._observation_space(n, most) for n in range(len(names))]
        self.state = torch.zeros(1, len(names), self.link_simulator.width, dtype=torch.float32)
        self.seeded = False

    def _observation_space(self, n: int, most: float) -> Space[Any]:
        bounds = list(leaf_bounds(self.inner[n]))
        extra = len(self.senders[n]) * self.words
        low = np.concatenate([*(part for part, _ in bounds), np.full(extra, -most)]).astype(np.float32)
        high = np.concatenate([*(part for _, part in bounds), np.full(extra, most)]).astype(np.float32)
        vector = Box(low, high, dtype=np.float32)
        if not self.masked[n]:
            return vector
        return spaces.Dict({"observation": vector, MASK: Box(0, 1, (self.codecs[n].mask_length,), np.int8)})

    @property
    def message_entries(self) -> tuple[str, ...]:
        """Where observations show what others said, as ``MultiAgentSystem.evaluate`` wants it."""
        found = []
        for n, senders in enumerate(self.senders):
            start = self.widths[n]
            for k, sender in enumerate(senders):
                first = start + k * self.words
                found.append(f"{self.agents[n]}<{self.agents[sender]}:{first}-{first + self.words - 1}")
        return tuple(found)

    # --- what happens -------------------------------------------------------------------------------------------------

    def begin(self, seed: int | None, raw: Mapping[Any, Any]) -> None:
        """An episode begins; nothing is in the air. Without a seed chance goes on from where it was."""
        if seed is not None or not self.seeded:
            self.state = torch.zeros_like(self.state)
            fresh = np.random.SeedSequence(seed).generate_state(1, np.uint32)
            self.link_simulator.seed(self.state, torch.Generator().manual_seed(int(fresh[0])))
            self.seeded = True
        self.rows.fill(0)
        self._arrive(True, raw)

    def pass_on(self, said: Mapping[Any, tuple[Array, float]], raw: Mapping[Any, Any]) -> None:
        """Send the messages of the agents that acted, and deliver those that arrive."""
        message = torch.zeros(1, len(self.agents), self.words, dtype=torch.float32)
        loud = torch.zeros(1, len(self.agents), dtype=torch.float32)
        acting = torch.zeros(1, len(self.agents), dtype=torch.bool)
        for agent, (words, volume) in said.items():
            n = self.place[agent]
            message[0, n], loud[0, n], acting[0, n] = torch.from_numpy(words), volume, True
        self.link_simulator.leave(self.in_flight, message, loud, self.active_edges, acting)
        self.state = self.link_simulator.close(self.in_flight)
        self._arrive(False, raw)

    def _arrive(self, start: bool, raw: Mapping[Any, Any]) -> None:
        if self.adjacency.dynamic is None:
            self.active_edges = ActiveEdges(self.adjacency.weight)
        else:
            self.rows.fill(0)  # as those see who are gone
            for agent, observation in raw.items():
                if observation is not None:
                    self._see(self.place[agent], observation)
            rows = self.adjacency.now(torch.from_numpy(self.rows.copy())[None])
            self.active_edges = ActiveEdges(rows[..., :-1], rows[..., -1])
        self.in_flight = self.link_simulator.open(self.state, torch.tensor([start]))
        inbox = self.link_simulator.arriving(self.in_flight, self.active_edges)
        self.heard: Array = (inbox.message * inbox.weight.unsqueeze(-1))[0].numpy()  # (N, N, M)

    def observation(self, agent: Any, raw: Any) -> Any:
        """What the agent sees, with its inbox."""
        if raw is None:
            return None
        n = self.place[agent]
        vector = np.concatenate((self._see(n, raw), self.heard[n, self.senders[n]].reshape(-1)))
        if not self.masked[n]:
            return vector
        return {"observation": vector, MASK: self.codecs[n].mask(raw[MASK]).astype(np.int8)}

    def _see(self, n: int, raw: Any) -> Array:
        """An observation as a vector, which the next one overwrites."""
        self.writers[n](_without(raw) if self.masked[n] else raw)
        return self.rows[n, : self.widths[n]]

    def info(self, agent: Any, info: Any) -> Any:
        """Its info, whose mask knows of words."""
        if not isinstance(info, Mapping) or MASK not in info:
            return info
        return {**info, MASK: self.codecs[self.place[agent]].mask(info[MASK])}


def _one_hot(word: int, words: int) -> Array:
    vector = np.zeros(words, np.float32)
    vector[word] = 1
    return vector


def _without(raw: Mapping[str, Any]) -> Any:
    """An observation without its mask."""
    rest = {key: value for key, value in raw.items() if key != MASK}
    return rest["observation"] if set(rest) == {"observation"} else rest

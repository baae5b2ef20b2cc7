"""What a service takes at most, so that no client makes it grow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from marl_runtime.agent import Agent
from marl_runtime.wire import HEADER, Field

JSON_BYTES = 2**16  # of a request beside its numbers
NUMBER_BYTES = 32  # of one number as text, generously


@dataclass(frozen=True)
class Limits:
    """Bounds of a service.

    sessions: episodes at once; copies: of the environment in one WebSocket of frames, each a session; idle: seconds
    after which an unused session ends; patience: seconds for a request's head and for its body; connections: at once;
    deadline: seconds that a step waits for messages of others.
    """

    sessions: int = 1024
    copies: int = 64
    idle: float = 300.0
    patience: float = 10.0
    connections: int = 1024
    deadline: float = 0.1


class Sizes(NamedTuple):
    """Bytes that a message may have: of JSON, and of whatever comes over a WebSocket."""

    json: int
    message: int


def sizes_of(agent: Agent, limits: Limits) -> Sizes:
    """What fits every request that makes sense for an agent."""
    choices = 0 if agent.codec.choices is None else len(agent.codec.choices)
    numbers = math.prod(agent.codec.shape) + choices + len(agent.team) * (agent.size + 1)
    text = JSON_BYTES + NUMBER_BYTES * numbers
    layout = agent.layout(limits.copies)
    frames = max(_bytes(fields) for fields in (layout.observe, layout.hear, layout.begin))
    return Sizes(text, max(text, HEADER.size + frames))


def _bytes(fields: list[Field]) -> int:
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in fields)

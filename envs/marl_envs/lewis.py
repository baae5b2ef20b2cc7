"""Lewis signaling: one knows the state and signals, the other acts on the signal, both gain if it fits (1969)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, integers, kernel
from marl_envs.world import World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

TURN = 0  # index of the observation
NONE = -1


class State(NamedTuple):
    """What each pair has to tell, said and did (NONE: not yet)."""

    fact: Array  # (E, K) int64
    signal: Array  # (E, K) int64
    act: Array  # (E, K) int64
    states: int
    signals: int


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """All states are equally likely."""
    for k in range(s.fact.shape[1]):
        s.fact[e, k] = integers(rng, e, s.states)
        s.signal[e, k] = NONE
        s.act[e, k] = NONE


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """First the senders signal, then the receivers act: 1 to both of a pair if the act is the state."""
    pairs = s.fact.shape[1]
    if s.signal[e, 0] == NONE:
        for k in range(pairs):
            s.signal[e, k] = action[e, k]
            reward[e, k] = 0.0
            reward[e, pairs + k] = 0.0
        return RUNNING
    for k in range(pairs):
        s.act[e, k] = action[e, pairs + k]
        right = s.act[e, k] == s.fact[e, k]
        reward[e, k] = 1.0 if right else 0.0
        reward[e, pairs + k] = 1.0 if right else 0.0
    return TERMINATED


@kernel
def action_mask(s: State, e: int, task: Array, out: Array) -> None:
    """Whose turn it is not has nothing to choose."""
    pairs = s.fact.shape[1]
    for n in range(out.shape[1]):
        waits = (s.signal[e, 0] == NONE) == (n >= pairs)
        choices = s.signals if n < pairs else s.states
        for choice in range(choices):
            out[e, n, choice] = choice == 0 or not waits


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Whether it is one's turn; then the sender sees the state, the receiver the signal. Who waits sees zeros."""
    pairs = s.fact.shape[1]
    for i in range(obs.shape[1]):
        for k in range(obs.shape[2]):
            obs[e, i, k] = 0.0
        sends = s.signal[e, 0] == NONE
        acts = s.act[e, 0] == NONE and not sends
        if i < pairs and sends:
            obs[e, i, TURN] = 1.0
            obs[e, i, 1 + s.fact[e, i]] = 1.0
        elif i >= pairs and acts:
            obs[e, i, TURN] = 1.0
            obs[e, i, 1 + s.signal[e, i - pairs]] = 1.0


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """The part of the pairs that understood each other."""
    right = 0
    for k in range(s.fact.shape[1]):
        right += 1 if s.act[e, k] == s.fact[e, k] else 0
    out[e, 0] = right / s.fact.shape[1]


class Lewis(World, name="lewis_v0", render_fps=2):
    """``sender_0`` sees one of ``states`` and gives one of ``signals``; ``receiver_0`` sees that and names a state.

    Two steps; who waits has one legal action and sees zeros. Right: 1 for both, else 0; then the episode is over
    (terminated). Guessing gets ``1 / states``, the best protocol ``min(states, signals) / states``. Observation: 1 at
    index 0 if it is one's turn, then the state or the signal one-hot.

    ``pairs`` of them play side by side and know nothing of each other: with ``sharing="none"`` that is as many
    runs at once. All senders come first, then all receivers.
    """

    kernels = Kernels(reset, step, observe, action_mask=action_mask, info=info)
    info_names = ("success",)

    def __init__(
        self, states: int = 4, signals: int | None = None, pairs: int = 1, render_mode: str | None = None
    ) -> None:
        """Create the environment; the class documents the arguments."""
        signals = states if signals is None else signals
        if states < 2 or signals < 1 or pairs < 1:
            raise ConfigError(
                f"lewis: expected at least two states, one signal and one pair; got {states=}, {signals=}, {pairs=}"
            )
        self.states, self.signals, self.pairs = states, signals, pairs
        senders, receivers = ([f"{role}_{k}" for k in range(pairs)] for role in ("sender", "receiver"))
        sees = {name: states for name in senders} | {name: signals for name in receivers}
        does = {name: signals for name in senders} | {name: states for name in receivers}
        super().__init__(
            observation_spaces={name: Box(0, 1, (1 + width,), np.float32) for name, width in sees.items()},
            action_spaces={name: Discrete(choices) for name, choices in does.items()},
            max_cycles=2,
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        rows = (num_envs, self.pairs)
        return State(
            np.zeros(rows, dtype=np.int64), np.full(rows, NONE), np.full(rows, NONE), self.states, self.signals
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """States and signals, or NONE."""
        return {"fact": (0, self.states - 1), "signal": (NONE, self.signals - 1), "act": (NONE, self.states - 1)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """State, signal and act of each pair."""
        for k in reversed(range(min(self.pairs, 12))):
            fact, signal, act = (int(array[e, k]) for array in (s.fact, s.signal, s.act))
            words = ["-" if number == NONE else str(number) for number in (signal, act)]
            canvas.text(f"state {fact}   signal {words[0]}   act {words[1]}")

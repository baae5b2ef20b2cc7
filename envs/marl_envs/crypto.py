"""Alice sends Bob a word over a public channel, both share a key, Eve listens (twin of mpe2's simple_crypto_v3)."""

from __future__ import annotations

import numpy as np

from marl.types import Array
from marl_envs.kernel import RUNNING, Kernels, integers, kernel
from marl_envs.mpe import Body, Particles, ParticleWorld, move, put_message, scatter

EVE, BOB, ALICE = 0, 1, 2
GOAL, KEY = 0, 1  # columns of goal: indices of landmarks, whose colors are one-hot
LANDMARKS, WORDS = 2, 4


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """A secret and a key, each one of two colors."""
    s.goal[e, GOAL] = integers(rng, e, LANDMARKS)
    s.goal[e, KEY] = integers(rng, e, LANDMARKS)
    scatter(s, e, rng, 1.0)


@kernel
def miss(s: Particles, e: int, n: int) -> float:
    """How far agent ``n``'s guess is from the secret, squared; zero if it said nothing."""
    silent = True
    total = 0.0
    for c in range(WORDS):
        silent &= s.comm[e, n, c] == 0.0
        error = s.comm[e, n, c] - (1.0 if c == s.goal[e, GOAL] else 0.0)
        total += error * error
    return 0.0 if silent else total


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Alice and Bob: Eve's error minus Bob's. Eve: minus her error."""
    move(s, e, action)
    eve, bob = miss(s, e, EVE), miss(s, e, BOB)
    reward[e, EVE] = -eve
    reward[e, BOB] = eve - bob
    reward[e, ALICE] = eve - bob
    return RUNNING


@kernel
def put_color(index: int, e: int, obs: Array, i: int, k: int) -> int:
    """Write a one-hot color."""
    for c in range(WORDS):
        obs[e, i, k + c] = 1.0 if c == index else 0.0
    return k + WORDS


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """Alice: secret and key. Bob: key and message. Eve: message."""
    put_message(s, e, ALICE, obs, EVE, 0)
    put_message(s, e, ALICE, obs, BOB, put_color(s.goal[e, KEY], e, obs, BOB, 0))
    put_color(s.goal[e, KEY], e, obs, ALICE, put_color(s.goal[e, GOAL], e, obs, ALICE, 0))


class Crypto(ParticleWorld, name="crypto_v0"):
    """Three agents that only talk."""

    kernels = Kernels(reset, step, observe)
    message_entries = ("bob_0<alice_0:4-7", "eve_0<alice_0:0-3")

    def __init__(
        self,
        max_cycles: int = 25,
        continuous_actions: bool = False,
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
        benchmark_data: bool = False,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        body = Body(collide=False, moves=False, talks=True)
        super().__init__(
            agents={"eve_0": body, "bob_0": body, "alice_0": body},
            landmarks=[Body(collide=False, moves=False)] * LANDMARKS,
            obs_widths=[4, 8, 8],
            words=WORDS,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
        )

    def benchmark(self, s: Particles, e: int, n: int) -> tuple[Array, Array]:
        """What the agent said, and the secret."""
        return s.comm[e, n].copy(), np.eye(WORDS)[s.goal[e, GOAL]]

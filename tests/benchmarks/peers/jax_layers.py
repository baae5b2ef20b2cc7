"""Layers, a GRU and Adam in plain jax, for the peers' loops. Imported when a peer is made: jax may not be installed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def dense(key: Any, before: int, after: int, gain: float = 2**0.5) -> tuple[Any, Any]:
    """Weights and biases of a layer."""
    return jax.nn.initializers.orthogonal(gain)(key, (before, after)), jnp.zeros(after)


def through(layer: tuple[Any, Any], x: Any) -> Any:
    """What a layer makes of any number of rows."""
    return x @ layer[0] + layer[1]


def gru(layer: tuple[Any, Any], h: Any, x: Any) -> Any:
    """One step from the products ``x`` with the inputs; ``layer`` is the carry's, for all three gates."""
    hidden = h.shape[-1]
    from_carry = through(layer, h)
    reset, update = jnp.split(jax.nn.sigmoid(x[..., : 2 * hidden] + from_carry[..., : 2 * hidden]), 2, -1)
    candidate = jnp.tanh(x[..., 2 * hidden :] + reset * from_carry[..., 2 * hidden :])
    return (1 - update) * candidate + update * h


def moments_of(params: Any) -> Any:
    """Adam's moments before the first step, and the number of steps."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return zeros, zeros, jnp.zeros(())


def adam(params: Any, moments: Any, gradient: Any, lr: float, max_norm: float) -> tuple[Any, Any]:
    """A step with clipped gradients: parameters and moments after it."""
    norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradient)))
    gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, max_norm / (norm + 1e-6)), gradient)
    first, second, count = moments
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)

    def step(p: Any, m: Any, v: Any) -> Any:
        return p - lr * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-5)

    return jax.tree.map(step, params, first, second), (first, second, count)

"""Recurrent independent PPO on JaxMARL's simple_spread: the loop of ``jaxmarl_ippo`` with one trunk that remembers.

Policy and value share a layer, tanh, and a GRU; each has an output layer of its own. A minibatch has whole rollouts,
which begin with the carry that acting left; where an episode begins inside one, its carry is zero again.
"""

from __future__ import annotations

import functools
from typing import Any

from tests.benchmarks.peers.jaxmarl_ippo import Networks, make
from tests.benchmarks.peers.protocol import Work, serve


def gru_trunk(work: Work, width: int, choices: int) -> Networks:
    """A layer, a GRU, and one output layer for the policy and one for the value."""
    import jax
    import jax.numpy as jnp

    from tests.benchmarks.peers.jax_layers import dense, gru, through

    hidden = work.hidden
    sizes = {
        "enter": (width, hidden, 2**0.5),
        "input": (hidden, 3 * hidden, 1.0),
        "carry": (hidden, 3 * hidden, 1.0),
        "policy": (hidden, choices, 0.01),
        "value": (hidden, 1, 1.0),
    }

    def params(key: Any) -> Any:
        keys = jax.random.split(key, len(sizes))
        return {name: dense(k, *size) for k, (name, size) in zip(keys, sizes.items(), strict=True)}

    def seen_by(params: Any, obs: Any) -> Any:
        """Products with the inputs of any number of rows at once."""
        return through(params["input"], jnp.tanh(through(params["enter"], obs)))

    def remember(params: Any, h: Any, x: Any, begins: Any) -> Any:
        return gru(params["carry"], jnp.where(begins[..., None], 0.0, h), x)

    def outputs(params: Any, h: Any) -> tuple[Any, Any]:
        return through(params["policy"], h), through(params["value"], h)[..., 0]

    def act(params: Any, carry: Any, obs: Any, begins: Any) -> Any:
        carry = remember(params, carry, seen_by(params, obs), begins)
        return *outputs(params, carry), carry

    def read(params: Any, batch: Any) -> Any:
        """Of sequences ``(S, T, ...)``: a scan over the time steps."""

        def step(h: Any, row: Any) -> tuple[Any, Any]:
            h = remember(params, h, *row)
            return h, h

        rows = jnp.swapaxes(seen_by(params, batch["obs"]), 0, 1), jnp.swapaxes(batch["begins"], 0, 1)
        h = jax.lax.scan(step, batch["carry"], rows)[1]  # (T, S, H)
        return outputs(params, jnp.swapaxes(h, 0, 1))

    def arrange(x: Any) -> Any:
        return jnp.moveaxis(x, 0, 2).reshape(-1, work.rollout, *x.shape[3:])

    return Networks(params, jnp.zeros((work.copies, work.agents, hidden)), act, read, arrange)


if __name__ == "__main__":
    serve(functools.partial(make, networks=gru_trunk))

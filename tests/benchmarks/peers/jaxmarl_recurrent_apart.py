"""The loop of ``jaxmarl_recurrent`` with two trunks that remember, one for the policy and one for the value."""

from __future__ import annotations

import functools
from typing import Any

from tests.benchmarks.peers.jaxmarl_ippo import Networks, make
from tests.benchmarks.peers.jaxmarl_recurrent import gru_trunk
from tests.benchmarks.peers.protocol import Work, serve


def two_trunks(work: Work, width: int, choices: int) -> Networks:
    """Each of the two has a trunk of its own; the other's output is left out of its program by the compiler."""
    import jax
    import jax.numpy as jnp

    net = gru_trunk(work, width, choices)

    def params(key: Any) -> Any:
        return [net.params(k) for k in jax.random.split(key)]

    def act(params: Any, carry: Any, obs: Any, begins: Any) -> Any:
        actor, critic = jnp.split(carry, 2, -1)
        logits, _, actor = net.act(params[0], actor, obs, begins)
        _, value, critic = net.act(params[1], critic, obs, begins)
        return logits, value, jnp.concatenate((actor, critic), -1)

    def read(params: Any, batch: Any) -> Any:
        actor, critic = jnp.split(batch["carry"], 2, -1)
        logits, _ = net.read(params[0], batch | {"carry": actor})
        _, value = net.read(params[1], batch | {"carry": critic})
        return logits, value

    return Networks(params, jnp.concatenate((net.carry, net.carry), -1), act, read, net.arrange)


if __name__ == "__main__":
    serve(functools.partial(make, networks=two_trunks))

"""Recurrent VDN and QMIX on JaxMARL's simple_spread, environment, replay and learning in one compiled program.

The environment is the ``jaxmarl`` package's; the loop is written here in plain jax, since the package ships none, after
the shape of JaxMARL's own baselines: a layer, a GRU and a layer shared by all agents, whole episodes in a replay, one
update of ``BATCH`` episodes after an episode of every copy, a scan over the time steps. ``work.variant`` is ``qmix`` or
``vdn``.
"""

from __future__ import annotations

import os
from typing import Any

from tests.benchmarks.peers.protocol import Contender, Work, serve

BATCH = 32  # episodes of an update
BUFFER = 200  # episodes kept: 5,000 steps
EMBED, HYPERNET = 32, 64
LR, DISCOUNT, MAX_NORM = 5e-4, 0.99, 10.0
EPSILON = 0.05
TARGET_EVERY = 200  # updates


def make(work: Work) -> Contender:
    """Compile on the first call."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if work.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax
    import jax.numpy as jnp
    import jaxmarl

    from tests.benchmarks.peers.jax_layers import adam, dense, gru, moments_of, through

    env = jaxmarl.make("MPE_simple_spread_v3", num_agents=work.agents, num_landmarks=work.agents)
    agents, copies, length, hidden = env.agents, work.copies, work.max_cycles, work.hidden
    count, width = len(agents), env.observation_spaces[agents[0]].shape[0]
    choices = env.action_spaces[agents[0]].n
    ids = jnp.eye(count)
    tree_map = jax.tree.map

    def make_params(key: Any) -> dict[str, Any]:
        sizes = {"enter": (width + count, hidden), "input": (hidden, 3 * hidden), "carry": (hidden, 3 * hidden)}
        sizes |= {"leave": (hidden, choices)}
        if work.variant == "qmix":
            states = count * width
            sizes |= {"weight_1 in": (states, HYPERNET), "weight_1 out": (HYPERNET, count * EMBED)}
            sizes |= {"weight_2 in": (states, HYPERNET), "weight_2 out": (HYPERNET, EMBED)}
            sizes |= {"bias_1": (states, EMBED), "value in": (states, EMBED), "value out": (EMBED, 1)}
        keys = jax.random.split(key, len(sizes))
        return {name: dense(k, *size) for k, (name, size) in zip(keys, sizes.items(), strict=True)}

    def seen_by(params: Any, obs: Any) -> Any:
        """Products with the inputs of any number of rows at once."""
        x = jnp.concatenate((obs, jnp.broadcast_to(ids, (*obs.shape[:-1], count))), -1)
        return through(params["input"], jax.nn.relu(through(params["enter"], x)))

    def unroll(params: Any, obs: Any) -> Any:
        """Values ``(T + 1, B, N, A)``: a scan over the time steps."""
        start = jnp.zeros((*obs.shape[1:-1], hidden))

        def step(h: Any, x: Any) -> tuple[Any, Any]:
            h = gru(params["carry"], h, x)
            return h, h

        return through(params["leave"], jax.lax.scan(step, start, seen_by(params, obs))[1])

    def mix(params: Any, values: Any, state: Any) -> Any:
        if work.variant == "vdn":
            return values.sum(-1)

        def net(name: str) -> Any:
            return through(params[f"{name} out"], jax.nn.relu(through(params[f"{name} in"], state)))

        weight = jnp.abs(net("weight_1")).reshape(*values.shape, EMBED)
        inner = jax.nn.elu((values[..., None] * weight).sum(-2) + through(params["bias_1"], state))
        return (inner * jnp.abs(net("weight_2"))).sum(-1) + net("value")[..., 0]

    def side_by_side(per_agent: dict[str, Any]) -> Any:
        return jnp.stack([per_agent[agent] for agent in agents], axis=1)  # (E, N, ...)

    def play(params: Any, carry: Any, key: Any) -> tuple[Any, Any]:
        state, obs, h = carry
        key_stray, key_random, key_env = jax.random.split(key, 3)
        h = gru(params["carry"], h, seen_by(params, obs))
        best = through(params["leave"], h).argmax(-1)
        stray = jax.random.uniform(key_stray, best.shape) < EPSILON
        action = jnp.where(stray, jax.random.randint(key_random, best.shape, 0, choices), best)
        given = {agent: action[:, n] for n, agent in enumerate(agents)}
        # Episodes are all as long: the last successor is one of them, as in JaxMARL's own baselines.
        seen, state, reward, _, _ = jax.vmap(env.step)(jax.random.split(key_env, copies), state, given)
        row = {"obs": obs, "action": action, "reward": side_by_side(reward).mean(-1)}
        return (state, side_by_side(seen), h), row

    def loss(params: Any, target: Any, batch: Any) -> Any:
        values = unroll(params, batch["obs"])
        now = jnp.take_along_axis(values[:-1], batch["action"][..., None], -1)[..., 0]
        best = jax.lax.stop_gradient(values)[1:].argmax(-1, keepdims=True)
        later = jnp.take_along_axis(unroll(target, batch["obs"])[1:], best, -1)[..., 0]
        states = batch["obs"].reshape(*batch["obs"].shape[:2], -1)
        aim = batch["reward"] + DISCOUNT * mix(target, later, states[1:])
        return jnp.square(mix(params, now, states[:-1]) - jax.lax.stop_gradient(aim)).mean()

    def iteration(_: int, everything: Any) -> Any:
        params, target, moments, world, buffer, updates, key = everything
        key, key_play, key_draw = jax.random.split(key, 3)
        state, obs = world
        carry = (state, obs, jnp.zeros((copies, count, hidden)))
        (state, obs, _), rows = jax.lax.scan(lambda c, k: play(params, c, k), carry, jax.random.split(key_play, length))
        rows["obs"] = jnp.concatenate((rows["obs"], obs[None]))
        places = (updates * copies + jnp.arange(copies)) % BUFFER
        buffer = tree_map(lambda kept, row: kept.at[:, places].set(row), buffer, rows)
        filled = jnp.minimum((updates + 1) * copies, BUFFER)
        chosen = jax.random.randint(key_draw, (BATCH,), 0, filled)
        batch = tree_map(lambda kept: kept[:, chosen], buffer)
        params, moments = adam(params, moments, jax.grad(loss)(params, target, batch), LR, MAX_NORM)
        updates = updates + 1
        moves = updates % TARGET_EVERY == 0
        target = tree_map(lambda old, new: jnp.where(moves, new, old), target, params)
        return params, target, moments, (state, obs), buffer, updates, key

    key = jax.random.PRNGKey(work.seed)
    key, key_params, key_env = jax.random.split(key, 3)
    params = make_params(key_params)
    obs, state = jax.jit(jax.vmap(env.reset))(jax.random.split(key_env, copies))
    buffer = {
        "obs": jnp.zeros((length + 1, BUFFER, count, width)),
        "action": jnp.zeros((length, BUFFER, count), dtype=int),
        "reward": jnp.zeros((length, BUFFER)),
    }
    begin = (params, params, moments_of(params), (state, side_by_side(obs)), buffer, 0, key)
    everything = [begin]
    run = jax.jit(lambda times, everything: jax.lax.fori_loop(0, times, iteration, everything))

    def iterate(times: int) -> dict[str, Any]:
        everything[0] = jax.block_until_ready(run(times, everything[0]))
        return {"steps": times * copies * length}

    return Contender(iterate, {"jax": jax.__version__, "jaxmarl": getattr(jaxmarl, "__version__", "?")})


if __name__ == "__main__":
    serve(make)

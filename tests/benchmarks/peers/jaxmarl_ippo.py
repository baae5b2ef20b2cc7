"""Independent PPO on JaxMARL's simple_spread, environment and learning in one compiled program.

The environment is the ``jaxmarl`` package's; the training loop is written here in plain jax, since the package ships
none. It does the work of ``protocol.Work``: one actor and one critic for all agents, Adam, clipped gradients, a new
shuffle every epoch. The compiled program runs any number of iterations without coming back to Python.
"""

from __future__ import annotations

import os
from typing import Any

from tests.benchmarks.peers.protocol import Contender, Work, serve


def make(work: Work) -> Contender:
    """Compile on the first call."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if work.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax
    import jax.numpy as jnp
    import jaxmarl

    env = jaxmarl.make("MPE_simple_spread_v3", num_agents=work.agents, num_landmarks=work.agents)
    agents, copies, rows = env.agents, work.copies, work.steps * work.agents
    width = env.observation_spaces[agents[0]].shape[0]
    choices = env.action_spaces[agents[0]].n

    def layers(key: Any, out: int, gain: float) -> list[tuple[Any, Any]]:
        sizes = [(width, work.hidden, 2**0.5), (work.hidden, work.hidden, 2**0.5), (work.hidden, out, gain)]
        return [
            (jax.nn.initializers.orthogonal(scale)(k, (before, after)), jnp.zeros(after))
            for k, (before, after, scale) in zip(jax.random.split(key, len(sizes)), sizes, strict=True)
        ]

    def through(net: list[tuple[Any, Any]], x: Any) -> Any:
        for weight, bias in net[:-1]:
            x = jnp.tanh(x @ weight + bias)
        return x @ net[-1][0] + net[-1][1]

    def side_by_side(per_agent: dict[str, Any]) -> Any:
        return jnp.stack([per_agent[agent] for agent in agents], axis=1)  # (E, N, ...)

    def play(params: Any, carry: Any, key: Any) -> tuple[Any, Any]:
        state, obs = carry
        key_act, key_env = jax.random.split(key)
        logits = through(params["actor"], obs)
        action = jax.random.categorical(key_act, logits)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]
        value = through(params["critic"], obs)[..., 0]
        given = {agent: action[:, n] for n, agent in enumerate(agents)}
        seen, state, reward, done, _ = jax.vmap(env.step)(jax.random.split(key_env, copies), state, given)
        row = {"obs": obs, "action": action, "log_prob": log_prob, "value": value}
        row |= {"reward": side_by_side(reward), "done": side_by_side(done)}
        return (state, side_by_side(seen)), row

    def advantages(played: Any, last_value: Any) -> Any:
        def back(carry: Any, row: Any) -> Any:
            advantage, next_value = carry
            goes_on = 1.0 - row["done"]
            delta = row["reward"] + work.discount * next_value * goes_on - row["value"]
            advantage = delta + work.discount * work.gae_lambda * goes_on * advantage
            return (advantage, row["value"]), advantage

        return jax.lax.scan(back, (jnp.zeros_like(last_value), last_value), played, reverse=True)[1]

    def loss(params: Any, batch: Any) -> Any:
        log_policy = jax.nn.log_softmax(through(params["actor"], batch["obs"]))
        log_prob = jnp.take_along_axis(log_policy, batch["action"][:, None], -1)[:, 0]
        ratio = jnp.exp(log_prob - batch["log_prob"])
        clipped = jnp.clip(ratio, 1 - work.clip, 1 + work.clip)
        policy = -jnp.minimum(ratio * batch["advantage"], clipped * batch["advantage"]).mean()
        value = through(params["critic"], batch["obs"])[:, 0]
        entropy = -(jnp.exp(log_policy) * log_policy).sum(-1).mean()
        return policy + work.value_weight * 0.5 * jnp.square(value - batch["target"]).mean() - work.entropy * entropy

    def adam(params: Any, moments: Any, batch: Any) -> tuple[Any, Any]:
        gradient = jax.grad(loss)(params, batch)
        norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(gradient)))
        gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, work.max_grad_norm / (norm + 1e-6)), gradient)
        first, second, count = moments
        count = count + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)

        def step(p: Any, m: Any, v: Any) -> Any:
            return p - work.lr * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-5)

        return jax.tree.map(step, params, first, second), (first, second, count)

    def iteration(_: int, everything: Any) -> Any:
        params, moments, carry, key, _ = everything
        key, key_play, key_learn = jax.random.split(key, 3)
        carry, played = jax.lax.scan(lambda c, k: play(params, c, k), carry, jax.random.split(key_play, work.rollout))
        reward = played["reward"].mean()
        advantage = advantages(played, through(params["critic"], carry[1])[..., 0])
        batch = {name: played[name] for name in ("obs", "action", "log_prob")}
        batch |= {"target": advantage + played["value"]}
        batch |= {"advantage": (advantage - advantage.mean()) / (advantage.std() + 1e-8)}
        batch = jax.tree.map(lambda x: x.reshape(rows, *x.shape[3:]), batch)

        def epoch(learnt: Any, key: Any) -> Any:
            order = jax.random.permutation(key, rows)
            pieces = jax.tree.map(lambda x: x[order].reshape(work.minibatches, -1, *x.shape[1:]), batch)
            return jax.lax.scan(lambda both, piece: (adam(*both, piece), None), learnt, pieces)

        (params, moments), _ = jax.lax.scan(epoch, (params, moments), jax.random.split(key_learn, work.epochs))
        return params, moments, carry, key, reward

    key = jax.random.PRNGKey(work.seed)
    key, key_actor, key_critic, key_env = jax.random.split(key, 4)
    params = {"actor": layers(key_actor, choices, 0.01), "critic": layers(key_critic, 1, 1.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    obs, state = jax.jit(jax.vmap(env.reset))(jax.random.split(key_env, copies))
    everything = [(params, (zeros, zeros, jnp.zeros(())), (state, side_by_side(obs)), key, jnp.zeros(()))]
    run = jax.jit(lambda count, everything: jax.lax.fori_loop(0, count, iteration, everything))

    def iterate(count: int) -> dict[str, Any]:
        everything[0] = jax.block_until_ready(run(count, everything[0]))
        return {"steps": count * work.steps, "reward": float(everything[0][-1])}

    return Contender(iterate, {"jax": jax.__version__, "jaxmarl": getattr(jaxmarl, "__version__", "?")})


if __name__ == "__main__":
    serve(make)

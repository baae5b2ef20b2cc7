"""Independent PPO on JaxMARL's simple_spread, environment and learning in one compiled program.

The environment is the ``jaxmarl`` package's; the training loop is written here in plain jax, since the package ships
none. It does the work of ``protocol.Work``: networks for all agents, Adam, clipped gradients, a new shuffle every
epoch. The compiled program runs any number of iterations without coming back to Python. The networks are a parameter:
here one actor and one critic without memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.peers.protocol import Contender, Work, serve


@dataclass(frozen=True)
class Networks:
    """Policy and value of all agents, as functions of their parameters."""

    params: Callable[[Any], Any]  # of a random key
    carry: Any  # at the beginning, (E, N, H); None: no memory
    act: Callable[..., Any]  # (params, carry, obs, begins) of one step: logits, values, the next carry
    read: Callable[..., Any]  # (params, batch): logits and values of a minibatch
    arrange: Callable[[Any], Any]  # played (T, E, N, ...) as what is shuffled, (rows, ...)


def feed_forward(work: Work, width: int, choices: int) -> Networks:
    """One actor and one critic, each two layers and an output."""
    import jax
    import jax.numpy as jnp

    from tests.benchmarks.peers.jax_layers import dense, through

    def layers(key: Any, out: int, gain: float) -> list[tuple[Any, Any]]:
        sizes = [(width, work.hidden, 2**0.5), (work.hidden, work.hidden, 2**0.5), (work.hidden, out, gain)]
        return [dense(k, *size) for k, size in zip(jax.random.split(key, len(sizes)), sizes, strict=True)]

    def params(key: Any) -> Any:
        key_actor, key_critic = jax.random.split(key)
        return {"actor": layers(key_actor, choices, 0.01), "critic": layers(key_critic, 1, 1.0)}

    def net(layers: list[tuple[Any, Any]], x: Any) -> Any:
        for layer in layers[:-1]:
            x = jnp.tanh(through(layer, x))
        return through(layers[-1], x)

    def act(params: Any, carry: Any, obs: Any, begins: Any) -> Any:
        return net(params["actor"], obs), net(params["critic"], obs)[..., 0], carry

    def read(params: Any, batch: Any) -> Any:
        return net(params["actor"], batch["obs"]), net(params["critic"], batch["obs"])[..., 0]

    return Networks(params, None, act, read, lambda x: x.reshape(-1, *x.shape[3:]))


def make(work: Work, networks: Callable[[Work, int, int], Networks] = feed_forward) -> Contender:
    """Compile on the first call. ``networks`` takes the work, the width of an observation, the number of actions."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if work.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax
    import jax.numpy as jnp
    import jaxmarl

    from tests.benchmarks.peers.jax_layers import adam, moments_of

    env = jaxmarl.make("MPE_simple_spread_v3", num_agents=work.agents, num_landmarks=work.agents)
    agents, copies = env.agents, work.copies
    width = env.observation_spaces[agents[0]].shape[0]
    net = networks(work, width, env.action_spaces[agents[0]].n)

    def side_by_side(per_agent: dict[str, Any]) -> Any:
        return jnp.stack([per_agent[agent] for agent in agents], axis=1)  # (E, N, ...)

    def play(params: Any, carry: Any, key: Any) -> tuple[Any, Any]:
        state, obs, begins, memory = carry
        key_act, key_env = jax.random.split(key)
        logits, value, memory = net.act(params, memory, obs, begins)
        action = jax.random.categorical(key_act, logits)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], -1)[..., 0]
        given = {agent: action[:, n] for n, agent in enumerate(agents)}
        seen, state, reward, ended, _ = jax.vmap(env.step)(jax.random.split(key_env, copies), state, given)
        done = side_by_side(ended)
        row = {"obs": obs, "begins": begins, "action": action, "log_prob": log_prob, "value": value}
        row |= {"reward": side_by_side(reward), "done": done}
        return (state, side_by_side(seen), done, memory), row

    def advantages(played: Any, last_value: Any) -> Any:
        def back(carry: Any, row: Any) -> Any:
            advantage, next_value = carry
            goes_on = 1.0 - row["done"]
            delta = row["reward"] + work.discount * next_value * goes_on - row["value"]
            advantage = delta + work.discount * work.gae_lambda * goes_on * advantage
            return (advantage, row["value"]), advantage

        return jax.lax.scan(back, (jnp.zeros_like(last_value), last_value), played, reverse=True)[1]

    def loss(params: Any, batch: Any) -> Any:
        logits, value = net.read(params, batch)
        log_policy = jax.nn.log_softmax(logits)
        log_prob = jnp.take_along_axis(log_policy, batch["action"][..., None], -1)[..., 0]
        ratio = jnp.exp(log_prob - batch["log_prob"])
        clipped = jnp.clip(ratio, 1 - work.clip, 1 + work.clip)
        policy = -jnp.minimum(ratio * batch["advantage"], clipped * batch["advantage"]).mean()
        entropy = -(jnp.exp(log_policy) * log_policy).sum(-1).mean()
        return policy + work.value_weight * 0.5 * jnp.square(value - batch["target"]).mean() - work.entropy * entropy

    def learn(params: Any, moments: Any, batch: Any) -> tuple[Any, Any]:
        return adam(params, moments, jax.grad(loss)(params, batch), work.lr, work.max_grad_norm)

    def iteration(_: int, everything: Any) -> Any:
        params, moments, carry, key, _ = everything
        key, key_play, key_learn = jax.random.split(key, 3)
        before = carry[3]
        carry, played = jax.lax.scan(lambda c, k: play(params, c, k), carry, jax.random.split(key_play, work.rollout))
        reward = played["reward"].mean()
        _, obs, begins, memory = carry
        advantage = advantages(played, net.act(params, memory, obs, begins)[1])
        batch = {name: played[name] for name in ("obs", "action", "log_prob")}
        batch |= {"target": advantage + played["value"]}
        batch |= {"advantage": (advantage - advantage.mean()) / (advantage.std() + 1e-8)}
        if before is not None:
            batch["begins"] = played["begins"]
        batch = jax.tree.map(net.arrange, batch)
        if before is not None:
            batch["carry"] = before.reshape(-1, before.shape[-1])  # one of each sequence

        def epoch(learnt: Any, key: Any) -> Any:
            order = jax.random.permutation(key, len(batch["obs"]))
            pieces = jax.tree.map(lambda x: x[order].reshape(work.minibatches, -1, *x.shape[1:]), batch)
            return jax.lax.scan(lambda both, piece: (learn(*both, piece), None), learnt, pieces)

        (params, moments), _ = jax.lax.scan(epoch, (params, moments), jax.random.split(key_learn, work.epochs))
        return params, moments, carry, key, reward

    key = jax.random.PRNGKey(work.seed)
    key, key_params, key_env = jax.random.split(key, 3)
    params = net.params(key_params)
    obs, state = jax.jit(jax.vmap(env.reset))(jax.random.split(key_env, copies))
    carry = (state, side_by_side(obs), jnp.ones((copies, len(agents)), dtype=bool), net.carry)
    everything = [(params, moments_of(params), carry, key, jnp.zeros(()))]
    run = jax.jit(lambda count, everything: jax.lax.fori_loop(0, count, iteration, everything))

    def iterate(count: int) -> dict[str, Any]:
        everything[0] = jax.block_until_ready(run(count, everything[0]))
        return {"steps": count * work.steps, "reward": float(everything[0][-1])}

    return Contender(iterate, {"jax": jax.__version__, "jaxmarl": getattr(jaxmarl, "__version__", "?")})


if __name__ == "__main__":
    serve(make)

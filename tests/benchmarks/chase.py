"""What predators and prey have learnt: each side against the other's policy and against random play."""

from __future__ import annotations

import marl

ENV = "mpe2.simple_tag_v3"


def caught(system: marl.MultiAgentSystem, hunting: bool, fleeing: bool, episodes: int = 100) -> float:
    """What the predators earn together; a side that is not ``hunting`` or ``fleeing`` by its policy plays at random."""
    from mpe2 import simple_tag_v3

    env = simple_tag_v3.parallel_env()
    agents = {name: system.agent(name) for name in system.spec.agents}
    total = 0.0
    for episode in range(episodes):
        observations, _ = env.reset(seed=1_000_000 + episode)
        for place, name in enumerate(env.agents):
            env.action_space(name).seed(10 * episode + place)
        while env.agents:
            actions = {}
            for name in env.agents:
                learnt = fleeing if name.startswith("agent") else hunting
                actions[name] = agents[name].act(observations[name]) if learnt else env.action_space(name).sample()
            observations, rewards, _, _, _ = env.step(actions)
            total += sum(reward for name, reward in rewards.items() if name.startswith("adversary"))
    return round(total / episodes, 2)


def measure(system: marl.MultiAgentSystem) -> dict[str, float]:
    """The predators' return in all four pairings."""
    return {
        "both random": caught(system, False, False),
        "only predators learnt": caught(system, True, False),
        "only prey learnt": caught(system, False, True),
        "both learnt": caught(system, True, True),
    }

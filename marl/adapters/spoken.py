"""A channel for any PettingZoo environment: a message beside each action, an inbox beside each observation.

What is said in a step is read in the next, over the links of `marl.channels`. Messages are part of the action, so any
learner can learn to speak: DQN with them is reinforced inter-agent learning, RIAL (Foerster et al. 2016,
https://arxiv.org/abs/1605.06676).
"""

from __future__ import annotations

import functools
from typing import Any

from gymnasium.spaces import Box, Discrete

from marl.adapters.describe import env_name, interface
from marl.adapters.exchange import Exchange
from marl.adapters.lifecycle import close_env
from marl.adapters.resolve import resolve
from marl.adapters.spoken_envs import SpokenAEC, SpokenParallel, SpokenWorld
from marl.channels.link import Link
from marl.config import config, setting
from marl.topology import Complete, Topology
from marl.types import ConfigError, SupportsBatch


@config
class Spoken:
    """Messages as actions. Each agent says something in every step, beside what it does.

    What a message is follows from the agent's actions: one of ``words`` where they are choices (``Discrete(n)`` becomes
    ``Discrete(n * words)``, ``MultiDiscrete`` gains a component), ``words`` bits for ``MultiBinary``, ``words`` numbers
    in [-1, 1] for a ``Box``. Agents whom nobody can hear say nothing; observations become vectors, with the messages of
    those who can be heard at their end, zeros where nothing was heard.
    """

    words: int = setting(4, "how many words there are; numbers or bits of a message that is none", least=1)
    topology: Topology = setting(Complete(), "who hears whom: Complete(), Ring(), Graph(...), Within(...), ...")
    link: Link = setting(Link(), "what messages suffer on their way")
    quiet: bool = setting(False, "whether the first word, or bits that are all zero, say nothing (and spend no budget)")

    def wrap(self, env: Any) -> Any:
        """A PettingZoo environment, parallel or AEC, whose agents talk. Raises ConfigError for what cannot."""
        kind = interface(env)
        if kind == "gymnasium":
            raise ConfigError(f"Spoken: {env_name(env)} has one agent, who has nobody to talk to")
        exchange = Exchange(env, self.words, self.topology, self.link, self.quiet)
        if kind == "aec":
            return SpokenAEC(env, exchange)
        plain = all(isinstance(env.action_space(agent), Discrete | Box) for agent in env.possible_agents)
        return (SpokenWorld if plain and isinstance(env, SupportsBatch) else SpokenParallel)(env, exchange)

    def source(self, env: Any) -> Any:
        """The same for whatever names or makes an environment, as `marl.adapters.make` takes it."""
        _, instance = resolve(env)
        return functools.partial(_make, self, env) if instance is None else self.wrap(instance)


def _make(spoken: Spoken, env: Any, **kwargs: Any) -> Any:
    made = resolve(env, kwargs)[0]()
    try:
        return spoken.wrap(made)
    except BaseException:
        close_env(made)
        raise

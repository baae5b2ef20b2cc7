"""Named recipes: each is a point of the grid, a line and a paper. All take the learner's own fields as keywords."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from marl.grid import VDN, Counterfactual, Joint, Local, QMix, QPlex, TeamReward, VTrace, WeightedQMix
from marl.learners import A2C, DDPG, DQN, PPO, SAC, TD3

P = ParamSpec("P")
L = TypeVar("L")

# What the particle worlds wanted (docs/benchmarks.md#defaults); after rare updates of 1,024 rows actors learn later.
_TUNED_VALUES: dict[str, Any] = {"batch": 512, "updates_per_step": 1 / 16, "tau": 0.01}
_TUNED_ACTORS: dict[str, Any] = {
    "lr": 1e-3,
    "batch": 256,
    "updates_per_step": 1 / 10,
    "tau": 0.01,
    "discount": 0.95,
    "max_grad_norm": 0.5,
}


def _recipe(learner: Callable[P, L], **own: Any) -> Callable[[Callable[..., L]], Callable[P, L]]:
    """Give a function the fields of a learner as its keywords, some with defaults of its own.

    Type checkers read the fields from the types here, ``inspect.signature`` finds them with the recipe's defaults, and
    editors that follow the code find them in the function's body.
    """
    plain = inspect.signature(learner)
    fields = [one.replace(default=own.get(one.name, one.default)) for one in plain.parameters.values()]

    def named(function: Callable[..., L]) -> Callable[P, L]:
        @functools.wraps(function)
        def build(*args: P.args, **settings: P.kwargs) -> L:
            return function(*args, **(own | settings))

        shown = inspect.signature(function)
        build.__signature__ = shown.replace(parameters=fields)  # type: ignore[attr-defined]
        return build

    return named


@_recipe(PPO, critic=Local())
def ippo(**settings: Any) -> PPO:
    """Independent PPO (de Witt et al. 2020, https://arxiv.org/abs/2011.09533): PPO with local critics."""
    return PPO(**settings)


@_recipe(PPO, critic=Joint())
def mappo(**settings: Any) -> PPO:
    """Multi-agent PPO (Yu et al. 2022, https://arxiv.org/abs/2103.01955): PPO with a centralized critic."""
    return PPO(**settings)


@_recipe(A2C, critic=Local())
def ia2c(**settings: Any) -> A2C:
    """Independent A2C (Papoudakis et al. 2021, https://arxiv.org/abs/2006.07869): A2C with local critics."""
    return A2C(**settings)


@_recipe(A2C, critic=Joint())
def maa2c(**settings: Any) -> A2C:
    """Multi-agent A2C (Papoudakis et al. 2021, https://arxiv.org/abs/2006.07869): A2C with a centralized critic."""
    return A2C(**settings)


@_recipe(A2C, critic=Joint(), credit=Counterfactual(), rollout=32, gae_lambda=0.8, value_weight=1.0)
def coma(**settings: Any) -> A2C:
    """COMA (Foerster et al. 2018, https://arxiv.org/abs/1705.08926): A2C on counterfactual advantages."""
    return A2C(**settings)


@_recipe(A2C, critic=Local(), correction=VTrace())
def impala(**settings: Any) -> A2C:
    """IMPALA's learner (Espeholt et al. 2018, https://arxiv.org/abs/1802.01561): A2C with V-trace."""
    return A2C(**settings)


@_recipe(PPO, critic=Local(), correction=VTrace())
def appo(**settings: Any) -> PPO:
    """Asynchronous PPO's learner: PPO with V-trace's values (Espeholt et al. 2018, https://arxiv.org/abs/1802.01561)."""
    return PPO(**settings)


@_recipe(DQN, **_TUNED_VALUES)
def iql(**settings: Any) -> DQN:
    """Independent Q-learning (Tan 1993; Tampuu et al. 2017, https://arxiv.org/abs/1511.08779): DQN on own rewards."""
    return DQN(**settings)


@_recipe(DQN, **_TUNED_VALUES, credit=VDN())
def vdn(**settings: Any) -> DQN:
    """Value decomposition (Sunehag et al. 2018, https://arxiv.org/abs/1706.05296): DQN whose values add up."""
    return DQN(**settings)


@_recipe(DQN, **_TUNED_VALUES, credit=QMix())
def qmix(**settings: Any) -> DQN:
    """QMIX (Rashid et al. 2018, https://arxiv.org/abs/1803.11485): DQN with a monotonic mixer."""
    return DQN(**settings)


@_recipe(DQN, **_TUNED_VALUES, credit=QPlex())
def qplex(**settings: Any) -> DQN:
    """QPLEX (Wang et al. 2021, https://arxiv.org/abs/2008.01062): DQN with a duplex dueling mixer."""
    return DQN(**settings)


@_recipe(DQN, **_TUNED_VALUES, credit=WeightedQMix())
def wqmix(**settings: Any) -> DQN:
    """Weighted QMIX (Rashid et al. 2020, https://arxiv.org/abs/2006.10800): QMIX beside an unrestricted value."""
    return DQN(**settings)


@_recipe(DDPG, **_TUNED_ACTORS, critic=Local(), sharing="none")
def iddpg(**settings: Any) -> DDPG:
    """Independent DDPG (Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971): DDPG with local critics."""
    return DDPG(**settings)


@_recipe(DDPG, **_TUNED_ACTORS, critic=Joint(), sharing="none")
def maddpg(**settings: Any) -> DDPG:
    """MADDPG (Lowe et al. 2017, https://arxiv.org/abs/1706.02275): DDPG with centralized critics."""
    return DDPG(**settings)


@_recipe(TD3, **_TUNED_ACTORS, critic=Local(), sharing="none")
def itd3(**settings: Any) -> TD3:
    """Independent TD3 (Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477): TD3 with local critics."""
    return TD3(**settings)


@_recipe(TD3, **_TUNED_ACTORS, critic=Joint(), sharing="none")
def matd3(**settings: Any) -> TD3:
    """Multi-agent TD3 (Ackermann et al. 2019, https://arxiv.org/abs/1910.01465): TD3 with centralized critics."""
    return TD3(**settings)


@_recipe(SAC, **_TUNED_ACTORS, critic=Local(), sharing="none")
def isac(**settings: Any) -> SAC:
    """Independent SAC (Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905): SAC with local critics."""
    return SAC(**settings)


@_recipe(SAC, **_TUNED_ACTORS, critic=Joint(), sharing="none")
def masac(**settings: Any) -> SAC:
    """Multi-agent SAC (Iqbal and Sha 2019, https://arxiv.org/abs/1810.02912, without attention): joint critics."""
    return SAC(**settings)


@_recipe(DDPG, **_TUNED_ACTORS, credit=QMix(), sharing="all")
def facmac(**settings: Any) -> DDPG:
    """FACMAC (Peng et al. 2021, https://arxiv.org/abs/2003.06709): DDPG whose local critics are mixed by QMIX."""
    return DDPG(**settings)


@_recipe(PPO, critic=Joint(), credit=TeamReward(), sharing="none", sequential=True)
def happo(**settings: Any) -> PPO:
    """HAPPO (Kuba et al. 2022, https://arxiv.org/abs/2109.11251): MAPPO whose agents update one after the other."""
    return PPO(**settings)

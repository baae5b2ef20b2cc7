"""Names of earlier versions, and what they are called now. Asked for by an old name, ``marl`` says the new one."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

NAMES: Mapping[str, str] = {  # public classes, some of which files name
    "DomainRandomisation": "DomainRandomization",
    "Prioritised": "Prioritized",
    "PrioritisedLevelReplay": "PrioritizedLevelReplay",
    "Seen": "TeamTransition",
}

# Where names of the root went.
_MOVED = {
    "curriculum": (
        "Among Annealed Between DomainRandomisation LearningProgress PrioritisedLevelReplay Rating Stage Stages Steps "
        "SuccessRate WinRate growing"
    ),
    "exploration": (
        "Boltzmann BoltzmannGumbel EpsilonGreedy GaussianNoise Greedy GumbelSample MaxBoltzmann OrnsteinUhlenbeck"
    ),
    "memory": "Hindsight Prioritised",
    "nets": "Atoms Quantiles",
    "schedules": "Exponential Logarithmic",
    "shaping": (
        "RND Clip CountBonus DifferenceReward EpisodicNovelty Function PotentialBased RunningNormalize Scale Seen "
        "SocialInfluence StepCost TeamSpirit"
    ),
    "training": "History",
    "topology": "Complete Dynamic Graph Grid Groups Nearest Ring Star Where Within",
    "types": "EnvContractError NonFiniteError ResourceError",
}
ROOT = {name: f"{namespace}.{NAMES.get(name, name)}" for namespace, names in _MOVED.items() for name in names.split()}

FIELDS: Mapping[str, str] = {"neighbours": "neighbors", "prioritised": "prioritized"}  # of settings
STATE: Mapping[str, str] = {  # keys of saved states
    "air": "in_flight",
    "alive": "acting",
    "legal": "action_mask",
    "optimiser": "optimizer",
    "optimisers": "optimizers",
    "waits": "ignored_until_reset",
    "who": "assigned",
}
_PREFIXES = {"others_legal.": "others_action_mask."}
_CLASSES = [name for name in NAMES if name != "Seen"]  # which no setting holds
_WORD = re.compile(r"(?<![\w/'\"-])(" + "|".join([*_CLASSES, *FIELDS]) + r")(?=\s*[=(.]|$)")


def assignment(text: str) -> str:
    """``KEY=VALUE`` of a run that an older version began, in today's names. Arguments of environments are theirs."""
    if text.lstrip().startswith("env_kwargs."):
        return text
    return _WORD.sub(lambda match: NAMES.get(match[1]) or FIELDS[match[1]], text)


def state(tree: Any) -> Any:
    """A saved state in today's names. Where a key is taken, it stays."""
    if isinstance(tree, Mapping):
        return {_key(key, tree): state(item) for key, item in tree.items()}
    return type(tree)(map(state, tree)) if type(tree) in (list, tuple) else tree


def _key(key: Any, tree: Mapping[Any, Any]) -> Any:
    new = STATE.get(key, key)
    for prefix, instead in _PREFIXES.items():
        if isinstance(key, str) and key.startswith(prefix):
            new = instead + key.removeprefix(prefix)
    return key if new in tree else new


class _Attribute:
    """An attribute under its old name."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.text = f"{owner.__name__}.{name} is now {owner.__name__}.{self.new}"

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(self.text)

    def __set__(self, instance: object, value: object) -> NoReturn:
        raise AttributeError(self.text)


def old_attributes(**new_names: str) -> Callable[[type[R]], type[R]]:
    """Answer old attributes of a class, ``old="new"``: reading one raises AttributeError, which says the new name."""

    def decorate(cls: type[R]) -> type[R]:
        for old, new in new_names.items():
            attribute = _Attribute(new)
            attribute.__set_name__(cls, old)
            setattr(cls, old, attribute)
        return cls

    return decorate


def old_keywords(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Answer old keywords of a function, ``old="new"``: passing one raises TypeError, which says the new name."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in kwargs.keys() & new_names.keys():
                name = function.__qualname__.removesuffix(".__init__")
                raise TypeError(f"{name}(): {old}= is now {new_names[old]}=")
            return function(*args, **kwargs)

        return call

    return decorate


def old_fields(**new_names: str) -> Callable[[type[R]], type[R]]:
    """Answer old fields of a settings class, ``old="new"``: giving one raises TypeError, which says the new name."""

    def decorate(cls: type[R]) -> type[R]:
        cls.__init__ = old_keywords(**new_names)(cls.__init__)  # type: ignore[method-assign]
        return cls

    return decorate

"""Which learners can train an environment's agents."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from gymnasium import spaces

from marl.conformance.spaces import KINDS, WORDS


def supported_learners(
    action_spaces: Mapping[Hashable, spaces.Space[Any]], learners: Sequence[type] | None
) -> dict[str, str]:
    """For every learner whether it can train these agents, or why not."""
    if learners is None:
        from marl.learners import LEARNERS

        learners = LEARNERS
    kinds = {str(agent): KINDS.get(type(space)) for agent, space in action_spaces.items()}
    known: dict[str, frozenset[str]] = {learner.__name__: frozenset(learner.action_kinds) for learner in learners}  # type: ignore[attr-defined]
    if action_spaces and all(0 in (space.shape or ()) for space in action_spaces.values()):
        return dict.fromkeys(known, "no, there is nothing to decide: no action space has a component")
    verdicts: dict[str, str] = {}
    for name, able in known.items():
        misfit = next(((agent, kind) for agent, kind in kinds.items() if kind is None or kind not in able), None)
        if misfit is None:
            mixed = len(set(kinds.values())) > 1
            verdicts[name] = "yes, with one team for each kind of action" if mixed else "yes"
            continue
        agent, kind = misfit
        if kind is None:
            verdicts[name] = f"no, no learner has actions like those of {agent!r}; wrap the environment"
            continue
        others = [other for other, kinds_of in known.items() if kind in kinds_of]
        advice = f"; use {_either(others)}" if others else "; no learner has them"
        verdicts[name] = f"no, actions of {agent!r} are {WORDS[kind]}{advice}"
    return verdicts


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"

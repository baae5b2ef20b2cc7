"""Systems of one shape trained as one: each ends as it would alone, in less time than one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from marl.callbacks import Callback, as_callbacks
from marl.logs import LoggedRun, looking_on
from marl.system import MultiAgentSystem
from marl.training import History, loop, stacked
from marl.types import ConfigError


def train_stacked(
    systems: Sequence[MultiAgentSystem],
    steps: int,
    *,
    evaluate_every: int | None = None,
    evaluate_episodes: int = 20,
    evaluate_seed: int | None = None,
    log_every: int | None = None,
    callbacks: Sequence[Sequence[Callback]] | None = None,
) -> list[History]:
    """Train each system for so many environment steps more, as its own ``train`` would; returns their histories.

    Acting and learning of all are one compiled call each. Systems may differ in the seed, and in learning rate, clip,
    entropy, discount, ``gae_lambda``, ``max_grad_norm``, ``target_kl`` and epochs of PPO; in nothing that shapes a
    network or a rollout.

    Args:
        systems: what to train.
        steps: environment steps to add to each.
        evaluate_every: evaluate each greedily every so many steps.
        evaluate_episodes: episodes of each such evaluation.
        evaluate_seed: of these evaluations; None: the systems' own.
        log_every: environment steps between two rows of metrics.
        callbacks: those of each system.

    Raises:
        ConfigError: if they cannot be stacked, saying why.
        NonFiniteError: if losses or gradients of one stay NaN or infinite; the others are trained to their end.
    """
    if not systems:
        raise ConfigError("train_stacked: expected systems, got none")
    if len({id(system) for system in systems}) < len(systems):
        raise ConfigError("train_stacked: the same system twice; build one for each member")
    why = stacked.refusal([system.training for system in systems])
    if why is not None:
        raise ConfigError(f"train_stacked: {why}; train these one after the other, by system.train(...)")
    own = callbacks if callbacks is not None else [()] * len(systems)
    if len(own) != len(systems):
        raise ConfigError(f"train_stacked: callbacks: expected those of {len(systems)} systems, got {len(own)}")
    states = [system.training for system in systems]
    asked = [loop.request(system.training, system.scenario, steps, None, None, log_every) for system in systems]
    with ExitStack() as stack:
        looks = []
        for system, called in zip(systems, own, strict=True):
            everybody = as_callbacks(called, None, evaluate_every, evaluate_episodes, evaluate_seed)
            run = LoggedRun(system.spec.env, resumed_at=system.steps or None, settings=system.setup.identity())
            looks.append(stack.enter_context(looking_on(run, (), None, system)))
            stack.enter_context(system.training.called(system, everybody))
        histories = []
        for found in stacked.train(states, asked, [log for log, _ in looks], [tick for _, tick in looks]):
            if isinstance(found, Exception):
                raise found
            histories.append(found)
    return histories

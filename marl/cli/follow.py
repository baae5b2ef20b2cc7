"""``marl train`` in the ranks beside rank 0: they train, and write nothing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marl.ranks import Ranks
from marl.cli.asked import Asked
from marl.cli.plan import as_before, folder_of, make_plan, stored_config
from marl.cli.runs import load_system


def follow(asked: Asked, ranks: Ranks) -> int:
    """Train as rank 0 does, from the checkpoint that it names, and give it what it saves. Returns the exit status."""
    from marl import parallel

    # Rank 0 decides when training ends, also by a signal; one that cannot be asked any more ends this rank by an error.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    folder = folder_of(asked)
    stored = stored_config(asked, folder) if asked.resume is not None else None
    if stored is not None:
        asked = as_before(asked, stored)
    plan = make_plan(asked, stored)
    if plan.threads is not None:
        parallel.set_threads(plan.threads)
    path = ranks.tell_json(None)
    if path is None:
        system = plan.build()
    else:
        system = load_system(Path(path), plan.device, plan.scenario, asked.trust)
    with system:
        stop = plan.scenario.stop
        over = system.steps >= plan.steps or bool(system.training.callbacks.stopped)
        over = over or (asked.pause_at is not None and system.steps >= asked.pause_at)
        if not over and not (stop is not None and system.steps > 0 and stop(system.history["episode_rewards"])):
            system.train(
                steps=plan.steps - system.steps,
                stop=stop,
                callbacks=plan.callbacks(),
                evaluate_every=plan.evaluate_every,
                evaluate_episodes=plan.evaluate_episodes,
                evaluate_seed=plan.evaluate_seed,
                log_every=max(1, plan.steps // 100),
            )
        system.training.answer()
    return 0

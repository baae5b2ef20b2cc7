"""The raw environment, played three times with one seed and then without."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from marl.adapters.describe import interface
from marl.adapters.lifecycle import end_env, is_closed
from marl.adapters.tasks import as_range, declared_space
from marl.conformance.aec import AECPlayer
from marl.conformance.parallel import ParallelPlayer
from marl.conformance.player import EnvPlayer
from marl.conformance.report import Findings, Unplayable, attempt
from marl.conformance.single import GymnasiumPlayer
from marl.conformance.trace import compare, compare_next, digest_of, first_seen
from marl.types import ConfigError

SECOND_STEPS = 50  # so far two copies are compared that begin their second episode without a seed
OPENINGS = 16  # episodes that begin before random play is said to vary, or to repeat itself


def examine(
    create: Callable[[], Any], only_one: bool, limit: int, seed: int, log: Findings, facts: dict[str, Any]
) -> EnvPlayer | None:
    """Play the raw environment three times and more; returns the player, or None if there is nothing to play."""
    try:
        made = attempt(log, "creating the environment", create)
    except Unplayable:
        return None
    try:
        first = _player(made, log, limit)
    except Unplayable:
        close_checked(log, made)
        return None
    second = first
    alike = "with the same seed and actions"
    try:
        fresh = first.play(seed, seed)
        facts.update(masked=sorted(map(str, first.masked)), state_shape=first.state_shape, episode_length=first.length)
        if not first.ended:
            text = f"no episode ended within {limit} steps of random play; give max_steps to cut it"
            log.add("note", "endless", "", text)
        next_episode = first.opening(None, seed, SECOND_STEPS)
        if only_one:
            log.add("note", "one_instance", "", "an instance was given: determinism of fresh copies cannot be checked")
        else:
            close_checked(log, first.env)  # before the next one, since there may be room for one only
            made = attempt(log, "creating the environment again", create)
            second = _player(made, log, limit)
            other = second.play(seed, seed)
            advice = "draw all randomness from reset(seed=)"
            if compare(log, "error", "fresh_nondeterministic", f"two fresh copies {alike}", fresh, other, advice):
                compare_next(log, next_episode, second.opening(None, seed, SECOND_STEPS))
        advice = "reset() forgets to put something back, so a resumed training may have to begin new episodes"
        again = second.play(seed, seed)
        who = f"a fresh and a used copy {alike}"
        if compare(log, "note", "reused_nondeterministic", who, fresh, again, advice) and only_one:
            compare_next(log, next_episode, second.opening(None, seed, SECOND_STEPS))
        other = second.opening(seed + 1, seed, SECOND_STEPS)
        if other == fresh[: len(other)]:
            log.add(
                "note", "seed_without_effect", "", "another seed gives the very same episode: nothing in it is random"
            )
        _find_repetition(second, log, seed)
        _find_ignored_tasks(second, log, seed)
    except Unplayable:
        pass
    facts.update(
        kind=first.kind,
        agents=[str(agent) for agent in first.agents],
        observation_spaces={str(agent): str(space) for agent, space in first.observation_spaces.items()},
        action_spaces={str(agent): str(space) for agent, space in first.action_spaces.items()},
    )
    if not only_one:
        close_checked(log, made)
    return first


def close_checked(log: Findings, env: Any) -> None:
    """Close an environment, if it can be closed and was not yet."""
    if not callable(getattr(env, "close", None)):
        log.add("note", "no_close", "", "close() is missing; training goes on without, and windows stay open")
    elif not is_closed(env):
        with contextlib.suppress(Unplayable):
            attempt(log, "close()", lambda: end_env(env))


def _player(env: Any, log: Findings, limit: int) -> EnvPlayer:
    """By the interface that training takes it for."""
    try:
        kind = interface(env)
    except ConfigError as error:
        log.add("error", "not_an_environment", "", str(error))
        raise Unplayable from None
    players: dict[str, type[EnvPlayer]] = {
        "gymnasium": GymnasiumPlayer,
        "aec": AECPlayer,
        "parallel": ParallelPlayer,
    }
    return players[kind](env, log, limit)


def _find_repetition(player: EnvPlayer, log: Findings, seed: int) -> None:
    """Without a seed the next episode has to be another one, wherever seeds make a difference at all.

    Judged are the first observations, then all of the first steps. A start that is drawn from a few alternatives comes
    again by chance, so that many episodes must begin before anything is said.
    """
    for part in (first_seen, digest_of):
        shown = {part(player.opening(None, seed)) for _ in range(3)}
        if len(shown) > 1:
            return
        seen: Counter[bytes] = Counter()
        for k in range(OPENINGS):
            seen[part(player.opening(seed + 1 + k, seed))] += 1
            if max(seen.values()) > OPENINGS // 2:  # seeds, too, mostly lead to the same
                break
        else:
            if len({part(player.opening(None, seed)) for _ in range(OPENINGS)}) == 1:
                for k in range(3):
                    player.opening(seed + 1 + k, seed)
                    shown.add(part(player.opening(None, seed)))
                _say_repetition(log, len(shown) == 1)
            return


def _find_ignored_tasks(player: EnvPlayer, log: Findings, seed: int) -> None:
    """An environment that declares task parameters should play another episode for another task, by options at least.

    Judged are the first steps with the least and the greatest value of each parameter. One that matters is enough: of
    others the effect may come later.
    """
    declared = declared_space(player.env)
    if not declared:
        return
    own = player.log
    player.log = Findings()  # what goes wrong with options is no breach: nobody need take any
    try:
        for name, said in declared.items():
            known = as_range(str(name), said)
            if not known.low < known.high or math.isinf(known.high - known.low):
                return  # there is nothing to compare
            shown = []
            for end in (known.low, known.high):
                player.options = {"task": {name: int(end) if known.integer else end}}
                shown.append(digest_of(player.opening(seed, seed, SECOND_STEPS)))
            if shown[0] != shown[1]:
                return
        text = (
            f"task_space declares {', '.join(map(str, declared))}, and reset(options={{'task': ...}}) changes nothing "
            f"in the first {SECOND_STEPS} steps: a curriculum needs tasks=marl.curriculum.ByKwargs() or BySetter(...), "
            "or reset() has to read them"
        )
    except Unplayable:
        text = (
            "task_space is declared, and reset(options={'task': ...}) fails: a curriculum needs "
            "tasks=marl.curriculum.ByKwargs() or BySetter(...), or reset() has to read them"
        )
    except ConfigError as error:
        text = f"no curriculum can use this: {error}"
    finally:
        player.options, player.log = None, own
    log.add("note", "task_ignored", "", text)


def _say_repetition(log: Findings, always: bool) -> None:
    begins = "every reset() without a seed begins the same episode"
    advice = "go on with the running random stream, as np_random does in gymnasium"
    if always:
        text = f"{begins}, whatever the last seed was: training plays that one over and over; {advice}"
        log.add("error", "unseeded_reset_repeats", "", text)
    else:
        text = f"{begins} until another seed is given: training plays one for a thousand steps at a time; {advice}"
        log.add("warning", "unseeded_reset_repeats", "", text)

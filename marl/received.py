"""Untrusted checkpoints and run folders: the types of what they say, and the names they may use without ``trust``.

Whoever loads a folder may have got it from somebody else. So it chooses among what is registered, installed as a
scenario, in :data:`marl.config.SETTINGS`, or registered by its user; whatever else would run, or open what lies
elsewhere, its user names again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from types import NoneType
from typing import Any

from torch import Tensor

from marl.adapters.copies import BAD_OBS
from marl.adapters.resolve import comes_with_library
from marl.channels import Channel
from marl.config import class_named, code_in, from_json, to_json
from marl.scenario import Scenario, is_installed
from marl.setup import SETTINGS, Setup, saved_as
from marl.types import CheckpointError, ConfigError, MarlError, Spec

WHOLE = {"num_envs": (1, 2**20), "workers": (0, 2**10), "seed": (0, 2**128), "steps": (0, 2**62)}
KINDS: dict[str, tuple[type, ...]] = {"env": (str, NoneType), "options": (dict, NoneType), "spec": (dict,)}
FOR_ENV = ("env_kwargs", "reset_options")  # what an environment is given, and what it does with it nobody knows
SMALL = 2**20  # elements of a layer, or of a rollout's column, that may be allocated for whoever asks


def checked_meta(where: str, meta: Mapping[str, Any], cls: type[Setup] = Setup) -> dict[str, Any]:
    """The manifest of a system, each value of its type and in its range. Raises CheckpointError."""
    settings = {one.name: one.metadata["kinds"] for one in saved_as(cls, SETTINGS)}
    said: dict[str, Any] = {}
    for name, (least, most) in WHOLE.items():
        value = said[name] = meta.get(name)
        if type(value) is not int or not least <= value <= most:
            raise CheckpointError(
                f"{where}: {name}: expected a whole number from {least:,} to {most:,}, got {value!r:.80}"
            )
    for name, kinds in (KINDS | settings).items():
        if name not in meta and (name in KINDS or name == "agents"):  # the first checkpoints had no other settings
            raise CheckpointError(f"{where}: {name} is missing, so it holds no system")
        value = said[name] = meta.get(name)
        if type(value) not in kinds:
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise CheckpointError(f"{where}: {name}: expected {wanted}, got {value!r:.80}")
    options = said["options"] or {}
    limit = options.get("max_steps")
    right = limit is None or (type(limit) is int and limit >= 1)
    known = all(options.get(name) is None or type(options[name]) is dict for name in FOR_ENV)
    if not right or not known or options.get("on_bad_obs") not in (None, *BAD_OBS):
        raise CheckpointError(f"{where}: options make no sense: {options!r:.80}")
    return said


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn any error that forged values cause into one line. Raises CheckpointError."""
    try:
        yield
    except MarlError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CheckpointError(f"{where}: what it holds makes no sense here: {said:.300}") from error


def settings(
    where: str, meta: Mapping[str, Any], given: Setup, scenario: Scenario | None, trust: bool
) -> tuple[dict[str, Any], str | None]:
    """Each part of a system's settings and ``FOR_ENV`` as given, else as saved, else as the scenario has it.

    Args:
        where: what is loaded, in words.
        meta: see :func:`checked_meta`; with ``FOR_ENV``.
        given: None for the parts that were not given.
        scenario: what the user, or the checkpoint, named.
        trust: whether the checkpoint may name whatever it likes.

    Returns:
        The parts, and the name of the first that holds code and that nobody gave: training needs it.

    Raises:
        CheckpointError: if nobody can say what learners, channel or environment were, or they are not trusted.
    """
    allowed = () if scenario is None else side_effects_of(scenario)
    plays = {one.name for one in saved_as(type(given), SETTINGS) if one.metadata["plays"]}
    names = [*(one.name for one in saved_as(type(given), SETTINGS)), *FOR_ENV]
    found, lost = {name: getattr(given, name) for name in names}, None
    for part in [name for name, own in found.items() if own is None]:
        data = meta[part]
        if not trust:
            refuse_side_effects(where, side_effects(data, part), allowed)
        if part in FOR_ENV:
            found[part] = None if data is None else _for_env(where, part, data, scenario)
            continue
        code = code_in(data, part)
        value = None if code else _read(where, data)
        if value is None and scenario is not None:  # what only code can say
            value = getattr(scenario, part, None)
        if not value and (code or part == "agents"):
            if part in plays:
                raise _needed(where, part, code)
            lost = lost or part
        found[part] = value
    return found, lost


def options(where: str, meta: Mapping[str, Any], scenario: Scenario | None) -> dict[str, Any]:
    """``FOR_ENV`` as JSON and the other options, as saved; the scenario's where the first schema has none.

    Raises:
        CheckpointError: if nobody can say what they were.
    """
    saved = meta["options"]
    if saved is None and scenario is not None:
        saved = {name: to_json(getattr(scenario, name), code=True) for name in (*FOR_ENV, "max_steps", "on_bad_obs")}
    if saved is None:
        raise CheckpointError(
            f"{where}: the version that saved it could not write the environment's options; pass "
            "env=marl.Scenario(...) with env_kwargs= and max_steps= as then"
        )
    return {name: saved.get(name) for name in (*FOR_ENV, "max_steps", "on_bad_obs")}


def refuse_sizes(where: str, meta: Mapping[str, Any], spec: Spec, learners: Any) -> None:
    """Raise CheckpointError if networks or rollouts would be larger than what the checkpoint has of them.

    A file of kilobytes could else ask for all of the machine's memory, and get it.
    """
    most = max([SMALL, *(tensor.numel() for tensor in _tensors(learners))])
    width = max((max(team.obs.widths) for team in spec.teams), default=1)
    for name, numbers in _numbers(meta["agents"]):
        if name == "rollout":
            sizes = [numbers[0] * meta["num_envs"]]
        else:
            sizes = [a * b for a, b in pairwise([width, *numbers])]
        if max(sizes, default=0) > most or sum(sizes) > 16 * most:
            raise CheckpointError(
                f"{where}: {name} {numbers!r:.80} is larger than anything that it holds; pass agents= if it is right"
            )


def _numbers(data: Any) -> Iterator[tuple[str, list[int]]]:
    """Sizes in settings as JSON: rollouts, and the numbers of each network or channel in their order."""
    if isinstance(data, dict):
        name = str(data.get("$class", ""))
        if name.startswith(("marl.nets.", "marl.channels.speech")) or _builds_layers(name):
            yield name.rpartition(":")[2], list(_whole(data))
        if type(data.get("rollout")) is int:
            yield "rollout", [data["rollout"]]
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _numbers(item)


def _builds_layers(name: str) -> bool:
    """Whether a settings class of a user's builds a network or what a channel says."""
    if not name or name.startswith("marl."):
        return False
    cls = class_named(name)
    return issubclass(cls, Channel) or "width" in {*dir(cls), *(field.name for field in dataclasses.fields(cls))}


def _whole(data: Any) -> Iterator[int]:
    if type(data) is int:
        yield data
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _whole(item)


def _tensors(data: Any) -> Iterator[Tensor]:
    if isinstance(data, Tensor):
        yield data
    for item in data.values() if isinstance(data, dict) else data if isinstance(data, list | tuple) else ():
        yield from _tensors(item)


def _for_env(where: str, part: str, data: Mapping[str, Any], scenario: Scenario | None) -> dict[str, Any]:
    """Keywords or options for an environment; those that hold code are the scenario's. Raises CheckpointError."""
    own: Mapping[str, Any] = (None if scenario is None else getattr(scenario, part)) or {}
    found = {}
    for name, item in data.items():
        code = code_in(item, f"{part}.{name}")
        if code and name not in own:
            raise _needed(where, part, code)
        found[name] = own[name] if code else _read(where, item)
    return found


def _needed(where: str, part: str, code: Mapping[str, str]) -> CheckpointError:
    what = f" ({', '.join(f'{place}: {name}' for place, name in code.items()):.300})" if code else ""
    mend = ", or {} if env= brings them" if part in FOR_ENV else ""
    if part not in (*FOR_ENV, "channel"):
        mend = "; classes of settings are kept once they are registered (marl.extend.register)"
    return CheckpointError(
        f"{where}: its {part} hold code of yours{what}, which no checkpoint keeps; pass {part}= as then{mend}"
    )


def _read(where: str, data: Any) -> Any:
    """Settings from JSON. Raises CheckpointError."""
    try:
        return from_json(data)
    except Exception as error:
        text = " ".join(str(error).split())
        said = text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}"
        raise CheckpointError(f"{where}: its settings make no sense here: {said:.300}") from error


def refuse_env(where: str, name: str) -> None:
    """Raise CheckpointError unless an environment's or scenario's name is one that a file may choose."""
    if not is_installed(name) and not comes_with_library(name):
        raise CheckpointError(
            f"{where}: it would import and run {name!r:.200}, which is neither a registered environment nor an "
            "installed scenario. If you trust it, name it again (env=; on the command line --env, marl train: WHAT) or "
            "say trust=True (--trust)"
        )


def refuse_scenario(where: str, name: str) -> None:
    """Raise CheckpointError unless what a run trains, a scenario or an environment, is one that a file may choose."""
    if not is_installed(name) and not comes_with_library(name):
        raise CheckpointError(
            f"{where}: it would import and run {name!r:.200}, which is no installed scenario and no registered "
            "environment. If you trust it, say --trust, or name it again by --env (marl train: WHAT)"
        )


def refuse_side_effects(where: str, wanted: Iterable[str], allowed: Iterable[str] = ()) -> None:
    """Raise CheckpointError for code, files or addresses that are not ``allowed``; see :func:`side_effects`."""
    known = set(allowed)
    bad = next((effect for effect in wanted if effect not in known), None)
    if bad is not None:
        raise CheckpointError(
            f"{where}: it would {bad}. If you trust it, give that again (agents=, env_kwargs=, --callback, ...) or say "
            "trust=True (--trust)"
        )


def side_effects_of(scenario: Scenario) -> list[str]:
    """The code, files and addresses that a scenario uses, as :func:`side_effects` lists them."""
    parts = [*(one.name for one in saved_as(Setup, SETTINGS)), *FOR_ENV]
    return [effect for part in parts for effect in side_effects(to_json(getattr(scenario, part), code=True), part)]


def side_effects(data: Any, where: str) -> Iterator[str]:
    """Code that settings as JSON would run, and files and addresses outside the folder that they would open.

    What the environment is given must hold no paths or addresses: what it would do with them nobody knows.
    """
    if isinstance(data, str) and where.startswith(FOR_ENV) and is_place(data):
        yield f"give the environment {where}={data!r:.200}"
    elif isinstance(data, list):
        for item in data:
            yield from side_effects(item, where)
    elif isinstance(data, dict) and "$code" not in data:  # which is never read
        name = str(data.get("$class", "")).rpartition(":")[2]
        if "$path" in data:
            yield f"open {where}={data['$path']!r:.200}"
        if name == "Hindsight":
            yield f"import and call {data.get('reward')!r:.200} (Hindsight.reward)"
        if name == "BySetter" and isinstance(data.get("setter"), str):
            yield f"call the method {data['setter']!r:.200} of the environment (tasks)"
        if data.get("buffer_dir") is not None and name:
            yield f"write its replay to {data['buffer_dir']!r:.200} (buffer_dir)"
        if name in ("League", "PSRO"):
            yield from (f"load the policies in {text!r:.200} (opponents)" for text in _texts(data.get("opponents")))
        for key, item in data.items():
            yield from side_effects(item, f"{where}.{key}" if where.startswith(FOR_ENV) else where)


def is_place(text: str) -> bool:
    """Whether a text may be a path or an address."""
    return text.startswith((".", "~")) or any(mark in text for mark in "/\\:")


def _texts(data: Any) -> Iterator[str]:
    """Opponents that are paths: texts beside settings, not in them."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, list):
        for item in data:
            yield from _texts(item)
    elif isinstance(data, dict) and "$class" not in data and "$code" not in data:
        for key, item in data.items():
            yield from _texts([pair[1:] for pair in item] if key == "$map" else item)

"""Exports: a system's agents as a bundle, a folder of programs and arrays that :mod:`marl_runtime` runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiDiscrete, Space
from torch import nn

from marl import checkpoint
from marl.config import unknown
from marl.deploy.integers import ranges_of, refuse_slower
from marl.deploy.quantize import INTEGERS, PRECISIONS, Ranges, numbers_of, packed
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.heads import head_from_json, head_to_json
from marl.playing.single import Agent, MixedAgent
from marl.program import program_of
from marl.spec_json import space_to_json
from marl.training.trained import Trained
from marl.types import Array, ConfigError
from marl_runtime.bundle import FORMAT, MANIFEST, own_hash, program_json, read
from marl_runtime.program import Program
from marl_runtime.shapes import shapes_of

FORMATS = ("numpy", "onnx", "torch")
PAGE = ("index.html", "page.css", "page.js", "bundle.js", "spaces.js", "runtime.js")
Contents = dict[str, bytes]


def export(
    system: Trained,
    out: str | Path,
    *,
    agents: Sequence[str] | None = None,
    format: str = "numpy",
    quantize: str | None = None,
    students: Mapping[str, AgentNet] | None = None,
    page: bool = False,
    license: str = "",
) -> Path:
    """Write trained agents as a bundle, which ``marl_runtime.load`` reads without torch; returns its folder.

    Args:
        system: whose agents.
        out: the folder; a bundle that is there is replaced.
        agents: names of those that are written; None: all.
        format: ``"numpy"`` or ``"torch"``, programs that both of them run; ``"onnx"``: graphs beside them (extra
            ``export``).
        quantize: ``"int8"`` (weights, one scale for each output channel) or ``"fp16"``; of graphs also int8 with layers
            computed in whole numbers, ``"dynamic"``, or ``"static"`` with ranges found by play; None: float32.
        students: smaller networks in place of the teams' own, by the team's name, as :func:`marl.deploy.distill` and
            :func:`marl.deploy.prune` make them; None: there are none.
        page: write a page beside them, static files that run the agents in a browser.
        license: under which others may use the bundle.

    Raises:
        ConfigError: for agents that hold code of a user's own, unknown names, a folder of something else, dynamic int8
            that is slower than float32.
    """
    if format not in FORMATS:
        raise ConfigError(unknown("export: format", format, FORMATS, "format"))
    if quantize not in (None, *PRECISIONS):
        raise ConfigError(unknown("export: quantize", str(quantize), PRECISIONS, "precision"))
    if quantize in INTEGERS and format != "onnx":
        raise ConfigError(
            f"export: quantize={quantize!r} computes in whole numbers, which ONNX graphs alone do: choose "
            "format='onnx' (--format onnx)"
        )
    names = system.spec.agents if agents is None else tuple(agents)
    for name in names:
        if name not in system.spec.agents:
            raise ConfigError(unknown("export: agents", name, system.spec.agents, "agent"))
    path = Path(os.path.abspath(out))
    refuse_foreign(path)
    ranges: Mapping[bytes, Ranges] = {}
    if quantize == "static":
        ranges = _calibrated(system, students)
    writer = BundleWriter(format, quantize, ranges)
    entries = {name: _entry(system, name, writer, students or {}) for name in names}
    if page and writer.own:
        raise ConfigError(
            f"export: page: {type(writer.own[0]).__name__} is a network of your own, which no page can run"
        )
    manifest = {
        "format": FORMAT,
        "made_by": {"marl": _version("marl-system"), "torch": torch.__version__, "numpy": np.__version__},
        "license": license,
        "env": system.spec.env,
        "world": _world(system),
        "turn_based": system.spec.turn_based,
        "precision": PRECISIONS[quantize] if quantize else "float32",
        "teams": {team.name: list(team.agents) for team in system.spec.teams},
        "agents": entries,
        "policies": writer.policies,
        "channels": _channels(system),
        "certificate": None,
    }
    return write_bundle(path, manifest, writer.contents | (page_files() if page else {}))


class BundleWriter:
    """Policies as files; those that are equal byte for byte are written once."""

    def __init__(self, format: str, quantize: str | None, ranges: Mapping[bytes, Ranges]) -> None:
        """Nothing is written yet; ``ranges``: of what layers read, by the policy's key."""
        self.format, self.quantize, self.ranges = format, quantize, ranges
        self.policies: list[dict[str, Any]] = []
        self.contents: Contents = {}
        self.own: list[nn.Module] = []  # modules of a user's own, of all policies
        self._known: dict[bytes, int] = {}

    def add(self, program: Program, own: Sequence[nn.Module] = ()) -> int:
        """Write a policy, with the modules of a user's own that it names; returns its number. Raises ConfigError."""
        if own and self.format != "onnx":
            name = type(own[0]).__name__
            raise ConfigError(
                f"{name} is a network of your own, which ONNX alone can hold: choose format='onnx' (--format onnx), or "
                "teach a network of this library what it does (--distill 64,64)"
            )
        self.own += own
        numbers = numbers_of(program)
        text = json.dumps(program_json(program, numbers), separators=(",", ":")).encode()

        def weights(quantize: str | None) -> bytes:
            stored = packed(program, quantize)
            return safetensors({name: array for name, array in stored.items() if name not in numbers})

        key = _policy_key(text, weights(None), *map(_weights, own))
        if key in self._known:
            return self._known[key]
        number = self._known[key] = len(self.policies)
        names = f"policy_{number}.json", f"policy_{number}.safetensors"
        self.contents |= dict(zip(names, (text, weights(self.quantize)), strict=True))
        graphs = None
        if self.format == "onnx":
            from marl.deploy.onnx import graphs_of
            from marl.deploy.own import graph_of

            widths = [shapes_of(program)[name][0] for name in _read_by_own(program)]
            models = list(map(graph_of, own, widths))
            made = graphs_of(program, self.quantize, models, self.ranges.get(key, {}))
            if self.quantize == "dynamic":
                refuse_slower(graphs_of(program, None, models), made)
            graphs = [f"policy_{number}{'' if len(made) == 1 else f'_{k}'}.onnx" for k in range(len(made))]
            self.contents |= dict(zip(graphs, made, strict=True))
        self.policies.append({"program": names[0], "weights": names[1], "onnx": graphs})
        return number


def _calibrated(system: Trained, students: Mapping[str, AgentNet] | None) -> dict[bytes, Ranges]:
    """What layers of every policy read while the exported team plays in float32, by the policy's key."""
    with tempfile.TemporaryDirectory() as folder:
        path = export(system, Path(folder) / "bundle", students=students)
        contents, policies = read(path).contents, read(path).manifest["policies"]
        found = ranges_of(system, path)
    files = [(contents[one["program"]], contents[one["weights"]]) for one in policies]
    return {_policy_key(*two): most for two, most in zip(files, found, strict=True)}


def _policy_key(*contents: bytes) -> bytes:
    """Tells policies apart by what they are in float32."""
    return b"".join(hashlib.sha256(one).digest() for one in contents)


def _read_by_own(program: Program) -> list[str]:
    """What modules of a user's own read, in the order of their numbers."""
    steps = [step for stage in program.stages for step in stage.operations if step.kind == "network"]
    return [step.inputs[0] for step in sorted(steps, key=lambda step: step.settings["number"])]


def _weights(module: nn.Module) -> bytes:
    """All that a module of a user's own keeps, as bytes."""
    return b"".join(value.detach().cpu().numpy().tobytes() for value in module.state_dict().values())


def _entry(system: Trained, name: str, writer: BundleWriter, students: Mapping[str, AgentNet]) -> dict[str, Any]:
    """What a manifest says of one agent."""
    agent = system.training.players.agent(name)
    team, codec = agent.team, agent.codec
    index = team.agents.index(name)
    numbers = []
    identity: list[float] = []
    small = students.get(team.name)
    policies = policies_of(agent) if small is None else [(1.0, small.restrict(index), agent.distribution)]
    for chance, net, head in policies:
        own: list[nn.Module] = []
        try:
            program = program_of(net, head, shared=True, start=_start(codec.action_space, team.action.shape), own=own)
            numbers.append([chance, writer.add(program, own)])
        except ConfigError as error:
            raise ConfigError(f"export: agent {name!r}: {error}") from None
        if "identity" in program.inputs and isinstance(net, AgentNet):
            identity = net.ids[0].tolist()
    return {
        "policy": numbers if isinstance(agent, MixedAgent) else numbers[0][1],
        "side": _side(system, name, team.name),
        "team": team.name,
        "index": index,
        "identity": identity,
        "observation_space": space_to_json(codec.raw_space),
        "action_space": space_to_json(codec.action_space),
        "observation_shape": list(team.obs.shape),
        "observation_width": codec.width,
        "choices": codec.base_action_mask.tolist() if team.masked else None,
    }


def policies_of(agent: Agent) -> list[tuple[float, nn.Module | None, Distribution]]:
    """An agent's policies with their chances, each of this agent alone."""
    if not isinstance(agent, MixedAgent):
        return [(1.0, agent.net, agent.distribution)]
    own = agent.team.action.of(agent.index)
    return [
        (
            chance,
            None if policy.net is None else policy.net.restrict(agent.index),
            head_from_json(head_to_json(policy.distribution), own),
        )
        for chance, policy in agent.strategy
    ]


def _start(space: Space[Any], shape: tuple[int, ...]) -> Array | None:
    """What choices are counted from, in the team's padded shape; None: from 0, or there are none."""
    if not isinstance(space, Discrete | MultiDiscrete) or not np.any(space.start):
        return None
    start = np.zeros(shape, np.float32)
    own = np.ravel(space.start)
    start.reshape(-1)[: len(own)] = own
    if (np.abs(own) > 2**24).any():
        raise ConfigError(f"export: {space} counts from numbers that float32 cannot tell apart")
    return start


def _side(system: Trained, name: str, team: str) -> str:
    """The agents with which it draws from a mixture."""
    return next((side.name for side in system.training.players.sides if name in side.agents), team)


def _world(system: Trained) -> dict[str, Any]:
    """What makes the environment again, as far as data can say it."""
    return {"reference": system.reference, "patterns": system.setup.patterns, "options": system.setup.options_json()}


def _channels(system: Trained) -> dict[str, Any]:
    """How the agents of each team talk."""
    found: dict[str, Any] = {}
    sizes = system.training.players.sizes
    for team, channel, size in zip(system.spec.teams, system.setup.channels, sizes, strict=True):
        if channel is None:
            found[team.name] = None
            continue
        adjacency = channel.topology.build(team)
        found[team.name] = {
            "rounds": channel.rounds,
            "size": size,
            "adjacency": adjacency.weight.tolist(),
            "link": dataclasses.asdict(channel.execution or channel.link),
            "dynamic": adjacency.dynamic is not None,
        }
    return found


# --- files ------------------------------------------------------------------------------------------------------------


def page_files() -> Contents:
    """The static files of the page that runs a bundle in a browser."""
    folder = resources.files("marl_runtime") / "page"
    return {name: (folder / name).read_bytes() for name in PAGE}


def safetensors(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as a safetensors file."""
    kinds = {"float32": "F32", "float16": "F16", "int8": "I8", "int64": "I64", "bool": "BOOL"}
    header: dict[str, Any] = {}
    body = b""
    # Wide numbers first, so that all of them lie where their type wants them.
    for name, array in sorted(arrays.items(), key=lambda one: -one[1].dtype.itemsize):
        data = np.ascontiguousarray(array).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kinds[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def write_bundle(path: Path, manifest: Mapping[str, Any], contents: Contents) -> Path:
    """Write a bundle in one move. Raises OSError if the disk refuses; what was there is intact then."""
    hashes = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()}
    whole = {**manifest, "files": hashes}
    whole["sha256"] = own_hash(whole)
    return checkpoint.replace_folder(path, {**contents, MANIFEST: json.dumps(whole, indent=1).encode()})


def refuse_foreign(path: Path) -> None:
    """Raise ConfigError if a folder holds anything but a bundle, or is none."""
    if not os.path.lexists(path):
        return
    there = [entry.name for entry in path.iterdir()] if path.is_dir() and not path.is_symlink() else ["no folder"]
    ours: Callable[[str], bool] = lambda name: name in (MANIFEST, *PAGE) or name.startswith("policy_")  # noqa: E731
    foreign = next((name for name in there if not ours(name)), None)
    if foreign is not None or (there and MANIFEST not in there):
        held = foreign or there[0]
        raise ConfigError(f"{path} holds {held!r}, so it is no bundle to be replaced: choose another path")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

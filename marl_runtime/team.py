"""Loading a bundle: a team of agents, by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from marl_runtime.agent import Agent, Channel, Engine, Policy, channel_from
from marl_runtime.bundle import Bundle, BundleError, read
from marl_runtime.program import Array, ProgramError, Runner, Stage
from marl_runtime.seat import Heard, Turn
from marl_runtime.spaces import Codec

ENGINES = ("numpy", "onnx", "torch")
NOISE = ("uniform", "normal")
Make = Callable[[Bundle, int, Mapping[str, Array]], Engine]  # of a bundle's policy, with inputs bound for good


class Team(Mapping[str, Agent]):
    """The agents of a bundle by name, all of them or those that it holds.

    manifest: what the bundle says of itself; size: bytes of its files.
    """

    def __init__(self, bundle: Bundle, agents: Mapping[str, Agent]) -> None:
        """Wrap agents that were made from a bundle."""
        self.path, self.manifest, self._agents = bundle.path, bundle.manifest, dict(agents)
        self.size = sum(map(len, bundle.contents.values()))
        self._sent: dict[str, Array | None] = {}

    def __getitem__(self, name: str) -> Agent:
        """An agent by name."""
        return self._agents[name]

    def __iter__(self) -> Iterator[str]:
        """Names of agents."""
        return iter(self._agents)

    def __len__(self) -> int:
        """How many agents there are."""
        return len(self._agents)

    def __repr__(self) -> str:
        """The environment, and who plays."""
        return f"<Team of {self.manifest['env']}: {', '.join(self)}>"

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode with every agent; with a ``seed`` their random streams begin anew, each its own."""
        self._sent = {}
        for place, agent in enumerate(self.values()):
            own = None if seed is None else int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
            agent.reset(own, seed)

    def act(
        self, observations: Mapping[str, Any], action_masks: Mapping[str, Any] | None = None, explore: bool = False
    ) -> dict[str, Any]:
        """Actions of the agents that observe something now; whatever they say reaches whoever hears them.

        For agents in one process, over perfect links; others are driven by :meth:`Agent.turn` and :meth:`Agent.hear`.

        Raises:
            BundleError: if who hears whom depends on what all of them observe, which no bundle knows.
        """
        for name in observations:
            channel = self[name].channel
            if channel is not None and channel.dynamic:
                raise BundleError(f"agent {name!r}: who hears whom changes in its team; pass messages with agent.hear")
        masks, turns = action_masks or {}, dict[str, Turn]()
        for name, observation in observations.items():
            agent = self[name]
            row, mask = agent.codec.encode(observation, masks.get(name))
            heard = agent.inbox(_of_team(agent, self._sent)) if agent.talks else None
            turns[name] = agent.conversation(row, mask, explore, heard)
        actions: dict[str, Array] = {}
        answers: dict[str, Heard | None] = dict.fromkeys(turns)
        self._sent = self._sent if self.manifest["turn_based"] else {}
        while turns:
            said: dict[str, Array | None] = {}
            for name, turn in list(turns.items()):
                try:
                    message, loudness = turn.send(answers[name])
                    said[name] = self[name].said = message if loudness > 0 else None
                except StopIteration as end:
                    actions[name] = end.value
                    del turns[name]
            self._sent = self._sent | said
            answers = {name: self[name].inbox(_of_team(self[name], said)) for name in said}
        return {name: self[name].codec.decode(actions[name]) for name in observations}


def _of_team(agent: Agent, said: Mapping[str, Array | None]) -> dict[str, Array | None]:
    return {name: message for name, message in said.items() if name in agent.team}


def load(path: str | Path, engine: str = "numpy") -> Team:
    """The team of a bundle: ``load(path)["agent_0"].act(observation)``.

    Args:
        path: the folder. Names, sizes and hashes are checked before anything is parsed; nothing in it is executed, and
            nothing outside it is read.
        engine: ``"numpy"``; ``"onnx"`` for bundles with graphs (needs onnxruntime); ``"torch"`` (needs torch, and has
            each policy as a module).

    Raises:
        BundleError: if it is damaged, foreign, or lacks what the engine needs.
    """
    if engine not in ENGINES:
        raise BundleError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r:.40}")
    bundle = read(path)
    try:
        return _team(bundle, _maker(engine))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        if not isinstance(error, BundleError | ProgramError):
            what = f"it makes no sense ({type(error).__name__}: {what:.100})"
        raise BundleError(f"bundle {path}: {what}") from None


def _maker(engine: str) -> Make:
    """What makes the engine of a policy; onnxruntime and torch are imported by those who ask for them."""
    if engine == "onnx":
        from marl_runtime.onnx import load_onnx

        return load_onnx
    if engine == "torch":
        try:
            from marl_runtime.torch import load_torch
        except ImportError:
            raise BundleError("torch is not installed: pip install torch, or load it with engine='numpy'") from None
        return load_torch
    return lambda bundle, policy, bound: Runner(bundle.programs[policy], bound)


def _team(bundle: Bundle, make: Make) -> Team:
    manifest = bundle.manifest
    entries: dict[str, Any] = manifest["agents"]
    agents: dict[str, Agent] = {}
    made: dict[tuple[int, bytes], Policy] = {}
    if not isinstance(manifest["turn_based"], bool):
        raise BundleError("it does not say whether agents take turns")
    for name, entry in entries.items():
        team = manifest["teams"][entry["team"]]
        if team[entry["index"]] != name or not all(isinstance(one, str) for one in team):
            raise BundleError(f"agent {name!r:.80} has no place in its team")
        channel = channel_from(manifest["channels"][entry["team"]], len(team))
        identity = np.array(entry["identity"], np.float32)
        codec = Codec(entry)
        said = entry["policy"]
        mixture = said if isinstance(said, list) else [[1.0, said]]
        policies, actions = [], set()
        for chance, number in mixture:
            if type(number) is not int or not 0 <= number < len(bundle.programs) or not 0 <= float(chance) <= 1:
                raise BundleError(f"agent {name!r:.80} has no policy {number!r:.20}")
            key = number, identity.tobytes()
            if key not in made:
                made[key] = _policy(bundle, number, identity, make)
            policy = made[key]
            policies.append(policy._replace(chance=float(chance)))
            actions.add(_check(bundle, name, number, codec, channel, team))
        if not policies or len(actions) > 1:
            raise BundleError(f"agent {name!r:.80} has no policy, or policies of different actions")
        action = actions.pop(), "float32" if codec.num_choices == 0 else "int64"
        agents[name] = Agent(name, team, zlib.crc32(entry["side"].encode()), codec, policies, action, channel)
    return Team(bundle, agents)


def _policy(bundle: Bundle, number: int, identity: Array, make: Make) -> Policy:
    program = bundle.programs[number]
    if program.inputs.get("identity", identity.shape) != identity.shape:
        raise BundleError(f"policy {number} does not read an identity of shape {identity.shape}")
    engine = make(bundle, number, {"identity": identity} if "identity" in program.inputs else {})
    return Policy(1.0, engine, program.inputs, {name: _noise(head) for name, head in program.heads.items()})


def _noise(head: Stage) -> tuple[str, ...]:
    """The random inputs of a head."""
    return tuple(name for name in NOISE if any(name in one.inputs for one in head.operations))


def _check(
    bundle: Bundle, name: str, number: int, codec: Codec, channel: Channel | None, team: list[str]
) -> tuple[int, ...]:
    """The shape of an agent's padded action. Raises BundleError unless its policy fits its spaces and channel."""
    program, shapes = bundle.programs[number], bundle.shapes[number]
    size = 0 if channel is None else channel.size
    wanted: dict[str, tuple[int, ...]] = {"observation": codec.shape}
    if channel is not None:
        wanted |= {"message": (len(team), size), "weight": (len(team),)}
    if codec.choices is not None:
        wanted["action_mask"] = codec.choices.shape
    for key, shape in wanted.items():
        found = program.inputs.get(key, shape)
        if found != shape:
            raise BundleError(f"agent {name!r:.80}: {key} has the shape {shape}, its policy reads {found}")
    for stage in program.stages:
        if "message" in stage.results and shapes[stage.results["message"]] != (size,):
            raise BundleError(f"agent {name!r:.80}: its policy says something else than its channel carries")
    carries = {shapes[stage.results["carry"]] for stage in program.stages if "carry" in stage.results}
    if carries - {program.inputs.get("carry")}:
        raise BundleError(f"agent {name!r:.80}: its policy reads another carry than it writes")
    return shapes["action"]

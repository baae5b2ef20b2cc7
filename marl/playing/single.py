"""One agent's policy: its parameters, normalizer, recurrent state and inbox."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marl import checkpoint
from marl.channels import ChannelNet, Inbox
from marl.compiled import backend
from marl.config import from_json, to_json, unknown
from marl.memory.base import PolicyInput
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.heads import head_from_json, head_to_json
from marl.nets.owner import Owner
from marl.notebook import html_table
from marl.playing.team import Strategy
from marl.program import ChosenPolicy
from marl.spaces import AgentCodec, BadValue
from marl.spec_json import team_from_json, team_to_json
from marl.topology import Complete
from marl.types import Array, CheckpointError, ConfigError, TeamSpec
from marl_runtime.program import Runner
from marl_runtime.seat import Heard, Said, Turn
from marl_runtime.wire import Field, Layout


class Agent:
    """A decentralized policy: ``action = agent.act(observation)``.

    Observations and actions are the environment's own (any Gymnasium space, with or without an action mask). Call
    :meth:`reset` where an episode begins. An agent with a channel reads what it was told with :meth:`hear` since its
    last step, and :attr:`said` is what it says.
    """

    server = "marl.playing.processes"  # whose process plays it, once it is saved

    def __init__(
        self, team: TeamSpec, index: int, net: AgentNet | None, distribution: Distribution, seed: int | None = None
    ) -> None:
        """``net`` is this agent's alone; None for policies that read nothing."""
        self.name = team.agents[index]
        # No mode of torch's could be on during a turn, which pauses while others have theirs.
        self.net = net.eval().requires_grad_(False) if net is not None else None
        self.distribution = distribution
        self.codec = AgentCodec(team, index)
        self.generator = torch.Generator()
        if seed is not None:
            self.generator.manual_seed(seed)
        self.team, self._index, self._team = team, index, team.agents
        self.talks = isinstance(net, ChannelNet)
        self.rounds = net.channel.rounds if isinstance(net, ChannelNet) else 0
        self.size = net.speech.size if isinstance(net, ChannelNet) else 0
        width = 0 if net is None else net.own_width if isinstance(net, ChannelNet) else net.carry_shape[1]
        self._carry: Array = np.zeros(width, dtype=np.float32)
        self._yes, self._no = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
        self._silence = self._no_messages()
        self._heard = self._silence
        self._chosen: ChosenPolicy | None = None
        self.said: Array | None = None
        self.outputs: Array | None = None  # of the network in its newest step, where torch chose the action
        self.attention: Array | None = None  # that it gave to each of its team in its newest step, (N,)
        self.keeps_outputs = False  # whether both are there in every step, whatever chose the action

    def __repr__(self) -> str:
        """Its name, team, and what it decides by."""
        net = "no network" if self.net is None else f"{sum(one.numel() for one in self.net.parameters()):,} parameters"
        talks = f", hears and says {self.size} numbers" if self.talks else ""
        return f"<Agent {self.name!r} of team {self.team.name!r}: {net}{talks}>"

    def _repr_html_(self) -> str:
        """The same, with its spaces."""
        rows = [("team", self.team.name), ("observation", self.codec.raw_space), ("action", self.codec.action_space)]
        return html_table(repr(self).strip("<>"), rows)

    @property
    def action(self) -> Field:
        """Shape and type of its encoded action."""
        return self.team.action.shape, self.team.action.dtype

    def layout(self, copies: int) -> Layout:
        """The frames in which its process is told what it may know."""
        team, rounds = self.team, self.rounds if self.talks else None
        num_choices = team.action.num_choices if team.masked else None
        obs = team.obs.shape, team.obs.dtype
        return Layout(copies, obs, self.action, num_choices, team.num_agents, self.size, rounds)

    def twin(self, seed: int | None = None) -> Agent:
        """A copy with an episode and a random stream of its own; parameters are shared."""
        twin = copy.copy(self)
        twin._chosen = self._chosen
        twin.generator = torch.Generator()
        if seed is not None:
            twin.generator.manual_seed(seed)
        twin.reset()
        return twin

    def reset(self) -> None:
        """Forget the episode so far."""
        self._carry = np.zeros_like(self._carry)
        self._heard, self.said = self._silence, None

    def __getstate__(self) -> dict[str, Any]:
        """State for copies, which decide anew what computes their policy."""
        return self.__dict__ | {"_chosen": None}

    def _no_messages(self) -> Heard:
        agents = len(self._team)
        return np.zeros((agents, self.size), dtype=np.float32), np.zeros(agents, dtype=np.float32)

    def hear(self, messages: Mapping[str, Array]) -> None:
        """Receive messages of other agents of the team, by name; the next :meth:`act` reads them.

        Raises:
            ConfigError: for names that are not in the team and messages of another size.
        """
        heard, weight = self._no_messages()
        for name, message in messages.items():
            if name not in self._team:
                raise ConfigError(unknown(f"agent {self.name!r}: hear", name, self._team, "agent"))
            found = np.asarray(message, dtype=np.float32)
            if found.shape != (self.size,):
                raise ConfigError(
                    f"agent {self.name!r}: hear: expected a message of shape ({self.size},) from {name!r}, got "
                    f"{found.shape}"
                )
            place = self._team.index(name)
            heard[place], weight[place] = found, 1.0
        self._heard = heard, weight

    def act(self, observation: Any, info: Mapping[str, Any] | None = None, explore: bool = False) -> Any:
        """The action for one observation, ready for ``env.step``.

        Args:
            observation: what the environment gave this agent; a dictionary with ``"action_mask"`` where it has one.
            info: this agent's info dictionary, if the action mask is there.
            explore: sample from the policy instead of taking the most likely action.

        Raises:
            ConfigError: if the observation does not fit the agent's space.
        """
        try:
            row, action_mask = self.codec.encode(observation, info)
        except BadValue as error:
            raise ConfigError(f"agent {self.name!r}: observation: {error}") from None
        return self.codec.decode(self.act_encoded(row, action_mask, explore))

    def act_encoded(self, row: Array, action_mask: Array | None, explore: bool = False) -> Array:
        """The same from an encoded observation ``(*O)`` and legal row ``(L,)``: the action, ``()`` or ``(A,)``.

        Agents that talk in rounds within a step hear nobody here; a hub drives their :meth:`turn`.
        """
        if not self.talks:
            return self.decide(row, action_mask, explore)
        turn = self.turn(row, action_mask, explore, self._heard)
        try:
            self.said, _ = next(turn)
            while True:
                self.said, _ = turn.send(self._silence)
        except StopIteration as end:
            self._heard = self._silence
            action: Array = end.value
            return action

    def turn(self, row: Array, action_mask: Array | None, explore: bool = False, heard: Heard | None = None) -> Turn:
        """One step as a conversation: yields messages ``(M,)`` with their loudness, returns the action.

        With rounds within the step each message is answered by sending what is heard, messages ``(N, M)`` and weights
        ``(N,)``; without, ``heard`` is what was heard since the last step and the one message is sent off unanswered.
        """
        if not self.talks:
            return self.decide(row, action_mask, explore)
        runner = self._runner()
        found = self._silence if heard is None else heard
        follows = backend.checking or self._attends
        if runner is None or follows:
            torchs = self._conversation(row, found)
            torchs = self._noting(torchs) if self._attends else torchs
        if runner is None:
            parameters, self._carry = yield from torchs
            return self._by_torch(parameters, action_mask, explore)
        values = runner.begin(observation=row, carry=self._carry, message=found[0], weight=found[1])
        last = len(runner.stages) - 1
        for stage in range(last + 1):
            results = runner.run(values, stage)
            if follows:
                self._follow(torchs, found if stage else None, results)
            if "message" in results:
                answer = yield results["message"], results["loudness"]
                if stage < last:
                    found = self._silence if answer is None else answer
                    runner.give(values, message=found[0], weight=found[1])
        self._carry = results.get("carry", self._carry)
        return self._chosen_action(runner, values, results["parameters"], action_mask, explore)

    def decide(self, row: Array, action_mask: Array | None, explore: bool = False) -> Array:
        """The action of an agent that does not talk, from an encoded observation."""
        runner = None if self.net is None else self._runner()
        if runner is None:
            parameters, self._carry = self._computed(row)
            return self._by_torch(parameters, action_mask, explore or self.net is None)
        if explore or self.keeps_outputs or backend.checking:
            values = runner.begin(observation=row, carry=self._carry)
            results = runner.run(values, 0)
            if backend.checking:
                found, _ = self._computed(row)
                pair = torch.from_numpy(results["parameters"]), torch.from_numpy(found)
                backend.require_equal("an agent's policy", pair)
            self._carry = results.get("carry", self._carry)
            return self._chosen_action(runner, values, results["parameters"], action_mask, explore)
        head = self._greedy(runner, action_mask)
        action, carry = runner.step(head, observation=row, carry=self._carry, action_mask=action_mask)
        self._carry = self._carry if carry is None else carry
        return action

    def _runner(self) -> Runner | None:
        """What computes the policy with numpy; None: torch does."""
        assert self.net is not None
        chosen = self._chosen
        if chosen is None or chosen.stale(self.net):
            chosen = self._chosen = ChosenPolicy(self.net, self.distribution)
        return chosen.runner

    def _chosen_action(
        self, runner: Runner, values: list[Any], parameters: Array, action_mask: Array | None, explore: bool
    ) -> Array:
        if explore:
            return self._by_torch(parameters, action_mask, explore)
        if self.keeps_outputs:
            self.outputs = parameters
        runner.give(values, action_mask=action_mask)
        return runner.head(values, self._greedy(runner, action_mask))

    def _greedy(self, runner: Runner, action_mask: Array | None) -> str:
        return "greedy" if action_mask is None or "greedy_masked" not in runner.heads else "greedy_masked"

    def _by_torch(self, parameters: Array, action_mask: Array | None, explore: bool) -> Array:
        """An action for outputs ``(K,)`` of the network."""
        mask = None if action_mask is None else torch.from_numpy(np.asarray(action_mask)).view(1, 1, 1, -1)
        self.outputs = parameters
        outputs = torch.from_numpy(parameters).view(1, 1, 1, -1)
        if explore:
            action = self.distribution.sample(outputs, mask, self.generator)
        else:
            action = self.distribution.mode(outputs, mask)
        chosen: Array = self.distribution.to_env(action)[0, 0, 0].numpy()
        return chosen

    def _computed(self, row: Array) -> tuple[Array, Array]:
        """Outputs ``(K,)`` of the network and the next carry, by torch."""
        if self.net is None:
            return np.zeros(self.distribution.size, dtype=np.float32), self._carry
        x = torch.from_numpy(np.asarray(row)).view(1, 1, 1, *row.shape)
        carry = torch.from_numpy(self._carry).view(1, 1, -1)
        parameters, carries = self.net(x, carry, self._no, self._yes)
        return parameters[0, 0, 0].numpy(), carries[0, 0, 0].numpy().copy()

    def _conversation(self, row: Array, heard: Heard) -> Generator[Said, Heard | None, tuple[Array, Array]]:
        """The same of a network that talks, which yields what it says and is sent what is heard."""
        assert isinstance(self.net, ChannelNet)
        x = torch.from_numpy(np.asarray(row)).view(1, 1, 1, *row.shape)
        carry = torch.from_numpy(self._carry).view(1, 1, -1)
        seen = AgentNet.encode(self.net, x)  # the edges are the hub's
        talk = self.net.converse(seen, carry, self._no[0], self._yes[0], _inbox(heard))
        try:
            message, loud = next(talk)
            while True:
                answer = yield message[0, 0].numpy(), loud[0, 0].numpy()
                message, loud = talk.send(_inbox(self._silence if answer is None else answer))
        except StopIteration as end:
            parameters, kept = end.value
            return self.net.policy_of(parameters)[0, 0].numpy(), kept[0, 0].numpy()

    @property
    def _attends(self) -> bool:
        """Whether it is to keep whom it attends to, which the program that acts does not tell: torch does."""
        return self.keeps_outputs and self.talks

    def _noting(
        self, talk: Generator[Said, Heard | None, tuple[Array, Array]]
    ) -> Generator[Said, Heard | None, tuple[Array, Array]]:
        """The same conversation; attention is kept at its end."""
        assert isinstance(self.net, ChannelNet)
        answer: Heard | None = None
        try:
            while True:
                with torch.inference_mode():  # in which networks note their attention; off while others have turns
                    said = talk.send(answer) if answer is not None else next(talk)
                answer = yield said
        except StopIteration as end:
            share = self.net.attention  # (1, 1, N), or of several heads (1, 1, H, N)
            if share is not None:
                self.attention = share[0, 0].reshape(-1, share.shape[-1]).mean(0).numpy().copy()
            found: tuple[Array, Array] = end.value
            return found

    def _follow(
        self, torchs: Generator[Said, Heard | None, tuple[Array, Array]], heard: Heard | None, results: dict[str, Array]
    ) -> None:
        """A stage by torch; raises MismatchError where that is checked and the program computed something else."""
        found: dict[str, Array] = {}
        try:
            message, _ = next(torchs) if heard is None else torchs.send(heard)
            found["message"] = message
            if "parameters" in results:
                torchs.send(self._silence)
        except StopIteration as end:
            found["parameters"], _ = end.value
        if not backend.checking:
            return
        pairs = [(torch.from_numpy(results[name]), torch.from_numpy(wanted)) for name, wanted in found.items()]
        backend.require_equal("an agent's policy", *pairs)

    # --- alone in the world -------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write this agent's policy to a directory of its own: tensors and JSON, nothing of anybody else's.

        What is kept: parameters, normalizer, what its outputs mean, the spaces and names of its team (observations are
        padded to the team's widest). Who hears whom is not: that is the business of the hub that agents talk through.

        Raises:
            ConfigError: for policies that hold code of yours (``Custom`` networks, ``Scripted`` functions).
        """
        try:
            policy = {
                "team": team_to_json(self.team),
                "index": self._index,
                "head": head_to_json(self.distribution),
                "net": None if self.net is None else _net_to_json(self.net),
            }
        except ConfigError as error:
            raise ConfigError(
                f"agent {self.name!r} cannot be saved by itself: its policy holds code of yours ({error}); "
                "save the whole system instead, and evaluate with decentralized=True"
            ) from None
        state = {} if self.net is None else dict(self.net.state_dict())
        return checkpoint.save(path, {"net": state}, {"agent": policy})

    @classmethod
    def load(cls, path: str | Path, seed: int | None = None) -> Agent:
        """An agent as it was saved; ``seed`` is that of its random stream.

        Raises:
            CheckpointError: if the directory is damaged or holds no single agent.
        """
        state, manifest = checkpoint.load(path)
        policy = manifest["meta"].get("agent")
        if not isinstance(policy, dict):
            raise CheckpointError(
                f"{path} holds no single agent; for one of a system's: MultiAgentSystem.load(path).agent(name)"
            )
        try:
            team, index = team_from_json(policy["team"]), int(policy["index"])
            net = None if policy["net"] is None else _net_from_json(policy["net"], team)
            if net is not None:
                net.load_state_dict(state["net"])
            return cls(team, index, net, head_from_json(policy["head"], team.action.of(index)), seed)
        except Exception as error:  # whatever forged values come to
            said = " ".join(str(error).split())
            raise CheckpointError(f"{path}: this agent makes no sense here: {said:.300}") from error


class MixedAgent(Agent):
    """One agent of a side that plays a mixture of policies, as a PSRO run does.

    A new one is drawn by :meth:`reset`. Agents of a side that are reset together and were given the same ``draws`` play
    the same one, since it is the side that mixes.
    """

    def __init__(
        self,
        team: TeamSpec,
        index: int,
        strategy: Strategy,
        seed: int | None,
        draws: np.random.SeedSequence,
        device: torch.device,
    ) -> None:
        """``strategy``: policies of the whole team, of which this agent uses its own part."""
        super().__init__(team, index, None, strategy[0][1].distribution, seed)
        if any(isinstance(member.net, ChannelNet) for _, member in strategy):
            raise ConfigError(
                f"agent {self.name!r}: policies that talk cannot be mixed one agent at a time; evaluate the whole team"
            )
        self.index, self.strategy, self.device = index, strategy, device
        self.random = np.random.default_rng(draws)
        self.generator = torch.Generator(device)
        if seed is not None:
            self.generator.manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Forget the episode so far, and draw the policy of the next one."""
        chances = [chance for chance, _ in self.strategy]
        _, self.member = self.strategy[int(self.random.choice(len(chances), p=chances))]
        self._memory = torch.zeros(
            1, self.team.num_agents, self.member.carry_width, device=self.device, dtype=torch.float32
        )

    @torch.inference_mode()
    def decide(self, row: Array, action_mask: Array | None, explore: bool = False) -> Array:
        """The action. The rest of the team is not there, and what its part would do is not looked at."""
        team, spec = (1, self.team.num_agents), self.team
        obs = torch.zeros(*team, *spec.obs.shape, dtype=getattr(torch, spec.obs.dtype), device=self.device)
        obs[0, self.index] = torch.from_numpy(np.asarray(row)).to(self.device)
        allowed = None
        if action_mask is not None:
            allowed = torch.ones(*team, len(action_mask), dtype=torch.bool, device=self.device)
            allowed[0, self.index] = torch.from_numpy(np.asarray(action_mask, dtype=bool)).to(self.device)
        alone = torch.zeros(team, dtype=torch.bool, device=self.device)
        alone[0, self.index] = True
        inputs = PolicyInput(obs, self._memory, torch.zeros(1, dtype=torch.bool, device=self.device), alone, allowed)
        action, carry = self.member.act(inputs, self.generator, greedy=not explore)
        self._memory = carry.clone()
        out: Array = action[0, self.index].cpu().numpy()
        return out

    def save(self, path: str | Path) -> Path:
        """Raises ConfigError: a mixture holds policies of the whole team."""
        raise ConfigError(
            f"agent {self.name!r} cannot be saved by itself: its side draws from a mixture of policies of the whole "
            "team; save the whole system instead, and evaluate with decentralized=True"
        )


def _inbox(heard: Heard) -> Inbox:
    message, weight = heard
    return Inbox(torch.from_numpy(message)[None, None], torch.from_numpy(weight)[None, None])


def _net_to_json(net: AgentNet) -> dict[str, Any]:
    """What, with its tensors, makes an agent's own network again."""
    if not isinstance(net, AgentNet):
        raise ConfigError(f"{type(net).__name__} is no network of this library")
    channel, hold = (net.channel, net.keep_last) if isinstance(net, ChannelNet) else (None, False)
    return {
        "network": to_json(net.network),
        "shape": list(net.shape),
        "out": net.out,
        "gain": net.gain,
        "ids": net.ids.shape[1],
        "normalize": net.norm is not None,
        "learns_scale": net.learns_scale,
        "channel": None if channel is None else to_json(dataclasses.replace(channel, topology=Complete())),
        "hold": hold,
    }


def _net_from_json(data: Mapping[str, Any], team: TeamSpec) -> AgentNet:
    network, channel, shape = from_json(data["network"]), from_json(data["channel"]), tuple(data["shape"])
    settings = {name: data[name] for name in ("gain", "normalize", "learns_scale")}
    settings["ids"] = torch.zeros(1, data["ids"], dtype=torch.float32)
    if channel is None:
        return AgentNet(network, Owner((0,)), shape, data["out"], [torch.Generator()], **settings)
    adjacency = channel.topology.build(team)
    return ChannelNet(
        channel,
        adjacency,
        network,
        Owner((0,)),
        shape,
        data["out"],
        [torch.Generator()],
        keep_last=data["hold"],
        **settings,
    )

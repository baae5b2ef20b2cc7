"""A network for every agent of a team at once: body, output layer, agent ids, input normalizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from marl.compiled.backend import (
    PARTS,
    ChosenNetwork,
    DenseLayers,
    RecurrentLayers,
    TalkingLayers,
    network_for,
    recorded,
)
from marl.compiled.backend import FastNetwork as Compiled
from marl.nets.networks import MLP, Inputs, Network, is_plain
from marl.nets.normalizers import RunningNorm
from marl.nets.owner import Owner
from marl.nets.recurrent import RecurrentBody
from marl.nets.stacked import NoisyLinear, StackedLinear, make_linear, orthogonal, parts_with_mode
from marl.reduce import ALONE, Reduce


class AgentNet(nn.Module):
    """``forward(x (T, B, N, *shape), carry (B, N, H), start (T, B), acting (T, B, N))``.

    Returns outputs ``(T, B, N, out)`` and the carry after each row ``(T, B, N, H)``. Acting is the case ``T = 1``.
    """

    ids: Tensor

    def __init__(
        self,
        network: Network,
        owner: Owner,
        shape: tuple[int, ...],
        out: int,
        generators: Sequence[torch.Generator],
        *,
        gain: float,
        ids: Tensor | None = None,
        true_inputs: Sequence[Tensor] | None = None,
        normalize: bool = False,
        learns_scale: bool = False,
        log_std: float = 0.0,
        extra_inputs: int = 0,
        values: int = 0,
    ) -> None:
        """``ids (N, K)`` go beside the observation; ``learns_scale`` doubles the output by a free log std per set.

        ``extra_inputs``: how many more numbers each row brings along (a critic's actions). ``values``: outputs beside
        the others, of a critic that shares all layers but the last one.
        """
        super().__init__()
        self.values = values
        self.network, self.owner, self.shape, self.out, self.gain = network, owner, shape, out, gain
        self.learns_scale = learns_scale
        self.register_buffer("ids", torch.zeros(owner.num_agents, 0, dtype=torch.float32) if ids is None else ids)
        self._shows_ids = self.ids.shape[1] > 0 and len(shape) == 1
        extra = self.ids.shape[1] + extra_inputs
        if true_inputs is not None:
            width = shape[0]
            true_inputs = [torch.cat((rows, torch.arange(width, width + extra))) for rows in true_inputs]
        self.body = network.build(owner, Inputs(shape, extra, tuple(true_inputs) if true_inputs else None), generators)
        noisy = network.noisy if isinstance(network, MLP) else 0.0
        self.head = make_linear(owner, self.body.width, out + values, generators, gain, noisy=noisy)
        if values:  # a critic begins with a gain of its own
            with torch.no_grad():
                for weight, generator in zip(self.head.weight, generators, strict=True):
                    weight[:, :out] = orthogonal((self.body.width, out), gain, generator)
                    weight[:, out:] = orthogonal((self.body.width, values), 1.0, generator)
        scale = torch.full((owner.num_sets, out), log_std, dtype=torch.float32)
        self.log_std = nn.Parameter(scale) if learns_scale else None
        self.norm = RunningNorm(owner, shape[0]) if normalize and len(shape) == 1 else None
        self.carry_shape = (owner.num_agents, self.body.carry_width)
        self.parts_with_mode = parts_with_mode(self.body)
        self._chosen: ChosenNetwork | None = None

    def forward(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(T, B, N, out)`` and the carry after each row."""
        return self.read(self.encode(x), carry, start, acting)

    def once(self, obs: Tensor, carry: Tensor, started: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """One step of play, without a gradient and the axis of time: outputs ``(E, N, out)`` and the next carry."""
        chosen = None if recorded() or not fits(obs) else self._decision()
        if chosen is not None and chosen.network is not None:
            return self.policy_of(chosen.network(self.encode(obs.unsqueeze(0))))[0], carry
        if chosen is not None and chosen.recurrent is not None:
            seen = obs if self.norm is None else self.norm(obs.unsqueeze(0))[0]
            out, after = chosen.recurrent.once(seen, carry, started, acting)
            return self.policy_of(out), after
        out, carries = self(obs.unsqueeze(0), carry, started.unsqueeze(0), acting.unsqueeze(0))
        return out[0], carries[0]

    def encode(self, x: Tensor) -> Tensor:
        """Observations as :meth:`read` takes them: normalized, ids beside vectors. Worth doing once for many reads."""
        if self.norm is not None:
            x = self.norm(x)
        if self._shows_ids:
            x = torch.cat((x, self.ids.expand(*x.shape[:3], -1)), dim=-1)
        return x

    def read(
        self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, extra_inputs: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """The same from encoded observations, with extra inputs ``(T, B, N, K)``."""
        y, carries = self.read_all(x, carry, start, acting, extra_inputs)
        return self.policy_of(y), carries

    def read_both(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with the critic's outputs ``(T, B, N, values)`` in between."""
        y, carries = self.read_all(x, carry, start, acting)
        return self.policy_of(y), y[..., self.out :], carries

    def read_all(
        self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, extra_inputs: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """What the last layer says ``(T, B, N, out + values)``, and the carry after each row."""
        owner = self.owner
        chosen = None if recorded() else self._decision()
        net = chosen.network if chosen is not None and len(extra_inputs) < PARTS else None
        if net is not None and fits(x):
            return net(x, *extra_inputs), carry.unsqueeze(0).expand(x.shape[0], *carry.shape)
        if chosen is not None and chosen.recurrent is not None and not extra_inputs and fits(x):
            return chosen.recurrent(x, carry, start, acting)
        x, extra = self._inputs(x, extra_inputs)
        if extra is None and chosen is not None and not chosen.touched and is_plain(self.body, self.head):
            y = owner.leave(self.body.through(x, self.head))
            carries = carry.unsqueeze(0).expand(y.shape[0], *carry.shape)
        else:
            features, inside = self._through_body(x, extra, carry, start, acting)
            y, carries = owner.leave(self.head(features)), owner.leave(inside)
        return y, carries

    def features(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> Tensor:
        """What the output layer reads, ``(T, B, N, width)``, from encoded observations."""
        features, _ = self._through_body(*self._inputs(x, ()), carry, start, acting)
        return self.owner.leave(features)

    def _inputs(self, x: Tensor, extra_inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """What the body reads, in its own layout, and what a convolution takes in further on, in that of agents."""
        if len(self.shape) == 1:
            return self.owner.enter(torch.cat((x, *extra_inputs), dim=-1) if extra_inputs else x), None
        ids = [self.ids.expand(*x.shape[:3], -1)] if self.ids.shape[1] else []
        return self.owner.enter(x), torch.cat((*ids, *extra_inputs), dim=-1) if ids or extra_inputs else None

    def _through_body(
        self, x: Tensor, extra: Tensor | None, carry: Tensor, start: Tensor, acting: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features and carries in the body's layout."""
        enter = self.owner.enter
        starts = enter(start.unsqueeze(-1).expand(acting.shape))
        inner = enter(carry.unsqueeze(0)).squeeze(1)
        found: tuple[Tensor, Tensor] = self.body(
            x, None if extra is None else enter(extra), inner, starts, enter(acting)
        )
        return found

    def policy_of(self, y: Tensor) -> Tensor:
        """The outputs without a critic's, and beside them the free log standard deviations if there are any."""
        y = y[..., : self.out] if self.values else y
        if self.log_std is None:
            return y
        return torch.cat((y, self.owner.to_agents(self.log_std).expand(y.shape)), dim=-1)

    def _decision(self) -> ChosenNetwork:
        """What computes the outputs, as long as that holds."""
        chosen = self._chosen
        if chosen is None or chosen.stale:
            chosen = self._chosen = network_for(self)
        return chosen

    def compiled(self) -> Compiled | None:
        """The compiled network, if :func:`~marl.compiled.network_for` says that there is one, for the policy alone."""
        if self.values:
            return None
        chosen = self._chosen
        return chosen.network if chosen is not None and not chosen.stale else self._decision().network

    def dense(self) -> DenseLayers | None:
        """What compiled code needs to know of this network; None unless it is plain layers over vectors."""
        body, head = self.body, self.head
        if type(self) is not AgentNet or len(self.shape) != 1 or not is_plain(body, head):
            return None
        layers = [layer for layer in (*body.layers, head) if isinstance(layer, StackedLinear)]
        members, sizes = self.owner.table

        def plain(parts: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
            return self.owner.leave(body.plain(self.owner.enter(torch.cat(list(parts), dim=-1)), parameters))

        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        return DenseLayers(weights, biases, body.activation_name, members, sizes, self.ids, plain)

    def around_unit(self) -> RecurrentLayers | None:
        """What compiled code needs to know of a network with a recurrent unit; None for any other."""
        body = self.body
        if type(self) is not AgentNet or len(self.shape) != 1 or not isinstance(body, RecurrentBody):
            return None
        return body.around_unit(self.head, self.ids)

    def that_talks(self) -> TalkingLayers | None:
        """What compiled code needs to know of a network whose agents talk; None: they do not."""
        return None

    @property
    def outputs_of_all(self) -> bool:
        """Whether one row has an output for every agent: no, each has a row of its own."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling, without the decision for compiled code, which a copy makes anew."""
        return self.__dict__ | {"_chosen": None}

    def seed(self, carry: Tensor, generator: torch.Generator | None) -> None:
        """Whatever chance a carry needs, in place: none here."""

    def see(self, x: Tensor, acting: Tensor, reduce: Reduce = ALONE) -> None:
        """Let observation statistics take in rows ``(T, B, N, *shape)``, after they were learnt from."""
        if self.norm is not None:
            self.norm.update(x, acting, reduce)

    def forget(self, carry: Tensor) -> Tensor:
        """A carry that remembers nothing."""
        return torch.zeros_like(carry)

    def draw_noise(self, generator: torch.Generator | None) -> None:
        """New noise for every noisy layer; None: none."""
        for module in self.modules():
            if isinstance(module, NoisyLinear):
                module.draw(generator)

    def restrict(self, agent: int | None) -> AgentNet:
        """The network of one agent alone: a copy of its parameter set, its id, its normalizer. None: of all agents."""
        which = 0 if agent is None else self.owner.index[agent]
        owner = self.owner if agent is None else Owner((0,))
        ids = self.ids if agent is None else self.ids[agent : agent + 1]
        alone = self._blank(owner, ids.clone().cpu(), [torch.Generator() for _ in range(owner.num_sets)])
        own = self.policy_state()
        if agent is None:
            alone.load_state_dict(own)
            return alone.to(self.ids.device)
        with torch.no_grad():
            for name, target in alone.state_dict().items():
                if name == "ids":
                    continue
                if "copies.0." in name:  # a Custom network has one module per set instead of a stacked parameter
                    target.copy_(own[name.replace("copies.0.", f"copies.{which}.", 1)])
                else:
                    target.copy_(own[name][which : which + 1])
        return alone

    def policy_state(self) -> dict[str, Tensor]:
        """The state of the policy alone, without the outputs of a critic beside it."""
        own: dict[str, Tensor] = self.state_dict()
        for name in [name for name in own if name.startswith("head.")] if self.values else []:
            own[name] = own[name][..., : self.out]
        return own

    def _blank(self, owner: Owner, ids: Tensor, generators: Sequence[torch.Generator]) -> AgentNet:
        """A network of this kind for other agents."""
        return AgentNet(
            self.network,
            owner,
            self.shape,
            self.out,
            generators,
            gain=self.gain,
            ids=ids,
            normalize=self.norm is not None,
            learns_scale=self.learns_scale,
        )


def fits(x: Tensor) -> bool:
    """Whether compiled networks take such inputs."""
    return x.dtype == torch.float32 and x.numel() > 0


class JointNet(nn.Module):
    """A network over a joint input that all agents share, with one output for each agent.

    With one parameter set the input is evaluated once and the last layer has an output per agent, so a centralized
    critic costs what a local one does; with more, every set sees the whole input.
    ``forward(x (T, B, *shape), carry (B, C, H), start (T, B), acting (T, B, N))`` returns ``(T, B, N, 1)``.
    """

    def __init__(
        self,
        network: Network,
        owner: Owner,
        shape: tuple[int, ...],
        generators: Sequence[torch.Generator],
        *,
        ids: Tensor | None = None,
        true_inputs: Tensor | None = None,
        normalize: bool = False,
    ) -> None:
        """``shape`` is that of the joint input; ``true_inputs`` its unpadded positions."""
        super().__init__()
        self.once = owner.flat
        self.num_agents = owner.num_agents
        inner = Owner((0,)) if self.once else owner
        inputs = None if true_inputs is None else [true_inputs] * inner.num_sets
        self.net = AgentNet(
            network,
            inner,
            shape,
            self.num_agents if self.once else 1,
            generators,
            gain=1.0,
            ids=None if self.once else ids,
            true_inputs=inputs,
            normalize=normalize,
        )
        self.carry_shape = self.net.carry_shape
        self.norm = self.net.norm

    def forward(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(T, B, N, 1)`` and the carry after each row."""
        return self.read(self.encode(x), carry, start, acting)

    def encode(self, x: Tensor) -> Tensor:
        """Joint inputs ``(T, B, *J)`` as :meth:`read` takes them: ``(T, B, 1 or N, ...)``."""
        x = x.unsqueeze(2)
        if self.net.norm is None and not self.net.ids.shape[1]:
            return x
        return self.net.encode(x.expand(*x.shape[:2], self.net.owner.num_agents, *x.shape[3:]))

    def read(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """The same from encoded inputs."""
        columns = self.net.owner.num_agents
        x = x.expand(*x.shape[:2], columns, *x.shape[3:])
        # The joint view moves on whenever anyone of the team acts.
        acting = acting.any(-1, keepdim=True).expand(*acting.shape[:2], columns)
        y, carries = self.net.read(x, carry, start, acting)
        return (y.transpose(-1, -2) if self.once else y), carries

    def dense(self) -> DenseLayers | None:
        """What compiled code needs to know of the network within."""
        return self.net.dense() if type(self) is JointNet else None

    @property
    def outputs_of_all(self) -> bool:
        """Whether one row has an output for every agent."""
        return self.once

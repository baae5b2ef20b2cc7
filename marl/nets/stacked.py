"""Layers with one weight per parameter set, and the flat memory their parameters live in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from marl.nets.owner import Owner


def orthogonal(shape: tuple[int, int], gain: float, generator: torch.Generator) -> Tensor:
    """A random ``(in, out)`` matrix with orthonormal rows or columns times ``gain`` (Saxe et al. 2014)."""
    rows, columns = shape
    normal = torch.randn(max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float32)
    q, r = torch.linalg.qr(normal)
    q = q * torch.sign(torch.diagonal(r))
    matrix: Tensor = gain * (q if rows >= columns else q.T)
    return matrix


class StackedLinear(nn.Module):
    """``y = x W_p + b_p`` with weights ``(P, in, out)``: one batched product for all agents.

    Initialized orthogonally, set by set, over the inputs each set truly has: rows of padded inputs are zero, so a
    padded agent starts (and, its inputs being zero there, stays) exactly the agent it would be unpadded.
    """

    def __init__(
        self,
        owner: Owner,
        fan_in: int,
        fan_out: int,
        generators: Sequence[torch.Generator],
        gain: float = math.sqrt(2),
        true_inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """``true_inputs[p]``: indices of the inputs that set ``p`` truly has; None means all of them."""
        super().__init__()
        self.owner = owner
        weight = torch.zeros(owner.num_sets, fan_in, fan_out, dtype=torch.float32)
        for which, generator in enumerate(generators):
            rows = torch.arange(fan_in) if true_inputs is None else true_inputs[which]
            weight[which, rows] = orthogonal((len(rows), fan_out), gain, generator)
        self.weight = nn.Parameter(weight)  # (P, in, out)
        self.bias = nn.Parameter(torch.zeros(owner.num_sets, fan_out, dtype=torch.float32))  # (P, out)

    def forward(self, x: Tensor) -> Tensor:
        """``(S, T, M, in)`` to ``(S, T, M, out)``."""
        leading = x.shape[:-1]
        if self.owner.flat:
            y = torch.addmm(self.bias[0], x.reshape(-1, x.shape[-1]), self.weight[0])
        else:
            weight, bias = self.owner.weight(self.weight), self.owner.weight(self.bias)
            y = torch.baddbmm(bias.unsqueeze(1), x.reshape(x.shape[0], -1, x.shape[-1]), weight)
        return y.view(*leading, y.shape[-1])


class NoisyLinear(StackedLinear):
    """``y = x (W_p + S_p e_w) + b_p + s_p e_b`` with factorized Gaussian noise (Fortunato et al. 2018).

    Noise is one draw per parameter set, kept until the next :meth:`draw`: all copies act under the same one.
    """

    def __init__(
        self,
        owner: Owner,
        fan_in: int,
        fan_out: int,
        generators: Sequence[torch.Generator],
        gain: float = math.sqrt(2),
        true_inputs: Sequence[Tensor] | None = None,
        noisy: float = 0.5,
    ) -> None:
        """``noisy / sqrt(in)`` is the initial standard deviation."""
        super().__init__(owner, fan_in, fan_out, generators, gain, true_inputs)
        start = noisy / math.sqrt(fan_in)
        self.weight_scale = nn.Parameter(torch.full((owner.num_sets, fan_in, fan_out), start, dtype=torch.float32))
        self.bias_scale = nn.Parameter(torch.full((owner.num_sets, fan_out), start, dtype=torch.float32))
        self.register_buffer("noise_in", torch.zeros(owner.num_sets, fan_in, dtype=torch.float32))
        self.register_buffer("noise_out", torch.zeros(owner.num_sets, fan_out, dtype=torch.float32))
        self.noise_in: Tensor
        self.noise_out: Tensor

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None) -> None:
        """New noise ``f(e) = sign(e) sqrt(|e|)``; None: no noise."""
        for noise in (self.noise_in, self.noise_out):
            if generator is None:
                noise.zero_()
            else:
                noise.normal_(generator=generator)
                noise.copy_(noise.sign() * noise.abs().sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """``(S, T, M, in)`` to ``(S, T, M, out)``."""
        noise = self.noise_in.unsqueeze(2) * self.noise_out.unsqueeze(1)  # (P, in, out)
        weight = self.owner.weight(self.weight + self.weight_scale * noise)
        bias = self.owner.weight(self.bias + self.bias_scale * self.noise_out)
        y = torch.baddbmm(bias.unsqueeze(1), x.reshape(x.shape[0], -1, x.shape[-1]), weight)
        return y.view(*x.shape[:-1], y.shape[-1])


def make_linear(
    owner: Owner,
    fan_in: int,
    fan_out: int,
    generators: Sequence[torch.Generator],
    gain: float = math.sqrt(2),
    true_inputs: Sequence[Tensor] | None = None,
    noisy: float = 0.0,
) -> StackedLinear:
    """A plain or, with ``noisy`` above 0, a noisy layer."""
    if noisy:
        return NoisyLinear(owner, fan_in, fan_out, generators, gain, true_inputs, noisy)
    return StackedLinear(owner, fan_in, fan_out, generators, gain, true_inputs)


class FlatParameters:
    """All parameters of some modules as views into one ``(P, D)`` matrix, one row for each parameter set.

    :meth:`backward` fills a second matrix of that shape with gradients. So clipping is one norm along a row, an
    optimizer sees ``P`` vectors instead of dozens of tensors, target networks are one copy, and a set can be frozen
    alone.
    """

    def __init__(self, modules: Sequence[nn.Module], num_sets: int) -> None:
        """Parameters have ``P`` as first axis, except those under a module with a ``parameter_set`` (its own set's)."""
        placed: list[tuple[nn.Parameter, slice, int, int]] = []  # parameter, rows, first column, columns
        used = [0] * num_sets
        for parameter, which in _with_set(modules):
            if which is None:
                rows, start, size = slice(None), max(used), parameter.numel() // num_sets
                used = [start + size] * num_sets
            else:
                rows, start, size = slice(which, which + 1), used[which], parameter.numel()
                used[which] += size
            placed.append((parameter, rows, start, size))
        device = placed[0][0].device
        self.values = torch.zeros(num_sets, max(used), device=device, dtype=torch.float32)  # (P, D)
        self.gradients = torch.zeros_like(self.values)  # (P, D)
        self._parameters = [parameter for parameter, *_ in placed]
        self._columns = [(rows, slice(start, start + size)) for _, rows, start, size in placed]
        self._places: list[Tensor] = []  # the gradient's place of each parameter, in its shape
        self._rest()
        self.loss: Tensor | float = 0.0  # what the gradients are of: where it is not finite, no set is moved
        self.sound = torch.ones(num_sets, dtype=torch.bool, device=device)  # which sets had a finite gradient and loss
        self.non_finite = torch.zeros((), dtype=torch.int64, device=device)  # updates in a row with a bad one
        self.active = torch.ones(num_sets, dtype=torch.bool, device=device)  # which sets an optimizer moves
        self._with_mode = [part for module in modules for part in parts_with_mode(module)]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters, each a view into :attr:`values`."""
        return self._parameters

    def _rest(self) -> None:
        """Let the parameters, with their values, be views of the matrix."""
        self._places = []
        for parameter, place in zip(self._parameters, self._columns, strict=True):
            value = self.values[place].view(parameter.shape)
            value.copy_(parameter.data)
            parameter.data = value
            self._places.append(self.gradients[place].view(parameter.shape))

    def rest_in(self, values: Tensor, gradients: Tensor) -> None:
        """Go on in other memory, ``(P, D)`` each."""
        self.values, self.gradients = values.copy_(self.values), gradients.copy_(self.gradients)
        self._rest()

    def gradient(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of ``loss`` by parameter; may run on several threads at once."""
        return torch.autograd.grad(loss, self._parameters, allow_unused=True)

    def put(self, gradients: Sequence[Tensor | None], *more: Sequence[Tensor | None]) -> None:
        """Fill :attr:`gradients` with the sum of what is given; parameters that no loss touched get zero."""
        for place, gradient in zip(self._places, gradients, strict=True):
            place.zero_() if gradient is None else place.copy_(gradient)
        for others in more:
            for place, gradient in zip(self._places, others, strict=True):
                if gradient is not None:
                    place.add_(gradient)

    def backward(self, loss: Tensor) -> None:
        """Fill :attr:`gradients` with the gradient of ``loss``."""
        self.put(self.gradient(loss))
        self.loss = loss.detach()

    @torch.no_grad()
    def follow(self, online: FlatParameters, share: float) -> None:
        """Move a target by ``share`` of the way towards ``online``; running statistics are copied."""
        self.values.lerp_(online.values, share)
        for mine, theirs in zip(self._with_mode, online._with_mode, strict=True):
            for buffer, other in zip(mine.buffers(), theirs.buffers(), strict=True):
                buffer.copy_(other)

    def thaw(self) -> None:
        """Let the optimizer see every set again."""
        self.active.fill_(True)

    def freeze(self, which: int) -> None:
        """Hide one set from the optimizer: its values and moments stay as they are until :meth:`thaw`."""
        self.active[which : which + 1].fill_(False)

    def loss_is_finite(self) -> Tensor | bool:
        """Whether the loss that the gradients are of is a finite number."""
        return torch.isfinite(self.loss) if isinstance(self.loss, Tensor) else math.isfinite(self.loss)

    def clip(self, max_norm: float) -> Tensor:
        """Scale each set's gradient to at most ``max_norm``; returns the norms before, ``(P,)``.

        A set whose gradient is not finite gets none; no set does where the loss is not finite, as a squared error may
        overflow while its gradient is finite still.
        """
        # In doubles: squares of large numbers are no float32 while their root still is.
        norm: Tensor = torch.linalg.vector_norm(self.gradients, dim=1, dtype=torch.float64).float()
        finite = torch.isfinite(norm) & self.loss_is_finite()
        self.loss = 0.0
        scale = (max_norm / (norm + 1e-6)).clamp_(max=1.0)
        self.gradients.mul_(scale.unsqueeze(1)).masked_fill_(~finite.unsqueeze(1), 0.0)
        # In place: a recorded step finds it again.
        self.sound.copy_(finite)
        self.non_finite.copy_(torch.where(finite.all(), 0, self.non_finite + 1))
        return norm


def backward_through(loss: Tensor, flats: Sequence[FlatParameters]) -> None:
    """Fill the gradients of several parameter matrices from one loss."""
    for flat, gradients in zip(flats, gradients_of(loss, flats), strict=True):
        flat.put(gradients)
        flat.loss = loss.detach()


def gradients_of(loss: Tensor, flats: Sequence[FlatParameters]) -> list[tuple[Tensor | None, ...]]:
    """The gradient of a loss by parameter, of each of several matrices; may run on several threads at once."""
    everything = [parameter for flat in flats for parameter in flat.parameters]
    gradients = torch.autograd.grad(loss, everything, allow_unused=True)
    found: list[tuple[Tensor | None, ...]] = []
    start = 0
    for flat in flats:
        found.append(gradients[start : start + len(flat.parameters)])
        start += len(flat.parameters)
    return found


def _with_set(modules: Sequence[nn.Module]) -> Iterator[tuple[nn.Parameter, int | None]]:
    """Every parameter with the set it belongs to, or None if it is stacked over all sets."""
    for module in modules:
        owners = {
            id(parameter): child.parameter_set
            for child in module.modules()
            if isinstance(child, PerSet)
            for parameter in child.parameters()
        }
        for parameter in module.parameters():
            yield parameter, owners.get(id(parameter))


class PerSet(nn.Module):
    """A user's module that serves one parameter set."""

    def __init__(self, module: nn.Module, parameter_set: int) -> None:
        """Wrap ``module`` as the network of set ``parameter_set``."""
        super().__init__()
        self.module = module
        self.parameter_set = parameter_set

    def forward(self, x: Tensor) -> Tensor:
        """The module's own forward."""
        y: Tensor = self.module(x)
        return y


def holds_own(modules: Iterable[nn.Module]) -> bool:
    """Whether a user's own module is among these or within them: nobody knows what it does."""
    return any(isinstance(part, PerSet) or _has_mode(part) for module in modules for part in module.modules())


HAVE_MODE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RNNBase, nn.RReLU, nn.MultiheadAttention)


def _has_mode(module: nn.Module) -> bool:
    """Whether a module, apart from its children, may do something else in training than in evaluation."""
    home = type(module).__module__
    if home.startswith("marl."):
        return False
    return isinstance(module, HAVE_MODE) or not home.startswith("torch.nn.modules.")


def parts_with_mode(module: nn.Module) -> list[nn.Module]:
    """The outermost modules whose mode matters: those with dropout or batch norm, and classes that are not known."""
    if isinstance(module, PerSet):
        return [module] if any(map(_has_mode, module.modules())) else []
    if _has_mode(module):
        return [module]
    return [part for child in module.children() for part in parts_with_mode(child)]


class HasMode(Protocol):
    """What has parts whose mode matters."""

    @property
    def parts_with_mode(self) -> Sequence[nn.Module]:
        """The parts."""
        ...


@contextmanager
def seeded(seed: np.random.SeedSequence) -> Iterator[None]:
    """Within it PyTorch's own random stream, from which modules of users are initialized, is a function of ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        yield


@contextmanager
def fitting(parts: Sequence[nn.Module], generator: torch.Generator) -> Iterator[None]:
    """Within it ``parts`` are in training mode, else always in evaluation mode.

    What they draw from torch's own random stream comes from ``generator``, so that a seed gives the same numbers.
    """
    if not parts:
        yield
        return
    device = generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for part in parts:
            part.train()
        try:
            yield
        finally:
            for part in parts:
                part.eval()

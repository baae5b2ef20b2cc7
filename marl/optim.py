"""Optimizers: how parameters move along their gradients, each parameter set by itself.

An optimizer is a setting of a learner, ``optimizer=AdamW(weight_decay=0.01)``; the learning rate is the learner's
``lr``. It builds a :class:`Rule` for one flat matrix ``(P, D)``, a row per parameter set. :class:`Stepper` does what is
the same for all rules: clipping, frozen sets, gradients that are not finite, the learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from marl.compiled import adam, backend
from marl.config import config, setting
from marl.nets.stacked import FlatParameters
from marl.reduce import current, weighted_mean
from marl.types import CheckpointError, ConfigError

__all__ = ["SGD", "Adam", "AdamW", "RMSprop", "TorchOptim"]


class Rule(Protocol):
    """An optimizer at work on one matrix of parameters: its formula and its moments."""

    recordable: bool  # whether a step is the same operations on the same tensors each time, without waiting for a GPU

    def move(self, moving: Tensor, rate: Tensor) -> None:
        """Change the rows of ``flat.values`` where ``moving (P,)`` is True by their ``flat.gradients``.

        All other rows stay exactly as they are, and so do their moments. ``rate ()`` is the learning rate.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """The moments: tensors, numbers, lists and dictionaries of them."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved moments, by copying them."""
        ...


class Optimizer(Protocol):
    """A frozen dataclass that says how parameters move along their gradients."""

    def build(self, flat: FlatParameters) -> Rule:
        """The rule for one matrix of parameters, with moments that have seen nothing."""
        ...


class Stepper:
    """Steps of an optimizer on one matrix of parameters.

    Each parameter set has its own gradient norm and its own moments. Sets that are frozen, and sets whose gradient or
    loss is not finite, keep their values and their moments.
    """

    def __init__(self, optimizer: Optimizer, flat: FlatParameters, lr: float = 1.0, scale: float = 1.0) -> None:
        """``scale`` multiplies every learning rate that is set."""
        self.optimizer, self.flat, self.scale = optimizer, flat, scale
        self.rule = optimizer.build(flat)
        self._lr, self._rate = lr, torch.full((), lr * scale, device=flat.values.device, dtype=torch.float32)
        self.reduce = current()
        self.rows: Tensor | None = None  # (P,) or () how many rows the gradients are means of; None: as many everywhere
        self.refusal = adam.refuses(self)  # why there is no compiled pass; empty: there is one

    @property
    def lr(self) -> float:
        """The learning rate, before ``scale``."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        if lr != self._lr:
            self._lr = lr
            self._rate.fill_(lr * self.scale)  # in place: a recorded step finds it there

    @property
    def recordable(self) -> bool:
        """Whether a step may be recorded as a CUDA graph."""
        return self.rule.recordable and self.reduce.alone

    def step(self, max_norm: float | None = None) -> Tensor:
        """Move the parameters along their gradients, of norm ``max_norm`` at most; returns the norms before, ``(P,)``.

        Without ``max_norm`` gradients are taken as they are, or as :meth:`FlatParameters.clip` left them.
        """
        if not self.reduce.alone:
            self._add_up()
        if not self.refusal and backend.enabled:
            return adam.step(self, max_norm)
        return self.step_of_torch(max_norm)

    @torch.no_grad()
    def _add_up(self) -> None:
        """Make the gradients those of the rows of all learners; a loss that is not finite is so for all of them."""
        flat = self.flat
        rows = flat.gradients.new_ones(()) if self.rows is None else self.rows
        loss = torch.as_tensor(flat.loss, dtype=torch.float32, device=flat.gradients.device).clone()
        weighted_mean(self.reduce, rows, flat.gradients, sums=[loss])
        flat.loss = loss

    @torch.no_grad()
    def step_of_torch(self, max_norm: float | None = None) -> Tensor:
        """The same in torch's operations."""
        flat = self.flat
        norm = flat.gradients.new_zeros(len(flat.values)) if max_norm is None else flat.clip(max_norm)
        moving = flat.active & flat.sound & flat.loss_is_finite()
        flat.loss = 0.0
        flat.sound.fill_(True)
        self.rule.move(moving, self._rate)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The moments."""
        return self.rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved moments. Raises CheckpointError if another kind of optimizer saved them."""
        own = self.rule.state_dict()
        if set(state) != set(own):
            raise CheckpointError(
                f"optimizer={self.optimizer!r}: expected saved moments {', '.join(sorted(own)) or 'of no kind'}, got "
                f"{', '.join(sorted(map(str, state))) or 'none'}; load with the optimizer= of the training"
            )
        self.rule.load_state_dict(state)


def _check_betas(name: str, betas: object) -> None:
    """Refuse anything but two numbers of [0, 1). Raises ConfigError."""
    numbers = betas if isinstance(betas, tuple) else ()
    if len(numbers) != 2 or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in numbers):
        raise ConfigError(f"{name}.betas: expected two numbers of at least 0 and below 1, got {betas!r}")


@config
class Adam:
    """Adam (Kingma and Ba 2015): ``w -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)``.

    ``m`` and ``v`` are running means of ``g`` and ``g^2``. With the default ``betas`` a step on a CPU is one compiled
    pass, clipping included.
    """

    eps: float = setting(default=1e-5, doc="added to the root of the mean square", above=0)
    betas: tuple[float, float] = setting(default=(0.9, 0.999), doc="how slowly the means of g and g^2 change")

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_betas("Adam", self.betas)

    def build(self, flat: FlatParameters) -> Rule:
        """The rule for one matrix of parameters."""
        return AdamRule(flat, self.eps, self.betas, 0.0)


@config
class AdamW:
    """Adam after ``w -= lr weight_decay w``, decoupled weight decay (Loshchilov and Hutter 2019)."""

    weight_decay: float = setting(default=0.01, doc="share of each parameter, times lr, that is taken away", least=0)
    eps: float = setting(default=1e-5, doc="added to the root of the mean square", above=0)
    betas: tuple[float, float] = setting(default=(0.9, 0.999), doc="how slowly the means of g and g^2 change")

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_betas("AdamW", self.betas)

    def build(self, flat: FlatParameters) -> Rule:
        """The rule for one matrix of parameters."""
        return AdamRule(flat, self.eps, self.betas, self.weight_decay)


@config
class RMSprop:
    """RMSprop (Hinton 2012): ``w -= lr b`` with ``b = momentum b + g / (sqrt(v) + eps)``.

    ``v`` is a running mean of ``g^2``.
    """

    alpha: float = setting(default=0.99, doc="how slowly the mean of g^2 changes", least=0, below=1)
    eps: float = setting(default=1e-5, doc="added to the root of the mean square", above=0)
    momentum: float = setting(default=0.0, doc="share of the last step in this one", least=0, below=1)

    def build(self, flat: FlatParameters) -> Rule:
        """The rule for one matrix of parameters."""
        return RMSpropRule(flat, self.alpha, self.eps, self.momentum)


@config
class SGD:
    """Gradient descent: ``w -= lr b`` with ``b = momentum b + g``; with ``nesterov`` ``w -= lr (momentum b + g)``."""

    momentum: float = setting(default=0.0, doc="share of the last step in this one", least=0, below=1)
    nesterov: bool = setting(default=False, doc="look ahead along the momentum (Sutskever et al. 2013)")

    def __post_init__(self) -> None:
        """Check what goes together."""
        if self.nesterov and not self.momentum:
            raise ConfigError("SGD: nesterov=True needs momentum above 0, got momentum=0; set momentum=0.9")

    def build(self, flat: FlatParameters) -> Rule:
        """The rule for one matrix of parameters."""
        return SGDRule(flat, self.momentum, self.nesterov)


@dataclass(frozen=True)
class TorchOptim:
    """Any class of ``torch.optim``, or one like them, on each parameter set as one vector.

    Args:
        optimizer: the class, such as ``torch.optim.RAdam``, or its name in ``torch.optim``.
        keywords: what it is made with beside the parameters and ``lr``.
    """

    optimizer: type[torch.optim.Optimizer] | str
    keywords: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Take one step on a vector, so that what cannot work is refused here. Raises ConfigError."""
        cls = self.optimizer
        if isinstance(cls, type) and getattr(torch.optim, cls.__name__, None) is cls:
            object.__setattr__(self, "optimizer", cls.__name__)  # a name is saved and loaded without trusting anything
        if not isinstance(self.keywords, Mapping):
            raise ConfigError(f"TorchOptim.keywords: expected a dictionary, got {self.keywords!r}")
        if "lr" in self.keywords:
            raise ConfigError("TorchOptim.keywords: 'lr' is the learner's own setting; give the learner lr=")
        vector = torch.zeros(2, dtype=torch.float32)
        vector.grad = torch.zeros(2, dtype=torch.float32)
        made = self._made(vector)
        try:
            made.step()
        except Exception as error:
            raise ConfigError(f"{self._name}: it cannot step on a vector with its gradient ({error})") from None

    @property
    def _name(self) -> str:
        return f"TorchOptim({self.optimizer if isinstance(self.optimizer, str) else self.optimizer.__name__})"

    def _made(self, vector: Tensor) -> torch.optim.Optimizer:
        """The optimizer of one parameter set."""
        cls = getattr(torch.optim, self.optimizer, None) if isinstance(self.optimizer, str) else self.optimizer
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
            raise ConfigError(
                "TorchOptim.optimizer: expected a class of optimizers or its name in torch.optim, got "
                f"{self.optimizer!r}"
            )
        try:
            made: torch.optim.Optimizer = cls([vector], lr=1.0, **self.keywords)  # type: ignore[call-arg]
        except Exception as error:
            raise ConfigError(f"{self._name}: it cannot be made with {dict(self.keywords)!r} ({error})") from None
        return made

    def build(self, flat: FlatParameters) -> Rule:
        """The rule for one matrix of parameters."""
        return TorchRule(flat, [self._made(row) for row in flat.values.detach()])


class AdamRule:
    """The update rule of :class:`Adam` and :class:`AdamW`."""

    recordable = True

    def __init__(self, flat: FlatParameters, eps: float, betas: tuple[float, float], weight_decay: float) -> None:
        """Moments of zero."""
        self.flat, self.eps, self.betas, self.weight_decay = flat, eps, betas, weight_decay
        self.steps = torch.zeros(len(flat.values), dtype=torch.int64, device=flat.values.device)  # (P,)
        self.mean, self.square = torch.zeros_like(flat.values), torch.zeros_like(flat.values)  # (P, D)

    def move(self, moving: Tensor, rate: Tensor) -> None:
        """One step of Adam for the sets that are ``moving``."""
        decay, square_decay = self.betas
        self.steps += moving
        share = moving.unsqueeze(1).float()  # other rows neither decay nor move
        gradient, steps = self.flat.gradients, self.steps.clamp(min=1).unsqueeze(1).double()
        if self.weight_decay:
            self.flat.values.mul_(1 - share * (rate * self.weight_decay))
        self.mean.add_((gradient - self.mean) * (share * (1 - decay)))
        self.square.add_((gradient.square() - self.square) * (share * (1 - square_decay)))
        root = (self.square / (1 - square_decay**steps).float()).sqrt_().add_(self.eps)
        self.flat.values.sub_(share * rate * (self.mean / (1 - decay**steps).float()) / root)

    def state_dict(self) -> dict[str, Any]:
        """Moments and counts of steps."""
        return {"steps": self.steps, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved ones."""
        _copy(self.state_dict(), state)


class RMSpropRule:
    """The update rule of :class:`RMSprop`."""

    recordable = True

    def __init__(self, flat: FlatParameters, alpha: float, eps: float, momentum: float) -> None:
        """Moments of zero."""
        self.flat, self.alpha, self.eps, self.momentum = flat, alpha, eps, momentum
        self.square, self.last = torch.zeros_like(flat.values), torch.zeros_like(flat.values)  # (P, D)

    def move(self, moving: Tensor, rate: Tensor) -> None:
        """One step of RMSprop for the sets that are ``moving``."""
        share, gradient = moving.unsqueeze(1), self.flat.gradients
        square = self.alpha * self.square + (1 - self.alpha) * gradient.square()
        last = self.momentum * self.last + gradient / (square.sqrt() + self.eps)
        _take(share, (self.square, square), (self.last, last), (self.flat.values, self.flat.values - rate * last))

    def state_dict(self) -> dict[str, Any]:
        """The mean square and the last step."""
        return {"square": self.square, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved ones."""
        _copy(self.state_dict(), state)


class SGDRule:
    """The update rule of :class:`SGD`."""

    recordable = True

    def __init__(self, flat: FlatParameters, momentum: float, nesterov: bool) -> None:
        """A last step of zero."""
        self.flat, self.momentum, self.nesterov = flat, momentum, nesterov
        self.last = torch.zeros_like(flat.values)  # (P, D)

    def move(self, moving: Tensor, rate: Tensor) -> None:
        """One step of gradient descent for the sets that are ``moving``."""
        share, gradient = moving.unsqueeze(1), self.flat.gradients
        last = self.momentum * self.last + gradient
        step = self.momentum * last + gradient if self.nesterov else last
        _take(share, (self.last, last), (self.flat.values, self.flat.values - rate * step))

    def state_dict(self) -> dict[str, Any]:
        """The last step."""
        return {"last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to it."""
        _copy(self.state_dict(), state)


class TorchRule:
    """The rule of :class:`TorchOptim`: one torch optimizer per parameter set, which steps only when its set moves."""

    recordable = False  # torch's may keep numbers that a recording would not change

    def __init__(self, flat: FlatParameters, rows: Sequence[torch.optim.Optimizer]) -> None:
        """``rows[p]`` moves ``flat.values[p]``."""
        self.rows = rows
        for optimizer, gradient in zip(rows, flat.gradients, strict=True):
            _vector(optimizer).grad = gradient

    def move(self, moving: Tensor, rate: Tensor) -> None:
        """One step of the optimizer of every set that is ``moving``."""
        lr = float(rate)
        for optimizer, moves in zip(self.rows, moving.tolist(), strict=True):
            if moves:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """What each optimizer keeps of its vector, and the numbers of its group."""
        return {
            "rows": [
                {"state": dict(optimizer.state.get(_vector(optimizer), {})), "group": _numbers(optimizer)}
                for optimizer in self.rows
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to it."""
        for optimizer, saved in zip(self.rows, state["rows"], strict=True):
            kept = {name: x.clone() if isinstance(x, Tensor) else x for name, x in saved["state"].items()}
            group = {**optimizer.param_groups[0], **saved["group"], "params": [0]}
            optimizer.load_state_dict({"state": {0: kept} if kept else {}, "param_groups": [group]})


def _vector(optimizer: torch.optim.Optimizer) -> Tensor:
    """What an optimizer of one vector moves."""
    vector: Tensor = optimizer.param_groups[0]["params"][0]
    return vector


def _numbers(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What may change in the group of an optimizer of one vector."""
    return {name: x for name, x in optimizer.param_groups[0].items() if isinstance(x, Tensor | int | float)}


def _take(share: Tensor, *pairs: tuple[Tensor, Tensor]) -> None:
    """Give tensors new values in the rows of which ``share (P, 1)`` is True."""
    for old, new in pairs:
        old.copy_(torch.where(share, new, old))


def _copy(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Give tensors the saved values of their names."""
    for name, tensor in own.items():
        tensor.copy_(state[name])

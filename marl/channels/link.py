"""Links: what happens to a message on its way from one agent to another."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from numbers import Real

import torch
from torch import Tensor

from marl.config import unknown
from marl.types import ConfigError


@dataclass(frozen=True)
class Link:
    """Message loss, delay, noise and limits of a link. The default is a perfect link.

    The sender's side first cuts a message to ``floats`` numbers, then to ``[-saturation, saturation]``, then to one of
    ``2 ** bits`` values each; with its ``budget`` spent an agent is silent. On its way a message takes ``delay`` steps,
    is lost with probability ``loss`` and gains Gaussian ``noise``, both for every listener on its own.

    Args:
        floats: how many numbers pass; None: all.
        bits: bits of each number; None: as many as it has. Gradients pass as if nothing had happened
            (straight-through, Bengio et al. 2013).
        saturation: the greatest size of a number; None: no limit, or 1 where bits are counted.
        budget: messages of each agent in an episode; None: any number.
        delay: steps that a message takes longer.
        loss: probability that a listener misses a message.
        noise: standard deviation added for each listener.
    """

    floats: int | None = None
    bits: int | None = None
    saturation: float | None = None
    budget: int | None = None
    delay: int = 0
    loss: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least, most in (
            ("floats", 1, math.inf),
            ("bits", 1, 24),
            ("budget", 0, math.inf),
            ("delay", 0, 1000),
        ):
            value = getattr(self, name)
            if value is None and name != "delay":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                top = "" if most == math.inf else f" to {most}"
                raise ConfigError(f"Link.{name}: expected a whole number from {least}{top}, got {value!r}")
        for name in ("saturation", "loss", "noise"):
            value = getattr(self, name)
            if (isinstance(value, bool) or not isinstance(value, Real)) and (value, name) != (
                None,
                "saturation",
            ):
                raise ConfigError(f"Link.{name}: expected a number, got {value!r}")
        if self.saturation is not None and not 0 < self.saturation < math.inf:
            raise ConfigError(f"Link.saturation: expected a number above 0, got {self.saturation!r}")
        if not 0 <= self.loss <= 1:
            raise ConfigError(f"Link.loss: expected a probability from 0 to 1, got {self.loss!r}")
        if not 0 <= self.noise < math.inf:
            raise ConfigError(f"Link.noise: expected a number of at least 0, got {self.noise!r}")

    @property
    def chancy(self) -> bool:
        """Whether the link is random."""
        return self.loss > 0 or self.noise > 0

    def pack(self, message: Tensor) -> Tensor:
        """The sender's side: ``(..., M)`` to ``(..., M)``, with a gradient."""
        if self.floats is not None and self.floats < message.shape[-1]:
            kept = torch.arange(message.shape[-1], device=message.device) < self.floats
            message = message * kept
        reach = self.saturation if self.saturation is not None else (1.0 if self.bits is not None else None)
        if reach is not None:
            message = message.clamp(-reach, reach)
        if self.bits is not None and reach is not None:
            levels = 2**self.bits - 1
            rough = torch.round((message.detach() + reach) * (levels / (2 * reach))) * (2 * reach / levels) - reach
            # Straight through: exactly the rough value forward (a sum of differences would round), slope 1 backward.
            message = rough + (message - message.detach())
            if self.floats is not None and self.floats < message.shape[-1]:
                message = message * kept  # zero is no level: what does not pass is nothing, not a value
        return message

    @classmethod
    def parse(cls, text: str, base: Link | None = None) -> Link:
        """``"loss=0.2,delay=1"`` as a link: what is named replaces what ``base`` has. Raises ConfigError."""
        kinds = {one.name: int if one.name in ("floats", "bits", "budget", "delay") else float for one in fields(cls)}
        changes: dict[str, float | int] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, value = part.partition("=")
            if not equals or not value:
                raise ConfigError(f"link: expected name=value pairs such as loss=0.2,delay=1, got {part!r}")
            if name not in kinds:
                raise ConfigError(unknown("link", name, kinds, "effect"))
            try:
                changes[name] = kinds[name](value)
            except ValueError:
                wanted = "a whole number" if kinds[name] is int else "a number"
                raise ConfigError(f"link: {name} expects {wanted}, got {value!r}") from None
        return replace(base or cls(), **changes)  # type: ignore[arg-type]

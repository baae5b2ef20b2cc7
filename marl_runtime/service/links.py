"""The sender's side of a link: what is left of a message before it travels, as in training.

Floats, saturation, bits and the budget limit what an agent sends, and ``delay`` says which step's messages are heard.
Loss, noise and lateness are the network's own here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl_runtime.bundle import BundleError
from marl_runtime.program import Array


@dataclass(frozen=True)
class SenderLimits:
    """Limits of a link, as a manifest has them; see :class:`marl.Link`."""

    floats: int | None
    bits: int | None
    saturation: float | None
    budget: int | None
    delay: int

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> SenderLimits:
        """Those of a manifest. Raises BundleError for what makes no sense."""
        whole = {name: said.get(name) for name in ("floats", "bits", "budget", "delay")}
        saturation = said.get("saturation")
        most = {"floats": 2**24, "bits": 24, "budget": 2**62, "delay": 1000}
        for name, value in whole.items():
            if name != "delay" and value is None:
                continue
            least = 1 if name in ("floats", "bits") else 0
            if type(value) is not int or not least <= value <= most[name]:
                raise BundleError(f"a link with {name} {value!r:.40} makes no sense")
        if saturation is not None and (type(saturation) not in (int, float) or not 0 < saturation < np.inf):
            raise BundleError(f"a link with saturation {saturation!r:.40} makes no sense")
        return cls(**whole, saturation=saturation)  # type: ignore[arg-type]

    def pack(self, message: Array) -> Array:
        """What is sent of a message ``(M,)``."""
        packed = message.astype(np.float32)
        reach = self.saturation if self.saturation is not None else (1.0 if self.bits is not None else None)
        if reach is not None:
            packed = np.clip(packed, np.float32(-reach), np.float32(reach))
        if self.bits is not None and reach is not None:
            levels = 2**self.bits - 1
            up, down = np.float32(levels / (2 * reach)), np.float32(2 * reach / levels)
            packed = np.round((packed + np.float32(reach)) * up) * down - np.float32(reach)
        if self.floats is not None:
            packed[self.floats :] = 0
        return packed

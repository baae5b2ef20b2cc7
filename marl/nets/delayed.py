"""A network as it was some updates ago, to play behind the one that learns."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from torch import Tensor

from marl.nets.agent_net import AgentNet


class Delayed:
    """A copy of a network that has the parameters and normalizers of ``lag`` updates ago, at first the initial ones."""

    def __init__(self, net: AgentNet, lag: int) -> None:
        """``lag`` is at least 1."""
        self._newest, self.net = net, net.restrict(None)
        self.net.eval()
        self._states = deque([_copy(net.policy_state())], maxlen=lag + 1)  # the oldest first, which plays

    def update(self) -> None:
        """Move on by one update: it has just changed the network that learns."""
        self._states.append(_copy(self._newest.policy_state()))
        self.net.load_state_dict(self._states[0])

    def state_dict(self) -> list[dict[str, Tensor]]:
        """The network's states from the oldest to that of now."""
        return list(self._states)

    def load_state_dict(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Go back to a saved state."""
        self._states.clear()
        self._states.extend(_copy(state) for state in states)
        self.net.load_state_dict(self._states[0])


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}

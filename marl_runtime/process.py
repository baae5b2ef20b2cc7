"""An agent's side of the wire: it plays as frames say, and knows nothing but what they tell it."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
from collections.abc import Callable

from marl_runtime.bundle import BundleError
from marl_runtime.seat import AgentInput, LocalPlayer, ReceivedMessages, TakesTurns
from marl_runtime.team import load
from marl_runtime.wire import READY, Kind, Wire, WireError


def serve(fd: int, parent: int, from_main: int) -> None:
    """The main function of the process of a bundle's agent: play until the other side closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answer(Wire(socket.socket(fileno=fd)), agent_named, (BundleError,))


def agent_named(text: str) -> TakesTurns:
    """The agent that a START frame asks for: ``{"folder": ..., "agent": ..., "engine": ..., "side_seed": ...}``."""
    asked = json.loads(text)
    agent = load(asked["folder"], asked["engine"])[asked["agent"]]
    agent.side_seeds = itertools.count(asked["side_seed"])
    return agent


def answer(wire: Wire, named: Callable[[str], TakesTurns], explained: tuple[type[Exception], ...]) -> None:
    """Play as the frames say; what goes wrong is said to the other side.

    Args:
        wire: the connection.
        named: makes the agent from the text of the START frame.
        explained: errors that speak for themselves.
    """
    try:
        agent = named(wire.receive_text(Kind.START))
        layout = agent.layout(wire.copies)
        begin = wire.receive(Kind.BEGIN, layout.begin)
        assert begin is not None
        player = LocalPlayer([agent.twin(seed) for seed in begin[0].tolist()], bool(begin[1]))
        wire.send(Kind.READY, READY, [layout.sizes])
        while (arrays := wire.receive(Kind.LOOK, layout.observe, ends=True)) is not None:
            started, acting, obs, *rest = arrays
            action_mask = rest.pop(0) if layout.masked else None
            player.observe(AgentInput(obs, action_mask, started, acting, ReceivedMessages(*rest) if rest else None))
            for _ in range(max(layout.rounds, 1) if layout.talks else 0):
                wire.send(Kind.SAY, layout.say, player.say())
                if layout.rounds:
                    heard = wire.receive(Kind.HEAR, layout.hear)
                    assert heard is not None
                    player.hear(ReceivedMessages(*heard))
            wire.send(Kind.ACT, layout.act, [player.act()])
    except (EOFError, ConnectionError):
        pass  # the other side is gone: nothing to say, and nobody to say it to
    except Exception as error:
        text = str(error) if isinstance(error, (WireError, *explained)) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            wire.send_text(Kind.ERROR, text)

"""An agent's side of the wire: it plays as frames say, and knows nothing but what they tell it."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from marl_runtime.bundle import BundleError
from marl_runtime.seat import AgentInput, LocalPlayer, ReceivedMessages, TakesTurns
from marl_runtime.team import load
from marl_runtime.wire import READY, Array, Field, Kind, Layout, Wire, WireError


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
        talk = conversation(agent, agent.layout(wire.copies))
        turn = next(talk)
        while True:
            for frame in turn.sends:
                wire.send(*frame)
            turn = talk.send(wire.receive(*turn.awaits))
    except StopIteration:
        pass  # the other side needs no more
    except (EOFError, ConnectionError):
        pass  # the other side is gone: nothing to say, and nobody to say it to
    except Exception as error:
        text = str(error) if isinstance(error, (WireError, *explained)) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            wire.send_text(Kind.ERROR, text)


class Exchange(NamedTuple):
    """What an agent sends, ``(kind, fields, arrays)`` each, and the frame that it awaits then: kind, fields, whether
    END may come instead."""

    sends: tuple[tuple[Kind, Sequence[Field], Sequence[Array]], ...]
    awaits: tuple[Kind, Sequence[Field], bool]


def conversation(agent: TakesTurns, layout: Layout) -> Generator[Exchange, list[Array] | None, None]:
    """An agent's side of the frames after START, whatever carries them: sent the arrays that it awaits, it goes on."""
    begin = yield Exchange((), (Kind.BEGIN, layout.begin, False))
    assert begin is not None
    player = LocalPlayer([agent.twin(seed) for seed in begin[0].tolist()], bool(begin[1]))
    answers: tuple[tuple[Kind, Sequence[Field], Sequence[Array]], ...] = ((Kind.READY, READY, [layout.sizes]),)
    while (arrays := (yield Exchange(answers, (Kind.LOOK, layout.observe, True)))) is not None:
        started, acting, obs, *rest = arrays
        action_mask = rest.pop(0) if layout.masked else None
        player.observe(AgentInput(obs, action_mask, started, acting, ReceivedMessages(*rest) if rest else None))
        for _ in range(layout.rounds):
            heard = yield Exchange(((Kind.SAY, layout.say, player.say()),), (Kind.HEAR, layout.hear, False))
            assert heard is not None
            player.hear(ReceivedMessages(*heard))
        said = [(Kind.SAY, layout.say, player.say())] if layout.talks and not layout.rounds else []
        answers = (*said, (Kind.ACT, layout.act, [player.act()]))

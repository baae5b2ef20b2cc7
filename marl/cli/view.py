"""``marl view``."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from marl.seat.room import Room
from marl.cli.options import ENV, NUMBER
from marl.cli.output import note, print_json, quiet
from marl.cli.status import UsageError, config_error, need


@dataclass(frozen=True)
class View:
    """Show runs in the browser while they train: the page of marl report, which follows what is written."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Run folders, folders that hold such, recordings; nothing beside them is read."""
    host: Annotated[str, arg(metavar="HOST")] = "127.0.0.1"
    """Address to listen on. Whoever reaches another one and knows the token sees everything in the runs."""
    port: Annotated[int, NUMBER] = 0
    """Port; 0: any that is free."""
    play: bool = False
    """Take a seat among the agents of the one RUN; the games are kept in RUN/human."""
    seat: Annotated[tuple[str, ...], arg(metavar="AGENT [AGENT ...]")] = ()
    """With --play: whose seats people take, each at an address of its own; the first agent's unless given."""
    opponent: Annotated[str | None, arg(metavar="MEMBER")] = None
    """With --play: the member of the run's league that plays the other sides, such as 'step 50000'."""
    tick: Annotated[float, NUMBER] = 0.0
    """With --play: seconds of a step in real time; 0: the game waits for whoever has the move."""
    seed: Annotated[int, NUMBER] = 0
    """With --play: of the first game; each further one has the next."""
    sample: bool = False
    """With --play: agents sample their actions instead of taking the most likely ones."""
    env: Annotated[str | None, ENV] = None
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """With --play: which checkpoint."""
    trust: bool = False
    """With --play: run whatever code the run names: its .py file, module, functions."""
    json: bool = False
    """Print one JSON object on stdout, the address, and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return view(self)


def view(asked: View) -> int:
    """``marl view``."""
    for module in ("starlette", "uvicorn"):
        need(module, "view")
    if not 0 <= asked.port < 2**16:
        raise UsageError(f"marl view: --port: expected a number from 0 to 65535, got {asked.port}")
    import asyncio

    from marl.report.content import Source
    from marl.report.live import application, server
    from marl.seat.server import MESSAGE, routes
    from marl_runtime.service.guard import is_loopback
    from marl_runtime.service.listening import bound

    for path in asked.runs:
        if not path.exists():
            raise config_error(f"{path} does not exist: expected a run folder, or one that holds such")
    _check_play(asked)
    token = secrets.token_urlsafe(24)
    try:
        listener = bound(asked.host, asked.port, token)
    except OSError as error:
        raise UsageError(f"marl view: cannot listen on {asked.host}:{asked.port}: {error.strerror}") from None
    with listener, _seated(asked) as room:
        host, port = listener.getsockname()[:2]
        local = is_loopback(str(host))
        place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        address = f"{place}/?token={token}"
        seats = {
            agent: f"{place}/play?{urlencode({'token': token, 'seat': agent})}"
            for agent in (room.seats if room else ())
        }
        if asked.json:
            print_json({"url": address} | ({"seats": seats} if room else {}))
        else:
            for agent, own in seats.items():
                print(f"{agent}: {own}", flush=True)
            print(f"all of the run: {address}" if room else address, flush=True)
            note("Ctrl-C ends it")
        if not local:
            note(f"warning: {host} can be reached from other machines, and nothing is encrypted")
        app = application(Source(asked.runs), token, port, None if local else asked.host, routes(room) if room else ())
        with contextlib.suppress(KeyboardInterrupt):  # which is how a server ends
            asyncio.run(server(app, MESSAGE if room else 0).serve([listener]))
    return 0


def _check_play(asked: View) -> None:
    """Refuse options that have no meaning together."""
    from marl.config import check_whole

    options = ("seat", "opponent", "tick", "seed", "sample", "env", "trust")
    given = next((name for name in options if getattr(asked, name)), None)
    if not asked.play and given is not None:
        raise UsageError(f"marl view: --{given} is for --play")
    if not asked.play:
        return
    need("websockets", "view")
    check_whole("--seed", asked.seed, 0)
    if len(asked.runs) != 1:
        raise UsageError(f"marl view --play: expected one RUN, got {len(asked.runs)}")
    if not 0 <= asked.tick <= 10:
        raise UsageError(f"marl view: --tick: expected 0 to 10 seconds, got {asked.tick:g}")


@contextlib.contextmanager
def _seated(asked: View) -> Iterator[Room | None]:
    """The seats of people, and their games until the end; None without --play."""
    if not asked.play:
        yield None
        return
    from marl.cli.runs import folder_of, open_run
    from marl.seat.games import Games, Kept, Seats
    from marl.seat.room import Room

    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures, no windows
    run = asked.runs[0]
    path, system = open_run(run, asked.checkpoint, "cpu", asked.trust, asked.env)
    with system:
        names = asked.seat or system.spec.agents[:1]
        room = Room(list(dict.fromkeys(names)), asked.tick)
        seats = Seats(room.seats, asked.opponent or "")
        with quiet():
            games = Games(system, seats, seed=asked.seed, greedy=not asked.sample, shown=room.shows)
        room.open(games, Kept(folder_of(run, path), tuple(room.seats)))
        try:
            yield room
        finally:
            room.close()

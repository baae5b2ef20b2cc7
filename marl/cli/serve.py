"""``marl serve``. Imports neither torch nor the training code."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from marl.cli.options import NUMBER
from marl.cli.output import note, print_json
from marl.cli.status import UsageError, need

SHORTEST_TOKEN, LONGEST_TOKEN = 16, 1024  # characters


@dataclass(frozen=True)
class Serve:
    """Serve one agent of a bundle over HTTP and WebSockets, until Ctrl-C."""

    bundle: Annotated[Positional[Path], arg(metavar="DIR")]
    """A bundle that marl export wrote."""
    agent: Annotated[str | None, arg(metavar="AGENT")] = None
    """Which of its agents; needed if there are several."""
    host: Annotated[str, arg(metavar="HOST")] = "127.0.0.1"
    """Address to listen on; any other than this machine's own needs --token-file."""
    port: Annotated[int, NUMBER] = 8000
    """Port; 0: any that is free."""
    token_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """A file with the token that every request must bring."""
    peers: Annotated[str | None, arg(metavar="AGENT=URL,...")] = None
    """Services of the agents that hear this one, such as agent_1=http://10.0.0.2:8000."""
    deadline: Annotated[float, NUMBER] = 0.1
    """With --peers: seconds that a step waits for messages of others; later ones are lost."""
    sessions: Annotated[int, NUMBER] = 1024
    """Episodes at once."""
    idle: Annotated[float, NUMBER] = 300.0
    """Seconds after which an episode ends that nobody goes on with."""
    engine: Annotated[str, arg(metavar="numpy|onnx|torch")] = "numpy"
    """What computes the policy."""
    json: bool = False
    """Print one JSON object on stdout, the address, and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return serve(self)


def serve(asked: Serve) -> int:
    """``marl serve``."""
    for module in ("starlette", "uvicorn", "websockets"):
        need(module, "serve")
    import asyncio

    from marl_runtime import BundleError, load
    from marl_runtime.service.limits import Limits
    from marl_runtime.service.listening import bound, server, service_of

    if not 0 <= asked.port < 2**16:
        raise UsageError(f"marl serve: --port: expected a number from 0 to 65535, got {asked.port}")
    if not (asked.deadline > 0 and asked.idle > 0 and asked.sessions > 0):
        raise UsageError("marl serve: --deadline, --idle and --sessions: expected numbers above 0")
    token, peers = _token(asked.token_file), _peers(asked.peers)
    limits = Limits(sessions=asked.sessions, idle=asked.idle, deadline=asked.deadline)
    try:
        team = load(asked.bundle, asked.engine)
    except BundleError as error:
        from marl.types import CheckpointError

        raise CheckpointError(str(error)) from None
    try:
        service = service_of(team, _agent(asked.agent, list(team)), token=token, peers=peers, limits=limits)
        listener = bound(asked.host, asked.port, token)
    except BundleError as error:
        raise UsageError(f"marl serve: {error}") from None
    except OSError as error:
        raise UsageError(f"marl serve: cannot listen on {asked.host}:{asked.port}: {error.strerror}") from None
    with listener:
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if asked.json:
            print_json({"url": address, "agent": service.agent.name})
        else:
            print(f"{service.agent.name} of {asked.bundle} at {address}", flush=True)
            note("Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):  # which is how a service ends
            asyncio.run(server(service).serve([listener]))
    return 0


def _agent(name: str | None, known: list[str]) -> str:
    if name is None and len(known) > 1:
        raise UsageError(f"marl serve: --agent is missing: choose one of {', '.join(known)}")
    return known[0] if name is None else name


def _token(path: Path | None) -> str | None:
    """The token in a file. Raises UsageError if there is none, or one that is easily guessed."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            token = file.read(LONGEST_TOKEN + 1).decode("ascii").strip()
    except OSError as error:
        raise UsageError(f"marl serve: --token-file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN or not token.isprintable() or " " in token:
        raise UsageError(
            f"marl serve: --token-file {path}: expected one line of {SHORTEST_TOKEN} to {LONGEST_TOKEN} characters, "
            "such as `openssl rand -hex 32` prints"
        )
    return token


def _peers(text: str | None) -> dict[str, str]:
    found = {}
    for part in filter(None, (text or "").split(",")):
        name, equals, url = part.partition("=")
        if not equals or not url:
            raise UsageError(f"marl serve: --peers: expected AGENT=URL, got {part!r}")
        found[name] = url
    return found

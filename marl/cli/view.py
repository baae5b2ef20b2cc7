"""``marl view``."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from marl.cli.options import NUMBER
from marl.cli.output import note, print_json
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
    from marl_runtime.service.guard import is_loopback
    from marl_runtime.service.listening import bound

    for path in asked.runs:
        if not path.exists():
            raise config_error(f"{path} does not exist: expected a run folder, or one that holds such")
    token = secrets.token_urlsafe(24)
    try:
        listener = bound(asked.host, asked.port, token)
    except OSError as error:
        raise UsageError(f"marl view: cannot listen on {asked.host}:{asked.port}: {error.strerror}") from None
    with listener:
        host, port = listener.getsockname()[:2]
        local = is_loopback(str(host))
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"
        if asked.json:
            print_json({"url": address})
        else:
            print(address, flush=True)
            note("Ctrl-C ends it")
        if not local:
            note(f"warning: {host} can be reached from other machines, and nothing is encrypted")
        app = application(Source(asked.runs), token, port, None if local else asked.host)
        with contextlib.suppress(KeyboardInterrupt):  # which is how a server ends
            asyncio.run(server(app).serve([listener]))
    return 0

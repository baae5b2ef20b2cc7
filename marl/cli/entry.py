"""From the command line to an exit status."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from marl.cli.interrupts import Interrupts
from marl.cli.output import note, only_answers
from marl.cli.parsing import Command, parse
from marl.cli.runs import is_known
from marl.cli.status import UsageError, say, status_of
from marl.compiling import telling

PREEMPTIBLE = ("train", "study", "population", "tune", "race", "find-optimizer")  # commands that can be gone on with
LAST_SECONDS = 5.0  # for threads of others to end after a command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    interrupts = Interrupts(preemptible=bool(words) and words[0] in PREEMPTIBLE)
    try:
        with interrupts, _any_text():
            code = _guarded(words, debug, interrupts, last=arguments is None)
    except KeyboardInterrupt:
        code = interrupts.code or 130
    if arguments is None:
        _end_for_certain(code)
    return code


def _end_for_certain(code: int) -> None:
    """Python waits for threads as it ends, and those that an environment left running may never end.

    It also ends with a status of its own if stderr cannot be emptied, or a signal comes now that nothing is left to do.
    """

    def end() -> None:
        names = ", ".join(repr(thread.name) for thread in threading.enumerate() if not thread.daemon)
        note(f"ended although threads of the environment or of another library still ran ({names})")
        os._exit(code)

    with contextlib.suppress(ValueError):  # not in the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(code))
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    if any(not thread.daemon and thread is not threading.main_thread() for thread in threading.enumerate()):
        timer = threading.Timer(LAST_SECONDS, end)
        timer.daemon = True
        timer.start()


def _run(asked: Command) -> int:
    """Do what was asked."""
    from marl import sources

    named = [name for key in ("scenario", "env") if (name := getattr(asked, key, None)) is not None]
    of_a_file = any(sources.split(getattr(asked, key, "")) is not None for key in ("study", "population"))
    if getattr(asked, "trust", False) or of_a_file or not all(map(is_known, named)):
        _find_modules_here()
    with contextlib.nullcontext() if getattr(asked, "quiet", False) else telling(note):
        return asked.run()


@contextlib.contextmanager
def _any_text() -> Iterator[None]:
    """Print what an encoding does not have (a path, a name) as escapes instead of failing over it."""
    changed = [(stream, stream.errors) for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    for stream, _ in changed:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in changed:
            with contextlib.suppress(ValueError):  # closed
                stream.reconfigure(errors=errors)


def _find_modules_here() -> None:
    """``module:attribute`` may name a module of the current folder, as with ``python -m``; what is installed wins.

    Only where the user names one: the current folder may be one that came from somebody else.
    """
    with contextlib.suppress(OSError):  # the folder is gone
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)


def _guarded(words: Sequence[str], debug: bool, interrupts: Interrupts, last: bool) -> int:
    """Run a command; every error becomes one line and an exit status."""
    try:
        try:
            command = parse(words)
        except SystemExit:  # after help
            return 0
        with only_answers(last) if getattr(command, "json", False) else contextlib.nullcontext():
            code = _run(command)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
    except UsageError as error:
        return say(error, 2)
    except BrokenPipeError:
        if sys.stdout is not sys.stderr:
            with contextlib.suppress(OSError):  # whoever read our output has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        if interrupts.code or isinstance(error, KeyboardInterrupt):
            note("preempted" if interrupts.code == 75 else "interrupted")
            return interrupts.code or 130
        if debug:
            import traceback

            traceback.print_exc()
        if isinstance(error, SystemExit):  # nothing of ours ends a command so
            error = RuntimeError(f"the environment or another library ended the program: sys.exit({error.code!r})")
        return say(error, status_of(error), debug)

"""Errors in one line, and their exit status."""

from __future__ import annotations

from marl.cli.output import note

LONGEST_LINE = 1500  # characters of an error, unless --debug asks for all


class UsageError(Exception):
    """The command line itself makes no sense."""


def config_error(text: str) -> Exception:
    """A ConfigError, whose module is imported only now."""
    from marl.types import ConfigError

    return ConfigError(text)


def need(module: str, extra: str) -> None:
    """Raise ConfigError, naming the extra, if a module is not installed."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise config_error(f"{module} is not installed: pip install 'marl-system[{extra}]'")


def status_of(error: BaseException) -> int:
    """The exit status of an error."""
    from marl.types import MarlError

    if isinstance(error, MarlError):
        return error.exit_code
    text = str(error)
    short = ("out of memory", "can't allocate memory", "not enough memory", "unable to allocate")
    if isinstance(error, MemoryError) or any(words in text.lower() for words in short) or _lost_gpu(error):
        return 6
    if isinstance(error, OSError):
        import errno

        return (
            6 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO) else 1
        )
    return 1


def _lost_gpu(error: BaseException) -> bool:
    """Whether CUDA gave up: nothing on that GPU can be read any more by this process."""
    return isinstance(error, RuntimeError) and str(error).startswith("CUDA error")


def say(error: BaseException, code: int, debug: bool = False) -> int:
    """One line on stderr."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= LONGEST_LINE or debug else f"{text[:LONGEST_LINE]}..."
    if _lost_gpu(error):
        text = f"the GPU was lost ({text}); checkpoints are intact: go on with --resume"
    elif code == 6 and not hasattr(error, "exit_code"):
        text = f"resources ran out: {text}; lower num_envs, the rollout or the network"
    elif code == 1:
        text = f"{type(error).__name__}: {text}" + ("" if debug else " (unexpected; --debug shows where)")
    note(f"marl: error: {text}")
    return code

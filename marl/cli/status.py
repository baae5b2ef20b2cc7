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
    from marl.types import exit_status

    return exit_status(error)


def say(error: BaseException, code: int, debug: bool = False) -> int:
    """One line on stderr."""
    from marl.types import lost_gpu

    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= LONGEST_LINE or debug else f"{text[:LONGEST_LINE]}..."
    if lost_gpu(error):
        text = f"the GPU was lost ({text}); checkpoints are intact: go on with --resume"
    elif code == 6 and not hasattr(error, "exit_code"):
        text = f"resources ran out: {text}; lower num_envs, the rollout or the network"
    elif code == 1:
        text = f"{type(error).__name__}: {text}" + ("" if debug else " (unexpected; --debug shows where)")
    note(f"marl: error: {text}")
    return code

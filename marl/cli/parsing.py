"""The command line, made a command with its options."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from marl.cli.output import first_line
from marl.cli.status import UsageError

SEVERAL = ("--agents", "--env-kwargs")  # options that one may give several values at once, NAME=VALUE each
LISTS = ("--algorithms", "--optimizers")  # options that take all words up to the next option
EARLIER = {"--logger": "--log"}  # names of options that have another one now
EPILOG = "Add --debug to any command to see the traceback of an error."


class Command(Protocol):
    """What was asked: a frozen dataclass with a field for each option, in the file of its name."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def run(self) -> int:
        """Do it; returns the exit status."""
        ...


def commands() -> dict[str, type[Command]]:
    """All commands by name. Imported once Ctrl-C can be caught: their options' types take half of the time to start."""
    from marl.cli.check import Check
    from marl.cli.evaluate import Evaluate
    from marl.cli.exploit import Exploit
    from marl.cli.export import Export
    from marl.cli.find_lr import FindLr
    from marl.cli.list import List
    from marl.cli.play import Play
    from marl.cli.plot import Plot
    from marl.cli.population import PopulationRun, PopulationStatus
    from marl.cli.race import FindOptimizer, Race
    from marl.cli.report import Report
    from marl.cli.serve import Serve
    from marl.cli.study import StudyRun, StudyStatus
    from marl.cli.sweep import Sweep
    from marl.cli.tournament import Tournament
    from marl.cli.train import Train
    from marl.cli.tune import Tune
    from marl.cli.verify import Verify
    from marl.cli.view import View

    return {
        "train": Train,
        "study run": StudyRun,
        "study status": StudyStatus,
        "population run": PopulationRun,
        "population status": PopulationStatus,
        "tune": Tune,
        "find-lr": FindLr,
        "find-optimizer": FindOptimizer,
        "race": Race,
        "evaluate": Evaluate,
        "sweep": Sweep,
        "play": Play,
        "plot": Plot,
        "report": Report,
        "tournament": Tournament,
        "exploit": Exploit,
        "export": Export,
        "verify": Verify,
        "serve": Serve,
        "view": View,
        "list": List,
        "check": Check,
    }


def parse(arguments: Sequence[str]) -> Command:
    """What was asked. Raises UsageError with one line; SystemExit(0) after printing help."""
    import tyro

    known = commands()
    words = list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        _help(known)
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"marl-system {version('marl-system')}")
        raise SystemExit(0)
    name, words = _named(words, known)
    command, given = known[name], set[str]()
    if not {"-h", "--help"} & set(words):
        words = _spelled(name, command, words, given)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            about = f"{(command.__doc__ or '').strip()}\n\n{EPILOG}"
            made: Command = tyro.cli(command, args=words, prog=f"marl {name}", description=about)
            return dataclasses.replace(made, given=tuple(sorted(given))) if name == "train" else made
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UsageError(f"marl {name}: {_flat(said.getvalue())}") from None


def _named(words: list[str], known: Mapping[str, type[Command]]) -> tuple[str, list[str]]:
    """The command that the first word names, or the first two, and the words behind it. Raises UsageError."""
    inner = [name.partition(" ")[2] for name in known if name.startswith(f"{words[0]} ")]
    if not inner and words[0] not in known:
        raise UsageError(_unknown("command", words[0], list(dict.fromkeys(name.partition(" ")[0] for name in known))))
    if not inner:
        return words[0], words[1:]
    if len(words) == 1 or words[1] not in inner:
        said = f"got {words[1]!r}" if len(words) > 1 else "it is missing"
        raise UsageError(f"marl {words[0]}: expected {' or '.join(inner)}, {said}: marl {words[0]} {inner[0]}")
    return f"{words[0]} {words[1]}", words[2:]


def _help(known: Mapping[str, type[Command]]) -> None:
    about = f"The ``marl`` command: {', '.join(known)}."
    print(f"{about}\n\nusage: marl COMMAND [options]\n")
    for name, command in known.items():
        print(f"  {name:<12} {first_line(command)}")
    print(f"\nmarl COMMAND --help explains its options. {EPILOG}")
    raise SystemExit(0)


def _flat(text: str) -> str:
    """A boxed message in one line."""
    lines = [re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e]+", " ", line)).strip(" -") for line in text.splitlines()]
    return "; ".join(line for line in lines if line and "full helptext" not in line)


def _unknown(what: str, word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {what} {word!r}{hint} (known: {', '.join(known)})"


def _spelled(name: str, command: type[Command], words: list[str], named: set[str]) -> list[str]:
    """The words with a bare --resume spelled out, after everything that can be said in one line has been checked.

    named: takes in which options there are.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(command) if field.name != "given"}
    positional = [key for key in fields if "Positional" in str(hints[key]) or "_PositionalCall" in str(hints[key])]
    plain = typing.get_type_hints(command)
    options = {f"--{key.replace('_', '-')}": key for key in fields if key not in positional}
    known = [*options, *(f"--no-{key.replace('_', '-')}" for key in options.values() if plain[key] is bool)]
    given, spelled, place = 0, [], 0
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("-") or word == "-":
            given += 1
            if given > len(positional) and name not in ("plot", "report", "tournament", "view"):
                raise UsageError(f"marl {name}: unexpected argument {word!r}")
            spelled.append(word)
            continue
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
        option = EARLIER.get(option, option)
        if option not in known:
            near = known if option.startswith("--no-") else list(options)
            raise UsageError(f"marl {name}: {_unknown('option', option, near)}")
        key = options.get(option)
        named.add(key if key is not None else options[f"--{option.removeprefix('--no-')}"])
        if key is None or plain[key] is bool:
            if equals:
                raise UsageError(f"marl {name}: {option} takes no value, got {value!r}")
            spelled.append(option)
            continue
        if not equals:
            if key == "resume" and not (place < len(words) and _names_checkpoint(words[place])):
                value = "auto"
            elif place == len(words) or words[place].startswith("--"):
                raise UsageError(f"marl {name}: {option}: a value is missing")
            else:
                value = words[place]
                place += 1
        _check_number(f"marl {name}: {option}", plain[key], value)
        spelled += [option, value]
        while option in SEVERAL and place < len(words) and re.match(r"[^-].*[=(]", words[place]):
            spelled += [option, words[place]]
            place += 1
        while option in LISTS and place < len(words) and not words[place].startswith("-"):
            spelled += [option, words[place]]
            place += 1
    needed = [key for key in positional if fields[key].default is dataclasses.MISSING]
    if given < len(needed):
        shown = {"run_folder": "RUN", "runs": "RUN", "env": "ENV", "bundle": "DIR", "what": "WHAT", "study": "STUDY"}
        shown |= {"population": "POPULATION", "scenario": "WHAT"}
        what = shown[needed[given]]
        raise UsageError(f"marl {name}: {what} is missing: marl {name} {what}")
    return spelled


def _names_checkpoint(word: str) -> bool:
    """Whether the word after --resume is its value rather than the scenario."""
    return word == "auto" or (
        not word.startswith("-") and not word.endswith(".py") and (os.sep in word or Path(word).is_dir())
    )


def _check_number(where: str, hint: Any, value: str) -> None:
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind, what in ((int, "a whole number"), (float, "a number")):
        if kind in members:
            try:
                kind(value)
            except ValueError:
                raise UsageError(f"{where}: expected {what}, got {value!r}") from None

"""The ``marl`` command: train, evaluate, sweep, play, plot, tournament, exploit, list, check.

Nothing heavy is imported before it is needed. Whatever goes wrong by a user's mistake is one line on stderr and an exit
status: 2 bad input, 3 environment contract, 4 non-finite training, 5 checkpoint, 6 resources, 75 preempted and saved,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import difflib
import io
import json
import os
import re
import shlex
import signal
import sys
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import tyro
    from tyro.conf import Positional, Suppress, UseAppendAction, arg

    from marl.playing.report import Report
    from marl.run import Run
    from marl.scenario import Scenario
    from marl.system import MultiAgentSystem

    NUMBER = arg(metavar="N")

EPILOG = "Add --debug to any command to see the traceback of an error."
# What a config.json may ask for.
LEAST = {"num_envs": 1, "seed": 0, "steps": 1, "workers": 0, "threads": 1, "evaluate_every": 1, "evaluate_episodes": 1}
MOST = {"num_envs": 2**20, "workers": 2**10, "threads": 2**10}
LONGEST_SETTING = 10_000  # characters of a --set that a config.json holds
LAST_SECONDS = 5.0  # for threads of others to end after a command
LONGEST_LINE = 1500  # characters of an error, unless --debug asks for all


class UsageError(Exception):
    """The command line itself makes no sense."""


# --- what can be asked ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Train:
    """Train a scenario's agents, and write a run folder."""

    scenario: Annotated[Positional[str | None], arg(metavar="SCENARIO")] = None
    """A shipped scenario (marl list), a path to a .py file, or module:attribute; may be left out with --resume."""
    steps: Annotated[int | None, NUMBER] = None
    """Environment steps of the whole run, all copies counted; the scenario's unless given. --resume does the rest."""
    seed: Annotated[int | None, NUMBER] = None
    """Everything random derives from it; 0 unless given."""
    num_envs: Annotated[int | None, NUMBER] = None
    """Copies of the environment that train side by side; the scenario's unless given."""
    workers: Annotated[int | None, NUMBER] = None
    """Processes that the copies are spread over; 0: none but this one. Results do not depend on it."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ... or auto."""
    threads: Annotated[int | None, NUMBER] = None
    """Threads that PyTorch computes with."""
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where to write; runs/SCENARIO-SEED-DATE unless given."""
    resume: Annotated[str | None, arg(metavar="[auto|CHECKPOINT]")] = None
    """Go on with the run in --run-dir (or the scenario's latest) from its newest checkpoint, or from CHECKPOINT.

    Options that are not given again stay as they were."""
    force: bool = False
    """Throw away the run that is in --run-dir."""
    trust: bool = False
    """With --resume: run whatever code the run names, such as its .py file, where SCENARIO is left out."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a setting: learner.clip=0.1, TEAM.lr=1e-3, env_kwargs.N=5, learner.network.sizes=128,128. Repeatable."""
    evaluate_every: Annotated[int | None, NUMBER] = None
    """Evaluate greedily every so many steps, in environments of its own; decides which checkpoint is the best."""
    evaluate_episodes: Annotated[int, NUMBER] = 20
    """Episodes of each such evaluation."""
    evaluate: bool = True
    """Evaluate at the end, beside a uniformly random baseline."""
    episodes: Annotated[int, NUMBER] = 100
    """Episodes of the evaluation at the end."""
    save_every: Annotated[int | None, NUMBER] = None
    """Environment steps between checkpoints; a tenth of the run unless given."""
    save_minutes: Annotated[float, NUMBER] = 10.0
    """Minutes after which a checkpoint is due in any case."""
    keep: Annotated[int, NUMBER] = 3
    """Newest checkpoints to keep, besides the best."""
    tensorboard: bool = False
    """Write TensorBoard events as well."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""
    given: Annotated[tuple[str, ...], Suppress] = ()
    """Which of these the command line names; --resume keeps the rest as it was."""

    def run(self) -> int:
        """See the class."""
        return train(self)


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with a run's agents and report their unshaped returns."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or one of its checkpoints."""
    episodes: Annotated[int, NUMBER] = 100
    """How many."""
    decentralised: bool = False
    """Every agent in a process of its own, told its own observation and inbox alone; batched play beside it."""
    link: Annotated[str | None, arg(metavar="EFFECT=NUMBER,...")] = None
    """What messages suffer instead: floats, bits, saturation, budget, delay, loss, noise; loss=0.2,delay=1."""
    silence: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="AGENT")] = ()
    """An agent whose messages are never sent. Repeatable."""
    remove: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="AGENT")] = ()
    """An agent in whose seat somebody acts at random among what is legal, and says nothing. Repeatable."""
    swap: Annotated[str | None, arg(metavar="AGENT,AGENT")] = None
    """Two agents who play with each other's policy."""
    shuffle_messages: bool = False
    """Everybody hears what was said in another episode at the same step."""
    message_entries: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="AGENT[<SPEAKER]:FIRST-LAST")] = ()
    """Where an observation shows what others said, where messages are actions; the scenario knows it. Repeatable."""
    sample: bool = False
    """Sample actions instead of taking the most likely ones."""
    seed: Annotated[int | None, NUMBER] = None
    """Of environments and sampling; the run's plus one unless given: not the episodes that chose the checkpoint."""
    env: str | None = None
    """Another environment with the same agents and spaces, such as a twin's original; the run's own unless given."""
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    device: str = "cpu"
    """cpu, cuda, ... or auto."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """See the class."""
        return evaluate(self)


@dataclass(frozen=True)
class Sweep:
    """Evaluate a run's agents under one link after the other: return against loss, delay, bits, noise."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or one of its checkpoints, of agents that talk."""
    link: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="EFFECT=NUMBER,...")] = ()
    """What to vary: loss=0,0.1,0.5 or delay=0:4:1 (first, last, step). Repeatable: a curve each."""
    episodes: Annotated[int, NUMBER] = 100
    """Of each point; the same ones."""
    sample: bool = False
    """Sample actions instead of taking the most likely ones."""
    seed: Annotated[int | None, NUMBER] = None
    """Of environments and chance; the run's plus one unless given."""
    csv: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the table."""
    plot: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the curves with their confidence intervals."""
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    device: str = "cpu"
    """cpu, cuda, ... or auto."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """See the class."""
        return sweep(self)


@dataclass(frozen=True)
class Play:
    """Play with a run's agents, each through its own policy, and write what happens as a GIF."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or one of its checkpoints."""
    gif: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; RUN/episode.gif unless given."""
    episodes: Annotated[int, NUMBER] = 1
    """How many, one after the other in one file."""
    seed: Annotated[int, NUMBER] = 0
    """Of the environment and of everything that is drawn."""
    max_steps: Annotated[int | None, NUMBER] = None
    """Stop each episode after so many steps; the scenario's, else 1000, unless given."""
    sample: bool = False
    """Sample actions instead of taking the most likely ones."""
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """See the class."""
        return play(self)


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of some runs."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Run folders, drawn into one picture."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where to write; RUN/curves.png of the first run unless given."""

    def run(self) -> int:
        """See the class."""
        return plot(self)


@dataclass(frozen=True)
class Tournament:
    """Let the agents of some runs play each other, each on both sides, and rate them."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN RUN [RUN ...]")]
    """Run folders, or checkpoints, of the same game."""
    games: Annotated[int, NUMBER] = 100
    """Games of every pair and seating: a pair plays twice as many."""
    greedy: bool = False
    """Take the most likely actions instead of sampling."""
    seed: Annotated[int, NUMBER] = 0
    """Of all games."""
    plot: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the table of results."""
    checkpoint: Annotated[str, arg(metavar="best|last")] = "last"
    """Which checkpoint of each run folder."""
    trust: bool = False
    """Run whatever code the runs name: their .py files, modules, functions."""
    device: str = "cpu"
    """cpu, cuda, ... or auto."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """See the class."""
        return tournament(self)


@dataclass(frozen=True)
class Exploit:
    """Train a best response against a run's frozen agents, for each side, and say what it gains."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, or one of its checkpoints."""
    steps: Annotated[int | None, NUMBER] = None
    """Environment steps of each best response; as many as the run's scenario trains for unless given."""
    games: Annotated[int, NUMBER] = 1000
    """Games that each return is the mean of."""
    greedy: bool = False
    """The run's agents take their most likely actions instead of sampling."""
    seed: Annotated[int, NUMBER] = 0
    """Of everything random."""
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "last"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    device: str = "cpu"
    """cpu, cuda, ... or auto."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """See the class."""
        return exploit(self)


@dataclass(frozen=True)
class List:
    """Show scenarios, learners and recipes."""

    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """See the class."""
        return show(self)


@dataclass(frozen=True)
class Check:
    """Examine an environment: does it keep its contract, and which learners can train it?"""

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """A Gymnasium or PettingZoo id, a module, module:attribute, or a scenario."""
    steps: Annotated[int, NUMBER] = 2000
    """Steps of random legal play."""
    seed: Annotated[int, NUMBER] = 0
    """Of everything random."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """See the class."""
        return check(self)


Command = Train | Evaluate | Sweep | Play | Plot | Tournament | Exploit | List | Check
COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "play": Play,
    "plot": Plot,
    "tournament": Tournament,
    "exploit": Exploit,
    "list": List,
    "check": Check,
}


# --- training ---------------------------------------------------------------------------------------------------------


def train(asked: Train) -> int:
    """``marl train``."""
    from marl.run import Run, check_folder
    from marl.setup import pick_device

    _check_numbers(asked)
    if asked.resume is not None and asked.force:
        raise UsageError(
            "--resume and --force exclude each other: the one goes on with a run, the other throws it away"
        )
    folder = _run_folder(asked)
    check_folder(folder, resume=asked.resume is not None, force=asked.force)
    stored = _stored(asked, folder)
    if stored is not None:
        asked = _as_before(asked, stored)
    if pick_device(asked.device).type == "cpu" and asked.device == "auto":
        _note("--device auto: there is no GPU here that PyTorch can use, so the CPU computes")
    if asked.tensorboard:
        _need("tensorboard", "tensorboard")
    plan = _plan(asked, stored)
    _set_threads(plan.threads)
    if asked.resume is None:
        system = plan.build()
        try:
            run = Run(
                folder, force=asked.force, keep=asked.keep, save_every=plan.save_every, save_minutes=asked.save_minutes
            )
        except BaseException:
            system.close()
            raise
    else:
        run = Run(folder, resume=True, keep=asked.keep, save_every=plan.save_every, save_minutes=asked.save_minutes)
        try:
            system = _resumed(asked, plan, run)
        except BaseException:
            run.close()
            raise
    with run, system:
        return _train(asked, plan, run, system)


def _check_numbers(asked: Train) -> None:
    from marl.config import check_whole

    for field in dataclasses.fields(asked):
        value = getattr(asked, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            check_whole(f"--{field.name.replace('_', '-')}", value, 0 if field.name in ("seed", "workers") else 1)
    if not asked.save_minutes > 0:
        raise UsageError(f"--save-minutes: expected a number above 0, got {asked.save_minutes:g}")


ONE_COMMAND = ("resume", "force", "trust", "quiet", "json", "given")  # what concerns one command and not the run
OF_A_RUN: dict[str, tuple[type, ...]] = {  # options that have a default and stay as they were asked for
    "device": (str,),
    "evaluate_episodes": (int,),
    "evaluate": (bool,),
    "episodes": (int,),
    "save_every": (int, type(None)),
    "save_minutes": (int, float),
    "keep": (int,),
    "tensorboard": (bool,),
}


def _as_before(asked: Train, stored: Mapping[str, Any]) -> Train:
    """What a run was asked for when it was begun, and what is asked for anew."""
    before = stored.get("asked")
    kept = {} if not isinstance(before, Mapping) else {k: v for k, v in before.items() if k in OF_A_RUN}
    for name, value in kept.items():
        if not isinstance(value, OF_A_RUN[name]) or (isinstance(value, bool) and bool not in OF_A_RUN[name]):
            raise _config_error(f"config.json: asked.{name} makes no sense: {value!r:.80}; was it edited?")
    again = dataclasses.replace(asked, **{name: value for name, value in kept.items() if name not in asked.given})
    _check_numbers(again)
    return again


@dataclass(frozen=True)
class Plan:
    """What a run comes to, once defaults, the scenario, --set and a run to be resumed have had their say."""

    scenario: Scenario
    assignments: tuple[str, ...]
    steps: int
    seed: int
    threads: int | None
    evaluate_every: int | None
    evaluate_episodes: int
    save_every: int
    device: str
    before: Mapping[str, Any]  # what the commands so far have asked for

    def build(self) -> MultiAgentSystem:
        """A fresh system; whatever draws from PyTorch's own stream (a dropout of the user's) is seeded too."""
        import torch

        from marl.system import MultiAgentSystem

        torch.manual_seed(self.seed)
        return MultiAgentSystem(None, self.scenario, seed=self.seed, device=self.device)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it goes on with."""
        from marl.run import described

        scenario = self.scenario
        return {
            "name": scenario.name,
            "env": described(scenario.env),
            "env_kwargs": described(scenario.env_kwargs),
            "max_steps": scenario.max_steps,
            "num_envs": scenario.num_envs,
            "seed": self.seed,
            "learner": described(scenario.agents),
            "shaping": described(scenario.shaping) if scenario.shaping else None,
            "curriculum": None if scenario.curriculum is None else described(scenario.curriculum),
            "league": None if scenario.league is None else described(scenario.league),
            "channel": None if scenario.channel is None else described(scenario.channel),
        }

    def config(self, asked: Train) -> dict[str, Any]:
        """Everything, for config.json."""
        from marl.checkpoint import fingerprint
        from marl.run import described

        words = {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked) if field.name != "given"}
        kept = {k: v for k, v in self.before.items() if k in words and k not in (*ONE_COMMAND, *asked.given)}
        words |= kept | {"set": self.assignments, "scenario": asked.scenario or kept.get("scenario")}
        return {
            "asked": {name: str(value) if isinstance(value, Path) else value for name, value in words.items()},
            "scenario": self.scenario.reference,
            "set": list(self.assignments),
            "settings": self.identity,
            "tunable": {
                "steps": self.steps,
                "workers": self.scenario.workers,
                "device": self.device,
                "threads": self.threads,
                "stop": described(self.scenario.stop),
                "evaluate_every": self.evaluate_every,
                "evaluate_episodes": self.evaluate_episodes,
            },
            "versions": fingerprint(),
        }


def _run_folder(asked: Train) -> Path:
    """Where the run goes: as asked; next to the checkpoint to resume; the latest of the scenario; or a new folder."""
    from marl.logs.files import safe_name

    if asked.run_dir is not None:
        return asked.run_dir.absolute()
    explicit = _explicit(asked)
    if explicit is not None:
        if explicit.parent.name == "checkpoints":
            return explicit.parent.parent
        raise UsageError(f"--resume {explicit}: is in no run folder; say by --run-dir where to go on")
    if asked.scenario is None:
        raise UsageError("SCENARIO is missing: marl train SCENARIO (see marl list)")
    name = safe_name(Path(asked.scenario).stem if asked.scenario.endswith(".py") else asked.scenario.replace(":", "-"))
    if asked.resume is not None:
        seed = r"\d+" if asked.seed is None else str(asked.seed)
        pattern = re.compile(rf"{re.escape(name)}-{seed}-\d{{8}}-\d{{6}}(-\d+)?")
        files = [file for file in Path("runs").glob("*/config.json") if pattern.fullmatch(file.parent.name)]
        found = sorted(files, key=lambda file: file.stat().st_mtime)
        if not found:
            raise UsageError(f"--resume: no run of {asked.scenario} in runs/; say by --run-dir which one to go on with")
        return found[-1].parent.absolute()
    stem = Path("runs") / f"{name}-{asked.seed or 0}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, count = stem, 1
    while folder.exists():
        count += 1
        folder = stem.with_name(f"{stem.name}-{count}")
    return folder.absolute()


def _explicit(asked: Train) -> Path | None:
    """The checkpoint that --resume names."""
    return None if asked.resume in (None, "", "auto") else Path(str(asked.resume)).absolute()


def _stored(asked: Train, folder: Path) -> dict[str, Any] | None:
    """The config.json of the run to go on with."""
    from marl.logs.files import read_json
    from marl.run import CONFIG

    if asked.resume is None:
        return None
    explicit = _explicit(asked)
    sources = [folder] if explicit is None else [folder, explicit.parent.parent]
    for source in sources:
        if (source / CONFIG).exists():
            stored = read_json(source / CONFIG)
            for key, kind in (("scenario", str), ("set", list), ("settings", dict), ("tunable", dict)):
                if not isinstance(stored.get(key), kind):
                    raise _config_error(f"{source / CONFIG}: {key!r} is missing or no {kind.__name__}; was it edited?")
            _check_stored(source / CONFIG, stored)
            return stored
    return None


def _check_stored(file: Path, stored: Mapping[str, Any]) -> None:
    """Raise ConfigError for what no run has written: people may have edited the file, or sent it."""
    if not all(isinstance(text, str) for text in stored["set"]):
        raise _config_error(f"{file}: 'set' must be a list of texts KEY=VALUE; was it edited?")
    said = {**stored["settings"], **stored["tunable"]}
    for key, least in LEAST.items():
        value = said.get(key)
        wrong = type(value) is not int or not least <= value <= MOST.get(key, 2**128)
        if wrong and (key in said and not (value is None and key in ("threads", "evaluate_every"))):
            expected = f"a whole number of at least {least}"
            raise _config_error(f"{file}: {key}: expected {expected}, got {value!r:.80}; was it edited?")
    if not isinstance(said.get("device", "cpu"), str):
        raise _config_error(f"{file}: device: expected a text, got {said['device']!r:.80}; was it edited?")


def _config_error(text: str) -> Exception:
    from marl.types import ConfigError

    return ConfigError(text)


def _plan(asked: Train, stored: Mapping[str, Any] | None) -> Plan:
    """Put together what was asked now, what was asked then, and the scenario."""
    from marl.overrides import override

    then: Mapping[str, Any] = {} if stored is None else {**stored["settings"], **stored["tunable"]}
    reference = asked.scenario if asked.scenario is not None else (stored or {}).get("scenario")
    if reference is None:
        raise UsageError("SCENARIO is missing: marl train SCENARIO (see marl list)")
    assignments = (*(stored or {}).get("set", ()), *asked.set)
    if stored is None:
        scenario = override(_scenario(reference), assignments)
    else:
        named = asked.scenario is not None
        scenario = _chosen(_run_folder(asked), reference, stored["set"], asked.trust, named, asked.set)

    set_now = {text.partition("=")[0].strip() for text in asked.set}

    def pick(name: str, default: Any) -> Any:
        now = getattr(asked, name)
        if now is None and name not in set_now:
            now = then.get(name)
        return now if now is not None else default

    steps = int(pick("steps", scenario.steps))
    scenario = dataclasses.replace(
        scenario,
        steps=steps,
        num_envs=pick("num_envs", scenario.num_envs),
        workers=pick("workers", scenario.workers),
    )
    before = (stored or {}).get("asked")
    plan = Plan(
        scenario,
        assignments,
        steps,
        pick("seed", 0),
        pick("threads", None),
        pick("evaluate_every", None),
        asked.evaluate_episodes,
        asked.save_every or max(1, steps // 10),
        asked.device,
        before if isinstance(before, Mapping) else {},
    )
    if stored is not None:
        for key, value in (("num_envs", scenario.num_envs), ("workers", scenario.workers)):
            if value > MOST[key]:
                raise _config_error(f"--resume: {key}: expected at most {MOST[key]:,}, got {value:,}")
        _refuse_other(stored, plan)
    return plan


def _refuse_other(stored: Mapping[str, Any], plan: Plan) -> None:
    from marl.config import differences

    found = differences(stored["settings"], json.loads(json.dumps(plan.identity)))
    if found:
        more = [f"and {len(found) - 6} more"] if len(found) > 6 else []
        raise _config_error(
            f"--resume: this is not the run that was begun ({'; '.join(found[:6] + more)}); undo that, or use another "
            "--run-dir (only steps, workers, device, threads, stop and the evaluation may change)"
        )


def _scenario(reference: str) -> Scenario:
    """A scenario, or a helpful word about what was given instead."""
    from marl.scenario import find, names
    from marl.types import ConfigError

    with _quiet():
        try:
            return find(reference)
        except ConfigError as error:
            if reference in names() or ":" in reference or reference.endswith(".py") or not _is_env(reference):
                raise
            raise ConfigError(
                f"{reference!r} is an environment, and a scenario is needed: put marl.Scenario(name='mine', "
                f"env={reference!r}, agents=marl.ippo()) into a .py file and train that ({error})"
            ) from None


def _is_env(reference: str) -> bool:
    import gymnasium
    import pettingzoo

    known = (gymnasium.registry, pettingzoo.parallel_registry, pettingzoo.aec_registry)
    return any(reference in registry for registry in known)


def _resumed(asked: Train, plan: Plan, run: Run) -> MultiAgentSystem:
    """The system as it was saved last, or as the named checkpoint has it; a fresh one if nothing was saved yet."""
    from marl import checkpoint
    from marl.types import ConfigError

    explicit = _explicit(asked)
    found: tuple[Path, MultiAgentSystem] | None
    if explicit is not None:
        found = explicit, _load(explicit, plan.device, plan.scenario, asked.trust)
    else:
        found = run.newest(lambda path: _load(path, plan.device, plan.scenario, asked.trust))
    if found is None:
        run.note(f"{run.path}: nothing was saved yet, so the run starts from the beginning")
        return plan.build()
    path, system = found
    manifest = checkpoint.read_manifest(path)
    meta = manifest["meta"]
    if (meta["seed"], meta["num_envs"]) != (plan.seed, plan.scenario.num_envs):
        raise ConfigError(
            f"--resume {path}: was trained with seed {meta['seed']} and {meta['num_envs']} copies, not with seed "
            f"{plan.seed} and {plan.scenario.num_envs}"
        )
    system.workers = plan.scenario.workers
    different = checkpoint.differences(manifest)
    if different:
        run.note(f"not bit-exact: this process differs from the one that saved ({', '.join(different)})")
    run.note(f"resuming {run.path} from step {system.steps:,} ({path.name})")
    return system


def _load(path: Path, device: str, env: Any, trust: bool) -> MultiAgentSystem:
    """A system from a checkpoint; its learners come from there too unless they hold code of the user's."""
    from marl.system import MultiAgentSystem

    return MultiAgentSystem.load(path, env=env, device=device, trust=trust)


def _train(asked: Train, plan: Plan, run: Run, system: MultiAgentSystem) -> int:
    from marl.compiled import decisions
    from marl.logs.progress import Progress
    from marl.types import ResourceError

    teams = [team.name for team in system.spec.teams]
    began_at = system.steps
    run.begin(plan.config(asked) | {"compiled": decisions(system.learners)}, system.steps)
    if plan.steps > began_at and not asked.quiet:
        _note(f"marl train {plan.scenario.name}: {', '.join(system.spec.agents)}; writing to {run.path}")
        progress = Progress(plan.steps, teams, system.steps)
        run.note = progress.note
        run.sinks.append(progress)
    if asked.tensorboard:
        from marl.logs.tensorboard import TensorBoard

        run.sinks.append(TensorBoard(run.path / "tensorboard", began_at or None, lambda text: run.note(text)))
    stop = plan.scenario.stop
    finished = began_at >= plan.steps or (stop is not None and began_at > 0 and stop(system.history["episode_rewards"]))
    summary: dict[str, Any] = {"scenario": plan.scenario.reference, "seed": plan.seed, "run": str(run.path)}
    try:
        with run.signals():
            if not finished:
                system.train(
                    steps=plan.steps - began_at,
                    stop=stop,
                    evaluate_every=plan.evaluate_every,
                    evaluate_episodes=plan.evaluate_episodes,
                    log_every=max(1, plan.steps // 100),
                    watcher=run,
                )
                run.end(system)
    except BaseException as error:
        if run.cut_short:
            return _interrupted(asked, plan, run, system, summary, "before the next step was taken")
        if isinstance(error, ResourceError) and system.steps > began_at:
            # Workers that died for good take their episodes with them, and nothing else.
            with contextlib.suppress(Exception):
                run.save(system)
        ended = {"steps": system.steps, "episodes": system.episodes, "faults": system.faults}
        run.summarise(summary | _failure(error) | ended)
        if system.faults:
            _note(_fault_table(system.faults))
        raise
    finally:
        for sink in run.sinks:
            sink.close()
        run.note = _note
    summary["faults"] = system.faults
    if system.faults:
        _note(_fault_table(system.faults))
    if run.signal is not None:
        return _interrupted(asked, plan, run, system, summary, f"at step {system.steps:,} and saved")
    summary |= {"steps": system.steps, "episodes": system.episodes, "exit_code": 0, "status": "finished"}
    if finished:
        _note(f"{run.path}: the run is finished already, at step {began_at:,} of {plan.steps:,}")
    if asked.evaluate:
        run.summarise(summary | {"status": "evaluating"})  # whatever ends us now, the run is not finished
        try:
            with run.signals():
                summary |= _final(asked, plan, run, system)
        except BaseException as error:
            if run.cut_short:
                return _interrupted(
                    asked, plan, run, system, summary, "in the final evaluation, with all training saved"
                )
            run.summarise(summary | _failure(error))
            raise
        run.end(system)  # if somebody removed the folder meanwhile; its environments, closed, would then begin anew
    run.summarise(summary)
    if asked.json:
        _print_json(summary)
    else:
        print(f"run folder: {run.path} (config.json, metrics.jsonl, checkpoints/last, checkpoints/best, summary.json)")
        trust = " --trust" if _named_again(plan) else ""  # a run folder chooses no code to run
        print(f"next: marl evaluate {run.path}{trust}    marl play {run.path}{trust}    marl plot {run.path}")
    return 0


def _named_again(plan: Plan) -> str:
    """The scenario where only the user may name it, and a space."""
    reference = plan.scenario.reference
    return "" if _is_shipped(reference) else f"{shlex.quote(reference)} "


def _failure(error: BaseException) -> dict[str, Any]:
    """What summary.json says of an error that ended a run."""
    return {"status": "failed", "error": " ".join(str(error).split()), "exit_code": _status(error)}


def _interrupted(
    asked: Train, plan: Plan, run: Run, system: MultiAgentSystem, summary: dict[str, Any], where: str
) -> int:
    """Say and write that a signal ended the run; returns the exit status."""
    status = "interrupted" if run.exit_code == 130 else "preempted"
    summary |= {"steps": system.steps, "episodes": system.episodes, "exit_code": run.exit_code, "status": status}
    summary.setdefault("faults", system.faults)
    run.summarise(summary)
    _note(f"{status} {where}; to go on: marl train {_named_again(plan)}--run-dir {run.path} --resume")
    if asked.json:
        _print_json(summary)
    return run.exit_code


def _fault_table(faults: Mapping[str, int]) -> str:
    """What went wrong and was survived."""
    lines = ["faults of the environment that training survived (the first of each was told as it came):"]
    return "\n".join([*lines, *(f"  {kind.replace('_', ' '):<24} {count:>9,}" for kind, count in faults.items())])


def _final(asked: Train, plan: Plan, run: Run, system: MultiAgentSystem) -> dict[str, Any]:
    """The trained agents beside uniformly random ones, in the same environments with the same seeds."""
    from marl.learners import Random
    from marl.system import MultiAgentSystem

    seed = plan.seed + 1
    system.close()  # there may be room for one environment only
    report = system.evaluate(asked.episodes, seed=seed)
    agents: Any = plan.scenario.agents
    agents = {pattern: Random() for pattern in agents} if isinstance(agents, Mapping) else Random()
    scenario = dataclasses.replace(plan.scenario, num_envs=1, workers=0, shaping=(), league=None)
    with MultiAgentSystem(agents, scenario, seed=plan.seed) as random:
        random.close()  # likewise
        baseline = random.evaluate(asked.episodes, seed=seed)
    if not asked.json:
        print(f"trained for {system.steps:,} steps in {run.seconds:,.0f} s; greedy, {asked.episodes} episodes:")
        print(_table(report, baseline))
        for line in report.troubles:
            print(f"  {line}")
        if plan.scenario.expect:
            print(f"to be expected after the scenario's full training: {plan.scenario.expect}")
    return {"evaluation": report.to_dict(), "random": baseline.to_dict()}


def _table(report: Report, baseline: Report) -> str:
    """Two reports side by side."""
    (low, high), random = report.confidence_interval, baseline.mean_return
    lines = [
        f"  return, sum of agents    {report.mean_return:9.2f}  (95 % CI {low:.2f} to {high:.2f})   random {random:.2f}"
    ]
    if len(report.teams) > 1:
        for name, team in report.teams.items():
            low, high = team.confidence_interval
            random = baseline.teams[name].mean_return
            lines.append(
                f"  team {name:<19} {team.mean_return:10.2f}  (95 % CI {low:.2f} to {high:.2f})   random {random:.2f}"
            )
    if len(report.returns_per_agent) > 1:
        for agent, mean in report.returns_per_agent.items():
            lines.append(f"    {agent:<22} {mean:10.2f}   random {baseline.returns_per_agent[agent]:.2f}")
    return "\n".join(lines)


# --- looking at runs --------------------------------------------------------------------------------------------------


def _open(folder: Path, which: str, device: str, trust: bool, env: Any = None) -> tuple[Path, MultiAgentSystem]:
    """A run's agents. ``env``: what the user names as their environment, in place of what the run says."""
    from marl.run import candidates, first_valid
    from marl.types import ConfigError

    paths = candidates(folder, which)
    source = env if env is not None else _scenario_of(paths[0], trust)
    explicit = len(paths) == 1 and (which not in ("best", "last") or paths[0] == folder)
    with _quiet():
        if explicit:
            return paths[0], _load(paths[0], device, source, trust)
        found = first_valid(paths, lambda path: _load(path, device, source, trust), _note)
    if found is None:
        raise ConfigError(f"run {folder} has no checkpoint yet")
    return found


def _config_of(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """The config.json of the run that a checkpoint lies in; None where there is no such run."""
    from marl.logs.files import read_json
    from marl.run import CONFIG

    file = path.absolute().parent.parent / CONFIG
    if not os.path.lexists(file):
        return file, None
    config = read_json(file)
    if not isinstance(config.get("scenario"), str) or not isinstance(config.get("set"), list):
        raise _config_error(f"{file}: 'scenario' or 'set' is missing; was it edited?")
    return file, config


def _scenario_of(path: Path, trust: bool) -> Scenario | None:
    """The scenario of the run that a checkpoint lies in, with its --set; None where there is no such run."""
    file, config = _config_of(path)
    if config is None:
        return None
    return _chosen(file, config["scenario"], config["set"], trust)


def _chosen(
    file: Path, reference: str, stored: Sequence[Any], trust: bool, named: bool = False, own: Sequence[str] = ()
) -> Scenario:
    """A scenario with --set as a run's config.json has them, then the user's ``own``.

    ``named``: the user has named the scenario again.

    Raises:
        CheckpointError: if that would run code of whoever wrote the file.
    """
    from marl import received
    from marl.overrides import override

    if not all(isinstance(item, str) and len(item) <= LONGEST_SETTING for item in stored):
        raise _config_error(f"{file}: 'set': expected texts of at most {LONGEST_SETTING:,} characters")
    if not trust and not named:
        received.refuse_scenario(str(file), reference)
    plain = _scenario(reference)
    scenario = override(plain, [*stored, *own])
    if not trust:
        received.refuse_deeds(str(file), received.deeds_of(scenario), received.deeds_of(override(plain, own)))
    return scenario


def _same(named: str, reference: object) -> bool:
    """Whether what the user names is what a run names."""
    if named.endswith(".py") and isinstance(reference, str) and reference.endswith(".py"):
        return os.path.abspath(named) == os.path.abspath(reference)
    return named == reference


def _own_env(asked: Evaluate) -> Any:
    """What --env makes of the run's own environment: it is named again, or stays out where it is not trusted."""
    from marl import checkpoint, received
    from marl.run import candidates
    from marl.training.saved import NOWHERE
    from marl.types import CheckpointError

    if asked.env is None:
        return None
    path = candidates(asked.run_folder, asked.checkpoint)[0]
    file, config = _config_of(path)
    if config is not None and _same(asked.env, config["scenario"]):
        return _chosen(file, asked.env, config["set"], asked.trust, named=True)
    try:
        reference = checkpoint.read_manifest(path)["meta"].get("env") if config is None else config["scenario"]
        if _same(asked.env, reference):
            return asked.env
        if not asked.trust and isinstance(reference, str):
            (received.refuse_env if config is None else received.refuse_scenario)(str(file), reference)
    except CheckpointError:
        return NOWHERE
    return None


def evaluate(asked: Evaluate) -> int:
    """``marl evaluate``."""
    from marl.config import check_whole
    from marl.training.saved import NOWHERE

    check_whole("--episodes", asked.episodes, 1)
    if asked.seed is not None:
        check_whole("--seed", asked.seed, 0)
    swap = None if asked.swap is None else tuple(name.strip() for name in asked.swap.split(","))
    if swap is not None and len(swap) != 2:
        raise UsageError(f"--swap: expected two agents, AGENT,AGENT, got {asked.swap!r}")
    own = _own_env(asked)
    path, system = _open(asked.run_folder, asked.checkpoint, asked.device, asked.trust, own)
    seed = asked.seed if asked.seed is not None else system.seed + 1
    with system, _quiet():
        env = asked.env if own is None or own is NOWHERE else None
        report = system.evaluate(
            asked.episodes,
            decentralised="processes" if asked.decentralised else False,
            greedy=not asked.sample,
            seed=seed,
            env=env,
            link=asked.link,
            silence=asked.silence,
            remove=asked.remove,
            swap=None if swap is None else (swap[0], swap[1]),
            shuffle_messages=asked.shuffle_messages,
            message_entries=asked.message_entries or None,
        )
    for line in report.troubles:
        _note(line)
    if asked.json:
        _print_json({"checkpoint": str(path), "steps": system.steps, "seed": seed, **report.to_dict()})
    else:
        how = ", every agent in a process of its own" if asked.decentralised else ""
        print(f"checkpoint {path} (step {system.steps:,}){how}")
        print(report)
    return 0


def sweep(asked: Sweep) -> int:
    """``marl sweep``."""
    from marl.config import check_whole
    from marl.studies.sweep import plot as draw
    from marl.studies.sweep import sweep as evaluate_all
    from marl.studies.sweep import write_csv

    check_whole("--episodes", asked.episodes, 1)
    if asked.seed is not None:
        check_whole("--seed", asked.seed, 0)
    if not asked.link:
        raise UsageError("marl sweep: --link is missing: name what to vary, such as --link loss=0,0.1,0.5")
    if asked.plot is not None:
        _need("matplotlib", "plot")
    path, system = _open(asked.run_folder, asked.checkpoint, asked.device, asked.trust)
    seed = asked.seed if asked.seed is not None else system.seed + 1
    with system, _quiet():
        result = evaluate_all(system, asked.link, asked.episodes, seed, greedy=not asked.sample)
    for option, out, write in (("--csv", asked.csv, write_csv), ("--plot", asked.plot, draw)):
        if out is not None:
            try:
                write(result, out)
            except OSError as error:
                raise _config_error(f"{option} {out}: cannot be written ({error.strerror or error})") from None
            except ValueError as error:
                raise _config_error(f"{option} {out}: {' '.join(str(error).split())}") from None
    if asked.json:
        _print_json({"checkpoint": str(path), "steps": system.steps, "seed": seed, **result.to_dict()})
        return 0
    print(f"checkpoint {path} (step {system.steps:,})")
    print(result)
    for out in (asked.csv, asked.plot):
        if out is not None:
            print(f"wrote {out}")
    return 0


def play(asked: Play) -> int:
    """``marl play``."""
    from marl.config import check_whole
    from marl.studies.play import play as play_episodes
    from marl.studies.play import write_gif

    check_whole("--episodes", asked.episodes, 1)
    check_whole("--seed", asked.seed, 0)
    _need("imageio", "play")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures, no windows
    path, system = _open(asked.run_folder, asked.checkpoint, "cpu", asked.trust)
    default = system.scenario.max_steps if system.scenario is not None else None
    limit = asked.max_steps or default or 1000
    out = asked.gif
    if out is None:
        folder = asked.run_folder
        out = (folder if (folder / "checkpoints").is_dir() else Path(".")) / "episode.gif"
    if out.suffix.lower() != ".gif":
        raise UsageError(f"--gif {out}: expected a file name that ends in .gif")
    with system, _quiet():
        played, rate = play_episodes(system, asked.episodes, asked.seed, limit, asked.sample)
        try:
            write_gif(played, rate, out)
        except OSError as error:
            raise _config_error(f"--gif {out}: cannot be written ({error.strerror or error})") from None
    said = [{"length": one.length, "returns": one.returns} for one in played]
    if asked.json:
        _print_json({"checkpoint": str(path), "gif": str(out), "episodes": said})
        return 0
    for number, one in enumerate(played):
        agents = ", ".join(f"{agent} {value:.2f}" for agent, value in one.returns.items())
        print(f"episode {number}: {one.length} steps, return {sum(one.returns.values()):.2f} ({agents})")
    print(f"wrote {out}")
    return 0


def plot(asked: Plot) -> int:
    """``marl plot``."""
    from marl.logs.curves import plot as draw

    for run in asked.runs:
        if not (run / "metrics.jsonl").exists():
            raise _config_error(f"run {run}: there is no metrics.jsonl; expected a folder that marl train wrote")
    out = asked.out if asked.out is not None else asked.runs[0] / "curves.png"
    try:
        draw(asked.runs, out)
    except OSError as error:
        raise _config_error(f"--out {out}: cannot be written ({error.strerror or error})") from None
    except ValueError as error:
        raise _config_error(f"--out {out}: {' '.join(str(error).split())}") from None
    print(f"wrote {out}")
    return 0


def tournament(asked: Tournament) -> int:
    """``marl tournament``."""
    from marl.config import check_whole
    from marl.studies.tournament import plot as draw
    from marl.studies.tournament import tournament as play_all

    check_whole("--games", asked.games, 1)
    check_whole("--seed", asked.seed, 0)
    _need("scipy", "league")
    if asked.plot is not None:
        _need("matplotlib", "plot")
    if len(asked.runs) < 2:
        raise UsageError("marl tournament: RUN is missing: marl tournament RUN RUN (at least two)")
    with contextlib.ExitStack() as stack:
        systems = {}
        for place, folder in enumerate(asked.runs):
            _, system = _open(folder, asked.checkpoint, asked.device, asked.trust)
            name = str(folder)
            systems[name if name not in systems else f"{name} ({place + 1})"] = stack.enter_context(system)
        with _quiet():
            result = play_all(systems, asked.games, greedy=asked.greedy, seed=asked.seed)
    if asked.plot is not None:
        try:
            draw(result, asked.plot)
        except OSError as error:
            raise _config_error(f"--plot {asked.plot}: cannot be written ({error.strerror or error})") from None
        except ValueError as error:
            raise _config_error(f"--plot {asked.plot}: {' '.join(str(error).split())}") from None
    if asked.json:
        _print_json(result.to_dict() | {"plot": None if asked.plot is None else str(asked.plot)})
        return 0
    print(result)
    if asked.plot is not None:
        print(f"wrote {asked.plot}")
    return 0


def exploit(asked: Exploit) -> int:
    """``marl exploit``."""
    from marl.config import check_whole
    from marl.studies.exploit import exploit as respond

    check_whole("--games", asked.games, 1)
    check_whole("--seed", asked.seed, 0)
    if asked.steps is not None:
        check_whole("--steps", asked.steps, 1)
    path, system = _open(asked.run_folder, asked.checkpoint, asked.device, asked.trust)
    with system, _quiet():
        steps = asked.steps or (system.scenario.steps if system.scenario is not None else system.steps)
        result = respond(system, steps, asked.games, greedy=asked.greedy, seed=asked.seed)
    if asked.json:
        _print_json({"checkpoint": str(path), "seed": asked.seed, **result.to_dict()})
        return 0
    print(f"checkpoint {path} (step {system.steps:,})")
    print(result)
    return 0


def show(asked: List) -> int:
    """``marl list``."""
    import inspect

    from marl import algorithms
    from marl.learners import LEARNERS, Random
    from marl.scenario import find, names
    from marl.types import MarlError

    scenarios: dict[str, dict[str, Any]] = {}
    for name in names():
        try:
            with _quiet():
                found = find(name)
        except (MarlError, ImportError, AttributeError) as error:
            scenarios[name] = {
                "about": f"cannot be used: {' '.join(str(error).split())}",
                "expect": "",
                "steps": None,
                "extra": None,
            }
            continue
        scenarios[name] = {"about": found.about, "expect": found.expect, "steps": found.steps, "extra": found.extra}
    learners = {cls.__name__: _first_line(cls) for cls in (*LEARNERS, Random)}
    recipes = {
        name: _first_line(recipe)
        for name, recipe in vars(algorithms).items()
        if inspect.isfunction(recipe) and recipe.__module__ == algorithms.__name__ and not name.startswith("_")
    }
    if asked.json:
        _print_json({"scenarios": scenarios, "learners": learners, "recipes": recipes})
        return 0
    width = max((len(name) for name in [*scenarios, *learners, *recipes]), default=0)
    print("scenarios (marl train NAME)")
    for name, facts in scenarios.items():
        extra = f"; needs pip install 'marl-system[{facts['extra']}]'" if facts["extra"] else ""
        expect = f"\n  {'':{width}}  expect {facts['expect']}" if facts["expect"] else ""
        print(f"  {name:{width}}  {facts['about']}{extra}{expect}")
    for title, table in (("learners", learners), ("recipes", recipes)):
        print(f"\n{title}")
        for name, about in table.items():
            print(f"  {name:{width}}  {about}")
    return 0


def _first_line(thing: object) -> str:
    lines = (getattr(thing, "__doc__", None) or "").strip().splitlines()
    return lines[0] if lines else ""


def check(asked: Check) -> int:
    """``marl check``."""
    from marl import conformance
    from marl.config import check_whole
    from marl.scenario import names
    from marl.types import ConfigError

    check_whole("--steps", asked.steps, 1)
    check_whole("--seed", asked.seed, 0)
    env: Any = asked.env
    if asked.env in names() or asked.env.endswith(".py") or ":" in asked.env:
        from marl.adapters.resolve import resolve

        try:
            scenario = _scenario(asked.env)
        except ConfigError:
            if asked.env in names() or asked.env.endswith(".py"):
                raise
        else:
            env = resolve(scenario.env, scenario.env_kwargs)[0] if scenario.env_kwargs else scenario.env
    with _quiet():
        report = conformance.check(env, steps=asked.steps, seed=asked.seed)
    if asked.json:
        _print_json(report.to_dict() | {"env": asked.env})
        return 0 if report.ok else 3
    print(f"{asked.env}: {'keeps its contract' if report.ok else 'breaks its contract'}")
    for finding in report.findings:
        print(f"  {finding.level:<8} {finding.rule}: {' '.join(finding.text.split())}")
    for name, value in report.facts.items():
        print(f"  {name.replace('_', ' ')}: {_fact(value)}")
    if report.learners:
        print("  learners: " + "; ".join(f"{name} {verdict}" for name, verdict in report.learners.items()))
    return 0 if report.ok else 3


def _fact(value: Any) -> str:
    """A fact in one line."""
    if value is None or (isinstance(value, list | tuple | Mapping) and not value):
        return "none"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        distinct = {_fact(item) for item in value.values()}
        if len(distinct) == 1 and len(value) > 1:
            return f"{distinct.pop()} ({len(value)} agents)"
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_fact(item) for item in value)
    return str(value)


# --- small things -----------------------------------------------------------------------------------------------------


def _need(module: str, extra: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise _config_error(f"{module} is not installed: pip install 'marl-system[{extra}]'")


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        from marl import parallel

        parallel.set_threads(threads)


def _note(text: str) -> None:
    """Say something on stderr, if it can be said there: no training ends because its log file's disk is full."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout; NaN and infinity become null."""
    from marl.logs.metrics import finite

    _answer(json.dumps(finite(dict(data)), allow_nan=False) + "\n")


def _answer_plainly(text: str) -> None:
    print(text, end="", flush=True)


_answer: Callable[[str], None] = _answer_plainly


@contextlib.contextmanager
def _only_answers(last: bool) -> Iterator[None]:
    """Nothing but our answer reaches stdout: what Python, C libraries and child processes print goes to stderr.

    last: this process ends with the command; then stdout stays closed to what others print as it ends.
    """
    global _answer
    before, stdout, saved = _answer, sys.stdout, -1
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no stdout; one in memory; one that was closed
        stdout.flush()
        if os.path.sameopenfile(stdout.fileno(), 1):
            saved = os.dup(1)
            os.dup2(2, 1)

    def answer(text: str) -> None:
        if saved < 0:
            print(text, end="", file=stdout, flush=True)
            return
        data = text.encode()
        while data:
            data = data[os.write(saved, data) :]

    _answer, sys.stdout = answer, sys.stderr
    try:
        yield
    finally:
        if not last:
            _answer, sys.stdout = before, stdout
            if saved >= 0:
                with contextlib.suppress(AttributeError, OSError):  # what C libraries have not written yet
                    ctypes.CDLL(None).fflush(None)
                os.dup2(saved, 1)
                os.close(saved)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What environments and their libraries print goes to stderr, not into our output."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


# --- the command line -------------------------------------------------------------------------------------------------


def _import_tyro() -> None:
    """Import what the annotations of the commands name, once Ctrl-C can be caught: it is half of the time to start."""
    import tyro
    from tyro.conf import Positional, Suppress, UseAppendAction, arg

    names = {"tyro": tyro, "Positional": Positional, "Suppress": Suppress, "UseAppendAction": UseAppendAction}
    globals().update(names, arg=arg, NUMBER=arg(metavar="N"))


def parse(arguments: Sequence[str]) -> Command:
    """What was asked. Raises UsageError with one line; SystemExit(0) after printing help."""
    _import_tyro()
    words = list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        _help()
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"marl-system {version('marl-system')}")
        raise SystemExit(0)
    command = COMMANDS.get(words[0])
    if command is None:
        raise UsageError(_unknown("command", words[0], list(COMMANDS)))
    name, words, given = words[0], words[1:], set[str]()
    if not {"-h", "--help"} & set(words):
        words = _spelled(name, command, words, given)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            about = f"{(command.__doc__ or '').strip()}\n\n{EPILOG}"
            made: Command = tyro.cli(command, args=words, prog=f"marl {name}", description=about)
            return dataclasses.replace(made, given=tuple(sorted(given))) if isinstance(made, Train) else made
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UsageError(f"marl {name}: {_flat(said.getvalue())}") from None


def _help() -> None:
    about = (__doc__ or "").strip().splitlines()[0]
    print(f"{about}\n\nusage: marl COMMAND [options]\n")
    for name, command in COMMANDS.items():
        print(f"  {name:<10} {_first_line(command)}")
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
            if given > len(positional) and name not in ("plot", "tournament"):
                raise UsageError(f"marl {name}: unexpected argument {word!r}")
            spelled.append(word)
            continue
        option, equals, value = word.partition("=")
        option = option.replace("_", "-")
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
    needed = [key for key in positional if fields[key].default is dataclasses.MISSING]
    if given < len(needed):
        what = {"run_folder": "RUN", "runs": "RUN", "env": "ENV"}[needed[given]]
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    interrupts = _Interrupts(preemptible=words[:1] == ["train"])
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
        _note(f"ended although threads of the environment or of another library still ran ({names})")
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
    named = [name for key in ("scenario", "env") if (name := getattr(asked, key, None)) is not None]
    if getattr(asked, "trust", False) or not all(map(_is_installed, named)):
        _find_modules_here()
    return asked.run()


def _is_installed(name: str) -> bool:
    from marl.adapters.resolve import comes_with_library

    return _is_shipped(name) or comes_with_library(name)


def _is_shipped(name: str) -> bool:
    from marl.scenario import names

    return name in names()


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


class _Interrupts:
    """Ctrl-C and what schedulers send, for a training before and after the training itself (there the run listens).

    Whatever comes, processes end and temporary folders go. It remembers the signal: libraries may turn it into an error
    of their own while they are imported.
    """

    def __init__(self, preemptible: bool) -> None:
        self.code = 0
        self._preemptible = preemptible
        names = ("SIGINT", "SIGTERM", "SIGUSR1") if preemptible else ("SIGINT", "SIGTERM")
        self._numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self._before: dict[int, Any] = {}
        self._hook = sys.unraisablehook
        self._again: threading.Timer | None = None
        self._leaving = False

    def __enter__(self) -> _Interrupts:
        with contextlib.suppress(ValueError):  # not in the main thread
            self._before = {number: signal.signal(number, self._press) for number in self._numbers}
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unheard
        return self

    def _press(self, number: int, frame: types.FrameType | None) -> None:
        if self._leaving:
            return
        self.code = 75 if self._preemptible and number != signal.SIGINT else 128 + number
        raise KeyboardInterrupt

    def _unheard(self, unraisable: sys.UnraisableHookArgs) -> None:
        """A KeyboardInterrupt inside a finaliser or a callback of C code is dropped by Python: raise it once more."""
        if not (self.code and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            self._hook(unraisable)
            return
        number = signal.SIGTERM if self.code in (75, 128 + signal.SIGTERM) else signal.SIGINT
        self._again = threading.Timer(0.05, os.kill, (os.getpid(), number))
        self._again.daemon = True
        self._again.start()

    def __exit__(self, *exception: object) -> None:
        again, self._leaving = self._again, True
        if again is not None:
            again.cancel()
            again.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            sys.unraisablehook = self._hook


def _guarded(words: Sequence[str], debug: bool, interrupts: _Interrupts, last: bool) -> int:
    """Run a command; every error becomes one line and an exit status."""
    try:
        try:
            command = parse(words)
        except SystemExit:  # after help
            return 0
        with _only_answers(last) if getattr(command, "json", False) else contextlib.nullcontext():
            code = _run(command)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
    except UsageError as error:
        return _say(error, 2)
    except BrokenPipeError:
        if sys.stdout is not sys.stderr:
            with contextlib.suppress(OSError):  # whoever read our output has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        if interrupts.code or isinstance(error, KeyboardInterrupt):
            _note("preempted" if interrupts.code == 75 else "interrupted")
            return interrupts.code or 130
        if debug:
            import traceback

            traceback.print_exc()
        if isinstance(error, SystemExit):  # nothing of ours ends a command so
            error = RuntimeError(f"the environment or another library ended the program: sys.exit({error.code!r})")
        return _say(error, _status(error), debug)


def _status(error: BaseException) -> int:
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


def _say(error: BaseException, code: int, debug: bool = False) -> int:
    """One line on stderr."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= LONGEST_LINE or debug else f"{text[:LONGEST_LINE]}..."
    if _lost_gpu(error):
        text = f"the GPU was lost ({text}); checkpoints are intact: go on with --resume"
    elif code == 6 and not hasattr(error, "exit_code"):
        text = f"resources ran out: {text}; lower num_envs, the rollout or the network"
    elif code == 1:
        text = f"{type(error).__name__}: {text}" + ("" if debug else " (unexpected; --debug shows where)")
    _note(f"marl: error: {text}")
    return code


if __name__ == "__main__":
    sys.exit(main())

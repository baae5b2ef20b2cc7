"""``marl evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from marl.cli.bundles import evaluate_bundle, is_bundle, world_of
from marl.cli.options import NUMBER
from marl.cli.output import note, print_json, quiet
from marl.cli.runs import config_of, open_run, same_reference
from marl.cli.status import UsageError


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with a run's agents and report their unshaped returns."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder, one of its checkpoints, or a bundle of marl export."""
    episodes: Annotated[int, NUMBER] = 100
    """How many."""
    decentralized: bool = False
    """Every agent in a process of its own, told its own observation and inbox alone; batched play beside it."""
    link: Annotated[str | None, arg(metavar="EFFECT=NUMBER,...")] = None
    """What messages suffer instead: floats, bits, saturation, budget, delay, loss, noise; loss=0.2,delay=1."""
    silence: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="AGENT")] = ()
    """An agent whose messages are never sent. Repeatable."""
    remove: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="AGENT")] = ()
    """An agent that takes random legal actions instead and sends nothing. Repeatable."""
    swap: Annotated[str | None, arg(metavar="AGENT,AGENT")] = None
    """Two agents who play with each other's policy."""
    shuffle_messages: bool = False
    """Every agent hears the messages of another episode at the same step."""
    message_entries: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="AGENT[<SPEAKER]:FIRST-LAST")] = ()
    """Where an observation shows what others said, where messages are actions; the scenario knows it. Repeatable."""
    sample: bool = False
    """Sample actions instead of taking the most likely ones."""
    seed: Annotated[int | None, NUMBER] = None
    """Of environments and sampling; the run's plus one unless given: not the episodes that chose the checkpoint."""
    env: Annotated[str | None, arg(metavar="ENV")] = None
    """The run's environment, named again; or another one with the same agents and spaces, such as the original of a
    compiled world."""
    checkpoint: Annotated[str, arg(metavar="best|last|PATH")] = "best"
    """Which checkpoint."""
    trust: bool = False
    """Run whatever code the run names: its .py file, module, functions."""
    device: str = "cpu"
    """cpu, cuda, ... or auto."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return evaluate(self)


def _own_env(asked: Evaluate) -> Any:
    """What --env makes of the run's own environment: named again, left as it is, or out where it is not trusted."""
    from marl import checkpoint, received
    from marl.run import candidates
    from marl.training.saved import NOWHERE
    from marl.types import CheckpointError

    if asked.env is None:
        return None
    path = candidates(asked.run_folder, asked.checkpoint)[0]
    file, config = config_of(path)
    try:
        named = None if config is None else config["scenario"]
        reference = checkpoint.read_manifest(path)["meta"].get("env") if named is None else named
        if reference is None or same_reference(asked.env, reference):  # None: only its author can name it
            return asked.env
        if not asked.trust and isinstance(reference, str):
            (received.refuse_env if named is None else received.refuse_scenario)(str(file), reference)
    except CheckpointError:
        return NOWHERE
    return None


def _evaluate_bundle(asked: Evaluate, swap: tuple[str, ...] | None) -> int:
    """``marl evaluate`` of a bundle."""
    from marl.deploy.playing import open_bundle
    from marl.playing import Experiment
    from marl.playing.evaluate import Decentralized, EvaluationPlan

    team = open_bundle(asked.run_folder)
    experiment = Experiment.of(
        None,
        link=asked.link,
        silence=asked.silence,
        remove=asked.remove,
        swap=() if swap is None else swap,
        shuffle=asked.shuffle_messages,
        entries=asked.message_entries or None,
    )
    decentralized: Decentralized = "processes" if asked.decentralized else False
    seed = asked.seed if asked.seed is not None else 1
    plan = EvaluationPlan(asked.episodes, seed, decentralized, not asked.sample, experiment=experiment).checked()
    with world_of(team, asked.env, asked.trust) as system:
        report = evaluate_bundle(team, system, "numpy", plan)
    for line in report.troubles:
        note(line)
    if asked.json:
        print_json({"bundle": str(asked.run_folder), "seed": seed, **report.to_dict()})
    else:
        how = ", every agent in a process of its own, without torch" if asked.decentralized else ""
        print(f"bundle {asked.run_folder}{how}")
        print(report)
    return 0


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
    if is_bundle(asked.run_folder):
        return _evaluate_bundle(asked, swap)
    own = _own_env(asked)
    path, system = open_run(asked.run_folder, asked.checkpoint, asked.device, asked.trust, own)
    seed = asked.seed if asked.seed is not None else system.seed + 1
    with system, quiet():
        env = asked.env if own is None or own is NOWHERE else None
        report = system.evaluate(
            asked.episodes,
            decentralized="processes" if asked.decentralized else False,
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
        note(line)
    if asked.json:
        print_json({"checkpoint": str(path), "steps": system.steps, "seed": seed, **report.to_dict()})
    else:
        how = ", every agent in a process of its own" if asked.decentralized else ""
        print(f"checkpoint {path} (step {system.steps:,}){how}")
        print(report)
    return 0

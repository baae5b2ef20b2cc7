"""``marl train``."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.callbacks import Callback
    from marl.logs import Logger
    from marl.playing.report import Report, TeamReport
    from marl.ranks import Ranks
    from marl.run import Run
    from marl.system import MultiAgentSystem
from marl.cli.asked import Asked
from marl.cli.continued import began_in_python, go_on
from marl.cli.follow import follow
from marl.cli.output import note, print_json
from marl.cli.plan import (
    Plan,
    as_before,
    check_numbers,
    explicit_checkpoint,
    folder_of,
    loggers_of,
    make_plan,
    stored_config,
)
from marl.cli.runs import is_known, load_system
from marl.cli.status import UsageError

# Who looks on beside the callbacks of a run, and is no part of what the run is.
LOOKING_ON: ContextVar[tuple[Callback, ...]] = ContextVar("looking_on", default=())


@dataclass(frozen=True)
class Train(Asked):
    """Train the agents of a scenario or of any environment, and write a run folder."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return train(self)


def train(asked: Asked) -> int:
    """``marl train``; under torchrun every rank comes here."""
    from marl import ranks

    check_numbers(asked)
    together = ranks.join()
    if together is None:
        return _alone(asked)
    try:
        status = _alone(asked, together) if together.first else follow(asked, together)
    except UsageError:
        if together.first:
            raise
        return 2  # rank 0 says it
    ranks.leave()  # after an error nobody waits for the others
    return status


def _alone(asked: Asked, ranks: Ranks | None = None) -> int:
    """Train in this process, which owns the run folder; ``ranks``: those that train with it."""
    from marl.run import Run, check_folder
    from marl.setup import pick_device

    if asked.resume is not None and asked.force:
        raise UsageError(
            "--resume and --force exclude each other: the one goes on with a run, the other throws it away"
        )
    folder = folder_of(asked)
    check_folder(folder, resume=asked.resume is not None, force=asked.force)
    if asked.resume is not None and began_in_python(folder):
        if ranks is not None:
            raise UsageError("torchrun: a run that began in Python goes on in Python, with train(resume=True)")
        return go_on(asked, folder)
    stored = stored_config(asked, folder)
    if stored is not None:
        asked = as_before(asked, stored)
    if pick_device(asked.device).type == "cpu" and asked.device == "auto":
        note("--device auto: there is no GPU here that PyTorch can use, so the CPU computes")
    if "tensorboard" in asked.log:
        asked = dataclasses.replace(asked, tensorboard=True)
    loggers = loggers_of(asked)
    plan = make_plan(asked, stored)
    _set_threads(plan.threads)
    if asked.resume is None:
        system = plan.build()
        if ranks is not None:
            ranks.tell_json(None)  # no checkpoint
        for text in () if asked.quiet else plan.notes:
            note(text)
        try:
            run = Run(
                folder, force=asked.force, keep=asked.keep, save_every=plan.save_every, save_minutes=asked.save_minutes,
                pause_at=asked.pause_at,
            )  # fmt: skip
        except BaseException:
            system.close()
            raise
    else:
        run = Run(
            folder, resume=True, keep=asked.keep, save_every=plan.save_every, save_minutes=asked.save_minutes,
            pause_at=asked.pause_at,
        )  # fmt: skip
        try:
            path, system = _resumed(asked, plan, run)
            if ranks is not None:
                ranks.tell_json(None if path is None else str(path.absolute()))
        except BaseException:
            run.close()
            raise
    if ranks is not None:
        note(f"torchrun: {ranks.size} ranks train together, {plan.scenario.num_envs} copies among them")
    with run, system:
        return _train(asked, plan, run, system, loggers)


def _resumed(asked: Asked, plan: Plan, run: Run) -> tuple[Path | None, MultiAgentSystem]:
    """The system as it was saved last, or as the named checkpoint has it, and where; a fresh one if nothing was."""
    from marl import checkpoint
    from marl.types import ConfigError

    explicit = explicit_checkpoint(asked)
    found: tuple[Path, MultiAgentSystem] | None
    if explicit is not None:
        found = explicit, load_system(explicit, plan.device, plan.scenario, asked.trust)
    else:
        found = run.newest(lambda path: load_system(path, plan.device, plan.scenario, asked.trust))
    if found is None:
        run.note(f"{run.path}: nothing was saved yet, so the run starts from the beginning")
        return None, plan.build()
    path, system = found
    manifest = checkpoint.read_manifest(path)
    meta = manifest["meta"]
    if (meta["seed"], meta["num_envs"]) != (plan.seed, plan.scenario.num_envs):
        raise ConfigError(
            f"--resume {path}: was trained with seed {meta['seed']} and {meta['num_envs']} copies, not with seed "
            f"{plan.seed} and {plan.scenario.num_envs}"
        )
    system.workers, system.environments.actors = plan.scenario.workers, plan.actors
    different = checkpoint.fingerprint_differences(manifest)
    if different:
        run.note(f"not bit-exact: this process differs from the one that saved ({', '.join(different)})")
    run.note(f"resuming {run.path} from step {system.steps:,} ({path.name})")
    return path, system


def _train(asked: Asked, plan: Plan, run: Run, system: MultiAgentSystem, loggers: Sequence[Logger]) -> int:
    from marl.compiled import decisions
    from marl.logs import LoggedRun, begin
    from marl.logs.progress import Progress
    from marl.run import counts, ended_by_callback, failure, noted, session

    teams = [team.name for team in system.spec.teams]
    began_at = system.steps
    config = plan.config(asked) | {"compiled": decisions(system.learners)}
    config |= {"changes": system.changes} if system.changes else {}
    why = ended_by_callback(system, run.config, plan.steps)
    over = began_at >= plan.steps or why is not None
    paused = not over and run.pauses(began_at)
    run.begin(config, system.steps)
    if not over and not paused and not asked.quiet:
        note(f"marl train {plan.scenario.name}: {', '.join(system.spec.agents)}; writing to {run.path}")
        progress = Progress(plan.steps, teams, system.steps)
        run.note = progress.note
        run.sinks.append(progress)
    logged = LoggedRun(plan.scenario.name, run.path, began_at or None, config, lambda text: run.note(text))
    run.sinks.extend(begin(logger, logged) for logger in loggers)
    stop = plan.scenario.stop
    finished = over or (stop is not None and began_at > 0 and stop(system.history["episode_rewards"]))
    summary: dict[str, Any] = {"scenario": plan.scenario.reference, "seed": plan.seed, "run": str(run.path)}
    try:
        with session(run, system, summary):
            if not finished and not paused:
                system.train(
                    steps=plan.steps - began_at,
                    stop=stop,
                    callbacks=[*plan.callbacks(), *LOOKING_ON.get()],
                    evaluate_every=plan.evaluate_every,
                    evaluate_episodes=plan.evaluate_episodes,
                    evaluate_seed=plan.evaluate_seed,
                    log_every=max(1, plan.steps // 100),
                    watcher=run,
                )
            # The session saves what is newest: other ranks still answer.
        system.training.let_go()
    except BaseException:
        if run.cut_short:
            return _interrupted(asked, plan, run, system, summary, "before the next step was taken")
        if system.faults:
            note(_fault_table(system.faults))
        raise
    finally:
        for sink in run.sinks:
            sink.close()
        run.note = note
    summary |= counts(system) | noted(system.history)
    if system.faults:
        note(_fault_table(system.faults))
    if run.signal is not None:
        return _interrupted(asked, plan, run, system, summary, f"at step {system.steps:,} and saved")
    stopped = system.training.callbacks.stopped
    ended = stop is not None and system.training.finished and stop(system.history["episode_rewards"])
    if system.steps < plan.steps and run.pauses(system.steps) and not (finished or stopped or ended):
        return _paused(asked, plan, run, system, summary)
    summary |= {"exit_code": 0, "status": "finished"}
    if stopped and not finished:
        note(f"a callback ended the training at step {system.steps:,}: {stopped}")
    if finished:
        because = "" if why is None else f" ({why}); another number of --steps goes on"
        note(f"{run.path}: the run is finished already, at step {began_at:,} of {plan.steps:,}{because}")
    if asked.evaluate:
        run.summarize(summary | {"status": "evaluating"})  # whatever ends us now, the run is not finished
        try:
            with run.signals():
                summary |= _final(asked, plan, run, system)
        except BaseException as error:
            if run.cut_short:
                return _interrupted(
                    asked, plan, run, system, summary, "in the final evaluation, with all training saved"
                )
            run.summarize(summary | failure(error))
            raise
        run.end(system)  # if somebody removed the folder meanwhile; its environments, closed, would then begin anew
    run.summarize(summary)
    if asked.json:
        print_json(summary)
    else:
        print(f"run folder: {run.path} (config.json, metrics.jsonl, checkpoints/last, checkpoints/best, summary.json)")
        trust = " --trust" if _named_again(plan) else ""  # a run folder chooses no code to run
        print(f"next: marl evaluate {run.path}{trust}    marl play {run.path}{trust}    marl plot {run.path}")
    return 0


def _named_again(plan: Plan) -> str:
    """The scenario or environment where only the user may name it, and a space."""
    reference = plan.scenario.reference
    return "" if is_known(reference) else f"{shlex.quote(reference)} "


def _paused(asked: Asked, plan: Plan, run: Run, system: MultiAgentSystem, summary: dict[str, Any]) -> int:
    """Say and write that the run has come to --pause-at; returns the exit status."""
    run.summarize(summary | {"exit_code": 0, "status": "paused"})
    if asked.json:
        print_json(summary | {"status": "paused"})
    elif not asked.quiet:
        where = f"at step {system.steps:,} of {plan.steps:,}, saved"
        note(f"paused {where}; to go on: marl train {_named_again(plan)}--run-dir {run.path} --resume")
    return 0


def _interrupted(
    asked: Asked, plan: Plan, run: Run, system: MultiAgentSystem, summary: dict[str, Any], where: str
) -> int:
    """Say and write that a signal ended the run; returns the exit status."""
    from marl.run import interrupted

    status = interrupted(run, system, summary)
    note(f"{status} {where}; to go on: marl train {_named_again(plan)}--run-dir {run.path} --resume")
    if asked.json:
        print_json(summary)
    return run.exit_code


def _fault_table(faults: Mapping[str, int]) -> str:
    """What went wrong and was survived."""
    lines = ["faults of the environment that training survived (the first of each was told as it came):"]
    return "\n".join([*lines, *(f"  {kind.replace('_', ' '):<24} {count:>9,}" for kind, count in faults.items())])


def _final(asked: Asked, plan: Plan, run: Run, system: MultiAgentSystem) -> dict[str, Any]:
    """The trained agents beside uniformly random ones, in the same environments with the same seeds."""
    from marl import ranks
    from marl.learners import Random
    from marl.system import MultiAgentSystem

    seed = 1 + (plan.seed if plan.evaluate_seed is None else plan.evaluate_seed)
    if not asked.quiet:
        note(f"evaluating {asked.episodes} episodes, then as many of random agents (--episodes)")
    system.close()  # there may be room for one environment only
    report = system.evaluate(asked.episodes, seed=seed)
    agents: Any = plan.scenario.agents
    agents = {pattern: Random() for pattern in agents} if isinstance(agents, Mapping) else Random()
    scenario = dataclasses.replace(plan.scenario, num_envs=1, workers=0, shaping=(), league=None)
    with ranks.apart(), MultiAgentSystem(agents, scenario, seed=plan.seed) as random:
        random.close()  # likewise
        baseline = random.evaluate(asked.episodes, seed=seed)
    # Where some play against others, what one wins another loses: there is nothing to be better in than random play.
    alone = len(report.teams) == 1 and system.league is None
    apart = report.minus(baseline) if alone else None
    if not asked.json:
        print(f"trained for {system.steps:,} steps in {run.seconds:,.0f} s; greedy, {asked.episodes} episodes:")
        print(_table(report, baseline))
        if apart is not None:
            print(f"  difference to random play: {apart}")
        for line in report.troubles:
            print(f"  {line}")
        if plan.scenario.expect:
            print(f"expected after full training: {plan.scenario.expect}")
    return {"evaluation": report.to_dict(), "random": baseline.to_dict(), "difference": apart and apart.to_dict()}


def _table(report: Report, baseline: Report) -> str:
    """Two reports side by side; intervals are over episodes."""
    from marl.playing.intervals import interval_text

    rows: list[tuple[str, Report | TeamReport, float]] = [("return, sum of agents", report, baseline.mean_return)]
    if len(report.teams) > 1:
        rows += [(f"team {name}", team, baseline.teams[name].mean_return) for name, team in report.teams.items()]
    lines = []
    for name, found, random in rows:
        interval = interval_text(*found.confidence_interval)
        lines.append(f"  {name:<24} {found.mean_return:9.2f}  (95 % CI over episodes {interval})   random {random:.2f}")
    if len(report.returns_per_agent) > 1:
        for agent, mean in report.returns_per_agent.items():
            lines.append(f"    {agent:<22} {mean:9.2f}   random {baseline.returns_per_agent[agent]:.2f}")
    return "\n".join(lines)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        from marl import parallel

        parallel.set_threads(threads)

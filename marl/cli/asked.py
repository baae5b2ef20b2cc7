"""The options of ``marl train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, Suppress, UseAppendAction, arg

from marl.cli.options import NUMBER


@dataclass(frozen=True)
class Asked:
    """What ``marl train`` is asked for."""

    scenario: Annotated[Positional[str | None], arg(metavar="WHAT")] = None
    """A shipped scenario (marl list), a Gymnasium or PettingZoo id, a module, module:attribute, FILE.py, FILE.py:NAME.
    May be left out with --resume."""
    algorithm: Annotated[str | None, arg(metavar="NAME")] = None
    """A recipe (marl list): mappo, qmix, ppo, ...; a scenario's own settings for it where it has some."""
    agents: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="[PATTERN=]RECIPE(...)")] = ()
    """Learners with settings, instead of --algorithm: 'ippo(lr=3e-4)', or 'adversary_*=mappo()' 'agent_*=iql()'."""
    steps: Annotated[int | None, NUMBER] = None
    """Environment steps of the whole run, all copies counted; the scenario's unless given, 100,000 of an environment.
    --resume does the rest."""
    seed: Annotated[int | None, NUMBER] = None
    """Everything random derives from it; 0 unless given."""
    num_envs: Annotated[int | None, NUMBER] = None
    """Copies of the environment that train side by side; the scenario's unless given."""
    workers: Annotated[int | None, NUMBER] = None
    """Processes that the copies are spread over; 0: none but this one. Results do not depend on it."""
    ray: Annotated[str | None, arg(metavar="auto|ADDRESS")] = None
    """A Ray cluster whose --actors step the copies, instead of --workers: HOST:PORT, or auto for this machine's, which
    begins now if there is none (extra ray). With --resume it is named again."""
    actors: Annotated[int | None, NUMBER] = None
    """How many actors of the --ray cluster the copies are spread over, one core each."""
    staleness: Annotated[int | None, NUMBER] = None
    """Let --actors hold the policy as well and collect fragments by themselves, with one at most so many updates behind
    (impala, appo, or learners with a replay)."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ... or auto."""
    threads: Annotated[int | None, NUMBER] = None
    """Threads that PyTorch computes with."""
    run_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where to write; runs/WHAT-SEED-DATE unless given."""
    resume: Annotated[str | None, arg(metavar="[auto|CHECKPOINT]")] = None
    """Go on with the run in --run-dir (or the latest of WHAT) from its newest checkpoint, or from CHECKPOINT.
    Options that are not given again stay as they were."""
    pause_at: Annotated[int | None, NUMBER] = None
    """End at this step for now, with everything saved; --resume goes on. Schedules still run to --steps."""
    force: bool = False
    """Throw away the run that is in --run-dir."""
    trust: bool = False
    """With --resume: run whatever code the run names, such as its .py file, where WHAT is left out."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")] = ()
    """Change a setting: learner.clip=0.1, TEAM.lr=1e-3, env_kwargs.N=5, learner.network.sizes=128,128. Repeatable."""
    callback: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME(...)")] = ()
    """A shipped callback with its settings, as 'EarlyStopping("mean_return")'. Repeatable."""
    evaluate_every: Annotated[int | None, NUMBER] = None
    """Evaluate greedily every so many steps, in environments of its own; decides which checkpoint is the best."""
    evaluate_episodes: Annotated[int, NUMBER] = 20
    """Episodes of each such evaluation."""
    evaluate_seed: Annotated[int | None, NUMBER] = None
    """Of these evaluations and, plus one, of that at the end: runs with the same play the same episodes. --seed unless
    given."""
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
    """The same as --log tensorboard, but kept by --resume."""
    log: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """Log to this as well: csv, tensorboard, wandb, mlflow, or a logger of an installed package. Repeatable.
    With --resume it is named again."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""
    given: Annotated[tuple[str, ...], Suppress] = ()
    """Which of these the command line names; --resume keeps the rest as it was."""

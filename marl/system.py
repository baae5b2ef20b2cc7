"""The facade: learners on the teams of an environment; train, evaluate, save, load, single agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from marl import checkpoint, deploy, film
from marl.adapters.spoken import Spoken
from marl.adapters.tasks import Route
from marl.callbacks import Callback, as_callbacks
from marl.channels import Link, Tamper
from marl.curriculum.state import Curricula
from marl.curriculum.tasks import Task
from marl.environments import Environments
from marl.film import Played
from marl.league import Leagues
from marl.learners import Learner
from marl.logs import LoggedRun, Logger, looking_on
from marl.logs.progress import Screen
from marl.playing import Agent, Experiment, Report
from marl.playing.evaluate import Decentralized, EvaluationPlan, Metrics, evaluate
from marl.renamed import old_attributes, old_keywords
from marl.run import Run, train_in
from marl.scenario import Scenario, reference_of, resolve_scenario
from marl.setup import Agents, Setup, pick_device
from marl.shaping.shaper import Hooks
from marl.spec_json import spec_to_json
from marl.stopping import Stop
from marl.training import History, Part, Watcher, asynchronous, loop
from marl.training.callback import RowFunction
from marl.training.saved import NOWHERE, read
from marl.training.state import TrainingState
from marl.training.trained import Trained
from marl.types import BatchEnv, ConfigError, Spec


@old_attributes(season="league_state")
class MultiAgentSystem(Trained):
    """Learners on the teams of an environment.

    Args:
        agents: one learner, or a mapping from agent id patterns to learners (one team each); None: the scenario's.
        env: a scenario (its name, or a ``Scenario``), a Gymnasium or PettingZoo id, a factory, or an instance.
        num_envs: copies that train side by side; None takes the scenario's, else 8 (1 for an instance).
        seed: everything random derives from it.
        device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``.
        workers: processes that the copies are spread over; 0 steps them in this process.
        ray: a cluster, ``"auto"`` or ``"HOST:PORT"`` (extra ``ray``), whose actors step the copies.
        actors: how many of them.
        staleness: they hold the policy too and collect fragments, with one at most so many updates behind.
        env_kwargs: keywords for the environment.
        max_steps: truncate episodes of environments that do not end by themselves.
        on_bad_obs: what to do about observations outside their space: ``"error"`` ends training; ``"cast"`` accepts a
            wider dtype; ``"clip"`` does so and clips to the bounds; ``"drop"`` throws the episode away.
        shaping: hooks that change the rewards that agents learn from: a list for all teams, or one for each by name.
        curriculum: what chooses the task of each copy's next episode; a mapping gives teams one each.
        league: opponents of the learners: ``marl.League`` or ``marl.PSRO``; None: each other, as they are now.
        channel: messages as actions, a ``marl.Spoken``; learned ones are a learner's ``channel=``.
        tasks: how a curriculum's tasks reach it: ``curriculum.ByOptions()``, ``ByKwargs()``, ...; None: as it declares.
        reset_options: options of every reset of the environment, as in ``env.reset(options={...})``.
        parts: further features of the training loop, instances of :class:`marl.training.Part`.

    Raises:
        ConfigError: for combinations that make no sense, saying what to do.
    """

    def __init__(
        self, agents: Agents | None, env: Any, *, num_envs: int | None = None, seed: int = 0, device: str = "cpu",
        workers: int | None = None, env_kwargs: Mapping[str, Any] | None = None, max_steps: int | None = None,
        shaping: Hooks | None = None, curriculum: Curricula | None = None, league: Leagues | None = None,
        channel: Spoken | None = None, tasks: Route | None = None, reset_options: Mapping[str, Any] | None = None,
        parts: Sequence[Part] = (), on_bad_obs: str | None = None, ray: str | None = None, actors: int | None = None,
        staleness: int | None = None,
    ) -> None:  # fmt: skip
        """Build the learners; the class documents the arguments."""
        given = Setup(
            agents=agents, env=env, shaping=shaping, curriculum=curriculum, league=league, channel=channel, parts=parts,
            max_steps=max_steps, seed=seed, device=device, on_bad_obs=on_bad_obs, tasks=tasks, ray=ray, actors=actors,
            num_envs=num_envs, workers=workers, staleness=staleness, env_kwargs=env_kwargs, reset_options=reset_options,
        )  # fmt: skip
        scenario = resolve_scenario(env)
        self._adopt(given.over(scenario).checked(), scenario, reference_of(env, scenario))
        with self.environments.opening(self.num_envs, self.setup.workers or 0) as opened:
            self._begin(opened.spec)
            self.training.build(opened)

    def _adopt(self, setup: Setup, scenario: Scenario | None, reference: str | None, trust: bool = False) -> None:
        """Set the setup; ``reference`` is the name under which its environment is found again."""
        assert setup.agents is not None
        self.setup, self.scenario, self.reference, self._trust = setup, scenario, reference, trust
        self.agents, self.shaping, self.curriculum = setup.agents, setup.shaping or (), setup.curriculum
        self.league, self.spoken, self.seed, self.max_steps = setup.league, setup.channel, setup.seed, setup.max_steps
        self.num_envs, self.device = setup.num_envs or 1, pick_device(setup.device)
        self.run_dir: Path | None = None  # the run folder in which this object trained last
        self.environments = Environments(setup, () if scenario is None else scenario.message_entries)

    def _begin(self, spec: Spec) -> None:
        """Build the learners and the rest of the training state."""
        self.spec, self.environments.name = spec, spec.env
        self.training = TrainingState(self.setup, spec, self.device, self.environments)
        self.learners: list[Learner] = self.training.learners  # one for each team
        self.training.join(partial(MultiAgentSystem.load, env=NOWHERE, device=str(self.device), trust=self._trust))

    def train(
        self, steps: int | None = None, episodes: int | None = None, callback: RowFunction | None = None, *,
        stop: Stop | None = None, evaluate_every: int | None = None, evaluate_episodes: int = 20,
        log_every: int | None = None, watcher: Watcher | None = None, loggers: Sequence[Logger] = (),
        progress: bool = False, run_dir: str | Path | None = None, resume: bool = False,
        callbacks: Sequence[Callback] = (), evaluate_seed: int | None = None,
    ) -> History:  # fmt: skip
        """Train for so many environment steps (all copies counted) or episodes more, and return the history.

        Args:
            steps: environment steps to add; None takes the scenario's if ``episodes`` is None too.
            episodes: episodes to add.
            callback: called with each row of metrics; True stops.
            stop: a rule on episode returns, such as ``marl.MeanReturn(at_least=475)``; None takes the scenario's.
            evaluate_every: evaluate greedily every so many steps and log it as ``evaluation_return``.
            evaluate_episodes: episodes of each such evaluation.
            evaluate_seed: of these evaluations; None: the system's. With the same one, systems play the same episodes.
            log_every: environment steps between two rows of metrics; None: a hundredth of the run, at least one update.
            watcher: a run folder or progress display.
            loggers: where each row of metrics goes as well, such as ``marl.logs.TensorBoard("events")``.
            callbacks: objects that stop, save, log and change settings: those of ``marl.callbacks``, or your own.
            progress: show steps, speed, time left and returns: one line that changes, in notebooks too.
            run_dir: write a run folder there, as ``marl train`` does: settings, metrics, checkpoints, how it ended.
                A further call with the same folder goes on with it. Ctrl-C ends the training after its step and saves.
            resume: go on from the newest checkpoint in ``run_dir``, if there is one; lengths count from its beginning.

        Raises:
            ConfigError: if ``run_dir`` holds the run of another system.
            NonFiniteError: if losses or gradients stay NaN or infinite.
            KeyboardInterrupt: after Ctrl-C, once everything is saved in ``run_dir``.
        """
        asked = loop.request(self.training, self.scenario, steps, episodes, stop, log_every)
        if run_dir is not None and watcher is None:
            here = partial(
                self.train, callback=callback, callbacks=callbacks, stop=stop, evaluate_every=evaluate_every,
                evaluate_episodes=evaluate_episodes, evaluate_seed=evaluate_seed, loggers=loggers, progress=progress,
            )  # fmt: skip
            return train_in(self, run_dir, resume, asked, (evaluate_every, evaluate_episodes, evaluate_seed), here)
        if run_dir is not None or resume:
            raise ConfigError("train: resume= goes with run_dir=, and watcher= with neither")
        if progress:
            loggers = (*loggers, Screen(asked.last_step, tuple(team.name for team in self.spec.teams)))
        everybody = as_callbacks(callbacks, callback, evaluate_every, evaluate_episodes, evaluate_seed)
        run = LoggedRun(self.spec.env, resumed_at=self.steps or None, settings=self.setup.identity())
        if isinstance(watcher, Run):
            run = replace(run, folder=watcher.path, settings=watcher.config or {}, note=watcher.note)
        with looking_on(run, loggers, watcher, self) as (log, tick), self.training.called(self, everybody):
            learn = asynchronous.train if self.environments.asynchronous else loop.train
            return learn(self.training, asked, log, tick)

    @old_keywords(decentralised="decentralized")
    def evaluate(
        self, episodes: int = 100, *, decentralized: Decentralized = False, greedy: bool = True,
        seed: int | None = None, env: Any = None, num_envs: int | None = None, task: Task | None = None,
        experiment: Experiment | None = None, metrics: Metrics | None = None,
        link: Link | str | None = None, tamper: Tamper | None = None,
        silence: str | Sequence[str] = (), remove: str | Sequence[str] = (), swap: tuple[str, str] | None = None,
        shuffle_messages: bool = False, message_entries: str | Sequence[str] | None = None,
    ) -> Report:  # fmt: skip
        """Play whole episodes in environments of their own and report raw returns. Changes nothing in the system.

        Frozen copies of the policies play; a PSRO run draws a policy of its mixture for every side and episode.

        Args:
            episodes: how many; each copy plays a fixed share, so short episodes are not preferred.
            decentralized: every agent acts through its own :class:`~marl.Agent`, from its own observation and inbox
                alone; ``"processes"`` gives each a process of its own, and asks the batch in every step what it would
                do on the same observations (``report.agreement``); then the batch plays too (``report.batched``).
            greedy: take the most likely action; False samples.
            seed: of the environments and the sampling; None derives one that training never uses.
            env: another environment with the same agents and spaces, or a scenario, which may say how tasks reach it
                and its reset options; None: the training environment's kind.
            num_envs: copies that play side by side; None: at most 16, and one where no more can be made.
            task: the tasks to play, by parameter; None: the curriculum's target, else the world's defaults.
            experiment: what is done to the team and its messages: ``marl.playing.Experiment(silence="agent_0")``.
            metrics: functions of an episode's :class:`~marl.playing.EpisodeRecord` that return a number, by name:
                ``report.metrics["collisions"]`` has the mean and its interval.
            link: the experiment's ``link``, in short; likewise ``tamper``, ``silence``, ``remove``, ``swap``,
                ``shuffle_messages`` (its ``shuffle``) and ``message_entries`` (its ``entries``).

        Raises:
            ConfigError: for combinations that make no sense, saying why.
        """
        experiment = Experiment.of(
            experiment, link=link, tamper=tamper, silence=silence, remove=remove, swap=() if swap is None else swap,
            shuffle=shuffle_messages, entries=message_entries,
        )  # fmt: skip
        plan = EvaluationPlan(
            episodes, self.seed if seed is None else seed, decentralized, greedy, num_envs,
            task if task is not None else self.target, task is not None or env is None, experiment, metrics,
        ).checked()  # fmt: skip
        lender = self.environments.lender(env, num_envs is not None, bool(metrics))
        return evaluate(self.training.players, plan, lender, self.environments.message_entries)

    def agent(self, name: str, seed: int | None = None, *, side_seed: int | None = None) -> Agent:
        """One agent's own policy, as it is now: a copy of its parameters, working from its own observations alone.

        Args:
            name: of the agent.
            seed: of its actions where it samples them.
            side_seed: of what a PSRO run draws from its mixture for each episode. Agents of a team that are given the
                same one play the same policy, as the mixture means it; None: ``seed``, else the system's own.

        Raises:
            ConfigError: if there is no such agent.
        """
        return self.training.players.agent(name, seed, side_seed=side_seed)

    def render_episode(self, seed: int = 0, *, max_steps: int = 1000, greedy: bool = True) -> Played:
        """Play an episode for its pictures; in a notebook it shows itself (extra ``play``).

        It is the first episode of ``evaluate(seed=seed, num_envs=1, decentralized=True)``, but of a compiled world,
        which is played in its PettingZoo form. ``save("episode.gif")`` writes it, ``frames`` are the pictures.

        Args:
            seed: of the environment and of everything that is drawn.
            max_steps: end the episode after so many steps.
            greedy: take the most likely action; False samples.

        Raises:
            ConfigError: if the environment cannot be rendered to pictures.
        """
        played, _ = film.play(self, 1, seed, max_steps, explore=not greedy)
        return played[0]

    export = deploy.export

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint folder, atomically; of several ranks rank 0 does. Raises OSError if the disk refuses."""
        if self.training.saved_by_rank_0():
            return Path(path)
        said = {"workers": self.workers, "env": self.reference, "steps": self.steps, "spec": spec_to_json(self.spec)}
        return self.training.callbacks.saved(checkpoint.save(path, self.state_dict(), self.setup.to_json() | said))

    @classmethod
    def load(
        cls, path: str | Path, env: Any = None, agents: Agents | None = None, device: str = "cpu", *,
        env_kwargs: Mapping[str, Any] | None = None, shaping: Hooks | None = None,
        curriculum: Curricula | None = None, league: Leagues | None = None, channel: Spoken | None = None,
        tasks: Route | None = None, reset_options: Mapping[str, Any] | None = None,
        parts: Sequence[Part] = (), trust: bool = False,
    ) -> MultiAgentSystem:  # fmt: skip
        """A system as it was when saved.

        A checkpoint chooses no code to run: modules, files and functions of yours that it names are given again here.

        Args:
            path: the checkpoint directory.
            env: the environment; needed if it was neither a registered id nor an installed scenario's name.
            agents: the learners; needed if they hold your own code (a ``Custom`` network, ``Hindsight``).
            device: where to compute.
            env_kwargs: instead of those then; needed if these hold code, or paths. Likewise ``reset_options``.
            shaping: the hooks, to train on; needed if they hold your own code. Likewise ``curriculum``, ``league``,
                ``parts`` if there were any, ``channel``, to play as well, and ``tasks`` if it is a function of yours.
            trust: do whatever the checkpoint says: import and run what it names, open and write to paths in it.

        Raises:
            CheckpointError: if the checkpoint is damaged, names what is not trusted, or does not fit what is given.
        """
        given = Setup(
            agents=agents, env=env, env_kwargs=env_kwargs, device=device, shaping=shaping, curriculum=curriculum,
            league=league, channel=channel, tasks=tasks, reset_options=reset_options, parts=parts,
        )  # fmt: skip
        saved = read(path, given, trust)
        system = cls.__new__(cls)
        system._adopt(saved.setup, saved.scenario, saved.reference, trust)
        with saved.building():
            system._begin(saved.spec)
        saved.restore(system.training)
        return system

    @property
    def env(self) -> BatchEnv:
        """The training environment, made when first needed."""
        return self.environments.open(self.num_envs, self.workers, self.spec)

    def make_env(self, **env_kwargs: Any) -> Any:
        """One more environment as its author made it; see :meth:`marl.environments.Environments.single`."""
        return self.environments.single(**env_kwargs)

    def close(self) -> None:
        """Release the environment's processes and windows; an instance that was given is closed too."""
        self.training.step = self.training.seen = None
        self.environments.close()

    def __enter__(self) -> MultiAgentSystem:
        """Use as a context manager to close the environment at the end."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

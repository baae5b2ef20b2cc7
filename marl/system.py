"""The orchestrator: learners on the teams of an environment; train, evaluate, save, load, hand out single agents."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from marl import adapters, checkpoint, parallel, received
from marl.adapters import lifecycle
from marl.adapters.describe import render_mode
from marl.adapters.faults import faults_of
from marl.adapters.resolve import another_like, is_instance, resolve
from marl.adapters.spoken import Spoken
from marl.channels import Channel, Line, Link, Overheard, Shown, Tamper
from marl.config import differences, to_json
from marl.curriculum import Course, Curricula, Curriculum, Task
from marl.curriculum import checked as checked_curricula
from marl.league import PSRO, Leagues, Season, Venue
from marl.league import checked as checked_league
from marl.league.members import Member
from marl.learners import Learner, LearnerConfig
from marl.learners.base import HearsOthers, LearnsMeanwhile, channel_of, talker_of
from marl.learners.off_policy import OffPolicy
from marl.learners.on_policy import OnPolicy
from marl.playing.alone import DecentralizedActor
from marl.playing.evaluate import Decentralized, Metrics, Plan, Players, check_same_spec, evaluate
from marl.playing.experiment import Entries, Experiment
from marl.playing.report import Report
from marl.playing.single import Agent, MixedAgent
from marl.playing.streams import global_streams_kept
from marl.playing.team import Strategy
from marl.scenario import Scenario, find, names
from marl.schedules import Clock
from marl.shaping import Discounts, Hooks, Shaper, by_team, reads_state, team_named
from marl.shaping import checked as checked_hooks
from marl.spaces import LARGEST_SPACE, team_from_json, team_to_json
from marl.stopping import Stop
from marl.types import (
    BatchEnv,
    CheckpointError,
    ConfigError,
    Episode,
    Episodes,
    NonFiniteError,
    ResourceError,
    Spec,
    Step,
    StepsElsewhere,
)

SHAPING, CURRICULUM, LEAGUE, MIXTURE = (
    0x5AFE,
    0xC0DE,
    0x1EA6,
    0x313E,
)  # streams come from (seed, this): learners draw as without
DEFAULT_COPIES = 8
RECENT = 100  # episodes that means in metrics are over
MOST_NAMES = 64  # different names in infos that metrics follow
PATIENCE = 10  # updates in a row whose gradient may be skipped because it is not finite

NOWHERE = object()  # in place of an environment: policies are wanted and nothing else

Agents = LearnerConfig | Mapping[str, LearnerConfig]
Callback = Callable[[dict[str, float]], bool | None]


class Watcher(Protocol):
    """What may look on while a system trains: a run folder, a progress display."""

    def log(self, metrics: dict[str, float]) -> None:
        """Take in one row of metrics; ``metrics["steps"]`` says when."""
        ...

    def tick(self, system: MultiAgentSystem) -> bool:
        """Called after every step; save if it is time. True asks the run to end after this step."""
        ...


class History(dict[str, list[float]]):
    """Everything logged, a list per name, with ``episode_rewards`` (sum over agents) and ``episode_lengths``."""

    def __init__(self) -> None:
        """Empty."""
        super().__init__(episode_rewards=[], episode_lengths=[])

    def add(self, metrics: Mapping[str, float]) -> None:
        """Append one row."""
        for name, value in metrics.items():
            self.setdefault(name, []).append(value)


class MultiAgentSystem:
    """Learners on the teams of an environment.

    Args:
        agents: one learner for all agents, or a mapping from agent id patterns to learners (one team each); None takes
            the scenario's.
        env: a scenario (its name, or a ``Scenario``), a Gymnasium or PettingZoo id, a factory, or an instance.
        num_envs: copies that train side by side; None takes the scenario's, else 8 (1 for an instance).
        seed: everything random derives from it.
        device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``.
        workers: processes that the copies are spread over; 0 steps them in this process.
        env_kwargs: keywords for the environment.
        max_steps: truncate episodes of environments that do not end by themselves.
        shaping: hooks that change what agents are paid for learning: a list for all teams, or one for each by name.
        curriculum: what chooses the task of each copy's next episode; a mapping gives teams one each.
        league: whom learners play against: ``marl.League`` or ``marl.PSRO``; None: each other, as they are.
        channel: messages as actions, a :class:`~marl.Spoken`; learned messages are a learner's, such as
            ``marl.ippo(channel=marl.CommNet())``.

    Raises:
        ConfigError: for anything that has no meaning, saying what to do.
    """

    def __init__(
        self,
        agents: Agents | None,
        env: Any,
        *,
        num_envs: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        workers: int | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        max_steps: int | None = None,
        shaping: Hooks | None = None,
        curriculum: Curricula | None = None,
        league: Leagues | None = None,
        channel: Spoken | None = None,
    ) -> None:
        """See the class."""
        seed = check_whole("seed", seed, 0)
        scenario = resolve_scenario(env)
        if scenario is not None:
            agents = agents if agents is not None else scenario.agents
            num_envs = num_envs if num_envs is not None else scenario.num_envs
            workers = workers if workers is not None else scenario.workers
            env_kwargs = {**scenario.env_kwargs, **(env_kwargs or {})}
            max_steps = max_steps if max_steps is not None else scenario.max_steps
            shaping = shaping if shaping is not None else scenario.shaping
            curriculum = curriculum if curriculum is not None else scenario.curriculum
            league = league if league is not None else scenario.league
            channel = channel if channel is not None else scenario.channel
        if agents is None:
            raise ConfigError("agents: give a learner such as marl.ippo(), or a scenario that names its own")
        self.scenario = scenario
        self.agents: Agents = _checked_agents(agents)
        self.shaping = checked_hooks(shaping or ())
        self.curriculum = None if curriculum is None else checked_curricula(curriculum, None)
        self.league = checked_league(league)
        self.seed = seed
        self.device = pick_device(device)
        self.spoken = checked_spoken(channel)
        self._world = scenario.env if scenario is not None else env
        self._source = self._world if self.spoken is None else self.spoken.source(self._world)
        self._reference = scenario.reference if scenario is not None else (env if isinstance(env, str) else None)
        limit = None if max_steps is None else check_whole("max_steps", max_steps, 1)
        self._options: dict[str, Any] = {"env_kwargs": dict(env_kwargs or {}) or None, "max_steps": limit}
        self._trust = False
        copies = num_envs if num_envs is not None else (1 if self._instance else DEFAULT_COPIES)
        self.num_envs = check_whole("num_envs", copies, 1)
        self.workers = check_whole("workers", workers or 0, 0)
        self._env: BatchEnv | None = self._make_env(self.num_envs, self.workers)
        try:
            self._setup(self._env.spec)
            self._course: Course | None = self._make_course(self._env)
            self._season: Season | None = self._make_season()
        except BaseException:
            if self._instance:  # it stays the user's
                lifecycle.give_back(self._source, self._env)
            else:
                lifecycle.close(self._env)
            raise

    def _setup(self, spec: Spec) -> None:
        """Build one learner per team and start all counters."""
        self.spec = spec
        configs = self._configs
        seeds = np.random.SeedSequence(self.seed).spawn(len(configs) + 1)
        self._env_seed = int(seeds[0].generate_state(1, np.uint32)[0])
        self.learners: list[Learner] = [
            config.build(spec, team, self.num_envs, seed, self.device)
            for config, team, seed in zip(configs, spec.teams, seeds[1:], strict=True)
        ]
        self._introduce()
        self._shown: Shown | None = None  # known once there is an environment
        self._saved_shown: Sequence[Array] = ()
        self._shaper = self._make_shaper()
        self._course = None
        self._saved_course: Mapping[str, Any] | None = None
        self._season = None
        self._saved_season: Mapping[str, Any] | None = None
        self._lost: str | None = None  # what the checkpoint was trained with and could not say
        self.history = History()
        self.steps = 0
        self.episodes = 0
        self._total: int | None = None
        self._step: Step | None = None
        self._saved_env: Any = None
        self._pending: dict[str, torch.Tensor] = {}
        self._said_lost = False  # whether somebody was told of losses that are not finite
        self._said: dict[str, list[float]] = {}  # what recent episodes reported as they ended, by name
        self._logged_at = 0
        self._said_another = False

    @property
    def _configs(self) -> list[LearnerConfig]:
        """The settings of each team's learner."""
        return list(self.agents.values()) if isinstance(self.agents, Mapping) else [self.agents]

    def _introduce(self) -> None:
        """Let learners that hear others know whom."""
        self._overheard = {
            place: Overheard(net)
            for place, learner in enumerate(self.learners)
            if (net := talker_of(learner)) is not None
        }
        self._listeners = [learner for learner in self.learners if isinstance(learner, HearsOthers) and learner.hears]
        for learner in self._listeners:
            learner.meet(self.learners)
        self._meanwhile = [isinstance(learner, LearnsMeanwhile) and learner.meanwhile for learner in self.learners]

    def _make_shaper(self) -> Shaper | None:
        """The hooks of all teams, if there are any."""
        hooks = by_team(self.shaping, self.spec, self._patterns)
        if not hooks:
            return None
        discounts = {
            team.name: config.discount if isinstance(config, Discounts) else None
            for team, config in zip(self.spec.teams, self._configs, strict=True)
        }
        return Shaper(hooks, self.spec, self.num_envs, np.random.SeedSequence([self.seed, SHAPING]), discounts)

    def _make_course(self, env: BatchEnv) -> Course | None:
        """The curricula of this run, if there are any."""
        if self.curriculum is None:
            return None
        curricula: dict[str | None, Curriculum] = {}
        if isinstance(self.curriculum, Mapping):
            for key, one in self.curriculum.items():
                curricula[team_named(key, self.spec, self._patterns, "curriculum")] = one
        else:
            curricula[None] = self.curriculum
        return Course(curricula, env, np.random.SeedSequence([self.seed, CURRICULUM]))

    @property
    def season(self) -> Season:
        """The league as it runs: its pools, ratings, payoff tables. Raises ConfigError if there is none."""
        if self._season is None:
            self._season = self._make_season()
            if self._season is None:
                raise ConfigError("this system has no league: give league=marl.League() or marl.PSRO()")
            if self._saved_season is not None:
                try:
                    self._season.load_state_dict(self._saved_season)
                except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                    self._season = None
                    raise CheckpointError(f"the saved league does not fit {self.league}: {error!r}") from error
        return self._season

    def _make_season(self) -> Season | None:
        """The league of this run, if there is one."""
        if self.league is None:
            return None
        teams = [team.name for team in self.spec.teams]
        self.league.check(self.spec, dict(zip(teams, self._configs, strict=True)))
        venue = Venue(
            self.spec,
            self.num_envs,
            np.random.SeedSequence([self.seed, LEAGUE]),
            self.device,
            self.learners,
            make_env=self._another_env,
            load=lambda path: MultiAgentSystem.load(
                _newest_in(path), env=NOWHERE, device=str(self.device), trust=self._trust
            ),
            team=lambda key: team_named(key, self.spec, self._patterns, "league"),
            task={} if self._lost == "curriculum" else self.target,
        )
        return self.league.build(venue)

    def strategy(self, team: str) -> Strategy:
        """What a team plays: policies and their chances, one of which is drawn for each episode.

        It is one policy, what its learner has come to, but for a PSRO run, whose result is a mixture.

        Raises:
            ConfigError: if there is no such team.
        """
        place = next(
            place
            for place, one in enumerate(self.spec.teams)
            if one.name == team_named(team, self.spec, self._patterns, "strategy")
        )
        mixture = self._mixture(place)
        if mixture:
            return mixture
        return [(1.0, Member(place, place, self.spec.teams[place].name, self.learners[place].policy(None), ()))]

    def _mixture(self, place: int) -> Strategy:
        """How a PSRO run mixes its policies, where training has begun; else nothing."""
        if self._lost == "league" and "mixture" in (self._saved_season or {}):
            raise CheckpointError("its league holds code of yours: pass league= to MultiAgentSystem.load")
        return self.season.strategy(self.spec.teams[place].name) if isinstance(self.league, PSRO) else []

    def _renew(self, season: Season, step: Step) -> None:
        """Let the learners begin anew that the league wants to; of the games that run they learn nothing."""
        for place in season.renewed():
            seed = np.random.SeedSequence([self.seed, LEAGUE, place, self.steps])
            learner = self._configs[place].build(self.spec, self.spec.teams[place], self.num_envs, seed, self.device)
            learner.memory.start(season.seen(step))
            self.learners[place] = learner
            self._introduce()

    # --- training -----------------------------------------------------------------------------------------------------

    def train(
        self,
        steps: int | None = None,
        episodes: int | None = None,
        callback: Callback | None = None,
        *,
        stop: Stop | None = None,
        evaluate_every: int | None = None,
        evaluate_episodes: int = 20,
        log_every: int | None = None,
        watcher: Watcher | None = None,
    ) -> History:
        """Train for so many environment steps (all copies counted) or episodes more, and return the history.

        Args:
            steps: environment steps to add; None takes the scenario's if ``episodes`` is None too.
            episodes: episodes to add.
            callback: called with each row of metrics; True stops.
            stop: a rule on episode returns, such as ``marl.MeanReturn(at_least=475)``; None takes the scenario's.
            evaluate_every: evaluate greedily every so many steps, in environments of its own, and log it as
                ``evaluation_return``.
            evaluate_episodes: episodes of each such evaluation.
            log_every: environment steps between two rows of metrics; None: a hundredth of the run, at least one update.
            watcher: a run folder or progress display.

        Raises:
            NonFiniteError: if losses or gradients stay NaN or infinite.
        """
        if steps is None and episodes is None:
            if self.scenario is None:
                raise ConfigError("train: give steps= or episodes=")
            steps = self.scenario.steps
        steps = None if steps is None else check_whole("steps", steps, 1)
        episodes = None if episodes is None else check_whole("episodes", episodes, 1)
        evaluate_every = None if evaluate_every is None else check_whole("evaluate_every", evaluate_every, 1)
        stop = stop if stop is not None or self.scenario is None else self.scenario.stop
        for name, rule in (("stop", stop), ("callback", callback)):
            if rule is not None and not callable(rule):
                raise ConfigError(f"train: {name}: expected None or something to call, got {rule!r}")
        if self.curriculum is not None:
            if stop is not None:
                raise ConfigError("stop: training episodes are of whatever task a curriculum chose; leave stop out")
            checked_curricula(self.curriculum, None if steps is None else self.steps + steps)
        last_step = None if steps is None else self.steps + steps
        last_episode = None if episodes is None else self.episodes + episodes
        self._total = last_step
        for what, used in (("evaluate_every", evaluate_every is not None), ("PSRO", isinstance(self.league, PSRO))):
            if used and self._instance and another_like(self._world) is None:
                raise ConfigError(
                    f"train: {what} plays in environments of its own, and this system has one instance: "
                    f"{lifecycle.PASS_A_FUNCTION}"
                )
        log_every = log_every or max(1, (steps or 100_000) // 100)
        next_evaluation = None if evaluate_every is None else (self.steps // evaluate_every + 1) * evaluate_every
        env = self._training_env()
        began = _Rate(self.steps)
        ended = False
        with parallel.one_thread_each():
            while not ended:
                updated = self._advance(env)
                updated |= self._learn(meanwhile=False)
                row: dict[str, float] = {}
                if next_evaluation is not None and evaluate_every is not None and self.steps >= next_evaluation:
                    row["evaluation_return"] = self.evaluate(evaluate_episodes).mean_return
                    next_evaluation += evaluate_every
                ended = (last_step is not None and self.steps >= last_step) or (
                    last_episode is not None and self.episodes >= last_episode
                )
                if stop is not None and self._finished and stop(self.history["episode_rewards"]):
                    ended = True
                if row or ended or (updated and self.steps - self._logged_at >= log_every):
                    metrics = self._metrics(began) | row
                    self.history.add(metrics)
                    if watcher is not None:
                        watcher.log(metrics)
                    if callback is not None and callback(metrics):
                        ended = True
                if watcher is not None and watcher.tick(self):
                    ended = True
        self._say_who_learnt_nothing()
        return self.history

    def _say_who_learnt_nothing(self) -> None:
        """A training that was over before the first update looks like any other."""
        if self._season is not None:
            return
        for config, team in zip(self._configs, self.spec.teams, strict=True):
            first, why = 0, ""
            if isinstance(config, OffPolicy):
                first, why = config.learning_starts, f"learning_starts={config.learning_starts}"
            elif isinstance(config, OnPolicy):
                first, why = config.rollout * self.num_envs, f"rollout={config.rollout} x num_envs={self.num_envs}"
            if self.steps < first:
                logging.getLogger("marl.system").warning(
                    "team %r has learnt nothing yet: its first update comes after %s steps (%s)",
                    *(team.name, f"{first:,}", why),
                )

    def _training_env(self) -> BatchEnv:
        """The environment, at the step to act on."""
        if self._lost is not None:
            raise CheckpointError(f"its {self._lost} holds code of yours: pass {self._lost}= to MultiAgentSystem.load")
        if self._shaper is not None:
            self._shaper.announce()
        env = self.env
        season = None if self.league is None else self.season
        if self._course is None:
            self._course = self._make_course(env)
            if self._course is not None and self._saved_course is not None:
                with received.explained("the saved curriculum"):
                    self._course.load_state_dict(self._saved_course)
        if self._shown is None:
            self._shown = self._make_shown(env)
            self._shown.load_state_dict(self._saved_shown)
        if self._step is None:
            if self._saved_env is not None:
                with received.explained("the saved environment"):
                    self._step = env.load_state_dict(self._saved_env)
                self._saved_env = None
                self._say_what_is_lost(self._step)
            else:
                self._step = env.reset(self._env_seed, None if self._course is None else self._course.first())
                if self._course is not None:
                    self._course.begin(env, Clock(self.steps, self._total))
                seen = self._step if season is None else season.begin(self._step, Clock(self.steps, self._total))
                for learner in self.learners:
                    learner.memory.start(seen)
        return env

    def _say_what_is_lost(self, step: Step) -> None:
        """Which copies of a loaded system could not go on with their episodes."""
        lost = np.flatnonzero(step.discarded)
        if lost.size:
            which = ", ".join(map(str, lost[:8])) + (", ..." if lost.size > 8 else "")
            logging.getLogger("marl.system").warning(
                "not bit-exact: %s does not come back in copies %s, where the same seed and actions lead to another "
                "observation (it is not deterministic, or has changed) or the episode was too long to be repeated; "
                "they begin new episodes",
                *(self.spec.env, which),
            )

    def _make_shown(self, env: BatchEnv) -> Shown:
        """Who listens in on messages that observations show."""
        seats = {name: (place, n) for place, team in enumerate(self.spec.teams) for n, name in enumerate(team.agents)}
        known = [Entries.parse(text) for text in self._message_entries(env)]
        lines = [
            Line(seats[one.listener], seats[one.speaker], one.first, one.last)
            for one in known
            if one.listener in seats and one.speaker in seats
        ]
        return Shown(lines, 0 if self.spoken is None else self.spoken.link.delay)

    def _advance(self, env: BatchEnv) -> bool:
        """One environment step of all copies: act, step, remember; whether anybody learnt meanwhile."""
        if self._season is not None and self._step is not None:
            self._renew(self._season, self._step)
        actions = []
        for place, learner in enumerate(self.learners):
            look = learner.memory.look()
            decision = learner.act(look, explore=True)
            if place in self._overheard:
                self._overheard[place].note(look.obs, decision.action, look.alive, look.started)
            learner.memory.decide(decision)
            actions.append(decision.env_action.cpu().numpy())
        if self._season is not None and self._step is not None:
            actions = self._season.play(self._step, actions)
        if self._step is not None:
            for listener in self._listeners:
                listener.overhear([torch.from_numpy(action) for action in actions], self._step)
            if self._shown is not None and self._shown.lines:
                self._shown.note(self._step, actions)
        before, now = Clock(self.steps, self._total), Clock(self.steps + self.num_envs, self._total)
        if self._shaper is not None and self._step is not None:
            self._shaper.look(self._step if self._season is None else self._season.seen(self._step))
        if not any(self._meanwhile):
            updated, step = False, env.step(actions)
        elif isinstance(env, StepsElsewhere):
            env.step_async(actions)
            updated, step = self._learn(meanwhile=True), env.step_wait()
        else:  # in the same order, so that results do not depend on where the environment steps
            updated, step = self._learn(meanwhile=True), env.step(actions)
        self._step = step
        rewards = [None] * len(actions) if self._shaper is None else self._shaper(step, actions, before, now)
        seen = step if self._season is None else self._season.take(step)
        for learner, reward in zip(self.learners, rewards, strict=True):
            learner.memory.observe(seen, reward)
        if self._course is not None:
            self._course.take(seen.finished, step.started, env, now)
        self.steps += self.num_envs
        self._finished = len(step.finished) > 0
        if step.finished:
            self._record(step.finished)
        return updated

    def _record(self, finished: Sequence[Episode]) -> None:
        """Put returns and lengths into the history; of many copies without an object for each episode."""
        history, agents = self.history, [agent for team in self.spec.teams for agent in team.agents]
        self.episodes += len(finished)
        if isinstance(finished, Episodes):
            lengths, column = finished.lengths.tolist(), {agent: n for n, agent in enumerate(finished.agents)}
            returns = finished.returns[:, [column[agent] for agent in agents]]
        else:
            lengths = [episode.length for episode in finished]
            returns = np.array([[episode.returns[agent] for agent in agents] for episode in finished])
        history["episode_rewards"] += returns.sum(1).tolist()
        history["episode_lengths"] += lengths
        self._note_infos(finished)
        if len(self.spec.teams) > 1:
            start = 0
            for team in self.spec.teams:
                rewards = returns[:, start : start + team.num_agents].sum(1)
                history.setdefault(f"episode_rewards/{team.name}", []).extend(rewards.tolist())
                start += team.num_agents

    def _note_infos(self, finished: Sequence[Episode]) -> None:
        """Keep what the latest episodes reported."""
        said: dict[str, list[float]] = {}
        if isinstance(finished, Episodes):
            said = {name: values[-RECENT:].tolist() for name, values in finished.infos.items()}
        else:
            for episode in finished:
                for name, value in episode.info.items():
                    said.setdefault(name, []).append(value)
        for name, values in said.items():
            if not name.startswith("task/") and (name in self._said or len(self._said) < MOST_NAMES):
                self._said[name] = [*self._said.get(name, ()), *values][-RECENT:]

    def _learn(self, meanwhile: bool) -> bool:
        """Update every learner that is ready, of those that learn while the environment steps or of the others.

        Metrics stay tensors until they are logged.
        """
        updated = False
        clock = Clock(self.steps, self._total)
        season = self._season
        for place, (learner, team) in enumerate(zip(self.learners, self.spec.teams, strict=True)):
            if self._meanwhile[place] != meanwhile:
                continue
            if season is not None and not season.learns(place):
                if learner.ready(clock):
                    learner.rest()
            elif learner.ready(clock):
                prefix = f"{team.name}/" if len(self.learners) > 1 else ""
                for name, value in learner.update(clock).items():
                    self._pending[prefix + name] = value
                    updated = True
        if season is not None and not meanwhile:
            with global_streams_kept():
                season.tick(clock)
        return updated

    def _metrics(self, began: _Rate) -> dict[str, float]:
        """One row: where we are, how fast, what episodes return lately, what the learners say."""
        history, over = self.history, RECENT
        metrics: dict[str, float] = {
            "steps": self.steps,
            "episodes": self.episodes,
            "steps_per_second": began(self.steps),
        }
        if history["episode_rewards"]:
            recent = history["episode_rewards"][-over:]
            lengths = history["episode_lengths"][-over:]
            metrics["mean_return"] = sum(recent) / len(recent)
            metrics["mean_length"] = sum(lengths) / len(lengths)
            if len(self.spec.teams) > 1:
                for team in self.spec.teams:
                    recent = history[f"episode_rewards/{team.name}"][-over:]
                    metrics[f"{team.name}/mean_return"] = sum(recent) / len(recent)
        metrics |= {f"info/{name}": sum(values) / len(values) for name, values in self._said.items()}
        metrics |= {f"faults/{kind}": count for kind, count in self.faults.items()}
        for part in (self._shaper, self._course, self._season):
            metrics |= {} if part is None else part.metrics()
        for place, overheard in self._overheard.items():
            prefix = f"{self.spec.teams[place].name}/" if len(self.learners) > 1 else ""
            metrics |= {prefix + name: value for name, value in overheard.metrics().items()}
        metrics |= {} if self._shown is None else self._shown.metrics()
        learnt = {name: float(value) for name, value in self._pending.items()}
        metrics |= learnt
        self._say_what_is_lost_of(learnt)
        for name, in_a_row in metrics.items():
            if name.endswith("non_finite") and in_a_row >= PATIENCE:
                raise NonFiniteError(
                    f"training: the loss was not finite in the last {in_a_row:.0f} updates (step {self.steps}); its "
                    "gradients were skipped, so parameters are finite still. Lower lr, raise adam_eps, or scale rewards"
                )
        self._pending.clear()
        self._logged_at = self.steps
        return metrics

    def _say_what_is_lost_of(self, learnt: Mapping[str, float]) -> None:
        """Once: that some updates came to nothing, which no table of finite numbers would show."""
        lost = [name for name, value in learnt.items() if not math.isfinite(value)]
        lost += [name for name, value in learnt.items() if name.endswith("non_finite") and value > 0]
        if lost and not self._said_lost:
            self._said_lost = True
            logging.getLogger("marl.system").warning(
                "step %s: %s: the loss was not finite, so the update was skipped; scale rewards if they are very large",
                *(f"{self.steps:,}", ", ".join(lost)),
            )

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong in the training environment's copies and was survived, by kind, and ``lost_episodes``."""
        return {} if self._env is None else faults_of(self._env)

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        episodes: int = 100,
        *,
        decentralized: Decentralized = False,
        greedy: bool = True,
        seed: int | None = None,
        env: Any = None,
        num_envs: int | None = None,
        task: Task | None = None,
        experiment: Experiment | None = None,
        metrics: Metrics | None = None,
        decentralised: Decentralized | None = None,
        link: Link | str | None = None,
        tamper: Tamper | None = None,
        silence: str | Sequence[str] = (),
        remove: str | Sequence[str] = (),
        swap: tuple[str, str] | None = None,
        shuffle_messages: bool = False,
        message_entries: str | Sequence[str] | None = None,
    ) -> Report:
        """Play whole episodes in environments of their own and report raw returns. Changes nothing in the system.

        Frozen copies of the policies play. A PSRO run plays its mixtures: for every side and episode one policy is
        drawn.

        Args:
            episodes: how many; each copy plays a fixed share, so short episodes are not preferred.
            decentralized: every agent acts through its own :class:`~marl.playing.single.Agent`, from its own
                observation and inbox alone; ``"processes"`` gives each an operating system process of its own, and asks
                the batched policy in every step what it would do on the same observations (``report.agreement``). The
                same episodes are then played batched as well (``report.batched``).
            greedy: take the most likely action; False samples.
            seed: of the environments and the sampling; None derives one that training never uses.
            env: another environment with the same agents and spaces; None: the training environment's kind.
            num_envs: copies that play side by side; None: at most 16, and one where no more can be made.
            task: the tasks to play, by parameter; None: the curriculum's target, else the world's defaults.
            experiment: what is done to the team and its messages: ``marl.playing.Experiment(silence="agent_0")``.
            metrics: functions of an episode's :class:`~marl.playing.EpisodeRecord` that return a number, by name:
                ``report.metrics["collisions"]`` has the mean and its interval.
            decentralised: the same as ``decentralized``.
            link: the experiment's ``link``, in short; the following likewise.
            tamper: the experiment's ``tamper``.
            silence: the experiment's ``silence``.
            remove: the experiment's ``remove``.
            swap: the experiment's ``swap``.
            shuffle_messages: the experiment's ``shuffle``.
            message_entries: the experiment's ``entries``.

        Raises:
            ConfigError: for what has no meaning here, saying why.
        """
        episodes = check_whole("episodes", episodes, 1)
        spelled = "decentralized" if decentralised is None else "decentralised"
        decentralized = decentralized if decentralised is None else decentralised
        if decentralized not in (False, True, "processes"):
            raise ConfigError(f"{spelled}: expected True, False or 'processes', got {decentralized!r}")
        said: dict[str, Any] = {
            "link": link, "tamper": tamper, "silence": silence, "remove": remove, "swap": () if swap is None else swap,
            "shuffle": shuffle_messages, "entries": message_entries,
        }  # fmt: skip
        given = [name for name, value in said.items() if value is not None and value != () and value is not False]
        if experiment is not None and given:
            raise ConfigError(f"evaluate: give {', '.join(given)} as a part of experiment=")
        if experiment is None:
            experiment = Experiment(**said)
        if num_envs is not None:
            num_envs = check_whole("num_envs", num_envs, 1)
        plan = Plan(
            episodes, self.seed if seed is None else seed, decentralized, greedy, num_envs,
            task if task is not None else self.target, task is not None or env is None, experiment, metrics,
        )  # fmt: skip

        def open_copies(wish: int, spoken: Spoken | None) -> AbstractContextManager[BatchEnv]:
            return lifecycle.closing_batch(self._another_env(wish, env, spoken, exactly=num_envs is not None))

        return evaluate(self.players, plan, open_copies, self._message_entries)

    @property
    def players(self) -> Players:
        """What plays where this system does: frozen copies are made of it."""
        mixtures = [self._mixture(place) for place in range(len(self.spec.teams))]
        sides = self.season.sides if any(mixtures) else ()
        return Players(self.spec, self.device, self.learners, self.channels, sides, mixtures, self.agent, self.spoken)

    def alone(self, seed: int, greedy: bool = True) -> DecentralizedActor:
        """Every agent by itself in one copy of the environment, and what carries messages between them."""
        return self.players.apart(1, seed, greedy)

    def _message_entries(self, batch: BatchEnv) -> Sequence[str]:
        """Where observations show what others said, as the environment or the scenario knows it."""
        world = batch if hasattr(batch, "message_entries") else next(iter(getattr(batch, "envs", ())), None)
        known: Sequence[str] = getattr(world, "message_entries", ())
        return known or (() if self.scenario is None else self.scenario.message_entries)

    @property
    def channels(self) -> list[Channel | None]:
        """The channel of each team; None where nobody talks."""
        return [channel_of(config) for config in self._configs]

    @property
    def target(self) -> Task:
        """The tasks that evaluation plays: those of the curriculum's target. Empty: the world's defaults."""
        if self._lost == "curriculum":
            raise CheckpointError("its curriculum holds code of yours: pass curriculum= to MultiAgentSystem.load")
        curricula = self.curriculum.values() if isinstance(self.curriculum, Mapping) else [self.curriculum]
        return {name: value for one in curricula if one is not None for name, value in one.target.items()}

    # --- single agents ------------------------------------------------------------------------------------------------

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
        for place, (learner, team) in enumerate(zip(self.learners, self.spec.teams, strict=True)):
            if name not in team.agents:
                continue
            index = team.agents.index(name)
            mixture = self._mixture(place)
            if mixture:
                number = next(k for k, side in enumerate(self.season.sides) if name in side.agents)
                first = next(each for each in (side_seed, seed, self.seed) if each is not None)
                draws = np.random.SeedSequence([first, MIXTURE, number])
                return MixedAgent(team, index, mixture, seed, draws, self.device)
            net, distribution = learner.policy(index)
            return Agent(team, index, net, distribution, seed)
        raise ConfigError(f"no agent {name!r}; agents: {', '.join(self.spec.agents)}")

    # --- saving and loading -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, as a tree of tensors, arrays and JSON values."""
        env_state = None
        if self._step is not None:
            env_state = self.env.state_dict()
        elif self._saved_env is not None:
            env_state = self._saved_env
        return {
            "learners": {
                team.name: learner.state_dict() for team, learner in zip(self.spec.teams, self.learners, strict=True)
            },
            "env": env_state,
            "shaping": None if self._shaper is None else self._shaper.state_dict(),
            "curriculum": self._saved_course if self._course is None else self._course.state_dict(),
            "league": self._saved_season if self._season is None else self._season.state_dict(),
            "steps": self.steps,
            "episodes": self.episodes,
            "total": self._total,
            "logged_at": self._logged_at,
            "history": {name: np.asarray(values, dtype=np.float64) for name, values in self.history.items()},
            "pending": dict(self._pending),
            "messages": {
                "heard": {self.spec.teams[place].name: one.state_dict() for place, one in self._overheard.items()},
                "shown": list(self._saved_shown) if self._shown is None else self._shown.state_dict(),
            },
            "said": {name: np.asarray(values) for name, values in self._said.items()},
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state; the environment is brought back when training goes on."""
        for team, learner in zip(self.spec.teams, self.learners, strict=True):
            learner.load_state_dict(state["learners"][team.name])
        self._saved_env = state["env"]
        self._step = None
        if self._shaper is not None and state.get("shaping") is not None:
            self._shaper.load_state_dict(state["shaping"])
        self._saved_course, self._course = state.get("curriculum"), None
        self._saved_season, self._season = state.get("league"), None
        lost = {
            "shaping": state.get("shaping") is not None and self._shaper is None,
            "curriculum": self._saved_course is not None and self.curriculum is None,
            "league": self._saved_season is not None and self.league is None,
        }
        self._lost = next((name for name, gone in lost.items() if gone), None)
        self.steps, self.episodes = int(state["steps"]), int(state["episodes"])
        self._total, self._logged_at = state["total"], int(state["logged_at"])
        self.history = History()
        self.history.update({name: values.tolist() for name, values in state["history"].items()})
        self._pending = dict(state["pending"])
        messages = state.get("messages") or {"heard": {}, "shown": ()}  # older checkpoints have none
        for place, one in self._overheard.items():
            one.load_state_dict(messages["heard"].get(self.spec.teams[place].name, ()))
        self._saved_shown, self._shown = messages["shown"], None
        self._said = {name: values.tolist() for name, values in state.get("said", {}).items()}
        torch.set_rng_state(state["torch_rng"])

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint directory, atomically. Raises OSError if the disk refuses."""
        return checkpoint.save(path, self.state_dict(), self._meta())

    def _meta(self) -> dict[str, Any]:
        return {
            "agents": to_json(self.agents, code=True),
            "shaping": to_json(self.shaping, code=True),
            "curriculum": to_json(self.curriculum, code=True),
            "league": to_json(self.league, code=True),
            "channel": to_json(self.spoken, code=True),
            "env": self._reference,
            "options": to_json(self._options, code=True),
            "num_envs": self.num_envs,
            "workers": self.workers,
            "seed": self.seed,
            "steps": self.steps,
            "spec": _spec_to_json(self.spec),
        }

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: Any = None,
        agents: Agents | None = None,
        device: str = "cpu",
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        shaping: Hooks | None = None,
        curriculum: Curricula | None = None,
        league: Leagues | None = None,
        channel: Spoken | None = None,
        trust: bool = False,
    ) -> MultiAgentSystem:
        """A system as it was when saved.

        A checkpoint chooses no code to run: it may name registered environments, installed scenarios and settings of
        this library. What else it names, such as modules, files and functions of yours, is given again here.

        Args:
            path: the checkpoint directory.
            env: the environment; needed if it was neither a registered id nor an installed scenario's name.
            agents: the learners; needed if they hold your own code (a ``Custom`` network, ``Hindsight``).
            device: where to compute.
            env_kwargs: keywords for the environment instead of those then; needed if these hold code, or paths.
            shaping: the hooks, to train on; needed if they hold your own code.
            curriculum: likewise.
            league: likewise.
            channel: likewise, to play or train at all.
            trust: do whatever the checkpoint says: import and run what it names, open and write to paths in it.

        Raises:
            CheckpointError: if the checkpoint is damaged, names what is not trusted, or does not fit ``env`` or
                ``agents``.
        """
        state, manifest = checkpoint.load(path)
        where = f"checkpoint {path}"
        meta = received.checked(where, manifest["meta"])
        reference = None if env is NOWHERE else env if env is not None else meta["env"]
        if env is None and reference is not None and not trust:
            received.refuse_env(where, reference)
        scenario = resolve_scenario(reference) if reference is not None else None
        options = received.options(where, meta, scenario)
        given = {
            "agents": agents,
            "shaping": shaping,
            "curriculum": curriculum,
            "league": league,
            "channel": channel,
            "env_kwargs": {} if env is NOWHERE else env_kwargs,
        }
        said, lost = received.settings(where, meta | options, given, scenario, trust)
        with received.explained(where):
            spec = _spec_from_json(meta["spec"])
            if agents is None:
                received.refuse_sizes(where, meta, spec, state.get("learners"))
        system = cls.__new__(cls)
        system.scenario = scenario
        system.agents = _checked_agents(said["agents"])
        system.shaping = checked_hooks(said["shaping"] or ())
        system.curriculum = None if said["curriculum"] is None else checked_curricula(said["curriculum"], None)
        system.league = checked_league(said["league"])
        system.seed, system.num_envs, system.workers = (meta[name] for name in ("seed", "num_envs", "workers"))
        system.device = pick_device(device)
        system.spoken = checked_spoken(said["channel"])
        system._trust = trust
        system._world = system._source = scenario.env if scenario is not None else reference
        if system.spoken is not None and reference is not None:
            system._source = system.spoken.source(system._world)
        system._reference = meta["env"]
        system._options = {"env_kwargs": dict(said["env_kwargs"] or {}) or None, "max_steps": options["max_steps"]}
        system._env = None
        with received.explained(where):
            try:
                system._setup(spec)
            except ResourceError as error:
                raise CheckpointError(f"{where}: {error}") from error
        try:
            system.load_state_dict(state)
        except Exception as error:
            other = differences(meta["agents"], to_json(system.agents, code=True))
            reason = f"trained -> given: {'; '.join(other[:4])}" if other else " ".join(str(error).split())
            raise CheckpointError(f"{where} does not fit its settings: {reason:.600}") from error
        system._lost = system._lost or lost
        return system

    def __repr__(self) -> str:
        """Who learns what, and how far they are."""
        teams = [
            f"{team.name}: {type(config).__name__} of {team.num_agents}"
            for team, config in zip(self.spec.teams, self._configs, strict=True)
        ]
        return (
            f"<MultiAgentSystem on {self.spec.env}, {self.num_envs} copies; {', '.join(teams)}; {self.steps:,} steps>"
        )

    # --- environments -------------------------------------------------------------------------------------------------

    @property
    def env(self) -> BatchEnv:
        """The training environment, made when first needed."""
        if self._env is None:
            if self._source is None:
                raise ConfigError("this system was loaded without its environment: pass env= to MultiAgentSystem.load")
            made = self._make_env(self.num_envs, self.workers)
            try:
                check_same_spec(self.spec, made.spec)
            except ConfigError:
                lifecycle.close(made)
                raise
            self._env = made
        return self._env

    @property
    def _patterns(self) -> list[str] | None:
        """The patterns that make the teams."""
        return list(self.agents) if isinstance(self.agents, Mapping) else None

    @property
    def max_steps(self) -> int | None:
        """Steps after which episodes are truncated; None leaves that to the environment."""
        limit: int | None = self._options.get("max_steps")
        return limit

    def make_env(self, **env_kwargs: Any) -> Any:
        """One more environment as its author made it, not batched; keywords such as ``render_mode`` go to it.

        Whoever asks for it closes it. A factory need not take ``render_mode`` if what it makes has that mode already.

        Raises:
            TypeError: if it takes no such keywords.
            ConfigError: if it cannot be made, or not with that ``render_mode``.
        """
        if self._source is None:
            raise ConfigError("this system was loaded without its environment: pass env= to MultiAgentSystem.load")
        source, keywords = self._other_source(), {**(self._options.get("env_kwargs") or {}), **env_kwargs}
        mode = env_kwargs.get("render_mode")
        try:
            return lifecycle.open_env(resolve(source, keywords)[0])
        except lifecycle.NotMade as error:
            if mode is None or not isinstance(error.__cause__, TypeError):
                if env_kwargs and isinstance(error.__cause__, TypeError):
                    raise error.__cause__ from None
                raise self._explained(error) from error.__cause__
            refused = str(error.__cause__)
        except ConfigError as error:
            if mode is None:
                raise
            refused = str(error)
        del keywords["render_mode"]
        try:
            env = lifecycle.open_env(resolve(source, keywords)[0])
        except lifecycle.NotMade as error:
            raise self._explained(error) from error.__cause__
        if render_mode(env) != mode:
            lifecycle.close_env(env)
            raise ConfigError(
                f"render_mode: {self.spec.env}: the function that makes the environment takes no render_mode "
                f"({' '.join(refused.split())}), and what it makes has {render_mode(env)!r}; let it take the keyword, "
                f"or make the environment with render_mode={mode!r}"
            )
        return env

    @property
    def _instance(self) -> bool:
        """Whether this system trains in one environment of the user's, of which it cannot make more."""
        return is_instance(self._source)

    def _other_source(self) -> Any:
        """What makes more environments of the training environment's kind. Raises ConfigError if nothing does."""
        if not self._instance:
            return self._source
        maker = another_like(self._world)
        if maker is None:
            raise ConfigError(
                f"this system has one environment instance, and more are needed here: {lifecycle.PASS_A_FUNCTION}"
            )
        return maker if self.spoken is None else self.spoken.source(maker)

    def _another_env(
        self, num_envs: int, source: Any = None, spoken: Spoken | None = None, *, exactly: bool = False
    ) -> BatchEnv:
        """Copies beside those that train: one where no more can be made, unless it must be ``exactly`` so many.

        An instance is lent as long as no training goes on in it. Raises ConfigError if it does and there is no other.
        """
        if source is None and self._instance and (lifecycle.is_played(self._world) or lifecycle.is_closed(self._world)):
            source = another_like(self._world)
            if source is not None and not self._said_another:
                self._said_another = True
                logging.getLogger("marl.system").info(
                    "%s: training holds the instance; others play in new ones, made from its spec", self.spec.env
                )
        lent = is_instance(self._source if source is None else source)
        if lent and not exactly:
            num_envs = 1
        try:
            try:
                return self._make_env(num_envs, 0, source, spoken, lent)
            except lifecycle.NotMade as error:
                if exactly or not error.made:
                    raise
                found = self._make_env(1, 0, source, spoken, lent)
                logging.getLogger("marl.system").warning("one copy plays instead of %s: %s", num_envs, error)
                return found
        except lifecycle.NotMade as error:
            raise self._explained(error) from error.__cause__

    def _explained(self, error: ConfigError) -> ConfigError:
        """That an environment could not be made, and what may be in its way."""
        if self._env is None:
            return error
        return ConfigError(f"{error}; training holds an open one: if no more can exist, call system.close() first")

    def _make_env(
        self, num_envs: int, workers: int, source: Any = None, spoken: Spoken | None = None, lent: bool = False
    ) -> BatchEnv:
        """Copies of the environment, or of another; ``spoken``: over other links than in training.

        ``lent``: an instance among them is not closed with the copies.
        """
        patterns = self._patterns
        learners = self.agents.values() if isinstance(self.agents, Mapping) else (self.agents,)
        # Asking for the state costs mpe2 a tenth of its speed.
        state = any(learner.reads_state for learner in learners) or reads_state(self.shaping)
        if source is not None:
            other = resolve_scenario(source)
            source = other.env if other is not None else source
            if self.spoken is not None:
                source = (spoken or self.spoken).source(source)
            limit = other.max_steps if other else self.max_steps
            options: dict[str, Any] = {"env_kwargs": dict(other.env_kwargs) if other else None, "max_steps": limit}
            return adapters.make(source, num_envs, patterns, workers=workers, state=state, lent=lent, **options)
        if self._source is None:
            raise ConfigError("this system was loaded without its environment: pass env= to MultiAgentSystem.load")
        world = self._source if spoken is None else spoken.source(self._world)
        return adapters.make(world, num_envs, patterns, workers=workers, state=state, lent=lent, **self._options)

    def close(self) -> None:
        """Release the environment's processes and windows; an instance that was given is closed too."""
        env, self._env, self._step = self._env, None, None
        if env is not None:
            lifecycle.close(env)
        elif self._instance and not lifecycle.is_closed(self._world):
            lifecycle.close_env(self._source)

    def __enter__(self) -> MultiAgentSystem:
        """Use as a context manager to close the environment at the end."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


class _Rate:
    """Environment steps per second since it was made."""

    def __init__(self, steps: int) -> None:
        self.steps, self.time = steps, time.perf_counter()

    def __call__(self, steps: int) -> float:
        return (steps - self.steps) / max(time.perf_counter() - self.time, 1e-9)


def resolve_scenario(env: Any) -> Scenario | None:
    """The scenario that ``env`` is or names; None if it is an environment. Raises ConfigError for a name of neither."""
    if isinstance(env, Scenario):
        return env
    if isinstance(env, str) and (env in names() or env.endswith(".py")):
        return find(env)
    if isinstance(env, str) and env.isidentifier() and importlib.util.find_spec(env) is None:
        return find(env)
    if isinstance(env, str) and ":" in env:
        module_name, _, attribute = env.partition(":")
        with suppress(ImportError):  # who makes the environment says what is missing
            if isinstance(getattr(importlib.import_module(module_name), attribute, None), Scenario):
                return find(env)
    return None


def checked_spoken(channel: Any) -> Spoken | None:
    """Messages as actions, or none. Raises ConfigError for anything else."""
    if channel is None or isinstance(channel, Spoken):
        return channel
    learned = isinstance(channel, Channel)
    hint = "; learned messages are a learner's: marl.ippo(channel=...)" if learned else ""
    raise ConfigError(f"channel: expected marl.Spoken(words=4) or None, got {channel!r}{hint}")


def _newest_in(path: str) -> Path:
    """The newest checkpoint of a run folder; a checkpoint itself."""
    newest = Path(path) / "checkpoints" / "last"
    return newest if newest.is_dir() else Path(path)


def check_whole(name: str, value: object, least: int) -> int:
    """``value`` as an int, NumPy's too. Raises ConfigError unless it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def pick_device(name: str) -> torch.device:
    """A device by name; ``auto`` takes a GPU where there is one. Raises ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: {name!r} is no torch device; use 'cpu', 'cuda' or 'auto'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r} is not available here; use device='cpu' or 'auto'")
    return device


def _checked_agents(agents: Any) -> Agents:
    values = list(agents.values()) if isinstance(agents, Mapping) else [agents]
    if not values:
        raise ConfigError(
            "agents: expected a learner or a mapping from agent patterns to learners, got an empty mapping"
        )
    for value in values:
        if isinstance(value, type) or not isinstance(value, LearnerConfig):
            raise ConfigError(f"agents: expected a learner such as marl.ippo(), got {value!r}")
    return dict(agents) if isinstance(agents, Mapping) else values[0]


def _spec_to_json(spec: Spec) -> dict[str, Any]:
    return {
        "env": spec.env,
        "state_shape": None if spec.state_shape is None else list(spec.state_shape),
        "turn_based": spec.turn_based,
        "teams": [team_to_json(team) for team in spec.teams],
    }


def _spec_from_json(data: Mapping[str, Any]) -> Spec:
    state_shape = None if data["state_shape"] is None else tuple(data["state_shape"])
    if not all(type(size) is int and 0 <= size <= LARGEST_SPACE for size in state_shape or ()):
        raise ConfigError(f"not a state: shape {state_shape!r:.80}")
    return Spec(str(data["env"]), tuple(map(team_from_json, data["teams"])), state_shape, bool(data["turn_based"]))

"""Evaluation: whole episodes of frozen policies in environments of their own, reported with raw returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from marl.adapters.faults import faults_of
from marl.adapters.spoken import Spoken
from marl.channels import Channel, Hub, Link, Tamper
from marl.config import check_whole
from marl.curriculum.evaluation_tasks import EvaluationTasks
from marl.curriculum.tasks import Task, has_tasks
from marl.learners import Learner
from marl.learners.base import channel_net_of
from marl.playing.actor import Actor
from marl.playing.decentralized import AgentInput, DecentralizedActor, LocalPlayer, random_player
from marl.playing.episodes import EpisodeRecord, Recorder, evaluation_seeds, play_episodes
from marl.playing.experiment import Entries, Experiment, in_words
from marl.playing.processes import ProcessPlayer, assemble
from marl.playing.report import Agreement, Metric, Record, Report, summarize
from marl.playing.single import Agent, MixedAgent
from marl.playing.streams import global_streams_kept
from marl.playing.team import FrozenPolicy, Policy, Side, Strategy, TeamActor, team_sides
from marl.types import Array, BatchEnv, ConfigError, Spec, Step

EVALUATION_COPIES = 16
STRANGERS, MIXTURE = 0x57A6, 0x313E  # streams of random players and of draws from mixtures come from (seed, this)

PLAIN = Experiment()
Links = Sequence[Link | None]
Metrics = Mapping[str, Callable[[EpisodeRecord], float]]
Decentralized = bool | Literal["processes"]


@dataclass(frozen=True)
class Players:
    """The policies of a system: its learners, of which frozen copies act, or mixtures of policies.

    Args:
        spec: of the environment that they know.
        device: where networks compute.
        learners: one for each team; they are only copied from.
        channels: of each team; None where nobody talks.
        sides: of the game where policies are mixed; empty: the teams.
        mixtures: the strategy of each team that mixes policies; empty: its learner's policy.
        seed: what mixtures draw from unless told otherwise.
        spoken: messages as actions; None: there are none.
    """

    spec: Spec
    device: torch.device
    learners: Sequence[Learner]
    channels: Sequence[Channel | None]
    sides: Sequence[Side]
    mixtures: Sequence[Strategy]
    seed: int
    spoken: Spoken | None

    def agent(self, name: str, seed: int | None = None, *, side_seed: int | None = None) -> Agent:
        """One agent's own policy: a copy of its parameters. Raises ConfigError if there is no such agent."""
        for place, (learner, team) in enumerate(zip(self.learners, self.spec.teams, strict=True)):
            if name not in team.agents:
                continue
            index = team.agents.index(name)
            if self.mixtures[place]:
                number = next(k for k, side in enumerate(self.sides) if name in side.agents)
                first = next(each for each in (side_seed, seed, self.seed) if each is not None)
                draws = np.random.SeedSequence([first, MIXTURE, number])
                return MixedAgent(team, index, self.mixtures[place], seed, draws, self.device)
            net, distribution = learner.policy(index)
            return Agent(team, index, net, distribution, seed)
        raise ConfigError(f"no agent {name!r}; agents: {', '.join(self.spec.agents)}")

    def strategy(self, place: int) -> Strategy:
        """A team's policies and their probabilities."""
        if self.mixtures[place]:
            return self.mixtures[place]
        net, distribution = self.learners[place].policy(None)
        return [(1.0, Policy(net, distribution, name=self.spec.teams[place].name))]

    def links(self, link: Link | str | None, tamper: Tamper | None) -> list[Link | None]:
        """The link of each team's messages in evaluation. Raises ConfigError if there is no channel."""
        unheard = not any(self.channels)
        if (tamper is not None and unheard) or (link is not None and unheard and self.spoken is None):
            raise ConfigError(
                "link: no team of this system has a channel; train with channel=marl.CommNet() or another"
            )
        own = [None if channel is None else channel.execution or channel.link for channel in self.channels]
        return [
            one if link is None or one is None else Link.parse(link, one) if isinstance(link, str) else link
            for one in own
        ]

    def spoken_over(self, link: Link | str | None) -> Spoken | None:
        """Messages as actions over another link; None if there are none, or no other link is given."""
        if self.spoken is None or link is None:
            return None
        return replace(self.spoken, link=Link.parse(link, self.spoken.link) if isinstance(link, str) else link)

    def together(
        self, copies: int, seed: int, greedy: bool, links: Links, tampers: Sequence[Tamper | None]
    ) -> TeamActor:
        """An actor for whole teams in one batch: frozen copies of the learners' policies, or their mixtures."""
        sides: Sequence[Side] = team_sides(self.spec)
        if any(self.mixtures):
            sides = self.sides
            strategies: list[Strategy] = [
                [(chance, one.with_greedy(greedy)) for chance, one in self.mixtures[side.place]] for side in sides
            ]
        else:
            frozen = [FrozenPolicy(learner, greedy=greedy) for learner in self.learners]
            for policy, link, tamper in zip(frozen, links, tampers, strict=True):
                policy.use(link, tamper)
            strategies = [[(1.0, policy)] for policy in frozen]
        return TeamActor(self.spec, copies, sides, strategies, seed, self.device)

    def apart(
        self,
        copies: int,
        seed: int,
        greedy: bool,
        links: Links | None = None,
        experiment: Experiment | None = None,
        processes: bool = False,
    ) -> DecentralizedActor:
        """An actor in which every agent acts on its own, in this process or in processes of their own."""
        experiment = experiment or PLAIN
        seeds = np.random.SeedSequence(seed).generate_state(copies * len(self.spec.agents), np.uint32)
        strangers = self.strangers(copies, seed, self.spec.agents, talking=True)
        players: list[list[LocalPlayer | ProcessPlayer]] = []
        hubs: list[Hub | None] = []
        begin = 0
        for team, channel, link in zip(
            self.spec.teams, self.channels, links or [None] * len(self.spec.teams), strict=True
        ):
            end = begin + copies * team.num_agents
            streams = seeds[begin:end].reshape(copies, team.num_agents)
            begin = end
            agents = [self.agent(experiment.policy_of(name)) for name in team.agents]
            size = max(agent.size for agent in agents)
            seats: list[LocalPlayer | ProcessPlayer] = []
            for n, agent in enumerate(agents):
                name, own = team.agents[n], streams[:, n].tolist()
                if agent.size != size:
                    raise ConfigError(
                        f"swap: {name!r} and {agent.name!r} do not speak alike: their teams' channels differ"
                    )
                if name in experiment.remove:
                    seats.append(strangers[name])
                elif processes:
                    seats.append(ProcessPlayer(name, agent, own, not greedy, strangers[name]))
                elif isinstance(agent, MixedAgent):  # each episode's draw is the side's, the same for all of its agents
                    draws = [self.agent(agent.name, one, side_seed=seed + e) for e, one in enumerate(own)]
                    seats.append(LocalPlayer(draws, not greedy))
                else:
                    seats.append(LocalPlayer([agent.twin(one) for one in own], not greedy))
            players.append(seats)
            tamper, turns = experiment.tampering(team), self.spec.turn_based
            hubs.append(
                None
                if channel is None
                else Hub(channel, team, size, copies, link=link, turn_based=turns, seed=seed, tamper=tamper)
            )
        assemble([player for seats in players for player in seats if isinstance(player, ProcessPlayer)])
        return DecentralizedActor(self.spec, players, hubs)

    def strangers(self, copies: int, seed: int, names: Sequence[str], talking: bool = False) -> dict[str, LocalPlayer]:
        """Random players for some agents' seats, with the same random streams in one process and in many."""
        table = np.random.SeedSequence([seed, STRANGERS]).generate_state(copies * len(self.spec.agents), np.uint32)
        seeds = dict(zip(self.spec.agents, table.reshape(-1, copies).tolist(), strict=True))
        speeches = [None if (net := channel_net_of(learner)) is None else net.speech for learner in self.learners]
        return {
            name: random_player(team, n, seeds[name], speech.size if talking and speech is not None else 0)
            for team, speech in zip(self.spec.teams, speeches, strict=True)
            for n, name in enumerate(team.agents)
            if name in names
        }


@dataclass(frozen=True)
class EvaluationPlan:
    """Settings of an evaluation.

    Args:
        episodes: how many; each copy plays a fixed share, so short episodes are not preferred.
        seed: of the environments, the actions and the tasks.
        decentralized: every agent acts by itself; ``"processes"``: in a process of its own.
        greedy: take the most likely action; False samples.
        num_envs: exactly so many copies side by side; None: at most 16.
        task: the tasks to play; empty: the environment's own.
        must_have_tasks: whether an environment without tasks is refused.
        experiment: what is done to the team.
        metrics: functions of an episode's record, by name.
    """

    episodes: int
    seed: int
    decentralized: Decentralized = False
    greedy: bool = True
    num_envs: int | None = None
    task: Task | None = None
    must_have_tasks: bool = True
    experiment: Experiment = PLAIN
    metrics: Metrics | None = None

    def checked(self) -> EvaluationPlan:
        """The same with plain numbers. Raises ConfigError."""
        if self.decentralized not in (False, True, "processes"):
            raise ConfigError(f"decentralized: expected True, False or 'processes', got {self.decentralized!r}")
        for name, function in (self.metrics or {}).items():
            if not callable(function):
                raise ConfigError(f"metrics: {name!r}: expected a function of an episode's record, got {function!r}")
        copies = None if self.num_envs is None else check_whole("num_envs", self.num_envs, 1)
        return replace(self, episodes=check_whole("episodes", self.episodes, 1), num_envs=copies)


def evaluate(
    players: Players,
    plan: EvaluationPlan,
    open_copies: Callable[[int, Spoken | None], AbstractContextManager[BatchEnv]],
    entries_of: Callable[[BatchEnv], Sequence[str]],
) -> Report:
    """Play whole episodes with frozen policies and report raw returns. Changes nothing in the players.

    Args:
        players: who plays.
        plan: what is played.
        open_copies: so many copies of the environment, over another link of its own messages; closed at the end.
        entries_of: where an environment's observations show what others said.

    Raises:
        ConfigError: for what has no meaning here, saying why.
    """
    spec, experiment = players.spec, plan.experiment
    links = players.links(experiment.link, experiment.tamper)
    spoken = players.spoken_over(experiment.link)
    env_seed, act_seed, task_seed = evaluation_seeds(plan.seed)
    wish = plan.num_envs or min(plan.episodes, EVALUATION_COPIES)
    with global_streams_kept(), open_copies(wish, spoken) as batch:
        copies = batch.num_envs
        check_same_spec(spec, batch.spec)
        if experiment.entries is None:
            known = entries_of(batch) if experiment.mute or experiment.shuffle else ()
            experiment = replace(experiment, entries=tuple(map(Entries.parse, known)))
        experiment.check(spec, [channel is not None for channel in players.channels], copies)
        tampers = [experiment.tampering(team) for team in spec.teams]
        changed = [*links, None if spoken is None else spoken.link]
        changes = [] if experiment.link is None else [f"link: {in_words(one)}" for one in changed if one is not None]
        changes += experiment.summary
        has_target = bool(plan.task) and (plan.must_have_tasks or has_tasks(batch))

        def play(actor: Actor) -> Report:
            target = EvaluationTasks(plan.task, batch, task_seed) if has_target and plan.task is not None else None
            before = faults_of(batch)
            recorder = Recorder(spec, copies) if plan.metrics else None
            found: dict[str, list[float]] = {name: [] for name in plan.metrics or {}}
            finished = []
            watchers = [] if recorder is None else [recorder]
            with global_streams_kept():
                for episode in play_episodes(batch, actor, plan.episodes, env_seed, target, watchers):
                    finished.append(episode)
                    if recorder is not None:
                        record = recorder.of(episode)
                        for name, function in (plan.metrics or {}).items():
                            found[name].append(_number(name, function(record)))
            # By copy: in which order episodes end depends on the policies, and others play the same ones.
            order = sorted(range(len(finished)), key=lambda number: finished[number].copy)
            report = summarize(spec, [finished[k] for k in order], bool(plan.decentralized), tuple(changes))
            measured = {name: Metric.of([values[k] for k in order]) for name, values in found.items()}
            return replace(report, metrics=measured, **_faults_since(before, batch))

        def alone(processes: bool) -> DecentralizedActor:
            return players.apart(copies, act_seed, plan.greedy, links, experiment, processes)

        def in_one_batch() -> ExperimentActor:
            if plan.decentralized is True or experiment.swap:
                return ExperimentActor(spec, alone(False), experiment)
            strangers = players.strangers(copies, act_seed, experiment.remove)
            team = players.together(copies, act_seed, plan.greedy, links, tampers)
            return ExperimentActor(spec, team, experiment, strangers)

        if plan.decentralized != "processes":
            return play(in_one_batch())
        with closing(alone(True)) as apart:
            both = ComparedActors(ExperimentActor(spec, apart, experiment), in_one_batch())
            report = play(both)
            lost = report.faults | apart.faults
            report = replace(report, faults=lost, agreement=both.agreement(spec))
        return replace(report, batched=replace(play(in_one_batch()), decentralized=False))


def _number(name: str, value: Any) -> float:
    """A metric's value as a float. Raises ConfigError for anything but a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"metrics: {name!r}: expected a number for each episode, got {value!r:.80}") from None


class ExperimentActor:
    """An actor in an experiment: observations are changed, and random players take some seats."""

    def __init__(
        self, spec: Spec, actor: Actor, experiment: Experiment, strangers: Mapping[str, LocalPlayer] | None = None
    ) -> None:
        """``strangers`` take the seats of the agents of these names."""
        self.spec, self.actor, self.experiment, self.strangers = spec, actor, experiment, strangers or {}

    def act(self, step: Step) -> list[Array]:
        """Actions of every team, ``(E, N)`` or ``(E, N, A)``."""
        actions = [action.copy() for action in self.actor.act(self.experiment.shown(self.spec, step))]
        for place, team in enumerate(self.spec.teams):
            for n, name in enumerate(team.agents):
                if name in self.strangers:
                    self.strangers[name].observe(AgentInput.of(step, place, n, None))
                    actions[place][:, n] = self.strangers[name].act()
        return actions


class ComparedActors:
    """An actor that plays, and another that is asked for its action in the same step; both are recorded.

    They see the same observations throughout. Were they to play apart, the rounding of another batch size would lead
    them into different states of a chaotic environment, where right policies do different things.
    """

    def __init__(self, actor: Actor, asked: Actor) -> None:
        """``actor`` plays."""
        self.actor, self.asked = actor, asked
        self.taken: list[Record] = []
        self.wanted: list[Record] = []

    def act(self, step: Step) -> list[Array]:
        """Actions of the first actor."""
        acting = [team.acting.copy() for team in step.teams]
        self.wanted.append((self.asked.act(step), acting))
        actions = self.actor.act(step)
        self.taken.append((actions, acting))
        return actions

    def agreement(self, spec: Spec) -> Agreement:
        """How often both chose the same action."""
        return Agreement.of(spec, self.wanted, self.taken)


def _faults_since(before: Mapping[str, int], batch: BatchEnv) -> dict[str, Any]:
    """The fields of a report about faults of the copies: descriptions, and the number of lost episodes."""
    after = faults_of(batch)
    lost = after.pop("lost_episodes", 0) - before.get("lost_episodes", 0)
    last: Mapping[str, str] = batch.ledger.last if hasattr(batch, "ledger") else {}
    faults = {}
    for kind, count in after.items():
        times = count - before.get(kind, 0)
        if times:
            what = last.get(kind.replace("_", " "))
            faults[kind] = f"{times:,} times" + (f", last: {' '.join(what.split())}" if what else "")
    return {"faults": faults, "lost_episodes": lost}


def check_same_spec(expected: Spec, found: Spec) -> None:
    """Refuse an environment with other agents or spaces. Raises ConfigError."""
    for ours, theirs in zip(expected.teams, found.teams, strict=False):
        for what in ("agents", "obs", "action"):
            if getattr(ours, what) != getattr(theirs, what):
                raise ConfigError(
                    f"environment {found.env}: team {ours.name!r} expects {what} {getattr(ours, what)}, "
                    f"got {getattr(theirs, what)}"
                )
    if len(expected.teams) != len(found.teams):
        raise ConfigError(f"environment {found.env}: expected {len(expected.teams)} teams, got {len(found.teams)}")

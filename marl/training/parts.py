"""The parts of this library, and the order of all parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from marl.channels import ActionMessageStats, ChannelStats, MessageSlot
from marl.curriculum.scheduler import Curriculum
from marl.curriculum.state import CurriculumState
from marl.curriculum.tasks import Task
from marl.league import LeagueContext, LeagueState
from marl.league.state import PolicySource
from marl.learners import Learner
from marl.learners.base import ReadsOthers, channel_net_of
from marl.memory.base import RecordsOthers
from marl.playing.experiment import Entries
from marl.playing.streams import global_streams_kept
from marl.schedules import Clock
from marl.setup import Setup
from marl.shaping.shaper import HasDiscount, Shaper, by_team
from marl.teams import team_named
from marl.training.callback import CallbacksPart
from marl.training.part import Choice, Part, Transition
from marl.types import BatchEnv, ConfigError, Spec, Step

SHAPING, CURRICULUM, LEAGUE = 0x5AFE, 0xC0DE, 0x1EA6  # streams come from (seed, this): learners draw as without
BEFORE = ("shaping", "league", "curriculum")  # parts of users stand between these
AFTER = ("messages", "cross_team", "callbacks")  # and these


@dataclass(frozen=True)
class Context:
    """What parts are built from, besides the setup.

    learners: of each team, as they are at first.
    make_env: copies of the environment beside those that train.
    load: the policies in a checkpoint or run folder.
    target: the tasks that evaluation plays.
    entries_of: where an environment's observations show what others said.
    """

    setup: Setup
    spec: Spec
    device: torch.device
    learners: Sequence[Learner]
    make_env: Callable[[int], BatchEnv]
    load: Callable[[Path], PolicySource]
    target: Callable[[], Task]
    entries_of: Callable[[BatchEnv], Sequence[str]]

    @property
    def num_envs(self) -> int:
        """Copies that train."""
        return self.setup.num_envs or 1

    def seed(self, stream: int) -> np.random.SeedSequence:
        """A stream of one part's own."""
        return np.random.SeedSequence([self.setup.seed, stream])

    def team(self, key: str, what: str) -> str:
        """The name of the team that a key means."""
        return team_named(key, self.spec, self.setup.patterns, what)


Recipe = Callable[[BatchEnv | None], Part]


@runtime_checkable
class MakesPart(Protocol):
    """A feature of a setup that acts in the training loop: its settings build its part, named as its field is."""

    def build_part(self, context: Context, env: BatchEnv | None) -> Part:
        """The part; ``env`` are the copies that train."""
        ...


def recipes(context: Context) -> dict[str, Recipe]:
    """How to build each part that this setup has, by name, in the order in which parts stand.

    Shaping sees raw rewards; then the league says whose seats are whose; the curriculum learns from what the league
    says of finished games; then come features that build parts of their own; parts of users see and may replace all of
    that; the last ones only record what was done, and tell of it.
    """
    setup = context.setup
    found: dict[str, Recipe] = {}
    if by_team(setup.shaping or (), context.spec, setup.patterns):
        found["shaping"] = lambda env: ShapingPart(_shaper(context))
    if setup.league is not None:
        found["league"] = lambda env: LeaguePart(_league_state(context))
    if setup.curriculum is not None:
        found["curriculum"] = lambda env: CurriculumPart(_curriculum_state(context, env))
    for one in fields(setup):
        if isinstance(value := getattr(setup, one.name), MakesPart):
            found[one.name] = partial(value.build_part, context)
    for part in setup.parts:
        name = getattr(part, "name", None)
        if not isinstance(part, Part) or not isinstance(name, str):
            raise ConfigError(f"parts: expected instances of marl.training.Part, each with a name, got {part!r:.80}")
        if name in found or name in (*BEFORE, *AFTER):
            raise ConfigError(f"parts: the name {name!r} is taken")
        found[name] = _kept(part)
    found["messages"] = lambda env: MessagesPart(context, env)
    found["cross_team"] = lambda env: CrossTeamPart()
    found["callbacks"] = lambda env: CallbacksPart()
    return found


def _kept(part: Part) -> Recipe:
    return lambda env: part


def _shaper(context: Context) -> Shaper:
    setup, spec = context.setup, context.spec
    discounts = {
        team.name: config.discount if isinstance(config, HasDiscount) else None
        for team, config in zip(spec.teams, setup.configs, strict=True)
    }
    hooks = by_team(setup.shaping or (), spec, setup.patterns)
    return Shaper(hooks, spec, context.num_envs, context.seed(SHAPING), discounts)


def _curriculum_state(context: Context, env: BatchEnv | None) -> CurriculumState:
    assert env is not None
    given = context.setup.curriculum
    curricula: dict[str | None, Curriculum] = {}
    if isinstance(given, Mapping):
        curricula |= {context.team(key, "curriculum"): one for key, one in given.items()}
    elif given is not None:
        curricula[None] = given
    return CurriculumState(curricula, env, context.seed(CURRICULUM))


def _league_state(context: Context) -> LeagueState:
    setup, spec = context.setup, context.spec
    assert setup.league is not None
    setup.league.check(spec, dict(zip([team.name for team in spec.teams], setup.configs, strict=True)))
    league_context = LeagueContext(
        spec,
        context.num_envs,
        context.seed(LEAGUE),
        context.device,
        tuple(context.learners),
        make_env=context.make_env,
        load=lambda path: context.load(_newest_in(path)),
        team=lambda key: context.team(key, "league"),
        task=context.target(),
    )
    return setup.league.build(league_context)


def _newest_in(path: str) -> Path:
    """The newest checkpoint of a run folder; a checkpoint itself."""
    newest = Path(path) / "checkpoints" / "last"
    return newest if newest.is_dir() else Path(path)


class ShapingPart(Part):
    """Reward shaping."""

    name = "shaping"

    def __init__(self, shaper: Shaper) -> None:
        """``shaper`` has the hooks of all teams."""
        self.shaper = shaper

    def start(self) -> None:
        """Log once which hooks may change the optimal policies."""
        self.shaper.announce()

    def acted(self, choice: Choice) -> None:
        """Copy the step acted on."""
        self.shaper.remember(choice.seen)

    def stepped(self, transition: Transition) -> None:
        """Shape the raw rewards."""
        at = transition
        at.rewards = self.shaper(at.step, at.actions, at.before, at.now)

    def metrics(self) -> dict[str, float]:
        """The mean shaped return of the last episodes."""
        return self.shaper.metrics()

    def state_dict(self) -> dict[str, Any]:
        """States of hooks and returns so far."""
        return self.shaper.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.shaper.load_state_dict(state)


class LeaguePart(Part):
    """Leagues: seats of other players are played by them, and masked for the learners."""

    name = "league"

    def __init__(self, league_state: LeagueState) -> None:
        """``league_state``: the league as it runs."""
        self.league_state = league_state

    def connect(self, learners: Sequence[Learner]) -> None:
        """Use these learners for snapshots."""
        self.league_state.learners = tuple(learners)

    def begin(self, env: BatchEnv, step: Step, clock: Clock) -> None:
        """Fill the pools and assign players."""
        self.league_state.begin(clock)

    def show(self, step: Step) -> Step:
        """The step in which only agents of their learner act."""
        return self.league_state.seen(step)

    def acted(self, choice: Choice) -> None:
        """Replace the learners' actions on seats that other policies play."""
        choice.actions = self.league_state.play(choice.step, choice.actions)

    def stepped(self, transition: Transition) -> None:
        """Record finished games and assign players to the next ones."""
        transition.seen = self.league_state.take(transition.step)

    def learns(self, place: int) -> bool:
        """Whether a team's learner may update now."""
        return self.league_state.learns(place)

    def updated(self, clock: Clock) -> Sequence[int]:
        """Let the pools grow; PSRO restarts its learners after each best response."""
        with global_streams_kept():
            return self.league_state.tick(clock)

    def metrics(self) -> dict[str, float]:
        """Sizes of pools, ratings, win rates."""
        return self.league_state.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Members, seats, results, ratings, streams."""
        return self.league_state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.league_state.load_state_dict(state)


class CurriculumPart(Part):
    """Curricula: the task of each copy's next episode."""

    name = "curriculum"

    def __init__(self, curriculum_state: CurriculumState) -> None:
        """``curriculum_state``: the curricula as they run."""
        self.curriculum_state = curriculum_state

    def options(self) -> Mapping[str, Any]:
        """The first tasks."""
        return self.curriculum_state.first()

    def begin(self, env: BatchEnv, step: Step, clock: Clock) -> None:
        """Choose the second episodes."""
        self.curriculum_state.begin(env, clock)

    def stepped(self, transition: Transition) -> None:
        """Learn from finished episodes and choose the next ones."""
        finished, started = transition.seen.finished, transition.step.started
        self.curriculum_state.take(finished, started, transition.env, transition.now)

    def metrics(self) -> dict[str, float]:
        """The metrics of the schedulers, and the mean task."""
        return self.curriculum_state.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Current tasks, next tasks, and every scheduler."""
        return self.curriculum_state.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.curriculum_state.load_state_dict(state)


class MessagesPart(Part):
    """Statistics of messages: those of channels, and those that observations show."""

    name = "messages"

    def __init__(self, context: Context, env: BatchEnv | None) -> None:
        """``env`` may declare which entries of observations show messages."""
        assert env is not None
        self.spec = context.spec
        self.heard: dict[int, ChannelStats] = {}
        seats = {name: (place, n) for place, team in enumerate(self.spec.teams) for n, name in enumerate(team.agents)}
        known = [Entries.parse(text) for text in context.entries_of(env)]
        lines = [
            MessageSlot(seats[one.listener], seats[one.speaker], one.first, one.last)
            for one in known
            if one.listener in seats and one.speaker in seats
        ]
        spoken = context.setup.channel
        self.shown = ActionMessageStats(lines, 0 if spoken is None else spoken.link.delay)

    def connect(self, learners: Sequence[Learner]) -> None:
        """Find the networks with a channel."""
        nets = {place: channel_net_of(learner) for place, learner in enumerate(learners)}
        self.heard = {place: ChannelStats(net) for place, net in nets.items() if net is not None}

    def uses(self, hook: str) -> bool:
        """Where nobody talks there is nothing to note."""
        return hook != "acted" or bool(self.heard or self.shown.lines)

    def acted(self, choice: Choice) -> None:
        """Record messages and actions."""
        for place, heard in self.heard.items():
            policy_input = choice.inputs[place]
            heard.note(policy_input.obs, choice.decisions[place].action, policy_input.acting, policy_input.started)
        if self.shown.lines:
            self.shown.note(choice.step, choice.actions)

    def metrics(self) -> dict[str, float]:
        """Rates, entropies and informations since the last report."""
        found: dict[str, float] = {}
        for place, heard in self.heard.items():
            prefix = f"{self.spec.teams[place].name}/" if len(self.spec.teams) > 1 else ""
            found |= {prefix + name: value for name, value in heard.metrics().items()}
        return found | self.shown.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Records since the last report."""
        heard = {self.spec.teams[place].name: one.state_dict() for place, one in self.heard.items()}
        return {"heard": heard, "shown": self.shown.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for place, one in self.heard.items():
            one.load_state_dict(state["heard"].get(self.spec.teams[place].name, ()))
        self.shown.load_state_dict(state["shown"])


class CrossTeamPart(Part):
    """Gives learners with cross-team critics the joint action."""

    name = "cross_team"

    def __init__(self) -> None:
        """Start without learners; :meth:`connect` finds them."""
        self.memories: list[RecordsOthers] = []

    def connect(self, learners: Sequence[Learner]) -> None:
        """Give learners with cross-team critics the other teams' learners."""
        self.memories = []
        for learner in learners:
            if isinstance(learner, ReadsOthers) and learner.cross_team is not None:
                learner.cross_team.connect(learners)
                if isinstance(learner.memory, RecordsOthers):
                    self.memories.append(learner.memory)

    def uses(self, hook: str) -> bool:
        """Where no critic reads other teams' actions there is nothing to hand out."""
        return hook != "acted" or bool(self.memories)

    def acted(self, choice: Choice) -> None:
        """Give them the joint action."""
        for memory in self.memories:
            memory.record_joint_action([torch.from_numpy(action) for action in choice.actions], choice.step)

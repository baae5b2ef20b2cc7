"""Playing episodes to record them: those of an evaluation in which every agent acts on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from marl.adapters.copies import CopyOfEnv, LocalBatch
from marl.adapters.describe import metadata_entry, render_mode
from marl.adapters.lifecycle import close_env, closing_batch, innermost
from marl.adapters.rows import Rows
from marl.camera import PICTURES, picture
from marl.config import check_whole, unknown
from marl.curriculum.evaluation_tasks import EvaluationTasks
from marl.curriculum.tasks import has_tasks
from marl.film import FRAMES_PER_SECOND, Filmed, WatchedCopy
from marl.nets.distributions import Bernoulli, Categorical, Distribution, MultiCategorical, mask_logits
from marl.nets.q_head import QHead
from marl.playing.decentralized import DecentralizedActor
from marl.playing.episodes import Recorder, StepWatcher, evaluation_seeds, play_episodes
from marl.playing.evaluate import EVALUATION_COPIES, check_same_spec
from marl.playing.single import Agent
from marl.playing.streams import global_streams_kept
from marl.report.drawing import Drawing, drawn, draws_itself
from marl.report.learning import Expected, Shaped
from marl.report.recording import RUNNING, TERMINATED, TRUNCATED, RecordedEpisode, Recording, frame_bytes
from marl.shaping.shaper import HasDiscount, Shaper
from marl.spaces import entries
from marl.training.parts import ShapingPart
from marl.types import Array, BatchEnv, ConfigError, Episode, Spec, Step, TeamSpec
from marl_runtime.seat import LocalPlayer

LONGEST_SIDE = 320  # pixels of a frame; of larger ones every second, third, ... pixel is kept
SEEN = ("masks", "scores", "values", "messages", "weights", "gates", "attention", "ends")
PROBE = 25  # frames after which the size of all is told
Told = Callable[[str], None]


class Table(Protocol):
    """Others who sit down with the agents, and look on as they play.

    wants: how the environment is to render, the best first.
    """

    wants: Sequence[str]

    def sit(self, actor: DecentralizedActor) -> Mapping[str, str]:
        """Take seats, before the first step; returns who plays in each team where that is not the system alone."""
        ...

    def look(self, env: Any, picture: Array | None, texts: Sequence[str], over: bool) -> None:
        """See what the environment shows after a reset or a step: marks, which refer to ``texts``, or pixels.

        The next episode begins as soon as one is ``over``, whether anybody plays it or not.
        """
        ...


class Recorded(Filmed, Protocol):
    """What a recording asks of a system."""

    seed: int


def record(
    system: Recorded,
    episodes: int = 1,
    *,
    seed: int | None = None,
    greedy: bool = True,
    num_envs: int | None = None,
    pictures: bool = True,
    table: Table | None = None,
    against: Mapping[str, tuple[str, Recorded]] | None = None,
    tell: Told = lambda text: None,
) -> Recording:
    """Play whole episodes and keep everything of them that can be looked at.

    They are those of ``system.evaluate(episodes, seed=seed, greedy=greedy, num_envs=num_envs, decentralized=True)``,
    with the same returns.

    Args:
        system: who plays. Nothing in it changes.
        episodes: how many.
        seed: of the environments and the sampling; None derives one that training never uses.
        greedy: take the most likely action; False samples.
        num_envs: copies that play side by side; None: at most 16.
        pictures: keep what the environment shows: as drawing commands where it is a native world or one of mpe2, else
            as frames where it renders such, at most 320 pixels wide and high.
        table: who else plays. The environment is then its PettingZoo form, which begins other episodes than a native
            world's batch.
        against: other systems that play some teams, by team, each with a name for people: then the episodes are no
            evaluation's.
        tell: is told how much room frames take.

    Raises:
        ConfigError: if no environment can be made, or another system has no such team.
    """
    check_whole("episodes", episodes, 1)
    seed = system.seed if seed is None else seed
    copies = min(episodes, EVALUATION_COPIES) if num_envs is None else check_whole("num_envs", num_envs, 1)
    env_seed, act_seed, task_seed = evaluation_seeds(seed)
    texts: dict[str, int] = {}
    with global_streams_kept(), closing_batch(_copies(system, copies, pictures, texts, table)) as batch:
        check_same_spec(system.spec, batch.spec)
        actor = system.training.players.apart(batch.num_envs, act_seed, greedy)
        seats = _seated(system, actor, against or {}, greedy, act_seed, batch.num_envs)
        guests = {} if table is None else table.sit(actor)
        wanted = system.target
        target = EvaluationTasks(wanted, batch, task_seed) if wanted and has_tasks(batch) else None
        rows, seen = Recorder(batch.spec, batch.num_envs), _Seen(system, batch.num_envs, actor)
        own = [
            None if team.name in seats else one
            for team, one in zip(system.spec.teams, system.training.learners, strict=True)
        ]
        expected = Expected(batch.spec, own, batch.num_envs)
        shaped = Shaped(batch.spec, _shaper(system), batch.num_envs, system.training.clock)
        watchers: list[StepWatcher] = [rows, seen, expected, shaped]
        if isinstance(batch, _Copies):
            shown: _Pictures = batch
        elif pictures and hasattr(batch, "step_only"):
            shown = _BatchPictures(batch, texts)
            watchers.append(shown)
        else:
            shown = _NoPictures()
        found: list[RecordedEpisode] = []
        for episode in play_episodes(batch, actor, episodes, env_seed, target, watchers):
            record = rows.of(episode)
            taken = shown.of(episode)
            if not found and taken and taken[0].ndim == 3:
                tell(_size(taken, episodes))
            found.append(
                RecordedEpisode(
                    returns=dict(episode.returns),
                    length=episode.length,
                    copy=episode.copy,
                    info=dict(episode.info),
                    observations=record.observations,
                    actions=record.actions,
                    rewards=record.rewards,
                    acting=record.acting,
                    pictures=taken,
                    shaping=shaped.of(episode),
                    **_with_values(seen.of(episode), expected.of(episode)),
                )
            )
        kind = "" if not found[0].pictures else "marks" if found[0].pictures[0].ndim == 2 else "frames"
        return Recording(
            env=system.spec.env,
            teams={team.name: team.agents for team in system.spec.teams},
            seed=seed,
            greedy=greedy,
            pictures_are=kind,
            rate=shown.rate,
            scores_are=seen.scores_are,
            texts=tuple(texts) or ("",),
            episodes=tuple(sorted(found, key=lambda one: one.copy)),
            discounts=_discounts(system, seats),
            names=_names(batch, system.spec),
            seats=seats | dict(guests),
        )


def _seated(
    system: Recorded,
    actor: DecentralizedActor,
    against: Mapping[str, tuple[str, Recorded]],
    greedy: bool,
    seed: int,
    copies: int,
) -> dict[str, str]:
    """Give teams to other systems; who plays them, by team. Raises ConfigError."""
    seats = {}
    names = [team.name for team in system.spec.teams]
    for team, (name, other) in against.items():
        if team not in names:
            raise ConfigError(unknown("against", team, names, "team"))
        check_same_spec(system.spec, other.spec)
        theirs, place = other.training.players.apart(copies, seed, greedy), names.index(team)
        actor.players = [theirs.players[k] if k == place else own for k, own in enumerate(actor.players)]
        actor.hubs = [theirs.hubs[k] if k == place else own for k, own in enumerate(actor.hubs)]
        seats[team] = name
    return seats


def _shaper(system: Recorded) -> Shaper | None:
    part = system.training.parts.get("shaping")
    return part.shaper if isinstance(part, ShapingPart) else None


def _discounts(system: Recorded, seats: Mapping[str, str]) -> dict[str, float]:
    teams = zip(system.spec.teams, system.setup.configs, strict=True)
    return {
        team.name: float(one.discount) for team, one in teams if isinstance(one, HasDiscount) and team.name not in seats
    }


def _with_values(thought: dict[str, Any], expected: Mapping[str, Array]) -> dict[str, Any]:
    """What was thought, with what critics expected beside the values of the best actions."""
    return thought | {"values": {**thought["values"], **expected}}


def _names(batch: BatchEnv, spec: Spec) -> dict[str, tuple[str, ...]]:
    """What the entries of observation vectors are called: as the environment says, else by the keys of their spaces."""
    env = innermost(batch.envs[0]) if isinstance(batch, LocalBatch) else batch
    said = getattr(env, "observation_names", None)
    found = {}
    for team in spec.teams:
        for n, agent in enumerate(team.agents):
            own = said(agent) if callable(said) else entries(team.observation_spaces[n])
            if own and not team.obs.is_image:
                found[agent] = tuple(map(str, own))
    return found


class _Pictures(Protocol):
    """Who has the pictures of an episode that has just ended."""

    rate: float

    def of(self, episode: Episode) -> Sequence[Array]:
        """``T + 1`` pictures, or none."""
        ...


class _NoPictures:
    """Nothing can be seen."""

    rate = FRAMES_PER_SECOND

    def of(self, episode: Episode) -> Sequence[Array]:
        """None."""
        return ()


def _copies(
    system: Recorded, copies: int, pictures: bool, texts: dict[str, int], table: Table | None = None
) -> BatchEnv:
    """The environments: native worlds in one batch, which paints its copies; all others are watched one by one."""
    if table is None:
        with closing_batch(system.environments.another(1)) as one:
            native = hasattr(one, "step_only")
        if native or not pictures:
            return system.environments.another(copies)
    env = system.make_env()
    marks, modes = draws_itself(env) and pictures, metadata_entry(env, "render_modes") or ()
    close_env(env)
    wanted = [] if marks or not pictures else [PICTURES] if table is None else table.wants
    mode = next((one for one in wanted if one in modes), None)
    return _Copies(system, copies, mode, texts if marks else None, table)


class _Copies(LocalBatch):
    """Copies of a system's environment, each looked at after every reset and every step."""

    def __init__(
        self,
        system: Recorded,
        copies: int,
        mode: str | None,
        texts: dict[str, int] | None,
        table: Table | None = None,
    ) -> None:
        """``mode``: how they render, None: not at all; ``texts``: of marks, None: they are not drawn as such."""
        self._texts, self._frames, self._table = texts, mode is not None, table
        self._running: list[list[Array]] = [[] for _ in range(copies)]
        self._ended: dict[int, list[Array]] = {}
        keywords = {} if mode is None else {"render_mode": mode}
        super().__init__(
            lambda **task: system.make_env(**keywords, **task),
            copies,
            system.setup.patterns,
            max_steps=system.max_steps,
            state=system.spec.state_shape is not None,
            reset_options=system.setup.reset_options,
            on_bad_obs=system.setup.on_bad_obs or "error",
            **system.environments.tasks,
        )
        self.rate = float(metadata_entry(self.envs[0], "render_fps") or FRAMES_PER_SECOND)
        self._frames = self._frames and render_mode(self.envs[0]) == PICTURES

    def of(self, episode: Episode) -> Sequence[Array]:
        """Its pictures."""
        return self._ended.pop(episode.copy, [])

    def _player(self, env: Any, rows: Rows) -> CopyOfEnv:
        place = next(e for e, one in enumerate(self._rows) if one is rows)
        return WatchedCopy(super()._player(env, rows), lambda env, begins, over: self._look(place, env, begins, over))

    def _look(self, e: int, env: Any, begins: bool, over: bool) -> None:
        seen = None
        if self._texts is not None or self._frames:
            seen = _smaller(picture(env)) if self._texts is None else drawn(env, self._texts)
            if begins:
                self._running[e] = []
            self._running[e].append(seen)
            if over:
                self._ended[e] = self._running[e]
        if self._table is not None:
            self._table.look(env, seen, tuple(self._texts or ()), over)


class _BatchPictures:
    """Looks at a native world's batch, whose episodes begin anew in the very step that ends them."""

    def __init__(self, batch: Any, texts: dict[str, int]) -> None:
        """``texts``: of marks."""
        self._batch, self._twin, self._texts = batch, batch.twin(), texts
        self.rate = FRAMES_PER_SECOND
        self._running: list[list[Array]] = [[] for _ in range(batch.num_envs)]
        self._ended: dict[int, list[Array]] = {}

    def acted(self, step: Step, actions: Sequence[Array]) -> None:
        """Paint every copy, and remember from where the step is taken."""
        self._before = self._batch.state_dict()
        self._actions = [action.copy() for action in actions]
        for e, pictures in enumerate(self._running):
            pictures.append(self._painted(self._batch, e))

    def stepped(self, step: Step) -> None:
        """Of episodes that have ended paint the end, which another batch steps to once more."""
        if not step.started.any():
            return
        self._twin.step_only(self._before, self._actions)
        for e in np.flatnonzero(step.started).tolist():
            self._ended[e] = [*self._running[e], self._painted(self._twin, e)]
            self._running[e] = []

    def of(self, episode: Episode) -> Sequence[Array]:
        """Its pictures."""
        return self._ended.pop(episode.copy, [])

    def _painted(self, batch: Any, e: int) -> Array:
        drawing = Drawing(self._texts)
        batch.draw(drawing, e)
        return drawing.marks


class _Seen:
    """What agents might do, what they thought of it, what they heard, and how it ended for each of them."""

    def __init__(self, system: Recorded, num_envs: int, actor: DecentralizedActor) -> None:
        """Agents keep the outputs of their networks from now on."""
        spec = system.spec
        self._spec, self._actor, self._learners = spec, actor, system.training.learners
        self._running: list[list[dict[str, dict[str, Array]]]] = [[] for _ in range(num_envs)]
        self._ended: dict[int, list[dict[str, dict[str, Array]]]] = {}
        self.scores_are: dict[str, str] = {}
        self._agents: dict[str, Sequence[Agent]] = {}
        self._talkers: dict[str, list[Sequence[Agent]]] = {}
        for team, players in zip(spec.teams, actor.players, strict=True):
            for name, player in zip(team.agents, players, strict=True):
                if isinstance(player, LocalPlayer) and all(type(agent) is Agent for agent in player.agents):
                    agents = [agent for agent in player.agents if isinstance(agent, Agent)]
                    kind = _scores_are(agents[0].distribution)
                    if agents[0].net is not None and kind:
                        self._agents[name], self.scores_are[name] = agents, kind
                        for agent in agents:
                            agent.keeps_outputs = True
            talkers = [self._agents[name] for name in team.agents if name in self._agents]
            if len(talkers) == team.num_agents and all(agents[0].talks for agents in talkers):
                self._talkers[team.name] = talkers

    def acted(self, step: Step, actions: Sequence[Array]) -> None:
        """Copy what the step was acted on with."""
        for e, rows in enumerate(self._running):
            row: dict[str, dict[str, Array]] = {name: {} for name in SEEN}
            for place, (team, seen) in enumerate(zip(self._spec.teams, step.teams, strict=True)):
                for n, name in enumerate(team.agents):
                    mask = None if seen.action_mask is None else seen.action_mask[e, n]
                    if mask is not None:
                        row["masks"][name] = mask.copy()
                    if name in self._agents:
                        thought = _scores(self._agents[name][e], mask, bool(seen.acting[e, n]))
                        row["scores"][name] = thought
                        if self._says_value(place, name):
                            legal = thought if mask is None else thought[mask[: len(thought)]]
                            row["values"][name] = np.array(legal.max() if len(legal) else 0.0, dtype=np.float32)
                inbox = self._actor.inboxes[place]
                if inbox is not None:
                    row["messages"][team.name] = inbox.message[e].numpy().copy()
                    row["weights"][team.name] = inbox.weight[e].numpy().copy()
                loud = self._actor.loudness[place]
                if loud is not None:
                    row["gates"][team.name] = loud[e].copy()
                self._attended(row["attention"], team, seen.acting[e], e)
            rows.append(row)

    def _says_value(self, place: int, name: str) -> bool:
        """Whether an agent's values are of its own return: those of a mixer are shares of the team's."""
        return self.scores_are[name] == "values" and not getattr(self._learners[place], "mixing", False)

    def _attended(self, row: dict[str, Array], team: TeamSpec, acting: Array, e: int) -> None:
        """Whom each listener attended to in its newest step; nobody where it did not act."""
        shares = [agents[e].attention for agents in self._talkers.get(team.name, ())]
        if any(one is not None for one in shares):
            count = team.num_agents
            blank = np.zeros(count, dtype=np.float32)
            rows = [one if one is not None and acts else blank for one, acts in zip(shares, acting, strict=True)]
            row[team.name] = np.stack(rows)

    def stepped(self, step: Step) -> None:
        """Copy how it ended."""
        for e, rows in enumerate(self._running):
            for team, seen in zip(self._spec.teams, step.teams, strict=True):
                for n, name in enumerate(team.agents):
                    end = TERMINATED if seen.terminated[e, n] else TRUNCATED if seen.truncated[e, n] else RUNNING
                    rows[-1]["ends"][name] = np.array(end, dtype=np.uint8)
            if step.started[e]:
                self._ended[e], self._running[e] = rows, []

    def of(self, episode: Episode) -> dict[str, Any]:
        """Of an episode that has just ended, by the names of a recording's fields."""
        rows = self._ended.pop(episode.copy)
        found: dict[str, Any] = {}
        for key in SEEN:  # attention is there from the step on in which somebody first acts
            names = dict.fromkeys(name for row in rows for name in row[key])
            found[key] = {
                name: np.stack([row[key].get(name, np.zeros_like(rows[-1][key][name])) for row in rows])
                for name in names
                if name in rows[-1][key]
            }
        return found


def _scores_are(distribution: Distribution) -> str:
    if isinstance(distribution, QHead):
        return "values"
    return "probabilities" if isinstance(distribution, Categorical | MultiCategorical | Bernoulli) else ""


def _scores(agent: Agent, mask: Array | None, acting: bool) -> Array:
    """What an agent thought of each of its actions ``(L,)`` in its newest step; zeros where it did not act."""
    distribution = agent.distribution
    wide = agent.team.action.num_choices
    out = np.zeros(wide, dtype=np.float32)
    if not acting or agent.outputs is None:
        return out
    outputs = torch.from_numpy(np.asarray(agent.outputs))
    if isinstance(distribution, QHead):
        found = distribution.values(outputs)
    elif isinstance(distribution, Bernoulli):
        found = outputs.sigmoid()
    else:
        sizes = distribution.sizes if isinstance(distribution, MultiCategorical) else [distribution.size]
        legal = None if mask is None else torch.from_numpy(mask[: sum(sizes)])
        parts = torch.split(mask_logits(outputs[: sum(sizes)], legal), sizes)
        found = torch.cat([part.softmax(-1) for part in parts])
    out[: len(found)] = found[:wide].numpy()
    return out


def _smaller(frame: Array) -> Array:
    """A frame whose sides are not too long."""
    stride = -(-max(frame.shape[:2]) // LONGEST_SIDE)
    return np.ascontiguousarray(frame[::stride, ::stride])


def _size(pictures: Sequence[Array], episodes: int) -> str:
    """How many bytes the frames of all episodes will take, if they are as long as the one with these."""
    each, steps = frame_bytes(pictures[:PROBE]), len(pictures) - 1
    return (
        f"frames take about {each / 1e3:.1f} kB a step: {episodes:,} episodes of {steps:,} steps, as long as the "
        f"first, {each * steps * episodes / 1e6:,.1f} MB"
    )

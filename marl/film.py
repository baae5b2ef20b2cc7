"""Episodes to look at: agents by themselves act as in evaluation, and each frame is kept."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from marl.adapters.copies import CopyOfEnv, LocalBatch
from marl.adapters.describe import metadata_entry, render_mode
from marl.adapters.lifecycle import close_env, closing_batch
from marl.adapters.rows import Rows
from marl.adapters.spoken_envs import SpokenAEC, SpokenParallel
from marl.camera import PICTURES, Camera, camera_for
from marl.curriculum.evaluation_tasks import EvaluationTasks
from marl.curriculum.tasks import Task, has_tasks
from marl.environments import Environments
from marl.logs.files import replace_file
from marl.notebook import html_image
from marl.panel import Talk, beside, captioned
from marl.playing.decentralized import DecentralizedActor
from marl.playing.episodes import evaluation_seeds, play_episodes
from marl.playing.evaluate import check_same_spec
from marl.playing.streams import global_streams_kept
from marl.setup import Setup
from marl.training.state import TrainingState
from marl.types import Array, ConfigError, Spec

FRAMES_PER_SECOND = 15.0
MOST_NUMBERS = 3  # of an action in a caption


class Filmed(Protocol):
    """What a film asks of a system."""

    spec: Spec
    training: TrainingState
    environments: Environments
    setup: Setup
    max_steps: int | None

    @property
    def target(self) -> Task:
        """The tasks to play."""
        ...

    def make_env(self, **env_kwargs: Any) -> Any:
        """One more environment as its author made it."""
        ...


@dataclass
class Played:
    """An episode that was played for its pictures; in a notebook it shows itself.

    Args:
        frames: ``(H, W, 3)`` uint8.
        returns: the return of every agent.
        length: steps.
        rate: frames per second.
        totals: what every agent has got up to each frame, in the order of ``returns``; a GIF has them below its frames.
        actions: what every agent did to come to each frame, in words, empty where it did nothing; likewise.
    """

    frames: list[Array] = field(default_factory=list)
    returns: dict[str, float] = field(default_factory=dict)
    length: int = 0
    rate: float = FRAMES_PER_SECOND
    totals: list[tuple[float, ...]] = field(default_factory=list)
    actions: list[tuple[str, ...]] = field(default_factory=list)

    def save(self, path: str | Path) -> Path:
        """Write a GIF with step and returns below each frame (extra ``play``), which may not be there: ConfigError."""
        return write_gif([self], self.rate, Path(path))

    def __repr__(self) -> str:
        """Length and returns, not the pictures."""
        return f"<Played: {self._words()}; {len(self.frames):,} frames>"

    def _repr_html_(self) -> str:
        """The GIF, with the returns below it."""
        return html_image(gif([self], self.rate), "gif", self._words())

    def _words(self) -> str:
        agents = ", ".join(f"{agent} {value:.2f}" for agent, value in self.returns.items())
        return f"{self.length:,} steps, return {sum(self.returns.values()):.2f} ({agents})"


def play(
    system: Filmed, episodes: int = 1, seed: int = 0, max_steps: int = 1000, explore: bool = False
) -> tuple[list[Played], float]:
    """Play some episodes and return them with the environment's frames per second.

    They are those of ``system.evaluate(episodes, seed=seed, num_envs=1, decentralized=True)``, cut after ``max_steps``;
    a compiled world is played through its PettingZoo form, which begins other episodes than its batch.

    Raises:
        ConfigError: if the environment cannot be rendered to pictures.
    """
    env_seed, act_seed, task_seed = evaluation_seeds(seed)
    actors = system.training.players.apart(1, act_seed, not explore)
    limit = min(max_steps, system.max_steps or max_steps)
    with global_streams_kept(), closing_batch(Film(system, actors, limit)) as film:
        check_same_spec(system.spec, film.spec)
        wanted = system.target
        target = EvaluationTasks(wanted, film, task_seed) if wanted and has_tasks(film) else None
        rate = float(metadata_entry(film.envs[0], "render_fps") or FRAMES_PER_SECOND)
        played = [
            Played(film.frames, dict(episode.returns), episode.length, rate, film.totals, film.actions)
            for episode in play_episodes(film, actors, episodes, env_seed, target)
        ]
        return played, rate


class Film(LocalBatch):
    """One copy of a system's environment, as a batch of one.

    :attr:`frames` are those of its last whole episode, :attr:`totals` the agents' returns up to each of them,
    :attr:`actions` what led there.
    """

    def __init__(self, system: Filmed, actors: DecentralizedActor, max_steps: int) -> None:
        """``actors``: who plays in it, and may talk."""
        self.actors = actors
        self.frames: list[Array] = []
        self.totals: list[tuple[float, ...]] = []
        self.actions: list[tuple[str, ...]] = []
        self._camera: Camera | None = None  # of the episode that runs
        self._talked: list[list[Talk]] = []
        self._paid: list[tuple[float, ...]] = []
        self._done: list[tuple[str, ...]] = []
        super().__init__(
            lambda **task: _pictured(system, task),
            1,
            system.setup.patterns,
            max_steps=max_steps,
            state=False,
            reset_options=system.setup.reset_options,
            on_bad_obs=system.setup.on_bad_obs or "error",
            **system.environments.tasks,
        )

    def _player(self, env: Any, rows: Rows) -> CopyOfEnv:
        self._watched = WatchedCopy(super()._player(env, rows), self._film)
        self._acting = rows.acting.copy()
        return self._watched

    def _film(self, env: Any, begins: bool, over: bool) -> None:
        """Keep what the environment shows now, before it is reset."""
        if begins or self._camera is None:
            self._camera, self._talked, self._paid, self._done = camera_for(env), [], [], []
        self._camera.take()
        self._talked.append([] if begins else self._talks(env))
        self._paid.append(tuple(self._rows[0].returns))
        taken = [None] * len(self._acting) if begins else self._watched.actions
        self._done.append(tuple(_in_words(one) if acts else "" for one, acts in zip(taken, self._acting, strict=True)))
        self._acting = self._rows[0].acting.copy()
        if over:
            # Nothing is said before the first step.
            self._talked[0] = [replace(talk, weight=np.zeros_like(talk.weight)) for talk in self._talked[-1]]
            shown = zip(self._camera.pictures(), self._talked, strict=True)
            self.frames = [beside(frame, talks) if talks else frame for frame, talks in shown]
            self.totals, self.actions, self._camera = self._paid, self._done, None

    def _talks(self, env: Any) -> list[Talk]:
        """What was heard last."""
        if isinstance(env, SpokenParallel | SpokenAEC):
            exchange = env.exchange
            loud = (exchange.heard != 0).any(-1)
            words = not exchange.codecs[0].numbers
            return [Talk(tuple(map(str, exchange.agents)), loud * 1.0, exchange.heard.copy(), words)]
        found = []
        for team, inbox in zip(self.actors.spec.teams, self.actors.inboxes, strict=True):
            if inbox is not None:
                count, message = team.num_agents, inbox.message[0].numpy()
                message = np.broadcast_to(message, (count, *message.shape[1:]))
                found.append(Talk(team.agents, inbox.weight[0].numpy().copy(), message.copy(), False))
        return found


class WatchedCopy:
    """A copy of an environment that takes a picture after each reset and each step."""

    def __init__(self, copy: CopyOfEnv, film: Callable[[Any, bool, bool], None]) -> None:
        """``film``: told of the environment, whether an episode begins, and whether it is over."""
        self.copy, self.env, self.film = copy, copy.env, film
        self.actions: Sequence[Any] = ()  # of the newest step

    def begin(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        """Start an episode and take a picture."""
        self.copy.begin(seed, options)
        self.film(self.env, True, False)

    def step(self, actions: Sequence[Any]) -> bool:
        """Step and take a picture; True when the episode is over."""
        self.actions = actions
        over = self.copy.step(actions)
        self.film(self.env, False, over)
        return over


def _in_words(action: Any) -> str:
    """An encoded action, short."""
    if action is None:
        return ""
    numbers = np.asarray(action).reshape(-1)
    shown = [str(int(one)) if numbers.dtype.kind in "biu" else f"{one:.1f}" for one in numbers[:MOST_NUMBERS]]
    return " ".join(shown) + (" ..." if len(numbers) > MOST_NUMBERS else "")


def _pictured(system: Filmed, task: Mapping[str, Any]) -> Any:
    """One of a system's environments that renders pictures, made with a task. Raises ConfigError."""
    env = system.make_env(render_mode=PICTURES, **task)
    modes = metadata_entry(env, "render_modes")
    if PICTURES not in ([render_mode(env)] if modes is None else modes):
        close_env(env)
        raise ConfigError(
            f"{system.spec.env} renders no pictures (render_modes: {', '.join(map(str, modes or ())) or 'none'})"
        )
    return env


def write_gif(episodes: list[Played], rate: float, path: Path) -> Path:
    """Write the frames of all episodes as one endless GIF. Raises ConfigError."""
    pictures = gif(episodes, rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, pictures)  # it may lie in a run folder: never through a link
    return path


def gif(episodes: list[Played], rate: float) -> bytes:
    """The frames of all episodes as one endless GIF. Raises ConfigError."""
    frames = [frame for played in episodes for frame in _captioned(played)]
    if not frames:
        raise ConfigError("the environment's render() gave no pictures")
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    canvas = np.full((len(frames), height, width, 3), 255, dtype=np.uint8)
    for place, frame in enumerate(frames):
        canvas[place, : frame.shape[0], : frame.shape[1]] = frame
    try:
        import imageio.v3 as imageio
    except ImportError:
        raise ConfigError("imageio is not installed: pip install 'marl-system[play]'") from None
    # Players round a frame's time to hundredths of a second, and slow down below two of them.
    file = io.BytesIO()
    imageio.imwrite(file, canvas, extension=".gif", duration=max(20.0, round(100 / rate) * 10), loop=0)
    return file.getvalue()


def _captioned(played: Played) -> list[Array]:
    """Frames with the step, the return so far, whose it is, and what was done to come there. Raises ConfigError."""
    if not played.totals:
        return played.frames
    several = len(played.returns) > 1
    texts = []
    done = played.actions or [("",) * len(played.returns)] * len(played.totals)
    for step, (totals, actions) in enumerate(zip(played.totals, done, strict=True)):
        whole = f"step {step} of {played.length}   return {sum(totals):.2f}{' (sum of agents)' if several else ''}"
        said = [f"   did {one}" if one else "" for one in actions]
        each = [
            f"{agent} {value:.2f}{did}" for agent, value, did in zip(played.returns, totals, said, strict=True)
        ]  # fmt: skip
        texts.append((whole, each) if several else (whole + said[0], []))
    return captioned(played.frames, texts)

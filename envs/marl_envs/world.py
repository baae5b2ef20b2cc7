"""A native world: what its author declares, and the PettingZoo ParallelEnv that every world also is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv

from marl.types import Array, ConfigError, EnvContractError
from marl_envs.batch import WorldBatch, WorldCopies
from marl_envs.kernel import RESTART, STEP_ONLY, Kernels, compile_loop

if TYPE_CHECKING:
    from marl_envs.draw import Canvas


@dataclass(frozen=True)
class Parameter:
    """A task parameter of a world: one number per copy, fixed within an episode, that a curriculum may choose.

    low, high: the range, both ends included; default: its value unless a curriculum says otherwise.
    integer: whether only whole numbers have a meaning.
    """

    low: float
    high: float
    default: float
    integer: bool = False

    def check(self, name: str, values: Array) -> None:
        """Raise ConfigError unless all values lie in the range."""
        whole = not self.integer or bool(np.all(values == np.floor(values)))
        if not (np.all(values >= self.low) and np.all(values <= self.high) and whole):
            kind = "whole numbers" if self.integer else "numbers"
            raise ConfigError(
                f"task parameter {name!r}: expected {kind} in [{self.low:g}, {self.high:g}], got {values}"
            )


class World(ParallelEnv[str, Any, Any]):
    """One definition, three uses: a PettingZoo environment, `batch_env` for training, and pictures.

    A subclass declares in ``__init__`` its agents with their spaces (all actions Discrete, or all Box), its task
    parameters and
    ``max_cycles``; `allocate` makes its state arrays; ``kernels`` says what happens to one copy; `draw` paints one
    copy.
    """

    kernels: ClassVar[Kernels]
    info_names: ClassVar[tuple[str, ...]] = ()  # numbers reported when an episode ends, written by ``kernels.info``
    shared: ClassVar[tuple[str, ...]] = ()  # fields of the state that no kernel writes: they follow from the parameters
    scratch: ClassVar[tuple[str, ...]] = ()  # fields that kernels write before they read them: nothing lives there
    message_entries: tuple[str, ...] = ()  # where observations show what others said: "listener_0<speaker_0:8-10"

    def __init_subclass__(cls, *, name: str | None = None, render_fps: int = 10, **kwargs: Any) -> None:
        """``class Spread(World, name="spread_v0")``: the name under which PettingZoo and logs know the world."""
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.metadata = {"render_modes": ["human", "rgb_array"], "name": name, "render_fps": render_fps}

    def __init__(
        self,
        *,
        observation_spaces: Mapping[str, gymnasium.Space[Any]],
        action_spaces: Mapping[str, gymnasium.Space[Any]],
        max_cycles: int,
        tasks: Mapping[str, Parameter] | None = None,
        state_space: gymnasium.spaces.Box | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        self.possible_agents = list(observation_spaces)
        self.agents: list[str] = []
        self.observation_spaces = dict(observation_spaces)
        # Kernels write vectors: a dictionary's entries side by side, in the order Gymnasium flattens them.
        self.flat_spaces = {
            name: gymnasium.spaces.flatten_space(space) if isinstance(space, gymnasium.spaces.Dict) else space
            for name, space in observation_spaces.items()
        }
        self.action_spaces = dict(action_spaces)
        if max_cycles < 1:
            raise ConfigError(f"{type(self).__name__}: expected max_cycles of at least 1, got {max_cycles}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            modes = ", ".join(self.metadata["render_modes"])
            raise ConfigError(f"{type(self).__name__}: expected render_mode None, {modes}; got {render_mode!r}")
        self.task_space: dict[str, Parameter] = {
            **(tasks or {}),
            "max_cycles": Parameter(1, sys.maxsize, max_cycles, integer=True),
        }
        self.render_mode = render_mode
        kinds = {type(space) for space in self.action_spaces.values()}
        if len(kinds) != 1 or not kinds <= {gymnasium.spaces.Discrete, gymnasium.spaces.Box}:
            raise ConfigError(f"{type(self).__name__}: expected all action spaces Discrete or all Box, got {kinds}")
        self.box_actions = kinds == {gymnasium.spaces.Box}
        self.image_obs = any(len(space.shape or ()) == 3 for space in self.flat_spaces.values())
        # Equally wide vectors: the state is the observations seen as one row, and costs nothing.
        shapes = {space.shape for space in self.flat_spaces.values()}
        self.state_is_obs = self.kernels.state is None and not self.image_obs and len(shapes) == 1
        self.join_state = self.kernels.state is None and not self.image_obs and len(shapes) > 1
        if state_space is None and not self.image_obs:
            width = sum(int(np.prod(shape)) for shape in (space.shape for space in self.flat_spaces.values()) if shape)
            state_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        if state_space is not None:
            self.state_space = state_space
        self._core: WorldCopies | None = None
        self._seeded = False
        self._canvas: Canvas | None = None

    # -- what an author fills in --------------------------------------------------------------------------------------

    def allocate(self, num_envs: int) -> Any:
        """The state of ``num_envs`` copies: a NamedTuple of arrays (first axis the copy) and of shared constants."""
        raise NotImplementedError

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """The least and the greatest value, both included, of fields of the state: of all that hold whole numbers.

        A bound is one number, or one for each place of the field's last axes. Kernels index and loop by these numbers
        without a look, so a saved state with others is refused.
        """
        return {}

    def action_names(self, agent: str) -> tuple[str, ...]:
        """What an agent's actions are called where a person plays it (``marl view --play``); none: by their numbers."""
        return ()

    def draw(self, canvas: Canvas, s: Any, e: int) -> None:
        """Paint copy ``e``; by default nothing but the background."""

    # -- the batched form ---------------------------------------------------------------------------------------------

    def batch_env(self, num_envs: int, patterns: Sequence[str] | None = None, *, first_copy: int = 0) -> WorldBatch:
        """``num_envs`` copies that step together; copy ``e`` draws from the stream of ``(seed, first_copy + e)``."""
        return WorldBatch(self, num_envs, patterns, first_copy=first_copy)

    @classmethod
    def loop(cls, *, box: bool, join_state: bool) -> Any:
        """The compiled loop over copies of this world."""
        loops = cls.__dict__.get("_loops")
        if loops is None:
            loops = {}
            cls._loops = loops  # type: ignore[attr-defined]
        if (box, join_state) not in loops:
            filename = cls.kernels.step.py_func.__code__.co_filename
            loops[box, join_state] = compile_loop(
                cls.kernels, cls.__name__, cls.__module__, filename, box=box, join_state=join_state
            )
        return loops[box, join_state]

    # -- the PettingZoo face ------------------------------------------------------------------------------------------

    @property
    def core(self) -> WorldCopies:
        """The single copy behind the PettingZoo face."""
        if self._core is None:
            self._core = WorldCopies(self, 1)
            self._widths = self._core.widths.tolist()
        return self._core

    @property
    def max_cycles(self) -> int:
        """Steps after which an episode is cut off."""
        return int(self.task_space["max_cycles"].default)

    @max_cycles.setter
    def max_cycles(self, value: int) -> None:
        self.task_space["max_cycles"] = Parameter(1, sys.maxsize, value, integer=True)
        self.core.task[:, -1] = value
        self.core.pending[:, -1] = value

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """What that agent sees."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """What that agent may do."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
        """Start an episode; ``options={"task": {name: value}}`` chooses its task."""
        core = self.core
        if seed is None and not self._seeded:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if seed is not None:
            core.seed(seed, 0)
            self._seeded = True
        core.set_tasks((options or {}).get("task") or {})
        core.run(RESTART)
        self.agents = list(self.possible_agents) if self.kernels.acting is None else self._living()
        if self.render_mode == "human":
            self.render()
        return self._observations(self.agents), self._infos(self.agents)

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Array], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """One step of all living agents."""
        acting = self.agents
        if not acting:
            return {}, {}, {}, {}, {}
        core = self.core
        self._fill(actions, acting)
        ended = core.run(STEP_ONLY)
        reward = core.reward[0].tolist()
        terminated = core.terminated[0].tolist()
        truncated = core.truncated[0].tolist()
        names = self.possible_agents
        if len(acting) == len(names):
            rewards = dict(zip(names, reward, strict=True))
            terminations = dict(zip(names, terminated, strict=True))
            truncations = dict(zip(names, truncated, strict=True))
        else:
            members = set(acting)
            rewards = {a: r for a, r in zip(names, reward, strict=True) if a in members}
            terminations = {a: t for a, t in zip(names, terminated, strict=True) if a in members}
            truncations = {a: t for a, t in zip(names, truncated, strict=True) if a in members}
        observations, infos = self._observations(acting), self._infos(acting)
        if ended:
            self.agents = []
        elif self.kernels.acting is not None:
            self.agents = self._living()
        if self.render_mode == "human":
            self.render()
        return observations, rewards, terminations, truncations, infos

    def state(self) -> Array:
        """The global state, float32."""
        core = self.core
        if self.state_is_obs:
            return core.obs[0].reshape(-1).copy()  # type: ignore[no-any-return]
        if core.state is None:
            raise NotImplementedError(f"{self.metadata['name']} has no global state vector")
        return core.state[0].copy()  # type: ignore[no-any-return]

    def _living(self) -> list[str]:
        return [agent for agent, lives in zip(self.possible_agents, self.core.acting[0].tolist(), strict=True) if lives]

    def _fill(self, actions: Mapping[str, Any], acting: Sequence[str]) -> None:
        row = self.core.actions[0]
        if len(acting) < len(row):
            row[...] = 0
        for n, agent in enumerate(self.possible_agents):
            if agent not in actions:
                if agent in acting:
                    raise EnvContractError(
                        f"{agent} is alive but got no action; give one to each of {', '.join(acting)}"
                    )
                continue
            if self.box_actions:
                action = np.asarray(actions[agent], dtype=np.float32).reshape(-1)
                width = self.core.choices[n]
                if action.shape[0] != width:
                    raise EnvContractError(f"action of {agent}: expected shape ({width},), got {action.shape}")
                row[n, :width] = action
            else:
                row[n] = actions[agent]

    def _observations(self, agents: Sequence[str]) -> dict[str, Array]:
        core = self.core
        if self.image_obs:
            rows = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in core.obs[0]]
            seen = zip(self.possible_agents, rows, strict=True)
        else:
            copied = core.obs[0].copy()
            seen = zip(self.possible_agents, (copied[n, :w] for n, w in enumerate(self._widths)), strict=True)
        spaces = self.observation_spaces
        return {
            agent: gymnasium.spaces.unflatten(spaces[agent], row)
            if isinstance(spaces[agent], gymnasium.spaces.Dict)
            else row
            for agent, row in seen
            if agent in agents
        }

    def _infos(self, agents: Sequence[str]) -> dict[str, dict[str, Any]]:
        if self.kernels.action_mask is None:
            return {agent: {} for agent in agents}
        action_mask, choices = np.asarray(self.core.action_mask)[0], self.core.choices
        masks = {agent: action_mask[n, : choices[n]].astype(np.int8) for n, agent in enumerate(self.possible_agents)}
        return {agent: {"action_mask": masks[agent]} for agent in agents}

    # -- pictures -----------------------------------------------------------------------------------------------------

    def render(self) -> Array | None:
        """Paint the copy: an ``(H, W, 3)`` uint8 array for ``rgb_array``, a window for ``human``."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() without a render_mode; pass render_mode='rgb_array' or 'human' at construction"
            )
            return None
        if self._canvas is None:
            from marl_envs.draw import Canvas  # pygame is needed for pictures only

            self._canvas = Canvas(self.metadata["name"], self.render_mode == "human", self.metadata["render_fps"])
        self._canvas.clear()
        self.draw(self._canvas, self.core.s, 0)
        return self._canvas.show()

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._canvas is not None:
            self._canvas.close()
            self._canvas = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy or an unpickled world is the same definition, not yet reset (compiled code and windows do not
        travel)."""
        return {**self.__dict__, "_core": None, "_canvas": None, "_seeded": False, "agents": []}

    def __repr__(self) -> str:
        """Name and agents."""
        return f"<{type(self).__name__} {self.metadata['name']} of {len(self.possible_agents)} agents>"

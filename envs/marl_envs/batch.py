"""All copies of a native world as a `marl.types.BatchEnv`: one compiled call per step, into arrays allocated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numba
import numpy as np

from marl.types import (
    ActionSpec,
    Array,
    BatchEnv,
    CheckpointError,
    ConfigError,
    EnvContractError,
    Episode,
    Episodes,
    ObsSpec,
    Spec,
    Step,
    TeamSpec,
    TeamStep,
    partition,
    valid_choices,
)
from marl_envs.beside import BesideOthers
from marl_envs.kernel import OBSERVE, RESTART, STEP, STEP_ONLY, stream

if TYPE_CHECKING:
    from marl_envs.draw import Canvas
    from marl_envs.world import World


_typeof: Any = numba.typeof

ROWS = (  # the arrays that have a row for each copy, beside the world's own
    "obs", "next_obs", "actions", "reward", "terminated", "truncated", "acting", "action_mask", "next_action_mask",
    "started", "state", "next_state", "task", "pending", "rng", "clock", "returns", "info",
)  # fmt: skip


class WorldCopies:
    """The arrays of ``E`` copies of a world and the one compiled call that moves them; agents in one axis, no teams."""

    def __init__(self, world: World, num_envs: int) -> None:
        """Allocate the arrays of all copies."""
        if num_envs < 1:
            raise ConfigError(f"expected at least one copy, got num_envs={num_envs}")
        spaces = [world.flat_spaces[agent] for agent in world.possible_agents]
        shapes = [tuple(space.shape or ()) for space in spaces]
        rows = (num_envs, len(spaces))
        if world.image_obs:
            if len(set(shapes)) != 1 or len(shapes[0]) != 3:
                raise ConfigError(
                    f"{type(world).__name__}: agents that see images must all see one shape (H, W, C), got {shapes}"
                )
            height, width, channels = shapes[0]
            self.obs = np.zeros((*rows, channels, height, width), dtype=np.uint8)
        else:
            self.obs = np.zeros((*rows, max(shape[0] for shape in shapes)), dtype=np.float32)
        self.next_obs = np.zeros_like(self.obs)
        self.widths = np.array([int(np.prod(shape)) for shape in shapes], dtype=np.int64)
        actions = [world.action_spaces[agent] for agent in world.possible_agents]
        if world.box_actions:
            self.choices = np.array([(space.shape or (0,))[0] for space in actions], dtype=np.int64)
            self.actions = np.zeros((*rows, int(self.choices.max())), dtype=np.float32)
        else:
            self.choices = np.array([space.n for space in actions if isinstance(space, gymnasium.spaces.Discrete)])
            self.actions = np.zeros(rows, dtype=np.int64)
        self.reward = np.zeros(rows, dtype=np.float32)
        self.terminated, self.truncated = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)
        self.acting = np.ones(rows, dtype=bool)
        self.action_mask = (
            None if world.kernels.action_mask is None else np.zeros((*rows, int(self.choices.max())), dtype=bool)
        )
        if self.action_mask is not None:
            self.action_mask[...] = np.arange(self.action_mask.shape[-1]) < self.choices[:, None]
        self.next_action_mask = None if self.action_mask is None else self.action_mask.copy()
        self.started = np.ones(num_envs, dtype=bool)
        has_state = not world.state_is_obs and hasattr(world, "state_space")
        self.state = np.zeros((num_envs, world.state_space.shape[0]), dtype=np.float32) if has_state else None
        self.next_state = None if self.state is None else np.zeros_like(self.state)

        self.world = world
        self.num_envs = num_envs
        self.task_names = tuple(world.task_space)
        defaults = [parameter.default for parameter in world.task_space.values()]
        self.task = np.tile(np.array(defaults, dtype=np.float64), (num_envs, 1))
        self.pending = self.task.copy()
        self.chosen: tuple[str, ...] = ()  # task parameters that somebody set: reported with each episode
        self.s = world.allocate(num_envs)
        self.rng = np.zeros(num_envs, dtype=np.uint64)
        self.clock = np.zeros(num_envs, dtype=np.int64)
        self.returns = np.zeros(rows, dtype=np.float64)
        self.info = np.zeros((num_envs, len(world.info_names)), dtype=np.float64)
        self.ended = np.zeros((num_envs, 2 + rows[1] + self.info.shape[1] + self.task.shape[1]), dtype=np.float64)
        self._line_up()
        # The compiled function itself, without numba's look-up by argument types: half the time of a call.
        loop = world.loop(box=world.box_actions, join_state=world.join_state)
        arguments = (STEP, self.actions, *self.inside, *self.outside)
        self.call = loop.compile(tuple(_typeof(argument) for argument in arguments))

    def _line_up(self) -> None:
        """The arguments of the loop that are this object's own arrays."""
        self.inside = (
            self.s, self.task, self.pending, self.rng, self.clock, self.returns, self.ended, self.info,
            self.choices, self.widths,
        )  # fmt: skip
        self.outside = self.arrays_out(
            self.obs, self.next_obs, self.reward, self.terminated, self.truncated, self.acting
        )

    def rest_in(self, core: WorldCopies, rows: slice) -> None:
        """Go on in some rows of another object's arrays, of the same world; ``ended`` and what has no rows stay own."""
        for name in ROWS:
            array, own = getattr(core, name), getattr(self, name)
            if own is not None:
                array[rows] = own
                setattr(self, name, array[rows])
        fields = {name: getattr(core.s, name) for name in self._changing()}
        for name, array in fields.items():
            array[rows] = getattr(self.s, name)
        self.s = self.s._replace(**{name: array[rows] for name, array in fields.items()})
        self._line_up()

    def arrays_out(
        self, obs: Array, next_obs: Array, reward: Array, terminated: Array, truncated: Array, acting: Array
    ) -> tuple[Any, ...]:
        """The output arguments of the loop: these, and this object's own masks, starts and states."""
        return (
            obs, next_obs, reward, terminated, truncated, acting,
            self.action_mask, self.next_action_mask, self.started, self.state, self.next_state,
        )  # fmt: skip

    def seed(self, seed: int, first_copy: int) -> None:
        """Put every copy's random stream to its start."""
        for e in range(self.num_envs):
            self.rng[e] = stream(seed, first_copy + e)

    def run(self, mode: int) -> int:
        """Run the loop on this object's own arrays; returns how many episodes ended."""
        count: int = self.call(mode, self.actions, *self.inside, *self.outside)
        if count < 0:
            raise self.bad_action(self.actions, -1 - count)
        return count

    def bad_action(self, actions: Array, index: int) -> EnvContractError:
        """The error for the action that the loop refused."""
        copy, n = divmod(index, len(self.world.possible_agents))
        agent = self.world.possible_agents[n]
        expected = f"finite numbers in {self.world.action_spaces[agent]}"
        if not self.world.box_actions:
            expected = f"a whole number in 0..{self.choices[n] - 1}"
        return EnvContractError(f"action of {agent} in copy {copy}: expected {expected}, got {actions[copy, n]}")

    def set_tasks(self, tasks: Mapping[str, Any], copies: Sequence[int] | slice = slice(None)) -> None:
        """Choose task parameters, one number for all of ``copies`` or one each; they hold from each copy's next reset
        on."""
        for name, value in tasks.items():
            if name not in self.task_names:
                raise ConfigError(
                    f"no task parameter {name!r}; {type(self.world).__name__} has {', '.join(self.task_names)}"
                )
            values = np.asarray(value, dtype=np.float64)
            self.world.task_space[name].check(name, values)
            self.pending[copies, self.task_names.index(name)] = values
            if name not in self.chosen:
                self.chosen = (*self.chosen, name)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, copied."""
        own = {"task", "pending", "rng", "clock", "returns", "acting", "started"}
        state: dict[str, Any] = {name: getattr(self, name).copy() for name in sorted(own)}
        state["s"] = {name: value.copy() for name, value in self._changing().items()}
        state["chosen"] = list(self.chosen)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state, after checking that it is one of ours: kernels index by it without a look."""
        own = ("task", "pending", "rng", "clock", "returns", "acting", "started")
        pairs = [(name, getattr(self, name), state.get(name)) for name in own]
        pairs += [(f"s.{name}", value, state.get("s", {}).get(name)) for name, value in self._changing().items()]
        for name, array, value in pairs:
            if value is None or np.shape(value) != array.shape or np.asarray(value).dtype != array.dtype:
                found = "nothing" if value is None else f"{np.asarray(value).dtype} {np.shape(value)}"
                raise CheckpointError(
                    f"state of {type(self.world).__name__}, {name}: expected {array.dtype} {array.shape}, "
                    f"found {found}; load it into a batch with the same parameters and number of copies"
                )
        chosen = tuple(state.get("chosen", ()))
        self._refuse_wild({name: np.asarray(value) for name, _, value in pairs}, chosen)
        for _, array, value in pairs:  # a truth value is one byte, which a file may give any value
            array[...] = np.asarray(value).view(np.uint8) != 0 if array.dtype == bool else value
        self.chosen = chosen

    def _changing(self) -> dict[str, Array]:
        """The arrays of the world's state that its kernels write."""
        fields = self.s._asdict().items()
        return {
            name: value
            for name, value in fields
            if isinstance(value, np.ndarray) and name not in (*self.world.shared, *self.world.scratch)
        }

    def rows(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what :meth:`_changing` has."""
        return {name: value.shape for name, value in self._changing().items()}

    def constants(self) -> dict[str, Any]:
        """What of the world's state follows from its parameters."""
        changing = (*self._changing(), *self.world.scratch)
        return {name: value for name, value in self.s._asdict().items() if name not in changing}

    def _refuse_wild(self, saved: Mapping[str, Array], chosen: Sequence[str]) -> None:
        """Raise CheckpointError for numbers that no run of this world has come to."""
        where, ranges = f"state of {type(self.world).__name__}", self.world.ranges()
        try:
            for k, name in enumerate(self.task_names):
                self.world.task_space[name].check(name, saved["task"][:, k])
                self.world.task_space[name].check(name, saved["pending"][:, k])
        except ConfigError as error:
            raise CheckpointError(f"{where}: {error}") from None
        if not set(chosen) <= set(self.task_names) or (saved["clock"] < 0).any():
            raise CheckpointError(f"{where}: unknown tasks, or a clock before its start")
        for field in self._changing():
            array = saved[f"s.{field}"]
            if field not in ranges and array.dtype.kind in "iu":
                raise CheckpointError(
                    f"{where}: {field} holds whole numbers, and {type(self.world).__name__}.ranges() does not say from "
                    "where to where, so what was saved cannot be checked; let it say"
                )
            low, high = ranges.get(field, (None, None))
            if low is not None and not ((array >= low) & (array <= high)).all():
                raise CheckpointError(f"{where}, {field}: expected numbers from {low} to {high}, got others")


def team_specs(world: World, patterns: Sequence[str] | None) -> tuple[TeamSpec, ...]:
    """The world's agents divided into teams, each padded to its own widest member."""
    teams = []
    for name, agents in partition(world.possible_agents, patterns).items():
        seen = tuple(world.observation_spaces[agent] for agent in agents)
        entries = tuple(world.action_spaces[agent] for agent in agents)
        flat = [world.flat_spaces[agent] for agent in agents]
        widths = tuple(int(np.prod(space.shape or ())) for space in flat)
        if world.image_obs:
            height, width, channels = seen[0].shape or ()
            obs = ObsSpec((channels, height, width), "uint8", widths)
        else:
            obs = ObsSpec((max(widths),), "float32", widths)
        if world.box_actions:
            boxes = [space for space in entries if isinstance(space, gymnasium.spaces.Box)]
            sizes = tuple(int(box.shape[0]) for box in boxes)
            low, high = np.zeros((len(boxes), max(sizes))), np.zeros((len(boxes), max(sizes)))
            for row, box in enumerate(boxes):
                low[row, : sizes[row]], high[row, : sizes[row]] = box.low, box.high
            action = ActionSpec("box", (), sizes, tuple(map(tuple, low.tolist())), tuple(map(tuple, high.tolist())))
            masked = False
        else:
            sizes = tuple(int(space.n) for space in entries if isinstance(space, gymnasium.spaces.Discrete))
            action = ActionSpec("discrete", (max(sizes),), sizes)
            masked = world.kernels.action_mask is not None or len(set(sizes)) > 1
        teams.append(TeamSpec(name, agents, obs, action, seen, entries, masked))
    return tuple(teams)


class WorldBatch:
    """``E`` copies of a native world with its agents divided into teams (`marl.types.BatchEnv`).

    One team in the world's order is the arrays of the loop themselves; a team of neighboring agents is a view of them;
    any other team is gathered after each step.
    """

    def __init__(
        self, world: World, num_envs: int, patterns: Sequence[str] | None = None, *, first_copy: int = 0
    ) -> None:
        """Allocate the arrays of all copies."""
        self._core = core = WorldCopies(world, num_envs)
        self._world, self._patterns, self._first_copy = world, patterns, first_copy
        teams = team_specs(world, patterns)
        has_state = hasattr(world, "state_space")
        self._spec = Spec(world.metadata["name"], teams, world.state_space.shape if has_state else None)
        self.task_space = dict(world.task_space)
        self.message_entries = world.message_entries
        order = {agent: n for n, agent in enumerate(world.possible_agents)}
        self._agents = tuple(world.possible_agents)
        self._members = [np.array([order[agent] for agent in team.agents]) for team in teams]
        self._whole = len(teams) == 1  # partition keeps the order of agents, so one team is all of them in order
        self._action_shapes = [(num_envs, team.num_agents, *team.action.shape) for team in teams]
        self._gathered: list[tuple[Array, Array, Array]] = []  # (from, members, to): copied after each step
        self._gathered_next: list[tuple[Array, Array, Array]] = []
        self._step, self._next, self._next_action_mask = self._views()
        self._tail = (*core.inside, *core.outside)
        self._started = False
        self._targets: dict[int, _Target] = {}

    def _views(self) -> tuple[Step, list[Array], list[Array | None]]:
        """The Step over this object's own arrays; what each team sees of true successors, and may do there."""
        core, steps, successors, masks = self._core, [], [], []
        for team, members in zip(self._spec.teams, self._members, strict=True):
            first, last = int(members[0]), int(members[-1]) + 1
            run = last - first == len(members)
            cut = slice(0, team.obs.shape[0]) if len(team.obs.shape) == 1 else slice(None)

            def share(
                array: Array, tail: slice | None = None, *, later: bool = False,
                run: bool = run, first: int = first, last: int = last, members: Array = members,
            ) -> Array:  # fmt: skip
                source = array if tail is None else array[:, :, tail]
                if run:
                    whole = self._whole and source.shape == array.shape
                    return array if whole else source[:, first:last]
                target = np.ascontiguousarray(source[:, members])
                (self._gathered_next if later else self._gathered).append((source, members, target))
                return target

            obs = share(core.obs, cut)
            successors.append(share(core.next_obs, cut, later=True))
            action_mask: Array | None = None
            next_action_mask: Array | None = None
            if team.masked and core.action_mask is not None and core.next_action_mask is not None:
                action_mask = share(core.action_mask, slice(0, team.action.num_choices))
                next_action_mask = share(core.next_action_mask, slice(0, team.action.num_choices), later=True)
            elif team.masked:
                action_mask = next_action_mask = np.tile(valid_choices(team.action), (core.num_envs, 1, 1))
            masks.append(next_action_mask)
            flags = [share(array) for array in (core.reward, core.terminated, core.truncated, core.acting)]
            steps.append(TeamStep(obs, obs, flags[0], flags[1], flags[2], flags[3], action_mask, action_mask))
        self._state: Array | None = core.state
        self._next_state: Array | None = core.next_state
        if self._world.state_is_obs:  # always one padded row per copy, whatever the teams
            self._state = core.obs.reshape(core.num_envs, -1)
            self._next_state = core.next_obs.reshape(core.num_envs, -1)
        discarded = np.zeros(core.num_envs, dtype=bool)
        return Step(tuple(steps), core.started, discarded, self._state, self._state, ()), successors, masks

    @property
    def spec(self) -> Spec:
        """Teams, spaces, state."""
        return self._spec

    @property
    def num_envs(self) -> int:
        """``E``."""
        return self._core.num_envs

    def reset(self, seed: int, options: Mapping[str, Any] | None = None) -> Step:
        """Start every copy afresh; ``options={"task": {name: numbers}}`` chooses tasks as `set_tasks` does."""
        core = self._core
        core.seed(seed, self._first_copy)
        core.set_tasks((options or {}).get("task") or {})
        core.run(RESTART)
        return self._first()

    def _first(self) -> Step:
        core = self._core
        for array in (core.reward, core.terminated, core.truncated):
            array[...] = 0
        self._started = True
        self._finish(self._step, 0)
        return self._step

    def set_tasks(self, tasks: Mapping[str, Any], copies: Sequence[int] | slice = slice(None)) -> None:
        """Choose task parameters for ``copies``: one number for all or one each; they hold from each copy's next
        reset on."""
        self._core.set_tasks(tasks, copies)

    def tasks(self) -> dict[str, Array]:
        """The task that each copy is playing now, ``(E,)`` each."""
        return {name: self._core.task[:, k].copy() for k, name in enumerate(self._core.task_names)}

    def step(self, actions: Sequence[Array]) -> Step:
        """Take one step; the Step returned is the same object every time, its arrays are overwritten by the next
        step."""
        given = self._joint(actions)
        count = self._core.call(STEP, given, *self._tail)
        if count:
            if count < 0:
                raise self._core.bad_action(given, -1 - count)
            self._finish(self._step, count)
        elif self._gathered or self._step.finished:
            self._finish(self._step, 0)
        return self._step

    def step_into(self, actions: Sequence[Array], out: Step) -> Step:
        """As `step`, but into the arrays of ``out`` (a slice of a rollout, say), which is returned.

        ``out`` has one TeamStep per team, with the shapes and dtypes of `spec`; give the same object again for the
        same slice.
        A ``next_obs`` or ``next_state`` that is an array of its own is filled when an episode ends; otherwise this
        object's
        array stands in. With one team and contiguous arrays the world writes observations, rewards and flags in place.
        """
        target = self._targets.get(id(out))
        if target is None:
            target = self._targets[id(out)] = _Target(self, out)
        core = self._core
        if target.tail is None:
            step = self.step(actions)
            count = len(step.finished)
            for team, mine, successor in zip(out.teams, step.teams, target.next_obs, strict=True):
                for name in ("obs", "reward", "terminated", "truncated"):
                    np.copyto(getattr(team, name), getattr(mine, name))
                if count and successor is not None:
                    np.copyto(successor, mine.next_obs)
            finished = step.finished
        else:
            given = self._joint(actions)
            count = core.call(STEP, given, *target.tail)
            if count < 0:
                raise core.bad_action(given, -1 - count)
            finished = self._episodes(count)
        obs, next_obs = target.whole_obs or (core.obs, core.next_obs)
        for team, mine, own, standin, next_action_mask in zip(
            out.teams, self._step.teams, target.next_obs, self._next, self._next_action_mask, strict=True
        ):
            np.copyto(team.acting, mine.acting)
            if team.action_mask is not None and mine.action_mask is not None:
                np.copyto(team.action_mask, mine.action_mask)
            team.next_obs = team.obs if not count else standin if own is None else own
            team.next_action_mask = next_action_mask if count else team.action_mask
        np.copyto(out.started, core.started)
        out.discarded[...] = False
        if out.state is not None and self._state is not None and self._next_state is not None:
            flat = self._world.state_is_obs
            np.copyto(out.state, obs.reshape(out.state.shape) if flat else self._state)
            successor = self._next_state if target.next_state is None else target.next_state
            if count:
                np.copyto(successor, next_obs.reshape(out.state.shape) if flat else self._next_state)
            out.next_state = successor if count else out.state
        out.finished = finished
        return out

    def _joint(self, actions: Sequence[Array]) -> Array:
        """The actions of all teams as one array in the world's order of agents."""
        if not self._started:
            raise EnvContractError(f"{self._spec.env}: reset(seed) before the first step")
        wanted = self._core.actions
        if len(actions) != len(self._members):
            raise EnvContractError(f"expected actions of {len(self._members)} teams, got {len(actions)}")
        given = actions[0]
        if (
            self._whole
            and given.__class__ is np.ndarray
            and given.dtype == wanted.dtype
            and given.shape == wanted.shape
        ):
            return given if given.flags.c_contiguous else np.ascontiguousarray(given)
        for team, members, shape, array in zip(
            self._spec.teams, self._members, self._action_shapes, actions, strict=True
        ):
            array = np.asarray(array)
            if array.shape != shape or (wanted.dtype == np.int64 and array.dtype.kind not in "iub"):
                raise EnvContractError(
                    f"actions of team {team.name!r}: expected {team.action.dtype} {shape}, "
                    f"got {array.dtype} {array.shape}"
                )
            if wanted.ndim == 3:
                wanted[:, members, : shape[-1]] = array
            else:
                wanted[:, members] = array
        return wanted

    def _finish(self, step: Step, count: int) -> None:
        """Gather scattered teams; point next_obs at the true successors if an episode ended, at obs otherwise."""
        for source, members, target in self._gathered:
            np.take(source, members, axis=1, out=target)
        if count:
            for source, members, target in self._gathered_next:
                np.take(source, members, axis=1, out=target)
            for team, successor, action_mask in zip(step.teams, self._next, self._next_action_mask, strict=True):
                team.next_obs, team.next_action_mask = successor, action_mask
            step.next_state = self._next_state
            step.finished = self._episodes(count)
        else:
            for team in step.teams:
                team.next_obs, team.next_action_mask = team.obs, team.action_mask
            step.next_state = step.state
            step.finished = ()

    def _episodes(self, count: int) -> Sequence[Episode]:
        """The episodes that ended in the last step."""
        if not count:
            return ()
        core = self._core
        rows = core.ended[:count].copy()
        return Episodes(rows, self._agents, self._world.info_names, core.task_names, core.chosen)

    # --- beside others ------------------------------------------------------------------------------------------------

    def beside(self, others: Sequence[BatchEnv]) -> BesideOthers | None:
        """Step these copies and those of ``others`` in one call from now on; None: they are not of one kind.

        Each goes on as before with arrays of its own, which happen to lie side by side.
        """
        batches = [self, *(other for other in others if isinstance(other, WorldBatch))]
        longer = self._world.allocate(self.num_envs + 1)._asdict()
        rows_alone = all(len(longer[name]) == self.num_envs + 1 for name in self._core._changing())
        alike = len(batches) == 1 + len(others) and all(self._alike(other) for other in batches)
        if not (rows_alone and alike):
            return None
        return BesideOthers(WorldBatch(self._world, self.num_envs * len(batches), self._patterns), batches)

    def _alike(self, other: WorldBatch) -> bool:
        """Whether the copies of both follow the same rules."""
        (mine, fixed), (its, others) = ((batch._core.rows(), batch._core.constants()) for batch in (self, other))
        return (
            type(self._world) is type(other._world)
            and self._spec == other._spec
            and mine == its
            and all(np.array_equal(value, others[name]) for name, value in fixed.items())
        )

    def rest_in(self, whole: WorldBatch, rows: slice) -> None:
        """Go on in some rows of another batch's arrays; the Step that was returned last stays this batch's."""
        self._core.rest_in(whole._core, rows)
        self._gathered.clear()
        self._gathered_next.clear()
        self._targets.clear()
        step, self._next, self._next_action_mask = self._views()
        for own, team in zip(self._step.teams, step.teams, strict=True):
            vars(own).update(vars(team))
        vars(self._step).update(vars(step) | {"teams": self._step.teams, "finished": self._step.finished})
        self._tail = (*self._core.inside, *self._core.outside)

    def move(self, actions: Sequence[Array]) -> tuple[Step, Array]:
        """As :meth:`step`, of arrays in which others rest; and the rows of the episodes that ended."""
        self._started = True
        step = self.step(actions)
        return step, self._core.ended[: len(step.finished)]

    def moved(self, ended: Array) -> Step:
        """The Step after somebody else has moved the arrays; ``ended``: the rows of the episodes that ended in it."""
        if len(ended) or self._gathered or self._step.finished:
            self._core.ended[: len(ended)] = ended
            self._finish(self._step, len(ended))
        return self._step

    # --- pictures -----------------------------------------------------------------------------------------------------

    def draw(self, canvas: Canvas, e: int) -> None:
        """Paint copy ``e`` as it is now."""
        self._world.draw(canvas, self._core.s, e)

    def twin(self) -> WorldBatch:
        """Another batch of the same world, to look at what :meth:`step_only` leaves."""
        return WorldBatch(self._world, self.num_envs, self._patterns, first_copy=self._first_copy)

    def step_only(self, state: Mapping[str, Any], actions: Sequence[Array]) -> None:
        """Go to a saved state and take one step that begins no new episodes, so that an end can be looked at."""
        self.load_state_dict(state)
        self._core.actions[...] = self._joint(actions)
        self._core.run(STEP_ONLY)

    # --- going back to a saved state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All copies exactly: states, streams, clocks, tasks."""
        return {"world": self._spec.env, **self._core.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> Step:
        """Go on exactly from a saved state; returns the step to act on."""
        if state.get("world") != self._spec.env:
            raise CheckpointError(f"expected a state of {self._spec.env}, found one of {state.get('world')}")
        self._core.load_state_dict(state)
        self._core.run(OBSERVE)
        return self._first()

    def close(self) -> None:
        """Nothing to release."""


class _Target:
    """Somebody else's Step that a batch writes into, checked once."""

    def __init__(self, batch: WorldBatch, out: Step) -> None:
        self.out = out  # keeps it alive, so its id stays its own
        mine, core = batch._step, batch._core
        if len(out.teams) != len(mine.teams):
            raise ConfigError(f"step_into: expected {len(mine.teams)} teams, got {len(out.teams)}")
        for spec, given, own in zip(batch.spec.teams, out.teams, mine.teams, strict=True):
            for name in ("obs", "next_obs", "reward", "terminated", "truncated", "acting"):
                array, expected = getattr(given, name), getattr(own, name)
                if array.shape != expected.shape or array.dtype != expected.dtype:
                    raise ConfigError(
                        f"step_into: {name} of team {spec.name!r}: expected {expected.dtype} {expected.shape}, "
                        f"got {array.dtype} {array.shape}"
                    )
        self.next_obs = [None if team.next_obs is team.obs else team.next_obs for team in out.teams]
        self.next_state = None if out.next_state is out.state else out.next_state
        self.tail: tuple[Any, ...] | None = None
        self.whole_obs: tuple[Array, Array] | None = None
        team = out.teams[0]
        arrays = (team.obs, team.next_obs, team.reward, team.terminated, team.truncated)
        if batch._whole and all(array.flags.c_contiguous and array.flags.writeable for array in arrays):
            next_obs = core.next_obs if self.next_obs[0] is None else self.next_obs[0]
            team.obs[...], next_obs[...] = 0, 0  # the loop leaves padding alone
            self.whole_obs = (team.obs, next_obs)
            self.tail = (*core.inside, *core.arrays_out(team.obs, next_obs, *arrays[2:], core.acting))

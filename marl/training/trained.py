"""What a system tells of its training, and which of its settings change meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from marl.curriculum.tasks import Task
from marl.environments import Environments
from marl.league import LeagueState
from marl.notebook import html_table
from marl.playing import Strategy
from marl.setup import Setup
from marl.training.history import History
from marl.training.state import TrainingState
from marl.types import Spec


class Trained:
    """How far a training is, its state, and settings that may change between its steps."""

    training: TrainingState
    environments: Environments
    setup: Setup
    spec: Spec
    reference: str | None  # what names its environment again; None: nothing does
    seed: int
    num_envs: int
    device: torch.device

    @property
    def history(self) -> History:
        """Everything logged so far."""
        return self.training.log.history

    @property
    def steps(self) -> int:
        """Environment steps of training so far, all copies counted."""
        return self.training.steps

    @property
    def episodes(self) -> int:
        """Episodes that ended in training so far."""
        return self.training.log.episodes

    @property
    def workers(self) -> int:
        """Processes that the copies are spread over; may be set while the environment is closed."""
        return self.training.workers

    @workers.setter
    def workers(self, workers: int) -> None:
        self.training.workers = workers

    @property
    def spent(self) -> dict[str, float]:
        """Seconds of training since this system was made or loaded: in the environment, in updates, and in all.

        The rest is acting, remembering, evaluating and saving. Updates beside a stepping environment count as its time.
        Several ranks also count ``sums``: the part of it in which they added up, or one waited for another.
        """
        ranks = self.training.ranks
        sums = {"sums": ranks.seconds} if ranks is not None and ranks.learns else {}
        return {name: round(seconds, 3) for name, seconds in (self.training.spent | sums).items()}

    @property
    def faults(self) -> dict[str, int]:
        """Faults of the training environment's copies that training survived, by kind, and ``lost_episodes``."""
        return self.environments.faults

    @property
    def league_state(self) -> LeagueState:
        """The state of the league: pools, ratings, payoff tables. Raises ConfigError if there is none."""
        return self.training.league_state

    def strategy(self, team: str) -> Strategy:
        """A team's policies and their probabilities; one is drawn for each episode.

        It is its learner's, but for a PSRO run, whose result is a mixture. Raises ConfigError without such a team.
        """
        return self.training.players.strategy(self.setup.place_of(team, self.spec, "strategy"))

    @property
    def target(self) -> Task:
        """The tasks that evaluation plays: those of the curriculum's target. Empty: the world's defaults."""
        return self.training.target

    def value(self, setting: str) -> Any:
        """A setting that may change, as it is now; of a schedule its value of now. Names as for :meth:`change`.

        Raises:
            ConfigError: if it is none of these, or if teams that the name means differ in it.
        """
        return self.training.value(setting)

    def change(self, setting: str, value: Any) -> None:
        """Give a setting another value, from the next step on. Checkpoints keep it, and a resumed run goes on with it.

        Args:
            setting: ``learner.lr`` (every team's), ``TEAM.lr``, ``shaping.0.weight``, ``curriculum.FIELD``, or a field
                of one of these: ``learner.exploration.epsilon``. What may change are fields of the type ``Schedule``,
                the exploration of off-policy learners, SAC's temperature, PPO's target_kl, and curricula.
            value: a number or schedule, or what else the setting may be.

        Raises:
            ConfigError: for a setting that may not change, naming those that may, and for a value that it cannot have.
        """
        self.training.change(setting, value)

    @property
    def changes(self) -> list[dict[str, Any]]:
        """When settings were changed, the newest at the end: ``step``, ``setting``, ``from`` and ``to``."""
        return list(self.training.changes)

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, as a tree of tensors, arrays and JSON values."""
        return self.training.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state; the environment is brought back when training goes on."""
        self.training.load_state_dict(state)

    def __repr__(self) -> str:
        """Environment, learners and steps so far."""
        learners = zip(self.spec.teams, self.setup.configs, strict=True)
        teams = ", ".join(f"{team.name}: {type(one).__name__} of {team.num_agents}" for team, one in learners)
        return f"<{type(self).__name__} on {self.spec.env}, {self.num_envs} copies; {teams}; {self.steps:,} steps>"

    def _repr_html_(self) -> str:
        """Environment, teams with their learners, what was trained, and where."""
        learners = zip(self.spec.teams, self.setup.configs, strict=True)
        rows = [(f"team {team.name}", f"{type(one).__name__}: {', '.join(team.agents)}") for team, one in learners]
        returns = self.history.get("mean_return")
        where = self.training.environments.actors or f"{self.workers} worker processes"
        rows += [("copies", f"{self.num_envs}, {where}"), ("device", str(self.device))]
        rows += [("trained", f"{self.steps:,} steps, {self.episodes:,} episodes")]
        rows += [("mean return", f"{returns[-1]:.2f}")] if returns else []
        return html_table(f"{type(self).__name__} on {self.spec.env}", rows)

"""A memory of one's own: a uniform sample of everything that ever happened, instead of what happened lately."""

from __future__ import annotations

import pytest
import torch

import marl
from tests.extension.support import trains_saves_loads_resumes
from tests.support.learning import refused
from tests.support.tiny import Team, Turns

SOURCE = '''
from dataclasses import dataclass

import numpy as np
import torch

import marl
from marl.extend import PolicyInput, Sample, register
from marl.types import ConfigError
from tests.support.tiny import Team


@register
@dataclass(frozen=True)
class Reservoir:
    """Every transition that ever happened is in it with the same probability (Vitter 1985)."""

    capacity: int = 200

    def build(self, context):
        wanted = context.wanted
        if wanted.length > 1 or wanted.n_step > 1 or context.carry_width or context.spec.turn_based:
            raise ConfigError(f"{context.learner}: Reservoir keeps single transitions; use n_step=1 and MLP()")
        if context.credit.by_team:
            raise ConfigError(f"{context.learner}: Reservoir keeps no team's turns; use credit=TeamReward()")
        if context.scope.shape(context.spec, context.team) is not None:
            raise ConfigError(f"{context.learner}: Reservoir keeps no joint inputs; use critic=Local()")
        return ReservoirMemory(self.capacity, context)


class ReservoirMemory:
    ragged = True  # agents may die

    def __init__(self, capacity, context):
        self.capacity, self.discount = capacity, context.wanted.discount
        self.place = context.spec.teams.index(context.team)
        self.blank = torch.zeros(context.num_envs, context.team.num_agents, 0)
        self.outcome = context.credit.outcome(context.num_envs, context.team.num_agents)  # whose reward, until when
        self.seen_steps, self.size = 0, 0
        self.chance = torch.Generator().manual_seed(7)  # which transitions stay
        self.rows, self.now = {}, {}

    # what the training loop asks for

    def start(self, step):
        self._see(step)

    def current(self):
        now = self.now
        return PolicyInput(now["obs"], self.blank, now["started"], now["acting"], now.get("action_mask"))

    def decide(self, decision):
        self.now["action"] = decision.action.clone()

    def observe(self, step, reward=None):
        team = step.teams[self.place]
        earned, terminated, _ = self.outcome(team, step.started, reward)
        made = self.now | {
            "reward": torch.tensor(earned),
            "discount": self.discount * (1 - torch.tensor(terminated).float()),
            "next_obs": torch.tensor(team.next_obs),
            "next_acting": torch.tensor(~team.terminated & (team.acting | team.truncated)),
        }
        if team.action_mask is not None:
            known = team.action_mask if team.next_action_mask is None else team.next_action_mask
            made["next_action_mask"] = torch.tensor(known)
        for copy in np.flatnonzero(~step.discarded):
            self._keep({name: row[copy] for name, row in made.items()})
        self.seen_steps += len(step.started)
        self._see(step)

    def _see(self, step):
        team = step.teams[self.place]
        self.now = {
            "obs": torch.tensor(team.obs),
            "started": torch.tensor(step.started),
            "acting": torch.tensor(team.acting),
        }
        if team.action_mask is not None:
            self.now["action_mask"] = torch.tensor(team.action_mask)

    def _keep(self, row):
        """The k-th transition takes the place of another with probability capacity / k."""
        if not self.rows:
            self.rows = {name: torch.zeros(self.capacity, *x.shape, dtype=x.dtype) for name, x in row.items()}
        place = self.size
        if self.size >= self.capacity:
            place = int(torch.randint(self.size + 1, (), generator=self.chance))
        self.size += 1
        if place < self.capacity:
            for name, x in row.items():
                self.rows[name][place] = x

    # what the learner asks for

    def ready(self, wanted, clock):
        return self.size > 0

    def draw(self, wanted, clock, generator):
        filled = min(self.size, self.capacity)
        index = torch.randint(filled, (wanted.batch,), generator=generator)
        drawn = {name: x[index].unsqueeze(0) for name, x in self.rows.items()}  # (1, B, ...)
        return Sample(
            index=index.unsqueeze(1),
            complete=drawn["acting"],
            successor=torch.full_like(drawn["acting"], -1, dtype=torch.int64),
            carry=torch.zeros(wanted.batch, *self.blank.shape[1:]),
            weight=torch.ones(wanted.batch, 1),
            action_mask=drawn.pop("action_mask", None),
            next_action_mask=drawn.pop("next_action_mask", None),
            joint=None,
            next_joint=None,
            others=(),
            next_others=(),
            acting_others=(),
            next_acting_others=(),
            next_action_mask_others=(),
            **drawn,
        )

    def update_priorities(self, sample, td_error):
        pass

    def state_dict(self):
        return {
            "rows": self.rows,
            "now": self.now,
            "outcome": self.outcome.state_dict(),
            "size": self.size,
            "seen_steps": self.seen_steps,
            "chance": self.chance.get_state(),
        }

    def load_state_dict(self, state):
        self.rows = {name: x.clone() for name, x in state["rows"].items()}
        self.now = {name: x.clone() for name, x in state["now"].items()}
        self.size, self.seen_steps = int(state["size"]), int(state["seen_steps"])
        self.outcome.load_state_dict(state["outcome"])
        self.chance.set_state(state["chance"])


def make():
    learner = marl.DQN(
        memory=Reservoir(capacity=60), batch=16, learning_starts=20, updates_per_step=0.5, network=marl.MLP((8,))
    )
    return {"agents": learner, "env": Team, "num_envs": 2}
'''


def test_a_memory_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE)
    (learner,) = came.system.learners
    assert type(learner.memory) is came.module.ReservoirMemory
    assert learner.memory.size == learner.memory.seen_steps == 192 > learner.memory.capacity
    assert learner.experience.updates == (192 - 20) // 2
    assert refused(learner, "the kernel computes draws of the library's own replay alone")


@pytest.mark.parametrize("recipe", [marl.iddpg, marl.itd3, marl.isac])
def test_every_off_policy_learner_takes_it(recipe, tmp_path):
    line = "marl.DQN("
    assert SOURCE.count(line) == 1
    came = trains_saves_loads_resumes(tmp_path, SOURCE.replace(line, f"marl.{recipe.__name__}("))
    assert came.system.learners[0].experience.updates > 80


def test_the_replay_is_a_memory_as_any_other():
    """The settings of the learner make the very same one."""
    values = {"batch": 16, "learning_starts": 20, "updates_per_step": 0.5, "network": marl.MLP((8,))}
    found = []
    for memory in ({"buffer": 70}, {"memory": marl.extend.ReplayMemory(buffer=70)}):
        with marl.MultiAgentSystem(marl.DQN(**memory, **values), Team, num_envs=2, seed=4) as system:
            system.train(steps=100)
            found.append(system.learners[0].flat.values.clone())
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"buffer": 50},
            r"^DQN on team 'team': buffer would be ignored, since memory=ReplayMemory\(\.\.\.\) is another",
        ),
        (
            {"prioritized": marl.memory.Prioritized(), "buffer": 9},
            "^DQN on team 'team': buffer and prioritized would be ignored",
        ),
    ],
)
def test_what_another_memory_would_ignore_is_refused(settings, message):
    with pytest.raises(marl.ConfigError, match=message):
        marl.MultiAgentSystem(marl.DQN(memory=marl.extend.ReplayMemory(), **settings), Team, num_envs=2)


def test_a_memory_that_hears_no_others_is_refused_for_critics_across_teams(tmp_path):
    class Deaf:
        def build(self, context):
            replay = marl.extend.ReplayMemory().build(context)
            names = ("start", "current", "decide", "observe", "ready", "draw", "update_priorities", "state_dict")
            deaf = type("Deaf", (), {name: staticmethod(getattr(replay, name)) for name in names})()
            deaf.seen_steps, deaf.ragged = 0, True
            return deaf

    agents = {"player_0": marl.maddpg(critic=marl.Joint(of="all"), memory=Deaf()), "player_1": marl.iddpg()}
    with pytest.raises(marl.ConfigError, match=r"reads what other teams do, but memory=.*does not keep it"):
        marl.MultiAgentSystem(agents, Turns, num_envs=2)


def test_what_is_no_memory_is_refused():
    with pytest.raises(marl.ConfigError, match=r"^DQN\.memory: expected MemoryChoice or None .*, got 'replay'"):
        marl.DQN(memory="replay")

"""Hindsight: new goals come from the same episode, at or after the row; rewards follow from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from marl_envs.reach import compute_reward

import marl
from marl import adapters
from marl.grid.scope import Local
from marl.memory.base import Decision
from marl.memory.hindsight import Hindsight
from marl.memory.replay import Replay
from marl.schedules import Clock
from tests.support.tiny import Team

REWARD = "marl_envs.reach:compute_reward"


class Goals(Team):
    """As Team, with goals; nobody achieves the same thing twice."""

    def observation_space(self, agent):
        part = spaces.Box(-1, 1, (1,), np.float32)
        return spaces.Dict({"achieved_goal": part, "desired_goal": part, "observation": part})

    def _dicts(self, seen):
        return {
            a: dict(zip(("achieved_goal", "desired_goal", "observation"), x[:, None], strict=True))
            for a, x in seen.items()
        }

    def reset(self, seed=None, options=None):
        seen, info = super().reset(seed, options)
        return self._dicts(seen), info

    def step(self, actions):
        seen, *rest = super().step(actions)
        return self._dicts(seen), *rest


def difference(achieved, desired, info):
    """What tells which goal was meant."""
    return (achieved - desired)[:, 0]


def filled(choice, steps=70, copies=3):
    env = adapters.make("marl/reach-v0", copies, None, env_kwargs={"max_cycles": 10})
    team = env.spec.teams[0]
    memory = Replay(env.spec, team, Local(), marl.Independent(), 1_000, copies, 0, keep_ends=True)
    memory.relabel(choice)
    random = torch.Generator().manual_seed(0)
    step = env.reset(0)
    memory.start(step)
    reached, episode = [], []  # (row, copy): what was achieved after it, and which episode it was
    number = np.zeros(copies, dtype=int)
    for _ in range(steps):
        action = torch.rand(copies, 1, 3, generator=random) * 2 - 1
        memory.decide(Decision(action, action, action[..., 0], torch.zeros(copies, 1, 0)))
        step = env.step([action.numpy()])
        memory.observe(step)
        reached.append(step.teams[0].next_obs[:, 0, :3].copy())
        episode.append(number.copy())
        number += step.started
    return memory, np.array(reached), np.array(episode)


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_goals_were_reached_in_the_same_episode(strategy):
    memory, reached, episode = filled(Hindsight(REWARD, strategy, share=1.0))
    generator = torch.Generator().manual_seed(1)
    index = memory.places(400, 1, generator)
    sample = memory.sample(index, 1, 1, 0.9, generator=generator)
    for b, place in enumerate(index[:, 0].tolist()):
        row, copy = divmod(place, memory.num_envs)
        goal = sample.obs[0, b, 0, 3:6].numpy()
        same = np.nonzero(episode[:, copy] == episode[row, copy])[0]
        rows = [t for t in same if np.array_equal(reached[t, copy], goal)]
        assert rows
        if strategy == "future":
            assert max(rows) >= row
        if strategy == "final":
            assert same[-1] in rows
        assert torch.equal(sample.next_obs[0, b, 0, 3:6], sample.obs[0, b, 0, 3:6])
        assert sample.reward[0, b, 0] == compute_reward(sample.next_obs[0, b, 0, :3], goal)
    assert (sample.reward == 0).any()
    assert (sample.reward == -1).any() or strategy == "final"


def test_the_share_is_kept():
    memory, *_ = filled(Hindsight(REWARD, share=0.3))
    generator = torch.Generator().manual_seed(1)
    index = memory.places(4_000, 1, generator)
    sample = memory.sample(index, 1, 1, 0.9, generator=generator)
    original = memory.obs.flatten(0, 1)[index[:, 0]][..., 3:6]
    changed = (sample.obs[0, ..., 3:6] != original).any(-1).float().mean()
    assert changed == pytest.approx(0.3, abs=0.03)


TEAMS = {
    "alone": marl.iddpg,
    "each by priority": lambda **settings: marl.iddpg(prioritized=marl.memory.Prioritized(), **settings),
    "joint critics": marl.maddpg,
    "team reward": lambda **settings: marl.maddpg(credit=marl.TeamReward(), **settings),
    "team reward by priority": lambda **settings: marl.iql(
        credit=marl.TeamReward(), prioritized=marl.memory.Prioritized(), **settings
    ),
    "mixer": lambda **settings: marl.qmix(credit=marl.QMix(state="team"), **settings),
}


@pytest.mark.parametrize("die", [(None, None, None), (2, None, 6)], ids=["all live", "deaths"])
@pytest.mark.parametrize("name", TEAMS)
def test_in_teams_goals_are_each_agents_own_and_critics_see_them(name, die):
    config = TEAMS[name](
        hindsight=Hindsight("tests.memory.test_hindsight:difference", share=1.0),
        batch=64,
        learning_starts=50,
        updates_per_step=0.02,
        network=marl.MLP((8,), "relu"),
    )
    system = marl.MultiAgentSystem(config, lambda: Goals(die=die), num_envs=2, seed=0)
    system.train(steps=100)
    learner = system.learners[0]
    memory = learner.memory
    sample = learner.experience.draw(Clock(100))
    goal, achieved = sample.obs[0, ..., 1], sample.next_obs[0, ..., 0]  # (B, N)
    index = sample.index.expand(-1, 3)
    known = sample.complete[0] & sample.acting[0]
    after_death = changed = 0
    kept = torch.zeros_like(known)  # the episode's chosen row came after this agent's death
    for b, n in known.nonzero().tolist():
        row, copy = divmod(int(index[b, n]), 2)
        begun = row - int(memory._since[row, copy])
        if goal[b, n] == memory.obs[row, copy, n, 1]:
            kept[b, n] = True
            continue
        changed += 1
        later = memory.obs[row + 1 : begun + 10, copy, n, 0].tolist()  # an episode has ten rows
        ends = memory.ends.arrays["obs"][:, n, 0].tolist()  # what its last row led to
        assert float(goal[b, n]) in later + ends
        assert sample.next_obs[0, b, n, 1] == goal[b, n] or sample.discount[0, b, n] == 0
        after_death += int((~known[b]).any())
    assert changed == known.sum() if die[0] is None else changed > known.sum() / 3
    assert (after_death > 0) == (die[0] is not None and name != "each by priority")
    known &= ~kept
    paid = torch.where(known, achieved - goal, 0.0)
    if "team" in name or name == "mixer":
        paid = paid.mean(-1, keepdim=True).expand(paid.shape)
    if name == "each by priority" or "team reward" not in name or die[0] is None:
        assert torch.allclose(sample.reward[0][known], paid[known], atol=1e-6)
    if sample.joint is not None:
        assert torch.equal(sample.joint[0].view(64, 3, 3)[..., 1][known], goal[known])
        joint = sample.next_joint[0].view(64, -1, 3, 3)[..., 1]  # (B, 1 or N, N)
        assert torch.equal(joint, sample.next_obs[0, ..., 1].unsqueeze(1).expand(joint.shape))


def test_goals_in_a_state_are_refused():
    config = marl.maddpg(critic=marl.Joint(of="state"), hindsight=Hindsight(REWARD))
    with pytest.raises(marl.ConfigError, match="cannot be relabeled"):
        marl.MultiAgentSystem(config, Goals)

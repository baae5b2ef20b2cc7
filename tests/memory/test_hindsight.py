"""Hindsight: new goals come from the same episode, at or after the row; rewards follow from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from marl_envs.reach import compute_reward

import marl
from marl import adapters
from marl.memory.hindsight import Hindsight
from marl.memory.replay import Replay
from marl.memory.rollout import Decision
from marl.scope import Local

REWARD = "marl_envs.reach:compute_reward"


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
    index = memory.draw(400, 1, generator)
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
    index = memory.draw(4_000, 1, generator)
    sample = memory.sample(index, 1, 1, 0.9, generator=generator)
    original = memory.obs.flatten(0, 1)[index[:, 0]][..., 3:6]
    changed = (sample.obs[0, ..., 3:6] != original).any(-1).float().mean()
    assert changed == pytest.approx(0.3, abs=0.03)

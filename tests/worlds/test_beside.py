"""Batches of one world that step in one call do what each would do in calls of its own, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from marl_envs import WORLDS

from marl.adapters import make
from tests.support.equality import assert_equal_trees

WHICH = {  # several teams, masks, states
    "spread_v0": None,
    "tag_v0": ["adversary_*", "agent_*"],
    "speaker_listener_v0": ["speaker_*", "listener_*"],
    "foraging_v0": None,
    "switch_riddle_v0": None,
    "cartpole_v0": None,
}
LIMITS = ((3, 4, 100), (5, 100, 2), (100, 7, 3))  # of steps in each copy: episodes end at different times


def batches(name, patterns):
    made = [make(WORLDS[name], 3, patterns) for _ in LIMITS]
    for seed, (batch, limits) in enumerate(zip(made, LIMITS, strict=True)):
        batch.reset(seed, {"task": {"max_cycles": np.array(limits)}})
    return made


def draws(spec, random):
    shapes = [(3, team.num_agents, *team.action.shape) for team in spec.teams]
    box = spec.teams[0].action.kind == "box"
    least = min(min(team.action.widths) for team in spec.teams)
    return [
        random.uniform(0, 1, shape).astype(np.float32) if box else random.integers(0, least, shape) for shape in shapes
    ]


def told(step):
    teams = [{name: value for name, value in vars(team).items() if value is not None} for team in step.teams]
    rest = {
        name: value for name, value in vars(step).items() if name not in ("teams", "finished") and value is not None
    }
    return {"teams": teams, **rest, "finished": [vars(episode) for episode in step.finished]}


@pytest.mark.parametrize(("name", "patterns"), WHICH.items())
def test_each_batch_steps_as_it_would_alone(name, patterns):
    alone, together = batches(name, patterns), batches(name, patterns)
    beside = together[0].beside(together[1:])
    assert beside is not None
    random = np.random.default_rng(0)
    for _ in range(12):
        actions = [draws(alone[0].spec, random) for _ in alone]
        apart = [batch.step(own) for batch, own in zip(alone, actions, strict=True)]
        step, steps = beside.step([np.concatenate(team) for team in zip(*actions, strict=True)])
        for one, other in zip(apart, steps, strict=True):
            assert_equal_trees(told(one), told(other))
        for place, team in enumerate(step.teams):
            assert np.array_equal(team.next_obs, np.concatenate([one.teams[place].next_obs for one in apart]))
    assert_equal_trees([batch.state_dict() for batch in alone], [batch.state_dict() for batch in together])
    # One goes on by itself, and goes back: the others notice nothing.
    saved = alone[1].state_dict()
    for batch in (alone[1], together[1]):
        batch.step(draws(batch.spec, np.random.default_rng(1)))
        batch.load_state_dict(saved)
    actions = draws(alone[0].spec, random)
    for one, other in zip(alone, together, strict=True):
        assert_equal_trees(told(one.step(actions)), told(other.step(actions)))


def test_other_rules_or_numbers_of_copies_do_not_lie_beside_each_other():
    def spread(copies=2, **kwargs):
        batch = make(WORLDS["spread_v0"], copies, env_kwargs=kwargs)
        batch.reset(0)
        return batch

    assert spread().beside([spread()]) is not None
    assert spread().beside([spread(N=4)]) is None
    assert spread().beside([spread(copies=3)]) is None
    limited, other = (make(WORLDS["tag_v0"], 2, env_kwargs=kwargs) for kwargs in ({"num_agent_neighbors": 2}, {}))
    limited.reset(0), other.reset(0)
    assert limited.beside([other]) is None
    assert spread().beside([make("CartPole-v1", 2)]) is None

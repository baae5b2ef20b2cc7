"""A native world of one's own: agents in compiled code, tasks, and PettingZoo's form of it."""

from __future__ import annotations

import re
from pathlib import Path

import marl
from tests.extension.support import trains_saves_loads_resumes

PAGE = Path(__file__).parents[2] / "docs" / "worlds.md"
MAKE = """


def make():
    import marl

    learner = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((8,)))
    return {"agents": learner, "env": Meet, "env_kwargs": {"length": 5, "max_cycles": 7}, "num_envs": 2}
"""


def test_a_world_of_ones_own(tmp_path):
    """The one that the page on worlds shows."""
    (world,) = re.findall(r"<!-- world: .*? -->\n```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    came = trains_saves_loads_resumes(tmp_path, world + MAKE)
    assert came.system.spec.env == "meet_v0"
    lengths = came.history["episode_lengths"]
    assert max(lengths) <= 7
    assert min(lengths) < 7  # some met
    single = came.module.Meet(length=5)
    observations, _ = single.reset(seed=3)
    assert set(observations) == {"agent_0", "agent_1"}
    assert isinstance(came.system, marl.MultiAgentSystem)

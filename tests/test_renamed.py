"""Old names are answered with the new one, and what was saved under them is read."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

import marl
from marl import checkpoint, renamed
from marl.config import from_json, to_json, today
from marl.training.state import migrated
from marl.types import TeamStep
from tests.support.tiny import Team

SMALL = {"batch": 8, "learning_starts": 8, "buffer": 200, "network": marl.MLP((8,))}
OLD_FIELDS = {new: old for old, new in renamed.FIELDS.items()}
OLD_CLASSES = {new: old for old, new in renamed.NAMES.items()}
OLD_STATE = {new: old for old, new in renamed.STATE.items()}


def as_before(data, keys):
    """A tree of JSON or of a state under the names of before."""
    if isinstance(data, dict):
        return {keys.get(key, key): as_before(item, keys) for key, item in data.items()}
    if isinstance(data, list):
        return [as_before(item, keys) for item in data]
    if isinstance(data, str) and data.rpartition(":")[2] in OLD_CLASSES:
        return data.replace(data.rpartition(":")[2], OLD_CLASSES[data.rpartition(":")[2]])
    return data


@pytest.mark.parametrize(("old", "new"), renamed.NAMES.items())
def test_old_public_names_answer_with_the_new_one(old, new):
    with pytest.raises(AttributeError, match=rf"{old}.* (is now|did you mean) .*{new}"):
        getattr(marl, old)


def test_old_settings_answer_with_the_new_name():
    with pytest.raises(marl.ConfigError, match=r"unknown field 'prioritised'; did you mean 'prioritized'"):
        marl.DQN(prioritised=None)


def test_old_keywords_answer_with_the_new_name():
    system = marl.MultiAgentSystem(marl.iql(**SMALL), Team, num_envs=2)
    with pytest.raises(TypeError, match=r"evaluate\(\): decentralised= is now decentralized="):
        system.evaluate(1, decentralised=True)
    report = system.evaluate(1, decentralized=True)
    assert report.decentralized


def test_old_fields_answer_with_the_new_name():
    with pytest.raises(TypeError, match=r"EpisodicNovelty\(\): neighbours= is now neighbors="):
        marl.shaping.EpisodicNovelty(neighbours=5)
    assert marl.shaping.EpisodicNovelty(0.2, neighbors=5).neighbors == 5
    assert list(inspect.signature(marl.shaping.EpisodicNovelty).parameters) == [
        "weight",
        "neighbors",
        "memory",
        "width",
    ]


@pytest.mark.parametrize(
    ("thing", "old", "new"),
    [
        (marl.MultiAgentSystem, "season", "league_state"),
        (marl.Report, "decentralised", "decentralized"),
        (marl.Report, "done", "changes"),
        (TeamStep, "alive", "acting"),
        (TeamStep, "legal", "action_mask"),
        (TeamStep, "next_legal", "next_action_mask"),
    ],
)
def test_old_attributes_answer_with_the_new_one(thing, old, new):
    name = thing.__name__
    with pytest.raises(AttributeError, match=rf"{name}\.{old} is now {name}\.{new}"):
        getattr(thing, old)
    assert not hasattr(thing, old)


def test_settings_that_were_saved_under_old_names_are_read():
    system = marl.MultiAgentSystem(marl.iql(prioritized=renamed_class("Prioritized")(alpha=0.5), **SMALL), Team)
    saved = to_json(system.agents)
    old = as_before(saved, OLD_FIELDS)
    assert old["prioritised"]["$class"].endswith(":Prioritised")
    assert from_json(old) == system.agents
    assert today(json.loads(json.dumps(old))) == saved


def renamed_class(name):
    """A settings class, wherever it is public."""
    home = renamed.ROOT.get(OLD_CLASSES[name], name) if hasattr(renamed, "ROOT") else name
    thing = marl
    for part in home.split("."):
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize("agents", [marl.iql(**SMALL), marl.ippo(rollout=4, minibatches=1)], ids=["replay", "rollout"])
def test_states_that_were_saved_under_old_names_are_read(agents, tmp_path):
    with marl.MultiAgentSystem(agents, Team, num_envs=2, seed=3) as system:
        system.train(steps=40)
        state = as_before(system.state_dict(), OLD_STATE)
        del state["names"]
        learner = state["learners"]["team"]
        assert "optimisers" in learner or "optimiser" in learner
        checkpoint.save(tmp_path / "old", state, system.setup.to_json() | meta(system))
        with marl.MultiAgentSystem.load(tmp_path / "old", env=Team) as again:
            again.train(steps=24)
            system.train(steps=24)
            for (name, ours), (_, theirs) in zip(weights(system), weights(again), strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=name)


def meta(system):
    """What ``save`` says beside the setup."""
    from marl.spec_json import spec_to_json

    return {"workers": system.workers, "env": None, "steps": system.steps, "spec": spec_to_json(system.spec)}


def weights(system):
    net, _ = system.learners[0].policy(None)
    return [(name, tensor.numpy()) for name, tensor in net.state_dict().items()]


def test_a_state_keeps_a_key_that_is_taken():
    assert renamed.state({"legal": 1, "action_mask": 2}) == {"legal": 1, "action_mask": 2}
    assert renamed.state([{"others_legal.0": 1, "who": {"alive": 2}}]) == [
        {"others_action_mask.0": 1, "assigned": {"acting": 2}}
    ]
    assert renamed.state(({"legal": 1},)) == ({"action_mask": 1},)


def test_names_of_users_that_this_version_wrote_stay():
    state = {"names": 2, "parts": {}, "env": {"alive": 1}, "learners": {"team": {"legal": 2}}}
    assert migrated(state) is state


def test_an_old_attribute_cannot_be_set():
    class Now:
        pass

    renamed.old_attributes(alive="acting")(Now)
    with pytest.raises(AttributeError, match=r"Now\.alive is now Now\.acting"):
        Now().alive = 1


def test_arguments_of_environments_and_paths_are_no_names_of_ours():
    for text in ("env_kwargs.neighbours=3", "learner.buffer_dir='/data/neighbours'"):
        assert renamed.assignment(text) == text


def test_settings_of_a_run_that_an_older_version_began_are_understood():
    assert renamed.assignment("learner.prioritised=Prioritised(alpha=0.7)") == (
        "learner.prioritized=Prioritized(alpha=0.7)"
    )

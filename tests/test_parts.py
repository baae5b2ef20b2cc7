"""A feature that the library does not know joins the training loop as a part: it trains, logs, is saved and resumed."""

from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest
import torch

import marl
from marl.shaping import StepCost
from marl.training import Part, loop
from marl.training.state import migrated
from tests.support.equality import assert_equal_trees
from tests.support.tiny import Team

ON = {"rollout": 8, "minibatches": 2, "network": marl.MLP((16,))}


class EveryThird(Part):
    """Counts actions, and pays one more for every third step."""

    name = "every_third"

    def __init__(self):
        self.counts, self.steps = np.zeros(2, dtype=np.int64), 0

    def acted(self, choice):
        self.counts += np.bincount(choice.actions[0].reshape(-1), minlength=2)

    def stepped(self, transition):
        self.steps += 1
        if self.steps % 3 == 0:
            reward = transition.rewards[0]
            raw = transition.step.teams[0].reward
            transition.rewards[0] = (raw if reward is None else reward) + np.float32(1)

    def metrics(self):
        return {"ones": float(self.counts[1] / max(self.counts.sum(), 1))}

    def state_dict(self):
        return {"counts": self.counts.copy(), "steps": self.steps}

    def load_state_dict(self, state):
        self.counts, self.steps = np.array(state["counts"]), int(state["steps"])


def make(**options):
    return marl.MultiAgentSystem(marl.ippo(**ON), Team, num_envs=4, seed=2, **options)


def test_a_part_sees_actions_changes_rewards_and_is_logged():
    part = EveryThird()
    with make(parts=[part]) as system, make() as plain:
        history = system.train(steps=64, log_every=32)
        plain.train(steps=64)
        rewards = [learner.memory.reward[-1] for learner in (system.learners[0], plain.learners[0])]
        assert part.counts.sum() == 64 * 3
        assert history["ones"][-1] == part.counts[1] / (64 * 3)
        assert history["episode_rewards"]  # of raw rewards: 10 steps, at most one a step and agent
        assert max(history["episode_rewards"]) <= 30
        assert (part.steps, part.steps % 3) == (16, 1)
        assert (rewards[0].max(), rewards[1].max()) == (1, 1)  # step 16 is no third one
        system.train(steps=2 * 4)
        assert system.learners[0].memory.reward[1].min() >= 1  # step 18 is


def test_a_part_is_saved_and_resumed_bit_for_bit(tmp_path):
    with make(parts=[EveryThird()], shaping=[StepCost(0.1)]) as straight:
        straight.train(steps=200)
        straight.save(tmp_path / "saved")
        straight.train(steps=200)
        with marl.MultiAgentSystem.load(tmp_path / "saved", env=Team, parts=[EveryThird()]) as resumed:
            resumed.train(steps=200)
            assert_equal_trees(resumed.state_dict()["parts"], straight.state_dict()["parts"])
            assert_equal_trees(resumed.state_dict()["learners"], straight.state_dict()["learners"])
            assert resumed.history["ones"] == straight.history["ones"]


def test_a_part_that_was_not_given_again_is_asked_for(tmp_path):
    with make(parts=[EveryThird()]) as system:
        system.train(steps=32)
        system.save(tmp_path / "saved")
    with marl.MultiAgentSystem.load(tmp_path / "saved", env=Team) as loaded:
        loaded.evaluate(2)
        with pytest.raises(marl.CheckpointError, match="part 'every_third' of yours: pass parts="):
            loaded.train(steps=32)


def test_names_of_parts_are_their_own():
    class Shaping(EveryThird):
        name = "shaping"

    with pytest.raises(marl.ConfigError, match="the name 'shaping' is taken"):
        make(parts=[Shaping()])
    with pytest.raises(marl.ConfigError, match="the name 'every_third' is taken"):
        make(parts=[EveryThird(), EveryThird()])
    with pytest.raises(marl.ConfigError, match=r"expected instances of marl\.training\.Part"):
        make(parts=[EveryThird])


def test_the_order_of_parts_is_that_of_one_list():
    league = marl.League(between="agents", latest=1.0, matchmaking="latest", snapshot_every=None)
    with make(parts=[EveryThird()], shaping=[StepCost(0.1)], league=league) as system:
        order = ["shaping", "league", "every_third", "messages", "cross_team", "callbacks"]
        assert list(system.training.parts) == order


def test_a_part_may_restart_learners():
    class Restart(Part):
        name = "restart"

        def updated(self, clock):
            return [0] if clock.steps == 64 else []

    with make(parts=[Restart()]) as system:
        before = system.learners[0]
        system.train(steps=64)
        assert system.learners[0] is before
        system.train(steps=4)
        assert system.learners[0] is not before


def test_a_part_may_end_the_training_and_its_last_row_is_logged():
    class Enough(Part):
        name = "enough"
        steps = 0

        def stepped(self, transition):
            self.steps = transition.now.steps

        def ended(self):
            return self.steps >= 40

    with make(parts=[Enough()]) as system:
        history = system.train(steps=1_000)
        assert system.steps == 40
        assert history["steps"][-1] == 40


def test_the_loop_is_short_and_knows_no_feature():
    source = inspect.getsource(loop)
    functions = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    assert functions["advance"].end_lineno - functions["advance"].lineno < 60
    words = ("shap", "league", "curricul", "messag", "joint_action", "channel")
    assert not [word for word in words if word in source.lower()]


def test_a_state_of_the_first_schema_is_read_in_todays_form():
    waits = [np.zeros(2, bool), np.zeros(2, bool)]
    old = {
        "learners": {},
        "env": None,
        "shaping": {"team": 1},
        "curriculum": None,
        "league": {"anew": [1], "waits": waits, "next_uid": 3},
        "steps": 8,
        "torch_rng": torch.get_rng_state(),
    }
    new = migrated(old)
    assert set(new) == {"learners", "env", "steps", "torch_rng", "parts", "restarts"}
    assert new["parts"]["shaping"] == {"team": 1}
    assert set(new["parts"]) == {"shaping", "league"}
    assert new["restarts"] == [1]
    assert [one.tolist() for one in new["parts"]["league"]["ignored_until_reset"]] == [[False, False], [True, True]]
    assert not waits[1].any()
    assert_equal_trees(migrated(new), new)


def test_a_checkpoint_of_the_first_schema_goes_on(tmp_path):
    league = marl.PSRO(response_steps=64, games=2, meta_solver="uniform")
    agents = {"agent_0": marl.ippo(**ON), "agent_[12]": marl.ippo(**ON)}

    def one():
        return marl.MultiAgentSystem(agents, Team, num_envs=4, seed=2, league=league, shaping=[StepCost(0.1)])

    with one() as straight, one() as resumed:
        straight.train(steps=64)  # the learners are about to restart
        state = straight.state_dict()
        old = {name: value for name, value in state.items() if name not in ("parts", "restarts", "names")}
        old |= {name: state["parts"].get(name) for name in ("shaping", "curriculum", "messages")}
        league = dict(state["parts"]["league"])
        waits = [np.zeros_like(one) for one in league.pop("ignored_until_reset")]
        old["league"] = league | {"anew": state["restarts"], "waits": waits}
        resumed.load_state_dict(old)
        straight.train(steps=64)
        resumed.train(steps=64)
        assert_equal_trees(resumed.state_dict()["learners"], straight.state_dict()["learners"])
        assert_equal_trees(resumed.state_dict()["parts"], straight.state_dict()["parts"])

"""Going back to a saved state by replaying seeds and actions, and random streams that depend on the copy alone."""

import json

import numpy as np
import pytest

import marl
from marl.adapters import copies, in_process, make
from marl.adapters.actionlog import ActionLog
from marl.types import CheckpointError
from tests.adapters.envs import Drifting, Scripted, Turns, Walk
from tests.support.tiny import Team


def random_actions(batch, rng):
    actions = []
    for team in batch.spec.teams:
        shape = (batch.num_envs, team.num_agents, *team.action.shape)
        if team.action.kind == "box":
            actions.append(rng.uniform(-1, 1, shape).astype(np.float32))
        else:
            actions.append(rng.integers(0, min(team.action.sizes), shape))
    return actions


def shown(step):
    """Copies of all that a step shows."""
    parts = {"started": step.started, "discarded": step.discarded, "state": step.state, "next_state": step.next_state}
    for k, team in enumerate(step.teams):
        parts |= {f"{k}.{name}": array for name, array in vars(team).items()}
    return {name: array.copy() for name, array in parts.items() if array is not None} | {"finished": step.finished}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name == "finished":
            assert value == other[name]
        else:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


ENVS = {
    "parallel": lambda: Team(length=7, die=(None, 3, None)),
    "aec": lambda: Turns(
        ({"reward": {"a": 1.0, "b": 0.5}}, {}, {}, {"die": ["a"]}, {}, {}, {"cut": ["b"]}), masked=True
    ),
    "gymnasium": Walk,
    "box": "Pendulum-v1",
}


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("steps", [0, 1, 6, 7, 23])
def test_a_restored_batch_goes_on_as_if_never_stopped(name, steps):
    rng = np.random.default_rng(0)
    batch = make(ENVS[name], 3, max_steps=11)
    step = batch.reset(4, {"level": 1})
    for _ in range(steps):
        step = batch.step(random_actions(batch, rng))
    saved = batch.state_dict()
    state_of_rng = rng.bit_generator.state
    now = shown(step)
    going_on = [shown(batch.step(random_actions(batch, rng))) for _ in range(15)]
    after = batch.state_dict()

    other = make(ENVS[name], 3, max_steps=11)
    restored = shown(other.load_state_dict(saved))
    for key in ("started", "state", *(f"0.{name}" for name in ("obs", "acting", "action_mask"))):
        if key in now:
            np.testing.assert_array_equal(now[key], restored[key], err_msg=key)
    rng.bit_generator.state = state_of_rng
    for expected in going_on:
        assert_same(expected, shown(other.step(random_actions(other, rng))))
    again = other.state_dict()
    for one, two in zip(after["copies"], again["copies"], strict=True):
        assert one["hash"] == two["hash"]
        assert one["seeds"] == two["seeds"]


def test_the_state_is_arrays_and_json():
    batch = make(lambda: Team(), 2)
    batch.reset(0, {"level": [1, 2]})
    batch.step(random_actions(batch, np.random.default_rng(0)))
    state = batch.state_dict()
    for copy in state["copies"]:
        for array in copy.pop("actions").values():
            assert array.dtype == np.uint8  # small choices are kept in small integers
    assert json.loads(json.dumps(state)) == state


def test_restoring_puts_an_instance_back_in_place():
    env = Walk()
    batch = make(env)
    batch.reset(0)
    step = batch.step([np.ones((1, 1), int)])
    saved, obs = batch.state_dict(), step.teams[0].obs.copy()
    batch.step([np.ones((1, 1), int)])
    np.testing.assert_array_equal(batch.load_state_dict(saved).teams[0].obs, obs)
    assert batch.envs == (env,)


def test_a_copy_that_does_not_come_back_begins_a_new_episode_and_says_so():
    class Loose(Walk):
        def step(self, action):
            self.place += float(np.random.default_rng().normal())
            return super().step(action)

    made = []

    def factory():
        made.append(Loose() if len(made) % 3 == 2 else Walk())
        return made[-1]

    batch = in_process(factory, 3, first_copy=4)
    batch.reset(0)
    batch.step([np.ones((3, 1), int)])
    step = batch.load_state_dict(batch.state_dict())
    assert step.discarded.tolist() == step.started.tolist() == [False, False, True]
    assert step.teams[0].acting.all()
    fresh = in_process(Walk, 3, first_copy=4)
    assert not fresh.load_state_dict(batch.state_dict()).discarded.any()  # a new episode comes back
    for one in (batch, fresh):  # what was about to be done belongs to an episode that is gone
        step = one.step([np.ones((3, 1), int)])
        assert step.discarded.tolist() == step.started.tolist() == [False, False, True]
        assert step.teams[0].reward[2] == 0
        step = one.step([np.ones((3, 1), int)])
        assert not step.discarded.any()
        assert one.state_dict()["copies"][2]["length"] == 1


@pytest.mark.parametrize("learner", [marl.ippo(rollout=8, minibatches=1), marl.qmix(learning_starts=8, batch=4)])
@pytest.mark.parametrize("workers", [0, 1])
def test_training_goes_on_in_an_environment_that_does_not_come_back(learner, workers, tmp_path, caplog):
    system = marl.MultiAgentSystem(learner, Drifting, num_envs=2, workers=workers)
    with system:
        system.train(steps=42)
        system.save(tmp_path / "saved")
    with marl.MultiAgentSystem.load(tmp_path / "saved", env=Drifting) as again:
        again.train(steps=42)
        assert again.steps == 84
        assert np.isfinite(again.evaluate(episodes=2).mean_return)
    assert "not bit-exact: Drifting does not come back in copies 0, 1" in caplog.text


def test_a_state_of_something_else_is_refused():
    batch = make(Walk, 2)
    batch.reset(0)
    state = batch.state_dict()
    for other, words in (
        (make(Walk, 3), "holds 2 copies, expected 3"),
        (make(Walk, 2, max_steps=5), "max_steps was None when saved, is 5 now"),
        (make(Scripted, 2), "env was 'Walk' when saved, is 'scripted_v0' now"),
    ):
        with pytest.raises(CheckpointError, match=words):
            other.load_state_dict(state)


def test_copies_are_seeded_once_and_again_after_many_steps(monkeypatch):
    monkeypatch.setattr(copies, "RESEED_STEPS", 10)
    made = []

    def factory():
        made.append(Scripted(({}, {}, {}, {"cut": ["a", "b", "c"]})))
        return made[-1]

    batch = make(factory)
    batch.reset(3)
    actions = [np.zeros((1, 3), int)]
    for _ in range(24):
        batch.step(actions)
    seeds = [copies.derived_seed(3, 0, k) for k in range(3)]
    # After 12 steps since the seed the next episode starts from a new one, in the same environment. Seed 0 is that with
    # which it was looked at.
    assert [env.seeds for env in made] == [[0, seeds[0], None, None, seeds[1], None, None, seeds[2]]]
    assert [len(log) for log in batch.state_dict()["copies"][0]["actions"].values()] == [0]


def test_long_runs_keep_short_logs_and_still_come_back(monkeypatch):
    monkeypatch.setattr(copies, "RESEED_STEPS", 50)
    rng = np.random.default_rng(1)
    batch = make(Walk, 2)
    step = batch.reset(0)
    for _ in range(1_000):
        step = batch.step(random_actions(batch, rng))
    state = batch.state_dict()
    assert max(len(copy["actions"]["team"]) for copy in state["copies"]) < 400
    assert all(copy["seeds"] > 3 for copy in state["copies"])
    obs = step.teams[0].obs.copy()
    np.testing.assert_array_equal(make(Walk, 2).load_state_dict(state).teams[0].obs, obs)


def test_the_log_forgets_what_nobody_needs():
    spec = make(Walk, 2).spec
    log = ActionLog(spec, 2, capacity=4)
    for t in range(40):
        log.append([np.array([[t % 2], [1]])])
        if t % 3 == 2:
            log.restart(t % 2)
    assert log.since_seeding(0) == 1  # restarted after step 38
    assert log.since_seeding(1) == 4  # restarted after step 35
    np.testing.assert_array_equal(log.actions(1)[0][:, 0], [1, 1, 1, 1])
    np.testing.assert_array_equal(log.actions(0)[0][:, 0], [1])
    assert len(log._arrays[0]) <= 16


def test_the_log_of_an_episode_that_never_ends_stays_small_and_the_others_are_kept():
    log = ActionLog(make(Walk, 2).spec, 2, capacity=4, largest=32)
    for t in range(1_000):
        log.append([np.array([[t % 2], [1]])])
        if t % 10 == 9:
            log.restart(0)
        assert len(log._arrays[0]) <= 32
        assert log.since_seeding(0) == (t + 1) % 10
        assert log.since_seeding(1) == t + 1
        assert log.forgotten(1) == (t >= 32)
        assert not log.forgotten(0)
    log.append([np.array([[7], [1]])])
    assert log.actions(0)[0].tolist() == [[7]]
    assert len(log.actions(1)[0]) == 0
    log.restart(1)
    assert not log.forgotten(1)
    assert log.since_seeding(1) == 0


class Endless(Walk):
    """Walks on for ever where copies are told to."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


def test_a_copy_whose_episode_was_too_long_begins_a_new_one_and_the_run_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ActionLog.__init__, "__defaults__", (4, 16))
    with marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), Endless, num_envs=2) as system:
        system.train(steps=30)
        system.save(tmp_path / "short")
        system.train(steps=10)
        system.save(tmp_path / "long")
        assert len(system.state_dict()["env"]["copies"][0]["actions"]["team"]) == 0
    for name, said in (("short", False), ("long", True)):
        caplog.clear()
        with marl.MultiAgentSystem.load(tmp_path / name, env=Endless) as system:
            system.train(steps=20)
            assert ("too long to be repeated" in caplog.text) == said
            assert [copy["length"] for copy in system.state_dict()["env"]["copies"]] == [9 if said else 25] * 2


@pytest.mark.parametrize("name", ENVS)
def test_copies_do_not_care_how_they_are_split(name):
    factory = ENVS[name] if callable(ENVS[name]) else lambda: __import__("gymnasium").make(ENVS[name])
    whole = in_process(factory, 4, max_steps=9)
    parts = [in_process(factory, 1, max_steps=9), in_process(factory, 3, first_copy=1, max_steps=9)]
    rng = np.random.default_rng(2)
    step, halves = whole.reset(7), [part.reset(7) for part in parts]
    for _ in range(30):
        for k in range(len(step.teams)):
            for field in ("obs", "reward", "terminated", "truncated", "acting", "next_obs"):
                joined = np.concatenate([getattr(half.teams[k], field) for half in halves])
                np.testing.assert_array_equal(getattr(step.teams[k], field), joined, err_msg=field)
        assert sorted((e.copy, e.length) for e in step.finished) == sorted(
            (e.copy, e.length) for half in halves for e in half.finished
        )
        actions = random_actions(whole, rng)
        step = whole.step(actions)
        halves = [parts[0].step([a[:1] for a in actions]), parts[1].step([a[1:] for a in actions])]


def test_copies_differ_and_seeds_repeat():
    batch = make(Walk, 3)
    first = batch.reset(0).teams[0].obs.copy()
    assert len({float(place) for place in first[:, 0, 0]}) == 3
    np.testing.assert_array_equal(batch.reset(0).teams[0].obs, first)
    assert not np.array_equal(batch.reset(1).teams[0].obs, first)


def test_worker_processes_change_nothing():
    pytest.importorskip("mpe2")
    name, patterns = "mpe2.simple_tag_v3", ["adversary_*", "agent_*"]
    here, there = (make(name, 3, patterns, workers=workers, state=False, max_steps=9) for workers in (0, 2))
    try:
        assert here.spec == there.spec
        rng = np.random.default_rng(0)
        here.reset(3)
        there.reset(3)
        for _ in range(20):
            actions = random_actions(here, rng)
            assert_same(shown(here.step(actions)), shown(there.step(actions)))
    finally:
        there.close()

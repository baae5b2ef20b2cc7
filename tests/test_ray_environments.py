"""Environments on Ray's actors: the same results as in one process, and every way an actor can fail."""

from __future__ import annotations

import json
import os
import signal
from functools import partial

import numpy as np
import pytest

pytest.importorskip("ray")

import marl
from marl.adapters import make
from marl.adapters.ray_batch import Block, on_ray
from marl.cluster import LOCAL, Actors, joined
from marl.types import ConfigError, EnvContractError, ResourceError
from tests.adapters.toy import BREACH, HANG, RAISE, Toy, actions, toy
from tests.support.commands import SCENARIO, gone, marl_command, wait_until  # noqa: F401
from tests.support.equality import assert_equal_systems
from tests.support.tiny import Constant, Team, Turns

pytestmark = pytest.mark.skipif(os.name != "posix", reason="what Ray does elsewhere was not looked at")

# No test takes more than two actors at a time.
PAIR = Actors(2)
FIELDS = ("obs", "next_obs", "reward", "terminated", "truncated", "acting", "action_mask", "next_action_mask")


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    with joined(LOCAL, cpus=2):
        yield


def whole(step) -> list:
    """Everything of a step, copied."""
    arrays = [getattr(team, name) for team in step.teams for name in FIELDS]
    arrays += [step.started, step.discarded, step.state, step.next_state]
    return [None if array is None else array.copy() for array in arrays] + [sorted(step.finished, key=str)]


def trajectory(env, steps: int = 30, seed: int = 3) -> list[list]:
    chance = np.random.default_rng(0)
    shapes = [(env.num_envs, team.num_agents) for team in env.spec.teams]
    try:
        found = [whole(env.reset(seed))]
        found += [whole(env.step([chance.integers(0, 2, shape) for shape in shapes])) for _ in range(steps)]
    finally:
        env.close()
    return found


def assert_same(left, right) -> None:
    assert len(left) == len(right)
    for before, after in zip(left, right, strict=True):
        for a, b in zip(before, after, strict=True):
            if isinstance(a, np.ndarray):
                np.testing.assert_array_equal(a, b)
                assert a.dtype == b.dtype
            else:
                assert a == b


def test_actors_workers_and_one_process_play_the_same_episodes():
    world = partial(Team, length=12, die=(3, 7, None))  # two agents die, at different times
    expected = trajectory(make(world, 5))
    assert any(step[-1] for step in expected)
    assert_same(trajectory(make(world, 5, workers=2)), expected)
    assert_same(trajectory(make(world, 5, actors=PAIR)), expected)


def test_turns_are_taken_on_actors_as_in_one_process():
    teams = ["player_0", "player_1"]
    assert_same(trajectory(make(Turns, 3, teams, actors=PAIR)), trajectory(make(Turns, 3, teams)))


def test_mpe2_is_the_same_on_actors_as_in_one_process():
    pytest.importorskip("mpe2")
    spread = "mpe2.simple_spread_v3"
    assert_same(trajectory(make(spread, 3, actors=PAIR)), trajectory(make(spread, 3)))


def test_training_on_actors_is_training_in_one_process_bit_for_bit():
    def trained(**where):
        learner = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((8,)))
        system = marl.MultiAgentSystem(learner, partial(Team, length=5), num_envs=4, seed=7, **where)
        with system:
            history = system.train(steps=64, log_every=32)
            assert len(history["mean_return"]) == 2
            return system, system.env.state_dict()

    here, state = trained()
    there, on_actors = trained(ray="auto", actors=2)
    assert_equal_systems(here, there)
    assert on_actors["copies"][3].keys() == state["copies"][3].keys()  # as many processes as one likes may go on


@pytest.fixture(scope="module")
def batch():
    batch = toy(place=on_ray(PAIR), deadline=5.0)
    yield batch
    pids = batch.pids
    batch.close()
    wait_until(lambda: all(gone(pid) for pid in pids))
    with pytest.raises(ConfigError, match="closed"):
        batch.reset(0)


def test_a_killed_actor_is_replaced_and_the_others_go_on(batch, capsys):
    reference = Toy(5, 4, 0)
    expected = [whole(reference.reset(3))] + [whole(reference.step(actions())) for _ in range(3)]
    first = batch.reset(3).teams[0].obs.copy()
    batch.step(actions())
    os.kill(batch.pids[0], signal.SIGKILL)
    step = batch.step(actions())
    assert step.discarded.tolist() == step.started.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(step.teams[0].obs[2:], expected[2][0][2:])
    assert not np.isin(step.teams[0].obs[:2], first).any()  # the seeds of a replacement are fresh
    assert batch.faults["killed"] == 1
    step = batch.step(actions())
    assert not step.discarded.any()
    np.testing.assert_array_equal(step.teams[0].obs[2:], expected[3][0][2:])
    assert capsys.readouterr().out == ""


def test_state_travels_between_actors_and_back(batch):
    batch.reset(5)
    for _ in range(3):
        batch.step(actions(value=1))
    state = batch.state_dict()
    expected = [whole(batch.step(actions(value=2))) for _ in range(4)]
    batch.load_state_dict(state)
    assert_same([whole(batch.step(actions(value=2))) for _ in range(4)], expected)


def test_an_actor_that_hangs_is_replaced_after_its_deadline(batch):
    batch.reset(0)
    old = batch.pids[1]
    batch._deadline = 1.0
    try:
        step = batch.step(actions(value=HANG, copy=2))
    finally:
        batch._deadline = 5.0
    assert step.discarded.tolist() == [False, False, True, True]
    assert batch.faults["hung"] >= 1
    wait_until(lambda: gone(old))


def test_a_breach_of_contract_is_raised_here_and_costs_no_actor(batch):
    batch.reset(1)
    pids = batch.pids
    with pytest.raises(EnvContractError, match="agent 'a': observation is NaN"):
        batch.step(actions(value=BREACH, copy=1))
    assert batch.pids == pids


def test_too_many_faults_in_a_row_end_it_and_name_the_actor(batch):
    batch.reset(0)
    batch._restarts = 0
    os.kill(batch.pids[1], signal.SIGKILL)
    with pytest.raises(ResourceError, match=r"ray actor 1 \(copies 2 to 3\) failed 1 times in a row.*worker process"):
        batch.step(actions())
    with pytest.raises(EnvContractError, match=r"(?s)ray actor 0 .*the toy broke.*workers=0 and without ray"):
        batch.step(actions(value=RAISE, copy=0))
    states = [part["state"] for part in batch.state_dict()["parts"]]
    assert states == [None, None]  # a run that ends this way is saved first; these copies will begin anew


def test_a_cluster_with_too_few_cores_says_so():
    with pytest.raises(ResourceError, match="ray: 3 actors need a core each, and the cluster has 2; lower actors"):
        make(Constant, 4, actors=Actors(3))


def test_a_world_with_a_batched_form_is_not_sent_anywhere():
    with pytest.raises(ConfigError, match="steps all of its copies by itself"):
        make("marl/spread-v0", 4, actors=PAIR)


def test_only_what_there_is_of_a_step_travels():
    env = Toy(5, 4, 0)
    near, far = Block(env.spec, 4), Block(env.spec, 4)
    assert near.put_step(far.step_bytes(True))
    assert near.put_step(far.step_bytes(False))
    assert not near.put_step(b"")
    successors = far.step.teams[0].next_obs.nbytes + far.step.next_state.nbytes + 4 * 2 * 20
    assert len(far.step_bytes(True)) - len(far.step_bytes(False)) in range(successors, successors + 3 * 64)
    far.actions[0][...] = np.arange(8).reshape(4, 2)
    near.put_actions(far.actions_bytes())
    np.testing.assert_array_equal(near.actions[0], far.actions[0])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--actors", 2), "--actors: on which cluster"),
        (("--ray", "auto"), "--ray: how many actors"),
        (("--ray", "auto", "--actors", 2, "--workers", 2), "leave one out"),
        (("--ray", "auto", "--actors", 0), "--actors: expected a whole number of at least 1"),
        (("--ray", "nonsense", "--actors", 2), "ray: expected auto, HOST:PORT"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, match, tmp_path, marl_command):  # noqa: F811
    said = marl_command("train", "CartPole-v1", "--run-dir", tmp_path / "run", *options)
    assert said.code == 2
    assert match in said.error
    assert said.out == ""


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ({"ray": "auto"}, "how many"),
        ({"actors": 2}, "on which cluster"),
        ({"ray": "auto", "actors": 2, "workers": 2}, "leave one out"),
    ],
)
def test_a_system_needs_both_keywords_and_no_workers(where, match):
    with pytest.raises(ConfigError, match=match):
        marl.MultiAgentSystem(marl.ippo(), Constant, **where)


def test_the_command_line_trains_on_actors_and_its_json_is_all_of_stdout(tmp_path, marl_command):  # noqa: F811
    (tmp_path / "tiny.py").write_text(SCENARIO)
    run = tmp_path / "run"
    words = ("train", tmp_path / "tiny.py", "--run-dir", run, "--no-evaluate", "--json", "--quiet")
    said = marl_command(*words, "--steps", 128, "--ray", "auto", "--actors", 1)
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out)["status"] == "finished"
    on_actors = marl_command(*words, "--steps", 192, "--resume")
    assert on_actors.code == 0  # a run folder leads nobody to a cluster: without --ray this process goes on

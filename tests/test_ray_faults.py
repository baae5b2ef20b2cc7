"""A node of a Ray cluster that is lost, and a driver that is killed: training goes on, and no process stays behind."""

from __future__ import annotations

import json
import signal
import sys

import numpy as np
import pytest

pytest.importorskip("ray")

import marl
from marl import checkpoint
from marl.adapters.ray_batch import on_ray
from marl.cluster import Actors, joined, ray
from marl.logs import read_metrics
from tests.adapters.toy import Toy, actions, toy
from tests.support.commands import KILLED, SCENARIO, finish, gone, marl_command, start, wait_until  # noqa: F401
from tests.support.equality import CLOCKS, assert_equal_trees
from tests.support.tiny import Team

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Ray does elsewhere was not looked at")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a core each, so that each of two actors is on one of them."""
    ray()
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray._private.utils.write_ray_address", lambda *_: None)  # or "auto" of others would lead here
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        with joined(cluster.address):
            yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(autouse=True)
def _torch_alone(monkeypatch):
    """To load compiled code takes longer than all else here, and each process does it anew."""
    monkeypatch.setenv("MARL_COMPILED", "off")
    with marl.compiled.use("off"):
        yield


def lose_the_second_node(cluster) -> None:
    """By signal, with all that runs there; another takes its place."""
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)


def test_copies_on_a_lost_node_begin_anew_on_another_and_the_others_go_on(cluster):
    reference = Toy(5, 4, 0)
    batch = toy(place=on_ray(Actors(2, cluster.address)))
    try:
        np.testing.assert_array_equal(batch.reset(3).teams[0].obs, reference.reset(3).teams[0].obs)
        lose_the_second_node(cluster)
        step, expected = batch.step(actions()), reference.step(actions())
        lost = step.discarded.copy()
        assert lost.tolist() in ([True, True, False, False], [False, False, True, True])
        np.testing.assert_array_equal(step.teams[0].obs[~lost], expected.teams[0].obs[~lost])
        step, expected = batch.step(actions()), reference.step(actions())
        assert not step.discarded.any()
        np.testing.assert_array_equal(step.teams[0].obs[~lost], expected.teams[0].obs[~lost])
        assert batch.faults["killed"] == 1
        pids = batch.pids
    finally:
        batch.close()
    wait_until(lambda: all(map(gone, pids)))


def test_a_collecting_actor_on_a_lost_node_is_replaced_and_every_step_is_counted_once(cluster):
    agents = marl.A2C(rollout=8, network=marl.MLP((8,)), correction=marl.VTrace())
    with marl.MultiAgentSystem(agents, Team, num_envs=4, seed=7, ray=cluster.address, actors=2, staleness=1) as system:
        system.train(steps=96)
        lose_the_second_node(cluster)
        for _ in range(1_000):  # the other actor alone may fill all rollouts before the cluster knows of the loss
            if not system.faults:
                system.train(steps=96)
        counts, pids = system.training.asynchronous, system.environments.training.pids
        assert system.faults == {"killed": 1, "lost_episodes": 2}
        assert counts["learned"] == system.steps
    assert counts["begun"] == counts["learned"] + counts["discarded"]
    wait_until(lambda: all(map(gone, pids)))


DIES = """__import__("pathlib").Path({path!r}).write_text(repr([*system.environments.training.pids])); \
os.kill(os.getpid(), signal.SIGKILL)"""


def train_and_die(step, folder, *words) -> None:
    """A driver that is killed at a step; the processes of its actors end, too."""
    code = KILLED.replace("788", str(step)).format(DIES.format(path=str(folder / "pids")))
    said = finish(start("train", folder / "tiny.py", "--run-dir", folder / "run", *words, code=code))
    assert said.code == -signal.SIGKILL, said.err
    pids = json.loads((folder / "pids").read_text())
    assert len(pids) == 2
    wait_until(lambda: all(map(gone, pids)))


def whole(run):
    """What a run came to, but for clocks and for the kinds of faults that there are where its copies are."""
    state, _ = checkpoint.load(run / "checkpoints" / "last")
    del state["env"]["faults"]
    state["history"] = {name: x for name, x in state["history"].items() if name not in CLOCKS}
    return state


def test_a_driver_with_environments_on_actors_is_killed_and_resumed_bit_for_bit(cluster, tmp_path, marl_command):  # noqa: F811
    (tmp_path / "tiny.py").write_text(SCENARIO)
    words = ("--save-every", 320, "--no-evaluate", "--quiet")
    train_and_die(788, tmp_path, *words, "--ray", cluster.address, "--actors", 2)
    on_actors = ("--resume", "--ray", cluster.address, "--actors", 2)
    said = marl_command("train", tmp_path / "tiny.py", "--run-dir", tmp_path / "run", *words, *on_actors)
    assert said.code == 0, said.err
    assert "resuming" in said.err
    assert marl_command("train", tmp_path / "tiny.py", "--run-dir", tmp_path / "unbroken", *words).code == 0
    assert_equal_trees(whole(tmp_path / "unbroken"), whole(tmp_path / "run"))


def test_a_driver_of_collecting_actors_is_killed_and_what_is_learned_is_counted_once(cluster, tmp_path, marl_command):  # noqa: F811
    (tmp_path / "tiny.py").write_text(SCENARIO.replace("marl.ippo", "marl.appo"))
    words = ("--save-every", 320, "--no-evaluate", "--quiet", "--ray", cluster.address, "--actors", 2, "--staleness", 1)
    train_and_die(768, tmp_path, *words)
    run = tmp_path / "run"
    said = marl_command("train", tmp_path / "tiny.py", "--run-dir", run, *words, "--resume", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["status"] == "finished"
    state, _ = checkpoint.load(run / "checkpoints" / "last")
    counts = state["asynchronous"]
    assert counts["learned"] == state["steps"] == 1280
    assert counts["version"] == 1280 // 64
    steps = [row["steps"] for row in read_metrics(run)]
    assert steps == [64 * (n + 1) for n in range(20)]

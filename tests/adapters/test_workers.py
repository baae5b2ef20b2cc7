"""Worker processes: the same results as in one process, and every way a worker can fail."""

import gc
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from marl.adapters import make
from marl.adapters.workers import WorkerBatch
from marl.types import (
    CheckpointError,
    ConfigError,
    EnvContractError,
    Episode,
    ResourceError,
)
from tests.adapters.toy import ABORT, BREACH, EXIT, FORK, HANG, RAISE, SYS_EXIT, Toy, actions, build_toy, toy

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need Linux or macOS")


@pytest.fixture
def batch():
    batch = toy()
    yield batch
    batch.close()


def arrays_of(step) -> dict[str, np.ndarray]:
    team = step.teams[0]
    names = ("obs", "next_obs", "reward", "terminated", "truncated", "acting", "action_mask")
    found = {name: getattr(team, name).copy() for name in names}
    for name in ("started", "discarded", "state", "next_state"):
        found[name] = getattr(step, name).copy()
    return found


def trajectory(env, steps: int, seed: int = 3) -> list[tuple[dict[str, np.ndarray], list[Episode]]]:
    rng = np.random.default_rng(0)
    records = [(arrays_of(env.reset(seed)), [])]
    for _ in range(steps):
        step = env.step([rng.integers(0, 10, (env.num_envs, 2))])
        records.append((arrays_of(step), sorted(step.finished, key=lambda episode: episode.copy)))
    return records


def assert_same(left, right) -> None:
    assert len(left) == len(right)
    for (a, episodes_a), (b, episodes_b) in zip(left, right, strict=True):
        assert episodes_a == episodes_b
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return Path("/proc").exists()


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


HANGS = 120  # seconds after which a test that waits has found a deadlock; how fast things are is nobody's promise here


def wait_until(condition) -> None:
    until = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < until, "a hang"
        time.sleep(0.02)


def wait_gone(pids) -> None:
    wait_until(lambda: all(gone(pid) for pid in pids))


def test_results_do_not_depend_on_the_number_of_workers():
    expected = trajectory(Toy(5, 5, 0), 23)
    for workers in (1, 2, 3):
        env = toy(num_envs=5, workers=workers)
        assert_same(trajectory(env, 23), expected)
        env.close()


def test_successors_are_the_very_observations_while_no_episode_ends(batch):
    step = batch.reset(0)
    assert step.teams[0].next_obs is step.teams[0].obs
    step = batch.step(actions())
    assert step.teams[0].next_obs is step.teams[0].obs
    assert step.next_state is step.state
    for _ in range(4):
        step = batch.step(actions())
    assert step.teams[0].next_obs is not step.teams[0].obs
    assert step.teams[0].truncated.all()


def test_more_workers_than_copies_are_not_started():
    env = toy(num_envs=2, workers=5)
    assert len(env.pids) == 2
    env.close()


def test_reset_options_reach_the_copies(batch):
    assert (batch.reset(0, {"time": 2}).state[:, 0] == 2).all()


def test_async_halves_make_one_step(batch):
    batch.reset(0)
    batch.step_async(actions(value=3))
    step = batch.step_wait()
    assert (step.teams[0].reward == 3).all()
    with pytest.raises(ConfigError, match="step_async"):
        batch.step_wait()


@pytest.mark.parametrize(
    ("bad", "match"),
    [([np.zeros((3, 2), dtype=np.int64)], "expected \\(4, 2\\)"), ([], "1 teams, got 0")],
)
def test_actions_of_the_wrong_shape_are_refused(batch, bad, match):
    batch.reset(0)
    with pytest.raises(ConfigError, match=match):
        batch.step(bad)


@pytest.mark.parametrize(
    ("value", "kind"), [(RAISE, "raised"), (EXIT, "exited"), (SYS_EXIT, "raised"), (ABORT, "exited")]
)
def test_a_failing_environment_is_replaced_and_its_episode_discarded(batch, value, kind):
    batch.reset(1)
    before = batch.step(actions()).teams[0].obs.copy()
    step = batch.step(actions(value=value, copy=3))
    assert step.discarded.tolist() == [False, False, True, True]
    assert step.started.tolist() == [False, False, True, True]
    assert (step.teams[0].reward[2:] == 0).all()
    assert not step.teams[0].terminated.any()
    assert not np.isin(step.teams[0].obs, before).any()
    assert batch.faults[kind] == sum(batch.faults.values()) == 1
    step = batch.step(actions())
    assert not step.discarded.any()
    assert step.state[:, 0].tolist() == [3, 3, 1, 1]


def test_a_killed_worker_is_replaced_with_fresh_seeds_and_the_others_go_on(batch):
    expected = trajectory(Toy(5, 4, 0), 6)
    rng = np.random.default_rng(0)
    first = arrays_of(batch.reset(3))
    for k in range(1, 7):
        if k == 3:
            os.kill(batch.pids[0], signal.SIGKILL)
        step = batch.step([rng.integers(0, 10, (4, 2))])
        assert step.discarded.tolist() == [k == 3, k == 3, False, False]
        np.testing.assert_array_equal(step.teams[0].obs[2:], expected[k][0]["obs"][2:])
        np.testing.assert_array_equal(step.teams[0].next_obs[2:], expected[k][0]["next_obs"][2:])
        if k == 3:
            assert not np.isin(step.teams[0].obs[:2], first["obs"]).any()
            assert step.teams[0].next_obs is step.teams[0].obs
    assert batch.faults["killed"] == 1


def test_replacement_happens_even_when_the_other_worker_ends_an_episode(batch):
    batch.reset(0)
    for _ in range(4):
        batch.step(actions())
    os.kill(batch.pids[0], signal.SIGKILL)
    step = batch.step(actions())
    assert [episode.copy for episode in step.finished] == [2, 3]
    assert step.teams[0].truncated[:, 0].tolist() == [False, False, True, True]
    np.testing.assert_array_equal(step.teams[0].next_obs[:2], step.teams[0].obs[:2])
    np.testing.assert_array_equal(step.next_state[:2], step.state[:2])


def test_children_of_a_lost_environment_neither_hide_its_end_nor_stay(batch):
    batch.reset(0)
    old = batch.pids[0]
    step = batch.step(actions(value=FORK, copy=0))
    assert step.discarded.tolist() == [True, True, False, False]
    assert batch.faults["exited"] == 1  # not "hung", as after its deadline
    wait_until(lambda: not group_lives(old))


@pytest.mark.parametrize("how", ["stopped", "stuck"])
def test_a_hung_worker_is_replaced_after_its_deadline(how, monkeypatch):
    env = toy(deadline=1e6)
    env.reset(0)
    old = env.pids[1]
    if how == "stopped":
        os.kill(old, signal.SIGSTOP)
    env.step_async(actions(value=HANG if how == "stuck" else 0, copy=2))
    wait_until(lambda: select.select([env._workers[0]._pipe._sock], [], [], 0)[0])  # the other one has answered
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 1e6)  # and the deadline has passed
    step = env.step_wait()
    assert step.discarded.tolist() == [False, False, True, True]
    assert env.faults["hung"] == 1
    wait_gone([old])
    env.close()


def test_repeated_faults_exhaust_the_budget_and_name_the_worker():
    env = toy(restarts=1)
    env.reset(0)
    os.kill(env.pids[1], signal.SIGKILL)
    env.step(actions())
    os.kill(env.pids[1], signal.SIGKILL)
    with pytest.raises(ResourceError, match=r"worker 1 \(copies 2 to 3\) failed 2 times in a row.*SIGKILL") as caught:
        env.step(actions())
    assert caught.value.exit_code == 6
    state = env.state_dict()  # a run that ends this way is saved first
    env.close()
    again = toy()
    step = again.load_state_dict(state)
    assert step.discarded.tolist() == [False, False, True, True]
    again.close()


def test_an_environment_that_always_raises_is_a_contract_breach_with_its_traceback():
    env = toy(restarts=1)
    env.reset(0)
    env.step(actions(value=RAISE, copy=0))
    with pytest.raises(EnvContractError, match=r"(?s)worker 0 .* 2 times.*the toy broke.*workers=0"):
        env.step(actions(value=RAISE, copy=0))
    env.close()


def test_finished_episodes_renew_the_restart_budget():
    env = toy(restarts=1, length=2)
    env.reset(0)
    for _ in range(3):
        env.step(actions(value=RAISE, copy=0))
        env.step(actions())
        assert len(env.step(actions()).finished) >= 2
    assert env.faults["raised"] == 3
    env.close()


def test_a_breach_of_contract_is_raised_here_and_costs_no_restart(batch):
    batch.reset(0)
    pids = batch.pids
    with pytest.raises(EnvContractError, match="agent 'a': observation is NaN"):
        batch.step(actions(value=BREACH, copy=1))
    assert batch.pids == pids
    assert sum(batch.faults.values()) == 0


def test_a_factory_that_raises_is_reported_at_once():
    def broken():
        raise ModuleNotFoundError("No module named 'worlds'")

    with pytest.raises(EnvContractError, match=r"(?s)could not create the environment.*No module named 'worlds'"):
        WorkerBatch(broken, 2, workers=1, build=build_toy)


def test_state_returns_every_worker_to_where_it_was(batch):
    batch.reset(5)
    for _ in range(3):
        batch.step(actions(value=1))
    state = batch.state_dict()
    expected = [arrays_of(batch.step(actions(value=2))) for _ in range(4)]
    other = toy()
    other.load_state_dict(state)
    for step in expected:
        found = arrays_of(other.step(actions(value=2)))
        for name, array in step.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    other.close()
    with_three = toy(workers=3)
    with pytest.raises(CheckpointError, match="2 workers over 4 copies"):
        with_three.load_state_dict(state)
    with_three.close()


def test_saving_beside_a_dead_worker_resumes_like_going_on(batch):
    batch.reset(5)
    batch.step(actions())
    os.kill(batch.pids[0], signal.SIGKILL)
    wait_gone([batch.pids[0]])
    state = batch.state_dict()
    expected = arrays_of(batch.step(actions(value=2)))
    later = arrays_of(batch.step(actions(value=2)))
    other = toy()
    other.load_state_dict(state)
    found = arrays_of(other.step(actions(value=2)))
    assert found["discarded"].tolist() == [True, True, False, False]
    np.testing.assert_array_equal(found["obs"], expected["obs"])
    np.testing.assert_array_equal(arrays_of(other.step(actions(value=2)))["obs"], later["obs"])
    other.close()


def test_closing_twice_is_fine_and_forgetting_closes():
    env = toy()
    pids = env.pids
    with pytest.raises(ConfigError, match="step before reset"):
        env.step(actions())
    env.close()
    env.close()
    wait_gone(pids)
    with pytest.raises(ConfigError, match="closed"):
        env.reset(0)
    env = toy()
    env.reset(0)
    pids = env.pids
    del env
    gc.collect()
    wait_gone(pids)


def test_a_factory_from_an_unimportable_file_travels_by_value(tmp_path):
    from importlib.util import module_from_spec, spec_from_file_location

    path = tmp_path / "my scenario.py"
    path.write_text("LENGTH = 4\ndef factory():\n    return LENGTH\n")
    spec = spec_from_file_location("my_scenario", path)
    module = module_from_spec(spec)
    sys.modules["my_scenario"] = module
    try:
        spec.loader.exec_module(module)
        env = WorkerBatch(module.factory, 2, workers=1, build=build_toy)
        env.reset(0)
        for _ in range(4):
            step = env.step(actions(num_envs=2))
        assert step.teams[0].truncated.all()
        env.close()
    finally:
        del sys.modules["my_scenario"]


SCRIPT = textwrap.dedent(
    """
    import json, os, signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children deaf to it
    sys.path.insert(0, {tests!r})
    from toy import actions, toy, HANG, PRINT
    length = 50
    env = toy(length=length)
    env.reset(0)
    print(json.dumps(env.pids), flush=True)
    {then}
    """
)


def run_script(tmp_path: Path, then: str) -> tuple[subprocess.Popen[str], list[int]]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent), then=then))
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return process, json.loads(line)


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm")) if Path("/dev/shm").exists() else set()


@pytest.mark.parametrize("then", ["time.sleep(600)", "env.step(actions(value=HANG))"])
def test_workers_die_with_a_killed_learner_and_leave_nothing(tmp_path, then):
    before = shared_memory()
    process, pids = run_script(tmp_path, then)
    if "HANG" in then:
        assert process.stderr is not None
        while "hangs" not in process.stderr.readline():
            assert process.poll() is None
    process.kill()
    process.communicate()
    wait_gone(pids)
    wait_until(lambda: shared_memory() <= before)  # others share the machine, and their files come and go


def test_workers_of_a_thread_die_with_a_killed_learner(tmp_path):
    then = (
        "import threading\n"
        "def other():\n"
        "    global second\n"
        "    second = toy()\n"
        "    second.reset(0)\n"
        "t = threading.Thread(target=other); t.start(); t.join(); time.sleep(0.2)\n"
        "second.step(actions())\n"
        "assert not any(second.faults.values())\n"
        "print(json.dumps(second.pids), flush=True)\n"
        "second.step_async(actions(value=HANG))\n"
        "time.sleep(600)"
    )
    process, pids = run_script(tmp_path, then)
    pids += json.loads(process.stdout.readline())
    process.kill()
    process.communicate()
    wait_gone(pids)


def test_ctrl_c_reaches_the_learner_only(tmp_path):
    process, pids = run_script(tmp_path, "while True: env.step(actions())")
    time.sleep(0.2)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert not any(gone(pid) for pid in pids)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    wait_gone(pids)
    assert errors.count("Traceback") == 1


def test_what_an_environment_prints_stays_out_of_the_learners_output(tmp_path):
    process, pids = run_script(tmp_path, "env.step(actions(value=PRINT)); print(env.faults)")
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "the toy prints" not in out
    assert "the toy prints" in errors
    wait_gone(pids)


def test_workers_do_not_wait_for_torch():
    code = "import sys, marl.adapters.workers; sys.exit('torch' in sys.modules)"
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_memory_that_is_not_there_is_a_resource_error(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"shared memory for 4 copies.*num_envs"):
        toy()


def test_running_out_of_descriptors_is_a_resource_error(monkeypatch):
    def full(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(ResourceError, match=r"cannot start worker 0 .*Too many open files.*lower workers"):
        toy()


def test_without_memfd_a_nameless_file_serves(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    env = toy()
    assert_same(trajectory(env, 6), trajectory(Toy(5, 4, 0), 6))
    env.close()


@pytest.mark.parametrize(
    "wrong",
    [{"num_envs": 0}, {"workers": 0}, {"deadline": 0.0}, {"deadline": float("nan")}, {"deadline": float("inf")}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        toy(**wrong)


# --- through the real adapters ---------------------------------------------------------------------------------------


class Corridor(gymnasium.Env):
    """A walk with a random start; walking into the wall at -3 crashes it, and 6 ends it."""

    observation_space = gymnasium.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = self.np_random.uniform(0, 1), 0
        return self._see(), {}

    def step(self, action):
        self.place += (2 * action - 1) * self.np_random.uniform(0.5, 1.5)
        self.time += 1
        if self.place < -9:
            raise RuntimeError("into the wall")
        return self._see(), self.place, self.place > 6, self.time >= 15, {}

    def _see(self):
        return np.array([self.place, self.time % 10], dtype=np.float32)


def through_adapter(env, steps: int, load=None) -> list[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(1)
    step = env.reset(11) if load is None else env.load_state_dict(load)
    seen = []
    for _ in range(steps):
        step = env.step([rng.integers(0, 2, (env.num_envs, 1))])
        team = step.teams[0]
        episodes = [(e.copy, e.length, e.returns["agent_0"]) for e in sorted(step.finished, key=lambda e: e.copy)]
        arrays = (team.obs, team.next_obs, team.reward, team.terminated, team.truncated, step.started)
        seen.append((*(array.copy() for array in arrays), np.array(episodes)))
    return seen


def test_a_real_environment_gives_the_same_in_any_number_of_workers_and_resumes_in_any_other():
    envs = [make(Corridor, num_envs=5, workers=workers) for workers in (0, 2, 3)]
    expected, *others = [through_adapter(env, 40) for env in envs]
    for other in others:
        for left, right in zip(expected, other, strict=True):
            for a, b in zip(left, right, strict=True):
                np.testing.assert_array_equal(a, b)
    assert any(len(record[-1]) for record in expected)
    states = [env.state_dict() for env in envs]
    expected, *others = [
        through_adapter(env, 20, load=state) for env, state in zip(envs, [states[1], states[2], states[0]], strict=True)
    ]
    for other in others:
        for left, right in zip(expected, other, strict=True):
            for a, b in zip(left, right, strict=True):
                np.testing.assert_array_equal(a, b)
    for env in envs:
        env.close()


def test_crashes_mended_inside_a_worker_are_counted_here():
    env = make(Corridor, num_envs=2, workers=2)
    env.reset(0)
    discarded = 0
    for k in range(60):
        discarded += int(env.step([np.full((2, 1), int(k > 11), dtype=np.int64)]).discarded.sum())
    assert discarded == env.faults["crash"] > 0
    assert env.faults["raised"] == 0
    env.close()

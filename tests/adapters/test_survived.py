"""Faults that are survived: told once, counted everywhere, and limited, however far an environment comes each time."""

import json
import logging
import os
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo.utils.conversions import parallel_to_aec

import marl
from marl.adapters import make
from marl.adapters.faults import LEAST_LOST, LOST_IN_A_ROW, RECENT_EPISODES, Ledger
from marl.types import EnvContractError, ResourceError
from tests.adapters.envs import Scripted, act
from tests.adapters.toy import EXIT, actions, toy
from tests.support.tiny import Team


class Diverging(gymnasium.Env):
    """Raises in step ``at`` of every episode, which would take ``length`` steps."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(2)
    crashes = 0

    def __init__(self, at=3, length=10_000):
        self.at, self.length = at, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        if self.time == self.at:
            type(self).crashes += 1
            raise FloatingPointError("the simulator diverged")
        return np.zeros(1, np.float32), 1.0, self.time == self.length, False, {}


class Flaky(Diverging):
    """Every other episode crashes in its third step; the others take five."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        Flaky.episodes += 1
        self.at = 3 if Flaky.episodes % 2 == 0 else -1
        self.length = 5
        return super().reset(seed=seed)


@pytest.fixture(autouse=True)
def _none_yet():
    Diverging.crashes = Flaky.crashes = Flaky.episodes = 0


def play(batch, steps):
    batch.reset(0)
    try:
        for _ in range(steps):
            batch.step(act(batch))
    finally:
        batch.close()


@pytest.mark.parametrize("at", [1, 2, 20, 21, 999, 1000, 1001, 1002, 2500, 5000])
def test_an_environment_that_raises_at_the_same_step_of_every_episode_is_given_up_after_three(at):
    with pytest.raises(EnvContractError, match=r"raised 3 times in a row.*the simulator diverged"):
        play(make(Diverging, env_kwargs={"at": at}), 3 * at)
    assert Diverging.crashes == 3


@pytest.mark.parametrize("at", [3, 1001, 5000])
def test_so_it_is_in_a_worker(at):
    with pytest.raises(EnvContractError, match=r"copy 0 raised 3 times in a row.*the simulator diverged"):
        play(make(Diverging, 2, workers=1, env_kwargs={"at": at}), 3 * at)


class Timed(Diverging):
    """The options of a reset say which step raises (0: none) and how long the episode is."""

    def reset(self, *, seed=None, options=None):
        self.at, self.length = (options or {}).get("at", 0), (options or {}).get("length", 10_000)
        return super().reset(seed=seed)


class TimedTeam(Team):
    """The same of several agents."""

    def reset(self, seed=None, options=None):
        self.at, self.length = (options or {}).get("at", 0), (options or {}).get("length", 10_000)
        return super().reset(seed, options)

    def step(self, actions):
        if self.time + 1 == self.at:
            raise FloatingPointError("the simulator diverged")
        return super().step(actions)


def in_turns():
    return parallel_to_aec(TimedTeam(widths=(3,), choices=(2,)))  # one agent: a turn is a step


# Every step while observations are fully checked and looks are frequent; then both sides of each time a copy could be
# seeded anew, and some steps between.
STEPS = (*range(1, 131), *(k + d for k in (1000, 2000, 3000, 4000) for d in (-1, 0, 1, 2)), 1531, 2718, 4999, 5000)
ALL_STEPS = range(1, 5001)
# Beyond the copies nothing knows how long an episode is: the wire, training and evaluation carry the same steps.
SOME_STEPS = sorted({*STEPS, *range(50, 5001, 50)})


def assert_given_up(batch, steps):
    """Whichever of these steps of every episode raises, the third time ends the run."""
    for at in steps:
        batch.reset(0, {"length": 1})
        action = act(batch)
        while not batch.step(action).finished:  # an episode that ends: what was lost before is forgiven
            pass
        batch.reset(0, {"at": at})
        for _ in range(3 * at - 1):
            batch.step(action)
        with pytest.raises(EnvContractError, match=rf"raised 3 times in a row, last at step {at - 1}: .* diverged"):
            batch.step(action)
    batch.close()


@pytest.mark.parametrize(
    ("factory", "workers", "steps"),
    [
        (Timed, 0, STEPS),
        (TimedTeam, 0, (*range(1, 100), 1000, 1001)),
        (in_turns, 0, (*range(1, 50), 1001)),
        (Timed, 1, (*range(1, 50), 1001)),
    ],
)
def test_whichever_step_raises_the_third_time_ends_the_run(factory, workers, steps):
    assert_given_up(make(factory, workers=workers), steps)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "steps"), [(0, ALL_STEPS), (1, SOME_STEPS)])
def test_each_of_the_first_5000_steps_may_raise(workers, steps):
    assert_given_up(make(Timed, workers=workers), steps)


def assert_train_and_evaluate_end(at, workers=0):
    with marl.MultiAgentSystem(marl.Random(), Diverging, num_envs=1, workers=workers, env_kwargs={"at": at}) as system:
        for work in (lambda: system.train(steps=4 * at), lambda: system.evaluate(episodes=1)):
            Diverging.crashes = 0
            with pytest.raises(EnvContractError, match="3 times in a row"):
                work()
            assert workers or Diverging.crashes == 3


@pytest.mark.parametrize(("at", "workers"), [*((at, 0) for at in (*range(1, 23), 64, 1001)), (2, 1), (1001, 1)])
def test_train_and_evaluate_end_with_it(at, workers):
    assert_train_and_evaluate_end(at, workers)


@pytest.mark.slow
def test_train_and_evaluate_end_with_a_fault_in_any_step():
    for at in SOME_STEPS:
        assert_train_and_evaluate_end(at)
    for at in (*range(1, 131, 10), 999, 1000, 1001, 2500, 5000):
        assert_train_and_evaluate_end(at, workers=1)


class OneBad(Diverging):
    """The third one made crashes late in every episode, and so does what replaces it; others have short episodes."""

    made, next_is_bad = 0, False

    def __init__(self):
        OneBad.made += 1
        bad = OneBad.made == 3 or OneBad.next_is_bad
        OneBad.next_is_bad = False
        super().__init__(at=1200 if bad else -1, length=10_000 if bad else 4)

    def step(self, action):
        OneBad.next_is_bad = self.time + 1 == self.at
        return super().step(action)


def test_an_evaluation_ends_though_only_one_copy_never_finishes():
    with marl.MultiAgentSystem(marl.Random(), OneBad, num_envs=1) as system:
        OneBad.made, OneBad.next_is_bad = 0, False
        with pytest.raises(EnvContractError, match="raised 3 times in a row"):
            system.evaluate(episodes=8, num_envs=4)
    assert Diverging.crashes + OneBad.crashes == 3


def test_steps_made_do_not_renew_a_workers_restarts():
    env = toy(restarts=1, length=10_000)
    env.reset(0)
    for failures in (1, 2):
        for _ in range(150):
            env.step(actions())
        if failures == 2:
            with pytest.raises(EnvContractError, match=r"worker 1 .* failed 2 times in a row"):
                env.step(actions(value=EXIT, copy=3))
        else:
            env.step(actions(value=EXIT, copy=3))
    env.close()


def test_a_copy_of_which_every_episode_is_dropped_ends_the_run():
    class Seer(Scripted):
        made, next_is_bad = 0, False

        def __init__(self):
            Seer.made += 1
            self.bad, Seer.next_is_bad = Seer.made == 3 or Seer.next_is_bad, False
            super().__init__(({"change": self.spoil}, {"change": self.spoil, "cut": ["a", "b", "c"]}))

        def spoil(self, env, observations, *others):
            if self.bad:
                observations["b"] = np.full(2, np.nan, np.float32)
                Seer.next_is_bad = True

    batch = make(Seer, 3, on_bad_obs="drop")
    with pytest.raises(EnvContractError, match=rf"copy . lost {LOST_IN_A_ROW} episodes in a row; last: .* got NaN"):
        play(batch, 10 * LOST_IN_A_ROW)
    assert batch.faults == {"drop": LOST_IN_A_ROW}  # the other two copies were not hindered


def test_a_batch_that_loses_three_quarters_of_its_episodes_is_given_up():
    with pytest.raises(EnvContractError) as caught:
        play(make(Diverging, 64, env_kwargs={"at": 3}), 3)
    message = str(caught.value)
    assert f"{LEAST_LOST} of the last {LEAST_LOST} episodes were lost, {LEAST_LOST} of them by crash" in message
    assert "the simulator diverged" in message


def test_the_share_is_of_the_last_hundred_episodes_and_two_of_three_may_be_lost():
    ledger = Ledger("world")
    for number in range(600):
        copy = number % 7
        if number % 3 == 0:
            ledger.end(copy)
        else:
            ledger.lose(copy, "crash", "it broke")
    assert ledger.lost == 400
    ledger = Ledger("world")
    for copy in range(RECENT_EPISODES):
        ledger.end(copy)
    for copy in range(75):
        ledger.lose(copy, *(("crash", "it broke") if copy % 2 and copy < 74 else ("drop", "NaN")))
    with pytest.raises(EnvContractError, match="76 of the last 100 episodes were lost, 39 of them by drop; last: NaN"):
        ledger.lose(75, "drop", "NaN")


def test_the_losses_of_a_copy_are_counted_beside_others_that_finish():
    ledger = Ledger("world")
    for failures in range(1, LOST_IN_A_ROW):
        ledger.lose(1, "killed", "ended by SIGKILL")
        for _ in range(10 * failures):
            ledger.end(0)
    with pytest.raises(ResourceError, match=f"world: copy 1 lost {LOST_IN_A_ROW} episodes in a row; last: ended by"):
        ledger.lose(1, "killed", "ended by SIGKILL")


# --- told ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_the_first_crash_is_logged_with_the_environments_traceback_and_the_others_counted(workers, caplog):
    batch = make(Flaky, 1, workers=workers)
    with caplog.at_level(logging.WARNING, "marl.adapters"):
        batch.reset(0)
        for _ in range(200):
            batch.step(act(batch))
    faults, lost = batch.faults, batch.lost_episodes
    batch.close()
    assert faults["crash"] == lost > 10
    (record,) = caplog.records
    assert record.name == "marl.adapters"
    assert "copy 0 raised at step 2: FloatingPointError: the simulator diverged" in record.getMessage()
    assert 'raise FloatingPointError("the simulator diverged")' in record.getMessage()
    assert "marl/adapters" not in record.getMessage()  # none of our own frames


def test_casts_and_clips_and_drops_are_told_once_each(caplog):
    def spoil(env, observations, *others):
        observations["b"] = np.array([0.0, 5000.0])
        if env.time == 3:
            observations["b"] = np.full(2, np.nan)

    for policy, kinds in (("clip", ["cast", "clip"]), ("drop", ["drop"])):
        caplog.clear()
        batch = make(lambda: Scripted(({"change": spoil},)), 2, on_bad_obs=policy)
        batch.reset(0)
        with caplog.at_level(logging.WARNING, "marl.adapters"):
            for _ in range(2):
                batch.step(act(batch))
        told = sorted(record.getMessage() for record in caplog.records)
        assert len(told) == len(kinds)
        for kind in kinds:
            assert any(f"the first {kind};" in text for text in told), told


def test_a_worker_that_is_killed_is_told_with_what_happened_and_its_episodes_are_counted(caplog):
    env = toy()
    env.reset(0)
    with caplog.at_level(logging.WARNING, "marl.adapters"):
        for _ in range(2):
            os.kill(env.pids[1], signal.SIGKILL)
            env.step(actions())
    assert env.faults["killed"] == 2
    assert env.lost_episodes == 4  # of two copies each time
    env.close()
    (record,) = caplog.records
    assert "worker 1 (copies 2 to 3) is replaced: ended by SIGKILL" in record.getMessage()


@pytest.mark.parametrize("workers", [0, 1])
def test_metrics_name_faults_once_there_are_any(workers):
    with marl.MultiAgentSystem(marl.Random(), Flaky, num_envs=1, workers=workers) as system:
        history = system.train(steps=200, log_every=50)
        assert history["faults/crash"][-1] == history["faults/lost_episodes"][-1] == system.env.faults["crash"] > 10
        assert system.faults == {"crash": system.env.faults["crash"], "lost_episodes": system.env.lost_episodes}
    with marl.MultiAgentSystem(marl.Random(), "CartPole-v1", num_envs=1, workers=workers) as system:
        assert not [name for name in system.train(steps=50) if name.startswith("faults/")]
        assert system.faults == {}


def test_a_report_tells_what_was_thrown_away():
    with marl.MultiAgentSystem(marl.Random(), Flaky, num_envs=1) as system:
        report = system.evaluate(20, num_envs=1)
    assert report.mean_return == 5.0
    assert report.lost_episodes == Flaky.crashes > 10
    assert report.faults["crash"].startswith(f"{Flaky.crashes} times, last: Flaky: copy 0 raised at step 2: Floating")
    assert report.to_dict()["lost_episodes"] == report.lost_episodes
    assert f"environment: crash: {report.faults['crash']}" in str(report)
    assert f"{report.lost_episodes} episodes were lost" in str(report)


def test_a_saved_system_remembers_what_was_lost(tmp_path):
    system = marl.MultiAgentSystem(marl.Random(), Flaky, num_envs=1)
    system.train(steps=100)
    before = system.faults
    assert before["lost_episodes"] > 5
    system.save(tmp_path / "saved")
    Flaky.episodes = 0
    other = marl.MultiAgentSystem.load(tmp_path / "saved", env=Flaky)
    other.train(steps=1)
    assert other.faults["lost_episodes"] >= before["lost_episodes"]


SCENARIO = """
import marl
from tests.adapters.test_survived import Flaky

scenario = marl.Scenario(name="flaky", about="half of it crashes", env=Flaky, agents=marl.ippo(rollout=16), num_envs=1)
"""


def test_the_command_line_prints_a_table_of_faults_and_writes_it_into_the_summary(tmp_path, capsys):
    from marl import cli

    path = tmp_path / "flaky.py"
    path.write_text(SCENARIO)
    folder = tmp_path / "run"
    code = cli.main(["train", str(path), "--steps", "160", "--run-dir", str(folder), "--quiet", "--episodes", "1"])
    said = capsys.readouterr()
    assert code == 0, said.err
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["faults"]["crash"] == summary["faults"]["lost_episodes"] > 5
    rows = [line.split() for line in said.err.splitlines()]
    assert ["crash", str(summary["faults"]["crash"])] in rows
    assert ["lost", "episodes", str(summary["faults"]["lost_episodes"])] in rows

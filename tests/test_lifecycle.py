"""Whoever opens an environment closes it, once; nobody plays in one that is closed, or that somebody else plays in."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import marl
from marl import conformance
from marl.adapters import copies, make, worker, workers
from marl.film import play
from marl.studies.exploit import exploit
from marl.studies.tournament import tournament
from marl.studies.versus import versus
from marl.types import ConfigError, EnvContractError, ResourceError
from tests.support.commands import marl_command  # noqa: F401
from tests.support.ledger import Audit, Pair, Single, Turns

TINY = {"rollout": 8, "minibatches": 1, "epochs": 1, "network": marl.MLP((4,))}
BOTH = {"even": marl.ippo(**TINY), "odd": marl.ippo(**TINY)}
posix = pytest.mark.skipif(os.name != "posix", reason="worker processes need Linux or macOS")


@pytest.fixture(autouse=True)
def _seeds_run_out_soon(monkeypatch):
    monkeypatch.setattr(copies, "RESEED_STEPS", 10)


@pytest.fixture
def ledger(tmp_path) -> str:
    return str(tmp_path / "ledger")


def system_of(kind, ledger, workers=0, num_envs=2, agents=None, **options):
    kwargs = {"ledger": ledger, **options.pop("env_kwargs", {})}
    return marl.MultiAgentSystem(
        agents or (marl.ippo(**TINY) if kind is Single else BOTH), kind, num_envs=num_envs, workers=workers,
        env_kwargs=kwargs, **options,
    )  # fmt: skip


def balanced(ledger, peak: int) -> Audit:
    audit = Audit(ledger)
    assert audit.count["open"] > 0
    assert not audit.wrong
    assert not audit.open
    assert audit.peak == peak
    return audit


# --- every operation --------------------------------------------------------------------------------------------------


def trains(kind, ledger, workers):
    with system_of(kind, ledger, workers) as system:
        system.train(steps=80)
    return 2


def evaluates_on_the_way(kind, ledger, workers):
    with system_of(kind, ledger, workers) as system:
        system.train(steps=64, evaluate_every=32, evaluate_episodes=3)
    return 2 + 3


def evaluates(kind, ledger, workers):
    with system_of(kind, ledger, workers) as system:
        system.evaluate(3)
        system.evaluate(3, decentralized=True)
        system.train(steps=16)
        system.evaluate(4, num_envs=2)
    return 2 + 3


def evaluates_apart(kind, ledger, workers):
    with system_of(kind, ledger, workers) as system:
        system.evaluate(2, decentralized="processes")
    return 2 + 2


def saves_and_loads(kind, ledger, workers):
    with system_of(kind, ledger, workers) as system:
        system.train(steps=64)
        system.save(f"{ledger}.saved")
    for _ in range(2):
        with marl.MultiAgentSystem.load(f"{ledger}.saved", env=kind, trust=True) as again:
            again.evaluate(3)
            again.train(steps=32)
    return 3


def survives_crashes(kind, ledger, workers):
    with system_of(kind, ledger, workers, env_kwargs={"crash": 3, "crashes": 2}) as system:
        system.train(steps=64)
        assert system.env.faults["crash"] == 2
    return 2


def gives_up_after_crashes(kind, ledger, workers):
    with (
        system_of(kind, ledger, workers, env_kwargs={"crash": 2, "crashes": 1000}) as system,
        pytest.raises(EnvContractError),
    ):
        system.train(steps=640)
    return 2


def crashes_in_evaluation(kind, ledger, workers):
    with (
        system_of(kind, ledger, workers, env_kwargs={"crash": 2, "crashes": 1000}) as system,
        pytest.raises(EnvContractError),
    ):
        system.evaluate(2)
    return 2 + 2


def cannot_be_set_up(kind, ledger, workers):
    with pytest.raises(ConfigError):
        system_of(kind, ledger, workers, curriculum=marl.curriculum.DomainRandomization({"width": 3}))
    return 2


def runs_out(kind, ledger, workers):
    with pytest.raises(ConfigError, match="the licence is in use"):
        system_of(kind, ledger, workers, num_envs=4, env_kwargs={"most": 3})
    return 3


def is_checked(kind, ledger, workers):
    assert conformance.check(partial(kind, ledger), steps=30, learners=()).ok
    return 1


def plays(kind, ledger, workers):
    with system_of(kind, ledger, workers) as system:
        play(system, episodes=2)
    return 2 + 1


def has_a_league(kind, ledger, workers):
    with system_of(kind, ledger, workers, league=marl.League(snapshot_every=16)) as system:
        system.train(steps=64)
    return 2


def has_a_population(kind, ledger, workers):
    with system_of(kind, ledger, workers, league=marl.PSRO(response_steps=32, games=3)) as system:
        system.train(steps=64)
    return 2 + 3


def is_exploited(kind, ledger, workers):
    with system_of(kind, ledger, workers) as system:
        exploit(system, 32, games=3)
    return 2 + 3


def has_a_tournament(kind, ledger, workers):
    with system_of(kind, ledger, workers) as one, system_of(kind, ledger, workers, seed=1) as other:
        tournament({"one": one, "other": other}, games=3)
    return 2 + 2 + 3


def plays_from_each_seat(kind, ledger, workers):
    with system_of(kind, ledger, workers) as system:
        versus(system, games=3)
    return 2 + 1


ALL = [
    trains, evaluates_on_the_way, evaluates, saves_and_loads, cannot_be_set_up, survives_crashes,
    gives_up_after_crashes, crashes_in_evaluation, runs_out,
]  # fmt: skip
GAMES = [has_a_league, has_a_population, is_exploited, has_a_tournament]
TABLE = [
    *((kind, operation, 0) for kind in (Pair, Turns, Single) for operation in ALL),
    *((Pair, operation, 2) for operation in (*ALL, *GAMES)),
    *((Pair, operation, 0) for operation in (*GAMES, plays)),
    *((kind, is_checked, 0) for kind in (Pair, Turns, Single)),
    (Turns, plays_from_each_seat, 0),
    (Single, evaluates_apart, 0),
]


@pytest.mark.parametrize(
    ("kind", "operation", "processes"),
    [
        pytest.param(*row, marks=posix if row[2] else (), id=f"{row[0].__name__}-{row[1].__name__}-{row[2]}")
        for row in TABLE
    ],
)
def test_what_is_opened_is_closed_once_and_not_played_in_afterwards(kind, operation, processes, ledger):
    most = operation(kind, ledger, processes)
    balanced(ledger, most)


def test_every_command_closes_what_it_opens(ledger, tmp_path, marl_command):  # noqa: F811
    pytest.importorskip("imageio")
    scenario, run = tmp_path / "pair.py", tmp_path / "run"
    scenario.write_text(
        "import marl\nfrom tests.support.ledger import Pair\n"
        "tiny = {'rollout': 8, 'minibatches': 1, 'epochs': 1, 'network': marl.MLP((4,))}\n"
        "agents = {'even': marl.ippo(**tiny), 'odd': marl.ippo(**tiny)}\n"
        f"scenario = marl.Scenario(name='pair', env=Pair, env_kwargs={{'ledger': {ledger!r}}}, agents=agents, "
        "num_envs=2, steps=64)\n"
    )
    train = ["train", scenario, "--run-dir", run, "--quiet", "--episodes", 3]
    for words, peak in (
        ([*train, "--steps", 64, "--evaluate-every", 32, "--evaluate-episodes", 3], 2 + 3),
        ([*train, "--steps", 96, "--resume"], 2 + 3),
        (["evaluate", run, "--episodes", 3], 3),
        (["exploit", run, "--steps", 16, "--games", 3], 3),
        (["tournament", run, run, "--games", 3], 3),
        (["play", run, "--gif", tmp_path / "episode.gif"], 1),
        (["check", scenario, "--steps", 20], 1),
    ):
        Path(ledger).unlink(missing_ok=True)
        said = marl_command(*words)
        assert said.code == 0, said.err
        balanced(ledger, peak)


# --- where one only may exist -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [0, pytest.param(1, marks=posix)])
def test_an_environment_that_may_exist_only_once_trains_is_saved_and_goes_on(processes, ledger):
    options = {"env_kwargs": {"most": 1, "crash": 3, "crashes": 1}, "num_envs": 1}
    with system_of(Pair, ledger, processes, **options) as system:
        system.train(steps=40)
        assert system.env.faults["crash"] == 1
        system.save(f"{ledger}.saved")
        with pytest.raises(ConfigError, match=r"the licence is in use.*system\.close"):
            system.evaluate(4)
    with marl.MultiAgentSystem.load(f"{ledger}.saved", env=Pair, trust=True) as again:
        assert again.evaluate(4).episodes == 4  # one copy plays where sixteen cannot
        again.train(steps=40)
        again.env.reset(0)
        again.close()
        exploit(again, 16, games=2)
        play(again)
    assert conformance.check(partial(Pair, ledger, 1), steps=20, learners=()).ok
    balanced(ledger, 1)


def test_a_command_trains_and_evaluates_in_an_environment_that_may_exist_only_once(
    ledger,
    tmp_path,
    marl_command,  # noqa: F811
):
    scenario = tmp_path / "single.py"
    scenario.write_text(
        "import marl\nfrom tests.support.ledger import Single\n"
        f"scenario = marl.Scenario(name='one', env=Single, env_kwargs={{'ledger': {ledger!r}, 'most': 1}}, "
        "agents=marl.ippo(rollout=8), num_envs=1, steps=32)\n"
    )
    said = marl_command("train", scenario, "--run-dir", tmp_path / "run", "--quiet", "--episodes", 3)
    assert said.code == 0, said.err
    balanced(ledger, 1)


def test_a_factory_that_keeps_what_it_made_is_found_out(ledger):
    one = Single(ledger)
    with pytest.raises(ConfigError, match="one environment twice: it must make a new one at every call"):
        make(lambda: one, 2)
    one = Single(ledger)
    with marl.MultiAgentSystem(marl.Random(), lambda: one, num_envs=1) as system:
        system.train(steps=8)
        with pytest.raises(ConfigError, match="one environment twice"):
            system.evaluate(1)
    with pytest.raises(ConfigError, match="one environment that was closed already"):
        make(lambda: one)
    assert not Audit(ledger).wrong
    assert not Audit(ledger).open


def test_where_a_crashed_environment_cannot_be_made_again_nobody_goes_on_with_the_closed_one(ledger):
    made = []

    def once():
        made.append(None)
        if len(made) > 2:
            raise OSError("no more of them")
        return Single(ledger, crash=2, crashes=1)

    with marl.MultiAgentSystem(marl.Random(), once, num_envs=2) as system:
        with pytest.raises(EnvContractError, match=r"copy 0 had to be replaced .*: OSError: no more of them"):
            system.train(steps=20)
        with pytest.raises(ConfigError, match="the environments were closed"):
            system.train(steps=20)
    balanced(ledger, 2)


def test_copies_keep_their_environments_for_the_whole_training(ledger):
    with system_of(Pair, ledger) as system:
        system.train(steps=400)  # seeded again every 12 steps here
        assert Audit(ledger).count["open"] == 2


# --- instances --------------------------------------------------------------------------------------------------------


def test_nobody_else_plays_in_an_instance_that_trains(ledger):
    env = Pair(ledger)
    with marl.MultiAgentSystem(BOTH, env) as system:
        system.train(steps=10)
        saved = system.save(f"{ledger}.saved")
        uses = Audit(ledger).count.total()
        second = "training goes on in this environment instance.*pass a function.*lambda.*evaluate\\(env=.*close\\(\\)"
        for use in (
            lambda: system.evaluate(2),
            lambda: system.evaluate(2, env=env),
            lambda: tournament({"one": system, "other": system}, 2),
            lambda: marl.MultiAgentSystem(BOTH, env),
            lambda: marl.MultiAgentSystem.load(saved, env=env).evaluate(1),
            lambda: marl.MultiAgentSystem.load(saved, env=env).train(steps=4),
            lambda: make(lambda: env, patterns=list(BOTH)),
        ):
            with pytest.raises(ConfigError, match=f"{second}|one environment twice"):
                use()
        for use in (lambda: exploit(system, 8, 2), lambda: play(system)):
            with pytest.raises(ConfigError, match=r"one environment instance.*pass a function"):
                use()
        assert Audit(ledger).count.total() == uses  # it was not even looked at
        system.evaluate(2, env=partial(Pair, ledger))
        system.train(steps=10)
        assert system.history["episode_lengths"] == [4] * 5
    balanced(ledger, 3)


@pytest.mark.parametrize(
    ("options", "asked"),
    [({}, {"evaluate_every": 8}), ({"league": marl.PSRO(response_steps=8, games=2)}, {})],
    ids=["evaluate_every", "PSRO"],
)
def test_what_needs_more_environments_is_refused_before_an_instance_trains(options, asked, ledger):
    with marl.MultiAgentSystem(BOTH, Pair(ledger), **options) as system:
        with pytest.raises(ConfigError, match=r"in environments of its own, .* one instance: pass a function"):
            system.train(steps=32, **asked)
        assert Audit(ledger).count["step"] == 0
    balanced(ledger, 1)


def test_an_instance_is_lent_to_evaluation_before_it_trains(ledger):
    env = Pair(ledger)
    with marl.MultiAgentSystem(BOTH, env) as system:
        system.evaluate(3)
        assert Audit(ledger).count["close"] == 0
        system.train(steps=8)
        saved = system.save(f"{ledger}.saved")
    balanced(ledger, 1)
    with pytest.raises(ConfigError, match="this environment instance was closed"):
        system.evaluate(1)
    other = Pair(f"{ledger}.other")
    with marl.MultiAgentSystem.load(saved, env=other) as again:
        again.evaluate(3)
        again.evaluate(3)
        assert Audit(f"{ledger}.other").count["close"] == 0
    balanced(f"{ledger}.other", 1)


def test_an_instance_that_is_given_for_one_evaluation_stays_the_users(ledger):
    env = Pair(f"{ledger}.mine")
    with system_of(Pair, ledger) as system:
        system.evaluate(2, env=env)
        system.evaluate(2, env=env)
    assert Audit(f"{ledger}.mine").count["close"] == 0
    env = Turns(f"{ledger}.turns")
    with system_of(Turns, ledger) as system:
        versus(system, games=2, env=env)
    audit = Audit(f"{ledger}.turns")
    assert not audit.wrong
    assert audit.count["close"] == 0


def test_a_gymnasium_spec_makes_others_like_the_instance(ledger):
    gymnasium.register("Accounted-v0", entry_point=Single, kwargs={"ledger": ledger}, max_episode_steps=3)
    try:
        with marl.MultiAgentSystem(marl.ippo(**TINY), gymnasium.make("Accounted-v0")) as system:
            system.train(steps=16, evaluate_every=8, evaluate_episodes=2)
            assert set(system.history["episode_lengths"]) == {3}
            assert len(system.history["evaluation_return"]) == 2
            assert system.evaluate(2).episode_lengths == (3, 3)
            play(system)
    finally:
        del gymnasium.registry["Accounted-v0"]
    balanced(ledger, 3)


def test_an_instance_that_crashes_goes_on_without_being_closed(ledger):
    with marl.MultiAgentSystem(BOTH, Pair(ledger, crash=3, crashes=1)) as system:
        system.train(steps=20)
        assert system.env.faults == {"crash": 1}
    balanced(ledger, 1)


def test_a_scenario_is_for_functions_and_not_for_an_instance():
    with pytest.raises(ConfigError, match=r"Scenario 'mine': env: .* got one environment, .*; pass lambda: Single"):
        marl.Scenario(name="mine", env=Single(os.devnull), agents=marl.ippo())


# --- closing goes wrong -----------------------------------------------------------------------------------------------


class Leaving(Single):
    def close(self):
        super().close()
        raise SystemExit(0)


class Failing(Single):
    def close(self):
        super().close()
        raise OSError("no such window")


@pytest.mark.parametrize("kind", [Leaving, Failing])
def test_what_close_raises_is_told_once_and_ends_nothing(kind, ledger, caplog):
    with marl.MultiAgentSystem(marl.Random(), kind, num_envs=2, env_kwargs={"ledger": ledger}) as system:
        system.train(steps=32)
        assert system.evaluate(3).episodes == 3
    balanced(ledger, 5)
    told = [record.message for record in caplog.records if record.name == "marl.adapters"]
    error = "SystemExit: 0" if kind is Leaving else "OSError: no such window"
    assert told == [f"{kind.__name__}: close() raised {error}; it is taken as closed"]


def test_a_close_that_exits_does_not_decide_a_commands_status(ledger, tmp_path, marl_command):  # noqa: F811
    scenario = tmp_path / "leaving.py"
    scenario.write_text(
        "import marl\nfrom tests.test_lifecycle import Leaving\n"
        f"scenario = marl.Scenario(name='leaving', env=Leaving, env_kwargs={{'ledger': {ledger!r}}}, "
        "agents=marl.ippo(rollout=8), num_envs=2, steps=32)\n"
    )
    said = marl_command("train", scenario, "--run-dir", tmp_path / "run", "--quiet", "--json", "--episodes", 3)
    assert said.code == 0
    assert "evaluation" in said.out  # it went on to its end


@pytest.mark.filterwarnings("ignore:The system font")
@pytest.mark.parametrize("name", ["mpe2.simple_reference_v3", "sisl/pursuit-v5"])
def test_closing_one_environment_leaves_the_pictures_of_the_others(name):
    pygame = pytest.importorskip("pygame")
    pytest.importorskip(name.replace("/", ".").partition(".")[0].replace("sisl", "pettingzoo.sisl"))
    batch, other = (make(name, 1, env_kwargs={"render_mode": "rgb_array"}, state=False) for _ in range(2))
    for one in (batch, other):
        one.reset(0)
        one.envs[0].render()
    other.close()
    assert batch.envs[0].render().std() > 0
    batch.close()
    assert not pygame.display.get_init()  # the last one may end it


# --- making goes wrong ------------------------------------------------------------------------------------------------


def unlicensed():
    raise OSError("no licence\nfile found")


def leaves():
    raise SystemExit(3)


def exhausted():
    raise MemoryError("not one byte")


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=posix)])
@pytest.mark.parametrize(
    ("factory", "error", "words"),
    [
        (unlicensed, ConfigError, "environment unlicensed could not be made: OSError: no licence file found; call the"),
        (leaves, ConfigError, "environment leaves could not be made: SystemExit: 3"),
        (partial(Single, no_such=1), ConfigError, "environment Single could not be made: TypeError.*check env_kwargs"),
        (
            exhausted,
            ResourceError,
            "environment exhausted could not be made: MemoryError: not one byte; lower",
        ),
    ],
    ids=["raises", "exits", "takes no such keyword", "needs memory"],
)
def test_an_error_of_the_users_factory_is_one_line_that_names_it(factory, error, words, processes):
    with pytest.raises(error, match=words) as caught:
        marl.MultiAgentSystem(marl.Random(), factory, num_envs=2, workers=processes)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, (OSError, SystemExit, TypeError, MemoryError))


@posix
def test_an_error_of_the_users_factory_in_a_worker_says_where_it_came_from(ledger):
    with pytest.raises(ConfigError, match="environment Single could not be made: OSError: the licence is in") as caught:
        system_of(Single, ledger, 1, num_envs=2, env_kwargs={"most": 1})
    assert "tests/support/ledger.py" in str(caught.value.__cause__)
    balanced(ledger, 1)


def test_ctrl_c_in_a_factory_passes_through():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(interrupted)


class Locked(Single):
    def __init__(self, lock):
        super().__init__(os.devnull)


LOCK = threading.Lock()


def closes_over():
    lock = threading.Lock()
    return lambda: Locked(lock)


@posix
@pytest.mark.parametrize(
    ("factory", "where"),
    [
        (closes_over(), "variable 'lock', a _thread.lock"),
        (partial(Locked, LOCK), "argument 1, a _thread.lock"),
        (partial(Locked, lock=LOCK), "argument 'lock', a _thread.lock"),
    ],
    ids=["closure", "argument", "keyword"],
)
def test_a_factory_that_cannot_be_sent_to_workers_is_told_why(factory, where):
    with pytest.raises(ConfigError, match=rf"cannot be sent to other .* because of {where}.*workers=0") as caught:
        make(factory, 2, workers=2)
    assert "\n" not in str(caught.value)


# --- workers that are killed while they start -------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("moment", ["before it is ready", "while its fellow starts", "asked for its spaces"])
def test_a_worker_that_is_killed_while_workers_start_is_replaced_and_counted(moment, monkeypatch, ledger):
    gather, calls = workers.WorkerBatch._gather, []

    def shot(batch, these, until):
        calls.append(None)
        if (moment, len(calls)) in (("before it is ready", 1), ("asked for its spaces", 2)):
            kill(batch)
        found = gather(batch, these, until)
        if len(calls) == 1:
            if moment == "while its fellow starts":
                kill(batch)
            if moment == "asked for its spaces":  # so that it cannot answer before it is killed
                os.kill(batch.pids[1], signal.SIGSTOP)
        return found

    def kill(batch):
        os.kill(batch.pids[1], signal.SIGKILL)
        batch._workers[1]._process.wait()

    monkeypatch.setattr(workers.WorkerBatch, "_gather", shot)
    batch = make(partial(Single, ledger), 4, workers=2)
    try:
        assert batch.faults["killed"] == 1
        assert not batch.reset(0).discarded.any()
        batch.step([np.zeros((4, 1), int)])
    finally:
        batch.close()


@posix
def test_workers_that_are_killed_at_every_start_exhaust_the_budget(monkeypatch):
    monkeypatch.setattr(workers, "_back_off", lambda strikes: 0.0)
    start = worker.Worker.start

    def doomed(worker):
        start(worker)
        os.kill(worker.pid, signal.SIGKILL)

    monkeypatch.setattr(worker.Worker, "start", doomed)
    with pytest.raises(ResourceError, match=r"worker 0 .* failed 4 times in a row and is not restarted"):
        make(partial(Single, os.devnull), 2, workers=1)


@posix
def test_a_worker_that_is_killed_in_training_leaves_nothing_open_but_its_own(ledger):
    with system_of(Pair, ledger, 2) as system:
        system.train(steps=16)
        victim = system.env.pids[0]
        os.kill(victim, signal.SIGKILL)
        system.train(steps=16)
        assert system.env.faults["killed"] == 1
    audit = Audit(ledger).without(victim)
    assert not audit.wrong
    assert not audit.open

"""Callbacks: when they are told, what they may do, and that a resumed run remembers all of it."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import marl
from marl.callbacks import Callback, Checkpoint, EarlyStopping, Evaluation, ReduceLROnPlateau
from marl.exploration import EpsilonGreedy, GaussianNoise, OrnsteinUhlenbeck
from marl.run import Run
from marl.shaping import Scale, StepCost, TeamSpirit
from tests.support.equality import assert_equal_trees
from tests.support.tiny import Constant, Steer, Team

ON = {"rollout": 8, "minibatches": 2, "network": marl.MLP((16,))}
OFF = {"learning_starts": 16, "batch": 8, "buffer": 200, "network": marl.MLP((16,))}


def make(agents=None, env=Team, **options):
    agents = agents if agents is not None else marl.ippo(**ON)
    return marl.MultiAgentSystem(agents, env, **{"num_envs": 4, "seed": 2, **options})


class Telling(Callback):
    """Writes down what it is told."""

    def __init__(self):
        self.told = []

    def on_start(self, training):
        self.told.append(("start", training.steps))

    def on_step(self, training):
        self.told.append(("step", training.steps))

    def on_episode_end(self, training, episode):
        self.told.append(("episode", episode.copy, episode.length))

    def on_update_end(self, training, team, metrics):
        assert isinstance(metrics["kl"], float)
        self.told.append(("update", training.steps, team))

    def on_evaluation(self, training, report):
        self.told.append(("evaluation", training.steps, len(report.returns)))

    def on_log(self, training, row):
        self.told.append(("log", row["steps"]))

    def on_save(self, training, path):
        self.told.append(("save", path.name))

    def on_end(self, training):
        self.told.append(("end", training.steps))


def test_every_moment_comes_once_and_in_order(tmp_path):
    telling = Telling()
    with make() as system:
        saving = Checkpoint(tmp_path, every=32)
        system.train(steps=40, log_every=32, evaluate_every=32, evaluate_episodes=2, callbacks=[telling, saving])
        told = telling.told
        assert told[:8] == [("start", 0), *(("step", 4 * n) for n in range(1, 8))]
        assert told[8:13] == [
            *[("evaluation", 32, 2), ("step", 32), ("update", 32, "team"), ("log", 32)],
            ("save", "step-000000000032"),
        ]
        # Episodes have ten steps: those of all copies end with the training.
        episodes = [("episode", copy, 10) for copy in range(4)]
        assert told[13:] == [("step", 36), ("step", 40), *episodes, ("log", 40), ("end", 40)]
        system.train(steps=4)  # without them
        assert told[-1] == ("end", 40)
        system.save(tmp_path / "mine")
        assert told[-1] == ("end", 40)  # nobody trains


def test_a_callback_stops_logs_and_its_last_row_is_logged():
    class Enough(Callback):
        def on_step(self, training):
            training.log({"twice": training.steps, "thrice": 3 * training.steps})
            training.log({"twice": 2 * training.steps})
            if training.steps == 24:
                training.stop("enough")

    with make() as system:
        history = system.train(steps=1_000, callbacks=[Enough()])
        assert system.steps == 24
        assert (history["steps"][-1], history["twice"][-1], history["thrice"][-1]) == (24, 48, 72)


def test_a_function_of_rows_is_a_callback_too():
    rows = []
    with make() as system:
        system.train(steps=1_000, log_every=8, callback=lambda row: rows.append(row) or row["steps"] >= 64)
        assert system.steps == 64
        assert rows[-1]["steps"] == 64
        with pytest.raises(marl.ConfigError, match="callback: expected None or something to call, got 3"):
            system.train(steps=8, callback=3)
        for wrong in (print, Telling):
            with pytest.raises(marl.ConfigError, match="a function of rows is callback="):
                system.train(steps=8, callbacks=[wrong])
        assert system.steps == 64


def test_callbacks_change_nothing_that_they_do_not_mean_to():
    with make() as plain, make() as looked:
        plain.train(steps=96)
        looked.train(steps=96, callbacks=[Telling()])
        assert_equal_trees(plain.state_dict()["learners"], looked.state_dict()["learners"])
        assert "callbacks" not in looked.state_dict()["parts"]


# --- changes ----------------------------------------------------------------------------------------------------------


def test_a_changed_learning_rate_is_what_the_optimizer_takes():
    with make(marl.ippo(lr=marl.Linear(1e-3, 0.0, 128), **ON)) as system:
        assert system.value("learner.lr") == 1e-3
        system.train(steps=64)
        assert system.value("learner.lr") == pytest.approx(5e-4)
        system.change("learner.lr", 2e-3)
        system.train(steps=32)
        assert system.learners[0].optimizer.lr == system.value("learner.lr") == 2e-3
        schedule = {"$class": "marl.schedules:Linear", "start": 1e-3, "end": 0.0, "steps": 128}
        assert system.changes == [{"step": 64, "setting": "learner.lr", "from": schedule, "to": 2e-3}]
        system.change("team.lr", 1e-3)  # the team's own name
        assert system.changes[-1]["setting"] == "learner.lr"


def test_learning_rate_zero_learns_nothing_and_entropy_counts():
    """At learning rate 0 parameters stand still; another entropy weight moves them elsewhere."""
    with make() as still:
        before = still.learners[0].flat.values.clone()
        still.change("learner.lr", 0.0)
        still.train(steps=64)
        assert torch.equal(before, still.learners[0].flat.values)
    with make() as one, make() as other:
        other.change("learner.entropy", 0.5)
        one.train(steps=32)
        other.train(steps=32)
        assert not torch.equal(one.learners[0].flat.values, other.learners[0].flat.values)


@pytest.mark.parametrize("how", ["auto", "off"])
def test_a_changed_setting_is_as_good_as_one_from_the_beginning(how):
    """Before anything is learnt a change leaves the very system that has the setting from the start."""
    pairs = [
        (marl.PPO, {"clip": 0.05, "entropy": 0.3, "target_kl": 1e-4}, Team, ON),
        (marl.A2C, {"entropy": 0.3, "lr": 1e-2}, Team, {"rollout": 8, "network": marl.MLP((16,))}),
        (marl.DQN, {"exploration": EpsilonGreedy(0.7), "lr": 1e-2}, Team, OFF),
        (marl.DDPG, {"exploration": OrnsteinUhlenbeck(scale=0.4)}, Steer, OFF),
        (marl.SAC, {"temperature": 0.7}, Steer, OFF),
    ]
    with marl.compiled.use(how):
        for settings, changes, env, others in pairs:
            with make(settings(**others), env) as changed, make(settings(**others, **changes), env) as from_start:
                for name, value in changes.items():
                    changed.change(f"learner.{name}", value)
                    assert changed.learners[0].settings == dataclasses.replace(
                        changed.learners[0].settings, **{name: value}
                    )
                changed.train(steps=64)
                from_start.train(steps=64)
                assert_equal_trees(changed.state_dict()["learners"], from_start.state_dict()["learners"])
                assert (changed.learners[0].chosen.compiled, changed.learners[0].chosen.reason) == (
                    from_start.learners[0].chosen.compiled,
                    from_start.learners[0].chosen.reason,
                )


def test_compiled_gradients_stand_aside_for_a_setting_that_they_do_not_compute():
    with marl.compiled.use("auto"), make(marl.iql(**OFF)) as system:
        system.train(steps=32)
        assert system.learners[0].chosen.compiled
        system.change("learner.leniency", 0.5)
        system.train(steps=32)
        assert not system.learners[0].chosen.compiled
        assert "'leniency'" in system.learners[0].chosen.reason
        system.change("learner.leniency", 0.0)
        system.train(steps=32)
        assert system.learners[0].chosen.compiled


def test_fields_of_changeable_settings_may_change_alone():
    with make(marl.iql(exploration=EpsilonGreedy(0.5, spread=2.0), **OFF)) as system:
        system.change("learner.exploration.epsilon", 0.25)
        assert system.learners[0].settings.exploration == EpsilonGreedy(0.25, spread=2.0)
        assert system.value("learner.exploration.epsilon") == 0.25
        with pytest.raises(marl.ConfigError, match=r"unknown field 'epsilom'; did you mean 'epsilon'"):
            system.change("learner.exploration.epsilom", 0.1)
    with make(marl.iql(**OFF)) as system, pytest.raises(marl.ConfigError, match="exploration is None here"):
        system.change("learner.exploration.epsilon", 0.1)


def test_a_noise_of_the_same_kind_goes_on_from_where_it_was():
    noise = OrnsteinUhlenbeck(scale=0.5)
    with make(marl.iddpg(exploration=noise, random_start=False, **OFF), Steer) as system:
        system.train(steps=40)
        before = system.learners[0].explorer.noise.clone()
        system.change("learner.exploration.scale", 0.25)
        assert torch.equal(before, system.learners[0].explorer.noise)
        system.change("learner.exploration", GaussianNoise(0.1))
        system.train(steps=8)
        with pytest.raises(marl.ConfigError, match="EpsilonGreedy explores discrete actions, not box ones"):
            system.change("learner.exploration", EpsilonGreedy(0.1))
        assert system.value("learner.exploration") == GaussianNoise(0.1)  # a change that fails changes nothing


def test_a_change_that_a_later_team_refuses_restarts_nobody_s_noise():
    noise = OrnsteinUhlenbeck(scale=0.5)
    how = {"random_start": False, **OFF}
    agents = {"agent_0": marl.iddpg(exploration=noise, **how), "agent_[12]": Refusing(exploration=noise, **how)}
    with make(agents, Steer) as system, make(agents, Steer) as other:
        for one in (system, other):
            one.train(steps=40)
        with pytest.raises(marl.ConfigError, match="this team likes its noise"):
            system.change("learner.exploration", GaussianNoise(0.1))
        assert not system.changes
        assert [learner.settings.exploration for learner in system.learners] == [noise, noise]
        for one in (system, other):
            one.train(steps=40)
        mine, theirs = (one.state_dict()["learners"] for one in (system, other))
        assert_equal_trees(mine, theirs)


@marl.extend.config
class Refusing(marl.DDPG):
    """DDPG whose learner keeps to its exploration."""

    def build(self, *where):
        learner = super().build(*where)

        def change(settings):
            raise marl.ConfigError("this team likes its noise")

        learner.change = change
        return learner


def test_one_team_or_all_of_them():
    agents = {"agent_0": marl.ippo(**ON), "agent_[12]": marl.ia2c(network=marl.MLP((16,)))}
    with make(agents) as system:
        one, two = (team.name for team in system.spec.teams)
        system.change(f"{one}.lr", 0.5)
        with pytest.raises(marl.ConfigError, match=rf"teams differ, ask for one of {one}\.lr=0\.5"):
            system.value("learner.lr")
        system.change("learner.lr", 0.25)
        assert [learner.settings.lr for learner in system.learners] == [0.25, 0.25]
        system.change("learner.clip", 0.1)  # of those that have one
        told = [change["setting"] for change in system.changes]
        assert told == [f"{one}.lr", f"{one}.lr", f"{two}.lr", f"{one}.clip"]
        with pytest.raises(marl.ConfigError, match="unknown setting"):
            system.change(f"{two}.clip", 0.1)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("learner.rollout", 8, r"unknown setting that may change while training 'learner\.rollout'.*learner\.clip"),
        ("learner.learning_rate", 1, r"did you mean 'learner\.lr'"),
        ("learner.lr", -1.0, "expected a number at least 0, got -1"),
        ("learner.lr", "fast", "expected float or .*got 'fast'"),
        ("shaping.0.cost", "much", "StepCost.cost"),
        ("shaping.1.cost", 1.0, r"known: .*shaping\.0\.cost"),
        ("curriculum", None, "unknown setting"),
        ("learner.clip", math.inf, "expected a finite number"),
    ],
)
def test_what_may_not_change_says_what_may(setting, value, said):
    with make(shaping=[StepCost(0.1)]) as system:
        with pytest.raises(marl.ConfigError, match=said):
            system.change(setting, value)
        assert not system.changes
        assert system.learners[0].settings == system.setup.configs[0]


def test_what_learns_nothing_has_nothing_to_change():
    with make(marl.Random()) as system, pytest.raises(marl.ConfigError, match=r"known: \)"):
        system.change("learner.lr", 0.1)


def test_weights_of_shaping_change_from_the_next_step_on():
    with make(shaping=[StepCost(0.25), Scale(2.0), TeamSpirit(0.0)]) as system:
        system.train(steps=16)
        system.change("shaping.0.cost", 0.5)
        system.change("shaping.1.factor", marl.Linear(4.0, 4.0))
        system.train(steps=4)
        reward = system.learners[0].memory.reward
        assert set(np.unique(reward[:4])) == {-0.5, 1.5}  # (r - 0.25) 2
        assert set(np.unique(reward[4])) == {-2.0, 2.0}  # (r - 0.5) 4
        assert len(system.history["episode_rewards"]) == 0  # raw returns: none has ended, and none is ever shaped


def test_a_stage_may_be_made_easier():
    stages = marl.curriculum.Stages(
        [
            marl.curriculum.Stage({"width": 4, "height": 4}, marl.MeanReturn(at_least=1e6, over=1)),
            marl.curriculum.Stage({"width": 5, "height": 5}),
        ]
    )
    options = {"curriculum": stages, "env_kwargs": {"width": 8, "height": 8, "max_cycles": 5}}
    with make(marl.ippo(**ON), "marl/gridworld-v0", **options) as system:
        system.train(steps=64)
        assert system.history["curriculum/stage"][-1] == 0
        system.change("curriculum.stages.0.advance.at_least", -1e6)
        system.train(steps=64)
        assert system.history["curriculum/stage"][-1] == 1
        with pytest.raises(marl.ConfigError, match="expected Stages of height, width, got Annealed of width"):
            system.change("curriculum", marl.curriculum.Annealed({"width": 4}))
        assert system.target == {"width": 5, "height": 5}


# --- resume -----------------------------------------------------------------------------------------------------------


class Halving(Callback):
    """Halves the learning rate every 64 steps, costs rise, and an episode's length is counted."""

    def __init__(self):
        self.lengths = []

    def on_step(self, training):
        if training.every(64):
            training.change("learner.lr", training.value("learner.lr") / 2)
            training.change("shaping.0.cost", training.value("shaping.0.cost") + 0.1)
            training.change("learner.exploration", EpsilonGreedy(1 / training.steps))
        training.log({"odd": training.steps % 3})

    def on_episode_end(self, training, episode):
        self.lengths.append(episode.length)

    def state_dict(self):
        return {"lengths": list(self.lengths)}

    def load_state_dict(self, state):
        self.lengths = list(state["lengths"])


def test_a_resumed_run_remembers_what_callbacks_changed_and_knew(tmp_path):
    agents, how = marl.iql(lr=1e-3, **OFF), {"shaping": [StepCost(0.1)]}
    halving = Halving()
    with make(agents, **how) as straight:
        straight.train(steps=100, callbacks=[halving, Checkpoint(tmp_path, every=36)])
        straight.train(steps=60, callbacks=[halving])
        for saved in sorted(tmp_path.iterdir()):
            came = Halving()
            with marl.MultiAgentSystem.load(saved, env=Team) as resumed:
                steps = resumed.steps
                assert resumed.value("learner.lr") == 1e-3 / 2 ** (steps // 64)
                assert resumed.learners[0].settings.lr == resumed.value("learner.lr")
                resumed.train(steps=100 - steps, callbacks=[came])
                resumed.train(steps=60, callbacks=[came])
                assert came.lengths == halving.lengths
                assert resumed.changes == straight.changes
                assert resumed.value("learner.lr") == 1e-3 / 4
                one, other = resumed.state_dict(), straight.state_dict()
                for state in (one, other):
                    del state["history"], state["logged_at"], state["parts"]["callbacks"]["numbers"]
                assert_equal_trees(one, other)
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000000000036", "step-000000000072"]


def test_rows_after_a_resume_are_those_of_a_run_that_never_stopped(tmp_path):
    with make() as straight:
        straight.train(steps=64, log_every=32, callbacks=[Halving2(), Checkpoint(tmp_path, every=36)])
        with marl.MultiAgentSystem.load(tmp_path / "step-000000000036", env=Team) as resumed:
            resumed.train(steps=28, log_every=32, callbacks=[Halving2()])
            clocks = ("steps_per_second",)
            assert {k: v for k, v in resumed.history.items() if k not in clocks} == {
                k: v for k, v in straight.history.items() if k not in clocks
            }
            assert straight.history["last"] == [32, 36]


class Halving2(Callback):
    """Logs something long before the row that it is in."""

    def on_step(self, training):
        if training.steps in (32, 36):
            training.log({"last": training.steps})


def test_callbacks_that_are_not_given_again_are_missed(tmp_path, caplog):
    with make() as system:
        system.train(steps=40, callbacks=[Halving3(), Halving3()])
        system.save(tmp_path / "saved")
    with marl.MultiAgentSystem.load(tmp_path / "saved", env=Team) as system:
        with caplog.at_level(logging.WARNING, "marl.training"):
            system.train(steps=8, callbacks=[Halving3()])
        assert "not given again, so the run goes on without them: Halving3-2; pass them to train" in caplog.text
        assert list(system.state_dict()["parts"]["callbacks"]["states"]) == [
            "Halving3-2",
            "Halving3",
        ]  # nothing is lost


class Halving3(Halving):
    on_step = Callback.on_step


def test_what_a_checkpoint_changes_is_what_may_change():
    with make() as system:
        system.change("learner.lr", 1e-4)
        state = system.state_dict()
        for forged in (
            {"learner.rollout": 4},
            {"learner.lr": -1},
            {"learner.lr": {"$class": "marl.memory.hindsight:Hindsight", "reward": "os:system"}},
            {"learner.lr": {"$class": "os:system"}},
            {"agent": 1},
        ):
            state["changed"] = forged
            with pytest.raises(marl.ConfigError):
                system.load_state_dict(state)
        assert system.learners[0].settings.lr == 1e-4


def test_a_changed_weight_of_a_hook_that_holds_code_waits_until_the_hook_is_given_again(tmp_path):
    def bonus(transition):
        return np.ones_like(transition.reward)

    hooks = [marl.shaping.Function(bonus)]
    with make(shaping=hooks) as system:
        system.train(steps=8)
        system.change("shaping.0.weight", 0.25)
        system.save(tmp_path / "saved")
    with marl.MultiAgentSystem.load(tmp_path / "saved", env=Team) as loaded:
        loaded.evaluate(2)
        with pytest.raises(marl.CheckpointError, match="pass shaping="):
            loaded.train(steps=8)
    with marl.MultiAgentSystem.load(tmp_path / "saved", env=Team, shaping=hooks) as loaded:
        assert loaded.value("shaping.0.weight") == 0.25
        loaded.train(steps=4)
        assert set(np.unique(loaded.learners[0].memory.reward[2])) <= {0.25, 1.25}


def test_a_change_that_no_checkpoint_can_keep_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Mine(EpsilonGreedy):
        pass

    with make(marl.iql(**OFF)) as system:
        with pytest.raises(marl.ConfigError, match="cannot be written as JSON"):
            system.change("learner.exploration", Mine(0.1))
        assert system.learners[0].settings.exploration is None


def test_a_run_folder_tells_what_was_changed_and_when(tmp_path):
    with make() as system, Run(tmp_path / "run", save_every=40) as run:
        run.begin({"asked": {}})
        system.train(steps=128, callbacks=[Halving4()], watcher=run)
        run.end(system)
        config = json.loads((run.path / "config.json").read_text())
        assert config["asked"] == {}
        assert [(one["step"], one["setting"], one["to"]) for one in config["changes"]] == [
            (64, "learner.lr", 2.5e-4 / 2),
            (128, "learner.lr", 2.5e-4 / 4),
        ]


class Halving4(Callback):
    def on_step(self, training):
        if training.every(64):
            training.change("learner.lr", training.value("learner.lr") / 2)


# --- those that are shipped -------------------------------------------------------------------------------------------


class Script(Callback):
    """Logs given numbers, one in each row."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def on_step(self, training):
        if training.every(8):
            place = training.steps // 8 - 1
            if place < len(self.numbers) and self.numbers[place] is not None:
                training.measured["score"] = self.numbers[place]


def test_early_stopping_waits_for_rows_that_have_the_metric():
    early = EarlyStopping("score", patience=2, least_change=0.5)
    with make(env=Constant, num_envs=1) as system:
        script = Script(1.0, 0.0, 2.0, None, 2.4, math.nan, 2.5, 9.0)
        history = system.train(steps=200, log_every=1_000, callbacks=[script, early])
        assert history["score"][-1] == 2.5  # 2.4 and 2.5 are not better than 2 by more than 0.5
        assert system.steps == 56
        system.train(steps=16, callbacks=[early])  # waits anew
        assert system.steps == 72


def test_early_stopping_says_so_where_its_metric_never_came(caplog):
    with make() as system, caplog.at_level(logging.WARNING, "marl.training"):
        system.train(steps=64, log_every=8, callbacks=[EarlyStopping("mean_retrun")])
    assert "unknown metric 'mean_retrun'; did you mean 'mean_return'?" in caplog.text
    assert "no row had it" in caplog.text


def test_the_learning_rate_falls_on_a_plateau_and_not_below_its_least():
    plateau = ReduceLROnPlateau("score", patience=1, factor=0.25, least=1e-3, mode="min")
    with make(marl.ippo(lr=1e-2, **ON), Constant, num_envs=1) as system:
        system.train(steps=40, log_every=1_000, callbacks=[Script(3.0, 2.0, 2.0, 4.0, 5.0), plateau])
        assert [(one["step"], one["to"]) for one in system.changes] == [(24, 2.5e-3), (32, 1e-3)]


def shipped():
    """Both look at numbers that fall and rise by chance, so that each waits, and the learning rate is cut."""
    return [EarlyStopping("policy_loss", patience=9), ReduceLROnPlateau("entropy", patience=2, factor=0.5)]


def test_what_early_stopping_and_the_plateau_know_is_resumed_bit_for_bit(tmp_path):
    with make() as straight:
        straight.train(steps=2_000, log_every=8, callbacks=[*shipped(), Checkpoint(tmp_path, every=96)])
        assert 256 < straight.steps < 2_000
        assert len(straight.changes) > 1
        ends = straight.state_dict()
        assert ends["parts"]["callbacks"]["stopped"].startswith("policy_loss was not better than")
    for saved in sorted(tmp_path.iterdir())[:-1:2]:
        with marl.MultiAgentSystem.load(saved, env=Team) as resumed:
            assert resumed.steps < straight.steps
            resumed.train(steps=2_000 - resumed.steps, log_every=8, callbacks=shipped())
            for state in (both := (ends, resumed.state_dict())):
                state["history"].pop("steps_per_second", None)
            assert_equal_trees(*both)


def test_a_run_that_a_callback_has_ended_goes_on_only_for_another_length(tmp_path):
    def train(steps, resume=True, patience=2):
        with make() as system:
            early = EarlyStopping("steps", patience, mode="min")
            system.train(steps=steps, log_every=8, callbacks=[early], run_dir=tmp_path / "run", resume=resume)
            return system.steps

    ended = train(400, resume=False)
    assert ended < 400
    assert train(400) == train(400, patience=3) == ended
    assert ended < train(800) < 800


# --- those of scenarios -----------------------------------------------------------------------------------------------


class Counting(Callback):
    """Remembers how many steps it saw."""

    def __init__(self):
        self.seen = 0

    def on_step(self, training):
        self.seen += 1
        training.log({"seen": self.seen})

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_a_scenario_s_callbacks_look_on_in_every_training_of_it(tmp_path):
    count = Counting()
    stopping = EarlyStopping("seen", patience=2, mode="min")
    scenario = marl.Scenario(name="counted", env=Team, agents=marl.ippo(**ON), num_envs=4, callbacks=[count, stopping])
    with marl.MultiAgentSystem(None, scenario) as system, marl.MultiAgentSystem(None, scenario) as other:
        assert system.train(steps=32)["seen"] == [8]
        system.save(tmp_path / "saved")
        more = Counting()
        assert system.train(steps=320, log_every=32, callbacks=[more])["seen"][1] == 8  # the later one's
        assert system.steps == 32 + 64  # two rows that were not better
        assert other.train(steps=32)["seen"] == [8]
        assert (count.seen, more.seen) == (0, 16)
    with marl.MultiAgentSystem.load(tmp_path / "saved", env=scenario) as again:
        assert again.train(steps=32)["seen"] == [8, 16]


def test_callbacks_of_a_scenario_are_a_list_of_callbacks_that_can_be_copied():
    how = {"name": "counted", "env": Team, "agents": marl.ippo(**ON), "num_envs": 4}
    with pytest.raises(marl.ConfigError, match="'counted': callbacks: expected a list, got <"):
        marl.Scenario(**how, callbacks=Counting())
    held = Counting()
    held.lock = threading.Lock()
    for wrong, said in (([held], r"cannot be copied \(.*on_start"), ([Counting], "expected instances of")):
        with (
            marl.MultiAgentSystem(None, marl.Scenario(**how, callbacks=wrong)) as system,
            pytest.raises(marl.ConfigError, match=said),
        ):
            system.train(steps=4)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: EarlyStopping(patience=0), "patience: expected a whole number of at least 1"),
        (lambda: EarlyStopping(mode="best"), "mode: expected 'max' or 'min'"),
        (lambda: ReduceLROnPlateau(factor=2), "factor: expected a number above 0 and below 1"),
        (lambda: Checkpoint("here", every=0), "every: expected a whole number"),
        (lambda: Evaluation(8, by="goals"), "unknown metric 'goals'"),
    ],
)
def test_shipped_callbacks_refuse_what_has_no_meaning(build, said):
    with pytest.raises(marl.ConfigError, match=said):
        build()


def test_checkpoints_are_written_and_old_ones_removed(tmp_path):
    (tmp_path / "step-000000000004").mkdir(parents=True)  # no checkpoint: not ours to remove
    with make() as system:
        system.train(steps=64, callbacks=[Checkpoint(tmp_path, every=16, keep=2)])
    names = ["step-000000000004", "step-000000000048", "step-000000000064"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with marl.MultiAgentSystem.load(tmp_path / names[1], env=Team) as loaded:
        assert loaded.steps == 48


def test_an_evaluation_keeps_the_best_state_by_a_metric_of_ones_own(tmp_path):
    lengths = iter([3.0, 5.0, 5.0, 1.0])

    def made_up(record):
        return next(lengths)

    evaluation = Evaluation(16, episodes=1, metrics={"made_up": made_up}, best=tmp_path / "best", by="made_up")
    with make() as system:
        history = system.train(steps=64, log_every=1_000, callbacks=[evaluation])
        assert history["evaluation/made_up"] == [3.0, 5.0, 5.0, 1.0]
        assert history["steps"] == [16, 32, 48, 64]
        assert len(history["evaluation_return"]) == 4
    with marl.MultiAgentSystem.load(tmp_path / "best", env=Team) as best:
        assert best.steps == 32


def test_an_evaluation_refuses_the_only_environment_before_anything_is_trained():
    with marl.MultiAgentSystem(marl.ippo(**ON), Constant()) as system:
        with pytest.raises(marl.ConfigError, match="Evaluation"):
            system.train(steps=16, callbacks=[Evaluation(8)])
        assert system.steps == 0


# --- those of the page ------------------------------------------------------------------------------------------------


def of_the_page(name):
    """A class that docs/callbacks.md shows."""
    text = (Path(__file__).parents[1] / "docs" / "callbacks.md").read_text()
    (source,) = re.findall(rf"^(class {name}\(.*?\n)(?=\n\n|```)", text, flags=re.MULTILINE | re.DOTALL)
    assert len([line for line in source.splitlines() if line.strip() and '"""' not in line]) <= 11, "ten lines will do"
    names = {"marl": marl}
    exec(source, names)
    return names[name]


def test_the_page_halves_the_learning_rate_and_a_resumed_run_remembers(tmp_path):
    halve = of_the_page("HalveLearningRate")
    with make() as straight:
        straight.train(steps=200, callbacks=[halve(64), Checkpoint(tmp_path, every=100)])
        assert straight.value("learner.lr") == 2.5e-4 / 8
        with marl.MultiAgentSystem.load(tmp_path / "step-000000000100", env=Team) as resumed:
            assert resumed.value("learner.lr") == 2.5e-4 / 2
            resumed.train(steps=100, callbacks=[halve(64)])
            assert_equal_trees(resumed.state_dict()["learners"], straight.state_dict()["learners"])
            assert resumed.changes == straight.changes


class Catching(Constant):
    """Catches one more in every episode."""

    caught = 0

    def step(self, action):
        *came, truncated, _ = super().step(action)
        self.caught += truncated
        return *came, truncated, {"caught": self.caught}


def test_the_page_stops_by_what_infos_say_and_a_resumed_run_remembers(tmp_path):
    stop = of_the_page("StopWhenCaught")
    agents = marl.ippo(rollout=8, minibatches=1)
    with marl.MultiAgentSystem(agents, Catching, num_envs=1) as system:
        system.train(steps=1_000, callbacks=[stop(at_least=7.5), Checkpoint(tmp_path, every=72)])
        assert system.steps == 12 * 8  # episodes 3 to 12 caught 7.5 on average
    with marl.MultiAgentSystem.load(tmp_path / "step-000000000072", env=Catching) as resumed:
        came = stop(at_least=7.5)
        resumed.train(steps=1, callbacks=[came])
        assert came.recent == list(range(1, 10))


def test_the_page_logs_who_listens_to_whom():
    log = of_the_page("LogAttention")
    for channel in (marl.TarMAC(), marl.TarMAC(rounds=2)):
        with make(marl.mappo(channel=channel, **ON)) as system:
            history = system.train(steps=64, callbacks=[log()])
            names = [f"agent_{n}" for n in range(3)]
            shares = np.array([[history[f"attention/{one}/{other}"][-1] for other in names] for one in names])
            assert np.diag(shares) == pytest.approx(0)  # nobody hears itself
            assert shares.sum(1) == pytest.approx(1)
            assert system.learners[0].policy_net.attention.shape == (4, 3, 3)
    with make(marl.mappo(channel=marl.GraphAttention(heads=2), **ON)) as system:
        system.train(steps=4)
        assert system.learners[0].policy_net.attention.shape == (4, 3, 2, 3)
    with make(marl.mappo(channel=marl.CommNet(), **ON)) as system:
        system.train(steps=4)
        assert system.learners[0].policy_net.attention is None


def test_what_is_evaluated_once_a_row_is_out_is_in_the_next_row():
    class Late(Callback):
        """Evaluates whenever a row was logged."""

        count = 0

        def on_log(self, training, row):
            self.count += 1
            training.evaluate(1)

    with make() as system:
        history = system.train(steps=96, log_every=32, callbacks=[late := Late()])
        assert history["steps"] == [32, 64, 96]
        assert late.count == 3
        assert len(history["evaluation_return"]) == 2


def test_names_with_dashes_are_names_too():
    callbacks = [Telling(), Telling()]
    for one in callbacks:
        one.name = "my-own"
    with make() as system:
        system.train(steps=32, callbacks=callbacks)
    assert callbacks[0].told == callbacks[1].told != []


def test_old_checkpoints_go_from_a_folder_with_dots_in_its_path(tmp_path):
    with make() as system:
        system.train(steps=32, callbacks=[Checkpoint(tmp_path / "a" / ".." / "kept", 8, keep=1)])
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_fewer_stages_than_were_passed_are_refused_and_a_closed_system_may_change():
    stages = [
        marl.curriculum.Stage({"width": width, "height": 4}, marl.MeanReturn(at_least=-1e6, over=1))
        for width in (4, 5, 6)
    ]
    last = marl.curriculum.Stage({"width": 7, "height": 4})
    curriculum = marl.curriculum.Stages([*stages, last])
    options = {"curriculum": curriculum, "env_kwargs": {"width": 8, "height": 8, "max_cycles": 5}}
    system = make(marl.ippo(**ON), "marl/gridworld-v0", **options)
    system.train(steps=256)
    stage = system.history["curriculum/stage"][-1]
    assert stage == 3
    with pytest.raises(marl.ConfigError, match=r"stage 3 \(from 0\) of 2"):
        system.change("curriculum.stages", [stages[0], last])
    system.close()
    system.change("curriculum.rehearse", 0.5)
    system.train(steps=32)
    assert system.value("curriculum.rehearse") == 0.5
    system.close()

"""Curricula: who plays what and when, by hand; exact resuming; refusals; what they are good for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from marl_envs.world import Parameter

import marl
from marl.curriculum import (
    Among,
    Annealed,
    Between,
    DomainRandomization,
    LearningProgress,
    PrioritizedLevelReplay,
    Steps,
    SuccessRate,
    WinRate,
    growing,
)
from marl.curriculum.rules import TaskOutcome
from marl.curriculum.tasks import draw_task
from marl.schedules import Clock, Linear
from marl.types import ConfigError
from tests.support.equality import assert_equal_trees
from tests.support.tiny import Team

SPACE = {
    "size": Parameter(1, 20, 20, integer=True),
    "density": Parameter(0, 1, 0.5),
    "level": Parameter(0, 1000, 0, integer=True),
}
SEED = np.random.SeedSequence(0)
MAZE = {"width": 6, "height": 6, "max_cycles": 12}


def play(scheduler, results, steps=0, choice=None):
    """Hand in results as those of the choice that is drawn now, one after the other."""
    for value in results:
        drawn = int(scheduler.draw(1, Clock(steps))[0][0]) if choice is None else choice
        scheduler.learn([TaskOutcome(drawn, {"return": value, "success": value})], Clock(steps))


def stages(**options):
    rule = SuccessRate(at_least=0.75, over=4)
    return marl.curriculum.Stages(
        [marl.curriculum.Stage({"size": n}, rule if n < 9 else None) for n in (3, 6, 9)], **options
    )


def small(**options):
    return marl.ippo(rollout=16, minibatches=2, epochs=2, network=marl.MLP((16,)), **options)


# --- stages -----------------------------------------------------------------------------------------------------------


def test_a_stage_is_left_when_its_rule_holds_over_a_whole_window():
    scheduler = stages().build(SPACE, SEED)
    play(scheduler, [1, 1, 1])
    assert scheduler.metrics() == {"stage": 0.0}
    play(scheduler, [0])
    assert scheduler.metrics() == {"stage": 1.0}  # 3 of 4
    assert scheduler.draw(2, Clock(0))[1]["size"].tolist() == [6, 6]
    play(scheduler, [1, 0, 1, 0, 1])
    assert scheduler.metrics() == {"stage": 1.0}
    play(scheduler, [1, 1])
    play(scheduler, [1] * 20)
    assert scheduler.metrics() == {"stage": 2.0}  # the last one never ends


def test_results_of_other_stages_do_not_count():
    scheduler = stages().build(SPACE, SEED)
    play(scheduler, [1] * 4)
    play(scheduler, [1] * 50, choice=0)
    assert scheduler.metrics() == {"stage": 1.0}


def test_patience_asks_for_the_rule_to_hold_several_times_in_a_row():
    scheduler = stages(patience=3).build(SPACE, SEED)
    play(scheduler, [1, 1, 1, 1, 0])
    assert scheduler.metrics() == {"stage": 0.0}
    play(scheduler, [1])
    assert scheduler.metrics() == {"stage": 1.0}


def test_rollback_from_a_negative_threshold_asks_for_less_than_it():
    """A stage that wants -50 is given up below -75, not below -25."""
    rule = marl.MeanReturn(at_least=-50.0, over=2)
    curriculum = marl.curriculum.Stages(
        [marl.curriculum.Stage({"size": n}, rule if n < 9 else None) for n in (3, 6, 9)], rollback=0.5
    )
    scheduler = curriculum.build(SPACE, SEED)
    play(scheduler, [-40, -40])
    assert scheduler.metrics() == {"stage": 1.0}
    play(scheduler, [-60, -60])
    assert scheduler.metrics() == {"stage": 1.0}
    play(scheduler, [-80, -80])
    assert scheduler.metrics() == {"stage": 0.0}


def test_rollback_goes_back_and_hysteresis_then_asks_for_more():
    scheduler = stages(rollback=0.5, hysteresis=0.25).build(SPACE, SEED)
    play(scheduler, [1, 1, 1, 0])
    play(scheduler, [0, 1, 0, 0])  # a quarter is below half of what is asked for
    assert scheduler.metrics() == {"stage": 0.0}
    play(scheduler, [1, 1, 1, 0])
    assert scheduler.metrics() == {"stage": 0.0}  # three quarters are not enough any more
    play(scheduler, [1, 1, 1, 1])
    assert scheduler.metrics() == {"stage": 1.0}


def test_steps_and_returns_advance_too():
    rules = (Steps(at_least=100), marl.MeanReturn(at_least=-2.0, over=2))
    two = [marl.curriculum.Stage({"size": n}, rule) for n, rule in zip((2, 4, 6), (*rules, None), strict=True)]
    scheduler = marl.curriculum.Stages(two).build(SPACE, SEED)
    play(scheduler, [0], steps=99)
    assert scheduler.metrics() == {"stage": 0.0}
    play(scheduler, [0], steps=100)
    play(scheduler, [-5, -3], steps=100)
    assert scheduler.metrics() == {"stage": 1.0}
    play(scheduler, [-1])
    assert scheduler.metrics() == {"stage": 2.0}


def test_rehearsal_plays_earlier_stages_so_often():
    scheduler = stages(rehearse=0.25).build(SPACE, SEED)
    assert set(scheduler.draw(50, Clock(0))[0]) == {0}
    play(scheduler, [1] * 4)
    play(scheduler, [1] * 40)
    assert scheduler.stage == 2
    chosen, tasks = scheduler.draw(4_000, Clock(0))
    assert (chosen < 2).mean() == pytest.approx(0.25, abs=0.03)
    assert (chosen == 0).mean() == pytest.approx(0.125, abs=0.02)
    assert tasks["size"].tolist() == (3 + 3 * chosen).tolist()


def test_growing_is_a_stage_for_each_number():
    found = growing("agents", 2, 5, SuccessRate(at_least=0.5))
    assert [stage.task["agents"] for stage in found.stages] == [2, 3, 4, 5]
    assert found.target == {"agents": 5}


# --- distributions ----------------------------------------------------------------------------------------------------


def test_tasks_are_drawn_as_they_are_described():
    random = np.random.default_rng(0)
    task = {
        "size": Between(4, 6),
        "density": Between(0.2, 0.4),
        "level": Among((7, 9)),
    }
    drawn = draw_task(task, SPACE, 6_000, Clock(0), random)
    for value in (4, 5, 6):
        assert (drawn["size"] == value).mean() == pytest.approx(1 / 3, abs=0.03)
    assert 0.2 <= drawn["density"].min() < 0.205
    assert 0.395 < drawn["density"].max() <= 0.4
    assert set(drawn["level"]) == {7, 9}
    assert drawn["density"].mean() == pytest.approx(0.3, abs=0.005)


def test_schedules_follow_the_clock_and_end_at_the_target():
    found = Annealed({"size": Linear(2, 12, 100), "density": Between(0.0, Linear(0.0, 1.0, 100))})
    scheduler = found.build(SPACE, SEED)
    assert scheduler.draw(1, Clock(50))[1]["size"].tolist() == [7]
    assert scheduler.draw(500, Clock(50))[1]["density"].max() <= 0.5
    assert found.target == {"size": 12, "density": Between(0.0, 1.0)}


# --- adaptive ---------------------------------------------------------------------------------------------------------


def test_learning_progress_goes_where_results_change():
    scheduler = LearningProgress({"size": Between(1, 20)}, bins=4, explore=0.2).build(SPACE, SEED)
    assert scheduler.low["size"].tolist() == [1, 6, 11, 16]
    assert scheduler.high["size"].tolist() == [5, 10, 15, 20]
    assert scheduler.chances == pytest.approx(np.full(4, 0.25))
    play(scheduler, [0] * 30, choice=3)  # too hard
    play(scheduler, [0] * 10 + [1] * 5, choice=1)  # being learnt
    assert scheduler.chances == pytest.approx([0.05, 0.85, 0.05, 0.05])
    fast, slow = 1 - 0.9**5, 1 - 0.975**5
    assert scheduler.fast[1] - scheduler.slow[1] == pytest.approx(fast - slow)
    chosen, tasks = scheduler.draw(4_000, Clock(0))
    assert (chosen == 1).mean() == pytest.approx(0.85, abs=0.03)
    assert ((tasks["size"] >= scheduler.low["size"][chosen]) & (tasks["size"] <= scheduler.high["size"][chosen])).all()
    assert set(tasks["size"][chosen == 1]) == {6, 7, 8, 9, 10}


def test_bins_of_whole_numbers_cover_each_once():
    scheduler = LearningProgress({"size": Between(2, 8)}, bins=3).build(SPACE, SEED)
    covered = [
        n for a, b in zip(scheduler.low["size"], scheduler.high["size"], strict=True) for n in np.arange(a, b + 1)
    ]
    assert covered == list(range(2, 9))


def test_levels_are_replayed_by_rank_and_age():
    config = PrioritizedLevelReplay(
        {"level": Between(1, 1000)},
        capacity=3,
        replay=1.0,
        temperature=1.0,
        staleness=0.0,
        score="regret",
    )
    scheduler = config.build(SPACE, SEED)
    (first, second, third), tasks = scheduler.draw(3, Clock(0))
    for number, result in ((first, 1.0), (second, 1.0), (third, 1.0)):
        scheduler.learn([TaskOutcome(int(number), {"return": result})], Clock(0))
    scheduler.learn([TaskOutcome(int(second), {"return": -4.0})], Clock(0))  # mean 0: one below the best
    assert scheduler.score.tolist() == [0, 1, 0]
    assert scheduler.chances == pytest.approx(np.array([3, 6, 2]) / 11)  # ranks 2, 1, 3
    numbers, again = scheduler.draw(3_000, Clock(0))
    assert (numbers == second).mean() == pytest.approx(6 / 11, abs=0.03)
    assert set(again["level"][numbers == second]) == {tasks["level"][1]}


def test_a_level_not_seen_for_long_comes_back():
    config = PrioritizedLevelReplay({"level": Between(1, 1000)}, capacity=2, replay=1.0, staleness=1.0)
    scheduler = config.build(SPACE, SEED)
    for number in scheduler.draw(2, Clock(0))[0]:
        scheduler.learn([TaskOutcome(int(number), {"success": 1.0})], Clock(0))
    scheduler.time, scheduler.played[:] = 10, [9, 1]
    assert scheduler.chances == pytest.approx([0.1, 0.9])


def test_the_least_interesting_level_makes_room():
    scheduler = PrioritizedLevelReplay({"level": Between(1, 1000)}, capacity=2, replay=0.0).build(SPACE, SEED)
    numbers = scheduler.draw(3, Clock(0))[0]
    for number, result in zip(numbers, (1.0, 0.0, 1.0), strict=True):
        scheduler.learn([TaskOutcome(int(number), {"success": result})], Clock(0))
    assert scheduler.number.tolist() == [numbers[0], numbers[2]]


# --- in a training ----------------------------------------------------------------------------------------------------


def test_every_copy_plays_what_the_curriculum_says_and_is_told_so():
    task = {"width": Between(2, 6), "height": Among((3, 5))}
    seen = []
    with marl.MultiAgentSystem(
        small(), "marl/gridworld-v0", env_kwargs=MAZE, num_envs=4, curriculum=DomainRandomization(task)
    ) as system:
        log = system.training.log
        record = log.record
        log.record = lambda finished: (seen.extend(finished), record(finished))
        curriculum_state, env = system.training.parts["curriculum"].curriculum_state, system.env
        for _ in range(40):
            system.train(steps=4)
            assert {name: env.tasks()[name].tolist() for name in task} == {
                name: values.tolist() for name, values in curriculum_state.tasks.items()
            }
        metrics = curriculum_state.metrics()
        assert metrics["curriculum/task/width"] == env.tasks()["width"].mean()
    assert {episode.info["task/width"] for episode in seen} == {2, 3, 4, 5, 6}
    assert {episode.info["task/height"] for episode in seen} == {3, 5}


def test_an_advance_reaches_every_episode_that_has_not_begun():
    curriculum = marl.curriculum.Stages(
        [marl.curriculum.Stage({"width": 2}, Steps(at_least=48)), marl.curriculum.Stage({"width": 6})]
    )
    with marl.MultiAgentSystem(
        marl.Random(), "marl/gridworld-v0", env_kwargs=MAZE, num_envs=4, curriculum=curriculum
    ) as system:
        history = system.train(steps=400, log_every=4)
        assert system.env.tasks()["width"].tolist() == [6] * 4
        assert history["curriculum/stage"][-1] == 1.0
        assert history["curriculum/task/width"][-1] == 6.0


def test_evaluation_plays_the_target_and_never_the_stage():
    target = {"width": 6, "height": Among((4, 6))}
    first = marl.curriculum.Stage({"width": 2, "height": 2}, SuccessRate(at_least=1.0))
    curriculum_state = marl.curriculum.Stages([first, marl.curriculum.Stage({"width": 3, "height": 3})], target=target)
    played = []
    with marl.MultiAgentSystem(
        marl.Random(), "marl/gridworld-v0", env_kwargs=MAZE, num_envs=4, curriculum=curriculum_state
    ) as system:
        make = system.environments.make

        def watched(*arguments, **options):
            env = make(*arguments, **options)
            step = env.step

            def look(actions):
                played.append(env.tasks())
                return step(actions)

            env.step = look
            return env

        system.environments.make = watched
        system.train(steps=40)
        a, b = system.evaluate(30), system.evaluate(30)
        assert a.returns == b.returns
        heights = np.concatenate([tasks["height"] for tasks in played])
        assert {float(x) for tasks in played for x in tasks["width"]} == {6.0}
        assert (heights == 4).mean() == pytest.approx(0.5, abs=0.15)
        played.clear()
        system.evaluate(2, task={"width": 5})
        assert {float(x) for tasks in played for x in tasks["width"]} == {5.0}
        with pytest.raises(ConfigError, match="width"):
            system.evaluate(2, task={"width": 50})


CURRICULA = {
    "stages": marl.curriculum.Stages(
        [
            marl.curriculum.Stage({"width": 3, "density": 0.0}, SuccessRate(at_least=0.1, over=5)),
            marl.curriculum.Stage({"width": Between(4, 6), "density": 0.2}),
        ],
        rehearse=0.3,
    ),
    "annealed": Annealed({"width": Linear(2, 6, 600)}),
    "random": DomainRandomization({"density": Between(0.0, 0.4)}),
    "progress": LearningProgress({"width": Between(2, 6), "height": Between(2, 6)}, bins=2),
    "levels": PrioritizedLevelReplay({"level": Between(1, 10**6)}, capacity=8, replay=0.5),
}


@pytest.mark.parametrize("name", CURRICULA)
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(name, tmp_path):
    def make():
        return marl.MultiAgentSystem(
            small(), "marl/gridworld-v0", env_kwargs=MAZE, num_envs=4, seed=2, curriculum=CURRICULA[name]
        )

    with make() as whole:
        whole.train(steps=320)
        whole.train(steps=320)
        expected = whole.state_dict()
    with make() as broken:
        broken.train(steps=320)
        broken.save(tmp_path / "it")
    with marl.MultiAgentSystem.load(tmp_path / "it") as resumed:
        assert json.dumps(str(resumed.curriculum)) == json.dumps(str(CURRICULA[name]))
        resumed.train(steps=320)
        found = resumed.state_dict()
    for state in (expected, found):
        state["history"].pop("steps_per_second")
    assert_equal_trees(expected, found)


def test_a_curriculum_of_one_s_own_code_has_to_be_brought_along(tmp_path):
    rule = SuccessRate(at_least=0.5, over=5)
    curriculum_state = marl.curriculum.Stages(
        [marl.curriculum.Stage({"width": 3}, rule), marl.curriculum.Stage({"width": 6})],
        success=lambda episode: episode.length < 4,
    )
    options = {"env_kwargs": MAZE, "num_envs": 4}
    with marl.MultiAgentSystem(small(), "marl/gridworld-v0", curriculum=curriculum_state, **options) as system:
        system.train(steps=64)
        system.save(tmp_path / "it")
    lost = marl.MultiAgentSystem.load(tmp_path / "it")
    for use in (lambda: lost.train(steps=4), lambda: lost.evaluate(1)):
        with pytest.raises(marl.CheckpointError, match="pass curriculum="):
            use()
    with marl.MultiAgentSystem.load(tmp_path / "it", curriculum=curriculum_state) as found:
        found.train(steps=16)


def test_teams_have_curricula_of_their_own():
    rule = WinRate(at_least=0.5, over=3)
    curricula = {
        "agent_0": marl.curriculum.Stages(
            [marl.curriculum.Stage({"width": 3}, rule), marl.curriculum.Stage({"width": 6})]
        ),
        "agent_1": DomainRandomization({"height": Between(2, 6)}),
    }
    learners = {"agent_0": marl.Random(), "agent_1": marl.Random()}
    kwargs = {**MAZE, "num_agents": 2}
    with marl.MultiAgentSystem(
        learners, "marl/gridworld-v0", env_kwargs=kwargs, num_envs=4, curriculum=curricula
    ) as system:
        history = system.train(steps=800)
        names = [team.name for team in system.spec.teams]
        assert f"{names[0]}/curriculum/stage" in history
        assert set(system.target) == {"width", "height"}
    both = {name: DomainRandomization({"width": 3}) for name in curricula}
    with pytest.raises(ConfigError, match="chosen by 'agent_0' and by 'agent_1'"):
        marl.MultiAgentSystem(learners, "marl/gridworld-v0", env_kwargs=kwargs, curriculum=both)


def test_a_population_grows_in_the_world():
    curriculum_state = growing("agents", 1, 3, Steps(at_least=40), target={"agents": 4})
    learner = small(agent_id=False)
    kwargs = {**MAZE, "num_agents": 4}
    with marl.MultiAgentSystem(
        learner, "marl/gridworld-v0", env_kwargs=kwargs, num_envs=2, curriculum=curriculum_state
    ) as system:
        assert system.env.reset(0, {"task": {"agents": 2}}).teams[0].acting.tolist() == [[True, True, False, False]] * 2
        history = system.train(steps=400, log_every=2)
        assert sorted(set(history["curriculum/stage"])) == [0, 1, 2]
        report = system.evaluate(8)
        assert report.episodes == 8


def test_a_level_of_a_maze_is_the_same_maze_every_time():
    import marl_envs

    batch = marl_envs.GridWorld(8, 8, 0.3).batch_env(3)
    a = batch.reset(0, {"task": {"level": [5, 5, 6]}}).teams[0].obs.copy()
    assert np.array_equal(a[0], a[1])
    assert not np.array_equal(a[0], a[2])
    assert np.array_equal(batch.reset(9, {"task": {"level": [6, 5, 0]}}).teams[0].obs[:2], a[[2, 0]])


def test_starts_and_goals_are_as_far_apart_as_asked():
    import marl_envs

    batch = marl_envs.GridWorld(9, 9, 0.2, distance=10).batch_env(200)
    batch.reset(0)
    s = batch._core.s
    assert np.abs(s.agent - s.goal).sum(axis=-1).min() >= 10


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: marl.curriculum.Stages([]), "at least one Stage"),
        (
            lambda: marl.curriculum.Stages([marl.curriculum.Stage({"width": 3}), marl.curriculum.Stage({"width": 4})]),
            "stage 1 can never be reached: stage 0 has no advance rule",
        ),
        (
            lambda: marl.curriculum.Stages(
                [
                    marl.curriculum.Stage({"width": 3}, SuccessRate(at_least=0.9)),
                    marl.curriculum.Stage({"width": 4}),
                ],
                rollback=0.5,
                hysteresis=0.2,
            ),
            "stage 1 can never be reached: stage 0 asks for 1.1 of success",
        ),
        (
            lambda: marl.curriculum.Stages(
                [
                    marl.curriculum.Stage({"width": 3}, Steps(at_least=9)),
                    marl.curriculum.Stage({"height": 4}),
                ]
            ),
            "every stage sets the same parameters",
        ),
        (lambda: SuccessRate(at_least=1.5), "at most 1"),
        (
            lambda: LearningProgress({"width": Between(2, 3)}, measure="luck"),
            "'success' or 'return'",
        ),
        (lambda: PrioritizedLevelReplay({"level": 1}, score="regrets"), "did you mean 'regret'"),
        (lambda: DomainRandomization({}), "at least one parameter"),
        (lambda: Among(()), "at least one value"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


@pytest.mark.parametrize(
    ("curriculum_state", "text"),
    [
        (DomainRandomization({"widht": 3}), "unknown task parameter 'widht'; did you mean 'width'"),
        (DomainRandomization({"width": 30}), r"width: expected a number in \[2, 6\], got 30"),
        (DomainRandomization({"width": 2.5}), "expected a whole number, got 2.5"),
        (DomainRandomization({"width": Between(5, 3)}), "low at most high"),
        (DomainRandomization({"width": "wide"}), "expected a number, Between"),
        (Annealed({"width": Linear(2, 60)}), "got 60"),
        (
            DomainRandomization({"width": 3}, target={"depth": 1}),
            "target: unknown task parameter 'depth'",
        ),
        (LearningProgress({"width": 3}), "expected Between"),
        (0.5, "expected one such as marl.curriculum.Stages"),
    ],
)
def test_tasks_that_the_world_does_not_have_are_refused(curriculum_state, text):
    with pytest.raises(ConfigError, match=text):
        marl.MultiAgentSystem(marl.Random(), "marl/gridworld-v0", env_kwargs=MAZE, curriculum=curriculum_state)


def test_environments_without_tasks_are_refused():
    with pytest.raises(ConfigError, match="team_v0 declares no task_space"):
        marl.MultiAgentSystem(marl.Random(), Team, curriculum=DomainRandomization({"width": 3}))


def test_a_success_that_nobody_reports_is_refused():
    curriculum_state = LearningProgress({"prey_speed": Between(0.5, 1.0)})
    learners = {"adversary_*": marl.Random(), "agent_*": marl.Random()}
    with (
        marl.MultiAgentSystem(learners, "marl/tag-v0", num_envs=2, curriculum=curriculum_state) as system,
        pytest.raises(ConfigError, match="the environment reports no success; say with success="),
    ):
        system.train(steps=200)


def test_a_stage_that_begins_after_the_end_is_refused():
    curriculum_state = marl.curriculum.Stages(
        [marl.curriculum.Stage({"width": 3}, Steps(at_least=500)), marl.curriculum.Stage({"width": 4})]
    )
    with pytest.raises(
        ConfigError, match="'maze': Stages: stage 1 can never be reached: the stages before it take 500"
    ):
        marl.Scenario(
            name="maze", env="marl/gridworld-v0", agents=marl.Random(), steps=500, curriculum=curriculum_state
        )
    with pytest.raises(ConfigError, match="whose tasks the curriculum chooses"):
        marl.Scenario(
            name="maze",
            env="marl/gridworld-v0",
            agents=marl.Random(),
            curriculum=curriculum_state,
            stop=marl.MeanReturn(),
        )
    with marl.MultiAgentSystem(
        marl.Random(), "marl/gridworld-v0", env_kwargs=MAZE, curriculum=curriculum_state
    ) as system:
        with pytest.raises(ConfigError, match="can never be reached"):
            system.train(steps=300)
        with pytest.raises(ConfigError, match="leave stop out"):
            system.train(steps=600, stop=marl.MeanReturn(at_least=1.0))


def test_level_replay_does_not_wait_for_results_that_never_come(monkeypatch):
    scheduler = PrioritizedLevelReplay({"level": Between(1, 1000)}).build(SPACE, SEED)
    monkeypatch.setattr(type(scheduler), "UNBORN", 50)
    numbers = scheduler.draw(120, Clock(0))[0]
    assert len(scheduler.unborn) == 50
    scheduler.learn([TaskOutcome(int(number), {"return": 1.0, "success": 1.0}) for number in numbers], Clock(0))
    assert scheduler.metrics()["levels"] == 50

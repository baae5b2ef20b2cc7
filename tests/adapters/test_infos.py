"""What environments say in their infos as an episode ends: numbers reach episodes, reports, metrics and curricula."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Tuple

import marl
from marl.adapters import make
from marl.adapters.rows import MOST_NAMES
from marl.curriculum.rules import outcome_of
from tests.adapters.envs import Scripted, Turns, act


class Door(gymnasium.Env):
    """Episodes of ``length`` steps; the last step's info is ``info``, those before say something else."""

    observation_space, action_space = Box(-1, 1, (1,)), Discrete(2)

    def __init__(self, info=None, length=5):
        self.info, self.length, self.episode = info or {"success": True, "collisions": 3}, length, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        self.episode += 1
        return np.zeros(1, np.float32), {"success": -1.0}

    def step(self, action):
        self.time += 1
        end = self.time == self.length
        info = self.info(self.episode) if callable(self.info) else self.info
        return np.zeros(1, np.float32), 1.0, end, False, info if end else {"success": -1.0}


def episodes(batch, steps):
    batch.reset(0)
    found = [episode for _ in range(steps) for episode in batch.step(act(batch)).finished]
    batch.close()
    return found


@pytest.mark.parametrize("workers", [0, 1])
def test_numbers_in_the_last_info_reach_the_episode(workers):
    found = episodes(make(Door, 2, workers=workers), 10)
    assert [episode.info for episode in found] == [{"success": 1.0, "collisions": 3.0}] * 4


def test_only_finite_numbers_count_and_names_that_marl_uses_do_not():
    info = {
        "bool": np.True_,
        "int": np.int8(-2),
        "float": np.float32(0.5),
        "array": np.array(7),
        "nan": float("nan"),
        "infinite": np.inf,
        "huge": 10**400,
        "text": "won",
        "nothing": None,
        "vector": np.zeros(3),
        "one": np.ones(1),
        "nested": {"success": 1.0},
        "list": [1.0],
        "complex": 1j,
        "task/width": 3.0,
        "absent/team": 1.0,
        3: 4.0,
    }
    (episode,) = episodes(make(lambda: Door(info)), 5)
    assert episode.info == {"bool": 1.0, "int": -2.0, "float": 0.5, "array": 7.0}


def test_a_mask_is_no_number():
    class Masked(Door):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0], {"action_mask": np.ones(2, np.int8)}

        def step(self, action):
            *answer, info = super().step(action)
            return *answer, {**info, "action_mask": np.ones(2, np.int8)}

    (episode,) = episodes(make(Masked), 5)
    assert episode.info == {"success": 1.0, "collisions": 3.0}


def test_a_limit_of_steps_takes_the_info_of_its_step():
    (episode,) = episodes(make(Door, max_steps=3), 3)
    assert episode.info == {"success": -1.0}


def saying(**said):
    """A change that puts infos of agents in place."""

    def change(env, observations, rewards, terminations, truncations, infos):
        infos.update({agent: {"won": won, **({"late": 1.0} if agent == "c" else {})} for agent, won in said.items()})

    return change


def test_every_agent_speaks_in_its_own_last_step_and_names_are_averaged_over_those_who_said_them():
    script = (
        {"change": saying(a=9, b=9, c=9)},
        {"change": saying(a=9, b=1, c=9), "die": ["b"]},  # b says 1 as it dies
        {"change": saying(a=0, b=9, c=1), "cut": ["a", "c"]},  # what is said of b after that is not its own
    )
    (episode,) = episodes(make(lambda: Scripted(script)), 3)
    assert episode.info == {"won": pytest.approx(2 / 3), "late": 1.0}


def test_infos_that_an_environment_changes_afterwards_were_read_in_time():
    shared = {"won": 0.0}

    def say(env, observations, rewards, terminations, truncations, infos):
        shared["won"] = float(env.time)
        infos.update(dict.fromkeys(infos, shared))

    script = ({"change": say, "die": ["a"]}, {"change": say}, {"change": say, "cut": ["b", "c"]})
    (episode,) = episodes(make(lambda: Scripted(script)), 3)
    assert episode.info == {"won": (1 + 3 + 3) / 3}


@pytest.mark.parametrize(("limit", "won"), [(None, 2 / 2), (2, 0.5)])
def test_turn_based_games_speak_in_dead_turns_and_where_they_are_cut(limit, won):
    class Saying(Turns):
        def step(self, action):
            super().step(action)
            for agent in self.agents:
                self.infos[agent] = {"won": 1.0 if self.moves == 3 else float(agent == "a")}

    (episode,) = episodes(make(lambda: Saying(({}, {}, {"die": ["a", "b"]})), max_steps=limit), limit or 3)
    assert episode.info == {"won": won}


def test_places_of_a_tuple_speak_too():
    class Pair(Door):
        observation_space, action_space = Tuple([Box(-1, 1, (1,))] * 2), Tuple([Discrete(2)] * 2)

        def reset(self, *, seed=None, options=None):
            seen, info = super().reset(seed=seed)
            return (seen, seen), info

        def step(self, action):
            seen, reward, *rest = super().step(action)
            return ((seen, seen), [reward] * 2, *rest)

    (episode,) = episodes(make(Pair), 5)
    assert episode.info == {"success": 1.0, "collisions": 3.0}


def test_names_that_never_end_are_cut_off():
    found = episodes(make(lambda: Door(lambda episode: {f"episode {episode}": 1.0, "success": 1.0}, length=1)), 200)
    assert len({name for episode in found for name in episode.info}) == MOST_NAMES
    assert all(episode.info["success"] == 1.0 for episode in found)


def test_reports_and_metrics_give_the_means():
    def info(episode):
        return {"success": episode % 2, **({"rare": 5.0} if episode % 4 == 0 else {})}

    with marl.MultiAgentSystem(marl.Random(), lambda: Door(info), num_envs=1) as system:
        report = system.evaluate(4, num_envs=1)
        assert report.info == {"success": 0.5, "rare": 5.0}
        assert "success 0.500" in str(report)
        history = system.train(steps=40)
    assert history["info/success"] == [0.5]
    assert history["info/rare"] == [5.0]


def test_metrics_of_infos_are_over_the_last_hundred_episodes_and_survive_saving(tmp_path):
    def factory():
        return Door(lambda episode: {"number": episode}, length=1)

    system = marl.MultiAgentSystem(marl.Random(), factory, num_envs=1)
    before = system.train(steps=150)["info/number"][-1]
    last = system.env.envs[0].episode - 1  # the one after that runs
    assert before == np.mean(np.arange(last - 99, last + 1))
    system.save(tmp_path / "saved")
    other = marl.MultiAgentSystem.load(tmp_path / "saved", env=factory)
    system.train(steps=10)
    ours, theirs = system.history["info/number"][-1], other.train(steps=10)["info/number"][-1]
    assert theirs == ours


def test_native_worlds_report_theirs_in_metrics_as_well():
    with marl.MultiAgentSystem(marl.Random(), "marl/traffic_junction-v0", num_envs=4) as system:
        history = system.train(steps=400)
        assert set(system.evaluate(4).info) == {"success", "collisions", "passed"}
    assert {name for name in history if name.startswith("info/")} == {
        "info/success",
        "info/collisions",
        "info/passed",
    }


def test_curricula_read_the_success_of_any_environment():
    batch = make(Door)
    (episode,) = episodes(batch, 5)
    assert outcome_of(episode, batch.spec, None, None)["success"] == 1.0

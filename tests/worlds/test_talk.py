"""Worlds in which it pays to talk: their exact numbers, by enumeration and by policies written out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from math import comb
from typing import Any

import marl_envs
import numpy as np
import pytest
from marl_envs.world import World

import marl
from marl.conformance import check
from marl.playing.report import summarize
from marl.types import Array, ConfigError, Episode, Step
from tests.benchmarks.riddle import EveryGame
from tests.benchmarks.talk import lewis


def put(batch: marl_envs.batch.WorldBatch, **arrays: Array) -> Step:
    """Go on from the same state but for these arrays of the world; the step to act on."""
    saved = batch.state_dict()
    for name, array in arrays.items():
        saved["s"][name][...] = array
    return batch.load_state_dict(saved)


@pytest.mark.parametrize(
    "make",
    [
        marl_envs.SwitchRiddle,
        lambda: marl_envs.SwitchRiddle(4, switch=True, clock=True),
        marl_envs.Lever,
        marl_envs.TrafficJunction,
        lambda: marl_envs.TrafficJunction("hard", vision=0),
        marl_envs.PredatorPrey,
        lambda: marl_envs.PredatorPrey("medium", "cooperative"),
        marl_envs.Lewis,
        lambda: marl_envs.Lewis(3, 5, pairs=2),
    ],
)
def test_the_check_finds_nothing_to_mend(make: Callable[[], World]) -> None:
    report = check(make, steps=300)
    assert not [finding for finding in report.findings if finding.level != "note"]


def test_an_evaluation_reports_what_episodes_report() -> None:
    """Without cars all goes well; the chosen task is not among the numbers."""
    with marl.MultiAgentSystem(marl.Random(), lambda: marl_envs.TrafficJunction(add_rate=0.0), num_envs=2) as system:
        report = system.evaluate(10, task={"add_rate": 0.0})
    assert report.info == {"success": 1.0, "collisions": 0.0, "passed": 0.0}
    assert report.to_dict()["info"] == report.info
    assert "success 1.000" in str(report)
    assert summarize(system.spec, [Episode(0, {}, 1, {"success": 1.0}), Episode(1, {}, 1)]).info == {"success": 1.0}


# -- the switch riddle ------------------------------------------------------------------------------------------------


def all_drawn(prisoners: int, days: int) -> Fraction:
    """The probability that each of them was drawn within so many days: inclusion and exclusion."""
    missed = range(prisoners + 1)
    return sum(
        ((-1) ** k * comb(prisoners, k) * Fraction(prisoners - k, prisoners) ** days for k in missed), Fraction()
    )


def riddle(
    policy: Callable[[int, Array, Step], Array], days: Array, prisoners: int, *, switch: bool = False
) -> tuple[Array, Array]:
    """Play given visits ``(E, T)``; the reward of each game and how long it lasted. Every copy goes on, unheeded,
    after its end."""
    batch = marl_envs.SwitchRiddle(prisoners, switch=switch).batch_env(len(days))
    step = batch.reset(0)
    gained, length = np.zeros(len(days)), np.zeros(len(days), dtype=int)
    for day in range(days.shape[1]):
        step = put(batch, room=days[:, day])
        assert (step.teams[0].obs[:, :, 0].argmax(1) == days[:, day]).all()
        playing = length == 0
        step = batch.step([policy(day, days[:, day], step)])
        gained[playing] += step.teams[0].reward[playing, 0]
        assert (step.teams[0].reward == step.teams[0].reward[:, :1]).all()  # the same for everybody
        ended = step.started & playing
        length[ended] = day + 1
        assert step.teams[0].terminated[ended].all()
        assert not step.teams[0].truncated.any()
    return gained, length


def test_who_knows_everything_gains_twenty_twentysevenths() -> None:
    assert all_drawn(3, 6) == Fraction(20, 27)
    assert round(float(all_drawn(4, 10)), 4) == 0.7806
    days = np.array(list(itertools.product(range(3), repeat=6)))  # all 729 equally likely games

    def oracle(day: int, room: Array, step: Step) -> Array:
        assert step.state is not None
        been = step.state[:, 3:6] > 0
        been[np.arange(len(room)), room] = True
        actions = np.zeros((len(room), 3), dtype=np.int64)
        actions[np.arange(len(room)), room] = been.all(1)
        return actions

    gained, length = riddle(oracle, days, 3)
    assert Fraction(int(gained.sum()), 729) == Fraction(20, 27)
    assert length.max() == 6
    assert (length[gained == 0] == 6).all()
    assert length.min() == 3


def test_one_bit_is_enough_for_three() -> None:
    """Off: one prisoner was here. On: two. The first day's visitor leaves it off; the third to come tells."""
    days = np.array(list(itertools.product(range(3), repeat=6)))
    been = np.zeros((len(days), 3), dtype=bool)

    def counting(day: int, room: Array, step: Step) -> Array:
        copies = np.arange(len(room))
        light = step.teams[0].obs[copies, room, 1] > 0
        new = ~been[copies, room]
        been[copies, room] = True  # what each remembers of itself
        on = light | (new & (day > 0))
        actions = np.zeros((len(room), 3), dtype=np.int64)
        actions[copies, room] = 2 * (light & new) + on
        return actions

    gained, _ = riddle(counting, days, 3, switch=True)
    assert Fraction(int(gained.sum()), 729) == Fraction(20, 27)
    assert (gained >= 0).all()


def test_the_benchmark_plays_each_of_all_games_once() -> None:
    batch = EveryGame().batch_env(729)
    step, rooms = batch.reset(0), []
    for _ in range(12):
        rooms.append(step.teams[0].obs[:, :, 0].argmax(1))
        step = batch.step([np.zeros((729, 3), dtype=np.int64)])
    games = np.array(rooms).T
    assert {tuple(game) for game in games[:, :6].tolist()} == set(itertools.product(range(3), repeat=6))
    np.testing.assert_array_equal(games[:, :6], games[:, 6:])  # and begins it anew, whenever it ends


def test_the_riddle_s_reward_by_hand_and_at_random() -> None:
    days = np.array(list(itertools.product(range(3), repeat=6)))
    for when in range(6):  # telling on a fixed day whatever was seen

        def fixed(day: int, room: Array, step: Step, when: int = when) -> Array:
            actions = np.ones((len(room), 3), dtype=np.int64) * (day == when)
            return actions  # what those outside do counts not

        gained, length = riddle(fixed, days, 3)
        assert Fraction(int(gained.sum()), 729) == 2 * all_drawn(3, when + 1) - 1
        assert (length == when + 1).all()
    # Telling or not with even odds: the day of the end is geometric.
    exact = float(sum(Fraction(1, 2**t) * (2 * all_drawn(3, t) - 1) for t in range(1, 7)))
    batch, rng = marl_envs.SwitchRiddle().batch_env(30_000), np.random.default_rng(0)
    step = batch.reset(0)
    first: dict[int, float] = {}  # each copy's first game: counting all that end by some day would favor short ones
    seen = np.zeros(3)
    for _ in range(6):
        action_mask = step.teams[0].action_mask
        assert action_mask is not None
        inside = step.teams[0].obs[:, :, 0] > 0
        assert (action_mask[:, :, 0]).all()
        assert (action_mask[:, :, 1] == inside).all()
        seen += inside.sum(0)
        step = batch.step([rng.integers(0, 2, (30_000, 3)) * action_mask[:, :, 1]])
        for episode in step.finished:
            first.setdefault(episode.copy, episode.returns["prisoner_1"])
            assert episode.info["success"] == (episode.returns["prisoner_0"] > 0)
    returns = list(first.values())
    assert len(returns) == 30_000
    assert abs(np.mean(returns) - exact) < 4 * np.std(returns) / np.sqrt(len(returns))
    assert np.abs(seen / seen.sum() - 1 / 3).max() < 4 * np.sqrt(2 / 9 / seen.sum())  # visits are uniform


def test_the_riddle_hides_the_switch_outside_and_tells_the_day_if_asked() -> None:
    batch = marl_envs.SwitchRiddle(4, switch=True, clock=True).batch_env(1)
    step = batch.reset(0)
    assert batch.spec.teams[0].obs.shape == (3,)
    step = put(batch, room=np.array([2]))
    assert step.teams[0].obs[0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
    batch.step([np.array([[0, 3, 1, 2]])])  # only what the third does counts: leave it on
    step = put(batch, room=np.array([1]))
    np.testing.assert_allclose(step.teams[0].obs[0], [[0, 0, 0.1], [1, 1, 0.1], [0, 0, 0.1], [0, 0, 0.1]])
    assert step.state is not None
    np.testing.assert_allclose(step.state[0], [0, 1, 0, 0, 0, 0, 1, 0, 1, 0.1])
    step = batch.step([np.array([[0, 2, 0, 0]])])  # tell, too early
    assert step.teams[0].reward.tolist() == [[-1, -1, -1, -1]]
    assert step.finished[0].info == {"success": 0.0}
    with pytest.raises(ConfigError, match="two prisoners"):
        marl_envs.SwitchRiddle(1)


# -- the lever game ---------------------------------------------------------------------------------------------------


def test_pulling_levers_at_random_is_a_formula() -> None:
    joint = np.array(list(itertools.product(range(5), repeat=5)))  # all 3,125 ways
    batch = marl_envs.Lever().batch_env(len(joint))
    batch.reset(0)
    step = batch.step([joint])
    reward = step.teams[0].reward
    assert (reward == reward[:, :1]).all()
    np.testing.assert_allclose(reward[:, 0], [len(set(row)) / 5 for row in joint.tolist()])
    assert Fraction(round(5 * float(reward[:, 0].sum(dtype=float))), 5 * 5**5) == 1 - Fraction(4, 5) ** 5
    assert round(1 - (4 / 5) ** 5, 5) == 0.67232
    assert step.teams[0].terminated.all()
    assert [episode.info["success"] for episode in step.finished] == [len(set(row)) == 5 for row in joint.tolist()]
    assert {episode.length for episode in step.finished} == {1}


def test_without_talk_an_even_division_of_the_identities_is_best() -> None:
    batch = marl_envs.Lever().batch_env(20_000)
    step = batch.reset(0)
    exact = 1 - comb(400, 5) / comb(500, 5)
    assert round(exact, 5) == 0.67397
    reward = batch.step([step.teams[0].obs.argmax(2) % 5]).teams[0].reward[:, 0]
    assert abs(reward.mean() - exact) < 4 * reward.std() / np.sqrt(len(reward))
    uneven = (1 - comb(399, 5) / comb(500, 5) + 1 - comb(401, 5) / comb(500, 5)) / 2
    assert uneven < exact  # concave in how many pull each lever


def test_identities_are_drawn_evenly_and_are_all_different() -> None:
    batch = marl_envs.Lever(num_agents=3, pool=4).batch_env(24_000)
    step = batch.reset(3)
    identity = step.teams[0].obs.argmax(2)
    assert (step.teams[0].obs.sum(2) == 1).all()
    triples, counts = np.unique(identity, axis=0, return_counts=True)
    assert len(triples) == 24  # every ordered triple, and none with a repetition
    assert abs(counts - 1000).max() < 4 * np.sqrt(1000)
    batch.set_tasks({"pool": 3})
    step = batch.step([np.zeros((24_000, 3), dtype=np.int64)])
    assert (np.sort(step.teams[0].obs.argmax(2)) == [0, 1, 2]).all()
    with pytest.raises(ConfigError, match="identities"):
        marl_envs.Lever(num_agents=5, pool=4)


# -- the traffic junction ---------------------------------------------------------------------------------------------


def test_roads_of_each_level() -> None:
    easy, medium, hard = (marl_envs.TrafficJunction(level) for level in ("easy", "medium", "hard"))  # type: ignore[arg-type]
    for world, lanes, each, cells, agents, steps, rates in (
        (easy, 2, 1, 13, 5, 20, (0.1, 0.3)),
        (medium, 4, 3, 52, 10, 40, (0.05, 0.2)),
        (hard, 8, 7, 128, 20, 80, (0.02, 0.05)),
    ):
        assert [len(routes) for routes in world.entries] == [each] * lanes
        assert len(world.roads) == cells
        assert (len(world.possible_agents), world.max_cycles) == (agents, steps)
        rate = world.task_space["add_rate"]
        assert (rate.low, rate.high, rate.default) == (*rates, rates[1])
        far = world.level.size - 1
        heading: dict[tuple[int, int], set[tuple[int, int]]] = {}
        for route in world.routes:
            assert {0, far} & set(route[0])
            assert {0, far} & set(route[-1])
            for (r, c), (row, column) in itertools.pairwise(route):
                assert abs(row - r) + abs(column - c) == 1
                heading.setdefault((r, c), set()).add((row - r, column - c))
        for (row, column), ways in heading.items():  # nobody meets head-on: a cell is never left to opposite sides
            assert not any((-down, -right) in ways for down, right in ways), (row, column)
    assert easy.routes == [tuple((k, 3) for k in range(7)), tuple((3, k) for k in range(7))]
    from_north = medium.entries[0]
    assert from_north[0] == tuple((k, 6) for k in range(14))
    assert from_north[1] == (*((k, 6) for k in range(7)), *((6, k) for k in range(5, -1, -1)))  # right is west
    assert from_north[2] == (*((k, 6) for k in range(8)), *((7, k) for k in range(7, 14)))  # left is east
    assert len(set(hard.routes)) == 56
    for routes in (*medium.entries, *hard.entries):  # from each entry one route to every side but its own
        assert len({route[-1] for route in routes}) == len(routes)


def test_cars_that_both_take_gas_collide_in_the_middle() -> None:
    batch = marl_envs.TrafficJunction(add_rate=1.0).batch_env(1)
    step = batch.reset(0)
    team = step.teams[0]
    assert not team.obs.any()
    assert team.action_mask is not None
    assert team.action_mask[0].tolist() == [[False, True]] * 5
    batch.step([np.zeros((1, 5), dtype=np.int64)])  # gas without a car is not looked at; a car enters at each entry
    s = batch._core.s
    assert team.reward.tolist() == [[0.0] * 5]
    first, second = (int(np.flatnonzero(s.route[0] == route)[0]) for route in (0, 1))
    rest = [n for n in range(5) if n not in (first, second)]
    assert team.obs[0, first, :4].tolist() == [1, 0, 1, 0]  # present, gas, the first of two routes
    assert team.obs[0, second, :4].tolist() == [1, 0, 0, 1]
    assert team.action_mask[0, first].all()
    assert not team.action_mask[0, rest, 0].any()
    s.route[0, rest] = -1
    batch._core.task[:, 0] = 0.0  # nobody else comes
    gas = np.zeros((1, 5), dtype=np.int64)
    for waited in (1, 2):
        step = batch.step([gas])
        np.testing.assert_allclose(step.teams[0].reward[0, [first, second]], -0.01 * waited)
    assert step.teams[0].obs[0, first, 4 + 13 + 8] == 0  # at (2, 3): (3, 2) is one down and one to the left
    assert step.teams[0].obs[0, first, 4 + 13 + 6] == 1
    assert step.teams[0].obs[0, first, 4 + 13 :].sum() == 1
    step = batch.step([gas])
    np.testing.assert_allclose(step.teams[0].reward[0, [first, second]], -10.03, rtol=1e-6)
    assert step.teams[0].obs[0, first, 4 + 13 + 4] == 1  # the other is in the same cell
    step = batch.step([gas])  # both drive on
    np.testing.assert_allclose(step.teams[0].reward[0, [first, second]], -0.04, rtol=1e-6)
    assert (step.teams[0].reward[0, rest] == 0).all()
    for _ in range(3):
        step = batch.step([gas])
    assert not step.teams[0].obs.any()  # at (6, 3) after six steps, gone after seven
    assert step.teams[0].reward.tolist() == [[0.0] * 5]
    while not step.finished:
        step = batch.step([gas])
    assert step.finished[0].info == {"success": 0.0, "collisions": 2.0, "passed": 2.0}
    assert step.finished[0].length == 20
    assert step.teams[0].truncated.all()


def test_braking_lets_the_other_pass_and_holds_up_who_comes_behind() -> None:
    batch = marl_envs.TrafficJunction(add_rate=0.0).batch_env(1)
    batch.reset(0)
    route, gas = np.array([[0, 1, -1, -1, -1]]), np.zeros((1, 5), dtype=np.int64)
    put(batch, route=route, progress=np.array([[2, 2, 0, 0, 0]]))
    step = batch.step([np.array([[1, 0, 0, 0, 0]])])
    assert step.teams[0].obs[0, 0, 1] == 1  # braked
    step = batch.step([gas])
    np.testing.assert_allclose(step.teams[0].reward[0], [-0.02, -0.02, 0, 0, 0], rtol=1e-6)
    put(batch, route=np.array([[0, 0, -1, -1, -1]]), progress=np.array([[1, 0, 0, 0, 0]]), waited=np.zeros((1, 5)))
    step = batch.step([np.array([[1, 0, 0, 0, 0]])])  # runs into the one that brakes
    np.testing.assert_allclose(step.teams[0].reward[0], [-10.01, -10.01, 0, 0, 0], rtol=1e-6)
    assert batch.state_dict()["s"]["collisions"].tolist() == [2]
    crowded = marl_envs.TrafficJunction(add_rate=1.0).batch_env(1)
    crowded.reset(0)
    crowded.step([np.ones((1, 5), dtype=np.int64)])
    step = crowded.step([np.ones((1, 5), dtype=np.int64)])  # all brake where others enter: four cars in two cells
    assert sorted(step.teams[0].reward[0].tolist()) == pytest.approx([-10.01, -10.01, -10, -10, 0])
    step = crowded.step([np.ones((1, 5), dtype=np.int64)])  # the fifth takes the last slot at the first entry
    assert step.teams[0].obs[0, :, 0].all()
    assert sorted(step.teams[0].reward[0].tolist()) == pytest.approx([-10.02, -10.02, -10.01, -10.01, -10])


def test_driving_blindly_succeeds_as_often_as_the_formula_says() -> None:
    """Cars that never brake collide if and only if two enter in one step, early enough to reach the crossing."""
    rate, copies = 0.3, 20_000
    batch = marl_envs.TrafficJunction(num_cars=14).batch_env(copies)  # never short of slots
    batch.reset(0)
    gas = np.zeros((copies, 14), dtype=np.int64)
    for _ in range(20):
        step = batch.step([gas])
    success = np.array([episode.info["success"] for episode in step.finished])
    exact = (1 - rate**2) ** 17  # three steps from the entry to the crossing
    assert len(success) == copies
    assert abs(success.mean() - exact) < 4 * np.sqrt(exact * (1 - exact) / copies)
    passed = np.array([episode.info["passed"] for episode in step.finished])
    assert abs(passed.mean() - 2 * rate * 13) < 4 * passed.std() / np.sqrt(copies)


def success(level: Any, policy: Callable[[marl_envs.TrafficJunction, Array], Array], copies: int = 4_000) -> float:
    """Of one episode in each copy."""
    world = marl_envs.TrafficJunction(level)
    batch = world.batch_env(copies)
    step = batch.reset(0)
    for _ in range(world.max_cycles):
        step = batch.step([policy(world, step.teams[0].obs)])
    return float(np.mean([episode.info["success"] for episode in step.finished]))


def test_who_sees_round_the_corner_can_do_without_talk_what_the_blind_cannot() -> None:
    def gas(world: marl_envs.TrafficJunction, obs: Array) -> Array:
        return np.zeros(obs.shape[:2], dtype=np.int64)

    def give_way(world: marl_envs.TrafficJunction, obs: Array) -> Array:
        """From the north brake behind another car, and at the crossing for one that comes from the west."""
        row = np.array(world.roads)[obs[:, :, 4:17].argmax(2), 0]
        window = obs[:, :, 17:].reshape(*obs.shape[:2], 3, 3)
        brakes = ((row == 2) & (window[:, :, 2, 0] > 0)) | ((row < 2) & (window[:, :, 2, 1] > 0))
        return (brakes & (obs[:, :, 2] > 0)).astype(np.int64)

    assert success("easy", gas) == pytest.approx(0.29, abs=0.03)  # published without a channel: .298
    assert success("medium", gas) == pytest.approx(0.036, abs=0.015)  # published: .034
    assert success("easy", give_way) == pytest.approx(0.75, abs=0.03)


def test_vision_is_a_task_and_bad_levels_are_refused() -> None:
    batch = marl_envs.TrafficJunction("medium", add_rate=0.0, vision=1).batch_env(2)
    batch.set_tasks({"vision": [0, 1]})
    batch.reset(0)
    route, progress = np.full((2, 10), -1), np.zeros((2, 10), dtype=np.int64)
    route[:, :3], progress[:, :3] = 0, [3, 4, 3]
    step = put(batch, route=route, progress=progress)
    window = step.teams[0].obs[:, 0, 2 + 12 + 52 :]
    assert window.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 1, 0]]
    assert marl_envs.TrafficJunction(vision=0).observation_space("car_0").shape == (2 + 2 + 13 + 1,)
    with pytest.raises(ConfigError, match="level 'easy'"):
        marl_envs.TrafficJunction("simple")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="add_rate"):
        marl_envs.TrafficJunction(add_rate=1.5)


# -- predators and prey -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "one", "two", "all_three"),
    [("mixed", 0, 0, 0), ("cooperative", 0.05, 0.1, 0.15), ("competitive", 0.05, 0.025, 0.05 / 3)],
)
def test_predators_are_paid_as_the_mode_says(mode: Any, one: float, two: float, all_three: float) -> None:
    batch = marl_envs.PredatorPrey(mode=mode).batch_env(1)
    batch.reset(0)
    put(batch, place=np.array([[[0, 0], [1, 2], [4, 2], [2, 2]]]))
    step = batch.step([np.array([[2, 2, 1]])])  # right, right onto the prey, left
    np.testing.assert_allclose(step.teams[0].reward, [[-0.05, one, -0.05]], rtol=1e-6)
    assert step.teams[0].action_mask is not None
    assert step.teams[0].action_mask[0].tolist() == [[True] * 5, [True] + [False] * 4, [True] * 5]
    step = batch.step([np.array([[4, 3, 1]])])  # who is there stays there
    np.testing.assert_allclose(step.teams[0].reward, [[-0.05, two, two]], rtol=1e-6)
    assert step.state is not None
    np.testing.assert_allclose(step.state[0], [0.2, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0, 1, 1], rtol=1e-6)
    for moves in ([4, 0, 0], [2, 0, 0]):
        step = batch.step([np.array([moves])])
    np.testing.assert_allclose(step.teams[0].reward, [[all_three] * 3], rtol=1e-6)
    assert step.teams[0].terminated.all() == (mode == "mixed")
    while not step.finished:
        step = batch.step([np.array([[4, 4, 4]])])
    assert step.finished[0].info == {"success": 1.0, "reached": 1.0}
    assert step.finished[0].length == (4 if mode == "mixed" else 20)
    assert step.teams[0].truncated.all() == (mode != "mixed")


def test_who_sees_everything_needs_as_many_steps_as_the_farthest_is_away() -> None:
    batch = marl_envs.PredatorPrey("medium").batch_env(200)
    step = batch.reset(0)
    assert step.state is not None
    place = np.rint(step.state[:, :12].reshape(200, 6, 2) * 10).astype(int)
    assert len(np.unique(place.reshape(200, 6, 2) @ [1, 100])) <= 100
    assert all(len({tuple(cell) for cell in cells}) == 6 for cells in place.tolist())  # all start apart
    away = np.abs(place[:, :5] - place[:, 5:]).sum(2)
    length = np.zeros(200, dtype=int)
    while not length.all():
        assert step.state is not None
        place = np.rint(step.state[:, :12].reshape(200, 6, 2) * 10).astype(int)
        dx, dy = np.moveaxis(place[:, 5:] - place[:, :5], 2, 0)
        step = batch.step([np.where(dx, np.where(dx > 0, 2, 1), np.where(dy > 0, 4, np.where(dy < 0, 3, 0)))])
        for episode in step.finished:
            if not length[episode.copy]:
                length[episode.copy] = episode.length
                lost = -0.05 * (away[episode.copy] - 1)  # nothing in the step that gets there
                np.testing.assert_allclose(list(episode.returns.values()), lost, rtol=1e-5)
    assert (length == away.max(1)).all()


def test_predators_see_no_farther_than_the_task_says() -> None:
    batch = marl_envs.PredatorPrey(num_predators=2, size=5, vision=1).batch_env(2)
    batch.set_tasks({"vision": [1, 0], "size": [3, 3]})
    batch.reset(0)
    step = put(batch, place=np.array([[[2, 0], [2, 0], [1, 1]]] * 2))
    seen = step.teams[0].obs
    assert (seen[:, 0, :10] == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]).all()  # column 2, row 0
    outside, prey, others = seen[0, 0, 10:].reshape(3, 3, 3)  # row by row upwards
    assert outside.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1]]
    assert prey.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert others.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert seen[1, 0, 10:].sum() == 1  # only who is in the same cell
    assert seen[1, 0, 10 + 9 + 9 + 4] == 1
    with pytest.raises(ConfigError, match="a cell for each"):
        marl_envs.PredatorPrey(num_predators=4, size=2)
    with pytest.raises(ConfigError, match="mode 'mixed'"):
        marl_envs.PredatorPrey(mode="selfish")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="level 'easy'"):
        marl_envs.PredatorPrey("simple")  # type: ignore[arg-type]


# -- Lewis signaling -------------------------------------------------------------------------------------------------


def test_a_protocol_gets_what_it_can_tell_apart() -> None:
    """All 27 protocols of a sender with three states, each with every receiver of two signals: by enumeration."""
    for sender in itertools.product(range(2), repeat=3):
        for receiver in itertools.product(range(3), repeat=2):
            batch = marl_envs.Lewis(3, 2).batch_env(3)
            batch.reset(0)
            put(batch, fact=np.arange(3)[:, None])
            step = batch.step([np.array([[signal, 0] for signal in sender])])
            assert not step.teams[0].reward.any()
            step = batch.step([np.array([[0, receiver[signal]] for signal in sender])])
            right = [receiver[signal] == fact for fact, signal in enumerate(sender)]
            assert step.teams[0].reward.tolist() == [[float(r)] * 2 for r in right]
            assert sum(right) <= 2
            assert step.teams[0].terminated.all()
            assert [episode.info["success"] for episode in step.finished] == right


def test_sender_and_receiver_take_turns_and_pairs_know_nothing_of_each_other() -> None:
    batch = marl_envs.Lewis(2, 3, pairs=2).batch_env(1)
    assert batch.spec.agents == ("sender_0", "sender_1", "receiver_0", "receiver_1")
    batch.reset(0)
    step = put(batch, fact=np.array([[1, 0]]))
    team = step.teams[0]
    assert team.action_mask is not None
    assert team.obs[0].tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert team.action_mask[0].tolist() == [[True] * 3, [True] * 3, [True, False, False], [True, False, False]]
    batch.step([np.array([[2, 0, 0, 0]])])
    assert team.obs[0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0]]
    assert team.action_mask[0].tolist() == [
        [True, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, False],
    ]
    step = batch.step([np.array([[0, 0, 1, 1]])])
    assert step.teams[0].reward.tolist() == [[1, 0, 1, 0]]
    assert step.finished[0].info == {"success": 0.5}
    facts = np.concatenate([marl_envs.Lewis(4).batch_env(4000).reset(seed).teams[0].obs[:, 0, 1:] for seed in (0, 1)])
    assert np.abs(facts.mean(0) - 0.25).max() < 4 * np.sqrt(3 / 16 / 8000)
    with pytest.raises(ConfigError, match="two states"):
        marl_envs.Lewis(1)


def test_pairs_make_up_perfect_languages() -> None:
    assert lewis(3, 6, runs=10, seed=0, games=2_000) >= 0.9  # by chance alone: a third of the games, no pair

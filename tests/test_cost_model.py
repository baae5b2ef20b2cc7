"""The model of costs behind docs/scale.md: by hand, and its simulation where that can be said in a formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.benchmarks.cost_model import (
    KEPT,
    PUBLISHED,
    WAYS,
    Costs,
    Published,
    Work,
    actors,
    collecting,
    learning,
    one_process,
    ranks,
    ray_environments,
    read,
    summing,
    traffic,
    worker_processes,
)
from tests.benchmarks.cost_simulation import simulate

FREE = Costs(step=3e-4, act=1e-4, learn=0.0)  # neither messages nor learning cost anything
WORK = Work(copies=10, rollout=20, epochs=2, sums=4, row=50, weights=1000)


@pytest.mark.parametrize("count", [1, 2, 8, 512])
def test_where_messages_and_learning_cost_nothing_n_workers_are_n_times_as_fast(count):
    stepping = replace(FREE, act=0.0)  # workers and environments on Ray do not act
    for way in WAYS.values():
        assert way(stepping, WORK, count) == pytest.approx(count / 3e-4)
    for way in (ranks, actors):
        assert way(FREE, WORK, count) == pytest.approx(count * one_process(FREE, WORK))


def test_workers_are_amdahls_law():
    """Of 1 ms, 0.6 are stepped in parallel: at most 2.5 times as fast, and with four workers 1 / (0.4 + 0.15)."""
    costs = Costs(step=6e-4, act=2e-4, learn=1e-4)
    alone = one_process(costs, WORK)
    assert alone == pytest.approx(1000)
    assert worker_processes(costs, WORK, 4) / alone == pytest.approx(1 / (0.4 + 0.6 / 4))
    assert worker_processes(costs, WORK, 10**9) / alone == pytest.approx(2.5)
    piped = replace(costs, pipe=1e-3)  # for each worker's ten copies: 0.1 ms for each step
    assert 1 / worker_processes(piped, WORK, 4) == pytest.approx(1e-4 + 0.4e-3 + 0.6e-3 / 4)


def test_calls_to_environments_on_ray_overlap_but_for_what_the_caller_does():
    """Three actors with ten copies: 3 ms of steps, 1 ms of a call, 2 times 0.2 ms, 30 steps' 50 bytes."""
    costs = Costs(step=3e-4, act=0.0, learn=0.0, call=1e-3, handle=2e-4, byte=1e-8)
    assert 30 / ray_environments(costs, WORK, 3) == pytest.approx(3e-3 + 1e-3 + 0.4e-3 + 30 * 50e-8)


def test_sums_of_ranks_by_hand():
    costs = Costs(step=0.0, act=0.0, learn=0.0, sum=1e-3, sum_byte=1e-9)
    assert summing(costs, 1000, 1) == 0
    assert summing(costs, 1000, 2) == pytest.approx(1e-3 + 1000e-9)
    assert summing(costs, 1000, 8) == pytest.approx(3e-3 + 2 * 7 / 8 * 1000e-9)
    assert ranks(costs, WORK, 8) == pytest.approx(8 * 200 / (4 * summing(costs, 1000, 8)))


def test_a_saturated_learner_is_the_throughput():
    costs = Costs(step=3e-4, act=1e-4, learn=1e-3)
    assert actors(costs, WORK, 64) == pytest.approx(1 / 2e-3)  # two passes
    assert actors(costs, WORK, 1) == pytest.approx(1 / 2e-3)
    quick = replace(costs, learn=1e-5)
    assert actors(quick, WORK, 4) == pytest.approx(4 / 4e-4)
    assert actors(quick, WORK, 20) == pytest.approx(1 / 2e-5)  # 20 actors make what the learner takes
    told = replace(quick, handle=1e-3)
    assert learning(told, WORK) == pytest.approx(200 * 2e-5 + 1e-3 + 1e-3)
    assert learning(told, WORK, fragments=50) == pytest.approx(200 * 2e-5 + 1e-3 + 1e-3 / 50)


def test_bytes_and_round_trips_by_hand():
    said = traffic(WORK, 3)
    assert said["workers"] == (60, 0)
    assert said["Ray environments"] == (60, 3 * 200 * 50)
    assert said["ranks"] == (4, 4 * 2 * 2 * 1000)
    assert said["actors"] == (3, 3 * (200 * 50 + 1000))


@pytest.mark.parametrize(("count", "learn"), [(3, 0.1), (3, 1.0), (16, 0.02), (16, 0.5)])
def test_without_chance_the_simulation_is_the_formula(count, learn):
    found = simulate(1.0, learn, count, rounds=400)
    assert found.rate == pytest.approx(min(count / 1.0, 1 / learn), rel=0.02)
    assert found.busy == pytest.approx(min(1.0, count * learn), rel=0.02)


def test_the_simulation_agrees_with_the_model_of_actors():
    costs = Costs(step=3e-4, act=1e-4, learn=1e-5, call=1e-3, handle=1e-4, byte=1e-9)
    for count in (2, 64):
        each = learning(costs, WORK, fragments=count)
        found = simulate(collecting(costs, WORK), each, count, fragments=count, rounds=100)
        assert found.rate * WORK.fragment == pytest.approx(actors(costs, WORK, count), rel=0.02)


@pytest.mark.parametrize("count", [1, 4, 16])
def test_with_a_saturated_learner_the_lag_is_the_number_of_actors(count):
    """An actor begins as its fragment is taken; until it is its turn again, each other one has had an update, and its
    own has ended."""
    found = simulate(0.01, 1.0, count, ahead=0)
    assert (found.lag, found.largest_lag) == (count, count)
    assert found.busy == pytest.approx(1.0)
    assert found.waiting == pytest.approx(1 - 0.01 / count, rel=0.02)


def test_as_many_fragments_an_update_as_actors_bound_the_lag():
    found = simulate(0.01, 1.0, 32, ahead=0, fragments=32)
    assert found.largest_lag <= 1


def test_a_slow_actor_costs_its_own_share_only():
    """One of two is ten times slower: 1.1 of a fast one's throughput, where waiting for both would be 0.2."""
    found = simulate(1.0, 0.001, 2, slower=(1.0, 10.0), rounds=200)
    assert found.rate == pytest.approx(1.1, rel=0.02)
    assert found.lag < 3


def test_more_chance_never_makes_the_learner_faster():
    even, uneven = (simulate(1.0, 1 / 8, 8, spread=spread, rounds=200).rate for spread in (0.0, 0.5))
    assert 0.8 * even < uneven <= even * 1.001


def test_a_published_figure_is_predicted_from_its_first_row():
    """A worker makes 100 steps a second, sends 50 at a time and calls for 10 ms: 490 ms are steps; so do 7 others."""
    one = Published("", (1, 100.0), (8, 700.0), 50)
    assert one.predicted(Costs(step=1.0, act=1.0, learn=1.0, call=1e-2)) == pytest.approx(800)
    limited = Costs(step=1.0, act=1.0, learn=1.0, call=1e-2, handle=1e-1)
    assert one.predicted(limited) == pytest.approx(8 * 50 / (8 * 0.1 + 0.1))  # 900 ms for eight


def test_what_is_kept_is_of_the_sizes_that_were_measured_elsewhere():
    """Not speeds of this machine, but slips of a factor of a thousand: seconds for microseconds."""
    costs, work, about = read(KEPT)
    assert about
    assert all(1e-7 < value < 1e-2 for value in (costs.step, costs.act, costs.learn, costs.call, costs.sum))
    assert all(0 <= value < 1e-6 for value in (costs.byte, costs.sum_byte))
    assert costs.handle <= costs.call
    assert work.fragment == work.copies * work.rollout
    assert all(math.isfinite(one.predicted(costs)) for one in PUBLISHED)

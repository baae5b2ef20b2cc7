"""Successive halving on learning curves of our own that were measured once: ``tests.benchmarks.halving_table``."""

import csv
from pathlib import Path

import numpy as np

import marl
from marl.studies.halving import goes_on

TABLE = Path(__file__).with_name("data") / "curves.csv"
ORDERS, REDUCTION, BEST = 200, marl.Search.__dataclass_fields__["reduction"].default, 3


def curves():
    """Returns ``(settings, evaluations)``."""
    with TABLE.open(newline="") as file:
        head, *rows = csv.reader(file)
    first = next(place for place, name in enumerate(head) if name.isdigit())
    return np.array([[float(value) for value in row[first:]] for row in rows])


def searched(table):
    """One trial after the other, each to the rung where the rule of ``marl tune`` ends it; the best that came to its
    end, and the share of all evaluations that were made."""
    length, spent = table.shape[1], 0
    rungs = [rung for rung in (REDUCTION**k for k in range(10)) if rung < length]
    there = {rung: [] for rung in rungs}
    ended = {}
    for number, curve in enumerate(table):
        for rung in rungs:
            there[rung].append(curve[rung - 1])
            if not goes_on(curve[rung - 1], there[rung], REDUCTION):
                spent += rung
                break
        else:
            spent += length
            ended[number] = curve[-1]
    return max(ended, key=ended.get), spent / table.size


def test_halving_finds_one_of_the_three_best_settings_with_30_percent_of_the_steps():
    table = curves()
    assert table.shape == (64, 12)
    found, shares, by_chance = 0, [], 0
    for seed in range(ORDERS):
        random = np.random.default_rng(seed)
        order = random.permutation(len(table))
        best, share = searched(table[order])
        top = set(np.argsort(table[:, -1])[-BEST:])
        found += int(order[best]) in top
        shares.append(share)
        tried = random.permutation(len(table))[: round(share * len(table))]  # whole trials for the same steps
        by_chance += bool(top & set(tried[np.argsort(table[tried, -1])[-1:]]))
    assert found >= 0.95 * ORDERS
    assert max(shares) <= 0.3
    assert by_chance < 0.6 * ORDERS

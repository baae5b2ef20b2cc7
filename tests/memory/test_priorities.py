"""Sum trees: frequencies, weights, restoring."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from marl.memory.priorities import Priorities, importance_weights


def filled(errors, alpha=1.0, trees=1):
    tree = Priorities(trees, len(errors), alpha, epsilon=1e-12)
    places = np.arange(len(errors))
    tree.insert(places)
    tree.update(np.tile(places, (trees, 1)), np.tile(np.asarray(errors, dtype=float), (trees, 1)))
    return tree


def test_frequencies_match_priorities():
    errors = [0.5, 1, 2, 4, 0.1, 3, 0.7]
    tree, random = filled(errors, alpha=0.7), np.random.default_rng(0)
    index, probability = tree.sample(random.random((1, 20_000)))
    wanted = np.array(errors) ** 0.7 / (np.array(errors) ** 0.7).sum()
    counts = np.bincount(index[0], minlength=7)
    assert stats.chisquare(counts, wanted * counts.sum()).pvalue > 1e-3
    assert np.allclose(probability[0], wanted[index[0]])


def test_importance_weights_by_hand():
    weight = importance_weights(np.array([[0.1, 0.2, 0.4]]), 10, 0.5)
    assert weight == pytest.approx(np.array([[1.0, 0.5**0.5, 0.5]]))
    assert importance_weights(np.array([[0.1, 0.4]]), 10, 0.0).tolist() == [[1, 1]]


def test_new_entries_get_the_largest_priority():
    tree = filled([1, 5, 2])
    tree.insert(np.array([0]))
    assert tree.nodes[0, tree.leaves : tree.leaves + 3] == pytest.approx([5, 5, 2])
    assert tree.total == pytest.approx([12])


def test_alpha_may_change_on_the_way():
    tree = filled([1, 4, 9])
    tree.alpha = 0.5
    assert tree.total == pytest.approx([14])  # what is there stays
    tree.update(np.array([[1]]), np.array([[4.0]]))
    tree.insert(np.array([0]))
    assert tree.nodes[0, tree.leaves : tree.leaves + 3] == pytest.approx([3, 2, 9])


def test_removed_entries_are_never_drawn_and_stay_removed():
    tree = filled([1, 1, 1, 1])
    tree.remove(np.array([1, 3]))
    tree.update(np.array([[1, 3]]), np.array([[9.0, 9.0]]))
    uniform = np.stack([np.linspace(0, 1 - 1e-16, 500)])
    assert set(tree.sample(uniform)[0][0].tolist()) == {0, 2}


def test_entries_may_be_inserted_in_one_tree_alone_and_an_empty_tree_stops_nobody():
    tree = Priorities(2, 3, 1.0)
    tree.insert_one_by_one(np.array([1]), np.array([2]))
    assert tree.total.tolist() == [0, 1]
    index, probability = tree.sample(np.full((2, 4), 0.5))
    assert index.tolist() == [[0] * 4, [2] * 4]
    assert importance_weights(probability, 3, 0.4).tolist() == [[1] * 4] * 2


def test_of_duplicates_the_last_holds():
    tree = filled([1, 1])
    tree.update(np.array([[0, 0]]), np.array([[3.0, 7.0]]))
    assert tree.total == pytest.approx([8])


def test_trees_are_independent_and_restore_exactly():
    tree = filled([1, 2, 3], trees=2)
    tree.update(np.array([[0], [2]]), np.array([[10.0], [20.0]]))
    assert tree.total == pytest.approx([15, 23])
    twin = Priorities(2, 3, 1.0)
    twin.load_state_dict(tree.state_dict())
    uniform = np.random.default_rng(1).random((2, 50))
    assert np.array_equal(tree.sample(uniform)[0], twin.sample(uniform)[0])
    with pytest.raises(ValueError, match="nothing to draw"):
        Priorities(1, 3, 1.0).sample(uniform[:1])


def test_a_saved_tree_comes_back_bit_for_bit_and_a_forged_one_leads_nowhere_else():
    tree, again = Priorities(2, 5, 0.6), Priorities(2, 5, 0.6)
    tree.insert(np.arange(5))
    tree.update(np.array([[0, 3, 1], [4, 2, 2]]), np.array([[0.3, 7.0, 0.1], [2.0, 0.01, 5.0]]))
    again.load_state_dict({name: array.copy() for name, array in tree.state_dict().items()})
    assert np.array_equal(again.nodes, tree.nodes)
    forged = {name: array.copy() for name, array in tree.state_dict().items()}
    forged["nodes"][:, 1 : tree.leaves] = 1e9  # as if there were something beyond the last entry
    again.load_state_dict(forged)
    index, _ = again.sample(np.full((2, 4), 0.999))
    assert index.max() < 5
    forged["nodes"][0, tree.leaves] = -1.0
    with pytest.raises(ValueError, match="entries that there are none"):
        again.load_state_dict(forged)

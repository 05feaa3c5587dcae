"""Clusters matched with classes."""

import itertools

import numpy as np
import pytest

from evaluation import matched_accuracy


def test_a_table_has_the_accuracies_computed_by_hand():
    table = np.array([[5, 4], [4, 0]])
    accuracy, assignment = matched_accuracy(table)
    assert accuracy == pytest.approx(8 / 13) and assignment.tolist() == [1, 0]
    accuracy, assignment = matched_accuracy(table, many_to_one=True)
    assert accuracy == pytest.approx(9 / 13) and assignment.tolist() == [0, 0]


def test_one_to_one_is_the_best_of_all_permutations():
    for seed in range(20):
        table = np.random.default_rng(seed).integers(0, 50, (4, 4))
        accuracy, assignment = matched_accuracy(table)
        best = max(table[list(order), range(4)].sum() for order in itertools.permutations(range(4)))
        assert accuracy == pytest.approx(best / table.sum())
        assert sorted(assignment) == [0, 1, 2, 3]
        assert table[assignment, range(4)].sum() == best


def test_more_clusters_than_classes_are_many_to_one_unless_it_is_said_otherwise():
    table = np.array([[6, 0, 3, 2, 0], [0, 5, 1, 2, 0]])
    accuracy, assignment = matched_accuracy(table)
    assert accuracy == pytest.approx(16 / 19) and assignment.tolist() == [0, 1, 0, 0, 0]  # of several the first
    accuracy, assignment = matched_accuracy(table, many_to_one=False)
    assert accuracy == pytest.approx(11 / 19) and assignment.tolist() == [0, 1, -1, -1, -1]


def test_classes_without_a_cluster_are_wrong():
    accuracy, assignment = matched_accuracy(np.array([[3, 0], [0, 4], [5, 1]]))
    assert accuracy == pytest.approx(9 / 13) and assignment.tolist() == [2, 1]


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="no pixel"):
        matched_accuracy(np.zeros((2, 2), int))

from fractions import Fraction

import numpy as np
import pytest
import torch

from evaluation.contingency import ContingencyTable, ari, nmi


def test_adding_in_pieces_gives_the_same_table_as_adding_at_once():
    rng = np.random.default_rng(0)
    true, predicted = torch.from_numpy(rng.integers(0, 6, (4, 30))), torch.from_numpy(rng.integers(0, 3, (4, 30)))
    at_once, in_pieces = ContingencyTable(6, 3), ContingencyTable(6, 3)
    at_once.update(true, predicted)
    for i in (2, 0, 3, 1):
        in_pieces.update(true[i].to(torch.uint8), predicted[i])
    assert (at_once.counts == in_pieces.counts).all()
    assert at_once.total == true.numel()


def test_degenerate_tables_give_scikit_learns_values():
    empty = ContingencyTable(3, 2)
    assert (nmi(empty.counts), ari(empty.counts)) == (100.0, 100.0)
    one_prediction = ContingencyTable(3, 2)
    one_prediction.update(torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 1, 1]))
    assert (nmi(one_prediction.counts), ari(one_prediction.counts)) == (0.0, 0.0)


def test_counts_whose_squares_overflow_64_bits_stay_exact():
    small = np.array([[4, 1], [2, 5]])
    large = small * 10**12
    assert nmi(large) == pytest.approx(nmi(small))
    assert 0 < ari(large) < 100
    assert ari(large) == pytest.approx(ari(small * 10**8), rel=1e-6)


def test_the_adjusted_rand_index_of_a_billion_pixels_is_exact():
    rng = np.random.default_rng(0)
    counts = (rng.dirichlet(np.ones(24)).reshape(6, 4) * 10**9).astype(np.int64)

    def pairs(sizes):
        return sum(Fraction(int(size) * (int(size) - 1), 2) for size in sizes)

    both, true, predicted, total = (
        pairs(counts.ravel()),
        pairs(counts.sum(1)),
        pairs(counts.sum(0)),
        pairs([counts.sum()]),
    )
    chance = true * predicted / total
    assert ari(counts) == pytest.approx(100 * float((both - chance) / ((true + predicted) / 2 - chance)), rel=1e-12)


def test_the_published_index_of_one_keypoint_against_the_rest_is_what_64_bits_make_of_it():
    """The paper's row "throat" has FG-ARI -16.2, which no labelling has; CUB shows 66,600 keypoints."""
    visible = np.array([80, 95, 90, 93, 97, 97, 55, 45, 60, 92, 55, 45, 60, 85, 93])  # percent, the throat last
    shown = visible * 66_600 // visible.sum()
    counts = np.stack([shown, np.zeros_like(shown)], axis=1)
    counts[14] = counts[14, ::-1]
    assert ari(counts) == pytest.approx(2.65, abs=0.01)

    squares, total = (counts**2).sum(), counts.sum()
    in_true, in_predicted = ((counts.sum(axis) ** 2).sum() - squares for axis in (1, 0))
    pairs = squares - total, total**2 - in_true - in_predicted - squares, in_true, in_predicted

    def index(together, apart, of_true, of_predicted):
        possible = (together + of_true) * (of_true + apart) + (together + of_predicted) * (of_predicted + apart)
        return 200 * float(together * apart - of_true * of_predicted) / float(possible)

    assert index(*map(int, pairs)) == pytest.approx(ari(counts))
    with np.errstate(over="ignore"):
        assert index(*map(np.int64, pairs)) == pytest.approx(-15.5, abs=0.1)


def test_labels_outside_the_table_are_refused_rather_than_counted_elsewhere():
    for true, predicted in ((0, 2), (3, 0), (-1, 1), (1, -1)):
        table = ContingencyTable(3, 2)
        table.update(torch.tensor([0, true]), torch.tensor([1, predicted]))
        with pytest.raises(ValueError, match=r"1 pairs of labels do not fit in a table of \(3, 2\)"):
            nmi(table.counts)
    with pytest.raises(ValueError, match="differ"):
        ContingencyTable(3, 2).update(torch.tensor([0, 1]), torch.tensor([1]))


def test_pairs_that_do_not_count_are_left_out_even_if_outside_the_table():
    table = ContingencyTable(3, 2)
    true, predicted = torch.tensor([[0, 1], [2, 255]], dtype=torch.uint8), torch.tensor([[1, 1], [0, 0]])
    table.update(true, predicted, where=torch.tensor([[True, False], [True, False]]))
    assert table.counts.tolist() == [[0, 1], [0, 0], [1, 0]]

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from evaluation.contingency import ContingencyTable

labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(labels)
def test_nmi_and_ari_are_scikit_learns_for_any_labels(pairs):
    true, predicted = np.array(pairs).T
    table = ContingencyTable(5, 3)
    table.update(torch.from_numpy(true), torch.from_numpy(predicted))
    assert table.nmi() == pytest.approx(100 * normalized_mutual_info_score(true, predicted), abs=1e-8)
    assert table.ari() == pytest.approx(100 * adjusted_rand_score(true, predicted), abs=1e-8)


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
    assert (empty.nmi(), empty.ari()) == (100.0, 100.0)
    one_prediction = ContingencyTable(3, 2)
    one_prediction.update(torch.tensor([0, 1, 2, 2]), torch.tensor([1, 1, 1, 1]))
    assert (one_prediction.nmi(), one_prediction.ari()) == (0.0, 0.0)


def test_counts_whose_squares_overflow_64_bits_stay_exact():
    small, large = ContingencyTable(2, 2), ContingencyTable(2, 2)
    small.counts[:] = [[4, 1], [2, 5]]
    large.counts[:] = small.counts * 10**12
    assert large.nmi() == pytest.approx(small.nmi())
    assert 0 < large.ari() < 100
    rescaled = ContingencyTable(2, 2)
    rescaled.counts[:] = small.counts * 10**8
    assert large.ari() == pytest.approx(rescaled.ari(), rel=1e-6)


def test_labels_outside_the_table_are_refused_rather_than_counted_elsewhere():
    table = ContingencyTable(3, 2)
    with pytest.raises(ValueError, match="do not fit"):
        table.update(torch.tensor([0]), torch.tensor([2]))
    with pytest.raises(ValueError, match="differ"):
        table.update(torch.tensor([0, 1]), torch.tensor([1]))

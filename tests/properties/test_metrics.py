"""Metrics: scikit-learn's for any labels, the same whatever labels are called."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from evaluation.contingency import ContingencyTable, ari, nmi
from evaluation.regression import Located, keypoint_error
from tests.properties import seeds, tried


@st.composite
def tables(draw, largest: int = 50) -> np.ndarray:
    """Contingency tables with empty rows, empty columns, single cells and single counts among them."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    size = shape[0] * shape[1]
    counts = draw(st.lists(st.integers(0, 2) | st.integers(0, largest), min_size=size, max_size=size))
    return np.array(counts, dtype=np.int64).reshape(shape)


@tried(150)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=60))
def test_nmi_and_ari_are_scikit_learns_for_any_labels(pairs):
    true, predicted = np.array(pairs, dtype=int).reshape(-1, 2).T
    table = ContingencyTable(5, 3)
    table.update(torch.from_numpy(true), torch.from_numpy(predicted))
    assert nmi(table.counts) == pytest.approx(100 * normalized_mutual_info_score(true, predicted), abs=1e-8)
    assert ari(table.counts) == pytest.approx(100 * adjusted_rand_score(true, predicted), abs=1e-8)


@tried(60)
@given(tables(), seeds)
def test_metrics_are_bounded_and_know_no_names_of_labels_and_no_sides(counts, seed):
    rng = np.random.default_rng(seed)
    renamed = counts[rng.permutation(len(counts))][:, rng.permutation(counts.shape[1])]
    assert ari(renamed) == ari(counts) == ari(counts.T)
    assert nmi(renamed) == pytest.approx(nmi(counts), abs=1e-9)
    assert nmi(counts.T) == pytest.approx(nmi(counts), abs=1e-9)
    assert -1e-9 <= nmi(counts) <= 100 + 1e-9
    assert -50 <= ari(counts) <= 100  # the least of all adjusted Rand indices is -1/2 (Chacón and Rastrojo, 2023)


@tried(40)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), seeds)
def test_the_same_partition_under_other_names_scores_100(sizes, seed):
    counts = np.diag(sizes)[np.random.default_rng(seed).permutation(len(sizes))]
    assert ari(counts) == 100
    assert nmi(counts) == pytest.approx(100, abs=1e-9)


@tried(40)
@given(*[st.lists(st.integers(1, 9), min_size=2, max_size=5)] * 2)
def test_labels_that_know_nothing_of_each_other_have_no_mutual_information(rows, columns):
    assert nmi(np.outer(rows, columns)) == pytest.approx(0, abs=1e-9)


@tried(60)
@given(tables(largest=10**11))
def test_ari_is_the_pair_counting_definition_in_exact_arithmetic(counts):
    def pairs(values):
        return sum(math.comb(int(value), 2) for value in np.ravel(values))

    both, true, predicted, all_pairs = pairs(counts), pairs(counts.sum(1)), pairs(counts.sum(0)), pairs(counts.sum())
    expected = Fraction(true * predicted, all_pairs) if all_pairs else Fraction(0)
    possible = Fraction(true + predicted, 2)
    # Where nothing is left to chance both partitions are the same one, all in one or each alone.
    exact = Fraction(1) if possible == expected else (both - expected) / (possible - expected)
    assert ari(counts) == pytest.approx(float(100 * exact), rel=1e-14, abs=0)


@tried(60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.booleans()), max_size=40),
    st.lists(st.integers(0, 40), max_size=5),
    st.sampled_from([torch.uint8, torch.int32, torch.int64]),
)
def test_counts_are_scikit_learns_however_the_pairs_are_split(pairs, cuts, dtype):
    true, predicted, counted = np.array(pairs, dtype=int).reshape(-1, 3).T
    table = ContingencyTable(5, 3)
    for part in np.split(np.arange(len(pairs)), sorted(min(cut, len(pairs)) for cut in cuts)):
        found = [torch.from_numpy(values[part]).to(dtype) for values in (true, predicted)]
        table.update(*found, where=torch.from_numpy(counted[part] == 1))
    kept = counted == 1
    expected = np.zeros((5, 3), dtype=int)
    if kept.any():
        rows, columns = np.unique(true[kept]), np.unique(predicted[kept])
        expected[np.ix_(rows, columns)] = contingency_matrix(true[kept], predicted[kept])
    np.testing.assert_array_equal(table.counts, expected)
    assert table.total == kept.sum()


@tried(60)
@given(st.lists(st.tuples(*[st.integers(-1, 4) | st.integers(-(2**63), 2**63 - 1)] * 2), min_size=1, max_size=20))
def test_every_pair_outside_the_table_is_found_out(pairs):
    table = ContingencyTable(4, 3)
    table.update(*torch.tensor(pairs).T)
    outside = sum(not (0 <= true < 4 and 0 <= predicted < 3) for true, predicted in pairs)
    if outside:
        with pytest.raises(ValueError, match=f"^{outside} pairs"):
            nmi(table.counts)
    else:
        assert table.total == len(pairs)


@tried(25)
@given(seeds, st.integers(1, 4), st.integers(1, 3), st.integers(0, 12))
def test_keypoints_that_follow_the_parts_are_regressed_without_error(seed, num_parts, num_keypoints, more):
    rng = np.random.default_rng(seed)
    linear, shift = rng.normal(size=(2 * num_parts, 2 * num_keypoints)), rng.normal(size=2 * num_keypoints)
    centres = rng.normal(size=(2 * num_parts + 4 + more, 2 * num_parts))
    keypoints = (centres @ linear + shift).reshape(-1, num_keypoints, 2)
    visible = rng.random(keypoints.shape[:2]) < 0.9
    located = [
        Located(str(i), None, centre.reshape(-1, 2), points, shown)
        for i, (centre, points, shown) in enumerate(zip(centres, keypoints, visible, strict=True))
    ]
    fitted, held_out = located[:-2], located[-2:]
    # The regression has 2 K unknowns, so that this many pictures settle them.
    assume(visible[:-2].sum(0).min() > 2 * num_parts + 1 and visible[-2:].any())
    condition = max(np.linalg.cond(scaled(centres[:-2][shown])) for shown in visible[:-2].T)
    tolerance = 100 * 1e3 * np.finfo(float).eps * condition**2 * np.abs(keypoints).max()
    assert keypoint_error(fitted, held_out) == pytest.approx(0, abs=tolerance)
    order = rng.permutation(num_parts)
    renamed = [
        replace(picture, centres=picture.centres[order]) for picture in rng.permutation(np.array(located, dtype=object))
    ]
    fitted, held_out = (
        [picture for picture in renamed if (int(picture.name) < len(located) - 2) == kept] for kept in (True, False)
    )
    assert keypoint_error(fitted, held_out) == pytest.approx(0, abs=tolerance)


def scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(0)) / values.std(0)

"""Which class a cluster stands for, and how many pixels are right then."""

import numpy as np
from scipy.optimize import linear_sum_assignment


def matched_accuracy(table: np.ndarray, many_to_one: bool | None = None) -> tuple[float, np.ndarray]:
    """The accuracy of clusters with the classes that suit them best.

    One to one (Hungarian): the pairs of cluster and class that agree most; what is left over, clusters or classes, is
    wrong throughout. Many to one: each cluster has the class of most of its pixels, of several the first; for clusters
    without any that is class 0.

    Args:
        table: (classes, clusters) counts of pixels.
        many_to_one: None: where there are more clusters than classes.

    Returns:
        The share of all pixels that are right, in [0, 1], and (clusters,) int64, the class of each cluster, -1 for one
        without.

    Raises:
        ValueError: the table is empty.
    """
    table = np.asarray(table)
    total = table.sum()
    if total == 0:
        raise ValueError("the table of classes and clusters has no pixel")
    num_classes, num_clusters = table.shape
    if num_clusters > num_classes if many_to_one is None else many_to_one:
        assignment = table.argmax(0)
    else:
        assignment = np.full(num_clusters, -1)
        classes, clusters = linear_sum_assignment(table, maximize=True)
        assignment[clusters] = classes
    (matched,) = np.nonzero(assignment >= 0)
    return float(table[assignment[matched], matched].sum() / total), assignment


def recolouring(assignment: np.ndarray, num_classes: int) -> np.ndarray:
    """For each label 0..K the known label, 0 is background, whose colour it takes in a figure.

    Args:
        assignment: (K,) the class of each, -1 for one without; it has a colour that follows those of the classes.
        num_classes: that are known.
    """
    assignment = assignment.copy()
    without = assignment < 0
    assignment[without] = num_classes + np.arange(without.sum())
    return np.concatenate([[0], assignment + 1])


def known_by_number(colours: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(1 + T,) int: for each known label, 0 is background, the label whose colour it takes where parts have their own.

    That of the part which matches it; of several the one that meets it most; of none, one that follows those of the
    parts.

    Args:
        colours: (1 + K,) what ``recolouring`` gives.
        counts: (T, 1 + K), how often known labels meet background and parts.
    """
    known, following = [0], len(colours)
    for label, met in enumerate(counts, start=1):
        parts = np.flatnonzero(colours == label)
        known.append(int(parts[met[parts].argmax()]) if len(parts) else following)
        following += not len(parts)
    return np.array(known)


def matching_order(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns in an order in which what belongs together lies along the diagonal.

    Columns are matched with rows one to one, each row having the same weight, and follow them; those that meet none
    come last. Where there are more rows than columns, these stand by the column that they meet most, the surest first,
    and columns that no row meets most come behind the others; else rows stay.

    Args:
        counts: (rows, columns).

    Returns:
        (rows,) and (columns,) int64, places in ``counts``.
    """
    num_rows, num_columns = counts.shape
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows, columns = linear_sum_assignment(shares, maximize=True)
    columns = columns[np.argsort(rows)]
    met = shares.any(0)
    others = np.setdiff1d(np.arange(num_columns), columns)
    in_order = np.concatenate([columns[met[columns]], others[met[others]], np.flatnonzero(~met)]).astype(int)
    if num_rows <= num_columns:
        return np.arange(num_rows), in_order
    largest = shares.argmax(1)
    leading = np.isin(in_order, largest)
    in_order = np.concatenate([in_order[leading], in_order[~leading]])
    return np.lexsort([-shares.max(1), np.argsort(in_order)[largest]]), in_order

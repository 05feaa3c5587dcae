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

"""Keypoints regressed from the parts' centres: the keypoint error of the paper's tables."""

from dataclasses import dataclass

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@dataclass
class Located:
    """Where the parts and the keypoints of one picture are, as fractions of its object's box.

    Attributes:
        name: the sample's name.
        label: the sample's class, or None.
        centres: (K, 2) float, x and y of the parts' centres.
        keypoints: (P, 2) float, x and y.
        visible: (P,) bool.
    """

    name: str
    label: int | None
    centres: np.ndarray
    keypoints: np.ndarray
    visible: np.ndarray


def keypoint_error(fitted: list[Located], held_out: list[Located]) -> float | None:
    """Mean distance between regressed and true keypoints, in percent of the box.

    The mean is over all visible keypoints of ``held_out``, except those that no fitted picture shows.

    Returns:
        The error, or None where no keypoint can be scored.
    """
    return mean_error(distances(fitted, held_out))


def mean_error(found: list[np.ndarray]) -> float | None:
    """The mean of distances, of all keypoints together, in percent; None where there is none."""
    joined = np.concatenate([np.empty(0), *found])
    return 100 * float(joined.mean()) if len(joined) else None


def distances(fitted: list[Located], held_out: list[Located]) -> list[np.ndarray]:
    """For each of the P keypoints the distances (n,) between regressed and true ones, as fractions of the box.

    For each keypoint a linear regression without intercept on standardised inputs and outputs predicts it from
    all the parts' centres. It is fitted on the pictures of ``fitted`` that show the keypoint; where none does, or none
    of ``held_out``, there is no distance.
    """
    if not fitted or not held_out:
        return []
    (centres, keypoints, visible), tested = _arrays(fitted), _arrays(held_out)
    found = [np.empty(0)] * visible.shape[1]
    for point in range(visible.shape[1]):
        shown, asked = visible[:, point], tested[2][:, point]
        if shown.any() and asked.any():
            regression = TransformedTargetRegressor(
                make_pipeline(StandardScaler(), LinearRegression(fit_intercept=False)), transformer=StandardScaler()
            )
            predicted = regression.fit(centres[shown], keypoints[shown, point]).predict(tested[0][asked])
            found[point] = np.linalg.norm(predicted - tested[1][asked, point], axis=1)
    return found


def _arrays(located: list[Located]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (N, 2 K), keypoints (N, P, 2) and which are visible (N, P)."""
    # Sorted: sums of floats would otherwise depend on the order in which batches were filled.
    located = sorted(located, key=lambda picture: picture.name)
    pairs = ((picture.centres.ravel(), picture.keypoints, picture.visible) for picture in located)
    return tuple(np.stack(arrays) for arrays in zip(*pairs, strict=True))

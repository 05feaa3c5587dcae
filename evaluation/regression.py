"""Keypoints regressed from the parts' centres of mass: the keypoint error of the paper's tables."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@dataclass
class Located:
    """Where the parts and the keypoints of one picture are, as fractions of its object's box.

    Attributes:
        name: the sample's name.
        label: the sample's class, or None.
        centres: (K, 2) float, x and y of the parts' centres of mass.
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

    For each keypoint a linear regression without intercept on standardised inputs and outputs predicts it from
    all the parts' centres. It is fitted on the pictures of ``fitted`` that show the keypoint. The mean is over all
    visible keypoints of ``held_out``, except those that no fitted picture shows.

    Returns:
        The error, or None where no keypoint can be scored.
    """
    # Sorted: sums of floats would otherwise depend on the order in which batches were filled.
    fitted, held_out = (sorted(located, key=lambda one: one.name) for located in (fitted, held_out))
    if not fitted or not held_out:
        return None
    distances = []
    for point in range(len(fitted[0].visible)):
        shown, tested = ([one for one in located if one.visible[point]] for located in (fitted, held_out))
        if not shown or not tested:
            continue
        scaler = StandardScaler()
        regression = make_pipeline(StandardScaler(), LinearRegression(fit_intercept=False))
        regression.fit(_centres(shown), scaler.fit_transform(_positions(shown, point)))
        predicted = scaler.inverse_transform(regression.predict(_centres(tested)))
        distances.append(np.linalg.norm(predicted - _positions(tested, point), axis=1))
    return 100 * float(np.concatenate(distances).mean()) if distances else None


def _centres(located: list[Located]) -> np.ndarray:
    return np.stack([one.centres.ravel() for one in located])


def _positions(located: list[Located], point: int) -> np.ndarray:
    return np.stack([one.keypoints[point] for one in located])

"""Where numbers stand beside points that lie close together."""

import numpy as np

DIRECTIONS = 16  # about a point in which its number may stand, ...
RINGS = 6  # ... as near as there is room, in steps of its height
GAP = 0.1  # of its height, to its dot


def beside(points: np.ndarray, extents: np.ndarray, radius: float, size: tuple[float, float]) -> np.ndarray:
    """Centres (P, 2) of a label for each point (P, 2), so that none covers another, a dot or the picture's edge.

    One after the other takes the nearest place that is free; where none is, that which covers least.

    Args:
        extents: (P, 2) width and height of the labels, in the points' units.
        radius: of the dots on the points.
        size: width and height of the picture.
    """
    turns = 2 * np.pi * (np.arange(DIRECTIONS) / DIRECTIONS - 1 / 8)  # the upper right first: y grows downwards
    around = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    around /= np.abs(around).max(1, keepdims=True)  # on a square, since labels and the room of a dot are
    taken = np.stack([points - radius, points + radius], axis=1)
    centres = np.empty(points.shape)
    for place, (point, extent) in enumerate(zip(points, extents, strict=True)):
        away = extent / 2 + radius + extent[1] * (GAP + np.arange(RINGS)[:, None])
        tried = point + (away[:, None] * around).reshape(-1, 2)
        low, high = tried - extent / 2, tried + extent / 2
        sides = np.minimum(high[:, None], taken[:, 1]) - np.maximum(low[:, None], taken[:, 0])
        covered = np.maximum(sides, 0).prod(2).sum(1)
        beyond = (np.maximum(-low, 0) + np.maximum(high - size, 0)).sum(1)
        best = np.argmin(covered + beyond * extent.max())  # of equals the first, and so the nearest
        centres[place] = tried[best]
        taken = np.concatenate([taken, [[low[best], high[best]]]])
    return centres

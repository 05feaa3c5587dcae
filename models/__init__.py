"""Networks: scores from images, perceptual features from images, the reading of weights; and the methods that train."""

import conf.start  # noqa: F401

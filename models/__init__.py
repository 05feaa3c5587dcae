"""Networks: scores from images, perceptual features from images, the reading of weights; and the methods that train."""

"""Configs and command lines of earlier versions of this project.

Format 1 (checkpoints, and ``config.yaml`` of runs) had one dataclass for all methods' keys and one for all data sets',
with null for what was not theirs, and named the data set in ``dataset_name`` alone.
"""

from collections.abc import Mapping
from typing import Any

# dataset_name -> dataset.name, of format 1.
_DATASETS = {"CUB": "cub", "DF": "deepfashion", "PP": "pascal_part", "folder": "folder", "synthetic": "synthetic"}

# What perceptual networks were before there were others.
_PERCEPTUAL = {"scale": "published", "matched_to": 22200.0, "matched_on": 8, "factor": None, "sobel": False}

# What the paper's method was before its ablations had keys.
_CONTRASTIVE_RECONSTRUCTION = {"descriptors": "contrastive", "normalisation": "release"}

# How the autoregressive network's numbers were drawn before that had a key.
_AUTOREGRESSIVE = {"initialisation": "xavier"}

# Probes before there were any.
_PROBE = {"kinds": [], "hidden": 512, "num_points": 100000, "steps": 2000, "batch_size": 1024, "rate": 0.001}

# How files were read before that had keys; of data sets with a choice of masks.
_READING, _READING_MASKS = {"ignore_label": 255}, {"mask_threshold": None, "mask_values": None}

# Node -> what stood for keys that it did not have yet.
_BEFORE = {
    "dataset": {"lists": None},
    "evaluation": {"ari_with_background": False, "truth_free": False, "probe": _PROBE, "report": 200},
    "logging": {"page": True},
    "optimizer": {"schedule": "poly"},
}

# How the drawn set's creatures stood before that had a key.
_DRAWING = {"turn": 50}

# What k-means was before it could see fewer pictures, or more cells than fit in memory.
_KMEANS = {"num_images": None, "minibatch": None, "epochs": 5}
_BASELINES = {"kmeans_colours": _KMEANS, "kmeans_features": {**_KMEANS, "normalise": False}}

# How a step was computed before that had keys; what a whole config has had from the first on.
_COMPUTED, _WHOLE = {"cuda_graph": False, "cudnn_search": "auto"}, "deterministic"

# Keys of earlier command lines, and what to give now.
NEW_FORMS = {
    "evaluation.baselines": "give baseline=[untrained,kmeans_features,kmeans_colours], or some of these",
    "evaluation.kmeans_points": "give baselines.kmeans_features.num_points or baselines.kmeans_colours.num_points",
    "evaluation.kmeans_restarts": "give baselines.kmeans_features.restarts or baselines.kmeans_colours.restarts",
    "task": "leave it out: the method says whether the foreground or parts are found",
}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an earlier version, as plain mappings, in the form of this one; one of this version as it is."""
    config = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    if _WHOLE in config:
        config = _COMPUTED | config
    if "name" not in config.get("perceptual", {"name": None}):
        config["perceptual"] |= {"name": "vgg", **_PERCEPTUAL}
    if config.get("method", {}).get("name") == "contrastive_reconstruction":
        config["method"] = _CONTRASTIVE_RECONSTRUCTION | config["method"]
    if config.get("segmenter", {}).get("name") == "autoregressive":
        config["segmenter"] = _AUTOREGRESSIVE | config["segmenter"]
    for node, before in _BEFORE.items():
        if node in config:
            config[node] = before | config[node]
    if config.get("baselines"):
        config["baselines"] = {name: _BASELINES.get(name, {}) | own for name, own in config["baselines"].items()}
    if config.get("dataset", {}).get("drawing") and config["dataset"].get("name", "synthetic") == "synthetic":
        config["dataset"]["drawing"] = _DRAWING | config["dataset"]["drawing"]
    if "name" in config.get("dataset", {"name": None}):
        return config if "dataset" not in config else config | {"dataset": _with_reading(config["dataset"])}
    for node in ("dataset", "method", "optimizer"):
        config[node] = {key: value for key, value in config.get(node, {}).items() if value is not None}
    config["dataset"] |= {"name": _DATASETS.get(config.get("dataset_name")), "saliency": None, "lists": None}
    config["dataset"] = _with_reading(config["dataset"])
    if config["dataset"].get("cache") == "memory":
        config["dataset"]["cache"] = "none"
    config.setdefault("segmenter", {}).setdefault("name", "deeplab")
    for key in NEW_FORMS:
        config.get("evaluation", {}).pop(key.partition(".")[2], None)
    return config


def _with_reading(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return _READING | (_READING_MASKS if "eval_mask" in dataset else {}) | dataset

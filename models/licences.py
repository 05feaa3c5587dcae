"""Under what terms a network's pretrained weights are published, as far as that is known."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import timm

NONE = "from scratch"
# Of what publishers state beside their files, by how the file's place begins, the longest first.
BY_PLACE = {
    "dl.fbaipublicfiles.com/deepcluster/": "CC BY-NC 4.0 (DeepCluster and SwAV: not for commercial use)",
    "dl.fbaipublicfiles.com/moco": "CC BY-NC 4.0 (MoCo: not for commercial use)",
    "dl.fbaipublicfiles.com/dinov3": "DINOv3 License (terms of its own, to be accepted and passed on)",
    "dl.fbaipublicfiles.com/dinov2": "Apache-2.0",
    "dl.fbaipublicfiles.com/dino": "Apache-2.0",
    "download.pytorch.org/models/": "torchvision is BSD-3-Clause and states none for its weights",
}
IMAGENET = "the pictures of ImageNet are for research that is not commercial"


def weights_of(node: Mapping[str, Any]) -> tuple[str, str]:
    """Where the weights that a node of the config names come from, and their licence.

    Args:
        node: ``segmenter`` or ``perceptual``; ``weights``, and ``network`` where it has one.
    """
    weights, network = node["weights"], node.get("network") or node["name"]
    of_timm = _of_timm(network) if node["name"] != "vgg" else None  # torchvision's VGG has the same name
    beside = f"; timm states {of_timm} for {network}" if of_timm else ""
    if weights == "none":
        return NONE, "none needed"
    if weights == "hub":
        return f"timm, {network}", of_timm or "not stated by timm"
    if weights.startswith("package:"):
        package = weights.removeprefix("package:")
        return f"package {package}", _of_package(package) or f"the package states none{beside}"
    if weights == "imagenet":
        if node.get("variant") == "caffe":
            return "ResNet-50 of Caffe, ImageNet", f"not stated where the file lies; {IMAGENET}"
        of_torchvision = "ResNet-50" if node.get("variant") else network
        return f"torchvision, {of_torchvision}, ImageNet", f"{BY_PLACE['download.pytorch.org/models/']}; {IMAGENET}"
    place = weights.partition("://")[2]
    known = next((BY_PLACE[start] for start in sorted(BY_PLACE, key=len, reverse=True) if place.startswith(start)), "")
    if known:
        return weights, known
    return weights, f"not known: see where the file comes from{beside}"


def _of_timm(network: str) -> str | None:
    config = timm.get_pretrained_cfg(network, allow_unregistered=True)
    return config and config.license


def _of_package(package: str) -> str | None:
    try:
        found = metadata(package)
    except PackageNotFoundError:
        return None
    stated = [found.get("License-Expression"), found.get("License")]
    stated += [line.rpartition(" :: ")[2] for line in found.get_all("Classifier") or () if line.startswith("License")]
    return next((words for words in stated if words and words != "UNKNOWN"), None)

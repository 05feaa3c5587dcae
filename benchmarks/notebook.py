"""The published evaluation as a notebook does it: the reference of ``benchmarks.evaluate``.

One figure or pair of figures after the other, and for each of them one picture after the other: read it, cut and resize
it, predict (batch 1), bring the labels to the host; scikit-learn at the end. Nothing is kept from one to the next. It
reads with the project's data sets, and computes everything else by itself.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from datasets.base import Source
from datasets.part_views import PartView, PartViewOptions
from datasets.sample import Sample
from models.segmenters.deeplab import Segmenter

# What a pass over pictures gives: figures in percent.
Figures = dict[str, float]
MULTIPLE = 16


def passes(
    segmenter: Segmenter, test_set: Source, fit_set: Source | None, options: PartViewOptions
) -> dict[str, Callable[[], Figures]]:
    """What the notebook does, by name, in order.

    With part maps: for each view of the data set one pass for every pair of figures. With keypoints: boxes (FG-NMI,
    FG-ARI), whole pictures (NMI, ARI), and the keypoint error of all and of each of the classes 1, 2 and 3; every error
    is a program run of its own, which predicts the training pictures it is fitted on and the test pictures.

    Args:
        segmenter: in eval mode.
        fit_set: the training split, for data sets with keypoints.
        options: sizes in pixels; which resize part maps take.
    """
    if test_set.part_names is not None:
        return {
            name: lambda view=view, pair=pair: part_maps(segmenter, test_set, view, pair)
            for view in test_set.part_views(options)
            for pair, name in pairs_of(view).items()
        }
    todo = {
        "FG-NMI, FG-ARI": lambda: keypoints_in_boxes(segmenter, test_set, options.size),
        "NMI, ARI": lambda: keypoints_in_pictures(segmenter, test_set, options.size),
        "keypoint error, all": lambda: {
            "keypoint_error_all": keypoint_error(
                segmenter, fit_set, range(len(fit_set)), test_set, range(len(test_set)), options.size
            )
        },
    }
    fitted = [index for label in (1, 2, 3) for index in of_class(fit_set, label)]
    for label in (1, 2, 3):
        if of_class(fit_set, label) and of_class(test_set, label):
            todo[f"keypoint error, {label:03}"] = lambda label=label: {
                f"keypoint_error_{label:03}": keypoint_error(
                    segmenter, fit_set, fitted, test_set, of_class(test_set, label), options.size
                )
            }
    return todo


def of_class(dataset: Source, label: int) -> list[int]:
    """Indices of the samples of a class; folders of CUB are named 001.Black_footed_Albatross and so on."""
    return [index for index in range(len(dataset)) if dataset.sample_name(index).startswith(f"{label:03}.")]


def logits(segmenter: Segmenter, image: np.ndarray) -> Tensor:
    """Part logits (1, K, h', w') of a picture (h, w, 3) uint8."""
    device = next(segmenter.parameters()).device
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].to(device)
    return segmenter(segmenter.preprocess(tensor.float() / 255))


def cut(picture: np.ndarray, size: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Shorter side to ``size``, borders cut to multiples of 16: the picture, the scale, the border (x, y)."""
    shorter = min(picture.shape[:2])
    width, height = int(size * picture.shape[1] / shorter), int(size * picture.shape[0] / shorter)
    left, top = width % MULTIPLE // 2, height % MULTIPLE // 2
    resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    resized = resized[top : top + height // MULTIPLE * MULTIPLE, left : left + width // MULTIPLE * MULTIPLE]
    return resized, size / shorter, np.array([left, top])


def box_of(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Corner and size as in CUB's file: one-based."""
    return sample.box[:2] + 1, sample.box[2:] - sample.box[:2] + 1


def labels_at(labels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Those of a label map (h, w) at the pixels of places (n, 2)."""
    columns, rows = np.round(places - 0.5).astype(int).T
    return labels[rows.clip(0, labels.shape[0] - 1), columns.clip(0, labels.shape[1] - 1)]


def agreement(true: list[np.ndarray], predicted: list[np.ndarray]) -> tuple[float, float]:
    """NMI and ARI in percent."""
    true, predicted = np.concatenate(true), np.concatenate(predicted)
    return 100 * normalized_mutual_info_score(true, predicted), 100 * adjusted_rand_score(true, predicted)


@torch.inference_mode()
def keypoints_in_boxes(segmenter: Segmenter, test_set: Source, size: int) -> Figures:
    """FG-NMI and FG-ARI: pictures cut to their box."""
    true, predicted = [], []
    for index in range(len(test_set)):
        sample = test_set[index]
        corner, extent = box_of(sample)
        height, width = sample.foreground.shape
        left, top = np.clip(corner.astype(int), 0, [width - 1, height - 1])
        right, bottom = np.clip(corner.astype(int) + extent.astype(int), [left + 1, top + 1], [width, height])
        image, scale, border = cut(sample.image[top:bottom, left:right], size)
        full = F.interpolate(logits(segmenter, image), image.shape[:2], mode="bilinear", align_corners=False)
        visible = np.flatnonzero(sample.keypoints[:, 2] > 0)
        places = np.maximum(sample.keypoints[visible, :2] + 1.0 - corner, 0) * scale - border
        true.append(visible)
        predicted.append(labels_at(full.argmax(1)[0].cpu().numpy(), places))
    return dict(zip(("FG-NMI", "FG-ARI"), agreement(true, predicted), strict=True))


def probabilities(segmenter: Segmenter, sample: Sample, size: int) -> tuple[Tensor, float, np.ndarray]:
    """[1 - m, m softmax(logits)] (1 + K, h, w) of a whole picture, with scale and border."""
    image, scale, border = cut(sample.image, size)
    foreground = torch.from_numpy(cut(sample.foreground, size)[0].copy()).float()
    full = F.interpolate(logits(segmenter, image), image.shape[:2], mode="bilinear", align_corners=False)
    foreground = foreground.to(full.device)
    return torch.cat([1 - foreground[None], foreground * full[0].softmax(0)]), scale, border


@torch.inference_mode()
def keypoints_in_pictures(segmenter: Segmenter, test_set: Source, size: int) -> Figures:
    """NMI and ARI: whole pictures, with background."""
    true, predicted = [], []
    for index in range(len(test_set)):
        sample = test_set[index]
        masks, scale, border = probabilities(segmenter, sample, size)
        visible = np.flatnonzero(sample.keypoints[:, 2] > 0)
        true.append(visible)
        places = np.maximum(sample.keypoints[visible, :2] + 1.0, 0) * scale - border
        predicted.append(labels_at(masks.argmax(0).cpu().numpy(), places))
    return dict(zip(("NMI", "ARI"), agreement(true, predicted), strict=True))


@torch.inference_mode()
def keypoint_error(
    segmenter: Segmenter,
    fit_set: Source,
    fitted: Iterable[int],
    test_set: Source,
    tested: Iterable[int],
    size: int,
) -> float:
    """Mean distance of keypoints regressed from centres of mass, in percent of the box."""
    centres, places, visible = locate(segmenter, fit_set, fitted, size)
    test_centres, test_places, test_visible = locate(segmenter, test_set, tested, size)
    distances = []
    for point in range(visible.shape[1]):
        shown, asked = visible[:, point], test_visible[:, point]
        if not shown.any() or not asked.any():
            continue
        inputs, outputs = StandardScaler().fit(centres[shown]), StandardScaler().fit(places[shown, point])
        regression = LinearRegression(fit_intercept=False)
        regression.fit(inputs.transform(centres[shown]), outputs.transform(places[shown, point]))
        found = outputs.inverse_transform(regression.predict(inputs.transform(test_centres[asked])))
        distances.append(np.linalg.norm(found - test_places[asked, point], axis=1))
    return 100 * float(np.concatenate(distances).mean())


def locate(
    segmenter: Segmenter, dataset: Source, indices: Iterable[int], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres of mass (n, 2 K), keypoints (n, P, 2), both as fractions of the box, and which are visible (n, P)."""
    centres, places, visible = [], [], []
    for index in indices:
        sample = dataset[index]
        masks, scale, border = probabilities(segmenter, sample, size)
        parts = masks[1:]
        height, width = parts.shape[1:]
        rows, columns = torch.meshgrid(
            torch.arange(1, height + 1.0, device=parts.device),
            torch.arange(1, width + 1.0, device=parts.device),
            indexing="ij",
        )
        mass = parts.sum((1, 2))
        centre = torch.stack([(parts * columns).sum((1, 2)) / mass, (parts * rows).sum((1, 2)) / mass], 1)
        corner, extent = box_of(sample)
        corner = np.maximum(corner * scale - border, 0)
        extent = np.minimum(extent * scale, [width, height])
        centres.append(np.nan_to_num((centre.cpu().numpy() - corner) / extent, nan=0.5).ravel())
        places.append((np.maximum(sample.keypoints[:, :2] + 1.0, 0) * scale - border - corner) / extent)
        visible.append(sample.keypoints[:, 2] > 0)
    return np.stack(centres), np.stack(places), np.stack(visible)


FOREGROUND, EVERYWHERE, TRUE_MASKS = "FG-{}", "{}", "{} (ground-truth mask)"


def pairs_of(view: PartView) -> dict[str, str]:
    """The pairs of figures over a view -> the names of their passes."""
    asked = {FOREGROUND: view.on_parts, EVERYWHERE: view.everywhere, TRUE_MASKS: view.true_masks}
    names = {FOREGROUND: "FG-NMI, FG-ARI", EVERYWHERE: "NMI, ARI", TRUE_MASKS: "NMI, ARI, true masks"}
    return {pair: names[pair] for pair, wanted in asked.items() if wanted}


@torch.inference_mode()
def part_maps(segmenter: Segmenter, test_set: Source, view: PartView, pair: str) -> Figures:
    """One pair of figures over the pixels of one view."""
    true, predicted = [], []
    for index in range(len(test_set)):
        sample = view.prepare(test_set[index])
        full = F.interpolate(
            logits(segmenter, sample.image),
            sample.foreground.shape,
            mode="bilinear",
            align_corners=view.align_corners,
        )
        parts = full.argmax(1)[0].cpu().numpy()
        labelled = sample.part_map != 0
        if pair == FOREGROUND:
            true.append(sample.part_map[labelled])
            predicted.append(parts[labelled])
        else:
            mask = labelled if pair == TRUE_MASKS else sample.foreground
            true.append(sample.part_map.ravel())
            predicted.append(((parts + 1) * mask).ravel())
    names = (pair.format("NMI"), pair.format("ARI"))
    return dict(zip(names, agreement(true, predicted), strict=True))

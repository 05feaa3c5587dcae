"""Masks by networks that others have trained: which objects are taken, whose weights are read, where masks lie then."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import get_model, get_model_weights

import datasets
import predict
from datasets.example import draw_folder
from models import pretrained
from models.pretrained import base, deeplab, maskrcnn
from tests.composition import composed, given
from utils.errors import UserError

COCO = get_model_weights("maskrcnn_resnet50_fpn").DEFAULT.meta["categories"]


def options(**changes) -> SimpleNamespace:
    return SimpleNamespace(**{"name": "maskrcnn", "classes": None, "objects": "largest", "score": 0.5} | changes)


def of_classes(network: type[nn.Module], torchvisions: str, **changes) -> nn.Module:
    own = options(**changes)
    return network(nn.Identity(), base.wanted_classes(own, torchvisions), own)


def detections(seed: int, count: int, size: int = 9) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, 5, (count,), generator=random)  # person, bicycle, car, motorcycle
    return {
        "labels": labels,
        "scores": torch.rand(count, generator=random),
        "masks": torch.rand(count, 1, size, size, generator=random) ** torch.rand(count, 1, 1, 1, generator=random),
    }


@pytest.mark.parametrize("classes", [None, ["car"], ["person", "bicycle"], ["zebra"]])
@pytest.mark.parametrize("objects", ["largest", "all"])
@pytest.mark.parametrize("score", [0.3, 0.8])
def test_of_detected_objects_those_asked_for_are_one_mask(classes, objects, score):
    """The formula written naively, pixel by pixel."""
    network = of_classes(maskrcnn.MaskRCNN, "maskrcnn_resnet50_fpn_v2", classes=classes, objects=objects, score=score)
    for seed in range(4):
        found = detections(seed, count=6)
        chosen = [
            mask[0].tolist()
            for label, own, mask in zip(found["labels"].tolist(), found["scores"].tolist(), found["masks"], strict=True)
            if own >= score and (classes is None or COCO[label] in classes)
        ]
        if objects == "largest" and chosen:
            areas = [sum(value > 0.5 for row in mask for value in row) for mask in chosen]
            chosen = [chosen[areas.index(max(areas))]]
        expected = [[max([0.0, *(mask[y][x] for mask in chosen)]) for x in range(9)] for y in range(9)]
        np.testing.assert_allclose(network.probability(found), expected, rtol=1e-6)
        assert (classes == ["zebra"]) <= (network.probability(found).max() == 0)


def regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """The pixels of each region of a mask, whose pixels lie side by side or one above the other."""
    left, found = {tuple(place) for place in np.argwhere(mask)}, []
    while left:
        region, new = set(), {min(left)}
        while new:
            region |= new
            new = {(y + dy, x + dx) for y, x in new for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))} & left - region
        left -= region
        found.append(region)
    return found


@pytest.mark.parametrize("classes", [None, ["bird"], ["bird", "cat"]])
@pytest.mark.parametrize("score", [0.1, 0.5])
def test_of_a_class_for_each_pixel_the_largest_region_or_all_are_the_mask(classes, score):
    names = base.classes_of("deeplabv3_resnet50")
    for seed in range(4):
        logits = 4 * torch.randn(len(names), 8, 11, generator=torch.Generator().manual_seed(seed))
        probabilities = logits.softmax(0)
        chosen = [place for place, name in enumerate(names) if place and name in (classes or names)]
        expected = np.array([[sum(probabilities[c, y, x].item() for c in chosen) for x in range(11)] for y in range(8)])
        expected = expected > score
        for objects in ("all", "largest"):
            network = of_classes(
                deeplab.DeepLab, "deeplabv3_resnet50", name="deeplab", classes=classes, objects=objects, score=score
            )
            found = network.logits(probabilities)
            assert found.isfinite().all()
            if objects == "largest":
                sizes = [len(region) for region in regions(expected)]
                assert [len(region) for region in regions((found > 0).numpy())] == ([max(sizes)] if sizes else [])
                assert not ((found > 0).numpy() & ~expected).any()
            else:
                np.testing.assert_array_equal((found > 0).numpy(), expected)


def test_a_class_that_is_none_is_refused_with_the_nearest_and_all():
    with pytest.raises(UserError, match="maskrcnn knows no 'brid'. Did you mean 'bird'. It knows person, "):
        of_classes(maskrcnn.MaskRCNN, "maskrcnn_resnet50_fpn_v2", classes=["brid"])
    with pytest.raises(UserError, match="deeplab knows no 'airplane'. Did you mean 'aeroplane'"):
        of_classes(deeplab.DeepLab, "deeplabv3_resnet50", name="deeplab", classes=["airplane"])


def config_of(name: str, weights: Path | str, **changes):
    given = [f"pretrained.{key}={value}" for key, value in changes.items()]
    return composed(f"pretrained={name}", f"pretrained.weights={weights}", *given, name="predict").pretrained


@pytest.mark.parametrize(
    ("name", "network"), [("maskrcnn", "maskrcnn_resnet50_fpn"), ("deeplab", "deeplabv3_mobilenet_v3_large")]
)
def test_weights_of_each_of_torchvisions_networks_are_read_and_what_it_gives_is_what_torchvision_does(
    name, network, tmp_path
):
    torch.manual_seed(0)
    count = len(get_model_weights(network).DEFAULT.meta["categories"])
    if name == "maskrcnn":
        theirs = get_model(network, weights=None, weights_backbone=None, num_classes=count, min_size=64).eval()
    else:
        theirs = get_model(network, weights=None, weights_backbone=None, num_classes=count, aux_loss=True).eval()
    wrapped = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    torch.save({"model": wrapped, "epoch": 3}, tmp_path / "own.pth")
    ours = pretrained.build(config_of(name, tmp_path / "own.pth", objects="all", score=0.005))
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        found = ours(ours.preprocess(image))
        if name == "maskrcnn":
            for layer in theirs.modules():
                layer.eps = 0.0 if isinstance(layer, nn.BatchNorm2d) else getattr(layer, "eps", None)
            theirs.roi_heads.score_thresh = 0.005
            masks = theirs(list(image))[0]["masks"]
            assert len(masks) > 1
            expected = masks.amax((0, 1))
        else:
            transforms = get_model_weights(network).DEFAULT.transforms(resize_size=64)
            expected = 1 - theirs(transforms(image))["out"].softmax(1)[0, 0]
            found = (found + torch.tensor(0.005).logit()).sigmoid().logit()
    assert found.shape == (1, 1, 64, 64)
    torch.testing.assert_close(found[0, 0].sigmoid(), expected.clamp(1e-6, 1 - 1e-6), rtol=1e-3, atol=1e-4)


def test_a_failed_download_says_what_to_put_where_and_names_no_way_that_is_none(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("models.weights.download_url_to_file", offline)
    with pytest.raises(UserError) as refused:
        pretrained.build(config_of("maskrcnn", "coco", weights_dir=tmp_path / "weights"))
    message = str(refused.value)
    url = get_model_weights("maskrcnn_resnet50_fpn_v2").DEFAULT.url
    for part in (url, str(tmp_path / "weights" / Path(url).name), "pretrained.weights=PATH", "no network"):
        assert part in message
    assert "none" not in message
    with pytest.raises(UserError, match="no such file or run. Give another one.$"):
        pretrained.build(config_of("deeplab", tmp_path / "gone.pth"))
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="other.pth do not fit the network: .* tensors are missing"):
        pretrained.build(config_of("deeplab", tmp_path / "other.pth"))


class Bright(nn.Module):
    """Finds what is bright."""

    num_parts, has_background = 1, False

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def preprocess(self, images):
        return images

    def forward(self, images):
        return 20 * (images.mean(1, keepdim=True) - 0.5)


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder of ten pictures, of which two show nothing bright; on the others the left half is."""
    monkeypatch.setattr(pretrained, "build", lambda options: Bright())
    for number in range(10):
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[:, :30] = 0 if number in (3, 7) else 255
        path = tmp_path / f"own/images/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return tmp_path / "own"


def run(*overrides: str) -> None:
    with given("device=cpu", "loader.num_workers=0", *overrides, name="predict") as config:
        predict.predict(config)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def splits(root: Path, *overrides: str):
    config = composed("dataset_name=folder", f"dataset_root={root}", *overrides)
    return [
        datasets.build(config, split, purpose) for split, purpose in (("train", "training"), ("test", "evaluation"))
    ]


COMMAND = ("task=foreground", "pretrained=maskrcnn", "image_size=64")


def test_the_masks_are_found_by_a_folder_of_ones_own_pictures_with_no_further_key(own, capsys):
    run(*COMMAND, f"images={own}/images")
    out = capsys.readouterr().out
    assert "No masks found in 2 of them: 3.png, 7.png." in out and f"dataset_root={own}" in out
    assert sorted(path.stem for path in (own / "masks").iterdir()) == list("01245689")
    assert (own / "without_object.txt").read_text() == "3.png\n7.png\n"
    train, test = splits(own)
    assert len(train) + len(test) == 8 and any("2 pictures without a mask are left out" in note for note in train.notes)
    for split in (train, test):
        for index in range(len(split)):
            foreground = split[index].foreground
            assert foreground[:, :29].all() and not foreground[:, 31:].any()


def test_a_mask_made_by_hand_is_kept_whatever_its_type_and_the_others_are_made(own, capsys):
    (own / "masks").mkdir()
    for name in ("3.png", "4.bmp"):
        Image.fromarray(np.full((40, 60), 255, np.uint8)).save(own / "masks" / name)
    with pytest.raises(UserError, match=r"There already: .*masks/.*only_missing=true"):
        run(*COMMAND, f"images={own}/images")
    with pytest.raises(UserError, match=r"masks/4.bmp is not replaced by a PNG"):
        run(*COMMAND, f"images={own}/images", "overwrite=true")
    for _ in range(2):
        run(*COMMAND, f"images={own}/images", "only_missing=true")
        assert len(list((own / "masks").iterdir())) == 9
        assert pixels(own / "masks/3.png").all() and pixels(own / "masks/4.bmp").all()
        assert (own / "without_object.txt").read_text() == "7.png\n"
    assert sum(map(len, splits(own))) == 9
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(own / "masks/7.png")
    assert sum(map(len, splits(own))) == 10  # once it has a mask, it is used again


def test_a_mask_of_an_earlier_run_does_not_outlive_one_that_finds_nothing(own):
    (own / "masks").mkdir()
    for name in ("1.png", "3.png"):
        Image.fromarray(np.full((40, 60), 255, np.uint8)).save(own / "masks" / name)
    run(*COMMAND, f"images={own}/images", "overwrite=true")
    assert not (own / "masks/3.png").exists() and not pixels(own / "masks/1.png").all()
    assert sum(map(len, splits(own))) == 8


def test_pictures_of_another_name_need_a_place_and_lists_keep_their_meaning(own, tmp_path):
    pictures = (own / "images").rename(tmp_path / "photos")
    with pytest.raises(UserError, match="give output_dir=OUT"):
        run(*COMMAND, f"images={pictures}")
    run(*COMMAND, f"images={pictures}", f"output_dir={own}")
    pictures.rename(own / "images")
    (own / "test.txt").write_text("2\n3\n4\n")
    train, test = splits(own)
    assert [test.sample_name(index) for index in range(len(test))] == ["2.png", "4.png"] and len(train) == 6


def test_what_is_asked_for_is_what_is_found(own, capsys):
    with pytest.raises(UserError, match="pretrained=maskrcnn finds the foreground: leave out task=parts"):
        run(*COMMAND[1:], "task=parts", f"images={own}/images")
    for arguments, words in (
        ((), "One of two is required: checkpoint=PATH.*pretrained=NAME.*deeplab, mask"),
        (("pretrained=maskrcnn", "checkpoint=a.pth"), "a.pth and pretrained=maskrcnn are two networks to predict with"),
    ):
        with pytest.raises(UserError, match=words):
            composed(*arguments, f"images={own}/images", name="predict")


def test_where_nothing_is_found_in_any_picture_no_training_is_proposed(own, tmp_path, capsys):
    for path in (own / "images").iterdir():
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    run(*COMMAND, f"images={own}/images")
    out = capsys.readouterr().out
    assert "No masks found in 10 of them" in out and "python train.py" not in out and not (own / "masks").exists()
    with pytest.raises(UserError) as refused:
        splits(own)
    for told in (out, str(refused.value)):
        assert "pretrained.classes" in told and "pretrained.score" in told and "pretrained=deeplab" in told
    assert "task=foreground pretrained=maskrcnn" not in str(refused.value)
    assert f"of {own}/without_object.txt predict.py has found nothing" in str(refused.value)
    draw_folder(tmp_path / "drawn", count=2, size=48)
    for path in (tmp_path / "drawn/images").iterdir():
        Image.fromarray(np.zeros_like(pixels(path))).save(path)
    run(*COMMAND[1:], "dataset_name=folder", f"dataset_root={tmp_path / 'drawn'}")
    out = capsys.readouterr().out
    assert "No masks found in 2 of them" in out and "To use them" not in out


def test_of_a_data_set_all_masks_are_written_where_it_reads_predicted_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "build", lambda options: Bright())
    draw_folder(tmp_path / "own", count=6, size=48)
    run(*COMMAND[1:], "dataset_name=folder", f"dataset_root={tmp_path / 'own'}")
    assert "dataset.train_mask=supervised dataset.eval_mask=supervised" in capsys.readouterr().out
    names = {path.stem for path in (tmp_path / "own/images").iterdir()}
    assert {path.stem for path in (tmp_path / "own/supervisedlabels").glob("*.png")} == names
    assert (tmp_path / "own/supervisedlabels/prediction.json").is_file()


def test_the_command_of_a_message_about_missing_masks_can_be_given(own, monkeypatch):
    with pytest.raises(UserError) as refused:
        splits(own)
    command = str(refused.value).partition("python predict.py ")[2].partition(";")[0]
    monkeypatch.setattr(sys, "argv", ["predict.py"])
    run(*command.split(), "image_size=64")
    assert sum(map(len, splits(own))) == 8

"""Pretrained weights: a local file first, else a download that either works or says what to do; never a fallback."""

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from models import perceptual, segmenters
from models.weights import RESNET50, VGG, PretrainedWeights, copy_by_name, pretrained_state
from utils.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with a state dict, on a "server" of its own."""
    path = tmp_path / "server" / "tiny.pth"
    path.parent.mkdir()
    torch.save({"weight": torch.arange(4.0)}, path)
    return path


def published(path: Path) -> PretrainedWeights:
    return PretrainedWeights(url=path.as_uri(), mean=(0.0,), deviation=(1.0,))


def fetch(weights: PretrainedWeights, weights_dir: Path, choice: str = "imagenet") -> dict[str, Tensor]:
    return pretrained_state(choice, weights, weights_dir, "segmenter.weights")


def test_weights_are_downloaded_once_and_then_read_from_disk(source: Path, tmp_path: Path) -> None:
    weights_dir = tmp_path / "new" / "folder"
    assert torch.equal(fetch(published(source), weights_dir)["weight"], torch.arange(4.0))
    source.unlink()
    assert torch.equal(fetch(published(source), weights_dir)["weight"], torch.arange(4.0))


def test_a_file_put_in_place_by_hand_needs_no_download(source: Path, tmp_path: Path) -> None:
    weights = PretrainedWeights(url="http://localhost:9/gone/tiny.pth", mean=(0.0,), deviation=(1.0,))
    assert torch.equal(fetch(weights, source.parent)["weight"], torch.arange(4.0))


def test_a_failed_download_names_file_source_place_and_ways_out(tmp_path: Path) -> None:
    weights = published(tmp_path / "gone" / "tiny.pth")
    with pytest.raises(UserError) as caught:
        fetch(weights, tmp_path / "weights")
    message = str(caught.value)
    for part in ("tiny.pth", weights.url, str(tmp_path / "weights" / "tiny.pth"), "segmenter.weights=none"):
        assert part in message
    assert not list((tmp_path / "weights").iterdir())


def test_a_download_that_does_not_match_its_hash_is_refused_and_not_kept(source: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    right = source.rename(source.with_name(f"tiny-{digest}.pth"))
    assert fetch(published(right), tmp_path / "weights")
    wrong = right.rename(right.with_name("tiny-00000000.pth"))
    with pytest.raises(UserError, match="(?s)tiny-00000000.pth.*segmenter.weights=none"):
        fetch(published(wrong), tmp_path / "weights")
    assert not (tmp_path / "weights" / wrong.name).exists()


def test_a_path_is_read_as_it_stands(source: Path, tmp_path: Path) -> None:
    nowhere = published(tmp_path / "gone.pth")
    assert torch.equal(fetch(nowhere, tmp_path / "weights", choice=str(source))["weight"], torch.arange(4.0))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None], ids=["empty", "web page", "truncated"])
def test_an_unreadable_file_is_named(content: bytes | None, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(source.read_bytes()[:300] if content is None else content)
    with pytest.raises(UserError, match="bad.pth"):
        fetch(published(source), tmp_path, choice=str(path))


def test_a_missing_file_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing.pth: there is no such file or run"):
        fetch(published(source), tmp_path, choice=str(tmp_path / "missing.pth"))


@pytest.mark.parametrize("content", [[1, 2], {"iter": 3}, torch.zeros(2)], ids=["list", "numbers", "tensor"])
def test_a_file_without_named_tensors_is_refused(content: object, source: Path, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="odd.pth does not hold a state dict"):
        fetch(published(source), tmp_path, choice=str(tmp_path / "odd.pth"))


class Code:
    def __reduce__(self) -> tuple:
        return print, ("code in a weights file was run",)


def test_code_in_a_weights_file_is_not_run(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Code()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="evil.pth"):
        fetch(published(source), tmp_path, choice=str(tmp_path / "evil.pth"))
    assert "was run" not in capsys.readouterr().out


def test_names_the_network_lacks_are_ignored_and_names_it_misses_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    state = {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()}
    copy_by_name(network, state | {"fc.weight": torch.zeros(9)}, "a file")
    assert all(bool((parameter == 1).all()) for parameter in network.parameters())
    with pytest.raises(UserError, match="a file do not fit.*1 of its 4 tensors.*1.bias"):
        copy_by_name(network, {name: state[name] for name in state if name != "1.bias"}, "a file")
    with pytest.raises(UserError, match=r"0.bias has the shape \(3,\) instead of \(2,\)"):
        copy_by_name(network, state | {"0.bias": torch.ones(3)}, "a file")


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-50 of ImageNet with torchvision's names, without the counters that older files lack."""
    torch.manual_seed(0)
    state = {name: tensor for name, tensor in resnet50().state_dict().items() if "num_batches" not in name}
    path = tmp_path_factory.mktemp("resnet") / "resnet50.pth"
    torch.save(state, path)
    return path


def segmenter_config(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(
        **{"name": "deeplab", "variant": "caffe", "weights": "imagenet", "weights_dir": "none", "init": "he"} | changes
    )


@pytest.mark.parametrize("variant", ["caffe", "torchvision"])
def test_a_segmenter_starts_from_its_variants_own_imagenet_weights(
    variant: str, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RESNET50, variant, dataclasses.replace(RESNET50[variant], url=resnet_file.as_uri()))
    segmenter = segmenters.build(segmenter_config(variant=variant, weights_dir=str(tmp_path)), num_parts=5)
    state = torch.load(resnet_file, weights_only=True)
    for name, tensor in segmenter.state_dict().items():
        if not name.startswith("layer5") and "num_batches" not in name:
            assert torch.equal(tensor, state[name]), name


def test_a_segmenter_starts_from_a_file_and_refuses_one_that_does_not_fit(resnet_file: Path, source: Path) -> None:
    segmenter = segmenters.build(segmenter_config(weights=str(resnet_file)), num_parts=5)
    assert torch.equal(segmenter.conv1.weight, torch.load(resnet_file, weights_only=True)["conv1.weight"])
    with pytest.raises(UserError, match="tiny.pth do not fit.*conv1.weight"):
        segmenters.build(segmenter_config(weights=str(source)), num_parts=5)


@pytest.mark.parametrize("network", ["segmenter", "perceptual"])
def test_a_network_whose_download_fails_is_never_built(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = (tmp_path / "gone.pth").as_uri()
    monkeypatch.setitem(RESNET50, "caffe", dataclasses.replace(RESNET50["caffe"], url=gone))
    monkeypatch.setitem(VGG, "vgg19", dataclasses.replace(VGG["vgg19"], url=gone))
    with pytest.raises(UserError, match=f"(?s)gone.pth.*{network}.weights=none"):
        if network == "segmenter":
            segmenters.build(segmenter_config(weights_dir=str(tmp_path / "w")), num_parts=4)
        else:
            settings = {
                "name": "vgg",
                "network": "vgg19",
                "layers": {"relu1_1": 1.0},
                "weights": "imagenet",
                "sobel": False,
            }
            perceptual.build(SimpleNamespace(**settings, weights_dir=str(tmp_path / "w")))

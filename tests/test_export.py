"""python -m models.export: files that other programs run give what predict.py writes, for any batch and size."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from timm.layers import Conv2dSame, RotaryEmbeddingDinoV3
from torch import Tensor

import predict
from models import export
from models.methods import method_class
from tests.composition import composed, given
from utils import checkpoints
from utils.errors import UserError

TOLERANCE = 1e-4  # in a probability
# A run of each kind of predictor, small where the network can be.
SMALL = {
    "parts": ("segmenter=hourglass", "segmenter.widths=[4,8]"),
    "foreground": ("method=foreground", "segmenter=hourglass", "segmenter.widths=[4,8]"),
    "iic": ("method=iic", "dataset_name=textures", "segmenter.widths=[4,4,8,8]"),
}
OTHERS = {
    "landmarks": ("method=uld", "dataset_name=synthetic", "segmenter.widths=[4,8]"),
    "ac": ("method=ac", "dataset_name=textures", "segmenter.widths=[64,64]"),
    "attention": ("method=ac", "dataset_name=textures", "segmenter=autoregressive_attention"),
    "mean of orderings": ("method=ac", "dataset_name=textures", "segmenter.inference=mean"),
    "deeplab": (),
    "efficientnet": ("segmenter=efficientnet_lite0",),
    "region grouping": ("method=region_grouping",),
    "dinov2": ("segmenter=dinov2_vits14",),
    "dinov3": ("segmenter=dinov3_vits16",),
}


def save_run(folder: Path, *overrides: str) -> Path:
    """A checkpoint with new weights; its scores vary by about 1 from pixel to pixel, as trained ones do."""
    config = composed("image_size=64", "segmenter.weights=none", *overrides)
    torch.manual_seed(0)
    method = method_class(config)
    predictor = method.new_predictor(config, 1 if config.method.name == "foreground" else config.num_parts).eval()
    if config.segmenter.name in ("hourglass", "deeplab", "timm"):
        head = getattr(predictor, "head", None) or getattr(predictor, "layer5", None) or predictor.hourglass.head
        with torch.no_grad():
            spread = predictor(predictor.preprocess(noise(1, 64, 64))).std()
            for parameter in head.parameters():
                parameter /= spread
    folder.mkdir(exist_ok=True)
    payload = {"iter": 7, "model_state_dict": predictor.state_dict(), "optimizer_state_dict": {}}
    return checkpoints.save(folder / "run/model_7.pth", payload | {"config": OmegaConf.to_container(config)})


def noise(count: int, height: int, width: int) -> Tensor:
    """Pictures (N, 3, H, W) in [0, 1], of 8 bits."""
    return torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(1)) / 255


def exported(checkpoint: Path, *overrides: str) -> Path:
    format = next((given.partition("=")[2] for given in overrides if given.startswith("format=")), "onnx")
    output = checkpoint.parent / f"exported{export.FORMATS[format]}"
    with given(f"checkpoint={checkpoint}", f"output_path={output}", *overrides, name="export") as config:
        export.export(config)
    return output


def predicted(checkpoint: Path, images: Tensor) -> Tensor:
    """The probabilities that predict.py writes of pictures at the size that the network sees, without masks."""
    folder = checkpoint.parent / "pictures"
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    overrides = (f"checkpoint={checkpoint}", f"images={folder}", f"output_dir={folder}_out", "probabilities=true")
    with given("device=cpu", "loader.num_workers=0", "overwrite=true", *overrides, name="predict") as config:
        predict.predict(config)
    arrays = [np.load(f"{folder}_out/probabilities/{number}.png.npy") for number in range(len(images))]
    return torch.from_numpy(np.stack(arrays))


def by_onnx(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def by_torch(path: Path, images: Tensor) -> Tensor:
    return torch.export.load(path).module()(images)


def require_same(found: Tensor, expected: Tensor) -> None:
    """Without the background that predict.py has from masks, of which there are none."""
    expected = expected[:, -found.shape[1] :]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < TOLERANCE
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_both_formats_give_what_predict_py_writes_and_the_network_at_any_size(name, tmp_path):
    checkpoint = save_run(tmp_path, *(SMALL | OTHERS)[name])
    square = noise(3, 64, 64)
    expected = predicted(checkpoint, square)
    assert expected.std() > 1e-3  # there is something to compare
    onnx, pt2 = exported(checkpoint), exported(checkpoint, "format=torch", "input=uint8")
    in_bytes = (square * 255).round().byte()
    for images, as_bytes in ((square, in_bytes), (square[:1], in_bytes[:1])):
        require_same(by_onnx(onnx, images), expected[: len(images)])
        require_same(by_torch(pt2, as_bytes), expected[: len(images)])
    for size in ((2, 96, 64), (1, 75, 101)):
        images = noise(*size)
        found, again = by_onnx(onnx, images), by_torch(pt2, (images * 255).round().byte())
        assert found.shape == (size[0], expected[:, -found.shape[1] :].shape[1], *size[1:])
        assert found.sum(1).allclose(torch.ones(1)) and (found - again).abs().max() < TOLERANCE


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 35), (2, 5)], ids=str)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 1), (5, 1, 2), (7, 2, 2)])
def test_tensorflow_s_padding_is_the_same_for_sides_with_any_remainder(size, kernel, stride, dilation):
    torch.manual_seed(0)
    layer, x = Conv2dSame(4, 6, kernel, stride=stride, dilation=dilation, groups=2), torch.randn(2, 4, *size)
    torch.testing.assert_close(export.convolved_same(layer, x), layer(x), atol=1e-5, rtol=0)


def test_dinov3_s_rotations_are_timm_s_for_a_grid_of_any_size():
    layer = RotaryEmbeddingDinoV3(64)
    for grid in ((1, 1), (4, 7), (16, 5)):
        torch.testing.assert_close(export.rotations(layer, grid), layer._create_embed(grid), atol=1e-5, rtol=0)


def test_metadata_say_what_the_channels_are_and_where_they_come_from(tmp_path, capsys):
    saved = save_run(tmp_path, *SMALL["foreground"])
    (tmp_path / "run/config.yaml").touch()
    (tmp_path / "run/checkpoints").mkdir()
    checkpoint = saved.rename(tmp_path / "run/checkpoints" / saved.name)
    onnx, pt2 = exported(checkpoint, "input=uint8"), exported(checkpoint, "format=torch")
    known = onnxruntime.InferenceSession(onnx).get_modelmeta().custom_metadata_map
    assert known["task"] == "foreground" and json.loads(known["channels"]) == ["background", "object"]
    assert known["input"] == "uint8" and known["method"] == "foreground" and known["steps"] == "7"
    extra = {"metadata.json": ""}
    torch.export.load(pt2, extra_files=extra)
    of_torch = json.loads(extra["metadata.json"])
    assert of_torch["num_parts"] == 1 and of_torch["input"] == "float32" and of_torch["trained_on_pixels"] == 64
    assert (of_torch["checkpoint"], of_torch["run"]) == (known["checkpoint"], known["run"]) == ("model_7.pth", "run")
    for file in (onnx, pt2):  # they are shared
        assert os.fsencode(tmp_path) not in file.read_bytes()
        assert os.fsencode(Path(export.__file__).parents[1]) not in file.read_bytes()
    assert len(of_torch["sha256"]) == 64 and of_torch["sha256"] == known["sha256"]
    assert "images: (N, 3, H, W) uint8, RGB, 0..255" in capsys.readouterr().out


def test_what_cannot_be_exported_is_told_in_one_message_and_nothing_is_written(tmp_path, monkeypatch):
    features = save_run(tmp_path / "a", "method=arl", "dataset_name=textures")
    with pytest.raises(UserError, match="method=arl and gives features: its clusters are fitted .* evaluate.py"):
        exported(features)
    with_infrared = save_run(tmp_path / "b", *SMALL["iic"], "segmenter.infrared=true")
    with pytest.raises(UserError, match="sees infrared .*sees RGB alone"):
        exported(with_infrared)
    checkpoint = save_run(tmp_path / "c", *SMALL["parts"])
    with monkeypatch.context() as patched:
        patched.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
        with pytest.raises(UserError, match="format=onnx needs onnxscript: python -m pip install onnxscript"):
            exported(checkpoint)
    with pytest.raises(UserError, match="with format=torch its name ends in .pt2"):
        exported(checkpoint, "format=torch", f"output_path={tmp_path}/a.onnx")
    with monkeypatch.context() as patched:
        patched.setattr(export, "runner", lambda *_: lambda images: torch.zeros(len(images), 4, *images.shape[2:]))
        with pytest.raises(UserError, match="differs from the checkpoint's by .*nothing is written"):
            exported(checkpoint)
    with monkeypatch.context() as patched:

        def unknown(*_, **__):
            raise RuntimeError("aten::unknown is not known\nand more")

        patched.setattr(torch.export, "export", unknown)
        with pytest.raises(
            UserError, match="segmenter=hourglass cannot be exported .*aten::unknown is not known. Give"
        ):
            exported(checkpoint)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["model_7.pth"]
    checkpoint.with_name("exported.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="There already: .*exported.onnx"):
        exported(checkpoint)

"""A checkpoint as one file for other programs: ``python -m models.export checkpoint=RUN output_path=FILE``.

    python -m models.export checkpoint=runs/my_run output_path=parts.onnx
    python -m models.export checkpoint=runs/my_run output_path=parts.pt2 format=torch
    python -m models.export checkpoint=runs/my_run output_path=parts.onnx input=uint8

With ``format=onnx`` for onnxruntime, with ``format=torch`` for ``torch.export.load``. The file holds the network with
its normalisation: pictures in, probabilities of parts out. Keys are in conf/export.yaml; the page is docs/export.md.
"""

import conf.start  # noqa: F401

# isort: split
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from omegaconf import DictConfig
from timm.layers import Conv2dSame, RotaryEmbeddingDinoV3
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from conf import app
from conf.fields import choice, path
from conf.schema import TrainConfig
from evaluation.labellers.base import Labeller
from evaluation.labellers.trained import of_checkpoint
from evaluation.prediction import upsample
from models.weights import first_line
from utils.errors import UserError
from utils.files import digest_of, written_whole

INPUT, OUTPUT, METADATA = "images", "probabilities", "metadata.json"
FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
# What is needed to write the format, and to run what was written.
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
LEAST_SIDE = 32  # pixels
TRACED, TRIED = (2, 64, 96), ((1, 96, 64), (3, 97, 130))  # batch, height, width
TOLERANCE = 1e-2  # in a probability, whose scores may be large and are rounded otherwise; most differ by 1e-6


@dataclass
class ExportConfig(TrainConfig):
    checkpoint: str = path()
    format: str = choice(*FORMATS)
    input: str = choice("float32", "uint8")
    output_path: str = path()


class Probabilities(nn.Module):
    """What ``predict.py`` computes of a crop, from pictures alone.

    Args:
        labeller: of a checkpoint, on the CPU; one that sees masks is shown that all is foreground.
        as_bytes: pictures are uint8, 0..255, instead of float32 in [0, 1].

    """

    def __init__(self, labeller: Labeller, as_bytes: bool) -> None:
        super().__init__()
        self.predictor, self.as_bytes = labeller.predictor, as_bytes
        self._labeller = labeller
        self.requires_grad_(False)
        for layer in self.predictor.modules():
            if isinstance(layer, Conv2dSame) and all(side % 2 for side in layer.kernel_size) and max(layer.stride) <= 2:
                layer.forward = partial(convolved_same, layer)
            if isinstance(layer, RotaryEmbeddingDinoV3) and layer.normalize_coords == "separate":
                layer._create_embed = partial(rotations, layer)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (N, K [+ 1], H, W) of pictures (N, 3, H, W)."""
        pictures = images.float() / 255 if self.as_bytes else images
        scores = self._labeller.scores(pictures, torch.ones_like(pictures[:, :1]))
        return upsample(scores, images.shape[-2:], align_corners=True).softmax(1)


def convolved_same(layer: Conv2dSame, x: Tensor) -> Tensor:
    """TensorFlow's padding and the convolution, of an odd kernel with a stride of 1 or 2, for a side of any length.

    Of a stride of 2 that padding is one pixel less, on the left, where the length is even: either way the windows of
    symmetric padding are meant, counted from the right. So nothing depends on the remainder of the length, which keeps
    exporters busy for many minutes.
    """
    pads = [dilation * (side - 1) // 2 for side, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]
    options = layer.bias, layer.stride, pads, layer.dilation, layer.groups
    if max(layer.stride) == 1:
        return nn.functional.conv2d(x, layer.weight, *options)
    return nn.functional.conv2d(x.flip(2, 3), layer.weight.flip(2, 3), *options).flip(2, 3)


def rotations(layer: RotaryEmbeddingDinoV3, grid: tuple[int, int], no_aug: bool = True) -> Tensor:
    """Of DINOv3's tokens by their places in a grid of any size; timm makes floats of its sides, which fixes them."""
    axes = ((torch.arange(side) + 0.5 + layer.grid_offset) * 2 / side - 1 for side in grid)
    places = torch.stack(torch.meshgrid(*axes, indexing=layer.grid_indexing), dim=-1)
    return torch.cat(layer._get_pos_embed_from_coords(places.flatten(0, 1)), dim=-1)


def export(config: DictConfig) -> None:
    """Trace the network, write it in the format, read that back and compare it with the network."""
    output = Path(config.output_path)
    refuse_place(output, config.format)
    if lacking := [name for name in PACKAGES[config.format] if find_spec(name) is None]:
        raise UserError(f"format={config.format} needs {', '.join(lacking)}: python -m pip install {' '.join(lacking)}")
    config.channels_last = False
    labeller, checkpoint, config = of_checkpoint(config)
    refuse_network(labeller, config)
    network = Probabilities(labeller, config.input == "uint8").eval()
    metadata = {
        # No paths on this machine: the file is for others.
        **{"checkpoint": checkpoint.file.name, "run": checkpoint.run and checkpoint.run.resolve().name},
        **{"sha256": digest_of(checkpoint.file), "steps": checkpoint.step},
        **{"method": config.method.name, "segmenter": config.segmenter.name, "task": task_of(labeller)},
        **{"num_parts": labeller.num_parts, "channels": channels_of(labeller), "input": config.input},
        **{"trained_on_pixels": config.image_size, "least_side": LEAST_SIDE},
    }
    try:
        with quiet(), torch.no_grad():
            program = traced(network)
            content = (onnx_file if config.format == "onnx" else torch_file)(program, metadata)
    except Exception as error:  # of the exporters, on what they do not know
        raise UserError(
            f"{checkpoint.file}: segmenter={config.segmenter.name} cannot be exported with format={config.format}: "
            f"{type(error).__name__}: {first_line(error)[:300]}. {other_way(config.format)}"
        ) from error
    difference = largest_difference(network, runner(content, config.format))
    if not difference < TOLERANCE:
        raise UserError(
            f"The exported network differs from the checkpoint's by {difference:.1e} in a probability, and nothing is "
            f"written. {other_way(config.format)}"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(output) as part:
            part.write_bytes(content)
    except OSError as error:
        raise UserError(f"Cannot write {output}: {error.strerror or error}.") from error
    print(f"{output}: {len(content) / 2**20:.1f} MiB, at most {difference:.1e} off {checkpoint.file} in a probability.")
    print(f"  {INPUT}: (N, 3, H, W) {config.input}, RGB, {'0..255' if network.as_bytes else '[0, 1]'}")
    print(f"  {OUTPUT}: (N, {len(metadata['channels'])}, H, W) float32: {', '.join(metadata['channels'])}")


def refuse_place(output: Path, format: str) -> None:
    """Raises UserError where a file is to be written under an ending that no reader expects, or over another one."""
    if output.suffix != FORMATS[format]:
        raise UserError(f"output_path={output}: with format={format} its name ends in {FORMATS[format]}.")
    if output.exists():
        raise UserError(f"There already: {output}. Give another output_path, or take it away.")


def refuse_network(labeller: Labeller, config: DictConfig) -> None:
    """Raises UserError where pictures alone do not make the prediction."""
    if labeller.needs_fit:
        raise UserError(
            f"{config.checkpoint} was trained with method={config.method.name} and gives features: its clusters are "
            f"fitted to a data set at each evaluation, and are in no checkpoint. python evaluate.py "
            f"checkpoint={config.checkpoint} writes label maps."
        )
    if config.segmenter.get("infrared"):
        raise UserError(
            f"{config.checkpoint} sees infrared (segmenter.infrared=true), and an exported network sees RGB alone: "
            "train one with segmenter.infrared=false."
        )


def task_of(labeller: Labeller) -> str:
    """What is found: ``foreground``, ``parts``, ``clusters`` or ``landmarks``."""
    if labeller.gives_masks:
        return "foreground"
    return next((word for word in ("clusters", "landmarks") if word in labeller.caption), "parts")


def channels_of(labeller: Labeller) -> list[str]:
    """Names of the channels: a channel's place is its label in a label map, or one less where none is background."""
    parts = ["object"] if labeller.gives_masks else [f"part {part}" for part in range(1, labeller.num_parts + 1)]
    return ["background", *parts] if labeller.has_background else parts


def traced(network: Probabilities) -> ExportedProgram:
    """The program for any number of pictures and any size."""
    height, width = (Dim(name, min=LEAST_SIDE) for name in ("height", "width"))
    shapes = {"images": {0: Dim("batch", min=1), 2: height, 3: width}}
    program = torch.export.export(
        network,
        (pictures(network, *TRACED),),
        dynamic_shapes=shapes,
        prefer_deferred_runtime_asserts_over_guards=True,  # pools that round up ask of each size what is always so
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths on this machine: the file is for others
    return program


def onnx_file(program: ExportedProgram, metadata: dict) -> bytes:
    """The bytes of an ONNX file; values of its metadata are texts, lists as JSON."""
    names = {"input_names": [INPUT], "output_names": [OUTPUT]}
    model = torch.onnx.export(program, (), dynamo=True, verbose=False, **names).model_proto
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    return model.SerializeToString()


def torch_file(program: ExportedProgram, metadata: dict) -> bytes:
    """The bytes of what ``torch.export.load`` reads; ``metadata.json`` is an extra file of it."""
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata, indent=1)})
    return file.getvalue()


def runner(content: bytes, format: str) -> Callable[[Tensor], Tensor]:
    """What a file's bytes compute, by the library that users read it with."""
    if format == "torch":
        return torch.export.load(io.BytesIO(content)).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


@torch.no_grad()
def largest_difference(network: Probabilities, exported: Callable[[Tensor], Tensor]) -> float:
    """The largest between two probabilities, over pictures of other sizes and batches than those of the tracing."""
    given = [pictures(network, *size) for size in TRIED]
    return max(float((exported(images) - network(images)).abs().max()) for images in given)


def pictures(network: Probabilities, count: int, height: int, width: int) -> Tensor:
    """Noise, the same for the same shape."""
    noise = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    return (noise * 255).byte() if network.as_bytes else noise


def other_way(format: str) -> str:
    """What to do where a format fails."""
    return f"Give format={'torch' if format == 'onnx' else 'onnx'}, or use the checkpoint from Python (docs/python.md)."


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


if __name__ == "__main__":
    app.run("export", export, ExportConfig)

"""model_card.md of a run: made from the run's files, and the licence of the weights it started from."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from evaluation.pages import model_card
from models.licences import weights_of
from tests.composition import composed
from tests.test_train import resume, run
from utils import checkpoints

ENVIRONMENT = "command: PROGRAM dataset_name=CUB\ncode: abc123\ntorch: 2.15.0\naccelerator: none\n"


def save_run(folder: Path, *overrides: str) -> Path:
    """A run after its two steps of four, without its weights."""
    config = composed("num_steps=4", "image_size=64", *overrides)
    config.dataset.lists = {"train": "12 names, 5d41402abc4b2a76", "test": "3 names, 7a1cf9f1ec6386ab"}
    (folder / "code").mkdir(parents=True)
    OmegaConf.save(config, folder / "config.yaml")
    program = Path(model_card.ROOT, "train.py")
    (folder / "code/environment.txt").write_text(ENVIRONMENT.replace("PROGRAM", str(program)))
    (folder / "metrics.csv").write_text("step,total\n1,3.5\n2,2.5\n")
    (folder / "timing.csv").write_text("step,seconds_per_step\n1,3.0\n2,27.0\n")
    checkpoints.save(folder / "checkpoints/model_2.pth", {"iter": 2, "model_state_dict": {}})
    return folder


def test_it_says_what_was_trained_on_what_and_how_long(tmp_path):
    card = model_card.rendered(save_run(tmp_path / "birds", "num_parts=6", "dataset.eval_mask=supervised"))
    for line in (
        "# birds",
        "A network trained with `method=contrastive_reconstruction`, K = 6.",
        "| Steps | 2 of 4 done, of 6 pictures of 64 x 64 pixels |",
        "| Time | 30 s in steps, on cpu |",
        "| Checkpoint | `checkpoints/model_2.pth` |",
        "| Code | commit `abc123`, torch 2.15.0 |",
        "python train.py dataset_name=CUB",
        "| Data set | `CUB` |",
        "| The train list | 12 names, 5d41402abc4b2a76 |",
        "| The test list | 3 names, 7a1cf9f1ec6386ab |",
        "| Masks of training | `gt` |",
        "| Masks of evaluations | `supervised` |",
        "None yet: `python evaluate.py checkpoint=birds` adds them where the data are annotated.",
    ):
        assert line in card.splitlines(), card
    assert "| perceptual | `vgg19` | torchvision, vgg19, ImageNet | torchvision is BSD-3-Clause and states none" in card


def test_it_has_the_figures_of_training_and_of_evaluations_beside_each_other(tmp_path):
    path = save_run(tmp_path / "run", "method=uld", "dataset_name=synthetic")
    (path / "evaluation.csv").write_text("step,FG-NMI,other\n1,10.0,1.0\n2,20.04,\n")
    for name, updates, metrics in (("a", 1, {"FG-NMI": 12.5}), ("b", 2, {"FG-NMI": 20.5, "NMI": 70.0})):
        (path / "evaluations" / name).mkdir(parents=True)
        made = {"updates": updates, "dataset_name": "synthetic", "counts": {"images": 60}, "eval_mask": "gt"}
        (path / "evaluations" / name / "metrics.json").write_text(json.dumps({**metrics, "produced_by": made}))
    (path / "evaluations/c").mkdir()
    (path / "evaluations/c/metrics.json").write_text("{")  # cut off
    lines = model_card.rendered(path).splitlines()
    assert "1. while training, after 2 steps, `synthetic`" in lines
    assert "2. `evaluations/a`: after 1 steps, `synthetic`, 60 pictures, masks `gt`" in lines
    start = lines.index("| | 1 | 2 | 3 |")
    assert lines[start + 1 :] == ["|---|---|---|---|", "| FG-NMI | 20.0 | 12.5 | 20.5 |", "| NMI | - | - | 70.0 |"]
    # ULD compares pixels: no other network plays a role.
    assert any(line.startswith("| segmenter | `hourglass` | from scratch |") for line in lines)
    assert not any(line.startswith("| perceptual |") for line in lines)


@pytest.mark.parametrize(
    ("overrides", "node", "where", "licence"),
    [
        (["segmenter=dinov2_vits14"], "segmenter", "timm, vit_small_patch14_dinov2.lvd142m", "apache-2.0"),
        (["perceptual=dinov3_vits16"], "perceptual", "timm, vit_small_patch16_dinov3.lvd1689m", "dinov3-license"),
        (["perceptual=dino_vits8"], "perceptual", "timm, vit_small_patch8_224.dino", "apache-2.0"),
        (["segmenter=swav"], "segmenter", "https://dl.fbaipublicfiles.com/deepcluster/swav", "CC BY-NC 4.0"),
        (["perceptual=vgg16_deepcluster"], "perceptual", "https://dl.fbaipublicfiles.com", "CC BY-NC 4.0"),
        (["segmenter=caffe"], "segmenter", "ResNet-50 of Caffe", "not stated where the file lies"),
        (["segmenter=torchvision"], "segmenter", "torchvision, ResNet-50, ImageNet", "BSD-3-Clause"),
        (["method=region_grouping"], "segmenter", "https://download.pytorch.org/models/resnet101", "BSD-3-Clause"),
        (
            ["segmenter=efficientnet_lite0"],
            "segmenter",
            "package efficientnet-lite0",
            "states none; timm states apache",
        ),
        (["segmenter=dinov3_vits16", "segmenter.weights=a.pth"], "segmenter", "a.pth", "timm states dinov3-license"),
        (["perceptual.weights=mine.pth"], "perceptual", "mine.pth", "not known: see where the file comes from"),
    ],
    ids=str,
)
def test_the_licence_of_each_set_of_weights_is_told_as_far_as_it_is_known(overrides, node, where, licence):
    found = weights_of(composed(*overrides)[node])
    assert found[0].startswith(where) and licence in found[1]


def test_a_package_s_own_licence_is_read_from_its_metadata():
    assert "Apache" in weights_of({"name": "timm", "network": "resnet18", "weights": "package:timm"})[1]


def test_a_run_has_its_card_from_the_start_and_completes_it_however_it_ends(tmp_path, monkeypatch, capsys):
    begun = []

    def stop(*_):
        begun.append((tmp_path / "broken/model_card.md").read_text())
        raise RuntimeError

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("evaluation.progress.evaluate", stop)
        run(tmp_path, "broken", "num_steps=2")
    # Of a run that is killed this one stays.
    assert "when training was started at step 0 of 2.** What it has done\nsince is not in here" in begun[0]
    assert "| Steps | 0 of 2 done" in begun[0] and "| The train list | 8 names, " in begun[0]
    card = tmp_path / "broken/model_card.md"
    assert "| Steps | 2 of 2 done" in card.read_text() and "None yet" in card.read_text()
    assert "training was started" not in card.read_text()
    resume(tmp_path / "broken")
    assert "1. while training, after 2 steps" in card.read_text() and "| FG-NMI |" in card.read_text()
    told = " ".join(capsys.readouterr().err.split())
    assert "The run is finished: all 2 steps are done. To go on with it" in told
    assert f"python train.py resume={card.parent} num_steps=4 optimizer.poly_steps=4" in told
    resume(card.parent, "num_steps=4", "optimizer.poly_steps=4")
    assert "| Steps | 4 of 4 done" in card.read_text()


def test_a_card_that_cannot_be_written_ends_nothing(tmp_path, capsys):
    path = save_run(tmp_path / "run")
    (path / "model_card.md").mkdir()
    model_card.write(path)
    (path / "config.yaml").write_text("a: [")
    model_card.write(path)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("warning: cannot write") == 2 and "config.yaml does not fit" in told

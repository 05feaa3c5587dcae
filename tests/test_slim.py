"""python -m utils.slim: a checkpoint without what only training needs predicts the same, and no run goes on from it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from conf.trained import resumed_config
from evaluation.labellers.trained import of_checkpoint
from evaluation.pages import model_card
from models import segmenters
from tests.composition import composed, given
from utils import checkpoints
from utils.errors import UserError
from utils.slim import main, slim


@pytest.fixture
def run(tmp_path) -> Path:
    """A run whose optimiser has momenta of all weights, and whose method has more than the network."""
    config = composed("segmenter=hourglass", "segmenter.widths=[8,16]", "num_parts=3", "image_size=32")
    torch.manual_seed(0)
    state = segmenters.build(config.segmenter, 3).state_dict()
    momenta = {
        number: {"momentum_buffer": torch.randn_like(tensor.float())} for number, tensor in enumerate(state.values())
    }
    payload = {
        **{"iter": 4, "model_state_dict": state, "format": checkpoints.FORMAT, "versions": {"code": "abc"}},
        **{"optimizer_state_dict": {"state": momenta, "param_groups": []}},
        **{"method_state_dict": {"basis": torch.randn(100, 100)}, "config": OmegaConf.to_container(config)},
    }
    (tmp_path / "run").mkdir()
    checkpoints.save(tmp_path / "run/checkpoints/model_4.pth", payload)
    OmegaConf.save(config, tmp_path / "run/config.yaml")
    return tmp_path / "run"


def test_it_is_smaller_predicts_the_same_and_says_both_sizes(run, capsys):
    file = slim(run)
    assert file == run / "checkpoints/model_4_slim.pth"
    whole = run / "checkpoints/model_4.pth"
    sizes = [path.stat().st_size / 2**20 for path in (whole, file)]
    assert sizes[1] < 0.6 * sizes[0]
    assert capsys.readouterr().out == f"{whole}: {sizes[0]:.1f} MiB\n{file}: {sizes[1]:.1f} MiB\n"
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    scores = []
    for path in (whole, file):
        with given(f"checkpoint={path}", name="evaluate") as config:
            labeller, checkpoint, config = of_checkpoint(config)
        assert config.num_parts == 3 and config.image_size == 32 and checkpoint.step == 4
        assert checkpoint.versions == {"code": "abc"}
        with torch.no_grad():
            scores.append(labeller.scores(images, torch.ones(2, 1, 32, 32)))
    assert torch.equal(*scores)
    assert not checkpoint.optimizer and not checkpoint.beside
    assert checkpoints.latest(run) == whole  # a run does not take it for one of its own


def test_the_model_card_goes_with_it_and_of_an_earlier_checkpoint_tells_that_one_alone(run, tmp_path):
    payload = torch.load(run / "checkpoints/model_4.pth", weights_only=False)
    checkpoints.save(run / "checkpoints/model_8.pth", payload | {"iter": 8})
    (run / "evaluation.csv").write_text("step,FG-NMI\n4,10.0\n8,20.0\n")
    for name, updates in (("a", 4), ("b", 8)):
        (run / "evaluations" / name).mkdir(parents=True)
        made = {"updates": updates, "dataset_name": "CUB", "counts": {}, "eval_mask": None}
        (run / "evaluations" / name / "metrics.json").write_text(
            json.dumps({"FG-NMI": float(updates), "produced_by": made})
        )
    model_card.write(run)
    slim(run, tmp_path / "birds.pth")
    assert (tmp_path / "birds.md").read_text() == (run / "model_card.md").read_text()
    slim(run / "checkpoints/model_4.pth", tmp_path / "earlier.pth")
    card = (tmp_path / "earlier.md").read_text()
    assert "| Steps | 4 of" in card and "| Checkpoint | `checkpoints/model_4.pth` |" in card
    assert "| FG-NMI | 10.0 | 4.0 |" in card and "evaluations/a" in card and "evaluations/b" not in card
    slim(tmp_path / "earlier.pth", tmp_path / "again.pth")
    assert (tmp_path / "again.md").read_text() == card


def test_a_text_that_lies_beside_it_is_not_taken_for_its_card(run, tmp_path):
    model_card.write(run)
    (tmp_path / "birds.md").write_text("my notes")
    with pytest.raises(UserError, match="There already: .*birds.md. Give another name"):
        slim(run, tmp_path / "birds.pth")
    assert (tmp_path / "birds.md").read_text() == "my notes" and not (tmp_path / "birds.pth").exists()


def test_no_run_goes_on_from_it(run):
    file = slim(run)
    with pytest.raises(UserError, match=f"from its newest checkpoint: give resume={run}$"):
        resumed_config(composed(f"resume={file}"), [f"resume={file}"])
    elsewhere = shutil.copy(file, run.parent / "shared.pth")
    with pytest.raises(UserError, match="is a file: give resume=DIR. .*utils.slim.* has no optimiser's state"):
        resumed_config(composed(f"resume={elsewhere}"), [f"resume={elsewhere}"])
    shutil.move(file, run / "checkpoints/model_5.pth")
    with pytest.raises(UserError, match="go on from .*model_5.pth: it was made to be shared .*segmenter.weights="):
        checkpoints.find_to_resume(run, every=1)
    options = composed("segmenter=hourglass", "segmenter.widths=[8,16]", "num_parts=3", f"segmenter.weights={run}")
    segmenters.build(options.segmenter, 3)


def test_nothing_is_overwritten_and_mistakes_are_told(run, tmp_path, capsys):
    slim(run, tmp_path / "folder/shared.pth")
    with pytest.raises(UserError, match="There already: .*shared.pth"):
        slim(run, tmp_path / "folder/shared.pth")
    with pytest.raises(UserError, match="No checkpoint at .*none"):
        slim(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write .*file/shared.pth"):
        slim(run, tmp_path / "file/shared.pth")
    with pytest.raises(SystemExit, match="2"):
        main(["checkpoint", "a", "b"])
    assert "error: give a run or checkpoint" in capsys.readouterr().err

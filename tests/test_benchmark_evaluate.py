"""The evaluation gives the figures of a notebook that predicts each of them anew."""

import json
import re

import pytest

from benchmarks import evaluate, gpu, notebook
from evaluation.options import Sets
from evaluation.protocols import keypoints
from tests.composition import composed
from tests.golden_checkpoint import write_golden_checkpoint
from tests.quadrants import ColourLabeller, draw_split, evaluation_options
from tests.trees import draw_cub_tree, draw_deepfashion_tree, draw_pascal_tree
from utils.errors import UserError

KEYS = ("device=cpu", "loader.num_workers=0", "repetitions=1", "evaluation.size=48", "image_size=48")

DEEPFASHION = "DeepFashion/In-shop Clothes Retrieval Benchmark"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_golden_checkpoint(tmp_path_factory.mktemp("golden") / "golden.pth")


def benchmark(*overrides: str) -> None:
    evaluate.benchmark(composed(*KEYS, *overrides, name="benchmark_evaluate"))


def rows(printed: str) -> dict[str, list[str]]:
    """Lines of the tables by what their first column says."""
    cells = [[one.strip() for one in re.split(r"\s{2,}", line.strip())] for line in printed.splitlines()]
    return {first: rest for first, *rest in cells}


def test_the_figures_on_cub_are_the_notebooks_and_come_of_fewer_network_inputs(tmp_path, checkpoint, capsys):
    draw_cub_tree(tmp_path / "CUB", num_train=9, num_test=6)
    benchmark("dataset_name=CUB", f"dataset_root={tmp_path}", f"checkpoint={checkpoint}")
    printed = rows(capsys.readouterr().out)
    # Boxes; pictures; the error of all; that of each class, by nine training pictures and two of its own.
    assert printed["reference, together"][0] == str(6 + 6 + (9 + 6) + 3 * (9 + 2))
    assert printed["this code"][0] == str(6 + 6 + 9)
    errors = [f"keypoint_error_{which}" for which in ("all", "001", "002", "003")]
    assert all(float(printed[name][2]) <= 0.05 for name in ("FG-NMI", "FG-ARI", "NMI", "ARI", *errors))


def test_beside_an_evaluation_stands_what_decoding_alone_gives(tmp_path, checkpoint, capsys):
    draw_cub_tree(tmp_path / "CUB", num_train=9, num_test=6)
    output = tmp_path / "out"
    benchmark("dataset_name=CUB", f"dataset_root={tmp_path}", f"checkpoint={checkpoint}", f"output_dir={output}")
    printed = rows(capsys.readouterr().out)
    assert printed[evaluate.DECODING][0] == "0" and printed[evaluate.WITHOUT][0] == printed["this code"][0]
    measured = json.loads((output / "measured.json").read_text())
    for clock in ("seconds", "processor"):
        (alone,), (without,), (whole,) = (
            measured[clock][row] for row in (evaluate.DECODING, evaluate.WITHOUT, "this code")
        )
        assert 0 < alone < whole and without < whole, clock
    (alone,), (whole,) = (measured["seconds"][row] for row in (evaluate.DECODING, "this code"))
    assert measured["of_decoding"] == pytest.approx(alone / whole)
    page = "\n".join(gpu.markdown(gpu.table_of_evaluation({"evaluation": output})))
    assert f"| {evaluate.DECODING} " in page and f"{alone / whole:.2f} of the pictures a second" in page


def test_decoding_alone_makes_the_inputs_of_an_evaluation(monkeypatch):
    made, split = [], draw_split("test", 5)
    inputs = keypoints.Protocol.inputs
    monkeypatch.setattr(keypoints.Protocol, "inputs", lambda *given: made.extend(found := inputs(*given)) or found)
    sets, options = Sets(split, draw_split("training", 3)), evaluation_options()
    labeller = ColourLabeller()
    evaluate.decode(labeller, sets, ("keypoints",), options)
    assert len(made) == 2 * 5 + 3 and not labeller.seen


def test_the_figures_on_part_maps_are_the_notebooks(tmp_path, checkpoint, capsys):
    draw_deepfashion_tree(tmp_path / DEEPFASHION, size=(67, 45))
    draw_pascal_tree(tmp_path / "VOCdevkit_2010", "cat")
    for dataset, passes in (("dataset_name=DF",), 2), (("dataset_name=PP", "dataset.category=cat"), 3):
        benchmark(*dataset, f"dataset_root={tmp_path}", f"checkpoint={checkpoint}")
        printed = rows(capsys.readouterr().out)
        assert {"FG-NMI", "FG-ARI", "NMI", "ARI"} <= set(printed)
        assert sum(", ARI" in name or ", FG-ARI" in name for name in printed) == passes


def test_figures_that_differ_end_with_status_1(tmp_path, checkpoint, monkeypatch):
    draw_deepfashion_tree(tmp_path / DEEPFASHION, size=(67, 45))
    right = notebook.agreement
    monkeypatch.setattr(notebook, "agreement", lambda *labels: (right(*labels)[0] + 0.06, right(*labels)[1]))
    with pytest.raises(SystemExit) as end:
        benchmark("dataset_name=DF", f"dataset_root={tmp_path}", f"checkpoint={checkpoint}")
    assert end.value.code == 1


def test_data_sets_without_a_published_evaluation_are_refused():
    with pytest.raises(UserError, match="give CUB, DF or PP"):
        benchmark("dataset_name=synthetic")

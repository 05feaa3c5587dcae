"""Command lines and experiments that cannot be meant: typos, types, ranges and combinations. No task starts."""

import pytest

from tests.mistakes.harness import Place, row

TYPOS = [
    row(
        "a key of a baseline",
        "train.py baseline=[untrained] baselines.kmeans_features.num_point=5",
        "Did you mean 'baselines.kmeans_features.num_points'?",
    ),
    row("a baseline", "train.py baseline=[kmeans_color]", "Did you mean 'kmeans_colours'?"),
    row("a key", "train.py num_stepz=3", "Did you mean 'num_steps'?"),
    row("a key without a value", "train.py num_stepz", "Did you mean 'num_steps'?"),
    row("without its group", "train.py lr=1", "Did you mean 'optimizer.lr'?"),
    row("of two groups", "train.py weights=none", "Did you mean 'segmenter.weights' or 'perceptual.weights'?"),
    row("a loss", "train.py loss_weights.contrastiv=1", "Did you mean 'loss_weights.contrastive'?"),
    row("in a group", "train.py optimizer.lrr=1", "Did you mean 'optimizer.lr'?"),
    row("added by force", "train.py +logging.wnadb=offline", "Did you mean 'logging.wandb'?"),
    row("a group", "train.py segmentr=caffe", "Did you mean 'segmenter'?"),
    row("an option", "train.py segmenter=cafe", "Did you mean 'caffe'?"),
    row("in small letters", "train.py dataset_name=cub", "Did you mean 'CUB'?"),
    row("an experiment", "train.py experiment=debugg", "experiment", "'debugg'", "Did you mean 'debug'?"),
    row("of another program", "check dataset_name=foldr", "Did you mean 'folder'?"),
    row(
        "a module", "train.py method.name=contrastive", "There is no method 'contrastive'", "contrastive_reconstruction"
    ),
    row("no such option", "train.py dataset_name=COCO", "dataset_name", "'COCO'", "Options: CUB, DF"),
]

TYPES = [
    row("a number in words", "train.py num_parts=four", "num_parts", "'four'", "a whole number"),
    row("a list for a number", "train.py optimizer.lr=[1]", "optimizer.lr", "a number"),
    row("neither true nor false", "train.py debug=perhaps", "debug", "true or false"),
    row("a word for a list", "train.py logging.tags=a", "logging.tags", "list"),
    row("a number for a group", "train.py optimizer=3", "optimizer=3"),
    row("no method", "train.py ~method", "~method: there is one method in every config, give method=OPTION"),
    row("no segmenter", "train.py ~segmenter", "~segmenter: there is one segmenter", "segmenter=OPTION"),
    row("two methods", "train.py method=[scops,foreground]", "[scops,foreground]: there is one method", "=OPTION"),
    row(
        "a list without brackets",
        "train.py evaluation.probe.kinds=linear",
        "evaluation.probe.kinds is a list: give it in brackets, evaluation.probe.kinds=[A]",
    ),
    row("no data set", "train.py ~dataset_name=CUB", "~dataset_name=CUB: there is one dataset_name", "=OPTION"),
    row("two data sets", "train.py dataset_name=[CUB,DF]", "[CUB,DF]: there is one dataset_name", "=OPTION"),
    row(
        "a key of what is not there",
        "train.py dataset.drawing.size=64",
        "dataset.drawing.size",
        "a key of dataset_name=synthetic",
    ),
    row("dashes", "train.py --num_parts=3", "num_parts=VALUE"),
    row("an equals sign in a value", "train.py output_dir=a=b", "output_dir=a=b", "quote"),
    row("the same of a run's data", "evaluate.py checkpoint=a dataset.folder=a=b", "argument 'dataset.folder=a=b'"),
    row("a value of no key", "train.py num_parts=${nothing}", "num_parts=${nothing}", "'nothing' not found"),
    row("several values outside a sweep", "train.py num_steps=3,4", "For a run with each of them: -m num_steps=3,4"),
]

RANGES = [
    row("one part", "train.py num_parts=1", "num_parts must be at least 2, not 1"),
    row("more parts than bytes have", "train.py num_parts=255", "num_parts", "at most 254, not 255"),
    row("negative weight", "train.py loss_weights.visual=-1", "loss_weights.visual", "at least 0, not -1"),
    row("rate that is no number", "train.py optimizer.lr=nan", "optimizer.lr must be finite, not nan"),
    row("crops too small", "train.py image_size=31", "image_size must be at least 32, not 31"),
    row("crops too large", "train.py image_size=100000", "image_size must be at most 4096, not 100000"),
    row("box of nothing", "train.py dataset.box_jitter=0.8", "dataset.box_jitter", "at most 0.5, not 0.8"),
    row("crop of a gigabyte", "train.py dataset.box_padding=1e5", "dataset.box_padding", "not 100000"),
    row("noise of a mile", "train.py augmentation.noise=1e30", "augmentation.noise", "at most 1"),
    row("warp to nowhere", "train.py augmentation.translation=3", "augmentation.translation", "at most 2"),
    row("warp to a point", "train.py augmentation.scale=[1,1e30]", "augmentation.scale", "at most 100"),
    row("seed below 0", "train.py seed=-1", "seed must be at least 0, not -1"),
]

COMBINATIONS = [
    row(
        "key of another data set",
        "train.py dataset_name=DF dataset.box_padding=0.1",
        "dataset.box_padding is a key of dataset_name=CUB or dataset_name=folder",
        "only",
    ),
    row(
        "key that the data set needs",
        "train.py dataset_name=folder dataset.test_share=null",
        "dataset.test_share",
        "'None'",
        "it must be a number",
    ),
    row(
        "key of another optimiser",
        "train.py optimizer=adamw optimizer.momentum=0.5",
        "optimizer.momentum is a key of optimizer.name=sgd only",
    ),
    row(
        "options of a baseline that is not chosen",
        "train.py baselines.kmeans_features.num_points=5",
        "baselines.kmeans_features.num_points is a key of baseline=[kmeans_features] only",
    ),
    row(
        "options of another baseline than the chosen",
        "evaluate.py checkpoint=a.pth baseline=[kmeans_colours] baselines.kmeans_features.num_points=5",
        "baselines.kmeans_features.num_points is a key of baseline=[kmeans_features] only",
    ),
    row(
        "key of another method", "train.py method=foreground method.temperature=1", "method.temperature", "contrastive"
    ),
    row("weight of no loss of the method", "train.py loss_weights.foreground=1", "method=foreground only"),
    row("steps without a rate", "train.py num_steps=200000", "200000", "optimizer.poly_steps (100000)"),
    row("a run to evaluate", "evaluate.py resume=PLACE/run", "resume is for", "checkpoint=PLACE/run"),
    row("nothing to evaluate", "evaluate.py", "checkpoint is required", "predictions=DIR"),
    row(
        "two things to evaluate",
        "evaluate.py checkpoint=a.pth predictions=maps",
        "checkpoint and predictions are two things",
    ),
]


EARLIER = [
    row(
        "baselines",
        "evaluate.py checkpoint=a.pth evaluation.baselines=[untrained]",
        "evaluation.baselines is a key of earlier versions: give baseline=[",
    ),
    row(
        "points of k-means",
        "train.py evaluation.kmeans_points=5",
        "evaluation.kmeans_points is a key of earlier versions",
        "baselines.kmeans_features.num_points",
    ),
    row(
        "restarts of k-means",
        "train.py +evaluation.kmeans_restarts=5",
        "evaluation.kmeans_restarts is a key of earlier versions",
        "baselines.kmeans_colours.restarts",
    ),
    row("task", "evaluate.py checkpoint=a.pth task=parts", "task is a key of earlier versions: leave it out"),
]


def experiment(id: str, content: str, *words: str):
    """An experiment of one's own."""

    def write(place: Place) -> None:
        (place.path / "more/experiment").mkdir(parents=True)
        (place.path / "more/experiment/mine.yaml").write_text(f"# @package _global_\n{content}\n")

    line = "train.py 'hydra.searchpath=[file://PLACE/more]' experiment=mine"
    return row(id, line, *words, prepare=write)


EXPERIMENTS = [
    experiment("typo", "num_stepz: 3", "conf/experiment/mine.yaml", "'num_stepz'", "'num_steps'"),
    experiment("type", "optimizer:\n  lr: fast", "optimizer.lr in conf/experiment/mine.yaml", "'fast'", "a number"),
    experiment(
        "key of another data set",
        "dataset:\n  category: car",
        "dataset.category in conf/experiment/mine.yaml is a key of dataset_name=PP only",
    ),
    experiment(
        "key of an earlier version",
        "evaluation:\n  baselines: []",
        "evaluation.baselines in conf/experiment/mine.yaml is a key of earlier versions",
    ),
    experiment("no YAML", "num_steps: [", "experiment/mine.yaml", "cannot compose"),
    experiment("value out of range", "batch_size: 0", "batch_size must be at least 2, not 0"),
]


@pytest.mark.parametrize("row", TYPOS)
def test_a_wrong_name_is_met_with_the_nearest_valid_one(row, refused):
    refused(row, started=False)


@pytest.mark.parametrize("row", TYPES)
def test_what_is_no_value_is_refused_with_what_would_be_one(row, refused):
    refused(row, started=False)


@pytest.mark.parametrize("row", RANGES)
def test_a_value_out_of_range_is_refused_with_the_range(row, refused):
    refused(row, started=False)


@pytest.mark.parametrize("row", COMBINATIONS)
def test_keys_that_do_not_go_together_are_refused(row, refused):
    refused(row, started=False)


@pytest.mark.parametrize("row", EARLIER)
def test_a_key_of_an_earlier_version_is_met_with_its_new_form(row, refused):
    refused(row, started=False)


@pytest.mark.parametrize("row", EXPERIMENTS)
def test_a_mistake_in_an_experiment_is_found_like_one_on_the_command_line(row, refused):
    refused(row, started=False)

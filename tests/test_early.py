"""Help, and mistakes in names and plain values, which are told before PyTorch is imported."""

import re
import shlex
import subprocess

import pytest
from omegaconf.errors import OmegaConfBaseException

from conf import app, early
from conf.schema import known_keys
from tests.composition import SCHEMAS, composed
from tests.processes import ROOT, run_elsewhere, run_python
from utils.errors import UserError

PROGRAMS = {
    "train.py": ["train.py"],
    "evaluate.py": ["evaluate.py"],
    "predict.py": ["predict.py"],
    "table": ["-m", "evaluation.table"],
    "compare": ["-m", "evaluation.compare"],
    "figure": ["-m", "evaluation.figure"],
    "check": ["-m", "datasets.check"],
    "export": ["-m", "models.export"],
}
WITHOUT_KEYS = (
    "utils.slim",
    "utils.watch",
    "utils.sweep",
    "datasets.from_coco",
    "datasets.example",
    "datasets.potsdam",
)


@pytest.fixture
def at_once(tmp_path):
    """Runs a program of the project where PyTorch, NumPy and Hydra cannot be imported."""
    for name in ("torch", "numpy", "hydra", "omegaconf"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")

    def call(*arguments: str) -> subprocess.CompletedProcess:
        return run_python(*arguments, environment={"PYTHONPATH": str(tmp_path)})

    return call


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_program_has_help_with_examples_and_its_keys_before_anything_large_is_imported(at_once, program):
    done = at_once(*program, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    command = "python " + " ".join(program)
    assert sum(line.startswith(f"    {command} ") for line in done.stdout.splitlines()) >= 3
    assert "  segmenter: autoregressive, " in done.stdout and " caffe*, " in done.stdout
    assert "  image_size=256   # pixels\n" in done.stdout and "  logging.every=10   # steps between" in done.stdout


@pytest.mark.parametrize("module", WITHOUT_KEYS)
def test_programs_without_keys_have_help_with_examples_too(at_once, module):
    done = at_once("-m", module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python -m {module} " in done.stdout and "``" not in done.stdout
    assert sum(line.startswith("    python ") for line in done.stdout.splitlines()) == 3


def test_help_shows_the_values_of_what_is_chosen(at_once):
    shown = at_once("train.py", "--help", "method=scops", "dataset_name=synthetic").stdout
    assert "scops*" in shown and "CUB*" not in shown
    assert "  augmentation.scale=[0.5, 1.4285714]   # uniform in 1/2.0" in shown  # of the method's own augmentation
    assert "  perceptual.network=vgg19\n" in shown  # of the file that the method's perceptual network is made from
    assert "  perceptual.weights=none\n" in shown  # of the recipe of both
    assert "  method.basis_rate=" in shown


def test_help_of_one_key_has_every_option_s_value_and_comment(at_once):
    shown = at_once("train.py", "--help", "optimizer.lr").stdout.splitlines()
    assert shown[0] == "optimizer.lr"
    assert any(line.split() == ["1e-5", "conf/optimizer/sgd.yaml"] for line in shown)
    of_group = at_once("train.py", "--help", "optimizer").stdout
    assert of_group.startswith("optimizer=OPTION: adam, adamw, ") and "\noptimizer.momentum\n" in of_group
    assert "Did you mean 'num_parts'?" in at_once("train.py", "--help", "num_part").stdout


def test_a_mistake_in_a_name_is_told_before_anything_large_is_imported(at_once):
    done = at_once("train.py", "num_part=3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key 'num_part'. Did you mean 'num_parts'? All keys: --help.\n"
    assert at_once("train.py", "num_parts=3").stderr == "imported\n"


@pytest.mark.slow
def test_where_unix_s_modules_and_signals_are_missing_training_and_evaluation_work(tmp_path):
    hidden = "import signal, sys\n"
    hidden += "sys.modules |= dict.fromkeys(('fcntl', 'resource', 'pwd', 'grp'))\n"
    hidden += "for name in ('SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGHUP', 'SIGKILL'): delattr(signal, name)"
    data = ["dataset_name=synthetic", f"dataset_root={tmp_path}", "dataset.drawing.num_train=4"]
    data += ["dataset.drawing.num_test=4", "device=cpu", "logging.wandb=disabled", "loader.num_workers=0"]
    small = ["experiment=debug", "baseline=[]", "num_steps=1", "image_size=32", "evaluation.size=32"]
    for program, own in {"train": small, "evaluate": [f"checkpoint={tmp_path}/train", "image_size=32"]}.items():
        keys = *data, *own, f"output_dir={tmp_path}/{program}"
        done = run_elsewhere(ROOT / f"{program}.py", *keys, cwd=tmp_path, before=hidden, timeout=400)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "train/checkpoints/model_1.pth").is_file() and (tmp_path / "evaluate/metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dataset=folder"], "dataset_name=NAME"),
        (["epochs=10"], "num_steps=N"),
        (["gpus=2"], "devices=N"),
        (["lr=1"], "'optimizer.lr'"),
        (["learning_rate=1"], "optimizer.lr=X"),
        (["batch=4"], "batch_size=N"),
        (["workers=4"], "'loader.num_workers'"),
        (["run_name=a"], "output_dir=DIR"),
        (["optimizer.lrr=1"], "'optimizer.lr'"),
        (["segmentr=caffe"], "'segmenter'"),
        (["segmenter=dino"], "'dinov2_vits14' or 'dinov3_vits16'? There is perceptual=dino_vits16"),
        (["perceptual=swav"], "There is segmenter=swav."),
        (["dataset_name=cub"], "Did you mean 'CUB'? Options"),
        (["method=Scops"], "Did you mean 'scops'? Options"),
        (["experiment=Laptop"], "Did you mean 'laptop'? Options"),
        (["experiment=cub"], "no option 'cub'. There is dataset_name=CUB. Options: cub/6_parts, cub/8_parts"),
        (["experiment=cub/no_visul"], "Did you mean 'cub/no_visual'? Options: cub/6_parts"),
        (["experiment=nothing"], "uld_perceptual, cub/..., deepfashion/..., less_supervision/...."),
        (["CUB"], "'CUB' stands alone: give dataset_name=CUB."),
        (["num_parts=4", "cub"], "'cub' stands alone: give dataset_name=CUB."),
        (["scops"], "'scops' stands alone: give method=scops or perceptual=scops."),
        (["laptop"], "'laptop' stands alone: give experiment=laptop."),
        (["experiment=[laptop,debugg]"], "experiment has no option 'debugg'. Did you mean 'debug'"),
        (["baseline=[kmeans]"], "'kmeans_colours' or 'kmeans_features'"),
        (["logging.tags=a,b"], "-m logging.tags=a,b; if they are one list: 'logging.tags=[a,b]'"),
        (["baseline=dff,untrained"], "-m baseline=dff,untrained; if they are one list: 'baseline=[dff,untrained]'"),
        (["method=scops,uld"], "-m method=scops,uld"),
        (["trainer.max_epochs=3"], "unknown key 'trainer.max_epochs': training is counted in steps, num_steps=N"),
        (["model.backbone=x"], "unknown key 'model.backbone': segmenter=NAME is the network"),
        (["model.foo=x"], "unknown key 'model.foo': method=NAME chooses what is trained"),
        (["optimizer.bs=x"], "'optimizer.bs'. Did you mean 'optimizer."),
        (["+foo=3"], "unknown key 'foo'. Did you mean"),
        (["++epochs=3"], "unknown key 'epochs': training is counted in steps, num_steps=N"),
        (["num_parts =3"], "'num_parts =3': a key and its value are one word, without blanks, give num_parts=3."),
        (["num_parts", "=3"], "'num_parts': a key and its value are one word, without blanks, give num_parts=3."),
        (["num_parts"], "give num_parts=VALUE."),
        (["num_parts", "seed=3"], "give num_parts=VALUE."),
        (["num_stepz"], "unknown key 'num_stepz'. Did you mean 'num_steps'?"),
        (["--num_parts=3"], "'--num_parts=3': keys have no dashes, give num_parts=3."),
        (["--num_parts", "3"], "'--num_parts': keys have no dashes, give num_parts=3."),
        (["--epochs=3"], "unknown key 'epochs': training is counted in steps, num_steps=N"),
        (["checkpoint=runs/a"], "resume=RUN goes on with a run, segmenter.weights=RUN starts a new one"),
        (["checkpoint"], "resume=RUN goes on with a run"),
        (["device=gpu"], "device=gpu: device=cuda computes on a GPU"),
    ],
    ids=str,
)
def test_a_wrong_name_is_met_with_the_one_that_fits(arguments, words):
    assert words in early.mistake_in("train", arguments)


@pytest.mark.parametrize("argument", ["num_parts=3,4", "optimizer.lr=1e-3,1e-4", "method=scops,uld"])
def test_what_takes_no_list_is_not_said_to_take_one(argument):
    assert early.mistake_in("train", [argument]).endswith(f"For a run with each of them: -m {argument}")


@pytest.mark.parametrize("arguments", [["resume=runs/a", "num_steps=4,5"], ["num_steps=4,5", "resume=runs/a"]])
def test_a_run_that_goes_on_does_so_with_one_value(arguments):
    told = early.mistake_in("train", arguments)
    assert told == "num_steps=4,5 is several values. A run goes on with one: give one value"
    assert "-m resume=a,b" in early.mistake_in("train", ["resume=a,b"])


def test_a_table_is_named_by_its_key(at_once):
    done = at_once("-m", "evaluation.table", "run=true")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: give table=NAME, one of ablations, ac, ") and "cub" in done.stderr
    assert early.not_chosen("evaluation_table", ["table=cub"]) is None is early.not_chosen("train", [])
    told = [early.mistake_in("evaluation_table", [word]) for word in ("synthetic", "cub", "scops")]
    assert told == [
        "'synthetic' stands alone: give table=synthetic.",
        "'cub' stands alone: give table=cub.",
        "'scops' stands alone: give method=scops or perceptual=scops.",
    ]


@pytest.mark.parametrize("key", ["titles", "pictures", "part_names"])
@pytest.mark.parametrize("value", ["[Flügel,Kopf]", "[Flügel, Kopf]", """["Flügel",'Kopf']""", "Flügel,Kopf"])
def test_a_list_s_advised_form_is_read_as_that_list(key, value):
    (argument,) = shlex.split(early.list_in_quotes(key, value))
    assert list(composed("methods=[a,b]", argument, name="evaluation_compare")[key]) == ["Flügel", "Kopf"]


def test_a_run_that_stands_alone_is_a_checkpoint_where_one_is_taken(tmp_path):
    run = str(tmp_path)
    assert early.mistake_in("evaluate", [run]) == f"'{run}' stands alone: give checkpoint={run}."
    assert "unknown key" in early.mistake_in("train", [run])
    (tmp_path / "my run (2)").mkdir()
    told = early.mistake_in("evaluate", [f"{run}/my run (2)"])
    (argument,) = shlex.split(told.partition(": give ")[2].removesuffix("."))
    assert composed(argument, name="evaluate").checkpoint == f"{run}/my run (2)"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "num_parts=3,4", "seed=range(1,4)"],
        ["seed=range(1,4)", "logging.tags=[a,b]", 'output_dir="a,b"'],
        ["perceptual.layers={relu5_4:1,relu4_4:2}", "perceptual.layers.relu4_4=2", "++perceptual.mine=3"],
        ["experiment=[laptop,cub/no_visual]", "experiment=cub/no_visual", "experiment=null", "baseline=[]"],
        ["+hydra.launcher.additional_parameters.reservation=a", "++hydra.job.env_set.A=b", r"logging.name=a\,b"],
        ["hydra.sweep.dir=a", "hydra/launcher=joblib", "~loader.num_workers", "output_dir=a=b"],
        ["--cfg", "job", "-p", "segmenter", "--multirun", "-m", "+table.rows.mine=a"],
    ],
    ids=str,
)
def test_what_may_be_right_is_left_to_the_full_check(arguments):
    assert early.mistake_in("train", arguments) is None


@pytest.mark.parametrize("program", SCHEMAS)
def test_every_key_of_every_program_and_module_is_known_from_the_files(program):
    known = known_keys(SCHEMAS[program])
    nodes = {key.rpartition(".")[0] for key in known} | set(early.groups_of())
    others = early.groups_of_others(program)
    keys = [key for key in known if key not in nodes and key.partition(".")[0] not in others]
    assert len(keys) > 100 and early.mistake_in(program, [f"{key}=1" for key in keys]) is None


def test_a_comparison_takes_what_stands_alone_and_no_other_program_does():
    given = ["runs/a", "/runs/b", "kmeans_features", "count=3"]
    assert early.mistake_in("evaluation_compare", given) is None
    assert "unknown key 'coutn'" in early.mistake_in("evaluation_compare", [*given, "coutn=3"])
    assert early.mistake_in("evaluate", ["runs/a"]) is not None


@pytest.mark.parametrize(
    "argument",
    [
        *("num_parts=1", "num_parts=255", "num_parts=3.5", "num_parts=four", "image_size=abc", "seed=-1"),
        *("optimizer.lr=nan", "optimizer.lr=fast", "optimizer.momentum=2", "optimizer.schedule=linear"),
        *("precision=8", "device=tpu", "debug=perhaps", "logging.wandb=on", "evaluation.probe.steps=0"),
        *("checkpointing.keep=0", "checkpointing.keep=all", "loader.num_workers=2.5"),
    ],
)
def test_a_wrong_value_is_told_at_once_in_the_words_of_the_full_check(argument):
    with pytest.raises((UserError, OmegaConfBaseException)) as found:
        composed(argument)
    assert early.wrong_value("", ["seed=3", argument]) == app.message(found.value)


def test_a_value_is_checked_by_the_program_s_own_schema():
    assert "task must be one of foreground, parts, not 'part'" in early.wrong_value("PredictConfig", ["task=part"])
    assert early.wrong_value("EvaluateConfig", ["task=part"]) is None  # the full check tells that there is no such key


def test_values_that_may_be_right_are_left_to_the_full_check():
    plain = ["num_parts=4", "precision=16", "precision=bf16", "optimizer.lr=1e-4", "deterministic=yes", "output_dir=3"]
    others = ["seed=null", "checkpointing.keep=null", "logging.tags=[a]", "logging.tags=a", "num_parts=${seed}"]
    of_modules = ["evaluation=default", "segmenter.weights=abc", "method.temperature=abc", "optimizer=adamw"]
    assert early.wrong_value("", [*plain, *others, *of_modules, "--cfg", "job", "-m", "image_size=32,abc"]) is None


def test_a_wrong_value_is_told_before_pytorch_is_imported(at_once, tmp_path):
    (tmp_path / "omegaconf.py").unlink()
    for program in (["train.py"], ["-m", "models.export"]):
        done = at_once(*program, "num_parts=1")
        assert (done.returncode, done.stderr) == (2, "error: num_parts must be at least 2, not 1.\n")
    assert "task must be one of" in at_once("predict.py", "task=part").stderr


def test_help_begins_with_the_program_s_own_keys():
    for config_name, own in {
        "train": "num_parts",
        "evaluate": "predictions",
        "predict": "images",
        "export": "input",
    }.items():
        keys = [
            line.strip().partition("=")[0] for line in early.help_of(ROOT / "train.py", config_name, []).splitlines()
        ]
        assert keys.index(own) < keys.index("segmenter.name")
        assert config_name == "train" or keys.index(own) < keys.index("num_parts")


def test_every_key_s_comment_is_on_its_line_which_is_what_help_shows():
    assert not [file for file in early.CONF.rglob("*.yaml") if re.search(r"\S +#.*\n +#", file.read_text())]

"""The wrapper around the entry points: compose the config with Hydra, check it, and meet mistakes with one message."""

import difflib
import errno
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException

from conf.schema import (
    BenchmarkEvaluateConfig,
    EvaluateConfig,
    PascalPartConfig,
    PredictConfig,
    TrainConfig,
    UnknownKey,
    validate,
    walk,
)
from utils import sweep
from utils.console import Heedless
from utils.errors import UserError
from utils.run_directory import resumed_config

CONF = Path(__file__).resolve().parents[1] / "conf"
SCHEMAS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "pascal_part": PascalPartConfig,
    "benchmark_evaluate": BenchmarkEvaluateConfig,
}
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(f"{_name}_schema", _schema)
# What a checkpoint of train.py knows better than the defaults; the command line wins over both.
FROM_CHECKPOINT = ("image_size", "seed", "segmenter", "perceptual", "evaluation.size", "evaluation.label_resize")
# Nodes whose keys depend on the method.
KNOWN_NAMES = {"loss_weights": ("feature", "contrastive", "visual", "equivariance", "foreground")}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def run(config_name: str, task: Callable[[DictConfig], None]) -> None:
    """Runs a task with the config of the command line, for example ``python train.py num_parts=8``.

    The task gets a typed config that is resolved and checked. The process ends with status 0; 2 after a mistake of the
    user's, told in one message on stderr (with its traceback if ``debug=true``); 1 with a traceback after a fault of
    the code; 130 after Ctrl-C, 143 after SIGTERM. In a sweep (``--multirun``) every job is tried, and a table of all
    ends it.

    Args:
        config_name: a key of ``SCHEMAS``, a file in ``conf/``.
        task: what to do; raises :class:`UserError` for what the user can mend.
    """

    def attempt(config: DictConfig) -> tuple[int, str]:
        try:
            task(_checked(config))
        except (UserError, UnknownKey) as error:
            _leave_to_another(config_name)
            return 2, _tell(_explain(error, config_name))
        except SystemExit as ended:
            return (ended.code or 0, "") if isinstance(ended.code, int | None) else (1, str(ended.code))
        except Exception as error:
            if _is_too_long(error):
                _leave_to_another(config_name)
                return 2, _tell(_explain(error, config_name))
            traceback.print_exc()
            return 1, f"{type(error).__name__}: {error}"
        return 0, ""

    def job(config: DictConfig) -> None:
        if directory := sweep.current():
            sweep.run_job(directory, config, attempt)
        elif status := attempt(config)[0]:
            sys.exit(status)

    if sys.stdout:  # there is none where it was closed from the start
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be in any encoding
    # Whoever stops reading what a program prints does not mean to end it.
    sys.stdout, sys.stderr = (stream and Heedless(stream) for stream in (sys.stdout, sys.stderr))
    # Without it Hydra prints the mistakes it finds itself, and ends the process.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    status = 0
    try:
        for argument in sys.argv[1:]:
            if argument.startswith("--") and argument[2:].partition("=")[0] in dict(walk(SCHEMAS[config_name])):
                raise UserError(f"keys are given without dashes: {argument[2:].partition('=')[0]}=VALUE")
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    except KeyboardInterrupt as interruption:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # Ctrl-C reaches every process of a run on several devices
            print(str(interruption) or "Interrupted.", file=sys.stderr)
        status = getattr(interruption, "status", 130)
    except Exception as error:
        # The task's own end in attempt(): these are of the command line, the YAML files and the launchers of sweeps.
        _leave_to_another(config_name)
        directory = sweep.current()
        if directory is None or not any((directory / "jobs").iterdir()):
            _tell(_explain(error, config_name))
            if directory is not None:
                shutil.rmtree(directory)  # it was made for jobs that cannot start
            sys.exit(2)
        print(f"error: the launcher gave up: {type(error).__name__}: {error}", file=sys.stderr)
        status = 1
    if directory := sweep.current():
        of_jobs = sweep.report(directory)
        status = status or of_jobs
    if status:
        sys.exit(status)


def with_settings_of(trained: dict, config: DictConfig) -> DictConfig:
    """``config`` with what the checkpoint was trained with where the command line says nothing else.

    Args:
        trained: the config in the checkpoint; empty for a published one.

    Raises:
        UserError: the checkpoint is of another version of the code, whose values are none here.
    """
    given = given_keys()
    for key in FROM_CHECKPOINT:
        value = OmegaConf.select(OmegaConf.create(trained), key)
        values = {f"{key}.{name}": one for name, one in value.items()} if OmegaConf.is_dict(value) else {key: value}
        for name, one in values.items():
            if one is None or key in given or any(other == name or other.startswith(f"{name}.") for other in given):
                continue
            try:
                OmegaConf.update(config, name, one, merge=False)
            except ConfigAttributeError as error:
                raise UserError(
                    f"The checkpoint is of another version of the code: its config has {name}, unknown here. "
                    f"Give {key}= on the command line, and what the checkpoint says of it is left out."
                ) from error
            except OmegaConfBaseException as error:
                raise UserError(
                    f"The config in the checkpoint {config.checkpoint} has {name}={one!r}, which this version of "
                    f"the code does not take: {str(error).splitlines()[0]} Give {key}= on the command line."
                ) from error
    return validate(config)


def given_keys() -> list[str]:
    """The keys and groups that the command line gives values for."""
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [override.lstrip("+~").partition("=")[0] for override in overrides]


def _checked(config: DictConfig) -> DictConfig:
    if config.resume is None:
        return validate(config)
    if OmegaConf.get_type(config) is not TrainConfig:
        raise UserError(f"resume is for training. To use a run: checkpoint={config.resume}")
    return validate(resumed_config(config, list(HydraConfig.get().overrides.task)))


def _leave_to_another(config_name: str) -> None:
    """Ends a process that meets what all of its run meet, if another on this machine is the one to tell it."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    # Without either of them this process has started the others, if there are any.
    place = "LOCAL_RANK" if by_torchrun else "SLURM_LOCALID" if "LOCAL_RANK" not in os.environ else ""
    if config_name == "train" and os.environ.get(place, "0") != "0":
        # After a failure torchrun would end the other one before it has told it.
        sys.exit(0)


def _tell(message: str) -> str:
    if any(argument.lower() == "debug=true" for argument in sys.argv):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return message


def _explain(error: Exception, config_name: str) -> str:
    """What is wrong in the words of the command line, with the nearest valid name where a name is wrong."""
    if isinstance(error, UserError):
        return str(error)
    if _is_too_long(error):
        path = os.fsdecode(error.filename or "")
        shown = path if len(path) <= 100 else f"{path[:60]}...{path[-20:]}"
        return f"The path {shown} of {len(path):,} characters, or a name in it, is too long: give a shorter one."
    text = "\n".join(str(one) for one in (error, error.__cause__) if one is not None)
    place = re.search(r"In '(\w+/[^']+)'", text)
    where = f" in conf/{place[1]}.yaml" if place else ""
    keys = {key: spec.type for key, spec in walk(SCHEMAS[config_name])}

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and "/" in error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = error.options or []
        return f"{group} has no option '{option}'.{_nearest(option, options)} Options: {', '.join(options)}."
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read the argument '{error.override}': give KEY=VALUE, and quote special characters, "
            f"""for example 'output_dir="a=b"'.{_nearest(error.override.partition("=")[0].lstrip("+~"), keys)}"""
        )

    full_key = re.search(r"full_key: (\S+)", text)
    unknown = re.search(r"Could not (?:override|delete) '([^'@]+)", text)
    key = full_key[1] if full_key else unknown[1] if unknown else str(error) if isinstance(error, UnknownKey) else None
    if key in keys:
        reason = re.search(r"^(?:Value|field|Cannot|Invalid).*", text, re.MULTILINE)
        kind = f"; it must be {KINDS[keys[key]]}" if keys[key] in KINDS else ""
        return f"{key}{where}: {(reason[0] if reason else text.splitlines()[0]).rstrip('.')}{kind}."
    if key is not None:
        parent = key.rpartition(".")[0]
        if getattr(keys.get(parent), "__origin__", None) is dict:
            name, known = key.rpartition(".")[2], KNOWN_NAMES.get(parent)
            if known and name in known:
                return f"{key}: {text.splitlines()[0].rstrip('.')}; it must be a number."
            if known:
                return f"{parent} has no '{name}'.{_nearest(name, known)} It has {', '.join(known)}."
            return f"{parent} has no '{name}' to change: to add one, give +{key}=VALUE."
        return f"unknown key '{key}'{where}.{_nearest(key, keys)} All keys: --help."
    reason = " ".join(line.strip() for line in text.splitlines() if "hydra.cc" not in line)
    return f"cannot compose the config of {' '.join(sys.argv[1:])}: {reason}"


def _is_too_long(error: Exception) -> bool:
    """A path is longer than the system takes, which asking whether it is there raises too."""
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def _nearest(name: str, candidates: Iterable[str]) -> str:
    """`` Did you mean ...?``: the candidates whose last part is the name, or else the most similar one."""
    inside = [candidate for candidate in candidates if candidate.startswith(f"{name.rpartition('.')[0]}.")]
    last = {candidate: candidate.rpartition(".")[2].lower() for candidate in inside or candidates}

    def similarity(candidate: str) -> float:
        others = (candidate.lower(), last[candidate])
        return max(difflib.SequenceMatcher(None, name.lower(), other).ratio() for other in others)

    best = [candidate for candidate in last if last[candidate] == name.lower()]
    best = best or sorted(last, key=similarity)[-1:]
    return f" Did you mean {' or '.join(repr(one) for one in best)}?" if best else ""

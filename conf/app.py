"""The wrapper around the entry points: compose the config with Hydra, check it, and meet mistakes with one message."""

import io
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import get_args, get_origin

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from conf.early import in_quotes, list_in_quotes, no_option, resumes, several_values, unknown_key
from conf.modules import nearest
from conf.schema import NODES, TrainConfig, known_keys, of_another_type, owners, typed, validate
from conf.trained import CONF, command_line_keys, on_modules_of_run, resumed_config
from conf.upgrade import NEW_FORMS
from utils import checkpoints, sweep
from utils.console import Lenient
from utils.errors import UserError
from utils.memory import shortage, ways_on
from utils.ranks import leave_to_first

ONE_OF_EACH = ("method", "segmenter", "dataset_name", "table")  # conf/train.yaml names recipes after three of them
MAPPINGS = ("perceptual.layers",)  # keys whose value is replaced as a whole by one in braces


def run(
    config_name: str,
    task: Callable[[DictConfig], None],
    schema: type = TrainConfig,
    inputs: Callable[[DictConfig], object] | None = None,
) -> None:
    """Runs a task with the config of the command line, typed, resolved and checked: ``python train.py num_parts=8``.

    The process ends with status 0; 2 after a mistake of the user's, told in one message on stderr (with its traceback
    if ``debug=true``); 1 with a traceback after a fault of the code; 130 after Ctrl-C, 143 after SIGTERM. In a sweep
    (``--multirun``) every job is tried, and a table of all ends it.

    Args:
        config_name: a file in ``conf/``.
        schema: of the config: ``TrainConfig`` or a dataclass made from it.
        inputs: looks for what a task reads and raises UserError where that is missing; of a sweep for each job before
            the first one starts. The task itself calls it too. None: looks for the checkpoint alone.
    """

    def job(config: DictConfig) -> None:
        if directory := sweep.current():
            sweep.run_job(directory, config, lambda given: _attempt(task, given, schema))
        elif status := _attempt(task, config, schema)[0]:
            sys.exit(status)

    sweep.SweepStart.refused = staticmethod(partial(_refused, schema=schema, inputs=inputs or _require_checkpoint))
    if sys.stdout:  # there is none where it was closed from the start
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be in any encoding
    # Whoever stops reading what a program prints does not mean to end it; results for which there is no space are lost,
    # its progress is no loss.
    sys.stdout = sys.stdout and Lenient(sys.stdout, BrokenPipeError)
    sys.stderr = sys.stderr and Lenient(sys.stderr, OSError)
    # Without it Hydra prints the mistakes it finds itself, and ends the process.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    status = 0
    try:
        for argument in sys.argv[1:]:
            if argument.startswith("--") and (key := argument[2:].partition("=")[0]) in known_keys(schema):
                raise UserError(f"keys are given without dashes: {key}=VALUE")
            key, _, value = argument.lstrip("~+").partition("=")
            if key in ONE_OF_EACH and (argument.startswith("~") or value.startswith("[")):
                raise UserError(f"{argument}: there is one {key} in every config, give {key}=OPTION.")
            if key and argument.endswith("=") and (CONF / key).is_dir():
                raise UserError(f"{key} is empty: give {key}=OPTION, or leave it out.")
        sys.argv[1:] = quoted(replacing(sys.argv[1:]))
        if any(argument.startswith(("checkpoint=", "resume=")) for argument in sys.argv[1:]):
            # Which keys there are is said by the run's modules. Hydra knows the default ones: it is to refuse none.
            sys.argv[1:] = [re.sub(rf"^(?=({'|'.join(NODES)})\.)", "++", argument) for argument in sys.argv[1:]]
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    except KeyboardInterrupt as interruption:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # Ctrl-C reaches every process of a run on several devices
            print(str(interruption) or "Interrupted.", file=sys.stderr)
        status = getattr(interruption, "status", 130)
    except Exception as error:
        status = _end_before_jobs(error, schema)
    if directory := sweep.current():
        of_jobs = sweep.report(directory)
        status = status or of_jobs
    if status:
        sys.exit(status)


def replacing(arguments: Sequence[str]) -> list[str]:
    """The same, but that a mapping in braces stands for the whole one: Hydra would only change keys that are there."""
    apart = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        apart += [f"++{key}=null", f"++{argument}"] if key in MAPPINGS and value.startswith("{") else [argument]
    return apart


def quoted(arguments: Sequence[str]) -> list[str]:
    """The same, but that a value which begins with ``~``, as paths may, is in quotes: Hydra reads no other."""
    pairs = [argument.partition("=") for argument in arguments]
    return [f'{key}="{value}"' if value.startswith("~") else key + equals + value for key, equals, value in pairs]


def composed(config_name: str, overrides: Sequence[str], schema: type = TrainConfig) -> DictConfig:
    """The checked config of ``python CONFIG_NAME.py OVERRIDES``, without its process; raises what is wrong with it."""
    in_program = GlobalHydra.instance().is_initialized()  # whose folders of configs are then those
    with nullcontext() if in_program else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return validate(typed(hydra.compose(config_name, list(overrides)), schema))


def _refused(
    config_name: str, overrides: Sequence[str], schema: type, inputs: Callable[[DictConfig], object]
) -> str | None:
    """What a job of a sweep would end with at its start, as far as that is known without its work; None: nothing."""
    of_sweep = HydraConfig.instance().cfg
    unheard = io.StringIO()  # the job says it
    try:
        config = hydra.compose(config_name, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config.copy())  # it says what is given
        with open_dict(config):
            elsewhere = config.pop("hydra").runtime.choices["hydra/launcher"] == "submitit_slurm"
        with redirect_stdout(unheard), redirect_stderr(unheard):
            config = checked(config, schema)
            if config.resume is None:
                config.output_dir = str(Path(HydraConfig.get().sweep.dir, "job"))  # each gets one of its own
            if not elsewhere:  # whose machines may have other disks
                inputs(config)
    except (UserError, OmegaConfBaseException, HydraException) as error:
        return message(error, schema)
    except Exception:  # a fault of the code: the job ends with its traceback
        return None
    finally:
        HydraConfig.instance().cfg = of_sweep
    return None


def _require_checkpoint(config: DictConfig) -> None:
    if config.get("checkpoint") is not None:
        checkpoints.require(Path(config.checkpoint))


def checked(config: DictConfig, schema: type) -> DictConfig:
    """What a task gets of the config that Hydra has composed; of a run that goes on it is that run's own.

    Raises:
        UserError, OmegaConfBaseException: what is wrong with it.
    """
    config = typed(on_modules_of_run(config), schema)
    if config.resume is None:
        if recipe := next((key for key in command_line_keys() if key.split("/")[0] == "recipe"), None):
            raise UserError(f"{recipe} follows from method and dataset_name: leave it out.")
    elif schema is not TrainConfig:
        raise UserError(f"resume is for training. To use a run: checkpoint={config.resume}")
    else:
        config = resumed_config(config, list(HydraConfig.get().overrides.task))
    return validate(config)


def _attempt(task: Callable[[DictConfig], None], config: DictConfig, schema: type) -> tuple[int, str]:
    """The exit status of a task, and the error that it was told to have ended with."""
    try:
        config = checked(config, schema)
        task(config)
    except (UserError, OmegaConfBaseException) as error:
        leave_to_first(schema is TrainConfig)
        return 2, _tell(error, schema)
    except SystemExit as ended:
        return ended.code or 0, ""
    except Exception as error:
        device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
        if lacking := shortage(error, device):
            keys = ("batch_size", "image_size", "evaluation.batch_size", "evaluation.size")
            lower = ", ".join(f"{key} ({OmegaConf.select(config, key)} now)" for key in keys)
            return 2, _tell(UserError(f"Out of memory: {lacking}. {ways_on(device, lower)}"), schema)
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {error}"
    return 0, ""


def _end_before_jobs(error: Exception, schema: type) -> int:
    """Tells a mistake in the command line, the YAML files or a sweep's launcher; the task tells its own."""
    leave_to_first(schema is TrainConfig)
    directory = sweep.current()
    if directory is not None and any((directory / "jobs").iterdir()):
        print(f"error: the launcher gave up: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    _tell(error, schema)
    if directory is not None:
        shutil.rmtree(directory)  # it was made for jobs that cannot start
    return 2


def _tell(error: Exception, schema: type) -> str:
    text = message(error, schema)
    if any(argument.lower() == "debug=true" for argument in sys.argv):
        traceback.print_exc()
    print(f"error: {text}", file=sys.stderr)
    return text


def message(error: Exception, schema: type = TrainConfig) -> str:
    """What a mistake of the user's is told as, whether this project, Hydra or OmegaConf has found it."""
    return str(error) if isinstance(error, UserError) else _explain(error, schema)


def _explain(error: Exception, schema: type) -> str:
    """What is wrong in the words of the command line, with the nearest valid name where a name is wrong."""
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        group, _, option = error.missing_cfg_file.rpartition("/")
        # Of a group that takes a list Hydra does not give them.
        options = error.options or sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        return no_option(group, option, options)
    if isinstance(error, OverrideParseException):
        argument, known = error.override.removeprefix("++"), known_keys(schema)
        key, equals, value = argument.partition("=")
        if value and known.get(key, int) not in (int, float, bool):
            return f"cannot read the argument '{argument}': {_in_quotes(key, value, known.get(key))}."
        return (
            f"cannot read the argument '{argument}': give KEY=VALUE, and quote special characters, for example "
            f"""'output_dir="a=b"'.{nearest(key.lstrip("+~"), known)}"""
        )
    causes = [cause for cause in (error.__cause__, error) if cause is not None]
    text = "\n".join(map(str, causes))
    unknown = re.search(r"Could not override '([^'@]+)", text)  # as the command line has it
    key = unknown[1] if unknown else next(filter(None, (getattr(cause, "full_key", "") for cause in causes)), "")
    place = re.search(r"In '(\w+/[^']+)'", text)
    place = place[1] if place else _file_of(key)
    where = f" in conf/{place}.yaml" if place else ""
    if key:
        known = known_keys(schema)
        for cause in causes:
            lacks, node = getattr(cause, "full_key", None) or "", getattr(cause, "parent_node", None)
            inside = lacks.rpartition(".")[0]
            if OmegaConf.is_dict(node) and inside and not any(name.startswith(f"{inside}.") for name in known):
                key = lacks  # in a mapping with names of its own, as table.rows
                known = {f"{inside}.{name}": None for name in node} | known
        return _explain_key(key, known, where, text)
    if several := re.search(r"Ambiguous value for argument '([^'=]+)=([^']*)'", text):
        return several_values(several[1], several[2], resumes(sys.argv[1:]))
    reason = " ".join(line.strip() for line in text.splitlines() if "hydra.cc" not in line)
    return f"cannot compose the config of {' '.join(sys.argv[1:])}: {reason}"


def _in_quotes(key: str, value: str, kind: object) -> str:
    """How a shell is told to hand over special characters so that they stay text; of a list those of each element."""
    as_list = list in map(get_origin, (kind, *get_args(kind)))
    given = list_in_quotes(key, value) if as_list else in_quotes(key, value)
    return f"brackets and other special characters need quotes within quotes, {given}"


def _file_of(key: str) -> str | None:
    """The chosen option, as ``experiment/mine``, whose file gives the key a value; None where the command line does."""
    if not key or not HydraConfig.initialized() or key in command_line_keys():
        return None
    runtime = HydraConfig.get().runtime
    folders = [source.path for source in runtime.config_sources if source.schema == "file"]
    for group, option in runtime.choices.items():
        for path in (Path(folder, group, f"{option}.yaml") for folder in folders):
            if not path.is_file():
                continue
            package = re.search(r"^# @package (\S+)", path.read_text(), re.MULTILINE)
            prefix = f"{package[1] if package else group}.".removeprefix("_global_.")
            parent, _, name = key.removeprefix(prefix).rpartition(".")
            content = OmegaConf.load(path)
            if key.startswith(prefix) and name in ((OmegaConf.select(content, parent) if parent else content) or ()):
                return f"{group}/{option}"
    return None


def _explain_key(key: str, keys: dict[str, object], where: str, text: str) -> str:
    if key in NEW_FORMS:
        return f"{key}{where} is a key of earlier versions: {NEW_FORMS[key]}."
    if key in keys and "not in" not in text and "Could not override" not in text:
        if "is not a ListConfig" in text:
            return f"{key}{where} is a list: give it in brackets, {key}=[A] or {key}=[A,B]."
        if "Config' to string" in text and not where:
            value = next((argument for argument in sys.argv if argument.startswith(f"{key}=")), "").partition("=")[2]
            if not value.strip("[]{} "):
                return f"{key} is empty ({value}): give {key}=VALUE, or leave it out."
            return f"{key}={value} is read as a list or mapping, and {key} is text: {_in_quotes(key, value, str)}."
        return of_another_type(key, keys[key], text, where)
    if where and f"Could not override '{key}@" in text:
        return f"{key}{where}: only files whose first line is '# @package _global_' choose an option of another group."
    if owned_by := owners(key):
        that = "that" if len(owned_by) == 1 else "one of these"
        return f"{key}{where} is a key of {' or '.join(owned_by)} only: leave it out, or choose {that}."
    if (item := re.fullmatch(r"(.+)\[\d+\]", key)) and item[1] in keys:
        return of_another_type(item[1], next(iter(get_args(keys[item[1]])), None), text, where)
    parent, _, name = key.rpartition(".")
    kind = keys.get(parent)
    if dict in map(get_origin, (kind, *get_args(kind))) and parent != "baselines":
        if "could not be converted" in text:
            return f"{key}{where}: {text.splitlines()[0].rstrip('.')}; it must be a number."
        return f"{parent} has no '{name}' to change.{nearest(key, keys)} To add one, give +{key}=VALUE."
    return unknown_key(key, keys, where)

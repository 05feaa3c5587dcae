"""What is told of a command line at once: help, mistakes in names, from the YAML files alone, and in plain values.

A program's other imports take seconds, PyTorch's above all, and it composes its config after them. What passes here is
checked there in full (``conf.app``); both tell a mistake in the same words.
"""

import ast
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

from conf.modules import nearest

CONF = Path(__file__).parent
ROOT = CONF.parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What others call what has another name here, by key.
OTHER_NAMES = {
    **dict.fromkeys(
        ("batch", "bs", "batchsize"), "batch_size=N is of a training step, evaluation.batch_size=N of an evaluation"
    ),
    **dict.fromkeys(
        ("learning_rate", "base_lr"), "optimizer.lr=X is the learning rate, optimizer=NAME chooses the optimiser"
    ),
    **dict.fromkeys(("optim", "opt"), "optimizer=NAME chooses the optimiser, optimizer.lr=X its learning rate"),
    **dict.fromkeys(
        ("size", "img_size", "imgsz", "resolution", "crop_size"), "image_size=N is that of crops, in pixels"
    ),
    **dict.fromkeys(
        ("name", "run_name", "exp_name", "exp"), "output_dir=DIR is the run's directory, logging.name=NAME it is on W&B"
    ),
    "wandb": "logging.wandb=disabled turns it off, logging.wandb=online or offline on",
    **dict.fromkeys(("dataset", "data"), "dataset_name=NAME chooses the data, dataset_root=DIR says where they are"),
    **dict.fromkeys(("data_dir", "data_path", "data_root", "root"), "dataset_root=DIR says where the data are"),
    **dict.fromkeys(
        ("epochs", "num_epochs", "max_epochs"),
        "training is counted in steps, num_steps=N; an epoch is as many as pictures / batch_size",
    ),
    **dict.fromkeys(("iterations", "max_steps", "max_iter", "steps"), "num_steps=N is how long training goes on"),
    **dict.fromkeys(("gpus", "gpu", "num_gpus"), "device=cuda computes on a GPU, devices=N on so many"),
    "model": "method=NAME chooses what is trained, segmenter=NAME its network, checkpoint=RUN what is evaluated",
    **dict.fromkeys(("backbone", "network"), "segmenter=NAME is the network, perceptual=NAME that of the features"),
    **dict.fromkeys(("ckpt", "weights_path"), "checkpoint=RUN is what is evaluated, resume=RUN what goes on"),
    **dict.fromkeys(("k", "K", "n_parts"), "num_parts=K is how many parts"),
    "checkpoint": "resume=RUN goes on with a run, segmenter.weights=RUN starts a new one from its network",
    "amp": "precision=bf16 (or 16) is that of the networks",
}
NETWORKS = ("segmenter", "perceptual")  # the groups of which one has options that are looked for in the other
NAMED = ("dataset_name", "method", *NETWORKS, "experiment")  # the groups whose options are called by their names alone
LISTS = ("baseline", "experiment")  # the groups that take several options at once
# Values that others give, by key.
OTHER_VALUES = {"device": {"gpu": "device=cuda computes on a GPU, device=mps on Apple's; auto takes what is there"}}
# Of any program of Hydra's; a program's own files are then not all there is.
OWN_FILES = ("--config-dir", "--config-path", "--config-name", "-cd", "-cp", "-cn")
# Of Hydra's too, with a word after them that is no key.
WITH_WORD = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--shell-completion", "-sc", "--experimental-rerun")

TAKES_WORDS = ("evaluation_compare",)  # programs that take what stands alone, too


@dataclass(frozen=True)
class Line:
    """A key as a YAML file has it.

    Attributes:
        key: dotted, as the command line has it.
        text: ``value   # comment``, as in the file.
        file: relative to ``conf/``.
    """

    key: str
    text: str
    file: str


def look() -> None:
    """Prints the help that was asked for, or what is wrong with a name in the command line, and ends the process.

    In processes of other programs, tests among them, in those that a run starts, and with config files of one's own,
    it does nothing.
    """
    started = _program()
    if started is None or "LOCAL_RANK" in os.environ:
        return
    path, config_name, schema, arguments = started
    if any(argument.partition("=")[0] in OWN_FILES for argument in arguments):
        return
    if {"--help", "-h"} & set(arguments):
        asked = [argument for argument in arguments if not argument.startswith("-") and "=" not in argument]
        if config_name is None:
            _end_with(description(path))
        _end_with(help_of_key(config_name, asked[0]) if asked else help_of(path, config_name, arguments))
    if config_name is None:
        return
    name = mistake_in(config_name, arguments) or not_chosen(config_name, arguments)
    if (mistake := name or wrong_value(schema, arguments)) is not None:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)


def _end_with(text: str) -> NoReturn:
    """Prints a text and ends the process; whoever stops reading, as ``head`` does, has read enough."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os._exit(0)
    sys.exit()


def mistake_in(config_name: str, arguments: Sequence[str]) -> str | None:
    """The first name that no YAML file has, or key that is not KEY=VALUE; None where nothing is found."""
    groups, keys = groups_of(), {line.key for line in lines_of(config_name)}
    tops, parts = {key.partition(".")[0] for key in keys}, {part for key in keys for part in key.split(".")}
    sweeps = bool({"-m", "--multirun"} & set(arguments))
    before = ""
    for place, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        of_flag, before = before in WITH_WORD, argument
        is_word = not equals or os.path.exists(argument)  # folders may have any name
        alone = config_name in TAKES_WORDS and is_word and not key.startswith(("-", "+"))
        bare = key.strip("-+ \t")
        if of_flag or alone or bare.startswith(("~", "hydra")) or "@" in key:
            continue
        known = bare in groups or bare in keys or bare in OTHER_NAMES
        if (key.startswith("--") and known) or (not key.startswith("-") and (not equals or key != key.strip())):
            if not known and (meant := _standing_alone(argument, keys, config_name)):
                return meant
            return no_value(argument, arguments[place + 1 : place + 2], known, {*keys, *groups})
        if key.startswith("+"):
            if bare.partition(".")[0] not in tops | {*groups} and not _in_mapping(bare):
                return unknown_key(bare, {*keys, *groups})
            continue
        if key.startswith("-"):
            continue
        if value in OTHER_VALUES.get(key, ()):
            return f"{argument}: {OTHER_VALUES[key][value]}."
        if key in groups:
            options = [option for option in re.split(r"[\[\],\s]+", value) if re.fullmatch(r"\w[\w./-]*", option)]
            missing = [
                option for option in options if option != "null" and not (CONF / key / f"{option}.yaml").is_file()
            ]
            if missing:
                return no_option(key, missing[0], groups[key])
        elif key in OTHER_NAMES and key not in keys:
            return unknown_key(key, keys)
        elif not (key.partition(".")[0] in tops and (set(key.split(".")) <= parts or _in_mapping(key))):
            return unknown_key(key, {*keys, *groups})
        if not sweeps and len(_values(value)) > 1:
            return several_values(key, value, resumes(arguments))
    return None


def not_chosen(config_name: str, arguments: Sequence[str]) -> str | None:
    """What is said of ``python -m evaluation.table``: which option of a group is the user's to choose."""
    for group in _to_choose(config_name):
        if not any(argument.partition("=")[0].lstrip("+") == group for argument in arguments):
            return f"give {group}=NAME, one of {', '.join(groups_of()[group])}."
    return None


def resumes(arguments: Sequence[str]) -> bool:
    """Whether a command line goes on with a run, which is one job's alone."""
    return any(argument.startswith("resume=") for argument in arguments)


def wrong_value(schema_name: str, arguments: Sequence[str]) -> str | None:
    """The first number or word that a key of the schema cannot have; those that modules bring come with PyTorch.

    Args:
        schema_name: of a dataclass in ``conf.schema``; of one elsewhere the keys of training are looked at.
    """
    from conf import schema  # imports OmegaConf, which neither help nor names need

    own = getattr(schema, schema_name, schema.TrainConfig)
    given = [argument.partition("=")[::2] for argument in arguments]
    words = [(key, text) for key, text in given if re.fullmatch(r"[\w.+-]+", text, re.ASCII) and text != "null"]
    return next(filter(None, (schema.wrong_word(own, key, text) for key, text in words)), None)


def unknown_key(key: str, keys: Iterator[str] | set[str] | Mapping[str, object], where: str = "") -> str:
    """What is said of a key that nobody reads, with the name that it has here or the nearest one."""
    node, _, name = key.rpartition(".")
    here = any(known.startswith(f"{node.partition('.')[0]}.") for known in keys)  # there the nearest one is meant
    if meant := OTHER_NAMES.get(key) or (not here and (OTHER_NAMES.get(name) or OTHER_NAMES.get(node))):
        return f"unknown key '{key}'{where}: {meant}. All keys: --help."
    return f"unknown key '{key}'{where}.{nearest(key, keys)} All keys: --help."


def no_value(argument: str, following: Sequence[str], known: bool, keys: set[str]) -> str:
    """What is said of ``--num_parts=3``, ``--num_parts 3``, ``num_parts =3`` and ``num_parts``.

    Args:
        following: the argument after it, if there is one.
        known: whether its key is one, or what others call one.
    """
    key, equals, value = (part.strip() for part in argument.lstrip("-").partition("="))
    if not known or key in OTHER_NAMES and key not in keys:
        return unknown_key(key, keys)
    after = next(iter(following), "")
    if (
        not equals
        and (argument.startswith("-") or after.startswith("="))
        and after.lstrip("=")
        and "=" not in after[1:]
    ):
        value = after.lstrip("=")
    what = "keys have no dashes" if argument.startswith("-") else "a key and its value are one word, without blanks"
    return f"'{argument}': {what}, give {key}={value or 'VALUE'}."


def several_values(key: str, value: str, resumed: bool) -> str:
    """What is said of ``num_parts=3,4`` outside a sweep; where one run goes on, none is made of it."""
    lines = (line for file in CONF.rglob("*.yaml") for line in lines_in(file))
    is_list = key in LISTS or any(line.key == key and line.text.startswith("[") for line in lines)
    as_list = f"; if they are one list: '{key}=[{value}]'" if is_list else ""
    if "/" in value or " " in value:
        as_list = f"; if it is one path, with quotes within quotes: {in_quotes(key, value)}"
    each = f"For a run with each of them: -m {key}={value}"
    if resumed and key != "resume":
        each = "A run goes on with one: give one value"
    return f"{key}={value} is several values. {each}{as_list}"


def in_quotes(key: str, value: str) -> str:
    """How a shell is told to hand over a value with special characters so that it stays text."""
    return shlex.quote(f"{key}={_quoted(value)}")


def list_in_quotes(key: str, value: str) -> str:
    """The same of a list, each element of which stays text."""
    elements = re.findall(r"""\s*"[^"]*"\s*|\s*'[^']*'\s*|[^,]+""", value.removeprefix("[").removesuffix("]"))
    return shlex.quote(f"{key}=[{','.join(_quoted(element.strip()) for element in elements)}]")


def _quoted(value: str) -> str:
    bare = value.replace('"', "")
    if bare[:1] == bare[-1:] == "'":
        bare = bare[1:-1]
    return f'"{bare}"'


def no_option(group: str, option: str, options: Sequence[str]) -> str:
    """What is said of an option that a group does not have: those that begin with it, here and in other groups."""
    groups, folder = groups_of(), option.partition("/")[0].lower()
    within = [f"{other}/{name}" for other, names in groups.items() if other.startswith(f"{group}/") for name in names]
    within = [name.removeprefix(f"{group}/") for name in within]
    of_folder = [name for name in within if name.lower().startswith(f"{folder}/")]
    options = of_folder or [*options, *dict.fromkeys(f"{name.partition('/')[0]}/..." for name in within)]
    spelt, begin = [name for name in options if name.lower() == option.lower()], _beginning(option, options)
    there = [f"{other}={name}" for other, name in _called(option) if other != group]
    for other in NETWORKS if group in NETWORKS else ():
        there += [f"{other}={name}" for name in _beginning(option, groups[other]) if other != group]
    meant = f" Did you mean {' or '.join(map(repr, spelt or begin))}?" if begin else nearest(option, options)
    if (of_folder and "/" not in option) or (there and not begin):  # the folder's name, or an option elsewhere
        meant = ""
    also = f" There is {' and '.join(dict.fromkeys(there))}." if there and not spelt else ""
    return f"{group} has no option '{option}'.{meant}{also} Options: {', '.join(options)}."


def _beginning(option: str, options: Sequence[str]) -> list[str]:
    return [name for name in options if option and name.lower().startswith(option.lower())]


def _called(word: str) -> list[tuple[str, str]]:
    """The groups of ``NAMED`` that have an option of this name, in capitals or not, and its name there."""
    groups = groups_of()
    return [(group, name) for group in NAMED for name in groups[group] if name.lower() == word.lower()]


def _standing_alone(word: str, keys: set[str], config_name: str) -> str | None:
    """What is said of ``CUB`` for ``dataset_name=CUB``, and of ``runs/a`` for ``checkpoint=runs/a``."""
    called = [f"{group}={name}" for group in _to_choose(config_name) for name in groups_of()[group] if name == word]
    called = called or [f"{group}={name}" for group, name in _called(word)]
    if "checkpoint" in keys and not called and os.path.exists(word):
        plain = re.fullmatch(r"[\w./+-]+", word, re.ASCII)
        called = [f"checkpoint={word}" if plain else in_quotes("checkpoint", word)]
    return f"'{word}' stands alone: give {' or '.join(called)}." if called else None


def description(path: Path) -> str:
    """What a program says of itself."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").replace("``", "")


def help_of(path: Path, config_name: str, arguments: Sequence[str]) -> str:
    """What a program does, examples, groups with their options, and keys with what the files say of them."""
    chosen = chosen_by(config_name, arguments)
    text = [description(path), "", "GROUP=OPTION (* what is chosen, as below)"]
    others = groups_of_others(config_name)
    for group, options in groups_of().items():
        if not group.startswith("recipe") and group not in others:
            own = chosen.get(group)
            text.append(f"  {group}: " + ", ".join(name + "*" * (name == own) for name in options))
    text += [
        "",
        "KEY=VALUE, with the values of the chosen options but for experiment= (--cfg job shows the whole of it);",
        "--help KEY says what each option gives a key",
    ]
    files = [file for group, option in chosen.items() if group != "dataset_name" for file in _of(group, option)]
    files += [*_of("", config_name), *_of("dataset_name", chosen["dataset_name"])]
    method, segmenter, data = (chosen[group] for group in ("method", "segmenter", "dataset_name"))
    files += [*_of("recipe/method", method), *_of("recipe", f"{method}_{data}")]
    files += _of("recipe/segmenter", f"{segmenter}_{data}")
    values = {line.key: f"  {line.key}={line.text}" for file in files for line in lines_in(CONF / file)}
    # What the program has itself first, then what training has.
    own = dict.fromkeys(line.key for name in reversed(_of("", config_name)) for line in lines_in(CONF / name))
    others = [value for key, value in values.items() if key not in own]
    return "\n".join([*text, *(values[key] for key in own), "", *others])


def help_of_key(config_name: str, key: str) -> str:
    """Every file's value of a key, or of the keys in a node, with what the files say of it."""
    groups, lines = groups_of(), list(lines_of(config_name))
    found = [line for line in lines if f"{line.key}.".startswith(f"{key}.")]
    if key not in groups and not found:
        return unknown_key(key, {*groups, *(line.key for line in lines)})
    text = [f"{key}=OPTION: {', '.join(groups[key])}"] if key in groups else []
    for name in dict.fromkeys(line.key for line in found):
        own = [line for line in found if line.key == name]
        width = max(len(line.text) for line in own)
        text += [name, *(f"  {line.text:{width}}   conf/{line.file}" for line in own)]
    return "\n".join(text)


def chosen_by(config_name: str, arguments: Sequence[str]) -> dict[str, str | None]:
    """Group -> the option that a command line chooses, or a chosen method does, or the defaults do."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    files = _of("", config_name)
    chosen = {group: option for file in files for group, option in _defaults(CONF / file) if group in groups_of()}
    chosen |= {group: option for group, option in given.items() if group in groups_of()}
    method = CONF / "method" / f"{chosen['method']}.yaml"
    of_method = _defaults(method) if method.is_file() else []
    return chosen | {group: option for group, option in of_method if group not in given}


def groups_of() -> dict[str, list[str]]:
    """Group -> its options: folders of ``conf/`` with their files."""
    folders = sorted({file.parent for file in CONF.glob("*/**/*.yaml")})
    return {
        folder.relative_to(CONF).as_posix(): sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders
    }


def lines_of(config_name: str) -> Iterator[Line]:
    """Every key that a file of a program's config gives a value."""
    others = groups_of_others(config_name)
    for file in (*(CONF / name for name in _of("", config_name)), *sorted(CONF.glob("*/**/*.yaml"))):
        if file.relative_to(CONF).parts[0] not in others:
            yield from lines_in(file)


def groups_of_others(config_name: str) -> set[str]:
    """Groups that other programs have, and this one has not: ``table``, ``pretrained``."""
    own = {group for name in _of("", config_name) for group, _ in _defaults(CONF / name)}
    return {group for file in CONF.glob("*.yaml") for group, _ in _defaults(file)} - own


def lines_in(file: Path) -> Iterator[Line]:
    """The keys of one file, but Hydra's own."""
    text = file.read_text()
    package = re.match(r"# @package (\S+)", text)
    group = file.parent.relative_to(CONF).as_posix().replace("/", ".")
    prefix = "" if file.parent == CONF or (package and package[1] == "_global_") else package[1] if package else group
    try:
        root = yaml.compose(text, LOADER)
    except yaml.YAMLError:
        return  # composing the config tells it
    if not isinstance(root, yaml.MappingNode):
        return
    rows = text.splitlines()
    root.value = [(key, value) for key, value in root.value if key.value not in ("defaults", "hydra")]
    for key, value in _leaves(root, f"{prefix}." if prefix else ""):
        start, end = value.start_mark, value.end_mark
        shown = rows[start.line][start.column :] if start.line == end.line or start.line + 1 == end.line else "..."
        yield Line(key, re.sub(r"\s+# ", "   # ", shown), file.relative_to(CONF).as_posix())


def _leaves(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", value


def _of(group: str, option: str | None) -> list[str]:
    """An option's file, after those that it is made from; none where there is no such option."""
    file = CONF / group / f"{option}.yaml"
    if not file.is_file():
        return []
    bases = [base for base in _content(file).get("defaults") or [] if isinstance(base, str) and base != "_self_"]
    return [name for base in bases for name in _of(group, base)] + [file.relative_to(CONF).as_posix()]


def _content(file: Path) -> dict:
    return yaml.load(file.read_text(), LOADER) or {}


def _defaults(file: Path) -> list[tuple[str, str]]:
    """The defaults list of a file: ``segmenter: caffe``, ``override /augmentation: scops``."""
    entries = _content(file).get("defaults") or []
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return [(group.removeprefix("override ").removeprefix("/"), option) for group, option in pairs]


def _to_choose(config_name: str) -> list[str]:
    """The groups of a program that have no default option: ``table``."""
    return [group for name in _of("", config_name) for group, option in _defaults(CONF / name) if option == "???"]


def _in_mapping(key: str) -> bool:
    """It is in a mapping whose names anybody chooses."""
    return key.startswith(("table.rows.", "perceptual.layers.", "baselines."))


def _values(value: str) -> list[str]:
    """Those between commas, where these are in no brackets and quotes, and no function's."""
    if re.match(r"\s*\w+\(", value):
        return [value]
    bare = re.sub(r"\\,|\[.*\]|\{.*\}|\(.*\)|'.*'|\".*\"", "", value)
    return bare.split(",")


def _program() -> tuple[Path, str | None, str, list[str]] | None:
    """The file of this project that Python was started with, its config's name, its schema's and its arguments.

    None: it is no such file. The name is None of a program without a config, the schema's empty where it is training's.
    """
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-c":
            return None  # the code follows
        if word == "-m":
            path = ROOT.joinpath(*next(words, "").split(".")).with_suffix(".py")
            break
        if not word.startswith("-"):
            path = Path(word).resolve()
            break
    else:
        return None
    if not path.is_file() or ROOT not in path.parents or path.name.startswith("test_"):
        return None
    text = path.read_text(encoding="utf-8")
    if '\nif __name__ == "__main__":' not in text:
        return None
    found = re.search(r'^    app\.run\("(\w+)", \w+(?:, (\w+)\b(?!=))?', text, re.MULTILINE)
    config_name, schema = found.groups(default="") if found else (None, "")
    return path, config_name, schema, list(words)

"""README.md and docs/: what they link to is there, and the command lines that they show can be given."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from evaluation.compare import as_overrides
from tests.composition import composed

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What runs -> its config in conf/, None where it takes none.
PROGRAMS = {
    "train.py": "train",
    "evaluate.py": "evaluate",
    "predict.py": "predict",
    "datasets.check": "train",
    "datasets.coco_stuff": "train",
    "datasets.example": None,
    "datasets.from_coco": None,
    "datasets.potsdam": None,
    "utils.sweep": None,
    "utils.watch": None,
    "evaluation.table": "evaluation_table",
    "evaluation.compare": "evaluation_compare",
    "evaluation.figure": "evaluation_figure",
    "models.export": "export",
    "utils.slim": None,
    "benchmarks/step.py": "train",
    "benchmarks/steps.py": "train",
    "benchmarks/autoregressive.py": "train",
    "benchmarks/loader.py": "train",
    "benchmarks/evaluate.py": "benchmark_evaluate",
    "benchmarks/fitted.py": None,
    "benchmarks/mutual_information.py": None,
    "benchmarks/threads.py": None,
    "benchmarks.gpu": None,
    "tests.operators": "train",
}
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Also below srun, and as a line of a terminal.
_COMMAND = re.compile(r"(\$ )?(srun (-\S+ )*)?(python|torchrun) ")


def command_lines(text: str) -> list[str]:
    """Every command line of ``python`` or ``torchrun`` in a page: lines of fences, and spans of code in the prose."""
    lines = [
        line.strip() for block in _FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()
    ] + re.findall(r"`(python [^`]+)`", _FENCE.sub("", text))
    return [line.removeprefix("$ ") for line in lines if _COMMAND.match(line)]


def program_and_arguments(line: str) -> tuple[str, list[str]]:
    """What a command line runs, a key of ``PROGRAMS`` if we know it, and what it is given; without its comment."""
    # Variables of the shell stand for what the user puts there, as the words in capitals do.
    words = shlex.split(re.sub(r"\$(\w+)", r"\1", line), comments=True)
    if "torchrun" in words:
        place = next(place for place, word in enumerate(words) if word.endswith(".py"))
    else:
        place = words.index("python") + 1
        place += words[place] == "-m"
    return words[place], words[place + 1 :]


def jobs_of(arguments: list[str], several: bool = False) -> list[list[str]]:
    """The overrides of a program's one job, or of a sweep's first and last; none where help is asked for.

    Args:
        several: the program takes several values without ``-m``.
    """
    if "--help" in arguments:
        return []
    sweep = "-m" in arguments or several
    arguments = [argument for argument in arguments if argument != "-m"]
    if "--cfg" in arguments:
        place = arguments.index("--cfg")
        arguments = arguments[:place] + arguments[place + 2 :]
    choices = []
    for override in OverridesParser.create().parse_overrides(arguments):
        if override.is_sweep_override():
            assert sweep, f"{override.input_line} is a sweep: it needs -m"
            choices.append([f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line])
    jobs = [[values[0] for values in choices], [values[-1] for values in choices]]
    return jobs if sweep else jobs[:1]


def brought(text: str) -> set[str]:
    """The options, as ``method=mine``, whose files a page shows: tests/test_adding.py runs that page's lines."""
    return {f"{group}={name}" for group, name in re.findall(r"^# conf/(\w+)/(\w+)\.yaml$", text, re.MULTILINE)}


# Each once, wherever it stands.
COMMANDS = {
    shlex.join([program, *arguments]): (program, arguments)
    for page in PAGES
    for program, arguments in map(program_and_arguments, command_lines(page.read_text()))
    if not brought(page.read_text()) & set(arguments)
}


@pytest.mark.parametrize(("program", "arguments"), COMMANDS.values(), ids=COMMANDS)
def test_every_command_line_of_the_docs_composes(program, arguments):
    assert program in PROGRAMS
    path = program if program.endswith(".py") else f"{program.replace('.', '/')}.py"
    assert (ROOT / path).is_file()
    if PROGRAMS[program] is not None:
        if program == "evaluation.compare":
            arguments = as_overrides(arguments)
        for overrides in jobs_of(arguments, several=program == "benchmarks/steps.py"):
            composed(*overrides, name=PROGRAMS[program])


def test_command_lines_are_found_in_fences_and_prose_and_split_as_a_shell_does():
    text = (
        "Give `python -m datasets.check dataset_name=DF`, or\n\n```\n$ python train.py a=1   # not b=2\noutput\n"
        "torchrun --n=2 \\\n  train.py c=$RUN\nsrun -x python train.py -m seed=1,2 d=[x,y] --cfg job\n```\n"
    )
    found = [program_and_arguments(line) for line in command_lines(text)]
    assert found == [
        ("train.py", ["a=1"]),
        ("train.py", ["c=RUN"]),
        ("train.py", ["-m", "seed=1,2", "d=[x,y]", "--cfg", "job"]),
        ("datasets.check", ["dataset_name=DF"]),
    ]
    assert jobs_of(found[2][1]) == [["seed=1", "d=[x,y]"], ["seed=2", "d=[x,y]"]]
    with pytest.raises(AssertionError, match="needs -m"):
        jobs_of(["seed=1,2"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file_and_its_heading(page):
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, heading = link.partition("#")
        path = page.parent / target if target else page
        assert path.exists(), link
        if heading:
            assert heading in anchors(path.read_text()), link


def anchors(text: str) -> set[str]:
    """Of each heading, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_line_of_prose_is_longer_than_120_characters(page):
    """Tables, code and what has a link are as long as they are."""
    lines = _FENCE.sub("", page.read_text()).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|") and "](" not in line] == []


@pytest.mark.parametrize(("group", "folder"), [("dataset_name", "data"), ("method", "methods")])
def test_every_data_set_and_every_method_has_a_page_that_the_readme_links_to_and_that_trains_with_it(group, folder):
    names = [path.stem for path in (ROOT / "conf" / group).glob("*.yaml")]
    default = "method=contrastive_reconstruction"
    linked = _LINK.findall((ROOT / "README.md").read_text())
    assert names
    for name in names:
        # Variants of a data set share its page: coco_stuff3 and coco_stuff15 are in coco_stuff.md.
        pages = [f"docs/{folder}/{stem}.md" for stem in (name, name.rstrip("0123456789"))]
        page = next((page for page in pages if page in linked), None)
        assert page is not None, name
        training = [
            arguments
            for program, arguments in map(program_and_arguments, command_lines((ROOT / page).read_text()))
            if program == "train.py"
        ]
        wanted = f"{group}={name}"
        assert any(wanted in arguments or wanted == default for arguments in training), page


def test_every_page_that_the_code_names_is_there():
    named = {
        (path.relative_to(ROOT).as_posix(), page)
        for folder in ("benchmarks", "conf", "datasets", "evaluation", "losses", "models", "utils", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml") and path != Path(__file__)
        for page in re.findall(r"\bdocs/[\w/]*(?:\.md)?", path.read_text())
    }
    assert ("datasets/files.py", "docs/data/") in named
    for path, page in named:
        assert (ROOT / page).exists(), f"{path} names {page}"


def test_the_citation_names_the_paper_as_the_readme_does():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    readme = (ROOT / "README.md").read_text()
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"{{{paper['title']}}}" in readme and f"{{{authors}}}" in readme and f"{{{paper['year']}}}" in readme
    assert paper["url"] in readme

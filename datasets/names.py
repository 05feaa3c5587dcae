"""Which files in a folder are pictures, and what these are called, however a system or a list spells their names."""

import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from datasets.files import ENDINGS, FORMATS, HELP, LACKING, MissingFile, names_in, some
from utils.errors import UserError

# Files and folders of systems, among pictures (Synology keeps small ones in @eaDir); what begins with a dot is as well.
_OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}


def of_system(name: str) -> bool:
    """Whether a file's name is that of something which no one has put among pictures: ``._a.jpg``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def stem_of(path: Path) -> str:
    """A path without the ending of a picture, with slashes."""
    return path.with_suffix("").as_posix() if path.suffix.lower() in ENDINGS else path.as_posix()


def pictures_in(folder: Path, advice: str, beside: Sequence[str] = ()) -> tuple[dict[str, Path], list[str]]:
    """The pictures in a folder and the folders in it, by their names in it without the ending, sorted.

    Args:
        advice: what to do where there is no such folder.
        beside: names of files that are no pictures and belong there.

    Returns:
        The pictures; and a note of the files that are left out, if there are any.

    Raises:
        MissingFile: there is no such folder.
        UserError: two files differ in their ending only.
    """
    if not folder.is_dir():
        raise MissingFile(f"No folder {folder}. {advice} {HELP}")
    names, dead = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not of_system(name))
        found = [Path(place, name).relative_to(folder).as_posix() for name in sorted(files)]
        names += [name for name in found if name not in beside]
        there = names_in(Path(place))
        dead |= {name for name in found if name.rpartition("/")[2] not in there}
    return told_apart(folder, names, dead, str(folder))


def told_apart(
    root: Path, names: Sequence[str], dead: Collection[str], source: str
) -> tuple[dict[str, Path], list[str]]:
    """Files that are pictures, and those that are none, or cannot be read here.

    Args:
        root: where they are.
        names: their paths in it, with slashes.
        dead: those of them that are links to nothing.
        source: what they come from, for the note.

    Returns:
        As :func:`pictures_in`.

    Raises:
        UserError: two pictures differ in their ending only.
    """
    found: dict[str, list[Path]] = {}
    left_out: dict[str, list[str]] = {}
    needs = {ending: f"{name} needs {LACKING[name]}" for name in LACKING for ending in FORMATS[name]}
    for name in names:
        path, ending = root / name, Path(name).suffix.lower()
        if any(map(of_system, Path(name).parts)):
            continue
        if name in dead:
            left_out.setdefault("links to nothing", []).append(name)
        elif ending in ENDINGS and ending not in needs:
            found.setdefault(stem_of(Path(name)), []).append(path)
        else:
            left_out.setdefault(needs.get(ending, "no pictures"), []).append(name)
    if doubled := [paths for paths in found.values() if len(paths) > 1]:
        more = f" (as are {len(doubled) - 1:,} more)" if len(doubled) > 1 else ""
        raise UserError(
            f"{' and '.join(map(str, doubled[0]))} differ in their ending only{more}: take one away. {HELP}"
        )
    told = "; ".join(f"{some(names, 3)} ({why})" for why, names in left_out.items())
    notes = [f"{source}: {sum(map(len, left_out.values())):,} files are left out: {told}."] if told else []
    return {stem: paths[0] for stem, paths in sorted(found.items())}, notes


def alike(stems: Iterable[str]) -> dict[str, str]:
    """Names of pictures by what is the same in all spellings of them: in capitals or not, accents in one sign or two.

    Where several are the same they are left out.
    """
    found: dict[str, list[str]] = {}
    for stem in stems:
        found.setdefault(spelt_alike(stem), []).append(stem)
    return {key: own[0] for key, own in found.items() if len(own) == 1}


def spelt_alike(name: str) -> str:
    """See :func:`alike`. macOS writes accents as signs of their own, and knows no capitals in names."""
    return unicodedata.normalize("NFC", name).casefold()


def as_pictures_are_called(maps: Mapping[str, Path], pictures: Collection[str]) -> dict[str, Path]:
    """Masks or label maps by the names of their pictures, where they are spelt otherwise."""
    known = alike(stem for stem in pictures if stem not in maps)
    own = {stem: known[key] for key, stem in alike(maps).items() if stem not in pictures and key in known}
    return {own.get(stem, stem): path for stem, path in maps.items()}


def spellings(name: str, folder: str) -> list[str]:
    """A picture's name in a list as it may be meant: with Windows' slashes, with its folder in front (`ls images/*`).

    Args:
        folder: the name of that folder.

    Returns:
        The name as it is first; last the one without what stands in front, which stays below whatever it is put in.
    """
    found = {name: None}
    for path in (name, name.replace("\\", "/")):
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        places = [0, *(i + 1 for i, part in enumerate(parts[:-1]) if part.casefold() == folder)]
        found |= dict.fromkeys("/".join(parts[place:]) for place in places)
    return list(found)

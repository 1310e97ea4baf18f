"""Folders and the images in them: links are followed, circles are not, and nothing is missing without a word."""

import os
from pathlib import Path

from blurtrain.decoding import SUFFIXES
from blurtrain.errors import DataError

KINDS = ", ".join(sorted(SUFFIXES))  # of images, for errors


def folders_in(place: Path) -> list[Path]:
    """Folders of a place, which are splits or classes: none may be missing without a word.

    Raises:
        DataError: If it cannot be read, or a link leads nowhere or in a circle.
    """
    found = []
    for entry in _entries(place):
        path = place / entry.name
        if is_folder(entry):
            found.append(path)
            if Path(os.path.realpath(path)) in with_parents(place):
                raise DataError(f"{path} is a link to a folder that it lies in: mend or remove it")
        elif _leads_nowhere(entry) and path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path} is a link that leads nowhere: mend or remove it")
    return found


def image_files(class_folder: Path, notes: list[str]) -> list[Path]:
    """Images of a class at any depth.

    Args:
        class_folder: Where they lie.
        notes: To which is added what is left out.

    Raises:
        DataError: If there is none, or a folder cannot be read.
    """
    found = images_below(class_folder, notes)
    if not found:
        raise DataError(f"class folder {class_folder} has no images ({KINDS}): add some, or remove it")
    return found


def images_below(top: Path, notes: list[str]) -> list[Path]:
    """Images of a folder at any depth, perhaps none; sorted.

    Args:
        top: The folder.
        notes: To which is added what is left out.

    Raises:
        DataError: If a folder cannot be read.
    """
    found: list[Path] = []
    waiting, entered = [top], {*with_parents(top), *with_parents(top.parent)}
    while waiting:
        folder = waiting.pop()
        for entry in _entries(folder):
            path = folder / entry.name
            if is_folder(entry):
                real = Path(os.path.realpath(path))
                if real in entered:
                    notes.append(f"note: {path} leads back to a folder that is read anyway: it is left out")
                else:
                    waiting.append(path)
                    entered.add(real)
            elif path.suffix.lower() in SUFFIXES:
                found.append(path)
            elif _leads_nowhere(entry):
                notes.append(f"note: {path} is a link that leads nowhere: it is left out")
    return sorted(found)


def is_folder(place: "Path | os.DirEntry[str]") -> bool:
    """Whether it is one that can be opened."""
    try:
        return place.is_dir()
    except OSError:  # links in a circle, a name that is too long, a place that is not open to everybody
        return False


def why_not(path: Path) -> str:
    """The reason why a folder is none, where that is not plain."""
    try:
        path.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f" ({error.strerror})"
    return ""


def with_parents(folder: Path) -> list[Path]:
    """A folder and all that it lies in, without links."""
    real = Path(os.path.realpath(folder))
    return [real, *real.parents]


def text_of(name: Path | str) -> str:
    """A file's name as text; bytes that are no UTF-8 are written as hexadecimal digits."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """What a folder holds in the order of the names, hidden things aside."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}): mend its permissions") from error


def _leads_nowhere(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_symlink() and not entry.stat()
    except OSError:
        return True

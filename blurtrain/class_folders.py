"""Which output of an imported network each class folder stands for: by its name, or by a mapping file; no torch."""

import csv
import functools
import io
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from blurtrain.errors import ConfigError, DataError
from blurtrain.files import sha256

# The 1000 classes of ILSVRC2012 by their WordNet ids. Every network trained on them has its outputs in this order: that
# of the sorted ids, in which torchvision's ImageFolder lists the data set's folders.
WNIDS = "imagenet_wnids.txt"
AN_ID = "n01494475"
HEADER = ["folder", "class"]
# 4, n01494475, n01494475_hammerhead, 0004_n01494475 or 0004_n01494475_hammerhead. A number before other words is no
# index: 2_cats need not be the third class.
NAME = re.compile(r"(?P<alone>[0-9]{1,6})|(?:(?P<index>[0-9]{1,6})_)?(?P<wnid>n[0-9]{8})(?:[_ -].*)?", re.DOTALL)


@functools.cache
def wnids() -> tuple[str, ...]:
    """WordNet ids of ImageNet's classes in the order of the outputs."""
    return tuple((resources.files("blurtrain.embedded") / WNIDS).read_text(encoding="ascii").split())


def targets(folders: Sequence[str], outputs: Sequence[str], mapping: Path | None = None) -> list[int]:
    """The output that each class folder stands for.

    Args:
        folders: Their names.
        outputs: What the network's outputs stand for, in their order.
        mapping: A CSV file of two columns, folder and class, where the names of the folders do not say it.

    Raises:
        DataError: If a folder stands for no output, or two for the same one.
        ConfigError: If the mapping file cannot be used.
    """
    count = len(outputs)
    if mapping is None:
        found = [_by_name(folder, count) for folder in folders]
    else:
        given = read_mapping(mapping, count)
        for folder in given:
            if folder not in folders:
                raise ConfigError(f"{mapping} names the folder {folder!r}, which is not there: remove that line")
        for folder in folders:
            if folder not in given:
                raise ConfigError(f"class folder {folder!r} is not in {mapping}: add a line for it")
        found = [given[folder] for folder in folders]
    first: dict[int, str] = {}
    for folder, output in zip(folders, found, strict=True):
        if output in first:
            raise DataError(
                f"class folders {first[output]!r} and {folder!r} both stand for output {output} ({outputs[output]}): "
                "join them, or tell them apart by --mapping FILE"
            )
        first[output] = folder
    return found


def read_mapping(path: Path, count: int) -> dict[str, int]:
    """Outputs by folder, from a CSV file of two columns, with or without the header folder,class.

    Args:
        path: The file.
        count: Outputs of the network.

    Raises:
        ConfigError: If it cannot be read, has other columns, a folder twice, or a class that is no output.
    """
    try:
        rows = list(csv.reader(io.StringIO(_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise _unreadable(path, error) from error
    found: dict[str, int] = {}
    for line, row in enumerate(rows, 1):
        if not row or (line == 1 and [word.strip() for word in row] == HEADER):
            continue
        if len(row) != len(HEADER):
            raise ConfigError(f"{path} has {len(row)} column(s) in row {line}: give two, folder and class")
        folder, word = row[0], row[1].strip()
        if folder in found:
            raise ConfigError(f"{path} names the folder {folder!r} twice: keep one of the lines")
        output = _output(word, count)
        if output is None:
            raise ConfigError(
                f"{path} gives the folder {folder!r} the class {word!r}, which is no output of the network: "
                f"give {_allowed(count)}"
            )
        found[folder] = output
    return found


def mapping_sha256(path: Path) -> str:
    """SHA-256 of a mapping file.

    Raises:
        ConfigError: If it cannot be read.
    """
    return sha256(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or error) from error


def _unreadable(path: Path, reason: object) -> ConfigError:
    return ConfigError(f"{path} cannot be read ({reason}): give a CSV file of two columns, folder and class")


def _by_name(folder: str, count: int) -> int:
    output = _output(folder, count)
    if output is None:
        raise DataError(
            f"class folder {folder!r} stands for no output of the network: "
            f"name it by {_allowed(count)}, or give --mapping FILE"
        )
    return output


def _output(name: str, count: int) -> int | None:
    """The output that a name stands for; none where it names none, or index and id name two."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    by_id = None
    if match["wnid"]:
        known = wnids() if count == len(wnids()) else ()
        if match["wnid"] not in known:
            return None
        by_id = known.index(match["wnid"])
    index = match["alone"] or match["index"]
    by_index = by_id if index is None else int(index)
    if by_index is None or by_index >= count or by_id not in (None, by_index):
        return None
    return by_index


def _allowed(count: int) -> str:
    ids = f" or a WordNet id such as {AN_ID}" if count == len(wnids()) else ""
    return f"an index from 0 to {count - 1}{ids}"

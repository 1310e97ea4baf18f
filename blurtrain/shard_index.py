"""What lies where in a tar file of samples, as WebDataset lays them out: read once, header by header."""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from blurtrain.decoding import SUFFIXES
from blurtrain.errors import DataError

IMAGES = tuple(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
LABELS = ("cls", "json")
# As webdataset tells them apart: the key ends at the first dot of the file's name, folders belong to it.
MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<kind>[^/]*)", re.DOTALL)
MOST_LABEL = 1 << 20  # bytes of a .cls or .json: what is longer holds no label


class Sample(NamedTuple):
    """One image of a shard.

    Args:
        key: Its name within the shard.
        label: Name of its class.
        kind: Suffix of the image; nothing where the sample has none.
        offset: First byte of the image within the shard.
        size: Its bytes.
        typed: How a label in JSON is written, a whole number or a text; nothing for one in a ``.cls``.
    """

    key: str
    label: str
    kind: str
    offset: int
    size: int
    typed: str


_known: dict[tuple[Path, int, int], tuple[Sample, ...]] = {}  # by file, size and time: a command asks several times


def is_known(shard: Path) -> bool:
    """Whether its index was made in this process already."""
    try:
        return _as_it_is(shard) in _known
    except OSError:
        return False


def index_of(shard: Path) -> tuple[Sample, ...]:
    """The samples of a shard in its order, of which no bytes are held.

    Raises:
        DataError: If it cannot be read, is compressed or cut short, a sample has no label, or a key comes twice.
    """
    try:
        key = _as_it_is(shard)
        if key not in _known:
            _known[key] = _indexed(shard)
        return _known[key]
    except OSError as error:
        raise DataError(
            f"shard {shard} cannot be read ({error.strerror or error}): give tar files by a pattern such as "
            "{train,test}-{000..003}.tar"
        ) from error
    except tarfile.TarError as error:
        raise DataError(f"shard {shard} is cut short or no plain tar file ({error}): make or fetch it again") from error


def _as_it_is(shard: Path) -> tuple[Path, int, int]:
    found = shard.stat()
    return shard, found.st_size, found.st_mtime_ns


def _indexed(shard: Path) -> tuple[Sample, ...]:
    samples: list[Sample] = []
    known: set[str] = set()
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for key, members in _grouped(tar, file, shard):
            if key in known:
                raise DataError(f"shard {shard} has the key {key!r} twice, with others between: name every sample once")
            known.add(key)
            samples.append(_sample(shard, file, key, members))
    return tuple(samples)


Members = dict[str, tarfile.TarInfo]  # files of a sample by what stands behind the first dot


def _grouped(tar: tarfile.TarFile, file: io.BufferedReader, shard: Path) -> Iterator[tuple[str, Members]]:
    """Neighbours of one key; what is no file, is hidden or has no suffix is passed over."""
    current, members = "", Members()
    while (member := tar.next()) is not None:
        vars(tar)["members"].clear()  # or millions of headers would stay in memory
        name = MEMBER.fullmatch(member.name)
        if name is None or not member.isreg() or member.issparse():
            continue
        key, kind = name["key"], name["kind"].lower()
        if key != current and members:
            yield current, members
            members = Members()
        if kind in members:
            raise DataError(f"shard {shard} has {member.name!r} twice: name every sample once")
        current, members[kind] = key, member
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # tarfile takes damage for the end
        raise DataError(f"shard {shard} is cut short or damaged at byte {tar.offset}: make or fetch it again")
    if members:
        yield current, members


def _sample(shard: Path, file: io.BufferedReader, key: str, members: Members) -> Sample:
    images = [kind for kind in IMAGES if kind in members]
    if len(images) > 1:
        both = " and ".join(f".{kind}" for kind in images)
        raise DataError(f"sample {key!r} of shard {shard} has {both}: one image is allowed, also where one is a copy")
    kind = next((kind for kind in LABELS if kind in members), None)
    if kind is None:
        has = ", ".join(f".{kind}" for kind in members)
        raise DataError(f"sample {key!r} of shard {shard} has no label (it has {has}): add {key}.cls or {key}.json")
    label, typed = _label(shard, file, members[kind])
    if not images:
        return Sample(key, label, "", 0, 0, typed)
    image = members[images[0]]
    return Sample(key, label, images[0], image.offset_data, image.size, typed)


def require_one_type(found: Iterable[tuple[Path, Sample]]) -> None:
    """Check that labels in JSON are all numbers or all texts: else some are an index and others the name of a class.

    Raises:
        DataError: If they are not.
    """
    first: dict[str, str] = {}
    for shard, sample in found:
        if sample.typed:
            first.setdefault(sample.typed, f"{sample.key}.json of shard {shard}")
    if len(first) > 1:
        (one, place), (other, there) = first.items()
        raise DataError(f"{place} has a {one} for its label, and {there} a {other}: give one kind only")


def _label(shard: Path, file: io.BufferedReader, member: tarfile.TarInfo) -> tuple[str, str]:
    place, allowed = f"{member.name} of shard {shard}", "give a whole number or a text"
    if member.size > MOST_LABEL:
        raise DataError(f"{place} has more than {MOST_LABEL:,} bytes: {allowed}")
    file.seek(member.offset_data)
    data = file.read(member.size)
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text) if member.name.lower().endswith(".json") else text.strip()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} cannot be read ({error}): {allowed}") from error
    typed = ""
    if member.name.lower().endswith(".json"):
        if not isinstance(value, dict) or "label" not in value:
            raise DataError(f'{place} has no "label": {allowed} by that name')
        value = value["label"]
        typed = "text" if isinstance(value, str) else "whole number"
    half = re.search("[\ud800-\udfff]", str(value))  # of a character: no file can be written with it
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip() or half:
        raise DataError(f"{place} gives the label {value!r}: {allowed}")
    return str(value).strip(), typed

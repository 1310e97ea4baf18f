"""Tar files of samples, as WebDataset lays them out: named by a pattern, read in place, nothing unpacked."""

import io
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from blurtrain.errors import DataError
from blurtrain.files import sha256, whole_file
from blurtrain.folders import text_of
from blurtrain.listed import Listing, choose, splits_of_files
from blurtrain.locks import held
from blurtrain.progress import progress
from blurtrain.roots import URL
from blurtrain.shard_index import IMAGES, index_of, is_known, require_one_type
from blurtrain.sources import File, StoredSource, require_readable

MOST_SHARDS = 100_000
RANGE = re.compile(r"(\d+)\.\.(\d+)")
EXAMPLE = "{train,test}-{000..003}.tar"
PATIENCE = 60  # seconds without a byte from a server


class ShardSource(StoredSource):
    """Images within tar files; only where they lie is held in memory.

    Args:
        pattern: Of the tar files, with braces: {a,b} and {000..003}, also within each other; or of their URLs.
        folder: Where shards are downloaded to.
        download: Whether those that are not there yet are.
        trained: Whether a head is to be trained on them.
        lenient: Whether a class may lack training images.

    Raises:
        DataError: If the pattern is none, or a shard cannot be had or read.
    """

    def __init__(
        self, pattern: str, folder: Path, *, download: bool = True, trained: bool = True, lenient: bool = False
    ) -> None:
        super().__init__()
        names = expand(pattern)
        self._shards = _fetched(names, folder, download=download) if URL.match(pattern) else list(map(Path, names))
        splits = splits_of_files(pattern, [_file_name(name) for name in names], self.notes, trained=trained)
        unknown = [shard for shard in self._shards if not is_known(shard)]
        with progress("indexing shards", len(unknown), "shard") as bar:
            for shard in unknown:
                index_of(shard)
                bar.advance()
        found = [(place, sample) for place, shard in enumerate(self._shards) for sample in index_of(shard)]
        require_one_type((self._shards[place], sample) for place, sample in found)
        prefixes = _distinct(names)
        listing = Listing(
            [
                text_of(f"{prefixes[place]}/{sample.key}{'.' * bool(sample.kind)}{sample.kind}")
                for place, sample in found
            ],
            [sample.label for _, sample in found],
            [splits[place] for place, _ in found],
        )
        self.classes, self.items, rows = choose(pattern, listing, trained=trained, lenient=lenient)
        self._places = [found[row] for row in rows]

    def _size(self, index: int) -> int:
        return self._places[index][1].size

    def _open(self, index: int) -> File:
        place, sample = self._places[index]
        if not sample.kind:
            kinds = ", ".join(f".{kind}" for kind in IMAGES)
            raise DataError(f"has no image ({kinds}) in {self._shards[place]}")
        require_readable(sample.size)
        return io.BufferedReader(Window(self._shards[place], sample.offset, sample.size))


class Window(io.RawIOBase):
    """Some bytes of a file as a file, opened anew so that threads and processes may share the source.

    Args:
        path: The file.
        offset: Its first byte.
        size: How many there are.
    """

    def __init__(self, path: Path, offset: int, size: int) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte, counted as files do."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read on, at most to the end of the window."""
        left = max(self._size - self._at, 0)
        self._file.seek(self._offset + self._at)
        read = self._file.readinto(memoryview(buffer)[:left]) or 0
        self._at += read
        return read

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        super().close()


def expand(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for, in order.

    Raises:
        DataError: If braces do not match, a range is none, or a name comes twice.
    """
    names: list[str] = []
    for name in _expanded(pattern, pattern):
        names.append(name)
        if len(names) > MOST_SHARDS:
            raise DataError(f"{pattern} names more than {MOST_SHARDS:,} shards: give fewer")
    for before, after in pairwise(sorted(names)):
        if before == after:
            raise DataError(f"{pattern} names {after} twice: name every shard once")
    for name in names:
        if not _file_name(name).lower().endswith(".tar"):
            raise DataError(f"{name} of {pattern} is no .tar: unpack what compresses it (gunzip), or give {EXAMPLE}")
    return names


def _expanded(pattern: str, whole: str) -> Iterator[str]:
    start = pattern.find("{")
    if start < 0:
        if "}" in pattern:
            raise _unmatched(whole)
        yield pattern
        return
    depth, cuts = 0, [start]
    for place in range(start, len(pattern)):
        depth += (pattern[place] == "{") - (pattern[place] == "}")
        if depth == 0 or (depth == 1 and pattern[place] == ","):
            cuts.append(place)
        if depth == 0:
            break
    if depth:
        raise _unmatched(whole)
    choices = [pattern[one + 1 : other] for one, other in pairwise(cuts)]
    for choice in _range(choices[0], whole) if len(choices) == 1 else choices:
        for middle in _expanded(choice, whole):
            for rest in _expanded(pattern[cuts[-1] + 1 :], whole):
                yield f"{pattern[:start]}{middle}{rest}"


def _range(text: str, whole: str) -> Iterator[str]:
    ends = RANGE.fullmatch(text)
    if ends is None or int(ends[1]) > int(ends[2]):
        raise DataError(f"{{{text}}} in {whole} is no range that goes up: give {EXAMPLE}")
    width = max(map(len, ends.groups())) if ends[1].startswith("0") else 0
    return (f"{number:0{width}d}" for number in range(int(ends[1]), int(ends[2]) + 1))


def _unmatched(whole: str) -> DataError:
    return DataError(f"braces in {whole} do not match: give {EXAMPLE}")


def _file_name(name: str) -> str:
    if not URL.match(name):
        return Path(name).name
    try:
        return Path(unquote(urlsplit(name).path)).name
    except ValueError as error:
        raise DataError(f"{name} is no address ({error}): mend it, or download the shards and give files") from error


def _distinct(names: Sequence[str]) -> list[str]:
    """File names without their suffix, or whole names where two files in different folders share theirs."""
    short = [_file_name(name)[: -len(".tar")] for name in names]
    return short if len(set(short)) == len(short) else list(names)


def _fetched(urls: Sequence[str], folder: Path, *, download: bool) -> list[Path]:
    """Where the shards of some URLs lie, each downloaded once."""
    if urlsplit(urls[0]).scheme.lower() == "file":
        return [Path(unquote(urlsplit(url).path)) for url in urls]
    places = [folder / "shards" / f"{sha256(url)[:16]}-{_file_name(url)}" for url in urls]
    if all(place.exists() for place in places):
        return places
    if not download:
        url = next(url for url, place in zip(urls, places, strict=True) if not place.exists())
        raise DataError(f"{url} is not in {folder}, and data.download is false: set it to true, or give files")
    with (
        held(folder / "shards" / ".lock", "downloading shards"),
        progress("fetching shards", len(urls), "shard") as bar,
    ):
        for url, place in zip(urls, places, strict=True):
            if not place.exists():
                _fetch(url, place)
            bar.advance()
    return places


def _fetch(url: str, place: Path) -> None:
    with whole_file(place) as temporary, temporary.open("wb") as file:
        try:
            with _opened(url) as answer:
                shutil.copyfileobj(answer, file, 1 << 20)
                announced = getattr(answer, "length", 0)  # what is left of what the server has announced
        except (OSError, ValueError, HTTPException, ImportError) as error:  # ImportError: fsspec says what to install
            raise DataError(
                f"{url} cannot be fetched ({error}): mend the address, or download it and give files"
            ) from error
        if announced:
            raise DataError(f"{url} was cut short by {announced:,} bytes: run the same command again")


def _opened(url: str) -> AbstractContextManager[Any]:
    """A URL for reading: http by the standard library, others by fsspec, which torch needs anyway."""
    if urlsplit(url).scheme.lower() in ("http", "https"):
        from urllib.request import urlopen

        return closing(urlopen(url, timeout=PATIENCE))
    import fsspec  # type: ignore[import-untyped, import-not-found, unused-ignore]

    return closing(fsspec.open(url, "rb").open())

"""Read every image of a source once, and keep a few numbers of each: memory does not grow with the pixels."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt64

from blurtrain.cores import cores
from blurtrain.decoding import KINDS, Geometry
from blurtrain.errors import DataError
from blurtrain.lookalikes import (
    LEAST_CORRELATION,
    Candidates,
    Links,
    Print,
    Small,
    correlation,
    print_of,
    small,
)
from blurtrain.progress import progress
from blurtrain.reading import Bad, chunks, content_name, native_size
from blurtrain.sources import Source, Traits, why
from blurtrain.store import ID, Ids

AT_ONCE = 1024  # images handed to the threads together
MOST_KEPT = 32_768  # small pictures in memory, 1 KB each

UNKNOWN: Traits = ("", ())  # of what is drawn


class Near(NamedTuple):
    """Two images that look the same.

    Args:
        one: Place of an image.
        other: Place of the other one.
        correlation: Of their small pictures.
    """

    one: int
    other: int
    correlation: float


@dataclass(frozen=True)
class Scan:
    """What is kept of the images of a source.

    Args:
        bad: What is wrong with those that cannot be used, by their place.
        ids: Names by content; empty where an image is bad.
        hashes: For near duplicates.
        is_flat: Where there is too little to be seen for that.
        sizes: Width and height in px of the file, upright.
        formats: Of the files, by their place in `format_names`.
        format_names: Empty for what is no file.
        kinds: Bit k is set where an image is of the kind `decoding.KINDS[k]`.
    """

    bad: Bad
    ids: Ids
    hashes: UInt64[np.ndarray, " images"]
    is_flat: Bool[np.ndarray, " images"]
    sizes: Int32[np.ndarray, "images 2"]
    formats: UInt8[np.ndarray, " images"]
    format_names: list[str]
    kinds: UInt8[np.ndarray, " images"]

    @property
    def is_good(self) -> Bool[np.ndarray, " images"]:
        """Where an image can be used."""
        return np.asarray(self.ids != b"")


class _Read(NamedTuple):
    name: bytes
    print: Print
    size: Int32[np.ndarray, "2"]
    traits: Traits


def scan(source: Source, geometry: Geometry) -> Scan:
    """Decode every image as training does, by several threads.

    Args:
        source: Its large JPEGs are reduced already.
        geometry: Of the network, for which an image may be too elongated.
    """
    count = len(source.items)
    found = Scan(
        {},
        np.zeros(count, ID),
        np.zeros(count, np.uint64),
        np.zeros(count, bool),
        np.zeros((count, 2), np.int32),
        np.zeros(count, np.uint8),
        [],
        np.zeros(count, np.uint8),
    )
    with progress("checking images", count) as bar, _threads() as pool:
        for chunk in chunks(np.arange(count), AT_ONCE):
            places: list[int] = chunk.tolist()
            for index, read in zip(places, pool.map(lambda i: _read(source, i, geometry), places), strict=True):
                bar.advance()
                if isinstance(read, str):
                    found.bad[index] = read
                else:
                    _keep(found, index, read)
    return found


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """One on every core; what waits is let go when the command is interrupted."""
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # odd images that still decode are no news to the user
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read(source: Source, index: int, geometry: Geometry) -> _Read | str:
    try:
        image = source.decode(index)
        geometry.resized(*image.size)
    except (DataError, OSError) as error:
        return why(error)
    return _Read(content_name(image), print_of(image), native_size(image), source.traits(index) or UNKNOWN)


def _keep(found: Scan, index: int, read: _Read) -> None:
    name, kinds = read.traits
    if name not in found.format_names:
        found.format_names.append(name)
    found.ids[index] = read.name
    found.hashes[index], found.is_flat[index] = read.print
    found.sizes[index] = read.size
    found.formats[index] = found.format_names.index(name)
    found.kinds[index] = sum(1 << KINDS.index(kind) for kind in kinds)


def near_duplicates(source: Source, found: Scan, links: Links) -> Iterator[Near]:
    """Pairs of images that look the same and differ in their pixels: as many as have to be told.

    Of exact duplicates on one side, the first stands for all.

    Args:
        source: That was scanned.
        found: The scan.
        links: Of the images, nothing being told yet.
    """
    places = _representatives(found, links.sides)
    candidates = Candidates(found.hashes[places])
    with progress("comparing look-alikes", len(candidates), "pair") as bar, _threads() as pool:
        kept: OrderedDict[int, Small | None] = OrderedDict()
        for pairs in candidates:
            pairs = places[pairs]
            some = pairs[links.open(pairs)].tolist()
            new = sorted({place for pair in some for place in pair} - kept.keys())
            kept.update(zip(new, pool.map(lambda place: _small(source, place), new), strict=True))
            for one, other in some:
                left, right = kept[one], kept[other]
                is_known = found.ids[one] == found.ids[other] or not links.is_open(one, other)
                if not is_known and left is not None and right is not None:
                    alike = correlation(left, right)
                    if alike >= LEAST_CORRELATION:
                        links.add(one, other)
                        yield Near(min(one, other), max(one, other), alike)
            bar.advance(len(pairs))
            while len(kept) > MOST_KEPT:
                kept.popitem(last=False)


def _representatives(found: Scan, sides: Int64[np.ndarray, " images"]) -> Int64[np.ndarray, " places"]:
    places = np.flatnonzero(found.is_good & ~found.is_flat)
    order = np.lexsort((places, sides[places], found.ids[places]))
    places = places[order]
    ids, side = found.ids[places], sides[places]
    is_first = np.ones(len(places), bool)
    is_first[1:] = (ids[1:] != ids[:-1]) | (side[1:] != side[:-1])
    return np.asarray(np.sort(places[is_first]))


def _small(source: Source, index: int) -> Small | None:
    try:
        return small(source.decode(index))
    except (DataError, OSError):  # it has gone since
        return None

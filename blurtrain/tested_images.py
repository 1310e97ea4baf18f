"""Pixels of single test images as a run saw them, for pictures: those that are stored, else decoded again."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from blurtrain.decoding import Geometry
from blurtrain.errors import DataError, StoreError
from blurtrain.opening import open_source
from blurtrain.reading import contents, pixel_table, pixels_of
from blurtrain.reduction import reduced
from blurtrain.runs import Run
from blurtrain.sources import Part, Source
from blurtrain.store import Table, row_id

Pixels = UInt8[np.ndarray, "3 side side"]


@dataclass(frozen=True)
class Unreadable:
    """Why an image cannot be shown.

    Args:
        why: What is said behind its name.
    """

    why: str


def read_tested(run: Run, named: Iterable[tuple[str, str]]) -> list[Pixels | Unreadable]:
    """Pixels of some test images at the network's size; nothing is downloaded.

    Args:
        run: That was tested on them.
        named: What each is called in its source, and its name by content.

    Raises:
        BlurtrainError: If the source cannot be opened any more.
        OSError: If it cannot be read.
    """
    geometry = Geometry(**run.result["backbone"]["preprocessing"]["geometry"])
    source = open_source(replace(run.config.data, download=False))
    table = None if run.config.cache is False else pixel_table(geometry, run.config.cache)
    named = list(named)
    wanted = {file for file, _ in named}
    index = {item.name: place for place, item in enumerate(source.items) if item.name in wanted}
    return [
        _as_tested(Part(source, [index[file]]), geometry, content, table)
        if file in index
        else Unreadable("is not there any more")
        for file, content in named
    ]


def _as_tested(alone: Part, geometry: Geometry, content: str, table: Table | None) -> Pixels | Unreadable:
    """An image by itself, if it is the one of that name by content.

    Whether a large JPEG was decoded at a part of its size depended on all other files, so both ways are tried.
    """
    ways = [reduced(alone, geometry), alone]
    stored = None if table is None else _stored(ways, content, table)
    if stored is not None:
        return stored
    for source in ways:
        read = pixels_of(source, 0, geometry)
        if isinstance(read, str):
            return Unreadable(read)
        if read[1] == content:
            return read[0]
    return Unreadable("is another image than was tested")


def _stored(ways: Sequence[Source], content: str, table: Table) -> Pixels | None:
    for source in ways:
        with suppress(DataError, StoreError, OSError):  # decoding says what is wrong, or mends what is damaged
            key = np.array([row_id(source.key(0))])
            if table.has(key).all() and contents(table, key)[0].decode() == content:
                pixels: Pixels = table.read(key, "pixels")[0]
                return pixels
    return None

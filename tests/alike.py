"""The same images through two sources must be the same image set; and images in folders as rows."""

from pathlib import Path

import numpy as np

from blurtrain.config import DataConfig
from blurtrain.decoding import Geometry
from blurtrain.images import ImageSet, load

GEOMETRY = Geometry(24, 20)
SPLITS = ("train", "val", "test")


def entries_of(folder: Path) -> list[tuple[Path, str, str]]:
    """Path, class and split of every image, the latter empty in class folders."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".jpg", ".png"):
            split = path.parts[-3]
            found.append((path, path.parent.name, split if split in SPLITS else ""))
    return found


def require_same(one: DataConfig, other: DataConfig) -> ImageSet:
    """Identical ids, labels by name, splits and pixels, whatever order the sources have."""
    first, second = (load(config, GEOMETRY, cache=False) for config in (one, other))
    assert len(first.ids) == len(second.ids)
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(first, split), getattr(second, split)
        np.testing.assert_array_equal(first.ids[ours], second.ids[theirs])
        assert [first.classes[label] for label in first.labels[ours]] == [
            second.classes[label] for label in second.labels[theirs]
        ]
        if len(ours):
            np.testing.assert_array_equal(first.read_pixels(ours), second.read_pixels(theirs))
    assert len(first.train)
    assert len(first.test)
    return second

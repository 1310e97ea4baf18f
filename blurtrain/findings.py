"""What a check of images finds: bad and double ones, classes that cannot be trained, odd sizes and formats."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image

from blurtrain.decoding import KINDS, Geometry
from blurtrain.images import RARE_FORMAT
from blurtrain.scanning import Near, Scan
from blurtrain.sources import Item
from blurtrain.splits import split
from blurtrain.store import Ids

SPLITS = ("train", "validation", "test")  # further test sets stand behind them
TRAIN, VALIDATION, TEST = range(3)
ELONGATED = 4.0  # longer side over shorter: the network's square sees less than a quarter
MOSTLY = 0.5  # above this share, something is a property of the set, and told once
PROBLEM, WARNING, NOTE = "problem", "warning", "note"

# In the order in which they are told. A problem stops training, or makes a result wrong.
SEVERITY = {
    "unreadable": PROBLEM,
    "duplicate across splits": PROBLEM,
    "label conflict": PROBLEM,
    "empty split": PROBLEM,
    "empty class": PROBLEM,
    "too few to train": PROBLEM,
    "near duplicate across splits": WARNING,
    "class missing from split": WARNING,
    "fewer than head.folds": WARNING,
    "suffix does not fit": WARNING,
    "smaller than the network": WARNING,
    "elongated": WARNING,
    "duplicate within a split": NOTE,
    "near duplicate within a split": NOTE,
    "rare format": NOTE,
    **dict.fromkeys(KINDS, NOTE),
}
LEFT_OUT = ("unreadable", "duplicate across splits", "label conflict")  # of a mended list


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of what was found.

    Args:
        kind: A key of `SEVERITY`.
        index: Place of the image; none where it is about more than one.
        other: Place of the image that it is compared with.
        split: Name of the split where no image says it.
        group: Name of the class where no image says it.
        detail: In words.
    """

    kind: str
    index: int | None = None
    other: int | None = None
    split: str = ""
    group: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Checked:
    """Images that were looked at.

    Args:
        classes: Names in the order of the labels.
        items: The images.
        scan: What is kept of each.
        splits: Place of each image's split in `names`; -1 where it has none, being bad in a set without splits.
        names: Of the splits, the first three being those of `SPLITS`.
        geometry: Of the network.
        folds: Heads, each validated on its own part of the training images.
        empty: Split and class of folders without images.
        findings: In the order of `SEVERITY`.
    """

    classes: Sequence[str]
    items: Sequence[Item]
    scan: Scan
    splits: Int64[np.ndarray, " images"]
    names: Sequence[str]
    geometry: Geometry
    folds: int
    empty: Sequence[tuple[str, str]] = ()
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def labels(self) -> Int64[np.ndarray, " images"]:
        """Class of each image."""
        return np.fromiter((item.label for item in self.items), np.int64, len(self.items))

    @cached_property
    def sides(self) -> Int64[np.ndarray, " images"]:
        """What is held apart: training, validation, and all that is tested on."""
        return np.asarray(np.minimum(self.splits, TEST))

    @property
    def is_good(self) -> Bool[np.ndarray, " images"]:
        """Where an image can be used."""
        return np.asarray(self.scan.is_good)

    def counts(self) -> Int64[np.ndarray, "classes splits"]:
        """Images that can be used."""
        found = np.zeros((len(self.classes), len(self.names)), np.int64)
        np.add.at(found, (self.labels[self.is_good], self.splits[self.is_good]), 1)
        return found


def resolved(items: Sequence[Item], found: Scan, test_fraction: float) -> tuple[np.ndarray, list[str]]:
    """The split of each image, as training has it, and the names of the splits."""
    names = [*SPLITS, *dict.fromkeys(item.extra_test for item in items if item.extra_test is not None)]
    numbers = {name: number for number, name in enumerate(names)}
    splits = np.array([numbers.get(item.extra_test or item.split or "", -1) for item in items], np.int64)
    first = [index for index, item in enumerate(items) if item.extra_test is None]
    if (splits[first] == -1).all():
        good = np.array([index for index in first if index not in found.bad], np.int64)
        labels = np.array([items[index].label for index in good.tolist()], np.int64)
        if len(good) == 0:
            return splits, names
        train, _, test = split([items[index] for index in good.tolist()], found.ids[good], labels, test_fraction)
        splits[good[train]], splits[good[test]] = TRAIN, TEST
    return splits, names


def findings(checked: Checked, near: Iterable[Near]) -> list[Finding]:
    """All that was found, the gravest first."""
    found = [Finding("unreadable", index, detail=checked.scan.bad[index]) for index in sorted(checked.scan.bad)]
    found += _duplicates(checked)
    found += _near(checked, near)
    found += classes_that_fail(checked, _leaves(checked, found))
    found += _classes_that_lack(checked)
    found += _sizes(checked)
    found += _files(checked)
    order = list(SEVERITY)
    return sorted(found, key=lambda finding: order.index(finding.kind))


def _leaves(checked: Checked, found: Iterable[Finding]) -> Bool[np.ndarray, " images"]:
    """Where an image is trained on, validated on or tested on: not where it is bad or another split has it."""
    left = checked.is_good
    dropped = [finding.index for finding in found if finding.kind == "duplicate across splits"]
    left[np.array(dropped, np.int64)] = False
    return left


def _duplicates(checked: Checked) -> Iterator[Finding]:
    """Images of the same content: with different labels, on different sides, or on one side."""
    for members in _groups(checked.scan, checked.sides):
        yield from _conflicts(checked, members)
        yield from _across(checked, members)
        first: dict[int, int] = {}
        for index in members:
            one = first.setdefault(int(checked.splits[index]), index)
            if one != index and checked.labels[one] == checked.labels[index]:
                yield Finding("duplicate within a split", index, one, detail="the same picture")


def _conflicts(checked: Checked, members: Sequence[int]) -> Iterator[Finding]:
    labels = checked.labels
    of_label = {int(labels[index]): index for index in reversed(members)}
    if len(of_label) > 1:
        for index in members:
            other = next(other for label, other in of_label.items() if label != labels[index])
            detail = f"the same picture is of class {checked.classes[labels[other]]}, too"
            yield Finding("label conflict", index, other, detail=detail)


def _across(checked: Checked, members: Sequence[int]) -> Iterator[Finding]:
    """Those that training leaves out: what is tested on stays, but a further test set gives way."""
    sides, items = checked.sides, checked.items
    own = [index for index in members if items[index].extra_test is None]
    fitted = [] if any(sides[index] == TEST for index in own) else own  # training images give way to these first
    for index in members:
        kept = next(iter(own if items[index].extra_test is None else fitted), index)
        if sides[index] != sides[kept]:
            yield Finding(
                "duplicate across splits", index, kept, detail=f"the same picture is in {_split(checked, kept)}"
            )


def _groups(found: Scan, sides: Int64[np.ndarray, " images"]) -> Iterator[list[int]]:
    """Places of images of the same content, those that are tested on first."""
    places = np.flatnonzero(found.is_good)
    places = places[np.lexsort((places, -sides[places], found.ids[places]))]
    ids = found.ids[places]
    cuts = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    for start, stop in pairwise([0, *cuts.tolist(), len(ids)]):
        if stop - start > 1:
            yield places[start:stop].tolist()


def _near(checked: Checked, near: Iterable[Near]) -> Iterator[Finding]:
    sides, labels = checked.sides, checked.labels
    for one, other, correlation in sorted(near):
        if sides[one] > sides[other]:
            one, other = other, one
        across = sides[one] != sides[other]
        conflict = f", and class {checked.classes[labels[other]]}" if labels[one] != labels[other] else ""
        where = f" as one in {_split(checked, other)}" if across else " as another one"
        detail = f"looks the same{where}{conflict} (correlation {correlation:.3f})"
        yield Finding(f"near duplicate {'across splits' if across else 'within a split'}", one, other, detail=detail)


def classes_that_fail(checked: Checked, left: Bool[np.ndarray, " images"]) -> Iterator[Finding]:
    """What training would refuse, or divide badly, for want of images.

    Args:
        checked: The images.
        left: Where an image is left.
    """
    splits, labels = checked.splits, checked.labels
    validated = bool((left & (splits == VALIDATION)).any())
    train = np.flatnonzero(left & (splits == TRAIN))
    if not (left & (splits == TEST)).any():
        yield Finding("empty split", split="test", detail="no image is left to test on")
    for where, group in checked.empty:
        yield Finding("empty class", split=where, group=group, detail="its folder has no images")
    different = _different(labels[train], checked.scan.ids[train], len(checked.classes))
    told = {group for where, group in checked.empty if where in ("train", "")}
    for group, count in zip(checked.classes, different, strict=True):
        if count == 0 and group not in told:
            yield Finding("empty class", split="train", group=group, detail="no training image is left")
        elif count == 1 and not validated:
            yield Finding("too few to train", split="train", group=group, detail=f"{count} picture, and 2 are needed")
        elif 0 < count < checked.folds and not validated:
            detail = f"{count} different pictures, fewer than the {checked.folds} folds"
            yield Finding("fewer than head.folds", split="train", group=group, detail=detail)
    units: set[str | bytes] = set()
    for index in train.tolist():
        units.add(checked.items[index].group or checked.scan.ids[index])
        if len(units) == checked.folds:
            return
    if not validated:
        detail = f"{len(units)} different pictures or groups, fewer than head.folds {checked.folds}"
        yield Finding("too few to train", split="train", detail=detail)


def _different(labels: Int64[np.ndarray, " train"], ids: Ids, classes: int) -> Int64[np.ndarray, " classes"]:
    """Different contents of each class."""
    order = np.lexsort((ids, labels))
    labels, ids = labels[order], ids[order]
    is_new = np.ones(len(labels), bool)
    is_new[1:] = (labels[1:] != labels[:-1]) | (ids[1:] != ids[:-1])
    return np.bincount(labels[is_new], minlength=classes)


def _classes_that_lack(checked: Checked) -> Iterator[Finding]:
    counts = checked.counts()
    for number in (VALIDATION, TEST):
        if counts[:, number].any():
            for label in np.flatnonzero((counts[:, number] == 0) & (counts[:, TRAIN] > 0)).tolist():
                place = (checked.names[number], checked.classes[label])
                if place not in checked.empty:
                    yield Finding("class missing from split", split=place[0], group=place[1], detail="no image of it")


def _sizes(checked: Checked) -> Iterator[Finding]:
    resize = checked.geometry.resize
    sizes, good = checked.scan.sizes, checked.is_good
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)

    def small(index: int) -> str:
        return f"{_px(sizes[index])}, enlarged to {resize} px"

    def narrow(index: int) -> str:
        return f"{_px(sizes[index])}, of which the network sees a square"

    yield from _each(checked, "smaller than the network", good & (shorter < resize), small)
    yield from _each(checked, "elongated", good & (longer > ELONGATED * shorter), narrow)


def _files(checked: Checked) -> Iterator[Finding]:
    found, good = checked.scan, checked.is_good
    count = int(good.sum())
    for number, name in enumerate(found.format_names):
        own = good & (found.formats == number)
        if name and 0 < own.sum() < RARE_FORMAT * count:
            yield from _each(checked, "rare format", own, _always(f"{name}, unlike the others"))
    known = Image.registered_extensions()
    wrong: dict[int, str] = {}
    for index in np.flatnonzero(good).tolist():
        suffix = Path(checked.items[index].name).suffix.lower()
        name = "JPEG" if (held := found.format_names[found.formats[index]]) == "MPO" else held
        if name and known.get(suffix, name) != name:
            wrong[index] = f"called {suffix}, and holds {name}"
    yield from (Finding("suffix does not fit", index, detail=detail) for index, detail in wrong.items())
    for bit, kind in enumerate(KINDS):
        yield from _each(checked, kind, good & (found.kinds >> bit & 1 == 1), _always(kind))


def _each(
    checked: Checked, kind: str, where: Bool[np.ndarray, " images"], detail: Callable[[int], str]
) -> Iterator[Finding]:
    """A finding for each image, or a single one where most images are so."""
    count, whole = int(where.sum()), int(checked.is_good.sum())
    if count > MOSTLY * whole:
        yield Finding(kind, detail=f"{count} of {whole} images")
    else:
        for index in np.flatnonzero(where).tolist():
            yield Finding(kind, index, detail=detail(index))


def _always(detail: str) -> Callable[[int], str]:
    return lambda _: detail


def _px(size: np.ndarray) -> str:
    return f"{size[0]} x {size[1]} px"


def _split(checked: Checked, index: int) -> str:
    return checked.names[int(checked.splits[index])]


def tally(found: Iterable[Finding]) -> Counter[str]:
    """How many there are of each kind."""
    return Counter(finding.kind for finding in found)

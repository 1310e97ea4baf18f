"""Which classes and which images lose under heavy blur and gain from copies; no torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt16

from blurtrain.differences import adjust, difference
from blurtrain.files import whole_file, write_csv
from blurtrain.roster import Roster

CLASSES, IMAGES = "classes.csv", "images.csv"
BLOCK = 4096  # images whose rows are made at once

KINDS = ("rescued", "lost", "right in both", "wrong in both")
KIND = np.array([[3, 0], [1, 2]], np.int8)  # of an image, by whether the reference and the arm are right

IMAGE_COLUMNS = ["file", "image", "class", "arm", "reference_heavy", "arm_heavy", "change"]
IMAGE_COLUMNS += ["reference_clean", "arm_clean", "kind"]


@dataclass(frozen=True)
class Tally:
    """How often the heads of each arm are right on each test image: all that the stored predictions say of it.

    Args:
        views: How many are heavy, at least one.
        labels: Class of each image.
        groups: Statistical unit of each image, as a whole number.
        clean: By arm, the reference first: whether each head is right on the clean image.
        heavy: By arm: in how many of the heavy views each head is right.
    """

    views: int
    labels: Int64[np.ndarray, " images"]
    groups: Int64[np.ndarray, " images"]
    clean: Mapping[str, Bool[np.ndarray, "heads images"]]
    heavy: Mapping[str, UInt16[np.ndarray, "heads images"]]

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.clean))

    @property
    def others(self) -> list[str]:
        """The other arms."""
        return list(self.clean)[1:]

    @property
    def seen(self) -> int:
        """How often an image is seen under heavy blur: by every head in every view."""
        return self.views * len(self.clean[self.reference])

    def times_right(self, arm: str) -> Int64[np.ndarray, " images"]:
        """How often of these each image is classified correctly."""
        return np.asarray(self.heavy[arm].sum(axis=0, dtype=np.int64))

    def kinds(self, arm: str) -> np.ndarray:
        """Place in `KINDS` of each image; right is what most heads in most views are: more than half of all."""
        before, after = (2 * self.times_right(name) > self.seen for name in (self.reference, arm))
        return np.asarray(KIND[before.astype(np.int8), after.astype(np.int8)])


def tally(
    correct: Sequence[Mapping[str, Bool[np.ndarray, "heads images"]]],
    clean: Mapping[str, Bool[np.ndarray, "heads images"]],
    labels: Int64[np.ndarray, " images"],
    groups: np.ndarray,
) -> Tally:
    """Count over the heavy views.

    Args:
        correct: By heavy view and arm.
        clean: By arm.
        labels: Class of each image.
        groups: Statistical unit of each.
    """
    heavy = {arm: np.zeros(right.shape, np.uint16) for arm, right in clean.items()}
    for view in correct:
        for arm, right in view.items():
            heavy[arm] += right
    return Tally(len(correct), labels, np.unique(groups, return_inverse=True)[1].astype(np.int64), clean, heavy)


def most_changed(counts: Tally, arm: str, kind: str, order: Sequence[int], count: int) -> list[int]:
    """Images of a kind whose answers change most often, of equal ones the first in a given order.

    Args:
        counts: Of the comparison.
        arm: Other than the reference.
        kind: One of `KINDS`.
        order: Places of all images.
        count: How many, at most.
    """
    kinds, gain = counts.kinds(arm), counts.times_right(arm) - counts.times_right(counts.reference)
    found = [place for place in order if kinds[place] == KINDS.index(kind)]
    return sorted(found, key=lambda place: -abs(int(gain[place])))[:count]


def class_rows(counts: Tally, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each arm other than the reference and each class with test images; Holm's adjustment is over classes.

    Args:
        counts: Of the comparison.
        classes: Names in the order of the labels.
    """
    order = np.argsort(counts.labels, kind="stable")
    edges = np.searchsorted(counts.labels[order], np.arange(len(classes) + 1))
    rows = []
    for arm in counts.others:
        every = [
            {"class": name, "arm": arm, **_class_row(counts, arm, order[first:last])}
            for name, first, last in zip(classes, edges[:-1], edges[1:], strict=True)
            if first < last
        ]
        adjust(every)
        rows += every
    return rows


def _class_row(counts: Tally, arm: str, here: Int64[np.ndarray, " members"]) -> dict[str, Any]:
    """What a class's images say."""
    clean = {name: counts.clean[name][:, here] for name in (counts.reference, arm)}
    heavy = {name: counts.heavy[name][:, here] / counts.views for name in (counts.reference, arm)}
    before, after = heavy.values()
    reference_clean, arm_clean = (float(right.mean()) for right in clean.values())
    return {
        "images": len(here),
        "groups": len(np.unique(counts.groups[here])),
        "reference_clean": reference_clean,
        "arm_clean": arm_clean,
        "reference_heavy": float(before.mean()),
        "arm_heavy": float(after.mean()),
        "reference_loss": reference_clean - float(before.mean()),
        **difference(after - before, counts.groups[here]),
    }


def largest_class(labels: Int64[np.ndarray, " images"], classes: Sequence[str]) -> dict[str, Any]:
    """The most frequent class, the first of those that are: always answering it is right for this share of images.

    Args:
        labels: Class of each image.
        classes: Names in the order of the labels.
    """
    counts = np.bincount(labels)
    largest = int(counts.argmax())
    return {"class": classes[largest], "images": int(counts[largest]), "share": float(counts[largest] / len(labels))}


def image_counts(counts: Tally) -> dict[str, dict[str, int]]:
    """How many images of each kind there are, by arm."""
    return {
        arm: dict(zip(KINDS, np.bincount(counts.kinds(arm), minlength=len(KINDS)).tolist(), strict=True))
        for arm in counts.others
    }


def write_images(path: Path, counts: Tally, classes: Sequence[str], roster: Roster) -> None:
    """Write one row for each arm other than the reference and each test image, those that gain most first.

    Raises:
        StoreError: If the file cannot be written.
    """
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        write_csv(file, [IMAGE_COLUMNS])
        for arm in counts.others:
            for rows in _image_rows(counts, arm, classes, roster):
                write_csv(file, rows)


def _image_rows(counts: Tally, arm: str, classes: Sequence[str], roster: Roster) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Rows of an arm, block by block: of what is made from names only a block is ever held."""
    before, after, kinds = counts.times_right(counts.reference), counts.times_right(arm), counts.kinds(arm)
    order = np.argsort(before - after, kind="stable")
    for start in range(0, len(order), BLOCK):
        here = order[start : start + BLOCK]
        files, images = roster.rows(here)
        shares = [before[here], after[here], after[here] - before[here]]
        yield zip(
            files,
            images,
            [classes[label] for label in counts.labels[here]],
            [arm] * len(here),
            *((share / counts.seen).tolist() for share in shares),
            *(counts.clean[name][:, here].mean(axis=0).tolist() for name in (counts.reference, arm)),
            [KINDS[kind] for kind in kinds[here]],
            strict=True,
        )

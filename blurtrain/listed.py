"""Images that something lists by name, class and split: which of them are used, and what is refused."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from blurtrain.errors import DataError
from blurtrain.sources import SPLITS, Item

# At the beginning of a file's name, and no other word: `train-000.tar`, not `trains.tar`.
SPLIT_WORD = re.compile(rf"({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)


class Listing(NamedTuple):
    """What lists images, row by row.

    Args:
        names: Of the images.
        labels: Names of their classes.
        splits: Of all images, or of none.
        order: The classes in the order of their labels, also such as have no image; else they are sorted.
    """

    names: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str | None]
    order: Sequence[str] | None = None


class Chosen(NamedTuple):
    """The images that are used.

    Args:
        classes: In the order of the labels.
        items: The images.
        rows: Place of each in the listing.
    """

    classes: tuple[str, ...]
    items: list[Item]
    rows: list[int]


def choose(root: str, listing: Listing, *, trained: bool, lenient: bool = False) -> Chosen:
    """Number the classes and choose the images.

    Args:
        root: What lists them, for errors.
        listing: The images.
        trained: Whether a head is to be trained on them. Else all images are test images, or where splits are given
            those of the test split alone, and one class is enough.
        lenient: Whether a class may lack training images.

    Raises:
        DataError: If a split or a class has no images that it needs.
    """
    names, labels, splits, order = listing
    given = any(split is not None for split in splits)
    rows = [row for row, split in enumerate(splits) if trained or split in (None, "test")]
    _require_splits(root, {split for split in splits if given and split}, trained=trained, given=given)
    found = {labels[row] for row in rows}
    classes = tuple(label for label in (sorted(found) if order is None else order) if label in found)
    needed = 2 if trained else 1
    if len(classes) < needed:
        raise DataError(f"{root} has images of {len(classes)} class(es), and at least {needed} are needed: list more")
    if trained and given and not lenient:
        fitted = {labels[row] for row in rows if splits[row] == "train"}
        for row in rows:
            if labels[row] not in fitted:
                raise DataError(
                    f"class {labels[row]!r} of {names[row]} in {root} has no training images: add some, or remove it"
                )
    number = {name: label for label, name in enumerate(classes)}
    items = [Item(names[row], number[labels[row]], splits[row] if trained else "test") for row in rows]
    return Chosen(classes, items, rows)


def _require_splits(root: str, found: set[str], *, trained: bool, given: bool) -> None:
    for needed in (("train", "test") if trained else ("test",)) if given else ():
        if needed not in found:
            has = ", ".join(sorted(found))
            raise DataError(
                f"{root} has no images of the split {needed!r} (it has {has}): "
                + ("both train and test are needed, or no splits at all, which are then made by content" * trained)
                + ("it is needed, or no splits at all" * (not trained))
            )


def splits_of_files(root: str, names: Sequence[str], notes: list[str], *, trained: bool) -> list[str | None]:
    """The split that each file's name begins with; none where all begin with the same one and more are needed.

    Args:
        root: What the files are called together.
        names: Of the files, without their folders.
        notes: To which is added that a word plays no part.
        trained: Whether a head is to be trained on them.

    Raises:
        DataError: If some begin with a split and others do not.
    """
    words = [SPLIT_WORD.match(name) for name in names]
    splits = [None if word is None else SPLITS[word[1].lower()] for word in words]
    if None in splits and any(splits):
        odd = names[splits.index(None)]
        raise DataError(f"{odd} of {root} begins with no split and others do: begin all with train, val or test")
    if len(set(splits)) == 1 and splits[0] is not None and (trained or splits[0] != "test"):
        use = "their images are split by content" if trained else "all their images are tested on"
        notes.append(f"note: all files of {root} are called {splits[0]}: {use}")
        return [None] * len(splits)
    return splits

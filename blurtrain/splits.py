"""Split images into training, validation, test and folds, by content alone and before any blur."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from blurtrain.progress import say
from blurtrain.sources import Item
from blurtrain.store import Ids


def split(
    items: Sequence[Item], ids: Ids, labels: Int64[np.ndarray, " images"], test_fraction: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the training, validation and test images; disjoint by content, and each in the order of content.

    With given splits, an image whose exact duplicate is a test image leaves the other splits, and one whose
    duplicate is a validation image leaves training. Without, each class is dealt out by content hash.
    """
    given = np.array([item.split or "" for item in items])
    if (given == "").all():
        test_mask = _share_of_each_class(ids, labels, test_fraction)
        return _by_content(~test_mask, ids, labels), np.empty(0, np.int64), _by_content(test_mask, ids, labels)
    test = _by_content(given == "test", ids, labels)
    validation = _by_content((given == "validation") & ~np.isin(ids, ids[test]), ids, labels)
    train = _by_content((given == "train") & ~np.isin(ids, ids[np.r_[test, validation]]), ids, labels)
    dropped = len(items) - len(test) - len(validation) - len(train)
    if dropped:
        say(f"note: {dropped} images are left out because their exact duplicate is in the test or validation split")
    return train, validation, test


def further_tests(
    items: Sequence[Item],
    ids: Ids,
    labels: Int64[np.ndarray, " images"],
    fitted: Int64[np.ndarray, " fitted"],
) -> dict[str, Int64[np.ndarray, " _"]]:
    """Positions of the images of each further test set, in the order of content.

    An image whose exact duplicate is fitted or validated on leaves the test set.

    Args:
        items: All images.
        ids: Their names by content.
        labels: Their classes.
        fitted: Positions of the training and validation images.
    """
    known = np.isin(ids, ids[fitted])
    found = {}
    for name in dict.fromkeys(item.extra_test for item in items if item.extra_test is not None):
        own = np.array([item.extra_test == name for item in items])
        found[name] = _by_content(own & ~known, ids, labels)
        if dropped := int((own & known).sum()):
            say(f"note: {dropped} images of {name} are left out because their exact duplicate is trained on")
    return found


def _by_content(
    chosen: Bool[np.ndarray, " images"], ids: Ids, labels: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, " chosen"]:
    """Positions in the order of content: sums and batches then do not depend on what files are called."""
    positions = np.flatnonzero(chosen)
    return np.asarray(positions[np.lexsort((labels[positions], ids[positions]))])


def _share_of_each_class(
    ids: Ids, labels: Int64[np.ndarray, " images"], fraction: float
) -> Bool[np.ndarray, " images"]:
    """The images of each class whose content hash is lowest, at least one and never all of them.

    An image with two labels counts with the lowest, so that its duplicates stay on one side whatever they are called.
    """
    by_label = np.argsort(labels, kind="stable")
    contents, first = np.unique(ids[by_label], return_index=True)
    chosen = [
        members[: min(max(1, round(fraction * len(members))), len(members) - 1)]
        for label in np.unique(labels)
        for members in [contents[labels[by_label][first] == label]]
    ]
    return np.asarray(np.isin(ids, np.concatenate(chosen)))


def deal(
    ids: Ids, labels: Int64[np.ndarray, " images"], groups: Int64[np.ndarray, " images"], parts: int
) -> Int64[np.ndarray, " images"]:
    """Deal images into parts by content hash, evenly within each class; a group is never divided.

    Groups that hold several classes are dealt among themselves. Each unit, in the order of its hash, goes to the
    part that has fewest images of its class so far, so the parts depend on the images alone, not on their order.
    """
    units, unit_of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(unit_of)
    lowest, highest = np.full(len(units), np.iinfo(np.int64).max), np.full(len(units), -1)
    np.minimum.at(lowest, unit_of, labels)
    np.maximum.at(highest, unit_of, labels)
    stratum = np.where(lowest == highest, lowest, -1)
    by_hash = np.lexsort((ids,))
    rank = np.full(len(units), len(ids))
    np.minimum.at(rank, unit_of[by_hash], np.arange(len(ids)))
    part_of = np.empty(len(units), np.int64)
    for turn, kind in enumerate(np.unique(stratum)):
        members = np.flatnonzero(stratum == kind)
        load = np.zeros(parts)
        load += np.roll(np.arange(parts), turn) * 1e-6  # ties start at another part in every class
        for unit in members[np.argsort(rank[members])]:
            part = int(load.argmin())
            part_of[unit] = part
            load[part] += sizes[unit]
    return part_of[unit_of]

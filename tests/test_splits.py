"""Splits and folds: by content alone, disjoint, even within each class, and never through a group."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blurtrain.files import sha256
from blurtrain.sources import Item
from blurtrain.splits import deal, split
from blurtrain.store import ID, Ids, row_id


def ids_of(contents: Sequence[object]) -> Ids:
    return np.array([row_id(sha256(str(content))) for content in contents], ID)


def items_of(labels: Sequence[int], splits: Sequence[str | None] | None = None) -> list[Item]:
    return [
        Item(f"{i}.jpg", label, split_)
        for i, (label, split_) in enumerate(zip(labels, splits or [None] * len(labels), strict=True))
    ]


def divide(
    contents: Sequence[object],
    labels: Sequence[int],
    splits: Sequence[str | None] | None = None,
    fraction: float = 0.25,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return split(items_of(labels, splits), ids_of(contents), np.array(labels, np.int64), fraction)


# Images as (content, label); few contents make exact duplicates, also under two labels.
drawn_images = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=2, max_size=60)
fractions = st.floats(0.01, 0.99)


@given(drawn_images, fractions)
def test_split_by_content_covers_all_and_no_content_is_on_both_sides(
    images: list[tuple[int, int]], fraction: float
) -> None:
    contents, labels = zip(*images, strict=True)
    train, validation, test = divide(contents, labels, fraction=fraction)
    assert sorted([*train, *validation, *test]) == list(range(len(images)))
    assert len(validation) == 0
    assert not {contents[i] for i in train} & {contents[i] for i in test}


@given(st.lists(st.integers(2, 30), min_size=2, max_size=4), fractions)
def test_each_class_gives_its_share_but_never_all(sizes: list[int], fraction: float) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    _, _, test = divide(range(len(labels)), labels.tolist(), fraction=fraction)
    for label, size in enumerate(sizes):
        count = int((labels[test] == label).sum())
        assert 1 <= count <= size - 1
        assert abs(count - fraction * size) <= 1


@given(st.sets(st.integers(0, 999), min_size=4, max_size=40), st.randoms(use_true_random=False))
def test_split_by_content_does_not_depend_on_names_or_order(contents: set[int], random: Random) -> None:
    ordered = sorted(contents)
    shuffled = list(ordered)
    random.shuffle(shuffled)

    def test_contents(some: list[int]) -> set[int]:
        return {some[i] for i in divide(some, [content % 2 for content in some])[2]}

    assert test_contents(ordered) == test_contents(shuffled)


def test_added_image_moves_few_others() -> None:
    labels = [0] * 100
    before = set(divide(range(100), labels)[2])
    after = set(divide(range(101), [*labels, 0])[2])
    assert len(before ^ (after - {100})) <= 2


def test_given_splits_are_kept() -> None:
    given_ = ["train", "test", "validation", "train"]
    train, validation, test = divide(range(4), [0, 0, 1, 1], given_)
    assert (sorted(train), validation.tolist(), test.tolist()) == ([0, 3], [2], [1])


@given(drawn_images, st.booleans(), st.randoms(use_true_random=False))
def test_splits_are_in_the_order_of_content_whatever_the_order_of_files(
    images: list[tuple[int, int]], is_given: bool, random: Random
) -> None:
    splits = [("train", "validation", "test")[content % 3] for content, _ in images] if is_given else None
    order = list(range(len(images)))
    random.shuffle(order)

    def seen(some: Sequence[int]) -> list[list[tuple[int, int]]]:
        contents, labels = zip(*(images[i] for i in some), strict=True)
        parts = divide(contents, labels, splits and [splits[i] for i in some])
        return [[(contents[i], labels[i]) for i in part] for part in parts]

    assert seen(range(len(images))) == seen(order)


def test_duplicates_leave_training_and_validation(capsys: pytest.CaptureFixture[str]) -> None:
    contents = ["same", "same", "same", "held", "held", "own"]
    given_ = ["train", "validation", "test", "train", "validation", "train"]
    train, validation, test = divide(contents, [0] * 6, given_)
    assert (train.tolist(), validation.tolist(), test.tolist()) == ([5], [4], [2])
    assert "note: 3 images are left out because their exact duplicate is in the test or" in capsys.readouterr().err


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["train", "validation", "test"])), max_size=40))
def test_given_splits_are_disjoint_by_content_and_test_is_whole(images: list[tuple[int, str]]) -> None:
    if not images:
        return
    contents, given_ = zip(*images, strict=True)
    parts = divide(contents, [0] * len(images), given_)
    seen = [{contents[i] for i in part} for part in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert len(parts[2]) == given_.count("test")
    assert set().union(*seen) == set(contents)


@st.composite
def dealt_images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels and groups of some images, and a number of parts; a group may hold one class or several."""
    groups = np.array(draw(st.lists(st.integers(0, 25), min_size=1, max_size=80)))
    own_label = np.array(draw(st.lists(st.integers(0, 3), min_size=26, max_size=26)))
    mixed = draw(st.booleans())
    labels = np.array(draw(st.lists(st.integers(0, 3), min_size=len(groups), max_size=len(groups))))
    return (labels if mixed else own_label[groups]), groups, draw(st.integers(2, 7))


@given(dealt_images())
def test_deal_never_divides_a_group(images: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, groups, parts = images
    dealt = deal(ids_of(range(len(labels))), labels, groups, parts)
    assert set(dealt) <= set(range(parts))
    for group in np.unique(groups):
        assert len(np.unique(dealt[groups == group])) == 1


@given(dealt_images())
def test_deal_is_even_within_each_kind(images: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, groups, parts = images
    dealt = deal(ids_of(range(len(labels))), labels, groups, parts)
    kinds = {group: frozenset(labels[groups == group]) for group in np.unique(groups)}
    several = np.array([len(kinds[group]) > 1 for group in groups])
    strata = [several, *(~several & (labels == label) for label in range(4))]
    for stratum in strata:
        if stratum.any():
            largest_group = max(np.bincount(groups[stratum]))
            counts = np.bincount(dealt[stratum], minlength=parts)
            assert counts.max() - counts.min() <= largest_group


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(2, 6))
def test_single_images_are_stratified_exactly(labels: list[int], parts: int) -> None:
    count = len(labels)
    dealt = deal(ids_of(range(count)), np.array(labels, np.int64), np.arange(count), parts)
    for label in set(labels):
        counts = np.bincount(dealt[np.array(labels) == label], minlength=parts)
        assert counts.max() - counts.min() <= 1


def test_classes_do_not_all_start_with_the_same_part() -> None:
    labels = np.repeat(np.arange(4), 3)  # three images of each class in four parts
    dealt = deal(ids_of(range(12)), labels, np.arange(12), 4)
    assert np.bincount(dealt, minlength=4).tolist() == [3, 3, 3, 3]


@given(dealt_images(), st.randoms(use_true_random=False))
def test_deal_depends_on_content_and_not_on_order(images: tuple[np.ndarray, np.ndarray, int], random: Random) -> None:
    labels, groups, parts = images
    ids = ids_of(range(len(labels)))
    order = list(range(len(labels)))
    random.shuffle(order)
    renamed = 100 - groups  # another numbering of the same groups
    dealt = deal(ids, labels, groups, parts)
    again = deal(ids[order], labels[order], renamed[order], parts)
    np.testing.assert_array_equal(again, dealt[order])

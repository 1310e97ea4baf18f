"""Near duplicates: images that look the same although their pixels differ, found without comparing all pairs.

Each image has a hash of 64 bits (DCT pHash: Zauner, "Implementation and benchmarking of perceptual image hash
functions", 2010). Two hashes that differ in few bits make a candidate; it is a near duplicate if the two pictures,
made small, also correlate. The hash finds copies among millions of images; the correlation, which is too large to be
kept for all, tells copies from pictures that merely have the same layout.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8, UInt64
from PIL import Image

SIDE = 32  # px of the small picture, as Zauner has it
LOW = 8  # frequencies in each direction: 8 x 8 = 64 bits
MOST_BITS = 6  # that may differ: measured in docs/data.md
LEAST_CORRELATION = 0.95  # of the small pictures: measured there, too
FLAT = 1.0  # grey levels, standard deviation of the small picture: below it there is nothing to recognise
EQUAL = 3  # blocks of bits by which candidates are found
BLOCKS = MOST_BITS + EQUAL  # so that so many stay equal wherever the differing bits are
PAIRS_AT_ONCE = 1024  # few, so that what is found settles the next ones

Small = UInt8[np.ndarray, "32 32"]
Hashes = UInt64[np.ndarray, " images"]
Pairs = Int64[np.ndarray, "pairs 2"]
Places = Int64[np.ndarray, " places"]


class Print(NamedTuple):
    """What is kept of an image to recognise it.

    Args:
        hash: 64 bits.
        is_flat: Whether there is too little to be seen for the hash to mean anything.
    """

    hash: int
    is_flat: bool


def small(image: Image.Image) -> Small:
    """The picture in grey at 32 x 32 px, whatever its shape."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def print_of(image: Image.Image) -> Print:
    """Its 64 lowest frequencies, each 1 where it exceeds the median of all but the mean."""
    grey = small(image).astype(np.float64)
    coefficients = (_COSINES @ grey @ _COSINES.T).ravel()
    bits = coefficients > np.median(coefficients[1:])
    return Print(int.from_bytes(np.packbits(bits).tobytes(), "big"), bool(grey.std() < FLAT))


def _cosines() -> Float64[np.ndarray, "low side"]:
    """The first rows of the orthonormal DCT-II."""
    frequency, place = np.mgrid[:LOW, :SIDE]
    rows = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows)


_COSINES = _cosines()


def near_pairs(hashes: Hashes) -> Pairs:
    """All pairs of distinct hashes that differ in at most `MOST_BITS` bits, each once.

    The bits are cut into `BLOCKS` blocks. However so few differing bits lie, they leave `EQUAL` blocks equal, so it is
    enough to compare those that share that many, for every choice of them: they stand next to each other when sorted
    by these blocks. The three blocks have at least 21 bits, so that few of a million hashes share them by chance.

    Args:
        hashes: All different.

    Returns:
        Places in `hashes`, the lower first, in order.
    """
    masks = _masks()
    found = [np.empty((0, 2), np.int64)]
    for chosen in combinations(range(BLOCKS), EQUAL):
        keys = hashes & np.bitwise_or.reduce(masks[list(chosen)])
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], hashes[order]
        left, step = np.arange(len(hashes)), 1
        while True:
            left = left[: np.searchsorted(left, len(hashes) - step)]
            left = left[keys[left] == keys[left + step]]
            if len(left) == 0:
                break
            differing = ordered[left] ^ ordered[left + step]
            is_near = np.bitwise_count(differing) <= MOST_BITS
            near, differing = left[is_near], differing[is_near]
            near = near[_are_first(differing, masks, chosen)]
            found.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
            step += 1
    pairs = np.concatenate(found)
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])


def _masks() -> UInt64[np.ndarray, " blocks"]:
    cuts = [64 * block // BLOCKS for block in range(BLOCKS + 1)]
    return np.array([2**stop - 2**start for start, stop in pairwise(cuts)], np.uint64)


def _are_first(
    differing: UInt64[np.ndarray, " pairs"], masks: UInt64[np.ndarray, " blocks"], chosen: tuple[int, ...]
) -> Bool[np.ndarray, " pairs"]:
    """Whether the chosen blocks are the first ones that a pair shares, so that each pair is told once."""
    return np.asarray(((differing[:, None] & masks[: chosen[-1] + 1]) == 0).sum(axis=1) == EQUAL)


class Candidates:
    """Pairs of images whose hashes are near, in groups of equal hashes so that many alike take little memory.

    Args:
        hashes: Of images.
    """

    def __init__(self, hashes: Hashes) -> None:
        values, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        self._members = np.argsort(inverse, kind="stable")
        self._stops = np.cumsum(counts)
        self._counts = counts
        self._pairs = near_pairs(values)

    def __len__(self) -> int:
        within = (self._counts * (self._counts - 1) // 2).sum()
        return int(within + self._counts[self._pairs].prod(axis=1).sum())

    def __iter__(self) -> Iterator[Pairs]:
        """All pairs, each once, one to two thousand at a time."""
        some, count = [], 0
        for block in self._blocks():
            some.append(block)
            count += len(block)
            if count >= PAIRS_AT_ONCE:
                yield np.concatenate(some)
                some, count = [], 0
        if some:
            yield np.concatenate(some)

    def _blocks(self) -> Iterator[Pairs]:
        for value in np.flatnonzero(self._counts > 1).tolist():
            group = self._group(value)
            for place in range(len(group) - 1):
                yield from _products(group[place : place + 1], group[place + 1 :])
        is_single = (self._counts[self._pairs] == 1).all(axis=1)
        single = self._pairs[is_single]
        for start in range(0, len(single), PAIRS_AT_ONCE):  # most pairs, where hashes are near and not equal
            yield self._members[self._stops[single[start : start + PAIRS_AT_ONCE]] - 1]
        for one, other in self._pairs[~is_single].tolist():
            yield from _products(self._group(one), self._group(other))

    def _group(self, value: int) -> Places:
        stop = self._stops[value]
        return np.asarray(self._members[stop - self._counts[value] : stop])


def _products(left: Int64[np.ndarray, " left"], right: Int64[np.ndarray, " right"]) -> Iterator[Pairs]:
    """Every one with every other, in blocks that bound the memory."""
    for start in range(0, len(right), PAIRS_AT_ONCE):
        others = right[start : start + PAIRS_AT_ONCE]
        step = PAIRS_AT_ONCE // len(others)
        for place in range(0, len(left), step):
            some = left[place : place + step]
            yield np.stack([np.repeat(some, len(others)), np.tile(others, len(some))], axis=1)


class Links:
    """Which pairs have to be told so that no image that looks like another goes unsaid, where many look alike.

    Of n images that are alike there are n (n - 1) / 2 pairs. Within a side n - 1 of them are told, which join them
    all. Across sides a pair is told unless both images are told already with one of the other's split. Pairs of one
    class and pairs of two are told apart from each other: every image that looks like one of another class is named.

    Args:
        sides: What is held apart, such as training and test: small numbers.
        splits: Parts of the sides, small numbers; -1 of images that are in no pair.
        labels: Classes of the images.
    """

    def __init__(
        self,
        sides: Int64[np.ndarray, " images"],
        splits: Int64[np.ndarray, " images"],
        labels: Int64[np.ndarray, " images"],
    ) -> None:
        self.sides, self._splits, self._labels = sides, splits, labels
        # Of everything, row 0 is about pairs of one class and row 1 about pairs of two.
        self._tree = np.tile(np.arange(len(sides)), (2, 1))
        self._members: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})  # of trees of more than one
        self._is_told = np.zeros((2, len(splits), int(splits.max(initial=0)) + 1), bool)  # with one of another split

    def open(self, pairs: Pairs) -> Bool[np.ndarray, " pairs"]:
        """Where a pair would have to be told if it looked the same."""
        return np.asarray(~self._is_settled(*pairs.T))

    def is_open(self, one: int, other: int) -> bool:
        """Whether this pair would have to be told if it looked the same."""
        return not bool(self._is_settled(one, other))

    def _is_settled(self, one: Places | int, other: Places | int) -> Bool[np.ndarray, "..."]:
        """Of images or of arrays of them. Trees join no sides, and only pairs across sides are marked as told."""
        kind = (self._labels[one] != self._labels[other]) * 1
        is_joined = self._tree[kind, one] == self._tree[kind, other]
        is_told = self._is_told[kind, one, self._splits[other]] & self._is_told[kind, other, self._splits[one]]
        return np.asarray(is_joined | is_told)

    def add(self, one: int, other: int) -> None:
        """Take a pair that looks the same and is open: it is told now."""
        kind = int(self._labels[one] != self._labels[other])
        if self.sides[one] == self.sides[other]:
            self._join(kind, one, other)
        else:
            self._is_told[kind, one, self._splits[other]] = True
            self._is_told[kind, other, self._splits[one]] = True

    def _join(self, kind: int, one: int, other: int) -> None:
        tree, members = self._tree[kind], self._members[kind]
        large, small = (members.pop(int(tree[place]), [place]) for place in (one, other))
        if len(large) < len(small):  # so that an image changes its tree log n times at most
            large, small = small, large
        number = int(tree[large[0]])
        tree[small] = number
        large.extend(small)
        members[number] = large


def correlation(one: Small, other: Small) -> float:
    """Of two small pictures, which brightness and contrast leave as it is: from -1 to 1; 0 where one is uniform."""
    left, right = (grey.astype(np.float64) - grey.mean() for grey in (one, other))
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float((left * right).sum()) / norms if norms else 0.0

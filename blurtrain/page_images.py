"""Which test images a page shows, and their pictures through every blur as data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from blurtrain.blur import blur_pixels
from blurtrain.breakdown import KINDS
from blurtrain.errors import BlurtrainError
from blurtrain.page_answers import Answers
from blurtrain.runs import Run
from blurtrain.tested_images import Unreadable, read_tested
from blurtrain.views import CLEAN, Blur

SIDES = (224, 160, 112, 80, 56, 40)  # px of a picture: the largest of which all fit
MOST_BYTES = 2_000_000  # of all pictures together, before base64 adds a third
QUALITY, EFFORT = 82, 2  # of WebP
SMOOTH = 94  # the quality of blurred pictures, which have blocks below it, and take little space
EXACT = 128  # px: smaller pictures are kept pixel by pixel, because each pixel can be seen

Positions = Int64[np.ndarray, " _"]


def shares(counts: Sequence[int], total: int) -> list[int]:
    """How many of so many each kind gets, in proportion to its number: largest remainder, of equal ones the first."""
    everything = sum(counts)
    total = min(total, everything)
    exact = [total * count / everything for count in counts]
    given = [int(share) for share in exact]
    rest = sorted(range(len(counts)), key=lambda i: (given[i] - exact[i], i))[: total - sum(given)]
    return [count + (place in rest) for place, count in enumerate(given)]


def mixed(answers: Answers, arm: str, order: Sequence[int], count: int) -> list[int]:
    """So many test images, the kinds as often as in the whole set, and of each kind the first in a given order."""
    if answers.counts is None:
        return list(order[:count])
    kinds = answers.counts.kinds(arm)
    wanted = shares(np.bincount(kinds, minlength=len(KINDS)).tolist(), count)
    return [
        place
        for kind, number in enumerate(wanted)
        for place in [position for position in order if kinds[position] == kind][:number]
    ]


def one_of_each_class(labels: Int64[np.ndarray, " images"], order: Sequence[int], count: int) -> list[int]:
    """The first image of each class in a given order, until there are enough; then further ones."""
    first: dict[int, int] = {}
    for place in order:
        first.setdefault(int(labels[place]), place)
    taken = set(first.values())
    others = (place for place in order if place not in taken)
    return [*first.values(), *others][:count]


@dataclass(frozen=True)
class Album:
    """Pictures of some test images.

    Args:
        side: Of the pictures, px.
        pictures: Data URIs by image and view.
        missing: Why an image has none.
        reason: Why no image has any; else nothing.
    """

    side: int
    pictures: Mapping[tuple[int, str], str] = field(default_factory=dict)
    missing: Mapping[int, str] = field(default_factory=dict)
    reason: str | None = None


def album(run: Run, ids: Sequence[str], files: Sequence[str], wanted: Mapping[int, Sequence[Blur]]) -> Album:
    """Read only the images that are shown, and blur them as they were tested.

    An image that is not there any more, or is another than was tested, has no picture but a reason.

    Args:
        run: Whose test images they are.
        ids: Their names by content.
        files: What they are called in their source.
        wanted: Views of each image, by its place in the test split.
    """
    places = sorted(wanted)
    try:
        read = read_tested(run, [(files[place], ids[place]) for place in places])
    except (BlurtrainError, OSError) as error:
        return Album(0, reason=str(error))
    found = {place: pixels for place, pixels in zip(places, read, strict=True) if not isinstance(pixels, Unreadable)}
    missing = {place: pixels.why for place, pixels in zip(places, read, strict=True) if isinstance(pixels, Unreadable)}
    views: dict[Blur, list[int]] = {}
    for place in found:
        for view in wanted[place]:
            views.setdefault(view, []).append(place)
    seen: dict[tuple[int, str], UInt8[np.ndarray, "3 side side"]] = {}
    for view, members in views.items():
        try:
            blurred = blur_pixels(np.stack([found[place] for place in members]), view)
        except BlurtrainError as error:  # the file of a measured blur may have gone
            return Album(0, reason=str(error))
        for place, one in zip(members, blurred, strict=True):
            seen[place, view.name] = _shown(np.rint(255 * one).clip(0, 255).astype(np.uint8))
    side, pictures = _encoded(seen)
    return Album(side, pictures, missing)


def _shown(pixels: UInt8[np.ndarray, "3 height width"]) -> UInt8[np.ndarray, "3 side side"]:
    """No larger than pictures are, since a hundred views of many images are kept until all fit."""
    if pixels.shape[-1] <= SIDES[0]:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return np.asarray(image.resize((SIDES[0], SIDES[0]), Image.Resampling.BOX)).transpose(2, 0, 1)


def _encoded(
    seen: Mapping[tuple[int, str], UInt8[np.ndarray, "3 side side"]],
) -> tuple[int, dict[tuple[int, str], str]]:
    """All pictures as data URIs of the largest side at which they fit in a page."""
    full = next(iter(seen.values())).shape[-1] if seen else SIDES[0]
    for allowed in SIDES:
        side, last = min(full, allowed), allowed == SIDES[-1]
        exact = side < EXACT and not (last and side < full)  # where so many are shown, pixels are not
        encoded: dict[tuple[int, str], bytes] = {}
        size = 0
        for key, pixels in seen.items():
            encoded[key] = _webp(pixels, side, QUALITY if key[1] == CLEAN.name else SMOOTH, exact=exact)
            size += len(encoded[key])
            if size > MOST_BYTES and not last:
                break
        else:
            break
    return side, {key: f"data:image/webp;base64,{base64.b64encode(data).decode()}" for key, data in encoded.items()}


def _webp(pixels: UInt8[np.ndarray, "3 height width"], side: int, quality: int, *, exact: bool) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if image.width > side:
        image = image.resize((side, side), Image.Resampling.BOX)
    return _saved(image, quality=quality, lossless=exact)


def _saved(image: Image.Image, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=EFFORT, **options)
    return buffer.getvalue()


def drawn(data: bytes) -> tuple[str, int, int]:
    """A picture of lines and text as a smaller data URI of the same pixels, with its width and height in px."""
    with Image.open(io.BytesIO(data)) as image:
        encoded = base64.b64encode(_saved(image.convert("RGB"), lossless=True)).decode()
        return f"data:image/webp;base64,{encoded}", image.width, image.height

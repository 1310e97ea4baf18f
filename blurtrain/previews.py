"""What the network sees: a labelled grid of some of the user's own images through a config's blurs."""

import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from blurtrain import backbones, copies
from blurtrain.blur import blur_pixels
from blurtrain.chatter import silence
from blurtrain.config import Config
from blurtrain.decoding import Geometry
from blurtrain.errors import ConfigError, DataError
from blurtrain.opening import open_source
from blurtrain.progress import say
from blurtrain.reading import content_name, native_size
from blurtrain.reduction import reduced
from blurtrain.sheets import SIDES, Picture, Row, Sheet, draw
from blurtrain.sources import Item, Part, Source, why
from blurtrain.views import CLEAN, TrainView

MOST_IMAGES = 32
MOST_PICTURES = 256  # images times views: so many of the largest are 50,000 px high, and matplotlib's limit is 65,536


def preview(config: Config, images: int = 4, out: Path | None = None) -> Path:
    """Draw some training images as the network sees them, through the config's copies and its sweep.

    Only these images are decoded, and nothing is computed from them. In a folder ROOT/CLASS, whose test split
    follows from the content of all images, every image may be drawn.

    Args:
        config: The arm whose copies and sweep are shown.
        images: How many, from 1 to 32.
        out: The .png file; runs/preview-NAME.png where it is left out.

    Returns:
        The file.

    Raises:
        ConfigError: If there cannot be so many images, the file is no .png, or a blur's file cannot be used.
        BackboneError: If the network or its weights cannot be used.
        DataError: If folders or classes are missing, or no image can be decoded.
        StoreError: If the file cannot be written.
    """
    path, _ = made(config, images, out)
    return path


def made(config: Config, images: int = 4, out: Path | None = None) -> tuple[Path, Sheet]:
    """The same as `preview`, with what was drawn.

    Raises:
        BlurtrainError: As `preview`.
    """
    path = out or config.runs / f"preview-{config.experiment}.png"
    if path.suffix.lower() != ".png":
        raise ConfigError(f"out must be a file that ends in .png, got {str(path)!r}")
    drawn = sheet(config, images)
    draw(path, drawn)
    return path, drawn


def sheet(config: Config, images: int = 4) -> Sheet:
    """What `preview` draws, as data.

    Raises:
        ConfigError: If there cannot be so many images, or a blur's file cannot be used.
        BackboneError: If the network or its weights cannot be used.
        DataError: If folders or classes are missing, or no image can be decoded.
    """
    if not 1 <= images <= MOST_IMAGES:
        raise ConfigError(f"images must be from 1 to {MOST_IMAGES}, got {images}")
    copies.check(config)
    joining: tuple[TrainView, ...] = (*config.copy_views, *config.drawn_views)
    blurs = sorted({*config.copy_views, *config.test_views} - {CLEAN})
    views: tuple[TrainView, ...] = (CLEAN, *blurs, *config.drawn_views)
    if images * len(views) > MOST_PICTURES:
        raise ConfigError(
            f"images times blurs must be at most {MOST_PICTURES}, got {images} x {len(views)}: give fewer of either"
        )
    silence()
    source = open_source(config.data)  # bad folders are told before the backbone is read
    for note in source.notes:
        say(note)
    geometry = backbones.load(config.backbone).preprocessing.geometry
    copies.check(config, geometry.crop)
    rows: list[tuple[int, int, Row]] = []
    for index in _candidates(source.items, images):
        if len(rows) == images:
            break
        try:
            rows.append((source.items[index].label, index, _row(source, index, geometry, views)))
        except (DataError, OSError) as error:
            say(f"note: {source.items[index].name} {why(error)}; another image takes its place")
    if not rows:
        raise DataError(f"none of the training images in {config.data.root} can be decoded: mend or replace them")
    ordered = tuple(row for *_, row in sorted(rows, key=lambda entry: entry[:2]))
    side = len(ordered[0].pictures[0])
    zoom = "" if side == geometry.crop else f", shown at {side} px"
    title = f"What {config.backbone.name} sees of {config.data.root}: {geometry.crop} x {geometry.crop} px{zoom}"
    return Sheet(title, views, joining, ordered, geometry.crop)


def _row(source: Source, index: int, geometry: Geometry, views: Sequence[TrainView]) -> Row:
    item = source.items[index]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd images that still decode are no news to the user
        # As in training: what a pipeline draws depends on what is decoded.
        image = reduced(Part(source, [index]), geometry).decode(0)
    pixels, names = geometry.apply(image)[None], np.array([content_name(image)])
    pictures = tuple(_displayed(blur_pixels(*copies.seen(pixels, names, view))[0]) for view in views)
    width, height = native_size(image).tolist()
    scale = min(width, height) / geometry.resize
    return Row(source.classes[item.label], Path(item.name).name, (width, height), scale, pictures)


def _displayed(seen: Float32[np.ndarray, "3 side side"]) -> Picture:
    """Channels last, rounded to 8 bit, at a size that can be looked at."""
    picture: Picture = np.rint(255 * seen).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    side = len(picture)
    if side <= SIDES[1]:
        return picture.repeat(times := -(-SIDES[0] // side), axis=0).repeat(times, axis=1)
    reduced = Image.fromarray(np.ascontiguousarray(picture)).reduce(-(-side // SIDES[1]))
    return np.array(reduced)  # each pixel the mean of a square


def _candidates(items: Sequence[Item], count: int) -> Iterator[int]:
    """Every training image once: the classes in turn, and each class spread over its listing."""
    places: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        if item.split in ("train", None):
            places.setdefault(item.label, []).append(index)
    classes = [places[label] for label in sorted(places)]
    turns = -(-count // len(classes))
    queues = [[classes[i][k] for k in _spread(len(classes[i]), turns)] for i in _spread(len(classes), count)]
    return (index for turn in zip_longest(*queues) for index in turn if index is not None)


def _spread(n: int, wanted: int) -> list[int]:
    """All numbers below n: first so many evenly spaced ones, then the rest in order."""
    wanted = min(n, wanted)
    first = [(2 * k + 1) * n // (2 * wanted) for k in range(wanted)]
    return [*first, *sorted(set(range(n)) - set(first))]

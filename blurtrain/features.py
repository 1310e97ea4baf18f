"""Features of images under blurs: each (image, view) passes the frozen backbone once in its life."""

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import PIL
import scipy
import torch
import torchvision
from jaxtyping import Float32, Int64

from blurtrain import copies
from blurtrain.backbones import FrozenBackbone
from blurtrain.config import in_file_names
from blurtrain.decoding import DECODER_VERSION
from blurtrain.engines import Engine
from blurtrain.errors import BackboneError
from blurtrain.files import remove_partial, sha256
from blurtrain.images import ImageSet
from blurtrain.kernels import content
from blurtrain.locks import in_turn
from blurtrain.progress import Progress, progress
from blurtrain.store import Table
from blurtrain.views import Drawn, TrainView

IMAGENET_C_VERSION = 1  # the same for ImageNet-C's severities alone
PIPELINE_VERSION = 1  # the same for what pipelines draw
BLUR_VERSION = 2  # raise it when the same blur would give other pixels
SHARD_ROWS = 512  # an interrupted extraction repeats at most this many forward passes
SHARD_ROWS_FOR = 32  # so many images at once; engines that run more have larger shards, or would wait for the disk
READ_ROWS = 4096  # features read together
AHEAD = 2  # batches that wait for each running one

_View = TypeVar("_View", bound=TrainView)  # keys of a mapping, whose type nothing wider can take the place of
Positions = Int64[np.ndarray, " _"]  # of images; as many as the call needs


@dataclass(frozen=True)
class FeatureStore:
    """The stored features of one backbone run by one engine.

    Args:
        cache: Folder of the store.
        backbone: Name of the network.
        fingerprint: Of its weights and normalisation.
        geometry: Resize, crop and interpolation of the pixels.
        engine: Name of the engine.
        precision: ``float32`` or ``float16``, in which they are stored.
    """

    cache: Path
    backbone: str
    fingerprint: str
    geometry: str
    engine: str
    precision: str = "float32"

    def table(self, view: TrainView) -> Table:
        """The table of one view; its key holds everything that a row depends on besides the image."""
        key = {
            "kind": "features",
            "backbone": self.backbone,
            "fingerprint": self.fingerprint,
            "geometry": self.geometry,
            "decoder": decoder(),
            "engine": self.engine,
            "precision": self.precision,
            "libraries": libraries(),
            "view": view.name,
            "blur": made_as(view),
        }
        group = f"{in_file_names(self.backbone)}-{self.fingerprint[:8]}"
        return Table(self.cache / "features" / group / f"{view.slug}-{sha256(repr(key))[:8]}", key)

    def read(self, view: TrainView, images: ImageSet, positions: Positions) -> Float32[np.ndarray, "_ features"]:
        """Stored features of some images, in their order."""
        return np.concatenate(list(self.blocks(view, images, positions)))

    def blocks(
        self, view: TrainView, images: ImageSet, positions: Positions
    ) -> Iterator[Float32[np.ndarray, "_ features"]]:
        """The same, a few thousand at a time."""
        table = self.table(view)
        for start in range(0, len(positions), READ_ROWS):
            stored = table.read(images.ids[positions[start : start + READ_ROWS]], "features")
            yield stored.astype(np.float32, copy=False)

    def stored(self, features: Float32[np.ndarray, "_ features"]) -> np.ndarray:
        """Features as they are stored.

        Raises:
            BackboneError: If one of them is not finite, or not in that precision.
        """
        _require_finite(features)
        with np.errstate(over="ignore"):
            rounded = features.astype(self.precision, copy=False)
        if not np.isfinite(rounded).all():
            raise BackboneError(f"the backbone gives values of {np.abs(features).max():.0f}: give precision float32")
        return rounded


def decoder() -> str:
    """What decoded pixels depend on besides the image and the geometry."""
    return f"{DECODER_VERSION}, pillow {PIL.__version__}"


def libraries() -> str:
    """What features depend on besides what is stated."""
    return (
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"opencv {cv2.__version__}, scipy {scipy.__version__}"
    )


def made_as(view: TrainView) -> list[str | int | float | None]:
    """Everything that the pixels of a view depend on besides the image."""
    if isinstance(view, Drawn):
        versions = f"albumentations {metadata.version('albumentations')}, numpy {np.__version__}"
        return [versions, PIPELINE_VERSION, view.pipeline, view.seed, view.copy]
    blur = [view.family, view.strength, view.angle, view.border, BLUR_VERSION, *filter(None, [content(view)])]
    return blur + ["severity", IMAGENET_C_VERSION, view.seed] * view.severity


def store_for(backbone: FrozenBackbone, engine: Engine, cache: Path, precision: str = "float32") -> FeatureStore:
    """The store of what this backbone gives on this engine."""
    geometry = repr(backbone.preprocessing.geometry)
    return FeatureStore(cache, backbone.name, backbone.fingerprint(), geometry, engine.name, precision)


@dataclass(frozen=True)
class Extraction:
    """What a call of `extract` did, in (image, view) pairs."""

    reused: int
    computed: int


def extract(
    images: ImageSet,
    wanted: Mapping[_View, Positions],
    engine: Engine,
    store: FeatureStore,
    batch_size: int,
) -> Extraction:
    """Store the features of every wanted (image, view) pair that is not stored yet.

    Reading, blurring and the network run side by side, batch by batch, as many at once as the engine can use. What is
    finished is stored shard by shard, so an interrupted extraction goes on where it stopped. Processes that
    want the same views share them out: each is computed by one of them.

    Raises:
        StoreError: If the store cannot be read or written.
    """
    tables = {view: store.table(view) for view in wanted}
    absent = {view: missing(images, positions, tables[view]) for view, positions in wanted.items()}
    total = sum(len(positions) for positions in absent.values())
    distinct = sum(len(np.unique(images.ids[positions])) for positions in wanted.values())
    computed = 0
    unfinished = {view: tables[view].lock for view, positions in absent.items() if len(positions)}
    turns = in_turn(unfinished, "running the same backbone")
    with progress("running the backbone", total, "view", stored=distinct - total) as bar, closing(turns):
        for view in turns:
            remove_partial(tables[view].folder)
            tables[view].refresh()
            positions = missing(images, absent[view], tables[view])
            bar.advance(len(absent[view]) - len(positions))  # another process has done them meanwhile
            for shard, features in _shards(images, positions, view, engine, batch_size, bar):
                tables[view].append(images.ids[shard], {"features": store.stored(features)})
            computed += len(positions)
    return Extraction(reused=distinct - computed, computed=computed)


def compute(
    images: ImageSet, positions: Positions, view: TrainView, engine: Engine, batch_size: int, bar: Progress
) -> Float32[np.ndarray, "_ features"]:
    """Features of some images in one view, stored nowhere.

    Raises:
        BackboneError: If a feature is not finite.
    """
    parts = []
    for features in _counted(run(images, positions, view, engine, batch_size), bar):
        parts.append(features)
        _require_finite(features)
    return np.concatenate(parts)


def _require_finite(features: Float32[np.ndarray, "_ features"]) -> None:
    if not np.isfinite(features).all():
        raise BackboneError("the backbone gives values that are not finite: check weights and mean and std")


def missing(images: ImageSet, positions: Positions, table: Table) -> Positions:
    """One position for each distinct image that has no row yet."""
    _, first = np.unique(images.ids[positions], return_index=True)
    distinct = positions[np.sort(first)]
    absent: Positions = distinct[~table.has(images.ids[distinct])]
    return absent


def _shards(
    images: ImageSet, positions: Positions, view: TrainView, engine: Engine, batch_size: int, bar: Progress
) -> Iterator[tuple[Positions, Float32[np.ndarray, "rows features"]]]:
    """Finished shards: some images and their features. Nothing of the next one begins before one is taken."""
    at_once = engine.parallel * min(batch_size, engine.batch)
    size = SHARD_ROWS * -(-at_once // SHARD_ROWS_FOR)
    for start in range(0, len(positions), size):
        shard = positions[start : start + size]
        yield shard, np.concatenate(list(_counted(run(images, shard, view, engine, batch_size), bar)))


def run(
    images: ImageSet, positions: Positions, view: TrainView, engine: Engine, batch_size: int
) -> Generator[Float32[np.ndarray, "batch features"], None, None]:
    """Features batch by batch in the order of the positions, as many batches side by side as the engine can use."""
    size = min(batch_size, engine.batch)
    pool = ThreadPoolExecutor(engine.parallel, "backbone")
    running: deque[Future[Float32[np.ndarray, "batch features"]]] = deque()
    try:
        for start in range(0, len(positions), size):
            running.append(pool.submit(_run, engine, images, positions[start : start + size], view))
            if len(running) == engine.parallel * (1 + AHEAD):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _counted(
    running: Generator[Float32[np.ndarray, "batch features"], None, None], bar: Progress
) -> Iterator[Float32[np.ndarray, "batch features"]]:
    with closing(running) as batches:
        for features in batches:
            bar.advance(len(features))
            yield features


def _run(
    engine: Engine, images: ImageSet, positions: Positions, view: TrainView
) -> Float32[np.ndarray, "batch features"]:
    return engine(*copies.seen(images.read_pixels(positions), images.ids[positions], view))

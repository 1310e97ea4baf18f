"""Statistics of batch norms re-estimated on an arm's own training images: `bn: adapt`.

A batch norm subtracts a mean and divides by a standard deviation of each channel, which the network brings along from
the images of its own pretraining. Here both become averages over the arm's training views: one pass of these through
eager torch, in which only the batch norms are in train mode. Nothing else of the network changes by a bit. It is
another function from images to features afterwards, with a fingerprint, an export and stored features of its own.

With folds, the statistics come from the training images of all folds; of the images that a head is validated on they
know the pixels and no label. No test image has a part in them.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64

from blurtrain import copies
from blurtrain.backbones import FrozenBackbone
from blurtrain.batchnorm import State, applied, layers, state_of
from blurtrain.blur import blur_pixels
from blurtrain.config import in_file_names
from blurtrain.errors import BackboneError
from blurtrain.features import decoder, libraries, made_as
from blurtrain.files import sha256
from blurtrain.images import ImageSet
from blurtrain.locks import held
from blurtrain.progress import progress, reused
from blurtrain.store import Table, row_id
from blurtrain.views import TrainView

Part = tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]  # positions, and the place of the view of each


def batches(images: ImageSet, views: Sequence[TrainView], batch_size: int) -> list[Part]:
    """All training images in all views.

    The order is that of the images' content, so no name, split or number of processes enters. One round after the other
    shows every image once, and the views alternate within a round: a batch holds different images and all views evenly.
    What is left over is dealt out, so that no batch is smaller than the batch size: all count the same in the average.
    """
    positions = images.train[np.argsort(images.ids[images.train], kind="stable")]
    every, number = np.tile(positions, len(views)), np.arange(len(positions))
    slots = np.concatenate([(number + turn) % len(views) for turn in range(len(views))])
    count = max(1, len(every) // batch_size)
    return list(zip(np.array_split(every, count), np.array_split(slots, count), strict=True))


def estimate(backbone: FrozenBackbone, images: ImageSet, views: Sequence[TrainView], batch_size: int) -> State:
    """Statistics of the training images in some views: averages over batches.

    Args:
        backbone: Stays as it is.
        images: Whose training split is used.
        views: That each image is seen through.
        batch_size: Images that a mean and a variance are taken of, before they are averaged.

    Raises:
        BackboneError: If a statistic is not finite.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    adapting = copy.deepcopy(backbone).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for layer in layers(adapting).values():
        layer.reset_running_stats()
        layer.momentum = None  # the average of all batches, not of the last ones
        layer.train()
    parts = batches(images, views, batch_size)
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        progress("adapting batch norms", sum(len(positions) for positions, _ in parts), "view") as bar,
    ):
        for seen in _seen(images, views, parts):
            adapting(torch.from_numpy(seen).to(device).contiguous(memory_format=torch.channels_last))
            bar.advance(len(seen))
    state = state_of(adapting)
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise BackboneError("the batch norms see values that are not finite: check weights and mean and std")
    return state


def _seen(
    images: ImageSet, views: Sequence[TrainView], parts: Sequence[Part]
) -> Iterator[Float32[np.ndarray, "_ 3 height width"]]:
    for positions, slots in parts:
        pixels, ids = images.read_pixels(positions), images.ids[positions]
        seen = np.empty(pixels.shape, np.float32)
        for slot in np.unique(slots):
            some = slots == slot
            seen[some] = blur_pixels(*copies.seen(pixels[some], ids[some], views[slot]))
        yield seen


def adapted(
    backbone: FrozenBackbone,
    images: ImageSet,
    views: Sequence[TrainView],
    batch_size: int,
    cache: Path | Literal[False],
) -> tuple[FrozenBackbone, int]:
    """A backbone with the statistics of the training images, and how many images had to pass it for that.

    They are stored, so that no later command passes the images again; without a cache each does.

    Raises:
        BackboneError: If a statistic is not finite.
        StoreError: If the store cannot be read or written.
    """
    passes = len(images.train) * len(views)
    if cache is False:
        return applied(backbone, estimate(backbone, images, views, batch_size)), passes
    table, row = _table(backbone, images, views, batch_size, cache)
    with held(table.lock, f"adapting the batch norms of {backbone.name}"):
        table.refresh()
        stored = _stored(backbone, table, row)
        if stored is not None:
            reused("adapting batch norms", passes, "view")
            return applied(backbone, stored), 0
        state = estimate(backbone, images, views, batch_size)
        table.append(row, {key: tensor.numpy()[None] for key, tensor in state.items()})
    return applied(backbone, state), passes


def found(
    backbone: FrozenBackbone, images: ImageSet, views: Sequence[TrainView], batch_size: int, cache: Path
) -> FrozenBackbone | None:
    """The adapted backbone where its statistics are stored.

    Raises:
        StoreError: If the store cannot be read.
    """
    state = _stored(backbone, *_table(backbone, images, views, batch_size, cache))
    return None if state is None else applied(backbone, state)


def _stored(backbone: FrozenBackbone, table: Table, row: np.ndarray) -> State | None:
    if not table.has(row).all():
        return None
    return {key: torch.from_numpy(table.read(row, key)[0:1])[0].clone() for key in state_of(backbone)}


def _table(
    backbone: FrozenBackbone, images: ImageSet, views: Sequence[TrainView], batch_size: int, cache: Path
) -> tuple[Table, np.ndarray]:
    """Where statistics are stored: the key holds everything that they depend on, and there is one row."""
    fingerprint = backbone.fingerprint()
    key = {
        "kind": "bn",
        "backbone": backbone.name,
        "fingerprint": fingerprint,
        "geometry": repr(backbone.preprocessing.geometry),
        "decoder": decoder(),
        "libraries": f"{libraries()}, {'cuda' if torch.cuda.is_available() else 'cpu'}",
        "images": sha256(np.sort(images.ids[images.train]).tobytes()),
        "blurs": [made_as(view) for view in views],
        "batch_size": batch_size,
        "view": "statistics",
    }
    name = sha256(repr(key))
    table = Table(cache / "statistics" / f"{in_file_names(backbone.name)}-{fingerprint[:8]}-{name[:8]}", key)
    return table, np.array([row_id(name)])

"""Pixels of a training view, made by a blur or drawn by a pipeline, for which alone albumentations is imported."""

import numpy as np
from jaxtyping import Shaped, UInt8

from blurtrain.config import Config
from blurtrain.views import CLEAN, Blur, TrainView

Pixels = UInt8[np.ndarray, "batch 3 height width"]


def check(config: Config, side: int | None = None) -> None:
    """Check the pipeline of a config that has one, and once the network's input size is known try it, too.

    Raises:
        ConfigError: If it cannot be used, or another albumentations is installed.
    """
    if config.drawn_views:
        from blurtrain import pipelines  # imports albumentations, which takes seconds

        pipelines.check(config.drawn_views[0], side)


def seen(pixels: Pixels, ids: Shaped[np.ndarray, " batch"], view: TrainView, epoch: int = 0) -> tuple[Pixels, Blur]:
    """Pixels of some images in a view, and the blur that they are then seen through.

    Args:
        pixels: At the network's size.
        ids: Names by content.
        view: A blur, or what a pipeline draws.
        epoch: From 0; what is stored is the first one's.

    Raises:
        ConfigError: If the pipeline gives no 8-bit images of the same size.
    """
    if isinstance(view, Blur):
        return pixels, view
    from blurtrain import pipelines

    return pipelines.drawn(pixels, ids, view, epoch), CLEAN

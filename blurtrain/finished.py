"""What a finished run is used with: its backbone, perhaps with batch norms of its own, its refit, its test images."""

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from blurtrain import backbones, batchnorm, images
from blurtrain.backbones import FrozenBackbone, read_weights
from blurtrain.config import Config
from blurtrain.decoding import Geometry
from blurtrain.errors import RunError
from blurtrain.images import ImageSet
from blurtrain.runs import Run
from blurtrain.sweep import PREDICTIONS, read_predictions

HEAD = "head.safetensors"


def backbone_of(run: Run) -> FrozenBackbone:
    """The backbone that the refitted head stands on.

    Raises:
        BackboneError: If its weights cannot be had any more.
        RunError: If they are others, or the run's own batch norms are damaged.
    """
    backbone = backbones.load(run.config.backbone, told=False)  # it was told when the run was made
    run.require_backbone(backbone.fingerprint())
    if not run.config.changes_backbone:
        return backbone
    return batchnorm.applied(backbone, read_weights(run.file(batchnorm.FILE)))


def head_of(run: Run) -> dict[str, Tensor]:
    """Weight and bias of the refitted head.

    Raises:
        RunError: If they are damaged.
    """
    return read_weights(run.file(HEAD))


def tested_images(run: Run, config: Config, most: int) -> tuple[ImageSet, Int64[np.ndarray, " some"]]:
    """The images of a run, and the positions of at most so many of its test split, evenly spaced.

    Raises:
        RunError: If the test split is not what it was.
        DataError: If images cannot be read any more.
        StoreError: If the store cannot be read or written.
    """
    geometry = Geometry(**run.result["backbone"]["preprocessing"]["geometry"])
    loaded = images.load(config.data, geometry, config.cache, config.on_bad_image, config.extra_tests)
    predictions = read_predictions(run.file(PREDICTIONS), config.test_views[0])
    if predictions.images.tolist() != loaded.ids[loaded.test].astype(str).tolist():
        raise RunError(
            f"the test images of {run.folder} are not those any more that it was tested on: put {config.data.root} "
            "back as it was, or train under another --name"
        )
    few = min(most, len(loaded.test))
    return loaded, loaded.test[np.arange(few) * len(loaded.test) // few]

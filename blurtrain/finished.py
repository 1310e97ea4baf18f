"""What a finished run is used with: its backbone, with batch norms of its own where it has some, and its refit."""

from torch import Tensor

from blurtrain import backbones, batchnorm
from blurtrain.backbones import FrozenBackbone, read_weights
from blurtrain.runs import Run

HEAD = "head.safetensors"


def backbone_of(run: Run) -> FrozenBackbone:
    """The backbone that the refitted head stands on.

    Raises:
        BackboneError: If its weights cannot be had any more.
        RunError: If they are others, or the run's own batch norms are damaged.
    """
    backbone = backbones.load(run.config.backbone)
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

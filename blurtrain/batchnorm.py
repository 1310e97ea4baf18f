"""Batch norms of an imported network: which there are, whether they can be changed, and other values for them."""

import copy
from collections.abc import Sequence

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from blurtrain import backbones
from blurtrain.backbones import FrozenBackbone
from blurtrain.config import Config
from blurtrain.errors import BackboneError

FILE = "batchnorm.safetensors"  # of a run folder: what its backbone has in place of what it was imported with
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
AFFINE = ("weight", "bias")
FOLDED = 2.0  # a variance so many eps from 1 or nearer is none that images ever had: who folds may allow for eps

State = dict[str, Tensor]  # entries of a network's state by their keys


def imported(config: Config) -> FrozenBackbone:
    """Import a config's network, and refuse one whose batch norms cannot be changed where they are to be.

    Raises:
        BackboneError: As `blurtrain.backbones.load`; or if batch norms are to be changed and there are none, or some
            were folded into the convolutions.
    """
    backbone = backbones.load(config.backbone)
    if not config.changes_backbone:
        return backbone
    key, other = ("bn adapt", "bn frozen") if config.bn == "adapt" else ("tune head+bn", "tune head")
    norms = layers(backbone)
    if not norms:
        raise BackboneError(f"{backbone.name} has no batch norms that {key} could change: give {other}")
    folded = [name for name, layer in norms.items() if _is_identity(layer)]
    # Random weights come with such statistics, too, but nothing is folded there.
    if folded and config.backbone.weights != backbones.RANDOM:
        raise BackboneError(
            f"{len(folded)} of {len(norms)} batch norms of {config.backbone.weights} have weight 1, mean 0 and "
            f"variance 1: they were folded into the convolutions, and {key} would undo that, so give {other} or "
            "weights that are not folded"
        )
    return backbone


def _is_identity(layer: _BatchNorm) -> bool:
    """Whether a batch norm does nothing but add a bias."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    is_scaled = layer.affine and bool((layer.weight != 1).any())
    varies = bool(((layer.running_var - 1).abs() > FOLDED * layer.eps).any())
    return not (is_scaled or varies or bool(layer.running_mean.any()))


def layers(backbone: FrozenBackbone) -> dict[str, _BatchNorm]:
    """The batch norms that keep statistics, by their names in the network."""
    return {
        name: module
        for name, module in backbone.network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def state_of(backbone: FrozenBackbone, entries: Sequence[str] = STATISTICS) -> State:
    """Copies of some entries of all batch norms."""
    state, keys = backbone.network.state_dict(), [f"{name}.{entry}" for name in layers(backbone) for entry in entries]
    return {key: state[key].detach().cpu().clone() for key in keys if key in state}


def applied(backbone: FrozenBackbone, state: State) -> FrozenBackbone:
    """A copy of a backbone with other entries in its batch norms; it shares the parameters that stay the same."""
    shared = {id(tensor): tensor for key, tensor in backbone.network.named_parameters() if key not in state}
    changed = copy.deepcopy(backbone, shared)
    own = changed.network.state_dict()  # with the version of each module's layout; MNASNet loads nothing without
    own.update(state)
    changed.network.load_state_dict(own)
    return changed

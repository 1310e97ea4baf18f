"""Where a network and its weights come from, and how images are prepared for it; nothing is read before it is used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from blurtrain.config import WEIGHT_SUFFIXES, BackboneConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError
from blurtrain.weights import read_weights

RANDOM = "none"
RANDOM_SEED = 0  # the same config gives the same bytes
Built = TypeVar("Built")
CHANGED_BY = "backbone.mean, std, resize and crop change it"


@dataclass(frozen=True)
class Preprocessing:
    """What the imported weights expect: resize and crop, then (x - mean) / std on RGB in [0, 1]."""

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """An architecture and where its weights come from; no weights are read yet.

    Args:
        build: Makes the whole network.
        preprocessing: Of the weights.
        read: Gives the state of a whole network.
        origin: What the weights are called in errors.
        note: What the user must know of them.
        code: Hash of the code that computes the network, where its name does not say what that is.
    """

    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    read: Callable[[], Mapping[str, Tensor]]
    origin: str
    note: str = ""
    code: str = ""


def given(
    config: BackboneConfig, build: Callable[[], nn.Module], own: Preprocessing, others: str, assumed: str = ""
) -> Source:
    """A local file or random weights; neither says how images are prepared for it.

    Args:
        config: Says which.
        build: Makes the whole network.
        own: The preprocessing that is assumed.
        others: Further weights that the network may have, for errors.
        assumed: What is to be said of the preprocessing.

    Raises:
        BackboneError: If the weights are something else.
    """
    if config.weights.endswith(WEIGHT_SUFFIXES):
        path = Path(config.weights)
        note = f"note: {path.name}: {assumed}" if assumed else ""
        return Source(build, own, lambda: read_weights(path, config.sha256), config.weights, note)
    if config.weights == RANDOM:
        refuse_hash(config)
        note = "; ".join(
            filter(None, [f"warning: {config.name} has random weights, for trying things out only", assumed])
        )
        return Source(build, own, lambda: seeded(build).state_dict(), RANDOM, note)
    raise BackboneError(
        f"backbone.weights {config.weights!r} is not known for {config.name}: give {others}{', or ' if others else ''}"
        f"a file ending in {', '.join(WEIGHT_SUFFIXES)}, or none for random weights"
    )


def assumption(subject: str, geometry: Geometry) -> str:
    """That a preprocessing is assumed, and what changes it."""
    sizes = f"resize {geometry.resize}, crop {geometry.crop} px"
    return f"the preprocessing of {subject} ({sizes}) is assumed; {CHANGED_BY}"


def refuse_hash(config: BackboneConfig) -> None:
    """Check that no hash is given for what is no file of the user's.

    Raises:
        BackboneError: If one is.
    """
    if config.sha256 is not None:
        raise BackboneError("backbone.sha256 is for local files: whoever offers downloads checks them; leave it out")


def seeded(build: Callable[[], Built]) -> Built:
    """What a constructor gives, with the same random weights every time; nobody else's draws are touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)
        return build()

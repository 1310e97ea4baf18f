"""What `blurtrain layers` finds in one network: bounds, measurements and decisions as plain values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from blurtrain import backbones, decision, images, runs
from blurtrain.backbones import FrozenBackbone
from blurtrain.bounds import NAMES, ON_IMAGE, Bound, bounds, wider
from blurtrain.chatter import silence
from blurtrain.commuting import PARTS, extension_of
from blurtrain.config import Config
from blurtrain.decision import LinearHead, quantiles, ratio
from blurtrain.errors import BackboneError
from blurtrain.images import ImageSet
from blurtrain.kernels import FAMILIES, kernel
from blurtrain.operators import Gains, gains
from blurtrain.progress import progress
from blurtrain.propagation import CHUNK, Measured, Meter
from blurtrain.stages import Convolution, Stage, convolutions, stages
from blurtrain.store import Table, row_id
from blurtrain.tracing import Trace, trace
from blurtrain.views import Blur
from blurtrain.weights import read_weights

@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Args:
        backbone: The network, without its head unless that is its own.
        fingerprint: Of it.
        images: Where the pixels come from.
        positions: Of the images that are looked at.
        labels: Their classes, where the heads know them.
        heads: Linear heads on its features.
        views: The blurs.
        cache: Folder of the store.
    """

    backbone: FrozenBackbone
    fingerprint: str
    images: ImageSet
    positions: Int64[np.ndarray, " images"]
    labels: Int64[np.ndarray, " images"] | None
    heads: Sequence[LinearHead]
    views: Sequence[Blur]
    cache: Path

    @property
    def side(self) -> int:
        """Of the images, px."""
        return self.backbone.preprocessing.geometry.crop


def of_arms(config: Config, arms: Sequence[Config], views: Sequence[Blur], count: int) -> Subject:
    """A config's network with the heads of finished arms, on test images.

    Raises:
        BlurtrainError: Whatever a user can cause.
    """
    silence()
    assert isinstance(config.cache, Path)
    backbone = backbones.load(config.backbone)
    fingerprint = backbone.fingerprint()
    heads = []
    for arm in arms:
        run = runs.load_run(arm.run_folder)
        run.require_backbone(fingerprint)
        state = read_weights(run.file("head.safetensors"))
        weights, bias = (state[key].double().numpy() for key in ("weight", "bias"))
        heads.append(LinearHead(arm.arm, weights, bias))
    loaded = images.load(config.data, backbone.preprocessing.geometry, config.cache, config.on_bad_image)
    positions = chosen(loaded, count)
    return Subject(
        backbone, fingerprint, loaded, positions, loaded.labels[positions], heads, views, config.cache
    )


def of_own_head(config: Config, views: Sequence[Blur], count: int) -> Subject:
    """A config's network with its own head, on any of its images.

    Raises:
        BlurtrainError: Whatever a user can cause.
    """
    silence()
    assert isinstance(config.cache, Path)
    backbone, head = backbones.load_with_head(config.backbone)
    geometry = backbone.preprocessing.geometry
    loaded = images.load(config.data, geometry, config.cache, config.on_bad_image, trained=False)
    weights, bias = np.eye(backbone.features), np.zeros(backbone.features)  # its features are the logits
    if head is not None:
        weights = head.weight.detach().double().numpy()
        bias = np.zeros(len(weights)) if head.bias is None else head.bias.detach().double().numpy()
    own = LinearHead("own", weights, bias, is_separate=head is not None)
    return Subject(
        backbone, backbone.fingerprint(), loaded, chosen(loaded, count), None, [own], views, config.cache
    )


def chosen(loaded: ImageSet, count: int) -> Int64[np.ndarray, " images"]:
    """Some test images, evenly of all classes, within a class in the order of their content."""
    order = loaded.test[np.argsort(loaded.ids[loaded.test], kind="stable")]
    turns = np.zeros(len(order), np.int64)
    for label in np.unique(loaded.labels[order]):
        here = loaded.labels[order] == label
        turns[here] = np.arange(here.sum())
    return order[np.argsort(turns, kind="stable")][:count]


@dataclass(frozen=True)
class Anatomy:
    """A network's operations, its convolutions, and what can be said of these before any image is seen.

    Args:
        trace: Of one forward pass.
        convolutions: In the order in which they run.
        gains: Of those that have a norm.
        promised: Bounds by convolution and blur, where there are any.
        stages: With their Lipschitz constants.
    """

    trace: Trace
    convolutions: Sequence[Convolution]
    gains: Mapping[int, Gains]
    promised: Mapping[tuple[int, Blur], Mapping[str, Bound]]
    stages: Sequence[Stage]


def norm_table(backbone: FrozenBackbone, fingerprint: str, side: int, cache: Path) -> Table:
    """Where the gains of a network's convolutions are stored, for square images of that side."""
    key = {"kind": "norms", "backbone": backbone.name, "fingerprint": fingerprint, "crop": side}
    return Table(cache / "norms" / f"{backbone.name}-{fingerprint[:16]}-{side}", key)


def anatomy(subject: Subject) -> Anatomy:
    """Trace the network, bound its convolutions, and find the constants of its stages.

    Raises:
        BackboneError: If there is no convolution, a weight is not finite, or a part is in train mode.
        StoreError: If the norms cannot be stored.
    """
    one = torch.from_numpy(subject.images.read_pixels(subject.positions[:1])) / 255
    traced = trace(subject.backbone, one)
    found = convolutions(traced, subject.backbone)
    table = norm_table(subject.backbone, subject.fingerprint, subject.side, subject.cache)
    known = dict(_gains(found, table))
    promised = {
        (depth, view): _promise(convolution, known[depth], view)
        for depth, convolution in enumerate(found)
        for view in subject.views
        if depth in known and not unmeasured(convolution, view)
    }
    constants = {
        convolution.node: found_layer.norm(known[depth])
        for depth, convolution in enumerate(found)
        if (found_layer := convolution.layer) is not None
    }
    return Anatomy(traced, found, known, promised, stages(traced, constants))


def _gains(found: Sequence[Convolution], table: Table) -> Iterator[tuple[int, Gains]]:
    """Of every convolution that has a norm: stored ones are read, others computed and stored."""
    layers = {depth: convolution.layer for depth, convolution in enumerate(found) if convolution.layer is not None}
    ids = {depth: np.array([row_id(layer.content())]) for depth, layer in layers.items()}
    absent = [depth for depth in layers if not table.has(ids[depth])[0]]
    with progress("norms of layers", len(absent), "layer") as bar:
        for depth in absent:
            if not table.has(ids[depth])[0]:  # two layers may be the same one
                table.append(ids[depth], {"gains": gains(layers[depth])[None]})
            bar.advance()
    for depth in layers:
        yield depth, table.read(ids[depth], "gains")[0]


def unmeasured(convolution: Convolution, view: Blur) -> str:
    """Why a layer's own input cannot be blurred; empty if it can."""
    if convolution.layer is None:
        return convolution.no_bound
    return wider(kernel(view), convolution.layer) if extension_of(convolution.layer) == "uncropped" else ""


def _promise(convolution: Convolution, known: Gains, view: Blur) -> Mapping[str, Bound]:
    assert convolution.layer is not None
    return bounds(convolution.layer, known, kernel(view), extension_of(convolution.layer))


def measured(subject: Subject, found: Anatomy) -> Measured:
    """Run the images."""
    count = len(subject.positions)
    meter = Meter(subject.backbone, found.trace, found.convolutions, found.promised, subject.views, count)
    with progress("layers", count) as bar:
        for start in range(0, count, CHUNK):
            some = subject.positions[start : start + CHUNK]
            meter.take(subject.images.read_pixels(some))
            bar.advance(len(some))
    return meter.measured()

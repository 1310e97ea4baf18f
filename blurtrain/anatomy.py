"""A network with images and heads, its convolutions with what can be stated of them, and what is measured there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from blurtrain import backbones, images, runs
from blurtrain.backbones import FrozenBackbone
from blurtrain.bounds import Bound, bounds
from blurtrain.chatter import silence
from blurtrain.commuting import Bounded
from blurtrain.config import Config
from blurtrain.decision import LinearHead
from blurtrain.images import ImageSet
from blurtrain.kernels import kernel
from blurtrain.operators import Gains, Layer, gains
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
    return Subject(backbone, fingerprint, loaded, positions, loaded.labels[positions], heads, views, config.cache)


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
    return Subject(backbone, backbone.fingerprint(), loaded, chosen(loaded, count), None, [own], views, config.cache)


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
        bounded: Those of which something can be stated, by their place.
        norms: Of these.
        promised: Bounds by place and blur, where there are any.
        stages: With their Lipschitz constants.
    """

    trace: Trace
    convolutions: Sequence[Convolution]
    bounded: Mapping[int, Bounded]
    norms: Mapping[int, float]
    promised: Mapping[tuple[int, Blur], Mapping[str, Bound]]
    stages: Sequence[Stage]


def anatomy(subject: Subject) -> Anatomy:
    """Trace the network, bound its convolutions, and find the constants of its stages.

    Raises:
        BackboneError: If there is no convolution, a weight is not finite, or a part is in train mode.
        StoreError: If the norms cannot be stored.
    """
    one = torch.from_numpy(subject.images.read_pixels(subject.positions[:1])) / 255
    traced = trace(subject.backbone, one)
    found = convolutions(traced, subject.backbone)
    bounded = {depth: _bounded(convolution) for depth, convolution in enumerate(found) if not convolution.no_bound}
    norms, promised = {}, {}
    for depth, known in _gains(bounded, norm_table(subject)):
        layer = bounded[depth].layer
        norms[depth] = layer.norm(known)
        for view in subject.views:
            if not bounded[depth].refusal(kernel(view)):
                promised[depth, view] = bounds(layer, known, kernel(view), bounded[depth].extension)
    of_nodes = {found[depth].node: norm for depth, norm in norms.items()}
    return Anatomy(traced, found, bounded, norms, promised, stages(traced, subject.backbone, of_nodes))


def norm_table(subject: Subject) -> Table:
    """Where the norms of a network's convolutions are stored, frequency by frequency, for images of one size."""
    name, fingerprint, side = subject.backbone.name, subject.fingerprint, subject.side
    key = {"kind": "norms", "backbone": name, "fingerprint": fingerprint, "crop": side}
    return Table(subject.cache / "norms" / f"{name}-{fingerprint[:16]}-{side}", key)


def _bounded(convolution: Convolution) -> Bounded:
    module, (weights, bias), (height, width) = convolution.module, convolution.folded(), convolution.size
    assert module is not None
    layer = Layer(
        weights,
        height,
        width,
        *(module.stride, module.dilation, module.groups),
        *(convolution.padding, module.padding_mode, convolution.lipschitz),
    )
    return Bounded(layer, bias, convolution.activation or _as_it_is)


def _as_it_is(maps: Tensor) -> Tensor:
    return maps


def _gains(bounded: Mapping[int, Bounded], table: Table) -> Iterator[tuple[int, Gains]]:
    """Of every convolution: stored ones are read, others computed and stored."""
    ids = {depth: np.array([row_id(one.layer.content())]) for depth, one in bounded.items()}
    absent = [depth for depth in bounded if not table.has(ids[depth])[0]]
    with progress("norms of layers", len(absent), "layer") as bar:
        for depth in absent:
            if not table.has(ids[depth])[0]:  # two layers may be the same one
                table.append(ids[depth], {"gains": gains(bounded[depth].layer)[None]})
            bar.advance()
    for depth in bounded:
        yield depth, table.read(ids[depth], "gains")[0]


def measured(subject: Subject, found: Anatomy) -> Measured:
    """Run the images."""
    count = len(subject.positions)
    meter = Meter(
        subject.backbone, found.trace, found.convolutions, found.bounded, found.promised, subject.views, count
    )
    with progress("layers", count) as bar:
        for start in range(0, count, CHUNK):
            some = subject.positions[start : start + CHUNK]
            meter.take(subject.images.read_pixels(some))
            bar.advance(len(some))
    return meter.measured()

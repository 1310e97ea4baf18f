"""A network with images and heads, its convolutions with what can be stated of them, and what is measured there."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from blurtrain import backbones, finished, images, memory, runs
from blurtrain.backbones import FrozenBackbone
from blurtrain.bounds import Bound, bounds
from blurtrain.chatter import silence
from blurtrain.commuting import Bounded
from blurtrain.config import Config, in_file_names
from blurtrain.cores import cores
from blurtrain.decision import LinearHead
from blurtrain.files import sha256
from blurtrain.graph import Trace
from blurtrain.images import ImageSet
from blurtrain.kernels import kernel
from blurtrain.lipschitz import matrix_of, norm_of
from blurtrain.locks import held
from blurtrain.operators import Gains, Layer, gains
from blurtrain.progress import progress
from blurtrain.propagation import Measured, Meter, at_once
from blurtrain.stages import Convolution, Stage, convolutions, stages
from blurtrain.store import Ids, Table, row_id
from blurtrain.tracing import trace
from blurtrain.views import Blur


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
    backbone = backbones.load(config.backbone, told=False)  # it was told when the arms were trained
    fingerprint = backbone.fingerprint()
    heads = []
    for arm in arms:
        run = runs.load_run(arm.run_folder)
        run.require_backbone(fingerprint)
        state = finished.head_of(run)
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
class Plan:
    """What is to be bounded.

    Args:
        trace: Of one forward pass.
        convolutions: In the order in which they run.
        bounded: Those of which something can be stated, by their place.
    """

    trace: Trace
    convolutions: Sequence[Convolution]
    bounded: Mapping[int, Bounded]


@dataclass(frozen=True)
class Anatomy:
    """What can be said of a network before any image is seen.

    Args:
        plan: Its operations and convolutions.
        norms: Of the bounded ones, by their place.
        promised: Their bounds by place and blur.
        stages: With their Lipschitz constants.
    """

    plan: Plan
    norms: Mapping[int, float]
    promised: Mapping[tuple[int, Blur], Mapping[str, Bound]]
    stages: Sequence[Stage]


def plan(subject: Subject) -> Plan:
    """Trace the network and find its convolutions.

    Raises:
        BackboneError: If there is no convolution, a weight is not finite, or a part is in train mode.
    """
    some = torch.from_numpy(subject.images.read_pixels(subject.positions[:1])) / 255
    subject.backbone.to(memory_format=torch.channels_last)  # in place, and no value changes: convolutions are faster
    # Two, as one image has the same memory in both layouts, and some operations choose by that.
    traced = trace(subject.backbone, some.repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last))
    found = convolutions(traced, subject.backbone)
    bounded = {depth: _bounded(convolution) for depth, convolution in enumerate(found) if not convolution.no_bound}
    return Plan(traced, found, bounded)


def anatomy(subject: Subject) -> Anatomy:
    """Trace the network, bound its convolutions, and find the constants of its stages.

    Raises:
        BackboneError: As `plan`.
        StoreError: If the norms cannot be stored.
    """
    planned, table = plan(subject), norm_table(subject)
    return promised_by(subject, planned, _gains(planned.bounded, table), _linear_norms(planned.trace, table))


def promised_by(
    subject: Subject, planned: Plan, known_gains: Iterable[tuple[int, Gains]], linear_norms: Mapping[int, float]
) -> Anatomy:
    """What is promised of a network whose convolutions have certain gains, and linear layers certain norms."""
    norms, promised = {}, {}
    for depth, known in known_gains:
        one = planned.bounded[depth]
        norms[depth] = one.layer.norm(known)
        for view in subject.views:
            # A kernel that is wider than the map is not applied there, but its constants hold on the map's torus.
            extension = "circular" if one.refusal(kernel(view)) else one.extension
            promised[depth, view] = bounds(one.layer, known, kernel(view), extension)
    of_nodes = {planned.convolutions[depth].node: norm for depth, norm in norms.items()} | dict(linear_norms)
    found = stages(planned.trace, subject.backbone, of_nodes)
    return Anatomy(planned, norms, promised, found)


def norm_table(subject: Subject) -> Table:
    """Where the norms of a network's convolutions are stored, frequency by frequency, for images of one size."""
    name, fingerprint, side = subject.backbone.name, subject.fingerprint, subject.side
    key = {"kind": "norms", "backbone": name, "fingerprint": fingerprint, "crop": side}
    return Table(subject.cache / "norms" / f"{in_file_names(name)}-{fingerprint[:16]}-{side}", key)


def _bounded(convolution: Convolution) -> Bounded:
    module, (weights, bias) = convolution.module, convolution.folded()
    assert module is not None
    (height, width), (down, across), (rows, columns) = convolution.size, module.stride, module.dilation
    layer = Layer(
        weights,
        *(height, width, (down, across), (rows, columns), module.groups),
        *(convolution.padding, module.padding_mode, convolution.lipschitz),
    )
    return Bounded(layer, bias, convolution.activation or _as_it_is)


def _as_it_is(maps: Tensor) -> Tensor:
    return maps


def _gains(bounded: Mapping[int, Bounded], table: Table) -> Iterator[tuple[int, Gains]]:
    """Of every convolution: stored ones are read, others computed and stored."""
    rows = {depth: _row(one) for depth, one in bounded.items()}
    _store(rows, lambda depth: gains(bounded[depth].layer), table, "norms of layers")
    for depth, row in rows.items():
        yield depth, table.read(row, "gains")[0]


def _linear_norms(trace: Trace, table: Table) -> dict[int, float]:
    """Of every linear layer, by its node: those that networks of old end in take half a minute each."""
    matrices = {node.index: matrix for node in trace.nodes if (matrix := matrix_of(node)) is not None}
    rows = {node: np.array([row_id(sha256("linear", m.cpu().numpy().tobytes()))]) for node, m in matrices.items()}
    _store(rows, lambda node: np.full((1, 1), norm_of(matrices[node])), table, "norms of linear layers")
    return {node: float(table.read(row, "gains").item()) for node, row in rows.items()}


def _store(rows: Mapping[int, Ids], compute: Callable[[int], Gains], table: Table, step: str) -> None:
    """Compute what is not stored yet."""
    missing = [place for place, row in rows.items() if not table.has(row)[0]]
    stored = len(rows) - len(missing)
    with held(table.lock, "bounding layers"), progress(step, len(missing), "layer", stored=stored) as bar:
        table.refresh()
        for place in missing:
            if not table.has(rows[place])[0]:  # two layers may be the same one
                table.append(rows[place], {"gains": compute(place)[None]})
            bar.advance()


def absent(bounded: Mapping[int, Bounded], table: Table) -> list[int]:
    """Whose norms are not stored."""
    return [depth for depth, one in bounded.items() if not table.has(_row(one))[0]]


def _row(bounded: Bounded) -> Ids:
    return np.array([row_id(bounded.layer.content())])


def measured(subject: Subject, found: Anatomy) -> Measured:
    """Run the images, a few in each core at a time: the answer does not depend on how many cores there are."""
    memory.keep_freed()
    count = len(subject.positions)
    known, together = found.plan, at_once(subject.views)
    meter = Meter(known.trace, known.convolutions, known.bounded, found.promised, subject.views, count)
    idle: SimpleQueue[FrozenBackbone] = SimpleQueue()
    for _ in range(cores()):
        idle.put(_copied(subject.backbone))  # a network tells one thread alone what it computes

    def take(start: int) -> int:
        pixels = subject.images.read_pixels(subject.positions[start : start + together])
        network = idle.get()
        try:
            meter.take(network, pixels, start)
        finally:
            idle.put(network)
        return len(pixels)

    pool = ThreadPoolExecutor(cores(), "layers", initializer=torch.set_num_threads, initargs=(1,))
    try:
        with progress("measuring layers", count) as bar:
            for done in pool.map(take, range(0, count, together)):
                bar.advance(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return meter.measured()


def _copied(backbone: FrozenBackbone) -> FrozenBackbone:
    """Another one with the same tensors."""
    shared = {id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())}
    return copy.deepcopy(backbone, shared)

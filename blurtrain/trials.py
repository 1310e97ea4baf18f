"""Try networks out on random weights: how fast they run here, and which of their layers have a bound."""

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blurtrain import backbones, engines
from blurtrain.backbones import FrozenBackbone
from blurtrain.cores import cores
from blurtrain.errors import BackboneError
from blurtrain.lipschitz import kind_of
from blurtrain.progress import progress, say
from blurtrain.stages import convolutions, stages
from blurtrain.tracing import trace
from blurtrain.views import CLEAN

SECONDS = 1.0  # of forward passes
CALL = 0.2  # seconds: a call takes as many images as fit into this
LEGEND = (
    f"images/s: forward passes, random weights, by what `engine: auto` takes here ({cores()} cores, or a GPU).\n"
    "bounded: convolutions with a bound, of all. product: a Lipschitz constant reaches the features."
)
MOST_IMAGES = 64  # in a call; no more is gained by it on any device


@dataclass(frozen=True)
class Trial:
    """What was found of a network.

    Args:
        rate: Images a second, forward passes alone.
        engine: What ran it.
        convolutions: How many run in a forward pass.
        without_bound: Those of them that have a reason instead of a bound.
        reaches: Whether there is a Lipschitz constant from the image to the features.
    """

    rate: float
    engine: str
    convolutions: int
    without_bound: int
    reaches: bool


def tried(names: Sequence[str]) -> dict[str, Trial]:
    """Try networks out at their own crop; one that cannot be traced or run is left out, and a note says why."""
    found = {}
    with progress("trying networks", len(names), "network") as bar:
        for name in names:
            try:
                found[name] = _tried(name)
            except BackboneError as error:
                say(f"note: {name} is not measured: {error}")
            bar.advance()
    return found


def _tried(name: str) -> Trial:
    backbone = backbones.untrained(name)
    count, without_bound, reaches = bounded(backbone)
    side = backbone.preprocessing.geometry.crop
    pixels = np.random.default_rng(0).integers(0, 256, (MOST_IMAGES, 3, side, side), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        engine = engines.build(backbone, "auto", Path(folder), pixels[:2])
        return Trial(_rate(engine, pixels), engine.name.split()[0], count, without_bound, reaches)


def bounded(backbone: FrozenBackbone) -> tuple[int, int, bool]:
    """How many convolutions run, how many have no bound, and whether a Lipschitz product reaches the features.

    No norm is computed: what has one is traced with 1 in its place.
    """
    side = backbone.preprocessing.geometry.crop
    traced = trace(backbone, torch.zeros(1, 3, side, side))
    found = convolutions(traced, backbone)
    norms = {convolution.node: 1.0 for convolution in found if not convolution.no_bound}
    for node in traced.nodes:
        if kind_of(node) == "linear" and len(node.inputs) == 1:
            norms[node.index] = 1.0
    at_end = next(stage for stage in stages(traced, backbone, norms) if stage.node.index == traced.output)
    return len(found), sum(bool(convolution.no_bound) for convolution in found), at_end.cumulative is not None


def _rate(engine: engines.Engine, pixels: engines.Pixels) -> float:
    """Images a second, with as many calls side by side as the engine takes."""
    engine(pixels[:1], CLEAN)
    start = time.perf_counter()
    engine(pixels[:1], CLEAN)
    alone = time.perf_counter() - start
    size = max(1, min(engine.batch, MOST_IMAGES, int(CALL / alone)))
    start = time.perf_counter()

    def run(_: int) -> int:
        count = 0
        while count == 0 or time.perf_counter() - start < SECONDS:
            count += len(engine(pixels[:size], CLEAN))
        return count

    with ThreadPoolExecutor(engine.parallel) as pool:
        images = sum(pool.map(run, range(engine.parallel)))
    return images / (time.perf_counter() - start)

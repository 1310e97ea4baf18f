"""What a command would do and how long it would take, before anything is done: `--dry_run`.

Counts come from what is stored and what is not; times from about two seconds of the real steps on the user's own
images. Nothing is written.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from blurtrain import adaptation, batchnorm, engines, features, images, training
from blurtrain.backbones import FrozenBackbone
from blurtrain.chatter import silence
from blurtrain.config import Config
from blurtrain.cores import cores
from blurtrain.engines import Engine
from blurtrain.fitting import threads_for
from blurtrain.heads import HELD_OUT, ConvexHeads, FeatureDataModule
from blurtrain.images import ImageSet
from blurtrain.progress import started
from blurtrain.store import ID
from blurtrain.views import Blur

DECODING, RUNNING = 0.7, 1.2  # seconds of calibration
SAMPLE = 256  # images at most that are decoded for it
FIT_ROWS = 4096  # rows at most on which the fit is timed
REFIT_STEPS, FOLD_STEPS = 11, 18  # of the solver for one penalty, on digits and photographs alike
STEP = 2.5  # forward passes that one through batch norms that learn, and back, takes the time of: 2.2 to 2.8 on a CPU
CRC = 4  # bytes of a checksum
WRITING = 2.5e-6  # seconds for one prediction of one head: table, metrics and statistics
AFTERWARDS = 0.45  # of the time that starting took: further imports, events and pictures


@dataclass(frozen=True)
class Step:
    """One line of a forecast.

    Args:
        name: Of the step.
        what: How much there is to do, in words.
        seconds: About how long it takes.
    """

    name: str
    what: str
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What would be done.

    Args:
        steps: In their order.
        decoded: Images that would be decoded and stored.
        forward_passes: Images that would pass the backbone.
        reused: Features that are stored already.
        stored: Bytes that the store would grow by.
    """

    steps: tuple[Step, ...]
    decoded: int
    forward_passes: int
    reused: int
    stored: int

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        return sum(step.seconds for step in self.steps)

    def text(self) -> str:
        """Lines for people."""
        lines = [f"{step.name:<10}{step.what:<66} about {_duration(step.seconds)}" for step in self.steps]
        lines.append(f"{'store':<10}{self.stored / 1e6:,.1f} MB more")
        lines.append(f"In all about {_duration(self.seconds)}, judged by two seconds of it; nothing was written.")
        return "\n".join(lines)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class _Sample:
    """Decoded images in place of a set's own."""

    pixels: UInt8[np.ndarray, "sample 3 height width"]

    def read(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        return np.take(self.pixels, positions % len(self.pixels), axis=0)


def forecast(arms: Sequence[Config]) -> Forecast:
    """What training some arms of one experiment would do.

    Args:
        arms: That are not finished yet; at least one.

    Raises:
        BlurtrainError: As `blurtrain.training.prepare`.
    """
    silence()
    config = arms[-1]
    backbone = batchnorm.imported(config)
    geometry = backbone.preprocessing.geometry
    survey = images.survey(config.data, geometry, config.cache)
    start = started()
    decoding, sample = _decode(survey, 1 if config.cache is False else cores())
    sampled = replace(survey.images, pixels=_Sample(sample))
    if config.cache is False:
        return _on_images(arms, survey.images, sampled, engines.TorchEngine(backbone), decoding, start)
    with tempfile.TemporaryDirectory() as aside:
        is_stored = engines.export_path(backbone, config.cache, geometry.crop).exists()
        exporting = time.perf_counter()
        engine = engines.build(backbone, config.engine, config.cache if is_stored else Path(aside), sample[:8])
        exporting = time.perf_counter() - exporting
        plans = _plans(arms, survey.images, backbone, engine)
        running = sum(_run(sampled, plan.absent, engine, config.batch_size) for plan in plans)
    adapting = _added(plan.adapting for plan in plans)
    running += _run(sampled, adapting, engines.TorchEngine(backbone), config.batch_size)
    distinct, computed = sum(plan.distinct for plan in plans), sum(sum(plan.absent.values()) for plan in plans)
    passes = computed + sum(adapting.values())
    fits = [_fit(arm, survey.images, backbone.features) for arm in arms]
    rows = " and ".join(f"{rows:,}" for rows, _ in fits)
    heads = len(arms) * len(config.head.l2) * (_folds(config, survey.images) + 1)
    steps = (
        Step("start", f"libraries, {backbone.name}, {len(survey.images.ids):,} files", start + exporting),
        Step("images", f"{len(survey.unread):,} to read", decoding * len(survey.unread)),
        Step("backbone", f"{passes:,} forward passes, {distinct - computed:,} reused", running),
        Step("heads", f"{heads} on {rows} rows of {backbone.features} features", sum(seconds for _, seconds in fits)),
        Step("results", "predictions, tables, events, pictures", _results(arms, survey.images, start)),
    )
    pixel_row = 3 * geometry.crop**2 + 2 * ID.itemsize + 8 + 3 * CRC
    feature_row = np.dtype(config.precision).itemsize * backbone.features + ID.itemsize + CRC
    statistics = sum(plan.statistics for plan in plans)
    stored = len(survey.unread) * pixel_row + computed * feature_row + statistics
    return Forecast(steps, len(survey.unread), passes, distinct - computed, stored)


@dataclass(frozen=True)
class _Plan:
    """What arms that share a backbone need of it.

    Args:
        absent: Features to compute in each view.
        distinct: Features that are needed, stored or not.
        adapting: Images to pass in each view for the statistics of batch norms.
        statistics: Bytes of these.
    """

    absent: dict[Blur, int]
    distinct: int
    adapting: dict[Blur, int]
    statistics: int


def _plans(arms: Sequence[Config], loaded: ImageSet, backbone: FrozenBackbone, engine: Engine) -> list[_Plan]:
    """One plan for the arms on the network as it was imported, one for an arm that adapts it."""
    frozen, adapting = ([arm for arm in arms if arm.bn == kind] for kind in ("frozen", "adapt"))
    plans = [_plan(frozen, loaded, backbone, engine)] if frozen else []
    for arm in adapting:
        assert arm.cache is not False
        known = adaptation.found(backbone, loaded, arm.train_views, arm.batch_size, arm.cache)
        plan = _plan([arm], loaded, known, engine)
        if known is None:
            size = sum(tensor.nbytes + CRC for tensor in batchnorm.state_of(backbone).values()) + ID.itemsize + CRC
            plan = replace(plan, adapting=dict.fromkeys(arm.train_views, len(loaded.train)), statistics=size)
        plans.append(plan)
    return plans


def _plan(arms: Sequence[Config], loaded: ImageSet, backbone: FrozenBackbone | None, engine: Engine) -> _Plan:
    """Of a backbone that is not known yet, no feature is stored."""
    config, wanted = arms[-1], _wanted(arms, loaded)
    assert config.cache is not False
    distinct = {view: len(np.unique(loaded.ids[some])) for view, some in wanted.items()}
    absent = distinct
    if backbone is not None:
        store = features.store_for(backbone, engine, config.cache, config.precision)
        absent = {view: len(features.missing(loaded, some, store.table(view))) for view, some in wanted.items()}
    return _Plan(absent, sum(distinct.values()), {}, 0)


def _added(counts: Iterable[Mapping[Blur, int]]) -> dict[Blur, int]:
    total: Counter[Blur] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _wanted(arms: Sequence[Config], loaded: ImageSet) -> dict[Blur, Int64[np.ndarray, " images"]]:
    """What all arms need together."""
    merged: dict[Blur, Int64[np.ndarray, " images"]] = {}
    for arm in arms:
        for view, positions in training.wanted(arm, loaded).items():
            merged[view] = np.union1d(merged.get(view, positions), positions)
    return merged


def _decode(survey: images.Survey, threads: int) -> tuple[float, UInt8[np.ndarray, "sample 3 height width"]]:
    """Seconds an image, and some decoded ones."""
    every = survey.unread if len(survey.unread) else np.arange(len(survey.images.ids))
    chosen = every[:: -(-len(every) // SAMPLE)]
    decoded: list[np.ndarray] = []
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(chosen), 2 * threads):
            some = chosen[first : first + 2 * threads, None]
            decoded += pool.map(survey.images.read_pixels, some)
            if time.perf_counter() - start > DECODING:
                break
    return (time.perf_counter() - start) / len(decoded), np.concatenate(decoded)


def _run(sampled: ImageSet, counts: dict[Blur, int], engine: Engine, batch_size: int) -> float:
    """Seconds for so many images in each view."""
    needed = {view: count for view, count in counts.items() if count}
    total = 0.0
    few = np.arange(2 * engine.parallel * min(batch_size, engine.batch, 32))
    for view, count in needed.items():
        list(features.run(sampled, few[: len(few) // 2], view, engine, batch_size))  # fills caches
        start, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - start < RUNNING / len(needed):
            done += sum(map(len, features.run(sampled, few, view, engine, batch_size)))
        total += count * (time.perf_counter() - start) / done
    return total


def _folds(config: Config, loaded: ImageSet) -> int:
    return 1 if len(loaded.validation) else config.head.folds


def _fit(arm: Config, loaded: ImageSet, width: int) -> tuple[int, float]:
    """Rows of an arm, and seconds of its fit, judged by a few steps on random rows."""
    rows = len(arm.train_views) * (len(loaded.train) + len(loaded.validation))
    classes, folds = len(loaded.classes), _folds(arm, loaded)
    some = [rows] if rows <= FIT_ROWS else [FIT_ROWS // 4, FIT_ROWS]
    with threads_for(rows * width * folds * classes):
        taken = [_penalty(count, width, classes, folds) for count in some]
    growth = 0.0 if len(some) == 1 else max(0.0, (taken[1] - taken[0]) / (some[1] - some[0]))
    return rows, len(arm.head.l2) * (taken[-1] + growth * (rows - some[-1]))


def _penalty(rows: int, width: int, classes: int, folds: int) -> float:
    """Seconds of all heads of one penalty, on so many rows."""
    generator = np.random.default_rng(0)
    random = generator.standard_normal((rows, width), np.float32)
    labels, mask = generator.integers(classes, size=rows), np.ones((folds + 1, rows), bool)
    batch = FeatureDataModule(random, labels, mask, mask).batch
    module = ConvexHeads(batch, classes, (0.1,), 1e-9)
    start = time.perf_counter()
    curvature = module.curvature_at_refit(batch)
    curvature.inverse(0.1)
    seconds = 2 * (time.perf_counter() - start)  # there is another penalty to invert it with, too
    for splits, steps in ((torch.tensor([folds]), REFIT_STEPS), (torch.arange(folds), FOLD_STEPS)):
        start = time.perf_counter()
        module.solve(batch, splits, 0.1, curvature, most=4)
        seconds += steps / 4 * (time.perf_counter() - start)
    return seconds


def _results(arms: Sequence[Config], loaded: ImageSet, start: float) -> float:
    heads = _folds(arms[-1], loaded) + 1
    return AFTERWARDS * start + WRITING * len(arms) * heads * len(loaded.test) * len(arms[-1].test_views)


def _on_images(
    arms: Sequence[Config], loaded: ImageSet, sampled: ImageSet, engine: Engine, decoding: float, start: float
) -> Forecast:
    """Where nothing is stored, every image is decoded, blurred and run anew in every epoch."""
    needs = [_tuned(arm, loaded) if arm.tune == "head+bn" else _fresh(arm, loaded) for arm in arms]
    passes = _added(need.passes for need in needs)
    seconds = _run(sampled, _added(need.costs for need in needs), engine, arms[-1].batch_size)
    seconds += decoding * sum(need.decoded for need in needs)
    total = sum(passes.values())
    steps = (
        Step(
            "start", f"libraries, {len(loaded.ids):,} files named by their content", start + decoding * len(loaded.ids)
        ),
        Step("training", f"{total:,} images decoded, blurred and run; nothing is stored", seconds),
        Step("results", "predictions, tables, events, pictures", _results(arms, loaded, start)),
    )
    return Forecast(steps, 0, total, 0, 0)


@dataclass(frozen=True)
class _Need:
    """What an arm needs of images that are not stored.

    Args:
        passes: Images to pass the backbone in each view.
        costs: The same in the time of as many images.
        decoded: How often an image is decoded.
    """

    passes: dict[Blur, int]
    costs: dict[Blur, int]
    decoded: int


def _fresh(arm: Config, loaded: ImageSet) -> _Need:
    """Of heads that share a frozen backbone."""
    # Once more for the held-out images, and once for the statistics of the training images.
    often, once = arm.minibatch.epochs + 1, len(loaded.train) * (arm.bn == "adapt")
    each = once + often * (len(loaded.train) + len(loaded.validation))
    passes = _added([dict.fromkeys(arm.train_views, each), dict.fromkeys(arm.test_views, len(loaded.test))])
    return _Need(passes, passes, sum(passes.values()))


def _tuned(arm: Config, loaded: ImageSet) -> _Need:
    """Of heads that have a network each, which learns."""
    views, folds, steps = len(arm.train_views), _folds(arm, loaded), arm.minibatch.epochs
    every, own = len(loaded.train), loaded.validation if len(loaded.validation) else loaded.train
    interval = -(-every // arm.batch_size)
    compared = -(-steps * -(-every * views // arm.batch_size) // interval)
    held = compared * min(len(own), max(1, HELD_OUT // views))
    heads = (folds + 1) * (1 + (views > 1))  # at equal steps and at equal epochs
    tested = dict.fromkeys(arm.test_views, heads * len(loaded.test))
    passes = [dict.fromkeys(arm.train_views, steps * every * folds + held), tested]
    costs = [dict.fromkeys(arm.train_views, round(STEP * steps * every * folds) + held), tested]
    decoded = views * (steps * every + held) + len(arm.test_views) * len(loaded.test)
    return _Need(_added(passes), _added(costs), decoded)

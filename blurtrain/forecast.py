"""What a command would do and how long it would take, before anything is done: `--dry_run`.

Counts come from what is stored and what is not; times from about two seconds of the real steps on the user's own
images. Nothing is written.
"""

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from blurtrain import (
    anatomy,
    backbones,
    batchnorm,
    choosing,
    controls,
    copies,
    engines,
    features,
    images,
    needs,
    preparation,
    sensitivity,
)
from blurtrain.chatter import silence
from blurtrain.config import Config, OnBadImage
from blurtrain.cores import cores
from blurtrain.engines import Engine
from blurtrain.errors import DataError
from blurtrain.fitting import threads_for
from blurtrain.heads import ConvexHeads, FeatureDataModule
from blurtrain.images import ImageSet
from blurtrain.needs import CRC, folds
from blurtrain.operators import effort
from blurtrain.progress import started
from blurtrain.store import ID
from blurtrain.views import Blur, TrainView

DECODING, RUNNING = 0.7, 1.2  # seconds of calibration
SAMPLE = 256  # images at most that are decoded for it
FIT_ROWS = 4096  # rows at most on which the fit is timed
REFIT_STEPS, FOLD_STEPS = 11, 18  # of the solver for one penalty, on digits and photographs alike
WRITING = 2.5e-6  # seconds for one prediction of one head: table, metrics and statistics
JUDGING = 2e-6  # seconds for an image, a view and an arm: logits of five heads and their statistics
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
        test: Test images.
    """

    steps: tuple[Step, ...]
    decoded: int
    forward_passes: int
    reused: int
    stored: int
    test: int

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        return sum(step.seconds for step in self.steps)

    def text(self) -> str:
        """Lines for people."""
        lines = [f"{step.name:<16}{step.what:<60} about {_duration(step.seconds)}" for step in self.steps]
        lines.append(f"{'store':<16}{self.stored / 1e6:,.1f} MB more")
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


def of_evidence(config: Config) -> Forecast:
    """What `blurtrain.experiment.evidence` would do.

    Raises:
        BlurtrainError: As `blurtrain.preparation.prepare`.
    """
    controls.check(config)
    geometry = backbones.load(config.backbone, told=False).preprocessing.geometry
    side = geometry.crop
    arms = {arm.config.train_views: arm.config for arm in controls.arms_of(config, side)}
    settings = list(sensitivity.settings(config, side))[1:] if controls.heavy_views(config, side) else []
    same = [setting.config for setting in settings if setting.scale == 1]
    main = forecast([*(arm for one in same for arm in (one.baseline(), one)), *arms.values()])
    last = arms[config.train_views]
    groups = sum(map(len, controls.groups_of(config, side).values()))
    images_seen = main.test * (len(last.test_views) + groups) * len(arms)
    results = Step("results", f"{len(arms)} arms on {len(last.test_views)} views", JUDGING * images_seen)
    whole = replace(main, steps=(*main.steps[:-1], results))
    for setting in settings:
        if setting.scale != 1:
            resized = sensitivity.resized(setting, geometry)
            other = forecast([resized.baseline(), resized])
            work = Step(setting.name, "the same comparison", sum(step.seconds for step in other.steps[1:-1]))
            whole = Forecast(
                (*whole.steps, work),
                whole.decoded + other.decoded,
                whole.forward_passes + other.forward_passes,
                whole.reused + other.reused,
                whole.stored + other.stored,
                whole.test,
            )
    return whole


def of_recommendation(config: Config) -> Forecast:
    """What `blurtrain.experiment.recommend` would do at most: it stops where no further copy gains.

    Raises:
        BlurtrainError: As `blurtrain.preparation.prepare`.
    """
    controls.require_store(config, "recommend")
    side = backbones.load(config.backbone, told=False).preprocessing.geometry.crop
    aims, options = choosing.targets(config, side), choosing.candidates(config, side)
    arms = [replace(config, copies=()), config]
    for count in range(1, min(choosing.MOST_COPIES, len(options)) + 1):
        arms += [replace(config, copies=controls.grids_of(options[:count]))] * (len(options) - count + 1)
    views = (*config.train_views, *options, *aims)
    found = forecast(arms, views)
    return replace(found, steps=(*found.steps[:-1], Step("results", "tables", 0.0)))


def of_layers(config: Config, arms: Sequence[Config], views: Sequence[Blur], count: int, *, own_head: bool) -> Forecast:
    """What `blurtrain.layers.layers` would do.

    Args:
        config: Its network is looked at.
        arms: That are not finished yet.
        views: The blurs.
        count: Images that are looked at, at most.
        own_head: Whether the network keeps its own head.

    Raises:
        BlurtrainError: As `blurtrain.layers.layers`.
    """
    trained = forecast(arms) if arms else None
    silence()
    backbone = backbones.load_with_head(config.backbone)[0] if own_head else backbones.load(config.backbone, told=False)
    geometry = backbone.preprocessing.geometry
    survey = images.survey(config.data, geometry, config.cache, config.on_bad_image, trained=not own_head)
    start = started()
    decoding, sample = _decode(survey, cores(), config.on_bad_image)
    assert isinstance(config.cache, Path)
    positions = anatomy.chosen(survey.images, count)
    sampled = replace(survey.images, pixels=_Sample(sample))
    subject = anatomy.Subject(backbone, backbone.fingerprint(), sampled, positions, None, (), views, config.cache)
    planned = anatomy.plan(subject)
    missing = anatomy.absent(planned.bounded, anatomy.norm_table(subject))
    operations = sum(effort(planned.bounded[depth].layer) for depth in missing)
    unread = 0 if arms else len(survey.unread)
    steps = (
        *(trained.steps if trained else (Step("start", f"libraries, {backbone.name}", start),)),
        *((Step("images", f"{unread:,} to read", decoding * unread),) if unread else ()),
        Step("norms", f"{len(missing)} of {len(planned.convolutions)} layers", operations / _rate()),
        Step("layers", f"{len(positions)} images through {len(views)} blurs, twice", _measuring(subject, planned)),
    )
    known = trained or Forecast((), unread, 0, 0, 0, len(survey.images.test))
    passes = len(positions) * (1 + 2 * len(views))
    return replace(known, steps=steps, forward_passes=known.forward_passes + passes)


def _rate() -> float:
    """Floating point operations in a second, in products of middling complex matrices."""
    matrices = torch.randn(16, 128, 128, dtype=torch.complex64)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < RUNNING / 3:
        torch.bmm(matrices, matrices)
        done += 1
    return done * 8 * 16 * 128**3 / (time.perf_counter() - start)


def _measuring(subject: anatomy.Subject, planned: anatomy.Plan) -> float:
    """Seconds that all images take, judged by two of them; what is promised changes no time."""
    few = replace(subject, positions=np.repeat(subject.positions[:1], 2))
    guesses = ((depth, np.full(one.layer.torus, one.layer.young)) for depth, one in planned.bounded.items())
    halves = ((depth, guess[:, : guess.shape[1] // 2 + 1]) for depth, guess in guesses)
    linear = {node.index: 1.0 for node in planned.trace.nodes}  # no time is spent on these either
    found = anatomy.promised_by(few, planned, halves, linear)
    start = time.perf_counter()
    anatomy.measured(few, found)
    return (time.perf_counter() - start) / 2 * len(subject.positions)


def forecast(arms: Sequence[Config], fitted: Sequence[TrainView] | None = None) -> Forecast:
    """What training some arms of one experiment would do.

    Args:
        arms: That are not finished yet; at least one.
        fitted: Views of the training and validation images, if these alone are wanted.

    Raises:
        BlurtrainError: As `blurtrain.preparation.prepare`.
    """
    silence()
    config = arms[-1]
    copies.check(config)
    backbone = batchnorm.imported(config)
    geometry = backbone.preprocessing.geometry
    copies.check(config, geometry.crop)
    survey = images.survey(config.data, geometry, config.cache, config.on_bad_image, config.extra_tests)
    start = started()
    decoding, sample = _decode(survey, 1 if config.cache is False else cores(), config.on_bad_image)
    sampled = replace(survey.images, pixels=_Sample(sample))
    if config.cache is False:
        return _on_images(arms, survey.images, sampled, engines.TorchEngine(backbone), decoding, start)
    with tempfile.TemporaryDirectory() as aside:
        is_stored = engines.export_path(backbone, config.cache, geometry.crop).exists()
        exporting = time.perf_counter()
        engine = engines.build(backbone, config.engine, config.cache if is_stored else Path(aside), sample[:8])
        exporting = time.perf_counter() - exporting
        plans = needs.of_stored(arms, survey.images, backbone, engine, fitted)
        running = sum(_run(sampled, plan.absent, engine, config.batch_size) for plan in plans)
    adapting = needs.added(plan.adapting for plan in plans)
    running += _run(sampled, adapting, engines.TorchEngine(backbone), config.batch_size)
    distinct, computed = sum(plan.distinct for plan in plans), sum(sum(plan.absent.values()) for plan in plans)
    passes = computed + sum(adapting.values())
    sizes = {len(arm.train_views): arm for arm in arms}  # arms of one size take equally long
    fits = {size: _fit(arm, survey.images, backbone.features) for size, arm in sizes.items()}
    fitting = sum(len(arm.head.l2) * fits[len(arm.train_views)][1] for arm in arms)
    rows = _numbers(sorted(rows for rows, _ in fits.values()))
    heads = sum(len(arm.head.l2) for arm in arms) * (folds(config, survey.images) + 1)
    steps = (
        Step("start", f"libraries, {backbone.name}, {len(survey.images.ids):,} files", start + exporting),
        Step("images", f"{len(survey.unread):,} to read", decoding * len(survey.unread)),
        Step("backbone", f"{passes:,} forward passes, {distinct - computed:,} reused", running),
        Step("heads", f"{heads} on {rows} rows of {backbone.features} features", fitting),
        Step("results", "predictions, tables, events, pictures", _results(arms, survey.images, start)),
    )
    pixel_row = 3 * geometry.crop**2 + 2 * ID.itemsize + 8 + 3 * CRC
    feature_row = np.dtype(config.precision).itemsize * backbone.features + ID.itemsize + CRC
    statistics = sum(plan.statistics for plan in plans)
    stored = len(survey.unread) * pixel_row + computed * feature_row + statistics
    return Forecast(steps, len(survey.unread), passes, distinct - computed, stored, len(survey.images.test))


def _numbers(values: Sequence[int]) -> str:
    """One or two numbers, or between which ones they lie."""
    return (
        f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} {'and' if len(values) == 2 else 'to'} {values[-1]:,}"
    )


def _decode(
    survey: images.Survey, threads: int, on_bad_image: OnBadImage
) -> tuple[float, UInt8[np.ndarray, "sample 3 height width"]]:
    """Seconds an image, and some decoded ones: of those to read, or of all where none of these can be used."""
    for every in (survey.unread, np.arange(len(survey.images.ids))):
        tried, decoded = 0, list[np.ndarray]()
        chosen = every[:: -(-len(every) // SAMPLE) or 1]
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, len(chosen), 2 * threads):
                some = chosen[first : first + 2 * threads, None]
                found = list(pool.map(lambda one: _pixels(survey.images, one, on_bad_image), some))
                tried += len(found)
                decoded += [pixels for pixels in found if pixels is not None]
                if time.perf_counter() - start > DECODING and decoded:
                    break
        if decoded:
            return (time.perf_counter() - start) / tried, np.concatenate(decoded)
    raise DataError(f"none of {tried:,} images that were tried can be decoded: mend them, or give others")


def _pixels(
    loaded: ImageSet, one: Int64[np.ndarray, "1"], on_bad_image: OnBadImage
) -> UInt8[np.ndarray, "1 3 height width"] | None:
    """One image, or nothing where it is bad and the run leaves it out."""
    try:
        return loaded.read_pixels(one)
    except DataError as error:
        if on_bad_image == "error":
            raise DataError(f"{error}: {images.MEND}") from error
        return None


def _run(sampled: ImageSet, counts: dict[TrainView, int], engine: Engine, batch_size: int) -> float:
    """Seconds for so many images in each view."""
    needed = {view: count for view, count in counts.items() if count}
    total = 0.0
    few = np.arange(2 * engine.parallel * min(batch_size, engine.batch, 32)) % len(sampled.ids)
    for view, count in needed.items():
        list(features.run(sampled, few[: len(few) // 2], view, engine, batch_size))  # fills caches
        start, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - start < RUNNING / len(needed):
            done += sum(map(len, features.run(sampled, few, view, engine, batch_size)))
        total += count * (time.perf_counter() - start) / done
    return total


def _fit(arm: Config, loaded: ImageSet, width: int) -> tuple[int, float]:
    """Rows of an arm, and seconds of its fit for each penalty, judged by a few steps on random rows."""
    rows = len(arm.train_views) * (len(loaded.train) + len(loaded.validation))
    classes, heads = len(loaded.classes), folds(arm, loaded)
    some = [rows] if rows <= FIT_ROWS else [FIT_ROWS // 4, FIT_ROWS]
    with threads_for(rows * width * heads * classes):
        taken = [_penalty(count, width, classes, heads) for count in some]
    growth = 0.0 if len(some) == 1 else max(0.0, (taken[1] - taken[0]) / (some[1] - some[0]))
    return rows, taken[-1] + growth * (rows - some[-1])


def _penalty(rows: int, width: int, classes: int, heads: int) -> float:
    """Seconds of all heads of one penalty, on so many rows."""
    generator = np.random.default_rng(0)
    random = generator.standard_normal((rows, width), np.float32)
    labels, mask = generator.integers(classes, size=rows), np.ones((heads + 1, rows), bool)
    batch = FeatureDataModule(random, labels, mask, mask).batch
    module = ConvexHeads(batch, classes, (0.1,), 1e-9)
    start = time.perf_counter()
    curvature = module.curvature_at_refit(batch)
    curvature.inverse(0.1)
    seconds = 2 * (time.perf_counter() - start)  # there is another penalty to invert it with, too
    for splits, steps in ((torch.tensor([heads]), REFIT_STEPS), (torch.arange(heads), FOLD_STEPS)):
        start = time.perf_counter()
        module.solve(batch, splits, 0.1, curvature, most=4)
        seconds += steps / 4 * (time.perf_counter() - start)
    return seconds


def _results(arms: Sequence[Config], loaded: ImageSet, start: float) -> float:
    heads = folds(arms[-1], loaded) + 1
    return AFTERWARDS * start + WRITING * len(arms) * heads * preparation.seen_once(arms[-1], loaded)


def _on_images(
    arms: Sequence[Config], loaded: ImageSet, sampled: ImageSet, engine: Engine, decoding: float, start: float
) -> Forecast:
    """Where nothing is stored, every image is decoded, blurred and run anew in every epoch."""
    wanted = needs.of_fresh(arms, loaded)
    passes = needs.added(need.passes for need in wanted)
    seconds = _run(sampled, needs.added(need.costs for need in wanted), engine, arms[-1].batch_size)
    seconds += decoding * sum(need.decoded for need in wanted)
    total = sum(passes.values())
    steps = (
        Step(
            "start", f"libraries, {len(loaded.ids):,} files named by their content", start + decoding * len(loaded.ids)
        ),
        Step("training", f"{total:,} images decoded, blurred and run; nothing is stored", seconds),
        Step("results", "predictions, tables, events, pictures", _results(arms, loaded, start)),
    )
    return Forecast(steps, 0, total, 0, 0, len(loaded.test))

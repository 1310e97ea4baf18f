"""One arm: config in, run folder out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from safetensors.numpy import save_file

from blurtrain import (
    backbones,
    batchnorm,
    features,
    fitting,
    heads,
    images,
    preparation,
    runs,
    sweep,
    tensorboard,
)
from blurtrain.blur import blur_pixels
from blurtrain.config import Config, plain
from blurtrain.files import remove_partial, sha256, whole_file, write_json, write_text
from blurtrain.kernels import standard_deviation
from blurtrain.preparation import Prepared
from blurtrain.progress import progress, say
from blurtrain.roots import title
from blurtrain.roster import TEST_IMAGES, write_roster
from blurtrain.rows import Rows
from blurtrain.scalars import final_metrics, scalars
from blurtrain.views import CLEAN, Blur, RealView, View

CHECKPOINT = ".checkpoint-"
MOST_NAMED = 5  # classes in the opening line
SAMPLES = 4  # test images shown in TensorBoard, of as many classes as there are


def train(config: Config, ready: Prepared) -> Path:
    """Train every head of one arm and evaluate it on the sweep.

    Args:
        config: The arm.
        ready: What `blurtrain.preparation.prepare` gave for this arm or for another one of the same experiment.

    Returns:
        The run folder.

    Raises:
        RunError: If the run folder belongs to another config.
        StoreError: If the store or the run folder cannot be read or written.
    """
    folder = runs.begin(config)
    remove_partial(folder)
    _save_pipeline(config)
    _say_what_is_trained(config, ready)
    ready = preparation.adapted(config, ready)
    trained, extraction = (
        _train_on_images(config, ready) if ready.store is None else _fit_features(config, ready, ready.store)
    )
    for note in trained.notes:
        say(note)
    if config.bn == "adapt":
        _save(folder / batchnorm.FILE, {key: t.numpy() for key, t in batchnorm.state_of(ready.backbone).items()})
    _save_heads(folder, "", trained.folds, trained.refit)
    if trained.equal_epochs is not None:
        _save_heads(folder, "-equal-epochs", *trained.equal_epochs)
    rows = _sweep(config, ready, trained)
    _write_events(config, ready, trained, rows)
    write_json(folder / runs.WORK, {"forward_passes": asdict(extraction), "adapting": ready.adapting})
    runs.finish(folder, _result(config, ready, trained))
    for checkpoint in folder.glob(f"{CHECKPOINT}*"):
        checkpoint.unlink(missing_ok=True)
    return folder


def _save_pipeline(config: Config) -> None:
    """What ``albumentations.load`` takes."""
    if config.drawn_views:
        from blurtrain import pipelines  # imports albumentations, which takes seconds

        write_json(config.run_folder / pipelines.FILE, pipelines.saved(config.drawn_views[0]))


def _say_what_is_trained(config: Config, ready: Prepared) -> None:
    loaded, shapes = ready.images, _trainable(config, ready)
    trained = "head.weight, head.bias and batch norms" if config.tune == "head+bn" else "head.weight and head.bias"
    parameters = _count(shapes)
    total = _count(_head_shapes(ready)) + sum(p.numel() for p in ready.backbone.parameters())
    copies = ", ".join(view.name for view in config.train_views[1:]) or "no copies"
    say(
        f"{config.run_folder.name}: {len(loaded.train)} training images of {_classes(loaded)} and {len(loaded.test)} "
        f"test images; {copies}; "
        f"trains {trained}, "
        f"{parameters:,} of {total:,} parameters{'; adapts batch norms' * (config.bn == 'adapt')}"
    )


def _classes(loaded: images.ImageSet) -> str:
    """How many there are, and where these are few which, each with its number of training images."""
    count = len(loaded.classes)
    if count > MOST_NAMED:
        return f"{count} classes"
    numbers = np.bincount(loaded.labels[loaded.train], minlength=count)
    named = [f"{name} ({number})" for name, number in zip(loaded.classes, numbers, strict=True)]
    return f"{count} classes, {', '.join(named)},"


def _count(shapes: Mapping[str, list[int]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _head_shapes(ready: Prepared) -> dict[str, list[int]]:
    classes = len(ready.images.classes)
    return {"head.weight": [classes, ready.backbone.features], "head.bias": [classes]}


def _trainable(config: Config, ready: Prepared) -> dict[str, list[int]]:
    """Shapes of the parameters that are trained for each head."""
    norms = batchnorm.state_of(ready.backbone, batchnorm.AFFINE) if config.tune == "head+bn" else {}
    return {**_head_shapes(ready), **{f"backbone.{key}": list(tensor.shape) for key, tensor in norms.items()}}


def _fit_features(
    config: Config, ready: Prepared, store: features.FeatureStore
) -> tuple[heads.Trained, features.Extraction]:
    """The convex heads, on features that are stored where they are not yet."""
    extraction = features.extract(
        ready.images, preparation.wanted(config, ready.images), ready.engine, store, config.batch_size
    )
    return fit_stored(config, ready).trained(), extraction


def fit_stored(config: Config, ready: Prepared) -> fitting.Fit:
    """The convex heads of one arm, on features that are all stored.

    Raises:
        StoreError: If the store cannot be read.
    """
    loaded, store = ready.images, ready.store
    assert store is not None
    positions = np.r_[loaded.train, loaded.validation]
    training, validation = preparation.masks(config, loaded)
    copies = len(config.train_views)
    blocks = (block for view in config.train_views for block in store.blocks(view, loaded, positions))
    with closing(Rows(blocks, copies * len(positions), ready.backbone.features, store.cache / "scratch")) as rows:
        return fitting.fit(
            rows,
            np.tile(loaded.labels[positions], copies),
            np.tile(training, copies),  # a copy stays with its original
            np.tile(validation, copies),
            classes=len(loaded.classes),
            l2=config.head.l2,
            tolerance=config.head.tolerance,
            standardise=config.head.standardise,
            class_weights=class_weights(config, loaded),
        )


def class_weights(config: Config, loaded: images.ImageSet) -> Float64[np.ndarray, "_ classes"] | None:
    """Of each split and then of the refit, from the images that each is trained on; none where images count alike."""
    if config.head.class_weights == "none":
        return None
    training, _ = preparation.masks(config, loaded)
    return heads.balanced(loaded.labels[np.r_[loaded.train, loaded.validation]], training, len(loaded.classes))


def _train_on_images(config: Config, ready: Prepared) -> tuple[heads.Trained, features.Extraction]:
    """Heads trained on image batches; nothing is stored."""
    from blurtrain import minibatch, tuning  # import albumentations, which takes seconds

    loaded = ready.images
    views = repr([features.made_as(view) for view in config.train_views])
    inputs = sha256(repr(sorted(preparation.inputs_of(config, ready).items())), ready.backbone.fingerprint(), views)
    fit = tuning.fit if config.tune == "head+bn" else partial(minibatch.fit, engine=ready.engine)
    trained = fit(
        config.minibatch,
        ready.backbone,
        images=loaded,
        views=config.train_views,
        folds=images.folds(loaded, config.head.folds) if len(loaded.validation) == 0 else None,
        batch_size=config.batch_size,
        checkpoint=config.run_folder / f"{CHECKPOINT}{inputs[:16]}.ckpt",
        class_weights=class_weights(config, loaded),
    )
    networks = 1 if trained.refit.norms is None else len(_joined(trained).bias)
    tested = networks * preparation.seen_once(config, loaded)
    return trained, features.Extraction(0, trained.forward_passes + tested)


def _sweep(config: Config, ready: Prepared, trained: heads.Trained) -> list[sweep.SweepRow]:
    """Write predictions of all heads on all views, and the metrics made from them."""
    loaded, folder = ready.images, config.run_folder
    joined, path = _joined(trained), folder / sweep.PREDICTIONS
    with _test_features(config, ready, joined) as features_of:
        sweep.write_predictions(
            path,
            ids=loaded.ids[loaded.test],
            groups=loaded.group_names(loaded.test),
            labels=loaded.labels[loaded.test],
            views=config.test_views,
            heads=sweep.head_names(len(trained.folds.bias), equal_epochs=trained.equal_epochs is not None),
            logits=lambda view, block: joined.logits(features_of(view, block)),
            real={
                view: sweep.Subjects(loaded.ids[some], loaded.group_names(some), loaded.labels[some])
                for view in config.real_views
                for some in [loaded.extra_tests[view.name]]
            },
        )
    tested = [(None, loaded.test), *loaded.extra_tests.items()]
    names = {name: (loaded.ids[some], [loaded.names[index] for index in some]) for name, some in tested}
    write_roster(folder / TEST_IMAGES, names)
    views: list[View] = [*config.test_views, *config.real_views]
    rows = list(sweep.sweep_rows(path, views, len(loaded.classes), loaded.native_scale))
    write_text(folder / "sweep.csv", sweep.table_text(rows))
    write_json(folder / "sweep.json", [asdict(row) for row in rows])
    return rows


def _joined(trained: heads.Trained) -> heads.Heads:
    """All heads that are tested, in the order of their names."""
    return heads.joined([trained.folds, trained.refit, *(trained.equal_epochs or ())])


_FeaturesOf = Callable[[View, slice], Float32[np.ndarray, "images features"]]


@contextmanager
def _test_features(config: Config, ready: Prepared, joined: heads.Heads) -> Iterator[_FeaturesOf]:
    """Features of some images of a view: read where they are stored, else computed."""
    loaded = ready.images

    def seen(view: View, block: slice) -> tuple[Blur, Int64[np.ndarray, " _"]]:
        if isinstance(view, RealView):
            return CLEAN, loaded.extra_tests[view.name][block]
        return view, loaded.test[block]

    if ready.store is not None:
        tables = {view: ready.store.table(view) for view in config.test_views}

        def stored(view: View, block: slice) -> Float32[np.ndarray, "images features"]:
            blur, positions = seen(view, block)
            return tables[blur].read(loaded.ids[positions], "features").astype(np.float32, copy=False)

        yield stored
        return
    engine = ready.engine
    if joined.norms is not None:
        from blurtrain import tuning

        engine = tuning.SideBySide(ready.backbone, joined)
    with progress("running the backbone", preparation.seen_once(config, loaded), "view") as bar:
        yield lambda view, block: features.compute(
            loaded, (place := seen(view, block))[1], place[0], engine, config.batch_size, bar
        )


def _save_heads(folder: Path, suffix: str, folds: heads.Heads, refit: heads.Heads) -> None:
    """The refitted head as one layer, the folds' heads stacked."""
    _save(folder / f"head{suffix}.safetensors", {"weight": refit.weights[0], "bias": refit.bias[0]})
    _save(folder / f"heads-folds{suffix}.safetensors", {"weight": folds.weights, "bias": folds.bias})
    if refit.norms is not None and folds.norms is not None:
        _save(folder / f"batchnorm{suffix}.safetensors", {key: norm[0] for key, norm in refit.norms.items()})
        _save(folder / f"batchnorm-folds{suffix}.safetensors", folds.norms)


def _save(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    with whole_file(path) as temporary:
        save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, temporary)


def _write_events(config: Config, ready: Prepared, trained: heads.Trained, rows: list[sweep.SweepRow]) -> None:
    side = ready.backbone.preprocessing.geometry.crop
    strongest = max(config.test_views, key=lambda view: standard_deviation(view, side)).name
    hyperparameters = {
        "arm": config.arm,
        "data": title(config.data.root),
        "backbone": config.backbone.name,
        "copies": ", ".join(view.name for view in config.train_views[1:]) or "none",
        "l2": trained.summary.get("l2", 0.0),
        "heads": len(trained.folds.bias),
        "solver": trained.summary["solver"],
        "bn": config.bn,
        "tune": config.tune,
        "class weights": config.head.class_weights,
        "augment": _drawn_in_words(config),
        "strongest blur": strongest,
    }
    tensorboard.write_run(
        config.run_folder,
        curves=trained.curves,
        rows=rows,
        samples=_samples(config, ready) if config == config.baseline() else {},  # every arm has the same
        strongest=strongest,
        hyperparameters=hyperparameters,
    )
    if config.loggers:
        from blurtrain import loggers  # imports Lightning's, which take a second

        final = final_metrics(rows, strongest)
        loggers.write(config.loggers, config.run_folder.name, scalars(trained.curves, rows), hyperparameters, final)


def _drawn_in_words(config: Config) -> str:
    """What tells copies of one pipeline from those of another: their names are numbers alone."""
    if not config.drawn_views:
        return "none"
    from blurtrain import pipelines  # imports albumentations, which takes seconds

    return pipelines.in_words(config.drawn_views[0])


def _samples(config: Config, ready: Prepared) -> dict[View, Float32[np.ndarray, "samples 3 height width"]]:
    """A few test images through every view."""
    loaded = ready.images

    def some(positions: Int64[np.ndarray, " images"]) -> UInt8[np.ndarray, "samples 3 height width"]:
        return loaded.read_pixels(_spread(positions, loaded.labels[positions]))

    pixels = some(loaded.test)
    really = {view: some(loaded.extra_tests[view.name]) for view in config.real_views}
    return {
        **{view: blur_pixels(pixels, view) for view in config.test_views},
        **{view: blur_pixels(sharp, CLEAN) for view, sharp in really.items()},
    }


def _spread(
    positions: Int64[np.ndarray, " images"], labels: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, " samples"]:
    """The first image of each class in turn, then the second of each, until there are enough."""
    turns = np.zeros(len(positions), np.int64)
    for label in np.unique(labels):
        turns[labels == label] = np.arange(np.count_nonzero(labels == label))
    return positions[np.lexsort((labels, turns))[:SAMPLES]]


def _adapted(backbone: backbones.FrozenBackbone, trained: heads.Trained) -> str:
    """Fingerprint of the backbone that the refitted head is used with."""
    return batchnorm.applied(backbone, trained.refit.state(0)).fingerprint()


def _weights_used(config: Config, loaded: images.ImageSet) -> dict[str, Any]:
    """The weights of the classes, in their order, for the heads of the folds and the refitted one."""
    weights = class_weights(config, loaded)
    return {} if weights is None else {"class_weights": {"folds": weights[:-1].tolist(), "refit": weights[-1].tolist()}}


def _result(config: Config, ready: Prepared, trained: heads.Trained) -> dict[str, Any]:
    """The contents of run.json."""
    loaded, backbone = ready.images, ready.backbone
    shapes = _trainable(config, ready)
    return {
        "arm": config.arm,
        "classes": list(loaded.classes),
        "extra_tests": {name: len(some) for name, some in loaded.extra_tests.items()},
        "images": {"train": len(loaded.train), "validation": len(loaded.validation), "test": len(loaded.test)},
        "skipped": loaded.skipped,
        "native_pixels_per_pixel": loaded.native_scale,
        "backbone": {
            "name": backbone.name,
            "fingerprint": ready.fingerprint,
            **({"adapted": _adapted(backbone, trained)} if config.changes_backbone else {}),
            "preprocessing": plain(backbone.preprocessing),
            "features": backbone.features,
        },
        "copies": [view.name for view in config.train_views[1:]],
        "trainable": {"names": shapes, "parameters": _count(shapes)},
        "head": {**trained.summary, **_weights_used(config, loaded)},
        "engine": ready.engine.name,
        "inputs": preparation.inputs_of(config, ready),
        "versions": runs.versions(*("albumentations",) * bool(config.drawn_views)),
    }

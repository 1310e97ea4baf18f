"""One arm: config in, run folder out."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64
from safetensors.numpy import save_file

from blurtrain import backbones, engines, features, fitting, heads, images, runs, sweep, tensorboard
from blurtrain.blur import blur_pixels
from blurtrain.chatter import silence
from blurtrain.config import Config, plain
from blurtrain.files import remove_partial, sha256, whole_file, write_json, write_text
from blurtrain.kernels import content, kernel
from blurtrain.progress import progress, say
from blurtrain.roster import TEST_IMAGES, write_roster
from blurtrain.rows import Rows
from blurtrain.version import VERSION
from blurtrain.views import CLEAN, Blur, RealView, View

CHECKPOINT = ".checkpoint-"
SAMPLES = 4  # test images shown in TensorBoard


@dataclass(frozen=True)
class Prepared:
    """What the arms of one experiment share; there is no store where ``cache`` is false."""

    images: images.ImageSet
    backbone: backbones.FrozenBackbone
    fingerprint: str
    engine: engines.Engine
    store: features.FeatureStore | None


def prepare(config: Config) -> Prepared:
    """Import the backbone, decode and split the images, and open the store.

    Raises:
        BackboneError: If the network or its weights cannot be used.
        DataError: If the images cannot be used.
        StoreError: If the store cannot be read or written.
    """
    silence()
    images.check_source(config.data, config.extra_tests)  # bad folders are told before the backbone is read
    for view in (*config.train_views, *config.test_views):
        if view.file is not None:
            kernel(view)  # and bad point-spread functions
    backbone = backbones.load(config.backbone)
    geometry = backbone.preprocessing.geometry
    loaded = images.load(config.data, geometry, config.cache, config.on_bad_image, config.extra_tests)
    if len(loaded.validation) == 0:
        images.folds(loaded, config.head.folds)  # too few images are told before the backbone runs
    fingerprint = backbone.fingerprint()
    if config.cache is False:
        return Prepared(loaded, backbone, fingerprint, engines.TorchEngine(backbone), None)
    sample = loaded.read_pixels(loaded.train[: engines.CHECK_IMAGES])
    engine = engines.build(backbone, config.engine, config.cache, sample)
    store = features.store_for(backbone, engine, config.cache, config.precision)
    return Prepared(loaded, backbone, fingerprint, engine, store)


def inputs_of(config: Config, ready: Prepared) -> dict[str, str]:
    """Hashes of all that arms must share to be compared: images with labels and folds, backbone, and engine."""
    loaded = ready.images
    training, validation = masks(config, loaded)
    positions = np.r_[loaded.train, loaded.validation]
    return {
        "training": sha256(
            loaded.ids[positions].tobytes(),
            loaded.labels[positions].tobytes(),
            training.tobytes(),
            validation.tobytes(),
        ),
        "test": _names_and_labels(loaded, loaded.test),
        **{f"extra test {name}": _names_and_labels(loaded, some) for name, some in loaded.extra_tests.items()},
        "backbone": ready.fingerprint,
        "geometry": repr(ready.backbone.preprocessing.geometry),
        "engine": ready.engine.name,
        "precision": config.precision,
        "psf": sha256(*(content(view) for view in config.test_views)),
    }


def _names_and_labels(loaded: images.ImageSet, positions: Int64[np.ndarray, " _"]) -> str:
    return sha256(loaded.ids[positions].tobytes(), loaded.labels[positions].tobytes())


def train(config: Config, ready: Prepared) -> Path:
    """Train every head of one arm and evaluate it on the sweep.

    Args:
        config: The arm.
        ready: What `prepare` gave for this arm or for another one of the same experiment.

    Returns:
        The run folder.

    Raises:
        RunError: If the run folder belongs to another config.
        StoreError: If the store or the run folder cannot be read or written.
    """
    folder = runs.begin(config)
    remove_partial(folder)
    _say_what_is_trained(config, ready)
    trained, extraction = (
        _train_on_images(config, ready) if ready.store is None else _fit_features(config, ready, ready.store)
    )
    for note in trained.notes:
        say(note)
    _save_heads(folder, "", trained.folds, trained.refit)
    if trained.equal_epochs is not None:
        _save_heads(folder, "-equal-epochs", *trained.equal_epochs)
    rows = _sweep(config, ready, trained)
    _write_events(config, ready, trained, rows)
    write_json(folder / runs.WORK, {"forward_passes": asdict(extraction)})
    runs.finish(folder, _result(config, ready, trained))
    for checkpoint in folder.glob(f"{CHECKPOINT}*"):
        checkpoint.unlink(missing_ok=True)
    return folder


def _say_what_is_trained(config: Config, ready: Prepared) -> None:
    loaded, parameters = ready.images, len(ready.images.classes) * (ready.backbone.features + 1)
    total = parameters + sum(p.numel() for p in ready.backbone.parameters())
    copies = ", ".join(view.name for view in config.train_views[1:]) or "no copies"
    say(
        f"{config.run_folder.name}: {len(loaded.train)} training and {len(loaded.test)} test images in "
        f"{len(loaded.classes)} classes; {copies}; trains head.weight and head.bias, "
        f"{parameters:,} of {total:,} parameters"
    )


def wanted(config: Config, loaded: images.ImageSet) -> dict[Blur, Int64[np.ndarray, " images"]]:
    """Which images are needed in which view: fitting and validation in the arm's views, the test in the sweep's.

    Further test sets are seen as they are.
    """
    fitted = np.r_[loaded.train, loaded.validation]
    views = dict.fromkeys((*config.train_views, *config.test_views))
    tested = {view: loaded.test for view in config.test_views} | {CLEAN: loaded.tested}
    return {
        view: np.concatenate(
            [fitted if view in config.train_views else fitted[:0], tested.get(view, fitted[:0])]
        ).astype(np.int64)
        for view in views
    }


def wanted_by(arms: Sequence[Config], loaded: images.ImageSet) -> dict[Blur, Int64[np.ndarray, " images"]]:
    """What several arms need together."""
    merged: dict[Blur, Int64[np.ndarray, " images"]] = {}
    for arm in arms:
        for view, positions in wanted(arm, loaded).items():
            merged[view] = np.union1d(merged.get(view, positions), positions)
    return merged


def seen_once(config: Config, loaded: images.ImageSet) -> int:
    """How many images the test split and further test sets have in all views together."""
    return len(loaded.test) * (len(config.test_views) - 1) + len(loaded.tested)


def _fit_features(
    config: Config, ready: Prepared, store: features.FeatureStore
) -> tuple[heads.Trained, features.Extraction]:
    """The convex heads, on features that are stored where they are not yet."""
    extraction = features.extract(ready.images, wanted(config, ready.images), ready.engine, store, config.batch_size)
    return fit_stored(config, ready).trained(), extraction


def fit_stored(config: Config, ready: Prepared) -> fitting.Fit:
    """The convex heads of one arm, on features that are all stored.

    Raises:
        StoreError: If the store cannot be read.
    """
    loaded, store = ready.images, ready.store
    assert store is not None
    positions = np.r_[loaded.train, loaded.validation]
    training, validation = masks(config, loaded)
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
        )


def _train_on_images(config: Config, ready: Prepared) -> tuple[heads.Trained, features.Extraction]:
    """Heads trained on image batches; nothing is stored."""
    from blurtrain import minibatch  # imports albumentations, which takes seconds

    loaded = ready.images
    inputs = sha256(repr(sorted(inputs_of(config, ready).items())))
    trained = minibatch.fit(
        config.minibatch,
        ready.backbone,
        ready.engine,
        loaded,
        config.train_views,
        images.folds(loaded, config.head.folds) if len(loaded.validation) == 0 else None,
        batch_size=config.batch_size,
        checkpoint=config.run_folder / f"{CHECKPOINT}{inputs[:16]}.ckpt",
    )
    return trained, features.Extraction(0, trained.forward_passes + seen_once(config, loaded))


def masks(
    config: Config, loaded: images.ImageSet
) -> tuple[Bool[np.ndarray, "splits images"], Bool[np.ndarray, "splits images"]]:
    """Which images each head is fitted and validated on, over the training then the validation images."""
    if len(loaded.validation) > 0:
        is_training = np.arange(len(loaded.train) + len(loaded.validation)) < len(loaded.train)
        return is_training[None], ~is_training[None]
    fold = images.folds(loaded, config.head.folds)
    validation = fold[None] == np.arange(config.head.folds)[:, None]
    return ~validation, validation


def _sweep(config: Config, ready: Prepared, trained: heads.Trained) -> list[sweep.SweepRow]:
    """Write predictions of all heads on all views, and the metrics made from them."""
    loaded, folder = ready.images, config.run_folder
    sets = [(trained.folds, trained.refit), *([trained.equal_epochs] if trained.equal_epochs else [])]
    parts = [part for pair in sets for part in pair]
    joined = heads.Heads(np.concatenate([p.weights for p in parts]), np.concatenate([p.bias for p in parts]))
    path = folder / sweep.PREDICTIONS
    with _test_features(config, ready) as features_of:
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


_FeaturesOf = Callable[[View, slice], Float32[np.ndarray, "images features"]]


@contextmanager
def _test_features(config: Config, ready: Prepared) -> Iterator[_FeaturesOf]:
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
    with progress("running the backbone", seen_once(config, loaded), "view") as bar:
        yield lambda view, block: features.compute(
            loaded, (place := seen(view, block))[1], place[0], ready.engine, config.batch_size, bar
        )


def _save_heads(folder: Path, suffix: str, folds: heads.Heads, refit: heads.Heads) -> None:
    """The refitted head as one layer, the folds' heads stacked."""
    _save(folder / f"head{suffix}.safetensors", {"weight": refit.weights[0], "bias": refit.bias[0]})
    _save(folder / f"heads-folds{suffix}.safetensors", {"weight": folds.weights, "bias": folds.bias})


def _save(path: Path, tensors: Mapping[str, Float32[np.ndarray, "..."]]) -> None:
    with whole_file(path) as temporary:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary)


def _write_events(config: Config, ready: Prepared, trained: heads.Trained, rows: list[sweep.SweepRow]) -> None:
    loaded = ready.images
    pixels = loaded.read_pixels(loaded.test[:SAMPLES])
    really = {view: loaded.read_pixels(loaded.extra_tests[view.name][:SAMPLES]) for view in config.real_views}
    tensorboard.write_run(
        config.run_folder,
        curves=trained.curves,
        rows=rows,
        samples={
            **{view: blur_pixels(pixels, view) for view in config.test_views},
            **{view: blur_pixels(some, CLEAN) for view, some in really.items()},
        },
        hyperparameters={
            "arm": config.arm,
            "backbone": config.backbone.name,
            "copies": ", ".join(view.name for view in config.train_views[1:]) or "none",
            "l2": trained.summary.get("l2", 0.0),
            "folds": len(trained.folds.bias),
        },
    )


def _result(config: Config, ready: Prepared, trained: heads.Trained) -> dict[str, Any]:
    """The contents of run.json."""
    loaded, backbone = ready.images, ready.backbone
    shapes = {"head.weight": list(trained.refit.weights[0].shape), "head.bias": list(trained.refit.bias[0].shape)}
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
            "preprocessing": plain(backbone.preprocessing),
            "features": backbone.features,
        },
        "copies": [view.name for view in config.train_views[1:]],
        "trainable": {"names": shapes, "parameters": sum(int(np.prod(shape)) for shape in shapes.values())},
        "head": trained.summary,
        "engine": ready.engine.name,
        "inputs": inputs_of(config, ready),
        "versions": {
            "blurtrain": VERSION,
            "python": platform.python_version(),
            **{
                name: metadata.version(name)
                for name in ("torch", "torchvision", "pytorch-lightning", "onnxruntime", "numpy", "pillow")
            },
        },
    }

"""One arm: config in, run folder out."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from safetensors.numpy import save_file

from blurtrain import backbones, engines, features, fitting, heads, images, runs, sweep, tensorboard
from blurtrain.blur import blur_pixels
from blurtrain.chatter import silence
from blurtrain.config import Config, plain
from blurtrain.files import sha256, whole_file, write_json, write_text
from blurtrain.progress import say
from blurtrain.version import VERSION
from blurtrain.views import CLEAN, Blur

EXPORT_CHECK_IMAGES = 8  # real images on which a new export of the backbone is compared with torch
SAMPLES = 4  # test images shown in TensorBoard


@dataclass(frozen=True)
class Prepared:
    """What the arms of one experiment share."""

    images: images.ImageSet
    backbone: backbones.FrozenBackbone
    fingerprint: str
    engine: engines.Engine
    store: features.FeatureStore


def prepare(config: Config) -> Prepared:
    """Import the backbone, decode and split the images, and open the store.

    Raises:
        BackboneError: If the network or its weights cannot be used.
        DataError: If the images cannot be used.
        StoreError: If the store cannot be read or written.
    """
    silence()
    assert config.cache is not False
    images.check_source(config.data)  # bad folders are told before the backbone is read
    backbone = backbones.load(config.backbone)
    loaded = images.load(config.data, backbone.preprocessing.geometry, config.cache)
    if len(loaded.validation) == 0:
        images.folds(loaded, config.head.folds)  # too few images are told before the backbone runs
    sample = blur_pixels(loaded.read_pixels(loaded.train[:EXPORT_CHECK_IMAGES]), CLEAN)
    engine = engines.build(backbone, config.engine, config.cache, sample)
    return Prepared(
        loaded, backbone, backbone.fingerprint(), engine, features.store_for(backbone, engine, config.cache)
    )


def inputs_of(config: Config, ready: Prepared) -> dict[str, str]:
    """Hashes of all that arms must share to be compared: images with labels and folds, backbone, and engine."""
    loaded = ready.images
    training, validation = _masks(config, loaded)
    positions = np.r_[loaded.train, loaded.validation]
    return {
        "training": sha256(
            loaded.ids[positions].tobytes(),
            loaded.labels[positions].tobytes(),
            training.tobytes(),
            validation.tobytes(),
        ),
        "test": sha256(loaded.ids[loaded.test].tobytes(), loaded.labels[loaded.test].tobytes()),
        "backbone": ready.fingerprint,
        "geometry": ready.store.geometry,
        "engine": ready.engine.name,
    }


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
    _say_what_is_trained(config, ready)
    wanted = _wanted(config, ready.images)
    extraction = features.extract(ready.images, wanted, ready.engine, ready.store, config.batch_size)
    fit = _fit(config, ready)
    if not fit.converged:
        say(f"warning: the heads are not at their optimum (gradient {fit.largest_gradient:.1e}): raise head.tolerance")
    if _at_edge(config, fit):
        say(f"note: the chosen l2 {fit.l2:g} is at the edge of head.l2: candidates beyond it might do better")
    _save_head(folder / "head.safetensors", {"weight": fit.refit.weights[0], "bias": fit.refit.bias[0]})
    _save_head(folder / "heads-folds.safetensors", {"weight": fit.folds.weights, "bias": fit.folds.bias})
    rows = _sweep(config, ready, fit)
    _write_events(config, ready, fit, rows)
    write_json(folder / runs.RESULT, _result(config, ready, fit, extraction))  # last: the run is finished
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


def _wanted(config: Config, loaded: images.ImageSet) -> dict[Blur, Int64[np.ndarray, " images"]]:
    """Which images are needed in which view: fitting and validation in the arm's views, the test in the sweep's."""
    fitted = np.r_[loaded.train, loaded.validation]
    views = dict.fromkeys((*config.train_views, *config.test_views))
    return {
        view: np.concatenate(
            [fitted if view in config.train_views else fitted[:0], loaded.test if view in config.test_views else []]
        ).astype(np.int64)
        for view in views
    }


def _fit(config: Config, ready: Prepared) -> fitting.Fit:
    loaded = ready.images
    positions = np.r_[loaded.train, loaded.validation]
    training, validation = _masks(config, loaded)
    copies = len(config.train_views)
    return fitting.fit(
        np.concatenate([ready.store.read(view, loaded, positions) for view in config.train_views]),
        np.tile(loaded.labels[positions], copies),
        np.tile(training, copies),  # a copy stays with its original
        np.tile(validation, copies),
        classes=len(loaded.classes),
        l2=config.head.l2,
        tolerance=config.head.tolerance,
    )


def _at_edge(config: Config, fit: fitting.Fit) -> bool:
    return len(config.head.l2) > 1 and fit.l2 in (min(config.head.l2), max(config.head.l2))


def _masks(
    config: Config, loaded: images.ImageSet
) -> tuple[Bool[np.ndarray, "splits images"], Bool[np.ndarray, "splits images"]]:
    """Which images each head is fitted and validated on, over the training then the validation images."""
    if len(loaded.validation) > 0:
        is_training = np.arange(len(loaded.train) + len(loaded.validation)) < len(loaded.train)
        return is_training[None], ~is_training[None]
    fold = images.folds(loaded, config.head.folds)
    validation = fold[None] == np.arange(config.head.folds)[:, None]
    return ~validation, validation


def _sweep(config: Config, ready: Prepared, fit: fitting.Fit) -> list[sweep.SweepRow]:
    """Write predictions of all heads on all views, and the metrics made from them."""
    loaded, folder = ready.images, config.run_folder
    joined = heads.Heads(
        np.concatenate([fit.folds.weights, fit.refit.weights]), np.concatenate([fit.folds.bias, fit.refit.bias])
    )

    tables = {view: ready.store.table(view) for view in config.test_views}

    def logits(view: Blur, block: slice) -> Float64[np.ndarray, "heads images classes"]:
        return joined.logits(tables[view].read(loaded.ids[loaded.test[block]], "features"))

    path = folder / "predictions.parquet"
    sweep.write_predictions(
        path,
        ids=loaded.ids[loaded.test],
        groups=loaded.group_names(loaded.test),
        labels=loaded.labels[loaded.test],
        views=config.test_views,
        heads=sweep.head_names(len(fit.folds.bias)),
        logits=logits,
    )
    rows = list(sweep.sweep_rows(path, config.test_views, len(loaded.classes), loaded.native_scale))
    write_text(folder / "sweep.csv", sweep.table_text(rows))
    write_json(folder / "sweep.json", [asdict(row) for row in rows])
    return rows


def _save_head(path: Path, tensors: Mapping[str, Float32[np.ndarray, "..."]]) -> None:
    with whole_file(path) as temporary:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary)


def _write_events(config: Config, ready: Prepared, fit: fitting.Fit, rows: list[sweep.SweepRow]) -> None:
    pixels = ready.images.read_pixels(ready.images.test[:SAMPLES])
    tensorboard.write_run(
        config.run_folder,
        curves=fit.curves,
        rows=rows,
        samples={view: blur_pixels(pixels, view) for view in config.test_views},
        hyperparameters={
            "arm": config.arm,
            "backbone": config.backbone.name,
            "copies": ", ".join(view.name for view in config.train_views[1:]) or "none",
            "l2": fit.l2,
            "folds": len(fit.folds.bias),
        },
    )


def _result(config: Config, ready: Prepared, fit: fitting.Fit, extraction: features.Extraction) -> dict[str, Any]:
    """The contents of run.json."""
    loaded, backbone = ready.images, ready.backbone
    shapes = {"head.weight": list(fit.refit.weights[0].shape), "head.bias": list(fit.refit.bias[0].shape)}
    return {
        "arm": config.arm,
        "classes": list(loaded.classes),
        "images": {"train": len(loaded.train), "validation": len(loaded.validation), "test": len(loaded.test)},
        "native_pixels_per_pixel": loaded.native_scale,
        "backbone": {
            "name": backbone.name,
            "fingerprint": ready.fingerprint,
            "preprocessing": plain(backbone.preprocessing),
            "features": backbone.features,
        },
        "copies": [view.name for view in config.train_views[1:]],
        "trainable": {"names": shapes, "parameters": sum(int(np.prod(shape)) for shape in shapes.values())},
        "head": {
            "l2": fit.l2,
            "candidates": fit.candidates,
            "at_edge_of_grid": _at_edge(config, fit),
            "iterations": fit.iterations,
            "largest_gradient": fit.largest_gradient,
            "converged": fit.converged,
            "heads": len(fit.folds.bias),
        },
        "engine": ready.engine.name,
        "inputs": inputs_of(config, ready),
        "forward_passes": asdict(extraction),
        "versions": {
            "blurtrain": VERSION,
            "python": platform.python_version(),
            **{
                name: metadata.version(name)
                for name in ("torch", "torchvision", "pytorch-lightning", "onnxruntime", "numpy", "pillow")
            },
        },
    }

"""What the arms of one experiment share: images, backbone, engine and store, and which images an arm needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64

from blurtrain import adaptation, backbones, batchnorm, copies, engines, features, images
from blurtrain.chatter import silence
from blurtrain.config import Config
from blurtrain.files import sha256
from blurtrain.kernels import content, kernel
from blurtrain.views import CLEAN, TrainView


@dataclass(frozen=True)
class Prepared:
    """What the arms of one experiment share; there is no store where ``cache`` is false.

    The fingerprint is that of the imported network, also where an arm has adapted the backbone's batch norms.
    """

    images: images.ImageSet
    backbone: backbones.FrozenBackbone
    fingerprint: str
    engine: engines.Engine
    store: features.FeatureStore | None
    adapting: int = 0  # images that had to pass the backbone for its batch norms


def prepare(config: Config) -> Prepared:
    """Import the backbone, decode and split the images, and open the store.

    Raises:
        BackboneError: If the network or its weights cannot be used.
        DataError: If the images cannot be used.
        StoreError: If the store cannot be read or written.
    """
    silence()
    copies.check(config)
    images.check_source(config.data, config.extra_tests)  # bad folders are told before the backbone is read
    for view in (*config.copy_views, *config.test_views):
        if view.file is not None:
            kernel(view)  # and bad point-spread functions
    backbone = batchnorm.imported(config)
    geometry = backbone.preprocessing.geometry
    copies.check(config, geometry.crop)
    loaded = images.load(config.data, geometry, config.cache, config.on_bad_image, config.extra_tests)
    if len(loaded.validation) == 0:
        images.folds(loaded, config.head.folds)  # too few images are told before the backbone runs
    return Prepared(loaded, backbone, backbone.fingerprint(), *_run_by(config, backbone, loaded))


def _run_by(
    config: Config, backbone: backbones.FrozenBackbone, loaded: images.ImageSet
) -> tuple[engines.Engine, features.FeatureStore | None]:
    """What runs a backbone, and where its features are stored."""
    if config.cache is False:
        return engines.TorchEngine(backbone), None
    sample = loaded.read_pixels(loaded.train[: engines.CHECK_IMAGES])
    engine = engines.build(backbone, config.engine, config.cache, sample)
    return engine, features.store_for(backbone, engine, config.cache, config.precision)


def adapted(config: Config, ready: Prepared) -> Prepared:
    """The same with the backbone of an arm: its batch norms may be adapted to the arm's training views.

    Raises:
        StoreError: If the statistics cannot be stored.
    """
    if config.bn == "frozen":
        return ready
    backbone, passes = adaptation.adapted(
        ready.backbone, ready.images, config.train_views, config.batch_size, config.cache
    )
    engine, store = _run_by(config, backbone, ready.images)
    return replace(ready, backbone=backbone, engine=engine, store=store, adapting=passes)


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


def wanted(config: Config, loaded: images.ImageSet) -> dict[TrainView, Int64[np.ndarray, " images"]]:
    """Which images are needed in which view: fitting and validation in the arm's views, the test in the sweep's.

    Further test sets are seen as they are.
    """
    fitted = np.r_[loaded.train, loaded.validation]
    views: dict[TrainView, None] = dict.fromkeys((*config.train_views, *config.test_views))
    tested: dict[TrainView, features.Positions] = dict.fromkeys(views, fitted[:0])
    tested |= dict.fromkeys(config.test_views, loaded.test)
    tested[CLEAN] = loaded.tested
    return {
        view: np.concatenate([fitted if view in config.train_views else fitted[:0], tested[view]]).astype(np.int64)
        for view in views
    }


def wanted_by(arms: Sequence[Config], loaded: images.ImageSet) -> dict[TrainView, Int64[np.ndarray, " images"]]:
    """What several arms need together."""
    merged: dict[TrainView, Int64[np.ndarray, " images"]] = {}
    for arm in arms:
        for view, positions in wanted(arm, loaded).items():
            merged[view] = np.union1d(merged.get(view, positions), positions)
    return merged


def seen_once(config: Config, loaded: images.ImageSet) -> int:
    """How many images the test split and further test sets have in all views together."""
    return len(loaded.test) * (len(config.test_views) - 1) + len(loaded.tested)


def masks(
    config: Config, loaded: images.ImageSet
) -> tuple[Bool[np.ndarray, "splits images"], Bool[np.ndarray, "splits images"]]:
    """Which images each head is fitted and validated on, over the training then the validation images.

    Raises:
        DataError: As `blurtrain.images.folds`.
    """
    if len(loaded.validation) > 0:
        is_training = np.arange(len(loaded.train) + len(loaded.validation)) < len(loaded.train)
        return is_training[None], ~is_training[None]
    fold = images.folds(loaded, config.head.folds)
    validation = fold[None] == np.arange(config.head.folds)[:, None]
    return ~validation, validation

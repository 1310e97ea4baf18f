"""An imported classifier with its own head over a sweep: what it gets right, and what it takes for what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from blurtrain import answers, class_folders, mce, runs, sweep
from blurtrain.comparison import described_view
from blurtrain.config import (
    EMBEDDED,
    Config,
    plain,
)
from blurtrain.differences import accuracy_of
from blurtrain.errors import ConfigError
from blurtrain.files import csv_text, remove_partial, sha256, write_json, write_text
from blurtrain.imagenet_c import table_in_words
from blurtrain.kernels import content
from blurtrain.locks import held
from blurtrain.opening import open_source
from blurtrain.progress import meanwhile, say
from blurtrain.sources import Source, listing
from blurtrain.views import Blur, View

if TYPE_CHECKING:
    from blurtrain.backbones import FrozenBackbone
    from blurtrain.engines import Engine
    from blurtrain.features import FeatureStore
    from blurtrain.images import ImageSet

RESULT = answers.RESULT  # written last: it is finished
TABLE = "pretrained.csv"
PICTURE = "figures/accuracy.png"
OWN = "own"  # name of the head in the predictions
GLYPHNET = "glyphnet"  # the embedded network, as backbone.name
MOST = 10  # confusions that are kept of a view


def pretrained(config: Config, mapping: Path | None = None) -> Path:
    """Run an imported classifier with its own head over the sweep; a finished result is left as it is.

    Args:
        config: Of it the images, backbone, sweep, engine, precision, batch size and places are used.
        mapping: A CSV file of two columns, folder and class, where the folders' names do not say which output of the
            network each stands for.

    Returns:
        The folder of the result.

    Raises:
        BlurtrainError: Whatever a user can cause.
    """
    _require_use(config, mapping)
    used = config.untrained()
    folder = config.folder("pretrained")
    source = open_source(used.data, trained=False)
    seen = _seen(used, source, mapping)
    if runs.is_finished(used, folder, RESULT):
        runs.require_seen(folder, read_pretrained(folder)["seen"], seen, "other files")
        say(f"{folder} is finished already; --name gives another one")
        return folder
    with meanwhile("loading libraries and the network"):
        ready = _prepare(used, source.classes, mapping)
    with held(runs.lock(folder), f"making {folder}"):
        if not runs.is_finished(used, folder, RESULT):
            runs.begin(used, folder)
            remove_partial(folder)
            _make(used, folder, ready, seen)
    return folder


def read_pretrained(folder: Path) -> dict[str, Any]:
    """The contents of a finished pretrained.json.

    Raises:
        RunError: If there is none, or it is not what was written.
    """
    return runs.load_run(folder, RESULT, "pretrained").result


def _require_use(config: Config, mapping: Path | None) -> None:
    if config.cache is False:
        raise ConfigError("cache must be a folder for pretrained, which stores each (image, view) once, got False")
    if config.data.root == EMBEDDED and config.backbone.name != GLYPHNET:
        raise ConfigError(
            f"data.root {EMBEDDED!r} shows letters, which {config.backbone.name} does not know: "
            f"give a folder of its classes, or backbone.name {GLYPHNET}"
        )
    if config.data.root == EMBEDDED and mapping is not None:
        raise ConfigError(f"mapping must be left out where data.root is {EMBEDDED!r}, got {str(mapping)!r}")


def _seen(config: Config, source: Source, mapping: Path | None) -> dict[str, str]:
    """What lies in files, by hashes that are had in a moment: of the images only their names and sizes.

    Raises:
        ConfigError: If a file cannot be read.
    """
    return {
        "images": listing(source),
        "mapping": "" if mapping is None else class_folders.mapping_sha256(mapping),
        "weights": runs.weights_sha256(config),
        "psf": sha256(*(content(view) for view in config.test_views)),
    }


@dataclass(frozen=True)
class _Ready:
    """What is run.

    Args:
        images: All of them test images.
        targets: Output that each of their classes stands for.
        names: Of all outputs.
        backbone: The whole network.
        engine: Runs it.
        store: Of the logits.
    """

    images: "ImageSet"
    targets: Int64[np.ndarray, " classes"]
    names: tuple[str, ...]
    backbone: "FrozenBackbone"
    engine: "Engine"
    store: "FeatureStore"

    @property
    def labels(self) -> Int64[np.ndarray, " test"]:
        """The output that is right for each test image."""
        return np.asarray(self.targets[self.images.labels[self.images.test]])


def _prepare(config: Config, classes: Sequence[str], mapping: Path | None) -> _Ready:
    """Find the outputs of the class folders, import the network and decode the images, in the order of their cost."""
    from blurtrain import backbones, engines, features, images  # torch, which a finished result does not need
    from blurtrain.chatter import silence

    silence()
    assert isinstance(config.cache, Path)
    names = backbones.outputs(config.backbone.name)
    is_embedded = config.data.root == EMBEDDED
    targets = list(range(len(names))) if is_embedded else class_folders.targets(classes, names, mapping)
    backbone = backbones.load_whole(config.backbone)
    geometry = backbone.preprocessing.geometry
    loaded = images.load(config.data, geometry, config.cache, config.on_bad_image, trained=False)
    sample = loaded.read_pixels(loaded.test[: engines.CHECK_IMAGES])
    engine = engines.build(backbone, config.engine, config.cache, sample)
    store = features.store_for(backbone, engine, config.cache, config.precision)
    return _Ready(loaded, np.array(targets, np.int64), names, backbone, engine, store)


def _make(config: Config, folder: Path, ready: _Ready, seen: Mapping[str, str]) -> None:
    """Run what is not stored yet, and write predictions, tables, picture and last the result."""
    from blurtrain import features

    loaded, store, views = ready.images, ready.store, config.test_views
    say(
        f"{folder.name}: {len(loaded.test)} test images of {len(np.unique(ready.labels))} of the {len(ready.names)} "
        f"classes that {ready.backbone.name} knows; nothing is trained"
    )

    def logits(view: View, block: slice) -> Float64[np.ndarray, "1 images outputs"]:
        assert isinstance(view, Blur)  # there are no photographs that were blurred really
        return store.read(view, loaded, loaded.test[block])[None].astype(np.float64)

    wanted = dict.fromkeys(views, loaded.test)
    extraction = features.extract(loaded, wanted, ready.engine, store, config.batch_size)
    sweep.write_predictions(
        folder / sweep.PREDICTIONS,
        ids=loaded.ids[loaded.test],
        groups=loaded.group_names(loaded.test),
        labels=ready.labels,
        views=views,
        heads=[OWN],
        logits=logits,
    )
    found = results(folder / sweep.PREDICTIONS, views, ready.names, ready.backbone.preprocessing.geometry.crop)
    result = {"network": ready.backbone.name, **found, **_made_of(config, ready, seen)}
    write_text(folder / TABLE, views_text(result))
    answers.picture(folder / PICTURE, result)
    write_json(folder / runs.WORK, {"forward_passes": asdict(extraction)})
    runs.finish(folder, result, RESULT)


def _made_of(config: Config, ready: _Ready, seen: Mapping[str, str]) -> dict[str, Any]:
    """What the result was made of, for pretrained.json."""
    loaded, backbone = ready.images, ready.backbone
    folders = [
        {"folder": folder, "output": int(output), "name": ready.names[output]}
        for folder, output in zip(loaded.classes, ready.targets, strict=True)
    ]
    return {
        "native_pixels_per_pixel": loaded.native_scale,
        "classes": folders,
        "skipped": loaded.skipped,
        "backbone": {
            "name": backbone.name,
            "fingerprint": ready.store.fingerprint,
            "preprocessing": plain(backbone.preprocessing),
            "outputs": backbone.features,
        },
        "engine": ready.engine.name,
        "precision": config.precision,
        "seen": dict(seen),
        "versions": runs.versions(),
    }


def results(path: Path, views: Sequence[Blur], names: Sequence[str], side: int) -> dict[str, Any]:
    """What the predictions of one head say.

    Args:
        path: The parquet file.
        views: Of the sweep, the clean one first.
        names: What the outputs stand for.
        side: Of the images as the network sees them, px.

    Returns:
        Counts, the metrics and confusions of each view, and corruption errors where AlexNet's hold: for ImageNet's
        classes at 224 px, of families with all five severities.

    Raises:
        RunError: If the file cannot be read or lacks a view.
    """
    per_view = []
    for view in views:
        predictions = sweep.read_predictions(path, view)
        labels, correct = predictions.labels, predictions.correct
        per_view.append(
            {
                **described_view(view, side),
                **accuracy_of(correct.astype(np.float64), predictions.groups),
                "correct": int(correct.sum()),
                **_metrics(predictions, len(names)),
                **confusions(labels, predictions.predicted[0].astype(np.int64), names),
            }
        )
    return {
        "n_test": len(labels),
        "groups": len(np.unique(predictions.groups)),
        "n_classes": len(np.unique(labels)),
        "n_outputs": len(names),
        "severities": table_in_words(side) if any(view.severity for view in views) else None,
        "views": per_view,
        "corruption": _corruption(views, [view["accuracy"] for view in per_view], len(names), side),
    }


def _metrics(predictions: sweep.ViewPredictions, classes: int) -> dict[str, float | None]:
    values = sweep.head_metrics(predictions, classes)
    del values["accuracy_refit"]  # nothing is fitted
    return values


def confusions(
    labels: Int64[np.ndarray, " images"], predicted: Int64[np.ndarray, " images"], names: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """What is most often taken for what, and what is most often wrongly answered; ties in the order of the outputs.

    Args:
        labels: The right output of each image.
        predicted: The network's.
        names: What the outputs stand for.

    Returns:
        ``confusions``, pairs of true and predicted class, and ``wrong_answers``, each with its count of images.
    """
    wrong = labels != predicted
    pairs = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    answers = Counter(predicted[wrong].tolist())
    return {
        "confusions": [
            {"true": names[true], "predicted": names[answer], "images": count}
            for (true, answer), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:MOST]
        ],
        "wrong_answers": [
            {"predicted": names[answer], "images": count}
            for answer, count in sorted(answers.items(), key=lambda item: (-item[1], item[0]))[:MOST]
        ],
    }


def _corruption(views: Sequence[Blur], accuracies: Sequence[float], outputs: int, side: int) -> dict[str, Any] | None:
    """Corruption errors, where AlexNet's may be divided by."""
    families = mce.complete_families(views)
    if not families or outputs != len(class_folders.wnids()) or side != mce.SIDE:
        return None
    errors = {
        family: [
            1 - accuracy
            for view, accuracy in zip(views, accuracies, strict=True)
            if view.severity and view.family == family
        ]
        for family in families
    }
    return mce.corruption_errors(1 - accuracies[0], errors)


def views_text(result: Mapping[str, Any]) -> str:
    """One row for each view."""
    plain_columns = ("family", "strength", "angle", "border")
    metrics = ("correct", "accuracy", "macro_accuracy", "top5_accuracy", "nll", "ece")
    rows = [["view", *plain_columns, "n_test", "groups", *metrics, "ci95_low", "ci95_high"]]
    for view in result["views"]:
        row = [view["name"], *(view[key] for key in plain_columns), result["n_test"], result["groups"]]
        rows.append([*row, *(view[key] for key in metrics), *view["ci95"]])
    return csv_text(rows)

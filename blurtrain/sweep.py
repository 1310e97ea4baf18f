"""Predictions of a run's heads on every view of the test split, and the metrics made from them; no torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, Shaped

from blurtrain import metrics
from blurtrain.errors import RunError
from blurtrain.files import csv_text, whole_file
from blurtrain.kernels import border_of
from blurtrain.progress import progress
from blurtrain.views import Blur, RealView, View

PREDICTIONS = "predictions.parquet"
REFIT = "refit"
EQUAL_EPOCHS = "equal epochs: "  # before the names of heads that were trained as many epochs as another arm's
TOP_K = 5  # reported where there are more than twice as many classes
BLOCK = 1024  # images whose logits are held at once

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("group", pa.string()),
        ("view", pa.string()),
        ("family", pa.string()),
        ("strength", pa.float64()),
        ("angle", pa.float64()),
        ("border", pa.string()),
        ("head", pa.string()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("probability", pa.float32()),  # of the label
        ("confidence", pa.float32()),  # of the predicted class
        ("margin", pa.float32()),  # probability of the label minus that of the best other class
        ("rank", pa.int32()),  # classes that score higher than the label
    ]
)

Logits = Callable[[View, slice], Float64[np.ndarray, "heads images classes"]]


@dataclass(frozen=True)
class Subjects:
    """Images that are tested on together.

    Args:
        ids: Content names.
        groups: Statistical unit of each.
        labels: Class of each.
    """

    ids: Shaped[np.ndarray, " images"]
    groups: Sequence[str]
    labels: Int64[np.ndarray, " images"]


def head_names(folds: int, *, equal_epochs: bool = False) -> list[str]:
    """Names of an arm's heads: its folds, then the refit; and these again at equal epochs."""
    names = [*(f"fold-{i}" for i in range(folds)), REFIT]
    return names + [EQUAL_EPOCHS + name for name in names] * equal_epochs


def write_predictions(
    path: Path,
    *,
    ids: Shaped[np.ndarray, " images"],
    groups: Sequence[str],
    labels: Int64[np.ndarray, " images"],
    views: Sequence[Blur],
    heads: Sequence[str],
    logits: Logits,
    real: Mapping[RealView, Subjects] | None = None,
) -> None:
    """Write one row for each view, head and image, view by view, block by block.

    Args:
        path: The parquet file; it appears whole.
        ids: Content names of the test images.
        groups: Statistical unit of each.
        labels: Class of each.
        views: Blurs.
        heads: Names of the heads.
        logits: Gives the logits of all heads for a view and a slice of its images.
        real: Images of the views that have their own.

    Raises:
        StoreError: If the file cannot be written.
    """
    split = Subjects(ids, groups, labels)
    seen: list[tuple[View, Subjects]] = [*((view, split) for view in views), *(real or {}).items()]
    total = sum(len(subjects.ids) for _, subjects in seen)
    with (
        progress("evaluating heads", total, "view") as bar,
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        for view, subjects in seen:
            for start in range(0, len(subjects.ids), BLOCK):
                block = slice(start, start + BLOCK)
                some = Subjects(subjects.ids[block], subjects.groups[block], subjects.labels[block])
                writer.write_table(_rows(some, view, heads, logits(view, block)))
                bar.advance(len(some.ids))


def _rows(
    some: Subjects, view: View, heads: Sequence[str], logits: Float64[np.ndarray, "heads images classes"]
) -> pa.Table:
    count, labels = logits.shape[0], some.labels
    probabilities = _softmax(logits)
    index = labels[None, :, None]
    of_label = np.take_along_axis(probabilities, np.broadcast_to(index, (count, len(labels), 1)), -1)
    others = probabilities.copy()
    np.put_along_axis(others, np.broadcast_to(index, (count, len(labels), 1)), -1.0, -1)
    total = count * len(labels)
    columns = {
        "image": np.tile(some.ids.astype(str), count),
        "group": np.tile(np.asarray(some.groups), count),
        "view": [view.name] * total,
        "family": [view.family] * total,
        **{name: [value] * total for name, value in _measures(view).items()},
        "head": np.repeat(list(heads), len(labels)),
        "label": np.tile(labels, count).astype(np.int32),
        "predicted": probabilities.argmax(-1).ravel().astype(np.int32),
        "probability": of_label.ravel().astype(np.float32),
        "confidence": probabilities.max(-1).ravel().astype(np.float32),
        "margin": (of_label[..., 0] - others.max(-1)).ravel().astype(np.float32),
        "rank": (probabilities > of_label).sum(-1).ravel().astype(np.int32),
    }
    return pa.table(columns, schema=SCHEMA)


def _measures(view: View) -> dict[str, float | str | None]:
    """What a blur is beside its family; nothing is known of a real one."""
    if isinstance(view, RealView):
        return {"strength": None, "angle": None, "border": None}
    return {"strength": view.strength, "angle": view.angle, "border": border_of(view)}


def _softmax(logits: Float64[np.ndarray, "heads images classes"]) -> Float64[np.ndarray, "heads images classes"]:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


@dataclass(frozen=True)
class ViewPredictions:
    """Predictions of all heads on one view.

    Args:
        images: Content names.
        groups: Statistical units.
        labels: Classes.
        heads: Names of the heads.
        predicted: Classes that the heads give.
        probability: Of the label.
        confidence: Of the predicted class.
        rank: Classes that score higher than the label.
    """

    images: Shaped[np.ndarray, " images"]
    groups: Shaped[np.ndarray, " images"]
    labels: Int64[np.ndarray, " images"]
    heads: list[str]
    predicted: Int[np.ndarray, "heads images"]
    probability: Float32[np.ndarray, "heads images"]
    confidence: Float32[np.ndarray, "heads images"]
    rank: Int[np.ndarray, "heads images"]

    @property
    def correct(self) -> Bool[np.ndarray, "heads images"]:
        """Whether each head is right on each image."""
        return np.asarray(self.predicted == self.labels)

    @property
    def folds(self) -> list[int]:
        """Places of the folds' heads."""
        return [i for i, name in enumerate(self.heads) if name != REFIT]


def read_predictions(path: Path, view: View, *, equal_epochs: bool = False) -> ViewPredictions:
    """Stored predictions of one view.

    Args:
        path: The parquet file.
        view: The view.
        equal_epochs: Of the heads at equal epochs, where the arm has such; else of its only ones.

    Raises:
        RunError: If the file cannot be read or has no such view.
    """
    try:
        table = pq.read_table(path, filters=[("view", "=", view.name)])
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read: train that run again under another name") from error
    if len(table) == 0:
        raise RunError(f"{path} has no predictions for {view.name}: the runs must share their sweep")
    column = {name: table[name].to_numpy() for name in table.column_names}
    every = list(dict.fromkeys(column["head"]))
    longer = [head for head in every if head.startswith(EQUAL_EPOCHS)]
    heads = longer if longer and equal_epochs else [head for head in every if head not in longer]
    # Rows run block by block; within a block by head, then image.
    by_head = [column["head"] == head for head in heads]
    first = by_head[0]
    return ViewPredictions(
        images=column["image"][first],
        groups=column["group"][first],
        labels=column["label"][first].astype(np.int64),
        heads=[head.removeprefix(EQUAL_EPOCHS) for head in heads],
        **{
            name: np.stack([column[name][rows] for rows in by_head])
            for name in ("predicted", "probability", "confidence", "rank")
        },
    )


@dataclass(frozen=True)
class SweepRow:
    """Metrics of a run on one view: means over the folds' heads, and the refitted head's accuracy."""

    view: str
    curve: str
    family: str
    strength: float | None  # none of photographs that are blurred really
    strength_native: float | None  # px of the median image; of a psf none, whose strength is a scale
    angle: float | None
    images: int
    heads: int
    accuracy: float
    accuracy_sd: float
    macro_accuracy: float
    top5_accuracy: float | None
    nll: float
    ece: float
    accuracy_refit: float


def head_metrics(predictions: ViewPredictions, classes: int) -> dict[str, float | None]:
    """What a run and a comparison both report of a view beside its accuracy: means over the folds' heads."""
    folds = predictions.folds
    correct = predictions.correct[folds]
    refit = predictions.correct[[i for i in range(len(predictions.heads)) if i not in folds]]
    return {
        "macro_accuracy": float(metrics.macro_accuracy(correct, predictions.labels, classes).mean()),
        "top5_accuracy": float(metrics.top_k(predictions.rank[folds], TOP_K).mean()) if classes > 2 * TOP_K else None,
        "nll": float(metrics.negative_log_likelihood(predictions.probability[folds]).mean()),
        "ece": float(np.mean(metrics.expected_calibration_error(predictions.confidence[folds], correct))),
        "accuracy_refit": float(refit.mean()) if len(refit) else None,
    }


def metrics_of(predictions: ViewPredictions, view: View, classes: int, native_scale: float) -> SweepRow:
    """The metrics of one view."""
    in_pixels = isinstance(view, Blur) and view.file is None and not view.severity
    accuracies: Float[np.ndarray, " heads"] = metrics.accuracy(predictions.correct[predictions.folds])
    return SweepRow(
        view=view.name,
        curve=view.curve,
        family=view.family,
        strength=view.strength if isinstance(view, Blur) else None,
        strength_native=view.strength * native_scale if isinstance(view, Blur) and in_pixels else None,
        angle=view.angle if isinstance(view, Blur) else None,
        images=len(predictions.labels),
        heads=len(accuracies),
        accuracy=float(accuracies.mean()),
        accuracy_sd=float(accuracies.std(ddof=1)) if len(accuracies) > 1 else 0.0,
        **head_metrics(predictions, classes),  # type: ignore[arg-type]
    )


def sweep_rows(path: Path, views: Sequence[View], classes: int, native_scale: float) -> Iterator[SweepRow]:
    """The metrics of every view of a predictions file."""
    for view in views:
        yield metrics_of(read_predictions(path, view), view, classes, native_scale)


def table_text(rows: Sequence[SweepRow]) -> str:
    """Rows as CSV."""
    return csv_text([asdict(rows[0]), *(asdict(row).values() for row in rows)])

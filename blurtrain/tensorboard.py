"""Event files: the same tags in every arm, so that the curves of baseline and augmented overlay."""

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from blurtrain.errors import StoreError
from blurtrain.files import PARTIAL
from blurtrain.scalars import final_metrics, scalars, step_of
from blurtrain.sweep import SweepRow
from blurtrain.views import CLEAN, Blur, View

Picture = UInt8[np.ndarray, "rows columns 3"]


def write_run(
    folder: Path,
    *,
    curves: Sequence[Mapping[str, float]],
    rows: Sequence[SweepRow],
    samples: Mapping[View, Float32[np.ndarray, "samples 3 height width"]],
    strongest: str,
    hyperparameters: Mapping[str, Any],
) -> None:
    """Write the events of a run.

    Args:
        folder: Of the run.
        curves: One row a solver iteration, for the chosen penalty, averaged over folds.
        rows: The sweep; photographs that are blurred really have tags of their own.
        samples: A few test images through every view, in [0, 1]; none where another arm shows the same.
        strongest: Name of the widest blur in the sweep: strengths of several families are of several units.
        hyperparameters: What the HParams tab shows beside the final metrics.

    Raises:
        StoreError: If the file cannot be written.
    """
    final = final_metrics(rows, strongest)
    with Events(folder) as writer:
        for tag, step, value in scalars(curves, rows):
            writer.add_scalar(tag, value, step)
        assert writer.file_writer is not None
        for curve in dict.fromkeys(view.curve for view in samples if view != CLEAN):
            for view, pictures in samples.items():
                if view.curve in _shown_under(curve, samples):
                    step = step_of(view.strength if isinstance(view, Blur) else None)
                    add_picture(writer, f"test images/{curve}", step, _side_by_side(pictures))
        for summary in hparams(dict(hyperparameters), final):
            writer.file_writer.add_summary(summary)
        for name, value in final.items():
            writer.add_scalar(name, value, 0)


def _shown_under(curve: str, samples: Mapping[View, Any]) -> tuple[str, ...]:
    """Curves whose pictures share a slider: a blur's begins with the clean ones, photographs stand alone."""
    is_blur = any(isinstance(view, Blur) and view.curve == curve for view in samples)
    return (CLEAN.curve, curve) if is_blur else (curve,)


def _side_by_side(pictures: Float32[np.ndarray, "samples 3 height width"]) -> Picture:
    pixels = (255 * pictures.clip(0, 1)).round().astype(np.uint8)
    return np.concatenate(list(pixels.transpose(0, 2, 3, 1)), axis=1)


def add_picture(writer: SummaryWriter, tag: str, step: int, picture: Picture) -> None:
    """Show a picture; the writer's own `add_image` compresses for a second what nobody stores for long."""
    _, encoded = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])  # OpenCV has BGR
    height, width, _ = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.tobytes())
    assert writer.file_writer is not None
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def add_figures(writer: SummaryWriter, tag: str, figures: Mapping[str, Path]) -> None:
    """Show pictures that lie in files."""
    from PIL import Image

    for name, path in figures.items():
        with Image.open(path) as picture:
            writer.add_image(f"{tag}/{name}", np.asarray(picture.convert("RGB")), 0, dataformats="HWC")


def write_layers(folder: Path, result: Mapping[str, Any], figures: Mapping[str, Path] = MappingProxyType({})) -> None:
    """Write the events of a network's layers: its first convolution at step 1, after the last features and logits.

    Tags name the blur alone, so that networks overlay. What is not known has no point.

    Args:
        folder: Where the event file goes; one that is there is replaced.
        result: The contents of layers.json.
        figures: Its pictures, shown as images.

    Raises:
        StoreError: If the file cannot be written.
    """
    with Events(folder) as writer:
        writer.add_text("layers", result["finding"])
        for place, blur in enumerate(result["blurs"]):
            for layer in result["layers"]:
                values = {
                    **_propagated(layer["propagated"][place], blur["border"]),
                    **_local(layer["local"][place]),
                }
                _add_known(writer, f"layers {blur['name']}", values, layer["depth"])
            features = _propagated(result["features"]["propagated"][place], blur["border"])
            _add_known(writer, f"layers {blur['name']}", features, len(result["layers"]) + 1)
            for name, part in result["logits"].items():
                found = part["propagated"][place]
                errors = {f"error logits {name}": (found.get(blur["border"]) or {}).get("q50")}
                _add_known(writer, f"layers {blur['name']}", errors, len(result["layers"]) + 2)
        add_figures(writer, "layers", figures)


def _add_known(writer: SummaryWriter, tag: str, values: Mapping[str, float | None], step: int) -> None:
    for name, value in values.items():
        if value is not None:
            writer.add_scalar(f"{tag}/{name}", value, step)


def _propagated(found: Mapping[str, Any], border: str) -> dict[str, float | None]:
    """What a blurred image leads to at a layer or at the features."""
    product = found.get("product")
    return {
        "error": (found.get(border) or {}).get("q50"),
        "error circular": (found.get("circular") or {}).get("q50"),
        "product log10": math.log10(product) if product else None,  # itself it soon exceeds what a step can hold
        **{f"auc {head}": values["auc"] for head, values in found["auc"].items()},
    }


def _local(found: Mapping[str, Any]) -> dict[str, float | None]:
    """What a layer makes of its own blurred input: the error, and the largest measured share of each bound."""
    shares = {f"local {bound}": values["largest"] for bound, values in (found["bounds"] or {}).items()}
    return {"local error": (found["error"] or {}).get("mean"), **shares}


class Events:
    """An event file that appears whole and alone: written aside, then moved into the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> SummaryWriter:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._aside = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self._folder))
            self._writer = SummaryWriter(str(self._aside))
        except OSError as error:
            raise self._unwritable(error) from error
        return self._writer

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._writer.close()
            if kind is None:
                for old in self._folder.glob("events.out.tfevents.*"):
                    old.unlink(missing_ok=True)
                for new in self._aside.iterdir():
                    new.replace(self._folder / new.name)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"{self._folder} cannot be written ({error.strerror}): free space and run again")

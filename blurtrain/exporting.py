"""Write a finished run's classifier as one file that others can run, checked against the original on real images."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch
from jaxtyping import Float32, UInt8
from safetensors.torch import save_file

from blurtrain import deployed, model_card
from blurtrain.deployed import DeployedClassifier
from blurtrain.engines import write_onnx
from blurtrain.errors import BackboneError, ConfigError
from blurtrain.files import file_sha256, whole_file
from blurtrain.finished import tested_images
from blurtrain.runs import load_run
from blurtrain.version import VERSION

Format = Literal["onnx", "torch", "safetensors"]

SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
TOLERANCE = 1e-4  # of a probability: a file that differs more is not written
CHECKED = 100  # test images on which that is seen
AT_ONCE = 10  # images that are run together

Images = UInt8[np.ndarray, "batch 3 height width"]
Probabilities = Float32[np.ndarray, "batch classes"]


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        file: Where it lies.
        card: Its model card.
        difference: Largest difference from the original in any probability.
        images: On so many test images.
    """

    file: Path
    card: Path
    difference: float
    images: int


def export(run: Path | str, kind: Format, out: Path | str) -> Exported:
    """Write a finished run's classifier as one file, with its model card beside it.

    Args:
        run: The run's folder.
        kind: ``onnx``: a graph from whole grey levels to probabilities. ``torch``: the same as a program of
            `torch.export`. ``safetensors``: weights that `blurtrain.load` reads, without any code.
        out: The file; it appears whole or not at all.

    Raises:
        RunError: If there is no finished run, it is damaged, or its test images are others.
        ConfigError: If the file's name does not end as its format's do.
        BackboneError: If the backbone cannot be had any more or cannot be exported, or the file's answers differ.
        DataError: If the test images cannot be read any more.
        StoreError: If the file cannot be written.
    """
    path = Path(out)
    if path.suffix != SUFFIX[kind]:
        raise ConfigError(f"out must end in {SUFFIX[kind]} for format {kind}, got {str(out)!r}")
    if path.is_dir():
        raise ConfigError(f"out must be a file, and {path} is a folder")
    loaded = load_run(Path(run))
    classifier = deployed.load(Path(run))
    images, positions = tested_images(loaded, loaded.config, CHECKED)
    real = images.read_pixels(positions)
    told = {"blurtrain": VERSION, **deployed.described(classifier)}
    with whole_file(path) as temporary:
        answer = _WRITERS[kind](classifier, temporary, real)
        found = difference(answer, classifier, real)
        if not found <= TOLERANCE:
            raise BackboneError(
                f"the exported {classifier.backbone.name} differs by {found:.1e} in a probability, more than "
                f"{TOLERANCE:g}: nothing is written; try another format"
            )
        _describe(kind, classifier, temporary, {**told, "checked": {"images": len(real), "largest_difference": found}})
        facts = {
            "fingerprint": told["fingerprint"],
            "sha256": file_sha256(temporary),
            "difference": found,
            "checked": len(real),
        }
        text = model_card.card(loaded, path, facts)  # before the file appears, which has none if this fails
    card = path.with_name(model_card.NAME.format(path.stem))
    model_card.write(card, text)
    return Exported(path, card, found, len(real))


def difference(answer: Callable[[Images], Probabilities], original: DeployedClassifier, real: Images) -> float:
    """Largest difference in any probability from the original in eager float32."""
    largest = 0.0
    for start in range(0, len(real), AT_ONCE):
        some = real[start : start + AT_ONCE]
        expected = original(torch.from_numpy(some)).numpy()
        largest = float(np.fmax(largest, np.abs(answer(some) - expected).max()))
        if not np.isfinite(answer(some[:1])).all():
            return float("nan")
    return largest


def _onnx(classifier: DeployedClassifier, path: Path, real: Images) -> Callable[[Images], Probabilities]:
    try:
        write_onnx(classifier, path, torch.from_numpy(real[:2]), "probabilities")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # an exporter fails in as many ways as there are networks
        raise _refused(classifier, "onnx", error) from error
    return lambda images: np.asarray(session.run(None, {"images": images})[0])


def _torch(classifier: DeployedClassifier, path: Path, real: Images) -> Callable[[Images], Probabilities]:
    example = torch.from_numpy(np.resize(real, (2, *real.shape[1:])))  # one image would be taken for the only number
    try:
        shapes = {"images": {0: torch.export.Dim("batch")}}
        program = torch.export.export(classifier, (example,), dynamic_shapes=shapes)
        torch.export.save(program, path)
        read = torch.export.load(path).module()
    except OSError:
        raise
    except Exception as error:
        raise _refused(classifier, "torch", error) from error
    return lambda images: np.asarray(read(torch.from_numpy(images)).detach().numpy())


def _safetensors(classifier: DeployedClassifier, path: Path, _: Images) -> Callable[[Images], Probabilities]:
    _save(classifier, path, {})
    read = deployed.load(path)
    return lambda images: np.asarray(read(torch.from_numpy(images)).numpy())


def _save(classifier: DeployedClassifier, path: Path, told: dict[str, object]) -> None:
    words = json.dumps({**deployed.described(classifier), **told}, ensure_ascii=False)
    save_file(deployed.tensors_of(classifier), path, {"format": deployed.FORMAT, "classifier": words})


def _describe(kind: Format, classifier: DeployedClassifier, path: Path, told: dict[str, object]) -> None:
    """Write into a file what it is; of a program of torch the model card alone says it."""
    if kind == "onnx":
        model = onnx.load(path)
        words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}
        onnx.helper.set_model_props(model, words)
        onnx.checker.check_model(model)
        onnx.save(model, path)
    if kind == "safetensors":
        _save(classifier, path, told)


def _refused(classifier: DeployedClassifier, kind: Format, error: Exception) -> BackboneError:
    words = str(error).partition("\n")[0][:120]
    name = classifier.backbone.name
    return BackboneError(f"{name} cannot be exported as {kind} ({type(error).__name__}: {words}): try another format")


_WRITERS: dict[Format, Callable[[DeployedClassifier, Path, Images], Callable[[Images], Probabilities]]] = {
    "onnx": _onnx,
    "torch": _torch,
    "safetensors": _safetensors,
}

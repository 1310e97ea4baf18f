"""Any pipeline of albumentations 2.0.8 that makes images of images: built safely, tried first, and drawn by content.

A pipeline comes from a config, and a config from anywhere. So it may name albumentations' own transforms and
`blurtrain.transforms.KernelBlur`, with parameters that they have, and nothing that is code or reads a file.
"""

import inspect
import json
import threading
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from blurtrain.errors import ConfigError
from blurtrain.options import suggest
from blurtrain.transforms import ALBUMENTATIONS, KernelBlur, Transform, apply_drawn, require_albumentations
from blurtrain.views import Drawn

import albumentations  # isort: skip - after the module that looks at what is installed
from albumentations import BaseCompose, BasicTransform  # isort: skip
from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name  # isort: skip

KEY = "augment.pipeline"
NAME = "__class_fullname__"
FILE = "augment.json"  # of a run: what albumentations.load takes
TRIALS = 16  # draws of one image, half of them with every transform applied
COMPOSITIONS = ("Compose", "Sequential", "ReplayCompose")  # may leave their probability out
CODE = "is code, which no file may hold"

Images = UInt8[np.ndarray, "batch 3 height width"]
_of_thread = threading.local()  # pipelines hold their generators, and several threads draw at once


@lru_cache(maxsize=1)
def known() -> dict[str, type]:
    """The transforms that a pipeline may name."""
    bases: tuple[Any, ...] = (BasicTransform, BaseCompose)
    exported = {
        name: one
        for name, one in SERIALIZABLE_REGISTRY.items()
        if getattr(albumentations, name, None) is one
        and isinstance(one, type)
        and issubclass(one, bases)
        and one not in bases
    }
    return exported | {KernelBlur.get_class_fullname(): KernelBlur}


def check(view: Drawn, side: int | None = None) -> None:
    """Build a pipeline and, where the network's input size is known, try it on an image of that size.

    Raises:
        ConfigError: If it cannot be built, or does not make 8-bit images of the same size of such images.
    """
    require_albumentations()
    pipeline = build(view.pipeline)
    if side is None:
        return
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    always = build(json.dumps(_certain(json.loads(view.pipeline))))
    for trial in range(TRIALS):
        sequence = np.random.SeedSequence(view.seed, spawn_key=(trial,))
        _transformed((pipeline, always)[trial % 2], image, sequence)


def build(pipeline: str) -> Transform:
    """A pipeline from its JSON.

    Raises:
        ConfigError: If it names what is not allowed, or values that its transforms do not take.
    """
    given = json.loads(pipeline)
    version = given.get("__version__", ALBUMENTATIONS)
    if version != ALBUMENTATIONS:
        raise ConfigError(f"{KEY} was saved by albumentations {version}: save it by {ALBUMENTATIONS}")
    extra = set(given) - {"__version__", "transform"}
    if extra:
        raise ConfigError(f"{KEY} has the key {min(extra)!r} beside 'transform': leave it out")
    _require_known(given["transform"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # albumentations goes on with other values than those given
            built: Transform = albumentations.from_dict(given)
            built.to_dict()
    except Exception as error:  # a constructor may fail in as many ways as there are transforms
        raise ConfigError(f"{KEY} cannot be used: {_words(error)}") from error
    return built


def _words(error: Exception) -> str:
    """The first sentence of what a library says."""
    cause = error.__cause__
    if cause is not None and hasattr(cause, "errors"):  # of pydantic, which tells them apart
        first = cause.errors()[0]
        place = ".".join(map(str, first["loc"][:1]))
        message = first["msg"].removeprefix("Value error, ")
        return f"{place}: {message}, got {first['input']!r}" if place else message
    return f"{' '.join(str(error).split())[:200] or 'no reason given'} ({type(error).__name__})"


def _steps(transform: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any plain value
    """A serialised transform and all those within it."""
    if not isinstance(transform, dict) or not isinstance(transform.get(NAME), str):
        raise ConfigError(f"{KEY}: a transform must have the key {NAME!r}, such as HorizontalFlip, got {transform!r}")
    yield transform
    within = transform.get("transforms", [])
    if not isinstance(within, list):
        raise ConfigError(f"{KEY}: transforms of {transform[NAME]} must be a list, got {within!r}")
    for below in within:
        yield from _steps(below)


def _require_known(transform: dict[str, Any]) -> None:
    """Refuse names and parameters that are not known before anything is built."""
    for step in _steps(transform):
        name, allowed = shorten_class_name(step[NAME]), known()
        if name == "Lambda":
            raise ConfigError(f"{KEY}: {step[NAME]} {CODE}")
        if name not in allowed:
            raise ConfigError(f"{KEY}: transform {step[NAME]!r} is not known: {_near(name, list(allowed))}")
        parameters = [key for key in inspect.signature(allowed[name]).parameters if key not in ("seed", "strict")]
        unknown = [key for key in step if key not in (NAME, *parameters)]
        if "seed" in step:
            raise ConfigError(f"{KEY}: seed of {name} must be left out: all draws follow from augment.seed")
        if unknown:
            hint = _near(unknown[0], parameters)
            raise ConfigError(f"{KEY}: {name} has no parameter {unknown[0]!r}: {hint}")
        if step.get("file") is not None or step.get("font_path") is not None:
            raise ConfigError(f"{KEY}: {name} may read no file: a measured blur is given in copies")
        if "p" not in step and name not in COMPOSITIONS:
            raise ConfigError(f"{KEY}: {name} has no p: give the probability with which it is applied, such as p: 0.5")


def _near(word: str, names: list[str]) -> str:
    """The nearest of some names; where none is near, the page that has them all."""
    by_short = {name.rpartition(".")[2]: name for name in names}
    short = word.rpartition(".")[2]
    if short in by_short:
        return f"did you mean {by_short[short]!r}?"
    hint = suggest(short, list(by_short))
    return hint if hint.startswith("did you mean") or len(names) < 20 else "docs/augmentation.md says which are"


def _certain(value: Any) -> Any:  # noqa: ANN401 - any plain value
    """The same pipeline with every transform applied for certain."""
    if isinstance(value, dict):
        return {key: 1.0 if key == "p" and NAME in value else _certain(below) for key, below in value.items()}
    return [_certain(below) for below in value] if isinstance(value, list) else value


def drawn(pixels: Images, ids: Shaped[np.ndarray, " batch"], view: Drawn, epoch: int = 0) -> Images:
    """Images as a pipeline draws them.

    The draws follow from the seed, the number of the copy, the epoch and the image's content alone: no worker, batch,
    order or file name changes them. What is stored is the first epoch's.

    Args:
        pixels: At the network's size.
        ids: Names by content.
        view: The pipeline, the seed and the number of the copy.
        epoch: From 0.

    Raises:
        ConfigError: If the pipeline fails, or gives no 8-bit images of the same size.
    """
    pipeline = _own(view.pipeline)
    seen = np.empty_like(pixels)
    for image, content, place in zip(pixels, ids, seen, strict=True):
        sequence = np.random.SeedSequence(view.seed, spawn_key=(view.copy, epoch, int(content, 16)))
        result = _transformed(pipeline, cv2.merge(list(image)), sequence)  # ten times as fast as numpy's transposing
        cv2.split(np.ascontiguousarray(result), list(place))
    return seen


def _own(pipeline: str) -> Transform:
    """The calling thread's own."""
    if getattr(_of_thread, "made", None) != pipeline:
        _of_thread.pipeline, _of_thread.made = build(pipeline), pipeline
    built: Transform = _of_thread.pipeline
    return built


def _transformed(pipeline: Transform, image: np.ndarray, sequence: np.random.SeedSequence) -> np.ndarray:
    try:
        result = apply_drawn(pipeline, image, sequence)
    except Exception as error:  # it may fail in as many ways as there are transforms
        side = image.shape[0]
        raise ConfigError(f"{KEY} fails on an 8-bit image of {side} x {side} px: {_words(error)}") from error
    if not isinstance(result, np.ndarray) or result.dtype != np.uint8:
        kind = result.dtype if isinstance(result, np.ndarray) else type(result).__name__
        raise ConfigError(
            f"{KEY} must give 8-bit images, got {kind}: leave out Normalize and ToTensorV2, which the network's own "
            "preprocessing stands for, and end what works on floats with FromFloat and dtype uint8"
        )
    if result.shape != image.shape:
        height, width, *_ = result.shape
        raise ConfigError(
            f"{KEY} must keep images at the network's {image.shape[0]} x {image.shape[1]} px, got {height} x {width}: "
            "leave out what changes the size, or give it that size"
        )
    return result


def in_words(view: Drawn) -> str:
    """Names of what a pipeline applies, in its order, compositions left out."""
    steps = _steps(json.loads(view.pipeline)["transform"])
    return ", ".join(shorten_class_name(step[NAME]).rpartition(".")[2] for step in steps if "transforms" not in step)


def saved(view: Drawn) -> dict[str, Any]:
    """What ``albumentations.save`` writes of a pipeline."""
    values: dict[str, Any] = build(view.pipeline).to_dict()
    return values

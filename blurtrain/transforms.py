"""The package's blurs inside albumentations pipelines, and random draws that depend on nothing but their image.

To load a saved pipeline by ``albumentations.load`` import this module first: it makes `KernelBlur` known there.
"""

import math
import os
import random
from collections.abc import Iterable
from importlib import metadata
from numbers import Real
from typing import Annotated, Any, TypeAlias, TypeGuard, get_args

import cv2
import numpy as np
import torch
from pydantic import BeforeValidator, model_validator

from blurtrain.blur import blur, blur_pixels
from blurtrain.errors import BlurtrainError, ConfigError
from blurtrain.grids import BlurGrid
from blurtrain.kernels import FAMILIES, WITH_KERNEL, kernel
from blurtrain.views import CLEAN, Blur, Border

ALBUMENTATIONS = "2.0.8"  # the last version under a free licence; whatever follows has another name
SUCCESSOR = "albumentationsx"  # AGPL and telemetry, under the same import name


def require_albumentations() -> None:
    """Look at what is installed, without importing it.

    Raises:
        ConfigError: If it is not the one version that blurtrain is made for, or its successor is installed.
    """
    way_on = f"run pip install albumentations=={ALBUMENTATIONS}"
    if (successor := _installed(SUCCESSOR)) is not None:
        raise ConfigError(
            f"AlbumentationsX {successor} is installed, whose licence is AGPL and which takes the import name of "
            f"albumentations {ALBUMENTATIONS}: run pip uninstall albumentationsx, then {way_on.removeprefix('run ')}"
        )
    found = _installed("albumentations")
    if found != ALBUMENTATIONS:
        what = "not installed" if found is None else f"installed in version {found}"
        raise ConfigError(f"albumentations is {what}, and blurtrain needs {ALBUMENTATIONS}: {way_on}")


def _installed(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


require_albumentations()
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or the import would ask the network for news

from albumentations import BaseCompose, BasicTransform, ImageOnlyTransform  # noqa: E402 - first the checks above
from albumentations.core.transforms_interface import BaseTransformInitSchema  # noqa: E402

Range: TypeAlias = float | tuple[float, float]
Transform: TypeAlias = BasicTransform | BaseCompose


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _range(value: object) -> Range:
    """A number, or two of them in order; a saved pipeline spells these as a list."""
    if _is_number(value):
        return float(value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]:
        return float(value[0]), float(value[1])
    raise ValueError(f"must be a number, or a pair (low, high) from which one is drawn for every image, got {value!r}")


def _range_or_none(value: object) -> Range | None:
    return None if value is None else _range(value)


def _whole_members(family: str, low: float, high: float) -> list[float]:
    """What to draw from where a family's strengths are whole numbers; nothing where they fill the range."""
    if low == high or FAMILIES[family].allows(math.nextafter(high, low)):
        return []
    return [float(n) for n in range(math.ceil(low), math.floor(high) + 1) if n == 0 or FAMILIES[family].allows(n)]


def _legal_points(family: str, strength: Range) -> list[float]:
    """Strengths that are all legal where the whole range is; the largest comes last."""
    if not isinstance(strength, tuple):
        return [strength]
    low, high = strength
    ends = [low, high]
    if low == high or _whole_members(family, low, high):
        return ends
    return [math.nextafter(low, high), *ends]  # 0 is legal everywhere, what follows it is not


def _view(family: str, strength: float, angle: float | None, border: Border, file: str | None) -> Blur:
    """One blur, checked as in a config.

    Raises:
        ConfigError: If it may not be.
    """
    (view,) = BlurGrid(family, (strength,), border, angle, file).blurs()
    return view


class KernelBlur(ImageOnlyTransform):  # type: ignore[misc] # albumentations has no types
    """Blur an image exactly as blurtrain's own views do: the same kernel, the same border.

    Of a range, a value is drawn for every image, from the pipeline's own generator: uniformly, or among whole
    numbers where the family knows no others. 8-bit images are rounded once, at the end. Masks, boxes and
    keypoints stay as they are.

    Args:
        family: A key of `blurtrain.kernels.FAMILIES` that has a kernel.
        strength: Pixels of the image, or a range of them; what it measures is the family's affair, 0 is no blur.
        angle: Degrees counter-clockwise from the right, or a range, for families that have a direction; 0 where
            it is left out.
        border: How the image continues beyond its edge.
        file: Of a measured point-spread function, for the family that reads one.
        p: Probability of applying the transform.

    Targets:
        image, volume

    Image types:
        uint8, float32

    Raises:
        ValueError: If a parameter is not allowed.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        """What the parameters may be, in the words of a config."""

        family: Any
        strength: Annotated[Any, BeforeValidator(_range)]
        angle: Annotated[Any, BeforeValidator(_range_or_none)]
        border: Any
        file: Any

        @model_validator(mode="after")
        def _check(self) -> Any:  # noqa: ANN401 - the class itself, which has no name in its own body
            for key, known in (("family", tuple(WITH_KERNEL)), ("border", get_args(Border))):
                if (got := getattr(self, key)) not in known:
                    raise ValueError(f"{key} must be one of {', '.join(map(repr, known))}, got {got!r}")
            self.file = None if self.file is None else str(self.file)
            angles = self.angle if isinstance(self.angle, tuple) else (self.angle,)
            try:
                for strength in _legal_points(self.family, self.strength):
                    for angle in angles:
                        view = _view(self.family, strength, angle, self.border, self.file)
                if view.file is not None:
                    kernel(view)  # a file that cannot be used is told here, not at the first image
            except BlurtrainError as error:  # pydantic knows ValueError alone, and after others defaults are taken
                raise ValueError(str(error)) from error
            return self

    def __init__(
        self,
        family: str,
        strength: Range,
        angle: Range | None = None,
        border: Border = "reflect101",
        file: str | None = None,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.family = family
        self.strength = strength
        self.angle = angle
        self.border: Border = border
        self.file = file

    def get_params(self) -> dict[str, float | None]:
        """Draw strength and angle for one image, or for all images of one call."""
        return {"strength": self._drawn_strength(), "angle": self._drawn_angle()}

    def _drawn_strength(self) -> float:
        if not isinstance(self.strength, tuple):
            return self.strength
        low, high = self.strength
        members = _whole_members(self.family, low, high)
        if members:
            return float(self.py_random.choice(members))
        return min(high, float(self.py_random.uniform(low, high)))  # its last bit may lie beyond

    def _drawn_angle(self) -> float | None:
        return self.py_random.uniform(*self.angle) if isinstance(self.angle, tuple) else self.angle

    def apply(self, img: np.ndarray, strength: float, angle: float | None, **_: Any) -> np.ndarray:  # noqa: ANN401 - whatever a pipeline passes on
        """The blurred image, of the same type and shape.

        Raises:
            ValueError: If it is neither uint8 nor float32.
        """
        if img.dtype not in (np.uint8, np.float32):
            raise ValueError(f"images must be uint8 or float32, got {img.dtype}: convert them before")
        view = _view(self.family, strength, angle, self.border, self.file)
        if view == CLEAN:
            return img
        if img.dtype == np.float32:
            return _interleaved(blur(torch.from_numpy(_planes(img)), view)[0].numpy(), img)
        blurred = blur_pixels(_planes(img), view)[0]
        return _interleaved((cv2.convertScaleAbs(plane, alpha=255) for plane in blurred), img)  # it rounds


def _planes(image: np.ndarray) -> np.ndarray:
    """(height, width) or (height, width, channel) as a batch of one in the order of `blurtrain.blur`; a copy."""
    planar = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return np.array(planar[None], order="C")


def _interleaved(planes: Iterable[np.ndarray], like: np.ndarray) -> np.ndarray:
    """The inverse: an image of the shape and type of another one."""
    image = np.empty(like.shape, like.dtype)
    channels = image.reshape(*like.shape[:2], -1)
    for place, plane in enumerate(planes):
        channels[..., place] = plane
    return image


def transform_of(view: Blur) -> KernelBlur:
    """A config's view as a transform that is always applied."""
    family = next(iter(FAMILIES)) if view == CLEAN else view.family
    return KernelBlur(family, view.strength, view.angle, view.border, view.file, p=1)


def apply_seeded(transform: Transform, image: np.ndarray, *, seed: int, epoch: int, index: int) -> np.ndarray:
    """Transform one image by draws that depend on nothing but three numbers.

    So every worker, order and batch gives the same images. All parts of a pipeline draw in turn from the same
    generators; `set_random_seed` would give each its own with equal seeds, and two parts of the same
    probability would then always be applied together.

    Args:
        transform: Any transform or composition of albumentations; its own generators are replaced.
        image: (height, width) or (height, width, channel).
        seed: Of the whole training.
        epoch: Number of the pass over the images.
        index: Of the image.

    Returns:
        What the transform gives for ``image``.
    """
    drawn: np.ndarray = apply_drawn(transform, image, np.random.SeedSequence(seed, spawn_key=(epoch, index)))
    return drawn


def apply_drawn(transform: Transform, image: np.ndarray, sequence: np.random.SeedSequence) -> Any:  # noqa: ANN401
    """The same by draws that depend on nothing but a sequence of seeds; whatever the transform gives."""
    number = int.from_bytes(sequence.generate_state(4).tobytes(), "little")
    transform.set_random_state(np.random.default_rng(sequence), random.Random(number))
    return transform(image=image)["image"]

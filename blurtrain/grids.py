"""Lists of blurs as a config names them: one family at several strengths or severities, checked once."""

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from blurtrain import imagenet_c
from blurtrain.errors import ConfigError
from blurtrain.kernels import FAMILIES
from blurtrain.views import CLEAN, Blur, Border

if TYPE_CHECKING:
    Family = str
else:
    Family = Literal[tuple(FAMILIES)]


def require(condition: bool, key: str, allowed: str, got: object) -> None:
    """Refuse a value in one sentence.

    Raises:
        ConfigError: If the condition does not hold.
    """
    if not condition:
        raise ConfigError(f"{key} must be {allowed}, got {got!r}")


def is_finite(value: float) -> bool:
    """Whether it is a plain number."""
    return not isinstance(value, bool) and math.isfinite(value)


def is_path(text: str) -> bool:
    """Whether an operating system can be asked for it."""
    return text != "" and "\0" not in text


def absolute(path: str) -> str:
    """A path whole and without links; where links lead in a circle, Path.resolve would raise."""
    return os.path.realpath(path)


@dataclass(frozen=True)
class BlurGrid:
    """One blur family at several strengths, or at several of ImageNet-C's severities.

    Args:
        family: Kind of kernel.
        strengths: Pixels at the network's input resolution, 0 is the clean view; what they measure differs by family
            (`blurtrain.kernels.FAMILIES`). For psf network pixels in a pixel of the file, 1 where they are left out.
        border: How the image continues beyond its edge.
        angle: Of a family that has one, in degrees, counter-clockwise from the right; 0 where it is left out.
        file: The measured point-spread function of psf: a .npy file or an image.
        severity: Severities from 1 to 5 as ImageNet-C has them for the network's input size, in place of strengths;
            zoom and glass have nothing else.
    """

    family: Family = "gaussian"
    strengths: tuple[float, ...] = ()
    border: Border = "reflect101"
    angle: float | None = None
    file: str | None = None
    severity: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.family in FAMILIES, "family", f"one of {', '.join(FAMILIES)}", self.family)
        require(self.border in get_args(Border), "border", f"one of {', '.join(get_args(Border))}", self.border)
        known = FAMILIES[self.family]
        strengths = self.strengths or ()  # None where YAML has nothing behind the key
        if self.severity:
            self._check_severity(strengths)
            return
        if known.kernel is None:
            require(not strengths, f"strengths of {self.family}", known.allowed, list(strengths))
            require(False, f"severity of {self.family}", "a list of numbers from 1 to 5", list(self.severity or ()))
        require(bool(strengths) or known.from_file, "strengths", "a list of at least one number", list(strengths))
        for strength in strengths:
            fits = is_finite(strength) and (strength == 0 or known.allows(strength))
            require(fits, f"strength of {self.family}", known.allowed, strength)
        require(len(set(strengths)) == len(strengths), "strengths", "all different", list(strengths))
        require(self.angle is None or known.directed, "angle", f"left out: {self.family} has none", self.angle)
        require(self.angle is None or is_finite(self.angle), "angle", "a finite number of degrees", self.angle)
        wanted = "a .npy file or an image" if known.from_file else f"left out: {self.family} needs none"
        is_given = self.file is not None and is_path(self.file)
        require(is_given if known.from_file else self.file is None, "file", wanted, self.file)

    def _check_severity(self, strengths: tuple[float, ...]) -> None:
        known = ", ".join(imagenet_c.FAMILIES)
        require(not strengths, "strengths", "left out beside severity", list(strengths))
        require(self.family in imagenet_c.FAMILIES, "severity", f"left out: only {known} have it", self.family)
        for value in self.severity:
            is_one = not isinstance(value, bool) and value in imagenet_c.SEVERITIES
            require(is_one, f"severity of {self.family}", "a whole number from 1 to 5", value)
        require(len(set(self.severity)) == len(self.severity), "severity", "all different", list(self.severity))
        require(self.border == "reflect101", "border", "left out: a severity has its own", self.border)
        require(self.angle is None, "angle", "left out: a severity draws one for every image", self.angle)
        require(self.file is None, "file", f"left out: {self.family} needs none", self.file)

    def blurs(self, seed: int = 0) -> tuple[Blur, ...]:
        """The blurs of this grid, in its order; the seed is of what some draw for every image anew."""
        if self.severity:
            drawn = seed if self.family in imagenet_c.DRAWN else None
            return tuple(Blur(self.family, float(value), severity=True, seed=drawn) for value in self.severity)
        angle = float(self.angle or 0) % 360 if FAMILIES[self.family].directed else None
        return tuple(
            CLEAN if strength == 0 else Blur(self.family, float(strength), angle, self.border, self.file)
            for strength in self.strengths or (1.0,)
        )

    def resolved(self) -> "BlurGrid":
        """The same with an absolute path."""
        return self if self.file is None else replace(self, file=absolute(self.file))

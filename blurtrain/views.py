"""What a view is: images seen through a blur or a pipeline, or really blurred ones. Values alone, imported by all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Border = Literal["reflect101", "symmetric", "replicate", "circular", "zero"]


@dataclass(frozen=True)
class Blur:
    """One blur: a family at one strength, in pixels at the network's input resolution or as a severity.

    Strength 0 is no blur, whatever the family; `CLEAN` is its one representation. Blurs are ordered by family, then
    strength.

    Args:
        family: A key of `blurtrain.kernels.FAMILIES`.
        strength: What it measures is the family's affair; above 0.
        angle: Degrees counter-clockwise from the right, for families that have a direction.
        border: How the image continues beyond its edge.
        file: Of a measured point-spread function.
        severity: Whether the strength is one of ImageNet-C's severities, 1 to 5 (`blurtrain.imagenet_c`), which have
            borders of their own.
        seed: Of what is drawn for every image anew, where something is.
    """

    family: str = "clean"
    strength: float = 0.0
    angle: float | None = None
    border: Border = "reflect101"
    file: str | None = None
    severity: bool = False
    seed: int | None = None

    def __lt__(self, other: "Blur") -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[Any, ...]:
        return self.family, self.severity, self.strength, self.angle or 0.0, self.border, self.file or "", self.seed

    @property
    def name(self) -> str:
        """What tables and pictures call it, such as ``gaussian 2`` or ``motion 9 at 45 degrees``."""
        if self == CLEAN:
            return self.family
        if self.file is None:
            return self._named(f" {self.strength:g}")
        return self._named("" if self.strength == 1 else f" x {self.strength:g}")

    @property
    def curve(self) -> str:
        """The same without the strength: views that differ in it alone share a curve."""
        return self._named("")

    def _named(self, strength: str) -> str:
        file = "" if self.file is None else f" {Path(self.file).stem}"
        severity = " severity" if self.severity else ""
        angle = "" if self.angle is None else f" at {self.angle:g} degrees"
        border = "" if self.border == "reflect101" else f" {self.border}"
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{self.family}{file}{severity}{strength}{angle}{border}{seed}"

    @property
    def slug(self) -> str:
        """The same as part of a file name, such as ``gaussian-2``."""
        return self.name.replace(" ", "-")


CLEAN = Blur()
REAL = "real"  # in place of a family


@dataclass(frozen=True)
class RealView:
    """Photographs that were blurred really, seen as they are: images of their own, of no strength.

    Args:
        name: What the config calls them.
    """

    name: str

    @property
    def family(self) -> str:
        """Stands where a blur has its family."""
        return REAL

    @property
    def curve(self) -> str:
        """Its name: it shares a curve with nothing."""
        return self.name


View = Blur | RealView


@dataclass(frozen=True)
class Drawn:
    """Training images seen through an albumentations pipeline, whose draws follow from each image's content.

    Args:
        pipeline: As ``albumentations.to_dict`` gives it, as JSON.
        seed: Of what it draws.
        copy: Number of the copy, from 1: another one has other draws.
    """

    pipeline: str
    seed: int
    copy: int

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"albumentations {self.copy}"

    @property
    def slug(self) -> str:
        """The same as part of a file name."""
        return self.name.replace(" ", "-")


TrainView = Blur | Drawn

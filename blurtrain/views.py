"""What a view is: a split of the images seen through one blur. Values alone, imported by everything."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Border = Literal["reflect101", "symmetric", "replicate", "circular", "zero"]


@dataclass(frozen=True, order=True)
class Blur:
    """One blur: a family at one strength, in pixels at the network's input resolution.

    Strength 0 is no blur, whatever the family; `CLEAN` is its one representation.

    Args:
        family: A key of `blurtrain.kernels.FAMILIES`.
        strength: What it measures is the family's affair; above 0.
        angle: Degrees counter-clockwise from the right, for families that have a direction.
        border: How the image continues beyond its edge.
        file: Of a measured point-spread function.
    """

    family: str = "clean"
    strength: float = 0.0
    angle: float | None = None
    border: Border = "reflect101"
    file: str | None = None

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
        angle = "" if self.angle is None else f" at {self.angle:g} degrees"
        border = "" if self.border == "reflect101" else f" {self.border}"
        return f"{self.family}{file}{strength}{angle}{border}"

    @property
    def slug(self) -> str:
        """The same as part of a file name, such as ``gaussian-2``."""
        return self.name.replace(" ", "-")


CLEAN = Blur()

"""Everything that a config file may say, checked once; imports no torch.

A YAML file and the command line fill the same frozen dataclasses. Every field has a default, and the
defaults together are the augmented arm on the embedded image set; the baseline is the same with
``copies: []``.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from blurtrain.errors import ConfigError

Border = Literal["reflect101", "symmetric", "replicate", "circular", "zero"]
Family = Literal["gaussian"]

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")
EMBEDDED = "glyphs"  # the image set that needs no files


def _require(condition: bool, key: str, allowed: str, got: object) -> None:
    if not condition:
        raise ConfigError(f"{key} must be {allowed}, got {got!r}")


def _finite(value: float) -> bool:
    return not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, order=True)
class Blur:
    """One blur: a family at one strength, in pixels at the network's input resolution.

    Strength 0 is no blur, whatever the family; `CLEAN` is its one representation.
    """

    family: str = "clean"
    strength: float = 0.0
    angle: float | None = None
    border: Border = "reflect101"

    @property
    def name(self) -> str:
        """What tables and pictures call it, such as ``gaussian 2``."""
        if self == CLEAN:
            return "clean"
        angle = "" if self.angle is None else f" at {self.angle:g} degrees"
        border = "" if self.border == "reflect101" else f" {self.border}"
        return f"{self.family} {self.strength:g}{angle}{border}"

    @property
    def slug(self) -> str:
        """The same as part of a file name, such as ``gaussian-2``."""
        return self.name.replace(" ", "-")


CLEAN = Blur()


@dataclass(frozen=True)
class BlurGrid:
    """One blur family at several strengths.

    Args:
        family: Kind of kernel.
        strengths: Pixels at the network's input resolution; 0 is the clean view.
        border: How the image continues beyond its edge.
    """

    family: Family = "gaussian"
    strengths: tuple[float, ...] = ()
    border: Border = "reflect101"

    def __post_init__(self) -> None:
        given = bool(self.strengths)  # None where YAML has nothing behind the key
        _require(given, "strengths", "a list of at least one number", list(self.strengths or ()))
        for strength in self.strengths:
            _require(_finite(strength) and 0 <= strength <= 1000, "strength", "a number from 0 to 1000 px", strength)
        _require(len(set(self.strengths)) == len(self.strengths), "strengths", "all different", list(self.strengths))

    def blurs(self) -> tuple[Blur, ...]:
        """The blurs of this grid, in its order."""
        return tuple(CLEAN if s == 0 else Blur(self.family, float(s), None, self.border) for s in self.strengths)


@dataclass(frozen=True)
class GlyphsConfig:
    """How many images the embedded set draws.

    Args:
        train: Digits in the training split.
        test: Digits in the test split, whose font families occur nowhere else.
        seed: Draws another set of the same kind. Seed 0 was used up on a first trial of the embedded set.
    """

    train: int = 6000
    test: int = 2000
    seed: int = 1

    def __post_init__(self) -> None:
        _require(self.train >= 10, "data.glyphs.train", "at least 10", self.train)
        _require(self.test >= 10, "data.glyphs.test", "at least 10", self.test)
        _require(self.seed >= 0, "data.glyphs.seed", "0 or more", self.seed)


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they are split.

    Args:
        root: ``glyphs`` (embedded), or a folder ROOT/train/CLASS, ROOT/test/CLASS (and perhaps ROOT/val/CLASS),
            or a folder ROOT/CLASS that is split by image content.
        test_fraction: Share of each class that becomes the test split of a ROOT/CLASS folder.
        glyphs: Size of the embedded set.
    """

    root: str = EMBEDDED
    test_fraction: float = 0.25
    glyphs: GlyphsConfig = field(default_factory=GlyphsConfig)

    def __post_init__(self) -> None:
        _require(self.root != "", "data.root", "'glyphs' or a folder", self.root)
        _require(
            _finite(self.test_fraction) and 0 < self.test_fraction < 1,
            "data.test_fraction",
            "between 0 and 1",
            self.test_fraction,
        )


@dataclass(frozen=True)
class BackboneConfig:
    """Which network is imported.

    Args:
        name: ``glyphnet`` (embedded) or a classification network of torchvision.
        weights: ``embedded``, a torchvision weights name such as IMAGENET1K_V1, or a .safetensors, .pth or .pt file.
        sha256: What the weights file must hash to.
        resize: Shorter side in pixels before the crop, instead of the weights' own.
        crop: Side of the square that the network sees, instead of the weights' own.
        mean: Mean of each colour channel in [0, 1], instead of the weights' own.
        std: Standard deviation of each channel, instead of the weights' own.
    """

    name: str = "glyphnet"
    weights: str = "embedded"
    sha256: str | None = None
    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for key, pixels in (("resize", self.resize), ("crop", self.crop)):
            _require(pixels is None or 8 <= pixels <= 4096, f"backbone.{key}", "from 8 to 4096 px", pixels)
        for value in self.mean or ():
            _require(_finite(value), "backbone.mean", "three finite numbers", value)
        for value in self.std or ():
            _require(_finite(value) and value > 0, "backbone.std", "three numbers above 0", value)
        is_hash = self.sha256 is None or (
            len(self.sha256) == 64 and set(self.sha256.lower()) <= set("0123456789abcdef")
        )
        _require(is_hash, "backbone.sha256", "64 hexadecimal digits", self.sha256)


@dataclass(frozen=True)
class HeadConfig:
    """How the fully connected head is fitted.

    Args:
        l2: Candidate weights of the penalty l2 / 2 * ||W||^2 beside the mean cross-entropy; chosen on validation.
        folds: Heads of an arm, each validated on its own part of the training images.
        tolerance: A fit ends when no entry of its gradient exceeds tolerance * min(l2, 1 / classes).
    """

    l2: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    folds: int = 5
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        _require(len(self.l2) > 0, "head.l2", "a list of at least one number", list(self.l2))
        for value in self.l2:
            _require(_finite(value) and value > 0, "head.l2", "numbers above 0", value)
        _require(2 <= self.folds <= 100, "head.folds", "from 2 to 100", self.folds)
        in_range = _finite(self.tolerance) and 1e-10 <= self.tolerance <= 1e-2
        _require(in_range, "head.tolerance", "from 1e-10 to 0.01", self.tolerance)


@dataclass(frozen=True)
class Config:
    """One arm of a comparison.

    Args:
        name: Name of the experiment; its folders are runs/NAME-ARM and runs/compare-NAME. Default: the folder of
            the images and the backbone.
        data: The images.
        backbone: The imported network.
        copies: Blurred copies that join the training images; none is the baseline.
        sweep: Blurs of the test split.
        head: The retrained head.
        engine: What runs the frozen backbone; auto is ONNX Runtime on a CPU and torch on a GPU.
        batch_size: Images in one forward pass.
        runs: Folder of runs and comparisons.
        cache: Folder of decoded pixels and features; safe to delete at any time.
    """

    name: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    copies: tuple[BlurGrid, ...] = (BlurGrid("gaussian", (0.5, 1.0)),)
    sweep: tuple[BlurGrid, ...] = (BlurGrid("gaussian", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),)
    head: HeadConfig = field(default_factory=HeadConfig)
    engine: Literal["auto", "onnxruntime", "torch"] = "auto"
    batch_size: int = 32
    runs: Path = Path("runs")
    cache: Path = Path("cache")

    def __post_init__(self) -> None:
        _require(1 <= self.batch_size <= 4096, "batch_size", "from 1 to 4096", self.batch_size)
        if self.name is not None:
            is_name = self.name.strip(". ") != "" and not set(self.name) & set("/\\\0")
            _require(is_name, "name", "a file name without slashes", self.name)
        _require(CLEAN not in _expand(self.copies), "copies", "blurs with a strength above 0", 0)
        for key, views in (("copies", self.train_views), ("sweep", self.test_views)):
            names = [replace(view, border="reflect101").name for view in views]
            _require(len(set(names)) == len(names), key, "blurs that differ by 0.001 px and have one border", names)
        _require(len(self.test_views) > 1, "sweep", "at least one blur with a strength above 0", list(self.sweep))

    @property
    def train_views(self) -> tuple[Blur, ...]:
        """The clean view, then the copies: nothing else tells the arms apart."""
        return (CLEAN, *_expand(self.copies))

    @property
    def test_views(self) -> tuple[Blur, ...]:
        """The clean view, then the blurs of the sweep by family and strength."""
        blurs = _expand(self.sweep)
        return (CLEAN, *sorted(blur for blur in blurs if blur != CLEAN))

    @property
    def arm(self) -> str:
        """``augmented`` where there are copies, else ``baseline``."""
        return "augmented" if self.copies else "baseline"

    @property
    def experiment(self) -> str:
        """The name, or one made of the image folder and the backbone."""
        return self.name or f"{Path(self.data.root).resolve().name or 'images'}-{self.backbone.name}"

    @property
    def run_folder(self) -> Path:
        """Where this arm's run lies."""
        return self.runs / f"{self.experiment}-{self.arm}"

    @property
    def comparison_folder(self) -> Path:
        """Where this experiment's comparison lies."""
        return self.runs / f"compare-{self.experiment}"

    def baseline(self) -> "Config":
        """The same config without copies."""
        return replace(self, copies=())

    def resolved(self) -> "Config":
        """The same with absolute paths, so that a stored config means the same wherever it is read."""
        root, weights = self.data.root, self.backbone.weights
        if root != EMBEDDED:
            root = str(Path(root).resolve())
        if weights.endswith(WEIGHT_SUFFIXES):
            weights = str(Path(weights).resolve())
        return replace(self, data=replace(self.data, root=root), backbone=replace(self.backbone, weights=weights))

    def identity(self) -> dict[str, Any]:
        """What decides the result: all but names, places and the batch size, as plain YAML values."""
        return {key: value for key, value in plain(self.resolved()).items() if key not in _NOT_IDENTITY}


_NOT_IDENTITY = ("name", "runs", "cache", "batch_size")


def _expand(grids: Iterable[BlurGrid]) -> tuple[Blur, ...]:
    """The distinct blurs of several grids, in order."""
    return tuple(dict.fromkeys(blur for grid in grids for blur in grid.blurs()))


def plain(value: Any) -> Any:  # noqa: ANN401 - any dataclass tree to plain YAML values
    """Dataclasses to dicts, tuples to lists, paths to strings, all the way down."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

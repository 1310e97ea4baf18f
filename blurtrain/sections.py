"""The keys of a config that hold keys: what each means, and what each allows, checked once."""

from dataclasses import dataclass, field
from typing import Any, Literal

from blurtrain.grids import is_finite, is_path, require
from blurtrain.roots import EMBEDDED
from blurtrain.serialised import plain, read


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
        for key, count in (("train", self.train), ("test", self.test)):
            require(10 <= count <= 1_000_000, f"data.glyphs.{key}", "from 10 to 1000000", count)
        require(0 <= self.seed < 2**63, "data.glyphs.seed", "from 0 to 2**63 - 1", self.seed)


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how they are split.

    Args:
        root: ``glyphs`` (embedded); a folder ROOT/train/CLASS, ROOT/test/CLASS (and perhaps ROOT/val/CLASS), or a
            folder ROOT/CLASS that is split by image content; a FILE.csv or FILE.parquet of the columns path, label and
            perhaps split; a pattern of WebDataset shards such as {train,test}-{000..003}.tar, also by https://;
            torchvision:NAME; hf:NAME or hf:FILES.parquet.
        test_fraction: Share of each class that becomes the test split where none is given.
        view_seed: Of what some blurs draw for every image: the angle of a motion, the pixels that glass displaces.
        glyphs: Size of the embedded set.
        folder: Where data sets of torchvision lie, and where these and shards are downloaded to.
        download: Whether what is not there yet is downloaded; false never asks the network.
    """

    root: str = EMBEDDED
    test_fraction: float = 0.25
    view_seed: int = 0
    glyphs: GlyphsConfig = field(default_factory=GlyphsConfig)
    folder: str = "data"
    download: bool = True

    def __post_init__(self) -> None:
        require(is_path(self.root), "data.root", "'glyphs', a folder, or another source of docs/data.md", self.root)
        require(is_path(self.folder), "data.folder", "a folder", self.folder)
        require(
            is_finite(self.test_fraction) and 0 < self.test_fraction < 1,
            "data.test_fraction",
            "between 0 and 1",
            self.test_fraction,
        )
        require(0 <= self.view_seed < 2**63, "data.view_seed", "from 0 to 2**63 - 1", self.view_seed)


@dataclass(frozen=True)
class BackboneConfig:
    """Which network is imported.

    Args:
        name: ``glyphnet`` (embedded), a classification network of torchvision, ``timm:NAME`` (timm is an extra), or
            on the command line alone ``MODULE:FUNCTION``, a function of yours that builds a network.
        weights: ``embedded``, a torchvision weights name such as IMAGENET1K_V1, ``pretrained`` for timm's, a
            .safetensors, .pth or .pt file, a Lightning .ckpt of which the weights alone are read, or ``none`` for
            random weights, which is only good for trying things out.
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
            require(pixels is None or 8 <= pixels <= 4096, f"backbone.{key}", "from 8 to 4096 px", pixels)
        for value in self.mean or ():
            require(is_finite(value) and abs(value) <= 1e6, "backbone.mean", "three numbers from -1e6 to 1e6", value)
        for value in self.std or ():
            require(is_finite(value) and 1e-6 <= value <= 1e6, "backbone.std", "three numbers from 1e-6 to 1e6", value)
        require(is_path(self.weights), "backbone.weights", "a name or a file", self.weights)
        is_hash = self.sha256 is None or (
            len(self.sha256) == 64 and set(self.sha256.lower()) <= set("0123456789abcdef")
        )
        require(is_hash, "backbone.sha256", "64 hexadecimal digits", self.sha256)


@dataclass(frozen=True)
class HeadConfig:
    """How the fully connected head is fitted.

    Args:
        l2: Candidate weights of the penalty l2 / 2 * ||W||^2 beside the mean cross-entropy; chosen on validation.
        folds: Heads of an arm, each validated on its own part of the training images.
        tolerance: A fit ends when no entry of its gradient exceeds tolerance * min(l2, 1 / classes).
        standardise: Whether the penalty counts weights of standardised features, or of the features as they are.
        class_weights: Whether images count alike (none), or classes do (balanced): the cross-entropy of an image is
            multiplied by images / (classes * images of its class), counted among those that the head is trained on.
    """

    l2: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    folds: int = 5
    tolerance: float = 1e-5
    standardise: bool = True
    class_weights: Literal["none", "balanced"] = "none"

    def __post_init__(self) -> None:
        require(len(self.l2) > 0, "head.l2", "a list of at least one number", list(self.l2))
        for value in self.l2:
            require(is_finite(value) and 1e-9 <= value <= 1e9, "head.l2", "numbers from 1e-9 to 1e9", value)
        require(2 <= self.folds <= 100, "head.folds", "from 2 to 100", self.folds)
        in_range = is_finite(self.tolerance) and 1e-10 <= self.tolerance <= 1e-2
        require(in_range, "head.tolerance", "from 1e-10 to 0.01", self.tolerance)


@dataclass(frozen=True)
class MinibatchConfig:
    """How the head is trained on images instead of stored features, where ``cache`` is false.

    Args:
        epochs: Passes over the training images; the copies of the augmented arm make each of its epochs longer.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        seed: Of the order of the images.
        workers: Processes that prepare batches; 0 is the main one. They change no result.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        require(1 <= self.epochs <= 10_000, "minibatch.epochs", "from 1 to 10000", self.epochs)
        rate = self.learning_rate
        require(is_finite(rate) and 0 < rate <= 10, "minibatch.learning_rate", "above 0 and at most 10", rate)
        decay = self.weight_decay
        require(is_finite(decay) and 0 <= decay <= 10, "minibatch.weight_decay", "from 0 to 10", decay)
        require(0 <= self.seed < 2**63, "minibatch.seed", "from 0 to 2**63 - 1", self.seed)
        require(0 <= self.workers <= 256, "minibatch.workers", "from 0 to 256", self.workers)


@dataclass(frozen=True)
class AugmentConfig:
    """Further training views of each image, drawn by an albumentations pipeline (docs/augmentation.md).

    Args:
        pipeline: As ``albumentations.to_dict`` gives it, written out or in a .json or .yaml file that
            ``albumentations.save`` wrote, which is read once, when the config is made.
        copies: Views of each training image that it draws; anew in every epoch where ``cache`` is false.
        seed: Of its draws.
    """

    pipeline: dict[str, Any] | str | None = field(default=None, hash=False)
    copies: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pipeline is not None:
            key, given = "augment.pipeline", self.pipeline
            object.__setattr__(self, "pipeline", plain(read(given, key) if isinstance(given, str) else given, key))
        is_used = self.pipeline is not None or (self.copies, self.seed) == (1, 0)
        require(is_used, "augment.pipeline", "given beside augment.copies and augment.seed", None)
        require(1 <= self.copies <= 100, "augment.copies", "from 1 to 100", self.copies)
        require(0 <= self.seed < 2**63, "augment.seed", "from 0 to 2**63 - 1", self.seed)

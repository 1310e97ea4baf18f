"""Everything that a config file may say, checked once; imports no torch.

A YAML file and the command line fill the same frozen dataclasses. Every field has a default, and the
defaults together are the augmented arm on the embedded image set; the baseline is the same with
``copies: []``.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from blurtrain.grids import BlurGrid as BlurGrid  # its name for users of this module
from blurtrain.grids import absolute, is_path, require
from blurtrain.kernels import FAMILIES
from blurtrain.roots import EMBEDDED as EMBEDDED
from blurtrain.roots import absolute_root, is_fetched, title
from blurtrain.sections import AugmentConfig as AugmentConfig
from blurtrain.sections import BackboneConfig as BackboneConfig
from blurtrain.sections import DataConfig as DataConfig
from blurtrain.sections import GlyphsConfig as GlyphsConfig
from blurtrain.sections import HeadConfig as HeadConfig
from blurtrain.sections import MinibatchConfig as MinibatchConfig
from blurtrain.views import CLEAN, Blur, Drawn, RealView, TrainView

OnBadImage = Literal["error", "skip"]

MOST_NAME = 200  # bytes: with what is added, below the 255 of every file system
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt")
GROUPS = ("data", "glyphs", "backbone", "augment", "head", "minibatch")  # keys of a config that hold keys
IMPORTING = ("class_path", "init_args", "dict_kwargs")  # what jsonargparse takes for a class and its arguments
EXTRA_TEST = re.compile(r"[^\W_]([\w .+-]{0,38}[\w.+-])?")  # a name that stands in tables, tags and file names
EXTRA_TEST_ALLOWED = (
    "names of 1 to 40 letters, digits, spaces and -_.+ that begin like no blur and are no key of a config"
)


@dataclass(frozen=True)
class Config:
    """One arm of a comparison.

    Args:
        name: Name of the experiment; its folders are runs/NAME-ARM and runs/compare-NAME. Default: the folder of
            the images and the backbone.
        data: The images.
        backbone: The imported network.
        copies: Blurred copies that join the training images; none is the baseline.
        augment: Copies that an albumentations pipeline draws, which join them, too.
        duplicated: Control: the clean images once more in place of each copy.
        sweep: Blurs of the test split.
        extra_tests: Really blurred photographs to test on beside them: folders FOLDER/CLASS/* by a name of yours.
        head: The retrained head.
        bn: Whether the statistics of the network's batch norms stay frozen, or adapt: before anything else they are
            re-estimated on the arm's own training views. No weight changes.
        tune: What is trained: the head alone, or the batch norms with it, their weights and statistics, each head with
            a network of its own; this needs ``cache`` false.
        minibatch: How the head is trained where ``cache`` is false.
        engine: What runs the frozen backbone; auto is ONNX Runtime on a CPU and torch on a GPU.
        precision: How features are stored; float16 takes half the space, and no head was seen to lose by it.
        batch_size: Images in one forward pass, at most.
        runs: Folder of runs and comparisons.
        loggers: Loggers of Lightning beside TensorBoard: a class path and its arguments, such as
            {pytorch_lightning.loggers.CSVLogger: {save_dir: logs}}.
        cache: Folder of decoded pixels and features, safe to delete at any time; or false, which stores nothing,
            decodes and blurs the images anew in every epoch, and trains the head by mini-batches.
        on_bad_image: What an image that cannot be read or decoded does: error ends the command before any training;
            skip leaves it out, and run.json lists it.
    """

    name: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    copies: tuple[BlurGrid, ...] = (BlurGrid("gaussian", (0.5, 1.0)),)
    sweep: tuple[BlurGrid, ...] = (BlurGrid("gaussian", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    duplicated: bool = False
    extra_tests: dict[str, str] = field(default_factory=dict, hash=False)
    head: HeadConfig = field(default_factory=HeadConfig)
    minibatch: MinibatchConfig = field(default_factory=MinibatchConfig)
    bn: Literal["frozen", "adapt"] = "frozen"
    tune: Literal["head", "head+bn"] = "head"
    engine: Literal["auto", "onnxruntime", "torch"] = "auto"
    precision: Literal["float32", "float16"] = "float32"
    batch_size: int = 32
    runs: Path = Path("runs")
    loggers: dict[str, dict[str, Any]] = field(default_factory=dict, hash=False)
    cache: Literal[False] | Path = Path("cache")
    on_bad_image: OnBadImage = "error"

    def __post_init__(self) -> None:
        require(1 <= self.batch_size <= 4096, "batch_size", "from 1 to 4096", self.batch_size)
        has_variance = not self.changes_backbone or self.batch_size > 1
        require(has_variance, "batch_size", "from 2 to 4096 where statistics are taken of batches", self.batch_size)
        once = self.bn == "frozen" or self.tune == "head"
        require(once, "bn", "frozen where tune is head+bn, which trains the statistics, too", self.bn)
        if self.name is not None:
            is_name = self.name.strip(". ") != "" and not set(self.name) & set("/\\") and self.name.isprintable()
            require(is_name, "name", "a file name without slashes and control characters", self.name)
            require(not _is_nothing(self.name), "name", "a name that YAML does not take for nothing", self.name)
        is_short = len(os.fsencode(self.experiment)) <= MOST_NAME and self.experiment.isprintable()
        key = "name" if self.name else "name, made of data.root and backbone.name where it is not given,"
        require(is_short, key, f"printable and at most {MOST_NAME} bytes long", self.experiment)
        require(is_path(str(self.runs)), "runs", "a folder", str(self.runs))
        require(CLEAN not in self._expand(self.copies), "copies", "blurs with a strength above 0", 0)
        require(self.has_copies or not self.duplicated, "duplicated", "false where there are no copies", True)
        for key, views in (("copies", self._expand(self.copies)), ("sweep", self.test_views)):
            names = [replace(view, border="reflect101").name for view in views]
            require(len(set(names)) == len(names), key, "blurs that differ by 0.001 px and have one border", names)
        for name, folder in self.extra_tests.items():
            require(_is_free(name), "extra_tests", EXTRA_TEST_ALLOWED, name)
            require(is_path(folder), f"extra_tests.{name}", "a folder", folder)
        is_folder = isinstance(self.cache, Path) and is_path(str(self.cache)) and str(self.cache).lower() not in _SWITCH
        require(self.cache is False or is_folder, "cache", "a folder or false", str(self.cache))
        fresh = self.cache is False or self.tune == "head"
        require(fresh, "cache", "false where tune is head+bn, whose features change with every step", str(self.cache))
        fits = self.cache is not False or self.engine != "onnxruntime"
        require(fits, "engine", "auto or torch where cache is false, because training runs in torch", self.engine)
        require(len(self.test_views) > 1, "sweep", "at least one blur with a strength above 0", list(self.sweep))

    @property
    def train_views(self) -> tuple[TrainView, ...]:
        """The clean view, then the copies: nothing else tells the arms apart."""
        copies: tuple[TrainView, ...] = (*self.copy_views, *self.drawn_views)
        return (CLEAN,) * (1 + len(copies)) if self.duplicated else (CLEAN, *copies)

    @property
    def has_copies(self) -> bool:
        """Whether anything joins the clean training images."""
        return bool(self.copies) or self.augment.pipeline is not None

    @property
    def copy_views(self) -> tuple[Blur, ...]:
        """The blurs of the copies, also where clean images stand for them: what is heavy is measured by these."""
        return self._expand(self.copies)

    @property
    def drawn_views(self) -> tuple[Drawn, ...]:
        """The copies that a pipeline draws."""
        if self.augment.pipeline is None:
            return ()
        pipeline = json.dumps(self.augment.pipeline, sort_keys=True)
        return tuple(Drawn(pipeline, self.augment.seed, copy) for copy in range(1, self.augment.copies + 1))

    @property
    def test_views(self) -> tuple[Blur, ...]:
        """The clean view, then the blurs of the sweep by family and strength."""
        blurs = self._expand(self.sweep)
        return (CLEAN, *sorted(blur for blur in blurs if blur != CLEAN))

    @property
    def real_views(self) -> tuple[RealView, ...]:
        """Really blurred photographs, which are tested on beside the blurs of the sweep."""
        return tuple(RealView(name) for name in self.extra_tests)

    @property
    def arm(self) -> str:
        """``augmented`` where there are blurred copies, ``albumentations`` where a pipeline draws some.

        Where clean images stand for them it is ``duplicated``, without copies ``baseline``. Then what else is not as
        in the baseline.
        """
        copies = ["augmented"] * bool(self.copies) + ["albumentations"] * (self.augment.pipeline is not None)
        name = "-".join(copies) or "baseline"
        if self.duplicated:
            name = "duplicated" if name == "augmented" else f"duplicated-{name}"
        return name + "-bn-adapt" * (self.bn == "adapt") + "-head+bn" * (self.tune == "head+bn")

    @property
    def changes_backbone(self) -> bool:
        """Whether the batch norms become others than those that were imported."""
        return self.bn == "adapt" or self.tune == "head+bn"

    @property
    def experiment(self) -> str:
        """The name, or one made of the image folder and the backbone."""
        return self.name or f"{title(self.data.root)}-{in_file_names(self.backbone.name)}"

    @property
    def run_folder(self) -> Path:
        """Where this arm's run lies."""
        return self.runs / f"{self.experiment}-{self.arm}"

    @property
    def comparison_folder(self) -> Path:
        """Where the comparison of this arm with its baseline lies."""
        suffix = "" if self.arm in ("augmented", "baseline") else f"-{self.arm}"
        return self.runs / f"compare-{self.experiment}{suffix}"

    def _expand(self, grids: Iterable[BlurGrid]) -> tuple[Blur, ...]:
        """The distinct blurs of several grids, in order."""
        return tuple(dict.fromkeys(blur for grid in grids for blur in grid.blurs(self.data.view_seed)))

    def folder(self, kind: str) -> Path:
        """Where something else lies that the config makes, such as ``evidence``."""
        return self.runs / f"{kind}-{self.experiment}"

    def baseline(self) -> "Config":
        """The same config without copies, on the network as it was imported, with the head alone trained."""
        return replace(self, copies=(), augment=AugmentConfig(), duplicated=False, bn="frozen", tune="head")

    def untrained(self) -> "Config":
        """The same with defaults for all that plays no part where nothing is trained and every image is tested on."""
        given = self.data
        is_embedded = given.root == EMBEDDED
        glyphs = GlyphsConfig(test=given.glyphs.test, seed=given.glyphs.seed) if is_embedded else GlyphsConfig()
        data = replace(given, test_fraction=DataConfig.test_fraction, glyphs=glyphs)
        return replace(self.baseline(), data=data, extra_tests={}, head=HeadConfig(), minibatch=MinibatchConfig())

    def resolved(self) -> "Config":
        """The same with absolute paths, so that a stored config means the same wherever it is read."""
        data, weights = self.data, self.backbone.weights
        data = replace(data, root=absolute_root(data.root))
        if is_fetched(data.root):
            data = replace(data, folder=absolute(data.folder))
        if weights.endswith(WEIGHT_SUFFIXES):
            weights = absolute(weights)
        return replace(
            self,
            data=data,
            backbone=replace(self.backbone, weights=weights),
            copies=tuple(grid.resolved() for grid in self.copies),
            sweep=tuple(grid.resolved() for grid in self.sweep),
            extra_tests={name: absolute(folder) for name, folder in self.extra_tests.items()},
        )

    def identity(self) -> dict[str, Any]:
        """What decides the result: all but names, places and what does not matter, as plain YAML values."""
        values = {key: value for key, value in plain(self.resolved()).items() if key not in _NOT_IDENTITY}
        values["cache"] = self.cache is not False
        del values["data"]["folder"], values["data"]["download"]
        if self.augment.pipeline is None:
            del values["augment"]
        if self.head.class_weights == "none":
            del values["head"]["class_weights"]
        if self.cache is False or self.bn == "adapt":
            values["batch_size"] = self.batch_size
        if self.cache is False:
            del values["minibatch"]["workers"], values["head"]["l2"], values["head"]["tolerance"], values["precision"]
        else:
            del values["minibatch"]
        return values


# Images that were skipped show in the hashes of the inputs.
_NOT_IDENTITY = ("name", "runs", "loggers", "cache", "batch_size", "on_bad_image")
_SWITCH = ("true", "false", "none", "null", "yes", "on", "0", "1")  # what is meant to turn something on or off


def in_file_names(backbone: str) -> str:
    """A backbone's name as a part of file names, where a colon means something else to many programs."""
    return backbone.replace(":", "-")


def _is_free(name: str) -> bool:
    """Whether really blurred photographs may be called so: as no blur is, and as no key that YAML is refused for."""
    taken = name.split(" ")[0] in (CLEAN.family, *FAMILIES) or name.rpartition(".")[2] in (*GROUPS, *IMPORTING)
    return EXTRA_TEST.fullmatch(name) is not None and not taken


def _is_nothing(text: str) -> bool:
    """Whether YAML reads a text as no value: null, ~, a comment, an anchor."""
    try:
        return yaml.safe_load(text) is None
    except yaml.YAMLError:
        return False


def plain(value: Any) -> Any:  # noqa: ANN401 - any dataclass tree to plain YAML values
    """Dataclasses to dicts, tuples to lists, paths to strings, all the way down."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

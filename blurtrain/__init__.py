"""Show how blur breaks an image classifier, and repair it cheaply.

Names are imported when they are first used, so that `import blurtrain` stays fast: no torch until it is needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.errors import BlurtrainError
from blurtrain.version import VERSION
from blurtrain.views import Blur

if TYPE_CHECKING:
    from blurtrain.backbones import FrozenBackbone
    from blurtrain.batches import ImageDataModule
    from blurtrain.checking import check_data
    from blurtrain.classifier import BlurClassifier, ImageBatch
    from blurtrain.deployed import load
    from blurtrain.experiment import compare, compare_runs, evidence, read_comparison, recommend, train
    from blurtrain.exporting import export
    from blurtrain.heads import FeatureDataModule
    from blurtrain.own_head import pretrained
    from blurtrain.predictions import Asked, Prediction, predict
    from blurtrain.previews import preview
    from blurtrain.transforms import KernelBlur

__version__ = VERSION

__all__ = [
    "Asked",
    "BackboneConfig",
    "Blur",
    "BlurClassifier",
    "BlurGrid",
    "BlurtrainError",
    "Config",
    "DataConfig",
    "FeatureDataModule",
    "FrozenBackbone",
    "GlyphsConfig",
    "HeadConfig",
    "ImageBatch",
    "ImageDataModule",
    "KernelBlur",
    "MinibatchConfig",
    "Prediction",
    "__version__",
    "check_data",
    "compare",
    "compare_runs",
    "evidence",
    "export",
    "load",
    "predict",
    "pretrained",
    "preview",
    "read_comparison",
    "recommend",
    "train",
]

_LAZY = {
    "Asked": "predictions",
    "BlurClassifier": "classifier",
    "FeatureDataModule": "heads",
    "FrozenBackbone": "backbones",
    "ImageBatch": "classifier",
    "ImageDataModule": "batches",
    "KernelBlur": "transforms",
    "Prediction": "predictions",
    "check_data": "checking",
    "compare": "experiment",
    "compare_runs": "experiment",
    "evidence": "experiment",
    "export": "exporting",
    "load": "deployed",
    "predict": "predictions",
    "pretrained": "own_head",
    "preview": "previews",
    "read_comparison": "experiment",
    "recommend": "experiment",
    "train": "experiment",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _LAZY:
        raise AttributeError(f"module 'blurtrain' has no attribute {name!r}")
    return getattr(import_module(f"blurtrain.{_LAZY[name]}"), name)

"""Fixtures that several test modules share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, settings
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import blurtrain
from blurtrain import backbones, glyphnet
from blurtrain.backbones import FrozenBackbone
from blurtrain.chatter import silence
from blurtrain.config import BackboneConfig, Config, DataConfig, GlyphsConfig

# No test may fail because the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

SIDE = 64  # pixels: small enough to be quick, large enough for every stage of these networks
REAL_WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
EMBEDDED = Path(str(resources.files("blurtrain.embedded"))) / "glyphnet.safetensors"
LAST = {"glyphnet": "fc", "squeezenet1_1": "classifier.1", "mobilenet_v2": "classifier.1", "resnet18": "fc"}


@pytest.fixture
def quiet() -> None:
    """What Lightning says on every fit is no news."""
    silence()


def empty_network(name: str) -> nn.Module:
    """A network in eval mode whose values are arbitrary."""
    network: nn.Module = glyphnet.GlyphNet() if name == "glyphnet" else torchvision.models.get_model(name, weights=None)
    return network.eval()


def random_state(name: str) -> dict[str, Tensor]:
    """Seeded weights whose batch norms have seen a batch, so that features are neither dead nor huge."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = empty_network(name)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the average of all batches, not of the last ones
                nn.init.uniform_(module.weight, 0.8, 1.2)
        network.train()(torch.randn(32, 3, SIDE, SIDE))
    return network.state_dict()


def float32(path: Path) -> dict[str, Tensor]:
    """A weights file in single precision; counters stay whole numbers."""
    return {key: t.float() if t.is_floating_point() else t for key, t in load_file(path).items()}


@dataclass(frozen=True)
class Imported:
    """A backbone as a config imports it, beside the network that it was cut from."""

    name: str
    config: BackboneConfig
    state: dict[str, Tensor]

    def load(self) -> FrozenBackbone:
        """A fresh import."""
        return backbones.load(self.config)

    def original(self) -> nn.Module:
        """The whole network with its head."""
        network = empty_network(self.name)
        network.load_state_dict(network.state_dict() | self.state)
        return network

    def last_layer(self) -> nn.Module:
        """The layer that is cut off."""
        return self.original().get_submodule(LAST[self.name])


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files of seeded random weights, one a network."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_file(random_state(name), path)
        return path

    return file


@pytest.fixture(
    params=["glyphnet", "squeezenet1_1", "mobilenet_v2", "resnet18", "real squeezenet1_1", "real mobilenet_v2"]
)
def imported(request: pytest.FixtureRequest, weights_file: Callable[[str], Path]) -> Imported:
    """Every family of backbone in turn: the embedded one, random weights, and real ones where they are at hand."""
    name = str(request.param).removeprefix("real ")
    if name == "glyphnet":
        return Imported(name, BackboneConfig(), float32(EMBEDDED))
    path = weights_file(name)
    if name != request.param:
        path = REAL_WEIGHTS / f"{name}.safetensors"
        if not path.is_file():
            pytest.skip("needs real weights in ../shared/weights beside the repository")
    config = BackboneConfig(name=name, weights=str(path), resize=SIDE, crop=SIDE)
    if request.param == "real mobilenet_v2":
        config = replace(config, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Imported(name, config, float32(path))


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """Eight smooth random RGB pictures in [0, 1] at the networks' size, float32."""
    coarse = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    smooth: np.ndarray = nn.functional.interpolate(coarse, SIDE, mode="bicubic").clamp(0, 1).numpy()
    return smooth


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small experiment that has really been run: both arms and their comparison. Tests must not write there."""
    folder = tmp_path_factory.mktemp("experiment")
    glyphs = GlyphsConfig(train=200, test=90)
    config = Config(data=DataConfig(glyphs=glyphs), runs=folder / "runs", cache=folder / "cache")
    assert blurtrain.compare(config) == config.comparison_folder
    return config


def photograph(label: int, seed: int) -> Image.Image:
    """A small picture whose strongest colour channel tells its class; another seed gives other pixels."""
    rng = np.random.default_rng([label, seed])
    height, width = rng.integers(20, 60, 2)
    pixels = rng.integers(0, 60, (height, width, 3))
    pixels[..., label] += 150
    return Image.fromarray(pixels.astype(np.uint8))


def fill_classes(folder: Path, count: int, first_seed: int = 0) -> None:
    """Folders red, green and blue of so many pictures each, JPEG and PNG in turn."""
    for label, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for seed in range(first_seed, first_seed + count):
            photograph(label, seed).save(folder / name / f"{seed}{'.jpg' if seed % 2 else '.png'}")


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """A folder train/CLASS and test/CLASS: three classes, 8 training and 5 test pictures each."""
    root = tmp_path / "photos"
    fill_classes(root / "train", 8)
    fill_classes(root / "test", 5, first_seed=100)
    return root


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """A folder CLASS that is split by content: three classes, 12 pictures each."""
    root = tmp_path / "classes"
    fill_classes(root, 12)
    return root

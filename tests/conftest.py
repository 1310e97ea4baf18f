"""Fixtures that several test modules share."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, settings
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import blurtrain
from blurtrain.chatter import silence
from blurtrain.config import BlurGrid, Config, DataConfig, GlyphsConfig
from blurtrain.opening import open_source

# No test may fail because the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

SIDE = 64  # pixels: small enough to be quick, large enough for every stage of these networks
REAL_WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
EMBEDDED = Path(str(resources.files("blurtrain.embedded"))) / "glyphnet.safetensors"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, and the signal handlers as they were: a command sets them."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def heed_interrupts() -> None:
    """For a child before it begins: a shell's background job ignores Ctrl-C, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def quiet() -> None:
    """What Lightning says on every fit is no news."""
    silence()


def smooth_pictures(count: int, side: int) -> Tensor:
    """Seeded random RGB pictures in [0, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)


def random_network(name: str, side: int = SIDE) -> nn.Module:
    """Seeded weights whose batch norms have seen a batch, so that features are neither dead nor huge; in eval mode."""
    # As torchvision builds these two where it loads weights.
    own = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return random_weights(lambda: torchvision.models.get_model(name, weights=None, **own), side)


def random_weights(build: Callable[[], nn.Module], side: int = SIDE) -> nn.Module:
    """What a constructor gives, with seeded weights whose batch norms have seen a batch; in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build().eval()
        statistics = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in statistics:
            module.train().momentum = None  # the average of all batches, not of the last ones
            nn.init.uniform_(module.weight, 0.8, 1.2)
        if statistics:
            with torch.no_grad():
                network((smooth_pictures(32, side) - 0.45) / 0.225)  # about as the presets normalise
        for module in statistics:  # what hardly varies would be rounding errors, enlarged
            assert module.running_var is not None
            module.running_var.clamp_(min=float(module.running_var.mean()) / 10)
    return network.eval()


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files of seeded random weights, one a network."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_file(random_network(name).state_dict(), path)
        return path

    return file


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """Eight smooth random RGB pictures in [0, 1] at the networks' size, float32."""
    pictures: np.ndarray = smooth_pictures(8, SIDE).numpy()
    return pictures


@pytest.fixture(scope="session")
def pixels(pictures: np.ndarray) -> np.ndarray:
    """The same pictures as they are stored, in uint8."""
    stored: np.ndarray = (255 * pictures).round().astype(np.uint8)
    return stored


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small experiment that has really been run: both arms and their comparison. Tests must not write there."""
    folder = tmp_path_factory.mktemp("experiment")
    glyphs = GlyphsConfig(train=200, test=90)
    config = Config(data=DataConfig(glyphs=glyphs), runs=folder / "runs", cache=folder / "cache")
    assert blurtrain.compare(config) == config.comparison_folder
    return config


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Few digits, quick heads; its runs are those of `few_runs`."""
    folder = tmp_path_factory.mktemp("few")
    return Config(
        name="few",
        data=DataConfig(glyphs=GlyphsConfig(train=60, test=40)),
        copies=(BlurGrid("gaussian", (1.0,)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        head=replace(Config().head, l2=(0.1, 1.0), folds=2),
        runs=folder / "runs",
        cache=folder / "cache",
    )


@pytest.fixture(scope="session")
def few_runs(few: Config) -> dict[str, Path]:
    """Finished runs of few digits: the network as imported, its batch norms adapted, and trained. Not to write."""
    minibatch = replace(few.minibatch, epochs=1)
    return {
        "frozen": blurtrain.train(few),
        "adapt": blurtrain.train(replace(few, bn="adapt")),
        "head+bn": blurtrain.train(replace(few, tune="head+bn", cache=False, minibatch=minibatch)),
    }


@pytest.fixture(scope="session")
def drawn(few: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the test digits as PNG files, in their order."""
    folder = tmp_path_factory.mktemp("drawn")
    source = open_source(few.data)
    for index in range(60, 100):
        source.decode(index).save(folder / f"{index - 60:02}.png")
    return folder


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

"""One member of every family of backbone: the freezing contract, the engines, and a head that is trained end to end."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from pytorch_lightning import Trainer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, TensorDataset

from blurtrain import backbones, engines, glyphnet
from blurtrain.backbones import FrozenBackbone
from blurtrain.classifier import BlurClassifier
from blurtrain.cli import main
from blurtrain.config import BackboneConfig
from blurtrain.engines import OnnxEngine, TorchEngine
from blurtrain.views import CLEAN
from tests.conftest import EMBEDDED, REAL_WEIGHTS, SIDE, fill_classes, random_network

# The smallest member of every family, and the layer that must be cut off it.
LAST = {
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "efficientnet_v2_s": "classifier.1",
    "googlenet": "fc",
    "inception_v3": "fc",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "regnet_x_400mf": "fc",
    "regnet_y_400mf": "fc",
    "resnet18": "fc",
    "resnext50_32x4d": "fc",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_1": "classifier.1",
    "vgg11": "classifier.6",
    "wide_resnet50_2": "fc",
}
SIDES = {"inception_v3": 112}  # below, its last maps are single pixels, on which random weights amplify rounding
LARGE = ("alexnet", "vgg11")  # their exports take a quarter and half a gigabyte, so they are made once


@dataclass(frozen=True)
class Imported:
    """A backbone as a config imports it, beside the whole network that it was cut from."""

    name: str
    original: nn.Module
    backbone: FrozenBackbone

    def last_layer(self) -> nn.Module:
        """The layer that is cut off."""
        return self.original.get_submodule("fc" if self.name == "glyphnet" else LAST[self.name])

    def see(self, pictures: np.ndarray) -> Tensor:
        """The pictures at the side that the network takes."""
        side = self.backbone.preprocessing.geometry.crop
        return interpolate(torch.from_numpy(pictures), side, mode="bilinear")


def imported_at_random(name: str) -> Imported:
    """Torchvision's own import of weights that were never downloaded, and ours."""
    side = SIDES.get(name, SIDE)
    original = random_network(name, side)
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(weights), "get_state_dict", lambda *_, **__: original.state_dict())
        config = BackboneConfig(name=name, weights="IMAGENET1K_V1", resize=side, crop=side)
        return Imported(name, original, backbones.load(config))


def imported_from_file(name: str, path: Path) -> Imported:
    original = glyphnet.GlyphNet() if name == "glyphnet" else torchvision.models.get_model(name, weights=None)
    original.load_state_dict(original.state_dict() | load_file(path))
    config = BackboneConfig(name=name, weights=str(path), resize=SIDE, crop=SIDE)
    if name == "mobilenet_v2":
        config = replace(config, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Imported(name, original.eval(), backbones.load(config))


@pytest.fixture(scope="module", params=["glyphnet", *LAST, "real squeezenet1_1", "real mobilenet_v2"])
def imported(request: pytest.FixtureRequest) -> Imported:
    """Every family in turn: the embedded network, random weights, and real ones where they are at hand."""
    name = str(request.param).removeprefix("real ")
    if name == "glyphnet":
        return imported_from_file(name, EMBEDDED)
    if name == request.param:
        return imported_at_random(name)
    path = REAL_WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip("needs real weights in ../shared/weights beside the repository")
    return imported_from_file(name, path)


def copy_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in state.items()}


def assert_same_bits(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype
        bits, bits_after = (np.atleast_1d(values.numpy()).view(np.uint8) for values in (tensor, after[key]))
        assert np.array_equal(bits, bits_after), key


def assert_close_to_scale(actual: Tensor, expected: Tensor, share: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=share * float(expected.abs().max()))


def test_every_convolutional_network_of_torchvision_has_a_relative_here() -> None:
    size = re.compile(r"(\d+_|_)?(x?\d.*|tiny|small|base|large|[sml])$")  # what follows the family's name

    def family(name: str) -> str:
        return "efficientnet_v2" if name.startswith("efficientnet_v2") else size.sub("", name)

    convolutional = [name for name in backbones.names()[1:] if not re.match(r"(vit|swin|maxvit)_", name)]
    assert {family(name) for name in convolutional} == {family(name) for name in LAST}
    assert len(convolutional) > 60


# The contract


def test_import_keeps_every_weight_but_the_heads(imported: Imported) -> None:
    state, whole = imported.backbone.network.state_dict(), imported.original.state_dict()
    gone = {key for key in whole.keys() - state.keys() if not re.match(r"(aux\d|AuxLogits)\.", key)}
    path = next(path for path, module in imported.original.named_modules() if module is imported.last_layer())
    assert gone == {f"{path}.weight", f"{path}.bias"}
    assert not any("aux" in key.lower() for key in state)
    kept = {key: whole[key].float() if whole[key].is_floating_point() else whole[key] for key in state}
    assert_same_bits(kept, state)


def test_train_mode_reaches_and_changes_nothing(imported: Imported, pictures: np.ndarray) -> None:
    backbone, images = imported.backbone, imported.see(pictures[:4])
    before = copy_of(backbone.state_dict())
    evaluated = backbone.eval()(images)
    assert backbone.train() is backbone
    assert backbone.training
    assert not any(module.training for module in backbone.network.modules())
    trained = nn.Sequential(backbone, nn.Dropout(0.0)).train()[0](images)
    assert torch.equal(trained, evaluated)  # no dropout, no batch statistics
    assert_same_bits(before, backbone.state_dict())


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")  # which is the point
def test_whole_fit_changes_the_head_alone(imported: Imported, pictures: np.ndarray, tmp_path: Path) -> None:
    backbone = imported.backbone
    before, fingerprint = copy_of(backbone.state_dict()), backbone.fingerprint()
    classifier = BlurClassifier(backbone, classes=2)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data = TensorDataset(imported.see(pictures[:4]), torch.arange(4) % 2)
    trainer.fit(classifier.train(), DataLoader(data, batch_size=2))
    assert float(classifier.head.weight.detach().abs().max()) > 0
    assert_same_bits(before, backbone.state_dict())
    assert backbone.fingerprint() == fingerprint
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_gradients_pass_through_to_the_image_but_not_to_the_weights(imported: Imported, pictures: np.ndarray) -> None:
    images = imported.see(pictures[:2]).requires_grad_()
    imported.backbone.train()(images).square().sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in imported.backbone.parameters())


def test_one_image_is_seen_as_in_a_batch(imported: Imported, pictures: np.ndarray) -> None:
    backbone, images = imported.backbone, imported.see(pictures)
    with torch.no_grad():
        together = backbone(images)
        alone = torch.cat([backbone(image[None]) for image in images])
    assert together.shape == (8, backbone.features)
    assert float(together.std(0).max()) > 1e-3 * float(together.abs().max())  # it sees the picture at all
    assert_close_to_scale(alone, together, 1e-4)  # rounding, up to 170 layers deep


# Oracle: the original network


def test_features_through_the_last_layer_are_the_logits(imported: Imported, pictures: np.ndarray) -> None:
    backbone, images, last = imported.backbone, imported.see(pictures[:4]), imported.last_layer()
    normalised = (images - backbone.mean) / backbone.std
    with torch.no_grad():
        if isinstance(last, nn.Linear):
            assert_close_to_scale(last(backbone(images)), imported.original(normalised), 1e-5)
        else:  # SqueezeNet's maps pass a ReLU before they are pooled, so only the maps can be compared
            maps = imported.original.get_submodule("features")(normalised)
            assert_close_to_scale(backbone(images), maps.mean((2, 3)), 1e-5)


# Engines


def test_onnx_runtime_agrees_with_eager_torch(
    imported: Imported, pictures: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = (255 * imported.see(pictures)).round().byte().numpy()
    others = images[::-1].copy()  # not the images that the export was checked on
    engine = engines.build(imported.backbone, "onnxruntime", tmp_path, images[:4])
    assert isinstance(engine, OnnxEngine)
    assert "torch runs" not in capsys.readouterr().err
    features = engine(others, CLEAN)
    assert features.dtype == np.float32
    assert features.shape == (8, imported.backbone.features)
    assert engines.difference(engine, imported.backbone, others) < 1e-4
    shutil.rmtree(tmp_path)  # VGG's is half a gigabyte


def test_torch_engine_agrees_with_eager_torch(imported: Imported, pictures: np.ndarray) -> None:
    pixels = (255 * imported.see(pictures[:4])).round().byte()
    with torch.no_grad():
        expected = imported.backbone(pixels / 255)
    engine = TorchEngine(imported.backbone)  # in another layout of memory
    assert_close_to_scale(torch.from_numpy(engine(pixels.numpy(), CLEAN)), expected, 1e-4)


# A head, end to end


@pytest.mark.parametrize("name", LAST)
def test_every_family_trains_a_head(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fill_classes(tmp_path / "photos" / "train", 10)
    fill_classes(tmp_path / "photos" / "test", 3, first_seed=100)
    side = str(SIDES.get(name, SIDE))
    words = ["--data.root", "photos", "--backbone.name", name, "--backbone.weights", "none"]
    words += ["--backbone.resize", side, "--backbone.crop", side]
    words += ["--copies", "[{strengths: [1]}]", "--sweep", "[{strengths: [0, 2]}]"]
    words += ["--head.folds", "2", "--head.l2", "[0.1, 1]"]
    engine = "torch" if torch.cuda.is_available() or name in LARGE else "onnxruntime"
    words += ["--engine", engine]
    assert main(["train", *words]) == 0
    said = capsys.readouterr().err
    assert f"warning: {name} has random weights, for trying things out only; the preprocessing of {name} " in said
    folder = tmp_path / "runs" / f"photos-{name}-augmented"
    run = json.loads((folder / "run.json").read_text())
    assert run["head"]["converged"]
    assert run["engine"].startswith(engine)
    assert run["backbone"]["features"] == run["trainable"]["names"]["head.weight"][1] > 0
    predictions = pq.read_table(folder / "predictions.parquet").to_pydict()
    counts = {view: predictions["view"].count(view) for view in set(predictions["view"])}
    assert counts == {"clean": 27, "gaussian 2": 27}  # nine images, two folds' heads and the refitted one
    shutil.rmtree(tmp_path / "cache")

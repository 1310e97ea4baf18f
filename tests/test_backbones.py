"""Importing, cutting and freezing: the contract that every backbone keeps, and what is refused."""

import pickle
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pytorch_lightning import Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from blurtrain import backbones
from blurtrain.backbones import FrozenBackbone, Preprocessing
from blurtrain.classifier import BlurClassifier
from blurtrain.config import BackboneConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError
from blurtrain.files import file_sha256
from tests.conftest import EMBEDDED, Imported

FitFactory = Callable[[], Trainer]


@pytest.fixture
def trainer(quiet: None, tmp_path: Path) -> FitFactory:  # noqa: ARG001
    return lambda: Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )


def copy_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in state.items()}


def assert_same_bits(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype
        assert tensor.numpy().tobytes() == after[key].cpu().numpy().tobytes(), key


def assert_close_to_scale(actual: Tensor, expected: Tensor, share: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=share * float(expected.abs().max()))


# The contract


def test_imported_network_keeps_every_weight(imported: Imported) -> None:
    state = imported.load().network.state_dict()
    kept = {key: tensor for key, tensor in imported.state.items() if key in state}
    assert 0 < len(imported.state.keys() - kept.keys()) <= 2  # the last layer's weight and bias
    assert_same_bits(kept, {key: state[key] for key in kept})


def test_train_mode_does_not_reach_the_network(imported: Imported) -> None:
    backbone = imported.load()
    before = copy_of(backbone.state_dict())
    assert backbone.train() is backbone
    assert backbone.training
    assert not any(module.training for module in backbone.network.modules())
    assert_same_bits(before, backbone.state_dict())


def test_forward_in_train_mode_changes_nothing(imported: Imported, pictures: np.ndarray) -> None:
    backbone = imported.load()
    before, images = copy_of(backbone.state_dict()), torch.from_numpy(pictures)
    evaluated = backbone.eval()(images)
    trained = nn.Sequential(backbone, nn.Dropout(0.0)).train()[0](images)
    assert torch.equal(trained, evaluated)  # no dropout, no batch statistics
    assert_same_bits(before, backbone.state_dict())


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")  # which is the point
def test_whole_fit_changes_the_head_alone(imported: Imported, pictures: np.ndarray, trainer: FitFactory) -> None:
    backbone = imported.load()
    before, fingerprint = copy_of(backbone.state_dict()), backbone.fingerprint()
    classifier = BlurClassifier(backbone, classes=2)
    data = TensorDataset(torch.from_numpy(pictures), torch.arange(8) % 2)
    trainer().fit(classifier.train(), DataLoader(data, batch_size=4))
    assert float(classifier.head.weight.detach().abs().max()) > 0
    assert_same_bits(before, backbone.state_dict())
    assert backbone.fingerprint() == fingerprint
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_gradients_pass_through_to_the_image_but_not_to_the_weights(imported: Imported, pictures: np.ndarray) -> None:
    backbone = imported.load().train()
    images = torch.from_numpy(pictures).requires_grad_()
    backbone(images).square().sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_one_image_is_seen_as_in_a_batch(imported: Imported, pictures: np.ndarray) -> None:
    backbone, images = imported.load(), torch.from_numpy(pictures)
    together = backbone(images)
    assert together.shape == (8, backbone.features)
    assert float(together.std(0).max()) > 1e-3 * float(together.abs().max())  # it sees the picture at all
    assert_close_to_scale(
        torch.cat([backbone(image[None]) for image in images]), together, 3e-5
    )  # rounding, 52 layers deep


# Oracles: the original network


def test_features_through_the_last_layer_are_the_logits(imported: Imported, pictures: np.ndarray) -> None:
    backbone, images, last = imported.load(), torch.from_numpy(pictures), imported.last_layer()
    normalised = (images - backbone.mean) / backbone.std
    with torch.no_grad():
        if isinstance(last, nn.Linear):
            assert_close_to_scale(last(backbone(images)), imported.original()(normalised), 1e-5)
        else:  # SqueezeNet's maps pass a ReLU before they are pooled, so only the maps can be compared
            maps = imported.original().get_submodule("features")(normalised)
            assert_close_to_scale(backbone(images), maps.mean((2, 3)), 1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_preprocessing_is_that_of_torchvisions_preset(name: str, weights_file: Callable[[str], Path]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (25, 30, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((360, 300), Image.Resampling.BICUBIC)
    backbone = backbones.load(BackboneConfig(name=name, weights=str(weights_file(name))))
    whole = torchvision.models.get_model(name, weights=None).eval()
    whole.load_state_dict(load_file(weights_file(name)))
    preset = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    head = list(whole.children())[-1]
    head = head[-1] if isinstance(head, nn.Sequential) else head
    pixels = torch.from_numpy(backbone.preprocessing.geometry.apply(photograph)).float() / 255
    with torch.no_grad():
        assert_close_to_scale(head(backbone(pixels[None])), whole(preset(photograph)[None]), 1e-5)


@pytest.mark.parametrize(("name", "side"), [("resnet18", 64), ("googlenet", 64), ("inception_v3", 96)])
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_hub_weights_give_torchvisions_own_network(name: str, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # GoogLeNet and Inception transform their input, but only where torchvision itself loads the weights.
    torch.manual_seed(0)
    quick = {} if name == "resnet18" else {"init_weights": False}
    state = torchvision.models.get_model(name, **quick).state_dict()
    choice = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    monkeypatch.setattr(type(choice), "get_state_dict", lambda *_, **__: copy_of(state))
    theirs = torchvision.models.get_model(name, weights="IMAGENET1K_V1").eval()
    backbone = backbones.load(BackboneConfig(name=name, weights="IMAGENET1K_V1", crop=side))
    images = torch.rand(2, 3, side, side)
    preset = choice.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    with torch.no_grad():
        logits = theirs.fc(backbone(images))
        assert_close_to_scale(logits, theirs((images - mean) / std), 1e-5)
    assert backbone.preprocessing.geometry == Geometry(
        preset.resize_size[0], side, preset.interpolation.name
    )  # the config changes what it names and nothing else


def test_config_replaces_the_weights_own_preprocessing() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    config = BackboneConfig(resize=80, crop=72, mean=mean, std=std)
    expected = Preprocessing(Geometry(80, 72, "BILINEAR"), mean, std)
    assert backbones.load(config).preprocessing == expected


# Weight files


@pytest.fixture(scope="session")
def glyphnet_state() -> dict[str, Tensor]:
    return load_file(EMBEDDED)


def from_state(state: dict[str, Tensor], path: Path) -> FrozenBackbone:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return backbones.load(BackboneConfig(weights=str(path)))


def test_fingerprint_ignores_file_format_and_order(glyphnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    backwards = dict(reversed(glyphnet_state.items()))
    prints = {
        backbones.load(BackboneConfig()).fingerprint(),
        from_state(glyphnet_state, tmp_path / "a.safetensors").fingerprint(),
        from_state(glyphnet_state, tmp_path / "a.pth").fingerprint(),
        from_state(backwards, tmp_path / "b.pt").fingerprint(),
    }
    assert len(prints) == 1


@pytest.mark.parametrize("statistic", ["", "running_mean", "running_var"])
def test_fingerprint_changes_with_any_tensor(glyphnet_state: dict[str, Tensor], statistic: str) -> None:
    backbone = backbones.load(BackboneConfig())
    seen = {backbone.fingerprint()}
    changed = [t for key, t in backbone.network.state_dict().items() if t.is_floating_point() and statistic in key]
    assert len(changed) > 10
    for tensor in changed:
        value = tensor.flatten()[-1]
        tensor.view(-1)[-1] = torch.nextafter(value, torch.tensor(10.0))  # one bit of one value
        seen.add(backbone.fingerprint())
    assert len(seen) == 1 + len(changed)
    assert glyphnet_state.keys() - backbone.network.state_dict().keys() == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("key", ["mean", "std"])
def test_fingerprint_changes_with_the_normalisation(key: str) -> None:
    changed: dict[str, Any] = {key: (0.5, 0.5, 0.501)}
    prints = {backbones.load(replace(BackboneConfig(), **values)).fingerprint() for values in ({}, changed)}
    assert len(prints) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_precisions_load_as_float32(
    glyphnet_state: dict[str, Tensor], dtype: torch.dtype, suffix: str, tmp_path: Path
) -> None:
    stored = {key: t.to(dtype) if t.is_floating_point() else t for key, t in glyphnet_state.items()}
    state = from_state(stored, tmp_path / f"half{suffix}").network.state_dict()
    assert {t.dtype for key, t in state.items() if "num_batches" not in key} == {torch.float32}
    for key in state:
        torch.testing.assert_close(state[key], stored[key].to(state[key].dtype), rtol=0, atol=0)


def test_counters_of_batches_may_be_absent(glyphnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    without = {key: t for key, t in glyphnet_state.items() if not key.endswith("num_batches_tracked")}
    backbone = from_state(without, tmp_path / "a.safetensors")
    assert backbone.network.state_dict().keys() > without.keys() - {"fc.weight", "fc.bias"}


def test_right_hash_is_accepted_in_either_case(glyphnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(glyphnet_state, path)
    digest = file_sha256(path)
    for spelled in (digest, digest.upper()):
        backbones.load(BackboneConfig(weights=str(path), sha256=spelled))


# What is refused


def message(config: BackboneConfig) -> str:
    with pytest.raises(BackboneError) as caught:
        backbones.load(config)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenetv2", "backbone.name 'mobilenetv2' is not known: did you mean mobilenet_v2"),
        ("qqqqqq", "backbone.name 'qqqqqq' is not known: give glyphnet or a classifier of torchvision"),
        ("fcn_resnet50", "backbone.name 'fcn_resnet50' is not known: did you mean"),  # segments, classifies not
    ],
)
def test_unknown_network_is_refused(name: str, expected: str) -> None:
    assert message(BackboneConfig(name=name, weights="IMAGENET1K_V1")).startswith(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "resnet18",
            "backbone.weights 'V9' is not known for resnet18: give IMAGENET1K_V1 or DEFAULT, or a file ending in",
        ),
        ("resnet50", "is not known for resnet50: give IMAGENET1K_V1 or IMAGENET1K_V2 or DEFAULT, or a file"),
        ("glyphnet", "backbone.weights 'V9' is not known for glyphnet: give embedded, or a file ending in"),
    ],
)
def test_unknown_weights_are_refused(name: str, expected: str) -> None:
    assert expected in message(BackboneConfig(name=name, weights="V9"))


@pytest.mark.parametrize("name", ["glyphnet", "resnet18"])
def test_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "absent.pth"
    assert message(BackboneConfig(name=name, weights=str(path))).startswith(f"backbone.weights {str(path)!r} is not a")


def test_wrong_hash_is_refused(glyphnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(glyphnet_state, path)
    text = message(BackboneConfig(weights=str(path), sha256="0" * 64))
    assert text == f"{path} hashes to {file_sha256(path)}, not to backbone.sha256: it is another file"


def test_embedded_weights_are_compared_with_a_given_hash() -> None:
    assert "not to backbone.sha256" in message(BackboneConfig(sha256="0" * 64))


def without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key not in ("bn.weight", "bn.bias")}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without, "it lacks 'bn.bias' (2 keys missing, 0 unknown); give weights of exactly this architecture"),
        (lambda s: s | {"x": torch.ones(1)}, "it has an unknown 'x' (0 keys missing, 1 unknown)"),
        (lambda s: {f"module.{key}": t for key, t in s.items()}, "keys missing, "),
        (lambda s: s | {"bn.bias": torch.ones(7)}, "'bn.bias' has shape (7,), not (24,)"),
        (lambda s: s | {"bn.bias": torch.tensor([torch.nan] + 23 * [0.0])}, "value in 'bn.bias' that is not finite"),
        (lambda s: s | {"bn.bias": torch.tensor([torch.inf] + 23 * [0.0])}, "value in 'bn.bias' that is not finite"),
        (lambda s: s | {"bn.bias": torch.full((24,), 1e39, dtype=torch.float64)}, "that is not finite"),
    ],
    ids=["missing", "unknown", "prefixed", "shape", "nan", "inf", "too large for float32"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_do_not_fit_are_refused(
    glyphnet_state: dict[str, Tensor],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    expected: str,
    suffix: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(BackboneError) as caught:
        from_state(change(glyphnet_state), tmp_path / f"a{suffix}")
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._target,))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_code_in_a_pickle_is_never_run(writer: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "evil.pth"
    if writer == "torch":
        torch.save({"fc.weight": Payload(victim)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(victim), protocol=2))
    expected = f"{path} holds more than tensors, or is damaged, and its code is never run: save a state_dict"
    assert message(BackboneConfig(weights=str(path))).startswith(expected)
    assert not victim.exists()
    torch.load(path, weights_only=False) if writer == "torch" else pickle.loads(path.read_bytes())
    assert victim.exists()  # the payload does work, so the test could fail


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, {"state_dict": {"a": torch.ones(1)}}, torch.ones(2)])
def test_pickle_without_a_state_dict_is_refused(value: object, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(value, path)
    assert message(BackboneConfig(weights=str(path))).startswith(f"{path} holds no state_dict of tensors: save")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 5, 1000, 100_000])
def test_truncated_file_is_refused(glyphnet_state: dict[str, Tensor], suffix: str, keep: int, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    from_state(glyphnet_state, path)
    path.write_bytes(path.read_bytes()[:keep])
    assert message(BackboneConfig(weights=str(path))).startswith(f"{path} ")


def test_weights_that_cannot_be_downloaded_are_told_with_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = torchvision.models.get_model_weights("resnet18")["IMAGENET1K_V1"]

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(type(choice), "get_state_dict", offline)
    assert message(BackboneConfig(name="resnet18", weights="IMAGENET1K_V1")) == (
        f"the weights IMAGENET1K_V1 of resnet18 could not be downloaded from {choice.url} "
        "(Name or service not known): connect to the network, or give a local file as backbone.weights"
    )


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ([nn.Flatten(), nn.LayerNorm(4)], "it ends in LayerNorm: only a linear layer or pooled 1 x 1"),
        ([nn.Conv2d(4, 2, 3)], "it ends in Conv2d: only a linear layer"),
        ([nn.Conv2d(4, 2, 1), nn.Flatten()], "it without its last layer gives shape (1, 256), not the layer's 4"),
        ([nn.Flatten(), nn.Linear(9, 2)], "it cannot run on 8 x 8 px ("),
    ],
)
def test_network_that_cannot_be_cut_is_refused(tail: list[nn.Module], expected: str) -> None:
    pool = [] if isinstance(tail[0], nn.Conv2d) else [nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(nn.Conv2d(3, 4, 1), *pool, *tail)
    with pytest.raises(BackboneError) as caught:
        backbones.cut_head(network, "it", torch.zeros(1, 3, 8, 8))
    assert str(caught.value).startswith(expected)


def test_crop_that_a_network_cannot_take_is_refused(weights_file: Callable[[str], Path]) -> None:
    config = BackboneConfig(name="squeezenet1_1", weights=str(weights_file("squeezenet1_1")), crop=8)
    text = message(config)
    assert text.startswith("squeezenet1_1 cannot run on 8 x 8 px (")
    assert text.endswith("): give another backbone.crop")


def test_last_layer_is_the_one_that_runs_last() -> None:
    class Shuffled(nn.Module):
        """Registers its head first."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.body = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.body(x).mean((2, 3)))
            return logits

    network = Shuffled()
    assert backbones.cut_head(network, "it", torch.zeros(1, 3, 8, 8)) == 4
    assert isinstance(network.head, nn.Identity)


def test_every_listed_network_is_a_classifier_with_weights() -> None:
    names = backbones.names()
    assert names[0] == "glyphnet"
    assert {"resnet18", "mobilenet_v2", "squeezenet1_1"} < set(names)
    assert all(len(torchvision.models.get_model_weights(name)) > 0 for name in names[1:])

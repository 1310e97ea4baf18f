"""Importing, cutting and freezing: the contract that every backbone keeps, and what is refused."""

import pickle
import re
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blurtrain import backbones
from blurtrain.backbones import FrozenBackbone, Preprocessing
from blurtrain.config import BackboneConfig
from blurtrain.cutting import Cut, cut_head, hollow
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError
from blurtrain.files import file_sha256
from tests.conftest import EMBEDDED


def copy_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in state.items()}


def assert_close_to_scale(actual: Tensor, expected: Tensor, share: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=share * float(expected.abs().max()))


# Oracles: torchvision's own networks


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


# What is cut off, and what never runs


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "googlenet", "convnext_tiny"])
def test_hollow_network_has_the_same_shapes_and_buffers_but_no_memory(name: str) -> None:
    build = backbones.architecture(name)
    real, empty = build(), hollow(build)
    assert not any(module.training for module in empty.modules())
    shapes = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in real.state_dict().items()}
    assert {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in empty.state_dict().items()} == shapes
    without_memory = sum(parameter.numel() for parameter in empty.parameters() if parameter.is_meta)
    assert without_memory > 0.99 * sum(parameter.numel() for parameter in real.parameters())
    for (key, tensor), (_, expected) in zip(empty.named_buffers(), real.named_buffers(), strict=True):
        assert torch.equal(tensor, expected), key


class Assisted(nn.Module):
    """Has two auxiliary classifiers, as GoogLeNet, and registers its head first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.aux = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(144, 2)))
        self.aux2 = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        if self.training:
            maps = self.aux(maps) + self.aux2(maps.mean((2, 3)))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


def test_last_layer_and_idle_parts_are_found_by_running() -> None:
    network = Assisted()
    images = torch.rand(2, 3, 8, 8)
    whole, logits = network.state_dict(), network.eval()(images).detach()
    cut = cut_head(network.train(), "it", 8)
    assert cut == Cut("head", {"head.weight": (2, 4), "head.bias": (2,)}, ("aux", "aux2"), 4)
    assert network.state_dict().keys() == {key for key in whole if key.startswith("body.")}
    with torch.no_grad():
        rebuilt = nn.functional.linear(network(images), whole["head.weight"], whole["head.bias"])
    assert_close_to_scale(rebuilt, logits, 1e-6)


def test_cutting_leaves_weights_and_hooks_as_they_are() -> None:
    network = Assisted()
    before = copy_of(network.state_dict())
    cut_head(network, "it", 8)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda s: s, ""),
        (
            lambda s: s | {"fc.weight": torch.ones(2, 192), "fc.bias": torch.ones(2)},
            "(fc.bias has shape (2,), not (52,)): it is left out",
        ),
        (lambda s: {key: s[key] for key in s if key != "fc.bias"}, "(fc.bias is absent): it is left out"),
        (
            lambda s: s | {"fc.1.weight": torch.ones(2, 9)},
            "(fc.1.weight is unknown to glyphnet): it is left out",
        ),
        (lambda s: body(s), "holds no classifier (fc.weight, fc.bias): none is needed"),
    ],
    ids=["own", "two classes", "no bias", "another module", "none"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_file_with_another_classifier_only_loses_it(
    glyphnet_state: dict[str, Tensor],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    note: str,
    suffix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backbone = from_state(change(glyphnet_state), tmp_path / f"a{suffix}")
    assert backbone.fingerprint() == backbones.load(BackboneConfig()).fingerprint()
    said = capsys.readouterr().err
    assert note in said
    assert said.startswith(f"note: {tmp_path / 'a'}{suffix} holds ") if note else not said
    assert said.count("\n") == bool(note)


def body(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}


def test_auxiliary_classifiers_may_be_in_the_file_or_not(tmp_path: Path) -> None:
    state = backbones.architecture("googlenet")().state_dict()
    auxiliary = {key for key in state if key.startswith("aux")}
    assert len(auxiliary) == 20
    kept = {key: tensor for key, tensor in state.items() if key not in auxiliary}
    other = {key: tensor + 1 if key in auxiliary else tensor for key, tensor in state.items()}
    prints = set()
    for turn, contents in enumerate((state, kept, other)):
        save_file(contents, tmp_path / f"{turn}.safetensors")
        config = BackboneConfig(name="googlenet", weights=str(tmp_path / f"{turn}.safetensors"), crop=64)
        prints.add(backbones.load(config).fingerprint())
    assert len(prints) == 1


def test_densenets_published_key_names_are_understood(tmp_path: Path) -> None:
    state = torchvision.models.get_model("densenet121").state_dict()
    published = {re.sub(r"(denselayer\d+\.[a-z]+)(\d)", r"\1.\2", key): state[key] for key in state}
    assert "features.denseblock1.denselayer2.norm.2.running_var" in published
    prints = set()
    for name, contents in (("new", state), ("old", published)):
        save_file(contents, tmp_path / f"{name}.safetensors")
        config = BackboneConfig(name="densenet121", weights=str(tmp_path / f"{name}.safetensors"), crop=64)
        prints.add(backbones.load(config).fingerprint())
    assert len(prints) == 1


def test_a_file_written_anew_does_not_reach_a_loaded_network(glyphnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    backbone = from_state(glyphnet_state, path)
    fingerprint = backbone.fingerprint()
    with path.open("r+b") as file:
        file.seek(-100_000, 2)
        file.write(b"\x01" * 100_000)
    assert backbone.fingerprint() == fingerprint


# Random weights


def test_random_weights_are_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    config = BackboneConfig(name="shufflenet_v2_x0_5", weights="none", crop=64)
    torch.manual_seed(5)
    expected = torch.rand(3)
    prints = set()
    for seed in (5, 6):
        torch.manual_seed(seed)
        prints.add(backbones.load(config).fingerprint())
        if seed == 5:
            assert torch.equal(torch.rand(3), expected)  # nobody else's draws are touched
    assert len(prints) == 1
    assert capsys.readouterr().err == 2 * (
        "warning: shufflenet_v2_x0_5 has random weights, for trying things out only; the preprocessing of "
        "shufflenet_v2_x0_5 IMAGENET1K_V1 (resize 256, crop 224 px) is assumed; "
        "backbone.mean, std, resize and crop change it\n"
    )


def test_embedded_network_may_be_random_too(capsys: pytest.CaptureFixture[str]) -> None:
    backbone = backbones.load(BackboneConfig(weights="none"))
    assert backbone.fingerprint() != backbones.load(BackboneConfig()).fingerprint()
    assert capsys.readouterr().err == "warning: glyphnet has random weights, for trying things out only\n"


# Preprocessing of a local file


@pytest.mark.parametrize(
    ("file", "assumed"),
    [
        ("mobilenet_v2-7ebf99e0.pth", "IMAGENET1K_V2 (resize 232, crop 224 px)"),
        ("mobilenet_v2-b0353104.pth", "IMAGENET1K_V1 (resize 256, crop 224 px)"),
        ("mine.pth", "IMAGENET1K_V1 (resize 256, crop 224 px)"),
    ],
)
def test_assumed_preprocessing_is_told(
    file: str, assumed: str, weights_file: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(load_file(weights_file("mobilenet_v2")), tmp_path / file)
    config = BackboneConfig(name="mobilenet_v2", weights=str(tmp_path / file))
    note = f"note: {file}: the preprocessing of mobilenet_v2 {assumed} is assumed; "
    for given in (config, replace(config, mean=(0.5,) * 3, std=(0.5,) * 3, resize=256, crop=224)):
        backbone = backbones.load(given)
        assert capsys.readouterr().err == note + "backbone.mean, std, resize and crop change it\n"
        assert backbones.load(given, told=False).fingerprint() == backbone.fingerprint()
        assert capsys.readouterr().err == ""
    assert backbone.preprocessing == Preprocessing(Geometry(256, 224), (0.5,) * 3, (0.5,) * 3)


def test_a_network_without_v1_weights_is_prepared_for_as_its_first_ones() -> None:
    expected = torchvision.models.get_model_weights("regnet_y_128gf")["IMAGENET1K_SWAG_E2E_V1"].transforms()
    geometry = backbones.default_preprocessing("regnet_y_128gf").geometry
    assert geometry == Geometry(expected.resize_size[0], expected.crop_size[0], "BICUBIC")


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


@pytest.mark.parametrize(
    "value", [[1, 2], {"epoch": 3}, {"state_dict": {"a": torch.ones(1)}}, torch.ones(2), {1: torch.ones(2)}]
)
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
        cut_head(network, "it", 8)
    assert str(caught.value).startswith(expected)


def test_crop_that_a_network_cannot_take_is_refused(weights_file: Callable[[str], Path]) -> None:
    config = BackboneConfig(name="squeezenet1_1", weights=str(weights_file("squeezenet1_1")), crop=8)
    text = message(config)
    assert text.startswith("squeezenet1_1 cannot run on 8 x 8 px (")
    assert text.endswith("): give another backbone.crop")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit_b_16", "MultiheadAttention"),
        ("swin_t", "ShiftedWindowAttention"),
        ("swin_v2_t", "ShiftedWindowAttentionV2"),
        ("maxvit_t", "PartitionAttentionLayer"),
    ],
)
@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "absent.pth", "none"])
def test_attention_network_is_refused_before_its_weights_are_had(
    name: str, kind: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_reading(monkeypatch, name)
    assert message(BackboneConfig(name=name, weights=weights)) == (
        f"{name} is an attention network ({kind}), not a convolutional one: blurtrain backbones lists those"
    )


def test_crop_is_refused_before_weights_are_had(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_reading(monkeypatch, "inception_v3")
    text = message(BackboneConfig(name="inception_v3", weights="IMAGENET1K_V1", crop=64))
    assert text.startswith("inception_v3 cannot run on 64 x 64 px (")


def forbid_reading(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr(type(torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]), "get_state_dict", fail)
    monkeypatch.setattr(backbones, "read_weights", fail)


@pytest.mark.parametrize("weights", ["none", "IMAGENET1K_V1"])
def test_hash_is_for_files_alone(weights: str) -> None:
    text = message(BackboneConfig(name="resnet18", weights=weights, sha256="0" * 64))
    assert text.startswith("backbone.sha256 is for local files")


def test_every_listed_network_is_a_classifier_with_weights() -> None:
    names = backbones.names()
    assert names[0] == "glyphnet"
    assert {"resnet18", "mobilenet_v2", "squeezenet1_1"} < set(names)
    assert all(len(torchvision.models.get_model_weights(name)) > 0 for name in names[1:])

"""Networks of timm: the same features, the same preprocessing, and what is refused."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from blurtrain import backbones, origins, timm_networks
from blurtrain.backbones import FrozenBackbone
from blurtrain.catalogue import catalogue
from blurtrain.cli import main
from blurtrain.config import BackboneConfig
from blurtrain.cutting import cut_head, hollow
from blurtrain.errors import BackboneError
from tests.conftest import fill_classes, random_weights, smooth_pictures

timm = pytest.importorskip("timm")

# A small member of each family, and the side in px at which it is compared.
MEMBERS = {
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "densenet121": 64,
    "dla46_c": 64,
    "efficientnet_lite0": 64,
    "ghostnet_050": 64,
    "hrnet_w18_small": 64,
    "inception_v3": 96,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64,
    "nf_regnet_b0": 64,
    "regnety_002": 64,
    "repvgg_a0": 64,
    "resnet10t": 64,
    "resnetblur18": 64,
    "resnetv2_18": 64,
    "seresnet18": 64,
}
# Of these only that a head is found: they are too large to be made here.
LAST = {
    "dm_nfnet_f0": "head.fc",
    "efficientnetv2_s": "classifier",
    "inception_v4": "last_linear",
    "legacy_xception": "fc",
    "xception41": "head.fc",
    "cspresnet50": "head.fc",
    "nasnetalarge": "last_linear",
    "resnetv2_50x1_bit": "head.fc",
    "tf_efficientnet_b4": "classifier",
    "vgg11": "head.fc",
    "wide_resnet50_2": "fc",
}


def assert_close_to_scale(actual: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=share * float(expected.abs().max()))


def imported(name: str, state: Mapping[str, Tensor], side: int, patch: pytest.MonkeyPatch) -> FrozenBackbone:
    """What a config gives where its file holds a state."""
    patch.setattr(origins, "read_weights", lambda *_: {key: tensor.clone() for key, tensor in state.items()})
    return backbones.load(BackboneConfig(name=f"timm:{name}", weights="it.pth", resize=side, crop=side))


def message(**values: Any) -> str:  # noqa: ANN401 - any of the config
    with pytest.raises(BackboneError) as caught:
        backbones.load(BackboneConfig(**values))
    text = str(caught.value)
    assert "\n" not in text
    return text


# Oracle: timm itself


@pytest.mark.parametrize("name", MEMBERS)
def test_features_are_those_of_timm_without_classes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side = MEMBERS[name]
    original = random_weights(lambda: timm.create_model(name), side)
    backbone = imported(name, original.state_dict(), side, monkeypatch)
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict({key: tensor for key, tensor in original.state_dict().items() if key in theirs.state_dict()})
    images = smooth_pictures(3, side)
    normalised = (images - backbone.mean) / backbone.std
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(normalised), pre_logits=True).flatten(1)
        features = backbone(images)
    assert features.shape == (3, backbone.features)
    assert float(features.std(0).max()) > 1e-3 * float(features.abs().max())  # it sees the pictures at all
    assert_close_to_scale(features, expected)


@pytest.mark.parametrize("name", ["resnet10t", "dla46_c"])  # a linear layer, and a convolution of pooled maps
def test_a_networks_own_head_gives_its_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = random_weights(lambda: timm.create_model(name))
    imported(name, original.state_dict(), 64, monkeypatch)
    config = BackboneConfig(name=f"timm:{name}", weights="it.pth", resize=64, crop=64)
    backbone, head = backbones.load_with_head(config)
    images = smooth_pictures(2, 64)
    with torch.no_grad():
        logits = backbone(images) if head is None else head(backbone(images))
        assert_close_to_scale(logits, original((images - backbone.mean) / backbone.std))
    assert isinstance(head, nn.Linear) == (name == "resnet10t")


@pytest.mark.parametrize("name", LAST)
def test_heads_of_larger_networks_are_found_without_memory(name: str) -> None:
    network = hollow(backbones.architecture(f"timm:{name}"))
    cut = cut_head(network, name, backbones.default_preprocessing(f"timm:{name}").geometry.crop)
    assert cut.head == LAST[name]
    assert all(parameter.is_meta for parameter in network.parameters() if parameter.numel() > 10_000)


def test_constants_that_no_file_brings_back_are_real() -> None:
    real, empty = timm.create_model("resnetblur18"), hollow(backbones.architecture("timm:resnetblur18"))
    filters = {key: tensor for key, tensor in real.named_buffers() if key.endswith("filt")}
    assert filters.keys().isdisjoint(real.state_dict())
    for key, tensor in filters.items():
        assert not empty.get_buffer(key).is_meta
        assert torch.equal(empty.get_buffer(key), tensor)


@pytest.mark.parametrize("name", ["resnet10t", "resnet18.tv_in1k", "convnext_atto", "inception_v3", "dm_nfnet_f0"])
def test_preprocessing_is_timms(name: str) -> None:
    config = timm.data.resolve_model_data_config(hollow(lambda: timm.create_model(name)))
    own = backbones.default_preprocessing(f"timm:{name}")
    assert own.geometry.crop == config["input_size"][1] == config["input_size"][2]
    assert own.geometry.resize == math.floor(own.geometry.crop / config["crop_pct"])
    assert own.geometry.interpolation == config["interpolation"].upper()
    assert (own.mean, own.std) == (config["mean"], config["std"])


@pytest.mark.parametrize("name", ["resnet10t", "resnet18.tv_in1k", "inception_v3"])
def test_an_image_is_prepared_as_timm_evaluates(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (25, 30, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((410, 370), Image.Resampling.BICUBIC)
    config = timm.data.resolve_model_data_config(hollow(lambda: timm.create_model(name)))
    expected = timm.data.create_transform(**config, is_training=False)(photograph)
    own = backbones.default_preprocessing(f"timm:{name}")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (own.mean, own.std))
    pixels = torch.from_numpy(own.geometry.apply(photograph)).float() / 255
    assert_close_to_scale((pixels - mean) / std, expected, 1e-6)


# Weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt"])
@pytest.mark.parametrize("classes", [1000, 7])
def test_a_file_fits_whatever_its_classes(
    suffix: str,
    classes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = random_weights(lambda: timm.create_model("resnet10t", num_classes=classes))
    state, path = network.state_dict(), tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if suffix == ".ckpt" else state, path)
    backbone = backbones.load(BackboneConfig(name="timm:resnet10t", weights=str(path)))
    said = capsys.readouterr().err
    assert "the preprocessing of timm:resnet10t c3_in1k (resize 201, crop 176 px) is assumed; backbone.mean" in said
    assert ("(fc.bias has shape (7,), not (1000,)): it is left out" in said) == (classes == 7)
    expected = imported("resnet10t", timm.create_model("resnet10t").state_dict() | without_head(state), 64, monkeypatch)
    assert backbone.fingerprint() == expected.fingerprint()


def without_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}


def test_random_weights_are_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    config = BackboneConfig(name="timm:mobilenetv3_small_050", weights="none", crop=64)
    assert backbones.load(config).fingerprint() == backbones.load(config).fingerprint()
    assert (
        "warning: timm:mobilenetv3_small_050 has random weights, for trying things out only" in capsys.readouterr().err
    )


def test_images_that_timm_squashes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    backbones.load(BackboneConfig(name="timm:efficientnet_b5.sw_in12k_ft_in1k", weights="none", crop=64))
    assert "timm brings images to that size by squash, which is a central cut here" in capsys.readouterr().err


def test_weights_that_cannot_be_downloaded_are_told_with_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    make = timm.create_model

    def offline(name: str, pretrained: bool = False) -> nn.Module:
        if pretrained:
            raise OSError("no connection. And more")
        network: nn.Module = make(name)
        return network

    monkeypatch.setattr(timm, "create_model", offline)
    assert message(name="timm:resnet18.tv_in1k", weights="pretrained", crop=64) == (
        "the weights tv_in1k of timm:resnet18.tv_in1k could not be downloaded from the hub's timm/resnet18.tv_in1k "
        "(no connection): connect to the network, or give a local file as backbone.weights"
    )


def test_timm_itself_is_asked_for_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    make, asked = timm.create_model, []

    def online(name: str, pretrained: bool = False) -> nn.Module:
        asked.append((name, pretrained))
        network: nn.Module = make(name)
        return network

    monkeypatch.setattr(timm, "create_model", online)
    backbones.load(BackboneConfig(name="timm:resnet10t", weights="pretrained", crop=64))
    assert asked == [("resnet10t", False), ("resnet10t", True)]


def test_weights_at_hand_are_those_in_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert catalogue("timm:resnet18")[0].at_hand == ()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18_a1_0-d63eafa0.pth").touch()
    assert catalogue("timm:resnet18")[0].at_hand == ("a1_in1k",)
    found = {entry.name: entry.at_hand for entry in catalogue("timm:resnet18.*")}
    assert found["timm:resnet18.a1_in1k"] == ("a1_in1k",)
    assert found["timm:resnet18.tv_in1k"] == ()


# What is refused


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnt18", "backbone.name 'timm:resnt18' is not known: did you mean timm:resnet18"),
        ("resnet18.nothing", "backbone.name 'timm:resnet18.nothing' is not known: did you mean timm:resnet18"),
        ("hf-hub:someone/something", "backbone.name 'timm:hf-hub:someone/something' is not known: "),
        ("local-dir:/tmp", "backbone.name 'timm:local-dir:/tmp' is not known: "),
        ("", "backbone.name 'timm:' is not known: "),
        ("vit_tiny_patch16_224", "timm:vit_tiny_patch16_224 is an attention network (Attention), not a convolutional"),
        ("mobilenetv4_hybrid_medium", "timm:mobilenetv4_hybrid_medium is an attention network (MobileAttention)"),
        ("halonet26t", "timm:halonet26t is an attention network (HaloAttn)"),
        ("lambda_resnet26t", "timm:lambda_resnet26t is an attention network (LambdaLayer)"),
        ("bat_resnext26ts", "timm:bat_resnext26ts is an attention network (BatNonLocalAttn)"),
        ("resnet50_clip", "timm:resnet50_clip is an attention network (AttentionPool2d)"),
        ("mixer_s32_224", "timm:mixer_s32_224 is no convolutional network: it has 1 convolutions and 33 linear layers"),
        ("resnet50_clip_gap", "timm:resnet50_clip_gap ends in BatchNormAct2d: only a linear layer"),
        ("repvit_m1", "timm:repvit_m1 needs its last layer ("),
    ],
)
def test_network_that_cannot_be_used_is_refused_before_weights_are_had(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_networks, "_download", lambda *_: pytest.fail("weights were read"))
    assert message(
        name=f"timm:{name}", weights="none" if "mixer" in name or "gap" in name else "pretrained"
    ).startswith(expected)


def test_unknown_weights_are_refused() -> None:
    text = message(name="timm:resnet18", weights="IMAGENET1K_V1")
    assert "is not known for timm:resnet18: give pretrained, or a file ending in .safetensors" in text


def test_a_network_of_which_timm_has_no_weights_says_so() -> None:
    (name, *_) = (name for name in timm_networks.names() if not timm_networks._weights(name).has_weights)
    text = message(name=name, weights="pretrained")
    assert text.startswith(f"backbone.weights 'pretrained' is not known for {name}: give a file ending in")


def test_hash_is_for_files_alone() -> None:
    text = message(name="timm:resnet18", weights="pretrained", sha256="0" * 64)
    assert text.startswith("backbone.sha256 is for local files")


@pytest.mark.parametrize("words", [["preview", "--backbone.name", "timm:resnet18"], ["backbones", "timm:resnet18"]])
def test_timm_that_is_not_installed_is_told(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err == (
        "blurtrain: error: timm is not installed, and backbones called timm:NAME are its networks: "
        "pip install 'blurtrain[timm]'\n"
    )


def test_outputs_are_imagenets_where_there_are_as_many() -> None:
    assert backbones.outputs("timm:resnet18") == backbones.outputs("resnet18")
    with pytest.raises(BackboneError, match=r"the 21841 outputs of timm:convnext_tiny.fb_in22k are not ImageNet's"):
        backbones.outputs("timm:convnext_tiny.fb_in22k")


# End to end


def test_list_has_convolutional_networks_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "timm:mobilenetv4_*_medium"]) == 0  # one of them has attention
    out, _ = capsys.readouterr()
    assert out.splitlines()[2] == "timm:mobilenetv4_conv_blur_medium       224      1280       8.4 M  -"
    names = [line.split()[0] for line in out.splitlines() if line.startswith("timm:")]
    assert [name.split("_")[1] for name in names] == 3 * ["conv"]


@pytest.mark.usefixtures("quiet")
def test_a_head_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    fill_classes(tmp_path / "photos" / "train", 6)
    fill_classes(tmp_path / "photos" / "test", 3, first_seed=100)
    (tmp_path / "c.yaml").write_text("backbone: {name: timm:resnet10t, weights: none, resize: 64, crop: 64}\n")
    words = ["--config", "c.yaml", "--data.root", "photos", "--copies", "[{strengths: [1]}]", "--head.folds", "2"]
    assert main(["train", *words, "--sweep", "[{strengths: [0, 2]}]", "--head.l2", "[0.1, 1]"]) == 0
    assert (tmp_path / "runs" / "photos-timm-resnet10t-augmented" / "run.json").is_file()
    assert not [path for path in tmp_path.rglob("*") if ":" in path.name]
    assert "torch runs" not in capsys.readouterr().err  # it is exported like any other

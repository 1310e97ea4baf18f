"""The list of networks: complete, in order, and with the figures of the real ones."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from blurtrain import backbones
from blurtrain.backbones import FrozenBackbone, Preprocessing, architecture
from blurtrain.catalogue import Entry, catalogue, table
from blurtrain.cli import main
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError
from blurtrain.trials import Trial, bounded, tried


@pytest.fixture(scope="module")
def everything() -> list[Entry]:
    return catalogue()


def test_every_classifier_but_attention_networks_is_listed_once(everything: list[Entry]) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    convolutional = {name for name in known if not re.match(r"(vit|swin|maxvit)_", name)}
    assert sorted(entry.name for entry in everything) == sorted({"glyphnet", *convolutional})


def test_families_stand_together_from_small_to_large(everything: list[Entry]) -> None:
    names = [entry.name for entry in everything]
    assert names[:3] == ["glyphnet", "alexnet", "convnext_tiny"]
    first = names.index("resnet18")
    assert names[first : first + 6] == [
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")
    ]
    modules = [torchvision.models.get_model_builder(name).__module__ for name in names[1:]]
    assert modules == sorted(modules)


def test_figures_are_those_that_torchvision_publishes(everything: list[Entry]) -> None:
    for entry in everything[1:]:
        choices = torchvision.models.get_model_weights(entry.name)
        weights = choices.__members__.get("IMAGENET1K_V1", next(iter(choices)))
        assert entry.crop == weights.transforms().crop_size[0]
        head = 1000 * (entry.features + 1)
        auxiliary = 3_326_696 if entry.name == "inception_v3" else 0  # counted there, and dropped here
        assert entry.parameters == weights.meta["num_params"] - head - auxiliary, entry.name


@pytest.mark.parametrize("name", ["glyphnet", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_figures_are_those_of_a_real_network(name: str) -> None:
    (entry,) = catalogue(name)
    network = architecture(name)()
    last = [module for module in network.modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))][-1]
    total, head = (sum(p.numel() for p in module.parameters()) for module in (network, last))
    assert entry.features == last.weight.shape[1]
    assert entry.parameters == total - head


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("resnet18", ["resnet18"]),
        ("resnet1", ["resnet18", "resnet101", "resnet152", "wide_resnet101_2"]),
        ("resnet1*", ["resnet18", "resnet101", "resnet152"]),
        ("mobilenet_v[23]*", ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"]),
        ("*_t*", ["convnext_tiny"]),  # swin_t and maxvit_t fit as well
    ],
)
def test_filter(pattern: str, expected: list[str]) -> None:
    assert [entry.name for entry in catalogue(pattern)] == expected


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("qqqq", "no backbone is called 'qqqq': give glyphnet or a classifier of torchvision"),
        ("resnet-18", "no backbone is called 'resnet-18': did you mean resnet18 or"),
        ("[", "no backbone is called '['"),
        ("vit_b*", "vit_b_16 is an attention network (MultiheadAttention), not a convolutional one"),
    ],
)
def test_filter_that_fits_nothing(pattern: str, sentence: str) -> None:
    with pytest.raises(BackboneError) as caught:
        catalogue(pattern)
    assert str(caught.value).startswith(sentence)


def test_weights_at_hand_are_torchs_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert catalogue("resnet50")[0].at_hand == ()
    file = Path(torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url).name
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / file).touch()
    assert catalogue("resnet50")[0].at_hand == ("IMAGENET1K_V2",)
    assert catalogue("glyphnet")[0].at_hand == ("embedded",)


def test_table_has_a_line_for_each(everything: list[Entry]) -> None:
    lines = table(everything).splitlines()
    assert len(lines) == 1 + len(everything)
    assert [line.split()[0] for line in lines[1:]] == [entry.name for entry in everything]
    assert max(map(len, lines)) < 100


# Measured


@pytest.fixture(scope="module")
def measured() -> dict[str, Trial]:
    return tried(["glyphnet", "mobilenet_v3_small"])


def test_what_has_bounds_is_what_layers_would_say(measured: dict[str, Trial]) -> None:
    glyphnet = backbones.untrained("glyphnet")
    convolutions = [module for module in glyphnet.network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert measured["glyphnet"].convolutions == len(convolutions)
    assert measured["glyphnet"].without_bound == 0
    assert measured["glyphnet"].reaches
    assert not measured["mobilenet_v3_small"].reaches  # squeeze-and-excitation multiplies two of its maps


def test_a_product_reaches_the_features_unless_an_operation_has_no_constant() -> None:
    backbone = FrozenBackbone(Plain(), "plain", Preprocessing(Geometry(16, 16), (0.0,) * 3, (1.0,) * 3), 4)
    assert bounded(backbone) == (3, 1, False)


class Plain(torch.nn.Sequential):
    """Two convolutions that have a bound, and one followed by an activation of which none is known."""

    def __init__(self) -> None:
        kinds = (torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), Cubed(), torch.nn.Conv2d(4, 4, 3))
        super().__init__(*kinds, torch.nn.AdaptiveAvgPool2d(1))


class Cubed(torch.nn.Module):
    """Has no slope that is the largest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.pow(3)


def test_norms_of_large_linear_layers_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[torch.Tensor] = []

    def eigenvalues(gram: torch.Tensor) -> torch.Tensor:
        computed.append(gram)
        return torch.ones(len(gram))

    monkeypatch.setattr(torch.linalg, "eigvalsh", eigenvalues)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(784, 5))
    backbone = FrozenBackbone(network, "it", Preprocessing(Geometry(16, 16), (0.0,) * 3, (1.0,) * 3), 5)
    assert bounded(backbone) == (1, 0, True)
    assert computed == []


def test_rates_are_of_an_engine_that_is_named(measured: dict[str, Trial]) -> None:
    assert all(trial.rate > 0 for trial in measured.values())
    assert all(trial.engine in ("onnxruntime", "torch") for trial in measured.values())


def test_measured_table_fits_a_terminal(measured: dict[str, Trial]) -> None:
    entries = [*catalogue("glyphnet"), *catalogue("mobilenet_v3_small")]
    entries = [replace(entries[0], at_hand=("IMAGENET1K_V1", "IMAGENET1K_V2")), *entries[1:]]
    long = replace(entries[0], name="timm:mobilenetv4_conv_medium")
    longer = replace(long, name="timm:mobilenetv4_conv_aa_large.e600_r384_in1k")
    assert max(map(len, table([longer], measured).splitlines())) <= 100
    lines = table([*entries, long], measured).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == [
        *("name", "px", "features", "params", "images/s", "engine", "bounded", "product", "at", "hand"),
    ]
    count = measured["glyphnet"].convolutions
    assert lines[1].split()[7:9] == [f"{count}/{count}", "yes"]
    assert lines[3].split()[5:9] == ["-", "-", "-", "-"]  # nothing was measured of it


def test_a_network_that_cannot_be_tried_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: str) -> FrozenBackbone:
        raise BackboneError("it has a mind of its own")

    monkeypatch.setattr(backbones, "untrained", fail)
    assert tried(["glyphnet"]) == {}
    assert "note: glyphnet is not measured: it has a mind of its own\n" in capsys.readouterr().err


def test_plain_list_mentions_timm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blurtrain.catalogue.names", lambda: ["glyphnet"])
    assert main(["backbones", "--measure"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^glyphnet +64 +192 +0\.7 M +[\d.e+]+ +(onnx|torch) +\d+/\d+ +yes +embedded$", out, re.M)
    assert "Those of timm: blurtrain backbones 'timm:resnet*', after pip install 'blurtrain[timm]'\n" in out
    assert main(["backbones"]) == 0
    assert capsys.readouterr().out.count("timm") == 3

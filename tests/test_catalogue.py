"""The list of networks: complete, in order, and with the figures of the real ones."""

import re
from pathlib import Path

import pytest
import torch
import torchvision

from blurtrain.backbones import architecture
from blurtrain.catalogue import Entry, catalogue, table
from blurtrain.errors import BackboneError


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

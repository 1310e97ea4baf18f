"""`blurtrain layers` on whole networks: nothing violated or left out, the same bytes again, and errors in words."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blurtrain import anatomy, dissection, layers, operators, propagation
from blurtrain.anatomy import Subject
from blurtrain.backbones import FrozenBackbone, default_preprocessing
from blurtrain.bounds import NAMES
from blurtrain.cli import main
from blurtrain.config import BlurGrid, Config, DataConfig, GlyphsConfig
from blurtrain.decision import LinearHead
from blurtrain.errors import BackboneError, RunError
from blurtrain.images import ImageSet
from blurtrain.layers import Question
from blurtrain.operators import Layer
from blurtrain.store import ID
from blurtrain.views import Blur

VIEWS = (Blur("gaussian", 0.5), Blur("gaussian", 1.0), Blur("motion", 3.0, 45.0))
FEW = Question(images=4, blurs=(BlurGrid("gaussian", (0.5, 1.0)),))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Few digits, a small store and quick heads."""
    folder = tmp_path_factory.mktemp("layers")
    return Config(
        name="few",
        data=DataConfig(glyphs=GlyphsConfig(train=60, test=40)),
        copies=(BlurGrid("gaussian", (0.5, 1.0)),),
        sweep=(BlurGrid("gaussian", (0.0, 2.0)),),
        head=replace(Config().head, l2=(0.1, 1.0), folds=2),
        runs=folder / "runs",
        cache=folder / "cache",
    )


@pytest.fixture(scope="module")
def made(config: Config) -> Path:
    return layers.layers(config, FEW)


class _Drawn:
    """Pixels of noise that is smooth, as photographs are."""

    def read(self, positions: np.ndarray) -> np.ndarray:
        noise = np.stack([np.random.default_rng(position).random((3, 4, 4)) for position in positions])
        return (255 * noise.repeat(8, 2).repeat(8, 3)).astype(np.uint8)


def subject(network: nn.Module, cache: Path, views: tuple[Blur, ...] = VIEWS, images: int = 3) -> Subject:
    """A network of the test's own on a few images of 32 px, with a head on its features."""
    features = network.eval()(torch.zeros(1, 3, 32, 32)).flatten(1).shape[1]
    preprocessing = replace(default_preprocessing("glyphnet"), geometry=replace(GEOMETRY, resize=32, crop=32))
    backbone = FrozenBackbone(network, "drawn", preprocessing, features)
    positions, generator = np.arange(images), np.random.default_rng(1)
    loaded = ImageSet(
        classes=("a", "b"),
        names=[str(position) for position in positions],
        ids=positions.astype(str).astype(ID),
        labels=positions % 2,
        groups=positions,
        group_labels=[str(position) for position in positions],
        train=positions[:0],
        validation=positions[:0],
        test=positions,
        native_scale=1.0,
        pixels=_Drawn(),
        skipped={},
    )
    head = LinearHead("head", generator.standard_normal((2, features)), np.zeros(2))
    return Subject(backbone, backbone.fingerprint(), loaded, positions, positions % 2, [head], views, cache)


GEOMETRY = default_preprocessing("glyphnet").geometry


def found_in(network: nn.Module, cache: Path) -> dict[str, Any]:
    """What is found in a network of the test's own, with weights drawn anew but always the same."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        spread = 1 / parameter[0].numel() ** 0.5
        parameter.data[parameter.data.isfinite()] = 0
        parameter.data += torch.randn(parameter.shape, generator=generator) * spread
    some = subject(network, cache)
    known = anatomy.anatomy(some)
    return dissection.described(some, known, anatomy.measured(some, known))


class Branches(nn.Module):
    """A skip, a gate, two branches side by side, and convolutions of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.skip = nn.Conv2d(8, 8, 1)
        self.mirrored = nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect")
        self.wrapped = nn.Conv2d(8, 4, 5, padding="same", padding_mode="circular")
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.last = nn.Conv2d(8, 6, (1, 3), padding=(0, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = nn.functional.silu(self.wide(maps)) + self.skip(maps)
        maps = torch.cat([self.mirrored(maps), self.wrapped(maps)], 1)
        maps = self.last(maps * self.gate(maps))
        features: Tensor = maps.relu_().mean((2, 3))
        return features


def randomised(network: nn.Module) -> nn.Module:
    """With batch norms that are not the identity, always the same."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, -2, 2, generator)
            nn.init.uniform_(module.bias, -1, 1, generator)
            nn.init.uniform_(module.running_mean, -1, 1, generator)
            nn.init.uniform_(module.running_var, 0.3, 3, generator)
    return network


def test_every_convolution_of_a_branched_network_is_bounded_and_none_violated(tmp_path: Path) -> None:
    found = found_in(randomised(Branches()), tmp_path)
    names = ["stem.0", "wide", "skip", "mirrored", "wrapped", "gate.1", "last"]
    assert sorted(layer["name"] for layer in found["layers"]) == sorted(names)
    assert found["violations"]["count"] == 0
    assert 0.1 < found["violations"]["largest"] <= 1 + 1e-5
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["stem.0"]["batch_norm"] == "stem.1"
    assert [by_name[name]["activation"] for name in ("stem.0", "wide", "skip")] == ["hardtanh", "silu", None]
    for name in ("mirrored", "wrapped", "last"):
        bounds = by_name[name]["local"][0]["bounds"]
        without = {bound for bound in NAMES if bounds[bound]["constant"] is None}
        assert without == ({"joint", "output"} if name == "mirrored" else set())
    assert "wider than the map of 1 x 1 px" in by_name["gate.1"]["local"][0]["reason"]
    assert by_name["last"]["cumulative"] is None
    assert "mul" in by_name["last"]["no_cumulative"]
    assert by_name["wrapped"]["cumulative"] > 0


def test_errors_are_those_of_the_outputs_seen_by_hooks(tmp_path: Path) -> None:
    stages = (nn.Conv2d(3, 5, 3, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3))
    some = subject(randomised(nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())), tmp_path)
    known = anatomy.anatomy(some)
    seen = anatomy.measured(some, known)
    outputs: dict[int, Tensor] = {}
    for place in (2, 3):
        some.backbone.network.get_submodule(str(place)).register_forward_hook(
            lambda _m, _i, out, place=place: outputs.update({place: out})
        )
    from blurtrain.blur import blur_pixels
    from blurtrain.views import CLEAN

    pixels = some.images.read_pixels(some.positions)
    for blur, view in enumerate(VIEWS):
        for border, one in enumerate((view, replace(view, border="circular"))):
            both = []
            for which in (CLEAN, one):
                features = some.backbone(torch.from_numpy(blur_pixels(pixels, which)))
                both.append([*(outputs[place].double().flatten(1) for place in (2, 3)), features.double()])
            errors = [((b - a).norm(dim=1) / a.norm(dim=1)).numpy() for a, b in zip(*both, strict=True)]
            np.testing.assert_allclose(seen.errors[0, blur, border], errors[0], rtol=1e-4)
            np.testing.assert_allclose(seen.errors[1, blur, border], errors[1], rtol=1e-4)
            np.testing.assert_allclose(seen.feature_errors[blur, border], errors[2], rtol=1e-4)


def test_product_of_constants_is_never_below_what_is_measured(tmp_path: Path) -> None:
    found = found_in(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(5, 4, 3)), tmp_path)
    for layer in (*found["layers"], found["features"]):
        for propagated in layer["propagated"]:
            assert propagated["product"] >= propagated["reflect101"]["q50"]


def test_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (1, 2, 3):
        monkeypatch.setattr(anatomy, "CHUNK", chunk)
        results.append(found_in(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)), tmp_path))
    for other in results[1:]:
        for layer, first in zip(other["layers"], results[0]["layers"], strict=True):
            assert layer["propagated"][1]["reflect101"]["q50"] == pytest.approx(
                first["propagated"][1]["reflect101"]["q50"], rel=1e-4
            )
            assert layer["local"][1]["error"]["largest"] == pytest.approx(
                first["local"][1]["error"]["largest"], rel=1e-4
            )


def test_norms_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    real = operators.gains

    def counted(layer: Layer) -> np.ndarray:
        calls.append(layer)
        return real(layer)

    monkeypatch.setattr(anatomy, "gains", counted)
    first = found_in(randomised(Branches()), tmp_path)
    assert len(calls) == 7
    assert found_in(randomised(Branches()), tmp_path) == first
    assert len(calls) == 7


def test_a_trace_that_does_not_repeat_is_refused(tmp_path: Path) -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.runs = nn.Conv2d(3, 4, 3), 0

        def forward(self, images: Tensor) -> Tensor:
            self.runs += 1
            maps = self.first(images)
            kept: Tensor = maps.relu() if self.runs < 3 else maps.tanh()
            return kept.mean((2, 3))

    with pytest.raises(BackboneError, match="computes otherwise than on the first image, at"):
        found_in(Moody(), tmp_path)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), "no convolution"),
        (lambda: spoilt(nn.Sequential(nn.Conv2d(3, 4, 3)), float("nan")), "0 has weights that are not finite"),
        (lambda: spoilt(nn.Sequential(nn.Conv2d(3, 4, 3)), float("inf")), "0 has weights that are not finite"),
    ],
)
def test_what_cannot_be_bounded_is_a_sentence(network: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=message):
        found_in(network(), tmp_path)


def spoilt(network: nn.Sequential, value: float) -> nn.Module:
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    first.weight.data[0, 0, 0, 0] = value
    return network


def test_a_network_in_train_mode_is_a_sentence(tmp_path: Path) -> None:
    some = subject(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), tmp_path)
    some.backbone.network.get_submodule("1").train()
    with pytest.raises(BackboneError, match="1 is in train mode"):
        anatomy.anatomy(some)


def test_an_activation_without_constant_leaves_its_layer_without_bound(tmp_path: Path) -> None:
    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            maps: Tensor = self.second(torch.exp(-self.first(images)))
            return maps.mean((2, 3))

    found = found_in(Exponential(), tmp_path)
    first, second = found["layers"]
    assert found["no_bound"] == 0  # what follows the first is not its activation but a change of sign
    assert first["cumulative"] is not None
    assert second["cumulative"] is None
    assert "exp" in second["no_cumulative"]


def test_result_is_complete_and_the_same_bytes_again(made: Path, config: Config) -> None:
    first = (made / layers.RESULT).read_bytes(), (made / layers.TABLE).read_bytes()
    result = layers.read_layers(made)
    assert result["head_names"] == ["baseline", "augmented"]
    assert result["n_images"] == 4
    assert result["violations"]["count"] == 0
    assert result["finding"].startswith("glyphnet at 64 px: ")
    (made / layers.RESULT).unlink()
    assert layers.layers(config, FEW) == made
    assert ((made / layers.RESULT).read_bytes(), (made / layers.TABLE).read_bytes()) == first
    for name in ("error", "bounds", "constants", "decision"):
        assert (made / "figures" / f"{name}.png").stat().st_size > 10_000


def test_a_finished_result_is_found_and_another_question_refused(made: Path, config: Config) -> None:
    written = (made / layers.RESULT).stat().st_mtime_ns
    assert layers.layers(config, FEW) == made
    assert (made / layers.RESULT).stat().st_mtime_ns == written
    with pytest.raises(RunError, match=r"was made from others \(images, blurs\)"):
        layers.layers(config, replace(FEW, images=5))


def test_own_head_trains_nothing(config: Config, tmp_path: Path) -> None:
    alone = replace(config, name="own", runs=tmp_path / "runs")
    folder = layers.layers(alone, replace(FEW, own_head=True))
    result = layers.read_layers(folder)
    assert result["head_names"] == ["own"]
    assert result["decision"][0]["own"]["head_norm"] > 0
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()] == ["layers-own-own"]


def test_images_are_taken_evenly_of_all_classes(config: Config) -> None:
    from blurtrain import images

    loaded = images.load(config.data, GEOMETRY, config.cache)
    positions = anatomy.chosen(loaded, 20)
    assert set(positions) <= set(loaded.test)
    counts = np.bincount(loaded.labels[positions], minlength=10)
    assert counts.max() - counts.min() <= 1
    assert len(anatomy.chosen(loaded, 10**6)) == len(loaded.test)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "0"], "images must be from 1 to 10000, got 0"),
        (["--blurs", "[{family: zoom, severity: [1]}]"], "blurs must be strengths above 0 of gaussian"),
        (["--blurs", "[{family: gaussian, strengths: [0]}]"], "blurs must be strengths above 0 of gaussian"),
        (["--blurs", "[]"], "blurs must be at least one blur"),
        (["--cache", "false"], "cache must be a folder for layers"),
        (["--bn", "adapt"], "bn must be frozen for layers"),
    ],
)
def test_bad_options_are_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["layers", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_dry_run_writes_nothing_and_says_what_there_is_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--name", "dry", "--runs", str(tmp_path / "runs"), "--cache", str(tmp_path / "cache")]
    words += ["--data.glyphs.train", "60", "--data.glyphs.test", "40", "--head.l2", "[0.1,1.0]", "--images", "4"]
    assert main(["layers", *words, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "forward passes" in said
    assert "4 images through 4 blurs, twice" in said
    assert not any(tmp_path.iterdir())


def test_json_has_no_nan(made: Path) -> None:
    def refuse(word: str) -> float:
        raise AssertionError(word)

    json.loads((made / layers.RESULT).read_text(encoding="utf-8"), parse_constant=refuse)
    assert propagation.SHARED == 16  # the images that shares are stated for in docs/layers.md

"""`blurtrain layers` on whole networks: nothing violated or left out, the same bytes again, and errors in words."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from blurtrain import (
    anatomy,
    backbones,
    dissection,
    layer_report,
    layer_tables,
    layers,
    operators,
    propagation,
)
from blurtrain.anatomy import Subject
from blurtrain.backbones import FrozenBackbone, default_preprocessing
from blurtrain.blur import blur_pixels
from blurtrain.bounds import NAMES, Bound
from blurtrain.cli import main
from blurtrain.commuting import PARTS, Convolved, norms
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig
from blurtrain.decision import LinearHead
from blurtrain.errors import BackboneError, ConfigError, RunError, StoreError
from blurtrain.images import ImageSet
from blurtrain.kernels import kernel
from blurtrain.layers import Question
from blurtrain.operators import Layer
from blurtrain.propagation import Meter
from blurtrain.store import ID
from blurtrain.views import CLEAN, Blur
from tests.conftest import SIDE
from tests.test_families import LARGE, LAST, SIDES
from tests.test_stages import shake_norms
from tests.test_tracing import Standardised

VIEWS = (Blur("gaussian", 0.5), Blur("gaussian", 1.0), Blur("motion", 3.0, 45.0))
STRONG = (Blur("gaussian", 2.0), Blur("gaussian", 6.0))
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


@dataclass
class _Drawn:
    """Pixels of noise that is smooth, as photographs are."""

    side: int

    def read(self, positions: np.ndarray) -> np.ndarray:
        noise = np.stack([np.random.default_rng(position).random((3, 4, 4)) for position in positions])
        size = self.side // 4
        return (255 * noise.repeat(size, 2).repeat(size, 3)).astype(np.uint8)


def subject(network: nn.Module, cache: Path, views: tuple[Blur, ...] = VIEWS, images: int = 3) -> Subject:
    """A network of the test's own on a few images of 32 px, with a head on its features."""
    features = network.eval()(torch.zeros(1, 3, 32, 32)).flatten(1).shape[1]
    preprocessing = replace(default_preprocessing("glyphnet"), geometry=replace(GEOMETRY, resize=32, crop=32))
    return subject_of(FrozenBackbone(network, "drawn", preprocessing, features), cache, views, images)


def subject_of(backbone: FrozenBackbone, cache: Path, views: tuple[Blur, ...], images: int) -> Subject:
    """A network on a few images, with a head on its features."""
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
        pixels=_Drawn(backbone.preprocessing.geometry.crop),
        skipped={},
    )
    head = LinearHead("head", generator.standard_normal((2, backbone.features)), np.zeros(2))
    return Subject(backbone, backbone.fingerprint(), loaded, positions, positions % 2, [head], views, cache)


GEOMETRY = default_preprocessing("glyphnet").geometry


def found_in(network: nn.Module, cache: Path, views: tuple[Blur, ...] = VIEWS) -> dict[str, Any]:
    """What is found in a network of the test's own, with weights drawn anew but always the same."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        spread = 1 / parameter[0].numel() ** 0.5
        parameter.data[parameter.data.isfinite()] = 0
        parameter.data += torch.randn(parameter.shape, generator=generator) * spread
    some = subject(network, cache, views)
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
    assert [by_name[name]["lipschitz"] for name in ("stem.0", "wide", "skip")] == [1.0, 1.09984, 1.0]
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
    network = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    some = subject(randomised(network), tmp_path, images=propagation.at_once(VIEWS) + 2)
    known = anatomy.anatomy(some)
    seen = anatomy.measured(some, known)
    outputs: dict[int, Tensor] = {}
    for place in (2, 3):
        some.backbone.network.get_submodule(str(place)).register_forward_hook(
            lambda _m, _i, out, place=place: outputs.update({place: out})
        )
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


def plain_network() -> nn.Module:
    """Two convolutions, with weights that are always the same."""
    stages = (nn.Conv2d(3, 5, 3, 2), nn.BatchNorm2d(5), nn.SiLU(), nn.Conv2d(5, 4, 3))
    network = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, 0.2, generator)
    return randomised(network)


def median(values: np.ndarray) -> Any:  # noqa: ANN401 - pytest's approx has no type
    return pytest.approx(float(np.median(values)), rel=1e-4)


def test_what_is_measured_at_a_layer_is_what_its_clean_input_gives_alone(tmp_path: Path) -> None:
    some = subject(plain_network(), tmp_path, images=propagation.at_once(VIEWS) + 2)
    known = anatomy.anatomy(some)
    seen = anatomy.measured(some, known)
    result = dissection.described(some, known, seen)
    inputs: list[Tensor] = []
    for place in (0, 3):
        module = some.backbone.network.get_submodule(str(place))
        module.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    some.backbone(torch.from_numpy(some.images.read_pixels(some.positions)) / 255)
    for depth, convolution in enumerate(known.plan.convolutions):
        alone = Convolved(known.plan.bounded[depth], inputs[depth].detach())
        for blur, view in enumerate(VIEWS):
            found = alone.blurred(kernel(view))
            np.testing.assert_allclose(seen.local[depth, blur], found.change / seen.outputs[depth], rtol=1e-3)
            for name, ratios in found.ratios(known.promised[depth, view]).items():
                np.testing.assert_allclose(seen.ratios[name][depth, blur], ratios, rtol=1e-3)
            parts = alone.parts(kernel(view))
            sums = [parts[part].sum() for part in PARTS]
            np.testing.assert_allclose(seen.parts[depth, blur], sums, rtol=1e-2, atol=1e-3 * sum(sums))
            local = result["layers"][depth]["local"][blur]
            assert local["error"]["median"] == median(found.change / seen.outputs[depth])
            spectral = local["bounds"]["spectral"]
            assert spectral["relative"] == median(spectral["constant"] * found.image / seen.outputs[depth])
            lipschitz = local["bounds"]["lipschitz"]
            assert lipschitz["constant"] == known.norms[depth] * convolution.lipschitz
            assert lipschitz["relative"] == median(lipschitz["constant"] * found.difference / seen.outputs[depth])


def test_what_is_described_is_what_was_measured(tmp_path: Path) -> None:
    some = subject(plain_network(), tmp_path, STRONG, images=32)
    known = anatomy.anatomy(some)
    seen = anatomy.measured(some, known)
    weights = np.array([[1.0, -2.0, 0.5, 1.5], [0.0, 0.0, 0.0, 0.0]])
    halved = -np.median(seen.features[0].astype(float) @ weights[0])  # each class is the answer to half of the images
    head = LinearHead("head", weights, np.array([halved, 0.0]))
    some = replace(some, heads=[head])
    result = dissection.described(some, known, seen)
    pixels = some.images.read_pixels(some.positions)
    clean, *others = (
        torch.from_numpy(blur_pixels(pixels, view)) for view in (CLEAN, *STRONG, *map(propagation.circular, STRONG))
    )
    answers, *changed = (head.logits(some.backbone(image).double().numpy()).argmax(1) for image in (clean, *others))
    turned = [answers != after for after in changed]
    assert all(0 < one.sum() < 32 for one in turned)
    for blur, view in enumerate(STRONG):
        assert (turned[blur] != turned[blur + len(STRONG)]).any()  # the borders can be told apart
        distances = (others[blur] - clean).double().flatten(1).norm(dim=1).numpy()
        np.testing.assert_allclose(seen.images[blur], distances, rtol=1e-4)
        decided = result["decision"][blur]["head"]
        assert decided["flipped"] == turned[blur].sum()
        assert decided["accuracy_blurred"] == (changed[blur] == some.labels).mean()
        sizes = np.linalg.norm(seen.features[0].astype(float), axis=1)
        places = [*zip(result["layers"], seen.errors, seen.outputs, strict=True)]
        for part, errors, outputs in (*places, (result["features"], seen.feature_errors, sizes)):
            propagated = part["propagated"][blur]
            own, circular = errors[blur]
            assert propagated[view.border]["q50"] == median(own)
            assert propagated["circular"]["q50"] == median(circular)
            assert propagated["auc"]["head"]["auc"] == pytest.approx(roc_auc_score(turned[blur], own))
            assert propagated["product"] == median(part["cumulative"] * distances / outputs)


def test_chunks_may_come_in_any_order(tmp_path: Path) -> None:
    some = subject(plain_network(), tmp_path, images=6)
    known = anatomy.anatomy(some)
    found = []
    for starts in ((0, 2, 4), (4, 0, 2)):
        meter = Meter(known.plan.trace, known.plan.convolutions, known.plan.bounded, known.promised, VIEWS, 6)
        for start in starts:
            meter.take(some.backbone, some.images.read_pixels(some.positions[start : start + 2]), start)
        found.append(meter.measured())
    for name in ("errors", "outputs", "images", "local", "parts", "features"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(found[0], name))


def test_a_slight_violation_is_one(tmp_path: Path) -> None:
    some = subject(plain_network(), tmp_path)
    known = anatomy.anatomy(some)
    seen = anatomy.measured(some, known)
    seen.ratios["l1"][1, 0, 2] = 1 + 1e-4
    seen.ratios["joint"][0, 1, 0] = 1.0
    seen.ratios["joint"][0, 1, 1] = np.nan
    found = dissection.described(some, known, seen)["violations"]
    assert found == {"checked": 2 * len(VIEWS) * 3 * len(NAMES) - 1, "count": 1, "largest": 1 + 1e-4}


def test_constants_below_1_are_counted_among_those_that_there_are(tmp_path: Path) -> None:
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4)))
    some = subject(network, tmp_path)
    known = anatomy.anatomy(some)
    constants = (1.0, None, 0.5, 3.0)
    promised = {
        (depth, view): {**bounds, "joint": Bound(constants[depth])} for (depth, view), bounds in known.promised.items()
    }
    result = dissection.described(some, replace(known, promised=promised), anatomy.measured(some, known))
    for entry in (entry for entry in result["below_one"] if entry["reading"] == "joint"):
        assert (entry["below"], entry["of"]) == (1, 3)
        assert (entry["least"], entry["median"], entry["largest"]) == (0.5, 1.0, 3.0)
    assert len(result["below_one"]) == 5 * len(VIEWS)


def test_shares_add_up_to_1_where_parts_work_against_each_other(tmp_path: Path) -> None:
    some = subject(plain_network(), tmp_path)
    known = anatomy.anatomy(some)
    seen = anatomy.measured(some, known)
    parts = np.broadcast_to([2.0, -1.0, 1.0], seen.parts.shape)
    result = dissection.described(some, known, replace(seen, parts=parts))
    for layer in result["layers"]:
        assert [local["shares"] for local in layer["local"]] == [
            {"padding": 1.0, "stride": -0.5, "nonlinearity": 0.5}
        ] * len(VIEWS)


def test_stages_have_the_norms_of_their_own_layers(tmp_path: Path) -> None:
    """Also after a layer without a norm, and with padding that repeats pixels."""
    network = nn.Sequential(
        Standardised(3, 3, 1),
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 3, 1),
        nn.Conv2d(3, 3, 1, padding=1, padding_mode="reflect"),
    )
    single, mirror = network[2], network[3]
    assert isinstance(single, nn.Conv2d)
    assert isinstance(mirror, nn.Conv2d)
    nn.init.dirac_(mirror.weight)
    some = subject(network, tmp_path)
    known = anatomy.anatomy(some)
    result = dissection.described(some, known, anatomy.measured(some, known))
    constants = {stage["name"]: stage["constant"] for stage in result["stages"] if stage["kind"] == "convolution"}
    assert constants == {layer["name"]: layer["norm"] for layer in result["layers"]}
    assert constants["0"] is None
    assert constants["3"] == pytest.approx(2)  # a pixel beside a corner comes up four times
    assert constants["2"] == pytest.approx(float(torch.linalg.matrix_norm(single.weight[..., 0, 0], 2)), rel=0.02)


def test_product_of_constants_is_never_below_what_is_measured(tmp_path: Path) -> None:
    found = found_in(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(5, 4, 3)), tmp_path)
    for layer in (*found["layers"], found["features"]):
        for propagated in layer["propagated"]:
            assert propagated["product"] >= propagated["reflect101"]["q50"]


def test_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for passes in (7, 14, 21):  # 1, 2 and 3 images
        monkeypatch.setattr(propagation, "PASSES", passes)
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
    some = subject(Moody(), tmp_path, images=10 * propagation.at_once(VIEWS))  # more than there are networks
    known = anatomy.anatomy(some)
    with pytest.raises(BackboneError, match="computes otherwise than on the first image, at"):
        anatomy.measured(some, known)


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


def test_the_same_images_are_taken_however_their_files_are_ordered(config: Config) -> None:
    from blurtrain import images

    loaded = images.load(config.data, GEOMETRY, config.cache)
    order = np.random.default_rng(0).permutation(len(loaded.ids))
    others = replace(
        loaded, ids=loaded.ids[order], labels=loaded.labels[order], test=np.flatnonzero(np.isin(order, loaded.test))
    )
    taken, also = loaded.ids[anatomy.chosen(loaded, 7)], others.ids[anatomy.chosen(others, 7)]
    assert [*taken] == [*also]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "0"], "images must be from 1 to 10000, got 0"),
        (["--blurs", "[{family: zoom, severity: [1]}]"], "blurs must be strengths above 0 of gaussian"),
        (["--blurs", "[{family: gaussian, strengths: [0]}]"], "blurs must be strengths above 0 of gaussian"),
        (["--blurs", "[]"], "blurs must be from 1 to 16 blurs, got 0"),
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


# Every family


EFFORT = 2e10  # operations for one layer's gains: about a second
GATES = ("efficientnet", "mobilenet_v3", "regnet_y")  # that scale channels by a function of all of them


def of_family(name: str) -> FrozenBackbone:
    """Small images, random weights, and batch norms that are not the identity; the embedded network as it is."""
    side = SIDES.get(name, SIDE)
    weights = "embedded" if name == "glyphnet" else "none"
    found = backbones.load(BackboneConfig(name=name, weights=weights, resize=side, crop=side))
    if weights == "none":
        shake_norms(found.network)
    return found


def frobenius(matrix: Tensor) -> float:
    """No less than the norm, and there at once: that of VGG's first linear layer takes half a minute."""
    return float(matrix.double().norm())


def quick_gains(layer: Layer) -> np.ndarray:
    """Young's bound, which is none too low, at every frequency of a layer whose gains take long."""
    if operators.effort(layer) <= EFFORT:
        return operators.gains(layer)
    height, width = layer.torus
    return np.full((height, width // 2 + 1), layer.young)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glyphnet", *LAST])
def test_nothing_is_violated_or_left_out_in_any_family(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in LARGE:
        monkeypatch.setattr(anatomy, "norm_of", frobenius)
    monkeypatch.setattr(anatomy, "gains", quick_gains)
    some = subject_of(of_family(name), tmp_path, VIEWS[:2], 2)
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, path=path: ran.append(path))
        for path, module in some.backbone.network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    some.backbone(torch.zeros(1, 3, some.side, some.side))
    for hook in hooks:
        hook.remove()
    known = anatomy.anatomy(some)
    result = dissection.described(some, known, anatomy.measured(some, known))
    assert [layer["name"] for layer in result["layers"]] == ran
    assert result["violations"]["count"] == 0
    compared = 0
    for layer in result["layers"]:
        assert layer["norm"] > 0
        for local in layer["local"]:
            assert local["reason"] or local["bounds"].keys() == set(NAMES)
            for bound in local["bounds"].values():
                assert (bound["constant"] is None) == bool(bound["reason"])
                assert (bound["largest"] is None) == bool(bound["reason"] or local["reason"])
                compared += len(some.positions) * (bound["largest"] is not None)
    assert result["violations"]["checked"] == compared > 0
    for stage in result["stages"]:
        assert (stage["constant"] is None) == bool(stage["no_bound"])
    assert (result["features"]["cumulative"] is None) == name.startswith(GATES)
    assert all(layer["cumulative"] or layer["no_cumulative"] for layer in result["layers"])


@pytest.mark.parametrize("view", [Blur("gaussian", 0.15), Blur("gaussian", 0.2), Blur("motion", 1.001, 0.0)], ids=str)
def test_rounding_is_no_violation_where_there_is_hardly_a_blur(view: Blur, tmp_path: Path) -> None:
    found = found_in(plain_network(), tmp_path, (view,))
    assert found["violations"]["checked"] > 0
    assert found["violations"]["count"] == 0
    assert found["violations"]["largest"] < 1


@pytest.mark.parametrize("view", [Blur("gaussian", 0.1), Blur("defocus", 0.5), Blur("motion", 1.0, 0.0)], ids=str)
def test_a_kernel_that_blurs_nothing_is_not_measured(view: Blur, tmp_path: Path) -> None:
    found = found_in(plain_network(), tmp_path, (view,))
    assert found["violations"]["checked"] == 0
    for layer in found["layers"]:
        assert layer["local"][0]["reason"] == "the kernel blurs nothing"
        assert layer["local"][0]["shares"] is None


def test_a_kernel_wider_than_the_map_has_constants_and_shares(tmp_path: Path) -> None:
    found = found_in(plain_network(), tmp_path, (Blur("gaussian", 8.0),))
    counts = {entry["reading"]: entry["of"] for entry in found["below_one"]}
    assert counts == dict.fromkeys(("triangle", "young", "l1", "spectral"), len(found["layers"]))
    for layer in found["layers"]:
        local = layer["local"][0]
        assert "wider than the map" in local["reason"]
        assert local["error"] is None
        assert local["bounds"]["spectral"]["mean"] is None
        assert sum(local["shares"].values()) == pytest.approx(1)


def test_a_small_map_may_wrap_around_more_than_once(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.AdaptiveAvgPool2d(3), nn.Conv2d(3, 4, 5, padding=2, padding_mode="circular"), nn.ReLU(), nn.Conv2d(4, 4, 1)
    )
    found = found_in(network, tmp_path, (Blur("gaussian", 0.5), Blur("gaussian", 4.0)))
    assert found["violations"]["count"] == 0
    assert all(part["bounds"]["joint"]["largest"] is not None for part in found["layers"][0]["local"])


def test_what_overflows_is_a_sentence(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    some = subject(network, tmp_path)
    for parameter in network.parameters():
        parameter.data.abs_().add_(1).mul_(1e30)
    with pytest.raises(BackboneError, match=r"[01] gives values that are not finite numbers"):
        anatomy.measured(some, anatomy.anatomy(some))


def test_pixels_that_cannot_be_read_end_the_work(tmp_path: Path) -> None:
    class Failing:
        def read(self, _: np.ndarray) -> np.ndarray:
            raise StoreError("damaged")

    some = subject(plain_network(), tmp_path, images=40)
    known = anatomy.anatomy(some)
    broken = replace(some, images=replace(some.images, pixels=Failing()))
    with pytest.raises(StoreError, match="damaged"):
        anatomy.measured(broken, known)


def test_norms_are_exact_for_large_even_maps() -> None:
    for shape in ((2, 64, 112, 112), (1, 3, 7, 5), (2, 1, 1, 1)):
        maps = torch.full(shape, 0.37).contiguous(memory_format=torch.channels_last)
        expected = 0.37 * np.sqrt(np.prod(shape[1:]))
        np.testing.assert_allclose(norms(maps), expected, rtol=1e-6)


def test_every_layer_without_bound_stands_in_the_report(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

        def forward(self, images: Tensor) -> Tensor:
            maps = torch.erf(self.first(images)).sinh()
            maps = nn.functional.conv2d(self.second(maps).sinh(), self.weight)
            features: Tensor = maps.mean((2, 3))
            return features

    result = found_in(Odd(), tmp_path) | {"split": "test", "finding": "-"}
    text = " ".join(layer_report.table(result).split())
    reasons = [layer["no_bound"] for layer in result["layers"]]
    assert sum(map(bool, reasons)) == 3
    for reason in filter(None, reasons):
        assert reason in text
    assert layer_tables.layers_text(result)
    assert layer_report.finding(result)


def test_blurs_of_one_name_are_refused() -> None:
    grids = (BlurGrid("psf", (1.0,), file="a/lens.npy"), BlurGrid("psf", (1.0,), file="b/lens.npy"))
    with pytest.raises(ConfigError, match="blurs must be of different names"):
        Question(blurs=grids)

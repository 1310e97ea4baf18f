"""Engines: whatever runs a backbone gives eager torch's features, and is chosen by rule."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from blurtrain import backbones, engines
from blurtrain.backbones import FrozenBackbone, Preprocessing
from blurtrain.blur import blur_pixels
from blurtrain.config import BackboneConfig
from blurtrain.decoding import Geometry
from blurtrain.engines import OnnxEngine, TorchEngine
from blurtrain.errors import StoreError
from blurtrain.files import file_sha256
from blurtrain.views import CLEAN, Blur

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="`auto` means another engine beside a GPU")
Choice = Literal["auto", "onnxruntime", "torch"]


@pytest.fixture
def backbone() -> FrozenBackbone:
    return backbones.load(BackboneConfig())


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every export that really happens."""
    happened: list[str] = []
    export = torch.onnx.export

    def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        happened.append("export")
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", counted)
    return happened


def eager(backbone: FrozenBackbone, pixels: np.ndarray, view: Blur = CLEAN) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(backbone(torch.from_numpy(blur_pixels(pixels, view))).numpy())


def random_pixels(count: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("choice", ["auto", "torch"])
def test_engine_agrees_with_eager_torch(
    backbone: FrozenBackbone, choice: Choice, pixels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = pixels[::-1].copy()  # not the images that the export was checked on
    expected = eager(backbone, others)
    engine = engines.build(backbone, choice, tmp_path, pixels)
    assert isinstance(engine, OnnxEngine if choice == "auto" else TorchEngine)
    features = engine(others, CLEAN)
    assert features.dtype == np.float32
    assert features.shape == (8, backbone.features)
    assert relative_difference(features, expected) < 1e-4
    assert "torch runs" not in capsys.readouterr().err


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
@pytest.mark.parametrize(
    "view", [Blur("gaussian", 2.0), Blur("box", 5.0), Blur("defocus", 3.0), Blur("gaussian", 2.0, None, "circular")]
)
def test_engine_blurs_and_then_normalises(
    choice: Choice, view: Blur, backbone: FrozenBackbone, pixels: np.ndarray, tmp_path: Path
) -> None:
    engine = engines.build(backbone, choice, tmp_path, pixels)
    assert isinstance(engine, OnnxEngine if choice == "onnxruntime" else TorchEngine)
    assert relative_difference(engine(pixels, view), eager(backbone, pixels, view)) < 1e-5


def test_calls_side_by_side_give_what_one_after_the_other_gives(backbone: FrozenBackbone, tmp_path: Path) -> None:
    pixels, view = random_pixels(48), Blur("gaussian", 1.0)
    engine = engines.build(backbone, "onnxruntime", tmp_path, pixels[:8])
    batches = [pixels[start : start + 4] for start in range(0, 48, 4)]
    alone = [engine(batch, view) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: engine(batch, view), batches))
    np.testing.assert_array_equal(np.concatenate(together), np.concatenate(alone))


@pytest.mark.parametrize("sides", [(5, 9), (14, 7), (1, 1), (2, 13)])
@pytest.mark.parametrize("bins", [7, (3, 5), 1])
def test_adaptive_pooling_is_exported_whatever_the_size(
    sides: tuple[int, int], bins: int | tuple[int, int], tmp_path: Path
) -> None:
    class Pooled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            cut: Tensor = nn.functional.adaptive_avg_pool2d(images[..., : sides[0], : sides[1]], bins)
            return cut

    plain = Preprocessing(Geometry(16, 16), (0.0,) * 3, (1.0,) * 3)
    features = 3 * (bins * bins if isinstance(bins, int) else bins[0] * bins[1])
    backbone = FrozenBackbone(Pooled(), "pooled", plain, features)
    images = random_pixels(4, 16)
    engine = engines.build(backbone, "onnxruntime", tmp_path, images)
    assert isinstance(engine, OnnxEngine)
    assert relative_difference(engine(images, CLEAN), eager(backbone, images)) < 1e-6


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
def test_batch_size_does_not_matter(choice: Choice, backbone: FrozenBackbone, tmp_path: Path) -> None:
    images = random_pixels(64)
    engine = engines.build(backbone, choice, tmp_path, images[:8])
    in_eights = np.concatenate([engine(images[start : start + 8], CLEAN) for start in range(0, 64, 8)])
    assert relative_difference(in_eights, engine(images, CLEAN)) < 1e-5


@pytest.mark.parametrize("choice", ["onnxruntime", "torch"])
def test_engine_leaves_the_backbone_as_it_is(choice: Choice, backbone: FrozenBackbone, tmp_path: Path) -> None:
    images = random_pixels(8)
    fingerprint, mode = backbone.fingerprint(), backbone.train().training
    engines.build(backbone, choice, tmp_path, images)(images, CLEAN)
    assert backbone.fingerprint() == fingerprint
    assert backbone.training == mode
    assert not any(module.training for module in backbone.network.modules())


def test_torch_is_used_where_it_is_asked_for(
    backbone: FrozenBackbone, pixels: np.ndarray, tmp_path: Path, exports: list[str]
) -> None:
    engine = engines.build(backbone, "torch", tmp_path, pixels)
    assert engine.name == f"torch {torch.__version__} cpu"
    assert exports == []
    assert list(tmp_path.iterdir()) == []


def test_network_is_exported_once(
    backbone: FrozenBackbone, pixels: np.ndarray, tmp_path: Path, exports: list[str]
) -> None:
    first = engines.build(backbone, "auto", tmp_path, pixels)
    again = engines.build(backbones.load(BackboneConfig()), "auto", tmp_path, pixels)
    assert exports == ["export"]
    assert first.name == again.name
    np.testing.assert_array_equal(first(pixels, CLEAN), again(pixels, CLEAN))


@pytest.mark.parametrize("what", ["weight", "size"])
def test_another_network_or_size_is_another_export(
    what: str, backbone: FrozenBackbone, pixels: np.ndarray, tmp_path: Path, exports: list[str]
) -> None:
    engines.build(backbone, "auto", tmp_path, pixels)
    if what == "weight":
        next(backbone.network.parameters()).view(-1)[0] += 0.5
    other = pixels if what == "weight" else pixels[..., :56, :56].copy()
    engine = engines.build(backbone, "auto", tmp_path, other)
    assert len(exports) == 2
    assert relative_difference(engine(other, CLEAN), eager(backbone, other)) < 1e-4


def test_export_that_was_changed_is_not_used(
    backbone: FrozenBackbone, pixels: np.ndarray, tmp_path: Path, exports: list[str]
) -> None:
    expected = engines.build(backbone, "auto", tmp_path, pixels)(pixels, CLEAN)
    (path,) = (tmp_path / "engines").rglob("*.onnx")
    digest = file_sha256(path)
    model = onnx.load(path)  # still a network, but one that gives other features
    array = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array + 1, model.graph.initializer[0].name))
    onnx.save(model, path)
    assert not np.allclose(OnnxEngine(path, backbone.preprocessing)(pixels, CLEAN), expected)
    np.testing.assert_array_equal(engines.build(backbone, "auto", tmp_path, pixels)(pixels, CLEAN), expected)
    assert len(exports) == 2
    assert file_sha256(path) == digest


@pytest.mark.parametrize("damage", ["absent network", "absent verdict", "broken verdict", "empty verdict"])
def test_export_that_is_incomplete_is_not_used(
    damage: str, backbone: FrozenBackbone, pixels: np.ndarray, tmp_path: Path, exports: list[str]
) -> None:
    engines.build(backbone, "auto", tmp_path, pixels)
    (path,) = (tmp_path / "engines").rglob("*.onnx")
    verdict = path.with_suffix(".json")
    if damage.startswith("absent"):
        (path if "network" in damage else verdict).unlink()
    else:
        verdict.write_text("{}" if "empty" in damage else "{")
    engines.build(backbone, "auto", tmp_path, pixels)
    assert len(exports) == 2


@pytest.mark.parametrize("difference", [2e-4, float("inf"), float("nan")])
def test_network_that_onnx_gets_wrong_is_run_by_torch(
    difference: float,
    backbone: FrozenBackbone,
    pixels: np.ndarray,
    tmp_path: Path,
    exports: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engines, "difference", lambda *_: difference)
    for _ in range(2):  # the verdict is kept, and told every time
        assert isinstance(engines.build(backbone, "auto", tmp_path, pixels), TorchEngine)
        assert capsys.readouterr().err == (
            f"note: torch runs glyphnet: ONNX Runtime's features differ by {difference:.1e} of their scale, "
            "more than 0.0001\n"
        )
    assert exports == ["export"]


@pytest.mark.parametrize("sign", [1, -1])
def test_difference_sees_a_wrong_feature(sign: int, backbone: FrozenBackbone, pixels: np.ndarray) -> None:
    right = eager(backbone, pixels)

    class Wrong:
        name, parallel, batch = "wrong", 1, 8

        def __init__(self, expected: np.ndarray) -> None:
            self._expected = expected

        def __call__(self, pixels: np.ndarray, view: Blur) -> np.ndarray:
            assert pixels is self._expected
            assert view == CLEAN
            features = right.copy()
            features[3, 5] += sign * 0.01 * np.abs(right).max()
            return features

    assert engines.difference(TorchEngine(backbone), backbone, pixels) < 1e-5
    assert engines.difference(Wrong(pixels), backbone, pixels) == pytest.approx(0.01, rel=1e-3)


def test_network_that_cannot_be_exported_is_run_by_torch(
    backbone: FrozenBackbone,
    pixels: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator\nand a long tale")

    monkeypatch.setattr(torch.onnx, "export", fail)
    engine = engines.build(backbone, "auto", tmp_path, pixels)
    assert isinstance(engine, TorchEngine)
    expected = "note: torch runs glyphnet: it cannot be exported (RuntimeError: no such operator)\n"
    assert capsys.readouterr().err == expected
    assert list((tmp_path / "engines").rglob("*.onnx")) == []


@pytest.mark.parametrize("error", [RuntimeError(), RuntimeError("")])
def test_error_without_words_does_not_break_the_fallback(
    error: Exception,
    backbone: FrozenBackbone,
    pixels: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.onnx, "export", fail)
    assert isinstance(engines.build(backbone, "auto", tmp_path, pixels), TorchEngine)


def test_folder_that_cannot_be_written_is_told(backbone: FrozenBackbone, pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"engines.*cannot be written"):
        engines.build(backbone, "auto", tmp_path, pixels)


def test_names_tell_engines_apart(
    backbone: FrozenBackbone, pixels: np.ndarray, tmp_path: Path, weights_file: Callable[[str], Path]
) -> None:
    names = {engines.build(backbone, choice, tmp_path, pixels).name for choice in ("torch", "onnxruntime")}
    assert len(names) == 2
    other = backbones.load(BackboneConfig(name="resnet18", weights=str(weights_file("resnet18")), crop=64))
    assert TorchEngine(other).name in names  # what runs, not what it runs: that is the fingerprint's part

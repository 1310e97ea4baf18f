"""The embedded network: its shape, its training, and the weights that ship."""

import json
from dataclasses import replace
from importlib import resources
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from blurtrain import glyphnet, glyphs, pretrain
from blurtrain.pretrain import Batches, Letters, Recipe

EMBEDDED = Path(str(resources.files("blurtrain.embedded")))
TINY = Recipe(images=64, validation_images=52, epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def letters() -> Letters:
    return pretrain.draw_letters(glyphs.glyphs("letters", "train", 104, seed=5))


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((EMBEDDED / pretrain.RECIPE_FILE).read_text())
    return record


def shipped_network() -> glyphnet.GlyphNet:
    network = glyphnet.GlyphNet()
    network.load_state_dict(load_file(EMBEDDED / pretrain.WEIGHTS_FILE), strict=True)
    return network.eval()


def test_network_is_small_and_ends_in_one_linear_layer() -> None:
    network = glyphnet.GlyphNet().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = network(torch.zeros(1, 3, glyphnet.SIZE, glyphnet.SIZE))
    assert logits.shape == (1, 52)
    assert 25e6 < counter.get_total_flops() / 2 < 40e6  # a multiply-add counts as two
    assert 0.3e6 < sum(p.numel() for p in network.parameters()) < 0.71e6
    assert [n for n, m in network.named_modules() if isinstance(m, nn.Linear)] == ["fc"]
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_normalise_matches_its_formula(letters: Letters) -> None:
    pictures = letters.pictures[:3]
    expected = (pictures.numpy().astype(np.float64) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(pretrain.normalise(pictures).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_letters_are_drawn_with_their_labels(letters: Letters) -> None:
    recipes = glyphs.glyphs("letters", "train", 104, seed=5)
    assert "".join(glyphs.LETTERS[label] for label in letters.labels) == "".join(r.character for r in recipes)
    np.testing.assert_array_equal(letters.pictures[7].numpy(), glyphs.draw(recipes[7]))


def test_chunks_of_any_size_give_the_same_letters(monkeypatch: pytest.MonkeyPatch, letters: Letters) -> None:
    monkeypatch.setattr(pretrain, "CHUNK", 30)
    again = pretrain.draw_letters(glyphs.glyphs("letters", "train", 104, seed=5))
    assert torch.equal(again.pictures, letters.pictures)


def test_plain_batches_keep_order_and_miss_nothing(letters: Letters) -> None:
    batches = Batches(letters, batch_size=40)
    assert [len(labels) for _, labels in batches] == [40, 40, 24]
    assert len(batches) == 3
    assert torch.equal(torch.cat([labels for _, labels in batches]), letters.labels)


def test_shuffled_batches_visit_each_letter_once_an_epoch(letters: Letters) -> None:
    batches = Batches(letters, batch_size=26, seed=0)
    first, second = (torch.cat([labels for _, labels in batches]) for _ in range(2))
    assert len(batches) == 4
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, letters.labels.sort().values)


def test_recolour_permutes_channels_and_sign(letters: Letters) -> None:
    x = pretrain.normalise(letters.pictures)
    changed = pretrain.recolour(x, torch.Generator().manual_seed(0))
    seen = set()
    for before, after in zip(x, changed, strict=True):
        found = [
            (order, sign)
            for order in permutations(range(3))
            for sign in (-1, 1)
            if torch.equal(after, sign * before[list(order)])
        ]
        assert found
        seen.update(found)
    assert len(seen) == 12


def test_half_precision_narrows_floats_only() -> None:
    network = glyphnet.GlyphNet()
    state = pretrain.half_precision(network)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            assert state[name].dtype == torch.float16
            torch.testing.assert_close(state[name].float(), value, rtol=1e-3, atol=1e-7)
        else:
            assert torch.equal(state[name], value)


def test_validate_counts_right_answers(letters: Letters) -> None:
    network = shipped_network()
    with torch.no_grad():
        predicted = network(pretrain.normalise(letters.pictures)).argmax(dim=1)
    expected = (predicted == letters.labels).double().mean().item()
    assert pretrain.validate(network, letters) == pytest.approx(expected)


def test_pretraining_is_a_function_of_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain.pretrain(seed=seed, folder=tmp_path / name, recipe=TINY)
    a, b, c = ((tmp_path / name / pretrain.WEIGHTS_FILE).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_forecast_counts_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pretrain.forecast(TINY).startswith("116 letters to draw, 4 steps of 16: about ")
    assert list(tmp_path.iterdir()) == []


def test_pretraining_leaves_global_random_state_alone(letters: Letters) -> None:
    before = torch.random.get_rng_state()
    pretrain.fit(letters, TINY, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_training_learns_a_few_letters(letters: Letters) -> None:
    few = Letters(letters.pictures[:32], letters.labels[:32])
    network = pretrain.fit(few, replace(TINY, images=32, epochs=40), seed=0)
    assert pretrain.validate(network, few) > 0.3  # chance is below 0.1


def test_shipped_weights_are_small_and_complete(shipped: dict[str, Any]) -> None:
    path = EMBEDDED / pretrain.WEIGHTS_FILE
    assert path.stat().st_size <= 1_500_000
    assert {v.dtype for v in load_file(path).values() if v.is_floating_point()} == {torch.float16}
    assert sum(p.numel() for p in shipped_network().parameters()) == shipped["parameters"]


def test_shipped_recipe_is_the_default(shipped: dict[str, Any]) -> None:
    recipe = Recipe(**shipped["recipe"])
    assert recipe == Recipe()
    assert shipped["steps"] == recipe.steps
    assert shipped["fonts"] == list(glyphs.PRETRAINING_FONTS)
    assert shipped["drawing_version"] == glyphs.DRAWING_VERSION


def test_shipped_figure_is_reproduced(shipped: dict[str, Any]) -> None:
    count = shipped["validation"]["images"]
    fresh = glyphs.glyphs("letters", "validation", count, shipped["seed"])
    accuracy = pretrain.validate(shipped_network(), pretrain.draw_letters(fresh))
    assert accuracy == pytest.approx(shipped["validation"]["accuracy"], abs=0.005)

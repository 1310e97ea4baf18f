"""Curvature: blocks of the true Hessian, and what multiplies by their inverse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blurtrain import curvature
from blurtrain.curvature import Curvature
from blurtrain.rows import Rows

COUNT, WIDTH = 60, 4


def problem(classes: int) -> tuple[np.ndarray, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows, a mask, weights, mean and scale of the rows in it, and a point away from zero."""
    rng = np.random.default_rng(classes)
    features = (rng.standard_normal((COUNT, WIDTH)) * [1, 3, 0.1, 10] + 2).astype(np.float32)
    mask = torch.from_numpy(rng.random(COUNT) < 0.7)
    kept = torch.from_numpy(features).double()[mask]
    point = torch.from_numpy(rng.standard_normal((classes, WIDTH + 1)))
    weights = torch.from_numpy(rng.uniform(0.2, 5, COUNT))
    return features, mask, weights, kept.mean(0), kept.std(0, correction=0), point - point.mean(0)


def made(classes: int) -> Curvature:
    features, *rest = problem(classes)
    return Curvature(Rows.of(features), *rest)


def hessian(classes: int, l2: float) -> Tensor:
    """Of the weighted mean cross-entropy with a penalty on the weights, by automatic differentiation."""
    features, mask, rows, mean, scale, point = problem(classes)
    inputs = (torch.from_numpy(features).double()[mask] - mean) / scale
    labels = torch.zeros(len(inputs), dtype=torch.long)  # the Hessian does not depend on them

    def loss(theta: Tensor) -> Tensor:
        weights, bias = theta.view(classes, -1)[:, :-1], theta.view(classes, -1)[:, -1]
        nll = F.cross_entropy(inputs @ weights.T + bias, labels, reduction="none")
        return (rows[mask] * nll).mean() + l2 / 2 * weights.square().sum()

    found: Tensor = torch.autograd.functional.hessian(loss, point.flatten())  # type: ignore[no-untyped-call]
    return found


@pytest.fixture
def every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is left out."""
    monkeypatch.setattr(curvature, "ROWS", 1000)
    monkeypatch.setattr(curvature, "INFORMATIVE", 0.0)


@pytest.mark.usefixtures("every_row")
@pytest.mark.parametrize("at_once", [1, 100, 1 << 20])
def test_blocks_are_those_of_the_hessian(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "AT_ONCE", at_once)
    size = WIDTH + 1
    whole = hessian(3, 0.0)
    for label, block in enumerate(made(3)._blocks):
        place = slice(label * size, (label + 1) * size)
        torch.testing.assert_close(block, whole[place, place], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("every_row")
@pytest.mark.parametrize("l2", [1e-4, 0.1, 10.0])
def test_inverse_is_exact_for_two_classes(l2: float) -> None:
    direction = torch.from_numpy(np.random.default_rng(9).standard_normal(WIDTH + 1))
    direction = torch.stack([direction, -direction]).flatten()  # as gradients are: the classes sum to zero
    # A point has l2 once for each class; the blocks count what couples the two classes as none, half of the whole.
    size = WIDTH + 1
    block = hessian(2, 0.0)[:size, :size] + torch.diag(torch.tensor([l2] * WIDTH + [0.0], dtype=torch.float64))
    expected = torch.stack([torch.linalg.solve(block, part) for part in direction.view(2, -1)]).flatten()
    applied = made(2).inverse(l2)(direction[None])[0]
    torch.testing.assert_close(applied, expected, rtol=1e-3, atol=1e-5)


def test_what_is_returned_sums_to_zero_over_the_classes() -> None:
    points = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3 * (WIDTH + 1))))
    applied = made(3).inverse(0.01)(points)
    torch.testing.assert_close(applied.view(2, 3, -1).sum(1), torch.zeros(2, WIDTH + 1).double(), rtol=0, atol=1e-9)
    assert bool(((applied * points).sum(1) > 0).all())  # a direction that descends


@pytest.mark.usefixtures("every_row")
def test_classes_share_blocks_where_there_would_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = made(5)._blocks
    monkeypatch.setattr(curvature, "BLOCKS", 2 * (WIDTH + 1) ** 2)
    shared = made(5)
    assert [len(group) for group in shared._groups] == [3, 2]
    torch.testing.assert_close(shared._blocks[0], alone[:3].mean(0), rtol=0, atol=1e-6)
    assert shared.inverse(0.1)(torch.ones(1, 5 * (WIDTH + 1)).double()).shape == (1, 5 * (WIDTH + 1))


def test_few_rows_stand_for_all() -> None:
    rng = np.random.default_rng(3)
    inputs = torch.from_numpy(rng.standard_normal((20_000, 3)))
    weights = torch.from_numpy(rng.random(20_000) ** 8)  # most of them tiny
    whole = (inputs * weights[:, None]).T @ inputs
    few = curvature._weighted_square(inputs, weights, share=3000.0)
    torch.testing.assert_close(few / whole.diagonal().mean(), whole / whole.diagonal().mean(), rtol=0, atol=0.1)
    assert float(few.trace()) == pytest.approx(float(whole.trace()), rel=0.05)


def test_no_weight_is_no_curvature() -> None:
    nothing = curvature._weighted_square(torch.ones(4, 3).double(), torch.zeros(4).double(), share=10.0)
    assert not bool(nothing.any())

"""The stacked solver on problems whose answer is known in closed form."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blurtrain.lbfgs import MAX_HALVINGS, StackedLBFGS

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Precondition = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Quadratics:
    """Problems 1/2 (x - m)' A (x - m), one a row; the minimum of each is m."""

    matrices: Tensor
    minima: Tensor
    calls: int = 0

    def __call__(self, problems: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        offset = points - self.minima[problems]
        gradients = (self.matrices[problems] @ offset[..., None])[..., 0]
        return (offset * gradients).sum(1) / 2, gradients

    def only(self, row: int) -> "Quadratics":
        return Quadratics(self.matrices[row : row + 1], self.minima[row : row + 1])


def quadratics(conditions: list[float], size: int = 6, seed: int = 0) -> Quadratics:
    """Random rotations of diagonal matrices with the given condition numbers."""
    generator = torch.Generator().manual_seed(seed)
    matrices = []
    for condition in conditions:
        rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
        values = torch.logspace(0, 1, size, base=condition, dtype=torch.float64)
        matrices.append(rotation @ torch.diag(values) @ rotation.T)
    minima = torch.randn(len(conditions), size, generator=generator, dtype=torch.float64)
    return Quadratics(torch.stack(matrices), minima)


def identity(_problems: Tensor, points: Tensor) -> Tensor:
    return points


def solver(
    problems: int, size: int = 6, tolerance: float = 1e-9, precondition: Precondition = identity
) -> tuple[torch.nn.Parameter, StackedLBFGS]:
    points = torch.nn.Parameter(torch.zeros(problems, size, dtype=torch.float64))
    tolerances = torch.full((problems,), tolerance, dtype=torch.float64)
    return points, StackedLBFGS(points, precondition, tolerances)


def run(optimizer: StackedLBFGS, objective: Objective, steps: int = 300) -> int:
    """Iterations until every problem has ended."""
    for step in range(steps):
        optimizer.step(objective)
        if bool((optimizer.converged | optimizer.stalled).all()):
            return step + 1
    return steps


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3, 1e6])
def test_quadratic_ends_at_its_minimum(condition: float) -> None:
    problem = quadratics([condition])
    points, optimizer = solver(1)
    run(optimizer, problem)
    assert bool(optimizer.converged.all())
    torch.testing.assert_close(points.detach(), problem.minima, rtol=0, atol=1e-8)  # modulus of convexity 1
    assert optimizer.largest_gradients.max() <= 1e-9


def test_exact_inverse_hessian_needs_one_step() -> None:
    problem = quadratics([100.0, 10.0])  # squared and times 1e-16, what rounding leaves is far below the tolerance
    inverses = torch.linalg.inv(problem.matrices)
    points, optimizer = solver(2, precondition=lambda p, x: (inverses[p] @ x[..., None])[..., 0])
    assert run(optimizer, problem) == 1
    torch.testing.assert_close(points.detach(), problem.minima)


def test_good_preconditioner_saves_steps() -> None:
    problem = quadratics([1e5])
    scale = torch.linalg.inv(problem.matrices * 1.0 + 0.5 * torch.eye(6, dtype=torch.float64))
    _, plain = solver(1)
    _, helped = solver(1, precondition=lambda p, x: (scale[p] @ x[..., None])[..., 0])
    assert 2 * run(helped, problem) < run(plain, problem)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), exponents=st.lists(st.floats(0, 4), min_size=2, max_size=5))
def test_neighbours_do_not_change_an_answer(seed: int, exponents: list[float]) -> None:
    stacked = quadratics([10.0**e for e in exponents], seed=seed)
    together, optimizer = solver(len(exponents))
    run(optimizer, stacked)
    for row in range(len(exponents)):
        alone, single = solver(1)
        run(single, stacked.only(row))
        torch.testing.assert_close(together.detach()[row], alone.detach()[0], rtol=0, atol=1e-8)
        torch.testing.assert_close(together.detach()[row], stacked.minima[row], rtol=0, atol=1e-8)


def test_path_is_the_same_alone_and_stacked() -> None:
    stacked = quadratics([5.0, 1e4, 100.0])
    together, optimizer = solver(3)
    singles = [solver(1) for _ in range(3)]
    for _ in range(12):
        optimizer.step(stacked)
        for row, (point, single) in enumerate(singles):
            single.step(stacked.only(row))
            torch.testing.assert_close(together.detach()[row], point.detach()[0], rtol=1e-6, atol=1e-8)


def test_converged_problem_stays_where_it_is() -> None:
    problem = quadratics([1.0, 1e6])
    points, optimizer = solver(2)
    while not bool(optimizer.converged[0]):
        optimizer.step(problem)
    assert not bool(optimizer.converged[1])
    ended = points.detach()[0].clone()
    seen: list[int] = []

    def watched(problems: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend(problems.tolist())
        return problem(problems, x)

    run(optimizer, watched)
    assert bool(optimizer.converged.all())
    assert torch.equal(points.detach()[0], ended)
    assert set(seen) == {1}  # and costs nothing


def test_nothing_is_evaluated_when_all_have_ended() -> None:
    problem = quadratics([3.0])
    points, optimizer = solver(1)
    run(optimizer, problem)
    calls, ended = problem.calls, points.detach().clone()
    optimizer.step(problem)
    assert problem.calls == calls
    assert torch.equal(points.detach(), ended)


def test_start_at_the_minimum_ends_at_once() -> None:
    problem = Quadratics(torch.eye(6, dtype=torch.float64)[None], torch.zeros(1, 6, dtype=torch.float64))
    _, optimizer = solver(1)
    assert not bool(optimizer.converged[0])  # nothing is known before the first evaluation
    assert run(optimizer, problem) == 1
    assert problem.calls == 1


def test_loss_never_rises() -> None:
    problem = quadratics([1e6, 30.0, 1e3])
    points, optimizer = solver(3)
    every = torch.arange(3)
    before, _ = problem(every, points.detach())
    for _ in range(60):
        optimizer.step(problem)
        after, _ = problem(every, points.detach())
        assert bool((after <= before * (1 + 1e-12)).all())
        before = after


def logistic(problems: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of log(1 + exp(-k x)) + k x / 4 + x^2 / 200, far from quadratic; k grows with the problem."""
    steepness = (1.0 + problems.double())[:, None]
    values = (torch.nn.functional.softplus(-steepness * points) + steepness * points / 4 + points**2 / 200).sum(1)
    return values, -steepness * torch.sigmoid(-steepness * points) + steepness / 4 + points / 100


def test_convex_problem_that_is_not_quadratic() -> None:
    points, optimizer = solver(4, size=3, tolerance=1e-10)
    run(optimizer, logistic)
    assert bool(optimizer.converged.all())
    low, high = torch.full((4, 3), -50.0, dtype=torch.float64), torch.full((4, 3), 50.0, dtype=torch.float64)
    for _ in range(80):  # bisection on the derivative
        middle = (low + high) / 2
        rising = logistic(torch.arange(4), middle)[1] > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    torch.testing.assert_close(points.detach(), low, rtol=0, atol=1e-7)


def test_step_that_is_too_long_is_halved() -> None:
    problem = quadratics([100.0])
    points, optimizer = solver(1, precondition=lambda _p, x: 1000 * x)
    run(optimizer, problem)
    torch.testing.assert_close(points.detach(), problem.minima, rtol=0, atol=1e-8)


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
def test_problem_that_cannot_go_on_is_ended_alone(value: float) -> None:
    healthy = quadratics([10.0, 10.0])
    calls = 0

    def objective(problems: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        values, gradients = healthy(problems, points)
        wrong = problems == 0  # its gradient promises a decrease that never comes
        moved = (points != 0).any(1) & wrong
        gradients[wrong] = 1.0
        values = torch.where(wrong, 1.0, values)
        values[moved] = value if value != 1.0 else 2.0
        return values, gradients

    points, optimizer = solver(2)
    assert run(optimizer, objective, steps=100) < 100
    assert optimizer.stalled.tolist() == [True, False]
    assert optimizer.converged.tolist() == [False, True]
    assert torch.equal(points.detach()[0], torch.zeros(6, dtype=torch.float64))  # a bad step is never taken
    torch.testing.assert_close(points.detach()[1], healthy.minima[1], rtol=0, atol=1e-8)
    assert calls < MAX_HALVINGS + 40


def test_tolerance_beyond_rounding_ends_all_the_same() -> None:
    problem = quadratics([1e6, 1e3])
    points, optimizer = solver(2, tolerance=1e-300)
    steps = run(optimizer, problem, steps=2000)
    assert steps < 2000
    torch.testing.assert_close(points.detach(), problem.minima, rtol=0, atol=1e-6)


def test_tolerance_is_each_problems_own() -> None:
    problem = quadratics([50.0, 50.0])
    points = torch.nn.Parameter(torch.zeros(2, 6, dtype=torch.float64))
    optimizer = StackedLBFGS(points, identity, torch.tensor([1e-1, 1e-10], dtype=torch.float64))
    run(optimizer, problem)
    gradients = problem(torch.arange(2), points.detach())[1].abs().amax(1)
    assert 1e-10 < float(gradients[0]) <= 1e-1
    assert float(gradients[1]) <= 1e-10

"""Many strictly convex problems minimised side by side by L-BFGS (Nocedal and Wright 2006, chapter 7).

Every problem has its own curvature pairs, its own line search and its own end, so the answer for one does not
depend on its neighbours; only the arithmetic is shared. torch's own L-BFGS knows one vector and one line search.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

HISTORY = 10  # curvature pairs kept for each problem
SUFFICIENT_DECREASE = 1e-4  # Armijo's constant
MAX_HALVINGS = 30  # a step of 2^-30 no longer changes a float64 loss
ROUNDING = 1e-13  # of the loss: below it a decrease cannot be told from float64 rounding

Problems = Int64[Tensor, " active"]
Points = Float64[Tensor, "active size"]
Values = Float64[Tensor, " active"]
Objective = Callable[[Problems, Points], tuple[Values, Points]]
Precondition = Callable[[Problems, Points], Points]


class StackedLBFGS(torch.optim.Optimizer):
    """L-BFGS over the rows of one parameter, each row a problem of its own.

    Args:
        points: The parameter [problems, size], float64.
        precondition: Applies a positive definite approximation of the inverse Hessian at the start.
        tolerance: A problem has converged when no entry of its gradient exceeds its tolerance.
    """

    def __init__(self, points: Float64[Tensor, "problems size"], precondition: Precondition, tolerance: Values) -> None:
        super().__init__([points], {})
        self._points = points
        self._precondition = precondition
        self.tolerance = tolerance
        self._values: Tensor | None = None
        self._gradients = torch.zeros_like(points)
        self._steps: list[Tensor] = []  # s of each pair, [problems, size], newest last
        self._changes: list[Tensor] = []  # y
        self._inverses: list[Tensor] = []  # 1 / (s . y), [problems]; 0 marks a pair that is not used
        self.stalled = torch.zeros(len(points), dtype=torch.bool, device=points.device)

    @property
    def converged(self) -> Bool[Tensor, " problems"]:
        """Problems whose gradient is within the tolerance."""
        if self._values is None:
            return torch.zeros_like(self.stalled)
        return self.largest_gradients <= self.tolerance

    @property
    def largest_gradients(self) -> Float64[Tensor, " problems"]:
        """Largest entry of each gradient."""
        return self._gradients.abs().amax(1)

    @torch.no_grad()
    def step(self, objective: Objective) -> None:  # type: ignore[override]
        """One iteration of every problem that has not ended.

        Args:
            objective: Values and gradients of some problems at given points.
        """
        if self._values is None:
            every = torch.arange(len(self._points), device=self._points.device)
            self._values, self._gradients = objective(every, self._points.detach())
        active = torch.nonzero(~self.converged & ~self.stalled)[:, 0]
        if len(active) == 0:
            return
        directions = -self._inverse_hessian(active, self._gradients[active])
        slopes = (directions * self._gradients[active]).sum(1)
        self._search(active, directions, slopes, objective)

    def _search(self, active: Problems, directions: Points, slopes: Values, objective: Objective) -> None:
        """Backtracking line search; accepted problems leave it one by one."""
        assert self._values is not None
        step = torch.zeros_like(self._points)
        change = torch.zeros_like(self._points)
        curvature = torch.zeros_like(self._values)
        length = 1.0
        for _ in range(MAX_HALVINGS):
            tried = self._points[active] + length * directions
            values, gradients = objective(active, tried)
            slack = ROUNDING * self._values[active].abs()
            accepted = values <= self._values[active] + SUFFICIENT_DECREASE * length * slopes + slack
            rows = active[accepted]
            step[rows] = length * directions[accepted]
            change[rows] = gradients[accepted] - self._gradients[rows]
            curvature[rows] = (step[rows] * change[rows]).sum(1)
            self._points[rows] = tried[accepted]
            self._values[rows] = values[accepted]
            self._gradients[rows] = gradients[accepted]
            active, directions, slopes = active[~accepted], directions[~accepted], slopes[~accepted]
            if len(active) == 0:
                break
            length /= 2
        self.stalled[active] = True  # no step lowers the loss: rounding is all that is left
        self._remember(step, change, curvature)

    def _remember(self, step: Tensor, change: Tensor, curvature: Tensor) -> None:
        enough = curvature > 1e-12 * step.norm(dim=1) * change.norm(dim=1)
        self._steps.append(step)
        self._changes.append(change)
        self._inverses.append(torch.where(enough, 1 / curvature.clamp_min(1e-300), 0.0))
        if len(self._steps) > HISTORY:
            del self._steps[0], self._changes[0], self._inverses[0]

    def _inverse_hessian(self, active: Problems, gradients: Points) -> Points:
        """The two-loop recursion (algorithm 7.4), its first guess given by the preconditioner."""
        result = gradients.clone()
        pairs = list(zip(self._steps, self._changes, self._inverses, strict=True))
        if len(active) < len(self._points):
            pairs = [(s[active], y[active], inverse[active]) for s, y, inverse in pairs]
        alphas = []
        scale = torch.ones(len(active), dtype=result.dtype, device=result.device)
        for s, y, inverse in reversed(pairs):
            alphas.append(inverse * torch.linalg.vecdot(s, result))
            result.addcmul_(alphas[-1][:, None], y, value=-1)
        if pairs:
            _, y, inverse = pairs[-1]
            guess = torch.linalg.vecdot(y, self._precondition(active, y))
            scale = torch.where(inverse > 0, 1 / (inverse * guess).clamp_min(1e-300), scale)
        result = scale[:, None] * self._precondition(active, result)
        for (s, y, inverse), alpha in zip(pairs, reversed(alphas), strict=True):
            result.addcmul_((alpha - inverse * torch.linalg.vecdot(y, result))[:, None], s)
        return result

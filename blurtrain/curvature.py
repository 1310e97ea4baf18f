"""The curvature of softmax regression at a point, by blocks of classes, so that its solver converges in few steps.

With probabilities p the Hessian's block of class c is the weighted mean over the rows of p_c (1 - p_c) z z', with l2 on
its diagonal; what couples two classes is left out (Böhning 1992 gives the whole matrix). Most rows are soon classified
with certainty and bend nothing, so each block is made of a share of the rows that do.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from blurtrain.rows import Rows

BLOCKS = 1 << 24  # numbers in all blocks: 128 MiB; classes share a block where there would be more
ROWS = 10  # times the width, of a block: more determine it hardly better
INFORMATIVE = 0.01  # of the mean weight: rows of less bend nothing
JITTER = 1e-6  # of the largest curvature: what sums in float32 may be wrong by
AT_ONCE = 1 << 20  # numbers of some rows

Points = Float64[Tensor, "problems size"]


class Curvature:
    """Blocks of the Hessian without penalty, one for each group of classes.

    Args:
        rows: Features.
        mask: Which rows the problem is fitted on.
        weights: Of the rows in the loss, 1 on average over those.
        mean: Of the standardisation.
        scale: Of the standardisation; infinite for a feature that is ignored.
        point: Weights on standardised features, the bias in the last column.
    """

    def __init__(
        self,
        rows: Rows,
        mask: Bool[Tensor, " rows"],
        weights: Float64[Tensor, " rows"],
        mean: Float64[Tensor, " features"],
        scale: Float64[Tensor, " features"],
        point: Float64[Tensor, "classes size"],
    ) -> None:
        classes, self._size = point.shape
        blocks = 1 if classes == 2 else max(1, BLOCKS // self._size**2)  # two classes have the same curvature
        self._groups = torch.arange(classes).tensor_split(min(classes, blocks))
        self._blocks = torch.zeros(len(self._groups), self._size, self._size, dtype=torch.float64, device=point.device)
        count = int(mask.sum())
        for some in rows.blocks(self._size + classes, AT_ONCE):
            standard = (rows.block(some)[mask[some]] - mean) / scale
            if not len(standard):
                continue
            inputs = torch.cat([standard, torch.ones_like(standard[:, :1])], 1)
            probabilities = (inputs @ point.T).softmax(1)
            bends = probabilities * (1 - probabilities) * weights[some][mask[some], None]
            share = ROWS * self._size * len(inputs) / count
            for block, group in zip(self._blocks, self._groups, strict=True):
                block += _weighted_square(inputs, bends[:, group].mean(1), share)
        self._blocks /= count

    def inverse(self, l2: float) -> Callable[[Points], Points]:
        """What multiplies gradients by the inverse of the blocks with a penalty.

        Over the classes a gradient sums to zero, and so does what is returned: the loss does not change along what
        all classes have in common, and blocks alone do not know that.
        """
        inverses = []
        for block in self._blocks:
            diagonal = torch.full((self._size,), l2 + JITTER * float(block.diagonal().max()), device=block.device)
            diagonal[-1] -= l2  # the bias has no penalty
            factor = torch.linalg.cholesky(block + torch.diag(diagonal.double() + math.ulp(1.0)))
            inverses.append(torch.cholesky_inverse(factor))

        def apply(points: Points) -> Points:
            by_class = points.view(len(points), -1, self._size)
            by_class = by_class - by_class.mean(1, keepdim=True)
            parts = [by_class[:, group] @ inverse for group, inverse in zip(self._groups, inverses, strict=True)]
            result = torch.cat(parts, 1)
            return (result - result.mean(1, keepdim=True)).flatten(1)

        return apply


def _weighted_square(
    inputs: Float64[Tensor, "rows size"], weights: Float64[Tensor, " rows"], share: float
) -> Float64[Tensor, "size size"]:
    """Sum of w x x', estimated by about so many of the rows whose weight counts."""
    chosen = torch.nonzero(weights > INFORMATIVE * weights.mean())[:, 0]
    chosen = chosen[:: max(1, math.ceil(len(chosen) / share))]
    taken = weights[chosen]
    scaled = (inputs[chosen] * (taken * weights.sum() / taken.sum().clamp_min(1e-300)).sqrt()[:, None]).float()
    return (scaled.T @ scaled).double()

# SPDX-License-Identifier: Apache-2.0
"""The grid of a quantized weight: its integer codes, and the steps that make weights of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dtypes import CODE_RANGES
from .errors import ExportError


@dataclass(frozen=True)
class Grid:
    """A quantized weight: each element is its code times the step of its row and group of columns.

    Attributes:
        dtype: "i8" or "i4".
        codes: (rows, columns) int8.
        steps: (rows, groups) float32, finite and not negative; `groups` divides `columns`.
    """

    dtype: str
    codes: NDArray[np.int8]
    steps: NDArray[np.float32]

    def steps_at(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Give the change of weight that one code makes at flat indices."""
        column_count = self.codes.shape[1]
        rows, columns = np.divmod(indices, column_count)
        groups = columns // (column_count // self.steps.shape[1])
        steps: NDArray[np.float64] = self.steps[rows, groups].astype(np.float64)
        return steps

    def weights_at(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Give the base's weights at flat indices, exactly."""
        return self.codes.reshape(-1)[indices] * self.steps_at(indices)

    def nearest(
        self, weights: NDArray[np.float64], indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Round weights to codes, to nearest with ties to even.

        Where the step is zero every code means the same weight, and the base's code stays.

        Args:
            weights: (n,) finite.
            indices: (n,) their flat indices.

        Returns:
            (n,) codes, and whether the code nearest to the weight lies out of the type's range.
        """
        steps, base = self.steps_at(indices), self.codes.reshape(-1)[indices]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            levels = np.where(steps > 0, np.rint(weights / steps), base)
        lowest, highest = CODE_RANGES[self.dtype]
        is_clipped = (levels < lowest) | (levels > highest)
        return np.clip(levels, lowest, highest).astype(np.int8), is_clipped


def make_grid(
    where: str,
    dtype: str,
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    zero_points: NDArray[np.generic] | None,
) -> Grid:
    """Check what a program holds of a quantized weight.

    Args:
        where: file and tensor, for messages.
        dtype: "i8" or "i4".
        codes: (rows, columns) int8.
        scales: (rows,) or (rows, groups) float32.
        zero_points: as many as scales; None for none.

    Raises:
        ExportError: the grid is not symmetric around zero, or its scales make no sense.
    """
    if zero_points is not None and np.any(zero_points):
        raise ExportError(
            f"{where}: its codes have zero points; adapters are for grids that are symmetric, where"
            " code 0 is weight 0"
        )
    steps = np.asarray(scales, np.float32).reshape(codes.shape[0], -1)
    if codes.shape[1] % steps.shape[1]:
        raise ExportError(
            f"{where}: {steps.shape[1]} scales a row do not divide {codes.shape[1]} columns"
        )
    bad = np.flatnonzero(~(np.isfinite(steps) & (steps >= 0)).all(axis=1))
    if bad.size:
        raise ExportError(f"{where}: row {bad[0]} has a scale that is negative or not finite")
    return Grid(dtype, codes, steps)

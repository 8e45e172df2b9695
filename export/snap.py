# SPDX-License-Identifier: Apache-2.0
"""Snaps trained weights to the grid of a quantized base, and says what that did to them.

The trained weight at an entry becomes the nearest code; the base's scales stay. An entry whose code
is the base's then changes nothing and vanishes: it is dropped where that makes the file smaller,
which it does not in masks of blocks or of a rule, as their positions cost next to nothing. What a
grid cannot hold is lost: `SnapReport` tells how much of the trained change remains as an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .derive import NO_RULE
from .encode_index import all_codings, choose
from .image import VALUE_BITS, ValueCodec

if TYPE_CHECKING:
    from .compute import ComputedTensor


@dataclass(frozen=True)
class Snap:
    """How the entries of one tensor, in their order, met the grid.

    Attributes:
        steps: (nnz,) the change of weight that one code makes.
        is_clipped: (nnz,) the code nearest to the trained weight is out of the type's range.
        source_count: weights that training changed, among them such as are no entries: those of a
            dense checkpoint whose code stays, and those that a smaller density left out.
        left_out_squared: sum of squares of the trained changes that are no entries.
    """

    steps: NDArray[np.float64]
    is_clipped: NDArray[np.bool_]
    source_count: int
    left_out_squared: float = 0.0

    def select(self, chosen: NDArray[np.bool_]) -> Snap:
        """Keep some of the entries."""
        return replace(self, steps=self.steps[chosen], is_clipped=self.is_clipped[chosen])


@dataclass(frozen=True)
class SnapReport:
    """What became of one tensor's trained weights on the grid of the base.

    Attributes:
        name: in the program.
        dtype: "i8" or "i4".
        source_count: weights that training changed.
        entry_count: those among them that were chosen to be entries, before any vanished.
        changed_count: entries whose code differs from the base's.
        clipped_count: entries whose trained weight is out of the grid's range.
        vanished_count: entries whose code is the base's.
        relative_error: norm of (change on the grid - trained change) by that of the trained change,
            over all weights that training changed.
        change_norm: norm of the trained change.
    """

    name: str
    dtype: str
    source_count: int
    entry_count: int
    changed_count: int
    clipped_count: int
    vanished_count: int
    relative_error: float
    change_norm: float


def made_changes(tensor: ComputedTensor) -> NDArray[np.float64]:
    """Give the changes of weights that the entries make: (nnz,), of deltas the deltas."""
    if tensor.snap is None:
        return tensor.deltas.astype(np.float64)
    assert tensor.targets is not None
    assert tensor.before is not None
    changes: NDArray[np.float64] = tensor.targets.astype(np.float64) - tensor.before
    return changes * tensor.snap.steps


def changes_code(tensor: ComputedTensor) -> NDArray[np.bool_]:
    """Tell which entries of a tensor of integer codes change them."""
    assert tensor.targets is not None
    assert tensor.before is not None
    changed: NDArray[np.bool_] = np.not_equal(tensor.targets, tensor.before)
    return changed


def finish_snapping(
    tensors: Sequence[ComputedTensor], keep_masks: bool
) -> tuple[list[ComputedTensor], list[SnapReport]]:
    """Report on the tensors with integer codes, and drop entries of theirs that change no code.

    Args:
        tensors: of the adapter; those without codes pass through.
        keep_masks: drop no entry, as the masks must stay as they are. Otherwise entries go where
            the tensor then takes fewer bytes, and tensors that change no code at all.
    """
    kept, reports = [], []
    for tensor in tensors:
        if tensor.snap is None:
            kept.append(tensor)
            continue
        reports.append(_report(tensor, tensor.snap))
        if not keep_masks:
            smaller = replace(tensor.select(changes_code(tensor)), derivation=NO_RULE)
            if smaller.indices.size == 0 or _stored_bytes(smaller) <= _stored_bytes(tensor):
                tensor = tensor if smaller.indices.size == tensor.indices.size else smaller
        if tensor.indices.size:
            kept.append(tensor)
    return kept, sorted(reports, key=lambda report: report.name.encode())


def snap_summary(reports: Sequence[SnapReport], grid_aware: bool) -> dict[str, Any]:
    """Sum up reports for the metadata: totals, and a short list for each tensor."""

    def short(value: float) -> float:
        return float(f"{value:.4g}")

    return {
        "grid_aware": grid_aware,
        "relative_error": short(total_error(reports)),
        "columns": ["source", "entries", "changed", "clipped", "vanished", "relative_error"],
        "tensors": {
            r.name: [
                r.source_count,
                r.entry_count,
                r.changed_count,
                r.clipped_count,
                r.vanished_count,
                short(r.relative_error),
            ]
            for r in reports
        },
    }


def total_error(reports: Sequence[SnapReport]) -> float:
    """Give the relative error of all tensors together."""
    norm = math.hypot(*(report.change_norm for report in reports))
    error = math.hypot(*(report.relative_error * report.change_norm for report in reports))
    return error / norm if norm else 0.0


def _report(tensor: ComputedTensor, snap: Snap) -> SnapReport:
    trained = tensor.deltas.astype(np.float64)
    squared_error = float(np.square(made_changes(tensor) - trained).sum()) + snap.left_out_squared
    squared_norm = float(np.square(trained).sum()) + snap.left_out_squared
    changed_count = int(changes_code(tensor).sum())
    return SnapReport(
        name=tensor.name,
        dtype=tensor.dtype,
        source_count=snap.source_count,
        entry_count=tensor.indices.size,
        changed_count=changed_count,
        clipped_count=int(snap.is_clipped.sum()),
        vanished_count=tensor.indices.size - changed_count,
        relative_error=math.sqrt(squared_error / squared_norm) if squared_norm else 0.0,
        change_norm=math.sqrt(squared_norm),
    )


def _stored_bytes(tensor: ComputedTensor) -> float:
    """Give what positions and codes take in a file."""
    index_bytes = [choose(all_codings(tensor.indices).values()).size_bytes]
    index_bytes += [len(rule.stream) for rule in tensor.derivation.rules]
    return min(index_bytes) + tensor.indices.size * VALUE_BITS[ValueCodec[tensor.dtype.upper()]] / 8

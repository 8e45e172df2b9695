# SPDX-License-Identifier: Apache-2.0
"""Choose which entries of a dense source an adapter keeps: --density and --grid-aware."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .compute import ComputedTensor
from .derive import NO_RULE
from .snap import made_changes


def check_density(density: float | None, grid_aware: bool) -> None:
    """Refuse a share that is none, and a choice without one.

    Raises:
        ValueError: the options make no sense.
    """
    if density is not None and not 0 < density <= 1:
        raise ValueError(f"density is {density}, expected a share above 0 and up to 1")
    if grid_aware and density is None:
        raise ValueError("a grid-aware choice needs a density, the share of weights to choose")


def choose_entries(
    tensors: Sequence[ComputedTensor], density: float, grid_aware: bool
) -> list[ComputedTensor]:
    """Keep the most useful entries of the whole adapter.

    Usefulness is compared across all tensors. Plainly, it is the square of the trained change.
    Aware of the grid, it is what the entry takes off the squared error of the weights against the
    trained ones: `d^2 - (d - c)^2` for the trained change `d` and the change `c` that is left of it
    on the grid. As the squared error is a sum over entries, no other choice of as many entries has
    a smaller one. Entries that take nothing off are not chosen. Ties go to the tensor that comes
    first, and in it to the lower index.

    Args:
        tensors: with all entries of the source.
        density: entries to keep, as a share of all elements of these tensors; at least one.
        grid_aware: choose by what is left on the grid.

    Returns:
        The tensors that keep an entry.
    """
    budget = max(1, int(density * sum(math.prod(tensor.shape) for tensor in tensors)))
    trained = [np.square(tensor.deltas, dtype=np.float64) for tensor in tensors]
    uses = [
        squared - np.square(made_changes(tensor) - tensor.deltas) if grid_aware else squared
        for tensor, squared in zip(tensors, trained, strict=True)
    ]
    all_uses = np.concatenate(uses)
    order = np.argsort(-all_uses, kind="stable")[:budget]
    is_chosen = np.zeros(all_uses.size, np.bool_)
    is_chosen[order[all_uses[order] > 0] if grid_aware else order] = True
    ends = np.cumsum([use.size for use in uses])
    return [
        _keep(tensor, chosen, float(squared[~chosen].sum()))
        for tensor, chosen, squared in zip(
            tensors, np.split(is_chosen, ends[:-1]), trained, strict=True
        )
        if chosen.any() or tensor.snap is not None
    ]


def _keep(
    tensor: ComputedTensor, chosen: NDArray[np.bool_], left_out_squared: float
) -> ComputedTensor:
    if chosen.all():
        return tensor
    kept = replace(tensor.select(chosen), derivation=NO_RULE)
    if kept.snap is not None:
        left_out = kept.snap.left_out_squared + left_out_squared
        kept = replace(kept, snap=replace(kept.snap, left_out_squared=left_out))
    return kept

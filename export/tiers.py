# SPDX-License-Identifier: Apache-2.0
"""Importance tiers: which entries come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .base import xxh3_128
from .compute import ComputedTensor
from .encode_index import common_block_length, find_runs
from .errors import ExportError

_MAXIMUM_TIERS = 8


@dataclass(frozen=True)
class TierPart:
    """The entries of one tensor in one tier, and the fingerprint of these and all before them."""

    tier: int
    tensor: ComputedTensor
    fingerprint: bytes | None


def parse_shares(text: str) -> tuple[float, ...]:
    """Read shares such as "0.25,0.5,1"; see `check_shares`.

    Raises:
        ValueError: the text is something else.
    """
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    check_shares(shares)
    return shares


def check_shares(shares: Sequence[float]) -> None:
    """Refuse what are not shares of the entries of each tier and all before it.

    Raises:
        ValueError: they do not ascend from above 0 to 1, or are too many.
    """
    ascends = all(a < b for a, b in zip((0.0, *shares), shares, strict=False))
    if not shares or not ascends or shares[-1] != 1 or len(shares) > _MAXIMUM_TIERS:
        raise ValueError(
            f"tiers are up to {_MAXIMUM_TIERS} ascending shares of the entries, the last of them 1,"
            " such as 0.25,0.5,1"
        )


def split_into_tiers(tensors: Sequence[ComputedTensor], shares: Sequence[float]) -> list[TierPart]:
    """Put the largest changes of the whole adapter into the first tier, and so on.

    Importance is the delta's magnitude, compared across all tensors: so the first tiers are the
    closest to the whole adapter that so many entries can be. Masks of aligned blocks are split
    between blocks, by the blocks' mean squares, so that positions stay cheap and cache lines whole.

    Args:
        tensors: of the adapter.
        shares: of the entries, for each tier and all before it; ascending, the last 1.

    Raises:
        ExportError: a tier would have no entries.
    """
    if len(shares) == 1:
        return [TierPart(0, tensor, tensor.fingerprint()) for tensor in tensors]
    lengths = [common_block_length(*find_runs(tensor.indices)) for tensor in tensors]
    importances = [
        np.square(tensor.deltas, dtype=np.float64).reshape(-1, length).mean(axis=1)
        for tensor, length in zip(tensors, lengths, strict=True)
    ]
    unit_entries = np.concatenate(
        [np.full(units.size, n) for units, n in zip(importances, lengths, strict=True)]
    )
    order = np.argsort(-np.concatenate(importances), kind="stable")
    entries_before = np.cumsum(unit_entries[order]) - unit_entries[order]
    limits = np.array(shares[:-1]) * unit_entries.sum()
    tier_of_unit = np.empty(order.size, np.int64)
    tier_of_unit[order] = np.searchsorted(limits, entries_before, side="right")
    counts = np.bincount(tier_of_unit, minlength=len(shares))
    if not counts.all():
        raise ExportError(
            f"tier {int(np.argmin(counts))} of {len(shares)} would have no entries: the adapter has"
            f" {int(unit_entries.sum())}, in units of up to {max(lengths)}"
        )
    ends = np.cumsum([units.size for units in importances])
    parts = []
    for tensor, length, tier_of in zip(
        tensors, lengths, np.split(tier_of_unit, ends[:-1]), strict=True
    ):
        parts += _parts(tensor, np.repeat(tier_of, length))
    return parts


def _parts(tensor: ComputedTensor, tier_of: NDArray[np.int64]) -> list[TierPart]:
    parts = []
    for tier in np.unique(tier_of):
        fingerprint = None
        if tensor.before is not None:
            fingerprint = xxh3_128(tensor.before[tier_of <= tier])
        parts.append(TierPart(int(tier), tensor.select(tier_of == tier), fingerprint))
    return parts

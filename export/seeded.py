# SPDX-License-Identifier: Apache-2.0
"""Masks that a seed gives again: the stratified rule of docs/FORMAT.md section 9, and its seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def strata(block_count: int, unit_count: int) -> NDArray[np.uint64]:
    """Give where each unit's stratum begins, and the end of the last: (unit_count + 1,)."""
    numbers = np.arange(unit_count + 1, dtype=np.uint64)
    return numbers * np.uint64(block_count) // np.uint64(unit_count)


def stratified_blocks(seed: int, block_count: int, unit_count: int) -> NDArray[np.int64]:
    """Draw one block from each of `unit_count` strata of about equal size.

    Args:
        seed: unsigned, 64 bits.
        block_count: below 2^32.
        unit_count: 1 to block_count.

    Returns:
        (unit_count,) block numbers, strictly increasing.
    """
    starts = strata(block_count, unit_count)
    z = np.arange(1, unit_count + 1, dtype=np.uint64) * _STEP + np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * _FACTORS[0]
    z = (z ^ (z >> np.uint64(27))) * _FACTORS[1]
    z ^= z >> np.uint64(31)
    within = ((z >> np.uint64(32)) * np.diff(starts)) >> np.uint64(32)
    return (starts[:-1] + within).astype(np.int64)


def weight_seed(random_seed: int, dtype: str, shape: Sequence[int], weight: NDArray[Any]) -> int:
    """Derive a seed from an adapter's own number and the weight that the mask is for.

    Args:
        random_seed: the adapter's number.
        dtype: of the weight as PyTorch calls it, such as "torch.float32".
        shape: of the weight.
        weight: its values, contiguous; only the bytes count.

    Returns:
        An unsigned 63-bit seed.
    """
    digest = hashlib.blake2b(f"{random_seed} {dtype} {tuple(shape)}".encode())
    digest.update(weight.view(np.uint8).data)
    return int.from_bytes(digest.digest()[:8], "little") >> 1

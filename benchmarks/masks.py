# SPDX-License-Identifier: Apache-2.0
"""Masks of the benchmarks: which entries of a matrix an adapter touches, from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from shira_runtime.export.encode_index import find_runs

Kind = Literal["random", "rows", "pages", "blocks"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LINE_BYTES = 64
PAGE_BYTES = 4096
_BLOCK_LENGTH = 16


@dataclass(frozen=True)
class Mask:
    """Touched entries of a row-major matrix.

    Attributes:
        indices: (nnz,) int64 flat indices, strictly increasing.
    """

    indices: NDArray[np.int64]

    @cached_property
    def index32(self) -> NDArray[np.uint32]:
        """(nnz,) uint32 flat indices."""
        return self.indices.astype(np.uint32)

    @cached_property
    def runs(self) -> NDArray[np.uint32]:
        """(runs, 2) uint32 starts and lengths of maximal consecutive runs."""
        return np.stack(find_runs(self.indices), axis=1).astype(np.uint32)

    def lines(self, element_bytes: int) -> NDArray[np.uint32]:
        """(lines,) uint32: the first touched entry of each cache line touched."""
        return self._first_of_each(LINE_BYTES // element_bytes)

    def page_count(self, element_bytes: int, page_bytes: int = PAGE_BYTES) -> int:
        """How many pages are touched, if the matrix starts at the start of one."""
        return int(self._first_of_each(page_bytes // element_bytes).size)

    def _first_of_each(self, entries: int) -> NDArray[np.uint32]:
        units = self.indices // entries
        is_first: NDArray[np.bool_] = np.diff(units, prepend=-1) != 0
        first: NDArray[np.uint32] = self.indices[is_first].astype(np.uint32)
        return first

    def __or__(self, other: Mask) -> Mask:
        """The entries of either."""
        return Mask(np.union1d(self.indices, other.indices))


def make_mask(
    kind: Kind, shape: tuple[int, int], density: float, element_bytes: int, seed: int
) -> Mask:
    """Draw a mask; the same arguments give the same one.

    Args:
        kind: "random" entries, independent of each other; random whole "rows"; random whole
            "pages" of 4 KiB; random aligned "blocks" of 1 x 16.
        shape: (rows, columns).
        density: wanted share of entries; at least one unit is drawn.
        element_bytes: of an entry, which says how many entries a page has.
        seed: of the draw.
    """
    generator = np.random.default_rng([seed, *shape, KINDS.index(kind)])
    rows, columns = shape
    if kind == "rows":
        return _units(generator, rows, columns, density)
    if kind == "pages":
        length = min(PAGE_BYTES // element_bytes, rows * columns)
        return _units(generator, rows * columns // length, length, density)
    length = 1 if kind == "random" else _BLOCK_LENGTH
    count = rows * columns // length
    # Gaps of independent draws are geometric: far fewer numbers than one for each entry.
    expected = density * count
    gaps = generator.geometric(density, int(expected + 6 * expected**0.5) + 8)
    units = np.cumsum(gaps) - 1
    units = units[units < count]
    if units.size == 0:
        units = generator.integers(count, size=1)
    return Mask(_entries(units, length))


def _units(generator: np.random.Generator, count: int, length: int, density: float) -> Mask:
    chosen = generator.choice(count, max(1, round(density * count)), replace=False)
    return Mask(_entries(np.sort(chosen), length))


def _entries(units: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return (units[:, np.newaxis] * length + np.arange(length)).reshape(-1)

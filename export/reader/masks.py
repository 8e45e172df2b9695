# SPDX-License-Identifier: Apache-2.0
"""Where an adapter's entries lie: decoded blocks and runs, and the three derived rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Mask(ABC):
    """The positions of one row of an index table.

    Attributes:
        codec: "GAPS8", "GAPS16", "RICE", "RUNS", "STRUCT", "RANDOM" or "TOPK".
        element_count: of the tensor.
        nnz: number of positions.
        unit_count: coded units.
        block_length: entries per unit, 0 for RUNS, STRUCT and TOPK.
        rice_bits: low bits of RICE, 0 for all others.
        size_bytes: of the coded stream.
    """

    codec: str
    element_count: int
    nnz: int
    unit_count: int
    block_length: int
    rice_bits: int
    size_bytes: int

    def positions(self, base: NDArray[Any] | None = None) -> NDArray[np.uint32]:
        """Give the (nnz,) flat indices, strictly ascending.

        Args:
            base: the base tensor, any shape, as numbers or as bit patterns; only TOPK looks at it.

        Raises:
            ValueError: the base is needed and missing, or has another number of elements.
        """
        if base is not None and base.size != self.element_count:
            raise ValueError(f"a base of {base.size} elements, expected {self.element_count}")
        return self._positions(base)

    @abstractmethod
    def _positions(self, base: NDArray[Any] | None) -> NDArray[np.uint32]: ...


@dataclass(frozen=True)
class BlockMask(Mask):
    """GAPS8, GAPS16 and RICE: ascending numbers of blocks of equal length."""

    blocks: NDArray[np.uint32] = field(repr=False)  # (unit_count,)

    def _positions(self, base: NDArray[Any] | None) -> NDArray[np.uint32]:
        return expand_blocks(self.blocks, self.block_length)


@dataclass(frozen=True)
class RunMask(Mask):
    """RUNS: ascending runs of consecutive positions that do not touch."""

    starts: NDArray[np.uint32] = field(repr=False)  # (unit_count,)
    lengths: NDArray[np.int64] = field(repr=False)  # (unit_count,), their sum is nnz

    def _positions(self, base: NDArray[Any] | None) -> NDArray[np.uint32]:
        before = np.cumsum(self.lengths) - self.lengths
        shift = np.repeat(self.starts.astype(np.int64) - before, self.lengths)
        shift += np.arange(self.nnz, dtype=np.int64)
        return shift.astype(np.uint32)


@dataclass(frozen=True)
class StructMask(Mask):
    """STRUCT: whole rows, whole columns and the diagonal of a matrix."""

    parts: int
    columns: int
    period: int
    phase: int

    @property
    def _rows(self) -> int:
        return self.element_count // self.columns

    def count(self) -> int:
        """Count the positions without listing them."""
        rows, columns = self._rows, self.columns
        diagonal = min(rows, columns)
        row_hits = self._hits(rows) if self.parts & 1 else 0
        column_hits = self._hits(columns) if self.parts & 2 else 0
        total = row_hits * columns + column_hits * rows - row_hits * column_hits
        if self.parts & 4:
            total += diagonal - (self._hits(diagonal) if self.parts & 3 else 0)
        return total

    def _hits(self, limit: int) -> int:
        """Count the numbers below the limit that are `phase` modulo `period`."""
        return (limit - self.phase + self.period - 1) // self.period if limit > self.phase else 0

    def _positions(self, base: NDArray[Any] | None) -> NDArray[np.uint32]:
        rows, columns = self._rows, self.columns
        found = [np.empty(0, np.int64)]
        if self.parts & 1 and self.phase < rows:
            hits = np.arange(self.phase, rows, self.period, dtype=np.int64)
            found.append((hits[:, None] * columns + np.arange(columns)).reshape(-1))
        if self.parts & 2 and self.phase < columns:
            hits = np.arange(self.phase, columns, self.period, dtype=np.int64)
            found.append((np.arange(rows, dtype=np.int64)[:, None] * columns + hits).reshape(-1))
        if self.parts & 4:
            found.append(np.arange(min(rows, columns), dtype=np.int64) * (columns + 1))
        return np.unique(np.concatenate(found)).astype(np.uint32)


@dataclass(frozen=True)
class RandomMask(Mask):
    """RANDOM: one block at a pseudorandom place in each of unit_count strata."""

    seed: int

    def _positions(self, base: NDArray[Any] | None) -> NDArray[np.uint32]:
        block_count = np.uint64(self.element_count // self.block_length)
        bounds = np.arange(self.unit_count + 1, dtype=np.uint64) * block_count
        bounds //= np.uint64(self.unit_count)
        steps = np.arange(1, self.unit_count + 1, dtype=np.uint64)
        mixed = np.array([self.seed], np.uint64) + steps * _GOLDEN  # modulo 2^64, as arrays do
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
        mixed ^= mixed >> np.uint64(31)
        inside = ((mixed >> np.uint64(32)) * (bounds[1:] - bounds[:-1])) >> np.uint64(32)
        return expand_blocks((bounds[:-1] + inside).astype(np.uint32), self.block_length)


@dataclass(frozen=True)
class TopMask(Mask):
    """TOPK: the positions of the largest magnitudes of the base."""

    def _positions(self, base: NDArray[Any] | None) -> NDArray[np.uint32]:
        if base is None:
            raise ValueError("the positions are those of the largest base values: give the base")
        width = 8 * base.dtype.itemsize
        patterns = np.ascontiguousarray(base).reshape(-1).view(f"<u{base.dtype.itemsize}")
        magnitudes = patterns & patterns.dtype.type((1 << (width - 1)) - 1)
        # A stable sort of the complements puts the largest first and keeps equals in order.
        order = np.argsort(~magnitudes, kind="stable")
        return np.sort(order[: self.nnz]).astype(np.uint32)


def expand_blocks(blocks: NDArray[np.uint32], block_length: int) -> NDArray[np.uint32]:
    """Turn (n,) block numbers into the (n x block_length,) positions they cover."""
    if block_length == 1:
        return blocks
    starts = blocks * np.uint32(block_length)
    inside: NDArray[np.uint32] = np.arange(block_length, dtype=np.uint32)
    positions: NDArray[np.uint32] = np.add.outer(starts, inside).reshape(-1)
    return positions

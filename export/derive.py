# SPDX-License-Identifier: Apache-2.0
"""Find the rule behind a mask, if it has one that a file can hold instead of positions.

A rule is taken only if it was shown to give exactly the positions of the trained mask.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dtypes import bits, short_name
from .encode_index import common_block_length, find_runs
from .image import DERIVED_CODECS, IndexCodec, IndexStream
from .seeded import strata, stratified_blocks, weight_seed
from .shapes import Shape

_TORCH_NAMES = {"f32": "torch.float32", "f16": "torch.float16", "bf16": "torch.bfloat16"}
_ROWS, _COLUMNS, _DIAGONAL = 1, 2, 4


@dataclass(frozen=True)
class Derivation:
    """The rules that give a mask, and for each other kind of rule why there is none."""

    rules: tuple[IndexStream, ...] = ()
    refusals: dict[IndexCodec, str] = field(default_factory=dict)


#: Of a mask that lost some of its entries: whatever rule it had, it has no more.
NO_RULE = Derivation(refusals=dict.fromkeys(DERIVED_CODECS, "some of its entries were left out"))


@dataclass(frozen=True)
class SeedSource:
    """Where seeds of a random mask may come from.

    Attributes:
        random_seed: the adapter's own number, or None if nobody knows one.
        read_weights: gives the base tensor in the types that it may have had in training, for seeds
            that depend on it.
    """

    random_seed: int | None = None
    read_weights: Callable[[], Iterable[NDArray[Any]]] = tuple

    def seeds(self, shape: Shape) -> Iterable[int]:
        """Give the seeds to try: the number itself, then those of the layer."""
        if self.random_seed is None:
            return
        if 0 <= self.random_seed < 1 << 64:
            yield self.random_seed
        tried = set()
        for weight in self.read_weights():
            dtype = _TORCH_NAMES.get(short_name(weight.dtype), f"torch.{weight.dtype}")
            if dtype not in tried:
                tried.add(dtype)
                flat = np.ascontiguousarray(weight).reshape(-1)
                yield weight_seed(self.random_seed, dtype, shape, flat)


def derive(
    indices: NDArray[np.int64],
    shape: Shape,
    base_values: NDArray[Any] | None,
    seed_source: SeedSource,
) -> Derivation:
    """Look for rules that give exactly these positions.

    Args:
        indices: (nnz,) strictly increasing flat indices.
        shape: of the tensor.
        base_values: (element_count,) the base as deployed, codes as int8; None if it is not known.
        seed_source: for random masks.
    """
    found = {
        IndexCodec.STRUCT: struct_rule(indices, shape),
        IndexCodec.RANDOM: random_rule(indices, shape, seed_source),
        IndexCodec.TOPK: topk_rule(indices, base_values),
    }
    return Derivation(
        rules=tuple(rule for rule in found.values() if isinstance(rule, IndexStream)),
        refusals={codec: why for codec, why in found.items() if isinstance(why, str)},
    )


def struct_rule(indices: NDArray[np.int64], shape: Shape) -> IndexStream | str:
    """Recognise rows, columns and the diagonal of a matrix (SHiRA-Struct)."""
    element_count = math.prod(shape)
    for columns in dict.fromkeys((shape[-1], element_count // shape[0])):
        row, column = np.divmod(indices, columns)
        lines = (element_count // columns, columns)
        full = [
            np.flatnonzero(np.bincount(at, minlength=1) == other)
            for at, other in ((row, lines[1]), (column, lines[0]))
        ]
        for (period, phase), parts in product(_periods(full, lines), range(1, 8)):
            if parts == _DIAGONAL:
                period, phase = 1, 0
            if indices.size == _struct_count(parts, period, phase, lines) and bool(
                (
                    (bool(parts & _ROWS) & (row % period == phase))
                    | (bool(parts & _COLUMNS) & (column % period == phase))
                    | (bool(parts & _DIAGONAL) & (row == column))
                ).all()
            ):
                stream = struct.pack("<B3xIII", parts, columns, period, phase)
                return _rule(IndexCodec.STRUCT, element_count, indices.size, stream)
    return "it is not made of regular rows, columns and the diagonal"


def random_rule(
    indices: NDArray[np.int64], shape: Shape, seed_source: SeedSource
) -> IndexStream | str:
    """Find the seed with which the stratified rule gives the mask."""
    element_count = math.prod(shape)
    longest = common_block_length(*find_runs(indices))
    lengths = [n for n in range(longest, 0, -1) if longest % n == 0]
    fitting = [n for n in lengths if _is_stratified(indices[::n] // n, element_count // n)]
    if not fitting:
        return "it does not have one block in each stratum"
    seeds = list(seed_source.seeds(shape))
    if not seeds:
        return "no seed is known"
    for length, seed in product(fitting, seeds):
        blocks = indices[::length] // length
        if np.array_equal(stratified_blocks(seed, element_count // length, blocks.size), blocks):
            stream = struct.pack("<Q", seed)
            return _rule(IndexCodec.RANDOM, element_count, indices.size, stream, length)
    return f"the seed {seed_source.random_seed} gives another mask"


def topk_rule(indices: NDArray[np.int64], base_values: NDArray[Any] | None) -> IndexStream | str:
    """Tell whether the mask is that of the largest base values, ties by ascending index."""
    if base_values is None:
        return "the base is not known"
    if base_values.dtype == np.int8:
        return "the base holds integer codes"
    magnitudes = _magnitudes(base_values)
    chosen = magnitudes[indices]
    smallest = chosen.min()
    tied = indices[chosen == smallest]
    is_topk = (
        np.count_nonzero(magnitudes > smallest) == indices.size - tied.size
        and np.count_nonzero(magnitudes[: tied[-1] + 1] == smallest) == tied.size
    )
    if is_topk:
        return _rule(IndexCodec.TOPK, base_values.size, indices.size, b"")
    return "it is not that of the largest base values as deployed"


def topk_positions(base_values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Give the positions of the `count` largest base values as TOPK defines them."""
    magnitudes = _magnitudes(base_values)
    smallest = np.partition(magnitudes, magnitudes.size - count)[magnitudes.size - count]
    larger = np.flatnonzero(magnitudes > smallest)
    tied = np.flatnonzero(magnitudes == smallest)[: count - larger.size]
    return np.sort(np.concatenate((larger, tied)))


def _rule(
    codec: IndexCodec, element_count: int, nnz: int, stream: bytes, block_length: int = 0
) -> IndexStream:
    unit_count = nnz // block_length if block_length else 1
    return IndexStream(codec, 0, block_length, unit_count, element_count, nnz, stream)


def _magnitudes(values: NDArray[Any]) -> NDArray[Any]:
    """The bits without the sign, which order as the magnitudes do."""
    unsigned = bits(values)
    magnitudes: NDArray[Any] = unsigned & ((1 << (8 * unsigned.itemsize - 1)) - 1)
    return magnitudes


def _is_stratified(blocks: NDArray[np.int64], block_count: int) -> bool:
    starts = strata(block_count, blocks.size).astype(np.int64)
    return bool(((blocks >= starts[:-1]) & (blocks < starts[1:])).all())


def _periods(full: Sequence[NDArray[np.int64]], lines: tuple[int, int]) -> list[tuple[int, int]]:
    """List the (period, phase) that full rows or full columns suggest."""
    candidates = [(1, 0)]
    single_periods = []
    for at, line_count in zip(full, lines, strict=True):
        if at.size > 1:
            candidates.append((int(at[1] - at[0]), int(at[0])))
        elif at.size == 1:
            # Any period that reaches no second line; rows and columns have it in common.
            single_periods.append((max(int(at[0]) + 1, line_count - int(at[0])), int(at[0])))
    if single_periods:
        longest = max(period for period, _ in single_periods)
        candidates += [(longest, phase) for _, phase in single_periods]
    return list(dict.fromkeys((period, phase) for period, phase in candidates if phase < period))


def _struct_count(parts: int, period: int, phase: int, lines: tuple[int, int]) -> int:
    """Count the elements of a mask of rows, columns and the diagonal."""
    row_count, column_count = lines
    rows = len(range(phase, row_count, period)) if parts & _ROWS else 0
    columns = len(range(phase, column_count, period)) if parts & _COLUMNS else 0
    total = rows * column_count + columns * row_count - rows * columns
    if parts & _DIAGONAL:
        diagonal = min(lines)
        # Where rows or columns are in the mask, they hold the diagonal's elements of their phase.
        is_covered = parts & (_ROWS | _COLUMNS)
        total += diagonal - (len(range(phase, diagonal, period)) if is_covered else 0)
    return total

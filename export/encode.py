# SPDX-License-Identifier: Apache-2.0
"""Index codecs of docs/FORMAT.md section 10: sorted flat indices to bytes, vectorised in numpy."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAXIMUM_BLOCK_LENGTH = 65_535
_LEB128_LIMITS = [1 << bits for bits in (7, 14, 21, 28)]


class IndexCodec(enum.IntEnum):
    """Numbers of the index codecs in a .shb file."""

    GAPS8 = 1
    GAPS16 = 2
    RUNS = 3
    BLOCKS8 = 4
    BLOCKS16 = 5


#: What `encode_indices` accepts as a choice.
INDEX_CHOICES = ("auto", *(codec.name.lower() for codec in IndexCodec))

# Of codings of equal size the one that is written in the longest pieces.
_PREFERENCE = (
    IndexCodec.BLOCKS8,
    IndexCodec.BLOCKS16,
    IndexCodec.RUNS,
    IndexCodec.GAPS8,
    IndexCodec.GAPS16,
)


@dataclass(frozen=True)
class IndexStream:
    """The coded indices of one tensor.

    `sizes_bytes` holds the length in bytes of every coding that was possible, the chosen one among
    them; `block_length` is 0 unless the codec is one of the BLOCKS.
    """

    codec: IndexCodec
    block_length: int
    unit_count: int
    stream: bytes
    sizes_bytes: dict[IndexCodec, int]


def encode_indices(indices: NDArray[np.int64], choice: str = "auto") -> IndexStream:
    """Code flat indices with one codec, or with the one that gives the fewest bytes.

    Args:
        indices: (nnz,) int64, strictly increasing, at least one, none negative.
        choice: "auto", or the name of a codec in lower case.

    Raises:
        ValueError: the codec cannot describe these indices (blocks that are not aligned runs).
    """
    starts, lengths = find_runs(indices)
    block_length = common_block_length(starts, lengths)
    entry_gaps = _gaps(indices)
    codings: dict[IndexCodec, tuple[int, int, Callable[[], bytes]]] = {
        IndexCodec.GAPS8: _digit_coding(entry_gaps, 8),
        IndexCodec.GAPS16: _digit_coding(entry_gaps, 16),
        IndexCodec.RUNS: _run_coding(starts, lengths),
    }
    if block_length > 1:
        # All runs are whole blocks, so each block starts at every block_length-th entry.
        block_gaps = _gaps(indices[::block_length] // block_length)
        codings[IndexCodec.BLOCKS8] = _digit_coding(block_gaps, 8)
        codings[IndexCodec.BLOCKS16] = _digit_coding(block_gaps, 16)
    sizes = {codec: coding[1] for codec, coding in codings.items()}
    if choice == "auto":
        codec = min((c for c in _PREFERENCE if c in codings), key=sizes.__getitem__)
    else:
        codec = IndexCodec[choice.upper()]
        if codec not in codings:
            raise ValueError(
                f"the index codec {choice} needs aligned runs of one length, at least 2"
            )
    unit_count, _, encode = codings[codec]
    is_blocks = codec in (IndexCodec.BLOCKS8, IndexCodec.BLOCKS16)
    return IndexStream(codec, block_length if is_blocks else 0, unit_count, encode(), sizes)


def find_runs(indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split strictly increasing indices into maximal consecutive runs: (starts, lengths)."""
    first = np.concatenate(([0], np.flatnonzero(np.diff(indices) != 1) + 1))
    lengths = np.diff(first, append=indices.size)
    return indices[first], lengths


def common_block_length(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> int:
    """Give the longest block whose multiples all runs start at and consist of, or 1.

    Any shorter block that fits divides the longest one and needs more units with larger gaps, so
    it never codes smaller.
    """
    if lengths.min() == 1:
        return 1
    common = int(np.gcd(np.gcd.reduce(lengths), np.gcd.reduce(starts)))
    if common <= _MAXIMUM_BLOCK_LENGTH:
        return common
    return next(n for n in range(_MAXIMUM_BLOCK_LENGTH, 0, -1) if common % n == 0)


def _gaps(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    gaps = np.diff(positions, prepend=-1)
    gaps -= 1
    return gaps


def _digit_coding(gaps: NDArray[np.int64], width: int) -> tuple[int, int, Callable[[], bytes]]:
    """Number of units, size in bytes and encoder of gaps in digits of `width` bits."""
    base = (1 << width) - 1
    if int(gaps.max()) < base:
        return gaps.size, gaps.size * width // 8, gaps.astype(f"<u{width // 8}").tobytes
    full_digits = gaps // base
    size_bytes = (gaps.size + int(full_digits.sum())) * width // 8
    return gaps.size, size_bytes, partial(_encode_digits, gaps, full_digits, width)


def _encode_digits(gaps: NDArray[np.int64], full_digits: NDArray[np.int64], width: int) -> bytes:
    base = (1 << width) - 1
    last_digit_at = np.cumsum(full_digits + 1) - 1
    digits = np.full(int(last_digit_at[-1]) + 1, base, dtype=f"<u{width // 8}")
    digits[last_digit_at] = gaps - full_digits * base
    return digits.tobytes()


def _run_coding(
    starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[int, int, Callable[[], bytes]]:
    """Number of runs, size in bytes and encoder of (gap, length - 1) pairs in LEB128."""
    numbers = np.empty(2 * starts.size, dtype=np.int64)
    ends = starts + lengths
    numbers[0] = starts[0]
    numbers[2::2] = starts[1:] - ends[:-1]
    numbers[1::2] = lengths - 1
    byte_counts = np.ones(numbers.size, dtype=np.int64)
    for limit in _LEB128_LIMITS:
        byte_counts += numbers >= limit
    return starts.size, int(byte_counts.sum()), partial(_encode_leb128, numbers, byte_counts)


def _encode_leb128(numbers: NDArray[np.int64], byte_counts: NDArray[np.int64]) -> bytes:
    ends = np.cumsum(byte_counts)
    stream = np.empty(int(ends[-1]), dtype=np.uint8)
    first_byte_at = ends - byte_counts
    for k in range(int(byte_counts.max())):
        reaches: Any = slice(None) if k == 0 else byte_counts > k
        more_follow = (byte_counts[reaches] > k + 1).astype(np.uint8) << 7
        low_bits = (numbers[reaches] >> (7 * k) & 0x7F).astype(np.uint8)
        stream[first_byte_at[reaches] + k] = low_bits | more_follow
    return stream.tobytes()

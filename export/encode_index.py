# SPDX-License-Identifier: Apache-2.0
"""Explicit index codecs (docs/FORMAT.md section 9): positions to bytes, vectorised in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .image import IndexCodec, IndexStream

_MAXIMUM_BLOCK_LENGTH = 1 << 24
_MAXIMUM_RICE_BITS = 31
_LEB128_LIMITS = [1 << bits for bits in (7, 14, 21, 28)]

#: What `--index` accepts.
INDEX_CHOICES = ("auto", *(codec.name.lower() for codec in IndexCodec))

# Of codings of equal size the one that is decoded fastest.
_PREFERENCE = (
    IndexCodec.STRUCT,
    IndexCodec.RUNS,
    IndexCodec.GAPS8,
    IndexCodec.GAPS16,
    IndexCodec.RICE,
    IndexCodec.RANDOM,
    IndexCodec.TOPK,
)


@dataclass(frozen=True)
class Coding:
    """One way to code a tensor's positions, not done yet: its row without the stream.

    Attributes:
        size_bytes: of the stream.
        encode: makes the stream.
    """

    codec: IndexCodec
    rice_bits: int
    block_length: int
    unit_count: int
    size_bytes: int
    encode: Callable[[], bytes]


def all_codings(indices: NDArray[np.int64]) -> dict[IndexCodec, Coding]:
    """List the explicit codings of positions, each in its smallest form.

    Args:
        indices: (nnz,) int64, strictly increasing, at least one, none negative.
    """
    starts, lengths = find_runs(indices)
    block_length = common_block_length(starts, lengths)
    blocks = indices if block_length == 1 else indices[::block_length] // block_length
    gaps = _gaps(blocks)
    codings = (
        _digit_coding(gaps, IndexCodec.GAPS8, block_length),
        _digit_coding(gaps, IndexCodec.GAPS16, block_length),
        rice_coding(gaps, best_rice_bits(gaps), block_length),
        _run_coding(starts, lengths),
    )
    return {coding.codec: coding for coding in codings}


def coding_like(indices: NDArray[np.int64], index: IndexStream) -> Coding | None:
    """Code positions with the explicit codec, block length and rice_bits of another stream.

    Returns:
        None if the positions are no aligned blocks of that length.
    """
    starts, lengths = find_runs(indices)
    if index.codec == IndexCodec.RUNS:
        return _run_coding(starts, lengths)
    length = index.block_length
    if (starts % length).any() or (lengths % length).any():
        return None
    gaps = _gaps(indices[::length] // length)
    if index.codec == IndexCodec.RICE:
        return rice_coding(gaps, index.rice_bits, length)
    return _digit_coding(gaps, index.codec, length)


def choose(codings: Iterable[Coding]) -> Coding:
    """Give the smallest coding, and of equals the one that is decoded fastest."""
    return min(codings, key=lambda c: (c.size_bytes, _PREFERENCE.index(c.codec)))


def encode(coding: Coding, element_count: int, nnz: int) -> IndexStream:
    """Make the stream of a coding for `nnz` positions in a tensor of so many elements."""
    return IndexStream(
        codec=coding.codec,
        rice_bits=coding.rice_bits,
        block_length=coding.block_length,
        unit_count=coding.unit_count,
        element_count=element_count,
        nnz=nnz,
        stream=coding.encode(),
    )


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


def best_rice_bits(gaps: NDArray[np.int64]) -> int:
    """Give the number of low bits that makes the shortest Rice stream, found by trying all."""
    high_parts = gaps.copy()
    sizes = []
    for rice_bits in range(_MAXIMUM_RICE_BITS + 1):
        high_bits = int(high_parts.sum()) + gaps.size
        sizes.append(_rice_bytes(gaps.size, rice_bits, high_bits))
        if high_bits == gaps.size:
            break
        high_parts >>= 1
    return sizes.index(min(sizes))


def rice_coding(gaps: NDArray[np.int64], rice_bits: int, block_length: int) -> Coding:
    """Describe the Rice coding of gaps with so many low bits."""
    high_parts = gaps >> rice_bits
    high_bits = int(high_parts.sum()) + gaps.size

    def encode_stream() -> bytes:
        ones = np.zeros(high_bits, dtype=np.bool_)
        ones[np.cumsum(high_parts + 1) - 1] = True
        return pack_codes(gaps, rice_bits) + np.packbits(ones, bitorder="little").tobytes()

    size_bytes = _rice_bytes(gaps.size, rice_bits, high_bits)
    return Coding(IndexCodec.RICE, rice_bits, block_length, gaps.size, size_bytes, encode_stream)


def pack_codes(codes: NDArray[np.int64], bit_count: int) -> bytes:
    """Write the `bit_count` lowest bits of each number, least significant first."""
    bits = np.empty((codes.size, bit_count), dtype=np.uint8)
    for bit in range(bit_count):
        bits[:, bit] = codes >> bit & 1
    return np.packbits(bits, bitorder="little").tobytes()


def _rice_bytes(unit_count: int, rice_bits: int, high_bits: int) -> int:
    return (unit_count * rice_bits + 7) // 8 + (high_bits + 7) // 8


def _gaps(units: NDArray[np.int64]) -> NDArray[np.int64]:
    gaps = np.diff(units, prepend=-1)
    gaps -= 1
    return gaps


def _digit_coding(gaps: NDArray[np.int64], codec: IndexCodec, block_length: int) -> Coding:
    """Describe the coding of gaps in digits of 8 or 16 bits."""
    width = 1 if codec == IndexCodec.GAPS8 else 2
    base = (1 << 8 * width) - 1
    full_digits = gaps // base

    def encode_stream() -> bytes:
        last_digit_at = np.cumsum(full_digits + 1) - 1
        digits = np.full(int(last_digit_at[-1]) + 1, base, dtype=f"<u{width}")
        digits[last_digit_at] = gaps - full_digits * base
        return digits.tobytes()

    size_bytes = (gaps.size + int(full_digits.sum())) * width
    return Coding(codec, 0, block_length, gaps.size, size_bytes, encode_stream)


def _run_coding(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Coding:
    """Describe the coding of runs as (gap, length - 1) pairs in LEB128."""
    numbers = np.empty(2 * starts.size, dtype=np.int64)
    numbers[0] = starts[0]
    numbers[2::2] = starts[1:] - (starts + lengths)[:-1]
    numbers[1::2] = lengths - 1
    byte_counts = np.ones(numbers.size, dtype=np.int64)
    for limit in _LEB128_LIMITS:
        byte_counts += numbers >= limit

    def encode_stream() -> bytes:
        return _encode_leb128(numbers, byte_counts)

    size_bytes = int(byte_counts.sum())
    return Coding(IndexCodec.RUNS, 0, 0, starts.size, size_bytes, encode_stream)


def _encode_leb128(numbers: NDArray[np.int64], byte_counts: NDArray[np.int64]) -> bytes:
    ends = np.cumsum(byte_counts)
    stream = np.empty(int(ends[-1]), dtype=np.uint8)
    first_byte_at = ends - byte_counts
    for k in range(int(byte_counts.max())):
        reaches = byte_counts > k
        more_follow = (byte_counts[reaches] > k + 1).astype(np.uint8) << 7
        low_bits = (numbers[reaches] >> (7 * k) & 0x7F).astype(np.uint8)
        stream[first_byte_at[reaches] + k] = low_bits | more_follow
    return stream.tobytes()

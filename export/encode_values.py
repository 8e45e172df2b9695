# SPDX-License-Identifier: Apache-2.0
"""Value codecs of docs/FORMAT.md section 10: values or deltas to bytes, and what is read back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dtypes import CODE_RANGES, short_name
from .encode_index import pack_codes
from .image import VALUE_BITS, ValueCodec

#: Entries per scale unless something else is asked for.
DEFAULT_GROUP = 128

_LARGEST_EXPONENT = 64
_LARGEST_HALF = 65504.0

_HIGHEST = {ValueCodec.Q8: 127, ValueCodec.Q4: 7, ValueCodec.Q2: 3, ValueCodec.Q1: 1}

# Shares of the largest magnitude that a first scale reaches to: cutting off the tails of a group
# pays with 4 bits, not with 8.
_REACHES = {ValueCodec.Q8: (1.0,), ValueCodec.Q4: (1.0, 0.9, 0.8, 0.7)}

# How often levels and scale are fitted to each other in turn.
_REFINEMENTS = {ValueCodec.Q8: 1, ValueCodec.Q4: 2, ValueCodec.Q2: 3, ValueCodec.Q1: 0}


@dataclass(frozen=True)
class CodedValues:
    """The values of one tensor as a file holds them.

    Attributes:
        codec: of the stream.
        value_group: entries per scale; 0 without scales.
        scale_exponent: power of two that all scales are multiplied by; 0 without scales.
        stream: the bytes.
        decoded: (nnz,) what a reader gets: the values themselves, float32 for scaled codecs.
    """

    codec: ValueCodec
    value_group: int
    scale_exponent: int
    stream: bytes
    decoded: NDArray[Any]


def encode_plain(values: NDArray[Any]) -> CodedValues:
    """Keep values as they are.

    Args:
        values: (nnz,) float32, float16 or bfloat16.
    """
    codec = ValueCodec[short_name(values.dtype).upper()]
    return CodedValues(codec, 0, 0, values.tobytes(), values)


def encode_integer_codes(codes: NDArray[np.int8], dtype: str) -> CodedValues:
    """Keep the codes of a quantized base.

    Args:
        codes: (nnz,) int8; -8 to 7 for "i4".
        dtype: "i8" or "i4".

    Raises:
        ValueError: a code does not fit.
    """
    lowest, highest = CODE_RANGES[dtype]
    if codes.size and not lowest <= int(codes.min()) <= int(codes.max()) <= highest:
        raise ValueError(f"codes from {codes.min()} to {codes.max()} do not fit {dtype}")
    codec = ValueCodec[dtype.upper()]
    return CodedValues(codec, 0, 0, pack_codes(codes.astype(np.int64), VALUE_BITS[codec]), codes)


def encode_scaled(deltas: NDArray[np.float32], codec: ValueCodec, group: int) -> CodedValues:
    """Round deltas to levels of one scale per group, choosing scales of small squared error.

    Args:
        deltas: (nnz,) float32, finite.
        codec: Q8, Q4, Q2 or Q1.
        group: entries per scale, a multiple of 8 and at least 64.
    """
    padded = np.zeros(-(-deltas.size // group) * group)
    padded[: deltas.size] = deltas
    groups = padded.reshape(-1, group)
    is_entry = (np.arange(padded.size) < deltas.size).reshape(-1, group)
    exponent = _scale_exponent(float(np.abs(padded).max()), codec)
    best_error = np.full(len(groups), np.inf)
    best_scales = np.zeros(len(groups), np.float16)
    for start in _first_scales(groups, is_entry, codec):
        scales = _half(start, exponent)
        for _ in range(_REFINEMENTS[codec]):
            levels = _levels(groups, scales, exponent, codec) * is_entry
            scales = _half(_fitted(groups, levels), exponent)
        levels = _levels(groups, scales, exponent, codec) * is_entry
        error = ((levels * _widened(scales, exponent) - groups) ** 2).sum(axis=1)
        is_better = error < best_error
        best_error = np.where(is_better, error, best_error)
        best_scales = np.where(is_better, scales, best_scales)
    levels = _levels(groups, best_scales, exponent, codec)
    decoded = (levels * _widened(best_scales, exponent)).reshape(-1)[: deltas.size]
    codes = levels.reshape(-1)[: deltas.size].astype(np.int64)
    if codec in (ValueCodec.Q2, ValueCodec.Q1):
        codes = (codes + _HIGHEST[codec]) // 2
    stream = best_scales.tobytes() + pack_codes(codes, VALUE_BITS[codec])
    return CodedValues(codec, group, exponent, stream, decoded.astype(np.float32))


def _first_scales(
    groups: NDArray[np.float64], is_entry: NDArray[np.bool_], codec: ValueCodec
) -> Iterator[NDArray[np.float64]]:
    """Give scales to start from."""
    counts = is_entry.sum(axis=1)
    if codec == ValueCodec.Q1:
        # The mean magnitude is the best there is.
        yield np.abs(groups).sum(axis=1) / counts
    elif codec == ValueCodec.Q2:
        deviation = np.sqrt((groups**2).sum(axis=1) / counts)
        yield deviation / 2
    else:
        largest = np.abs(groups).max(axis=1)
        for share in _REACHES[codec]:
            yield share * largest / _HIGHEST[codec]


def _scale_exponent(largest: float, codec: ValueCodec) -> int:
    """Choose the power of two that puts the largest scale near the top of float16's range."""
    if largest == 0:
        return 0
    exponent = math.frexp(largest / (1 if _HIGHEST[codec] < 7 else _HIGHEST[codec]))[1] - 14
    return max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, exponent))


def _half(scales: NDArray[np.float64], exponent: int) -> NDArray[np.float16]:
    return np.minimum(np.ldexp(scales, -exponent), _LARGEST_HALF).astype(np.float16)


def _widened(scales: NDArray[np.float16], exponent: int) -> NDArray[np.float64]:
    widened: NDArray[np.float64] = np.ldexp(scales.astype(np.float64), exponent)
    return widened[:, None]


def _fitted(groups: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the scale of least squared error for the levels as they are."""
    squares = (levels**2).sum(axis=1)
    fitted: NDArray[np.float64] = (levels * groups).sum(axis=1) / np.maximum(squares, 1)
    return np.maximum(fitted, 0)


def _levels(
    groups: NDArray[np.float64], scales: NDArray[np.float16], exponent: int, codec: ValueCodec
) -> NDArray[np.float64]:
    """Give the nearest level of each value."""
    widened = _widened(scales, exponent)
    steps = np.divide(groups, widened, out=np.zeros_like(groups), where=widened > 0)
    highest = _HIGHEST[codec]
    levels: NDArray[np.float64]
    if codec in (ValueCodec.Q2, ValueCodec.Q1):
        levels = np.clip(2 * np.floor(steps / 2) + 1, -highest, highest)
    else:
        levels = np.clip(np.rint(steps), -highest - 1, highest)
    # Adding zero turns -0.0, which no file can say, into 0.0.
    return levels + 0.0

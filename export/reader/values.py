# SPDX-License-Identifier: Apache-2.0
"""The value streams: sizes of FORMAT.md 10 and the checks of step 9 of FORMAT.md 13."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import ReaderError

F32, F16, BF16, I8, I4, Q8, Q4, Q2, Q1 = range(1, 10)
SCALED_CODECS = (Q8, Q4, Q2, Q1)
_CODE_BITS = {F32: 32, F16: 16, BF16: 16, I8: 8, I4: 4, Q8: 8, Q4: 4, Q2: 2, Q1: 1}
_EXPONENT_MASK = {F32: 0x7F800000, F16: 0x7C00, BF16: 0x7F80}


def stream_bytes(codec: int, nnz: int, value_group: int) -> int:
    """Give the size of a stream of nnz entries; value_group counts for scaled codecs only."""
    codes = (nnz * _CODE_BITS[codec] + 7) // 8
    return codes + 2 * _scale_count(codec, nnz, value_group)


def _scale_count(codec: int, nnz: int, value_group: int) -> int:
    return -(-nnz // value_group) if codec in SCALED_CODECS else 0


def decode_values(
    codec: int, nnz: int, value_group: int, scale_exponent: int, stream: bytes, offset_bytes: int
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
    """Decode and check one stream of exactly the right size.

    Returns:
        (nnz,) bits as in `TierPart.bits`, (nnz,) float32 values, and the float32 scales.

    Raises:
        ReaderError: BAD_VALUE or RESERVED_NOT_ZERO, at its byte of the file.
    """
    if codec in _EXPONENT_MASK:
        return _decode_floats(codec, stream, offset_bytes)
    scale_count = _scale_count(codec, nnz, value_group)
    scales = _decode_scales(stream, scale_count, offset_bytes)
    levels = _decode_levels(codec, nnz, stream[2 * scale_count :], offset_bytes + len(stream) - 1)
    if codec not in SCALED_CODECS:
        return levels, levels.astype(np.float32), scales
    per_entry = scales[np.arange(nnz, dtype=np.int64) // value_group]
    values = levels.astype(np.float32) * per_entry * np.float32(2.0**scale_exponent)
    return values.view("<u4"), values, scales


def _decode_floats(
    codec: int, stream: bytes, offset_bytes: int
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
    width = _CODE_BITS[codec] // 8
    bits = np.frombuffer(stream, f"<u{width}")
    exponent = bits.dtype.type(_EXPONENT_MASK[codec])
    _check_each(bits & exponent != exponent, width, offset_bytes, "a value")
    if codec == F32:
        values = bits.view("<f4").copy()
    elif codec == F16:
        values = bits.view("<f2").astype(np.float32)
    else:
        values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.copy(), values, np.empty(0, np.float32)


def _decode_scales(stream: bytes, scale_count: int, offset_bytes: int) -> NDArray[np.float32]:
    bits = np.frombuffer(stream, "<u2", scale_count)
    _check_each(bits < 0x7C00, 2, offset_bytes, "a scale")
    return bits.view("<f2").astype(np.float32)


def _check_each(good: NDArray[np.bool_], width: int, offset_bytes: int, what: str) -> None:
    if not good.all():
        place = offset_bytes + int(np.flatnonzero(~good)[0]) * width
        raise ReaderError("BAD_VALUE", place, f"{what} is not finite or has the wrong sign")


def _decode_levels(codec: int, nnz: int, codes: bytes, last_byte: int) -> NDArray[np.int8]:
    """Decode nnz integer levels; `last_byte` is the place of the last code byte in the file."""
    if codec in (I8, Q8):
        return np.frombuffer(codes, np.int8).copy()
    width = _CODE_BITS[codec]
    used_bits = nnz * width % 8
    if used_bits and codes[-1] >> used_bits:
        raise ReaderError("RESERVED_NOT_ZERO", last_byte, "unused bits of the values are not zero")
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    packed = np.frombuffer(codes, np.uint8)
    unsigned = ((packed[:, None] >> shifts) & ((1 << width) - 1)).reshape(-1)[:nnz]
    signed = unsigned.astype(np.int8)
    if codec in (I4, Q4):
        return np.where(signed > 7, signed - 16, signed).astype(np.int8)
    return (2 * signed - (3 if codec == Q2 else 1)).astype(np.int8)

# SPDX-License-Identifier: Apache-2.0
"""The coded streams of an INDEX section: step 8 of FORMAT.md 13.

Each decoder works on whole arrays. When a stream breaks a rule somewhere, a second pass walks it
unit by unit to find where, so that good files are read fast and bad ones are reported exactly.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .masks import BlockMask, Mask, RandomMask, RunMask, StructMask, TopMask
from .model import ReaderError

GAPS8, GAPS16, RICE, RUNS, STRUCT, RANDOM, TOPK = range(1, 8)
INDEX_CODECS = {
    GAPS8: "GAPS8",
    GAPS16: "GAPS16",
    RICE: "RICE",
    RUNS: "RUNS",
    STRUCT: "STRUCT",
    RANDOM: "RANDOM",
    TOPK: "TOPK",
}
BLOCK_CODECS = (GAPS8, GAPS16, RICE, RANDOM)
DERIVED_CODECS = (STRUCT, RANDOM, TOPK)

_Common = tuple[str, int, int, int, int, int, int]  # the fields that every Mask has


@dataclass(frozen=True)
class IndexRow:
    """One row of an index table; `offset` is the stream's place from the start of the section."""

    codec: int
    rice_bits: int
    block_length: int
    unit_count: int
    element_count: int
    nnz: int
    offset: int
    size: int

    @property
    def block_count(self) -> int:
        """Number of whole blocks in the tensor."""
        return self.element_count // self.block_length

    @property
    def low_bytes(self) -> int:
        """RICE: bytes of all low parts."""
        return (self.unit_count * self.rice_bits + 7) // 8


class _BadUnit(Exception):  # noqa: N818  # never leaves this module
    """A stream breaks a rule at this byte of it."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


def decode_index_stream(row: IndexRow, stream: bytes, offset_bytes: int) -> Mask:
    """Decode and check one stream.

    Args:
        row: its row of the index table, already checked against the stream's size.
        stream: exactly the stream's bytes.
        offset_bytes: where in the file it begins, for errors.

    Raises:
        ReaderError: BAD_INDEX.
    """
    common: _Common = (
        INDEX_CODECS[row.codec],
        row.element_count,
        row.nnz,
        row.unit_count,
        row.block_length,
        row.rice_bits,
        row.size,
    )
    try:
        if row.codec in (GAPS8, GAPS16):
            return BlockMask(*common, blocks=_decode_digits(row, stream))
        if row.codec == RICE:
            return BlockMask(*common, blocks=_decode_rice(row, stream))
        if row.codec == RUNS:
            starts, lengths = _decode_runs(row, stream)
            return RunMask(*common, starts=starts, lengths=lengths)
        if row.codec == STRUCT:
            return _decode_struct(common, stream)
        if row.codec == RANDOM:
            if row.unit_count > row.block_count:
                raise _BadUnit(0, f"{row.unit_count} of {row.block_count} blocks")
            return RandomMask(*common, seed=int.from_bytes(stream, "little"))
        return TopMask(*common)
    except _BadUnit as error:
        raise ReaderError("BAD_INDEX", offset_bytes + error.offset, str(error)) from None


def _decode_digits(row: IndexRow, stream: bytes) -> NDArray[np.uint32]:
    width = 1 if row.codec == GAPS8 else 2
    full = (1 << (8 * width)) - 1
    digits = np.frombuffer(stream, f"<u{width}", len(stream) // width)
    ends = np.flatnonzero(digits != full)
    if ends.size == row.unit_count and (int(ends[-1]) + 1) * width == len(stream):
        blocks: NDArray[np.uint64] = np.cumsum(digits, dtype=np.uint64)[ends]
        blocks += np.arange(row.unit_count, dtype=np.uint64)
        if int(blocks[-1]) < row.block_count:
            return blocks.astype(np.uint32)
    raise _find_bad_digits(row, digits.tolist(), width, full)


def _find_bad_digits(row: IndexRow, digits: list[int], width: int, full: int) -> _BadUnit:
    block = -1
    cursor = 0
    for unit in range(row.unit_count):
        begin = cursor
        block += 1
        while cursor < len(digits) and digits[cursor] == full:
            block += full
            cursor += 1
        if cursor == len(digits):
            return _BadUnit(begin * width, f"unit {unit} is cut short")
        block += digits[cursor]
        cursor += 1
        if block >= row.block_count:
            return _BadUnit(begin * width, f"unit {unit} leaves the tensor")
    return _BadUnit(cursor * width, "bytes behind the last unit")


def _decode_rice(row: IndexRow, stream: bytes) -> NDArray[np.uint32]:
    used_bits = row.unit_count * row.rice_bits % 8
    if used_bits and stream[row.low_bytes - 1] >> used_bits:
        raise _BadUnit(row.low_bytes - 1, "unused low bits are not zero")
    high = np.unpackbits(np.frombuffer(stream, np.uint8)[row.low_bytes :], bitorder="little")
    ones = np.flatnonzero(high)
    if ones.size == row.unit_count and int(ones[-1]) // 8 == high.size // 8 - 1:
        quotients = np.diff(ones, prepend=-1) - 1
        if int(quotients.max()) << row.rice_bits < row.element_count:  # so 64 bits are enough
            gaps = quotients.astype(np.uint64) << np.uint64(row.rice_bits)
            gaps += _low_parts(row, stream)
            blocks = np.cumsum(gaps) + np.arange(row.unit_count, dtype=np.uint64)
            if int(blocks[-1]) < row.block_count:
                return blocks.astype(np.uint32)
    raise _find_bad_rice(row, stream, ones.tolist(), high.size)


def _low_parts(row: IndexRow, stream: bytes) -> NDArray[np.uint64]:
    """Take the (unit_count,) low parts of rice_bits each, which may begin inside a byte."""
    padded = np.frombuffer(stream[: row.low_bytes] + bytes(8), np.uint8)
    first_bit = np.arange(row.unit_count, dtype=np.int64) * row.rice_bits
    window = np.zeros(row.unit_count, np.uint64)
    for byte in range(5):  # 7 bits of an earlier unit and at most 31 of this one
        window |= padded[first_bit // 8 + byte].astype(np.uint64) << np.uint64(8 * byte)
    window >>= (first_bit % 8).astype(np.uint64)
    return window & np.uint64((1 << row.rice_bits) - 1)


def _find_bad_rice(row: IndexRow, stream: bytes, ones: list[int], bit_count: int) -> _BadUnit:
    lows = _low_parts(row, stream).tolist()
    block = -1
    cursor = 0  # bit of the high parts
    for unit in range(row.unit_count):
        begin = row.low_bytes + cursor // 8
        if unit == len(ones):
            return _BadUnit(begin, f"unit {unit} is cut short")
        block += 1 + ((ones[unit] - cursor) << row.rice_bits) + lows[unit]
        if block >= row.block_count:
            return _BadUnit(begin, f"unit {unit} leaves the tensor")
        cursor = ones[unit] + 1
    last_byte_end = -(-cursor // 8) * 8
    if row.unit_count < len(ones) and ones[row.unit_count] < last_byte_end:
        return _BadUnit(row.low_bytes + cursor // 8, "bits behind the last unit")
    return _BadUnit(row.low_bytes + last_byte_end // 8, "bytes behind the last unit")


def _decode_runs(row: IndexRow, stream: bytes) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    numbers = _decode_leb128(stream, 2 * row.unit_count)
    if numbers is None:
        raise _find_bad_run(row, stream)
    gaps = numbers[0::2]
    lengths = numbers[1::2] + 1
    ends = np.cumsum(gaps + lengths)
    if (gaps[1:] == 0).any() or int(ends[-1]) > row.element_count:
        raise _find_bad_run(row, stream)
    if int(lengths.sum()) != row.nnz:
        raise _BadUnit(0, f"runs of {int(lengths.sum())} entries instead of {row.nnz}")
    return (ends - lengths).astype(np.uint32), lengths


def _decode_leb128(stream: bytes, count: int) -> NDArray[np.int64] | None:
    """Decode exactly `count` numbers below 2^32, or give None."""
    digits = np.frombuffer(stream, np.uint8)
    ends = np.flatnonzero(digits < 128)
    if ends.size != count or int(ends[-1]) != digits.size - 1:
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    widths = ends - starts + 1
    if int(widths.max()) > 5 or ((widths > 1) & (digits[ends] == 0)).any():
        return None
    padded = np.concatenate((digits, np.zeros(4, np.uint8)))
    numbers = np.zeros(count, np.int64)
    for digit in range(5):
        part = (padded[starts + digit] & 127).astype(np.int64) << (7 * digit)
        numbers += np.where(digit < widths, part, 0)
    return numbers if int(numbers.max()) < 1 << 32 else None


def _find_bad_run(row: IndexRow, stream: bytes) -> _BadUnit:
    end = 0
    cursor = 0
    for unit in range(row.unit_count):
        begin = cursor
        try:
            gap, cursor = _read_leb128(stream, cursor)
            length, cursor = _read_leb128(stream, cursor)
        except _BadUnit as error:
            return _BadUnit(begin, f"run {unit} {error}")
        if gap == 0 and unit > 0:
            return _BadUnit(begin, f"run {unit} touches the run before")
        end += gap + length + 1
        if end > row.element_count:
            return _BadUnit(begin, f"run {unit} leaves the tensor")
    return _BadUnit(cursor, "bytes behind the last run")


def _read_leb128(stream: bytes, cursor: int) -> tuple[int, int]:
    """Read one number; gives it and the place behind it."""
    number = 0
    for digit in range(5):
        if cursor + digit >= len(stream):
            raise _BadUnit(cursor, "is cut short")
        byte = stream[cursor + digit]
        number |= (byte & 127) << (7 * digit)
        if byte < 128:
            if digit > 0 and byte == 0:
                raise _BadUnit(cursor, "has a number that is not in its shortest form")
            if number >= 1 << 32:
                break
            return number, cursor + digit + 1
    raise _BadUnit(cursor, "has a number that is too large")


def _decode_struct(common: _Common, stream: bytes) -> StructMask:
    parts, reserved, columns, period, phase = struct.unpack("<B3sIII", stream)
    if any(reserved) or not 1 <= parts <= 7:
        raise _BadUnit(0, "STRUCT has parts or reserved bytes without a meaning")
    mask = StructMask(*common, parts=parts, columns=columns, period=period, phase=phase)
    if columns == 0 or mask.element_count % columns:
        raise _BadUnit(0, f"{columns} columns do not divide {mask.element_count} elements")
    if phase >= period or (parts == 4 and period != 1):
        raise _BadUnit(0, f"period {period} and phase {phase} do not fit")
    if mask.count() != mask.nnz:
        raise _BadUnit(0, f"the rule gives {mask.count()} entries instead of {mask.nnz}")
    return mask

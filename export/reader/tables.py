# SPDX-License-Identifier: Apache-2.0
"""Index tables and references, and their agreement with TENSORS: steps 6 and 7 of FORMAT.md 13."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import indices
from .container import INDEX_REFERENCE, Container, Section, align, check, check_zero
from .indices import IndexRow, decode_index_stream
from .masks import Mask
from .rows import DIMS_FIELD, DTYPE_FIELD, MAX_ELEMENTS, NNZ_FIELD, TensorRow
from .values import BF16, F16, F32

INDEX_ROW_BYTES = 48
_DERIVED_NAMES = {indices.INDEX_CODECS[codec] for codec in indices.DERIVED_CODECS}


@dataclass(frozen=True)
class IndexTable:
    """A tier's positions before their streams are decoded, or found in another file.

    Attributes:
        section: the tier's INDEX or INDEX_REFERENCE.
        rows: the rows of an INDEX.
        referenced: the masks of the other file's section.
    """

    section: Section
    rows: tuple[IndexRow, ...] = ()
    referenced: tuple[Mask, ...] = ()

    def shape_of(self, number: int) -> tuple[int, int, bool]:
        """Give nnz, element_count and whether the codec is TOPK of a row of the table."""
        if self.rows:
            row = self.rows[number]
            return row.nnz, row.element_count, row.codec == indices.TOPK
        mask = self.referenced[number]
        return mask.nnz, mask.element_count, mask.codec == "TOPK"


def read_index_tables(
    container: Container, tensors: Sequence[TensorRow], offered: Mapping[bytes, tuple[Mask, ...]]
) -> list[IndexTable]:
    """Make steps 6 and 7 of the order of checks.

    Args:
        container: the file.
        tensors: all rows of TENSORS.
        offered: SHA-256 -> masks of the INDEX sections of other files.
    """
    tables = []
    for tier in range(container.header.tier_count):
        section = container.index(tier)
        if section.kind == INDEX_REFERENCE:
            tables.append(_resolve(container, section, offered))
        else:
            tables.append(IndexTable(section, rows=_read_index(container, section)))
    for tensor in tensors:
        nnz, element_count, is_top = tables[tensor.tier].shape_of(tensor.index_number)
        own_count = 1
        for dim in tensor.shape:
            own_count *= dim
        check(
            tensor.nnz == nnz,
            "BAD_COUNT",
            tensor.row + NNZ_FIELD,
            f"{tensor.nnz} entries, but {nnz} positions",
        )
        check(
            own_count == element_count,
            "BAD_SHAPE",
            tensor.row + DIMS_FIELD,
            f"{own_count} elements, but positions for {element_count}",
        )
        check(
            not is_top or tensor.dtype in (F32, F16, BF16),
            "BAD_ENUM",
            tensor.row + DTYPE_FIELD,
            "TOPK needs a floating-point tensor",
        )
    return tables


def decode_index_table(container: Container, table: IndexTable) -> tuple[Mask, ...]:
    """Make step 8 of the order of checks for one tier."""
    if table.referenced:
        return table.referenced
    masks = []
    for row in table.rows:
        begin = table.section.offset + row.offset
        stream = container.data[begin : begin + row.size]
        masks.append(decode_index_stream(row, stream, begin))
    return tuple(masks)


def section_sha256(container: Container, section: Section) -> bytes:
    """Compute the SHA-256 by which another file refers to an INDEX section."""
    return hashlib.sha256(container.data[section.offset : section.end]).digest()


def _resolve(
    container: Container, section: Section, offered: Mapping[bytes, tuple[Mask, ...]]
) -> IndexTable:
    check(section.size == 32, "BAD_LAYOUT", section.size_field, "a reference is a SHA-256")
    masks = offered.get(container.data[section.offset : section.end])
    if masks is None:
        masks = ()
    check(bool(masks), "MISSING_INDEX", section.offset, "the positions are in another file")
    check(
        len(masks) == section.index_count,
        "BAD_COUNT",
        section.index_count_field,
        f"{section.index_count} index rows, but the section found has {len(masks)}",
    )
    check(
        container.header.tier_count == 1 or not any(mask.codec in _DERIVED_NAMES for mask in masks),
        "BAD_ENUM",
        section.offset,
        "a derived mask in a file of several tiers",
    )
    return IndexTable(section, referenced=masks)


def _read_index(container: Container, section: Section) -> tuple[IndexRow, ...]:
    table_bytes = INDEX_ROW_BYTES * section.index_count
    check(
        table_bytes <= section.size,
        "BAD_LAYOUT",
        section.size_field,
        f"{section.size} bytes for {section.index_count} index rows",
    )
    rows: list[IndexRow] = []
    end = table_bytes
    for number in range(section.index_count):
        place = section.offset + INDEX_ROW_BYTES * number
        rows.append(_read_index_row(container, section, place, end))
        end = rows[-1].offset + rows[-1].size
    check(
        end == section.size,
        "BAD_LAYOUT",
        section.offset + end,
        "bytes behind the last index stream",
    )
    return tuple(rows)


def _read_index_row(container: Container, section: Section, place: int, end: int) -> IndexRow:
    """Check the row at `place` of the file, whose stream follows `end` of the section."""
    data = container.data
    codec, rice_bits, _, block_length, units, _, elements, nnz, offset, size = struct.unpack_from(
        "<BBHIIIQQQQ", data, place
    )
    row = IndexRow(codec, rice_bits, block_length, units, elements, nnz, offset, size)
    check(
        codec in indices.INDEX_CODECS
        and (codec not in indices.DERIVED_CODECS or container.header.tier_count == 1),
        "BAD_ENUM",
        place,
        f"index codec {codec} in a file of {container.header.tier_count} tiers",
    )
    rice_fits = rice_bits <= 31 if codec == indices.RICE else rice_bits == 0
    check(rice_fits, "BAD_INDEX", place + 1, f"rice_bits {rice_bits}")
    check_zero(data, place + 2, place + 4, "a reserved field of the index table")
    has_blocks = codec in indices.BLOCK_CODECS
    block_fits = 1 <= block_length <= 1 << 24 if has_blocks else block_length == 0
    check(block_fits, "BAD_INDEX", place + 4, f"block_length {block_length}")
    check(units >= 1, "BAD_COUNT", place + 8, "no units")
    check_zero(data, place + 12, place + 16, "a reserved field of the index table")
    check(1 <= elements <= MAX_ELEMENTS, "BAD_SHAPE", place + 16, f"{elements} elements")
    check(
        1 <= nnz <= elements and _units_fit(row),
        "BAD_COUNT",
        place + 24,
        f"{nnz} entries in {units} units of a tensor of {elements} elements",
    )
    expected = align(end, 8)
    check(
        offset == expected,
        "BAD_LAYOUT",
        place + 32,
        f"a stream at {offset} instead of {expected}",
    )
    padding_end = min(section.offset + offset, section.end)
    check_zero(data, section.offset + end, padding_end, "padding between index streams")
    check(offset + size <= section.size, "BAD_LAYOUT", place + 40, "a stream leaves its section")
    check(_size_fits(row), "BAD_INDEX", place + 40, f"{size} bytes for {units} units")
    return row


def _units_fit(row: IndexRow) -> bool:
    if row.codec in indices.BLOCK_CODECS:
        return row.nnz == row.unit_count * row.block_length
    if row.codec == indices.RUNS:
        return row.nnz >= row.unit_count
    return row.unit_count == 1


def _size_fits(row: IndexRow) -> bool:
    exact = {indices.STRUCT: 16, indices.RANDOM: 8, indices.TOPK: 0}
    if row.codec in exact:
        return row.size == exact[row.codec]
    if row.codec == indices.RICE:
        return row.size >= row.low_bytes + (row.unit_count + 7) // 8
    return row.size >= row.unit_count * (1 if row.codec == indices.GAPS8 else 2)

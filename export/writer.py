# SPDX-License-Identifier: Apache-2.0
"""Lay out a .shb file (docs/FORMAT.md sections 3 to 9): the same image gives the same bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .dtypes import DTYPE_NUMBERS
from .errors import ExportError
from .image import (
    AdapterRows,
    FileImage,
    IndexReference,
    IndexTable,
    TensorRow,
    crc32c,
    sha256,
)

MAGIC = b"\x89SHB\r\n\x1a\n"
VERSION = (1, 0)

HEADER = struct.Struct("<8sHHIQQQIIIIII32sI28s32s64s28sI")
SECTION = struct.Struct("<IIQQII32s")
ADAPTER = struct.Struct("<8I32s")
TENSOR = struct.Struct("<IIBBBBBBbBIIQQQ16s8I16s16s")
INDEX = struct.Struct("<BBHIIIQQQQ")
RANK_LIMIT = 8

_ADAPTERS, _TENSORS, _NAMES, _METADATA, INDEX_KIND, VALUES_KIND, REFERENCE_KIND = range(1, 8)

_MAXIMUM_ADAPTERS = 1_024
_MAXIMUM_ROWS = 65_536
_MAXIMUM_TIERS = 8
_MAXIMUM_NAME_BYTES = 1_024


@dataclass(frozen=True)
class SectionSize:
    """How long a section of a file is."""

    kind: int
    tier: int
    size_bytes: int


@dataclass(frozen=True)
class WrittenFile:
    """The bytes of a .shb file, the SHA-256 that identifies them, and its sections."""

    content: bytes
    content_digest: bytes
    sections: tuple[SectionSize, ...]


def write_image(image: FileImage) -> WrittenFile:
    """Lay out a file.

    Raises:
        ExportError: a count or a name breaks a limit of the format.
    """
    row_count = sum(len(adapter.rows) for adapter in image.adapters)
    _check_count("adapters", len(image.adapters), _MAXIMUM_ADAPTERS)
    _check_count("rows of tensors", row_count, _MAXIMUM_ROWS)
    _check_count("tiers", len(image.index), _MAXIMUM_TIERS)
    names = _Names()
    adapter_rows = _adapter_rows(image.adapters, names)
    values = [Packed(alignment=8) for _ in image.index]
    tensor_rows = b"".join(
        _tensor_row(row, names, values[row.tier].add(row.values), adapter.bound)
        for adapter in image.adapters
        for row in adapter.rows
    )
    metadata = b"".join(adapter.metadata for adapter in image.adapters)
    sections = [
        _Section(_ADAPTERS, adapter_rows),
        _Section(_TENSORS, tensor_rows),
        _Section(_NAMES, names.content()),
        _Section(_METADATA, metadata),
    ]
    for tier, index in enumerate(image.index):
        sections.append(_index_section(index, tier))
        sections.append(_Section(VALUES_KIND, values[tier].content(), tier))
    return _assemble(sections, len(image.adapters), row_count, len(image.index))


def index_section(table: IndexTable) -> bytes:
    """Lay out an INDEX section: the rows of its table, then the streams."""
    _check_count("index streams in a tier", len(table.streams), _MAXIMUM_ROWS)
    body = Packed(alignment=8)
    body.add(bytes(INDEX.size * len(table.streams)))
    rows = b"".join(
        INDEX.pack(
            index.codec,
            index.rice_bits,
            0,
            index.block_length,
            index.unit_count,
            0,
            index.element_count,
            index.nnz,
            body.add(index.stream),
            len(index.stream),
        )
        for index in table.streams
    )
    return rows + body.content()[len(rows) :]


def encode_name(name: str) -> bytes:
    """Check a name and give its UTF-8.

    Raises:
        ExportError: it is empty, too long, no Unicode, or holds a control character.
    """
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        raise ExportError(f"name {name!r}: is not valid Unicode") from None
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        raise ExportError(f"name {name!r}: holds a control character")
    if not 1 <= len(encoded) <= _MAXIMUM_NAME_BYTES:
        raise ExportError(
            f"name {name[:40]!r}: has {len(encoded)} bytes, allowed are 1 to {_MAXIMUM_NAME_BYTES}"
        )
    return encoded


class Packed:
    """Byte strings one after the other, each starting at a multiple of the alignment."""

    def __init__(self, alignment: int) -> None:
        self._alignment = alignment
        self._parts: list[bytes] = []
        self._size_bytes = 0

    def add(self, part: bytes) -> int:
        """Append and return the offset at which the part starts."""
        padding = -self._size_bytes % self._alignment
        offset = self._size_bytes + padding
        self._parts += [bytes(padding), part]
        self._size_bytes = offset + len(part)
        return offset

    def content(self) -> bytes:
        """Give everything added so far."""
        return b"".join(self._parts)


class _Names(Packed):
    """The NAMES section: each spelling once, in the order in which rows need them."""

    def __init__(self) -> None:
        super().__init__(alignment=1)
        self._places: dict[bytes, int] = {}

    def place(self, name: str) -> tuple[int, int]:
        encoded = encode_name(name)
        if encoded not in self._places:
            self._places[encoded] = self.add(encoded)
        return self._places[encoded], len(encoded)


@dataclass(frozen=True)
class _Section:
    kind: int
    content: bytes
    tier: int = 0
    index_count: int = 0


def _index_section(index: IndexTable | IndexReference, tier: int) -> _Section:
    if isinstance(index, IndexReference):
        return _Section(REFERENCE_KIND, index.sha256, tier, index.index_count)
    return _Section(INDEX_KIND, index_section(index), tier, len(index.streams))


def _adapter_rows(adapters: tuple[AdapterRows, ...], names: _Names) -> bytes:
    rows = []
    first_tensor = metadata_offset = 0
    for adapter in adapters:
        place = names.place(adapter.name)
        counts = (first_tensor, len(adapter.rows), int(adapter.bound), 0)
        rows.append(ADAPTER.pack(*place, *counts, metadata_offset, len(adapter.metadata), b""))
        first_tensor += len(adapter.rows)
        metadata_offset += len(adapter.metadata)
    if len({adapter.name for adapter in adapters}) < len(adapters):
        raise ExportError("two adapters of the file have the same name")
    return b"".join(rows)


def _tensor_row(row: TensorRow, names: _Names, value_offset: int, bound: bool) -> bytes:
    return TENSOR.pack(
        *names.place(row.name),
        DTYPE_NUMBERS[row.dtype],
        len(row.shape),
        row.tier,
        row.value_codec,
        row.value_kind,
        int(bound),
        row.scale_exponent,
        0,
        row.index_number,
        row.value_group,
        row.nnz,
        value_offset,
        len(row.values),
        b"",
        *row.shape,
        *[0] * (RANK_LIMIT - len(row.shape)),
        row.fingerprint or b"",
        row.base_digest or b"",
    )


def _assemble(
    sections: list[_Section], adapter_count: int, row_count: int, tier_count: int
) -> WrittenFile:
    """Put the header and the section table before the sections."""
    table_end = HEADER.size + len(sections) * SECTION.size
    body = Packed(alignment=64)
    body.add(bytes(table_end))
    table = b"".join(
        SECTION.pack(
            section.kind,
            crc32c(section.content),
            body.add(section.content),
            len(section.content),
            section.tier,
            section.index_count,
            sha256(section.content),
        )
        for section in sections
    )
    content = body.content()

    def header(digest: bytes, checksum: int) -> bytes:
        return HEADER.pack(
            MAGIC,
            *VERSION,
            HEADER.size,
            len(content),
            0,
            0,
            len(sections),
            adapter_count,
            row_count,
            tier_count,
            crc32c(table),
            0,
            digest,
            *(0, b"", b"", b"", b""),  # unsigned
            checksum,
        )

    digest = sha256(header(b"", 0) + table)
    checksum = crc32c(header(digest, 0)[:-4])
    sizes = tuple(SectionSize(s.kind, s.tier, len(s.content)) for s in sections)
    return WrittenFile(header(digest, checksum) + table + content[table_end:], digest, sizes)


def _check_count(what: str, count: int, limit: int) -> None:
    if not 1 <= count <= limit:
        raise ExportError(f"{count} {what}; a file holds 1 to {limit}")

# SPDX-License-Identifier: Apache-2.0
"""Take a finished .shb file apart again, to cut it, to pack it, or to refer to its positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .dtypes import DTYPE_NUMBERS
from .errors import ExportError
from .image import (
    AdapterRows,
    FileImage,
    IndexCodec,
    IndexReference,
    IndexStream,
    IndexTable,
    TensorRow,
    ValueCodec,
    sha256,
)
from .reader import File, ReaderError, read
from .writer import ADAPTER, HEADER, INDEX, INDEX_KIND, SECTION, TENSOR, VALUES_KIND

_DTYPE_NAMES = {number: name for name, number in DTYPE_NUMBERS.items()}


@dataclass(frozen=True)
class Unpacked:
    """A checked file.

    Attributes:
        where: its path, for messages.
        file_bytes: its size.
        image: its parts.
        content_digest: its identity.
        is_signed: whether it carries a signature, which `image` does not.
        index_digests: SHA-256 of each tier's positions, here or in the file referred to.
    """

    where: str
    file_bytes: int
    image: FileImage
    content_digest: bytes
    is_signed: bool
    index_digests: tuple[bytes, ...]


def unpack_files(paths_or_contents: Sequence[str | Path | bytes]) -> list[Unpacked]:
    """Check files completely, and take them apart; they may take positions from one another.

    Raises:
        ExportError: one breaks a rule of the format, or its positions are in none of the files.
        OSError: a file cannot be read.
    """
    contents = [f if isinstance(f, bytes) else Path(f).read_bytes() for f in paths_or_contents]
    labels = [
        f"file {number}" if isinstance(file, bytes) else str(file)
        for number, file in enumerate(paths_or_contents, start=1)
    ]
    sources = []
    for content, label in zip(contents, labels, strict=True):
        try:
            sources.append(read(content))
        except ReaderError as error:
            if error.status != "MISSING_INDEX":
                raise ExportError(f"{label}: {error}") from None
    return [
        _unpack(content, label, sources) for content, label in zip(contents, labels, strict=True)
    ]


def _unpack(content: bytes, where: str, index_sources: Sequence[File]) -> Unpacked:
    try:
        read(content, index_sources=index_sources)
    except ReaderError as error:
        if error.status == "MISSING_INDEX":
            raise ExportError(
                f"{where}: takes its positions from another file, which is needed too"
            ) from None
        raise ExportError(f"{where}: {error}") from None
    # From here on every offset and number is known to be right.
    header = HEADER.unpack_from(content)
    (section_count, adapter_count, row_count, tier_count), digest = header[7:11], header[13]
    table = [
        SECTION.unpack_from(content, HEADER.size + SECTION.size * i) for i in range(section_count)
    ]
    sections = [content[row[2] : row[2] + row[3]] for row in table]
    index: list[IndexTable | IndexReference] = []
    values = []
    for row, section in zip(table, sections, strict=True):
        if row[0] == VALUES_KIND:
            values.append(section)
        elif row[0] == INDEX_KIND:
            index.append(_index_table(section, row[5]))
        elif 4 < row[0] < 1 << 15:
            index.append(IndexReference(section, row[5]))
    adapters, tensors, names, metadata = sections[:4]
    rows = [_tensor_row(tensors, i, names, values) for i in range(row_count)]
    image = FileImage(
        tuple(_adapter(adapters, i, names, metadata, rows) for i in range(adapter_count)),
        tuple(index),
    )
    assert len(index) == tier_count
    index_digests = tuple(
        section if row[0] != INDEX_KIND else sha256(section)
        for row, section in zip(table, sections, strict=True)
        if 4 < row[0] < 1 << 15 and row[0] != VALUES_KIND
    )
    return Unpacked(where, len(content), image, digest, header[14] != 0, index_digests)


def _adapter(
    adapters: bytes, number: int, names: bytes, metadata: bytes, rows: list[TensorRow]
) -> AdapterRows:
    row = ADAPTER.unpack_from(adapters, number * ADAPTER.size)
    name_offset, name_bytes, first, count, flags, _, metadata_offset, metadata_bytes, _ = row
    return AdapterRows(
        name=names[name_offset : name_offset + name_bytes].decode(),
        bound=bool(flags & 1),
        metadata=metadata[metadata_offset : metadata_offset + metadata_bytes],
        rows=tuple(rows[first : first + count]),
    )


def _tensor_row(tensors: bytes, number: int, names: bytes, values: list[bytes]) -> TensorRow:
    row = TENSOR.unpack_from(tensors, number * TENSOR.size)
    (name_offset, name_bytes, dtype, rank, tier, value_codec, value_kind, flags) = row[:8]
    (exponent, _, index_number, group, nnz, value_offset, value_bytes) = row[8:15]
    shape, (fingerprint, base_digest) = row[16 : 16 + rank], row[24:26]
    return TensorRow(
        name=names[name_offset : name_offset + name_bytes].decode(),
        dtype=_DTYPE_NAMES[dtype],
        shape=shape,
        tier=tier,
        value_codec=ValueCodec(value_codec),
        value_kind=value_kind,
        scale_exponent=exponent,
        index_number=index_number,
        value_group=group,
        nnz=nnz,
        values=values[tier][value_offset : value_offset + value_bytes],
        fingerprint=fingerprint if flags & 1 else None,
        base_digest=base_digest if flags & 1 else None,
    )


def _index_table(section: bytes, row_count: int) -> IndexTable:
    streams = []
    for number in range(row_count):
        codec, rice_bits, _, block_length, unit_count, _, element_count, nnz, offset, size = (
            INDEX.unpack_from(section, number * INDEX.size)
        )
        stream = section[offset : offset + size]
        streams.append(
            IndexStream(
                IndexCodec(codec), rice_bits, block_length, unit_count, element_count, nnz, stream
            )
        )
    return IndexTable(tuple(streams))

# SPDX-License-Identifier: Apache-2.0
"""Put several adapters of one base into one file; equal positions and names are stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .build import IndexTableBuilder
from .errors import ExportError
from .image import (
    DERIVED_CODECS,
    AdapterRows,
    FileImage,
    IndexReference,
    IndexStream,
    IndexTable,
    TensorRow,
)
from .unpack import Unpacked, unpack_files
from .writer import write_image


def pack_adapters(files: Sequence[str | Path | bytes]) -> bytes:
    """Make one .shb file of the adapters of several.

    Every adapter keeps its name, metadata, tiers and fingerprints, in the order of the files.
    Signatures are not kept, as they are over the bytes of the single files. Positions that a file
    takes from another one are found if that one is packed too.

    Args:
        files: paths or contents of .shb files.

    Returns:
        The content of the new file.

    Raises:
        ExportError: a file is not sound, two hold an adapter of one name or the same adapter, they
            are for different bases, or positions are missing.
        OSError: a file cannot be read.
    """
    opened = unpack_files(files)
    _check_adapters(opened)
    tables = _known_tables(opened)
    builders = [IndexTableBuilder() for _ in range(max(len(file.image.index) for file in opened))]
    adapters: list[AdapterRows] = []
    for file in opened:
        resolved = [_resolve(file, tier, tables) for tier in range(len(file.image.index))]
        for adapter in file.image.adapters:
            rows = tuple(_renumber(row, resolved[row.tier], builders) for row in adapter.rows)
            adapters.append(replace(adapter, rows=rows))
    index = tuple(builder.table() for builder in builders)
    _check_rules(index)
    return write_image(FileImage(tuple(adapters), index)).content


def _check_adapters(files: Sequence[Unpacked]) -> None:
    """Refuse duplicates, and adapters of different bases."""
    if not files:
        raise ExportError("there is nothing to pack")
    owners: dict[str, str] = {}
    known: dict[object, str] = {}
    tensors: dict[str, tuple[TensorRow, str]] = {}
    for file in files:
        for adapter in file.image.adapters:
            if adapter.name in owners:
                raise ExportError(
                    f"{file.where}: its adapter {adapter.name} has the name of one in"
                    f" {owners[adapter.name]}"
                )
            owners[adapter.name] = file.where
            content = (file.index_digests, adapter.rows)
            if content in known:
                raise ExportError(
                    f"{file.where}: its adapter {adapter.name} holds the same as {known[content]}"
                )
            known[content] = f"{adapter.name} in {file.where}"
            for row in adapter.rows:
                _check_base(row, file.where, tensors)


def _check_base(row: TensorRow, where: str, tensors: dict[str, tuple[TensorRow, str]]) -> None:
    other, other_where = tensors.setdefault(row.name, (row, where))
    for what, ours, theirs in (
        ("shape", row.shape, other.shape),
        ("dtype", row.dtype, other.dtype),
    ):
        if ours != theirs:
            raise ExportError(
                f"{where}: tensor {row.name} has {what} {ours}, in {other_where} {theirs}: these"
                " are adapters of different bases"
            )
    if other.base_digest is None:
        tensors[row.name] = (row, where)
    elif row.base_digest not in (None, other.base_digest):
        raise ExportError(
            f"{where}: tensor {row.name} was made for other base values than in {other_where}"
        )


def _known_tables(files: Sequence[Unpacked]) -> dict[bytes, IndexTable]:
    return {
        digest: index
        for file in files
        for digest, index in zip(file.index_digests, file.image.index, strict=True)
        if isinstance(index, IndexTable)
    }


def _resolve(file: Unpacked, tier: int, tables: dict[bytes, IndexTable]) -> IndexTable:
    index = file.image.index[tier]
    # The reader found the section among the files, so it is known.
    return tables[index.sha256] if isinstance(index, IndexReference) else index


def _renumber(
    row: TensorRow, table: IndexTable, builders: Sequence[IndexTableBuilder]
) -> TensorRow:
    stream: IndexStream = table.streams[row.index_number]
    return replace(row, index_number=builders[row.tier].number(stream, row.name))


def _check_rules(index: Sequence[IndexTable]) -> None:
    if len(index) > 1 and any(s.codec in DERIVED_CODECS for table in index for s in table.streams):
        raise ExportError(
            "a file of several tiers holds no derived masks, which one of the adapters has: export"
            " that one with an explicit coding, such as --index rice"
        )

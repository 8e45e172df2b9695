# SPDX-License-Identifier: Apache-2.0
"""An independent reader of .shb files, written from docs/FORMAT.md alone.

It shares no code with the C++ core and serves as its check: both have to accept and refuse the same
files, with the same status at the same offset, and decode the same entries. Needs numpy,
google_crc32c and xxhash, and the package cryptography where a signature is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from . import model
from .container import (
    INDEX,
    Container,
    check,
    check_container_digests,
    open_container,
)
from .masks import Mask
from .model import Adapter, File, ReaderError, Tensor, TierPart
from .rows import INDEX_NUMBER_FIELD, AdapterRow, TensorRow, read_rows
from .tables import decode_index_table, read_index_tables, section_sha256
from .values import decode_values

__all__ = ["Adapter", "File", "Mask", "ReaderError", "Tensor", "TierPart", "check_digests", "read"]


def read(
    data: bytes,
    *,
    tiers: int | None = None,
    index_sources: Iterable[File | bytes] = (),
    public_key: bytes | None = None,
) -> File:
    """Check every rule of a .shb file in the order of FORMAT.md 13 and decode it.

    Args:
        data: the whole file.
        tiers: read only the lowest so many tiers; None reads all.
        index_sources: other files, read or not yet, that positions may be taken from.
        public_key: 32 bytes; demands a signature of this key, and checks all digests.

    Raises:
        ReaderError: the file breaks a rule; of several the first in the order of checks.
        ValueError: `tiers` is less than 1 or more than the file has.
    """
    if tiers is not None and tiers < 1:
        raise ValueError(f"{tiers} tiers asked for; the lowest number is 1")
    data = bytes(data)
    offered: dict[bytes, tuple[Mask, ...]] = {}
    for source in index_sources:
        offered.update((source if isinstance(source, File) else read(source)).index_sections)
    container = open_container(data)
    if public_key is not None:
        check_container_digests(container, public_key)
    header = container.header
    tiers_read = header.tier_count if tiers is None else tiers
    if tiers_read > header.tier_count:
        raise ValueError(f"{tiers} tiers asked for; the file has {header.tier_count}")
    adapter_rows, all_rows = read_rows(container)
    tables = read_index_tables(container, all_rows, offered)
    masks = [decode_index_table(container, table) for table in tables[:tiers_read]]
    rows = [row for row in all_rows if row.tier < tiers_read]
    parts = {row.row: _read_part(container, row, masks[row.tier]) for row in rows}
    _check_disjoint(adapter_rows, all_rows, parts)
    return File(
        version=(1, header.version_minor),
        file_bytes=len(data),
        content_digest=header.content_digest,
        signature_kind=header.signature_kind,
        public_key=header.public_key,
        tier_count=header.tier_count,
        tiers_read=tiers_read,
        adapters=tuple(
            _build_adapter(container, adapter, all_rows, parts) for adapter in adapter_rows
        ),
        index_sections={
            section_sha256(container, table.section): tier_masks
            for table, tier_masks in zip(tables, masks, strict=False)
            if table.section.kind == INDEX
        },
    )


def check_digests(data: bytes, *, public_key: bytes | None = None) -> bytes:
    """Check header, checksums, every SHA-256, content_digest and, given a key, the signature.

    Returns:
        The content digest, 32 bytes.

    Raises:
        ReaderError: as `read`, but nothing behind the section table is looked into.
    """
    return check_container_digests(open_container(bytes(data)), public_key)


def _read_part(container: Container, row: TensorRow, masks: Sequence[Mask]) -> TierPart:
    """Make step 9 of the order of checks for one row of TENSORS."""
    begin = container.values(row.tier).offset + row.value_offset
    bits, values, scales = decode_values(
        row.value_codec,
        row.nnz,
        row.value_group,
        row.scale_exponent,
        container.data[begin : begin + row.value_bytes],
        begin,
    )
    return TierPart(
        row_number=(row.row - container.sections[1].offset) // 128,
        tier=row.tier,
        index_number=row.index_number,
        mask=masks[row.index_number],
        value_group=row.value_group,
        scale_exponent=row.scale_exponent,
        bits=bits,
        values=values,
        scales=scales,
        fingerprint=row.fingerprint,
    )


def _rows_of(adapter: AdapterRow, rows: Sequence[TensorRow]) -> Sequence[TensorRow]:
    return rows[adapter.first_tensor : adapter.first_tensor + adapter.tensor_count]


def _check_disjoint(
    adapters: Sequence[AdapterRow], rows: Sequence[TensorRow], parts: dict[int, TierPart]
) -> None:
    """Make step 10 of the order of checks."""
    for adapter in adapters:
        below: dict[bytes, NDArray[np.uint32]] = {}
        repeated = {}
        for row in _rows_of(adapter, rows):
            repeated[row.name] = row.name in repeated
        for row in _rows_of(adapter, rows):
            if row.row not in parts or not repeated[row.name]:
                continue
            positions = parts[row.row].mask.positions()
            lower = below.get(row.name, positions[:0])
            both = np.sort(np.concatenate((lower, positions)))
            check(
                not (both[1:] == both[:-1]).any(),
                "BAD_INDEX",
                row.row + INDEX_NUMBER_FIELD,
                f"{row.name!r} has a position in two tiers",
            )
            below[row.name] = both


def _build_adapter(
    container: Container,
    adapter: AdapterRow,
    rows: Sequence[TensorRow],
    parts: dict[int, TierPart],
) -> Adapter:
    by_name: dict[bytes, list[TensorRow]] = {}
    for row in _rows_of(adapter, rows):
        if row.row in parts:
            by_name.setdefault(row.name, []).append(row)
    tensors = {}
    for raw_name, own in by_name.items():
        first, name = own[0], raw_name.decode("utf-8")
        tensors[name] = Tensor(
            name=name,
            dtype=model.DTYPES[first.dtype],
            shape=first.shape,
            value_codec=model.VALUE_CODECS[first.value_codec],
            value_kind=model.VALUE_KINDS[first.value_kind],
            base_digest=first.base_digest,
            parts=tuple(parts[row.row] for row in own),
        )
    begin = container.sections[3].offset + adapter.metadata_offset
    return Adapter(
        name=adapter.name.decode("utf-8"),
        is_bound=adapter.is_bound,
        metadata_json=container.data[begin : begin + adapter.metadata_bytes],
        tensors=tensors,
    )

# SPDX-License-Identifier: Apache-2.0
"""Take positions from another file: the same index streams, and a reference in their place."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .build import AdapterTensor, BuiltFile
from .encode_index import coding_like
from .errors import ExportError
from .image import DERIVED_CODECS, IndexCodec, IndexReference, IndexStream, IndexTable
from .seeded import stratified_blocks
from .unpack import Unpacked, unpack_files
from .writer import write_image


def shared_streams(
    other: Unpacked, tensors: Sequence[AdapterTensor]
) -> dict[tuple[str, int], IndexStream]:
    """Find the streams of another file that describe the positions of these tensors.

    Returns:
        (tensor, tier) -> stream.

    Raises:
        ExportError: a tensor is not in the file, or has other positions there.
    """
    tables = []
    for index in other.image.index:
        if not isinstance(index, IndexTable):
            raise ExportError(f"{other.where}: takes its positions from another file; name that")
        tables.append(index)
    offered: dict[tuple[str, int], list[IndexStream]] = {}
    for row in (row for adapter in other.image.adapters for row in adapter.rows):
        stream = tables[row.tier].streams[row.index_number]
        offered.setdefault((row.name, row.tier), []).append(stream)
    return {
        (tensor.name, tensor.tier): _matching(tensor, offered, other.where) for tensor in tensors
    }


def refer(built: BuiltFile, other: Unpacked) -> BuiltFile:
    """Replace the index sections of a file by references to those of another one.

    Raises:
        ExportError: they differ, because the other file has positions of more tensors.
    """
    if len(built.image.index) != len(other.image.index):
        raise ExportError(
            f"{other.where}: has {len(other.image.index)} tiers, and this adapter"
            f" {len(built.image.index)}"
        )
    if built.image.index != other.image.index:
        names = {row.name for adapter in built.image.adapters for row in adapter.rows}
        theirs = {row.name for adapter in other.image.adapters for row in adapter.rows}
        surplus = ", ".join(sorted(theirs - names)[:3]) or "more positions"
        raise ExportError(
            f"{other.where}: its index section cannot stand for this adapter's, as it also holds"
            f" {surplus}"
        )
    references = tuple(
        IndexReference(digest, len(table.streams))
        for digest, table in zip(other.index_digests, built.image.index, strict=True)
        if isinstance(table, IndexTable)
    )
    image = replace(built.image, index=references)
    written = write_image(image)
    return replace(
        built,
        content=written.content,
        content_digest=written.content_digest,
        sections=written.sections,
        image=image,
    )


def open_source(path: Path) -> Unpacked:
    """Read the file that positions are taken from.

    Raises:
        ExportError: it is not sound.
        OSError: it cannot be read.
    """
    return unpack_files([path])[0]


def _matching(
    tensor: AdapterTensor, offered: dict[tuple[str, int], list[IndexStream]], where: str
) -> IndexStream:
    streams = offered.get((tensor.name, tensor.tier))
    if streams is None:
        tier = f" in tier {tensor.tier}" if tensor.tier else ""
        raise ExportError(f"{where}: has no positions of tensor {tensor.name}{tier}")
    for stream in streams:
        if _describes(stream, tensor):
            return stream
    there, here = streams[0].nnz, tensor.indices.size
    counts = f"as many, {here}" if there == here else f"{there} of them, here {here}"
    raise ExportError(f"{where}: tensor {tensor.name} has other positions there ({counts})")


def _describes(stream: IndexStream, tensor: AdapterTensor) -> bool:
    if (stream.element_count, stream.nnz) != (int(np.prod(tensor.shape)), tensor.indices.size):
        return False
    if stream.codec == IndexCodec.RANDOM:
        (seed,) = struct.unpack("<Q", stream.stream)
        length = stream.block_length
        blocks = stratified_blocks(seed, stream.element_count // length, stream.unit_count)
        positions = (blocks[:, None] * length + np.arange(length)).reshape(-1)
        return np.array_equal(positions, tensor.indices)
    if stream.codec in DERIVED_CODECS:
        return stream in tensor.rules
    coding = coding_like(tensor.indices, stream)
    return coding is not None and coding.encode() == stream.stream

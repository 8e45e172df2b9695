# SPDX-License-Identifier: Apache-2.0
"""Lay out a .shb file (docs/FORMAT.md): the same adapter always gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from .dtypes import FLOAT_TYPES, is_finite, short_name
from .encode import IndexStream, encode_indices
from .errors import ExportError

MAGIC = b"\x89SHB\r\n\x1a\n"
VERSION = (0, 1)

_HEADER = struct.Struct("<8sHHIQQQIIIIQ32s28sI")
_SECTION = struct.Struct("<IIQQQ32s")
_ADAPTER = struct.Struct("<IIIII44s")
_TENSOR = struct.Struct("<IIBBBBBBHIIIIQQQQ8I16s16s")
_INDEX_SECTION, _VALUE_SECTION = 4, 5
_SECTION_KINDS = (1, 2, 3, 4, 5, 6)

_MAXIMUM_TENSORS = 65_536
_MAXIMUM_ELEMENTS = 4_294_967_295
_MAXIMUM_NAME_BYTES = 1_024
_MAXIMUM_METADATA_BYTES = 1 << 20
_MAXIMUM_METADATA_DEPTH = 64
_MAXIMUM_RANK = 8


@dataclass(frozen=True)
class AdapterTensor:
    """What an adapter holds for one tensor of the base.

    Attributes:
        name: fully qualified name in the program.
        dtype: of the base tensor: "f32", "f16" or "bf16".
        shape: of the base tensor, row-major.
        indices: (nnz,) int64 flat indices, strictly increasing.
        values: (nnz,) float32, float16 or bfloat16; in the base's dtype if they are targets.
        kind: "target" for finished weights, "delta" for differences from the base.
        fingerprint: XXH3-128 of the base values at `indices`; None in an unbound adapter.
        base_digest: XXH3-128 of the whole base tensor; None in an unbound adapter.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    indices: NDArray[np.int64]
    values: NDArray[Any]
    kind: Literal["target", "delta"]
    fingerprint: bytes | None = None
    base_digest: bytes | None = None


@dataclass(frozen=True)
class AdapterImage:
    """The bytes of a .shb file, its content digest and the coded indices in table order."""

    content: bytes
    content_digest: bytes
    streams: dict[str, IndexStream]


def build_adapter(
    name: str,
    tensors: Sequence[AdapterTensor],
    metadata: Mapping[str, Any],
    index_choice: str = "auto",
) -> AdapterImage:
    """Lay out one adapter as the bytes of a .shb file.

    Args:
        name: the adapter's name.
        tensors: at least one, in any order, all bound (with fingerprints) or none.
        metadata: JSON-ready, see section 9 of the format.
        index_choice: an index codec in lower case, or "auto" for the smallest of each tensor.

    Raises:
        ExportError: the adapter breaks a rule of the format.
    """
    if not 1 <= len(tensors) <= _MAXIMUM_TENSORS:
        raise ExportError(f"{len(tensors)} tensors; a file holds 1 to {_MAXIMUM_TENSORS}")
    bound = tensors[0].fingerprint is not None
    names = _Packed(alignment=1)
    names.add(_encode_name(name))
    index_streams, value_streams = _Packed(alignment=8), _Packed(alignment=8)
    rows = []
    streams: dict[str, IndexStream] = {}
    for tensor in sorted(tensors, key=lambda t: _encode_name(t.name)):
        if tensor.name in streams:
            raise ExportError(f"tensor {tensor.name}: given twice")
        _check_tensor(tensor, bound)
        try:
            stream = encode_indices(tensor.indices, index_choice)
        except ValueError as error:
            raise ExportError(f"tensor {tensor.name}: {error}") from None
        streams[tensor.name] = stream
        encoded_name = _encode_name(tensor.name)
        rows.append(
            _tensor_row(
                tensor,
                stream,
                name_range=(names.add(encoded_name), len(encoded_name)),
                index_offset=index_streams.add(stream.stream),
                value_offset=value_streams.add(tensor.values.tobytes()),
            )
        )
    adapter_row = _ADAPTER.pack(0, len(_encode_name(name)), 0, len(rows), int(bound), b"")
    content, digest = _assemble(
        (
            adapter_row,
            b"".join(rows),
            names.content(),
            _encode_metadata(metadata),
            index_streams.content(),
            value_streams.content(),
        ),
        tensor_count=len(rows),
    )
    return AdapterImage(content, digest, streams)


class _Packed:
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
        return b"".join(self._parts)


def _tensor_row(
    tensor: AdapterTensor,
    stream: IndexStream,
    name_range: tuple[int, int],
    index_offset: int,
    value_offset: int,
) -> bytes:
    value_type = short_name(tensor.values.dtype)
    return _TENSOR.pack(
        *name_range,
        FLOAT_TYPES[tensor.dtype][0],
        len(tensor.shape),
        stream.codec,
        FLOAT_TYPES[value_type][0],
        ("target", "delta").index(tensor.kind),
        int(tensor.fingerprint is not None),
        0,
        stream.block_length,
        _INDEX_SECTION,
        _VALUE_SECTION,
        stream.unit_count,
        tensor.indices.size,
        index_offset,
        len(stream.stream),
        value_offset,
        *tensor.shape,
        *[0] * (_MAXIMUM_RANK - len(tensor.shape)),
        tensor.fingerprint or b"",
        tensor.base_digest or b"",
    )


def _assemble(sections: Sequence[bytes], tensor_count: int) -> tuple[bytes, bytes]:
    """Put the header and the section table before the sections: (file, content digest)."""
    table_end = _HEADER.size + len(sections) * _SECTION.size
    body = _Packed(alignment=64)
    body.add(bytes(table_end))
    table = b"".join(
        _SECTION.pack(
            kind,
            google_crc32c.value(section),
            body.add(section),
            len(section),
            0,
            hashlib.sha256(section).digest(),
        )
        for kind, section in zip(_SECTION_KINDS, sections, strict=True)
    )
    content = body.content()

    def header(digest: bytes, crc32c: int) -> bytes:
        return _HEADER.pack(
            MAGIC,
            *VERSION,
            _HEADER.size,
            len(content),
            0,
            0,
            len(sections),
            1,
            tensor_count,
            google_crc32c.value(table),
            0,
            digest,
            b"",
            crc32c,
        )

    digest = hashlib.sha256(header(b"", 0) + table).digest()
    crc32c = google_crc32c.value(header(digest, 0)[:-4])
    return header(digest, crc32c) + table + content[table_end:], digest


def _check_tensor(tensor: AdapterTensor, bound: bool) -> None:
    """Refuse what no reader would accept; the message names the tensor."""
    where = f"tensor {tensor.name}"
    element_count = math.prod(tensor.shape)
    if not 1 <= len(tensor.shape) <= _MAXIMUM_RANK:
        raise ExportError(f"{where}: has {len(tensor.shape)} dimensions, allowed are 1 to 8")
    if min(tensor.shape) < 1 or element_count > _MAXIMUM_ELEMENTS:
        raise ExportError(
            f"{where}: shape {tensor.shape} is empty or has more than {_MAXIMUM_ELEMENTS} elements"
        )
    if tensor.indices.size == 0 or tensor.indices.shape != tensor.values.shape:
        raise ExportError(
            f"{where}: has {tensor.indices.size} indices and {tensor.values.size} values"
        )
    if tensor.indices[0] < 0 or tensor.indices[-1] >= element_count:
        raise ExportError(
            f"{where}: indices {tensor.indices[0]} to {tensor.indices[-1]}"
            f" leave the {element_count} elements"
        )
    if (np.diff(tensor.indices) < 1).any():
        raise ExportError(f"{where}: indices are not strictly increasing")
    if not is_finite(tensor.values).all():
        raise ExportError(f"{where}: a value is NaN or infinite")
    hashes = (tensor.fingerprint, tensor.base_digest)
    if [h is not None and len(h) == 16 for h in hashes] != [bound, bound]:
        raise ExportError(f"{where}: either all tensors carry both 16-byte fingerprints or none")
    value_type = short_name(tensor.values.dtype)
    if value_type not in FLOAT_TYPES:
        raise ExportError(f"{where}: values of type {value_type} cannot be stored")
    if tensor.kind == "target" and not (bound and value_type == tensor.dtype):
        raise ExportError(f"{where}: target values need fingerprints and the base's dtype")


def _encode_name(name: str) -> bytes:
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        raise ExportError(f"name {name!r}: is not valid Unicode") from None
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in name):
        raise ExportError(f"name {name!r}: holds a control character")
    if not 1 <= len(encoded) <= _MAXIMUM_NAME_BYTES:
        raise ExportError(
            f"name {name[:40]!r}: has {len(encoded)} bytes, allowed are 1 to {_MAXIMUM_NAME_BYTES}"
        )
    return encoded


def _encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(
            metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ExportError("the metadata holds a lone surrogate, which UTF-8 cannot") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ExportError(f"the metadata cannot be written: {error}") from None
    if len(encoded) > _MAXIMUM_METADATA_BYTES:
        raise ExportError(
            f"the metadata has {len(encoded)} bytes, allowed are {_MAXIMUM_METADATA_BYTES}"
        )
    if _nesting(metadata) > _MAXIMUM_METADATA_DEPTH:
        raise ExportError(f"the metadata nests deeper than {_MAXIMUM_METADATA_DEPTH} levels")
    return encoded


def _nesting(metadata: Mapping[str, Any]) -> int:
    """How many objects and lists lie one inside the other, the outermost included."""
    depth = 0
    level: list[Any] = [metadata]
    while level:
        depth += 1
        items = (v for c in level for v in (c.values() if isinstance(c, Mapping) else c))
        level = [item for item in items if isinstance(item, (dict, list, tuple))]
    return depth

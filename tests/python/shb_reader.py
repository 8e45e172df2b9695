# SPDX-License-Identifier: Apache-2.0
"""A plain reader of .shb files, written from docs/FORMAT.md alone: the oracle of other tests.

It decodes with Python loops and shares no code with the package, so a mistake in a codec or a
layout has to be made twice to go unseen. Every rule that is broken ends in ValueError.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np

DTYPES = {1: "f32", 2: "f16", 3: "bf16"}
NUMPY_TYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
INDEX_CODECS = {1: "gaps8", 2: "gaps16", 3: "runs", 4: "blocks8", 5: "blocks16"}
VALUE_KINDS = {0: "target", 1: "delta"}


def read_shb(path: str | Path) -> dict[str, Any]:
    """Read and check a file.

    Returns a dict of `name`, `bound`, `metadata`, `content_digest` (hex) and `tensors`:
    name -> dict of dtype, shape, kind, codec, block_length, value_dtype, unit_count, index_bytes,
    indices (nnz,) int64, values (nnz,), fingerprint and base_digest (bytes, None if unbound).
    """
    return parse_shb(Path(path).read_bytes())


def parse_shb(data: bytes) -> dict[str, Any]:
    header = _read_header(data)
    sections = _read_sections(data)
    adapters, tensor_table, names, metadata, index_section, value_section = sections

    _require(len(adapters) == 64, "ADAPTERS has the wrong size")
    name_offset, name_bytes, first, count, flags = struct.unpack_from("<5I", adapters)
    _require(name_offset == 0 and 1 <= name_bytes <= 1024, "the adapter's name is malformed")
    _require(first == 0 and count == header["tensor_count"], "the adapter's tensors are wrong")
    _require(flags in (0, 1) and not any(adapters[20:]), "reserved bits of the adapter")
    bound = flags == 1

    _require(len(tensor_table) == 128 * count, "TENSORS has the wrong size")
    tensors: dict[str, dict[str, Any]] = {}
    name_at, index_at, value_at = name_bytes, 0, 0
    previous_name = b""
    for i in range(count):
        row = tensor_table[128 * i : 128 * (i + 1)]
        tensor = _read_tensor_row(row, bound)
        name_range = tensor.pop("name_range")
        _require(name_range[0] == name_at and 1 <= name_range[1] <= 1024, "names are not packed")
        name_at += name_range[1]
        raw_name = names[name_range[0] : name_at]
        _require(raw_name > previous_name, "tensor names are not sorted")
        previous_name = raw_name
        index_at, value_at = (index_at + 7) // 8 * 8, (value_at + 7) // 8 * 8
        _require(tensor.pop("index_offset") == index_at, "index streams are not packed")
        _require(tensor.pop("value_offset") == value_at, "value streams are not packed")
        stream = index_section[index_at : index_at + tensor["index_bytes"]]
        _require(len(stream) == tensor["index_bytes"] > 0, "an index stream leaves its section")
        nnz, element_count = tensor.pop("nnz"), math.prod(tensor["shape"])
        indices = _decode_indices(stream, tensor, element_count)
        _require(len(indices) == nnz, "the index stream has another number of entries")
        _require(indices[-1] < element_count, "an index leaves the tensor")
        tensor["indices"] = np.array(indices, dtype=np.int64)
        value_type = np.dtype(NUMPY_TYPES[tensor["value_dtype"]])
        raw_values = value_section[value_at : value_at + nnz * value_type.itemsize]
        _require(len(raw_values) == nnz * value_type.itemsize, "VALUES is too short")
        tensor["values"] = np.frombuffer(raw_values, dtype=value_type)
        finite = np.isfinite(tensor["values"].astype(np.float32))
        _require(bool(finite.all()), "a value is NaN or infinite")
        index_at += len(stream)
        value_at += len(raw_values)
        tensors[_decode_name(raw_name)] = tensor
    _require(name_at == len(names), "NAMES has trailing bytes")
    _require(index_at == len(index_section), "INDEX has trailing bytes")
    _require(value_at == len(value_section), "VALUES has trailing bytes")
    _check_stream_padding(index_section, [t["index_bytes"] for t in tensors.values()])
    _check_stream_padding(value_section, [t["values"].nbytes for t in tensors.values()])
    _require(2 <= len(metadata) <= 1 << 20, "METADATA has the wrong size")
    _require(metadata[:1] == b"{" and metadata[-1:] == b"}", "METADATA is not an object")
    return {
        "name": _decode_name(names[:name_bytes]),
        "bound": bound,
        "metadata": json.loads(metadata.decode("utf-8")),
        "content_digest": header["content_digest"].hex(),
        "tensors": tensors,
    }


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _read_header(data: bytes) -> dict[str, Any]:
    _require(len(data) >= 512, "the file is shorter than header and section table")
    _require(data[:8] == b"\x89SHB\r\n\x1a\n", "wrong magic")
    _require(struct.unpack_from("<HH", data, 8) == (0, 1), "unknown version")
    (header_crc,) = struct.unpack_from("<I", data, 124)
    _require(google_crc32c.value(data[:124]) == header_crc, "header checksum")
    header_bytes, file_bytes, required, _optional = struct.unpack_from("<IQQQ", data, 12)
    _require(header_bytes == 128 and file_bytes == len(data), "wrong size of header or file")
    _require(required == 0, "unknown required feature")
    sections, adapters, tensors, table_crc = struct.unpack_from("<4I", data, 40)
    _require(sections == 6 and adapters == 1 and 1 <= tensors <= 65536, "wrong counts")
    _require(google_crc32c.value(data[128:512]) == table_crc, "section table checksum")
    _require(not any(data[56:64]) and not any(data[96:124]), "reserved bytes of the header")
    digest_input = data[:64] + bytes(32) + data[96:124] + bytes(4) + data[128:512]
    _require(hashlib.sha256(digest_input).digest() == data[64:96], "content digest")
    return {"tensor_count": tensors, "content_digest": data[64:96]}


def _read_sections(data: bytes) -> list[bytes]:
    sections = []
    end = 512
    for i in range(6):
        row = data[128 + 64 * i : 192 + 64 * i]
        kind, crc, offset, size, reserved = struct.unpack_from("<IIQQQ", row)
        start = (end + 63) // 64 * 64
        _require(kind == i + 1 and offset == start and size >= 1, "section table layout")
        _require(reserved == 0 and not any(data[end:start]), "reserved bytes or padding")
        section = data[offset : offset + size]
        _require(len(section) == size, "a section leaves the file")
        _require(google_crc32c.value(section) == crc, "section checksum")
        _require(hashlib.sha256(section).digest() == row[32:], "section digest")
        sections.append(section)
        end = offset + size
    _require(end == len(data), "bytes after the last section")
    return sections


def _read_tensor_row(row: bytes, bound: bool) -> dict[str, Any]:
    name_range = struct.unpack_from("<II", row, 0)
    dtype, rank, index_codec, value_codec, kind, flags, zero = struct.unpack_from("<6BH", row, 8)
    param, index_in, value_in, unit_count = struct.unpack_from("<4I", row, 16)
    nnz, index_offset, index_bytes, value_offset = struct.unpack_from("<4Q", row, 32)
    dims = struct.unpack_from("<8I", row, 64)
    fingerprint, base_digest = row[96:112], row[112:128]
    _require(dtype in DTYPES and value_codec in DTYPES, "unknown dtype or value codec")
    _require(index_codec in INDEX_CODECS and kind in VALUE_KINDS, "unknown codec or kind")
    _require(1 <= rank <= 8, "rank")
    _require(all(dims[:rank]) and not any(dims[rank:]), "dimensions")
    element_count = math.prod(dims[:rank])
    _require(element_count <= 0xFFFFFFFF, "too many elements")
    _require(flags == int(bound) and zero == 0, "tensor flags")
    _require(2 <= param <= 65535 if index_codec in (4, 5) else param == 0, "index_param")
    _require(index_in == 4 and value_in == 5, "section numbers")
    _require(1 <= unit_count <= nnz <= element_count, "unit_count or nnz")
    if kind == 0:
        _require(bound and value_codec == dtype, "target values without base or in another dtype")
    if not bound:
        _require(not any(fingerprint + base_digest), "fingerprint of an unbound tensor")
    return {
        "name_range": name_range,
        "dtype": DTYPES[dtype],
        "shape": dims[:rank],
        "kind": VALUE_KINDS[kind],
        "codec": INDEX_CODECS[index_codec],
        "block_length": param,
        "value_dtype": DTYPES[value_codec],
        "unit_count": unit_count,
        "nnz": nnz,
        "index_offset": index_offset,
        "index_bytes": index_bytes,
        "value_offset": value_offset,
        "fingerprint": fingerprint if bound else None,
        "base_digest": base_digest if bound else None,
    }


def _decode_indices(stream: bytes, tensor: dict[str, Any], element_count: int) -> list[int]:
    codec, unit_count, length = tensor["codec"], tensor["unit_count"], tensor["block_length"]
    if codec == "runs":
        return _decode_runs(stream, unit_count, element_count)
    digits = _digits(stream, 1 if codec.endswith("8") else 2)
    largest = 255 if codec.endswith("8") else 65535
    positions, position, gap = [], -1, 0
    for digit in digits:
        gap += digit
        if digit < largest:
            position += gap + 1
            _require(position < element_count, "an index leaves the tensor")
            positions.append(position)
            gap = 0
    _require(digits[-1] < largest, "the last gap is not finished")
    _require(len(positions) == unit_count, "the stream has another number of units")
    if codec.startswith("gaps"):
        return positions
    blocks = [range(block * length, (block + 1) * length) for block in positions]
    return [index for block in blocks for index in block]


def _digits(stream: bytes, width: int) -> list[int]:
    _require(len(stream) % width == 0, "half a digit")
    return [int.from_bytes(stream[i : i + width], "little") for i in range(0, len(stream), width)]


def _decode_runs(stream: bytes, unit_count: int, element_count: int) -> list[int]:
    numbers = []
    number, shift = 0, 0
    for byte in stream:
        number |= (byte & 0x7F) << shift
        shift += 7
        _require(number < 1 << 32 and shift <= 35, "a LEB128 number is too large")
        if byte < 0x80:
            _require(byte != 0 or shift == 7, "a LEB128 number is not in its shortest form")
            numbers.append(number)
            number, shift = 0, 0
    _require(shift == 0, "a LEB128 number is not finished")
    _require(len(numbers) == 2 * unit_count, "the stream has another number of runs")
    indices: list[int] = []
    end = 0
    for i in range(unit_count):
        gap, length = numbers[2 * i], numbers[2 * i + 1] + 1
        _require(gap > 0 or i == 0, "two runs touch")
        _require(end + gap + length <= element_count, "a run leaves the tensor")
        indices += range(end + gap, end + gap + length)
        end += gap + length
    return indices


def _check_stream_padding(section: bytes, sizes: list[int]) -> None:
    end = 0
    for size in sizes:
        start = (end + 7) // 8 * 8
        _require(not any(section[end:start]), "padding between streams")
        end = start + size


def _decode_name(raw: bytes) -> str:
    name = raw.decode("utf-8")
    _require(all(ord(c) >= 0x20 and ord(c) != 0x7F for c in name), "control character in a name")
    return name

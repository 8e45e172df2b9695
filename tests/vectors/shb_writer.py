# SPDX-License-Identifier: Apache-2.0
"""A plain .shb writer for tests: one function per construct of docs/FORMAT.md, and no cleverness.

It writes what it is told, valid or not, and shares no code with the exporter's writer or with any
reader. `Image` then opens a finished file for surgery: it finds fields by name, changes them and
mends the checksums, so that a test can break exactly one rule.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
import xxhash

MAGIC = b"\x89SHB\r\n\x1a\n"
ADAPTERS, TENSORS, NAMES, METADATA, INDEX, VALUES, INDEX_REFERENCE = range(1, 8)
F32, F16, BF16, I8, I4, Q8, Q4, Q2, Q1 = range(1, 10)
GAPS8, GAPS16, RICE, RUNS, STRUCT, RANDOM, TOPK = range(1, 8)
TARGET, DELTA = 0, 1
CODE_BITS = {F32: 32, F16: 16, BF16: 16, I8: 8, I4: 4, Q8: 8, Q4: 4, Q2: 2, Q1: 1}


def align(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment


def pad(data: bytes, alignment: int) -> bytes:
    return data + bytes(align(len(data), alignment) - len(data))


# --- Index streams ---


@dataclass(eq=False)
class Index:
    """One row of an index table. Tensors that hold the same object share it."""

    codec: int
    element_count: int
    nnz: int
    unit_count: int
    stream: bytes
    block_length: int = 0
    rice_bits: int = 0
    positions: list[int] = field(default_factory=list)  # none for derived masks


def gaps_of(blocks: Iterable[int]) -> list[int]:
    before = -1
    gaps = []
    for block in blocks:
        gaps.append(block - before - 1)
        before = block
    return gaps


def digits(gaps: Iterable[int], width: int) -> bytes:
    """Write gaps as digits of 1 or 2 bytes."""
    full = (1 << (8 * width)) - 1
    out = b""
    for gap in gaps:
        out += full.to_bytes(width, "little") * (gap // full)
        out += (gap % full).to_bytes(width, "little")
    return out


def pack_bits(bits: Sequence[int]) -> bytes:
    """Fill bytes with bits from the least significant one on."""
    out = bytearray((len(bits) + 7) // 8)
    for place, bit in enumerate(bits):
        out[place // 8] |= bit << (place % 8)
    return bytes(out)


def rice(gaps: Sequence[int], k: int) -> bytes:
    low = [gap >> bit & 1 for gap in gaps for bit in range(k)]
    high: list[int] = []
    for gap in gaps:
        high += [0] * (gap >> k) + [1]
    return pack_bits(low) + pack_bits(high)


def leb128(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def blocks_index(
    codec: int, element_count: int, blocks: Sequence[int], block_length: int = 1, rice_bits: int = 0
) -> Index:
    """Code ascending block numbers with GAPS8, GAPS16 or RICE."""
    gaps = gaps_of(blocks)
    stream = rice(gaps, rice_bits) if codec == RICE else digits(gaps, codec)
    return Index(
        codec,
        element_count,
        len(blocks) * block_length,
        len(blocks),
        stream,
        block_length,
        rice_bits,
        [block * block_length + i for block in blocks for i in range(block_length)],
    )


def runs_index(element_count: int, runs: Sequence[tuple[int, int]]) -> Index:
    """Code ascending runs given as (start, length)."""
    stream = b""
    end = 0
    for start, length in runs:
        stream += leb128(start - end) + leb128(length - 1)
        end = start + length
    positions = [start + i for start, length in runs for i in range(length)]
    return Index(RUNS, element_count, len(positions), len(runs), stream, positions=positions)


def struct_index(element_count: int, parts: int, columns: int, period: int, phase: int) -> Index:
    positions = []
    for flat in range(element_count):
        row, column = divmod(flat, columns)
        in_row = parts & 1 and row % period == phase
        in_column = parts & 2 and column % period == phase
        if in_row or in_column or (parts & 4 and row == column):
            positions.append(flat)
    stream = struct.pack("<B3xIII", parts, columns, period, phase)
    return Index(STRUCT, element_count, len(positions), 1, stream, positions=positions)


def random_index(element_count: int, unit_count: int, seed: int, block_length: int = 1) -> Index:
    blocks = []
    block_count = element_count // block_length
    for i in range(unit_count):
        first = i * block_count // unit_count
        last = (i + 1) * block_count // unit_count
        z = (seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        z ^= z >> 31
        blocks.append(first + ((z >> 32) * (last - first) >> 32))
    return Index(
        RANDOM,
        element_count,
        unit_count * block_length,
        unit_count,
        struct.pack("<Q", seed),
        block_length,
        0,
        [block * block_length + i for block in blocks for i in range(block_length)],
    )


def top_index(element_count: int, nnz: int) -> Index:
    return Index(TOPK, element_count, nnz, 1, b"")


def top_positions(base: Base, nnz: int) -> list[int]:
    """The rule of TOPK, for one who has the base."""
    width = 8 * base.width
    magnitudes = [int(pattern) & ((1 << (width - 1)) - 1) for pattern in base.patterns]
    order = sorted(range(len(magnitudes)), key=lambda flat: (-magnitudes[flat], flat))
    return sorted(order[:nnz])


# --- Base tensors and values ---


@dataclass(frozen=True)
class Base:
    """A base tensor as patterns: unsigned for floats, signed for I8 and I4."""

    dtype: int
    shape: tuple[int, ...]
    patterns: np.ndarray[Any, Any]  # (element_count,)

    @property
    def width(self) -> int:
        return self.patterns.dtype.itemsize

    def hash_at(self, positions: Sequence[int]) -> bytes:
        return xxhash.xxh3_128_digest(self.patterns[np.array(positions, np.int64)].tobytes())

    def digest(self) -> bytes:
        return xxhash.xxh3_128_digest(self.patterns.tobytes())


def make_base(dtype: int, shape: tuple[int, ...], seed: int) -> Base:
    """Make a base of small random weights or codes."""
    count = int(np.prod(shape))
    random = np.random.Generator(np.random.PCG64(seed))
    return Base(dtype, shape, random_patterns(dtype, count, random))


def random_patterns(codec: int, count: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Draw finite values of F32, F16 or BF16 as patterns, or codes of I8 or I4."""
    if codec in (I8, I4):
        limit = 128 if codec == I8 else 8
        return random.integers(-limit, limit, count).astype(np.int8)
    halves = (random.integers(-2000, 2000, count) / 4096).astype(np.float32)
    if codec == F16:
        return halves.astype("<f2").view("<u2")
    bits = halves.view("<u4")
    return bits if codec == F32 else (bits >> np.uint32(16)).astype("<u2")


def pack_codes(codes: Sequence[int], width: int) -> bytes:
    """Pack codes of 1, 2, 4 or 8 bits; negative ones as two's complement."""
    return pack_bits([code >> bit & 1 for code in codes for bit in range(width)])


def plain_values(codec: int, patterns: np.ndarray[Any, Any]) -> bytes:
    if codec == I4:
        return pack_codes(patterns.tolist(), 4)
    return patterns.tobytes()


def scaled_values(codec: int, scales: Sequence[float], levels: Sequence[int]) -> bytes:
    """Write scales (as f16) and integer levels q."""
    codes = levels
    if codec == Q2:
        codes = [(level + 3) // 2 for level in levels]
    elif codec == Q1:
        codes = [(level + 1) // 2 for level in levels]
    return np.array(scales, "<f2").tobytes() + pack_codes(codes, CODE_BITS[codec])


# --- The file ---


@dataclass
class Tensor:
    """One row of TENSORS. What is not given is derived."""

    name: str | bytes
    index: Index
    value_codec: int
    stream: bytes
    dtype: int = F32
    shape: tuple[int, ...] = ()  # (element_count,) if not given
    tier: int = 0
    value_kind: int = DELTA
    value_group: int = 0
    scale_exponent: int = 0
    fingerprint: bytes | None = None
    base_digest: bytes | None = None


@dataclass
class Adapter:
    """One row of ADAPTERS; the tensors are written in the order given."""

    name: str | bytes
    tensors: list[Tensor]
    metadata: bytes = b"{}"
    bound: bool | None = None  # by default: whether tensors carry fingerprints


def write(
    adapters: Sequence[Adapter],
    *,
    tier_count: int = 1,
    references: dict[int, bytes] | None = None,
    optional: Sequence[tuple[int, bytes]] = (),
    version_minor: int = 0,
    optional_features: int = 0,
    repeat_names: bool = True,
    sign: Callable[[bytes], tuple[bytes, bytes]] | None = None,
) -> bytes:
    """Write a file.

    Args:
        adapters: in file order.
        tier_count: number of tiers.
        references: tier -> SHA-256 of the INDEX section of another file, instead of an INDEX.
        optional: (kind, bytes) of optional sections.
        version_minor: for the header.
        optional_features: for the header.
        repeat_names: whether rows of the same name point to the same bytes.
        sign: gives public key and signature of the bytes it is given.
    """
    tensors = [tensor for adapter in adapters for tensor in adapter.tensors]
    names = b""
    known: dict[bytes, int] = {}
    places = []
    for owner in (*adapters, *tensors):
        text = _bytes(owner.name)
        if text not in known or not repeat_names:
            known[text] = len(names)
            names += text
        places.append(known[text])
    tiers: list[list[Index]] = [[] for _ in range(tier_count)]
    streams = [b""] * tier_count
    tensor_rows = b""
    for tensor, name_offset in zip(tensors, places[len(adapters) :], strict=True):
        table = tiers[tensor.tier]
        if tensor.index not in table:
            table.append(tensor.index)
        streams[tensor.tier] = pad(streams[tensor.tier], 8)
        place = len(streams[tensor.tier])
        streams[tensor.tier] += tensor.stream
        tensor_rows += _tensor_row(tensor, name_offset, table.index(tensor.index), place)
    sections = [
        (ADAPTERS, 0, 0, _adapter_rows(adapters, places)),
        (TENSORS, 0, 0, tensor_rows),
        (NAMES, 0, 0, names),
        (METADATA, 0, 0, b"".join(adapter.metadata for adapter in adapters)),
    ]
    for tier in range(tier_count):
        if references and tier in references:
            sections.append((INDEX_REFERENCE, tier, len(tiers[tier]), references[tier]))
        else:
            sections.append((INDEX, tier, len(tiers[tier]), _index_section(tiers[tier])))
        sections.append((VALUES, tier, 0, streams[tier]))
    sections += [(kind, 0, 0, content) for kind, content in optional]
    counts = (len(sections), len(adapters), len(tensors), tier_count)
    data = _assemble(sections, counts, version_minor, optional_features)
    return sign_file(data, sign) if sign else data


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _adapter_rows(adapters: Sequence[Adapter], places: Sequence[int]) -> bytes:
    rows = b""
    first_tensor = metadata_offset = 0
    for adapter, name_offset in zip(adapters, places, strict=False):
        bound = adapter.bound
        if bound is None:
            bound = all(tensor.fingerprint is not None for tensor in adapter.tensors)
        rows += struct.pack(
            "<IIIIIIII32x",
            name_offset,
            len(_bytes(adapter.name)),
            first_tensor,
            len(adapter.tensors),
            bound,
            0,
            metadata_offset,
            len(adapter.metadata),
        )
        first_tensor += len(adapter.tensors)
        metadata_offset += len(adapter.metadata)
    return rows


def _tensor_row(tensor: Tensor, name_offset: int, number: int, value_offset: int) -> bytes:
    shape = tensor.shape or (tensor.index.element_count,)
    return struct.pack(
        "<IIBBBBBBbBIIQQQ16x8I16s16s",
        name_offset,
        len(_bytes(tensor.name)),
        tensor.dtype,
        len(shape),
        tensor.tier,
        tensor.value_codec,
        tensor.value_kind,
        tensor.fingerprint is not None,
        tensor.scale_exponent,
        0,
        number,
        tensor.value_group,
        tensor.index.nnz,
        value_offset,
        len(tensor.stream),
        *shape,
        *[0] * (8 - len(shape)),
        tensor.fingerprint or bytes(16),
        tensor.base_digest or bytes(16),
    )


def _index_section(table: Sequence[Index]) -> bytes:
    rows = b""
    streams = b""
    for index in table:
        streams = pad(streams, 8)
        rows += struct.pack(
            "<BBHIIIQQQQ",
            index.codec,
            index.rice_bits,
            0,
            index.block_length,
            index.unit_count,
            0,
            index.element_count,
            index.nnz,
            48 * len(table) + len(streams),
            len(index.stream),
        )
        streams += index.stream
    return rows + streams


def _assemble(
    sections: Sequence[tuple[int, int, int, bytes]],
    counts: tuple[int, int, int, int],
    version_minor: int,
    optional_features: int,
) -> bytes:
    rows = b""
    body = b""
    begin = 256 + 64 * len(sections)
    for kind, tier, index_count, content in sections:
        body = pad(body, 64)
        offset = begin + len(body)
        rows += struct.pack("<IIQQII32x", kind, 0, offset, len(content), tier, index_count)
        body += content
    header = MAGIC + struct.pack(
        "<HHIQQQ4I", 1, version_minor, 256, begin + len(body), 0, optional_features, *counts
    )
    return mend(header.ljust(256, b"\0") + rows + body)


def mend(data: bytes) -> bytes:
    """Set every checksum and digest to what the rest of the file demands; keeps the signature."""
    out = bytearray(data)
    (section_count,) = struct.unpack_from("<I", out, 40)
    table_end = 256 + 64 * section_count
    for row in range(256, min(table_end, len(out) - 63), 64):
        offset, size = struct.unpack_from("<QQ", out, row + 8)
        content = bytes(out[offset : offset + size]) if offset + size <= len(out) else b""
        struct.pack_into("<I", out, row + 4, google_crc32c.value(content))
        out[row + 32 : row + 64] = hashlib.sha256(content).digest()
    table = bytes(out[256:table_end])
    struct.pack_into("<I", out, 56, google_crc32c.value(table))
    blank = out[:64] + bytes(160) + out[224:252] + bytes(4)
    out[64:96] = hashlib.sha256(bytes(blank) + table).digest()
    return mend_header(bytes(out))


def mend_header(data: bytes) -> bytes:
    """Set the header's CRC32C only."""
    return data[:252] + struct.pack("<I", google_crc32c.value(data[:252])) + data[256:]


def sign_file(data: bytes, sign: Callable[[bytes], tuple[bytes, bytes]]) -> bytes:
    """Put a signature into a finished file."""
    public_key, signature = sign(b"shb-signature-1\0" + data[64:96])
    kind = struct.pack("<I", 1) + bytes(28)
    return mend_header(data[:96] + kind + public_key + signature + data[224:])


# --- Surgery ---


class Image:
    """A finished valid file, open for changes; offsets are those of the file."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def section_row(self, number: int) -> int:
        return 256 + 64 * number

    def offset(self, number: int) -> int:
        """Where section `number` begins."""
        return self.u64(self.section_row(number) + 8)

    def size(self, number: int) -> int:
        return self.u64(self.section_row(number) + 16)

    def adapter(self, number: int = 0) -> int:
        return self.offset(0) + 64 * number

    def tensor(self, number: int = 0) -> int:
        return self.offset(1) + 128 * number

    def index(self, number: int = 0, tier: int = 0) -> int:
        """Where row `number` of the tier's index table begins."""
        return self.offset(4 + 2 * tier) + 48 * number

    def index_stream(self, number: int = 0, tier: int = 0) -> int:
        return self.offset(4 + 2 * tier) + self.u64(self.index(number, tier) + 32)

    def value_stream(self, number: int = 0) -> int:
        """Where the values of row `number` of TENSORS begin."""
        tier = self.data[self.tensor(number) + 10]
        return self.offset(5 + 2 * tier) + self.u64(self.tensor(number) + 32)

    def u32(self, offset: int) -> int:
        return int.from_bytes(self.data[offset : offset + 4], "little")

    def u64(self, offset: int) -> int:
        return int.from_bytes(self.data[offset : offset + 8], "little")

    def put(self, offset: int, number: int, width: int) -> None:
        """Overwrite an unsigned integer of `width` bytes."""
        self.data[offset : offset + width] = number.to_bytes(width, "little")

    def put_bytes(self, offset: int, content: bytes) -> None:
        self.data[offset : offset + len(content)] = content

    def resize(self, number: int, content: bytes) -> None:
        """Give section `number` other bytes; moves what follows."""
        contents = [
            bytes(self.data[self.offset(i) : self.offset(i) + self.size(i)])
            for i in range(self.u32(40))
        ]
        contents[number] = content
        table_end = self.section_row(len(contents))
        out = self.data[:table_end]
        for i, part in enumerate(contents):
            out += bytes(align(len(out), 64) - len(out))
            struct.pack_into("<QQ", out, self.section_row(i) + 8, len(out), len(part))
            out += part
        struct.pack_into("<Q", out, 16, len(out))
        self.data = out

    def content(self, number: int) -> bytes:
        return bytes(self.data[self.offset(number) : self.offset(number) + self.size(number)])

    def mended(self) -> bytes:
        return mend(bytes(self.data))

    def raw(self) -> bytes:
        return bytes(self.data)


def metadata_of(**keys: Any) -> bytes:
    return json.dumps(keys, ensure_ascii=False, separators=(",", ":")).encode()

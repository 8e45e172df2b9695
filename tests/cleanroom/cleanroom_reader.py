# SPDX-License-Identifier: Apache-2.0
"""Reads .shb adapter files, version 1: an executable companion of docs/FORMAT.md.

Written from that page alone, in its order, by an author who had seen no other reader; the numbers
in the comments are those of its sections. It proves that the page is enough, so keep it that way:
where it disagrees with another reader, look into the page and correct what the page decides. Never
mend it from the code of another reader, nor share code with one.

It is made to be read, and to judge other readers by. It is not fast (CRC32C runs byte by byte),
and its Python lists take more than the 8 bytes per entry of section 15. But no position is
expanded before step 7 of section 13 has tied it to values that are really in the file.

    adapters = read(open("style.shb", "rb").read())

Not here, as the standard library has neither: Ed25519 (give `read` a callable) and XXH3-128 (an
application must compare `Tensor.fingerprint` with the live weights before it writes: section 12).
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, chain

Finder = Callable[[Sequence[int]], list[int]]  # positions, given magnitudes if it is TOPK's
Verifier = Callable[[bytes, bytes, bytes], bool]  # of a public key, a message and a signature


# ---- 1. Scope: what a reader hands out, and how it refuses ---------------------------------------
class RefusedError(Exception):
    """A file that breaks a rule: `status` is the page's name, `offset` that of section 13."""

    def __init__(self, status: str, offset: int) -> None:
        super().__init__(f"{status} at offset {offset}")
        self.status = status
        self.offset = offset


@dataclass(frozen=True)
class Tensor:
    """The entries that one adapter has for one tensor, of all tiers that were asked for."""

    name: str
    dtype: str  # of the base tensor: F32, F16, BF16, I8 or I4
    shape: tuple[int, ...]
    value_codec: str
    value_kind: str  # "target" or "delta"
    find: Finder
    needs_base: bool  # TOPK
    values: list[float]  # in the order of the positions; ints for the codes of I8 and I4
    fingerprint: bytes  # of the highest of these tiers, so of all positions; zero if unbound
    base_digest: bytes

    @property
    def positions(self) -> list[int]:
        """The flat indices, strictly ascending. A TOPK mask needs the base: `positions_in`."""
        if self.needs_base:
            raise TypeError(f"the positions of {self.name} depend on the base: use positions_in()")
        return self.find(())

    def positions_in(self, base_bits: Sequence[int]) -> list[int]:
        """The flat indices in a base, given the bits of each element as an unsigned integer."""
        if len(base_bits) != math.prod(self.shape):
            raise ValueError(f"{self.name} has {math.prod(self.shape)} elements")
        without_sign = 0x7FFFFFFF if self.dtype == "F32" else 0x7FFF
        return self.find([element & without_sign for element in base_bits])


@dataclass
class Adapter:
    """One adapter of a file. `number` and `file_digest` are for the order of section 11."""

    name: str
    bound: bool
    metadata: str  # the text of one JSON object
    tensors: list[Tensor]
    number: int
    file_digest: bytes


# ---- 2. Conventions ------------------------------------------------------------------------------
def require(rule: bool, status: str, offset: int) -> None:
    """Refuses a file that does not keep a rule."""
    if not rule:
        raise RefusedError(status, offset)


def require_zero(data: bytes, start: int, end: int) -> None:
    """Reserved fields and padding, reported at the first byte that is not zero."""
    tail = data[start:end].lstrip(b"\0")
    require(not tail, "RESERVED_NOT_ZERO", end - len(tail))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def align(x: int, a: int) -> int:
    return ceil_div(x, a) * a


def ceil_div(x: int, y: int) -> int:
    return -(-x // y)


def bits(data: bytes, first: int, count: int) -> int:
    """`count` bits from bit `first` on, counted from the least significant of the first byte."""
    part = data[first // 8 : (first + count + 7) // 8]
    return (int.from_bytes(part, "little") >> first % 8) & ((1 << count) - 1)


def unused_bits(data: bytes, first: int) -> int:
    """The bits from bit `first` to the end of its byte; none where a byte begins."""
    return bits(data, first, -first % 8)


def signed(code: int, width: int) -> int:
    """An integer in two's complement."""
    return code - (1 << width) if code >> (width - 1) else code


CRC32C_TABLE = list(range(256))
for _ in range(8):
    CRC32C_TABLE = [(crc >> 1) ^ (0x82F63B78 if crc & 1 else 0) for crc in CRC32C_TABLE]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC32C_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


# ---- 3. The whole file: its bytes, and what the steps of section 13 have found in them so far ----
@dataclass(frozen=True)
class Section:
    row: int  # where its row of the section table begins
    kind: int
    offset: int
    end: int
    index_count: int


@dataclass(frozen=True)
class TensorRow:
    row: int  # where it begins in the file
    adapter: int
    name: str
    dtype: int
    shape: tuple[int, ...]
    tier: int
    codec: int
    kind: int
    exponent: int
    index_number: int
    group: int
    nnz: int
    start: int  # of its values, in the file


@dataclass
class IndexRow:
    codec: int
    rice_bits: int
    block_length: int
    unit_count: int
    element_count: int
    nnz: int
    start: int  # of its stream, in the file that it stands in
    stream: bytes
    find: Finder


@dataclass
class File:
    data: bytes
    tiers: int  # that were asked for
    offered: dict[bytes, list[IndexRow]]  # index tables of other files, by SHA-256
    tier_count: int = 0
    sections: list[Section] = field(default_factory=list)
    index_sections: list[Section] = field(default_factory=list)  # by tier
    values_sections: list[Section] = field(default_factory=list)  # by tier
    adapters: list[Adapter] = field(default_factory=list)
    tensor_counts: list[int] = field(default_factory=list)  # of the adapters
    metadata: list[bytes] = field(default_factory=list)  # of the adapters
    tensors: list[TensorRow] = field(default_factory=list)
    index: list[list[IndexRow]] = field(default_factory=list)  # by tier
    names: set[tuple[int, int]] = field(default_factory=set)  # places of the names before
    names_end: int = 0  # where the newest name ends, in NAMES

    def u32(self, offset: int) -> int:
        return int.from_bytes(self.data[offset : offset + 4], "little")

    def u64(self, offset: int) -> int:
        return int.from_bytes(self.data[offset : offset + 8], "little")


# ---- 4. Header (step 1) --------------------------------------------------------------------------
def check_header(f: File) -> None:
    size = len(f.data)
    require(size >= 8, "TRUNCATED", size)
    require(f.data[:8] == b"\x89SHB\r\n\x1a\n", "BAD_MAGIC", 0)
    require(size >= 12, "TRUNCATED", size)
    require(f.u32(8) & 0xFFFF == 1, "UNSUPPORTED_VERSION", 8)
    require(size >= 256, "TRUNCATED", size)
    require(f.u32(252) == crc32c(f.data[:252]), "HEADER_CHECKSUM", 252)
    require(f.u64(24) == 0, "UNSUPPORTED_FEATURE", 24)
    require(f.u32(12) == 256, "BAD_LAYOUT", 12)
    require(size >= f.u64(16), "TRUNCATED", 16)
    require(size <= f.u64(16), "TRAILING_BYTES", 16)
    section_count, f.tier_count = f.u32(40), f.u32(52)
    require(6 <= section_count <= 64, "BAD_COUNT", 40)
    require(1 <= f.u32(44) <= 1024, "BAD_COUNT", 44)
    require(1 <= f.u32(48) <= 65536, "BAD_COUNT", 48)
    fits = 4 + 2 * f.tier_count <= section_count
    require(1 <= f.tier_count <= 8 and fits, "BAD_COUNT", 52)
    require_zero(f.data, 60, 64)
    require(f.u32(96) in (0, 1), "BAD_ENUM", 96)
    require_zero(f.data, 100, 128)
    if f.u32(96) == 0:
        require_zero(f.data, 128, 224)
    require_zero(f.data, 224, 252)
    require(size >= 256 + 64 * section_count, "TRUNCATED", size)


# ---- 5. Section table (step 2) -------------------------------------------------------------------
INDEX, VALUES, INDEX_REFERENCE = 5, 6, 7


def check_section_table(f: File) -> None:
    table_end = end = 256 + 64 * f.u32(40)
    require(f.u32(56) == crc32c(f.data[256:table_end]), "HEADER_CHECKSUM", 56)
    for number, row in enumerate(range(256, table_end, 64)):
        kind, offset, size = f.u32(row), f.u64(row + 8), f.u64(row + 16)
        tier, index_count = 0, f.u32(row + 28)
        if number < 4:
            known = kind == number + 1
        elif number < 4 + 2 * f.tier_count:
            tier = (number - 4) // 2
            known = kind in (INDEX, INDEX_REFERENCE) if number % 2 == 0 else kind == VALUES
        else:
            known = kind >= 32768
        require(known, "BAD_LAYOUT", row)
        require(offset == align(end, 64), "BAD_LAYOUT", row + 8)
        end = offset + size
        require(size >= 1 and end <= len(f.data), "BAD_LAYOUT", row + 16)
        require(f.u32(row + 24) == tier, "BAD_LAYOUT", row + 24)
        has_index = kind in (INDEX, INDEX_REFERENCE)
        counted = 1 <= index_count <= 65536 if has_index else index_count == 0
        require(counted, "BAD_COUNT", row + 28)
        f.sections.append(Section(row, kind, offset, end, index_count))
    require(end == len(f.data), "BAD_LAYOUT", f.sections[-1].row + 16)
    f.index_sections = f.sections[4 : 4 + 2 * f.tier_count : 2]
    f.values_sections = f.sections[5 : 5 + 2 * f.tier_count : 2]
    end = table_end
    for section in f.sections:
        require_zero(f.data, end, section.offset)
        end = section.end
        crc = crc32c(f.data[section.offset : end])
        require(f.u32(section.row + 4) == crc, "SECTION_CHECKSUM", section.row + 4)


# ---- 6. ADAPTERS (step 3) ------------------------------------------------------------------------
def check_adapters(f: File) -> None:
    section, metadata = f.sections[0], f.sections[3]
    fits = section.end - section.offset == 64 * f.u32(44)
    require(fits, "BAD_LAYOUT", section.row + 16)
    end = metadata.offset
    for number, row in enumerate(range(section.offset, section.end, 64)):
        name = check_name(f, row)
        require(all(name != other.name for other in f.adapters), "BAD_NAME", row)
        require(f.u32(row + 8) == sum(f.tensor_counts), "BAD_COUNT", row + 8)
        f.tensor_counts.append(f.u32(row + 12))
        require(f.tensor_counts[-1] >= 1, "BAD_COUNT", row + 12)
        flags = f.u32(row + 16)
        require(flags <= 1, "RESERVED_NOT_ZERO", row + 16)
        require_zero(f.data, row + 20, row + 24)
        start, size = metadata.offset + f.u32(row + 24), f.u32(row + 28)
        require(start == end, "BAD_LAYOUT", row + 24)
        require(2 <= size <= 1048576, "BAD_METADATA", row + 28)
        end = start + size
        require(end <= metadata.end, "BAD_LAYOUT", row + 28)
        f.metadata.append(f.data[start:end])
        require_zero(f.data, row + 32, row + 64)
        f.adapters.append(Adapter(name, flags == 1, "", [], number, f.data[64:96]))
    require(sum(f.tensor_counts) == f.u32(48), "BAD_COUNT", 48)


# ---- 7. TENSORS (step 4) -------------------------------------------------------------------------
DTYPES = {1: "F32", 2: "F16", 3: "BF16", 4: "I8", 5: "I4"}
KINDS = {0: "target", 1: "delta"}


def check_tensors(f: File) -> None:
    section = f.sections[1]
    fits = section.end - section.offset == 128 * f.u32(48)
    require(fits, "BAD_LAYOUT", section.row + 16)
    owners = (number for number, count in enumerate(f.tensor_counts) for _ in range(count))
    values_end = [section.offset for section in f.values_sections]
    indices_named = [0] * f.tier_count
    newest_row: dict[tuple[int, str], int] = {}  # of each tensor of each adapter
    for row, adapter in zip(range(section.offset, section.end, 128), owners, strict=True):
        tensor = check_tensor_row(f, row, adapter, values_end, indices_named)
        before = f.tensors[-1] if f.tensors else tensor
        if before.adapter == adapter and before is not tensor:
            require(tensor.tier >= before.tier, "BAD_LAYOUT", row + 10)
            # Texts are in the order of their UTF-8 bytes.
            require((tensor.tier, tensor.name) > (before.tier, before.name), "BAD_NAME", row)
        lower = newest_row.get((adapter, tensor.name), row)
        require(common_fields(f, row) == common_fields(f, lower), "BAD_SHAPE", row)
        newest_row[adapter, tensor.name] = row
        f.tensors.append(tensor)
    for tier, index in enumerate(f.index_sections):
        end = values_end[tier]
        require(end == f.values_sections[tier].end, "BAD_LAYOUT", end)
        require(indices_named[tier] == index.index_count, "BAD_LAYOUT", index.row + 28)


def check_tensor_row(
    f: File, row: int, adapter: int, values_end: list[int], indices_named: list[int]
) -> TensorRow:
    name = check_name(f, row)
    dtype, rank, tier = f.data[row + 8], f.data[row + 9], f.data[row + 10]
    codec, kind, flags = f.data[row + 11], f.data[row + 12], f.data[row + 13]
    require(dtype in DTYPES, "BAD_ENUM", row + 8)
    require(1 <= rank <= 8, "BAD_SHAPE", row + 9)
    require(tier < f.tier_count, "BAD_COUNT", row + 10)
    require(codec in VALUE_BITS, "BAD_ENUM", row + 11)
    require(kind in KINDS and kind_is_allowed(kind, dtype, codec), "BAD_ENUM", row + 12)
    require(flags <= 1, "RESERVED_NOT_ZERO", row + 13)
    require((flags == 1) == f.adapters[adapter].bound, "BAD_ENUM", row + 13)
    require(flags == 1 or KINDS[kind] == "delta", "BAD_ENUM", row + 13)
    exponent, limit = signed(f.data[row + 14], 8), 64 if codec in SCALED else 0
    require(-limit <= exponent <= limit, "BAD_VALUE", row + 14)
    require_zero(f.data, row + 15, row + 16)
    number = f.u32(row + 16)
    exists = number < f.index_sections[tier].index_count
    require(exists and number <= indices_named[tier], "BAD_LAYOUT", row + 16)
    indices_named[tier] = max(number + 1, indices_named[tier])
    group = f.u32(row + 20)
    grouped = group % 8 == 0 and group >= 64 if codec in SCALED else group == 0
    require(grouped, "BAD_COUNT", row + 20)
    nnz = f.u64(row + 24)
    require(nnz >= 1, "BAD_COUNT", row + 24)
    values = f.values_sections[tier]
    start = align(values_end[tier], 8)  # in the file: the section begins at a multiple of 64
    require(f.u64(row + 32) == start - values.offset, "BAD_LAYOUT", row + 32)
    require_zero(f.data, values_end[tier], min(start, values.end))
    value_bytes = f.u64(row + 40)
    require(value_bytes == value_stream_size(codec, nnz, group), "BAD_LAYOUT", row + 40)
    values_end[tier] = start + value_bytes
    require(values_end[tier] <= values.end, "BAD_LAYOUT", row + 40)
    require_zero(f.data, row + 48, row + 64)
    dims = [f.u32(row + 64 + 4 * i) for i in range(8)]
    for i, dim in enumerate(dims):
        require(dim >= 1 if i < rank else dim == 0, "BAD_SHAPE", row + 64 + 4 * i)
    shape = tuple(dims[:rank])
    require(math.prod(shape) <= 0xFFFFFFFF, "BAD_SHAPE", row + 64)
    if flags == 0:
        require_zero(f.data, row + 96, row + 128)
    return TensorRow(
        row, adapter, name, dtype, shape, tier, codec, kind, exponent, number, group, nnz, start
    )


def common_fields(f: File, row: int) -> bytes:
    """What the rows of one tensor in several tiers have in common."""
    slices = ((0, 10), (11, 14), (15, 16), (48, 96), (112, 128))
    return b"".join(f.data[row + start : row + end] for start, end in slices)


# ---- 8. NAMES and METADATA (steps 3 to 5) --------------------------------------------------------
def check_name(f: File, row: int) -> str:
    """The name that a row of ADAPTERS or TENSORS begins with."""
    section = f.sections[2]
    offset, size = f.u32(row), f.u32(row + 4)
    require(1 <= size <= 1024, "BAD_NAME", row + 4)
    start = section.offset + offset
    if (offset, size) not in f.names:
        require(offset == f.names_end and start + size <= section.end, "BAD_LAYOUT", row)
        f.names.add((offset, size))
        f.names_end = offset + size
    try:
        name = f.data[start : start + size].decode()
    except UnicodeDecodeError:
        raise RefusedError("BAD_NAME", start) from None
    require(not re.search("[\x00-\x1f\x7f-\x9f]", name), "BAD_NAME", start)
    return name


def check_names_and_metadata(f: File) -> None:
    names, metadata = f.sections[2], f.sections[3]
    end = names.offset + f.names_end
    require(end == names.end, "BAD_LAYOUT", end)
    end = metadata.offset + sum(map(len, f.metadata))
    require(end == metadata.end, "BAD_LAYOUT", end)
    start = metadata.offset
    for adapter, text in zip(f.adapters, f.metadata, strict=True):
        require(is_metadata(text), "BAD_METADATA", start)
        adapter.metadata = text.decode()
        start += len(text)


def is_metadata(text: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    if text[:1] != b"{" or text[-1:] != b"}":
        return False
    try:
        # Numbers may have any size. (Python would take NaN and Infinity for numbers, too.)
        json.loads(text.decode(), parse_int=str, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    brackets = re.findall(rb"[][{}]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text))
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets)) <= 64


# ---- 9. INDEX (steps 6 to 8) ---------------------------------------------------------------------
GAPS8, GAPS16, RICE, RUNS, STRUCT, RANDOM, TOPK = range(1, 8)


def check_index_tables(f: File) -> None:
    """Step 6."""
    for section in f.index_sections:
        is_table = section.kind == INDEX
        f.index.append(check_index_table(f, section) if is_table else find_index(f, section))


def check_index_table(f: File, section: Section) -> list[IndexRow]:
    table = []
    end = section.offset + 48 * section.index_count
    require(end <= section.end, "BAD_LAYOUT", section.row + 16)
    for row in range(section.offset, end, 48):
        codec, rice_bits, length = f.data[row], f.data[row + 1], f.u32(row + 4)
        units, elements, nnz = f.u32(row + 8), f.u64(row + 16), f.u64(row + 24)
        require(1 <= codec <= 7, "BAD_ENUM", row)
        require(codec < STRUCT or f.tier_count == 1, "BAD_ENUM", row)
        require(rice_bits <= (31 if codec == RICE else 0), "BAD_INDEX", row + 1)
        require_zero(f.data, row + 2, row + 4)
        in_blocks = codec in (GAPS8, GAPS16, RICE, RANDOM)
        require(1 <= length <= 1 << 24 if in_blocks else length == 0, "BAD_INDEX", row + 4)
        require(units >= 1, "BAD_COUNT", row + 8)
        require_zero(f.data, row + 12, row + 16)
        require(1 <= elements <= 0xFFFFFFFF, "BAD_SHAPE", row + 16)
        require(1 <= nnz <= elements, "BAD_COUNT", row + 24)
        if in_blocks:
            require(nnz == units * length, "BAD_COUNT", row + 24)
        else:
            require(nnz >= units if codec == RUNS else units == 1, "BAD_COUNT", row + 24)
        start = align(end, 8)
        require(f.u64(row + 32) == start - section.offset, "BAD_LAYOUT", row + 32)
        require_zero(f.data, end, min(start, section.end))
        size = f.u64(row + 40)
        end = start + size
        require(end <= section.end, "BAD_LAYOUT", row + 40)
        in_rice = ceil_div(units * rice_bits, 8) + ceil_div(units, 8)
        least = (units, 2 * units, in_rice, 2 * units, 16, 8, 0)[codec - 1]
        require(size >= least if codec < STRUCT else size == least, "BAD_INDEX", row + 40)
        stream = f.data[start:end]
        found = IndexRow(codec, rice_bits, length, units, elements, nnz, start, stream, list)
        table.append(found)
    require(end == section.end, "BAD_LAYOUT", end)
    return table


def find_index(f: File, section: Section) -> list[IndexRow]:
    """INDEX_REFERENCE: the table of a section of another file, which was checked with that."""
    require(section.end - section.offset == 32, "BAD_LAYOUT", section.row + 16)
    table = f.offered.get(f.data[section.offset : section.end], [])
    require(len(table) > 0, "MISSING_INDEX", section.offset)
    require(len(table) == section.index_count, "BAD_COUNT", section.row + 28)
    explicit = all(row.codec < STRUCT for row in table)
    require(explicit or f.tier_count == 1, "BAD_ENUM", section.offset)
    return table


def check_agreement(f: File) -> None:
    """Step 7."""
    for tensor in f.tensors:
        index, row = f.index[tensor.tier][tensor.index_number], tensor.row
        require(tensor.nnz == index.nnz, "BAD_COUNT", row + 24)
        require(math.prod(tensor.shape) == index.element_count, "BAD_SHAPE", row + 64)
        is_float = tensor.dtype in (F32, F16, BF16)
        require(is_float or index.codec != TOPK, "BAD_ENUM", row + 8)


def check_index_streams(f: File) -> None:
    """Step 8."""
    for section, table in zip(f.index_sections[: f.tiers], f.index[: f.tiers], strict=True):
        if section.kind == INDEX:
            for row in table:
                derived = row.codec in RULES
                row.find = RULES[row.codec](row) if derived else expand(row, UNITS[row.codec](row))


Unit = tuple[int, int, int]  # where it begins in the stream; entries skipped; entries taken


def expand(row: IndexRow, units: Iterable[Unit]) -> Finder:
    """The four codecs with gaps: in entries, a block is a run, and its gap is whole blocks."""
    ranges: list[range] = []
    end = 0
    for begin, gap, length in units:
        ranges.append(range(end + gap, end + gap + length))
        end += gap + length
        require(end <= row.element_count, "BAD_INDEX", row.start + begin)
    require(sum(map(len, ranges)) == row.nnz, "BAD_INDEX", row.start)
    positions = list(chain.from_iterable(ranges))
    return lambda _: positions


def digits(row: IndexRow) -> Iterator[Unit]:
    """GAPS8 and GAPS16."""
    width = 1 if row.codec == GAPS8 else 2
    most = 256**width - 1
    at = 0
    for _ in range(row.unit_count):
        begin, gap, digit = at, 0, most
        while digit == most:
            require(at + width <= len(row.stream), "BAD_INDEX", row.start + begin)
            digit = bits(row.stream, 8 * at, 8 * width)
            gap += digit
            at += width
        yield begin, gap * row.block_length, row.block_length
    require(at == len(row.stream), "BAD_INDEX", row.start + at)


def rice(row: IndexRow) -> Iterator[Unit]:
    """RICE."""
    k, stream = row.rice_bits, row.stream
    low_bytes = ceil_div(row.unit_count * k, 8)
    unused = unused_bits(stream, row.unit_count * k)
    require(unused == 0, "BAD_INDEX", row.start + low_bytes - 1)
    bit = 8 * low_bytes
    for unit in range(row.unit_count):
        begin = bit
        while bit < 8 * len(stream) and bits(stream, bit, 1) == 0:
            bit += 1
        require(bit < 8 * len(stream), "BAD_INDEX", row.start + begin // 8)
        gap = ((bit - begin) << k) + bits(stream, unit * k, k)
        yield begin // 8, gap * row.block_length, row.block_length
        bit += 1
    require(unused_bits(stream, bit) == 0, "BAD_INDEX", row.start + bit // 8)
    end = ceil_div(bit, 8)
    require(end == len(stream), "BAD_INDEX", row.start + end)


def runs(row: IndexRow) -> Iterator[Unit]:
    """RUNS."""
    at = 0
    for unit in range(row.unit_count):
        begin, pair = at, []
        for _ in range(2):
            coded = re.match(rb"[\x80-\xff]{0,4}[\0-\x7f]", row.stream[at : at + 5])
            leb128 = coded[0] if coded else b""
            well_formed = leb128 == b"\0" or leb128[-1:] > b"\0"
            require(well_formed, "BAD_INDEX", row.start + begin)
            number = sum((byte & 127) << (7 * i) for i, byte in enumerate(leb128))
            require(number < 1 << 32, "BAD_INDEX", row.start + begin)
            pair.append(number)
            at += len(leb128)
        gap, length = pair[0], pair[1] + 1
        require(gap > 0 or unit == 0, "BAD_INDEX", row.start + begin)
        yield begin, gap, length
    require(at == len(row.stream), "BAD_INDEX", row.start + at)


def struct_mask(row: IndexRow) -> Finder:
    """STRUCT."""
    parts, reserved, columns, period, phase = struct.unpack("<B3sIII", row.stream)
    well_formed = 1 <= parts <= 7 and not any(reserved) and columns > 0 and phase < period
    well_formed = well_formed and row.element_count % columns == 0
    well_formed = well_formed and (parts != 4 or (period, phase) == (1, 0))
    require(well_formed, "BAD_INDEX", row.start)
    # The rows and the columns of the mask, and its diagonal without what those hold of it.
    row_count = row.element_count // columns
    in_rows = range(phase, row_count, period) if parts & 1 else range(0)
    in_columns = range(phase, columns, period) if parts & 2 else range(0)
    diagonal = min(row_count, columns) if parts & 4 else 0
    held_twice = len(range(phase, diagonal, period)) if parts & 3 else 0
    nnz = len(in_rows) * columns + (row_count - len(in_rows)) * len(in_columns)
    require(nnz + diagonal - held_twice == row.nnz, "BAD_INDEX", row.start)

    def find(_: Sequence[int]) -> list[int]:
        ranges = [range(r * columns, (r + 1) * columns) for r in in_rows]
        ranges += [range(c, row.element_count, columns) for c in in_columns]
        ranges.append(range(0, diagonal * (columns + 1), columns + 1))
        return sorted(set(chain.from_iterable(ranges)))

    return find


def random_mask(row: IndexRow) -> Finder:
    """RANDOM; that unit_count is at most N follows from nnz, which is at most element_count."""
    seed = int.from_bytes(row.stream, "little")
    length, units = row.block_length, row.unit_count
    block_count = row.element_count // length

    def find(_: Sequence[int]) -> list[int]:
        positions: list[int] = []
        for i in range(units):
            first, after = i * block_count // units, (i + 1) * block_count // units
            z = (seed + (i + 1) * 0x9E3779B97F4A7C15) % 2**64
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
            z ^= z >> 31
            block = first + (((z >> 32) * (after - first)) >> 32)
            positions += range(block * length, (block + 1) * length)
        return positions

    return find


def topk_mask(row: IndexRow) -> Finder:
    """TOPK."""

    def find(magnitudes: Sequence[int]) -> list[int]:
        indices = range(row.element_count)
        return sorted(heapq.nsmallest(row.nnz, indices, key=lambda i: (-magnitudes[i], i)))

    return find


UNITS = {GAPS8: digits, GAPS16: digits, RICE: rice, RUNS: runs}
RULES = {STRUCT: struct_mask, RANDOM: random_mask, TOPK: topk_mask}


# ---- 10. Value codecs (step 9) -------------------------------------------------------------------
VALUE_BITS = {1: 32, 2: 16, 3: 16, 4: 8, 5: 4, 6: 8, 7: 4, 8: 2, 9: 1}
F32, F16, BF16, I8, I4, Q8, Q4, Q2, Q1 = VALUE_BITS  # the first five are dtypes, too
SCALED = (Q8, Q4, Q2, Q1)
CODECS = {**DTYPES, Q8: "Q8", Q4: "Q4", Q2: "Q2", Q1: "Q1"}


def kind_is_allowed(kind: int, dtype: int, codec: int) -> bool:
    if KINDS[kind] == "target":
        return codec == dtype
    return dtype in (F32, F16, BF16) and codec not in (I8, I4)


def value_stream_size(codec: int, nnz: int, group: int) -> int:
    scales = ceil_div(nnz, group) if codec in SCALED else 0
    return 2 * scales + ceil_div(nnz * VALUE_BITS[codec], 8)


def check_values(f: File, tensor: TensorRow) -> list[float]:
    codec, nnz, group, start = tensor.codec, tensor.nnz, tensor.group, tensor.start
    width = VALUE_BITS[codec]
    if codec in (F32, F16, BF16):
        floats = read_floats(f, start, codec, nnz)
        for i, value in enumerate(floats):
            require(math.isfinite(value), "BAD_VALUE", start + i * width // 8)
        return floats
    scales = read_floats(f, start, F16, ceil_div(nnz, group)) if codec in SCALED else []
    for i, scale in enumerate(scales):
        is_scale = math.isfinite(scale) and math.copysign(1, scale) == 1
        require(is_scale, "BAD_VALUE", start + 2 * i)
    end = start + value_stream_size(codec, nnz, group)
    stream = f.data[start + 2 * len(scales) : end]
    require(unused_bits(stream, nnz * width) == 0, "RESERVED_NOT_ZERO", end - 1)
    codes = [bits(stream, i * width, width) for i in range(nnz)]
    if codec in (Q2, Q1):
        levels = [2 * code - (2**width - 1) for code in codes]
    else:
        levels = [signed(code, width) for code in codes]
    if codec not in SCALED:
        return [*levels]
    scales = [math.ldexp(scale, tensor.exponent) for scale in scales]
    return [level * scales[i // group] for i, level in enumerate(levels)]


def read_floats(f: File, start: int, codec: int, count: int) -> list[float]:
    stream = f.data[start : start + count * VALUE_BITS[codec] // 8]
    if codec == BF16:  # the upper half of an f32
        stream = b"".join(b"\0\0" + stream[at : at + 2] for at in range(0, 2 * count, 2))
    return list(struct.unpack(f"<{count}{'e' if codec == F16 else 'f'}", stream))


# ---- 11. Meaning ---------------------------------------------------------------------------------
def combine(
    base: Sequence[float], active: Iterable[tuple[Adapter, float]], name: str
) -> list[float]:
    """The weights of the float32 tensor `name` with adapters active, each with its scale.

    The caller has compared the fingerprints with `base` before (section 12).
    """
    base_bits = struct.unpack(f"<{len(base)}I", struct.pack(f"<{len(base)}f", *base))
    terms: dict[int, list[float]] = {}
    targets: dict[int, float] = {}  # of members with scale 1
    for adapter, s in sorted(active, key=lambda m: (m[0].file_digest, m[0].number, m[1])):
        s = to_f32(s)
        for tensor in adapter.tensors:
            if tensor.name != name or s == 0:
                continue
            for position, value in zip(tensor.positions_in(base_bits), tensor.values, strict=True):
                is_target = tensor.value_kind == "target"
                c = to_f32(s * (to_f32(value - base[position]) if is_target else value))
                terms.setdefault(position, []).append(c)
                if is_target and s == 1:
                    targets[position] = value
    weights = list(base)
    for position, c_i in terms.items():
        if len(c_i) == 1 and position in targets:
            weights[position] = targets[position]
        else:
            weights[position] = to_f32(base[position] + reduce(lambda x, y: to_f32(x + y), c_i))
        if not math.isfinite(weights[position]):
            raise OverflowError(f"element {position} of {name} is not finite")
    return weights


def to_f32(x: float) -> float:
    """Rounds one sum or product of float32 values; float64 is wide enough to hide itself."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


# ---- 12. Checksums, identity, signature (after step 2) -------------------------------------------
def check_digests(f: File) -> None:
    for section in f.sections:
        stored = f.data[section.row + 32 : section.row + 64]
        content = f.data[section.offset : section.end]
        require(sha256(content) == stored, "DIGEST_MISMATCH", section.row + 32)
    header = f.data[:64] + bytes(160) + f.data[224:252] + bytes(4)
    table = f.data[256 : 256 + 64 * f.u32(40)]
    require(sha256(header + table) == f.data[64:96], "DIGEST_MISMATCH", 64)


def check_signature(f: File, public_key: bytes, ed25519_verify: Verifier) -> None:
    require(f.u32(96) == 1, "NOT_SIGNED", 96)
    require(f.data[128:160] == public_key, "WRONG_KEY", 128)
    message = b"shb-signature-1\0" + f.data[64:96]
    require(ed25519_verify(public_key, message, f.data[160:224]), "BAD_SIGNATURE", 160)


# ---- 13. Order of checks -------------------------------------------------------------------------
def read(
    data: bytes,
    tiers: int | None = None,
    index_sources: Sequence[bytes] = (),
    *,
    check_sha256: bool = False,
    public_key: bytes | None = None,
    ed25519_verify: Verifier | None = None,
) -> list[Adapter]:
    """The adapters of a file, with their first `tiers` tiers (None: all of them).

    `index_sources` are whole .shb files that INDEX_REFERENCE may mean. A `public_key` demands a
    signature, and `ed25519_verify(public_key, message, signature)` to check it with.
    """
    if tiers is not None and tiers < 1:
        raise ValueError("a reader asks for at least one tier")
    if public_key is not None and ed25519_verify is None:
        raise ValueError("a public key needs ed25519_verify")

    def authenticate(f: File) -> None:
        if check_sha256 or public_key is not None:
            check_digests(f)
        if public_key is not None and ed25519_verify is not None:
            check_signature(f, public_key, ed25519_verify)

    offered: dict[bytes, list[IndexRow]] = {}
    for source in index_sources:
        with contextlib.suppress(RefusedError):  # it then offers nothing
            other = open_file(File(source, 8, offered))
            for section, table in zip(other.index_sections, other.index, strict=True):
                if section.kind == INDEX:
                    offered[sha256(source[section.offset : section.end])] = table
    return open_file(File(data, tiers or 8, offered), authenticate).adapters


def open_file(f: File, authenticate: Callable[[File], None] = lambda f: None) -> File:
    check_header(f)  # step 1
    check_section_table(f)  # step 2
    authenticate(f)
    check_adapters(f)  # step 3
    check_tensors(f)  # step 4
    check_names_and_metadata(f)  # step 5
    check_index_tables(f)  # step 6
    check_agreement(f)  # step 7
    check_index_streams(f)  # step 8
    rows = [row for row in f.tensors if row.tier < f.tiers]
    values = [check_values(f, row) for row in rows]  # step 9
    tensors: dict[tuple[int, str], Tensor] = {}
    for row, row_values in zip(rows, values, strict=True):  # step 10
        lower = tensors.get((row.adapter, row.name))
        tensors[row.adapter, row.name] = join_tiers(f, row, row_values, lower)
    for (adapter, _), tensor in sorted(tensors.items(), key=lambda item: item[0]):
        f.adapters[adapter].tensors.append(tensor)
    return f


def join_tiers(f: File, row: TensorRow, values: list[float], lower: Tensor | None) -> Tensor:
    """The tensor with a row's entries added to those of the lower tiers."""
    index = f.index[row.tier][row.index_number]
    find = index.find
    if lower:
        positions = find(())
        entries = dict(zip(lower.positions, lower.values, strict=True))
        require(entries.keys().isdisjoint(positions), "BAD_INDEX", row.row + 16)
        entries.update(zip(positions, values, strict=True))
        joined = sorted(entries)
        find, values = (lambda _: joined), [entries[position] for position in joined]
    return Tensor(
        row.name,
        DTYPES[row.dtype],
        row.shape,
        CODECS[row.codec],
        KINDS[row.kind],
        find,
        index.codec == TOPK,
        values,
        fingerprint=f.data[row.row + 96 : row.row + 112],
        base_digest=f.data[row.row + 112 : row.row + 128],
    )

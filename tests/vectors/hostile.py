# SPDX-License-Identifier: Apache-2.0
"""The hostile catalogue: one enum of files that each break one rule of docs/FORMAT.md.

A case starts from a valid sample, breaks it in one place and mends all checksums, so that only
the rule it is about can refuse it. It knows the status and the byte offset that every reader has to
report. `Hostile.NAME.build()` makes the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import samples
import shb_writer as shb
from shb_writer import Adapter, Image, Index, Tensor

Place = Callable[[Image], int]


@dataclass(frozen=True)
class Broken:
    """A file that has to be refused, with how and where."""

    data: bytes
    status: str
    offset_bytes: int
    rule: str
    index_sources: tuple[bytes, ...] = ()
    public_key: bytes | None = None


@dataclass(frozen=True)
class Case:
    """How to make a broken file: `make` gives its bytes and the offset to be reported."""

    rule: str
    status: str
    make: Callable[[], tuple[bytes, int]]
    sources: tuple[Callable[[], bytes], ...] = ()
    with_key: bool = False


def key_of_samples() -> bytes:
    return samples.sign_with_test_key(b"")[0]


# --- Places in a file ---


def at(offset: int) -> Place:
    return lambda image: offset


def section(number: int, field: int = 0) -> Place:
    """A field of a row of the section table; negative numbers count from the last."""
    return lambda image: image.section_row(number % image.u32(40)) + field


def content(number: int, offset: int = 0) -> Place:
    return lambda image: image.offset(number) + offset


def end_of(number: int) -> Place:
    return lambda image: image.offset(number) + image.size(number)


def adapter(field: int, number: int = 0) -> Place:
    return lambda image: image.adapter(number) + field


def tensor(field: int, number: int = 0) -> Place:
    return lambda image: image.tensor(number) + field


def index(field: int, number: int = 0, tier: int = 0) -> Place:
    return lambda image: image.index(number, tier) + field


def stream(offset: int = 0, number: int = 0) -> Place:
    return lambda image: image.index_stream(number) + offset


def values(offset: int = 0, number: int = 0) -> Place:
    return lambda image: image.value_stream(number) + offset


# --- Ways to break a file ---


def poke(
    rule: str,
    status: str,
    place: Place,
    number: int,
    width: int,
    base: Callable[[], bytes] = samples.usual,
    *,
    reported: Place | None = None,
    with_key: bool = False,
) -> Case:
    """Overwrite an integer; by default it is also what is reported."""

    def make() -> tuple[bytes, int]:
        image = Image(base())
        image.put(place(image), number % (1 << (8 * width)), width)
        return image.mended(), (reported or place)(Image(base()))

    return Case(rule, status, make, _sources_of(base), with_key)


def change(
    rule: str,
    status: str,
    edit: Callable[[Image], int],
    base: Callable[[], bytes] = samples.usual,
    *,
    mend: Callable[[bytes], bytes] = shb.mend,
    with_key: bool = False,
) -> Case:
    """Change a sample by a function, which gives the offset to be reported."""

    def make() -> tuple[bytes, int]:
        image = Image(base())
        offset = edit(image)
        return mend(image.raw()), offset

    return Case(rule, status, make, _sources_of(base), with_key)


def made(rule: str, status: str, write: Callable[[], bytes], place: Place) -> Case:
    """Write a file that was never valid."""

    def make() -> tuple[bytes, int]:
        data = write()
        return data, place(Image(data))

    return Case(rule, status, make)


def _sources_of(base: Callable[[], bytes]) -> tuple[Callable[[], bytes], ...]:
    return tuple(samples.SAMPLES[name] for name in samples.SOURCES.get(base.__name__, ()))


def raw(data: bytes) -> bytes:
    """Leave the checksums as they are."""
    return data


def cut(size_bytes: int) -> Case:
    """Keep only the beginning of a file."""
    edit = lambda image: _keep(image, size_bytes, size_bytes)  # noqa: E731
    return change("13.1", "TRUNCATED", edit, mend=raw)


def _keep(image: Image, size_bytes: int, reported: int) -> int:
    del image.data[size_bytes:]
    return reported


def _short_file(size_bytes: int) -> Callable[[Image], int]:
    """Shorten the file and declare the new size."""

    def edit(image: Image) -> int:
        del image.data[size_bytes:]
        image.put(16, size_bytes, 8)
        image.data[:] = shb.mend_header(bytes(image.data))
        return size_bytes

    return edit


def _append(extra: bytes, reported: int) -> Callable[[Image], int]:
    def edit(image: Image) -> int:
        image.data += extra
        return reported

    return edit


def _end_at_the_table(image: Image) -> int:
    _short_file(image.section_row(image.u32(40)))(image)
    return image.section_row(0) + 16


def _flip(place: Place, reported: Place) -> Callable[[Image], int]:
    def edit(image: Image) -> int:
        image.data[place(image)] ^= 0x40
        return reported(image)

    return edit


def _resize(number: int, extra: int, reported: Place) -> Callable[[Image], int]:
    """Lengthen (with spaces) or shorten a section; `reported` is taken from the file before."""

    def edit(image: Image) -> int:
        offset = reported(image)
        old = image.content(number)
        image.resize(number, old + b" " * extra if extra > 0 else old[: len(old) + extra])
        return offset

    return edit


def named(text: bytes) -> Callable[[], bytes]:
    """Write a tensor of this name behind one with a usual name."""
    mask = shb.runs_index(9, [(0, 1)])
    tensors = [samples.delta("\x21", mask, shb.F16, 1), samples.delta("w", mask, shb.F16, 1)]
    tensors[1].name = text
    return lambda: shb.write([Adapter("a", tensors)])


def bad_name(text: bytes) -> Case:
    return made("8", "BAD_NAME", named(text), content(2, 2))


def bad_json(text: bytes) -> Case:
    def write() -> bytes:
        mask = shb.runs_index(9, [(0, 1)])
        tensors = [samples.delta("w", mask, shb.F16, 1)]
        return shb.write([Adapter("a", tensors), Adapter("b", tensors, text)])

    return made("8", "BAD_METADATA", write, content(3, 2))


def bad_stream(
    codec: int,
    elements: int,
    nnz: int,
    units: int,
    coded: bytes,
    offset: int,
    *,
    block_length: int = 0,
    rice_bits: int = 0,
) -> Case:
    """Write one tensor whose index stream is wrong from byte `offset` on."""
    mask = Index(codec, elements, nnz, units, coded, block_length, rice_bits)
    write = lambda: samples.one_tensor(mask, shb.F16)  # noqa: E731
    return made("9", "BAD_INDEX", write, stream(offset))


def bad_size(codec: int, units: int, coded: bytes, *, rice_bits: int = 0) -> Case:
    """Write one tensor whose index stream cannot hold its units or has the wrong size."""
    mask = Index(codec, 100, units, units, coded, int(codec in (1, 2, 3, 6)), rice_bits)
    write = lambda: samples.one_tensor(mask, shb.F16)  # noqa: E731
    return made("9", "BAD_INDEX", write, index(40))


def bad_struct(
    parts: int, columns: int, period: int, phase: int, nnz: int, reserved: int = 0
) -> Case:
    coded = struct.pack("<BBHIII", parts, reserved, 0, columns, period, phase)
    return bad_stream(shb.STRUCT, 24, nnz, 1, coded, 0)


def bad_values(
    codec: int, coded: bytes, nnz: int, status: str, offset: int, group: int = 0
) -> Case:
    """Write one tensor whose value stream is wrong at byte `offset`."""

    def write() -> bytes:
        mask = shb.runs_index(200, [(0, nnz)])
        dtype = codec if codec in (shb.I8, shb.I4) else shb.F32
        kind = shb.TARGET if dtype != shb.F32 else shb.DELTA
        fields = {"dtype": dtype, "value_kind": kind, "value_group": group}
        row = Tensor("w", mask, codec, coded, **fields)
        if kind == shb.TARGET:
            row.fingerprint = row.base_digest = bytes(16)
        return shb.write([Adapter("a", [row])])

    return made("10", status, write, values(offset))


def rows(tensors: Sequence[Tensor], tier_count: int = 1) -> Callable[[], bytes]:
    return lambda: shb.write([Adapter("a", list(tensors))], tier_count=tier_count)


def delta(
    name: str, codec: int = shb.F16, *, start: int = 0, tier: int = 0, **fields: int
) -> Tensor:
    """Make a row of three deltas at `start`."""
    mask = shb.runs_index(60, [(start, 3)])
    return samples.delta(name, mask, codec, 1, tier=tier, **fields)


def _strip_fingerprints(image: Image) -> int:
    """Make `usual` unbound, which its target values forbid."""
    image.put(image.adapter() + 16, 0, 4)
    for number in range(3):
        image.put(image.tensor(number) + 13, 0, 1)
        image.put_bytes(image.tensor(number) + 96, bytes(32))
    return image.tensor() + 13


def _wrapping_tensor_counts(image: Image) -> int:
    """Let three counts sum to the right number modulo 2^32."""
    image.put(image.adapter(0) + 12, 2**32 - 1, 4)
    image.put(image.adapter(1) + 8, 2**32 - 1, 4)
    image.put(image.adapter(1) + 12, 1, 4)
    image.put(image.adapter(2) + 8, 0, 4)
    return image.adapter(2) + 8


def _one_tensor_too_many(image: Image) -> int:
    image.put(image.adapter(2) + 12, 3, 4)
    return 48


def _no_tensors_or_tiers(image: Image) -> int:
    image.put(48, 0, 4)
    image.put(52, 0, 4)
    return 48


def _same_name_by_place(image: Image) -> int:
    image.put_bytes(image.adapter(1), bytes(image.data[image.adapter(0) : image.adapter(0) + 8]))
    return image.adapter(1)


def _shared_by_number(image: Image) -> int:
    """Leave the last row of the index table without a user."""
    image.put(image.tensor(1) + 16, 0, 4)
    image.put(image.tensor(2) + 16, 1, 4)
    return image.section_row(4) + 28


def _fewer_positions(image: Image) -> int:
    """Let the last index row have one position less than its tensor has entries."""
    row = image.index(2)
    image.put(row + 8, 29, 4)
    image.put(row + 24, 29, 8)
    return image.tensor(2) + 24


def _wrapping_value_bytes(image: Image) -> int:
    """Let nnz x 4 be the right size modulo 2^64."""
    image.put(image.tensor() + 24, 2**62 + 30, 8)
    return image.tensor() + 40


def _wrong_sha256(number: int) -> Callable[[Image], int]:
    def edit(image: Image) -> int:
        place = image.section_row(number) + 32
        image.data[place] ^= 1
        table = bytes(image.data[256 : image.section_row(image.u32(40))])
        image.put(56, shb.google_crc32c.value(table), 4)
        return place

    return edit


def _wrong_dtype_for_top() -> bytes:
    row = Tensor("w", shb.top_index(30, 3), shb.I8, bytes(3), dtype=shb.I8, value_kind=shb.TARGET)
    row.fingerprint = row.base_digest = bytes(16)
    return shb.write([Adapter("a", [row])])


def _reference_with(digest: bytes, count: int = 2) -> Callable[[Image], int]:
    def edit(image: Image) -> int:
        image.resize(4, digest)
        image.put(image.section_row(4) + 28, count, 4)
        return image.offset(4)

    return edit


def _two_adapters_of_one_name() -> bytes:
    return shb.write([Adapter("a", [delta("w")]), Adapter("a", [delta("w")])], repeat_names=False)


def _name_stored_per_tier() -> bytes:
    tensors = [delta("w", tier=0), delta("w", start=9, tier=1)]
    return shb.write([Adapter("a", tensors)], tier_count=2, repeat_names=False)


def _derived_in_tiers() -> bytes:
    mask = shb.struct_index(60, 1, 10, 6, 0)
    return rows([samples.delta("v", mask, shb.F16, 1), delta("w", tier=1)], 2)()


def _derived_reference_in_tiers() -> tuple[bytes, int]:
    tensors = [
        samples.delta("v", shb.random_index(60, 5, 1), shb.F16, 1),
        delta("w", tier=1),
    ]
    digest = samples.index_sha256(samples.random_source())
    data = shb.write([Adapter("a", tensors)], tier_count=2, references={0: digest})
    return data, Image(data).offset(4)


def _struct_reference_in_tiers() -> tuple[bytes, int]:
    tensors = [delta("z", tier=1)]
    tensors[:0] = [
        samples.delta(f"t{i}", mask, shb.Q8, 450 + i)
        for i, mask in enumerate(samples.struct_indices())
    ]
    digest = samples.index_sha256(samples.struct_masks())
    data = shb.write([Adapter("a", tensors)], tier_count=2, references={0: digest})
    return data, Image(data).offset(4)


def _missing_upper_reference() -> bytes:
    """Tier 1 refers to a file that nobody has; it is missed even by who asks for tier 0."""
    return shb.write(
        [Adapter("a", [delta("w"), delta("w", start=9, tier=1)])],
        tier_count=2,
        references={1: bytes(32)},
    )


U32, U64 = 2**32, 2**64
NAN, INF = 0x7FC00000, 0x7F800000


class Hostile(Enum):
    """Every case, in the order of the rules; the comment of a group names what it is about."""

    # 13.1: too short for the parts that are looked at first
    EMPTY = cut(0)
    ONE_BYTE = cut(1)
    MAGIC_CUT = cut(7)
    MAGIC_ONLY = cut(8)
    VERSION_CUT = cut(11)
    VERSION_ONLY = cut(12)
    HEADER_CUT = cut(255)
    CUT_BEHIND_HEADER = change("4", "TRUNCATED", lambda f: _keep(f, 256, 16), mend=raw)
    SECTION_TABLE_CUT = change("13.1", "TRUNCATED", _short_file(256 + 64 * 6 - 1), mend=raw)
    HEADER_ONLY = change("13.1", "TRUNCATED", _short_file(256), mend=raw)
    SECTIONS_CUT = change("5", "BAD_LAYOUT", _end_at_the_table, mend=raw)

    # 4: the header
    MAGIC_OF_ZIP = poke("4", "BAD_MAGIC", at(0), 0x04034B50, 4)
    MAGIC_REVERSED = poke("4", "BAD_MAGIC", at(0), 0x89534842_0D0A1A0A, 8)
    MAGIC_IN_TEXT_MODE = poke("4", "BAD_MAGIC", at(4), 0x000A1A0A, 4, reported=at(0))
    MAGIC_SEVEN_BITS = poke("4", "BAD_MAGIC", at(0), 0x09, 1)
    VERSION_0 = poke("4", "UNSUPPORTED_VERSION", at(8), 0, 2)
    VERSION_2 = poke("4", "UNSUPPORTED_VERSION", at(8), 2, 2)
    VERSION_BIG_ENDIAN = poke("4", "UNSUPPORTED_VERSION", at(8), 0x0100, 2)
    VERSION_BEFORE_CHECKSUM = change("13.1", "UNSUPPORTED_VERSION", _flip(at(8), at(8)), mend=raw)
    HEADER_CRC = change("4", "HEADER_CHECKSUM", _flip(at(252), at(252)), mend=raw)
    HEADER_BIT = change("4", "HEADER_CHECKSUM", _flip(at(130), at(252)), mend=raw)
    FEATURE_BIT_0 = poke("4", "UNSUPPORTED_FEATURE", at(24), 1, 8)
    FEATURE_BIT_63 = poke("4", "UNSUPPORTED_FEATURE", at(24), 2**63, 8)
    FEATURE_BEFORE_LAYOUT = poke(
        "14", "UNSUPPORTED_FEATURE", at(12), 512 + (2**64 << 32) + (1 << 96), 20, reported=at(24)
    )
    HEADER_BYTES_0 = poke("4", "BAD_LAYOUT", at(12), 0, 4)
    HEADER_BYTES_255 = poke("4", "BAD_LAYOUT", at(12), 255, 4)
    HEADER_BYTES_MOST = poke("4", "BAD_LAYOUT", at(12), U32 - 1, 4)
    FILE_BYTES_0 = poke("4", "TRAILING_BYTES", at(16), 0, 8)
    FILE_BYTES_2_63 = poke("4", "TRUNCATED", at(16), 2**63, 8)
    FILE_BYTES_MOST = poke("4", "TRUNCATED", at(16), U64 - 1, 8)
    LAST_BYTE_MISSING = change("4", "TRUNCATED", lambda f: _keep(f, -1, 16), mend=raw)
    BYTE_APPENDED = change("4", "TRAILING_BYTES", _append(b"\0", 16), mend=raw)
    PAGE_APPENDED = change("4", "TRAILING_BYTES", _append(bytes(4096), 16), mend=raw)
    ZIP_APPENDED = change("4", "TRAILING_BYTES", _append(b"PK\5\6" + bytes(18), 16), mend=raw)
    SECTION_COUNT_0 = poke("4", "BAD_COUNT", at(40), 0, 4)
    SECTION_COUNT_5 = poke("4", "BAD_COUNT", at(40), 5, 4)
    SECTION_COUNT_65 = poke("4", "BAD_COUNT", at(40), 65, 4)
    SECTION_COUNT_WRAPS = poke("4", "BAD_COUNT", at(40), 2**26 + 6, 4)
    SECTION_COUNT_MOST = poke("4", "BAD_COUNT", at(40), U32 - 1, 4)
    ADAPTER_COUNT_0 = poke("4", "BAD_COUNT", at(44), 0, 4)
    ADAPTER_COUNT_1025 = poke("4", "BAD_COUNT", at(44), 1025, 4)
    ADAPTER_COUNT_WRAPS = poke("4", "BAD_COUNT", at(44), 2**26 + 1, 4)
    TENSOR_COUNT_0 = poke("4", "BAD_COUNT", at(48), 0, 4)
    TENSOR_COUNT_65537 = poke("4", "BAD_COUNT", at(48), 65_537, 4)
    TENSOR_COUNT_WRAPS = poke("4", "BAD_COUNT", at(48), 2**25 + 3, 4)
    TIER_COUNT_0 = poke("4", "BAD_COUNT", at(52), 0, 4)
    TIER_COUNT_9 = poke("4", "BAD_COUNT", at(52), 9, 4, samples.most_sections)
    TIER_COUNT_WRAPS = poke("4", "BAD_COUNT", at(52), 2**31 + 1, 4)
    TIER_COUNT_ABOVE_SECTIONS = poke("4", "BAD_COUNT", at(52), 2, 4)
    RESERVED_60 = poke("4", "RESERVED_NOT_ZERO", at(60), 1, 1)
    RESERVED_63 = poke("4", "RESERVED_NOT_ZERO", at(63), 0x80, 1)
    SIGNATURE_KIND_2 = poke("4", "BAD_ENUM", at(96), 2, 4)
    RESERVED_100 = poke("4", "RESERVED_NOT_ZERO", at(100), 1, 1)
    RESERVED_127 = poke("4", "RESERVED_NOT_ZERO", at(127), 1, 1, samples.signed)
    KEY_WHEN_UNSIGNED = poke("4", "RESERVED_NOT_ZERO", at(159), 7, 1)
    SIGNATURE_WHEN_UNSIGNED = poke("4", "RESERVED_NOT_ZERO", at(223), 7, 1)
    RESERVED_224 = poke("4", "RESERVED_NOT_ZERO", at(224), 1, 1)
    RESERVED_251 = poke("4", "RESERVED_NOT_ZERO", at(251), 1, 1, samples.signed)

    # 5: the section table
    TABLE_CRC = change("5", "HEADER_CHECKSUM", _flip(at(300), at(56)), mend=shb.mend_header)
    KIND_0 = poke("5", "BAD_LAYOUT", section(0), 0, 4)
    KINDS_OUT_OF_ORDER = poke("5", "BAD_LAYOUT", section(1), shb.NAMES, 4)
    KIND_VALUES_FOR_INDEX = poke("5", "BAD_LAYOUT", section(4), shb.VALUES, 4)
    KIND_REFERENCE_FOR_VALUES = poke("5", "BAD_LAYOUT", section(5), shb.INDEX_REFERENCE, 4)
    KIND_UNKNOWN_REQUIRED = poke("5", "BAD_LAYOUT", section(6), 8, 4, samples.optional_sections)
    KIND_32767 = poke("5", "BAD_LAYOUT", section(6), 32_767, 4, samples.optional_sections)
    KIND_OPTIONAL_FOR_VALUES = poke("5", "BAD_LAYOUT", section(5), 40_000, 4)
    OFFSET_OF_FIRST = poke("5", "BAD_LAYOUT", section(0, 8), 256, 8)
    OFFSET_LEAVES_GAP = poke("5", "BAD_LAYOUT", section(5, 8), 64 * 1000, 8)
    OFFSET_UNALIGNED = poke("5", "BAD_LAYOUT", section(1, 8), 704 + 8, 8)
    OFFSET_OVERLAPS = poke("5", "BAD_LAYOUT", section(2, 8), 704, 8)
    OFFSET_WRAPS = poke("5", "BAD_LAYOUT", section(3, 8), U64 - 64, 8)
    SECTION_EMPTY = poke("5", "BAD_LAYOUT", section(2, 16), 0, 8)
    SECTION_OUTSIDE = poke("5", "BAD_LAYOUT", section(0, 16), 10**6, 8)
    SECTION_WRAPS = poke("5", "BAD_LAYOUT", section(5, 16), U64 - 1, 8)
    SECTION_WRAPS_TO_ITSELF = poke("5", "BAD_LAYOUT", section(0, 16), U64 - 640 + 100, 8)
    LAST_SECTION_LONG = change("5", "BAD_LAYOUT", lambda f: _lengthen(f, 1))
    LAST_SECTION_SHORT = change("5", "BAD_LAYOUT", lambda f: _lengthen(f, -1))
    TIER_OF_NAMES = poke("5", "BAD_LAYOUT", section(2, 24), 1, 4)
    TIER_OF_INDEX = poke("5", "BAD_LAYOUT", section(6, 24), 0, 4, samples.tiers)
    TIER_OF_VALUES = poke("5", "BAD_LAYOUT", section(5, 24), 1, 4, samples.tiers)
    TIER_OF_OPTIONAL = poke("5", "BAD_LAYOUT", section(-1, 24), 1, 4, samples.optional_sections)
    INDEX_COUNT_0 = poke("5", "BAD_COUNT", section(4, 28), 0, 4)
    INDEX_COUNT_65537 = poke("5", "BAD_COUNT", section(4, 28), 65_537, 4)
    INDEX_COUNT_OF_VALUES = poke("5", "BAD_COUNT", section(5, 28), 1, 4)
    INDEX_COUNT_OF_OPTIONAL = poke(
        "5", "BAD_COUNT", section(-1, 28), 1, 4, samples.optional_sections
    )
    PADDING_OF_SECTIONS = poke("3", "RESERVED_NOT_ZERO", end_of(2), 1, 1)
    PADDING_LAST_BYTE = poke("3", "RESERVED_NOT_ZERO", content(4, -1), 0x80, 1)
    CRC_OF_ADAPTERS = change("5", "SECTION_CHECKSUM", _flip(content(0), section(0, 4)), mend=raw)
    CRC_OF_NAMES = change("5", "SECTION_CHECKSUM", _flip(content(2), section(2, 4)), mend=raw)
    CRC_OF_VALUES = change("5", "SECTION_CHECKSUM", _flip(values(), section(5, 4)), mend=raw)
    CRC_OF_OPTIONAL = change(
        "5",
        "SECTION_CHECKSUM",
        _flip(content(8), section(8, 4)),
        samples.optional_sections,
        mend=raw,
    )
    CRC_OF_UNREAD_TIER = change(
        "5", "SECTION_CHECKSUM", _flip(content(9), section(9, 4)), samples.tiers, mend=raw
    )

    # 6: ADAPTERS
    ADAPTERS_LONG = change("6", "BAD_LAYOUT", _resize(0, 64, section(0, 16)))
    ADAPTERS_SHORT = change("6", "BAD_LAYOUT", _resize(0, -1, section(0, 16)))
    ADAPTER_NAME_EMPTY = poke("6", "BAD_NAME", adapter(4), 0, 4)
    ADAPTER_NAME_1025 = poke("6", "BAD_NAME", adapter(4), 1025, 4, samples.names)
    ADAPTER_NAME_PLACE = poke("8", "BAD_LAYOUT", adapter(0), 1, 4)
    ADAPTER_NAME_OUTSIDE = poke("8", "BAD_LAYOUT", adapter(4), 1000, 4, reported=adapter(0))
    ADAPTER_NAME_WRAPS = poke("8", "BAD_LAYOUT", adapter(0), U32 - 3, 4)
    ADAPTER_NAME_TWICE = change("6", "BAD_NAME", _same_name_by_place, samples.pack_shared)
    ADAPTER_NAME_STORED_TWICE = made("6", "BAD_NAME", _two_adapters_of_one_name, adapter(0, 1))
    ADAPTER_NAME_CONTROL = poke("8", "BAD_NAME", content(2, 1), 0, 1, reported=content(2))
    FIRST_TENSOR = poke("6", "BAD_COUNT", adapter(8), 1, 4)
    FIRST_TENSOR_OF_SECOND = poke("6", "BAD_COUNT", adapter(8, 1), 1, 4, samples.pack_shared)
    ADAPTER_WITHOUT_TENSORS = poke("6", "BAD_COUNT", adapter(12), 0, 4)
    TENSOR_COUNTS_SUM_LOW = poke("6", "BAD_COUNT", adapter(12), 2, 4, reported=at(48))
    TENSOR_COUNTS_SUM_HIGH = change("6", "BAD_COUNT", _one_tensor_too_many, samples.pack_shared)
    TENSOR_COUNTS_WRAP = change("6", "BAD_COUNT", _wrapping_tensor_counts, samples.pack_shared)
    ADAPTER_FLAG_1 = poke("6", "RESERVED_NOT_ZERO", adapter(16), 3, 4)
    ADAPTER_FLAG_1_ALONE = poke("6", "RESERVED_NOT_ZERO", adapter(16), 2, 4)
    ADAPTER_FLAG_31 = poke("6", "RESERVED_NOT_ZERO", adapter(19), 0x80, 1, reported=adapter(16))
    ADAPTER_RESERVED_23 = poke("6", "RESERVED_NOT_ZERO", adapter(23), 1, 1)
    METADATA_PLACE = poke("6", "BAD_LAYOUT", adapter(24), 1, 4)
    METADATA_SHARED = poke("6", "BAD_LAYOUT", adapter(24, 1), 0, 4, samples.pack_shared)
    METADATA_OF_1_BYTE = poke("6", "BAD_METADATA", adapter(28), 1, 4)
    METADATA_ABOVE_1_MIB = poke("6", "BAD_METADATA", adapter(28), (1 << 20) + 1, 4)
    METADATA_OUTSIDE = poke("6", "BAD_LAYOUT", adapter(28), 1 << 20, 4)
    ADAPTER_RESERVED_32 = poke("6", "RESERVED_NOT_ZERO", adapter(32), 1, 1)
    ADAPTER_RESERVED_63 = poke("6", "RESERVED_NOT_ZERO", adapter(63), 1, 1)

    # 7: TENSORS
    TENSORS_LONG = change("7", "BAD_LAYOUT", _resize(1, 128, section(1, 16)))
    TENSORS_SHORT = change("7", "BAD_LAYOUT", _resize(1, -128, section(1, 16)))
    TENSOR_NAME_EMPTY = poke("7", "BAD_NAME", tensor(4), 0, 4)
    TENSOR_NAME_MOST = poke("7", "BAD_NAME", tensor(4), U32 - 1, 4)
    TENSOR_NAME_PART_OF_OTHER = poke("8", "BAD_LAYOUT", tensor(0, 1), 7, 4)
    TENSOR_NAME_PREFIX_OF_OTHER = poke("8", "BAD_LAYOUT", tensor(0), 0, 4)
    TENSOR_NAME_OUTSIDE = poke("8", "BAD_LAYOUT", tensor(4, 2), 16, 4, reported=tensor(0, 2))
    DTYPE_0 = poke("7", "BAD_ENUM", tensor(8), 0, 1)
    DTYPE_6 = poke("7", "BAD_ENUM", tensor(8), 6, 1)
    RANK_0 = poke("7", "BAD_SHAPE", tensor(9), 0, 1)
    RANK_9 = poke("7", "BAD_SHAPE", tensor(9), 9, 1)
    TIER_1_OF_1 = poke("7", "BAD_COUNT", tensor(10), 1, 1)
    TIER_255 = poke("7", "BAD_COUNT", tensor(10), 255, 1, samples.tiers_most)
    VALUE_CODEC_0 = poke("7", "BAD_ENUM", tensor(11), 0, 1)
    VALUE_CODEC_10 = poke("7", "BAD_ENUM", tensor(11), 10, 1)
    VALUE_KIND_2 = poke("7", "BAD_ENUM", tensor(12), 2, 1)
    TARGET_IN_OTHER_DTYPE = poke("10", "BAD_ENUM", tensor(11), shb.F16, 1, reported=tensor(12))
    TARGET_SCALED = poke("10", "BAD_ENUM", tensor(11), shb.Q8, 1, reported=tensor(12))
    DELTA_OF_CODES = poke("10", "BAD_ENUM", tensor(12), 1, 1, samples.integer_codes)
    DELTA_IN_I8 = poke(
        "10", "BAD_ENUM", tensor(11), shb.I8, 1, samples.unbound, reported=tensor(12)
    )
    TENSOR_FLAG_1 = poke("7", "RESERVED_NOT_ZERO", tensor(13), 3, 1)
    FINGERPRINT_IN_UNBOUND = poke("7", "BAD_ENUM", tensor(13, 1), 1, 1, samples.unbound)
    NO_FINGERPRINT_IN_BOUND = poke("7", "BAD_ENUM", tensor(13, 2), 0, 1)
    TARGET_IN_UNBOUND = change("7", "BAD_ENUM", _strip_fingerprints)
    EXPONENT_OF_F32 = poke("7", "BAD_VALUE", tensor(14), 1, 1)
    EXPONENT_65 = poke("7", "BAD_VALUE", tensor(14), 65, 1, samples.scaled_q4)
    EXPONENT_MINUS_65 = poke("7", "BAD_VALUE", tensor(14), -65, 1, samples.scaled_q1)
    EXPONENT_MINUS_128 = poke("7", "BAD_VALUE", tensor(14), -128, 1, samples.scaled_q8)
    TENSOR_RESERVED_15 = poke("7", "RESERVED_NOT_ZERO", tensor(15), 1, 1)
    FIRST_INDEX_NUMBER_1 = poke("9", "BAD_LAYOUT", tensor(16), 1, 4)
    INDEX_NUMBER_SKIPS = poke("9", "BAD_LAYOUT", tensor(16, 1), 2, 4)
    INDEX_NUMBER_OUTSIDE = poke("9", "BAD_LAYOUT", tensor(16, 1), 1, 4, samples.pack_shared)
    INDEX_NUMBER_MOST = poke("9", "BAD_LAYOUT", tensor(16, 2), U32 - 1, 4)
    VALUE_GROUP_OF_F32 = poke("7", "BAD_COUNT", tensor(20), 64, 4)
    VALUE_GROUP_0 = poke("7", "BAD_COUNT", tensor(20), 0, 4, samples.scaled_q4)
    VALUE_GROUP_56 = poke("7", "BAD_COUNT", tensor(20), 56, 4, samples.scaled_q2)
    VALUE_GROUP_68 = poke("7", "BAD_COUNT", tensor(20), 68, 4, samples.scaled_q1)
    NNZ_0 = poke("7", "BAD_COUNT", tensor(24), 0, 8)
    NNZ_ABOVE_POSITIONS = change("7", "BAD_COUNT", _fewer_positions)
    VALUE_OFFSET = poke("7", "BAD_LAYOUT", tensor(32), 8, 8)
    VALUE_OFFSET_OVERLAPS = poke("7", "BAD_LAYOUT", tensor(32, 1), 0, 8)
    VALUE_OFFSET_UNALIGNED = poke("7", "BAD_LAYOUT", tensor(32, 1), 124, 8)
    VALUE_OFFSET_BEHIND_SECTION = change("7", "BAD_LAYOUT", lambda f: _cut_values(f, 62))
    VALUE_OFFSET_AT_SECTION_END = change("7", "BAD_LAYOUT", lambda f: _cut_values(f, 64))
    VALUE_PADDING = poke("7", "RESERVED_NOT_ZERO", values(2, 0), 1, 1, samples.one_element_f16)
    VALUE_BYTES_LONG = poke("7", "BAD_LAYOUT", tensor(40), 121, 8)
    VALUE_BYTES_WRAP = change("7", "BAD_LAYOUT", _wrapping_value_bytes)
    VALUES_OUTSIDE = change("7", "BAD_LAYOUT", lambda f: _resize(5, -1, tensor(40, 2))(f))
    TENSOR_RESERVED_48 = poke("7", "RESERVED_NOT_ZERO", tensor(48), 1, 1)
    TENSOR_RESERVED_63 = poke("7", "RESERVED_NOT_ZERO", tensor(63, 2), 1, 1)
    DIMENSION_0 = poke("7", "BAD_SHAPE", tensor(68), 0, 4)
    DIMENSION_BEHIND_RANK = poke("7", "BAD_SHAPE", tensor(92), 1, 4)
    SHAPE_OF_2_32 = poke("7", "BAD_SHAPE", tensor(64), 2**16 + (2**16 << 32), 8)
    SHAPE_PRODUCT_WRAPS = poke("7", "BAD_SHAPE", tensor(64), 2**31 * (1 + U32), 8)
    SHAPE_OF_OTHER_COUNT = poke("7", "BAD_SHAPE", tensor(68), 25, 4, reported=tensor(64))
    FINGERPRINT_WHEN_UNBOUND = poke("7", "RESERVED_NOT_ZERO", tensor(111), 1, 1, samples.unbound)
    BASE_DIGEST_WHEN_UNBOUND = poke("7", "RESERVED_NOT_ZERO", tensor(112), 1, 1, samples.unbound)
    TIERS_DESCEND = made(
        "7", "BAD_LAYOUT", rows([delta("v", tier=1), delta("w")], 2), tensor(10, 1)
    )
    NAMES_DESCEND = made("7", "BAD_NAME", rows([delta("w"), delta("v")]), tensor(0, 1))
    TENSOR_TWICE = made("7", "BAD_NAME", rows([delta("w"), delta("w", start=9)]), tensor(0, 1))
    NAME_BEHIND_ITS_EXTENSION = made(
        "7", "BAD_NAME", rows([delta("w.x"), delta("w")]), tensor(0, 1)
    )
    TIERS_DIFFER_IN_DTYPE = made(
        "7",
        "BAD_SHAPE",
        rows([delta("w"), delta("w", start=9, tier=1, dtype=shb.F16)], 2),
        tensor(0, 1),
    )
    TIERS_DIFFER_IN_CODEC = made(
        "7", "BAD_SHAPE", rows([delta("w"), delta("w", shb.F32, start=9, tier=1)], 2), tensor(0, 1)
    )
    TIERS_DIFFER_IN_SHAPE = made(
        "7",
        "BAD_SHAPE",
        lambda: rows([delta("w"), _shaped(delta("w", start=9, tier=1), (6, 10))], 2)(),
        tensor(0, 1),
    )
    TIERS_DIFFER_IN_BASE_DIGEST = poke(
        "7", "BAD_SHAPE", tensor(112, 2), 5, 1, samples.tiers, reported=tensor(0, 2)
    )
    TIERS_DIFFER_IN_NAME_PLACE = made("7", "BAD_SHAPE", _name_stored_per_tier, tensor(0, 1))
    TIER_OF_ONE_DIFFERS_ABOVE_A_GAP = poke(
        "7", "BAD_SHAPE", tensor(127, 3), 5, 1, samples.tiers, reported=tensor(0, 3)
    )
    VALUES_LONG = change("7", "BAD_LAYOUT", _resize(5, 1, end_of(5)))
    VALUES_OF_LOWER_TIER_LONG = change("7", "BAD_LAYOUT", _resize(5, 8, end_of(5)), samples.tiers)
    TIER_WITHOUT_ROWS = made("7", "BAD_LAYOUT", lambda: _tier_without_rows(), content(7))
    INDEX_ROW_UNUSED = change("9", "BAD_LAYOUT", _shared_by_number)

    # 8: NAMES and METADATA
    NAME_NUL = bad_name(b"a\0b")
    NAME_NEWLINE = bad_name(b"a\nb")
    NAME_DELETE = bad_name(b"a\x7fb")
    NAME_C1_CONTROL = bad_name("a\x9bb".encode())
    NAME_LONE_CONTINUATION = bad_name(b"a\x80")
    NAME_OVERLONG = bad_name(b"a\xc0\xafb")
    NAME_OVERLONG_3 = bad_name(b"\xe0\x80\xaf")
    NAME_SURROGATE = bad_name(b"\xed\xa0\x80")
    NAME_ABOVE_10FFFF = bad_name(b"\xf4\x90\x80\x80")
    NAME_CUT = bad_name(b"ab\xe9\x87")
    NAME_LATIN_1 = bad_name(b"gr\xf6\xdfe")
    NAMES_LONG = change("8", "BAD_LAYOUT", _resize(2, 1, end_of(2)))
    METADATA_LONG = change("8", "BAD_LAYOUT", _resize(3, 1, end_of(3)))
    JSON_ARRAY = bad_json(b"[]")
    JSON_TWO_OBJECTS = bad_json(b"{}{}")
    JSON_BARE_KEY = bad_json(b"{a:1}")
    JSON_SINGLE_QUOTES = bad_json(b"{'a':1}")
    JSON_TRAILING_COMMA = bad_json(b'{"a":1,}')
    JSON_NAN = bad_json(b'{"a":NaN}')
    JSON_MINUS_INFINITY = bad_json(b'{"a":-Infinity}')
    JSON_LEADING_ZERO = bad_json(b'{"a":01}')
    JSON_LEADING_PLUS = bad_json(b'{"a":+1}')
    JSON_BARE_DOT = bad_json(b'{"a":1.}')
    JSON_HEX = bad_json(b'{"a":0x1}')
    JSON_COMMENT = bad_json(b'{"a":1/**/}')
    JSON_RAW_NEWLINE = bad_json(b'{"a":"\n"}')
    JSON_RAW_NUL = bad_json(b'{"a":"\0"}')
    JSON_BAD_ESCAPE = bad_json(b'{"a":"\\x41"}')
    JSON_SHORT_ESCAPE = bad_json(b'{"a":"\\u12"}')
    JSON_UNTERMINATED = bad_json(b'{"a":"}')
    JSON_BAD_UTF8 = bad_json(b'{"a":"\xff"}')
    JSON_UTF8_SURROGATE = bad_json(b'{"a":"\xed\xa0\x80"}')
    JSON_BYTE_ORDER_MARK = bad_json(b"\xef\xbb\xbf{}")
    JSON_LEADING_SPACE = bad_json(b" {}")
    JSON_TRAILING_SPACE = bad_json(b"{} ")
    JSON_FORM_FEED = bad_json(b"{\x0c}")
    JSON_DEPTH_65 = bad_json(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}")
    JSON_DEPTH_20000 = bad_json(b'{"a":' + b"[" * 20_000 + b"}")
    JSON_CROSSED = bad_json(b'{"a":[}]}')

    # 9: the index table
    INDEX_TABLE_CUT = change("9", "BAD_LAYOUT", lambda f: _resize_to(f, 4, 47), samples.gaps8_long)
    INDEX_CODEC_0 = poke("9", "BAD_ENUM", index(0), 0, 1)
    INDEX_CODEC_8 = poke("9", "BAD_ENUM", index(0), 8, 1)
    DERIVED_IN_TIERS = made("9", "BAD_ENUM", _derived_in_tiers, index(0))
    RICE_BITS_32 = poke("9", "BAD_INDEX", index(1), 32, 1, samples.rice)
    RICE_BITS_OF_GAPS = poke("9", "BAD_INDEX", index(1), 1, 1)
    INDEX_RESERVED_2 = poke("9", "RESERVED_NOT_ZERO", index(2), 1, 1)
    BLOCK_LENGTH_0 = poke("9", "BAD_INDEX", index(4), 0, 4)
    BLOCK_LENGTH_ABOVE_2_24 = poke("9", "BAD_INDEX", index(4), 2**24 + 1, 4)
    BLOCK_LENGTH_OF_RUNS = poke("9", "BAD_INDEX", index(4), 1, 4, samples.runs)
    UNIT_COUNT_0 = poke("9", "BAD_COUNT", index(8), 0, 4)
    INDEX_RESERVED_15 = poke("9", "RESERVED_NOT_ZERO", index(15), 1, 1)
    ELEMENT_COUNT_0 = poke("9", "BAD_SHAPE", index(16), 0, 8)
    ELEMENT_COUNT_2_32 = poke("9", "BAD_SHAPE", index(16), U32, 8)
    POSITIONS_0 = poke("9", "BAD_COUNT", index(24), 0, 8)
    POSITIONS_ABOVE_ELEMENTS = poke("9", "BAD_COUNT", index(16), 29, 8, reported=index(24))
    POSITIONS_ABOVE_UNITS = poke("9", "BAD_COUNT", index(24), 31, 8)
    POSITIONS_OF_BLOCKS_WRAP = poke(
        "9", "BAD_COUNT", index(4), (2**24) + (2**8 << 32), 8, reported=index(24)
    )
    RUNS_ABOVE_POSITIONS = poke("9", "BAD_COUNT", index(24), 5, 8, samples.runs)
    UNITS_OF_STRUCT = poke(
        "9", "BAD_COUNT", index(8), 2, 4, samples.struct_masks, reported=index(24)
    )
    UNITS_OF_TOPK = poke("9", "BAD_COUNT", index(8), 40, 4, samples.topk, reported=index(24))
    STREAM_OFFSET = poke("9", "BAD_LAYOUT", index(32), 152, 8)
    STREAM_OFFSET_IN_TABLE = poke("9", "BAD_LAYOUT", index(32), 0, 8)
    STREAM_OFFSET_OVERLAPS = poke("9", "BAD_LAYOUT", index(32, 1), 144, 8)
    STREAM_BEHIND_SECTION = change("9", "BAD_LAYOUT", lambda f: _cut_index(f, 1))
    STREAM_AT_SECTION_END = change("9", "BAD_LAYOUT", lambda f: _cut_index(f, 0))
    STREAM_PADDING = poke("9", "RESERVED_NOT_ZERO", stream(30, 0), 1, 1)
    STREAM_OUTSIDE = poke("9", "BAD_LAYOUT", index(40, 2), 31, 8)
    STREAM_WRAPS = poke("9", "BAD_LAYOUT", index(40), U64 - 8, 8)
    INDEX_LONG = change("9", "BAD_LAYOUT", _resize(4, 1, end_of(4)))
    GAPS8_TOO_SHORT = bad_size(shb.GAPS8, 4, bytes(3))
    GAPS16_TOO_SHORT = bad_size(shb.GAPS16, 2, bytes(3))
    RICE_TOO_SHORT = bad_size(shb.RICE, 9, bytes(3), rice_bits=2)
    RUNS_TOO_SHORT = bad_size(shb.RUNS, 2, bytes(3))
    STRUCT_OF_15_BYTES = bad_size(shb.STRUCT, 1, bytes(15))
    STRUCT_OF_17_BYTES = bad_size(shb.STRUCT, 1, bytes(17))
    GAPS16_OF_MANY_TOO_SHORT = bad_size(shb.GAPS16, 9, bytes(17))
    RUNS_OF_MANY_TOO_SHORT = bad_size(shb.RUNS, 9, bytes(17))
    RANDOM_OF_9_BYTES = bad_size(shb.RANDOM, 5, bytes(9))
    TOPK_WITH_STREAM = bad_size(shb.TOPK, 1, bytes(1))
    TOPK_OF_CODES = made("9", "BAD_ENUM", _wrong_dtype_for_top, tensor(8))
    POSITIONS_OF_RUNS_2_32 = bad_stream(shb.RUNS, U32 - 1, 3, 1, b"\0\xff\xff\xff\xff\x0f", 0)

    # 9: the index streams
    GAPS8_LEAVES = bad_stream(shb.GAPS8, 10, 3, 3, b"\4\4\0", 2, block_length=1)
    GAPS8_LEAVES_BY_BLOCK = bad_stream(shb.GAPS8, 11, 4, 2, b"\4\0", 1, block_length=2)
    GAPS8_LEAVES_BY_DIGITS = bad_stream(shb.GAPS8, 500, 2, 2, b"\0\xff\xff\0", 1, block_length=1)
    GAPS8_CUT = bad_stream(shb.GAPS8, 500, 2, 2, b"\0\xff", 1, block_length=1)
    GAPS8_ONLY_FULL_DIGITS = bad_stream(shb.GAPS8, 10**6, 2, 2, b"\xff" * 9, 0, block_length=1)
    GAPS8_MISSES_UNIT = bad_stream(shb.GAPS8, 10**6, 2, 2, b"\xff\0", 2, block_length=1)
    GAPS8_TRAILING = bad_stream(shb.GAPS8, 10, 2, 2, b"\0\0\0", 2, block_length=1)
    GAPS8_TRAILING_FULL_DIGIT = bad_stream(shb.GAPS8, 10, 2, 2, b"\0\0\xff", 2, block_length=1)
    GAPS16_LEAVES = bad_stream(shb.GAPS16, 300, 2, 2, b"\0\0\x2b\1", 2, block_length=1)
    GAPS16_CUT = bad_stream(shb.GAPS16, 10**6, 2, 2, b"\0\0\xff\xff", 2, block_length=1)
    GAPS16_CUT_IN_DIGIT = bad_stream(shb.GAPS16, 10**6, 2, 2, b"\0\0\xff\xff\0", 2, block_length=1)
    GAPS16_TRAILING_BYTE = bad_stream(shb.GAPS16, 10, 2, 2, bytes(5), 4, block_length=1)
    RICE_LOW_BITS = bad_stream(shb.RICE, 99, 2, 2, b"\x40\x03", 0, block_length=1, rice_bits=3)
    RICE_LEAVES = bad_stream(shb.RICE, 8, 2, 2, b"\x38\x03", 1, block_length=1, rice_bits=3)
    RICE_LEAVES_BY_HIGH = bad_stream(
        shb.RICE, 70, 2, 2, b"\0\0\1\0\1", 2, block_length=1, rice_bits=8
    )
    RICE_OF_ZEROS = bad_stream(shb.RICE, 10**9, 2, 2, bytes(50), 1, block_length=1, rice_bits=3)
    RICE_CUT = bad_stream(shb.RICE, 10**9, 9, 9, b"\x7f\x40", 1, block_length=1)
    RICE_CUT_AT_END = bad_stream(shb.RICE, 10**9, 10, 10, b"\xf0\x0f\x80", 3, block_length=1)
    RICE_BITS_BEHIND = bad_stream(shb.RICE, 99, 3, 3, b"\x17", 0, block_length=1)
    RICE_BITS_BEHIND_LATER = bad_stream(shb.RICE, 99, 9, 9, b"\xff\x11", 1, block_length=1)
    RICE_BYTE_BEHIND = bad_stream(shb.RICE, 99, 8, 8, b"\xff\0", 1, block_length=1)
    RICE_ONE_BEHIND = bad_stream(shb.RICE, 99, 3, 3, b"\x07\x01", 1, block_length=1)
    RUNS_LEAVE = bad_stream(shb.RUNS, 10, 6, 2, b"\0\2\1\6", 2)
    RUNS_TOUCH = bad_stream(shb.RUNS, 10, 4, 2, b"\0\1\0\1", 2)
    RUNS_CUT = bad_stream(shb.RUNS, 500, 4, 2, b"\0\1\1\x81", 2)
    RUNS_MISS_ONE = bad_stream(shb.RUNS, 500, 4, 2, b"\x81\1\x82\1", 4)
    RUNS_LONG_FORM = bad_stream(shb.RUNS, 500, 4, 2, b"\0\1\x81\0\1", 2)
    RUNS_SIX_BYTES = bad_stream(shb.RUNS, 500, 4, 1, b"\x80\x80\x80\x80\x80\1\3", 0)
    RUNS_GAP_2_32 = bad_stream(shb.RUNS, U32 - 1, 4, 1, b"\x80\x80\x80\x80\x10\3", 0)
    RUNS_LENGTH_2_35 = bad_stream(shb.RUNS, U32 - 1, 4, 1, b"\0\xff\xff\xff\xff\x7f", 0)
    RUNS_TRAILING = bad_stream(shb.RUNS, 500, 4, 1, b"\0\3\0", 2)
    RUNS_SUM_LOW = bad_stream(shb.RUNS, 500, 5, 2, b"\0\1\1\1", 0)
    RUNS_SUM_HIGH = bad_stream(shb.RUNS, 500, 3, 2, b"\0\1\1\1", 0)
    STRUCT_PARTS_0 = bad_struct(0, 6, 2, 0, 12)
    STRUCT_PARTS_8 = bad_struct(9, 6, 2, 0, 12)
    STRUCT_RESERVED = bad_struct(1, 6, 2, 0, 12, reserved=1)
    STRUCT_COLUMNS_0 = bad_struct(1, 0, 2, 0, 12)
    STRUCT_COLUMNS_5 = bad_struct(1, 5, 2, 0, 12)
    STRUCT_PERIOD_0 = bad_struct(1, 6, 0, 0, 12)
    STRUCT_PHASE = bad_struct(1, 6, 2, 2, 12)
    STRUCT_DIAGONAL_PERIOD = bad_struct(4, 6, 2, 0, 4)
    STRUCT_DIAGONAL_PHASE = bad_struct(4, 6, 2, 1, 4)
    STRUCT_COUNT_LOW = bad_struct(1, 6, 2, 0, 11)
    STRUCT_COUNT_HIGH = bad_struct(7, 6, 3, 0, 17)
    STRUCT_EMPTY = bad_struct(1, 6, 50, 49, 1)

    # 9: references
    REFERENCE_OF_33_BYTES = change(
        "9", "BAD_LAYOUT", _resize(4, 1, section(4, 16)), samples.reference
    )
    REFERENCE_MISSING = change("9", "MISSING_INDEX", _reference_with(b"x" * 32), samples.reference)
    REFERENCE_TO_WHOLE_FILE = change(
        "9",
        "MISSING_INDEX",
        lambda f: _reference_with(shb.hashlib.sha256(samples.reference_source()).digest())(f),
        samples.reference,
    )
    REFERENCE_COUNT = made("9", "MISSING_INDEX", samples.reference, content(4))
    REFERENCE_OF_UNREAD_TIER = made("9", "MISSING_INDEX", _missing_upper_reference, content(6))
    REFERENCE_WITH_OTHER_COUNT = Case(
        "9", "BAD_COUNT", lambda: _count_of_reference(), (samples.reference_source,)
    )
    REFERENCE_WITH_OTHER_NNZ = Case(
        "9", "BAD_COUNT", lambda: _nnz_of_reference(), (samples.reference_source,)
    )
    REFERENCE_DERIVED_IN_TIERS = Case(
        "9", "BAD_ENUM", _derived_reference_in_tiers, (samples.random_source,)
    )
    REFERENCE_TO_STRUCT_IN_TIERS = Case(
        "9", "BAD_ENUM", _struct_reference_in_tiers, (samples.struct_masks,)
    )

    # 10: the values
    F32_NAN = bad_values(shb.F32, struct.pack("<3I", 0, 1, NAN), 3, "BAD_VALUE", 8)
    F32_SIGNALLING_NAN = bad_values(shb.F32, struct.pack("<2I", INF + 1, 0), 2, "BAD_VALUE", 0)
    F32_INFINITY = bad_values(shb.F32, struct.pack("<2I", 0, INF), 2, "BAD_VALUE", 4)
    F32_MINUS_INFINITY = bad_values(shb.F32, struct.pack("<2I", 0, INF + 2**31), 2, "BAD_VALUE", 4)
    F16_NAN = bad_values(shb.F16, struct.pack("<3H", 0, 0x7E00, 0x7C00), 3, "BAD_VALUE", 2)
    F16_INFINITY = bad_values(shb.F16, struct.pack("<3H", 0, 0, 0xFC00), 3, "BAD_VALUE", 4)
    BF16_NAN = bad_values(shb.BF16, struct.pack("<2H", 0x7F81, 0), 2, "BAD_VALUE", 0)
    BF16_INFINITY = bad_values(shb.BF16, struct.pack("<2H", 0, 0x7F80), 2, "BAD_VALUE", 2)
    SCALE_NAN = bad_values(shb.Q8, b"\0\x7e" + bytes(3), 3, "BAD_VALUE", 0, 64)
    SCALE_INFINITY = bad_values(shb.Q2, b"\0\0\0\x7c" + bytes(17), 65, "BAD_VALUE", 2, 64)
    SCALE_NEGATIVE = bad_values(shb.Q1, b"\0\xbc" + bytes(1), 3, "BAD_VALUE", 0, 64)
    SCALE_MINUS_ZERO = bad_values(shb.Q4, b"\0\x80" + bytes(2), 3, "BAD_VALUE", 0, 64)
    UNUSED_BITS_OF_I4 = bad_values(shb.I4, b"\0\x10", 3, "RESERVED_NOT_ZERO", 1)
    UNUSED_BITS_OF_Q4 = bad_values(shb.Q4, b"\0\0\0\x80", 3, "RESERVED_NOT_ZERO", 3, 64)
    UNUSED_BITS_OF_Q2 = bad_values(shb.Q2, b"\0\0\0\x04", 5, "RESERVED_NOT_ZERO", 3, 64)
    UNUSED_BITS_OF_Q1 = bad_values(shb.Q1, b"\0\0\x08", 3, "RESERVED_NOT_ZERO", 2, 64)

    # 13.10: tiers
    TIERS_OVERLAP = made(
        "7", "BAD_INDEX", rows([delta("w"), delta("w", start=2, tier=1)], 2), tensor(16, 1)
    )
    TIERS_OVERLAP_ABOVE_A_GAP = made(
        "7",
        "BAD_INDEX",
        rows([delta("w"), delta("w", start=9, tier=1), delta("w", start=1, tier=2)], 3),
        tensor(16, 2),
    )

    # 13: of two broken rules the first in the order of checks is reported
    TENSOR_COUNT_BEFORE_TIER_COUNT = change("13", "BAD_COUNT", lambda f: _no_tensors_or_tiers(f))
    VALUE_BEFORE_TIERS = change(
        "13", "BAD_VALUE", lambda f: _nan_in_overlap(f), rows([delta("w"), delta("w", tier=1)], 2)
    )
    INDEX_BEFORE_VALUE = change("13", "BAD_INDEX", lambda f: _nan_and_bad_index(f))
    TENSORS_BEFORE_INDEX_TABLE = change("13", "BAD_COUNT", lambda f: _bad_nnz_and_codec(f))

    # 12: digests and signature, where a key is set
    NOT_SIGNED = Case("12", "NOT_SIGNED", lambda: (samples.usual(), 96), with_key=True)
    WRONG_KEY = poke("12", "WRONG_KEY", at(128), 1, 1, samples.signed, with_key=True)
    SIGNATURE_ZERO = poke("12", "BAD_SIGNATURE", at(160), 0, 64, samples.signed, with_key=True)
    SIGNATURE_BIT = poke("12", "BAD_SIGNATURE", at(160), 1, 1, samples.signed, with_key=True)
    SIGNATURE_OF_OTHER_FILE = change(
        "12", "BAD_SIGNATURE", lambda f: _foreign_signature(f), samples.signed, with_key=True
    )
    SHA256_OF_NAMES = change(
        "12",
        "DIGEST_MISMATCH",
        _wrong_sha256(2),
        samples.signed,
        mend=shb.mend_header,
        with_key=True,
    )
    SHA256_BEFORE_NOT_SIGNED = change(
        "12", "DIGEST_MISMATCH", _wrong_sha256(5), mend=shb.mend_header, with_key=True
    )
    CONTENT_DIGEST = change(
        "12",
        "DIGEST_MISMATCH",
        _flip(at(70), at(64)),
        samples.signed,
        mend=shb.mend_header,
        with_key=True,
    )
    SIGNATURE_BEFORE_TENSORS = change(
        "13", "BAD_SIGNATURE", lambda f: _broken_row_of_signed(f), samples.signed, with_key=True
    )

    def build(self) -> Broken:
        case = self.value
        data, offset = case.make()
        return Broken(
            data,
            case.status,
            offset,
            case.rule,
            tuple(source() for source in case.sources),
            key_of_samples() if case.with_key else None,
        )


def _lengthen(image: Image, extra: int) -> int:
    """Let the last section declare more or fewer bytes than the file has."""
    row = image.section_row(image.u32(40) - 1)
    image.put(row + 16, image.u64(row + 16) + extra, 8)
    return row + 16


def _resize_to(image: Image, number: int, size: int) -> int:
    image.resize(number, image.content(number)[:size])
    return image.section_row(number) + 16


def _cut_values(image: Image, kept: int) -> int:
    """End VALUES of `usual` before its third stream, `kept` bytes behind the start of the second.

    The second has 60 bytes, so 62 ends inside the padding and 64 where the third would begin.
    """
    second = image.u64(image.tensor(1) + 32)
    image.resize(5, image.content(5)[: second + kept])
    return image.tensor(2) + 40


def _cut_index(image: Image, missing: int) -> int:
    """End INDEX where its third stream would begin, or before."""
    third = image.u64(image.index(2) + 32)
    image.resize(4, image.content(4)[: third - missing])
    return image.index(2) + 40


def _shaped(row: Tensor, shape: tuple[int, ...]) -> Tensor:
    row.shape = shape
    return row


def _tier_without_rows() -> bytes:
    """The second of two tiers has sections that no row of TENSORS uses."""
    image = Image(rows([delta("w"), delta("w", start=9, tier=1)], 2)())
    moved = image.tensor(1)
    image.put(moved + 10, 0, 1)
    image.put(moved + 16, 0, 4)
    image.put(moved + 32, 8, 8)
    image.put(moved, image.u32(image.adapter()), 4)  # "a" sorts before "w": swap the two rows
    first, second = (
        bytes(image.data[image.tensor() : moved]),
        bytes(image.data[moved : moved + 128]),
    )
    image.put_bytes(image.tensor(), second)
    image.put_bytes(moved, first)
    image.put(image.tensor() + 32, 0, 8)
    image.put(moved + 32, 8, 8)
    image.resize(5, image.content(5)[:6] + bytes(2) + image.content(7)[:6])
    return image.mended()


def _count_of_reference() -> tuple[bytes, int]:
    """Use only the first of the two masks of the section referred to."""
    digest = samples.index_sha256(samples.reference_source())
    tensors = [samples.delta("w", samples.reference_masks()[0], shb.F16, 1)]
    data = shb.write([Adapter("a", tensors)], references={0: digest})
    return data, Image(data).section_row(4) + 28


def _nnz_of_reference() -> tuple[bytes, int]:
    """Hold more entries than the mask referred to has positions."""
    digest = samples.index_sha256(samples.reference_source())
    masks = [samples.gaps8(400, 26, 7), samples.reference_masks()[1]]
    tensors = [samples.delta(f"t{i}", mask, shb.F16, i) for i, mask in enumerate(masks)]
    data = shb.write([Adapter("a", tensors)], references={0: digest})
    return data, Image(data).tensor() + 24


def _nan_in_overlap(image: Image) -> int:
    image.put(image.value_stream(1), 0x7E00, 2)
    return image.value_stream(1)


def _nan_and_bad_index(image: Image) -> int:
    image.put(image.value_stream(0), NAN, 4)
    image.put(image.index_stream(2) + 29, 254, 1)
    return image.index_stream(2) + 29


def _bad_nnz_and_codec(image: Image) -> int:
    image.put(image.index(0), 9, 1)
    image.put(image.tensor(2) + 24, 0, 8)
    return image.tensor(2) + 24


def _foreign_signature(image: Image) -> int:
    """Carry over the signature of another file of the same signer."""
    image.put_bytes(160, samples.signed_pack()[160:224])
    return 160


def _broken_row_of_signed(image: Image) -> int:
    image.put(image.tensor() + 8, 99, 1)
    return 160

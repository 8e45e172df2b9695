# SPDX-License-Identifier: Apache-2.0
"""Tests of the clean-room reader on files made by hand: what the test vectors cannot ask of it.

The small writer and the expectations are, like the reader, from docs/FORMAT.md alone.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
from dataclasses import dataclass
from typing import Any

import pytest
from cleanroom_reader import Adapter, RefusedError, combine, crc32c, read, to_f32

# ---- A tiny writer: one adapter, F32 throughout --------------------------------------------------


@dataclass
class Index:
    codec: int
    stream: bytes
    elements: int
    nnz: int
    units: int
    length: int = 0
    rice: int = 0


@dataclass
class Row:
    name: str
    index: int
    values: tuple[float, ...]
    elements: int
    tier: int = 0
    kind: int = 1
    fingerprint: bytes = bytes(16)


Table = list[Index] | tuple[bytes, int]  # or an INDEX_REFERENCE and its index_count


def pad(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def index_section(table: list[Index]) -> bytes:
    rows, streams = b"", b""
    for x in table:
        streams = pad(streams, 8)
        start = 48 * len(table) + len(streams)
        rows += struct.pack("<BBHIII", x.codec, x.rice, 0, x.length, x.units, 0)
        rows += struct.pack("<QQQQ", x.elements, x.nnz, start, len(x.stream))
        streams += x.stream
    return rows + streams


def build(rows: list[Row], tiers: list[Table]) -> bytes:
    text, tensors = b"a", b""
    places: dict[str, int] = {}
    values = [b"" for _ in tiers]
    for r in rows:
        if r.name not in places:
            places[r.name] = len(text)
            text += r.name.encode()
        start, stream = len(pad(values[r.tier], 8)), f32s(*r.values)
        values[r.tier] = pad(values[r.tier], 8) + stream
        tensors += struct.pack("<IIBBBB", places[r.name], len(r.name), 1, 1, r.tier, 1)
        tensors += struct.pack("<BBHII", r.kind, 1, 0, r.index, 0)
        tensors += struct.pack("<QQQ16x", len(r.values), start, len(stream))
        tensors += struct.pack("<I28x16s16x", r.elements, r.fingerprint)
    adapter = struct.pack("<IIIIIIII32x", 0, 1, 0, len(rows), 1, 0, 0, 2)
    sections = [(1, adapter, 0, 0), (2, tensors, 0, 0), (3, text, 0, 0), (4, b"{}", 0, 0)]
    for tier, table in enumerate(tiers):
        if isinstance(table, tuple):
            sections.append((7, table[0], tier, table[1]))
        else:
            sections.append((5, index_section(table), tier, len(table)))
        sections.append((6, values[tier], tier, 0))
    start = 256 + 64 * len(sections)
    body, section_rows = b"", b""
    for kind, data, tier, count in sections:
        body = pad(body, 64)
        section_rows += struct.pack("<IIQQ", kind, 0, start + len(body), len(data))
        section_rows += struct.pack("<II32x", tier, count)
        body += data
    header = struct.pack("<8sHHIQQQ", b"\x89SHB\r\n\x1a\n", 1, 0, 256, start + len(body), 0, 0)
    header += struct.pack("<IIII", len(sections), 1, len(rows), len(tiers))
    return seal(header.ljust(256, b"\0") + section_rows + body)


def seal(data: bytes, digests: bool = True) -> bytes:
    """All checksums, and all digests, anew."""
    out = bytearray(data)
    count = struct.unpack_from("<I", out, 40)[0]
    for row in range(256, 256 + 64 * count, 64):
        offset, size = struct.unpack_from("<QQ", out, row + 8)
        content = bytes(out[offset : offset + size])
        struct.pack_into("<I", out, row + 4, crc32c(content))
        if digests:
            out[row + 32 : row + 64] = hashlib.sha256(content).digest()
    table = bytes(out[256 : 256 + 64 * count])
    struct.pack_into("<I", out, 56, crc32c(table))
    if digests:
        header = bytes(out[:64]) + bytes(160) + bytes(out[224:252]) + bytes(4)
        out[64:96] = hashlib.sha256(header + table).digest()
    struct.pack_into("<I", out, 252, crc32c(bytes(out[:252])))
    return bytes(out)


def poke(data: bytes, offset: int, new: bytes, digests: bool = True) -> bytes:
    return seal(data[:offset] + new + data[offset + len(new) :], digests)


def section(data: bytes, number: int) -> int:
    return int(struct.unpack_from("<Q", data, 256 + 64 * number + 8)[0])


def f32s(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def gaps8(gaps: list[int]) -> bytes:
    return b"".join(b"\xff" * (g // 255) + bytes([g % 255]) for g in gaps)


def gaps16(gaps: list[int]) -> bytes:
    return b"".join(b"\xff\xff" * (g // 65535) + struct.pack("<H", g % 65535) for g in gaps)


def rice(gaps: list[int], k: int) -> bytes:
    low = "".join(format(g & ((1 << k) - 1), f"0{k}b")[::-1] if k else "" for g in gaps)
    high = "".join("0" * (g >> k) + "1" for g in gaps)
    out = b""
    for text in (low, high):
        padded = text + "0" * (-len(text) % 8)
        out += bytes(int(padded[i : i + 8][::-1], 2) for i in range(0, len(padded), 8))
    return out


def to_gaps(units: list[int]) -> list[int]:
    return [unit - before - 1 for before, unit in zip([-1, *units[:-1]], units, strict=True)]


def one(index: Index) -> bytes:
    return build([Row("w", 0, (1.5,) * index.nnz, index.elements)], [[index]])


def positions_of(data: bytes) -> list[int]:
    return read(data)[0].tensors[0].positions


def refused(data: bytes, status: str, offset: int, **how: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        read(data, **how)
    assert (caught.value.status, caught.value.offset) == (status, offset)


def test_a_file_may_end_at_no_boundary() -> None:
    data = one(Index(1, b"\2\0", 10, 2, 2, 1))
    for size, offset in ((0, 0), (8, 8), (12, 12), (255, 255), (256, 16), (len(data) - 1, 16)):
        refused(data[:size], "TRUNCATED", offset)


# ---- Positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("blocks", [40, 3000, 131_072])
def test_gap_codecs_give_the_units_that_were_written(length: int, blocks: int) -> None:
    far = [65_535, 131_071]  # gaps of two full digits
    units = far if blocks > 65_535 else sorted(random.Random(1).sample(range(blocks), 20))
    expected = [block * length + i for block in units for i in range(length)]
    gaps = to_gaps(units)
    streams = [(1, 0, gaps8(gaps)), (2, 0, gaps16(gaps))]
    streams += [(3, k, rice(gaps, k)) for k in (0, 1, 5, 8, 11, 31) if max(gaps) >> k < 5000]
    for codec, k, stream in streams:
        elements = blocks * length + length - 1
        index = Index(codec, stream, elements, len(expected), len(units), length, k)
        assert positions_of(one(index)) == expected, (codec, k)


def test_what_stands_behind_the_last_rice_unit_is_found_where_it_stands() -> None:
    at = section(one(Index(1, b"\2\0", 10, 2, 2, 1)), 4) + 48
    for stream, offset in ((b"\0\7", 1), (b"\0\3\0", 2), (b"\x40\3", 0), (b"\0\1", 1)):
        refused(one(Index(3, stream, 100, 2, 2, 1, 3)), "BAD_INDEX", at + offset)


@pytest.mark.parametrize(("elements", "columns"), [(60, 6), (60, 10), (60, 60), (60, 1), (49, 7)])
def test_struct_is_its_definition(elements: int, columns: int) -> None:
    for parts in range(1, 8):
        for period, phase in ((1, 0), (3, 0), (3, 2), (5, 4), (9, 8)):
            expected = [
                i
                for i in range(elements)
                if (parts & 1 and i // columns % period == phase)
                or (parts & 2 and i % columns % period == phase)
                or (parts & 4 and i // columns == i % columns)
            ]
            if expected and (parts != 4 or period == 1):
                stream = struct.pack("<B3xIII", parts, columns, period, phase)
                index = Index(5, stream, elements, len(expected), 1)
                assert positions_of(one(index)) == expected


def test_random_takes_one_block_of_each_stratum() -> None:
    # SplitMix64 with seed 0 starts with 0xE220A8397B1DCDAF: the only unit lies in all of 100.
    block = (0xE220A839 * 100) >> 32
    found = positions_of(one(Index(6, bytes(8), 403, 4, 1, 4)))
    assert found == list(range(4 * block, 4 * block + 4))
    found = positions_of(one(Index(6, b"\x07" * 8, 1000, 300, 300, 1)))
    assert len(found) == 300
    assert all(i * 1000 // 300 <= p < (i + 1) * 1000 // 300 for i, p in enumerate(found))


def test_topk_finds_the_largest_of_the_base() -> None:
    (tensor,) = read(one(Index(7, b"", 6, 3, 1)))[0].tensors
    bits = struct.unpack("<6I", f32s(0.5, -2.0, 1.0, -0.0, -1.0, 0.25))
    assert tensor.positions_in(bits) == [1, 2, 4]
    assert tensor.positions_in((0x80000000, 0, 0, 0, 0, 0)) == [0, 1, 2]
    with pytest.raises(TypeError, match="depend on the base"):
        _ = tensor.positions
    with pytest.raises(ValueError, match="6 elements"):
        tensor.positions_in(bits[:5])


# ---- Tiers and references ------------------------------------------------------------------------

TIERS: list[list[Index]] = [
    [Index(1, b"\1\3", 10, 2, 2, 1), Index(1, b"\2", 10, 1, 1, 1)],
    [Index(1, b"\4", 10, 1, 1, 1), Index(4, b"\3\0", 10, 1, 1)],
]


def with_tiers(tiers: list[Table]) -> bytes:
    rows = [
        Row("v", 0, (1, 2), 10, fingerprint=b"a" * 16),
        Row("w", 1, (3,), 10),
        Row("u", 0, (9,), 10, tier=1),
        Row("v", 1, (5,), 10, tier=1, fingerprint=b"b" * 16),
    ]
    return build(rows, tiers)


def test_tiers_are_joined_as_far_as_they_were_asked_for() -> None:
    data = with_tiers([*TIERS])
    (adapter,) = read(data)
    found = {t.name: (t.positions, t.values) for t in adapter.tensors}
    assert list(found) == ["u", "v", "w"]
    assert found == {"u": ([4], [9]), "v": ([1, 3, 5], [1, 5, 2]), "w": ([2], [3])}
    assert adapter.tensors[1].fingerprint == b"b" * 16
    (adapter,) = read(data, tiers=1)
    found = {t.name: (t.positions, t.values) for t in adapter.tensors}
    assert found == {"v": ([1, 5], [1, 2]), "w": ([2], [3])}
    assert adapter.tensors[0].fingerprint == b"a" * 16
    with pytest.raises(ValueError, match="at least one tier"):
        read(data, tiers=0)


def test_an_overlap_matters_only_to_those_who_read_its_tier() -> None:
    data = with_tiers([*TIERS])
    overlap = poke(data, section(data, 6) + 96 + 8, b"\5")
    refused(overlap, "BAD_INDEX", section(data, 1) + 3 * 128 + 16)
    assert read(overlap, tiers=1)


def test_references_are_found_in_what_is_offered_even_in_a_chain() -> None:
    source = with_tiers([*TIERS])
    first, second = [(hashlib.sha256(index_section(table)).digest(), 2) for table in TIERS]
    data = with_tiers([first, second])
    refused(data, "MISSING_INDEX", section(data, 4))
    refused(data, "MISSING_INDEX", section(data, 4), index_sources=[data])
    found = read(data, index_sources=[b"no file", source])[0].tensors
    assert [tensor.positions for tensor in found] == [[4], [1, 3, 5], [2]]
    half = with_tiers([TIERS[0], second])
    refused(data, "MISSING_INDEX", section(data, 4), index_sources=[half])
    assert len(read(data, index_sources=[source, half])[0].tensors) == 3


# ---- Digests and signature -----------------------------------------------------------------------


def test_digests_are_checked_on_demand() -> None:
    data = one(Index(1, b"\2\0", 10, 2, 2, 1))
    assert read(data, check_sha256=True)
    values = poke(data, section(data, 5), b"\1", digests=False)
    refused(values, "DIGEST_MISMATCH", 256 + 5 * 64 + 32, check_sha256=True)
    whole = poke(data, 70, b"??", digests=False)
    refused(whole, "DIGEST_MISMATCH", 64, check_sha256=True)
    assert read(values)
    assert read(whole)


def test_what_is_signed_is_the_digest_behind_a_prefix() -> None:
    data = one(Index(1, b"\2\0", 10, 2, 2, 1))
    key, signature = bytes(range(32)), b"s" * 64
    signed = poke(data, 96, b"\1" + bytes(31) + key + signature)
    messages = []

    def verify(public_key: bytes, message: bytes, given: bytes) -> bool:
        messages.append(message)
        return (public_key, given) == (key, signature)

    assert read(signed, public_key=key, ed25519_verify=verify)
    assert messages == [b"shb-signature-1\0" + data[64:96]]
    assert read(signed)
    with pytest.raises(ValueError, match="ed25519_verify"):
        read(signed, public_key=key)


# ---- Meaning -------------------------------------------------------------------------------------


def adapter_of(positions: list[int], values: tuple[float, ...], kind: int) -> Adapter:
    count = len(positions)
    index = Index(1, gaps8(to_gaps(positions)), 6, count, count, 1)
    return read(build([Row("w", 0, values, 6, kind=kind)], [[index]]))[0]


def test_combine() -> None:
    target = adapter_of([0, 1], (0.1, -0.0), 0)
    delta = adapter_of([1, 2, 3], (0.5, 0.25, -0.0), 1)
    base = [1.0, 2.0, 3.0, -0.0, 5.0, 6.0]
    tenth = to_f32(0.1)
    alone = combine(base, [(target, 1)], "w")
    assert alone == [tenth, 0.0, *base[2:]]
    assert math.copysign(1, alone[1]) == -1
    assert combine(base, [(target, 1), (delta, 0)], "w") == alone
    assert combine(base, [(target, 1), (delta, 2)], "w") == [tenth, 1.0, 3.5, 0.0, 5.0, 6.0]
    assert math.copysign(1, combine(base, [(delta, 1)], "w")[3]) == -1
    half = to_f32(1 + to_f32(0.5 * to_f32(tenth - 1)))
    assert combine(base, [(target, 0.5)], "w")[0] == half
    assert combine(base, [(target, 1)], "another") == base


def test_a_sum_is_taken_in_the_order_of_digests() -> None:
    members = [(adapter_of([0], (value,), 1), 1.0) for value in (1e8, 4.0, -1e8)]
    ordered = sorted(members, key=lambda member: member[0].file_digest)
    total = 0.0
    for adapter, _ in ordered:
        total = to_f32(total + adapter.tensors[0].values[0])
    for turn in range(3):
        assert combine([0.0] * 6, members[turn:] + members[:turn], "w")[0] == total


def test_a_result_that_is_not_finite_is_refused() -> None:
    with pytest.raises(OverflowError, match="element 0 of w"):
        combine([3e38] * 6, [(adapter_of([0], (3e38,), 1), 1)], "w")

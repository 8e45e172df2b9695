# SPDX-License-Identifier: Apache-2.0
"""The index codecs: round trips through the independent reader, pinned bytes, the choice of one."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shira_runtime.export import reader
from shira_runtime.export.build import AdapterTensor, build_adapter
from shira_runtime.export.encode_index import (
    INDEX_CHOICES,
    all_codings,
    best_rice_bits,
    choose,
    coding_like,
    common_block_length,
    encode,
    rice_coding,
)
from shira_runtime.export.errors import ExportError
from shira_runtime.export.image import IndexCodec, IndexStream

ELEMENT_COUNT = 2**32 - 1
LARGEST = ELEMENT_COUNT - 1


def tensor_of(indices: Any, name: str = "a", element_count: int = ELEMENT_COUNT) -> AdapterTensor:
    indices = np.array(indices, dtype=np.int64)
    values = np.ones(indices.size, np.float16)
    return AdapterTensor(name, "f32", (element_count,), indices, values, "delta")


def coded(indices: Any, choice: str = "auto") -> IndexStream:
    (stream,) = build_adapter("x", [tensor_of(indices)], index=choice).streams.values()
    return stream


def round_trip(indices: list[int], choice: str) -> list[int]:
    built = build_adapter("x", [tensor_of(indices)], index=choice)
    (stream,) = built.streams.values()
    if stream.codec in all_codings(np.array(indices)):
        assert all_codings(np.array(indices))[stream.codec].size_bytes == len(stream.stream)
    tensor = reader.read(built.content).adapters[0].tensors["a"]
    assert choice in ("auto", tensor.parts[0].mask.codec.lower())
    found: list[int] = tensor.positions().tolist()
    return found


# Small numbers make runs, steps near powers of the digits' bases make long gaps.
STEPS = st.one_of(
    st.just(1),
    st.integers(1, 20),
    st.sampled_from([254, 255, 256, 257, 510, 511, 512, 65534, 65535, 65536, 65537, 131072]),
    st.integers(1, 1 << 20),
)
EXPLICIT = ("gaps8", "gaps16", "rice", "runs", "auto")


@given(st.integers(0, 1 << 17), st.lists(STEPS, max_size=80))
def test_every_codec_gives_the_indices_back(first: int, steps: list[int]) -> None:
    indices = np.cumsum([first, *steps]).tolist()
    for choice in EXPLICIT:
        assert round_trip(indices, choice) == indices


@given(
    st.integers(2, 70),
    st.integers(0, 400),
    st.lists(st.one_of(st.just(1), st.integers(1, 300), st.just(70_000)), max_size=30),
)
def test_blocks_give_the_indices_back(length: int, first: int, steps: list[int]) -> None:
    blocks = np.cumsum([first, *steps])
    indices = (blocks[:, None] * length + np.arange(length)).reshape(-1).tolist()
    for choice in EXPLICIT:
        assert round_trip(indices, choice) == indices
        stream = coded(indices, choice)
        if stream.codec != IndexCodec.RUNS:
            assert stream.block_length % length == 0
            assert stream.unit_count * stream.block_length == len(indices)


@pytest.mark.parametrize("choice", ["gaps16", "rice", "runs"])
def test_the_largest_tensor_is_covered(choice: str) -> None:
    for indices in ([LARGEST], [0, LARGEST], [LARGEST - 1, LARGEST]):
        assert round_trip(indices, choice) == indices


# The streams of FORMAT.md section 9, worked out by hand.
PINNED = [
    ("gaps8", [0, 255, 511], b"\x00\xfe\xff\x00", 1, 3),
    ("gaps16", [65535, 65537], b"\xff\xff\x00\x00\x01\x00", 1, 2),
    ("gaps8", [4, 5, 6, 7, 12, 13, 14, 15], b"\x01\x01", 4, 2),
    ("gaps16", [8, 9, 14, 15], b"\x04\x00\x02\x00", 2, 2),
    ("runs", [0, 1, 2, 130], b"\x00\x02\x7f\x00", 0, 2),
    ("runs", [*range(128, 257)], b"\x80\x01\x80\x01", 0, 1),
]


@pytest.mark.parametrize(("choice", "indices", "stream", "length", "unit_count"), PINNED)
def test_streams_are_those_of_the_specification(
    choice: str, indices: list[int], stream: bytes, length: int, unit_count: int
) -> None:
    found = coded(indices, choice)
    assert (found.stream, found.block_length, found.unit_count) == (stream, length, unit_count)


def test_a_rice_stream_is_that_of_the_specification() -> None:
    # Gaps 5, 0, 11 with 2 low bits: lows 1, 0, 3, highs 1, 0, 2.
    stream = rice_coding(np.array([5, 0, 11]), 2, 1).encode()
    assert stream == bytes([0b11_00_01, 0b1_0_0_1_1_0])


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, 1 << 32)), min_size=1, max_size=60))
def test_no_other_number_of_low_bits_is_shorter(gaps: list[int]) -> None:
    array = np.array(gaps)
    best = rice_coding(array, best_rice_bits(array), 1).size_bytes
    sizes = [
        (len(gaps) * bits + 7) // 8 + (sum(gap >> bits for gap in gaps) + len(gaps) + 7) // 8
        for bits in range(32)
    ]
    assert best == min(sizes)


def test_the_smallest_coding_is_chosen() -> None:
    generator = np.random.default_rng(1)
    scattered = np.sort(generator.choice(100_000, 1_000, replace=False))
    assert coded(scattered).codec is IndexCodec.RICE
    even = np.arange(1_000) * 200 + 199
    assert coded(even).codec is IndexCodec.GAPS8
    blocks = np.sort(generator.choice(10_000, 100, replace=False))
    found = coded((blocks[:, None] * 16 + np.arange(16)).reshape(-1))
    assert (found.codec, found.block_length) == (IndexCodec.RICE, 16)
    uneven = np.concatenate([np.arange(s, s + 37) for s in range(1, 90_000, 1_000)])
    assert coded(uneven).codec is IndexCodec.RUNS
    for indices in (scattered, even, uneven):
        sizes = [coding.size_bytes for coding in all_codings(np.array(indices)).values()]
        assert len(coded(indices).stream) == min(sizes)


def test_of_equal_sizes_the_one_that_is_read_fastest_is_chosen() -> None:
    codings = all_codings(np.array([7]))
    assert {c.size_bytes for c in codings.values()} == {1, 2}
    assert choose(codings.values()).codec is IndexCodec.GAPS8


def test_a_block_is_never_longer_than_the_field_may_say() -> None:
    prime = 16_777_259  # the first above 2^24
    assert common_block_length(np.array([0]), np.array([6 * prime])) == 6
    assert common_block_length(np.array([1 << 25]), np.array([1 << 26])) == 1 << 24


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=90, unique=True))
def test_positions_are_coded_as_in_another_file(numbers: list[int]) -> None:
    indices = np.sort(np.array(numbers))
    for codec, coding in all_codings(indices).items():
        stream = encode(coding, 4_000, indices.size)
        again = coding_like(indices, stream)
        assert again is not None
        assert (again.codec, again.encode()) == (codec, stream.stream)


def test_positions_that_are_no_blocks_are_not_coded_as_blocks() -> None:
    blocks = coded([0, 1, 2, 3, 8, 9, 10, 11], "gaps8")
    assert blocks.block_length == 4
    for indices in ([1, 2, 3, 4], [0, 1, 2], [0, 1, 2, 3, 8]):
        assert coding_like(np.array(indices), blocks) is None


@pytest.mark.parametrize("choice", ["struct", "random", "topk"])
def test_a_rule_that_nobody_showed_is_refused(choice: str) -> None:
    with pytest.raises(ExportError, match=f"tensor a: cannot be coded as {choice}"):
        build_adapter("x", [tensor_of([1, 5])], index=choice)


def test_choices_name_every_codec() -> None:
    assert (
        "auto",
        *("gaps8", "gaps16", "rice", "runs", "struct", "random", "topk"),
    ) == INDEX_CHOICES
    with pytest.raises(ExportError, match="index is 'blocks8'"):
        build_adapter("x", [tensor_of([1, 5])], index="blocks8")


def test_equal_positions_are_stored_once() -> None:
    tensors = [tensor_of([1, 5, 9], "a"), tensor_of([2], "b"), tensor_of([1, 5, 9], "c")]
    built = build_adapter("x", tensors)
    assert [row.index_number for row in built.image.adapters[0].rows] == [0, 1, 0]
    file = reader.read(built.content)
    found = {n: t.positions().tolist() for n, t in file.adapters[0].tensors.items()}
    assert found == {"a": [1, 5, 9], "b": [2], "c": [1, 5, 9]}


def test_the_row_of_a_table_says_how_its_stream_is_coded() -> None:
    content = build_adapter("x", [tensor_of([3, 700, 1000])], index="rice").content
    offset = struct.unpack_from("<Q", content, 256 + 4 * 64 + 8)[0]
    codec, rice_bits, length, units = struct.unpack_from("<BBxxII", content, offset)
    assert (codec, length, units) == (3, 1, 3)
    assert rice_bits == best_rice_bits(np.array([3, 696, 299]))
    assert struct.unpack_from("<QQQ", content, offset + 16) == (ELEMENT_COUNT, 3, 48)

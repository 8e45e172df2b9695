# SPDX-License-Identifier: Apache-2.0
"""The index codecs: round trips through the plain reader, pinned bytes, the choice of a codec."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shb_reader import _decode_indices

from shira_runtime.export.encode import INDEX_CHOICES, IndexCodec, encode_indices

LARGEST = 2**32 - 2


def round_trip(indices: list[int], choice: str) -> list[int]:
    coded = encode_indices(np.array(indices, dtype=np.int64), choice)
    assert coded.sizes_bytes[coded.codec] == len(coded.stream)
    fields = {
        "codec": coded.codec.name.lower(),
        "unit_count": coded.unit_count,
        "block_length": coded.block_length,
    }
    return _decode_indices(coded.stream, fields, LARGEST + 1)


# Small numbers make runs, steps near powers of the digits' bases make long gaps.
STEPS = st.one_of(
    st.just(1),
    st.integers(1, 20),
    st.sampled_from([254, 255, 256, 257, 510, 511, 512, 65534, 65535, 65536, 65537, 131072]),
    st.integers(1, 1 << 20),
)


@given(st.integers(0, 1 << 17), st.lists(STEPS, max_size=80))
def test_every_entry_codec_gives_the_indices_back(first: int, steps: list[int]) -> None:
    indices = np.cumsum([first, *steps]).tolist()
    for choice in ("gaps8", "gaps16", "runs", "auto"):
        assert round_trip(indices, choice) == indices


@given(
    st.integers(2, 70),
    st.integers(0, 400),
    st.lists(st.one_of(st.just(1), st.integers(1, 300), st.just(70_000)), max_size=30),
)
def test_block_codecs_give_the_indices_back(length: int, first: int, steps: list[int]) -> None:
    blocks = np.cumsum([first, *steps])
    indices = (blocks[:, None] * length + np.arange(length)).reshape(-1).tolist()
    for choice in ("blocks8", "blocks16", "auto"):
        assert round_trip(indices, choice) == indices


@pytest.mark.parametrize("choice", ["gaps16", "runs"])
def test_the_largest_tensor_is_covered(choice: str) -> None:
    for indices in ([LARGEST], [0, LARGEST], [LARGEST - 1, LARGEST]):
        assert round_trip(indices, choice) == indices


PINNED = [
    ("gaps8", [0, 255, 511], b"\x00\xfe\xff\x00", 3),
    ("gaps16", [65535, 65537], b"\xff\xff\x00\x00\x01\x00", 2),
    ("runs", [0, 1, 2, 130], b"\x00\x02\x7f\x00", 2),
    ("runs", [*range(128, 257)], b"\x80\x01\x80\x01", 1),
    ("blocks8", [4, 5, 6, 7, 12, 13, 14, 15], b"\x01\x01", 2),
    ("blocks16", [8, 9, 14, 15], b"\x04\x00\x02\x00", 2),
]


@pytest.mark.parametrize(("choice", "indices", "stream", "unit_count"), PINNED)
def test_streams_are_those_of_the_specification(
    choice: str, indices: list[int], stream: bytes, unit_count: int
) -> None:
    coded = encode_indices(np.array(indices), choice)
    assert (coded.stream, coded.unit_count) == (stream, unit_count)


def test_the_smallest_coding_is_chosen() -> None:
    generator = np.random.default_rng(1)
    scattered = np.sort(generator.choice(100_000, 1_000, replace=False))
    assert encode_indices(scattered).codec is IndexCodec.GAPS8
    rare = np.sort(generator.choice(1 << 30, 1_000, replace=False))
    assert encode_indices(rare).codec in (IndexCodec.GAPS16, IndexCodec.RUNS)
    blocks = np.sort(generator.choice(10_000, 100, replace=False))
    coded = encode_indices((blocks[:, None] * 16 + np.arange(16)).reshape(-1))
    assert (coded.codec, coded.block_length) == (IndexCodec.BLOCKS8, 16)
    uneven = np.concatenate([np.arange(s, s + 37) for s in range(1, 90_000, 1_000)])
    assert encode_indices(uneven).codec is IndexCodec.RUNS
    for coded in (encode_indices(scattered), encode_indices(uneven)):
        assert len(coded.stream) == min(coded.sizes_bytes.values())


def test_a_block_is_never_longer_than_the_field_that_holds_it() -> None:
    coded = encode_indices(np.arange(6 * 65_537), "blocks8")  # 65,537 is a prime
    assert (coded.block_length, coded.unit_count) == (6, 65_537)


@pytest.mark.parametrize("choice", ["blocks8", "blocks16"])
@pytest.mark.parametrize("indices", [[0], [1, 2], [0, 1, 3], [0, 1, 5, 6]])
def test_blocks_refuse_what_is_not_aligned(choice: str, indices: list[int]) -> None:
    with pytest.raises(ValueError, match=choice):
        encode_indices(np.array(indices), choice)


def test_choices_name_every_codec() -> None:
    assert INDEX_CHOICES == ("auto", "gaps8", "gaps16", "runs", "blocks8", "blocks16")

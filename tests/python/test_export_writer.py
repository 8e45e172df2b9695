# SPDX-License-Identifier: Apache-2.0
"""Written files, read back by the plain reader; what the writer refuses; byte-level laws."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from shb_reader import NUMPY_TYPES, parse_shb

import shira_runtime
from shira_runtime.export.build import AdapterTensor, build_adapter
from shira_runtime.export.errors import ExportError


def delta_tensor(name: str = "a.weight", **changes: Any) -> AdapterTensor:
    tensor = AdapterTensor(
        name=name,
        dtype="f32",
        shape=(4, 5),
        indices=np.array([0, 3, 19]),
        values=np.array([1.5, -0.0, 1e-42], dtype=np.float32),
        kind="delta",
    )
    return dataclasses.replace(tensor, **changes)


def target_tensor(name: str = "a.weight", **changes: Any) -> AdapterTensor:
    hashes = {"fingerprint": bytes(range(16)), "base_digest": bytes(range(16, 32))}
    return delta_tensor(name, **{"kind": "target", **hashes, **changes})


def test_the_first_bytes_are_those_of_the_specification() -> None:
    content = build_adapter("de", [delta_tensor()], {}, "gaps8").content
    assert content[:16] == b"\x89SHB\r\n\x1a\n\x01\x00\x00\x00\x00\x01\x00\x00"
    assert struct.unpack_from("<Q", content, 16) == (len(content),)
    assert struct.unpack_from("<4I", content, 40) == (6, 1, 1, 1)
    assert not any(content[96:252])  # unsigned
    assert content[256:260] == b"\x01\x00\x00\x00"
    assert struct.unpack_from("<8I", content, 640) == (0, 2, 0, 1, 0, 0, 0, 2)
    row = content[704 : 704 + 128]
    assert row[:16] == b"\x02\x00\x00\x00\x08\x00\x00\x00\x01\x02\x00\x01\x01\x00\x00\x00"
    assert struct.unpack_from("<IIQQQ", row, 16) == (0, 0, 3, 0, 12)
    assert struct.unpack_from("<II", row, 64) == (4, 5)
    assert content[832:842] == b"dea.weight"
    assert content[896:898] == b"{}"
    index = content[960 : 960 + 51]
    assert struct.unpack_from("<BBHIIIQQQQ", index) == (1, 0, 0, 1, 3, 0, 20, 3, 48, 3)
    assert index[48:] == b"\x00\x02\x0f"  # gaps of 0, 3, 19
    assert content[1024:] == struct.pack("<fff", 1.5, -0.0, 1e-42)


NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=5),
    unique=True,
    min_size=1,
    max_size=3,
)
SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=8).map(tuple)


def random_tensor(name: str, shape: tuple[int, ...], bound: bool, seed: int) -> AdapterTensor:
    """Any entries with any finite values, subnormals among them, in any of the types."""
    generator = np.random.default_rng(seed)
    element_count = int(np.prod(shape))
    nnz = int(generator.integers(1, min(element_count, 200), endpoint=True))
    dtype = str(generator.choice(sorted(NUMPY_TYPES)))
    values = generator.bytes(nnz * np.dtype(NUMPY_TYPES[dtype]).itemsize)
    array = np.frombuffer(values, NUMPY_TYPES[dtype]).copy()
    array[~np.isfinite(array.astype(np.float32))] = -0.0
    return (target_tensor if bound else delta_tensor)(
        name,
        dtype=dtype,
        shape=shape,
        indices=np.sort(generator.choice(element_count, nnz, replace=False)),
        values=array,
    )


@given(NAMES, st.lists(SHAPES, min_size=3, max_size=3), st.booleans(), st.integers(0, 2**32))
def test_what_is_written_is_what_is_read(
    names: list[str], shapes: list[tuple[int, ...]], bound: bool, seed: int
) -> None:
    tensors = [
        random_tensor(name, shape, bound, seed + i)
        for i, (name, shape) in enumerate(zip(names, shapes, strict=False))
    ]
    image = build_adapter("ein Adapter", tensors, {"license": "größer"})
    read = parse_shb(image.content)
    assert (read["name"], read["bound"]) == ("ein Adapter", bound)
    assert read["metadata"] == {"license": "größer"}
    assert read["content_digest"] == image.content_digest.hex()
    assert list(read["tensors"]) == sorted(names, key=str.encode)
    for tensor in tensors:
        found = read["tensors"][tensor.name]
        assert found["indices"].tolist() == tensor.indices.tolist()
        assert found["values"].tobytes() == tensor.values.tobytes()
        assert (found["dtype"], found["shape"]) == (tensor.dtype, tensor.shape)
        assert (found["fingerprint"], found["base_digest"]) == (
            tensor.fingerprint,
            tensor.base_digest,
        )


def test_the_order_of_the_input_does_not_change_a_byte() -> None:
    tensors = [target_tensor("b"), target_tensor("a"), target_tensor("ä")]
    forward = build_adapter("x", tensors, {"b": 1, "a": 2}).content
    assert build_adapter("x", tensors[::-1], {"a": 2, "b": 1}).content == forward


def test_a_flip_of_any_byte_and_a_cut_anywhere_are_found_by_the_reader() -> None:
    content = build_adapter("x", [target_tensor("a"), target_tensor("b")], {}).content
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        with pytest.raises(ValueError):  # noqa: PT011 - the oracle has no error classes
            parse_shb(bytes(damaged))
        with pytest.raises(ValueError):  # noqa: PT011
            parse_shb(content[:position])
    with pytest.raises(ValueError, match="TRAILING_BYTES"):
        parse_shb(content + b"\0")


BAD_TENSORS = {
    "no dimensions": ({"shape": ()}, "0 dimensions"),
    "nine dimensions": ({"shape": (20, *[1] * 8)}, "9 dimensions"),
    "empty": ({"shape": (0, 5)}, "empty"),
    "too large": ({"shape": (65536, 65536)}, "more than 4294967295 elements"),
    "no entries": ({"indices": np.zeros(0, np.int64), "values": np.zeros(0, "f4")}, "0 indices"),
    "lengths": ({"values": np.zeros(2, np.float32)}, "3 indices and 2 values"),
    "beyond the end": ({"indices": np.array([0, 3, 20])}, "leave the 20 elements"),
    "negative": ({"indices": np.array([-1, 3, 19])}, "leave the 20 elements"),
    "unsorted": ({"indices": np.array([3, 0, 19])}, "not strictly increasing"),
    "duplicate": ({"indices": np.array([0, 19, 19])}, "not strictly increasing"),
    "NaN": ({"values": np.array([0, np.nan, 1], np.float32)}, "NaN or infinite"),
    "infinity": ({"values": np.array([0, -np.inf, 1], np.float16)}, "NaN or infinite"),
    "double values": ({"values": np.zeros(3)}, "float64 cannot be stored"),
    "target without base": ({"kind": "target"}, "need fingerprints"),
    "half a fingerprint": ({"fingerprint": bytes(16)}, "both 16-byte fingerprints"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_a_bad_tensor_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=f"tensor a.weight: .*{message}"):
        build_adapter("x", [delta_tensor(**changes)], {})


def test_target_values_in_another_dtype_than_the_base_are_refused() -> None:
    with pytest.raises(ExportError, match=r"tensor a.weight: .*the base's dtype"):
        build_adapter("x", [target_tensor(dtype="bf16")], {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "0 bytes"),
        ("ä" * 513, "1026 bytes"),
        ("a\n", "control"),
        ("a\x7f", "control"),
        ("a\x9f", "control"),
    ],
)
def test_bad_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build_adapter(name, [delta_tensor()], {})
    with pytest.raises(ExportError, match=message):
        build_adapter("x", [delta_tensor(name)], {})


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ExportError, match="not valid Unicode"):
        build_adapter("\udc80", [delta_tensor()], {})


def test_counts_duplicates_mixtures_and_long_metadata_are_refused() -> None:
    with pytest.raises(ExportError, match="adapter 'x' has 0 tensors"):
        build_adapter("x", [], {})
    with pytest.raises(ExportError, match=r"tensor a.weight: given twice"):
        build_adapter("x", [delta_tensor(), delta_tensor()], {})
    with pytest.raises(ExportError, match=r"tensor b: .*fingerprints or none"):
        build_adapter("x", [target_tensor("a"), delta_tensor("b")], {})
    with pytest.raises(ExportError, match="metadata"):
        build_adapter("x", [delta_tensor()], {"description": "x" * (1 << 20)})


def nested(depth: int, innermost: Any = 1) -> Any:
    """Lists and objects in turn, `depth` of them one inside the other."""
    value = innermost
    for level in range(depth):
        value = {"in": value} if level % 2 else [value]
    return value


BAD_METADATA = {
    "NaN": ({"train": {"loss": float("nan")}}, "not JSON compliant"),
    "infinity": ({"train": [float("-inf")]}, "not JSON compliant"),
    "65 levels": ({"train": nested(64)}, "deeper than 64"),
    "65 levels, the last empty": ({"train": nested(63, innermost=[])}, "deeper than 64"),
    "thousands of levels": ({"train": nested(50_000)}, "."),
    "lone surrogate": ({"description": "\udc80"}, "lone surrogate"),
    "lone surrogate in a key": ({"a\ud800": 1}, "lone surrogate"),
    "a path": ({"base": Path("x")}, "not JSON serializable"),
}


@pytest.mark.parametrize(("metadata", "message"), BAD_METADATA.values(), ids=BAD_METADATA)
def test_metadata_that_no_reader_takes_is_refused(metadata: Any, message: str) -> None:
    with pytest.raises(ExportError, match=f"the metadata .*{message}"):
        build_adapter("x", [delta_tensor()], metadata)


def test_metadata_of_64_levels_is_written_and_read() -> None:
    content = build_adapter("x", [delta_tensor()], {"train": nested(63)}).content
    assert shira_runtime.Adapter.from_bytes(content).metadata == {"train": nested(63)}


def test_every_value_type_keeps_signed_zeros_and_subnormals() -> None:
    for dtype, numpy_type in NUMPY_TYPES.items():
        smallest = np.array(ml_dtypes.finfo(numpy_type).smallest_subnormal, dtype=numpy_type)
        values = np.array([-0.0, smallest, -smallest], dtype=numpy_type)
        read = parse_shb(build_adapter("x", [delta_tensor(values=values)], {}).content)
        assert read["tensors"]["a.weight"]["value_dtype"] == dtype
        assert read["tensors"]["a.weight"]["values"].tobytes() == values.tobytes()


def test_xxh3_is_in_canonical_order() -> None:
    # The fingerprints' byte order is part of the format; this is XXH3-128 of no bytes at all.
    assert xxhash.xxh3_128(b"").hexdigest() == "99aa06d3014798d86001c324468d497f"

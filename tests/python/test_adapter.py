# SPDX-License-Identifier: Apache-2.0
"""Adapter: what it shows of a file, and the files it refuses."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from shb_files import (
    adapter,
    adapter_bytes,
    random_arrays,
    resealed,
    section_range,
    tensor_entries,
)

from shira_runtime import (
    Adapter,
    AdapterFile,
    FormatError,
    UnsupportedError,
    UsageError,
    from_numpy,
)

RNG = np.random.default_rng(5)
BASE = random_arrays(RNG, {"b.weight": ((6, 16), "f32"), "a.weight": ((40,), "bf16")})
INDICES = {"b.weight": np.array([0, 7, 95]), "a.weight": np.arange(16, 32)}
VALUES = {name: RNG.standard_normal(len(INDICES[name])) for name in BASE}


def example_bytes() -> bytes:
    return adapter_bytes(
        "de",
        *(tensor_entries(name, BASE[name], INDICES[name], VALUES[name]) for name in BASE),
        license="MIT",
    )


def test_it_shows_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "de.shb"
    path.write_bytes(example_bytes())
    opened = Adapter.open(path)
    assert (opened.name, opened.path, opened.version) == ("de", str(path), (1, 0))
    assert opened.is_bound
    assert opened.entry_count == 19
    assert opened.file_bytes == path.stat().st_size
    assert opened.metadata == {"license": "MIT"}
    assert bytes.fromhex(opened.content_digest) == example_bytes()[64:96]
    assert list(opened.tensors) == ["a.weight", "b.weight"]
    assert "2 tensors, 19 entries" in repr(opened)
    for name, tensor in opened.tensors.items():
        assert tensor.shape == BASE[name].shape
        assert (tensor.numel, tensor.nnz) == (BASE[name].size, len(INDICES[name]))
        assert tensor.value_kind == "target"
        np.testing.assert_array_equal(tensor.indices(), INDICES[name])
        expected = VALUES[name].astype(BASE[name].dtype)
        np.testing.assert_array_equal(tensor.values(), expected.astype(np.float32))
        assert tensor.bits().tobytes() == expected.tobytes()
        assert tensor.indices().dtype == np.uint32
        assert tensor.values().dtype == np.float32
        (part,) = tensor.parts
        assert (part.tier, part.stream_bytes > 0) == (0, True)
        assert (tensor.value_codec, tensor.value_bits) == (
            tensor.dtype,
            8 * expected.dtype.itemsize,
        )
        assert tensor.value_bytes == expected.nbytes
    assert opened.tensors["a.weight"].bits().dtype == np.uint16
    assert opened.tensors["b.weight"].bits().dtype == np.uint32


def test_tensors_and_arrays_outlive_the_adapter() -> None:
    tensor = Adapter.from_bytes(example_bytes()).tensors["b.weight"]
    indices = tensor.indices()
    indices[0] = 5  # a copy: the file stays as it is
    np.testing.assert_array_equal(tensor.indices(), INDICES["b.weight"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_widening_keeps_every_value(dtype: type) -> None:
    finite = np.array([0.0, -0.0, 1.5, -(2.0**-24), 6e-8, 1e-40, -3.0e4], np.float32).astype(dtype)
    base = np.zeros((1, 64), dtype)
    opened = adapter("x", tensor_entries("w", base, np.arange(7) * 2, finite))
    tensor = opened.tensors["w"]
    assert tensor.values().tobytes() == finite.astype(np.float32).tobytes()


def test_metadata_must_be_json() -> None:
    content = bytearray(example_bytes())
    where = section_range(content, "metadata")
    content[where] = b"{" + b"?" * (where.stop - where.start - 2) + b"}"
    with pytest.raises(FormatError) as caught:
        Adapter.from_bytes(resealed(content))
    assert caught.value.status == "BAD_METADATA"


def test_metadata_may_hold_numbers_of_any_length() -> None:
    base = np.zeros((2, 2), np.float32)
    content = adapter_bytes("x", tensor_entries("w", base, np.array([1]), np.ones(1)), n="9" * 5000)
    content = resealed(content.replace(b'"' + b"9" * 5000 + b'"', b" " + b"9" * 5000 + b" "))
    assert Adapter.from_bytes(content).metadata == {"n": float("inf")}


def test_every_shorter_file_is_refused() -> None:
    content = example_bytes()
    for size_bytes in range(len(content)):
        with pytest.raises(FormatError):
            Adapter.from_bytes(content[:size_bytes])
    with pytest.raises(FormatError) as caught:
        Adapter.from_bytes(content + b"\0")
    assert caught.value.status == "TRAILING_BYTES"


def test_every_flipped_byte_is_refused_or_harmless() -> None:
    content = example_bytes()
    harmless = []
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x40
        try:
            Adapter.from_bytes(bytes(damaged))
        except (FormatError, UnsupportedError) as error:
            assert error.status != "OK"  # noqa: PT017 - which of the two is not the point
        else:
            harmless.append(position)
    # Opening trusts the CRCs; the SHA-256 digests are compared by `shira verify`. But the CRC of
    # the header and of the table covers those too.
    assert harmless == []


def planted(fault: str) -> tuple[bytes, str]:
    """A file whose checksums all fit and that breaks one rule, and the status it must give."""
    content = bytearray(example_bytes())
    values = section_range(content, "values").start  # a.weight's 16 bf16 values come first
    index = section_range(content, "index")
    tensors = section_range(content, "tensors").start
    if fault == "nan":
        struct.pack_into("<H", content, values, 0x7FC0)
        return resealed(content), "BAD_VALUE"
    if fault == "infinity":
        struct.pack_into("<H", content, values, 0xFF80)
        return resealed(content), "BAD_VALUE"
    if fault == "index out of range":
        content[index.stop - 1] += 1  # b.weight's last gap: 95 becomes 96 of 96
        return resealed(content), "BAD_INDEX"
    if fault == "too many indices":
        # The second gap as a full digit: the stream then holds one entry less than it should.
        content[index.stop - 2] = 0xFF
        return resealed(content), "BAD_INDEX"
    if fault == "reserved":
        content[tensors + 15] = 1
        return resealed(content), "RESERVED_NOT_ZERO"
    if fault == "dtype":
        content[tensors + 8] = 9
        return resealed(content), "BAD_ENUM"
    if fault == "zero dimension":
        struct.pack_into("<I", content, tensors + 64, 0)
        return resealed(content), "BAD_SHAPE"
    struct.pack_into("<H", content, 8, 7)  # version
    return resealed(content), "UNSUPPORTED_VERSION"


@pytest.mark.parametrize(
    "fault",
    [
        "nan",
        "infinity",
        "index out of range",
        "too many indices",
        "reserved",
        "dtype",
        "zero dimension",
        "version",
    ],
)
def test_a_planted_fault_is_named_with_its_place(fault: str) -> None:
    content, status = planted(fault)
    with pytest.raises((FormatError, UnsupportedError)) as caught:
        Adapter.from_bytes(content, "planted.shb")
    assert caught.value.status == status
    assert caught.value.file == "planted.shb"
    assert caught.value.offset_bytes is not None
    assert 0 <= caught.value.offset_bytes < len(content)


def test_a_resealed_file_without_fault_is_accepted() -> None:
    assert resealed(example_bytes()) == example_bytes()


def test_a_duplicate_index_cannot_be_written_down() -> None:
    # A gap is the distance minus one, so two equal indices would need a gap of -1; for runs a gap
    # of 0 after the first run is refused.
    base = np.zeros((1, 4096), np.float32)
    tensor = tensor_entries("w", base, np.r_[0:100, 200:300, 1000:1001], np.ones(201))
    content = bytearray(adapter_bytes("runs", tensor))
    assert Adapter.from_bytes(bytes(content)).tensors["w"].parts[0].codec == "runs"
    index = section_range(content, "index")
    # pairs (gap, length - 1), behind the table's one row: (0, 99) (100, 99) (700, 0)
    stream = index.start + 48
    assert content[stream : index.stop] == bytes([0, 99, 100, 99, 0xBC, 0x05, 0])
    content[stream + 2] = 0
    with pytest.raises(FormatError) as caught:
        Adapter.from_bytes(resealed(content))
    assert caught.value.status == "BAD_INDEX"
    assert caught.value.tensor == "w"


# --- threads ---


def large_bytes() -> bytes:
    """Tensors whose values alone are more than the megabyte from which on threads are started."""
    rng = np.random.default_rng(6)
    tensors = []
    for number in range(3):
        base = rng.standard_normal((1000, 2000)).astype(np.float32)
        indices = np.sort(rng.choice(base.size, 150_000, replace=False))
        values = rng.standard_normal(indices.size)
        tensors.append(tensor_entries(f"layer{number}", base, indices, values))
    return adapter_bytes("large", *tensors)


def test_threads_open_what_one_opens(tmp_path: Path) -> None:
    path = tmp_path / "large.shb"
    path.write_bytes(large_bytes())
    assert path.stat().st_size > 1 << 20
    alone = Adapter.open(path)
    others = [Adapter.open(path, threads=threads) for threads in (2, 3)]
    others.append(AdapterFile.open(path, threads=2, keep_content=False).adapter())
    others.append(Adapter.from_bytes(path.read_bytes(), threads=2))
    for opened in others:
        assert opened.content_digest == alone.content_digest
        assert list(opened.tensors) == list(alone.tensors)
        for name, tensor in opened.tensors.items():
            np.testing.assert_array_equal(tensor.indices(), alone.tensors[name].indices())
            assert tensor.bits().tobytes() == alone.tensors[name].bits().tobytes()


def test_threads_name_the_same_fault() -> None:
    content = bytearray(large_bytes())
    values = section_range(content, "values")
    for where in (values.start + 400_000, values.stop - 4):  # in the first and the last tensor
        struct.pack_into("<f", content, where, np.nan)
    refused = []
    for threads in (1, 2, 3):
        with pytest.raises(FormatError) as caught:
            Adapter.from_bytes(resealed(content), threads=threads)
        refused.append((str(caught.value), caught.value.tensor, caught.value.offset_bytes))
    assert refused == refused[:1] * 3
    assert refused[0][1:] == ("layer0", values.start + 400_000)


@pytest.mark.parametrize("threads", [0, 65, -1, 2.0, True, "2", None])
def test_the_number_of_threads_is_checked(threads: Any) -> None:
    for opened in (AdapterFile, Adapter):
        with pytest.raises(UsageError, match=r"threads is .*, expected 1 to 64") as caught:
            opened.from_bytes(example_bytes(), threads=threads)
        assert caught.value.status == "INVALID_ARGUMENT"


def test_a_program_opens_with_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "de.shb"
    path.write_bytes(example_bytes())
    asked = []
    open_file = AdapterFile.open

    def record(*arguments: Any, **options: Any) -> AdapterFile:
        asked.append(options["threads"])
        return open_file(*arguments, **options)

    monkeypatch.setattr(AdapterFile, "open", record)
    program = from_numpy(BASE)
    program.add_adapter(path)
    program.threads = 3
    program.add_adapter(path, "again")
    assert asked == [1, 3]

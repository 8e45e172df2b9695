# SPDX-License-Identifier: Apache-2.0
"""The C++ core against the independent Python reader: same verdict, place and entries, always."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("google_crc32c")
pytest.importorskip("ml_dtypes")
pytest.importorskip("xxhash")

import make_vectors
import samples
import shb_writer as shb
from export_inputs import write_safetensors
from mutate import mutate
from native import read_in_python, read_natively

from shira_runtime.export import export_adapter, reader
from shira_runtime.export.cut import cut_adapter
from shira_runtime.export.pack import pack_adapters

NAMES = sorted(samples.SAMPLES)
HOSTILE_BYTES = st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0x81, 0xFE, 0xFF]) | st.integers(0, 255)


def read_good(name: str) -> tuple[bytes, list[bytes]]:
    paths = [make_vectors.good_path(each) for each in (name, *samples.SOURCES.get(name, ()))]
    data, *sources = [(make_vectors.FOLDER / path).read_bytes() for path in paths]
    return data, sources


def assert_alike(data: bytes, **options: Any) -> str:
    """Let both readers judge the bytes; gives the status."""
    native, python = read_natively(data, **options), read_in_python(data, **options)
    assert native == python
    return native.status


# --- Broken files ---


def judge_a_mutant(source: random.Random) -> str:
    data, sources = read_good(source.choice(NAMES))
    tiers = source.choice([None, None, 1, shb.Image(data).u32(52)])
    return assert_alike(mutate(data, source), index_sources=sources, tiers=tiers)


@settings(max_examples=500)
@given(source=st.randoms(use_true_random=False))
def test_mutated_files(source: random.Random) -> None:
    judge_a_mutant(source)


@pytest.mark.slow
def test_mutated_files_for_minutes() -> None:
    end = time.monotonic() + 120
    seed = 0
    while time.monotonic() < end:
        seed += 1
        try:
            judge_a_mutant(random.Random(seed))
        except AssertionError as error:
            raise AssertionError(f"judge_a_mutant(random.Random({seed}))") from error


@st.composite
def index_streams(draw: st.DrawFn) -> bytes:
    """Write a file of one tensor whose index stream is random bytes of about the right size."""
    codec = draw(st.sampled_from([shb.GAPS8, shb.GAPS16, shb.RICE, shb.RUNS, shb.STRUCT]))
    element_count = draw(st.integers(1, 300) | st.sampled_from([70_000, 2**31, 2**32 - 1]))
    block_length = rice_bits = 0
    unit_count = 1 if codec == shb.STRUCT else draw(st.integers(1, min(9, element_count)))
    nnz = unit_count
    if codec in (shb.GAPS8, shb.GAPS16, shb.RICE):
        block_length = draw(st.integers(1, min(5, element_count // unit_count)))
        nnz = unit_count * block_length
    elif codec in (shb.RUNS, shb.STRUCT):
        nnz = draw(st.integers(unit_count, min(element_count, unit_count + 40)))
    if codec == shb.RICE:
        rice_bits = draw(st.sampled_from([0, 1, 2, 3, 7, 8, 31]))
    if codec == shb.STRUCT:
        number = st.integers(0, 20)
        coded = struct.pack("<B3x", draw(st.integers(0, 8)))
        coded += struct.pack("<III", draw(number), draw(number), draw(number))
    else:
        low_bytes = -(-unit_count * rice_bits // 8)
        least = {shb.GAPS8: unit_count, shb.RICE: low_bytes + -(-unit_count // 8)}
        size = draw(st.integers(least.get(codec, 2 * unit_count), 30 + low_bytes))
        coded = bytes(draw(st.lists(HOSTILE_BYTES, min_size=size, max_size=size)))
    index = shb.Index(codec, element_count, nnz, unit_count, coded, block_length, rice_bits)
    return samples.one_tensor(index, shb.F16)


@settings(max_examples=600)
@given(data=index_streams())
def test_random_index_streams(data: bytes) -> None:
    assert assert_alike(data) in ("OK", "BAD_INDEX")


PLAIN_PIECES = rb"""{ } [ ] , : " "a" \ \u d800 0 - 1 . e E+9 true null nul NaN //""".split()
UNSEEN_PIECES = [b" ", b"\n", b"\x0b", b"\x1f", b"\x7f", b"\xc3\xa9", b"\xc3", b"\xed\xa0\x80"]
JSON_PIECES = st.sampled_from(PLAIN_PIECES + UNSEEN_PIECES)
JSON_VALUES = st.recursive(
    st.sampled_from([b"null", b"-0", b"1e9", b"0.5", b'""', b'"\\n\\u00ff"', b"false"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: b"[" + b",".join(each) + b"]")
        | st.lists(inner, max_size=3).map(
            lambda each: b"{" + b",".join(b'"k" :' + value for value in each) + b"}"
        )
    ),
    max_leaves=5,
)


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    """Break a JSON object in a place or two, or leave it whole."""
    text = b'{"a":' + draw(JSON_VALUES) + b"}"
    for _ in range(draw(st.integers(0, 2))):
        begin = draw(st.integers(0, len(text)))
        end = begin + draw(st.integers(0, 2))
        text = text[:begin] + draw(JSON_PIECES) + text[end:]
    return text if len(text) >= 2 else b"{}"


def file_of(*, metadata: bytes = b"{}", name: bytes = b"a") -> bytes:
    index = shb.runs_index(9, [(0, 1)])
    row = samples.delta("w", index, shb.F16, 1)
    return shb.write([shb.Adapter(name, [row], metadata)])


@settings(max_examples=500)
@given(text=json_texts())
def test_random_metadata(text: bytes) -> None:
    assert assert_alike(file_of(metadata=text)) in ("OK", "BAD_METADATA")


UTF8_BYTES = st.sampled_from(
    bytes.fromhex("00 1f 20 41 7e 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ed ef f0 f1 f4 f5 ff")
)


@settings(max_examples=400)
@given(name=st.lists(UTF8_BYTES, min_size=1, max_size=5).map(bytes) | st.text(min_size=1))
def test_random_names(name: bytes | str) -> None:
    raw = name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name
    assert assert_alike(file_of(name=raw)) in ("OK", "BAD_NAME")


@settings(max_examples=300)
@given(
    codec=st.sampled_from([shb.F32, shb.F16, shb.BF16, shb.Q8, shb.Q4, shb.Q2, shb.Q1]),
    nnz=st.integers(1, 150),
    exponent=st.integers(-64, 64),
    coded=st.binary(min_size=600, max_size=600),
)
def test_random_value_streams(codec: int, nnz: int, exponent: int, coded: bytes) -> None:
    index = shb.runs_index(200, [(3, nnz)])
    size = -(-nnz * shb.CODE_BITS[codec] // 8)
    fields: dict[str, Any] = {}
    if codec >= shb.Q8:
        size += 2 * -(-nnz // 64)
        fields = {"value_group": 64, "scale_exponent": exponent}
    row = shb.Tensor("w", index, codec, coded[:size], **fields)
    status = assert_alike(shb.write([shb.Adapter("a", [row])]))
    assert status in ("OK", "BAD_VALUE", "RESERVED_NOT_ZERO")


# --- Good files ---


@st.composite
def masks(draw: st.DrawFn, element_count: int) -> shb.Index:
    """Draw a mask of any codec that needs no base."""
    codec = draw(st.integers(shb.GAPS8, shb.RANDOM))
    if codec == shb.STRUCT:
        columns = draw(st.sampled_from([n for n in range(1, 40) if element_count % n == 0]))
        parts = draw(st.integers(1, 7))
        period = 1 if parts == 4 else draw(st.integers(1, 9))
        phase = draw(st.integers(0, period - 1)) if period > 1 else 0
        mask = shb.struct_index(element_count, parts, columns, period, phase)
        return mask if mask.nnz else shb.struct_index(element_count, 4, columns, 1, 0)
    if codec == shb.RUNS:
        cuts = draw(st.lists(st.integers(0, element_count), min_size=2, max_size=20, unique=True))
        cuts = sorted(cuts)[: len(cuts) // 2 * 2]
        runs = [(begin, end - begin) for begin, end in zip(cuts[::2], cuts[1::2], strict=True)]
        return shb.runs_index(element_count, runs)
    length = draw(st.integers(1, 6))
    block_count = element_count // length
    if codec == shb.RANDOM:
        units = draw(st.integers(1, block_count))
        return shb.random_index(element_count, units, draw(st.integers(0, 2**64 - 1)), length)
    blocks = draw(st.sets(st.integers(0, block_count - 1), min_size=1, max_size=60))
    rice_bits = draw(st.integers(0, 12)) if codec == shb.RICE else 0
    return shb.blocks_index(codec, element_count, sorted(blocks), length, rice_bits)


@settings(max_examples=200)
@given(data=st.data())
def test_random_files(data: st.DataObject) -> None:
    element_count = data.draw(st.integers(12, 700))
    table = data.draw(st.lists(masks(element_count), min_size=1, max_size=4))
    codecs = st.sampled_from([shb.F32, shb.F16, shb.BF16, shb.Q8, shb.Q4, shb.Q2, shb.Q1])
    adapters = []
    for number in range(data.draw(st.integers(1, 3))):
        rows = [
            samples.delta(
                f"t{i}", data.draw(st.sampled_from(table)), data.draw(codecs), 7 * number + i
            )
            for i in range(data.draw(st.integers(1, 3)))
        ]
        adapters.append(shb.Adapter(f"a{number}", rows))
    written = shb.write(adapters)
    assert assert_alike(written) == "OK"
    for adapter, read in zip(adapters, reader.read(written).adapters, strict=True):
        for row, tensor in zip(adapter.tensors, read.tensors.values(), strict=True):
            assert tensor.positions().tolist() == row.index.positions
            if row.value_codec <= shb.BF16:
                assert tensor.bits().tobytes() == row.stream


# --- Files of the exporter ---


def write_models(folder: Path, dtype: Any) -> tuple[Path, Path, dict[str, Any], dict[str, Any]]:
    """Write a base and a fine-tuned model that differ in a few percent of the weights."""
    generator = np.random.default_rng(3)
    base, tuned = {}, {}
    for name, shape in {"a.weight": (48, 32), "b.weight": (40, 40), "c.weight": (64,)}.items():
        base[name] = (generator.normal(size=shape) / 50).astype(dtype)
        tuned[name] = base[name].copy()
        positions = generator.choice(base[name].size, base[name].size // 20, replace=False)
        tuned[name].reshape(-1)[positions] += np.asarray(0.01, dtype)
    paths = [folder / "base.safetensors", folder / "tuned.safetensors"]
    write_safetensors(paths[0], base)
    write_safetensors(paths[1], tuned)
    return paths[0], paths[1], base, tuned


EXPORTS: dict[str, dict[str, Any]] = {
    "target": {},
    "gaps8": {"index": "gaps8"},
    "gaps16": {"index": "gaps16"},
    "rice": {"index": "rice"},
    "runs": {"index": "runs"},
    "deltas": {"values": "f16"},
    "int8": {"values": "int8"},
    "int4 in tiers": {"values": "int4", "tiers": (0.3, 1.0)},
    "int2": {"values": "int2", "group": 72},
    "int1": {"values": "int1"},
    "tiers": {"tiers": (0.25, 0.5, 1.0)},
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("options", EXPORTS.values(), ids=EXPORTS)
def test_exported_files(tmp_path: Path, options: dict[str, Any], dtype: str) -> None:
    base_path, tuned_path, base, tuned = write_models(tmp_path, np.dtype(dtype))
    export_adapter(tuned_path, tmp_path / "x.shb", base=base_path, **options)
    data = (tmp_path / "x.shb").read_bytes()
    assert assert_alike(data) == "OK"
    reader.check_digests(data)
    tensors = reader.read(data).adapters[0].tensors
    assert list(tensors) == list(base)
    for name, tensor in tensors.items():
        flat, before = tuned[name].reshape(-1), base[name].reshape(-1)
        positions = tensor.positions()
        assert positions.tolist() == np.flatnonzero(flat != before).tolist()
        assert tensor.matches(base[name])
        if tensor.value_kind == "target":
            assert tensor.bits().tobytes() == flat[positions].tobytes()


def test_packed_and_cut_files(tmp_path: Path) -> None:
    base_path, tuned_path, _, _ = write_models(tmp_path, np.dtype(np.float32))
    paths = [tmp_path / "de.shb", tmp_path / "fr.shb"]
    for path, values in zip(paths, ("target", "int8"), strict=True):
        export_adapter(tuned_path, path, base=base_path, tiers=(0.4, 1.0), values=values)
    assert assert_alike(pack_adapters(paths)) == "OK"
    cut_adapter(paths[0], tmp_path / "cut.shb", 1)
    cut = (tmp_path / "cut.shb").read_bytes()
    assert assert_alike(cut) == "OK"
    whole = read_in_python(paths[0].read_bytes(), tiers=1)
    assert read_in_python(cut).content == whole.content


def test_exported_references(tmp_path: Path) -> None:
    base_path, tuned_path, _, _ = write_models(tmp_path, np.dtype(np.float32))
    first, second = tmp_path / "first.shb", tmp_path / "second.shb"
    export_adapter(tuned_path, first, base=base_path)
    export_adapter(tuned_path, second, base=base_path, values="int4", index_from=first)
    data = second.read_bytes()
    assert assert_alike(data, index_sources=[first.read_bytes()]) == "OK"
    assert assert_alike(data) == "MISSING_INDEX"

# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile .pte and .ptd files end in ProgramFormatError, and in nothing else.

What the exporter makes of a file is what the runtime makes of it: the same files are refused, and
of the others both see the same tensors, of which the same can be changed.
"""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from _models import tiny_encoder, tiny_ids

import shira_runtime
from shira_runtime import _core
from shira_runtime.export.errors import ProgramFormatError
from shira_runtime.export.program import export_program
from shira_runtime.export.program_file import (
    NAME_MAP_METHOD,
    ProgramTensor,
    read_name_map,
    read_program_tensors,
    shared_storage,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A .pte with its weights, a .pte without, and their .ptd."""
    folder = tmp_path_factory.mktemp("good")
    inputs = (tiny_ids(),)
    names = {"wide.weight": "encoder.wide.weight"}
    export_program(tiny_encoder(), inputs, folder / "inline.pte", name_map=names)
    export_program(
        tiny_encoder(),
        inputs,
        folder / "external.pte",
        data_path=folder / "external.ptd",
        name_map=names,
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMES = ["inline.pte", "external.pte", "external.ptd"]


def read_all(path: Path) -> None:
    """Read whatever the file offers; places must lie inside it and values must be readable."""
    read_name_map(path)
    file_bytes = path.stat().st_size
    for tensor in read_program_tensors(path, include_unnamed=True).values():
        assert 0 <= tensor.offset_bytes <= tensor.offset_bytes + tensor.size_bytes <= file_bytes
        assert sorted(tensor.dim_order) == list(range(len(tensor.shape)))
        if tensor.is_contiguous:
            assert tensor.read().nbytes == tensor.size_bytes


def survives(path: Path, content: bytes) -> bool:
    """True if the content reads, False if it is refused; any other exception fails the test."""
    path.write_bytes(content)
    try:
        read_all(path)
    except ProgramFormatError:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_good_to_begin_with(files, tmp_path, name):
    assert survives(tmp_path / name, files[name])


@pytest.mark.parametrize("name", ["inline.pte", "external.ptd"])
def test_every_truncation_is_refused(files, tmp_path, name):
    content = files[name]
    lengths = {*range(64), *range(64, len(content), len(content) // 300), len(content) - 1}
    assert [length for length in lengths if survives(tmp_path / name, content[:length])] == []


def test_truncation_of_a_program_without_segments_is_survived(files, tmp_path):
    # Its header is optional, so what no table needs may be missing; nothing worse may happen.
    content = files["external.pte"]
    outcomes = [survives(tmp_path / "x.pte", content[:n]) for n in range(0, len(content), 13)]
    assert not all(outcomes)


@pytest.mark.parametrize("name", NAMES)
def test_flipped_bytes_are_survived(files, tmp_path, name):
    generator = random.Random(20250607)
    content = bytearray(files[name])
    positions = [*range(64), *generator.sample(range(64, min(len(content), 4096)), 700)]
    refused = 0
    for position in positions:
        original = content[position]
        content[position] ^= generator.choice([0x01, 0x10, 0x80, 0xFF])
        refused += not survives(tmp_path / name, bytes(content))
        content[position] = original
    assert refused > len(positions) // 50


@pytest.mark.parametrize("name", NAMES)
def test_random_damage_is_survived(files, tmp_path, name):
    generator = random.Random(20250608)
    for _ in range(300):
        content = bytearray(files[name])
        for _ in range(generator.randint(1, 12)):
            position = 4 * generator.randrange(min(len(content), 4096) // 4)
            value = generator.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, generator.randrange(2**32)])
            struct.pack_into("<I", content, position, value)
        survives(tmp_path / name, bytes(content))


SHORT_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def as_the_exporter_sees_it(path: Path) -> dict[str, object] | None:
    """Name -> what the runtime would say of the tensor; None if the file is refused."""
    try:
        found = read_program_tensors(path, include_unnamed=True)
    except ProgramFormatError:
        return None
    shared = {name for group in shared_storage(found.values()) for name in group}
    return {
        name: (
            tensor.offset_bytes,
            tensor.size_bytes,
            tensor.shape,
            SHORT_NAMES.get(tensor.dtype, "f32"),
            tensor.why_not == "" and name not in shared,
        )
        for name, tensor in found.items()
        if not name.startswith("#")
    }


def as_the_runtime_sees_it(path: Path) -> dict[str, object] | None:
    try:
        found = _core.ProgramFile.read(str(path)).tensors
    except shira_runtime.ShiraError:
        return None
    return {
        tensor.name: (
            tensor.offset_bytes,
            tensor.size_bytes,
            tensor.shape,
            tensor.dtype,  # "f32" where it is none that an adapter changes
            tensor.patchable and not tensor.shares_storage_with,
        )
        for tensor in found
    }


def damaged(content: bytes, generator: random.Random) -> bytes:
    """Change a few bytes or words where the tables are."""
    changed = bytearray(content)
    end = min(len(content), 4096)
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        if generator.random() < 0.5:
            changed[generator.randrange(end)] ^= 1 << generator.randrange(8)
        else:
            value = generator.choice([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, generator.randrange(4096)])
            struct.pack_into("<I", changed, 4 * generator.randrange(end // 4), value)
    return bytes(changed)


@pytest.mark.parametrize("name", NAMES)
def test_exporter_and_runtime_read_the_same_of_damaged_files(files, tmp_path, name):
    generator = random.Random(20250609)
    path = tmp_path / name
    untouched = None
    refused_count = other_count = 0
    for step in range(400):
        path.write_bytes(damaged(files[name], generator) if step else files[name])
        expected = as_the_runtime_sees_it(path)
        assert as_the_exporter_sees_it(path) == expected, f"step {step}"
        untouched = expected if step == 0 else untouched
        refused_count += expected is None
        other_count += expected not in (None, untouched)
    assert untouched is not None
    assert refused_count > 10
    assert other_count > 10 or untouched == {}


@pytest.mark.parametrize("name", NAMES)
def test_exporter_and_runtime_take_the_same_truncated_files(files, tmp_path, name):
    path = tmp_path / name
    content = files[name]
    for length in [*range(80), *range(80, len(content), len(content) // 60), len(content) - 1]:
        path.write_bytes(content[:length])
        assert as_the_exporter_sees_it(path) == as_the_runtime_sees_it(path), length


@pytest.mark.parametrize("stated_bytes", [23, 24, 31, 32, 40])
def test_exporter_and_runtime_take_the_same_lengths_of_header(files, tmp_path, stated_bytes):
    path = tmp_path / "inline.pte"
    content = bytearray(files["inline.pte"])
    struct.pack_into("<I", content, 12, stated_bytes)
    path.write_bytes(content)
    assert (as_the_exporter_sees_it(path) is None) == (stated_bytes < 24)
    assert as_the_exporter_sees_it(path) == as_the_runtime_sees_it(path)


def test_exporter_and_runtime_allow_the_same_work(tmp_path):
    path = tmp_path / "many.pte"
    outcomes = set()
    for count in range(1, 30):
        path.write_bytes(many_plans(count))
        seen = as_the_exporter_sees_it(path)
        assert seen == as_the_runtime_sees_it(path), count
        outcomes.add(seen is None)
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "identifier ET12"),
        (b"\0\0\0\0PK\3\4" + bytes(100), "found b'PK"),
        (b"\x0c\0\0\0FT01FH02" + bytes(100), "expected a header b'FH01'"),
    ],
)
def test_other_files_are_refused(tmp_path, content, problem):
    path = tmp_path / "other.pte"
    path.write_bytes(content)
    with pytest.raises(ProgramFormatError, match=problem):
        read_program_tensors(path)


@pytest.mark.parametrize(
    ("position", "value", "problem"),
    [
        (0, struct.pack("<I", 0xFFFFFFF0), "points outside"),  # the first table
        (16, struct.pack("<Q", 2**64 - 1), "truncated"),  # the size of the flatbuffer
        (24, struct.pack("<Q", 2**64 - 1), "truncated"),  # the start of the segments
    ],
    ids=["root", "flatbuffer", "segments"],
)
def test_a_header_that_points_outside_is_refused(files, tmp_path, position, value, problem):
    path = tmp_path / "inline.pte"
    content = bytearray(files["inline.pte"])
    content[position : position + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(ProgramFormatError, match=problem):
        read_program_tensors(path)


def many_plans(count: int) -> bytes:
    """A .pte of about 8 * count bytes whose methods are `count` times one, of `count` equal values.

    Read naively, that is count ** 2 tables. Written by hand: each vtable lies before its table.
    """
    content = bytearray(b"\0\0\0\0ET12\0\0\0\0")

    def table(*fields: int) -> int:
        """Append a table with room for these numbered 4-byte fields; return its position."""
        slots = [0] * (max(fields) + 1)
        for place, field in enumerate(fields):
            slots[field] = 4 + 4 * place
        vtable = struct.pack("<2H", 4 + 2 * len(slots), 4 + 4 * len(fields))
        vtable += struct.pack(f"<{len(slots)}H", *slots)
        vtable += bytes(-len(vtable) % 4)
        content.extend(vtable)
        position = len(content)
        content.extend(struct.pack("<i", len(vtable)) + bytes(4 * len(fields)))
        return position

    def refer(position: int, target: int) -> None:
        struct.pack_into("<I", content, position, target - position)

    def repeated(field: int, item_count: int, item_bytes: int = 4) -> range:
        """Append a vector of `item_count` zeros, and let the field refer to it."""
        refer(field, len(content))
        content.extend(struct.pack("<I", item_count) + bytes(item_bytes * item_count))
        return range(len(content) - item_bytes * item_count, len(content), item_bytes)

    # References point forward only, so what they point to is appended after them.
    program = table(1, 4, 5)
    refer(0, program)
    (segment,) = repeated(program + 8, 1)
    refer(segment, table(2))  # empty, with one constant: without any no method would be read
    constants = table(1)
    refer(program + 12, constants)
    repeated(constants + 4, 1, item_bytes=8)
    plans = repeated(program + 4, count)
    plan = table(2)
    values = repeated(plan + 4, count)
    value = table(0)
    for positions, target in ((plans, plan), (values, value)):
        for position in positions:
            refer(position, target)
    return bytes(content)


def test_work_is_bounded_by_the_size_of_the_file(tmp_path):
    path = tmp_path / "many.pte"
    path.write_bytes(many_plans(1))
    assert read_program_tensors(path) == {}
    path.write_bytes(many_plans(2_000))
    started = time.monotonic()
    with pytest.raises(ProgramFormatError, match="more entries than the file has bytes for"):
        read_program_tensors(path)
    assert time.monotonic() - started < 20.0


@pytest.mark.parametrize("value", ["[1, 2]", '{"a": 1}', "{", '{"a": "b"}', "[" * 4000])
def test_a_name_map_must_be_an_object_of_strings(files, tmp_path, value):
    # Same length, so that the string's length and all offsets stay right.
    original = b'{"wide.weight": "encoder.wide.weight"}'
    path = tmp_path / "inline.pte"
    content = files["inline.pte"]
    assert content.count(original) == 1
    path.write_bytes(
        content.replace(original, value.encode().ljust(len(original))[: len(original)])
    )
    if value == '{"a": "b"}':
        assert read_name_map(path) == {"a": "b"}
        return
    with pytest.raises(ProgramFormatError, match="name map is not a JSON object of strings"):
        read_name_map(path)


def test_the_name_map_is_found_by_its_method(files, tmp_path):
    path = tmp_path / "inline.pte"
    renamed = NAME_MAP_METHOD[:-1] + "q"
    path.write_bytes(files["inline.pte"].replace(NAME_MAP_METHOD.encode(), renamed.encode()))
    assert read_name_map(path) == {}


def tensor(name: str, start: int, size: int, file: str = "a.pte") -> ProgramTensor:
    return ProgramTensor(name, "uint8", (size,), (0,), start, size, Path(file))


def test_shared_storage_finds_every_overlap():
    assert shared_storage([tensor("a", 0, 4), tensor("b", 4, 4), tensor("c", 0, 4, "b.ptd")]) == []
    assert shared_storage([tensor("b", 0, 4), tensor("a", 0, 4)]) == [("a", "b")]
    # The third overlaps the first and not the second; an empty tensor shares nothing.
    chain = [tensor("a", 0, 9), tensor("b", 1, 2), tensor("c", 8, 4), tensor("none", 2, 0)]
    assert shared_storage(chain) == [("a", "b", "c")]


def test_values_that_are_not_as_described_are_not_read(tmp_path):
    path = tmp_path / "raw"
    path.write_bytes(np.arange(6, dtype=np.uint8).tobytes())
    permuted = ProgramTensor("w", "uint8", (2, 3), (1, 0), 0, 6, path)
    with pytest.raises(ProgramFormatError, match="not row-major"):
        permuted.read()
    cut = ProgramTensor("w", "uint8", (2, 4), (0, 1), 0, 8, path)
    with pytest.raises(ProgramFormatError, match="expected 8 values, found 6"):
        cut.read()
    huge = ProgramTensor("w", "uint64", (2**31 - 1, 2**31 - 1, 0), (0, 1, 2), 0, 0, path)
    with pytest.raises(ProgramFormatError, match="impossible shape"):
        huge.read()
    unknown = ProgramTensor("w", "the unknown dtype code 9", (6,), (0,), 0, 6, path)
    with pytest.raises(ProgramFormatError, match="the unknown dtype code 9"):
        unknown.read()


def test_dimensions_of_one_element_may_stand_anywhere(tmp_path):
    path = tmp_path / "raw"
    path.write_bytes(bytes(range(6)))
    column = ProgramTensor("w", "uint8", (2, 1, 3), (1, 0, 2), 0, 6, path)
    assert column.is_contiguous
    assert column.read().tolist() == [[[0, 1, 2]], [[3, 4, 5]]]

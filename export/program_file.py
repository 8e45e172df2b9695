# SPDX-License-Identifier: Apache-2.0
"""Finds the named weights inside ExecuTorch .pte and .ptd files, without ExecuTorch.

Both files are a small flatbuffer that describes the tensors, followed by raw data segments:

    .pte  flatbuffer "ET12", header "eh00" at byte 8; one segment holds all inline constants
    .ptd  flatbuffer "FT01", header "FH01" at byte 8; one segment for each distinct content

Only the flatbuffer is read into memory. Every offset, length and count in it is checked before it
is used, and the work is bounded by its size, so that a damaged or hostile file ends in
ProgramFormatError and in nothing else. Needs numpy and the standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ExportError

#: Name of the constant method in which a program carries its name map (JSON, program -> training).
NAME_MAP_METHOD = "shira_name_map"

# ScalarType code -> (name, numpy type of the stored elements). bfloat16 is given as bit patterns.
_DTYPES: dict[int, tuple[str, str]] = {
    0: ("uint8", "<u1"),
    1: ("int8", "<i1"),
    2: ("int16", "<i2"),
    3: ("int32", "<i4"),
    4: ("int64", "<i8"),
    5: ("float16", "<f2"),
    6: ("float32", "<f4"),
    7: ("float64", "<f8"),
    11: ("bool", "?"),
    15: ("bfloat16", "<u2"),
    27: ("uint16", "<u2"),
    28: ("uint32", "<u4"),
    29: ("uint64", "<u8"),
}
_NUMPY_TYPES = dict(_DTYPES.values())
_MAXIMUM_DIMENSIONS = 16  # ExecuTorch's kTensorDimensionLimit

# Field numbers and union tags of executorch's schema/program.fbs and flat_tensor.fbs.
_VERSION = 0
_PROGRAM_PLANS, _PROGRAM_SEGMENTS, _PROGRAM_CONSTANT_SEGMENT = 1, 4, 5
_PLAN_NAME, _PLAN_VALUES, _PLAN_OUTPUTS = 0, 2, 4
_VALUE_TYPE, _VALUE = 0, 1
_VALUE_IS_TENSOR, _VALUE_IS_STRING = 5, 6
_TENSOR_DTYPE, _TENSOR_SIZES, _TENSOR_DIM_ORDER = 0, 2, 3
_TENSOR_BUFFER, _TENSOR_ALLOCATION, _TENSOR_EXTRA = 5, 6, 9
_EXTRA_NAME, _EXTRA_LOCATION = 1, 2
_EXTERNAL = 1
_FLAT_SEGMENTS, _FLAT_NAMED = 1, 2
_NAMED_KEY, _NAMED_SEGMENT, _NAMED_LAYOUT = 0, 1, 2


class ProgramFormatError(ExportError):
    """A .pte or .ptd file is damaged, truncated or of a kind that this reader does not know."""

    def __init__(self, path: Path, offset_bytes: int, problem: str) -> None:
        super().__init__(f"{path}: byte {offset_bytes}: {problem}")
        self.path = path
        self.offset_bytes = offset_bytes


@dataclass(frozen=True)
class ProgramTensor:
    """Where one named constant lies in a file.

    `dtype` is a numpy-style name ("float32", "bfloat16", ...), `dim_order` lists the dimensions
    from the slowest to the fastest in memory, `offset_bytes` counts from the start of `file`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    dim_order: tuple[int, ...]
    offset_bytes: int
    size_bytes: int
    file: Path

    @property
    def is_contiguous(self) -> bool:
        """True if the flat index of an element is its row-major index."""
        return self.dim_order == tuple(range(len(self.shape)))

    def read(self) -> NDArray[Any]:
        """Read the values, shaped like the tensor; bfloat16 comes as uint16 bit patterns.

        Raises:
            ProgramFormatError: the tensor is not row-major, or the file has become shorter.
        """
        if not self.is_contiguous:
            raise ProgramFormatError(
                self.file,
                self.offset_bytes,
                f"tensor {self.name} has dimension order {self.dim_order}: not row-major",
            )
        count = math.prod(self.shape)
        values = np.fromfile(
            self.file, _NUMPY_TYPES[self.dtype], count=count, offset=self.offset_bytes
        )
        if values.size != count:
            raise ProgramFormatError(
                self.file,
                self.offset_bytes,
                f"tensor {self.name}: expected {count} values, found {values.size}",
            )
        return values.reshape(self.shape)


def read_program_tensors(
    path: str | Path, *, include_unnamed: bool = False
) -> dict[str, ProgramTensor]:
    """List the named constants whose bytes lie in a .pte or .ptd file, in order of definition.

    A .pte that keeps its weights in a .ptd gives only what lies in the .pte itself: pass the .ptd.
    Constants without a name and buffers that the program copies into its arena are left out: no
    adapter can name the former, and a write to the file's mapping would not reach the latter.

    Args:
        path: the file.
        include_unnamed: list constants without a name as well, as "#" and a number.

    Raises:
        ProgramFormatError: the file is not a well-formed .pte or .ptd.
        OSError: the file cannot be read.
    """
    path = Path(path)
    buffer, segments_start = _open(path)
    if buffer.is_program:
        found = _program_entries(buffer, segments_start, include_unnamed)
    else:
        found = _flat_tensor_entries(buffer, segments_start)
    tensors: dict[str, ProgramTensor] = {}
    for position, tensor in found:
        # A program may describe a constant several times: once for each method, and once for each
        # view of it, which has another shape. The parameter itself comes first.
        first = tensors.setdefault(tensor.name, tensor)
        if (first.offset_bytes, first.size_bytes, first.dtype) != (
            tensor.offset_bytes,
            tensor.size_bytes,
            tensor.dtype,
        ):
            raise ProgramFormatError(
                path, position, f"tensor {tensor.name} has two places: it is described twice"
            )
    return tensors


def read_name_map(path: str | Path) -> dict[str, str]:
    """Read the name map of a .pte: name in the program -> name in the training checkpoint.

    Names that are absent are the same in both. A program without a map, or a .ptd (which has no
    place for one), gives an empty map.

    Raises:
        ProgramFormatError: the file is damaged, or the map is not a JSON object of strings.
        OSError: the file cannot be read.
    """
    path = Path(path)
    buffer, _ = _open(path)
    if not buffer.is_program:
        return {}
    for plan in buffer.root().tables(_PROGRAM_PLANS):
        if plan.string(_PLAN_NAME) != NAME_MAP_METHOD:
            continue
        outputs, values = plan.integers(_PLAN_OUTPUTS, 4), list(plan.tables(_PLAN_VALUES))
        if len(outputs) != 1 or outputs[0] >= len(values):
            raise ProgramFormatError(path, plan.position, "the name map has no value")
        value = values[outputs[0]]
        text_table = value.table(_VALUE)
        if value.scalar(_VALUE_TYPE, 1) != _VALUE_IS_STRING or text_table is None:
            raise ProgramFormatError(path, value.position, "the name map is not a string")
        try:
            names = json.loads(text_table.string(0) or "")
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise ProgramFormatError(
                path, text_table.position, "the name map is not a JSON object of strings"
            )
        return names
    return {}


def shared_storage(tensors: Iterable[ProgramTensor]) -> list[tuple[str, ...]]:
    """Groups of names whose bytes overlap: writing one tensor would change the others."""
    groups: list[list[str]] = []
    file, end = Path(), 0
    for tensor in sorted(tensors, key=lambda t: (t.file, t.offset_bytes, t.name)):
        if tensor.size_bytes == 0:
            continue
        if tensor.file == file and tensor.offset_bytes < end:
            groups[-1].append(tensor.name)
        else:
            groups.append([tensor.name])
            end = 0
        file, end = tensor.file, max(end, tensor.offset_bytes + tensor.size_bytes)
    return [tuple(group) for group in groups if len(group) > 1]


class _Buffer:
    """The flatbuffer part of a file; every access is checked against its length.

    `work_left` bounds the bytes that may be visited: a well-formed file visits each byte about
    once, while a hostile one could point a million entries at the same megabyte.
    """

    def __init__(self, path: Path, content: bytes, file_bytes: int) -> None:
        self.path = path
        self.content = content
        self.file_bytes = file_bytes
        self.is_program = content[4:8] == b"ET12"
        self.work_left = 8 * len(content) + 1024

    def error(self, position: int, problem: str) -> ProgramFormatError:
        return ProgramFormatError(self.path, position, problem)

    def number(self, position: int, width: int, signed: bool = False) -> int:
        if position < 0 or position + width > len(self.content):
            raise self.error(position, f"points outside the {len(self.content)}-byte flatbuffer")
        return int.from_bytes(self.content[position : position + width], "little", signed=signed)

    def spend(self, position: int, work_bytes: int) -> None:
        self.work_left -= work_bytes
        if self.work_left < 0:
            raise self.error(position, "more entries than the file has bytes for")

    def root(self) -> _Table:
        return _Table(self, self.number(0, 4))


class _Table:
    """One flatbuffer table: an offset to a list of field offsets, then the fields."""

    def __init__(self, buffer: _Buffer, position: int) -> None:
        self.buffer = buffer
        self.position = position
        buffer.spend(position, 8)
        self._fields = position - buffer.number(position, 4, signed=True)
        self._fields_bytes = buffer.number(self._fields, 2)
        self._table_bytes = buffer.number(self._fields + 2, 2)

    def _field(self, index: int, width: int) -> int | None:
        """Position of a field of `width` bytes, or None if the file leaves it at its default."""
        slot = 4 + 2 * index
        if slot + 2 > self._fields_bytes:
            return None
        offset = self.buffer.number(self._fields + slot, 2)
        if offset == 0:
            return None
        if offset + width > self._table_bytes:
            raise self.buffer.error(self.position, f"field {index} lies outside its table")
        return self.position + offset

    def _target(self, index: int) -> int | None:
        field = self._field(index, 4)
        return None if field is None else field + self.buffer.number(field, 4)

    def scalar(self, index: int, width: int, signed: bool = False) -> int:
        field = self._field(index, width)
        return 0 if field is None else self.buffer.number(field, width, signed)

    def table(self, index: int) -> _Table | None:
        target = self._target(index)
        return None if target is None else _Table(self.buffer, target)

    def required_table(self, index: int, what: str) -> _Table:
        table = self.table(index)
        if table is None:
            raise self.buffer.error(self.position, f"{what} is missing")
        return table

    def _vector(self, index: int, item_bytes: int) -> tuple[int, int]:
        """Position of the first item and the number of items; (0, 0) if absent."""
        target = self._target(index)
        if target is None:
            return 0, 0
        count = self.buffer.number(target, 4)
        if target + 4 + count * item_bytes > len(self.buffer.content):
            raise self.buffer.error(target, f"a list of {count} items runs past the flatbuffer")
        self.buffer.spend(target, 4 + count * item_bytes)
        return target + 4, count

    def integers(self, index: int, width: int, signed: bool = False) -> tuple[int, ...]:
        start, count = self._vector(index, width)
        return tuple(self.buffer.number(start + width * i, width, signed) for i in range(count))

    def string(self, index: int) -> str | None:
        start, count = self._vector(index, 1)
        if start == 0:
            return None
        try:
            return self.buffer.content[start : start + count].decode("utf-8")
        except UnicodeDecodeError:
            raise self.buffer.error(start, "a name is not UTF-8") from None

    def tables(self, index: int) -> Iterator[_Table]:
        start, count = self._vector(index, 4)
        for position in range(start, start + 4 * count, 4):
            yield _Table(self.buffer, position + self.buffer.number(position, 4))


def _read_at(path: Path, offset_bytes: int, count_bytes: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset_bytes)
        content = stream.read(count_bytes)
    if len(content) != count_bytes:
        raise ProgramFormatError(
            path,
            offset_bytes,
            f"truncated: expected {count_bytes} more bytes, found {len(content)}",
        )
    return content


def _open(path: Path) -> tuple[_Buffer, int]:
    """Read the header and the flatbuffer of either kind of file.

    Returns:
        The flatbuffer, and the byte of the file from which segments are counted.
    """
    file_bytes = path.stat().st_size
    magic = _read_at(path, 0, 8)[4:]
    kinds = {b"ET12": (b"eh00", 32), b"FT01": (b"FH01", 40)}
    if magic not in kinds:
        raise ProgramFormatError(
            path, 4, f"expected the identifier ET12 (.pte) or FT01 (.ptd), found {magic!r}"
        )
    header_magic, header_bytes = kinds[magic]
    if magic == b"ET12" and _read_at(path, 8, 4) != header_magic:
        # A .pte without segments has no header: all of it is the flatbuffer.
        flatbuffer_end = segments_start = segments_end = file_bytes
    else:
        header = _read_at(path, 8, header_bytes)
        stated_bytes = int.from_bytes(header[4:8], "little")
        if header[:4] != header_magic or stated_bytes < header_bytes:
            raise ProgramFormatError(
                path, 8, f"expected a header {header_magic!r} of {header_bytes} bytes or more"
            )
        *flatbuffer_range, segments_start, segments_bytes = (
            int.from_bytes(header[at : at + 8], "little") for at in range(8, header_bytes, 8)
        )
        flatbuffer_end = sum(flatbuffer_range)  # its start, in a .ptd, and its size
        segments_end = segments_start + segments_bytes
    if max(flatbuffer_end, segments_end) > file_bytes:
        raise ProgramFormatError(
            path,
            16,
            f"truncated: the flatbuffer ends at byte {flatbuffer_end}, the segments at"
            f" {segments_end}, and the file at {file_bytes}",
        )
    buffer = _Buffer(path, _read_at(path, 0, flatbuffer_end), file_bytes)
    version = buffer.root().scalar(_VERSION, 4)
    if version != 0:
        raise ProgramFormatError(path, 0, f"schema version {version}, expected 0")
    return buffer, segments_start


def _segments(table: _Table, index: int, segments_start: int) -> list[tuple[int, int]]:
    """(first byte, end) in the file of each data segment, checked to lie inside the file."""
    segments = []
    for segment in table.tables(index):
        start = segments_start + segment.scalar(0, 8)
        end = start + segment.scalar(1, 8)
        if end > table.buffer.file_bytes:
            raise table.buffer.error(
                segment.position,
                f"a segment ends at byte {end}, the file at {table.buffer.file_bytes}",
            )
        segments.append((start, end))
    return segments


def _described_tensor(
    table: _Table, fields: tuple[int, int, int], name: str, start: int, end: int
) -> ProgramTensor:
    """Build the tensor that `table` describes and whose bytes must lie in [start, end)."""
    buffer = table.buffer
    dtype_field, sizes_field, dim_order_field = fields
    dtype_code = table.scalar(dtype_field, 1)
    if dtype_code not in _DTYPES:
        raise buffer.error(table.position, f"tensor {name}: unknown dtype code {dtype_code}")
    dtype, numpy_type = _DTYPES[dtype_code]
    shape = table.integers(sizes_field, 4, signed=True)
    if len(shape) > _MAXIMUM_DIMENSIONS or any(extent < 0 for extent in shape):
        raise buffer.error(table.position, f"tensor {name}: impossible shape {shape[:20]}")
    dim_order = table.integers(dim_order_field, 1)
    if sorted(dim_order) != list(range(len(shape))):
        raise buffer.error(
            table.position,
            f"tensor {name}: dimension order {dim_order[:20]} does not fit shape {shape}",
        )
    size_bytes = math.prod(shape) * np.dtype(numpy_type).itemsize
    if start + size_bytes > end:
        raise buffer.error(
            table.position,
            f"tensor {name}: {size_bytes} bytes at {start} run past the end of its segment, {end}",
        )
    return ProgramTensor(name, dtype, shape, dim_order, start, size_bytes, buffer.path)


def _program_entries(
    buffer: _Buffer, segments_start: int, include_unnamed: bool
) -> Iterator[tuple[int, ProgramTensor]]:
    root = buffer.root()
    segments = _segments(root, _PROGRAM_SEGMENTS, segments_start)
    constants = root.table(_PROGRAM_CONSTANT_SEGMENT)
    offsets: tuple[int, ...] = ()
    segment = (0, 0)
    if constants is not None:
        offsets = constants.integers(1, 8)
        segment_index = constants.scalar(0, 4)
        if offsets and segment_index >= len(segments):
            raise buffer.error(constants.position, f"there is no segment {segment_index}")
        segment = segments[segment_index] if offsets else segment
    for plan in root.tables(_PROGRAM_PLANS):
        for value in plan.tables(_PLAN_VALUES):
            if value.scalar(_VALUE_TYPE, 1) != _VALUE_IS_TENSOR:
                continue
            table = value.required_table(_VALUE, "a tensor")
            extra = table.table(_TENSOR_EXTRA)
            constant_index = table.scalar(_TENSOR_BUFFER, 4)
            name = extra.string(_EXTRA_NAME) if extra is not None else None
            if not name and include_unnamed:
                name = f"#{constant_index}"
            is_external = extra is not None and extra.scalar(_EXTRA_LOCATION, 1) == _EXTERNAL
            is_planned = table.table(_TENSOR_ALLOCATION) is not None
            if not name or is_external or is_planned or constant_index == 0:
                continue
            if constant_index >= len(offsets):
                raise buffer.error(
                    table.position, f"tensor {name}: there is no constant {constant_index}"
                )
            yield (
                table.position,
                _described_tensor(
                    table,
                    (_TENSOR_DTYPE, _TENSOR_SIZES, _TENSOR_DIM_ORDER),
                    name,
                    segment[0] + offsets[constant_index],
                    segment[1],
                ),
            )


def _flat_tensor_entries(
    buffer: _Buffer, segments_start: int
) -> Iterator[tuple[int, ProgramTensor]]:
    root = buffer.root()
    segments = _segments(root, _FLAT_SEGMENTS, segments_start)
    for entry in root.tables(_FLAT_NAMED):
        layout = entry.table(_NAMED_LAYOUT)
        if layout is None:  # a backend's blob, not a tensor
            continue
        name = entry.string(_NAMED_KEY)
        segment_index = entry.scalar(_NAMED_SEGMENT, 4)
        if not name or segment_index >= len(segments):
            raise buffer.error(entry.position, f"tensor {name}: there is no such segment")
        yield (
            entry.position,
            _described_tensor(layout, (0, 1, 2), name, *segments[segment_index]),
        )

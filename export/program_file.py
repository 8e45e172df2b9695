# SPDX-License-Identifier: Apache-2.0
"""Finds the named weights inside ExecuTorch .pte and .ptd files, without ExecuTorch.

Both files are a small flatbuffer that describes the tensors, followed by raw data segments:

    .pte  flatbuffer "ET12", header "eh00" at byte 8; one segment holds all inline constants
    .ptd  flatbuffer "FT01", header "FH01" at byte 8; one segment for each distinct content

Only the flatbuffer is read into memory. Every offset, length and count in it is checked before it
is used, and the work is bounded by its size, so that a damaged or hostile file ends in
ProgramFormatError and in nothing else. The rules are those of the runtime's reader (csrc/attach):
both take and refuse the same files. Needs numpy and the standard library only.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ProgramFormatError
from .flatbuffer import Flatbuffer, FlatTable

#: Name of the constant method in which a program carries its name map (JSON, program -> training).
NAME_MAP_METHOD = "shira_name_map"

#: Name of the constant method that names the weights which a delegate packs: see PackedWeight.line.
PACKED_KEYS_METHOD = "shira_packed_weights"

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
_PATCHABLE_DTYPES = ("float32", "float16", "bfloat16")
_MAXIMUM_DIMENSIONS = 16  # ExecuTorch's kTensorDimensionLimit
_MAXIMUM_PATCHABLE_DIMENSIONS = 8  # of a .shb file
_MAXIMUM_FLATBUFFER_BYTES = (1 << 31) - 1  # its offsets are signed, of 32 bits
_MAXIMUM_DESCRIPTIONS = 1 << 18  # of constants: far above what programs have

# Field numbers and union tags of executorch's schema/program.fbs and flat_tensor.fbs.
_VERSION = 0
_PROGRAM_PLANS, _PROGRAM_SEGMENTS, _PROGRAM_CONSTANT_SEGMENT, _PROGRAM_NAMED_DATA = 1, 4, 5, 7
_SEGMENT_OFFSET, _SEGMENT_SIZE = 0, 1
_CONSTANTS_SEGMENT, _CONSTANTS_OFFSETS = 0, 1
_PLAN_NAME, _PLAN_VALUES, _PLAN_OUTPUTS = 0, 2, 4
_VALUE_TYPE, _VALUE = 0, 1
_VALUE_IS_TENSOR, _VALUE_IS_STRING = 5, 6
_TENSOR_STORAGE_OFFSET, _TENSOR_BUFFER, _TENSOR_ALLOCATION, _TENSOR_EXTRA = 1, 5, 6, 9
_TENSOR_LAYOUT = (0, 2, 3)  # dtype, sizes, dimension order
_EXTRA_NAME, _EXTRA_LOCATION = 1, 2
_FLAT_SEGMENTS, _FLAT_NAMED = 1, 2
_NAMED_KEY, _NAMED_SEGMENT, _NAMED_LAYOUT = 0, 1, 2
_FLAT_LAYOUT = (0, 1, 2)

# At byte 8: magic, length, then for a .pte the size of the flatbuffer and the start of the
# segments, for a .ptd start and size of both. A longer header has more fields behind.
_PTE_HEADER, _PTD_HEADER = struct.Struct("<4sIQQ"), struct.Struct("<4sIQQQQ")
_HEADER_AT = 8


@dataclass(frozen=True)
class PackedWeight:
    """The names of a weight that a delegate packs and of the bias that it packs beside it.

    Attributes:
        name: of the weight.
        key: of its bytes among the program's named data.
        bias: the bias's name; "" without a bias, and where something else uses it, too.
        bias_key: as `key`; "" without a bias, None where nothing is known of one.
    """

    name: str
    key: str
    bias: str = ""
    bias_key: str | None = None

    @property
    def line(self) -> str:
        """How a program stores it: two fields, or with a `bias_key` four, with tabs between."""
        fields = [self.name, self.key]
        if self.bias_key is not None:
            fields += [self.bias, self.bias_key]
        return "\t".join(fields) + "\n"


@dataclass(frozen=True)
class ProgramTensor:
    """Where one named constant lies in a file.

    `dtype` is a numpy-style name ("float32", "bfloat16", ...), `dim_order` lists the dimensions
    from the slowest to the fastest in memory, `offset_bytes` counts from the start of `file`.
    `why_not` says why no adapter can change this tensor; it is empty if one can.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    dim_order: tuple[int, ...]
    offset_bytes: int
    size_bytes: int
    file: Path
    why_not: str = ""

    @property
    def is_contiguous(self) -> bool:
        """True if the flat index of an element is its row-major index."""
        # Where a dimension of one element stands makes no difference.
        order = [dimension for dimension in self.dim_order if self.shape[dimension] != 1]
        return order == sorted(order)

    def read(self) -> NDArray[Any]:
        """Read the values, shaped like the tensor; bfloat16 comes as uint16 bit patterns.

        Raises:
            ProgramFormatError: the tensor is not row-major or of an unknown type, or the file has
                become shorter.
        """
        if not self.is_contiguous:
            raise self._error(f"has dimension order {self.dim_order}: not row-major")
        if self.dtype not in _NUMPY_TYPES:
            raise self._error(f"has {self.dtype}")
        count = math.prod(self.shape)
        values = np.fromfile(
            self.file, _NUMPY_TYPES[self.dtype], count=count, offset=self.offset_bytes
        )
        if values.size != count:
            raise self._error(f"expected {count} values, found {values.size}")
        try:
            return values.reshape(self.shape)
        except ValueError:  # no values, but extents whose product is too large for numpy
            raise self._error(f"has the impossible shape {self.shape}") from None

    def _error(self, problem: str) -> ProgramFormatError:
        return ProgramFormatError(self.file, self.offset_bytes, f"tensor {self.name}: {problem}")


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
    tables = _open(Path(path))
    found = _program_entries(tables) if tables.is_program else _flat_tensor_entries(tables)
    tensors: dict[str, ProgramTensor] = {}
    unnamed: dict[tuple[int, int], str] = {}
    for count, tensor in enumerate(found):
        if count >= _MAXIMUM_DESCRIPTIONS:
            raise tables.root.error(f"more than {_MAXIMUM_DESCRIPTIONS} constants")
        place = (tensor.offset_bytes, tensor.size_bytes)
        name = tensor.name or unnamed.setdefault(place, f"#{len(unnamed) + 1}")
        if not tensor.name and not include_unnamed:
            continue
        # A program may describe a constant several times: once for each method, and once for each
        # view of it, which has another shape. The parameter itself comes first.
        first = tensors.setdefault(name, replace(tensor, name=name))
        if place != (first.offset_bytes, first.size_bytes):
            why_not = "the program gives this name to different constants"
            tensors[name] = replace(first, why_not=why_not)
    return tensors


def read_name_map(path: str | Path) -> dict[str, str]:
    """Read the name map of a .pte: name in the program -> name in the training checkpoint.

    Names that are absent are the same in both. A program without a map, or a .ptd (which has no
    place for one), gives an empty map.

    Raises:
        ProgramFormatError: the file is damaged, or the map is not a JSON object of strings.
        OSError: the file cannot be read.
    """
    text = _method_text(_open(Path(path)), NAME_MAP_METHOD, "the name map")
    if text is None:
        return {}
    try:
        names = json.loads(text.string(0))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise text.error("the name map is not a JSON object of strings")
    return names


def read_packed_weights(path: str | Path) -> list[PackedWeight]:
    """Read the names of the weights that a .pte's delegates pack, in the file's order.

    Raises:
        ProgramFormatError: the file is damaged, or a line is not as PackedWeight.line.
        OSError: the file cannot be read.
    """
    text = _method_text(_open(Path(path)), PACKED_KEYS_METHOD, "the list of packed weights")
    if text is None:
        return []
    *lines, rest = text.string(0).split("\n")
    weights = []
    for line in lines:
        fields = line.split("\t")
        has_bias = len(fields) == 4 and bool(fields[3] or not fields[2])
        if rest or not (len(fields) == 2 or has_bias) or not all(fields[:2]):
            break
        weights.append(PackedWeight(*fields))
    if rest or len(weights) != len(lines):
        raise text.error(
            "the list of packed weights is not lines of a name, a tab and a key, with those of a"
            " bias or without"
        )
    return weights


def read_packed_keys(path: str | Path) -> dict[str, str]:
    """Read where a .pte has what its delegates pack: name -> key in `read_named_data`.

    Biases are there, too, those that have a name. Raises as `read_packed_weights`.
    """
    keys = {}
    for weight in read_packed_weights(path):
        keys[weight.name] = weight.key
        if weight.bias:
            keys[weight.bias] = weight.bias_key or ""
    return keys


def read_named_data(path: str | Path) -> dict[str, tuple[int, int]]:
    """List what the delegates of a .pte have stored by key: key -> first byte in the file, end.

    Raises:
        ProgramFormatError: the file is damaged.
        OSError: the file cannot be read.
    """
    tables = _open(Path(path))
    if not tables.is_program:
        return {}
    segments = _segments(tables, _PROGRAM_SEGMENTS)
    places = {}
    for entry in tables.root.tables(_PROGRAM_NAMED_DATA):
        segment_index = entry.scalar(_NAMED_SEGMENT, 4)
        if segment_index >= len(segments):
            raise entry.error(f"there is no segment {segment_index}")
        places[entry.string(_NAMED_KEY)] = segments[segment_index]
    return places


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


@dataclass(frozen=True)
class _Tables:
    """A file's flatbuffer, and what the header says of the bytes behind it."""

    root: FlatTable
    is_program: bool
    segments_start: int
    file_bytes: int


def _open(path: Path) -> _Tables:
    """Read the header and the flatbuffer of either kind of file."""
    with path.open("rb") as stream:
        file_bytes = os.fstat(stream.fileno()).st_size
        head = stream.read(_HEADER_AT + _PTD_HEADER.size)
        magic = head[4:8]
        if magic not in (b"ET12", b"FT01"):
            raise ProgramFormatError(
                path, 4, f"expected the identifier ET12 (.pte) or FT01 (.ptd), found {magic!r}"
            )
        is_program = magic == b"ET12"
        if is_program and head[8:12] != b"eh00":
            # A .pte without segments has no header: all of it is the flatbuffer.
            flatbuffer_end, segments_start = file_bytes, 0
        else:
            flatbuffer_end, segments_start = _parse_header(path, head, is_program)
        if flatbuffer_end > file_bytes:
            problem = f"truncated: the flatbuffer ends at byte {flatbuffer_end}"
            raise ProgramFormatError(path, file_bytes, problem)
        if flatbuffer_end > _MAXIMUM_FLATBUFFER_BYTES:
            problem = f"a flatbuffer of {flatbuffer_end} bytes is too large to be one"
            raise ProgramFormatError(path, _HEADER_AT, problem)
        stream.seek(0)
        root = Flatbuffer(path, stream.read(flatbuffer_end)).root()
    version = root.scalar(_VERSION, 4)
    if version != 0:
        raise root.error(f"schema version {version}, expected 0")
    return _Tables(root, is_program, segments_start, file_bytes)


def _parse_header(path: Path, head: bytes, is_program: bool) -> tuple[int, int]:
    """Where the flatbuffer ends, and the byte from which segments are counted."""
    magic, layout = (b"eh00", _PTE_HEADER) if is_program else (b"FH01", _PTD_HEADER)
    header = head[_HEADER_AT : _HEADER_AT + layout.size]
    if len(header) == layout.size:
        found, stated_bytes, *numbers = layout.unpack(header)
        if found == magic and stated_bytes >= layout.size:
            return (numbers[0], numbers[1]) if is_program else (numbers[0] + numbers[1], numbers[2])
    raise ProgramFormatError(
        path, _HEADER_AT, f"expected a header {magic!r} of {layout.size} bytes or more"
    )


def _method_text(tables: _Tables, method: str, what: str) -> FlatTable | None:
    """Give the table of the string that a constant method gives; None without such a method."""
    if not tables.is_program:
        return None
    for plan in tables.root.tables(_PROGRAM_PLANS):
        if plan.string(_PLAN_NAME) != method:
            continue
        outputs, values = plan.integers(_PLAN_OUTPUTS, 4), list(plan.tables(_PLAN_VALUES))
        if len(outputs) != 1 or outputs[0] >= len(values):
            raise plan.error(f"{what} has no value")
        value = values[outputs[0]]
        text = value.table(_VALUE)
        if value.scalar(_VALUE_TYPE, 1) != _VALUE_IS_STRING or text is None:
            raise value.error(f"{what} is not a string")
        return text
    return None


def _segments(tables: _Tables, field: int) -> list[tuple[int, int]]:
    """(first byte, end) in the file of each data segment, checked to lie behind the flatbuffer."""
    segments = []
    flatbuffer_bytes = len(tables.root.buffer.content)
    for segment in tables.root.tables(field):
        start = tables.segments_start + segment.scalar(_SEGMENT_OFFSET, 8)
        end = start + segment.scalar(_SEGMENT_SIZE, 8)
        if end > tables.file_bytes:
            raise segment.error(
                f"truncated: a segment ends at byte {end}, the file at {tables.file_bytes}"
            )
        if start < end and start < flatbuffer_bytes:
            raise segment.error(
                f"a segment begins at byte {start}, before the end of the flatbuffer at"
                f" {flatbuffer_bytes}"
            )
        segments.append((start, end))
    return segments


def _program_entries(tables: _Tables) -> Iterator[ProgramTensor]:
    """Every constant in the constant segment, with repetitions; no name is ""."""
    segments = _segments(tables, _PROGRAM_SEGMENTS)
    constants = tables.root.table(_PROGRAM_CONSTANT_SEGMENT)
    if constants is None:
        return
    offsets = constants.integers(_CONSTANTS_OFFSETS, 8)
    segment_index = constants.scalar(_CONSTANTS_SEGMENT, 4)
    if not offsets:
        return
    if segment_index >= len(segments):
        raise constants.error(f"there is no segment {segment_index}")
    for plan in tables.root.tables(_PROGRAM_PLANS):
        for value in plan.tables(_PLAN_VALUES):
            if value.scalar(_VALUE_TYPE, 1) == _VALUE_IS_TENSOR and (table := value.table(_VALUE)):
                yield from _constant(table, offsets, *segments[segment_index])


def _constant(
    table: FlatTable, offsets: tuple[int, ...], segment_start: int, segment_end: int
) -> Iterator[ProgramTensor]:
    """One tensor if the table describes a constant that lies in the segment, else none."""
    extra = table.table(_TENSOR_EXTRA)
    constant_index = table.scalar(_TENSOR_BUFFER, 4)
    if constant_index == 0 or table.table(_TENSOR_ALLOCATION):
        return
    if extra and extra.scalar(_EXTRA_LOCATION, 1) != 0:  # in a .ptd
        return
    if constant_index >= len(offsets):
        raise table.error(f"there is no constant {constant_index}")
    if table.scalar(_TENSOR_STORAGE_OFFSET, 4) != 0:
        raise table.error("a constant has a storage offset, which must be 0")
    name = extra.string(_EXTRA_NAME) if extra else ""
    start = segment_start + offsets[constant_index]
    yield _described_tensor(table, _TENSOR_LAYOUT, name, start, segment_end)


def _flat_tensor_entries(tables: _Tables) -> Iterator[ProgramTensor]:
    """Every named tensor of a .ptd."""
    segments = _segments(tables, _FLAT_SEGMENTS)
    for entry in tables.root.tables(_FLAT_NAMED):
        segment_index = entry.scalar(_NAMED_SEGMENT, 4)
        if segment_index >= len(segments):
            raise entry.error(f"there is no segment {segment_index}")
        if layout := entry.table(_NAMED_LAYOUT):  # without one it is a backend's blob
            name = entry.string(_NAMED_KEY)
            yield _described_tensor(layout, _FLAT_LAYOUT, name, *segments[segment_index])


def _described_tensor(
    table: FlatTable, fields: tuple[int, int, int], name: str, start: int, end: int
) -> ProgramTensor:
    """Build the tensor that `table` describes and whose bytes must lie in [start, end)."""
    dtype_field, sizes_field, dim_order_field = fields
    dtype_code = table.scalar(dtype_field, 1)
    dtype, numpy_type = _DTYPES.get(dtype_code, (f"the unknown dtype code {dtype_code}", "<u1"))
    item_bytes = np.dtype(numpy_type).itemsize
    shape = table.integers(sizes_field, 4, signed=True)
    dim_order = table.integers(dim_order_field, 1)
    sizes_bytes = list(itertools.accumulate(shape, operator.mul, initial=item_bytes))
    if (
        len(shape) > _MAXIMUM_DIMENSIONS
        or any(extent < 0 for extent in shape)
        or max(sizes_bytes) >= 1 << 64
    ):
        raise table.error(f"tensor {name}: impossible shape {shape[:20]}")
    if sorted(dim_order) != list(range(len(shape))):
        raise table.error(
            f"tensor {name}: dimension order {dim_order[:20]} does not fit shape {shape}"
        )
    size_bytes = sizes_bytes[-1]
    if start + size_bytes > end:
        raise table.error(
            f"tensor {name}: {size_bytes} bytes at {start} run past the end of its segment, {end}"
        )
    tensor = ProgramTensor(name, dtype, shape, dim_order, start, size_bytes, table.buffer.path)
    return replace(tensor, why_not=_why_not_patchable(tensor, item_bytes))


def _why_not_patchable(tensor: ProgramTensor, item_bytes: int) -> str:
    if tensor.dtype not in _PATCHABLE_DTYPES:
        return f"its type is {tensor.dtype}"
    if not tensor.is_contiguous:
        return "its elements are not in row-major order"
    if tensor.size_bytes == 0:
        return "it is empty"
    if not 1 <= len(tensor.shape) <= _MAXIMUM_PATCHABLE_DIMENSIONS:
        return f"its rank is {len(tensor.shape)}, not 1 to {_MAXIMUM_PATCHABLE_DIMENSIONS}"
    if tensor.offset_bytes % item_bytes:
        return "it is misaligned"
    return ""

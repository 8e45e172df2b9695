# SPDX-License-Identifier: Apache-2.0
"""ADAPTERS, TENSORS, NAMES and METADATA: steps 3 to 5 of FORMAT.md 13."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from . import values
from .container import Container, Section, align, check, check_zero

ADAPTER_ROW_BYTES = 64
TENSOR_ROW_BYTES = 128
NNZ_FIELD, DIMS_FIELD, DTYPE_FIELD, INDEX_NUMBER_FIELD = 24, 64, 8, 16
MAX_ELEMENTS = 4_294_967_295

_BOUND = _FINGERPRINT = 1
_TARGET, _DELTA = 0, 1
_FLOATS = (values.F32, values.F16, values.BF16)
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
_JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


@dataclass(frozen=True)
class AdapterRow:
    """One row of ADAPTERS; its tensors are rows first_tensor to first_tensor + tensor_count - 1."""

    name: bytes
    first_tensor: int
    tensor_count: int
    flags: int
    metadata_offset: int
    metadata_bytes: int

    @property
    def is_bound(self) -> bool:
        """Whether every tensor carries a fingerprint."""
        return bool(self.flags & _BOUND)


@dataclass(frozen=True)
class TensorRow:
    """One row of TENSORS; `row` is where it lies in the file."""

    row: int
    name: bytes
    name_place: tuple[int, int]
    dtype: int
    rank: int
    tier: int
    value_codec: int
    value_kind: int
    flags: int
    scale_exponent: int
    index_number: int
    value_group: int
    nnz: int
    value_offset: int
    value_bytes: int
    shape: tuple[int, ...]
    fingerprint: bytes
    base_digest: bytes

    @property
    def common(self) -> tuple[object, ...]:
        """What is equal in all tiers of the tensor."""
        return (
            self.name_place,
            self.dtype,
            self.rank,
            self.value_codec,
            self.value_kind,
            self.flags,
            self.shape,
            self.base_digest,
        )


@dataclass
class _Names:
    """Reads names and keeps what is needed to say where the next one may lie."""

    data: bytes
    section: Section
    end: int = 0
    known: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def read(self, row: int) -> tuple[bytes, tuple[int, int]]:
        """Read the name whose offset and length stand at the start of a row."""
        offset, size = place = struct.unpack_from("<II", self.data, row)
        check(1 <= size <= 1024, "BAD_NAME", row + 4, f"a name of {size} bytes")
        if place in self.known:
            return self.known[place], place
        check(
            offset == self.end and offset + size <= self.section.size,
            "BAD_LAYOUT",
            row,
            f"a name at {offset} of NAMES, where {self.end} is next",
        )
        begin = self.section.offset + offset
        name = self.data[begin : begin + size]
        check(_is_plain_text(name), "BAD_NAME", begin, f"the name {name!r} is not plain UTF-8")
        self.known[place] = name
        self.end = offset + size
        return name, place


def _is_plain_text(name: bytes) -> bool:
    try:
        return _CONTROL.search(name.decode("utf-8")) is None
    except UnicodeDecodeError:
        return False


@dataclass
class _TierState:
    """How far the rows of TENSORS have used a tier's sections."""

    index_count: int
    values: Section
    index_used: int = 0
    values_end: int = 0


def read_rows(container: Container) -> tuple[list[AdapterRow], list[TensorRow]]:
    """Make steps 3 to 5 of the order of checks."""
    data = container.data
    adapters_section, tensors_section, names_section, metadata_section = container.sections[:4]
    names = _Names(data, names_section)
    adapters = _read_adapters(container, adapters_section, names, metadata_section.size)
    tensors = _read_tensors(container, tensors_section, names, adapters)
    check(
        names.end == names_section.size,
        "BAD_LAYOUT",
        names_section.offset + names.end,
        "bytes behind the newest name",
    )
    metadata_end = adapters[-1].metadata_offset + adapters[-1].metadata_bytes
    check(
        metadata_end == metadata_section.size,
        "BAD_LAYOUT",
        metadata_section.offset + metadata_end,
        "bytes behind the last object of METADATA",
    )
    for adapter in adapters:
        begin = metadata_section.offset + adapter.metadata_offset
        text = data[begin : begin + adapter.metadata_bytes]
        check(is_json_object(text), "BAD_METADATA", begin, "the metadata is not a JSON object")
    return adapters, tensors


def _check_row_section(section: Section, row_count: int, row_bytes: int) -> None:
    check(
        section.size == row_count * row_bytes,
        "BAD_LAYOUT",
        section.size_field,
        f"{section.size} bytes for {row_count} rows",
    )


def _read_adapters(
    container: Container, section: Section, names: _Names, metadata_bytes: int
) -> list[AdapterRow]:
    data, header = container.data, container.header
    _check_row_section(section, header.adapter_count, ADAPTER_ROW_BYTES)
    adapters: list[AdapterRow] = []
    seen: set[bytes] = set()
    tensor_count = metadata_end = 0
    for row in range(section.offset, section.end, ADAPTER_ROW_BYTES):
        name, _ = names.read(row)
        check(name not in seen, "BAD_NAME", row, f"a second adapter with the name {name!r}")
        seen.add(name)
        adapter = AdapterRow(
            name,
            *struct.unpack_from("<III", data, row + 8),
            *struct.unpack_from("<II", data, row + 24),
        )
        check(
            adapter.first_tensor == tensor_count,
            "BAD_COUNT",
            row + 8,
            f"first_tensor is {adapter.first_tensor} instead of {tensor_count}",
        )
        check(adapter.tensor_count >= 1, "BAD_COUNT", row + 12, "an adapter without tensors")
        check(
            adapter.flags & ~_BOUND == 0,
            "RESERVED_NOT_ZERO",
            row + 16,
            f"flags {adapter.flags:#x}",
        )
        check_zero(data, row + 20, row + 24, "a reserved field of ADAPTERS")
        check(
            adapter.metadata_offset == metadata_end,
            "BAD_LAYOUT",
            row + 24,
            f"metadata at {adapter.metadata_offset} instead of {metadata_end}",
        )
        size = adapter.metadata_bytes
        check(2 <= size <= 1 << 20, "BAD_METADATA", row + 28, f"metadata of {size} bytes")
        metadata_end += size
        check(metadata_end <= metadata_bytes, "BAD_LAYOUT", row + 28, "metadata leaves its section")
        check_zero(data, row + 32, row + 64, "a reserved field of ADAPTERS")
        tensor_count += adapter.tensor_count
        adapters.append(adapter)
    check(
        tensor_count == header.tensor_count,
        "BAD_COUNT",
        48,
        f"{header.tensor_count} tensors, but the adapters have {tensor_count}",
    )
    return adapters


def _read_tensors(
    container: Container, section: Section, names: _Names, adapters: Sequence[AdapterRow]
) -> list[TensorRow]:
    _check_row_section(section, container.header.tensor_count, TENSOR_ROW_BYTES)
    tiers = [
        _TierState(container.index(tier).index_count, container.values(tier))
        for tier in range(container.header.tier_count)
    ]
    tensors: list[TensorRow] = []
    for adapter in adapters:
        newest: dict[bytes, TensorRow] = {}  # the tensor's row in the highest tier so far
        before: TensorRow | None = None
        for _ in range(adapter.tensor_count):
            row = section.offset + len(tensors) * TENSOR_ROW_BYTES
            tensor = _read_tensor(container.data, row, names, adapter, tiers)
            _check_order(tensor, before)
            if tensor.name in newest:
                check(
                    tensor.common == newest[tensor.name].common,
                    "BAD_SHAPE",
                    row,
                    f"{tensor.name!r} differs from itself in a lower tier",
                )
            newest[tensor.name] = before = tensor
            tensors.append(tensor)
    for number, tier in enumerate(tiers):
        check(
            tier.values_end == tier.values.size,
            "BAD_LAYOUT",
            tier.values.offset + tier.values_end,
            f"bytes behind the last stream of VALUES of tier {number}",
        )
        check(
            tier.index_used == tier.index_count,
            "BAD_LAYOUT",
            container.index(number).index_count_field,
            f"{tier.index_used} of {tier.index_count} index rows of tier {number} are used",
        )
    return tensors


def _read_tensor(
    data: bytes, row: int, names: _Names, adapter: AdapterRow, tiers: Sequence[_TierState]
) -> TensorRow:
    """Check the fields of one row in the order of their offsets."""
    name, place = names.read(row)
    dtype, rank, tier, codec, kind, flags, exponent = struct.unpack_from("<6Bb", data, row + 8)
    index_number, group, nnz, value_offset, value_bytes = struct.unpack_from(
        "<IIQQQ", data, row + 16
    )
    dims = struct.unpack_from("<8I", data, row + 64)
    fingerprint, base_digest = struct.unpack_from("<16s16s", data, row + 96)
    scaled = codec in values.SCALED_CODECS

    check(1 <= dtype <= 5, "BAD_ENUM", row + 8, f"dtype {dtype}")
    check(1 <= rank <= 8, "BAD_SHAPE", row + 9, f"rank {rank}")
    check(tier < len(tiers), "BAD_COUNT", row + 10, f"tier {tier} of {len(tiers)}")
    check(1 <= codec <= 9, "BAD_ENUM", row + 11, f"value codec {codec}")
    check(_kind_fits(kind, dtype, codec), "BAD_ENUM", row + 12, f"value kind {kind}")
    check(flags & ~_FINGERPRINT == 0, "RESERVED_NOT_ZERO", row + 13, f"flags {flags:#x}")
    check(
        bool(flags & _FINGERPRINT) == adapter.is_bound and (kind == _DELTA or adapter.is_bound),
        "BAD_ENUM",
        row + 13,
        "FINGERPRINT does not fit the adapter's BOUND or the value kind",
    )
    exponent_fits = -64 <= exponent <= 64 if scaled else exponent == 0
    check(exponent_fits, "BAD_VALUE", row + 14, f"scale_exponent {exponent}")
    check_zero(data, row + 15, row + 16, "a reserved field of TENSORS")
    state = tiers[tier]
    check(
        index_number <= state.index_used and index_number < state.index_count,
        "BAD_LAYOUT",
        row + INDEX_NUMBER_FIELD,
        f"index_number {index_number} where {state.index_used} is the next new one",
    )
    state.index_used = max(state.index_used, index_number + 1)
    group_fits = group >= 64 and group % 8 == 0 if scaled else group == 0
    check(group_fits, "BAD_COUNT", row + 20, f"value_group {group}")
    check(nnz >= 1, "BAD_COUNT", row + NNZ_FIELD, "a tensor without entries")
    _check_value_place(data, row, state, value_offset)
    check(
        value_bytes == values.stream_bytes(codec, nnz, group)
        and value_offset + value_bytes <= state.values.size,
        "BAD_LAYOUT",
        row + 40,
        f"{value_bytes} bytes for {nnz} values, or they leave the section",
    )
    state.values_end = value_offset + value_bytes
    check_zero(data, row + 48, row + 64, "a reserved field of TENSORS")
    for axis, dim in enumerate(dims):
        fits = dim >= 1 if axis < rank else dim == 0
        check(fits, "BAD_SHAPE", row + DIMS_FIELD + 4 * axis, f"dimension {axis} is {dim}")
    shape = dims[:rank]
    check(math.prod(shape) <= MAX_ELEMENTS, "BAD_SHAPE", row + DIMS_FIELD, f"shape {shape}")
    if not flags & _FINGERPRINT:
        check_zero(data, row + 96, row + 128, "a hash without FINGERPRINT")
    return TensorRow(
        row=row,
        name=name,
        name_place=place,
        dtype=dtype,
        rank=rank,
        tier=tier,
        value_codec=codec,
        value_kind=kind,
        flags=flags,
        scale_exponent=exponent,
        index_number=index_number,
        value_group=group,
        nnz=nnz,
        value_offset=value_offset,
        value_bytes=value_bytes,
        shape=shape,
        fingerprint=fingerprint,
        base_digest=base_digest,
    )


def _kind_fits(kind: int, dtype: int, codec: int) -> bool:
    if kind == _TARGET:
        return codec == dtype
    return kind == _DELTA and dtype in _FLOATS and codec in (*_FLOATS, *values.SCALED_CODECS)


def _check_value_place(data: bytes, row: int, state: _TierState, value_offset: int) -> None:
    place = align(state.values_end, 8)
    check(
        value_offset == place,
        "BAD_LAYOUT",
        row + 32,
        f"values at {value_offset} instead of {place}",
    )
    begin = state.values.offset + state.values_end
    end = min(state.values.offset + place, state.values.end)
    check_zero(data, begin, end, "padding between value streams")


def _check_order(tensor: TensorRow, before: TensorRow | None) -> None:
    """Check that rows ascend by tier and, within a tier, by name."""
    if before is None:
        return
    check(tensor.tier >= before.tier, "BAD_LAYOUT", tensor.row + 10, "tiers do not ascend")
    check(
        tensor.tier > before.tier or tensor.name > before.name,
        "BAD_NAME",
        tensor.row,
        f"{tensor.name!r} stands behind {before.name!r}",
    )


def is_json_object(text: bytes) -> bool:
    """Say whether the bytes are one JSON object by RFC 8259, nested at most 64 deep."""
    if not (text.startswith(b"{") and text.endswith(b"}")) or _depth(text) > 64:
        return False
    try:
        # Numbers stay text: they may have any size.
        json.loads(text.decode("utf-8"), parse_int=str, parse_float=str, parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _depth(text: bytes) -> int:
    """Give the deepest nesting outside strings; any number for text that is not JSON."""
    depth = deepest = 0
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in (b"}", b"]"):
            depth -= 1
    return deepest

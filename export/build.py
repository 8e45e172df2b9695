# SPDX-License-Identifier: Apache-2.0
"""From adapters as arrays to a .shb file: choose and share index streams, fill the rows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .dtypes import CODE_RANGES, DTYPE_NUMBERS, FLOAT_TYPES, is_finite, short_name
from .encode_index import INDEX_CHOICES, all_codings, choose, encode
from .encode_values import CodedValues, encode_integer_codes, encode_plain
from .errors import ExportError
from .image import (
    DERIVED_CODECS,
    SCALED_CODECS,
    AdapterRows,
    FileImage,
    IndexCodec,
    IndexStream,
    IndexTable,
    TensorRow,
    ValueCodec,
)
from .writer import RANK_LIMIT, WrittenFile, encode_name, write_image

_MAXIMUM_ELEMENTS = 4_294_967_295
_MAXIMUM_METADATA_BYTES = 1 << 20
_MAXIMUM_METADATA_DEPTH = 64


@dataclass(frozen=True)
class AdapterTensor:
    """What one tier of an adapter holds for one tensor of the base.

    Attributes:
        name: fully qualified name in the program.
        dtype: of the base tensor: "f32", "f16", "bf16", "i8" or "i4".
        shape: of the base tensor, row-major.
        indices: (nnz,) int64 flat indices, strictly increasing.
        values: (nnz,) float32, float16 or bfloat16, for targets in the base's dtype; (nnz,) int8
            for targets of "i8" and "i4"; or values that are coded already.
        kind: "target" for finished weights, "delta" for differences from the base.
        fingerprint: XXH3-128 of the base values at the indices of this tier and all before it, in
            ascending order; None in an unbound adapter.
        base_digest: XXH3-128 of the whole base tensor; None in an unbound adapter.
        tier: 0 for the most important entries.
        rules: derived masks that were shown to give exactly `indices`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    indices: NDArray[np.int64]
    values: NDArray[Any] | CodedValues
    kind: Literal["target", "delta"]
    fingerprint: bytes | None = None
    base_digest: bytes | None = None
    tier: int = 0
    rules: tuple[IndexStream, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """A named set of tensors, all bound (with fingerprints) or none.

    Attributes:
        name: of the adapter.
        tensors: at least one, in any order; one of a name in each tier.
        metadata: JSON-ready, see section 8 of the format.
        index: an index codec in lower case, or "auto" for the smallest of each tensor.
        streams: (tensor, tier) -> stream that codes its positions, in place of a choice.
    """

    name: str
    tensors: Sequence[AdapterTensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    index: str = "auto"
    streams: Mapping[tuple[str, int], IndexStream] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltFile(WrittenFile):
    """A file with its image, and the index stream of each (adapter, tensor, tier)."""

    image: FileImage
    streams: dict[tuple[str, str, int], IndexStream]


def build_adapter(
    name: str,
    tensors: Sequence[AdapterTensor],
    metadata: Mapping[str, Any] | None = None,
    index: str = "auto",
) -> BuiltFile:
    """Lay out one adapter as the bytes of a .shb file; the arguments are those of `Adapter`.

    Raises:
        ExportError: the adapter breaks a rule of the format.
    """
    return build_file([Adapter(name, tensors, metadata or {}, index)])


def build_file(adapters: Sequence[Adapter]) -> BuiltFile:
    """Lay out adapters, in this order; equal positions are stored once.

    Raises:
        ExportError: an adapter breaks a rule of the format.
    """
    tier_count = 1 + max((t.tier for a in adapters for t in a.tensors), default=0)
    tables = [IndexTableBuilder() for _ in range(tier_count)]
    streams: dict[tuple[str, str, int], IndexStream] = {}
    rows = []
    for adapter in adapters:
        if not adapter.tensors:
            raise ExportError(f"adapter {adapter.name!r} has 0 tensors")
        bound = adapter.tensors[0].fingerprint is not None
        adapter_rows = []
        for tensor in sorted(adapter.tensors, key=lambda t: (t.tier, encode_name(t.name))):
            key = (adapter.name, tensor.name, tensor.tier)
            if key in streams:
                raise ExportError(f"tensor {tensor.name}: given twice")
            coded = _check_tensor(tensor, bound)
            stream = adapter.streams.get((tensor.name, tensor.tier))
            stream = stream or _index_stream(tensor, adapter.index, tier_count)
            streams[key] = stream
            number = tables[tensor.tier].number(stream, tensor.name)
            adapter_rows.append(_tensor_row(tensor, coded, number))
        metadata = encode_metadata(adapter.metadata)
        rows.append(AdapterRows(adapter.name, bound, metadata, tuple(adapter_rows)))
    _check_tiers(adapters, rows)
    image = FileImage(tuple(rows), tuple(table.table() for table in tables))
    written = write_image(image)
    return BuiltFile(written.content, written.content_digest, written.sections, image, streams)


class IndexTableBuilder:
    """Numbers index streams in the order of their first use; equal ones share a number."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[IndexStream, str], int] = {}

    def number(self, stream: IndexStream, tensor_name: str) -> int:
        """Give the number of a stream that describes positions in the tensor of this name."""
        # Equal rules of the largest base values mean other positions in every tensor.
        owner = tensor_name if stream.codec == IndexCodec.TOPK else ""
        return self._numbers.setdefault((stream, owner), len(self._numbers))

    def table(self) -> IndexTable:
        """Give the table of all streams so far."""
        return IndexTable(tuple(stream for stream, _ in self._numbers))


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """Check metadata and give its JSON.

    Raises:
        ExportError: it cannot be JSON in UTF-8, is too long or nested too deep.
    """
    try:
        text = json.dumps(
            metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ExportError("the metadata holds a lone surrogate, which UTF-8 cannot") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ExportError(f"the metadata cannot be written: {error}") from None
    if len(encoded) > _MAXIMUM_METADATA_BYTES:
        raise ExportError(
            f"the metadata has {len(encoded)} bytes, allowed are {_MAXIMUM_METADATA_BYTES}"
        )
    if _nesting(metadata) > _MAXIMUM_METADATA_DEPTH:
        raise ExportError(f"the metadata nests deeper than {_MAXIMUM_METADATA_DEPTH} levels")
    return encoded


def _nesting(metadata: Mapping[str, Any]) -> int:
    """How many objects and lists lie one inside the other, the outermost included."""
    depth = 0
    level: list[Any] = [metadata]
    while level:
        depth += 1
        items = (v for c in level for v in (c.values() if isinstance(c, Mapping) else c))
        level = [item for item in items if isinstance(item, (dict, list, tuple))]
    return depth


def _index_stream(tensor: AdapterTensor, choice: str, tier_count: int) -> IndexStream:
    """Code the positions as asked for."""
    if choice not in INDEX_CHOICES:
        raise ExportError(f"index is {choice!r}, expected one of {', '.join(INDEX_CHOICES)}")
    rules = {rule.codec: rule for rule in tensor.rules if tier_count == 1}
    element_count = math.prod(tensor.shape)
    if choice != "auto":
        codec = IndexCodec[choice.upper()]
        if codec in rules:
            return rules[codec]
        if codec in DERIVED_CODECS:
            why = "no rule of this kind gives its positions"
            why = why if tier_count == 1 else "a file of several tiers holds no derived masks"
            raise ExportError(f"tensor {tensor.name}: cannot be coded as {choice}: {why}")
        return encode(all_codings(tensor.indices)[codec], element_count, tensor.indices.size)
    best = choose(all_codings(tensor.indices).values())
    smallest_rule = min(rules.values(), key=lambda rule: len(rule.stream), default=None)
    if smallest_rule is not None and len(smallest_rule.stream) < best.size_bytes:
        return smallest_rule
    return encode(best, element_count, tensor.indices.size)


def _tensor_row(tensor: AdapterTensor, coded: CodedValues, index_number: int) -> TensorRow:
    return TensorRow(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        tier=tensor.tier,
        value_codec=coded.codec,
        value_kind=("target", "delta").index(tensor.kind),
        scale_exponent=coded.scale_exponent,
        index_number=index_number,
        value_group=coded.value_group,
        nnz=tensor.indices.size,
        values=coded.stream,
        fingerprint=tensor.fingerprint,
        base_digest=tensor.base_digest,
    )


def _check_tensor(tensor: AdapterTensor, bound: bool) -> CodedValues:
    """Refuse what no reader would accept, naming the tensor; give its values as coded."""
    where = f"tensor {tensor.name}"
    element_count = math.prod(tensor.shape)
    if not 1 <= len(tensor.shape) <= RANK_LIMIT:
        raise ExportError(f"{where}: has {len(tensor.shape)} dimensions, allowed are 1 to 8")
    if min(tensor.shape) < 1 or element_count > _MAXIMUM_ELEMENTS:
        raise ExportError(
            f"{where}: shape {tensor.shape} is empty or has more than {_MAXIMUM_ELEMENTS} elements"
        )
    coded = _coded(tensor, where)
    if tensor.indices.size == 0 or tensor.indices.size != coded.decoded.size:
        raise ExportError(
            f"{where}: has {tensor.indices.size} indices and {coded.decoded.size} values"
        )
    if tensor.indices[0] < 0 or tensor.indices[-1] >= element_count:
        raise ExportError(
            f"{where}: indices {tensor.indices[0]} to {tensor.indices[-1]}"
            f" leave the {element_count} elements"
        )
    if (np.diff(tensor.indices) < 1).any():
        raise ExportError(f"{where}: indices are not strictly increasing")
    if not is_finite(coded.decoded).all():
        raise ExportError(f"{where}: a value is NaN or infinite")
    hashes = (tensor.fingerprint, tensor.base_digest)
    if [h is not None and len(h) == 16 for h in hashes] != [bound, bound]:
        raise ExportError(f"{where}: either all tensors carry both 16-byte fingerprints or none")
    if tensor.kind == "target" and not (bound and coded.codec == DTYPE_NUMBERS.get(tensor.dtype)):
        raise ExportError(f"{where}: target values need fingerprints and the base's dtype")
    is_float = coded.codec in (ValueCodec.F32, ValueCodec.F16, ValueCodec.BF16, *SCALED_CODECS)
    if tensor.kind == "delta" and not (is_float and tensor.dtype in FLOAT_TYPES):
        raise ExportError(f"{where}: deltas are for floating point tensors only")
    return coded


def _coded(tensor: AdapterTensor, where: str) -> CodedValues:
    if isinstance(tensor.values, CodedValues):
        return tensor.values
    values = np.asarray(tensor.values)
    if tensor.dtype in CODE_RANGES and values.dtype == np.int8:
        try:
            return encode_integer_codes(values, tensor.dtype)
        except ValueError as error:
            raise ExportError(f"{where}: {error}") from None
    value_type = short_name(values.dtype)
    if value_type not in FLOAT_TYPES:
        raise ExportError(f"{where}: values of type {value_type} cannot be stored")
    return encode_plain(values)


def _check_tiers(adapters: Sequence[Adapter], coded: Sequence[AdapterRows]) -> None:
    """Refuse tiers of one tensor that disagree about it, or share positions."""
    for adapter, rows in zip(adapters, coded, strict=True):
        first: dict[str, TensorRow] = {}
        for row in rows.rows:
            known = first.setdefault(row.name, row)
            for what in ("dtype", "shape", "value_codec", "value_kind", "base_digest"):
                if getattr(row, what) != getattr(known, what):
                    raise ExportError(f"tensor {row.name}: its tiers differ in {what}")
        if len(first) == len(rows.rows):
            continue
        for name in first:
            parts = [tensor.indices for tensor in adapter.tensors if tensor.name == name]
            together = np.concatenate(parts)
            if np.unique(together).size < together.size:
                raise ExportError(f"tensor {name}: a position is in two tiers")

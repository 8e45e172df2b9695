# SPDX-License-Identifier: Apache-2.0
"""The parts of a .shb file (docs/FORMAT.md) as plain data, between coding and layout."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass

import google_crc32c


class IndexCodec(enum.IntEnum):
    """Numbers of the index codecs in a file."""

    GAPS8 = 1
    GAPS16 = 2
    RICE = 3
    RUNS = 4
    STRUCT = 5
    RANDOM = 6
    TOPK = 7


class ValueCodec(enum.IntEnum):
    """Numbers of the value codecs in a file; the first five are those of the dtypes."""

    F32 = 1
    F16 = 2
    BF16 = 3
    I8 = 4
    I4 = 5
    Q8 = 6
    Q4 = 7
    Q2 = 8
    Q1 = 9


#: Bits of one entry's value or level.
VALUE_BITS = {
    ValueCodec.F32: 32,
    ValueCodec.F16: 16,
    ValueCodec.BF16: 16,
    ValueCodec.I8: 8,
    ValueCodec.I4: 4,
    ValueCodec.Q8: 8,
    ValueCodec.Q4: 4,
    ValueCodec.Q2: 2,
    ValueCodec.Q1: 1,
}

#: Codecs with scales.
SCALED_CODECS = (ValueCodec.Q8, ValueCodec.Q4, ValueCodec.Q2, ValueCodec.Q1)

#: Codecs that hold a rule instead of positions.
DERIVED_CODECS = (IndexCodec.STRUCT, IndexCodec.RANDOM, IndexCodec.TOPK)


@dataclass(frozen=True)
class IndexStream:
    """Coded positions: one row of an index table, and its stream."""

    codec: IndexCodec
    rice_bits: int
    block_length: int
    unit_count: int
    element_count: int
    nnz: int
    stream: bytes


@dataclass(frozen=True)
class IndexTable:
    """The positions of one tier; the rows of its tensors name them by number."""

    streams: tuple[IndexStream, ...]


@dataclass(frozen=True)
class IndexReference:
    """Stands for the index section of another file, known by its SHA-256 and number of rows."""

    sha256: bytes
    index_count: int


@dataclass(frozen=True)
class TensorRow:
    """What one tier of an adapter says about one tensor; the fields are those of the format.

    `fingerprint` and `base_digest` have 16 bytes each, or are both None.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    tier: int
    value_codec: ValueCodec
    value_kind: int
    scale_exponent: int
    index_number: int
    value_group: int
    nnz: int
    values: bytes
    fingerprint: bytes | None
    base_digest: bytes | None


@dataclass(frozen=True)
class AdapterRows:
    """One adapter: its rows by tier and then by name, and its metadata as JSON in UTF-8."""

    name: str
    bound: bool
    metadata: bytes
    rows: tuple[TensorRow, ...]


@dataclass(frozen=True)
class FileImage:
    """A whole file but for its signature; `index` has one item for each tier."""

    adapters: tuple[AdapterRows, ...]
    index: tuple[IndexTable | IndexReference, ...]


def crc32c(content: bytes) -> int:
    """CRC-32C of the bytes."""
    return int(google_crc32c.value(content))


def sha256(content: bytes) -> bytes:
    """SHA-256 of the bytes."""
    return hashlib.sha256(content).digest()

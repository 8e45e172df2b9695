# SPDX-License-Identifier: Apache-2.0
"""The canonical dump of a decoded file: what its SHA-256 in the manifest is taken of.

Little-endian, without padding, for each adapter in file order:

    u32 name_bytes, name, u32 is_bound, u32 metadata_bytes, metadata, u32 tensor count

and for each of its tensors in bytewise order of their names:

    u32 name_bytes, name, u8 dtype, u8 value_codec, u8 value_kind, u8 rank, u32 dims[rank],
    u8 fingerprint[16], u8 base_digest[16], u64 nnz, u32 positions[nnz], f32 values[nnz]

dtype, value_codec and value_kind are the numbers of FORMAT.md. All tiers that were read are merged:
positions ascend, and the fingerprint is that of the highest. A TOPK mask, which only a base could
resolve, has the single position 0xFFFFFFFF instead.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_DTYPES = {"F32": 1, "F16": 2, "BF16": 3, "I8": 4, "I4": 5}
_CODECS = {**_DTYPES, "Q8": 6, "Q4": 7, "Q2": 8, "Q1": 9}
_KINDS = {"target": 0, "delta": 1}


@dataclass(frozen=True)
class TensorDump:
    """A decoded tensor of any reader; names are those of the Python reader."""

    name: str
    dtype: str
    shape: Sequence[int]
    value_codec: str
    value_kind: str
    fingerprint: bytes
    base_digest: bytes
    nnz: int
    positions: Any  # (nnz,) uint32, or None for TOPK
    values: Any  # (nnz,) float32

    def to_bytes(self) -> bytes:
        positions = [0xFFFFFFFF] if self.positions is None else self.positions
        return (
            _text(self.name.encode())
            + struct.pack(
                f"<4B{len(self.shape)}I16s16sQ",
                _DTYPES[self.dtype],
                _CODECS[self.value_codec],
                _KINDS[self.value_kind],
                len(self.shape),
                *self.shape,
                self.fingerprint,
                self.base_digest,
                self.nnz,
            )
            + np.asarray(positions, "<u4").tobytes()
            + np.asarray(self.values, "<f4").tobytes()
        )


def dump_adapter(
    name: str, is_bound: bool, metadata: bytes, tensors: Sequence[TensorDump]
) -> bytes:
    head = _text(name.encode()) + struct.pack("<I", is_bound) + _text(metadata)
    ordered = sorted(tensors, key=lambda tensor: tensor.name.encode())
    return head + struct.pack("<I", len(ordered)) + b"".join(t.to_bytes() for t in ordered)


def _text(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def dump_file(file: Any) -> bytes:
    """Dump a `shira_runtime.export.reader.File`."""
    out = b""
    for adapter in file.adapters:
        tensors = [
            TensorDump(
                tensor.name,
                tensor.dtype,
                tensor.shape,
                tensor.value_codec,
                tensor.value_kind,
                tensor.parts[-1].fingerprint,
                tensor.base_digest,
                tensor.nnz,
                None if tensor.parts[0].mask.codec == "TOPK" else tensor.positions(),
                tensor.values(),
            )
            for tensor in adapter.tensors.values()
        ]
        out += dump_adapter(adapter.name, adapter.is_bound, adapter.metadata_json, tensors)
    return out


def digest(file: Any) -> str:
    return hashlib.sha256(dump_file(file)).hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""Adapters for tests: built from numpy arrays, or damaged so that only one rule is broken."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, Literal

import google_crc32c
import ml_dtypes
import numpy as np
import xxhash
from numpy.typing import NDArray

from shira_runtime import Adapter
from shira_runtime.export.build import AdapterTensor, build_adapter
from shira_runtime.export.dtypes import short_name

Kind = Literal["target", "delta"]
SECTION_KINDS = ("adapters", "tensors", "names", "metadata", "index", "values")


def tensor_entries(
    name: str,
    base: NDArray[Any],
    indices: NDArray[np.int64],
    values: NDArray[Any],
    kind: Kind = "target",
    bound: bool = True,
) -> AdapterTensor:
    """The entries of one tensor with the fingerprints of its base; values take the base's dtype."""
    return AdapterTensor(
        name=name,
        dtype=short_name(base.dtype),
        shape=base.shape,
        indices=np.asarray(indices, np.int64),
        values=np.asarray(values).astype(base.dtype) if kind == "target" else np.asarray(values),
        kind=kind,
        fingerprint=xxhash.xxh3_128_digest(base.reshape(-1)[indices].tobytes()) if bound else None,
        base_digest=xxhash.xxh3_128_digest(base.tobytes()) if bound else None,
    )


def adapter_bytes(name: str, *tensors: AdapterTensor, **metadata: Any) -> bytes:
    return build_adapter(name, tensors, metadata).content


def adapter(name: str, *tensors: AdapterTensor, **metadata: Any) -> Adapter:
    return Adapter.from_bytes(adapter_bytes(name, *tensors, **metadata), f"{name}.shb")


def random_arrays(
    rng: np.random.Generator, shapes: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, NDArray[Any]]:
    """Normally distributed weights, name -> (shape, "f32", "f16" or "bf16")."""
    types = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
    return {
        name: (0.02 * rng.standard_normal(shape)).astype(types[dtype])
        for name, (shape, dtype) in shapes.items()
    }


def section_range(content: bytes, kind: str) -> slice:
    """Where a section lies in a file of one tier (docs/FORMAT.md, section 5)."""
    row = 256 + 64 * SECTION_KINDS.index(kind)
    offset, size_bytes = struct.unpack_from("<QQ", content, row + 8)
    return slice(offset, offset + size_bytes)


def resealed(content: bytes | bytearray) -> bytes:
    """Make every checksum and digest fit the content, so that only the planted fault is left."""
    data = bytearray(content)
    table_end = 256 + 64 * len(SECTION_KINDS)
    for index, kind in enumerate(SECTION_KINDS):
        row = 256 + 64 * index
        section = bytes(data[section_range(data, kind)])
        struct.pack_into("<I", data, row + 4, google_crc32c.value(section))
        data[row + 32 : row + 64] = hashlib.sha256(section).digest()
    struct.pack_into("<I", data, 56, google_crc32c.value(bytes(data[256:table_end])))
    unsigned = data[:64] + bytes(160) + data[224:252] + bytes(4) + data[256:table_end]
    data[64:96] = hashlib.sha256(unsigned).digest()
    struct.pack_into("<I", data, 252, google_crc32c.value(bytes(data[:252])))
    return bytes(data)

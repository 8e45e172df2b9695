# SPDX-License-Identifier: Apache-2.0
"""Reads .shb bytes with the C++ core and with the Python reader, and says the same of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dump import TensorDump, dump_adapter, dump_file

from shira_runtime import ShiraError, _core
from shira_runtime.export import reader

_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "int8": "I8", "int4": "I4"}


@dataclass(frozen=True)
class Outcome:
    """OK with the canonical dump, or a status with its place in the file."""

    status: str
    offset_bytes: int | None = None
    content: bytes = b""

    def __repr__(self) -> str:
        if self.status == "OK":
            return f"OK, {len(self.content)} bytes decoded"
        return f"{self.status} at byte {self.offset_bytes}"


def read_natively(
    data: bytes,
    *,
    tiers: int | None = None,
    index_sources: Sequence[bytes] = (),
    public_key: bytes | None = None,
) -> Outcome:
    """Read with the C++ core; the sources have to be valid."""
    sources = [
        _core.AdapterFile.from_bytes(source, "source", 0, None, []) for source in index_sources
    ]
    try:
        file = _core.AdapterFile.from_bytes(data, "file", tiers or 0, public_key, sources)
    except ShiraError as error:
        return Outcome(error.status, error.offset_bytes)
    return Outcome("OK", content=b"".join(_dump(adapter) for adapter in file.adapters))


def read_in_python(
    data: bytes,
    *,
    tiers: int | None = None,
    index_sources: Sequence[bytes] = (),
    public_key: bytes | None = None,
) -> Outcome:
    """Read with `shira_runtime.export.reader`; the sources have to be valid."""
    sources = [reader.read(source) for source in index_sources]
    try:
        file = reader.read(data, tiers=tiers, index_sources=sources, public_key=public_key)
    except reader.ReaderError as error:
        return Outcome(error.status, error.offset_bytes)
    except ValueError:  # a wrong number of tiers is the caller's mistake, not the file's
        return Outcome("INVALID_ARGUMENT")
    return Outcome("OK", content=dump_file(file))


def _dump(adapter: _core.Adapter) -> bytes:
    tensors = [
        TensorDump(
            tensor.name,
            _DTYPES[tensor.dtype],
            tensor.shape,
            _DTYPES.get(tensor.value_codec, tensor.value_codec.upper()),
            tensor.value_kind,
            tensor.fingerprint,
            tensor.base_digest,
            tensor.nnz,
            None if tensor.parts[0].codec == "topk" else tensor.indices(),
            tensor.values(),
        )
        for tensor in adapter.tensors
    ]
    metadata = adapter.metadata_json.encode()
    return dump_adapter(adapter.name, adapter.is_bound, metadata, tensors)

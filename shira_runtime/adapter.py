# SPDX-License-Identifier: Apache-2.0
"""Adapter: an opened .shb file, to be looked into or added to a program."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shira_runtime import _core

__all__ = ["Adapter"]


class Adapter:
    """An adapter file whose every byte has been checked.

    The file is read into memory when it is opened: it may change or disappear afterwards. An
    Adapter never changes, so threads and programs may share one.

    Example::

        adapter = Adapter.open("de.shb")
        for name, tensor in adapter.tensors.items():
            print(name, tensor.shape, tensor.nnz, tensor.indices(), tensor.values())
    """

    def __init__(self, core: _core.AdapterFile) -> None:
        self._core = core
        self._tensors = {tensor.name: tensor for tensor in core.tensors}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Adapter:
        """Read and check a .shb file.

        Raises:
            FormatError: the file breaks a rule of docs/FORMAT.md; `offset_bytes` says where.
            UnsupportedError: the file is of another version.
            FileError: the file cannot be read.
        """
        return cls(_core.AdapterFile.open(os.fsencode(path)))

    @classmethod
    def from_bytes(cls, data: bytes, label: str = "<bytes>") -> Adapter:
        """Check a .shb file that is in memory; `label` stands for its path in errors."""
        return cls(_core.AdapterFile.from_bytes(data, label))

    @property
    def name(self) -> str:
        """The name stored in the file."""
        return self._core.name

    @property
    def path(self) -> str:
        """Where the file was opened, or the label it was given."""
        return self._core.path

    @property
    def tensors(self) -> Mapping[str, _core.AdapterTensor]:
        """The tensors by name, in ascending order of the names.

        Each has ``shape`` (of the whole weight), ``dtype`` ("f32", "f16" or "bf16"), ``nnz``
        (number of entries), ``value_kind`` ("target" or "delta"), and as new arrays of shape (nnz,)
        ``indices()`` (uint32 flat row-major indices, ascending), ``values()`` (float32, widened
        exactly) and ``bits()`` (uint32 or uint16, as stored).
        """
        return MappingProxyType(self._tensors)

    @property
    def is_bound(self) -> bool:
        """Whether every tensor carries a fingerprint of the base it was made for."""
        return self._core.is_bound

    @property
    def entry_count(self) -> int:
        """Number of entries of all tensors together."""
        return self._core.entry_count

    @property
    def file_bytes(self) -> int:
        """Size of the file in bytes."""
        return self._core.file_bytes

    @property
    def version(self) -> tuple[int, int]:
        """Format version of the file, major and minor."""
        return self._core.version

    @property
    def content_digest(self) -> str:
        """SHA-256 that identifies the content, as 64 hex digits, as the file declares it.

        Opening checks CRC32C sums; ``shira verify`` checks this digest too.
        """
        return self._core.content_digest.hex()

    @property
    def metadata(self) -> dict[str, Any]:
        """What the exporter noted: a new dict on each access, never used for switching."""
        metadata: dict[str, Any] = json.loads(self._core.metadata_json, parse_int=_parse_int)
        return metadata

    def __repr__(self) -> str:
        return (
            f"<Adapter {self.name!r}: {len(self._tensors)} tensors, {self.entry_count} entries,"
            f" {self.file_bytes} bytes>"
        )


def _parse_int(digits: str) -> int | float:
    # Opening has checked the grammar, but int() refuses thousands of digits.
    return int(digits) if len(digits) < 1000 else float(digits)

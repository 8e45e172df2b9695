# SPDX-License-Identifier: Apache-2.0
"""Adapter and AdapterFile: opened .shb files, to be looked into or added to a program."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from shira_runtime import _core
from shira_runtime.errors import error_of

__all__ = ["Adapter", "AdapterFile", "key_bytes"]

_NAMES_IN_MESSAGE = 8
_MAXIMUM_TIERS = 8
_MAXIMUM_THREADS = 64


Sources: TypeAlias = "Iterable[AdapterFile | Adapter] | AdapterFile | Adapter"
"""Opened files whose positions another one may refer to."""


class AdapterFile:
    """An opened .shb file and the adapters in it: mostly one; a file with several is a pack.

    The file is read into memory when it is opened, and every byte of it is checked: it may change
    or disappear afterwards. Neither the file nor its adapters ever change, so threads and programs
    may share them.

    Example::

        pack = AdapterFile.open("languages.shb")
        for adapter in pack.adapters.values():
            program.add_adapter(adapter)
    """

    def __init__(self, core: _core.AdapterFile) -> None:
        self._core = core
        self._adapters = {adapter.name: Adapter(self, adapter) for adapter in core.adapters}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        tiers: int | None = None,
        public_key: bytes | None = None,
        index_from: Sources = (),
        keep_content: bool = True,
        threads: int = 1,
    ) -> AdapterFile:
        """Read and check a .shb file.

        Args:
            path: the file.
            tiers: open only the first so many importance tiers; None for all of them.
            public_key: the 32 bytes of an Ed25519 key. A file that it has not signed is refused
                before anything but its section table is looked at.
            index_from: opened files, or one, whose positions this one may refer to; with
                `keep_content`.
            keep_content: keep the coded bytes beside what was decoded from them. Without it memory
                is saved, but other files cannot refer to this one, and `check_digests` works only
                if there was a `public_key`. Of a signed file that is opened without a key they are
                kept in any case.
            threads: how many, 1 to 64, read and check a large file; what is opened does not depend
                on it.

        Raises:
            FormatError: the file breaks a rule of docs/FORMAT.md; `offset_bytes` says where.
            UnsupportedError: the file requires what this release does not know.
            SignatureError: NOT_SIGNED, WRONG_KEY or BAD_SIGNATURE; NO_CRYPTOGRAPHY where this
                build cannot check signatures.
            UsageError: INVALID_ARGUMENT: an argument of another kind, or fewer tiers than asked
                for; MISSING_INDEX: the file refers to positions of a file that `index_from` does
                not have.
            FileError: the file cannot be read.
        """
        options = _open_options(tiers, public_key, index_from, keep_content, threads)
        encoded = os.fsencode(path)
        if b"\0" in encoded:
            raise error_of("INVALID_ARGUMENT", f"path {path!r} holds a zero byte")
        return cls(_core.AdapterFile.open(encoded, *options))

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        label: str = "<bytes>",
        *,
        tiers: int | None = None,
        public_key: bytes | None = None,
        index_from: Sources = (),
        keep_content: bool = True,
        threads: int = 1,
    ) -> AdapterFile:
        """Check a .shb file that is in memory, as `open`; `label` stands for its path in errors."""
        options = _open_options(tiers, public_key, index_from, keep_content, threads)
        return cls(_core.AdapterFile.from_bytes(data, label, *options))

    @property
    def path(self) -> str:
        """Where the file was opened, or the label it was given."""
        return self._core.path

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters by name, in the order of the file."""
        return MappingProxyType(self._adapters)

    def adapter(self, name: str | None = None) -> Adapter:
        """Return the adapter of this name; without a name the only one.

        Raises:
            UsageError: UNKNOWN_ADAPTER, or INVALID_ARGUMENT: there are several.
        """
        if name is None and len(self._adapters) == 1:
            return next(iter(self._adapters.values()))
        if name is not None and name in self._adapters:
            return self._adapters[name]
        names = list(self._adapters)
        more = ", ..." if len(names) > _NAMES_IN_MESSAGE else ""
        known = ", ".join(names[:_NAMES_IN_MESSAGE]) + more
        if name is None:
            status, problem = "INVALID_ARGUMENT", f"holds {len(names)} adapters, name one: {known}"
        else:
            status, problem = "UNKNOWN_ADAPTER", f"holds no adapter {name!r}, only {known}"
        raise error_of(status, problem, file=self.path)

    @property
    def version(self) -> tuple[int, int]:
        """Format version of the file, major and minor."""
        return self._core.version

    @property
    def tier_count(self) -> int:
        """Importance tiers in the file, opened or not."""
        return self._core.tier_count

    @property
    def opened_tier_count(self) -> int:
        """Importance tiers whose entries are here."""
        return self._core.opened_tier_count

    @property
    def file_bytes(self) -> int:
        """Size of the file in bytes."""
        return self._core.file_bytes

    @property
    def content_digest(self) -> str:
        """SHA-256 that identifies the content, as 64 hex digits, as the file declares it.

        Opening checks CRC32C sums; `check_digests` checks this digest too.
        """
        return self._core.content_digest.hex()

    @property
    def signer(self) -> str | None:
        """The public key that the file names as its signer's, in hex; None if it is unsigned.

        Only a hint: `check_signature` with a key that is known otherwise proves who has signed.
        """
        signer = self._core.signer
        return None if signer is None else signer.hex()

    def check_digests(self) -> None:
        """Compute every SHA-256 of the file and compare it with the one declared.

        Raises:
            FormatError: DIGEST_MISMATCH.
            SignatureError: NO_CRYPTOGRAPHY: this build cannot compute them.
            UsageError: NOT_SUPPORTED: the file was opened without `keep_content`.
        """
        self._core.check_digests()

    def check_signature(self, public_key: bytes) -> None:
        """Check that the secret half of an Ed25519 key (32 bytes) has signed the file.

        Raises:
            SignatureError: NOT_SIGNED, WRONG_KEY, BAD_SIGNATURE or NO_CRYPTOGRAPHY.
            FormatError: DIGEST_MISMATCH.
        """
        self._core.check_signature(key_bytes(public_key))

    def __repr__(self) -> str:
        return f"<AdapterFile {self.path!r}: {len(self._adapters)} adapters>"


class Adapter:
    """One adapter of an opened file.

    Example::

        adapter = Adapter.open("de.shb")
        for name, tensor in adapter.tensors.items():
            print(name, tensor.shape, tensor.nnz, tensor.indices(), tensor.values())
    """

    def __init__(self, file: AdapterFile, core: _core.Adapter) -> None:
        self._file = file
        self._core = core
        self._tensors = {tensor.name: tensor for tensor in core.tensors}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        tiers: int | None = None,
        public_key: bytes | None = None,
        index_from: Sources = (),
        keep_content: bool = True,
        threads: int = 1,
    ) -> Adapter:
        """Read and check a .shb file, and return its adapter.

        Args:
            path: the file.
            name: the adapter of this name; needed where the file holds several.
            tiers: as for `AdapterFile.open`.
            public_key: as for `AdapterFile.open`.
            index_from: as for `AdapterFile.open`.
            keep_content: as for `AdapterFile.open`; what is only added to programs can do without.
            threads: as for `AdapterFile.open`.

        Raises:
            UsageError: INVALID_ARGUMENT: there are several adapters; UNKNOWN_ADAPTER: none is
                called `name`; and see `AdapterFile.open`.
            FormatError, UnsupportedError, SignatureError, FileError: see `AdapterFile.open`.
        """
        file = AdapterFile.open(
            path,
            tiers=tiers,
            public_key=public_key,
            index_from=index_from,
            keep_content=keep_content,
            threads=threads,
        )
        return file.adapter(name)

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        label: str = "<bytes>",
        name: str | None = None,
        *,
        tiers: int | None = None,
        public_key: bytes | None = None,
        index_from: Sources = (),
        keep_content: bool = True,
        threads: int = 1,
    ) -> Adapter:
        """Check a .shb file that is in memory, as `open`; `label` stands for its path in errors."""
        file = AdapterFile.from_bytes(
            data,
            label,
            tiers=tiers,
            public_key=public_key,
            index_from=index_from,
            keep_content=keep_content,
            threads=threads,
        )
        return file.adapter(name)

    @property
    def file(self) -> AdapterFile:
        """The file it is in."""
        return self._file

    @property
    def name(self) -> str:
        """The name stored in the file."""
        return self._core.name

    @property
    def path(self) -> str:
        """Where the file was opened, or the label it was given."""
        return self._file.path

    @property
    def tensors(self) -> Mapping[str, _core.AdapterTensor]:
        """The tensors by name, in ascending order of the names.

        Each has ``shape`` (of the whole weight), ``dtype`` ("f32", "f16", "bf16", or "int8" and
        "int4" for the codes of a quantized base), ``nnz`` (number of
        entries in the opened tiers), ``value_kind`` ("target" or "delta"), ``value_codec`` ("f16",
        "q4", ...), and as new arrays of shape (nnz,) ``indices()`` (uint32 flat row-major indices,
        ascending), ``values()`` (float32, widened exactly) and ``bits()`` (the same values in the
        dtype they have in memory, as uint32, uint16 or int8). Where the mask is that of the largest
        base values, ``indices(base=array)`` needs the base tensor: C-contiguous, of `dtype`.
        """
        return MappingProxyType(self._tensors)

    @property
    def is_bound(self) -> bool:
        """Whether every tensor carries a fingerprint of the base it was made for."""
        return self._core.is_bound

    @property
    def entry_count(self) -> int:
        """Number of entries of all tensors together, in the opened tiers."""
        return self._core.entry_count

    @property
    def file_bytes(self) -> int:
        """Size of the file in bytes."""
        return self._file.file_bytes

    @property
    def version(self) -> tuple[int, int]:
        """Format version of the file, major and minor."""
        return self._file.version

    @property
    def content_digest(self) -> str:
        """SHA-256 that identifies the file's content; see `AdapterFile.content_digest`."""
        return self._file.content_digest

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


def _open_options(
    tiers: int | None,
    public_key: bytes | None,
    index_from: Sources,
    keep_content: bool,
    threads: int,
) -> tuple[int, bytes | None, list[_core.AdapterFile], bool, int]:
    if type(threads) is not int or not 1 <= threads <= _MAXIMUM_THREADS:
        raise error_of(
            "INVALID_ARGUMENT", f"threads is {threads!r}, expected 1 to {_MAXIMUM_THREADS}"
        )
    if tiers is not None and (type(tiers) is not int or not 1 <= tiers <= _MAXIMUM_TIERS):
        raise error_of("INVALID_ARGUMENT", f"tiers is {tiers!r}, expected 1 to {_MAXIMUM_TIERS}")
    if isinstance(index_from, AdapterFile | Adapter):
        index_from = (index_from,)
    sources: list[Any] = list(index_from)
    for source in sources:
        if not isinstance(source, AdapterFile | Adapter):
            raise error_of(
                "INVALID_ARGUMENT",
                f"index_from holds a {type(source).__name__}, expected opened files",
            )
    files = [source.file if isinstance(source, Adapter) else source for source in sources]
    key = None if public_key is None else key_bytes(public_key)
    return tiers or 0, key, [file._core for file in files], keep_content, threads


def key_bytes(public_key: bytes) -> bytes:
    """Check that a public key is given as bytes; the core checks how many.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(public_key, bytes | bytearray):
        raise error_of(
            "INVALID_ARGUMENT",
            f"the public key is a {type(public_key).__name__}, expected 32 bytes;"
            " bytes.fromhex makes them of 64 hex digits",
        )
    return bytes(public_key)


def _parse_int(digits: str) -> int | float:
    # Opening has checked the grammar, but int() refuses thousands of digits.
    return int(digits) if len(digits) < 1000 else float(digits)

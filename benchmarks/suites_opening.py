# SPDX-License-Identifier: Apache-2.0
"""Suite "opening": .shb files on disk only and in memory, with and without advice on reading ahead.

What opening does is read the file in pieces. The same pieces are read without opening anything, by
every advice that the system takes, and through a map: the least that any way of opening can take.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shira_runtime import Adapter, AdapterFile
from shira_runtime.bench import COLD_CACHE, COLD_FILE, Arm, Case, Scalar, Suite, WrongBytes
from shira_runtime.bench.record import Role

from .native import scratch_folder
from .open_speed import Case as FileKind
from .open_speed import file_of

_PIECE_BYTES = 256 << 10
"""As csrc/format/file_bytes.cpp reads."""


@dataclass(frozen=True)
class _Size:
    tensor_counts: tuple[int, ...]
    rounds: int


def opening(quick: bool) -> Suite:
    """The suite."""
    size = _Size((1,), 1) if quick else _Size((1, 32, 128), 15)

    def cases() -> Iterator[Case]:
        with scratch_folder("opening") as folder:
            for tensor_count in size.tensor_counts:
                path = folder / f"{tensor_count}.shb"
                path.write_bytes(file_of(FileKind("gaps8"), tensor_count))
                yield _case(path, tensor_count, size.rounds)

    return Suite(
        "opening-quick" if quick else "opening",
        "opening .shb files, cold and warm, and whether advice on reading ahead helps",
        cases,
    )


def _case(path: Path, tensor_count: int, rounds: int) -> Case:
    """One file: opened, and only read."""
    reading = _Reading(path)
    arms = [
        _open_arm(path, "open", threads=1),
        _open_arm(path, "open, 2 threads", threads=2),
        _open_arm(path, "open, WILLNEED before", threads=1, advice=os.POSIX_FADV_WILLNEED),
        reading.arm("read in pieces", reading.in_pieces, "roofline"),
        reading.arm("read in pieces, SEQUENTIAL", reading.sequential),
        reading.arm("read in pieces, WILLNEED", reading.will_need),
        reading.arm("map and copy", reading.mapped),
        reading.arm("map and copy, MADV_WILLNEED", reading.mapped_will_need),
    ]
    fields: dict[str, Scalar] = {
        "what": "opening",
        "matrices": tensor_count,
        "file_bytes": path.stat().st_size,
        "dtype": "f16",
        "mask": "random",
        "index": "gaps8",
    }
    return Case(fields, arms, regimes=(COLD_FILE, COLD_CACHE), rounds=rounds)


def _open_arm(path: Path, name: str, threads: int, advice: int | None = None) -> Arm:
    """Open the file; what was decoded has to be what opening a copy in memory gives."""
    expected = _decoded(AdapterFile.from_bytes(path.read_bytes()).adapter())
    opened: list[AdapterFile] = []

    def run() -> None:
        if advice is not None:
            _advise(path, advice)
        opened[:] = [AdapterFile.open(path, keep_content=False, threads=threads)]

    def check() -> None:
        if not opened or _decoded(opened[0].adapter()) != expected:
            raise WrongBytes("what was opened is not what the file has")

    return Arm(
        name,
        run,
        check=check,
        finish=opened.clear,
        files=(path,),
        counts={"bytes": path.stat().st_size},
        threads=threads,
    )


def _decoded(adapter: Adapter) -> dict[str, tuple[bytes, bytes]]:
    return {
        name: (tensor.indices().tobytes(), tensor.values().tobytes())
        for name, tensor in adapter.tensors.items()
    }


def _advise(path: Path, advice: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, advice)
    finally:
        os.close(descriptor)


class _Reading:
    """Ways to copy a file's bytes into memory that is there already."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._expected = np.fromfile(path, np.uint8)
        self._bytes = np.zeros_like(self._expected)

    def arm(self, name: str, run: Callable[[], None], role: Role = "baseline") -> Arm:
        """An arm that runs one of the ways."""

        def check() -> None:
            if not np.array_equal(self._bytes, self._expected):
                raise WrongBytes("what was read is not what the file has")

        return Arm(
            name,
            run,
            role=role,
            prepare=lambda: self._bytes.fill(0),
            check=check,
            files=(self._path,),
            counts={"bytes": self._bytes.size},
        )

    def in_pieces(self) -> None:
        """Read one piece after the other."""
        self._read(None)

    def sequential(self) -> None:
        """The same, with twice the reading ahead."""
        self._read(os.POSIX_FADV_SEQUENTIAL)

    def will_need(self) -> None:
        """The same, with the whole file asked for beforehand."""
        self._read(os.POSIX_FADV_WILLNEED)

    def mapped(self) -> None:
        """Copy from a map."""
        self._copy(None)

    def mapped_will_need(self) -> None:
        """The same, with the whole map asked for beforehand."""
        self._copy(mmap.MADV_WILLNEED)

    def _read(self, advice: int | None) -> None:
        target = self._bytes.data
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            if advice is not None:
                os.posix_fadvise(descriptor, 0, 0, advice)
            for begin in range(0, self._bytes.size, _PIECE_BYTES):
                os.preadv(descriptor, [target[begin : begin + _PIECE_BYTES]], begin)
        finally:
            os.close(descriptor)

    def _copy(self, advice: int | None) -> None:
        with (
            self._path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
        ):
            if advice is not None:
                mapping.madvise(advice)
            view = np.frombuffer(mapping, np.uint8)
            try:
                self._bytes[:] = view
            finally:
                del view  # a map in use cannot be closed

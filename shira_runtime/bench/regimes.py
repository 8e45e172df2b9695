# SPDX-License-Identifier: Apache-2.0
"""Regimes: the state of files, memory and caches before each sample, by name, and how it is made.

What could not be produced is said in the record: page caches of some file systems do not let go.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ALL_WARM",
    "COLD_CACHE",
    "COLD_FILE",
    "FIRST_TOUCH",
    "REGIMES",
    "SWEEP_BYTES",
    "Regime",
    "device_of",
    "evict",
    "resident_pages",
    "sweep",
    "warm_up",
]

SWEEP_BYTES = 256 << 20
"""Read before a sample to push everything else out of the caches; far more than any of them."""


@dataclass(frozen=True)
class Regime:
    """One state before each sample. These four are all there are.

    Attributes:
        name: as records have it.
        how: how it is produced, for documents.
        evicts_files: the arm's files are dropped from the page cache, and that is checked.
        renews_memory: the arm maps its memory anew (`Arm.renew`), so that it pays page faults.
        sweeps_caches: `SWEEP_BYTES` are read just before the sample.
        rehearses: the arm is prepared and run once, untimed, just before the sample.
    """

    name: str
    how: str
    evicts_files: bool = False
    renews_memory: bool = False
    sweeps_caches: bool = False
    rehearses: bool = False

    def settle(self, files: Iterable[Path]) -> list[str]:
        """Bring files and caches into this state, just before the sample.

        Args:
            files: that the arm reads.

        Returns:
            Notes for the record: what could not be done, and where cold files are read from.
        """
        notes = []
        for path in files:
            if self.evicts_files:
                notes.append(f"cold files are read from {device_of(path)}")
                evict(path)
                if resident_pages(path)[0] > 0:
                    notes.append(f"not cold: {path.name} could not be dropped from the page cache")
            else:
                warm_up(path)
        if self.sweeps_caches:
            sweep()
        return notes


COLD_FILE = Regime(
    "cold file",
    "posix_fadvise(DONTNEED) drops the arm's files from the page cache, mincore() confirms it;"
    " then the caches are swept",
    evicts_files=True,
    sweeps_caches=True,
)
COLD_CACHE = Regime(
    "warm file, cold cache",
    f"the arm's files are in the page cache; {SWEEP_BYTES >> 20} MiB of other memory are read",
    sweeps_caches=True,
)
ALL_WARM = Regime(
    "all warm",
    "the arm is prepared and run once just before, without being timed",
    rehearses=True,
)
FIRST_TOUCH = Regime(
    "first touch",
    "the weights' memory is mapped anew, so that the sample pays its page faults; then the caches"
    " are swept",
    renews_memory=True,
    sweeps_caches=True,
)
REGIMES = {regime.name: regime for regime in (COLD_FILE, COLD_CACHE, ALL_WARM, FIRST_TOUCH)}


@cache
def _sweep_buffer() -> NDArray[np.int64]:
    # Written once: memory that was never written is one page of zeros, and sweeps nothing.
    return np.ones(SWEEP_BYTES // 8, np.int64)


def sweep() -> int:
    """Read `SWEEP_BYTES` of memory that no arm uses; returns their sum, which nobody needs."""
    return int(_sweep_buffer().sum())


def device_of(path: Path) -> str:
    """The block device that a file is on, in words, as far as the system tells.

    Of a virtual one nobody inside knows what is behind it, nor whether it is in the host's memory.

    Raises:
        OSError: there is no such file.
    """
    number = path.stat().st_dev
    folder = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    queue = next((at / "queue" for at in (folder, folder.parent) if (at / "queue").is_dir()), None)
    if queue is None:
        return "a device that the system does not describe"
    kind = "a virtual disk" if "virtio" in folder.as_posix() else "a disk"
    turns = (queue / "rotational").read_text().strip() == "1"
    read_ahead = (queue / "read_ahead_kb").read_text().strip()
    return (
        f"{kind} ({folder.name}, {'rotating' if turns else 'not rotating'}, reading {read_ahead}"
        " KiB ahead)"
    )


def evict(path: Path) -> None:
    """Ask the system to drop a file from the page cache; it may not do so.

    Pages that are mapped stay: an arm gives up its mapping of the file before.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages that are still to be written are never dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def warm_up(path: Path) -> None:
    """Read a file into the page cache, where it is not there already."""
    resident, total = resident_pages(path)
    if resident < total:
        with path.open("rb", buffering=0) as stream:
            while stream.read(16 << 20):
                pass


def resident_pages(path: Path) -> tuple[int, int]:
    """Ask mincore() how much of a file is in the page cache, without reading it.

    Returns:
        Pages in the page cache, and pages of the file.

    Raises:
        OSError: the file cannot be opened or mapped, or the system does not answer.
    """
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        return 0, 0
    page_count = -(-size_bytes // mmap.PAGESIZE)
    states = np.zeros(page_count, np.uint8)
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), size_bytes, access=mmap.ACCESS_READ) as mapping,
    ):
        view = np.frombuffer(mapping, np.uint8)
        try:
            library = ctypes.CDLL(None, use_errno=True)
            addresses = [ctypes.c_void_p(array.ctypes.data) for array in (view, states)]
            if library.mincore(addresses[0], ctypes.c_size_t(size_bytes), addresses[1]) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), str(path))
        finally:
            del view  # a mapping in use cannot be closed
    return int(np.count_nonzero(states & 1)), page_count

# SPDX-License-Identifier: Apache-2.0
"""What a Program tells about its loading, its weights, its switches and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

__all__ = [
    "AdapterPages",
    "LoadReport",
    "MemoryReport",
    "SwitchReport",
    "TensorInfo",
    "VerifyReport",
]


@dataclass(frozen=True)
class TensorInfo:
    """One live weight.

    Attributes:
        dtype: "f32", "f16" or "bf16", "int8" or "int4".
        shape: row-major, as in the module (``[out, in]`` for a linear layer).
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """Where the time of loading an ExecuTorch program went, in wall-clock nanoseconds.

    Attributes:
        open_ns: files mapped, and their tables checked.
        methods_ns: by ExecuTorch, whose delegates pack weights here.
        compare_ns: packed weights found, and every number of them compared with the files.
        attach_ns: weights listed and made switchable.
        total_ns: all of it.
    """

    open_ns: int
    methods_ns: int
    compare_ns: int
    attach_ns: int
    total_ns: int

    def to_dict(self) -> dict[str, int]:
        """All fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SwitchReport:
    """What one switch did. Times are wall-clock nanoseconds.

    Attributes:
        tensors_matched: tensors written by the new state or restored from the old one.
        elements_written: number of stores: originals put back, and new values.
        elements_changed: elements whose bits differ from before the switch.
        bytes_written: bytes stored.
        pages_touched: distinct memory pages with a store, summed over tensors.
        wait_ns: until forward passes in flight had ended.
        check_ns: memory still attached, originals known.
        plan_ns: new values computed.
        pages_ns: pages made private.
        store_ns: base compared, originals saved, weights written.
        total_ns: all of it.
        epoch: `Program.epoch` after the switch.
        source_read_bytes: read from files to get at base values that are not kept
            (`Program.originals`).
        source_cold_bytes: of them, what was not in the page cache, as far as the system tells.
    """

    tensors_matched: int
    elements_written: int
    elements_changed: int
    bytes_written: int
    pages_touched: int
    wait_ns: int
    check_ns: int
    plan_ns: int
    pages_ns: int
    store_ns: int
    total_ns: int
    epoch: int
    source_read_bytes: int
    source_cold_bytes: int

    def to_dict(self) -> dict[str, int]:
        """All fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class VerifyReport:
    """What `Program.verify_base` compared, and found intact.

    Attributes:
        tensors_checked: number of tensors compared.
        bytes_checked: number of bytes compared.
    """

    tensors_checked: int
    bytes_checked: int


@dataclass(frozen=True)
class AdapterPages:
    """The memory pages that an adapter's entries lie on.

    Where weights are copied on write (an attached program), switching to the adapter makes these
    pages private to the process. Whole huge pages may be taken where nearly all of it is needed.

    Attributes:
        page_bytes: size of a page of this system.
        tensors: by name of the tensor, the pages with an entry and all pages of the tensor.
    """

    page_bytes: int
    tensors: Mapping[str, tuple[int, int]]

    @property
    def page_count(self) -> int:
        """Pages with an entry, over all tensors; one that two tensors share counts for each."""
        return sum(pages for pages, _ in self.tensors.values())

    @property
    def private_bytes(self) -> int:
        """What the pages take when they are private."""
        return self.page_count * self.page_bytes


@dataclass(frozen=True)
class MemoryReport:
    """What a program takes in memory beside the pages that it shares with its files.

    Attributes:
        mapped_bytes: of the attached files' mappings; 0 for memory that others own.
        private_bytes: of them, this process's own copies, as the kernel counts them.
        huge_bytes: of them, in copies that were made in huge pages.
        originals_bytes: saved base values.
        source_read_bytes: since the program was made, what has been read from files to get at base
            values that are not kept (`Program.originals`).
        source_cold_bytes: of them, what was not in the page cache, as far as the system tells.
    """

    mapped_bytes: int
    private_bytes: int
    huge_bytes: int
    originals_bytes: int
    source_read_bytes: int
    source_cold_bytes: int

    def to_dict(self) -> dict[str, int]:
        """All fields, for JSON."""
        return asdict(self)

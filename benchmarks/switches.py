# SPDX-License-Identifier: Apache-2.0
"""Arms of this project: switches of a Program, and the kernels below them called directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from shira_runtime import Adapter, from_numpy
from shira_runtime.bench import Arm, stages_of

from .masks import LINE_BYTES, Mask
from .native import native
from .weights import Change, Weights, adapter_content, check_equal, element_bytes

_TENSOR = "weight"


class Switching:
    """A Program over one matrix, with adapters, and arms that switch it.

    Args:
        weights: live matrix; the Program patches it where it is.
        changes: what each adapter does, by its name. Equal masks become one list of positions.
        label: goes before the names of arms where a case has several Programs.
    """

    def __init__(self, weights: Weights, changes: Mapping[str, Change], label: str = "") -> None:
        self._weights = weights
        self._changes = changes
        self._label = label
        self._counts: dict[str, dict[str, int]] = {}
        self._program = from_numpy({_TENSOR: weights.numbers})
        self._adapters = {
            name: Adapter.from_bytes(
                adapter_content(name, {_TENSOR: (weights.base, change)}, weights.dtype)
            )
            for name, change in changes.items()
        }
        for adapter in self._adapters.values():
            self._program.add_adapter(adapter)

    def arm(self, name: str, start: str | None, target: str | None) -> Arm:
        """A switch from one state to another, originals being held already."""

        def prepare() -> None:
            self._program.switch(target)
            self._program.switch(start)

        return self._arm(name, target, prepare)

    def first(self, name: str, target: str) -> Arm:
        """A switch from the base to an adapter that was only just added: it saves originals."""

        def prepare() -> None:
            self._program.switch(None)
            self._program.remove_adapter(target)
            self._program.add_adapter(self._adapters[target])

        return self._arm(name, target, prepare)

    def revert_then_apply(self, name: str, start: str, target: str) -> Arm:
        """Two switches: to the base, and on to the other adapter."""

        def prepare() -> None:
            self._program.switch(target)
            self._program.switch(start)

        def run() -> Mapping[str, int]:
            back, there = (stages_of(self._program.switch(to)) for to in (None, target))
            return {stage: back[stage] + nanoseconds for stage, nanoseconds in there.items()}

        return Arm(
            self._label + name,
            run,
            prepare=prepare,
            check=lambda: self._check(target),
            finish=lambda: self._program.switch(None),
        )

    def _arm(self, name: str, target: str | None, prepare: Callable[[], object]) -> Arm:
        def run() -> Mapping[str, int]:
            report = self._program.switch(target)
            self._counts[name] = {
                "entries": report.elements_written,
                "bytes": report.bytes_written,
                "pages": report.pages_touched,
            }
            return stages_of(report)

        return Arm(
            self._label + name,
            run,
            prepare=prepare,
            check=lambda: self._check(target),
            finish=lambda: self._program.switch(None),
            counts=lambda: self._counts[name],
        )

    def _check(self, state: str | None) -> None:
        self._weights.check(None if state is None else self._changes[state])


def _noted(mask: Mask, dtype: str) -> dict[str, int]:
    return {
        "entries": mask.indices.size,
        "lines": mask.lines(element_bytes(dtype)).size,
        "runs": len(mask.runs),
        "line_bytes": LINE_BYTES,
    }


def kernel_arms(weights: Weights, change: Change) -> Iterator[Arm]:
    """The kernels that a Program would use on this mask: store, and swap (which saves)."""
    mask, values = change.mask, change.bits
    saved = np.empty_like(values)
    by_runs = len(mask.runs) * 4 <= mask.indices.size
    places: NDArray[np.uint32] = mask.runs if by_runs else mask.index32
    suffix = "_runs" if by_runs else ""
    store = getattr(native(), f"kernel_store{suffix}")
    swap = getattr(native(), f"kernel_swap{suffix}")

    def check_saved() -> None:
        weights.check(change)
        base = Change(mask, weights.base.reshape(-1)[mask.indices])
        check_equal(saved, base.bits)

    yield Arm(
        f"kernel store{suffix}",
        lambda: store(weights.flat, places, values),
        check=lambda: weights.check(change),
        finish=lambda: weights.restore(mask),
        counts=_noted(mask, weights.dtype),
    )
    yield Arm(
        f"kernel swap{suffix}",
        lambda: swap(weights.flat, places, values, saved),
        check=check_saved,
        finish=lambda: weights.restore(mask),
        counts=_noted(mask, weights.dtype),
    )


def layout_arms(weights: Weights, change: Change, distances: tuple[int, ...]) -> Iterator[Arm]:
    """Plain loops over a mask's positions in three layouts, and how far ahead to prefetch."""
    mask, values = change.mask, change.bits
    columns = weights.shape[1]
    gaps = np.diff(mask.indices, prepend=0)
    saved = np.empty_like(values)

    def arm(name: str, run: Callable[[], None]) -> Arm:
        return Arm(
            name,
            run,
            check=lambda: weights.check(change),
            finish=lambda: weights.restore(mask),
            counts=_noted(mask, weights.dtype),
        )

    def store(distance: int) -> Arm:
        return arm(
            f"store by u32 index, prefetch {distance}",
            lambda: native().store_flat32(weights.flat, mask.index32, values, distance),
        )

    def swap(distance: int) -> Arm:
        return arm(
            f"swap by u32 index, prefetch {distance}",
            lambda: native().swap_flat32(weights.flat, mask.index32, values, saved, distance),
        )

    for distance in distances:
        yield store(distance)
        yield swap(distance)
    if gaps.max() < 1 << 16:
        gaps16 = gaps.astype(np.uint16)
        yield arm(
            "store by u16 gaps, prefetch 64",
            lambda: native().store_gaps16(weights.flat, gaps16, values),
        )
    if columns <= 1 << 16:
        starts = np.searchsorted(mask.indices, np.arange(weights.shape[0] + 1) * columns)
        row_starts = starts.astype(np.uint32)
        columns16 = (mask.indices % columns).astype(np.uint16)
        yield arm(
            "store by rows of u16 columns, prefetch 64",
            lambda: native().store_row_csr(weights.bits, row_starts, columns16, values),
        )

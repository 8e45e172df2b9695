# SPDX-License-Identifier: Apache-2.0
"""Rooflines: what memory allows on this machine, measured in the same run as what is compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shira_runtime.bench import Arm

from .masks import PAGE_BYTES, Mask
from .native import native
from .weights import Change, Weights, check_equal, element_bytes

#: Prefetch distances of the touch roofline; a report takes the best of them.
TOUCH_DISTANCES = (0, 16, 64)


def touch(weights: Weights, mask: Mask, what: str = "") -> Iterator[Arm]:
    """Read, change and write one element of each distinct cache line of a mask, ascending.

    The weights are as before after `finish`.
    """
    lines = mask.lines(element_bytes(weights.dtype))

    def arm(distance: int) -> Arm:
        def run() -> None:
            native().touch(weights.flat, lines, distance)

        def check() -> None:
            expected = weights.base.copy()
            expected.reshape(-1)[lines] ^= 1
            check_equal(weights.bits, expected)

        return Arm(
            f"touch roofline{what}, prefetch {distance}",
            run,
            role="roofline",
            check=check,
            finish=run,  # the second time undoes the first
            counts={"lines": lines.size, "entries": mask.indices.size, "prefetch": distance},
        )

    for distance in TOUCH_DISTANCES:
        yield arm(distance)


def copy_touched(weights: Weights, change: Change) -> Arm:
    """Copy the new values of each run to its place by memcpy()."""

    def run() -> None:
        native().copy_runs(weights.flat, change.mask.runs, change.bits)

    return Arm(
        "memcpy of the touched bytes",
        run,
        role="roofline",
        check=lambda: weights.check(change),
        finish=lambda: weights.restore(change.mask),
        counts={"bytes": change.bits.nbytes, "runs": len(change.mask.runs)},
    )


def stream(size_bytes: int) -> list[Arm]:
    """STREAM's copy and triad over arrays of so many bytes, and reading one of them."""
    count = size_bytes // 8
    a, b, c = np.zeros(count), np.arange(count, dtype=np.float64), np.ones(count)

    def read() -> None:
        native().read_all(b.view(np.uint64))

    def expect(ok: bool) -> None:
        check_equal(np.array([ok]), np.array([True]))

    return [
        Arm(
            "STREAM copy",
            lambda: native().stream_copy(b, a),
            role="roofline",
            check=lambda: expect(bool(np.array_equal(a, b))),
            counts={"bytes": 2 * b.nbytes},
        ),
        Arm(
            "STREAM triad",
            lambda: native().stream_triad(a, b, c, 3.0),
            role="roofline",
            check=lambda: expect(bool(np.array_equal(a, b + 3 * c))),
            counts={"bytes": 3 * b.nbytes},
        ),
        Arm(
            "read everything",
            read,
            role="roofline",
            check=lambda: expect(
                native().read_all(b.view(np.uint64)) == np.bitwise_xor.reduce(b.view(np.uint64))
            ),
            counts={"bytes": b.nbytes},
        ),
    ]


def page_copies(page_count: int) -> list[Arm]:
    """memcpy() of so many 4 KiB pages: into pages that are not there yet, and into ones that are.

    The source is anonymous memory that is there.
    """
    size_bytes = page_count * PAGE_BYTES
    source = np.arange(size_bytes // 8, dtype=np.uint64).view(np.uint8)
    arms = []
    for name, huge_pages, fresh in (
        ("memcpy into fresh 4 KiB pages", False, True),
        ("memcpy into resident 4 KiB pages", False, False),
        ("memcpy into fresh 2 MiB pages", True, True),
    ):
        buffer = native().Buffer(size_bytes, huge_pages)
        memory = np.frombuffer(buffer, np.uint8)
        if not fresh:
            memory[:] = 1
        arms.append(_page_copy(name, buffer if fresh else None, memory, source))
    return arms


def _page_copy(
    name: str, fresh: Any | None, memory: NDArray[np.uint8], source: NDArray[np.uint8]
) -> Arm:
    def drop() -> None:
        if fresh is not None:
            fresh.drop()

    return Arm(
        name,
        lambda: native().copy_bytes(memory, source),
        role="roofline",
        prepare=drop,
        renew=drop,
        check=lambda: check_equal(memory, source),
        counts={"bytes": source.nbytes, "pages": source.nbytes // PAGE_BYTES},
    )

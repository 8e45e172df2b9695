# SPDX-License-Identifier: Apache-2.0
"""Rooflines: what memory allows on this machine, measured in the same run as what is compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shira_runtime.bench import Arm, WrongBytes

from .masks import PAGE_BYTES, Mask
from .native import native
from .weights import Change, Weights, check_equal, element_bytes

#: Prefetch distances of the rooflines over lines; a report takes the best of them.
TOUCH_DISTANCES = (0, 64, 128)


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


def read_lines(weights: Weights, mask: Mask) -> Iterator[Arm]:
    """Read one element of each distinct cache line of a mask, ascending, and change nothing."""
    lines = mask.lines(element_bytes(weights.dtype))
    found: list[int] = []

    def arm(distance: int) -> Arm:
        def run() -> None:
            found[:] = [native().read_lines(weights.flat, lines, distance)]

        def check() -> None:
            expected = int(np.bitwise_xor.reduce(weights.base.reshape(-1)[lines]))
            if found != [expected]:
                raise WrongBytes(f"what was read adds up to {found}, expected {expected:#x}")

        return Arm(
            f"read roofline, prefetch {distance}",
            run,
            role="roofline",
            prepare=found.clear,
            check=check,
            counts={"lines": lines.size, "entries": mask.indices.size, "prefetch": distance},
        )

    for distance in TOUCH_DISTANCES:
        yield arm(distance)


def copy_touched(weights: Weights, *changes: Change) -> Arm:
    """Copy the new values of each run to its place by memcpy(), one change after the other."""

    def run() -> None:
        for change in changes:
            native().copy_runs(weights.flat, change.mask.runs, change.bits)

    def check() -> None:
        expected = weights.base
        for change in changes:
            expected = change.applied_to(expected)
        check_equal(weights.bits, expected)

    def finish() -> None:
        for change in changes:
            weights.restore(change.mask)

    return Arm(
        "memcpy of the touched bytes" + (" of both masks" if len(changes) > 1 else ""),
        run,
        role="roofline",
        check=check,
        finish=finish,
        counts={
            "bytes": sum(change.bits.nbytes for change in changes),
            "runs": sum(len(change.mask.runs) for change in changes),
        },
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


def page_copies(page_count: int, only_small: bool = False) -> list[Arm]:
    """memcpy() of so many 4 KiB pages: into pages that are not there yet, and into ones that are.

    Source and target are given back after each sample; the source is there before it.

    Args:
        page_count: pages that a copy fills.
        only_small: leave out the copy into fresh pages of 2 MiB.
    """
    ways = [
        ("memcpy into fresh 4 KiB pages", False, True),
        ("memcpy into resident 4 KiB pages", False, False),
        ("memcpy into fresh 2 MiB pages", True, True),
    ]
    return [_page_copy(page_count, *way) for way in (ways[:2] if only_small else ways)]


def _page_copy(page_count: int, name: str, huge_pages: bool, fresh: bool) -> Arm:
    size_bytes = page_count * PAGE_BYTES
    buffers = [native().Buffer(size_bytes, huge) for huge in (False, huge_pages)]
    source, target = (np.frombuffer(buffer, np.uint8) for buffer in buffers)

    def prepare() -> None:
        native().fill(source.view(np.uint16), "f16", 1)
        if not fresh:
            target[:] = 0

    def finish() -> None:
        for buffer in buffers:
            buffer.drop()

    return Arm(
        name,
        lambda: native().copy_bytes(target, source),
        role="roofline",
        prepare=prepare,
        renew=finish,
        check=lambda: check_equal(target, source),
        finish=finish,
        counts={"bytes": size_bytes, "pages": page_count},
    )

# SPDX-License-Identifier: Apache-2.0
"""Suite "micro": one 4096 x 4096 matrix, every kind of switch, every baseline, every roofline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from shira_runtime.bench import Arm, Case, Scalar, Suite

from .baselines import equal_rank, lora_arms, peft_shira, scatter_arms
from .masks import Kind, make_mask
from .rooflines import copy_touched, page_copies, read_lines, stream, touch
from .switches import Switching, kernel_arms, layout_arms
from .weights import PAGES, Change, Weights, element_bytes

_DENSITY = 0.01
_RANK = 64
_DISTANCES = (0, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class _Size:
    shape: tuple[int, int]
    rounds: int
    few_rounds: int
    stream_bytes: int
    page_count: int


_FULL = _Size((4096, 4096), 30, 20, 256 << 20, 8192)
_QUICK = _Size((256, 192), 1, 1, 1 << 20, 16)


def micro(quick: bool) -> Suite:
    """The suite."""
    size = _QUICK if quick else _FULL

    def cases() -> Iterator[Case]:
        torch.set_num_threads(1)
        for dtype in ("f32", "f16", "bf16"):
            yield _switch_case(size, "random", dtype, False)
        for dtype in ("f32", "f16"):
            yield _switch_case(size, "random", dtype, True)
        for kind in ("rows", "pages", "blocks"):
            for dtype in ("f32", "f16"):
                yield _switch_case(size, kind, dtype, False)
        for dtype in ("f32", "bf16", "f16"):
            yield _lora_case(size, dtype)
        for dtype in ("f32", "f16"):
            yield _layout_case(size, dtype)
        yield _memory_case(size)

    return Suite(
        "micro-quick" if quick else "micro",
        "one 4096 x 4096 matrix: switches, kernels, every baseline and roofline",
        cases,
    )


def _fields(size: _Size, what: str, **more: Scalar) -> dict[str, Scalar]:
    rows, columns = size.shape
    return {"what": what, "shape": f"{rows}x{columns}", **more}


def _changes(size: _Size, kind: Kind, dtype: str) -> dict[str, Change]:
    """A and B with masks of their own, and C with the mask of A."""
    width = element_bytes(dtype)
    first, other = (make_mask(kind, size.shape, _DENSITY, width, seed) for seed in (11, 12))
    return {
        "A": Change.random(first, dtype, 21),
        "B": Change.random(other, dtype, 22),
        "C": Change.random(first, dtype, 23),
    }


def _switch_case(size: _Size, kind: Kind, dtype: str, huge_pages: bool) -> Case:
    """One mask: switches of a Program, kernels, torch's scatters, rooflines."""
    changes = _changes(size, kind, dtype)
    switching = Switching(Weights(size.shape, dtype, huge_pages), changes)
    raw = Weights(size.shape, dtype, huge_pages)
    arms: list[Arm] = [
        switching.first("switch base -> A, first", "A"),
        switching.arm("switch base -> A", None, "A"),
        switching.arm("switch A -> base", "A", None),
        switching.arm("switch A -> B, distinct masks", "A", "B"),
        switching.revert_then_apply("switch A -> base, base -> B", "A", "B"),
        switching.arm("switch A -> C, shared mask", "A", "C"),
        *kernel_arms(raw, changes["A"]),
        *scatter_arms(raw, changes["A"]),
        *touch(raw, changes["A"].mask),
        *read_lines(raw, changes["A"].mask),
    ]
    if kind == "random":
        arms += touch(raw, changes["A"].mask | changes["B"].mask, " of both masks")
    else:
        arms.append(copy_touched(raw, changes["A"]))
    fields = _fields(
        size, "switch", dtype=dtype, mask=kind, density=_DENSITY, pages=PAGES[huge_pages]
    )
    rounds = size.rounds if kind == "random" and not huge_pages else size.few_rounds
    return Case(fields, arms, rounds=rounds)


def _lora_case(size: _Size, dtype: str) -> Case:
    """Exchanges A -> B: ours with random masks and with rows, and every LoRA baseline."""
    arms: list[Arm] = []
    entries = 0
    for kind in ("random", "rows"):
        changes = _changes(size, kind, dtype)
        entries = entries or changes["A"].mask.indices.size
        switching = Switching(Weights(size.shape, dtype), changes, f"{kind}: ")
        arms.append(switching.arm("switch A -> B, distinct masks", "A", "B"))
        arms.append(switching.arm("switch A -> C, shared mask", "A", "C"))
    weights = Weights(size.shape, dtype)
    arms.append(copy_touched(Weights(size.shape, dtype), changes["A"], changes["B"]))
    rank = equal_rank(entries, size.shape)
    for each in dict.fromkeys((rank, min(_RANK, *size.shape))):
        arms += lora_arms(weights, each)
    arms.append(peft_shira(Weights(size.shape, dtype), rank))
    fields = _fields(size, "exchange A -> B", dtype=dtype, density=_DENSITY, pages=PAGES[False])
    return Case(fields, arms, rounds=size.few_rounds)


def _layout_case(size: _Size, dtype: str) -> Case:
    """Which layout of positions in memory, and how far ahead to prefetch."""
    change = _changes(size, "random", dtype)["A"]
    weights = Weights(size.shape, dtype)
    arms = [*layout_arms(weights, change, _DISTANCES), *touch(weights, change.mask)]
    fields = _fields(
        size, "layouts", dtype=dtype, mask="random", density=_DENSITY, pages=PAGES[False]
    )
    return Case(fields, arms, rounds=size.few_rounds)


def _memory_case(size: _Size) -> Case:
    """STREAM, reading, and page faults."""
    arms = [*stream(size.stream_bytes), *page_copies(size.page_count)]
    return Case({"what": "memory"}, arms, rounds=size.few_rounds)

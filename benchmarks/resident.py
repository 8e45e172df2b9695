# SPDX-License-Identifier: Apache-2.0
"""A whole model's matrices in memory, too large to be there twice: made and judged by digests.

The base is a function of a seed and the position, so any part of it can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shira_runtime import _core
from shira_runtime.bench import WrongBytes
from shira_runtime.export.build import AdapterTensor, build_adapter

from .masks import Kind, make_mask
from .models import matrices
from .native import native
from .weights import Bits, Change, adapter_tensor, element_bytes, random_bits

DTYPE = "f16"

#: How the files code positions: what opens fastest, at hardly more bytes than the smallest.
INDEX: Mapping[Kind, str] = {
    "random": "gaps8",
    "rows": "runs",
    "pages": "runs",
    "blocks": "gaps8",
}

_AT_HAND_BYTES = 512 << 20


@dataclass(frozen=True)
class Layout:
    """Name, shape and seed of one matrix of the model."""

    name: str
    shape: tuple[int, int]
    seed: int
    targeted: bool = True

    @property
    def size_bytes(self) -> int:
        """Bytes of the matrix."""
        return self.shape[0] * self.shape[1] * element_bytes(DTYPE)


def layouts(model: str, layers: int | None = None, embeddings: bool = False) -> list[Layout]:
    """The matrices of a model, each as often as the model has it.

    Args:
        model: stem of a file in benchmarks/shapes.
        layers: at most so many of each matrix.
        embeddings: list those too, as matrices that no adapter changes.
    """
    linear = {matrix.name for matrix in matrices(model)}
    found: list[Layout] = []
    for matrix in matrices(model, embeddings):
        for layer in range(min(matrix.count, layers or matrix.count)):
            name = f"model.layers.{layer}.{matrix.name}.weight"
            found.append(Layout(name, matrix.shape, 1000 + len(found), matrix.name in linear))
    return found


@dataclass
class Plan:
    """What one adapter changes in a model, and what every matrix has to be with it.

    Attributes:
        kind: of the masks.
        path: the adapter's file.
        changes: by name.
        originals: the base's bits at the entries, by name.
        digests: XXH3-128 of each whole matrix with the adapter, by name.
    """

    kind: Kind
    path: Path
    changes: dict[str, Change] = field(default_factory=dict)
    originals: dict[str, Bits] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)

    @property
    def entry_count(self) -> int:
        """Entries of all matrices together."""
        return sum(change.bits.size for change in self.changes.values())


def make_plans(
    model: list[Layout], density: float, paths: Mapping[tuple[Kind, int], Path], threads: int
) -> tuple[dict[str, bytes], list[Plan]]:
    """Make adapters matrix by matrix, with numpy, and write their files.

    Args:
        model: the matrices.
        density: share of entries that are touched.
        paths: kind of the masks and seed -> file to write.
        threads: that make matrices.

    Returns:
        XXH3-128 of each matrix of the base, by name; and a plan for each path.
    """
    plans = [Plan(kind, path) for (kind, _), path in paths.items()]
    tensors: list[dict[str, AdapterTensor]] = [{} for _ in plans]
    base_digests: dict[str, bytes] = {}

    def make(layout: Layout) -> None:
        base = random_bits(layout.shape, DTYPE, layout.seed)
        flat = base.reshape(-1)
        base_digests[layout.name] = _core.hash128(base)
        for plan, parts, (kind, seed) in zip(plans, tensors, paths, strict=True):
            if not layout.targeted:
                plan.digests[layout.name] = base_digests[layout.name]
                continue
            seed += layout.seed
            mask = make_mask(kind, layout.shape, density, element_bytes(DTYPE), seed)
            change = Change.random(mask, DTYPE, seed)
            parts[layout.name] = adapter_tensor(layout.name, base, DTYPE, change)
            plan.changes[layout.name] = change
            plan.originals[layout.name] = flat[mask.indices]
            flat[mask.indices] = change.bits
            plan.digests[layout.name] = _core.hash128(base)
            flat[mask.indices] = plan.originals[layout.name]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(make, model))
    for plan, parts in zip(plans, tensors, strict=True):
        content = build_adapter(plan.path.stem, list(parts.values()), index=INDEX[plan.kind])
        plan.path.write_bytes(content.content)
        parts.clear()
    return base_digests, plans


class ResidentModel:
    """The matrices in private anonymous memory.

    Args:
        model: their names and shapes.
        huge_pages: advise the system to use pages of 2 MiB, or not to.
        threads: that fill, check and run baselines.
    """

    def __init__(self, model: list[Layout], huge_pages: bool, threads: int) -> None:
        self.model = model
        self.threads = threads
        self._buffers = [native().Buffer(layout.size_bytes, huge_pages) for layout in model]
        self.bits: dict[str, Bits] = {
            layout.name: np.frombuffer(buffer, np.uint16).reshape(layout.shape)
            for layout, buffer in zip(model, self._buffers, strict=True)
        }
        self.fill()

    def set_pages(self, huge_pages: bool) -> None:
        """Replace all pages, where they are: arms of an earlier case may still hold the memory."""
        for buffer in self._buffers:
            buffer.drop()
            buffer.advise(huge_pages)
        self.fill()

    def fill(self) -> None:
        """Make the base, everywhere."""
        self.each(lambda at: native().fill(self.bits[at.name].reshape(-1), DTYPE, at.seed))

    def each(self, work: Callable[[Layout], object]) -> None:
        """Call `work` for each targeted or untargeted matrix, on `threads` threads."""
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(work, self.model))

    def check(self, digests: dict[str, bytes]) -> None:
        """Compare every byte with what it has to be, by digest.

        Raises:
            WrongBytes: a matrix differs, and which.
        """

        def check_one(layout: Layout) -> None:
            if _core.hash128(self.bits[layout.name]) != digests[layout.name]:
                raise WrongBytes(f"{layout.name} is not what it has to be")

        self.each(check_one)


def some_rows(layout: Layout) -> Iterator[tuple[int, Bits]]:
    """A few rows of the base, made again: row number and bits."""
    rows, columns = layout.shape
    for row in sorted({0, rows // 3, rows - 1}):
        first = row * columns
        start = first - first % 4
        bits = np.empty(first - start + columns, np.uint16)
        native().fill(bits, DTYPE, layout.seed, start)
        yield row, bits[first - start :]


def have_memory_at_hand() -> None:
    """Take memory and give it back, so that the system has that much without asking its host."""
    buffer = native().Buffer(_AT_HAND_BYTES, True)
    np.frombuffer(buffer, np.uint8)[:] = 1
    buffer.drop()

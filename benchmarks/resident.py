# SPDX-License-Identifier: Apache-2.0
"""A whole model's matrices in memory, too large to be there twice: made and judged by digests.

The base is a function of a seed and the position, so any part of it can be made again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
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


def make_plan(kind: Kind, model: list[Layout], density: float, path: Path, seed: int) -> Plan:
    """Make an adapter matrix by matrix, with numpy, and write its file."""
    plan = Plan(kind, path)
    tensors: list[AdapterTensor] = []
    for layout in model:
        base = random_bits(layout.shape, DTYPE, layout.seed)
        if layout.targeted:
            width = element_bytes(DTYPE)
            mask = make_mask(kind, layout.shape, density, width, seed + layout.seed)
            change = Change.random(mask, DTYPE, seed + layout.seed)
            tensors.append(adapter_tensor(layout.name, base, DTYPE, change))
            plan.changes[layout.name] = change
            flat = base.reshape(-1)
            plan.originals[layout.name] = flat[mask.indices]
            flat[mask.indices] = change.bits
        plan.digests[layout.name] = _core.hash128(base)
    path.write_bytes(build_adapter(kind, tensors).content)
    del tensors
    gc.collect()
    return plan


def base_digests(model: Iterable[Layout]) -> dict[str, bytes]:
    """XXH3-128 of each matrix of the base."""
    return {
        layout.name: _core.hash128(random_bits(layout.shape, DTYPE, layout.seed))
        for layout in model
    }


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

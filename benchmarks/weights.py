# SPDX-License-Identifier: Apache-2.0
"""Weights in anonymous memory of stated page sizes, changes of them, and adapters of changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from shira_runtime.bench import WrongBytes
from shira_runtime.export.base import xxh3_128
from shira_runtime.export.build import AdapterTensor, build_adapter

from .masks import Mask
from .native import native

if TYPE_CHECKING:
    import torch

#: dtype -> type of the bits, type of the numbers.
DTYPES: Mapping[str, tuple[Any, Any]] = {
    "f32": (np.uint32, np.float32),
    "f16": (np.uint16, np.float16),
    "bf16": (np.uint16, ml_dtypes.bfloat16),
}

#: How a case's fields say which pages the weights have.
PAGES = {False: "4 KiB", True: "2 MiB"}

Bits = NDArray[Any]


def element_bytes(dtype: str) -> int:
    """Size of one entry."""
    return int(np.dtype(DTYPES[dtype][0]).itemsize)


def random_bits(shape: int | tuple[int, ...], dtype: str, seed: int) -> Bits:
    """Bits of finite numbers of magnitude 2^-7 to 2^-3, from a seed."""
    bits = np.empty(shape, DTYPES[dtype][0])
    native().fill(bits.reshape(-1), dtype, seed)
    return bits


def numbers(bits: Bits, dtype: str) -> NDArray[Any]:
    """The same memory as numbers."""
    return bits.view(DTYPES[dtype][1])


def as_tensor(bits: Bits, dtype: str) -> torch.Tensor:
    """The same memory as a torch tensor."""
    import torch

    if dtype == "bf16":
        return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(numbers(bits, dtype))


@dataclass(frozen=True)
class Change:
    """What an adapter does to one matrix: `bits` at the entries of `mask`.

    Attributes:
        bits: (nnz,) of the matrix's dtype.
    """

    mask: Mask
    bits: Bits

    @classmethod
    def random(cls, mask: Mask, dtype: str, seed: int) -> Change:
        """New values from a seed."""
        return cls(mask, random_bits(mask.indices.size, dtype, seed))

    def applied_to(self, base: Bits) -> Bits:
        """The oracle: a copy of the base with the new values, made by numpy."""
        changed = base.copy()
        changed.reshape(-1)[self.mask.indices] = self.bits
        return changed


class Weights:
    """A matrix in private anonymous memory, and its base to come back to.

    Args:
        shape: (rows, columns).
        dtype: "f32", "f16" or "bf16".
        huge_pages: advise the system to use pages of 2 MiB, or not to.
        seed: of the base.
    """

    def __init__(
        self, shape: tuple[int, int], dtype: str, huge_pages: bool = False, seed: int = 1
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.base = random_bits(shape, dtype, seed)
        self._buffer = native().Buffer(self.base.nbytes, huge_pages)
        memory = np.frombuffer(self._buffer, np.uint8)
        self.bits: Bits = memory.view(self.base.dtype).reshape(shape)
        self.bits[:] = self.base

    @property
    def flat(self) -> Bits:
        """(rows * columns,) bits of the live weights."""
        return self.bits.reshape(-1)

    @property
    def numbers(self) -> NDArray[Any]:
        """The live weights, in their dtype."""
        return numbers(self.bits, self.dtype)

    @property
    def tensor(self) -> torch.Tensor:
        """The live weights for torch."""
        return as_tensor(self.bits, self.dtype)

    def restore(self, mask: Mask) -> None:
        """Put the base back at the entries of a mask."""
        self.flat[mask.indices] = self.base.reshape(-1)[mask.indices]

    def check(self, change: Change | None) -> None:
        """Compare every byte with the base under a change.

        Raises:
            WrongBytes: they differ; says where first.
        """
        expected = self.base if change is None else change.applied_to(self.base)
        check_equal(self.bits, expected)


def check_equal(found: Bits, expected: Bits) -> None:
    """Compare bits.

    Raises:
        WrongBytes: they differ; says where first.
    """
    if native().equal_bytes(
        found.reshape(-1).view(np.uint8), np.ascontiguousarray(expected).reshape(-1).view(np.uint8)
    ):
        return
    wrong = np.flatnonzero(found.reshape(-1) != expected.reshape(-1))
    at = int(wrong[0])
    raise WrongBytes(
        f"{wrong.size} of {found.size} elements differ; the first is element {at}:"
        f" {int(found.reshape(-1)[at]):#x} instead of {int(expected.reshape(-1)[at]):#x}"
    )


def adapter_tensor(name: str, base: Bits, dtype: str, change: Change) -> AdapterTensor:
    """One tensor of an adapter, bound to its base."""
    typed = numbers(base, dtype).reshape(-1)
    return AdapterTensor(
        name=name,
        dtype=dtype,
        shape=base.shape,
        indices=change.mask.indices,
        values=numbers(change.bits, dtype),
        kind="target",
        fingerprint=xxh3_128(np.ascontiguousarray(typed[change.mask.indices])),
        base_digest=xxh3_128(typed),
    )


def adapter_content(
    adapter: str, changes: Mapping[str, tuple[Bits, Change]], dtype: str, index: str = "auto"
) -> bytes:
    """Bytes of a .shb file.

    Args:
        adapter: its name.
        changes: name of a tensor -> its base and what changes.
        dtype: of all tensors.
        index: codec of positions; by default the smallest.
    """
    tensors = [
        adapter_tensor(name, base, dtype, change) for name, (base, change) in changes.items()
    ]
    return build_adapter(adapter, tensors, index=index).content

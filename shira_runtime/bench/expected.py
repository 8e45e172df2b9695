# SPDX-License-Identifier: Apache-2.0
"""What the live weights have to be in each state, computed with numpy and compared by digest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shira_runtime import _core
from shira_runtime.adapter import Adapter
from shira_runtime.bench.timing import WrongBytes
from shira_runtime.errors import BaseMismatchError
from shira_runtime.program import Program

__all__ = ["ExpectedWeights"]

_BITS = {"f32": np.uint32, "f16": np.uint16, "bf16": np.uint16, "int8": np.int8, "int4": np.int8}
_CODES = {"int8": (-128, 127), "int4": (-8, 7)}


class ExpectedWeights:
    """Digests of every touched tensor, for the base and for each adapter at scale 1.

    Independent of what switches: positions and values come from the opened files, the base from
    live memory before the first switch, and the arithmetic is numpy's (docs/FORMAT.md, section 11).

    Args:
        program: at the base.
        adapters: by the names that `check` is asked for.
    """

    def __init__(self, program: Program, adapters: Mapping[str, Adapter]) -> None:
        touched = {name for adapter in adapters.values() for name in adapter.tensors}
        self._digests: dict[str | None, dict[str, bytes]] = {
            state: {} for state in (None, *adapters)
        }
        for tensor in touched & program.tensors.keys():
            base, dtype = _live(program, tensor), program.tensors[tensor].dtype
            self._digests[None][tensor] = _core.hash128(base)
            for name, adapter in adapters.items():
                entries = adapter.tensors.get(tensor)
                bits = base if entries is None else _patched(base, dtype, entries)
                self._digests[name][tensor] = _core.hash128(bits)

    def check(self, program: Program, state: str | None) -> None:
        """Compare the live weights with what they have to be.

        Args:
            program: the one given before, or another one of the same files.
            state: name of the active adapter, or None for the base.

        Raises:
            WrongBytes: a tensor differs, and which.
        """
        for tensor, digest in self._digests[state].items():
            if _core.hash128(_live(program, tensor)) != digest:
                raise WrongBytes(f"{tensor} is not what {state or 'the base'} has to make it")

    def check_all(self, program: Program, state: str | None) -> None:
        """As `check`, and compare all weights that adapters leave alone with the program's file.

        Raises:
            WrongBytes: a tensor differs, and which.
        """
        self.check(program, state)
        try:
            program.verify_base()
        except BaseMismatchError as error:
            raise WrongBytes(str(error)) from error


def _live(program: Program, tensor: str) -> NDArray[Any]:
    """(elements,) uint32, uint16 or int8: the bits of a weight as it is now."""
    values = program.read(tensor).reshape(-1)
    return values.view(_BITS[program.tensors[tensor].dtype])


def _patched(base: NDArray[Any], dtype: str, entries: _core.AdapterTensor) -> NDArray[Any]:
    """The tensor's bits with one adapter at scale 1."""
    floats = {"f32": np.float32, "f16": np.float16}.get(dtype, base.dtype)
    indices = entries.indices(base.view(floats))
    bits = base.copy()
    if entries.value_kind == "target":
        bits[indices] = entries.bits()
    else:
        bits[indices] = _rounded(_widened(base[indices], dtype) + entries.values(), dtype)
    return bits


def _widened(bits: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype in _CODES:
        return bits.astype(np.float32)
    return bits.view(np.float32 if dtype == "f32" else np.float16).astype(np.float32)


def _rounded(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Bits of finite float32 values in the dtype, to the nearest, ties to even."""
    if dtype == "f32":
        return values.view(np.uint32)
    if dtype == "f16":
        return values.astype(np.float16).view(np.uint16)
    if dtype in _CODES:
        return np.clip(np.rint(values), *_CODES[dtype]).astype(np.int8)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)

# SPDX-License-Identifier: Apache-2.0
"""Bring the entries of one tensor, in any of the forms seen in the wild, into flat sorted order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dtypes import convert, is_finite, short_name
from .errors import ExportError

# Above these an integer stored as a float may have been another one.
_EXACT_LIMITS = {"float32": 1 << 24, "float64": 1 << 53}


@dataclass(frozen=True)
class RawEntries:
    """Indices and deltas of one tensor as a checkpoint holds them.

    Attributes:
        name: of the tensor that is changed, as the checkpoint spells it.
        where: file and tensor, for messages.
        indices: (nnz,) flat, or (rank, nnz) coordinates; integers, or floats that stand for some.
        values: (nnz,) deltas, floating point.
        shape: of the tensor, if the checkpoint says it.
    """

    name: str
    where: str
    indices: NDArray[Any]
    values: NDArray[Any]
    shape: tuple[int, ...] | None = None


def flatten_entries(
    raw: RawEntries, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Check the entries of a tensor of this shape and sort them.

    Returns:
        (nnz,) int64 flat indices, strictly increasing, and (nnz,) float32 deltas in their order.

    Raises:
        ExportError: lengths differ, an index is no integer, out of range or given twice, or a value
            is NaN or infinite; the message names the tensor and the entry.
    """
    if raw.values.ndim != 1 or raw.indices.shape[-1:] != raw.values.shape:
        raise ExportError(
            f"{raw.where}: indices of shape {raw.indices.shape} do not belong to values of shape"
            f" {raw.values.shape}"
        )
    if raw.values.size == 0:
        raise ExportError(f"{raw.where}: has no entries")
    values = _finite_float32(raw)
    flat = _flat_indices(raw, _as_integers(raw), shape)
    steps = np.diff(flat)
    if (steps > 0).all():
        return flat, values
    order = np.argsort(flat, kind="stable")
    flat = flat[order]
    repeated = np.flatnonzero(np.diff(flat) == 0)
    if repeated.size:
        at = repeated[0]
        position = tuple(int(i) for i in np.unravel_index(flat[at], shape))
        raise ExportError(
            f"{raw.where}: index {position} is given twice, by entries {order[at]} and"
            f" {order[at + 1]} (counted from 0)"
        )
    return flat, values[order]


def _finite_float32(raw: RawEntries) -> NDArray[np.float32]:
    if short_name(raw.values.dtype) not in ("f32", "f16", "bf16", "float64"):
        raise ExportError(f"{raw.where}: values are {raw.values.dtype}, expected floating point")
    not_finite = np.flatnonzero(~is_finite(raw.values))
    if not_finite.size:
        raise ExportError(
            f"{raw.where}: {not_finite.size} values are NaN or infinite, the first is entry"
            f" {not_finite[0]}"
        )
    return convert(np.asarray(raw.values), "f32", raw.where)


def _as_integers(raw: RawEntries) -> NDArray[Any]:
    indices = np.asarray(raw.indices)
    if indices.dtype.kind in "iu":
        return indices
    limit = _EXACT_LIMITS.get(indices.dtype.name)
    if limit is None:
        raise ExportError(f"{raw.where}: indices are {indices.dtype}, expected integers")
    # PEFT stores them as float32 when it saves on Windows.
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~((np.abs(indices) < limit) & (indices == np.trunc(indices))))
    if bad.size:
        raise ExportError(
            f"{raw.where}: index {indices.reshape(-1)[bad[0]]} is stored as {indices.dtype} and is"
            f" no whole number below {limit}, where that type is exact"
        )
    return indices.astype(np.int64)


def _flat_indices(
    raw: RawEntries, indices: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    if indices.ndim == 1:
        _check_range(raw, indices, math.prod(shape), "the flat index")
        return indices.astype(np.int64)
    if indices.ndim != 2 or indices.shape[0] != len(shape):
        raise ExportError(
            f"{raw.where}: indices have shape {indices.shape}, expected (nnz,) or"
            f" ({len(shape)}, nnz) for a tensor of shape {shape}"
        )
    flat = np.zeros(indices.shape[1], dtype=np.int64)
    for axis, dimension in enumerate(shape):
        _check_range(raw, indices[axis], dimension, f"the index along axis {axis}")
        flat *= dimension
        flat += indices[axis].astype(np.int64)
    return flat


def _check_range(raw: RawEntries, indices: NDArray[Any], limit: int, what: str) -> None:
    bad = np.flatnonzero((indices < 0) | (indices >= limit))
    if bad.size:
        raise ExportError(
            f"{raw.where}: {what} of entry {bad[0]} is {indices[bad[0]]}, allowed are 0 to"
            f" {limit - 1}"
        )

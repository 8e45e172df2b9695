# SPDX-License-Identifier: Apache-2.0
"""Compute what an adapter holds for one tensor: targets on a base, or deltas without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Base, xxh3_128
from .build import AdapterTensor
from .dtypes import FLOAT_TYPES, bits, convert, is_finite, short_name
from .entries import RawEntries, flatten_entries
from .errors import ExportError
from .names import NameMatch
from .shapes import Shape
from .tensor_files import StoredTensor


@dataclass(frozen=True)
class ComputedTensor:
    """A tensor to write, and what its report needs.

    Attributes:
        tensor: to write.
        source: its name in the checkpoint.
        source_dtype: of the values there.
        no_op_entry_count: entries that leave their weight as it is.
        rounding_error: largest absolute difference that storing deltas in `values` made.
    """

    tensor: AdapterTensor
    source: str
    source_dtype: str
    no_op_entry_count: int
    rounding_error: float = 0.0


def targets_from_deltas(
    raw: RawEntries,
    name: str,
    base: Base,
    scale: float,
    given_shape: Shape | None,
    config: Mapping[str, Any],
) -> ComputedTensor:
    """Add deltas to the base's values, in float32, and round once to the deployed type.

    Args:
        raw: entries of the checkpoint.
        name: of the tensor in the base.
        base: where the tensor's values are.
        scale: multiplies every delta.
        given_shape: what the user says the shape is.
        config: of PEFT, which knows how many entries a tensor has.

    Raises:
        ExportError: the tensor cannot be changed, the entries are malformed, the shapes differ, or
            a result is not finite.
    """
    base.check_changeable(name)
    shape = base.tensors[name].shape
    for known, what in ((raw.shape, "the file"), (given_shape, "--shapes")):
        if known is not None and known != shape:
            raise ExportError(
                f"{raw.where}: has shape {known} in {what} and {shape} in {base.path}"
            )
    indices, deltas = _scaled_entries(raw, shape, scale, config)
    whole = base.values(name)
    with np.errstate(over="ignore", invalid="ignore"):
        # One rounding per operation, as the format defines a weight.
        exact = whole[indices].astype(np.float32) + deltas
    after = convert(exact, short_name(whole.dtype), raw.where, indices)
    return _targets(raw.name, raw.where, raw.values.dtype, name, shape, whole, indices, after)


def deltas_without_base(
    raw: RawEntries,
    name: str,
    shape: Shape,
    scale: float,
    dtype: str,
    value_dtype: str,
    config: Mapping[str, Any],
) -> ComputedTensor:
    """Keep deltas as deltas, rounded to `value_dtype`, for a base of type `dtype`.

    Raises:
        ExportError: the entries are malformed, or a delta does not fit its type.
    """
    indices, deltas = _scaled_entries(raw, shape, scale, config)
    stored = convert(deltas, value_dtype, raw.where, indices)
    _check_finite(stored, indices, raw.where)
    return ComputedTensor(
        tensor=AdapterTensor(name, dtype, shape, indices, stored, "delta"),
        source=raw.name,
        source_dtype=short_name(raw.values.dtype),
        no_op_entry_count=int((stored == 0).sum()),
        rounding_error=float(np.abs(stored.astype(np.float32) - deltas).max()),
    )


def targets_from_tuned(
    match: NameMatch, stored: StoredTensor, base: Base, scale: float
) -> ComputedTensor | None:
    """Make entries of the values of a fine-tuned tensor that differ in the deployed type.

    With a scale other than 1 a value moves that share of the way from the base's.

    Returns:
        None if no value differs.

    Raises:
        ExportError: a differing tensor cannot be changed, or a differing value is not finite.
    """
    whole = base.values(match.target)
    tuned = stored.read().reshape(-1)
    if short_name(tuned.dtype) not in (*FLOAT_TYPES, "float64"):
        raise ExportError(f"{stored.where}: has type {stored.dtype}, expected floating point")
    if scale != 1.0:
        before = whole.astype(np.float32)
        change = convert(tuned, "f32", stored.where) - before
        tuned = before + change * np.float32(scale)
    after = convert(tuned, short_name(whole.dtype), stored.where)
    indices = np.flatnonzero(bits(after) != bits(whole))
    if indices.size == 0:
        return None
    base.check_changeable(match.target)
    return _targets(
        match.source,
        stored.where,
        stored.dtype,
        match.target,
        stored.shape,
        whole,
        indices,
        after[indices],
    )


def _scaled_entries(
    raw: RawEntries, shape: Shape, scale: float, config: Mapping[str, Any]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sorted flat indices, and deltas in float32 times the scale."""
    r = config.get("r")
    # PEFT gives a layer exactly r (rows + columns) entries: a wrong shape shows here.
    if type(r) is int and len(shape) == 2 and raw.values.size != r * sum(shape):
        raise ExportError(
            f"{raw.where}: has {raw.values.size} entries, but r = {r} in adapter_config.json means"
            f" {r * sum(shape)} for shape {shape}; it was made for another base"
        )
    indices, deltas = flatten_entries(raw, shape)
    with np.errstate(over="ignore"):
        return indices, deltas * np.float32(scale)


def _targets(
    source: str,
    where: str,
    source_dtype: Any,
    name: str,
    shape: Shape,
    whole: NDArray[Any],
    indices: NDArray[np.int64],
    after: NDArray[Any],
) -> ComputedTensor:
    _check_finite(after, indices, where)
    before = whole[indices]
    tensor = AdapterTensor(
        name=name,
        dtype=short_name(whole.dtype),
        shape=shape,
        indices=indices,
        values=after,
        kind="target",
        fingerprint=xxh3_128(before),
        base_digest=xxh3_128(whole),
    )
    no_ops = int((bits(before) == bits(after)).sum())
    return ComputedTensor(tensor, source, short_name(source_dtype), no_ops)


def _check_finite(values: NDArray[Any], indices: NDArray[np.int64], where: str) -> None:
    bad = np.flatnonzero(~is_finite(values))
    if bad.size:
        raise ExportError(
            f"{where}: {bad.size} new values are NaN or infinite, the first at flat index"
            f" {indices[bad[0]]}"
        )

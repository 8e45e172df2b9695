# SPDX-License-Identifier: Apache-2.0
"""Compute what an adapter holds for one tensor, exactly: entries, deltas, targets on a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import Base, xxh3_128
from .derive import Derivation, SeedSource, derive
from .dtypes import FLOAT_TYPES, bits, convert, is_finite, short_name
from .entries import RawEntries, flatten_entries
from .errors import ExportError
from .grid import Grid
from .names import NameMatch
from .shapes import Shape
from .snap import Snap
from .tensor_files import StoredTensor

# How much of a dense tensor is worked on at a time.
_CHUNK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class ComputedTensor:
    """The entries of one tensor before any value codec; arrays are in the order of `indices`.

    Attributes:
        name: in the program.
        source: in the checkpoint.
        where: checkpoint and tensor, for messages.
        source_dtype: of the values in the checkpoint.
        dtype: of the base tensor.
        shape: of the tensor.
        indices: (nnz,) strictly increasing flat indices.
        deltas: (nnz,) float32 differences to the base, times the scale.
        before: (nnz,) base values in `dtype`, int8 for codes; None without a base.
        targets: (nnz,) finished weights in `dtype`, int8 for codes; None without a base.
        base_digest: of the whole base tensor; None without a base.
        derivation: the rules that give the same mask.
        snap: of a tensor of integer codes, how its weights met the grid; else None.
    """

    name: str
    source: str
    where: str
    source_dtype: str
    dtype: str
    shape: Shape
    indices: NDArray[np.int64]
    deltas: NDArray[np.float32]
    before: NDArray[Any] | None = None
    targets: NDArray[Any] | None = None
    base_digest: bytes | None = None
    derivation: Derivation = field(default_factory=Derivation)
    snap: Snap | None = None

    def fingerprint(self) -> bytes | None:
        """Give the hash of the base values at all entries; None without a base."""
        return None if self.before is None else xxh3_128(self.before)

    def select(self, chosen: NDArray[np.bool_]) -> ComputedTensor:
        """Keep some of the entries; no rule gives their mask."""
        return replace(
            self,
            indices=self.indices[chosen],
            deltas=self.deltas[chosen],
            before=None if self.before is None else self.before[chosen],
            targets=None if self.targets is None else self.targets[chosen],
            derivation=Derivation(),
            snap=None if self.snap is None else self.snap.select(chosen),
        )


@dataclass(frozen=True)
class ComputeSettings:
    """What is the same for all tensors.

    Attributes:
        scale: multiplies every delta.
        config: of PEFT; knows how many entries a tensor has.
        random_seed: the adapter's number from which random masks may have been drawn, if known.
        trained_on: gives, for a tensor of the checkpoint and what to call it in messages, the
            float32 weights that training began with; None if they are those of the base.
    """

    scale: float
    config: Mapping[str, Any]
    random_seed: int | None
    trained_on: Callable[[str, str], NDArray[np.float32]] | None = None


def add_to_base(
    raw: RawEntries, name: str, base: Base, given_shape: Shape | None, settings: ComputeSettings
) -> ComputedTensor:
    """Add deltas to the base's values, in float32, and round once to the deployed type.

    Args:
        raw: entries of the checkpoint.
        name: of the tensor in the base.
        base: where the tensor's values are.
        given_shape: what the user says the shape is.
        settings: for all tensors.

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
    indices, deltas = _scaled_entries(raw, shape, settings)
    if (grid := base.grid(name)) is not None:
        return snap_entries(raw, name, grid, indices, deltas, settings)
    whole = base.values(name)
    before = whole[indices]
    with np.errstate(over="ignore", invalid="ignore"):
        # One rounding per operation, as the format defines a weight.
        exact = before.astype(np.float32) + deltas
    targets = convert(exact, short_name(whole.dtype), raw.where, indices)
    check_finite(targets, indices, raw.where)
    return ComputedTensor(
        name=name,
        source=raw.name,
        where=raw.where,
        source_dtype=short_name(raw.values.dtype),
        dtype=short_name(whole.dtype),
        shape=shape,
        indices=indices,
        deltas=deltas,
        before=before,
        targets=targets,
        base_digest=xxh3_128(whole),
        derivation=_derive(indices, name, base, whole, settings),
    )


def keep_deltas(
    raw: RawEntries, name: str, shape: Shape, dtype: str, settings: ComputeSettings
) -> ComputedTensor:
    """Keep deltas for a base of type `dtype` that is not at hand.

    Raises:
        ExportError: the entries are malformed, or a delta is not finite.
    """
    indices, deltas = _scaled_entries(raw, shape, settings)
    check_finite(deltas, indices, raw.where)
    return ComputedTensor(
        name=name,
        source=raw.name,
        where=raw.where,
        source_dtype=short_name(raw.values.dtype),
        dtype=dtype,
        shape=shape,
        indices=indices,
        deltas=deltas,
        derivation=derive(indices, shape, None, SeedSource(settings.random_seed)),
    )


def compare_tuned(
    match: NameMatch, stored: StoredTensor, base: Base, settings: ComputeSettings
) -> ComputedTensor | None:
    """Make entries of the values of a fine-tuned tensor that differ in the deployed type.

    With a scale other than 1 a value moves that share of the way from the base's.

    Returns:
        None if no value differs.

    Raises:
        ExportError: a differing tensor cannot be changed, or a differing value is not finite.
    """
    tuned = stored.read().reshape(-1)
    if short_name(tuned.dtype) not in (*FLOAT_TYPES, "float64"):
        raise ExportError(f"{stored.where}: has type {stored.dtype}, expected floating point")
    if (grid := base.grid(match.target)) is not None:
        snapped = snap_dense(match, stored, tuned, grid, settings)
        if snapped is not None:
            base.check_changeable(match.target)
        return snapped
    whole = base.values(match.target)
    if settings.scale != 1.0:
        widened = whole.astype(np.float32)
        change = convert(tuned, "f32", stored.where) - widened
        tuned = widened + change * np.float32(settings.scale)
    after = convert(tuned, short_name(whole.dtype), stored.where)
    indices = np.flatnonzero(bits(after) != bits(whole))
    if indices.size == 0:
        return None
    base.check_changeable(match.target)
    before, targets = whole[indices], after[indices]
    check_finite(targets, indices, stored.where)
    with np.errstate(over="ignore", invalid="ignore"):
        deltas = targets.astype(np.float32) - before.astype(np.float32)
    return ComputedTensor(
        name=match.target,
        source=match.source,
        where=stored.where,
        source_dtype=short_name(stored.dtype),
        dtype=short_name(whole.dtype),
        shape=stored.shape,
        indices=indices,
        deltas=deltas,
        before=before,
        targets=targets,
        base_digest=xxh3_128(whole),
        derivation=_derive(indices, match.target, base, whole, settings),
    )


def snap_entries(
    raw: RawEntries,
    name: str,
    grid: Grid,
    indices: NDArray[np.int64],
    deltas: NDArray[np.float32],
    settings: ComputeSettings,
) -> ComputedTensor:
    """Add deltas to the weights of a quantized tensor, or to those that they were trained on.

    Raises:
        ExportError: a trained weight is not finite, or there are no weights of that shape.
    """
    base = grid.weights_at(indices)
    start = _trained_on(raw.name, raw.where, grid, settings)
    weights = (base if start is None else start[indices].astype(np.float64)) + deltas
    check_finite(weights, indices, raw.where)
    codes, is_clipped = grid.nearest(weights, indices)
    return ComputedTensor(
        name=name,
        source=raw.name,
        where=raw.where,
        source_dtype=short_name(raw.values.dtype),
        dtype=grid.dtype,
        shape=grid.codes.shape,
        indices=indices,
        deltas=(weights - base).astype(np.float32),
        before=grid.codes.reshape(-1)[indices],
        targets=codes,
        base_digest=xxh3_128(grid.codes),
        derivation=_derive_codes(indices, grid, settings),
        snap=Snap(grid.steps_at(indices), is_clipped, indices.size),
    )


def snap_dense(
    match: NameMatch,
    stored: StoredTensor,
    tuned: NDArray[Any],
    grid: Grid,
    settings: ComputeSettings,
) -> ComputedTensor | None:
    """Make entries of the values of a fine-tuned tensor whose code is not the base's.

    Where the weights are known that training began with, only those that it changed count.

    Returns:
        None if training changed nothing.

    Raises:
        ExportError: a trained weight is not finite, or there are no weights of that shape.
    """
    start = _trained_on(match.source, stored.where, grid, settings)
    base_codes = grid.codes.reshape(-1)
    parts: list[tuple[NDArray[Any], ...]] = []
    changed_count, left_out_squared = 0, 0.0
    for first in range(0, tuned.size, _CHUNK_ELEMENTS):
        indices = np.arange(first, min(first + _CHUNK_ELEMENTS, tuned.size))
        base = grid.weights_at(indices)
        begin = base if start is None else start[indices].astype(np.float64)
        change = tuned[indices].astype(np.float64) - begin
        check_finite(change, indices, stored.where)
        weights = begin + change * settings.scale
        codes, is_clipped = grid.nearest(weights, indices)
        trained = np.square(weights - base) * (change != 0)
        is_entry = (codes != base_codes[indices]) & (change != 0)
        changed_count += int(np.count_nonzero(change))
        left_out_squared += float(trained[~is_entry].sum())
        kept = (indices, weights - base, codes, grid.steps_at(indices), is_clipped)
        parts.append(tuple(array[is_entry] for array in kept))
    if changed_count == 0:
        return None
    indices, deltas, codes, steps, is_clipped = map(np.concatenate, zip(*parts, strict=True))
    return ComputedTensor(
        name=match.target,
        source=match.source,
        where=stored.where,
        source_dtype=short_name(stored.dtype),
        dtype=grid.dtype,
        shape=stored.shape,
        indices=indices,
        deltas=deltas.astype(np.float32),
        before=base_codes[indices],
        targets=codes,
        base_digest=xxh3_128(grid.codes),
        derivation=_derive_codes(indices, grid, settings),
        snap=Snap(steps, is_clipped, changed_count, left_out_squared),
    )


def _derive_codes(indices: NDArray[np.int64], grid: Grid, settings: ComputeSettings) -> Derivation:
    if indices.size == 0:
        return Derivation()
    codes = grid.codes.reshape(-1)
    return derive(indices, grid.codes.shape, codes, SeedSource(settings.random_seed))


def _trained_on(
    source: str, where: str, grid: Grid, settings: ComputeSettings
) -> NDArray[np.float32] | None:
    if settings.trained_on is None:
        return None
    weights = settings.trained_on(source, where)
    if weights.shape != grid.codes.shape:
        raise ExportError(
            f"{where}: was trained on a weight of shape {weights.shape}, in the program it has"
            f" {grid.codes.shape}"
        )
    return weights.reshape(-1)


def check_finite(values: NDArray[Any], indices: NDArray[np.int64], where: str) -> None:
    """Refuse NaN and infinity, naming the first by its flat index.

    Raises:
        ExportError: a value is not finite.
    """
    bad = np.flatnonzero(~is_finite(values))
    if bad.size:
        raise ExportError(
            f"{where}: {bad.size} new values are NaN or infinite, the first at flat index"
            f" {indices[bad[0]]}"
        )


def _derive(
    indices: NDArray[np.int64],
    name: str,
    base: Base,
    whole: NDArray[Any],
    settings: ComputeSettings,
) -> Derivation:
    # A mask may have been drawn from the weight as it was in training.
    seeds = SeedSource(settings.random_seed, lambda: (base.tensors[name].read(), whole))
    return derive(indices, base.tensors[name].shape, whole, seeds)


def _scaled_entries(
    raw: RawEntries, shape: Shape, settings: ComputeSettings
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Sorted flat indices, and deltas in float32 times the scale."""
    r = settings.config.get("r")
    # PEFT gives a layer exactly r (rows + columns) entries: a wrong shape shows here.
    if type(r) is int and len(shape) == 2 and raw.values.size != r * sum(shape):
        raise ExportError(
            f"{raw.where}: has {raw.values.size} entries, but r = {r} in adapter_config.json means"
            f" {r * sum(shape)} for shape {shape}; it was made for another base"
        )
    indices, deltas = flatten_entries(raw, shape)
    with np.errstate(over="ignore"):
        return indices, deltas * np.float32(settings.scale)

# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint's tensors to computed entries: match names, compute each, refuse the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .base import Base
from .checkpoint import Checkpoint, Skipped
from .compute import ComputedTensor, ComputeSettings, add_to_base, compare_tuned, keep_deltas
from .dtypes import FLOAT_TYPES
from .errors import ExportError
from .names import NameMatch, Renames, refuse_shared_targets, rename, strip_wrappers
from .shapes import Shape
from .unbound import UnboundShapes

#: Called with a tensor's name, the number of tensors done and their total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CollectSettings:
    """Options that concern names and what is refused; see `export_adapter`."""

    compute: ComputeSettings
    dtype: str | None
    renames: Renames
    shapes: Mapping[str, Shape]
    max_density: float | None
    allow_skipped: bool
    progress: Progress


@dataclass
class Collected:
    """What became of a checkpoint's tensors."""

    computed: list[ComputedTensor]
    matches: list[NameMatch]
    skipped: list[Skipped]
    notes: list[str]
    unchanged_count: int = 0


def collect(checkpoint: Checkpoint, base: Base | None, settings: CollectSettings) -> Collected:
    """Find the name of every tensor and compute it.

    Raises:
        ExportError: a name, a tensor or the whole checkpoint was refused.
        OSError: a file could not be read.
    """
    matches, unmatched = _match_names(checkpoint, base, settings.renames)
    result = Collected([], matches, [*checkpoint.skipped, *unmatched], [])
    _refuse_skipped(checkpoint.path, result.skipped, settings.allow_skipped)
    if not matches:
        raise ExportError(f"{checkpoint.path}: no tensor is left to export")
    if checkpoint.source_format != "dense":
        _convert_sparse(result, checkpoint, base, settings)
    elif base is not None:
        _compare_dense(result, checkpoint, base, settings)
        _refuse_skipped(checkpoint.path, result.skipped, settings.allow_skipped)
    else:
        raise ExportError(
            f"{checkpoint.path}: holds dense tensors; give the model they started from as --base"
        )
    return result


def _match_names(
    checkpoint: Checkpoint, base: Base | None, renames: Renames
) -> tuple[list[NameMatch], list[Skipped]]:
    sources = [(raw.name, raw.where) for raw in checkpoint.entries]
    sources += [(name, stored.where) for name, stored in checkpoint.dense.items()]
    matches, unmatched = [], []
    matcher = base.matcher(renames) if base else None
    for name, where in sources:
        if matcher is None or base is None:
            renamed = rename(name, renames)
            target = strip_wrappers(renamed)
            how = "exact" if target == name else "renamed" if target == renamed else "unwrapped"
            matches.append(NameMatch(name, target, how))
        elif match := matcher.match(name, where):
            matches.append(match)
        else:
            unmatched.append(Skipped(name, f"no such tensor in {base.path}"))
    refuse_shared_targets(matches, str(checkpoint.path))
    return matches, unmatched


def _refuse_skipped(path: Path, skipped: Sequence[Skipped], allow_skipped: bool) -> None:
    if skipped and not allow_skipped:
        shown = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:5])
        more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        raise ExportError(
            f"{path}: {len(skipped)} tensors would be left out, which only --allow-skipped permits"
            f" ({shown}{more})"
        )


def _convert_sparse(
    result: Collected, checkpoint: Checkpoint, base: Base | None, settings: CollectSettings
) -> None:
    targets = {match.source: match.target for match in result.matches}
    chosen = [raw for raw in checkpoint.entries if raw.name in targets]
    config, dtype = checkpoint.config, settings.dtype or "f32"
    shapes = None if base else UnboundShapes(settings.shapes, config, settings.renames)
    for done, raw in enumerate(chosen, start=1):
        name = targets[raw.name]
        if shapes is None:
            assert base is not None
            given_shape = settings.shapes.get(name)
            computed = add_to_base(raw, name, base, given_shape, settings.compute)
        else:
            shape = shapes.find(raw, name)
            computed = keep_deltas(raw, name, shape, dtype, settings.compute)
        result.computed.append(computed)
        settings.progress(name, done, len(chosen))
    if shapes is not None:
        result.notes += _unbound_notes(dtype, shapes.used_base)
    elif settings.dtype:
        result.notes.append(_conversion_note(settings.dtype))
    if config.get("fan_in_fan_out"):
        result.notes.append("fan_in_fan_out is set: rows and columns of the indices were swapped")


def _compare_dense(
    result: Collected, checkpoint: Checkpoint, base: Base, settings: CollectSettings
) -> None:
    """Make entries of every value that differs from the base's."""
    element_count = 0
    for done, match in enumerate(result.matches, start=1):
        stored, tensor = checkpoint.dense[match.source], base.tensors[match.target]
        if stored.shape != tensor.shape:
            raise ExportError(
                f"{stored.where}: has shape {stored.shape}, in {base.path} {tensor.shape}"
            )
        if tensor.dtype in FLOAT_TYPES or stored.dtype in FLOAT_TYPES:
            element_count += math.prod(stored.shape)
            computed = compare_tuned(match, stored, base, settings.compute)
            result.computed += [] if computed is None else [computed]
            result.unchanged_count += computed is None
        elif np.array_equal(stored.read(), tensor.read()):
            result.unchanged_count += 1
        else:
            reason = f"changed, but {stored.dtype} values are no weights"
            result.skipped.append(Skipped(match.source, reason))
        settings.progress(match.target, done, len(result.matches))
    entry_count = sum(c.indices.size for c in result.computed)
    if entry_count == 0 and not any(c.snap for c in result.computed):
        raise ExportError(f"{checkpoint.path}: no value differs from {base.path}")
    if settings.max_density is not None and entry_count > settings.max_density * element_count:
        tuned_types = sorted({c.source_dtype for c in result.computed})
        base_types = sorted({c.dtype for c in result.computed})
        raise ExportError(
            f"{checkpoint.path}: {entry_count / element_count:.1%} of the values differ from"
            f" {base.path}, more than --max-density {settings.max_density:g} allows"
            f" ({', '.join(tuned_types)} values, compared as {', '.join(base_types)})"
        )
    if settings.dtype:
        result.notes.append(_conversion_note(settings.dtype))


def _conversion_note(dtype: str) -> str:
    return (
        f"fingerprints are those of the base converted to {dtype}: they fit programs exported in"
        f" {dtype}"
    )


def _unbound_notes(dtype: str, used_base: Path | None) -> list[str]:
    notes = [
        f"unbound: the file holds deltas for a base in {dtype} and nothing tells whether a base is"
        " the right one; --base binds it"
    ]
    return notes + ([] if used_base is None else [f"shapes were taken from {used_base}"])

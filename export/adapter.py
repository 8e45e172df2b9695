# SPDX-License-Identifier: Apache-2.0
"""From a trained adapter to a .shb file: read, match names, compute, check, write, report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .base import Base
from .build import BuiltFile, build_adapter
from .checkpoint import Checkpoint, Skipped, read_checkpoint
from .compute import (
    ComputedTensor,
    deltas_without_base,
    targets_from_deltas,
    targets_from_tuned,
)
from .dtypes import FLOAT_TYPES, short_name
from .encode_index import INDEX_CHOICES, all_codings
from .encode_values import CodedValues
from .errors import ExportError
from .image import IndexStream
from .metadata import adapter_metadata
from .names import NameMatch, Renames, refuse_shared_targets, rename, strip_wrappers
from .output import check_output, write_output
from .report import ExportReport, TensorReport
from .shapes import Shape, check_shape
from .unbound import UnboundShapes

#: Called with a tensor's name, the number of tensors done and their total.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Settings:
    """Options that concern the values and names of tensors; see `export_adapter`."""

    scale: float
    dtype: str | None
    values: str | None
    renames: Renames
    shapes: Mapping[str, Shape]
    max_density: float
    allow_skipped: bool
    progress: Progress


def export_adapter(
    source: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    values: str | None = None,
    index: str = "auto",
    scale: float = 1.0,
    shapes: Mapping[str, Sequence[int]] | None = None,
    renames: Renames = (),
    max_density: float = 0.5,
    allow_skipped: bool = False,
    force: bool = False,
    name: str | None = None,
    license_name: str | None = None,
    description: str | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Turn a trained SHiRA adapter into a .shb file.

    Args:
        source: a PEFT folder or state dict, a .pt of sparse tensors or of indices and values, or a
            fine-tuned checkpoint, which needs `base`.
        output: the .shb file to write.
        base: a Hugging Face folder, a checkpoint file, or the .pte or .ptd program. With it the
            file holds target values and fingerprints; without it deltas ("unbound").
        dtype: "f32", "f16" or "bf16". With a base: convert its tensors first. Without: the type of
            the base tensors that the adapter is meant for, f32 if not given.
        values: type of the deltas of an unbound adapter, f32 if not given.
        index: index codec in lower case, or "auto" for the smallest of each tensor.
        scale: strength (the paper's alpha) baked into the values, as PEFT does not save it.
        shapes: name -> shape, for unbound adapters whose checkpoint has none.
        renames: (regular expression, replacement) applied to each name of the checkpoint first.
        max_density: refuse a fine-tuned checkpoint that changed a larger share of all weights.
        allow_skipped: leave out what cannot be in an adapter or has no match, instead of refusing.
        force: replace an existing output.
        name: of the adapter, by default the output's name without its ending.
        license_name: for the metadata.
        description: for the metadata.
        progress: called after each tensor.

    Raises:
        ExportError: something was refused; nothing was written.
        OSError: a file could not be read or written.
        ValueError: an option has no meaning.

    Example:
        >>> report = export_adapter("out/de", "de.shb", base="model.pte")  # doctest: +SKIP
        >>> report.entry_count, report.bytes_per_entry  # doctest: +SKIP
    """
    source, output = Path(source), Path(output)
    base_path = None if base is None else Path(base)
    _check_options(dtype, values, index, scale, base is not None)
    check_output(output, force)
    checkpoint = read_checkpoint(source)
    opened_base = None if base_path is None else Base(base_path, dtype)
    settings = _Settings(
        scale=scale,
        dtype=dtype,
        values=values,
        renames=renames,
        shapes={n: check_shape(s, f"shape of {n}") for n, s in (shapes or {}).items()},
        max_density=max_density,
        allow_skipped=allow_skipped,
        progress=progress or (lambda name, done, total: None),
    )
    result = _compute_all(checkpoint, opened_base, settings)
    adapter_name = name or output.stem
    metadata = adapter_metadata(checkpoint, base_path, license_name, description)
    tensors = [computed.tensor for computed in result.computed]
    built = build_adapter(adapter_name, tensors, metadata, index)
    write_output(output, built.content, force)
    return ExportReport(
        output=output,
        file_bytes=len(built.content),
        content_digest=built.content_digest.hex(),
        name=adapter_name,
        source=source,
        source_format=checkpoint.source_format,
        base=base_path,
        kind=tensors[0].kind,
        scale=scale,
        tensors=_tensor_reports(result.computed, built, adapter_name),
        matches=tuple(result.matches),
        skipped=tuple(result.skipped),
        unchanged_count=result.unchanged_count,
        notes=tuple(result.notes),
        metadata=metadata,
    )


@dataclass
class _Result:
    """What became of a checkpoint's tensors."""

    computed: list[ComputedTensor]
    matches: list[NameMatch]
    skipped: list[Skipped]
    notes: list[str]
    unchanged_count: int = 0


def _compute_all(checkpoint: Checkpoint, base: Base | None, settings: _Settings) -> _Result:
    """Find the name of every tensor and compute it, or refuse."""
    matches, unmatched = _match_names(checkpoint, base, settings.renames)
    result = _Result([], matches, [*checkpoint.skipped, *unmatched], [])
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
    if all(c.no_op_entry_count == c.tensor.indices.size for c in result.computed):
        raise ExportError(
            f"{checkpoint.path}: no entry changes a weight at scale {settings.scale:g}, so the"
            " adapter would do nothing"
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
    result: _Result, checkpoint: Checkpoint, base: Base | None, settings: _Settings
) -> None:
    targets = {match.source: match.target for match in result.matches}
    chosen = [raw for raw in checkpoint.entries if raw.name in targets]
    config, scale = checkpoint.config, settings.scale
    dtype = settings.dtype or "f32"
    shapes = None if base else UnboundShapes(settings.shapes, config, settings.renames)
    for done, raw in enumerate(chosen, start=1):
        name = targets[raw.name]
        if shapes is None:
            assert base is not None
            given_shape = settings.shapes.get(name)
            computed = targets_from_deltas(raw, name, base, scale, given_shape, config)
        else:
            shape = shapes.find(raw, name)
            value_dtype = settings.values or "f32"
            computed = deltas_without_base(raw, name, shape, scale, dtype, value_dtype, config)
        result.computed.append(computed)
        settings.progress(name, done, len(chosen))
    if shapes is not None:
        result.notes += _unbound_notes(result.computed, dtype, shapes.used_base)
    elif settings.dtype:
        result.notes.append(_conversion_note(settings.dtype))
    if config.get("fan_in_fan_out"):
        result.notes.append("fan_in_fan_out is set: rows and columns of the indices were swapped")


def _compare_dense(
    result: _Result, checkpoint: Checkpoint, base: Base, settings: _Settings
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
            computed = targets_from_tuned(match, stored, base, settings.scale)
            result.computed += [] if computed is None else [computed]
            result.unchanged_count += computed is None
        elif np.array_equal(stored.read(), tensor.read()):
            result.unchanged_count += 1
        else:
            reason = f"changed, but {stored.dtype} values are no weights"
            result.skipped.append(Skipped(match.source, reason))
        settings.progress(match.target, done, len(result.matches))
    entry_count = sum(c.tensor.indices.size for c in result.computed)
    if entry_count == 0:
        raise ExportError(f"{checkpoint.path}: no value differs from {base.path}")
    if entry_count > settings.max_density * element_count:
        tuned_types = sorted({c.source_dtype for c in result.computed})
        base_types = sorted({c.tensor.dtype for c in result.computed})
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


def _unbound_notes(
    computed: Sequence[ComputedTensor], dtype: str, used_base: Path | None
) -> list[str]:
    notes = [
        f"unbound: the file holds deltas for a base in {dtype} and nothing tells whether a base is"
        " the right one; --base binds it"
    ]
    if used_base is not None:
        notes.append(f"shapes were taken from {used_base}")
    error = max(c.rounding_error for c in computed)
    if error > 0:
        value_dtype = short_name(computed[0].tensor.values.dtype)
        notes.append(f"rounding to {value_dtype} changed deltas by up to {error:.3g}")
    return notes


def _check_options(
    dtype: str | None, values: str | None, index: str, scale: float, is_bound: bool
) -> None:
    for option, choice in (("dtype", dtype), ("values", values)):
        if choice is not None and choice not in FLOAT_TYPES:
            raise ValueError(f"{option} is {choice!r}, expected one of {', '.join(FLOAT_TYPES)}")
    if index not in INDEX_CHOICES:
        raise ValueError(f"index is {index!r}, expected one of {', '.join(INDEX_CHOICES)}")
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}, expected a finite number")
    if is_bound and values is not None:
        raise ValueError("values is for adapters without a base: targets have the base's type")


def _tensor_reports(
    computed: Sequence[ComputedTensor], built: BuiltFile, adapter_name: str
) -> tuple[TensorReport, ...]:
    """Describe the tensors in the order of the file."""
    in_order = sorted(computed, key=lambda c: c.tensor.name.encode())
    return tuple(_tensor_report(c, built.streams[adapter_name, c.tensor.name, 0]) for c in in_order)


def _tensor_report(computed: ComputedTensor, stream: IndexStream) -> TensorReport:
    tensor = computed.tensor
    assert not isinstance(tensor.values, CodedValues)
    block = f" of {stream.block_length}" if stream.block_length > 1 else ""
    sizes = {c.name.lower(): c_.size_bytes for c, c_ in all_codings(tensor.indices).items()}
    return TensorReport(
        name=tensor.name,
        source=computed.source,
        shape=tensor.shape,
        dtype=tensor.dtype,
        source_dtype=computed.source_dtype,
        value_dtype=short_name(tensor.values.dtype),
        entry_count=tensor.indices.size,
        no_op_entry_count=computed.no_op_entry_count,
        rounding_error=computed.rounding_error,
        index_codec=f"{stream.codec.name.lower()}{block}",
        index_bytes=len(stream.stream),
        index_sizes_bytes=sizes,
    )

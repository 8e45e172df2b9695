# SPDX-License-Identifier: Apache-2.0
"""From a trained adapter to a .shb file: read, compute, choose codings, write, report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .assemble import CodingSettings, alternatives, assemble, reference_notes, value_notes
from .base import Base
from .checkpoint import read_checkpoint
from .choose_entries import check_density, choose_entries
from .collect import CollectSettings, Progress, collect
from .compute import ComputedTensor, ComputeSettings
from .dtypes import FLOAT_TYPES
from .encode_index import INDEX_CHOICES
from .encode_values import DEFAULT_GROUP
from .errors import ExportError
from .image import DERIVED_CODECS, IndexCodec
from .metadata import adapter_metadata
from .names import Renames
from .output import check_output, write_output
from .reference import open_source
from .report import ExportReport, tensor_report
from .shapes import check_shape
from .snap import SnapReport, finish_snapping, snap_summary
from .tiers import check_shares
from .values import VALUE_CHOICES, check_group


def export_adapter(
    source: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    base_data: Sequence[str | Path] = (),
    trained_on: str | Path | None = None,
    dtype: str | None = None,
    values: str | None = None,
    group: int = DEFAULT_GROUP,
    index: str = "auto",
    index_from: str | Path | None = None,
    mask_seed: int | None = None,
    tiers: Sequence[float] = (1.0,),
    budget_bytes: int | None = None,
    scale: float = 1.0,
    density: float | None = None,
    grid_aware: bool = False,
    keep_mask: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    renames: Renames = (),
    max_density: float = 0.5,
    allow_skipped: bool = False,
    force: bool = False,
    name: str | None = None,
    license_name: str | None = None,
    description: str | None = None,
    explain_size: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Turn a trained SHiRA adapter into a .shb file.

    Args:
        source: a PEFT folder or state dict, a .pt of sparse tensors or of indices and values, or a
            fine-tuned checkpoint, which needs `base`.
        output: the .shb file to write.
        base: a Hugging Face folder, a checkpoint file, or the .pte or .ptd program. With it the
            file is bound by fingerprints; without it, it holds deltas ("unbound"). Trained values
            of a program's quantized weights are rounded to the nearest codes; entries that change
            no code are dropped where that makes the file smaller, unless `keep_mask`, `index_from`
            or a derived `index` fixes the positions.
        base_data: the .ptd files that a .pte keeps its weights in.
        trained_on: the float model that training began with, for quantized weights: they become
            what quantizing the trained model with the base's scales would make of them. Without it,
            deltas count from the base's own weights. For bases that were quantized by rounding.
        dtype: "f32", "f16" or "bf16". With a base: convert its tensors first. Without: the type of
            the base tensors that the adapter is meant for, f32 if not given.
        values: "target" for finished weights in the base's type, the default with a base; or the
            codec of deltas: "f32" (the default without), "f16", "bf16", "int8", "int4", "int2",
            "int1".
        group: entries per scale of the integer codecs, a multiple of 8 and at least 64.
        index: index codec in lower case, or "auto" for the smallest of each tensor.
        index_from: a .shb file with the same masks, whose index section this file refers to.
        mask_seed: the number from which random masks were drawn; by default that of PEFT's
            configuration.
        tiers: share of the entries in each tier and all before it, ascending, the last 1.
        budget_bytes: largest size of the file; the codec of each tensor is then chosen for the
            least squared error of the deltas.
        scale: strength (the paper's alpha) baked into the values, as PEFT does not save it.
        density: keep so many entries, as a share of the weights in all tensors: those of the
            largest deltas.
        grid_aware: with a density: keep the entries that take most off the squared error of the
            weights against the trained ones, as they are on the grid of a quantized base.
        keep_mask: keep entries that change no integer code, so that adapters of one mask can share
            its positions.
        shapes: name -> shape, for unbound adapters whose checkpoint has none.
        renames: (regular expression, replacement) applied to each name of the checkpoint first.
        max_density: refuse a fine-tuned checkpoint that changed a larger share of all weights.
        allow_skipped: leave out what cannot be in an adapter or has no match, instead of refusing.
        force: replace an existing output.
        name: of the adapter, by default the output's name without its ending.
        license_name: for the metadata.
        description: for the metadata.
        explain_size: measure every value codec for the report.
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
    _check_choices(dtype, values, index, index_from is not None, scale, base is not None)
    _check_codings(group, tiers, budget_bytes, values)
    check_density(density, grid_aware)
    if base_path is None and (trained_on is not None or base_data):
        raise ValueError("trained_on and base_data are for a base, and none was given")
    check_output(output, force)
    coding = CodingSettings(
        values=values or ("f32" if base is None else "target"),
        group=group,
        index=index,
        shares=tuple(tiers),
        budget_bytes=budget_bytes,
        index_from=None if index_from is None else open_source(Path(index_from)),
    )
    checkpoint = read_checkpoint(source)
    data_paths = [Path(path) for path in base_data]
    opened_base = None if base_path is None else Base(base_path, dtype, data_paths)
    collected = collect(
        checkpoint,
        opened_base,
        CollectSettings(
            compute=ComputeSettings(
                scale,
                checkpoint.config,
                _seed(mask_seed, checkpoint.config),
                None if trained_on is None else _reader_of_start(Path(trained_on), renames),
            ),
            dtype=dtype,
            renames=renames,
            shapes={n: check_shape(s, f"shape of {n}") for n, s in (shapes or {}).items()},
            max_density=max_density if density is None else None,
            allow_skipped=allow_skipped,
            progress=progress or (lambda name, done, total: None),
        ),
    )
    computed = collected.computed
    if density is not None:
        computed = choose_entries(computed, density, grid_aware)
    is_mask_fixed = (
        keep_mask
        or index_from is not None
        or index in {codec.name.lower() for codec in DERIVED_CODECS}
    )
    computed, snapped = finish_snapping(computed, is_mask_fixed)
    if budget_bytes is not None and snapped:
        raise ExportError(
            f"{base_path}: tensor {snapped[0].name} has integer codes, and a budget chooses codecs"
            " of deltas only"
        )
    if not computed:
        raise ExportError(f"{source}: no entry changes a code of {base_path} at scale {scale:g}")
    adapter_name = name or output.stem
    metadata = adapter_metadata(checkpoint, base_path, license_name, description)
    if snapped:
        metadata["snapped"] = snap_summary(snapped, grid_aware)
    parts, built = assemble(computed, adapter_name, metadata, coding)
    if all(part.stored.no_op_count == part.tensor.indices.size for part in parts):
        raise ExportError(
            f"{source}: no entry changes a weight at scale {scale:g}, so the adapter would do"
            " nothing"
        )
    write_output(output, built.content, force)
    tensors = tuple(
        tensor_report(
            part.part, part.stored, built.streams[adapter_name, part.tensor.name, part.part.tier]
        )
        for part in parts
    )
    return ExportReport(
        output=output,
        file_bytes=len(built.content),
        content_digest=built.content_digest.hex(),
        name=adapter_name,
        source=source,
        source_format=checkpoint.source_format,
        base=base_path,
        scale=scale,
        tensors=tensors,
        matches=tuple(collected.matches),
        skipped=tuple(collected.skipped),
        unchanged_count=collected.unchanged_count,
        notes=(
            *collected.notes,
            *value_notes(parts),
            *reference_notes(coding),
            *_seed_notes(mask_seed, collected.computed),
            *_snap_notes(snapped, values),
        ),
        metadata=metadata,
        value_alternatives=alternatives(parts, built, group) if explain_size else (),
        snapped=tuple(snapped),
    )


def _reader_of_start(path: Path, renames: Renames) -> Callable[[str, str], NDArray[np.float32]]:
    """Give a function that reads what training began with, by the checkpoint's names."""
    model = Base(path, "f32")
    matcher = model.matcher(renames)

    def read(source: str, where: str) -> NDArray[np.float32]:
        match = matcher.match(source, where)
        if match is None:
            raise ExportError(f"{where}: no such tensor in {path}, which it was trained on")
        return model.values(match.target).reshape(model.tensors[match.target].shape)

    return read


def _snap_notes(snapped: Sequence[SnapReport], values: str | None) -> list[str]:
    notes = []
    if snapped and values not in (None, "target"):
        notes.append("tensors of integer codes hold codes, whatever --values says of deltas")
    gone = [report.name for report in snapped if report.changed_count == 0]
    if gone:
        shown = ", ".join(gone[:3]) + (", ..." if len(gone) > 3 else "")
        notes.append(f"{len(gone)} tensors vanished: no entry of theirs changes a code ({shown})")
    return notes


def _seed(mask_seed: int | None, config: Mapping[str, Any]) -> int | None:
    seed = config.get("random_seed") if mask_seed is None else mask_seed
    return seed if type(seed) is int else None


def _seed_notes(mask_seed: int | None, tensors: Iterable[ComputedTensor]) -> list[str]:
    rules = [rule for tensor in tensors for rule in tensor.derivation.rules]
    if mask_seed is None or any(rule.codec == IndexCodec.RANDOM for rule in rules):
        return []
    return [f"--mask-seed {mask_seed} gives none of the masks"]


def _check_choices(
    dtype: str | None,
    values: str | None,
    index: str,
    has_index_source: bool,
    scale: float,
    is_bound: bool,
) -> None:
    for option, choice, allowed in (
        ("dtype", dtype, tuple(FLOAT_TYPES)),
        ("values", values, VALUE_CHOICES),
        ("index", index, INDEX_CHOICES),
    ):
        if choice is not None and choice not in allowed:
            raise ValueError(f"{option} is {choice!r}, expected one of {', '.join(allowed)}")
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}, expected a finite number")
    if index != "auto" and has_index_source:
        raise ValueError("positions of another file keep their coding: index cannot be given too")
    if values == "target" and not is_bound:
        raise ValueError("values target needs a base: finished weights are base plus delta")


def _check_codings(
    group: int, tiers: Sequence[float], budget_bytes: int | None, values: str | None
) -> None:
    check_group(group)
    check_shares(tiers)
    if budget_bytes is not None and values is not None:
        raise ValueError("a budget chooses the values' codecs, so values cannot be given too")
    if budget_bytes is not None and len(tiers) > 1:
        raise ValueError("a budget is for files of one tier")

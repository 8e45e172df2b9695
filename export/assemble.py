# SPDX-License-Identifier: Apache-2.0
"""From computed entries to a file: tiers, codecs of values and positions, alternatives to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .budget import allocate, measure
from .build import Adapter, AdapterTensor, BuiltFile, build_file
from .compute import ComputedTensor
from .errors import ExportError
from .reference import refer, shared_streams
from .report import ValueAlternative
from .sizes import file_bytes, tiled_bytes
from .tiers import TierPart, split_into_tiers
from .unpack import Unpacked
from .values import VALUE_CHOICES, StoredValues, store_values


@dataclass(frozen=True)
class CodingSettings:
    """Options that concern the coding of positions and values; see `export_adapter`."""

    values: str
    group: int
    index: str
    shares: tuple[float, ...]
    budget_bytes: int | None
    index_from: Unpacked | None


@dataclass(frozen=True)
class CodedPart:
    """The entries of one tensor in one tier, ready to be written."""

    part: TierPart
    stored: StoredValues
    tensor: AdapterTensor


def assemble(
    computed: Sequence[ComputedTensor],
    name: str,
    metadata: Mapping[str, Any],
    coding: CodingSettings,
) -> tuple[list[CodedPart], BuiltFile]:
    """Choose the values' codecs, and lay the file out.

    Returns:
        The parts in the order of the file's rows, and the file.

    Raises:
        ExportError: a choice cannot be met, or the adapter breaks a rule of the format.
    """
    in_order = sorted(computed, key=lambda tensor: tensor.name.encode())
    tiers = sorted(
        split_into_tiers(in_order, coding.shares), key=lambda part: part.tier
    )  # a stable sort keeps the order of names, which is that of the file's rows
    if coding.budget_bytes is None:
        chosen = [store_values(part.tensor, coding.values, coding.group) for part in tiers]
    else:
        chosen = _fit_budget(tiers, name, metadata, coding, coding.budget_bytes)
    parts = _coded(tiers, chosen)
    return parts, _lay_out(parts, name, metadata, coding)


def _fit_budget(
    tiers: Sequence[TierPart],
    name: str,
    metadata: Mapping[str, Any],
    coding: CodingSettings,
    budget_bytes: int,
) -> list[StoredValues]:
    measured = measure([part.tensor for part in tiers], coding.group)
    smallest = [measured[part.tensor.name][-1] for part in tiers]
    # Everything but the values has the same size whatever their codecs are, and they come last.
    draft = _lay_out(_coded(tiers, smallest), name, metadata, coding)
    own_bytes = tiled_bytes((len(stored.coded.stream) for stored in smallest), 8)
    chosen = allocate(measured, len(draft.content) - own_bytes, budget_bytes)
    return [chosen[part.tensor.name] for part in tiers]


def _coded(tiers: Sequence[TierPart], stored: Sequence[StoredValues]) -> list[CodedPart]:
    return [
        CodedPart(
            part,
            values,
            AdapterTensor(
                name=part.tensor.name,
                dtype=part.tensor.dtype,
                shape=part.tensor.shape,
                indices=part.tensor.indices,
                values=values.coded,
                kind=values.kind,
                fingerprint=part.fingerprint,
                base_digest=part.tensor.base_digest,
                tier=part.tier,
                rules=part.tensor.derivation.rules,
            ),
        )
        for part, values in zip(tiers, stored, strict=True)
    ]


def _lay_out(
    parts: Sequence[CodedPart], name: str, metadata: Mapping[str, Any], coding: CodingSettings
) -> BuiltFile:
    tensors = [part.tensor for part in parts]
    if coding.index_from is None:
        return build_file([Adapter(name, tensors, metadata, coding.index)])
    streams = shared_streams(coding.index_from, tensors)
    built = build_file([Adapter(name, tensors, metadata, streams=streams)])
    return refer(built, coding.index_from)


def alternatives(
    parts: Sequence[CodedPart], built: BuiltFile, group: int
) -> tuple[ValueAlternative, ...]:
    """Measure what the file would be like with each codec for all tensors."""
    tier_count = 1 + max(part.part.tier for part in parts)
    has_choice = any(part.part.tensor.snap is None for part in parts)
    found = []
    for choice in VALUE_CHOICES if has_choice else ("target",):
        if choice == "target" and parts[0].part.tensor.targets is None:
            continue
        sizes: list[list[int]] = [[] for _ in range(tier_count)]
        squared_error = squared_norm = 0.0
        try:
            for part in parts:
                stored = store_values(part.part.tensor, choice, group)
                sizes[part.part.tier].append(len(stored.coded.stream))
                squared_error += stored.squared_error
                squared_norm += stored.squared_norm
        except ExportError:  # a delta is too large for the type
            continue
        relative_error = math.sqrt(squared_error / squared_norm) if squared_norm else 0.0
        total = file_bytes(built.sections, sizes)
        found.append(ValueAlternative(choice, total, relative_error))
    return tuple(found)


def value_notes(parts: Sequence[CodedPart]) -> list[str]:
    """Say what the codecs of deltas changed."""
    largest = max(part.stored.largest_error for part in parts)
    if largest == 0:
        return []
    choices = sorted({part.stored.choice for part in parts}, key=VALUE_CHOICES.index)
    return [f"rounding to {', '.join(choices)} changed deltas by up to {largest:.3g}"]


def reference_notes(coding: CodingSettings) -> list[str]:
    """Say what a reader of the file needs besides."""
    if coding.index_from is None:
        return []
    return [
        f"the positions are those in {coding.index_from.where}: who opens this file must offer that"
        " one, or a pack that holds it"
    ]

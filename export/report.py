# SPDX-License-Identifier: Apache-2.0
"""What an export did, as data and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .checkpoint import Skipped
from .encode_index import all_codings
from .image import IndexCodec, IndexStream
from .names import NameMatch
from .sizes import PEFT_BYTES_PER_ENTRY, mask_bits
from .snap import SnapReport
from .tiers import TierPart
from .values import StoredValues


@dataclass(frozen=True)
class TensorReport:
    """One tensor of a written adapter.

    Attributes:
        name: in the program.
        source: in the checkpoint.
        shape: of the tensor.
        dtype: of the base tensor.
        source_dtype: of the values in the checkpoint.
        tier: of these entries; a tensor has an item in each tier that holds some.
        kind: "target" or "delta".
        values: "target", or the codec of the deltas: "f32", "f16", "bf16", "int8", "int4", "int2",
            "int1".
        value_bytes: length of the values, scales included.
        entry_count: number of entries.
        no_op_entry_count: those among them that leave their weight as it is.
        rounding_error: largest absolute difference that the value codec made; 0 for targets.
        relative_error: norm of what the codec changed in the deltas, by their own norm.
        delta_norm: root of the sum of squares of the deltas.
        index_codec: its name in lower case.
        block_length: entries in each aligned block; 0 for codecs without.
        index_bytes: length of the coded indices.
        index_sizes_bytes: codec -> length, for every codec that was possible.
        index_refusals: codec -> why it was not possible.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    source_dtype: str
    tier: int
    kind: str
    values: str
    value_bytes: int
    entry_count: int
    no_op_entry_count: int
    rounding_error: float
    relative_error: float
    delta_norm: float
    index_codec: str
    block_length: int
    index_bytes: int
    index_sizes_bytes: dict[str, int]
    index_refusals: dict[str, str]

    @property
    def density(self) -> float:
        """Share of the tensor's elements that are entries."""
        return self.entry_count / math.prod(self.shape)

    @property
    def entropy_bound_bytes(self) -> float:
        """What positions take at least if nothing but their number is known."""
        return mask_bits(math.prod(self.shape), self.entry_count) / 8


@dataclass(frozen=True)
class ValueAlternative:
    """What the file would be like with this codec for all values.

    Attributes:
        values: as in `TensorReport`.
        file_bytes: size of the whole file.
        relative_error: of all deltas.
    """

    values: str
    file_bytes: int
    relative_error: float


@dataclass(frozen=True)
class ExportReport:
    """What `export_adapter` did.

    Attributes:
        output: the file that was written.
        file_bytes: its size.
        content_digest: its identity, SHA-256 in hex.
        name: of the adapter.
        source: the checkpoint that was read.
        source_format: "peft-shira", "sparse", "entries" or "dense".
        base: what the adapter is bound to, or None if it is unbound.
        scale: baked into the values.
        tensors: in the order of the file, by tier and then by name.
        matches: how each name was found.
        skipped: what the checkpoint held besides, and why it was left out.
        unchanged_count: tensors of a dense checkpoint that equal the base's.
        notes: what a user should know, a sentence each.
        metadata: as written into the file.
        value_alternatives: the choices of codecs for values, if they were asked for.
        snapped: what became of tensors with integer codes, by name; those that vanished as a
            whole are in no other list.
    """

    output: Path
    file_bytes: int
    content_digest: str
    name: str
    source: Path
    source_format: str
    base: Path | None
    scale: float
    tensors: tuple[TensorReport, ...]
    matches: tuple[NameMatch, ...]
    skipped: tuple[Skipped, ...]
    unchanged_count: int
    notes: tuple[str, ...]
    metadata: dict[str, Any]
    value_alternatives: tuple[ValueAlternative, ...] = ()
    snapped: tuple[SnapReport, ...] = ()

    def __repr__(self) -> str:
        # The fields of a large adapter would fill pages.
        return (
            f"ExportReport({self.name!r}: {self.tensor_count} tensors, {self.entry_count} entries,"
            f" {self.file_bytes} bytes)"
        )

    @property
    def tensor_count(self) -> int:
        """Tensors that the adapter changes."""
        return len({tensor.name for tensor in self.tensors})

    @property
    def kind(self) -> str:
        """Whether the values are "target" or "delta"."""
        return self.tensors[0].kind

    @property
    def entry_count(self) -> int:
        """Entries of all tensors."""
        return sum(tensor.entry_count for tensor in self.tensors)

    @property
    def density(self) -> float:
        """Entries as a share of the elements of the tensors that the adapter changes."""
        shapes = {tensor.name: tensor.shape for tensor in self.tensors}
        return self.entry_count / sum(math.prod(shape) for shape in shapes.values())

    @property
    def relative_error(self) -> float:
        """Norm of what the values' codecs changed in all deltas, by the norm of all deltas."""
        norm = math.hypot(*(tensor.delta_norm for tensor in self.tensors))
        error = math.hypot(*(tensor.relative_error * tensor.delta_norm for tensor in self.tensors))
        return error / norm if norm else 0.0

    @property
    def bytes_per_entry(self) -> float:
        """Size of the whole file, header and names included, by entries."""
        return self.file_bytes / self.entry_count

    @property
    def bound_bytes_per_entry(self) -> float:
        """What entropy allows for these counts: log2 of the possible masks, and the values."""
        least = sum(t.entropy_bound_bytes + t.value_bytes for t in self.tensors)
        return least / self.entry_count

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON-ready values; `schema` grows when a field changes its meaning."""
        return {
            "schema": 2,
            "output": str(self.output),
            "file_bytes": self.file_bytes,
            "content_digest": self.content_digest,
            "name": self.name,
            "source": str(self.source),
            "source_format": self.source_format,
            "base": None if self.base is None else str(self.base),
            "bound": self.base is not None,
            "kind": self.kind,
            "scale": self.scale,
            "tensor_count": self.tensor_count,
            "entry_count": self.entry_count,
            "no_op_entry_count": sum(tensor.no_op_entry_count for tensor in self.tensors),
            "density": self.density,
            "relative_error": self.relative_error,
            "bytes_per_entry": self.bytes_per_entry,
            "peft_bytes_per_entry": PEFT_BYTES_PER_ENTRY,
            "entropy_bound_bytes_per_entry": self.bound_bytes_per_entry,
            "tensors": [
                asdict(tensor)
                | {
                    "density": tensor.density,
                    "entropy_bound_bytes": tensor.entropy_bound_bytes,
                    "peft_bytes": tensor.entry_count * PEFT_BYTES_PER_ENTRY,
                }
                for tensor in self.tensors
            ],
            "value_alternatives": [asdict(alternative) for alternative in self.value_alternatives],
            "snapped": [asdict(report) for report in self.snapped],
            "names": [asdict(match) for match in self.matches],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "unchanged_count": self.unchanged_count,
            "notes": list(self.notes),
            "metadata": self.metadata,
        }


def tensor_report(part: TierPart, stored: StoredValues, stream: IndexStream) -> TensorReport:
    """Describe what was written of one tensor in one tier."""
    tensor = part.tensor
    sizes = {codec: coding.size_bytes for codec, coding in all_codings(tensor.indices).items()}
    sizes |= {rule.codec: len(rule.stream) for rule in tensor.derivation.rules}
    refusals = tensor.derivation.refusals
    norm = math.sqrt(stored.squared_norm)
    return TensorReport(
        name=tensor.name,
        source=tensor.source,
        shape=tensor.shape,
        dtype=tensor.dtype,
        source_dtype=tensor.source_dtype,
        tier=part.tier,
        kind=stored.kind,
        values=stored.choice,
        value_bytes=len(stored.coded.stream),
        entry_count=tensor.indices.size,
        no_op_entry_count=stored.no_op_count,
        rounding_error=stored.largest_error,
        relative_error=math.sqrt(stored.squared_error) / norm if norm else 0.0,
        delta_norm=norm,
        index_codec=stream.codec.name.lower(),
        block_length=stream.block_length,
        index_bytes=len(stream.stream),
        index_sizes_bytes={codec.name.lower(): size for codec, size in sizes.items()},
        index_refusals={
            codec.name.lower(): refusals.get(codec, "a file of several tiers holds no such mask")
            for codec in IndexCodec
            if codec not in sizes
        },
    )

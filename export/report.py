# SPDX-License-Identifier: Apache-2.0
"""What an export did: for people as tables, for programs as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .checkpoint import Skipped
from .names import NameMatch

#: PEFT stores an entry as a float32 and two int32.
PEFT_BYTES_PER_ENTRY = 12

_SHOWN_ROWS = 12


@dataclass(frozen=True)
class TensorReport:
    """One tensor of a written adapter.

    Attributes:
        name: in the program.
        source: in the checkpoint.
        shape: of the tensor.
        dtype: of the base tensor.
        source_dtype: of the values in the checkpoint.
        value_dtype: of the values in the file.
        entry_count: number of entries.
        no_op_entry_count: those among them that leave their weight as it is.
        rounding_error: largest absolute difference that the value codec made; 0 for targets.
        index_codec: its name in lower case, with the block length if it has one.
        index_bytes: length of the coded indices.
        index_sizes_bytes: codec -> length, for every codec that was possible.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    source_dtype: str
    value_dtype: str
    entry_count: int
    no_op_entry_count: int
    rounding_error: float
    index_codec: str
    index_bytes: int
    index_sizes_bytes: dict[str, int]

    @property
    def density(self) -> float:
        """Share of the tensor's elements that are entries."""
        return self.entry_count / math.prod(self.shape)

    @property
    def value_bytes(self) -> int:
        """Length of the values."""
        return self.entry_count * (4 if self.value_dtype == "f32" else 2)


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
        kind: "target" or "delta".
        scale: baked into the values.
        tensors: in the order of the file.
        matches: how each name was found.
        skipped: what the checkpoint held besides, and why it was left out.
        unchanged_count: tensors of a dense checkpoint that equal the base's.
        notes: what a user should know, a sentence each.
        metadata: as written into the file.
    """

    output: Path
    file_bytes: int
    content_digest: str
    name: str
    source: Path
    source_format: str
    base: Path | None
    kind: str
    scale: float
    tensors: tuple[TensorReport, ...]
    matches: tuple[NameMatch, ...]
    skipped: tuple[Skipped, ...]
    unchanged_count: int
    notes: tuple[str, ...]
    metadata: dict[str, Any]

    def __repr__(self) -> str:
        # The fields of a large adapter would fill pages.
        return (
            f"ExportReport({self.name!r}: {len(self.tensors)} tensors, {self.entry_count} entries,"
            f" {self.file_bytes} bytes)"
        )

    @property
    def entry_count(self) -> int:
        """Entries of all tensors."""
        return sum(tensor.entry_count for tensor in self.tensors)

    @property
    def density(self) -> float:
        """Entries as a share of the elements of the tensors that the adapter changes."""
        return self.entry_count / sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def bytes_per_entry(self) -> float:
        """Size of the whole file, header and names included, by entries."""
        return self.file_bytes / self.entry_count

    @property
    def bound_bytes_per_entry(self) -> float:
        """What entropy allows for these counts: log2 of the possible masks, and raw values."""
        index_bits = sum(_mask_bits(math.prod(t.shape), t.entry_count) for t in self.tensors)
        value_bytes = sum(tensor.value_bytes for tensor in self.tensors)
        return (index_bits / 8 + value_bytes) / self.entry_count

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON-ready values; `schema` grows when a field changes its meaning."""
        return {
            "schema": 1,
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
            "tensor_count": len(self.tensors),
            "entry_count": self.entry_count,
            "no_op_entry_count": sum(tensor.no_op_entry_count for tensor in self.tensors),
            "density": self.density,
            "bytes_per_entry": self.bytes_per_entry,
            "peft_bytes_per_entry": PEFT_BYTES_PER_ENTRY,
            "entropy_bound_bytes_per_entry": self.bound_bytes_per_entry,
            "tensors": [asdict(tensor) | {"density": tensor.density} for tensor in self.tensors],
            "names": [asdict(match) for match in self.matches],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "unchanged_count": self.unchanged_count,
            "notes": list(self.notes),
            "metadata": self.metadata,
        }

    def render(self, show_all: bool = False) -> RenderableType:
        """Lay the report out for a terminal; `show_all` lists every tensor and name."""
        parts: list[RenderableType] = [self._tensor_table(show_all), self._summary()]
        if self.skipped:
            parts.append(_listing("skipped", [f"{s.name}: {s.reason}" for s in self.skipped]))
        for how in ("renamed", "unwrapped", "name map", "suffix"):
            found = [f"{m.source} -> {m.target}" for m in self.matches if m.how == how]
            if found:
                title = f"names matched as {how}: {len(found)}"
                parts.append(_listing(title, found, len(found) if show_all else 1))
        parts += [Text(f"note: {note}") for note in self.notes]
        return Group(*parts)

    def _tensor_table(self, show_all: bool) -> Table:
        title = Text(f"adapter {self.name}")
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        table.add_column("tensor", overflow="fold")
        for heading in ("shape", "index codec"):
            table.add_column(heading, no_wrap=True)
        for heading in ("entries", "density", "B/entry"):
            table.add_column(heading, justify="right", no_wrap=True)
        shown = self.tensors if show_all else self.tensors[:_SHOWN_ROWS]
        for tensor in shown:
            table.add_row(
                Text(tensor.name),
                "x".join(map(str, tensor.shape)),
                tensor.index_codec,
                f"{tensor.entry_count:,}",
                f"{tensor.density:.3%}",
                f"{(tensor.index_bytes + tensor.value_bytes) / tensor.entry_count:.2f}",
            )
        if len(shown) < len(self.tensors):
            table.add_row(f"({len(self.tensors) - len(shown)} more: --all shows them)")
        return table

    def _summary(self) -> Text:
        no_ops = sum(tensor.no_op_entry_count for tensor in self.tensors)
        source_dtypes = ", ".join(sorted({tensor.source_dtype for tensor in self.tensors}))
        value_dtypes = ", ".join(sorted({tensor.value_dtype for tensor in self.tensors}))
        binding = "unbound" if self.base is None else f"bound to {self.base}"
        lines = [
            f"read {self.source}: {self.source_format}, {source_dtypes}, scale {self.scale:g}",
            f"wrote {self.output}: {self.file_bytes:,} bytes, {len(self.tensors)} tensors,"
            f" {self.entry_count:,} {value_dtypes} {self.kind} values"
            f" ({self.density:.3%} of these tensors), {binding}",
            f"bytes per entry: {self.bytes_per_entry:.2f} with header and names;"
            f" PEFT {PEFT_BYTES_PER_ENTRY}; entropy bound of unstructured masks"
            f" {self.bound_bytes_per_entry:.2f}",
        ]
        if no_ops:
            lines.append(f"{no_ops:,} entries leave their weight as it is")
        if self.unchanged_count:
            lines.append(f"{self.unchanged_count} tensors equal the base's")
        return Text("\n".join(lines))


def _listing(title: str, lines: list[str], limit: int = _SHOWN_ROWS) -> Text:
    rest = [f"and {len(lines) - limit} more"] if limit < len(lines) else []
    return Text("\n  ".join([f"{title}:", *lines[:limit], *rest]))


def _mask_bits(element_count: int, entry_count: int) -> float:
    """log2 of the number of masks with this many entries."""
    ways = (
        math.lgamma(element_count + 1)
        - math.lgamma(entry_count + 1)
        - math.lgamma(element_count - entry_count + 1)
    )
    return ways / math.log(2)

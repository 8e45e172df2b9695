# SPDX-License-Identifier: Apache-2.0
"""Lay out the report of an export for a terminal: what was written, and what else was possible."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .image import IndexCodec
from .report import ExportReport, TensorReport
from .sizes import PEFT_BYTES_PER_ENTRY
from .snap import total_error

_SHOWN_ROWS = 12


def report_table(report: ExportReport, show_all: bool = False) -> RenderableType:
    """Show what was written; `show_all` lists every tensor and name."""
    parts: list[RenderableType] = [_tensor_table(report, show_all)]
    if report.snapped:
        parts.append(_snap_table(report, show_all))
    parts.append(_summary(report))
    if report.skipped:
        parts.append(_listing("skipped", [f"{s.name}: {s.reason}" for s in report.skipped]))
    for how in ("renamed", "unwrapped", "name map", "suffix"):
        found = [f"{m.source} -> {m.target}" for m in report.matches if m.how == how]
        if found:
            title = f"names matched as {how} ({len(found)})"
            parts.append(_listing(title, found, len(found) if show_all else 1))
    parts += [Text(printable(f"note: {note}")) for note in report.notes]
    return Group(*parts)


def printable(text: object) -> str:
    """Escape what is not a visible character, which names of files and tensors may hold."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def size_tables(report: ExportReport, show_all: bool = False) -> RenderableType:
    """Show what every coding of positions and values would take, beside the least possible."""
    index = _table("bytes of the positions; * is what was chosen")
    index.add_column("tensor", overflow="fold")
    for heading in (*(codec.name.lower() for codec in IndexCodec), "entropy bound", "bits/entry"):
        index.add_column(heading, justify="right", no_wrap=True)
    for tensor in _shown(report.tensors, show_all):
        index.add_row(
            Text(_tensor_label(report, tensor)),
            *(_index_size(tensor, codec.name.lower()) for codec in IndexCodec),
            f"{tensor.entropy_bound_bytes:,.0f}",
            f"{8 * tensor.entropy_bound_bytes / tensor.entry_count:.2f}",
        )
    _add_rest(index, report.tensors, show_all)
    values = _table("bytes of the file with each codec of values")
    values.add_column("--values")
    for heading in ("bytes", "bytes/entry", "relative error of the deltas"):
        values.add_column(heading, justify="right", no_wrap=True)
    for alternative in report.value_alternatives:
        values.add_row(
            alternative.values,
            f"{alternative.file_bytes:,}",
            f"{alternative.file_bytes / report.entry_count:.3f}",
            f"{alternative.relative_error:.2%}",
        )
    peft_bytes = PEFT_BYTES_PER_ENTRY * report.entry_count
    values.add_row("(PEFT)", f"{peft_bytes:,}", f"{PEFT_BYTES_PER_ENTRY:.3f}", "")
    reasons = sorted(
        {f"no {codec}: {why}" for t in report.tensors for codec, why in t.index_refusals.items()}
    )
    return Group(index, values, _listing("masks without a rule", reasons))


def _tensor_table(report: ExportReport, show_all: bool) -> Table:
    table = _table(f"adapter {report.name}")
    table.add_column("tensor", overflow="fold")
    for heading in ("shape", "index", "values"):
        table.add_column(heading, no_wrap=True)
    for heading in ("entries", "density", "error", "B/entry"):
        table.add_column(heading, justify="right", no_wrap=True)
    for tensor in _shown(report.tensors, show_all):
        block = f" of {tensor.block_length}" if tensor.block_length > 1 else ""
        table.add_row(
            Text(_tensor_label(report, tensor)),
            "x".join(map(str, tensor.shape)),
            f"{tensor.index_codec}{block}",
            tensor.values,
            f"{tensor.entry_count:,}",
            f"{tensor.density:.3%}",
            f"{tensor.relative_error:.2%}",
            f"{(tensor.index_bytes + tensor.value_bytes) / tensor.entry_count:.2f}",
        )
    _add_rest(table, report.tensors, show_all)
    return table


def _snap_table(report: ExportReport, show_all: bool) -> Table:
    table = _table("trained weights on the grid of the quantized base")
    table.add_column("tensor", overflow="fold")
    table.add_column("codes", no_wrap=True)
    for heading in ("trained", "entries", "change a code", "vanish", "clipped", "error left"):
        table.add_column(heading, justify="right", no_wrap=True)
    for snap in report.snapped if show_all else report.snapped[:_SHOWN_ROWS]:
        table.add_row(
            Text(printable(snap.name)),
            snap.dtype,
            *(f"{count:,}" for count in (snap.source_count, snap.entry_count, snap.changed_count)),
            f"{snap.vanished_count:,}",
            f"{snap.clipped_count:,}",
            f"{snap.relative_error:.2%}",
        )
    if len(report.snapped) > _SHOWN_ROWS and not show_all:
        table.add_row(f"({len(report.snapped) - _SHOWN_ROWS} more: --all shows them)")
    return table


def _summary(report: ExportReport) -> Text:
    no_ops = sum(tensor.no_op_entry_count for tensor in report.tensors)
    source_dtypes = ", ".join(sorted({tensor.source_dtype for tensor in report.tensors}))
    codecs = {t.dtype if t.values == "target" else t.values for t in report.tensors}
    binding = "unbound" if report.base is None else f"bound to {report.base}"
    lines = [
        f"read {report.source}: {report.source_format}, {source_dtypes}, scale {report.scale:g}",
        f"wrote {report.output}: {report.file_bytes:,} bytes, {report.tensor_count} tensors,"
        f" {report.entry_count:,} {', '.join(sorted(codecs))} {report.kind} values"
        f" ({report.density:.3%} of these tensors), {binding}",
        f"bytes per entry: {report.bytes_per_entry:.2f} with header and names;"
        f" PEFT {PEFT_BYTES_PER_ENTRY}; entropy bound of unstructured masks"
        f" {report.bound_bytes_per_entry:.2f}",
    ]
    if report.snapped:
        changed = sum(snap.changed_count for snap in report.snapped)
        lines.append(
            f"{changed:,} of {sum(snap.entry_count for snap in report.snapped):,} entries change an"
            f" integer code; {total_error(report.snapped):.2%} of what training changed there is"
            " left as an error"
        )
    elif report.relative_error:
        lines.append(f"relative error of the deltas: {report.relative_error:.2%}")
    for tier in range(1 + max(tensor.tier for tensor in report.tensors)):
        rows = [tensor for tensor in report.tensors if tensor.tier <= tier]
        if len(rows) < len(report.tensors):
            entry_count = sum(tensor.entry_count for tensor in rows)
            first = f"first {tier + 1} tiers" if tier else "first tier"
            lines.append(f"{first}: {entry_count:,} entries")
    if no_ops:
        lines.append(f"{no_ops:,} entries leave their weight as it is")
    if report.unchanged_count:
        lines.append(f"{report.unchanged_count} tensors equal the base's")
    return Text("\n".join(map(printable, lines)))


def _tensor_label(report: ExportReport, tensor: TensorReport) -> str:
    has_tiers = any(other.tier for other in report.tensors)
    return printable(f"{tensor.name} (tier {tensor.tier})" if has_tiers else tensor.name)


def _index_size(tensor: TensorReport, codec: str) -> str:
    if codec not in tensor.index_sizes_bytes:
        return "-"
    chosen = " *" if codec == tensor.index_codec else "  "
    return f"{tensor.index_sizes_bytes[codec]:,}{chosen}"


def _shown(tensors: Sequence[TensorReport], show_all: bool) -> Sequence[TensorReport]:
    return tensors if show_all else tensors[:_SHOWN_ROWS]


def _add_rest(table: Table, tensors: Sequence[TensorReport], show_all: bool) -> None:
    if len(_shown(tensors, show_all)) < len(tensors):
        table.add_row(f"({len(tensors) - _SHOWN_ROWS} more: --all shows them)")


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, title=Text(printable(title)), title_justify="left")


def _listing(title: str, lines: list[str], limit: int = _SHOWN_ROWS) -> Text:
    rest = [f"and {len(lines) - limit} more"] if limit < len(lines) else []
    return Text("\n  ".join([f"{title}:", *map(printable, lines[:limit]), *rest]))

# SPDX-License-Identifier: Apache-2.0
"""Cut a finished .shb file down to its first tiers: a smaller file that is as valid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import ExportError
from .image import FileImage
from .output import check_output, write_output
from .unpack import unpack_files
from .writer import write_image


@dataclass(frozen=True)
class CutReport:
    """What `cut_adapter` did.

    Attributes:
        source: the file that was cut.
        output: the file that was written.
        tier_counts: before and after.
        entry_counts: before and after.
        file_bytes: before and after.
        content_digest: identity of the new file, SHA-256 in hex.
        notes: what a user should know, a sentence each.
    """

    source: Path
    output: Path
    tier_counts: tuple[int, int]
    entry_counts: tuple[int, int]
    file_bytes: tuple[int, int]
    content_digest: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Give everything as JSON-ready values."""
        return {
            "schema": 1,
            "source": str(self.source),
            "output": str(self.output),
            "tier_counts": list(self.tier_counts),
            "entry_counts": list(self.entry_counts),
            "file_bytes": list(self.file_bytes),
            "content_digest": self.content_digest,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Give the report as lines."""
        tiers = [f"{count} tier{'' if count == 1 else 's'}" for count in self.tier_counts]
        entries, sizes = self.entry_counts, self.file_bytes
        return [
            f"read {self.source}: {sizes[0]:,} bytes, {tiers[0]}, {entries[0]:,} entries",
            f"wrote {self.output}: {sizes[1]:,} bytes, {tiers[1]}, {entries[1]:,} entries",
            *(f"note: {note}" for note in self.notes),
        ]


def cut_adapter(
    source: str | Path,
    output: str | Path,
    tier_count: int,
    *,
    index_from: str | Path | None = None,
    force: bool = False,
) -> CutReport:
    """Write a new .shb file of the first tiers of another one.

    Args:
        source: a .shb file, of one adapter or several.
        output: the file to write.
        tier_count: how many tiers to keep, from the most important on.
        index_from: the file that the source takes its positions from, if it does.
        force: replace an existing output.

    Raises:
        ExportError: the source is not sound, or has fewer tiers; nothing was written.
        OSError: a file could not be read or written.
    """
    source, output = Path(source), Path(output)
    check_output(output, force)
    opened = unpack_files([source] if index_from is None else [source, index_from])[0]
    image = cut(opened.image, tier_count, str(source))
    written = write_image(image)
    write_output(output, written.content, force)
    note = "the signature was over the whole file and is not in the new one: sign it again"
    return CutReport(
        source=source,
        output=output,
        tier_counts=(len(opened.image.index), tier_count),
        entry_counts=(_entry_count(opened.image), _entry_count(image)),
        file_bytes=(opened.file_bytes, len(written.content)),
        content_digest=written.content_digest.hex(),
        notes=(note,) if opened.is_signed else (),
    )


def cut(image: FileImage, tier_count: int, where: str) -> FileImage:
    """Keep the first tiers of all adapters.

    Raises:
        ExportError: there are not so many, or an adapter has no entries in them.
    """
    if not 1 <= tier_count <= len(image.index):
        raise ExportError(f"{where}: has {len(image.index)} tiers, so {tier_count} cannot be kept")
    adapters = tuple(
        replace(adapter, rows=tuple(row for row in adapter.rows if row.tier < tier_count))
        for adapter in image.adapters
    )
    for adapter in adapters:
        if not adapter.rows:
            raise ExportError(
                f"{where}: adapter {adapter.name} has no entries in the first {tier_count} tiers"
            )
    return FileImage(adapters, image.index[:tier_count])


def _entry_count(image: FileImage) -> int:
    return sum(row.nnz for adapter in image.adapters for row in adapter.rows)

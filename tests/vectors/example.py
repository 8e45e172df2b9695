# SPDX-License-Identifier: Apache-2.0
"""Writes section 16 of docs/FORMAT.md: `python tests/vectors/example.py` explains a vector's bytes.

Every byte of good/smallest.shb is named by the field it belongs to; the fields below are those of
the tables of FORMAT.md, in their order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VECTOR = "tests/vectors/good/smallest.shb"
PAGE = ROOT / "docs" / "FORMAT.md"
BEGIN = "<!-- example: written by `python tests/vectors/example.py`, do not edit by hand -->\n"
END = "<!-- example end -->\n"

Fields = list[tuple[str, int]]

# Sizes of integers are 1, 2, 4 or 8; names in capitals and longer fields are shown as bytes.
HEADER: Fields = [
    ("MAGIC", 8),
    ("version_major", 2),
    ("version_minor", 2),
    ("header_bytes", 4),
    ("file_bytes", 8),
    ("required_features", 8),
    ("optional_features", 8),
    ("section_count", 4),
    ("adapter_count", 4),
    ("tensor_count", 4),
    ("tier_count", 4),
    ("SECTION_TABLE_CRC32C", 4),
    ("reserved", 4),
    ("CONTENT_DIGEST", 32),
    ("signature_kind", 4),
    ("RESERVED", 28),
    ("PUBLIC_KEY", 32),
    ("SIGNATURE", 64),
    ("RESERVED", 28),
    ("HEADER_CRC32C", 4),
]
SECTION_ROW: Fields = [
    ("kind", 4),
    ("CRC32C", 4),
    ("offset", 8),
    ("size_bytes", 8),
    ("tier", 4),
    ("index_count", 4),
    ("SHA256", 32),
]
ADAPTER_ROW: Fields = [
    ("name_offset", 4),
    ("name_bytes", 4),
    ("first_tensor", 4),
    ("tensor_count", 4),
    ("flags", 4),
    ("reserved", 4),
    ("metadata_offset", 4),
    ("metadata_bytes", 4),
    ("RESERVED", 32),
]
TENSOR_ROW: Fields = [
    ("name_offset", 4),
    ("name_bytes", 4),
    ("dtype", 1),
    ("rank", 1),
    ("tier", 1),
    ("value_codec", 1),
    ("value_kind", 1),
    ("flags", 1),
    ("scale_exponent", 1),
    ("reserved", 1),
    ("index_number", 4),
    ("value_group", 4),
    ("nnz", 8),
    ("value_offset", 8),
    ("value_bytes", 8),
    ("RESERVED", 16),
    *((f"dims[{axis}]", 4) for axis in range(8)),
    ("FINGERPRINT", 16),
    ("BASE_DIGEST", 16),
]
INDEX_ROW: Fields = [
    ("index_codec", 1),
    ("rice_bits", 1),
    ("reserved", 2),
    ("block_length", 4),
    ("unit_count", 4),
    ("reserved", 4),
    ("element_count", 8),
    ("nnz", 8),
    ("offset", 8),
    ("size_bytes", 8),
]

MEANINGS = {
    "kind": dict(enumerate(["ADAPTERS", "TENSORS", "NAMES", "METADATA", "INDEX", "VALUES"], 1)),
    "dtype": {2: "F16"},
    "value_codec": {2: "F16"},
    "value_kind": {0: "target values"},
    "index_codec": {1: "GAPS8"},
    "signature_kind": {0: "unsigned"},
}


class Explainer:
    """Walks over a file and explains it byte by byte."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.cursor = 0
        self.lines: list[str] = []

    def heading(self, text: str) -> None:
        self.lines.append(f"{'':23}-- {text}")

    def field(self, name: str, size: int) -> None:
        """Explain one field; long ones take several lines, zeros are counted."""
        chunk = self.data[self.cursor : self.cursor + size]
        if len(chunk) != size:
            raise ValueError(f"the file ends in {name}")
        if name.isupper():
            self._bytes(name.lower(), chunk)
            return
        number = int.from_bytes(chunk, "little")
        meaning = MEANINGS.get(name, {}).get(number)
        if name == "flags" and number:
            meaning = "BOUND" if size == 4 else "FINGERPRINT"
        text = f"{name} = {number:,}" if name != "reserved" else name
        self._line(chunk, f"{text} ({meaning})" if meaning else text)

    def fields(self, fields: Fields) -> None:
        for name, size in fields:
            self.field(name, size)

    def text(self, size: int) -> None:
        chunk = self.data[self.cursor : self.cursor + size]
        self._line(chunk, f'"{chunk.decode()}"')

    def codes(self, size: int, note: str) -> None:
        self._line(self.data[self.cursor : self.cursor + size], note)

    def padding_to(self, offset: int) -> None:
        if offset > self.cursor:
            self._bytes("padding", self.data[self.cursor : offset])

    def _bytes(self, name: str, chunk: bytes) -> None:
        if not any(chunk) and len(chunk) > 8:
            self.lines.append(f"{self.cursor:5}  {f'00 ({len(chunk)} times)':47}  {name}")
            self.cursor += len(chunk)
            return
        for begin in range(0, len(chunk), 16):
            self._line(chunk[begin : begin + 16], name if begin == 0 else "")

    def _line(self, chunk: bytes, label: str) -> None:
        self.lines.append(f"{self.cursor:5}  {chunk.hex(' ').upper():47}  {label}".rstrip())
        self.cursor += len(chunk)

    def number(self, offset: int, size: int) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")


def explain(data: bytes) -> Iterator[str]:
    """Explain a file of one adapter, one tensor and one byte per gap."""
    file = Explainer(data)
    file.heading("header (section 4)")
    file.fields(HEADER)
    for number in range(6):
        file.heading(f"row {number} of the section table (section 5)")
        file.fields(SECTION_ROW)
    rows = [256 + 64 * number for number in range(6)]
    offsets = [file.number(row + 8, 8) for row in rows]
    sizes = [file.number(row + 16, 8) for row in rows]
    tensor_row, index_row = offsets[1], offsets[4]
    names = [file.number(offsets[0] + 4, 4), file.number(tensor_row + 4, 4)]
    index_bytes, nnz = file.number(index_row + 40, 8), file.number(tensor_row + 24, 8)

    file.heading("ADAPTERS (section 6)")
    file.fields(ADAPTER_ROW)
    file.heading("TENSORS (section 7)")
    file.fields(TENSOR_ROW)
    file.heading("NAMES (section 8)")
    for size in names:
        file.text(size)
    file.padding_to(offsets[3])
    file.heading("METADATA (section 8)")
    file.text(sizes[3])
    file.padding_to(offsets[4])
    file.heading("INDEX: the table, then the stream (section 9)")
    file.fields(INDEX_ROW)
    position = -1
    for _ in range(index_bytes):
        gap = data[file.cursor]
        position += gap + 1
        file.codes(1, f"gap {gap}: position {position}")
    file.padding_to(offsets[5])
    file.heading("VALUES (section 10)")
    for _ in range(nnz):
        file.codes(2, f"f16 {_f16(data[file.cursor : file.cursor + 2]):.6g}")
    if file.cursor != len(data):
        raise ValueError(f"{len(data) - file.cursor} bytes are not explained")
    yield from file.lines


def _f16(chunk: bytes) -> float:
    return float(struct.unpack("<e", chunk)[0])


def section() -> str:
    """Give what stands between the markers in FORMAT.md."""
    data = (ROOT / VECTOR).read_bytes()
    lines = "\n".join(explain(data))
    return (
        f"`{VECTOR}`, {len(data):,} bytes: an adapter `de` that replaces two of the six elements"
        f" of an F16 tensor `w` of shape [2, 3].\n\n```text\n{lines}\n```\n"
    )


def updated(page: str) -> str:
    """Replace the example of a page."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + section() + END + after


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")

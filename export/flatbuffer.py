# SPDX-License-Identifier: Apache-2.0
"""A bounds-checked view of a flatbuffer that nobody vouches for: tables, lists and strings.

It keeps to the rules of csrc/attach/flatbuffer.h, so that the exporter and the runtime take the
same files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .errors import ProgramFormatError

_TABLE_COST_BYTES = 16  # about what a table takes in a file, with its place in a list


class Flatbuffer:
    """The bytes, of which every access is checked against their length.

    The work is bounded by the size: each visit of a table, list or string is paid for, because a
    hostile file could point a million entries at the same megabyte.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self.content = content
        self._work_left_bytes = 2 * len(content)

    def error(self, position: int, problem: str) -> ProgramFormatError:
        """Make the error of a problem at a byte of the file."""
        return ProgramFormatError(self.path, position, problem)

    def number(self, position: int, width_bytes: int, signed: bool = False) -> int:
        """Read a little-endian integer."""
        if position < 0 or position + width_bytes > len(self.content):
            raise self.error(position, f"points outside the {len(self.content)}-byte flatbuffer")
        field = self.content[position : position + width_bytes]
        return int.from_bytes(field, "little", signed=signed)

    def pay(self, position: int, cost_bytes: int) -> None:
        """Take `cost_bytes` off the work that is left."""
        if cost_bytes > self._work_left_bytes:
            raise self.error(position, "more entries than the file has bytes for")
        self._work_left_bytes -= cost_bytes

    def root(self) -> FlatTable:
        """Give the table that the first four bytes point to."""
        return FlatTable(self, self.number(0, 4))


class FlatTable:
    """One table: an offset back to its list of field offsets, then the fields."""

    def __init__(self, buffer: Flatbuffer, position: int) -> None:
        self.buffer = buffer
        self.position = position
        buffer.pay(position, _TABLE_COST_BYTES)
        self._fields = position - buffer.number(position, 4, signed=True)
        self._fields_bytes = buffer.number(self._fields, 2)
        self._table_bytes = buffer.number(self._fields + 2, 2)
        if self._fields_bytes < 4 or self._fields_bytes % 2 or self._table_bytes < 4:
            raise self.error(
                f"a table of {self._table_bytes} bytes and a list of {self._fields_bytes} bytes of"
                " fields cannot be"
            )

    def error(self, problem: str) -> ProgramFormatError:
        """Make the error of a problem with this table."""
        return self.buffer.error(self.position, problem)

    def scalar(self, field: int, width_bytes: int, signed: bool = False) -> int:
        """Read an integer; the schema's default is 0 for every one that is read here."""
        position = self._field_position(field, width_bytes)
        return 0 if position is None else self.buffer.number(position, width_bytes, signed)

    def table(self, field: int) -> FlatTable | None:
        """Follow a reference to a table, None if it is absent."""
        target = self._target_position(field)
        return None if target is None else FlatTable(self.buffer, target)

    def integers(self, field: int, width_bytes: int, signed: bool = False) -> tuple[int, ...]:
        """Read a list of integers, empty if it is absent."""
        positions = self._item_positions(field, width_bytes)
        return tuple(self.buffer.number(at, width_bytes, signed) for at in positions)

    def string(self, field: int) -> str:
        """Read a string, "" if it is absent; bytes that are not UTF-8 come as escapes."""
        positions = self._item_positions(field, 1)
        text = self.buffer.content[positions.start : positions.stop]
        return text.decode("utf-8", "backslashreplace")

    def tables(self, field: int) -> Iterator[FlatTable]:
        """Visit the items of a list of tables."""
        for position in self._item_positions(field, 4):
            yield FlatTable(self.buffer, position + self.buffer.number(position, 4))

    def _field_position(self, field: int, width_bytes: int) -> int | None:
        """Where a field is, or None if the file leaves it at its default."""
        slot = 4 + 2 * field
        if slot + 2 > self._fields_bytes:
            return None
        offset = self.buffer.number(self._fields + slot, 2)
        if offset == 0:
            return None
        if offset < 4 or offset + width_bytes > self._table_bytes:
            raise self.error(f"field {field} lies outside its table")
        return self.position + offset

    def _target_position(self, field: int) -> int | None:
        position = self._field_position(field, 4)
        return None if position is None else position + self.buffer.number(position, 4)

    def _item_positions(self, field: int, item_bytes: int) -> range:
        target = self._target_position(field)
        if target is None:
            return range(0)
        count = self.buffer.number(target, 4)
        first, end = target + 4, target + 4 + count * item_bytes
        if end > len(self.buffer.content):
            raise self.buffer.error(target, f"a list of {count} items runs past the flatbuffer")
        self.buffer.pay(first, end - first)
        return range(first, end, item_bytes)

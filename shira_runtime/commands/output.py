# SPDX-License-Identifier: Apache-2.0
"""What the commands share: tables and JSON on stdout, words on stderr, all of it printable."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["Json", "Misuse", "count", "note", "print_json", "print_table", "say"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


class Misuse(Exception):  # noqa: N818 - not an error of the software but of the call
    """The command line makes no sense; exit code 2."""


def say(line: str) -> None:
    """Print one line on stdout."""
    print(_printable(line))


def note(line: str) -> None:
    """Print one line on stderr."""
    print(_printable(line), file=sys.stderr)


def count(number: int) -> str:
    """Format a count or a size with thousands separators."""
    return f"{number:,}"


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str | None = None,
    footer: Sequence[object] | None = None,
) -> None:
    """Print a table; cells that are numbers are aligned to the right.

    Nothing is cut off: where stdout is not a terminal the table is as wide as it needs to be.
    """
    cells = [list(row) for row in rows]
    table = Table(
        title=None if title is None else _printable(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_footer=footer is not None,
    )
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index]) for row in cells)
        table.add_column(
            column,
            footer="" if footer is None else _cell(footer[index]),
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=not sys.stdout.isatty(),
        )
    for row in cells:
        table.add_row(*(_cell(value) for value in row))
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, highlight=False).print(table)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return _printable(str(value))


def _printable(text: str) -> str:
    """Escape what is not a visible character.

    Names, metadata and messages may come from a hostile file, and a terminal obeys C0 and C1
    control characters; half a surrogate pair cannot be printed at all.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )

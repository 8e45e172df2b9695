# SPDX-License-Identifier: Apache-2.0
"""Options about the pages of a program's weights, which are copied on write, and what they cost."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from shira_runtime import FileError, MemoryReport, Program
from shira_runtime.commands.output import Misuse, note

__all__ = [
    "FirstTouch",
    "FirstTouches",
    "MaxDirty",
    "Originals",
    "OriginalsIn",
    "measure_memory",
    "say_memory",
    "set_pages",
]


class FirstTouch(str, Enum):
    """How pages become private."""

    AUTO = "auto"
    POPULATE = "populate"
    HUGE = "huge"


class Originals(str, Enum):
    """Where base values stay that lie under active adapters."""

    MEMORY = "memory"
    FILE = "file"


MaxDirty = Annotated[
    float | None,
    typer.Option(
        "--max-dirty-mb",
        help="Refuse a switch that would make more than this private, in units of 2^20 bytes.",
    ),
]
FirstTouches = Annotated[
    FirstTouch, typer.Option("--first-touch", help="How pages become private before a store.")
]
OriginalsIn = Annotated[
    Originals,
    typer.Option(
        "--originals",
        help="Keep base values in memory, or read them from the program's file again when needed.",
    ),
]


def set_pages(
    program: Program, max_dirty_mb: float | None, first_touch: FirstTouch, originals: Originals
) -> None:
    """Hand the options to the program."""
    if max_dirty_mb is not None:
        limit_bytes = int(max_dirty_mb * 2**20)
        if not 1 <= limit_bytes < 2**64:
            raise Misuse(f"--max-dirty-mb {max_dirty_mb:g}: expected more than 0")
        program.max_dirty_bytes = limit_bytes
    program.first_touch = first_touch.value
    program.originals = originals.value


def measure_memory(program: Program) -> MemoryReport | None:
    """What switching has cost, where the system tells."""
    try:
        return program.memory()
    except FileError:
        return None


def say_memory(memory: MemoryReport | None) -> None:
    """Say it on stderr."""
    if memory is None:
        return
    huge = f", {memory.huge_bytes / 2**20:.1f} of it in huge pages" if memory.huge_bytes else ""
    note(
        f"private: {memory.private_bytes / 2**20:.1f} of {memory.mapped_bytes / 2**20:.1f} MB"
        f" mapped{huge}; saved base values: {memory.originals_bytes / 2**20:.1f} MB"
    )

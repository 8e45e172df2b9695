# SPDX-License-Identifier: Apache-2.0
"""The exceptions that exporting raises about what it was given."""

from __future__ import annotations

from pathlib import Path


class ExportError(ValueError):
    """An input was refused; the message names the file and the tensor, and nothing was written."""


class ProgramFormatError(ExportError):
    """A .pte or .ptd file is damaged, truncated or of a kind that its reader does not know."""

    def __init__(self, path: Path, offset_bytes: int, problem: str) -> None:
        super().__init__(f"{path}: byte {offset_bytes}: {problem}")
        self.path = path
        self.offset_bytes = offset_bytes

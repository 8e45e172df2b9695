# SPDX-License-Identifier: Apache-2.0
"""Read the JSON files that stand beside checkpoints and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import ExportError


def read_json_object(path: Path, meaning: str = "a JSON object") -> dict[str, Any]:
    """Read a file that holds one JSON object; `meaning` says in errors what was expected.

    Raises:
        ExportError: it holds something else.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ExportError(f"{path}: expected {meaning}")
    return content

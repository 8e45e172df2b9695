# SPDX-License-Identifier: Apache-2.0
"""Desktop side: make .shb files from trained adapters, and ExecuTorch programs from modules.

The names below are imported when they are first used, because the modules of this package need
different things: `masks` and `program` PyTorch, the exporter of adapters the packages of the extra
`format`, and `program_file` nothing but numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adapter import export_adapter
    from .errors import ExportError
    from .report import ExportReport, TensorReport

__all__ = ["ExportError", "ExportReport", "TensorReport", "export_adapter"]

_HOMES = {
    "ExportError": "errors",
    "ExportReport": "report",
    "TensorReport": "report",
    "export_adapter": "adapter",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

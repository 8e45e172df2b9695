# SPDX-License-Identifier: Apache-2.0
"""Desktop side: make .shb files from trained adapters, and ExecuTorch programs from modules.

`export_adapter` writes a file, `cut_adapter` cuts one down to its first tiers, and `pack_adapters`
puts several into one. Those who hold arrays instead of a checkpoint build files with
`shira_runtime.export.build`; `shira_runtime.export.reader` reads any file without the C++ core.

The names below are imported when they are first used, because the modules of this package need
different things: `masks` and `program` PyTorch, the exporter of adapters the packages of the extra
`format`, and `program_file` nothing but numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adapter import export_adapter
    from .cut import CutReport, cut_adapter
    from .errors import ExportError
    from .pack import pack_adapters
    from .report import ExportReport, TensorReport, ValueAlternative
    from .snap import SnapReport

__all__ = [
    "CutReport",
    "ExportError",
    "ExportReport",
    "SnapReport",
    "TensorReport",
    "ValueAlternative",
    "cut_adapter",
    "export_adapter",
    "pack_adapters",
]

_HOMES = {
    "CutReport": "cut",
    "ExportError": "errors",
    "ExportReport": "report",
    "SnapReport": "snap",
    "TensorReport": "report",
    "ValueAlternative": "report",
    "cut_adapter": "cut",
    "export_adapter": "adapter",
    "pack_adapters": "pack",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)

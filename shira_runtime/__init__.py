# SPDX-License-Identifier: Apache-2.0
"""Switches sparse (SHiRA) adapters in place on live model weights, bit-exactly.

Example::

    program = shira_runtime.load_program("model.pte")  # or from_torch(module), from_numpy(arrays)
    program.add_adapter("de.shb")
    program.switch("de")
    outputs = program.forward(*inputs)
    program.switch(None)

Importing this needs numpy only; ``executorch`` and ``torch`` are imported by the functions that use
them, and never by a switch.
"""

try:
    from shira_runtime._core import __version__
except ModuleNotFoundError as error:
    if error.name != "shira_runtime._core":
        raise
    raise ImportError(
        "shira_runtime has no compiled part here: install it with `pip install .`, and if you did,"
        " start Python outside the source folder, which hides the installed package"
    ) from None

from shira_runtime.adapter import Adapter, AdapterFile
from shira_runtime.errors import (
    AttachError,
    BaseMismatchError,
    BusyError,
    FileError,
    FormatError,
    OutOfMemoryError,
    ShiraError,
    SignatureError,
    UnsupportedError,
    UsageError,
)
from shira_runtime.program import Program
from shira_runtime.reports import (
    AdapterPages,
    LoadReport,
    MemoryReport,
    SwitchReport,
    TensorInfo,
    VerifyReport,
)
from shira_runtime.sources import from_numpy, from_torch, load_program

__all__ = [
    "Adapter",
    "AdapterFile",
    "AdapterPages",
    "AttachError",
    "BaseMismatchError",
    "BusyError",
    "FileError",
    "FormatError",
    "LoadReport",
    "MemoryReport",
    "OutOfMemoryError",
    "Program",
    "ShiraError",
    "SignatureError",
    "SwitchReport",
    "TensorInfo",
    "UnsupportedError",
    "UsageError",
    "VerifyReport",
    "__version__",
    "from_numpy",
    "from_torch",
    "load_program",
]

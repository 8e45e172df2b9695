# SPDX-License-Identifier: Apache-2.0
"""The ExecuTorch engine: programs that this package loads and runs itself, without torch."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shira_runtime.errors import error_of
from shira_runtime.reports import LoadReport

if TYPE_CHECKING:
    from shira_runtime._executorch import ExecutorchProgram

__all__ = ["EngineSource", "Slot", "bfloat16", "load", "load_extension"]

# In the order in which they need each other; the last three register kernels and a delegate.
_LIBRARIES = (
    "libexecutorch.so",
    "libexecutorch_threadpool.so",
    "libexecutorch_kernels_optimized.so",
    "libexecutorch_kernels_quantized.so",
    "libexecutorch_backend_xnnpack.so",
)
_EXTENSION = "shira_runtime._executorch"
_ADVICE = "pip install 'shira-runtime[executorch]'"
_INTEGERS = range(-(2**63), 2**63)


class Slot(NamedTuple):
    """What a method declares for one input or output.

    A tensor's sizes are the largest that are allowed; its bytes lie in `dim_order`.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    dim_order: tuple[int, ...]


def load_extension() -> ModuleType:
    """Import the extension module over ExecuTorch's libraries, which are loaded before it.

    They are loaded by their paths, from wherever the executorch package is installed: the search
    path inside an extension module fits one layout of folders only. Nothing of the package itself
    is imported, hence no torch; ``executorch.runtime`` may be imported before or after.

    Raises:
        ImportError: executorch is missing, of another version, or was missing when this package
            was built.
    """
    if _EXTENSION in sys.modules:
        return sys.modules[_EXTENSION]
    if importlib.util.find_spec(_EXTENSION) is None:
        raise ImportError(
            "this build of shira_runtime has no ExecuTorch engine, because executorch was not there"
            " when it was built: build it again by `pip install --no-build-isolation`, where"
            " executorch and the build tools are installed (README.md has the commands), or load"
            " programs with engine='torch'"
        )
    package = importlib.util.find_spec("executorch")
    folders = [os.path.join(each, "lib") for each in _folders(package)]
    if not any(os.path.exists(os.path.join(folder, _LIBRARIES[0])) for folder in folders):
        raise ImportError(f"loading a program needs ExecuTorch: {_ADVICE}")
    try:
        for library in _LIBRARIES:
            paths = [os.path.join(folder, library) for folder in folders]
            ctypes.CDLL(next(filter(os.path.exists, paths), paths[0]))
        extension = importlib.import_module(_EXTENSION)
    except (ImportError, OSError) as error:
        raise ImportError(
            f"the libraries in {folders[0]} are not of the executorch that this build of"
            f" shira_runtime needs: {error}; {_ADVICE}"
        ) from error
    found = importlib.metadata.version("executorch").partition("+")[0]
    if found != extension.EXECUTORCH_VERSION:
        raise ImportError(
            f"executorch {found} is installed, and this build of shira_runtime needs"
            f" {extension.EXECUTORCH_VERSION}: {_ADVICE}"
        )
    return extension


def _folders(package: ModuleSpec | None) -> Sequence[str]:
    return (package.submodule_search_locations or ()) if package else ()


class EngineSource:
    """A program that the engine has loaded; the core itself watches its mapped memory."""

    def __init__(self, program: ExecutorchProgram, method: str) -> None:
        self.unpatchable: Mapping[str, str] = program.unpatchable()
        self.load_report = LoadReport(**program.load_report())
        self._program = program
        self._method = method
        self._inputs = {
            name: [Slot(*row) for row in inputs] for name, inputs, _, _ in program.methods()
        }

    def check_attached(self) -> None:
        """Nothing to ask for: the core watches the mapping."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that were loaded."""
        return tuple(self._inputs)

    def inputs(self, method: str | None = None) -> list[Slot]:
        """What a method takes, by default the one that `forward` runs."""
        return self._inputs[method or self._method]

    def forward(self, inputs: tuple[Any, ...], method: str | None) -> list[Any]:
        """Run a method; the caller holds the gate."""
        name = method or self._method
        slots = self._inputs.get(name, [])
        if len(inputs) == len(slots):  # the engine says what is wrong otherwise
            arguments = [_argument(*pair) for pair in zip(inputs, slots, strict=True)]
        else:
            arguments = [None] * len(inputs)
        outputs = self._program.execute(name, arguments)
        return [_result(each) if isinstance(each, tuple) else each for each in outputs]


def _argument(value: Any, slot: Slot) -> Any:
    """What the extension takes for an input: (bytes, dtype, sizes, order), a number or None."""
    try:
        if slot.kind == "integer":
            number = operator.index(value)
            if number not in _INTEGERS:
                raise error_of("INVALID_ARGUMENT", f"{number} does not fit into 64 bits")
            return number
        if slot.kind == "real":
            return float(value)
        if slot.kind == "boolean" and isinstance(value, np.bool_):
            return bool(value)
    except TypeError:
        raise error_of(
            "INVALID_ARGUMENT",
            f"an input is {type(value).__name__}, where the method takes one {slot.kind} number",
        ) from None
    if slot.kind != "tensor" or value is None or isinstance(value, (bool, int, float)):
        return _scalar(value)
    array, dtype = _array(value)
    order = slot.dim_order if len(slot.dim_order) == array.ndim else tuple(range(array.ndim))
    return np.ascontiguousarray(array.transpose(order)), dtype, array.shape, order


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise error_of("INVALID_ARGUMENT", f"an input is {type(value).__name__}, where none is taken")


def _array(value: Any) -> tuple[NDArray[Any], str]:
    """The elements of an array or tensor, and the name of their type."""
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach()
        if value.dtype == torch.bfloat16:  # which torch does not show to numpy
            return np.asarray(value.view(torch.int16)), "bfloat16"
    try:
        if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
            value = np.from_dlpack(value)
        elif not hasattr(value, "__array__"):
            raise TypeError("it is neither an array nor a tensor")
        array = np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise error_of(
            "INVALID_ARGUMENT", f"an input is {type(value).__name__} and cannot be read: {error}"
        ) from error
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array, array.dtype.name


def _result(output: tuple[NDArray[Any], str]) -> NDArray[Any]:
    array, dtype = output
    return array.view(bfloat16()) if dtype == "bfloat16" else array


def bfloat16() -> np.dtype[Any]:
    """The dtype of outputs in bfloat16, which numpy itself does not have.

    Raises:
        ImportError: ml_dtypes is not installed.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ModuleNotFoundError as error:
        raise ImportError(f"an output in bfloat16 needs ml_dtypes: {_ADVICE}") from error
    return dtype


def load(
    path: str, data_paths: Sequence[str], method: str, methods: Sequence[str]
) -> tuple[Any, EngineSource]:
    """Load a program; returns the core's Program and its source. Raises as `load_program`."""
    program = load_extension().ExecutorchProgram.load(
        os.fsencode(path),
        [os.fsencode(each) for each in data_paths],
        list(dict.fromkeys((method, *methods))),
    )
    return program.program(), EngineSource(program, method)

# SPDX-License-Identifier: Apache-2.0
"""Where live weights come from: ExecuTorch programs, torch modules and numpy arrays."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shira_runtime import _core
from shira_runtime import engine as engines
from shira_runtime.errors import error_of
from shira_runtime.program import Program
from shira_runtime.weights import program_weights

__all__ = ["from_numpy", "from_torch", "load_program"]

Engine = Literal["executorch", "torch"]
"""Who loads and runs a program; see `load_program`."""

_MAXIMUM_ELEMENTS = 2**32 - 1
_MAXIMUM_RANK = 8


def load_program(
    path: str | os.PathLike[str],
    data_path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    method: str = "forward",
    methods: Sequence[str] = (),
    engine: Engine = "executorch",
    public_key: bytes | None = None,
) -> Program:
    """Load an ExecuTorch program and make its weights switchable.

    Needs the ``executorch`` extra. The program's mapping of the file is private to this process and
    writable; the file itself is never written. Constants that the program names can be
    switched (``shira program`` exports them so), and the weights of linear layers that XNNPACK has
    packed, in an order that is compared with the file; `Program.unpatchable` lists the others, each
    with the reason. With ``engine="torch"`` only float constants that no delegate has packed can.

    A process that is forked afterwards switches and runs its own copy of the program, but for what
    a delegate computes (NOT_SUPPORTED): there it loads the program again.

    Args:
        path: a .pte file.
        data_path: the .ptd file with the program's weights, or several, if they are not in the
            .pte.
        method: the method that `Program.forward` runs.
        methods: others to load, which share its weights and have buffers of their own; for
            ``engine="executorch"``.
        engine: "executorch" runs the program by ExecuTorch's libraries alone: arrays in, arrays
            out, and torch is never imported. "torch" goes through ``executorch.runtime``: torch
            tensors out, and one .ptd file at most.
        public_key: accept only adapters signed by this key; see `Program.require_signature`.

    Raises:
        FormatError: a file is malformed, or ExecuTorch refuses to load it.
        FileError: a file cannot be read.
        UsageError: the program has no such method.
        AttachError: the weights cannot be found in memory.
        ImportError: ExecuTorch is missing, or not the version that this package was built with.
    """
    if data_path is None:
        data_paths = []
    elif isinstance(data_path, (str, bytes, os.PathLike)):
        data_paths = [os.fspath(data_path)]
    else:
        data_paths = [os.fspath(each) for each in data_path]
    if engine == "executorch":
        core, source = engines.load(os.fspath(path), data_paths, method, methods)
        return Program(core, source, public_key, source.load_report)
    if engine != "torch":
        raise error_of("INVALID_ARGUMENT", f"engine is {engine!r}, not 'executorch' or 'torch'")
    if methods or len(data_paths) > 1:
        raise error_of("NOT_SUPPORTED", "engine 'torch' loads one method and one data file at most")
    return _load_with_torch([os.fspath(path), *data_paths], method, public_key)


def _load_with_torch(paths: list[str], method: str, public_key: bytes | None) -> Program:
    files = [_core.ProgramFile.read(os.fsencode(p)) for p in paths]
    try:
        runtime = importlib.import_module("executorch.runtime").Runtime.get()
    except ModuleNotFoundError as error:
        raise ImportError(
            f"loading a program needs ExecuTorch: pip install 'shira-runtime[executorch]' ({error})"
        ) from error
    try:
        # ExecuTorch's program must outlive its methods, so the source below keeps both.
        loaded = runtime.load_program(paths[0], data_path=paths[1] if len(paths) > 1 else None)
        if method not in loaded.method_names:
            known = ", ".join(sorted(loaded.method_names))
            raise error_of("INVALID_ARGUMENT", f"{paths[0]} has no method {method!r}, only {known}")
        live = loaded.load_method(method)
    except RuntimeError as error:
        hint = (
            "" if len(paths) > 1 else " (are its weights in a .ptd file? Then data_path names it)"
        )
        raise error_of(
            "BAD_PROGRAM_FILE", f"ExecuTorch cannot load {method!r}: {error}{hint}", file=paths[0]
        ) from error

    core = _core.Program()
    unpatchable = {
        weight.name: weight.why_not or "a delegate has packed it: engine 'executorch' reaches it"
        for weight in program_weights(*paths).values()
        if weight.why_not or weight.storage in ("packed", "packed bias")
    }
    for file, file_path in zip(files, paths, strict=True):
        anchors = []
        for tensor in file.tensors:
            if tensor.name in unpatchable:
                continue
            if not tensor.patchable:
                unpatchable[tensor.name] = tensor.why_not
                continue
            try:
                address = live._method.get_attribute(tensor.name).data_ptr()
            except RuntimeError:
                unpatchable[tensor.name] = (
                    f"method {method!r} does not hold it: unused or delegated"
                )
            else:
                anchors.append((tensor.name, address))
        if anchors:
            core.attach_file(os.fsencode(file_path), anchors)
    return Program(core, ExecutorchSource(loaded, live, unpatchable), public_key)


def from_torch(module: Any, *, public_key: bytes | None = None) -> Program:
    """Make the weights of a torch module switchable, in place.

    Covers the parameters and buffers that are f32, f16 or bf16, on the CPU and contiguous;
    `Program.unpatchable` lists the others. Tied parameters are covered under each of their names,
    and patching them is refused: it would change the others. The module's autograd does not see the
    stores, so do not switch between a forward and its backward pass.

    Args:
        module: a torch.nn.Module. The Program keeps its weights' memory. Moving the module (``to``,
            ``half``) or replacing a weight gives it other memory; the next switch then raises
            AttachError (DETACHED), and a new Program is needed. Storages cannot be resized in place
            any more.
        public_key: accept only adapters signed by this key; see `Program.require_signature`.
    """
    torch = importlib.import_module("torch")
    dtypes = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
    weights = {
        f"{prefix}.{key}" if prefix else key: (table, key, tensor)
        for prefix, owner in module.named_modules(remove_duplicate=False)
        for table in (owner._parameters, owner._buffers)
        for key, tensor in table.items()
        if tensor is not None
    }
    unpatchable = {
        name: reason
        for name, (_, _, tensor) in weights.items()
        if (reason := _torch_obstacle(torch, tensor, dtypes) or _size_obstacle(tuple(tensor.shape)))
    }
    # A transposed view of a weight cannot be patched, but would change with it.
    views = {_torch_storage(weights[name][2]): name for name in unpatchable}
    core, places, keep = _core.Program(), [], [module]
    for name, (table, key, tensor) in weights.items():
        view = views.get(_torch_storage(tensor))
        if name not in unpatchable and view is not None:
            unpatchable[name] = f"it shares its storage with {view}, which cannot be patched"
        if name in unpatchable:
            continue
        address = tensor.data_ptr()
        core.add_tensor(name, dtypes[tensor.dtype], tuple(tensor.shape), address)
        places.append((name, _torch_address(table, key), address))
        # An alias: after `parameter.data = other`, the parameter alone would let go of the memory.
        # As an array, because torch then refuses to resize the storage.
        keep.append(tensor.detach().view(torch.uint8).numpy())
    return Program(core, _MemorySource(places, keep, unpatchable, module), public_key)


def from_numpy(
    arrays: Mapping[str, NDArray[Any]],
    dtypes: Mapping[str, str] | None = None,
    *,
    public_key: bytes | None = None,
) -> Program:
    """Make numpy arrays switchable, in place.

    Args:
        arrays: weights by name: float32, float16, or bfloat16 (as ml_dtypes.bfloat16, or as uint16
            bits together with `dtypes`), or the codes of a quantized weight as int8; C-contiguous,
            writeable, in native byte order. The Program keeps them, and they cannot be resized in
            place while it does.
        dtypes: "bf16" for the names of uint16 arrays that hold bfloat16 bits, "int4" for those of
            int8 arrays that hold codes of 4 bits, -8 to 7.
        public_key: accept only adapters signed by this key; see `Program.require_signature`.

    Raises:
        UsageError: an array that is none of this.
        AttachError: READ_ONLY: an array that is not writeable.
    """
    core = _core.Program()
    places: list[_Place] = []
    keep: list[Any] = [dict(arrays)]
    for name, array in arrays.items():
        dtype = _numpy_dtype(name, array, (dtypes or {}).get(name))
        reason = _size_obstacle(array.shape)
        if not array.dtype.isnative:
            reason = "the array is not in native byte order"
        elif not array.flags.c_contiguous:
            reason = "the array is not C-contiguous"
        if reason:
            raise error_of("INVALID_ARGUMENT", reason, tensor=name)
        if not array.flags.writeable:
            raise error_of("READ_ONLY", "the array is not writeable", tensor=name)
        core.add_tensor(name, dtype, array.shape, array.ctypes.data)
        places.append((name, _numpy_address(array), array.ctypes.data))
        owner: Any = array
        while isinstance(owner, np.ndarray):
            keep.append(weakref.ref(owner))  # numpy then refuses to resize it
            owner = owner.base
    return Program(core, _MemorySource(places, keep, {}, None), public_key)


_Place = tuple[str, Callable[[], int], int]
"""Name of a weight, how to ask for its address now, and its address when it was registered."""


class _MemorySource:
    """Weights in memory that Python objects own, and might have given up.

    `keep` keeps that memory where it is: a weight that is replaced while a switch waits for the
    gate, after the check, loses what the switch stores, but nothing else is written to.
    """

    def __init__(
        self, places: list[_Place], keep: list[Any], unpatchable: Mapping[str, str], module: Any
    ) -> None:
        self.unpatchable = unpatchable
        self._places = places
        self._keep = keep
        self._module = module

    def check_attached(self) -> None:
        for name, address_now, address in self._places:
            if address_now() != address:
                raise error_of(
                    "DETACHED",
                    "its owner holds other memory by now (was the module moved or converted, or the"
                    " weight replaced?); make a new Program",
                    tensor=name,
                )

    def forward(self, inputs: tuple[Any, ...], method: str | None) -> Any:
        if self._module is None:
            raise error_of("NOT_SUPPORTED", "plain arrays have no forward pass")
        if method is not None:
            raise error_of("NOT_SUPPORTED", "only an ExecuTorch program has methods to choose from")
        return self._module(*inputs)


class ExecutorchSource:
    """A loaded ExecuTorch method; the core itself watches its mapped memory."""

    def __init__(self, program: Any, method: Any, unpatchable: Mapping[str, str]) -> None:
        self.unpatchable = unpatchable
        self._program = program
        self.method = method
        # A method computes in one set of buffers, so two calls at a time would mix.
        self._lock = threading.Lock()

    def check_attached(self) -> None:
        pass

    def forward(self, inputs: tuple[Any, ...], method: str | None) -> list[Any]:
        if method is not None:
            raise error_of("NOT_SUPPORTED", "engine 'torch' runs the method that was loaded only")
        torch = importlib.import_module("torch")
        tensors = [
            torch.from_numpy(np.require(value, requirements=["C", "W"]))
            if isinstance(value, np.ndarray)
            else value
            for value in inputs
        ]
        with self._lock:
            try:
                return list(self.method.execute(tensors))
            except RuntimeError as error:
                shown = ", ".join(
                    f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
                    if isinstance(value, torch.Tensor)
                    else repr(value)
                    for value in tensors
                )
                raise error_of(
                    "INVALID_ARGUMENT", f"ExecuTorch refused inputs ({shown}): {error}"
                ) from error


def _torch_obstacle(torch: Any, tensor: Any, dtypes: Mapping[Any, str]) -> str | None:
    if tensor.dtype not in dtypes:
        return f"its dtype is {str(tensor.dtype).removeprefix('torch.')}, not f32, f16 or bf16"
    if tensor.device.type != "cpu":
        return f"it is on {tensor.device}, not on the CPU"
    if tensor.layout != torch.strided or not tensor.is_contiguous():
        return "it is not contiguous in row-major order"
    return None


def _torch_storage(tensor: Any) -> int:
    """Address of the tensor's storage; for kinds without one a number of its own."""
    try:
        return int(tensor.untyped_storage().data_ptr()) or id(tensor)
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _size_obstacle(shape: tuple[int, ...]) -> str | None:
    if not 1 <= len(shape) <= _MAXIMUM_RANK:
        return f"it has {len(shape)} dimensions, not 1 to {_MAXIMUM_RANK}"
    if not 1 <= np.prod(shape, dtype=object) <= _MAXIMUM_ELEMENTS:
        return f"its shape {shape} has no elements or more than {_MAXIMUM_ELEMENTS}"
    return None


def _numpy_dtype(name: str, array: NDArray[Any], declared: str | None) -> str:
    if not isinstance(array, np.ndarray):
        raise error_of("INVALID_ARGUMENT", f"is {type(array).__name__}, not an array", tensor=name)
    if (array.dtype.name, declared) in (("uint16", "bf16"), ("int8", "int4")):
        return str(declared)
    names = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "int8"}
    found = names.get(array.dtype.name)
    if found is None or declared not in (None, found):
        hint = "; for bfloat16 bits give dtypes={name: 'bf16'}" if array.dtype == np.uint16 else ""
        wanted = declared or "float32, float16, bfloat16 or int8"
        raise error_of(
            "INVALID_ARGUMENT", f"its dtype is {array.dtype}, expected {wanted}{hint}", tensor=name
        )
    return found


def _torch_address(table: Mapping[str, Any], key: str) -> Callable[[], int]:
    def address_now() -> int:
        tensor = table.get(key)
        return 0 if tensor is None else int(tensor.data_ptr())

    return address_now


def _numpy_address(array: NDArray[Any]) -> Callable[[], int]:
    return lambda: array.ctypes.data

# SPDX-License-Identifier: Apache-2.0
"""Named dense tensors in safetensors, PyTorch and ExecuTorch files, read one at a time.

Only PyTorch's own files need PyTorch, which is imported when one is met.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .dtypes import short_name
from .errors import ExportError
from .json_files import read_json_object
from .program_file import ProgramTensor, read_program_tensors

if TYPE_CHECKING:
    from torch import Tensor

FileKind = Literal["safetensors", "torch", "program"]

# The unpickler's last known memory corruption with weights_only was mended in this version.
_LOWEST_TORCH = (2, 10)

_PICKLE_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")

_SAFETENSORS_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


@dataclass(frozen=True)
class StoredTensor:
    """One dense tensor of a file.

    `dtype` is "f32", "f16", "bf16", or another type's name as its file spells it; `where` names
    file and tensor in messages; `read` gives the values in `shape`, and may raise ExportError or
    OSError.
    """

    where: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


def file_kind(path: Path) -> FileKind:
    """Tell by a file's first bytes what it is.

    Raises:
        ExportError: it is none of the kinds that are read here.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
    if start[4:8] in (b"ET12", b"FT01"):
        return "program"
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in _PICKLE_PROTOCOLS):
        return "torch"
    if start[8:9] == b"{":
        return "safetensors"
    known = {b"\x89SHB": "already a .shb file", b"GGUF": "a GGUF file, which is not supported"}
    what = known.get(start[:4], "no safetensors, PyTorch or ExecuTorch file")
    raise ExportError(f"{path}: is {what}")


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a checkpoint: a Hugging Face folder, or one file of any known kind.

    Raises:
        ExportError: the file is damaged or of an unknown kind, or a folder has no weights.
        OSError: a file cannot be read.
    """
    if path.is_dir():
        return _open_folder(path)
    kind = file_kind(path)
    if kind == "program":
        return _open_program(path)
    if kind == "safetensors":
        return open_safetensors(path)
    content = load_torch_file(path)
    if not isinstance(content, dict):
        raise ExportError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    return {
        str(name): stored_torch_tensor(value, f"{path}: tensor {name}")
        for name, value in content.items()
    }


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a safetensors file; values are mapped, and read when asked for."""
    try:
        # The library checks that the tensors tile the file. It takes the last of two tensors of one
        # name and has no bfloat16 for numpy, so the header is read here once more.
        with safe_open(path, "np") as checked:
            checked.keys()
        with path.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(header_bytes), object_pairs_hook=_unique_keys)
    except (SafetensorError, ValueError) as error:
        raise ExportError(f"{path}: is not a sound safetensors file: {error}") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        where = f"{path}: tensor {name}"
        dtype, shape = _SAFETENSORS_TYPES.get(entry["dtype"]), tuple(entry["shape"])
        offset = 8 + header_bytes + entry["data_offsets"][0]
        tensors[name] = StoredTensor(
            where=where,
            dtype=short_name(dtype) if dtype else str(entry["dtype"]),
            shape=shape,
            read=_mapped_reader(path, where, dtype, shape, offset),
        )
    return tensors


def load_torch_file(path: Path) -> Any:
    """Load a PyTorch file without running code from it.

    Raises:
        ExportError: PyTorch is missing or too old, or the file holds more than tensors and plain
            containers, or is damaged.
    """
    try:
        import torch
    except ImportError:
        raise ExportError(
            f"{path}: reading a PyTorch file needs PyTorch (pip install 'shira-runtime[export]');"
            " a .safetensors file does not"
        ) from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _LOWEST_TORCH:
        lowest = ".".join(map(str, _LOWEST_TORCH))
        raise ExportError(
            f"{path}: PyTorch {torch.__version__} has known holes in its loader; install {lowest}"
            " or newer, or save a .safetensors file"
        )
    try:
        # Sparse tensors are checked by us, index by index, before anything computes with them.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what a hostile file makes the unpickler raise is anybody's guess
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"{path}: was not loaded, because it is damaged or holds more than tensors and plain"
            f" containers: {reason[0]}"
        ) from None


def stored_torch_tensor(value: Any, where: str) -> StoredTensor:
    """Describe a dense PyTorch tensor; anything else gets a description whose `read` refuses."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        kind = value.layout if isinstance(value, torch.Tensor) else type(value).__name__
        return StoredTensor(where, str(kind), (), _refuser(f"{where}: is no dense tensor: {kind}"))
    dtype = short_name(str(value.dtype).removeprefix("torch."))
    return StoredTensor(where, dtype, tuple(value.shape), lambda: torch_to_numpy(value, where))


def torch_to_numpy(tensor: Tensor, where: str) -> NDArray[Any]:
    """Give a dense PyTorch tensor as a numpy array of the same type."""
    import torch

    tensor = tensor.detach().contiguous()
    try:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (TypeError, RuntimeError):
        raise ExportError(f"{where}: {tensor.dtype} values are not supported") from None


def _open_folder(folder: Path) -> dict[str, StoredTensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _open_shards(folder, index)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return open_tensors(folder / name)
    raise ExportError(
        f"{folder}: has no model.safetensors, model.safetensors.index.json or pytorch_model.bin"
    )


def _open_shards(folder: Path, index: Path) -> dict[str, StoredTensor]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ExportError(f"{index}: has no weight_map of tensor names to files")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not shard or Path(shard).name != shard:
            raise ExportError(f"{index}: {shard!r} is not the name of a file beside it")
    shards = {shard: open_safetensors(folder / shard) for shard in sorted(set(weight_map.values()))}
    missing = [name for name, shard in weight_map.items() if name not in shards[shard]]
    if missing:
        raise ExportError(f"{index}: {weight_map[missing[0]]} has no tensor {missing[0]}")
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def _open_program(path: Path) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(
            where=f"{path}: tensor {name}",
            dtype=short_name(tensor.dtype),
            shape=tensor.shape,
            read=_program_reader(tensor),
        )
        for name, tensor in read_program_tensors(path).items()
    }


def _program_reader(tensor: ProgramTensor) -> Callable[[], NDArray[Any]]:
    def read() -> NDArray[Any]:
        values = tensor.read()
        return values.view(ml_dtypes.bfloat16) if tensor.dtype == "bfloat16" else values

    return read


def _mapped_reader(
    path: Path, where: str, dtype: np.dtype[Any] | None, shape: tuple[int, ...], offset: int
) -> Callable[[], NDArray[Any]]:
    if dtype is None:
        return _refuser(f"{where}: its type is not supported")

    def read() -> NDArray[Any]:
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)

    return read


def _refuser(message: str) -> Callable[[], NDArray[Any]]:
    def read() -> NDArray[Any]:
        raise ExportError(message)

    return read


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1)
        raise ValueError(f"{twice} is given twice")
    return content

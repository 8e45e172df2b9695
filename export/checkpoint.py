# SPDX-License-Identifier: Apache-2.0
"""Read a trained adapter in any of the forms in which people have one, told apart by content.

PEFT folder        adapter_config.json with adapter_model.safetensors or adapter_model.bin
PEFT state dict    ...shira_weight and ...shira_indices
sparse tensors     FQN -> sparse COO tensor of deltas                                       (.pt)
entries            FQN -> {"indices", "values", "shape"}, values are deltas                 (.pt)
dense              FQN -> fine-tuned weights, to be compared with a base

The lowest PEFT tested with a current transformers is 0.18.0; the newest that was tried is 0.21.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entries import RawEntries
from .errors import ExportError
from .json_files import read_json_object
from .shapes import check_shape
from .tensor_files import (
    StoredTensor,
    file_kind,
    load_torch_file,
    open_safetensors,
    open_tensors,
    stored_torch_tensor,
    torch_to_numpy,
)

_SHIRA_KEY = re.compile(r"(.+)\.(shira_weight|shira_indices)(?:\.([^.]+))?")

# Parts of the keys of PEFT's other methods. DoRA's come first: its files hold LoRA's too.
_OTHER_METHODS = {
    "lora_magnitude_vector": "DoRA",
    "lora_": "LoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "ia3_l": "IA3",
    "oft_": "OFT",
    "vera_lambda": "VeRA",
}


@dataclass(frozen=True)
class Skipped:
    """A tensor of the checkpoint that is not in the adapter, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """What a trained adapter's files hold.

    Attributes:
        path: what was read, as the user named it.
        source_format: "peft-shira", "sparse", "entries" or "dense".
        entries: one item per changed tensor; empty if dense.
        dense: fine-tuned tensors by name; empty unless dense.
        skipped: what cannot become part of an adapter.
        config: of adapter_config.json; empty without one.
    """

    path: Path
    source_format: str
    entries: tuple[RawEntries, ...] = ()
    dense: Mapping[str, StoredTensor] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a trained adapter.

    Raises:
        ExportError: it is damaged, another kind of adapter, or in no known form.
        OSError: a file cannot be read.
    """
    # Beside PEFT's weights lies the file that says how to read them.
    if path.name in ("adapter_model.safetensors", "adapter_model.bin"):
        config_file = path.with_name("adapter_config.json")
        if config_file.is_file():
            return _read_peft(path, path, _read_config(config_file))
    if path.is_dir():
        return _read_folder(path)
    return _read_file(path)


def _read_folder(folder: Path) -> Checkpoint:
    config_file = folder / "adapter_config.json"
    if not config_file.is_file():
        try:
            return Checkpoint(folder, "dense", dense=open_tensors(folder))
        except ExportError as error:
            raise ExportError(f"{error}, and no adapter_config.json") from None
    config = _read_config(config_file)
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).is_file():
            return _read_peft(folder, folder / name, config)
    raise ExportError(f"{folder}: has no adapter_model.safetensors or adapter_model.bin")


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json_object(path)
    method = str(config.get("peft_type", "unknown"))
    if method.upper() != "SHIRA":
        method += " (DoRA)" if config.get("use_dora") else ""
        raise ExportError(f"{path}: is a {method} adapter; only SHIRA adapters are sparse")
    return config


def _read_file(path: Path) -> Checkpoint:
    if file_kind(path) == "program":
        raise ExportError(f"{path}: is an ExecuTorch program; programs are given as --base")
    tensors = _load(path)
    if any(_SHIRA_KEY.fullmatch(name) for name in tensors):
        return _read_peft_tensors(path, path, tensors, {})
    for part, method in _OTHER_METHODS.items():
        found = next((name for name in tensors if f".{part}" in name), None)
        if found:
            raise ExportError(
                f"{path}: is a {method} adapter (it holds {found}); only SHiRA adapters are sparse"
            )
    is_sparse = {name: _is_sparse(value) for name, value in tensors.items()}
    is_entries = {name: isinstance(value, Mapping) for name, value in tensors.items()}
    if any(is_sparse.values()) or any(is_entries.values()):
        return _read_sparse(path, tensors, is_sparse, is_entries)
    return Checkpoint(path, "dense", dense=_stored(path, tensors))


def _load(path: Path) -> dict[str, Any]:
    """Name -> StoredTensor (safetensors) or whatever PyTorch's file holds."""
    if file_kind(path) == "safetensors":
        return dict(open_safetensors(path))
    content = load_torch_file(path)
    if not isinstance(content, Mapping) or not content:
        raise ExportError(
            f"{path}: holds {type(content).__name__}, expected a dict with a tensor for each name"
        )
    return {str(name): value for name, value in content.items()}


def _stored(path: Path, tensors: Mapping[str, Any]) -> dict[str, StoredTensor]:
    return {
        name: value
        if isinstance(value, StoredTensor)
        else stored_torch_tensor(value, f"{path}: tensor {name}")
        for name, value in tensors.items()
    }


def _read_peft(path: Path, weights: Path, config: Mapping[str, Any]) -> Checkpoint:
    return _read_peft_tensors(path, weights, _load(weights), config)


def _read_peft_tensors(
    path: Path, weights: Path, tensors: Mapping[str, Any], config: Mapping[str, Any]
) -> Checkpoint:
    modules: dict[str, dict[str, StoredTensor]] = {}
    skipped = []
    adapters = set()
    for name, tensor in _stored(weights, tensors).items():
        match = _SHIRA_KEY.fullmatch(name)
        if match is None:
            skipped.append(Skipped(name, "not a SHiRA tensor"))
            continue
        module, part, adapter = match.groups()
        adapters.add(adapter)
        modules.setdefault(module, {})[part] = tensor
    if len(adapters) > 1:
        names = ", ".join(sorted(str(adapter) for adapter in adapters))
        raise ExportError(
            f"{weights}: holds {len(adapters)} adapters ({names}); save one at a time"
        )
    if not modules:
        raise ExportError(f"{weights}: holds no shira_weight, so it is no SHiRA adapter")
    is_transposed = bool(config.get("fan_in_fan_out"))
    entries = [_peft_entries(weights, m, parts, is_transposed) for m, parts in modules.items()]
    return Checkpoint(
        path, "peft-shira", entries=tuple(entries), skipped=tuple(skipped), config=config
    )


def _peft_entries(
    weights: Path, module: str, parts: Mapping[str, StoredTensor], is_transposed: bool
) -> RawEntries:
    where = f"{weights}: tensor {module}"
    for part in ("shira_weight", "shira_indices"):
        if part not in parts:
            # PEFT keeps the indices outside the module's state.
            raise ExportError(
                f"{where}: has no {part}; save adapters with PEFT's save_pretrained, as"
                " model.state_dict() leaves the indices out"
            )
    indices = parts["shira_indices"].read()
    if indices.ndim != 2 or indices.shape[0] != 2:
        raise ExportError(f"{where}: shira_indices have shape {indices.shape}, expected (2, nnz)")
    return RawEntries(
        name=f"{module}.weight",
        where=where,
        # With fan_in_fan_out the layer stores (in, out), while PEFT's indices are (out, in).
        indices=indices[::-1] if is_transposed else indices,
        values=parts["shira_weight"].read(),
    )


def _read_sparse(
    path: Path,
    tensors: Mapping[str, Any],
    is_sparse: Mapping[str, bool],
    is_entries: Mapping[str, bool],
) -> Checkpoint:
    entries = []
    skipped = []
    for name, value in tensors.items():
        where = f"{path}: tensor {name}"
        if is_sparse[name]:
            entries.append(_coo_entries(name, where, value))
        elif is_entries[name]:
            entries.append(_mapping_entries(name, where, value))
        else:
            skipped.append(Skipped(name, "not sparse"))
    source_format = "sparse" if any(is_sparse.values()) else "entries"
    return Checkpoint(path, source_format, entries=tuple(entries), skipped=tuple(skipped))


def _is_sparse(value: Any) -> bool:
    if isinstance(value, StoredTensor):
        return False
    import torch

    return isinstance(value, torch.Tensor) and value.layout != torch.strided


def _coo_entries(name: str, where: str, tensor: Any) -> RawEntries:
    import torch

    if tensor.layout != torch.sparse_coo or tensor.dense_dim():
        raise ExportError(
            f"{where}: has layout {tensor.layout} with {tensor.dense_dim()} dense dimensions;"
            " save it as tensor.to_dense().to_sparse_coo()"
        )
    # Not coalesce(): that adds up duplicates, and computes with indices nobody has checked.
    return RawEntries(
        name=name,
        where=where,
        indices=torch_to_numpy(tensor._indices(), where),
        values=torch_to_numpy(tensor._values(), where),
        shape=check_shape(tensor.shape, where),
    )


def _mapping_entries(name: str, where: str, value: Mapping[Any, Any]) -> RawEntries:
    missing = {"indices", "values"} - value.keys()
    unknown = value.keys() - {"indices", "values", "shape"}
    if missing or unknown:
        keys = ", ".join(str(key) for key in list(value)[:5])
        raise ExportError(
            f"{where}: is a dict with {len(value)} keys ({keys}); expected are indices, values and"
            " shape"
        )
    shape = value.get("shape")
    if shape is not None and hasattr(shape, "tolist"):
        shape = shape.tolist()
    return RawEntries(
        name=name,
        where=where,
        indices=_dense_array(value["indices"], f"{where}: indices"),
        values=_dense_array(value["values"], f"{where}: values"),
        shape=None if shape is None else check_shape(shape, where),
    )


def _dense_array(value: Any, where: str) -> NDArray[Any]:
    if isinstance(value, (list, tuple)):
        try:
            return np.array(value)
        except ValueError:
            raise ExportError(f"{where}: is a ragged list") from None
    return stored_torch_tensor(value, where).read()

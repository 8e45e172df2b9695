# SPDX-License-Identifier: Apache-2.0
"""Makes the checkpoints that the exporter's tests read, without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
SAFETENSORS_NAMES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "int32": "I32",
    "int64": "I64",
    "float8_e4m3fn": "F8_E4M3",
}

CONFIG: dict[str, Any] = {
    "peft_type": "SHIRA",
    "peft_version": "0.21.2",
    "base_model_name_or_path": "someone/a-model",
    "fan_in_fan_out": False,
    "mask_type": "random",
    "random_seed": 7,
    "r": 1,
    "target_modules": ["q_proj"],
}

Q_PROJ = "base_model.model.layers.0.q_proj"


def write_safetensors(path: Path, tensors: dict[str, Any]) -> Path:
    """Writes arrays of any type the format has, bfloat16 included."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in tensors.items():
        array = np.asarray(array)
        data = array.tobytes()
        header[name] = {
            "dtype": SAFETENSORS_NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def random_pairs(
    shape: tuple[int, int], nnz: int, seed: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(2, nnz) int32 sorted coordinates without repetition and (nnz,) float32 deltas."""
    generator = np.random.default_rng(seed)
    flat = np.sort(generator.choice(shape[0] * shape[1], nnz, replace=False))
    indices = np.stack(np.unravel_index(flat, shape)).astype(np.int32)
    return indices, generator.normal(0, 0.01, nnz).astype(np.float32)


def weights(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 1) -> Any:
    """A weight with the usual spread."""
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(dtype)


def write_peft(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    """Writes a folder as PEFT's save_pretrained does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def peft_tensors(indices: Any, values: Any, module: str = Q_PROJ) -> dict[str, Any]:
    """The two tensors that PEFT saves of one layer."""
    return {f"{module}.shira_indices": indices, f"{module}.shira_weight": values}

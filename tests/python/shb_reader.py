# SPDX-License-Identifier: Apache-2.0
"""Written .shb files as plain values, through the reader that knows nothing of the exporter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from shira_runtime.export.reader import File, Tensor, check_digests, read

NUMPY_TYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


def read_shb(
    path: str | Path, bases: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """The only adapter of a file; see `parse_shb`."""
    return parse_shb(Path(path).read_bytes(), bases, **options)


def parse_shb(
    content: bytes, bases: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """The only adapter of a file; `bases` are needed where positions depend on the base."""
    file = read(content, **options)
    check_digests(content)
    (adapter,) = file.adapters
    return adapter_values(file, adapter.name, bases)


def adapter_values(file: File, name: str, bases: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One adapter of a file."""
    adapter = file.adapter(name)
    return {
        "name": adapter.name,
        "bound": adapter.is_bound,
        "metadata": json.loads(adapter.metadata_json),
        "content_digest": file.content_digest.hex(),
        "tensors": {
            tensor_name: _tensor_values(tensor, adapter.is_bound, (bases or {}).get(tensor_name))
            for tensor_name, tensor in adapter.tensors.items()
        },
    }


def _tensor_values(tensor: Tensor, is_bound: bool, base: Any) -> dict[str, Any]:
    first = tensor.parts[0]
    values = tensor.bits()
    if tensor.value_codec.lower() in NUMPY_TYPES:
        values = values.view(NUMPY_TYPES[tensor.value_codec.lower()])
    elif tensor.value_codec.startswith("Q"):
        values = values.view(np.float32)
    return {
        "dtype": tensor.dtype.lower(),
        "shape": tensor.shape,
        "kind": tensor.value_kind,
        "codec": first.mask.codec.lower(),
        "block_length": first.mask.block_length,
        "value_dtype": tensor.value_codec.lower(),
        "value_group": first.value_group,
        "tiers": [part.tier for part in tensor.parts],
        "indices": tensor.positions(base).astype(np.int64),
        "values": values,
        "fingerprint": first.fingerprint if is_bound else None,
        "base_digest": tensor.base_digest if is_bound else None,
        "matches": tensor.matches,
    }

# SPDX-License-Identifier: Apache-2.0
"""Programs that XNNPACK runs, one for each kind of packed weight, and what they are packed into."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from _models import torch
from numpy.typing import NDArray
from shb_files import adapter
from torch import Tensor, nn

from shira_runtime import Adapter, Program, load_program
from shira_runtime.export.build import AdapterTensor
from shira_runtime.export.program import export_program
from shira_runtime.export.program_file import read_named_data, read_packed_keys
from shira_runtime.export.quantize import quantize_module, weight_codes

#: Kind -> how export_program quantizes for it, and the dtype of its codes.
KINDS: dict[str, tuple[Any, str]] = {
    "f32": (None, "f32"),
    "f16": (None, "f16"),
    "int8": ("8da8w", "i8"),
    "int4_group": ("8da4w", "i4"),
    "int4_channel": ("8da4w-channel", "i4"),
}
LIMITS = {"i8": (-128, 127), "i4": (-8, 7)}
WEIGHTS = ("wide.weight", "narrow.weight")
BIAS = "wide.bias"
BATCHES = (1, 3, 6)
Array = NDArray[Any]


class Net(nn.Module):
    """(batch, 64) -> (batch, 20)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(64, 96)
        self.narrow = nn.Linear(96, 20, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.narrow(torch.relu(self.wide(states)))


def example(kind: str, rows: int = 3) -> Tensor:
    states = torch.linspace(-2, 2, rows * 64).sin().view(rows, 64)
    return states.half() if kind == "f16" else states


def shapes() -> tuple[dict[int, Any], ...]:
    return ({0: torch.export.Dim("batch", min=1, max=8)},)


def make_module(kind: str, seed: int = 0) -> nn.Module:
    """The quantized module of a kind, whose codes can be set."""
    torch.manual_seed(seed)
    module = Net().eval().requires_grad_(False)
    if kind == "f16":
        module = module.half()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        quantized = quantize_module(
            module, (example(kind),), KINDS[kind][0], dynamic_shapes=shapes()
        )
    quantized.training = False  # what the quantizer makes is for no training, but does not say so
    return quantized


def _tensor(module: nn.Module, name: str) -> Tensor:
    owner, _, last = name.rpartition(".")
    return weight_codes(getattr(module.get_submodule(owner), last))


def codes_of(module: nn.Module, names: Sequence[str] = WEIGHTS) -> dict[str, Array]:
    """The codes of weights: floats, or int8 also for int4; of a bias its floats."""
    return {name: _tensor(module, name).detach().numpy().copy() for name in names}


def dtype_of(kind_dtype: str, array: Array) -> str:
    """The adapter's dtype of a tensor: a bias beside integer codes has one of its own."""
    return {"float32": "f32", "float16": "f16"}.get(str(array.dtype), kind_dtype)


def with_codes(module: nn.Module, codes: Mapping[str, Array]) -> nn.Module:
    """A copy of the module with other codes, and the same scales and biases."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        copied = copy.deepcopy(module)
        for name, array in codes.items():
            _tensor(copied, name).copy_(torch.from_numpy(array))
    return copied


def export(kind: str, module: nn.Module, path: Path) -> Path:
    export_program(module, (example(kind),), path, backend="xnnpack", dynamic_shapes=shapes())
    return path


def rewrite(kind: str, base: Path, codes: Mapping[str, Array], path: Path) -> Path:
    """A copy of a program's file with other codes in it."""
    content = bytearray(base.read_bytes())
    places, keys = read_named_data(base), read_packed_keys(base)
    for name, array in codes.items():
        start, end = places[keys[name]]
        if dtype_of(KINDS[kind][1], array) == "i4":
            unsigned = (array + 8).astype(np.uint8)
            array = unsigned[:, 1::2] << 4 | unsigned[:, ::2]
        assert array.nbytes == end - start
        content[start:end] = array.tobytes()
    path.write_bytes(content)
    return path


class Packed:
    """A loaded program and the file in memory that its weights are packed into."""

    def __init__(self, path: Path, **options: Any) -> None:
        before = _memory_files().keys()
        self.program: Program = load_program(path, **options)
        descriptors = [number for inode, number in _memory_files().items() if inode not in before]
        self._descriptor = os.dup(descriptors[0])
        weakref.finalize(self, os.close, self._descriptor)
        self.entries = {
            name: (offset, size)
            for name, offset, size in self.program._source._program.packed_weights()  # type: ignore[attr-defined]
        }

    def bytes(self) -> dict[str, bytes]:
        """Every packed weight, by its key."""
        return {
            name: os.pread(self._descriptor, size, offset)
            for name, (offset, size) in self.entries.items()
        }

    def poke(self, offset_bytes: int, bits: int) -> None:
        """Store into the packed weights as nobody should."""
        (byte,) = os.pread(self._descriptor, 1, offset_bytes)
        os.pwrite(self._descriptor, bytes([byte ^ bits]), offset_bytes)

    def outputs(self, kind: str, method: str | None = None) -> list[bytes]:
        """What a method computes, for each number of rows."""
        return [
            self.program.forward(example(kind, rows), method=method)[0].tobytes()
            for rows in BATCHES
        ]


def _memory_files() -> dict[int, int]:
    """Inode -> one of the descriptors of each file in memory with packed weights."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        link = Path("/proc/self/fd", name)
        with contextlib.suppress(OSError):  # the one that lists is closed by now
            if os.readlink(link).startswith("/memfd:shira-packed-weights"):
                found[link.stat().st_ino] = int(name)
    return found


def random_entries(
    dtype: str, base: Array, rng: np.random.Generator, density: float = 0.05
) -> tuple[NDArray[np.int64], Array]:
    """Ascending positions, the first and the last among them, and new values there."""
    dtype, count = dtype_of(dtype, base), base.size
    drawn = rng.choice(count, max(1, int(density * count)), replace=False)
    indices = np.unique(np.concatenate([drawn, [0, count - 1]])).astype(np.int64)
    if dtype in LIMITS:
        low, high = LIMITS[dtype]
        return indices, rng.integers(low, high + 1, indices.size).astype(np.int8)
    return indices, rng.standard_normal(indices.size).astype(base.dtype)


def make_adapter(
    name: str, dtype: str, codes: Mapping[str, Array], entries: Mapping[str, tuple[Array, Array]]
) -> Adapter:
    tensors = [
        AdapterTensor(
            name=tensor,
            dtype=dtype_of(dtype, codes[tensor]),
            shape=codes[tensor].shape,
            indices=indices,
            values=values,
            kind="target",
            fingerprint=xxhash.xxh3_128_digest(codes[tensor].reshape(-1)[indices].tobytes()),
            base_digest=xxhash.xxh3_128_digest(codes[tensor].tobytes()),
        )
        for tensor, (indices, values) in entries.items()
    ]
    return adapter(name, *tensors)


def merged(
    dtype: str,
    codes: Mapping[str, Array],
    members: list[tuple[float, Mapping[str, tuple[Array, Array]]]],
) -> dict[str, Array]:
    """What the weights are with these adapters, by FORMAT.md, section 11."""
    result = {}
    for name, base in codes.items():
        wide = base.reshape(-1).astype(np.float32)
        total = np.zeros_like(wide)
        touched = np.zeros(wide.size, np.int64)
        exact = base.reshape(-1).copy()
        for scale, entries in members:
            if name not in entries:
                continue
            indices, values = entries[name]
            total[indices] += np.float32(scale) * (values.astype(np.float32) - wide[indices])
            touched[indices] += 1 if scale == 1.0 else 2
            exact[indices] = values
        new = wide + total
        limits = LIMITS.get(dtype_of(dtype, base))
        if limits is not None:
            new = np.clip(np.rint(new), *limits)
        flat = np.where(touched == 1, exact, np.where(touched > 0, new.astype(base.dtype), exact))
        result[name] = flat.reshape(base.shape).astype(base.dtype)
    return result

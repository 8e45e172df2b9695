# SPDX-License-Identifier: Apache-2.0
"""The base that an adapter is bound to: its values in the deployed type, and their hashes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from .dtypes import FLOAT_TYPES, convert
from .errors import ExportError
from .grid import Grid
from .names import NameMatcher, Renames
from .program_file import read_name_map, read_program_tensors, shared_storage
from .program_weights import DelegatedWeight, read_program_weights
from .tensor_files import file_kind, open_tensors


class Base:
    """Tensors of a base model or program.

    Args:
        path: a Hugging Face folder, a .safetensors, .pt or .bin file, or a .pte or .ptd program.
        dtype: convert the base's tensors to "f32", "f16" or "bf16" first, for a program that will
            be exported in that type; None takes them as they are.
        data_paths: the .ptd files that a .pte keeps its weights in.

    Raises:
        ExportError: the base cannot be understood, or `dtype` or data was given for another kind.
        OSError: a file cannot be read.
    """

    def __init__(
        self, path: Path, dtype: str | None = None, data_paths: Sequence[Path] = ()
    ) -> None:
        self.path = path
        self.tensors = open_tensors(path)
        self.is_program = path.is_file() and file_kind(path) == "program"
        if self.is_program and dtype is not None:
            raise ExportError(
                f"{path}: the types of a finished program are fixed; --dtype is for a checkpoint"
            )
        self._dtype = dtype
        self._name_map: dict[str, str] = {}
        self._unchangeable: dict[str, str] = {}
        self._delegated: dict[str, DelegatedWeight] = {}
        if data_paths and not self.is_program:
            raise ExportError(f"{path}: only a program keeps weights in other files")
        if self.is_program:
            self._name_map = read_name_map(path)
            for file in (path, *data_paths):
                self._read_constants(file)
            self._read_delegated(data_paths)

    def _read_constants(self, file: Path) -> None:
        for name, tensor in open_tensors(file).items():
            if self.tensors.setdefault(name, tensor).where != tensor.where:
                raise ExportError(f"{tensor.where}: is also in {self.path}")
        found = read_program_tensors(file, include_unnamed=True)
        self._unchangeable |= {n: tensor.why_not for n, tensor in found.items() if tensor.why_not}
        for group in shared_storage(found.values()):
            for name in group:
                other = next(other for other in group if other != name)
                other = other if other in self.tensors else "a constant without a name"
                self._unchangeable[name] = f"it shares its bytes with {other}, so both would change"

    def _read_delegated(self, data_paths: Sequence[Path]) -> None:
        self._delegated = read_program_weights(self.path, data_paths)
        for name, weight in self._delegated.items():
            self.tensors[name] = weight.tensor
            # The constant itself, bytes of codes, is what no adapter could change.
            self._unchangeable.pop(name, None)
            if weight.why_not:
                self._unchangeable[name] = weight.why_not

    def matcher(self, renames: Renames) -> NameMatcher:
        """Make the matcher of a checkpoint's names with this base's."""
        return NameMatcher(self.tensors, self._name_map, renames, str(self.path))

    def check_changeable(self, name: str) -> None:
        """Refuse a tensor that the runtime would refuse to change.

        Raises:
            ExportError: a program keeps the tensor in a way that no adapter can change, such as in
                the bytes of another one.
        """
        if name in self._unchangeable:
            raise ExportError(
                f"{self.tensors[name].where}: cannot be changed: {self._unchangeable[name]}"
            )

    def grid(self, name: str) -> Grid | None:
        """Read the codes and scales of a quantized tensor; None if it is not quantized.

        Raises:
            ExportError: the grid is none that an adapter can be made for.
        """
        weight = self._delegated.get(name)
        return weight.grid() if weight is not None and weight.is_quantized else None

    def deployed_dtype(self, name: str) -> str:
        """Give the type that the tensor has where the adapter will be applied.

        Raises:
            ExportError: it is not one of the three that an adapter can change.
        """
        tensor = self.tensors[name]
        if tensor.dtype not in FLOAT_TYPES and not (self._dtype and tensor.dtype == "float64"):
            raise ExportError(
                f"{tensor.where}: has type {tensor.dtype}; an adapter changes"
                f" {', '.join(FLOAT_TYPES)}"
            )
        return self._dtype or tensor.dtype

    def values(self, name: str) -> NDArray[Any]:
        """Read a tensor, flat, in its deployed type.

        Raises:
            ExportError: its type cannot be changed by an adapter, or a value does not fit it.
        """
        tensor, dtype = self.tensors[name], self.deployed_dtype(name)
        return convert(tensor.read().reshape(-1), dtype, tensor.where)


def xxh3_128(values: NDArray[Any]) -> bytes:
    """Hash the bytes of contiguous values as FORMAT.md section 2 demands."""
    # As bytes, because bfloat16 arrays do not offer their buffer.
    return xxhash.xxh3_128(values.view(np.uint8).data).digest()

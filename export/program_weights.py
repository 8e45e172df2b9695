# SPDX-License-Identifier: Apache-2.0
"""The weights of a program that are no plain float constants, as bases of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .dtypes import CODE_RANGES
from .errors import ExportError
from .grid import Grid, make_grid
from .tensor_files import StoredTensor

if TYPE_CHECKING:
    from shira_runtime.weights import ProgramWeight


_PROGRAM_MAGIC = b"ET12"

_DTYPES = {"f32": "f32", "f16": "f16", "bf16": "bf16", "int8": "i8", "int4": "i4"}


@dataclass(frozen=True)
class DelegatedWeight:
    """A weight that a delegate packs, or the codes that a quantized operator reads.

    Attributes:
        tensor: its values; integer codes have the type "i8" or "i4" and are read as int8.
        why_not: why no adapter can change it; empty if one can.
    """

    tensor: StoredTensor
    why_not: str
    _weight: ProgramWeight

    @property
    def is_quantized(self) -> bool:
        """True if its elements are codes of a grid."""
        return self.tensor.dtype in CODE_RANGES

    def grid(self) -> Grid:
        """Read codes and scales.

        Raises:
            ExportError: the grid is none that an adapter can be made for.
        """
        scales, zero_points = self._weight.scales(), self._weight.zero_points()
        if scales is None:
            raise ExportError(f"{self.tensor.where}: its codes have no scales")
        codes = self._weight.codes()
        return make_grid(self.tensor.where, self.tensor.dtype, codes, scales, zero_points)


def read_program_weights(path: Path, data_paths: Sequence[Path] = ()) -> dict[str, DelegatedWeight]:
    """List the weights of a program that delegates pack or quantized operators read, by name.

    A .ptd has none. Weights of a form that is not known are left out.

    Raises:
        ExportError: the program is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(8)[4:] != _PROGRAM_MAGIC:
            return {}
    found = {}
    for name, weight in _read(path, data_paths).items():
        rank = 1 if weight.storage == "packed bias" else 2
        if weight.dtype is None or len(weight.shape) != rank:
            continue
        where, dtype = f"{path}: tensor {name}", _DTYPES[weight.dtype]
        tensor = StoredTensor(where, dtype, tuple(weight.shape), weight.codes)
        why_not = weight.why_not
        if not why_not and weight.shares_storage_with:
            why_not = f"it shares its bytes with {weight.shares_storage_with}"
        found[name] = DelegatedWeight(tensor, why_not, weight)
    return found


def read_packed_names(path: Path) -> dict[str, str]:
    """Read what XNNPACK calls each weight of a .pte that it packs: it packs equal names once.

    Raises:
        ExportError: the program is damaged.
        OSError: it cannot be read.
    """
    weights = _read(path).items()
    return {name: weight.packed_name for name, weight in weights if weight.packed_name}


def _read(path: Path, data_paths: Sequence[Path] = ()) -> dict[str, ProgramWeight]:
    # Only finished programs need the compiled part of the package.
    from shira_runtime.errors import ShiraError
    from shira_runtime.weights import program_weights

    try:
        return program_weights(path, *data_paths)
    except ShiraError as error:
        raise ExportError(str(error)) from None

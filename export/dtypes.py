# SPDX-License-Identifier: Apache-2.0
"""The element types of a .shb file, and conversions that say when a value does not fit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .errors import ExportError

#: Name -> numpy type.
FLOAT_TYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}

#: Name of a base tensor's type -> number in the file.
DTYPE_NUMBERS = {"f32": 1, "f16": 2, "bf16": 3, "i8": 4, "i4": 5}

#: Integer codes of quantized bases: name -> smallest and largest.
CODE_RANGES = {"i8": (-128, 127), "i4": (-8, 7)}

_SHORT_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def numpy_type(name: str) -> np.dtype[Any]:
    """Give the numpy type of "f32", "f16" or "bf16"."""
    return FLOAT_TYPES[name]


def short_name(dtype: np.dtype[Any] | str) -> str:
    """Give "f32", "f16" or "bf16" for a numpy type or its name; any other type keeps its name."""
    name = dtype if isinstance(dtype, str) else dtype.name
    return _SHORT_NAMES.get(name, name)


def is_finite(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Like numpy.isfinite, without the warning that signalling NaNs of 16-bit types cause."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(values), dtype=np.bool_)


def convert(
    values: NDArray[Any],
    name: str,
    where: str,
    positions: NDArray[np.int64] | None = None,
) -> NDArray[Any]:
    """Round values to a type, to nearest with ties to even; NaN and infinity pass through.

    Args:
        values: any shape, floating point.
        name: "f32", "f16" or "bf16".
        where: what the values belong to, for the message.
        positions: their flat indices for the message, if they are not all of a tensor.

    Raises:
        ExportError: a finite value became infinite.
    """
    target = numpy_type(name)
    if values.dtype == target:
        return values
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        converted = values.astype(target)
    overflowed = np.flatnonzero(~is_finite(converted) & is_finite(values))
    if overflowed.size:
        first = overflowed[0]
        position = first if positions is None else positions[first]
        raise ExportError(
            f"{where}: {overflowed.size} values are too large for {name},"
            f" the first is {values.reshape(-1)[first]} at flat index {position}"
        )
    return converted


def bits(values: NDArray[Any]) -> NDArray[Any]:
    """View floating point values as unsigned integers, so that -0.0 differs from 0.0."""
    return values.view(f"<u{values.dtype.itemsize}")

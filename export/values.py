# SPDX-License-Identifier: Apache-2.0
"""Choices of --values: finished weights, or deltas in a codec, with the error that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .compute import ComputedTensor, check_finite
from .dtypes import bits, convert
from .encode_values import CodedValues, encode_integer_codes, encode_plain, encode_scaled
from .image import SCALED_CODECS, ValueCodec
from .snap import made_changes

#: Names of the codecs for deltas.
DELTA_CODECS = {
    "f32": ValueCodec.F32,
    "f16": ValueCodec.F16,
    "bf16": ValueCodec.BF16,
    "int8": ValueCodec.Q8,
    "int4": ValueCodec.Q4,
    "int2": ValueCodec.Q2,
    "int1": ValueCodec.Q1,
}

#: What `--values` accepts.
VALUE_CHOICES = ("target", *DELTA_CODECS)


@dataclass(frozen=True)
class StoredValues:
    """Values of a tensor, or of one tier of it, as they will be written.

    Attributes:
        choice: one of VALUE_CHOICES.
        coded: for the file.
        kind: "target" or "delta".
        squared_error: sum of squares of what the codec, or the grid of a quantized base, changed
            in the deltas; 0 for targets in floating point.
        squared_norm: sum of squares of the deltas.
        largest_error: largest absolute change; 0 for targets.
        no_op_count: entries that leave their weight as it is, without a base those of delta 0.
    """

    choice: str
    coded: CodedValues
    kind: Literal["target", "delta"]
    squared_error: float
    squared_norm: float
    largest_error: float
    no_op_count: int


def store_values(tensor: ComputedTensor, choice: str, group: int) -> StoredValues:
    """Code the values of a tensor; integer codes are stored as they are, whatever the choice.

    Args:
        tensor: with a base if the choice is "target".
        choice: one of VALUE_CHOICES.
        group: entries per scale.

    Raises:
        ExportError: a delta does not fit its type, or a weight would not be finite.
    """
    squared_norm = float(np.square(tensor.deltas, dtype=np.float64).sum())
    if tensor.snap is not None:
        assert tensor.targets is not None
        return StoredValues(
            choice="target",
            coded=encode_integer_codes(tensor.targets, tensor.dtype),
            kind="target",
            squared_error=float(np.square(made_changes(tensor) - tensor.deltas).sum()),
            squared_norm=squared_norm,
            largest_error=0.0,
            no_op_count=int((tensor.targets == tensor.before).sum()),
        )
    if choice == "target":
        assert tensor.targets is not None
        assert tensor.before is not None
        no_ops = int((bits(tensor.targets) == bits(tensor.before)).sum())
        coded = encode_plain(tensor.targets)
        return StoredValues(choice, coded, "target", 0.0, squared_norm, 0.0, no_ops)
    codec = DELTA_CODECS[choice]
    if codec in SCALED_CODECS:
        coded = encode_scaled(tensor.deltas, codec, group)
    else:
        coded = encode_plain(convert(tensor.deltas, choice, tensor.where, tensor.indices))
    decoded = coded.decoded.astype(np.float32)
    error = decoded.astype(np.float64) - tensor.deltas
    return StoredValues(
        choice=choice,
        coded=coded,
        kind="delta",
        squared_error=float(np.square(error).sum()),
        squared_norm=squared_norm,
        largest_error=float(np.abs(error).max()),
        no_op_count=_no_op_count(tensor, decoded),
    )


def _no_op_count(tensor: ComputedTensor, decoded: NDArray[np.float32]) -> int:
    if tensor.before is None:
        return int((decoded == 0).sum())
    with np.errstate(over="ignore", invalid="ignore"):
        exact = tensor.before.astype(np.float32) + decoded
    after = convert(exact, tensor.dtype, tensor.where, tensor.indices)
    check_finite(after, tensor.indices, tensor.where)
    return int((bits(after) == bits(tensor.before)).sum())


def check_group(group: int) -> None:
    """Refuse a number of entries per scale that the format does not have.

    Raises:
        ValueError: it is no multiple of 8, below 64 or above 32 bits.
    """
    if group % 8 or not 64 <= group < 1 << 32:
        raise ValueError(f"group is {group}, expected a multiple of 8 that is at least 64")

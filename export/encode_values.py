# SPDX-License-Identifier: Apache-2.0
"""Value codecs of docs/FORMAT.md section 10: values or deltas to bytes, and what is read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dtypes import CODE_RANGES, short_name
from .encode_index import pack_codes
from .image import VALUE_BITS, ValueCodec

#: Entries per scale unless something else is asked for.
DEFAULT_GROUP = 64

_LARGEST_EXPONENT = 64


@dataclass(frozen=True)
class CodedValues:
    """The values of one tensor as a file holds them.

    Attributes:
        codec: of the stream.
        value_group: entries per scale; 0 without scales.
        scale_exponent: power of two that all scales are multiplied by; 0 without scales.
        stream: the bytes.
        decoded: (nnz,) what a reader gets: the values themselves, float32 for scaled codecs.
    """

    codec: ValueCodec
    value_group: int
    scale_exponent: int
    stream: bytes
    decoded: NDArray[Any]


def encode_plain(values: NDArray[Any]) -> CodedValues:
    """Keep values as they are.

    Args:
        values: (nnz,) float32, float16 or bfloat16.
    """
    codec = ValueCodec[short_name(values.dtype).upper()]
    return CodedValues(codec, 0, 0, values.tobytes(), values)


def encode_integer_codes(codes: NDArray[np.int8], dtype: str) -> CodedValues:
    """Keep the codes of a quantized base.

    Args:
        codes: (nnz,) int8; -8 to 7 for "i4".
        dtype: "i8" or "i4".

    Raises:
        ValueError: a code does not fit.
    """
    lowest, highest = CODE_RANGES[dtype]
    if codes.size and not lowest <= int(codes.min()) <= int(codes.max()) <= highest:
        raise ValueError(f"codes from {codes.min()} to {codes.max()} do not fit {dtype}")
    codec = ValueCodec[dtype.upper()]
    return CodedValues(codec, 0, 0, pack_codes(codes.astype(np.int64), VALUE_BITS[codec]), codes)

# SPDX-License-Identifier: Apache-2.0
"""Sizes of files and of their parts, and the least that positions can take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .image import SCALED_CODECS, VALUE_BITS, ValueCodec
from .writer import HEADER, SECTION, VALUES_KIND, SectionSize

#: PEFT stores an entry as a float32 and two int32.
PEFT_BYTES_PER_ENTRY = 12


def value_bytes(codec: ValueCodec, nnz: int, group: int) -> int:
    """Size of a value stream; `group` counts for scaled codecs only."""
    scales = -(-nnz // group) * 2 if codec in SCALED_CODECS else 0
    return scales + (nnz * VALUE_BITS[codec] + 7) // 8


def tiled_bytes(sizes_bytes: Iterable[int], alignment: int, start: int = 0) -> int:
    """Where streams or sections end that stand one after the other, aligned, from `start` on."""
    end = start
    for size_bytes in sizes_bytes:
        end += -end % alignment + size_bytes
    return end


def file_bytes(sections: Sequence[SectionSize], value_sizes_bytes: Sequence[Iterable[int]]) -> int:
    """Size of a file if its value streams had other sizes.

    Args:
        sections: of the file as it was written.
        value_sizes_bytes: for each tier the sizes of the streams, in the order of rows.
    """
    sizes = [
        tiled_bytes(value_sizes_bytes[section.tier], 8)
        if section.kind == VALUES_KIND
        else section.size_bytes
        for section in sections
    ]
    return tiled_bytes(sizes, 64, HEADER.size + SECTION.size * len(sections))


def mask_bits(element_count: int, nnz: int) -> float:
    """Entropy of a mask of which only the number of entries is known: log2 of all such masks."""
    ways = (
        math.lgamma(element_count + 1) - math.lgamma(nnz + 1) - math.lgamma(element_count - nnz + 1)
    )
    return ways / math.log(2)

# SPDX-License-Identifier: Apache-2.0
"""What a .shb file says, once every rule has been checked: adapters, tensors, positions, values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from .masks import Mask

DTYPES = {1: "F32", 2: "F16", 3: "BF16", 4: "I8", 5: "I4"}
VALUE_CODECS = {**DTYPES, 6: "Q8", 7: "Q4", 8: "Q2", 9: "Q1"}
VALUE_KINDS = {0: "target", 1: "delta"}

_Number = TypeVar("_Number", bound=np.generic)


class ReaderError(ValueError):
    """A file was refused.

    Attributes:
        status: the broken rule's name in status.def, such as ``"BAD_INDEX"``.
        offset_bytes: where in the file, as section 13 of FORMAT.md defines it.
        message: what was found, in one sentence.
    """

    def __init__(self, status: str, offset_bytes: int, message: str) -> None:
        super().__init__(f"{status} at byte {offset_bytes}: {message}")
        self.status = status
        self.offset_bytes = offset_bytes
        self.message = message


@dataclass(frozen=True)
class TierPart:
    """What one tier holds of one tensor: one row of TENSORS.

    Attributes:
        row_number: number of the row in TENSORS.
        tier: the tier.
        index_number: row of the tier's index table.
        mask: the positions, or the rule that gives them.
        value_group: entries per scale, 0 without scales.
        scale_exponent: power of two on all scales, 0 without scales.
        bits: (nnz,) the entries in position order: uint32 or uint16 patterns of F32, F16, BF16 and
            scaled values (as float32), int8 codes of I8 and I4.
        values: (nnz,) float32, the same numbers.
        scales: float32 scales as stored, without the exponent; empty without scales.
        fingerprint: XXH3-128 of the base at the positions of this and all lower tiers; 16 bytes,
            zero if the adapter is unbound.
    """

    row_number: int
    tier: int
    index_number: int
    mask: Mask
    value_group: int
    scale_exponent: int
    bits: NDArray[Any]
    values: NDArray[np.float32]
    scales: NDArray[np.float32]
    fingerprint: bytes

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return self.mask.nnz


@dataclass(frozen=True)
class Tensor:
    """All entries of one tensor in the tiers that were read.

    Attributes:
        name: fully qualified name in the program.
        dtype: of the base: "F32", "F16", "BF16", "I8" or "I4".
        shape: of the base.
        value_codec: how the values were stored, such as "F16" or "Q4".
        value_kind: "target" or "delta".
        base_digest: XXH3-128 of the whole base tensor, zero if the adapter is unbound.
        parts: one or more, in ascending order of their tiers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    value_codec: str
    value_kind: str
    base_digest: bytes
    parts: tuple[TierPart, ...]

    @property
    def element_count(self) -> int:
        """Number of elements of the base tensor."""
        return self.parts[0].mask.element_count

    @property
    def nnz(self) -> int:
        """Number of entries in all tiers that were read."""
        return sum(part.nnz for part in self.parts)

    def positions(self, base: NDArray[Any] | None = None) -> NDArray[np.uint32]:
        """Give the (nnz,) flat indices, strictly ascending.

        Args:
            base: the base tensor, any shape, as numbers or as bit patterns; TOPK needs it.

        Raises:
            ValueError: the positions depend on the base, which is missing or has another size.
        """
        return np.sort(np.concatenate([part.mask.positions(base) for part in self.parts]))

    def bits(self) -> NDArray[Any]:
        """Give all (nnz,) entries as `TierPart.bits`, in ascending order of position."""
        return self._in_order([part.bits for part in self.parts])

    def values(self) -> NDArray[np.float32]:
        """Give all (nnz,) entries as numbers, in ascending order of position."""
        return self._in_order([part.values for part in self.parts])

    def matches(self, base: NDArray[Any]) -> bool:
        """Say whether the base has the fingerprints of all tiers that were read."""
        flat = base.reshape(-1)
        below: list[NDArray[np.uint32]] = []
        for part in self.parts:
            below.append(part.mask.positions(base))
            touched = flat[np.sort(np.concatenate(below))]
            if xxhash.xxh3_128_digest(touched.tobytes()) != part.fingerprint:
                return False
        return True

    def _in_order(self, arrays: list[NDArray[_Number]]) -> NDArray[_Number]:
        if len(arrays) == 1:
            return arrays[0]
        positions = np.concatenate([part.mask.positions() for part in self.parts])
        return np.take(np.concatenate(arrays), np.argsort(positions))


@dataclass(frozen=True)
class Adapter:
    """One adapter of a file.

    Attributes:
        name: unique in the file.
        is_bound: whether its tensors carry fingerprints.
        metadata_json: the JSON object, UTF-8, as it stands in the file.
        tensors: name -> tensor, in the order in which the names first appear.
    """

    name: str
    is_bound: bool
    metadata_json: bytes
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class File:
    """A checked .shb file.

    Attributes:
        version: (major, minor).
        file_bytes: its size.
        content_digest: as stored; `check_digests` proves it.
        signature_kind: 0 unsigned, 1 Ed25519.
        public_key: of the signer, as a hint for people; zero when unsigned.
        tier_count: tiers in the file.
        tiers_read: tiers 0 to tiers_read - 1 were checked and are handed out.
        adapters: in file order.
        index_sections: SHA-256 -> masks of each INDEX section that was checked, for other files.
    """

    version: tuple[int, int]
    file_bytes: int
    content_digest: bytes
    signature_kind: int
    public_key: bytes
    tier_count: int
    tiers_read: int
    adapters: tuple[Adapter, ...]
    index_sections: dict[bytes, tuple[Mask, ...]] = field(repr=False)

    def adapter(self, name: str) -> Adapter:
        """Give the adapter of that name, else raise KeyError."""
        for adapter in self.adapters:
            if adapter.name == name:
                return adapter
        raise KeyError(name)

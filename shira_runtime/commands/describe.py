# SPDX-License-Identifier: Apache-2.0
"""Everything about an adapter file but its entries, ready for JSON: what `shira inspect` shows."""

from __future__ import annotations

import math
import mmap
from collections import Counter
from typing import Any

import numpy as np

from shira_runtime import Adapter, AdapterFile, _core

__all__ = ["PEFT_BYTES_PER_ENTRY", "describe_file"]

PEFT_BYTES_PER_ENTRY = 12  # two int32 indices and a float32 value
_ELEMENT_BITS = {"f32": 32, "f16": 16, "bf16": 16, "int8": 8, "int4": 4}
_SECTIONS = {
    1: "adapters",
    2: "tensors",
    3: "names",
    4: "metadata",
    5: "index",
    6: "values",
    7: "index reference",
}


def describe_file(file: AdapterFile) -> dict[str, Any]:
    """Describe a file; a stream of positions counts in equal parts for the tensors that share it.

    The bound of a tensor is what an optimal code of a random mask of its density would take, with
    the bits of its values: runs, rules and sharing may go below it.
    """
    adapters = list(file.adapters.values())
    parts = [part for a in adapters for t in a.tensors.values() for part in t.parts]
    users = Counter((part.tier, part.index_number) for part in parts)
    streams = {(part.tier, part.index_number): part for part in parts}
    entry_count = sum(adapter.entry_count for adapter in adapters)
    opened_bytes = _opened_bytes(file)
    return {
        "file": file.path,
        "kind": "shb",
        "format_version": ".".join(map(str, file.version)),
        "file_bytes": file.file_bytes,
        "content_digest": file.content_digest,
        "signer": file.signer,
        "tier_count": file.tier_count,
        "opened_tier_count": file.opened_tier_count,
        "entry_count": entry_count,
        "opened_bytes": opened_bytes,
        "page_bytes": mmap.PAGESIZE,
        "bytes_per_entry": opened_bytes / entry_count,
        "sections": [
            {
                "kind": _SECTIONS.get(section.kind, f"optional {section.kind}"),
                "tier": section.tier,
                "offset_bytes": section.offset_bytes,
                "size_bytes": section.size_bytes,
                "index_count": section.index_count,
                "crc32c": f"{section.crc32c:08x}",
                "sha256": section.sha256.hex(),
            }
            for section in file._core.sections
        ],
        "index_tables": [
            {
                "tier": tier,
                "index_number": number,
                "codec": part.codec,
                "stream_bytes": part.stream_bytes,
                "used_by": users[tier, number],
            }
            for (tier, number), part in sorted(streams.items())
        ],
        "adapters": [_describe_adapter(adapter, users) for adapter in adapters],
    }


def _opened_bytes(file: AdapterFile) -> int:
    """Size of the file up to the end of its opened tiers, which come in order."""
    if file.opened_tier_count == file.tier_count:
        return file.file_bytes
    return max(
        section.offset_bytes + section.size_bytes
        for section in file._core.sections
        if section.tier < file.opened_tier_count
    )


def _describe_adapter(adapter: Adapter, users: Counter[tuple[int, int]]) -> dict[str, Any]:
    tensors = [_describe_tensor(tensor, users) for tensor in adapter.tensors.values()]
    for tensor in tensors:
        if not adapter.is_bound:
            tensor |= {"fingerprint": None, "base_digest": None}
    return {
        "name": adapter.name,
        "is_bound": adapter.is_bound,
        "entry_count": adapter.entry_count,
        "tensors": tensors,
        "metadata": adapter.metadata,
    }


def _describe_tensor(
    tensor: _core.AdapterTensor, users: Counter[tuple[int, int]]
) -> dict[str, Any]:
    index_bytes = sum(part.stream_bytes for part in tensor.parts)
    own_index_bytes = sum(
        part.stream_bytes / users[part.tier, part.index_number] for part in tensor.parts
    )
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "nnz": tensor.nnz,
        "density": tensor.nnz / tensor.numel,
        "pages": _page_count(tensor),
        "index_bytes": index_bytes,
        "value_kind": tensor.value_kind,
        "value_codec": tensor.value_codec,
        "value_bytes": tensor.value_bytes,
        "bytes_per_entry": (own_index_bytes + tensor.value_bytes) / tensor.nnz,
        "bound_bytes_per_entry": index_entropy_bytes(tensor.numel, tensor.nnz) / tensor.nnz
        + tensor.value_bits / 8,
        "parts": [
            {
                "tier": part.tier,
                "index_number": part.index_number,
                "codec": part.codec,
                "rice_bits": part.rice_bits,
                "block_length": part.block_length,
                "unit_count": part.unit_count,
                "stream_bytes": part.stream_bytes,
                "used_by": users[part.tier, part.index_number],
            }
            for part in tensor.parts
        ],
        "fingerprint": tensor.fingerprint.hex(),
        "base_digest": tensor.base_digest.hex(),
    }


def _page_count(tensor: _core.AdapterTensor) -> int | None:
    """Pages of this system with an entry, in a tensor that begins on a page.

    None where the positions are those of the largest base values, which are not in the file.
    """
    if any(part.codec == "topk" for part in tensor.parts):
        return None
    element_bits = _ELEMENT_BITS[tensor.dtype]
    pages = tensor.indices().astype(np.uint64) * np.uint64(element_bits) // (8 * mmap.PAGESIZE)
    return int(np.count_nonzero(np.diff(pages))) + 1


def index_entropy_bytes(element_count: int, entry_count: int) -> float:
    """Entropy of which `entry_count` of `element_count` elements a random mask has, in bytes."""
    chosen = math.lgamma(entry_count + 1) + math.lgamma(element_count - entry_count + 1)
    return (math.lgamma(element_count + 1) - chosen) / math.log(2) / 8

# SPDX-License-Identifier: Apache-2.0
"""Measures the size of .shb files for every kind of mask and every codec of values.

Run from the repository's root: ``python -m benchmarks.format_sizes`` writes the run that
``python -m benchmarks.doc_tables`` makes the tables of docs/FORMAT_SIZES.md from. Sizes depend on
nothing but the format and the exporter: the same code gives the same numbers on every machine.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shira_runtime.export import export_adapter
from shira_runtime.export.build import Adapter, AdapterTensor, build_file
from shira_runtime.export.checkpoint import Checkpoint
from shira_runtime.export.derive import (
    SeedSource,
    random_rule,
    struct_rule,
    topk_positions,
    topk_rule,
)
from shira_runtime.export.encode_values import encode_plain, encode_scaled
from shira_runtime.export.image import IndexStream, ValueCodec
from shira_runtime.export.metadata import adapter_metadata
from shira_runtime.export.seeded import stratified_blocks
from shira_runtime.export.sizes import PEFT_BYTES_PER_ENTRY, mask_bits

ROOT = Path(__file__).resolve().parents[1]
STORED_RUN = ROOT / "docs" / "runs" / "format.json"
MINILM = ROOT / "examples" / "minilm" / "adapters"

SHAPE = (4096, 4096)
DENSITY = 0.01
NAME = "model.layers.0.self_attn.q_proj.weight"
PACKED_ADAPTERS = 8
VALUES = {
    "f16": ValueCodec.F16,
    "int8": ValueCodec.Q8,
    "int4": ValueCodec.Q4,
    "int2": ValueCodec.Q2,
    "int1": ValueCodec.Q1,
}


@dataclass(frozen=True)
class Mask:
    """Positions, the codec to store them in, and the rules that give them."""

    label: str
    indices: NDArray[np.int64]
    index: str
    rules: tuple[IndexStream, ...] = ()
    adapter_count: int = 1


def masks() -> Iterator[Mask]:
    """Gives one mask of each kind at about one percent."""
    element_count = math.prod(SHAPE)
    entry_count = round(DENSITY * element_count)
    # The generator whose numbers no version of numpy changes.
    generator = np.random.RandomState(7)
    scattered = _choose(generator, element_count, entry_count)
    for index in ("gaps8", "gaps16", "rice"):
        yield Mask(f"random entries, {index}", scattered, index)
    yield Mask(
        f"random entries, {PACKED_ADAPTERS} adapters in a pack",
        scattered,
        "auto",
        adapter_count=PACKED_ADAPTERS,
    )
    seeded = stratified_blocks(11, element_count, entry_count)
    seed_rule = random_rule(seeded, SHAPE, SeedSource(11))
    yield Mask("random entries from a seed", seeded, "random", _proven(seed_rule))
    base = generator.standard_normal(element_count).astype(np.float16)
    largest = topk_positions(base, entry_count)
    yield Mask("largest weights", largest, "topk", _proven(topk_rule(largest, base)))
    row, column = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])
    struct_mask = (row % 199 == 7) | (column % 199 == 7) | (row == column)
    structured = np.flatnonzero(struct_mask)
    yield Mask(
        "every 199th row and column, and the diagonal",
        structured,
        "struct",
        _proven(struct_rule(structured, SHAPE)),
    )
    blocks = _choose(generator, element_count // 16, entry_count // 16)
    yield Mask("random blocks of 1 x 16", _expand(blocks, 16), "auto")
    rows = _choose(generator, SHAPE[0], round(DENSITY * SHAPE[0]))
    yield Mask("random whole rows", _expand(rows, SHAPE[1]), "auto")


def measure_mask(mask: Mask) -> dict[str, Any]:
    """Builds the file of a mask with each codec of values; sizes in bytes per entry."""
    generator = np.random.RandomState(8)
    deltas = (0.01 * generator.standard_normal(mask.indices.size)).astype(np.float32)
    entry_count = mask.indices.size * mask.adapter_count
    files = {}
    for values, codec in VALUES.items():
        built = build_file(_adapters(mask, deltas, codec))
        files[values] = len(built.content) / entry_count
    stream = next(iter(built.streams.values()))
    return {
        "mask": mask.label,
        "adapter_count": mask.adapter_count,
        "entry_count": entry_count,
        "index_codec": stream.codec.name.lower(),
        "index_bytes": len(stream.stream),
        "index_bits_per_entry": 8 * len(stream.stream) / entry_count,
        "bytes_per_entry": files,
    }


def measure_minilm(adapter: Path) -> dict[str, Any]:
    """Exports a trained adapter of the example with each codec of values."""
    hidden, inner = 384, 1536
    kinds = dict.fromkeys(
        [f"attention.{name}" for name in ("self.query", "self.key", "self.value", "output.dense")],
        (hidden, hidden),
    )
    kinds |= {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
    shapes = {
        f"encoder.layer.{layer}.{kind}.weight": shape
        for layer in range(6)
        for kind, shape in kinds.items()
    }
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "adapter.shb"
        for values in VALUES:
            report = export_adapter(
                adapter, output, shapes=shapes, values=values, name=adapter.name, force=True
            )
            files[values] = report.bytes_per_entry
    return {
        "adapter": adapter.name,
        "entry_count": report.entry_count,
        "tensor_count": report.tensor_count,
        "mask": str(report.metadata["mask"]["type"]),
        "index_bits_per_entry": 8 * sum(t.index_bytes for t in report.tensors) / report.entry_count,
        "bytes_per_entry": files,
    }


def run() -> dict[str, Any]:
    """Measures everything."""
    element_count = math.prod(SHAPE)
    entry_count = round(DENSITY * element_count)
    return {
        "schema": 1,
        "shape": list(SHAPE),
        "density": DENSITY,
        "peft_bytes_per_entry": PEFT_BYTES_PER_ENTRY,
        "random_mask_entropy_bits_per_entry": mask_bits(element_count, entry_count) / entry_count,
        "block_mask_entropy_bits_per_entry": mask_bits(element_count // 16, entry_count // 16)
        / entry_count,
        "masks": [measure_mask(mask) for mask in masks()],
        "minilm": [measure_minilm(adapter) for adapter in sorted(MINILM.glob("minilm-*"))],
    }


def _adapters(mask: Mask, deltas: NDArray[np.float32], codec: ValueCodec) -> Sequence[Adapter]:
    """Adapters as `shira-export --base` writes them, with its metadata."""
    checkpoint = Checkpoint(
        Path("german"),
        "peft-shira",
        config={
            "peft_version": "0.21.2",
            "base_model_name_or_path": "someone/a-model-7b",
            "mask_type": "random",
            "random_seed": 7,
            "r": 20,
        },
    )
    metadata = adapter_metadata(checkpoint, None, None, None)
    adapters = []
    for number in range(mask.adapter_count):
        own = np.roll(deltas, number)
        if codec == ValueCodec.F16:
            values = encode_plain(own.astype(np.float16))
        else:
            values = encode_scaled(own, codec, 128)
        tensor = AdapterTensor(
            name=NAME,
            dtype="f16",
            shape=SHAPE,
            indices=mask.indices,
            values=values,
            kind="delta",
            fingerprint=bytes(16),
            base_digest=bytes(16),
            rules=mask.rules,
        )
        adapters.append(Adapter(f"adapter-{number}", [tensor], metadata, mask.index))
    return adapters


def _choose(generator: np.random.RandomState, limit: int, count: int) -> NDArray[np.int64]:
    """Draws different numbers below the limit, in ascending order."""
    drawn = np.unique(generator.randint(0, limit, size=count + count // 8 + 64))
    surplus = generator.permutation(drawn.size)[: drawn.size - count]
    return np.delete(drawn, surplus).astype(np.int64)


def _expand(blocks: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return (blocks[:, None] * length + np.arange(length)).reshape(-1)


def _proven(rule: IndexStream | str) -> tuple[IndexStream, ...]:
    assert isinstance(rule, IndexStream), rule
    return (rule,)


def main() -> int:
    """Stores a run; returns the exit code."""
    STORED_RUN.parent.mkdir(parents=True, exist_ok=True)
    STORED_RUN.write_text(json.dumps(run(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

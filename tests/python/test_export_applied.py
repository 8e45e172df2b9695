# SPDX-License-Identifier: Apache-2.0
"""What the exporter writes, applied by the runtime: the weights are those of the specification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_inputs import BF16, peft_tensors, weights, write_peft, write_safetensors
from shb_reader import read_shb

from shira_runtime import Adapter, from_numpy
from shira_runtime.export import export_adapter
from shira_runtime.export.derive import topk_positions
from shira_runtime.export.seeded import stratified_blocks

NAME = "layers.0.q_proj.weight"
SHAPE = (40, 64)


def mask(kind: str, base: Any) -> Any:
    generator = np.random.default_rng(4)
    row, column = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])
    blocks = np.sort(generator.choice(base.size // 8, 20, replace=False))
    return {
        "random": lambda: np.sort(generator.choice(base.size, 200, replace=False)),
        "blocks": lambda: (blocks[:, None] * 8 + np.arange(8)).reshape(-1),
        "rows": lambda: (np.array([3, 4, 20])[:, None] * SHAPE[1] + column).reshape(-1),
        "struct": lambda: np.flatnonzero((row % 17 == 3) | (column % 17 == 3) | (row == column)),
        "seeded": lambda: stratified_blocks(7, base.size, 200),
        "largest": lambda: topk_positions(base.reshape(-1), 200),
    }[kind]()


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *(("random", {"index": index}) for index in ("gaps8", "gaps16", "rice", "runs")),
    *(("blocks", {"index": index}) for index in ("gaps8", "gaps16", "rice", "runs")),
    ("rows", {"index": "runs"}),
    ("struct", {"index": "struct"}),
    ("seeded", {"index": "random"}),
    ("largest", {"index": "topk"}),
    *(("random", {"values": v}) for v in ("f32", "f16", "bf16", "int8", "int4", "int2", "int1")),
    ("largest", {"values": "int4", "group": 64}),
    *(("random", {"values": v, "tiers": (0.2, 0.6, 1)}) for v in ("target", "int8")),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=lambda value: str(value))
def test_the_runtime_makes_the_weights_of_the_specification(
    tmp_path: Path, kind: str, options: dict[str, Any], dtype: Any
) -> None:
    base = weights(SHAPE, dtype)
    indices = mask(kind, base)
    deltas = np.random.default_rng(5).normal(0, 0.02, indices.size).astype(np.float32)
    coordinates = np.stack(np.unravel_index(indices, SHAPE)).astype(np.int32)
    source = write_peft(tmp_path / "de", peft_tensors(coordinates, deltas), r=None)
    base_file = write_safetensors(tmp_path / "base.safetensors", {NAME: base})
    export_adapter(source, tmp_path / "de.shb", base=base_file, mask_seed=7, **options)

    tensor = read_shb(tmp_path / "de.shb", {NAME: base})["tensors"][NAME]
    assert tensor["indices"].tolist() == indices.tolist()
    expected = base.reshape(-1).copy()
    if tensor["kind"] == "target":
        expected[indices] = tensor["values"]
    else:
        exact = expected[indices].astype(np.float32) + tensor["values"].astype(np.float32)
        expected[indices] = exact.astype(dtype)

    live = {NAME: base.copy()}
    program = from_numpy(live)
    program.add_adapter(Adapter.open(tmp_path / "de.shb"))
    program.switch("de")
    assert live[NAME].tobytes() == expected.tobytes()
    program.switch(None)
    assert live[NAME].tobytes() == base.tobytes()

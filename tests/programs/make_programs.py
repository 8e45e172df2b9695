# SPDX-License-Identifier: Apache-2.0
"""Writes the programs in this folder, which tests without torch use: python make_programs.py.

layers.pte has two methods over one weight, `forward` and `doubled`, both (rows <= 5, 16) f32 ->
(rows, 8); layers.shb is an adapter for every third entry of that weight.

packed/ has a program for every kind of weight that XNNPACK packs, (rows <= 8, 64) -> (rows, 20), an
adapter for it, and a program with that adapter's codes in its file.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "python"), str(HERE.parent / "vectors")]

import engine_models  # noqa: E402
import numpy as np  # noqa: E402
import packed_models as packed  # noqa: E402
import torch  # noqa: E402
from shb_files import adapter_bytes, tensor_entries  # noqa: E402


def write_packed(kind: str, folder: Path) -> None:
    """The program of a kind, its adapter, and the two in one."""
    module, dtype = packed.make_module(kind), packed.KINDS[kind][1]
    base = packed.export(kind, module, folder / f"{kind}.pte")
    codes = packed.codes_of(module)
    rng = np.random.default_rng(len(kind))
    entries = {name: packed.random_entries(dtype, array, rng) for name, array in codes.items()}
    tensors = [
        replace(tensor_entries(name, codes[name], *pair), dtype=dtype)
        for name, pair in entries.items()
    ]
    (folder / f"{kind}.shb").write_bytes(adapter_bytes("new", *tensors))
    merged = packed.merged(dtype, codes, [(1.0, entries)])
    packed.rewrite(kind, base, merged, folder / f"{kind}-merged.pte")


def main() -> None:
    """Export the programs and the adapters."""
    (HERE / "packed").mkdir(exist_ok=True)
    for kind in packed.KINDS:
        write_packed(kind, HERE / "packed")
    layers = engine_models.shared_layers()
    engine_models.export_methods(
        HERE / "layers.pte",
        layers,
        {name: (torch.ones(2, 16),) for name in layers},
        {name: (engine_models.rows(5),) for name in layers},
    )
    weight = layers["forward"].layer.weight.detach().numpy()
    indices = np.arange(1, weight.size, 3)
    entries = tensor_entries("layer.weight", weight, indices, np.full(indices.size, 2.0))
    (HERE / "layers.shb").write_bytes(adapter_bytes("layers", entries))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Writes the programs in this folder, which tests without torch use: python make_programs.py.

layers.pte has two methods over one weight, `forward` and `doubled`, both (rows <= 5, 16) f32 ->
(rows, 8); layers.shb is an adapter for every third entry of that weight.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "python"), str(HERE.parent / "vectors")]

import engine_models  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from shb_files import adapter_bytes, tensor_entries  # noqa: E402


def main() -> None:
    """Export the program and the adapter."""
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

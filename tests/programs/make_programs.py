# SPDX-License-Identifier: Apache-2.0
"""Writes the programs in this folder, which tests without torch use: python make_programs.py.

layers.pte has two methods over one weight, `forward` and `doubled`, both (rows <= 5, 16) f32 ->
(rows, 8); layers.shb is an adapter for every third entry of that weight.

packed/ has a program for every kind of weight that XNNPACK packs, (rows <= 8, 64) -> (rows, 20), an
adapter for it, and a program with that adapter's codes in its file. tables.* there are the same for
codes that portable operators read, int8 of linear layers and int4 of an embedding: -> (rows, 52).
"""

from __future__ import annotations

import shutil
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
from torch import nn  # noqa: E402

from shira_runtime.export.program import export_program  # noqa: E402
from shira_runtime.export.program_file import read_program_tensors  # noqa: E402
from shira_runtime.weights import program_weights  # noqa: E402


def write_packed(kind: str, folder: Path) -> None:
    """The program of a kind, its adapter, and the two in one."""
    module, dtype = packed.make_module(kind), packed.KINDS[kind][1]
    base = packed.export(kind, module, folder / f"{kind}.pte")
    codes = packed.codes_of(module, (*packed.WEIGHTS, packed.BIAS))
    rng = np.random.default_rng(len(kind))
    entries = {name: packed.random_entries(dtype, array, rng) for name, array in codes.items()}
    tensors = [
        replace(tensor_entries(name, codes[name], *pair), dtype=packed.dtype_of(dtype, codes[name]))
        for name, pair in entries.items()
    ]
    (folder / f"{kind}.shb").write_bytes(adapter_bytes("new", *tensors))
    merged = packed.merged(dtype, codes, [(1.0, entries)])
    packed.rewrite(kind, base, merged, folder / f"{kind}-merged.pte")


class Tables(nn.Module):
    """(rows, 64) whose first column is from -3 to 3 -> (rows, 20 + 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = packed.Net()
        self.embedding = nn.Embedding(4, 32)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        ids = states[:, 0].abs().to(torch.int64)
        return torch.cat([self.net(states), self.embedding(ids)], dim=-1)


def write_tables(folder: Path) -> None:
    """The program that looks codes up, its adapter, and the two in one."""
    torch.manual_seed(0)
    base = folder / "tables.pte"
    export_program(
        Tables().eval().requires_grad_(False),
        (packed.example("int8"),),
        base,
        quantize="8w",
        embedding_bits=4,
        dynamic_shapes=packed.shapes(),
    )
    rng = np.random.default_rng(4)
    content, tensors = bytearray(base.read_bytes()), []
    for name, weight in program_weights(base).items():
        codes = weight.codes()
        dtype = {"int8": "i8", "int4": "i4"}[weight.dtype]
        indices, values = packed.random_entries(dtype, codes, rng)
        tensors.append(replace(tensor_entries(name, codes, indices, values), dtype=dtype))
        codes.reshape(-1)[indices] = values
        if dtype == "i4":  # two in a byte, the even column above
            unsigned = (codes + 8).astype(np.uint8)
            codes = unsigned[:, ::2] << 4 | unsigned[:, 1::2]
        offset = read_program_tensors(base)[name].offset_bytes
        content[offset : offset + codes.nbytes] = codes.tobytes()
    (folder / "tables.shb").write_bytes(adapter_bytes("new", *tensors))
    (folder / "tables-merged.pte").write_bytes(content)


def main() -> None:
    """Export the programs and the adapters."""
    shutil.rmtree(HERE / "packed", ignore_errors=True)
    (HERE / "packed").mkdir()
    for kind in packed.KINDS:
        write_packed(kind, HERE / "packed")
    write_tables(HERE / "packed")
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

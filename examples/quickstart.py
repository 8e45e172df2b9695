# SPDX-License-Identifier: Apache-2.0
"""From a module and a trained sparse change to a live switch, in one file: python quickstart.py.

Needs the extras `executorch` and `export`. Writes into a temporary folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import shira_runtime
from shira_runtime.export import export_adapter
from shira_runtime.export.program import export_program


def main() -> None:
    """Export a program and an adapter, then switch the program while it is loaded."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 128)
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(128, 8)).eval()
    inputs = torch.randn(1, 256)

    # A trained adapter: new values for 1 % of one weight, here as indices and differences.
    nnz = layer.weight.numel() // 100
    indices = torch.randperm(layer.weight.numel())[:nnz].sort().values
    trained = {"0.weight": {"indices": indices, "values": torch.randn(nnz), "shape": (128, 256)}}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_program(model, (inputs,), folder / "model.pte")
        torch.save(trained, folder / "adapter.pt")
        export_adapter(folder / "adapter.pt", folder / "demo.shb", base=folder / "model.pte")

        program = shira_runtime.load_program(folder / "model.pte")
        program.add_adapter(folder / "demo.shb")
        (base,) = program.forward(inputs)
        report = program.switch("demo")
        print(f"switched {report.elements_written} weights in {report.total_ns / 1e3:.0f} us")
        print(f"output moved by {abs(program.forward(inputs)[0] - base).max():.3f}")
        with program.using({"demo": 0.5}):
            print(f"at half strength by {abs(program.forward(inputs)[0] - base).max():.3f}")
        program.switch(None)
        program.verify_base()
        print(f"the base is back: {(program.forward(inputs)[0] == base).all()}")


if __name__ == "__main__":
    main()

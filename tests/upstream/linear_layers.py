# SPDX-License-Identifier: Apache-2.0
"""Writes programs of linear layers that XNNPACK runs: python linear_layers.py FOLDER.

All layers of a program see the same input (2, 64) f32, each has 32 outputs, and the program's
output has those of all layers one behind the other. A layer's weights are those of the first
times its factor, so that quantized layers have equal codes and scales that differ by the factor.
Needs torch, torchao and executorch; nothing of this project.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torch import nn
from torchao.quantization import (
    Int8DynamicActivationIntxWeightConfig,
    PerAxis,
    PerGroup,
    quantize_,
)
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

ROWS, COLUMNS, OUTPUTS = 2, 64, 32
KINDS = ("f32", "int8 by row", "int4 by group", "int4 by row")


class Layers(nn.Module):
    """(ROWS, COLUMNS) -> (ROWS, OUTPUTS * layers)."""

    def __init__(self, factors: Sequence[float], bias: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(COLUMNS, OUTPUTS, bias=bias) for _ in factors)
        with torch.no_grad():
            for layer, factor in zip(self.layers, factors, strict=True):
                layer.weight.copy_(factor * self.layers[0].weight)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([layer(states) for layer in self.layers], dim=-1)


class Written(NamedTuple):
    """A program, and what it should give for `inputs()`."""

    path: Path
    outputs: Any  # (ROWS, OUTPUTS * layers) float32 array


def inputs() -> torch.Tensor:
    """What run_with_cache.cpp runs a program with."""
    return (torch.arange(ROWS * COLUMNS) % 7 - 3.0).reshape(ROWS, COLUMNS)


def write(path: Path, kind: str, factors: Sequence[float], bias: bool = False) -> Written:
    """Write a program; `outputs` are PyTorch's own with the same quantized weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch and executorch, about each other
        torch.manual_seed(0)
        module: Any = Layers(factors, bias).eval().requires_grad_(False)
        example = (inputs(),)
        partitioners = [XnnpackPartitioner()]
        if kind == "int4 by row":
            settings = get_symmetric_quantization_config(
                is_per_channel=True, is_dynamic=True, weight_qmin=-8, weight_qmax=7
            )
            graph = torch.export.export(module, example).module()
            module = prepare_pt2e(graph, XNNPACKQuantizer().set_global(settings))
            module(*example)
            module = convert_pt2e(module)
        elif kind != "f32":
            is_int8 = kind == "int8 by row"
            config = Int8DynamicActivationIntxWeightConfig(
                weight_dtype=torch.int8 if is_int8 else torch.int4,
                weight_granularity=PerAxis(0) if is_int8 else PerGroup(32),
            )
            quantize_(module, config)
        if kind != "f32":
            dynamic = ConfigPrecisionType.DYNAMIC_QUANT
            partitioners.insert(0, XnnpackPartitioner(config_precisions=dynamic, per_op_mode=True))
        exported = torch.export.export(module, example)
        program = to_edge_transform_and_lower(exported, partitioner=partitioners).to_executorch()
        path.write_bytes(program.buffer)
        return Written(path, module(*example).detach().numpy())


def main() -> None:
    """Each kind with two layers, one of twice the weights of the other."""
    folder = Path(sys.argv[1])
    for kind in KINDS:
        written = write(folder / f"{kind.replace(' ', '_')}.pte", kind, (1.0, 2.0))
        print(written.path, "should give", *written.outputs[0, [0, OUTPUTS]], "at 0 and", OUTPUTS)


if __name__ == "__main__":
    main()

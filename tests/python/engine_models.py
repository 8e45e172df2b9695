# SPDX-License-Identifier: Apache-2.0
"""Programs for the engine's tests: every dtype, several methods, dynamic shapes, numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _models import torch
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    to_edge_transform_and_lower,
)
from torch import Tensor, nn

from shira_runtime.export.lower import _NamedConstants

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


class EveryDtype(nn.Module):
    """A (2, 3) tensor of each dtype -> the same, turned around, and a sum of the two first."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return (*(tensor.flip(0) for tensor in tensors), tensors[0] + tensors[1])


class Layer(nn.Module):
    """(rows, 16) f32 -> (rows, 8)."""

    def __init__(self, weight: nn.Linear, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = weight, factor

    def forward(self, states: Tensor) -> Tensor:
        return torch.relu(self.layer(states)) * self.factor


class Numbers(nn.Module):
    """(rows, 4) f32 and a number -> (rows, 4), its rows, and nothing."""

    def forward(self, states: Tensor, number: int, other: Tensor | None) -> tuple[Any, ...]:
        return states + number, states.shape[0], other


class Counter(nn.Module):
    """(2,) f32 -> the sum of all that it was given so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, states: Tensor) -> Tensor:
        self.total.add_(states)
        return self.total.clone()


def shared_layers() -> dict[str, nn.Module]:
    """Two methods over one weight."""
    torch.manual_seed(3)
    layer = nn.Linear(16, 8)
    return {"forward": Layer(layer, 1.0).eval(), "doubled": Layer(layer, 2.0).eval()}


def rows(most: int) -> dict[int, Any]:
    return {0: torch.export.Dim("rows", min=1, max=most)}


def export_methods(
    path: Path,
    modules: Mapping[str, nn.Module],
    inputs: Mapping[str, tuple[Any, ...]],
    dynamic_shapes: Mapping[str, Any] | None = None,
    partitioner: Sequence[Any] | None = None,
) -> Path:
    """Write a program with several methods, its constants named."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = {
            name: torch.export.export(
                module, inputs[name], dynamic_shapes=(dynamic_shapes or {}).get(name)
            )
            for name, module in modules.items()
        }
        program = to_edge_transform_and_lower(
            exported,
            partitioner=list(partitioner) if partitioner else None,
            compile_config=EdgeCompileConfig(
                preserve_ops=[torch.ops.aten.linear.default], _check_ir_validity=False
            ),
        ).to_executorch(ExecutorchBackendConfig(memory_planning_pass=_NamedConstants(frozenset())))
    with path.open("wb") as stream:
        program.write_to_file(stream)
    return path

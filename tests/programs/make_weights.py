# SPDX-License-Identifier: Apache-2.0
"""Writes weights.pte, a program with a weight of every kind, and weights.json: their digests.

Run as ``python make_weights.py``; needs torch, torchao and executorch. Methods: `forward` has an
embedding of int4 codes, layers of f32, int8 and int4 codes, a convolution and a norm inside of the
XNNPACK delegate, and an int8 table of mixed_linear; `again` shares two of the layers. The program
names all but the layer `plain`. Layers `twin` and `twice` have equal codes and other scales.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import executorch.exir.passes._quant_patterns_and_replacements  # noqa: F401  (defines operators)
import torch
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.schema import ExtraTensorInfo, TensorDataLocation
from executorch.kernels import quantized  # noqa: F401  (their variants with an output)
from torch import Tensor, nn
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, PerGroup, quantize_

HERE = Path(__file__).resolve().parent
OPERATORS = torch.ops.quantized_decomposed
INT4 = Int8DynamicActivationIntxWeightConfig(
    weight_dtype=torch.int4, weight_granularity=PerGroup(32)
)
INT8 = Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int8, weight_granularity=PerAxis(0))


class Tables(nn.Module):
    """What portable operators read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randint(0, 256, (5, 32), dtype=torch.uint8))
        self.register_buffer("scales", torch.rand(5, 2) + 0.5)
        self.register_buffer("head", torch.randint(-128, 128, (3, 6), dtype=torch.int8))
        self.register_buffer("head_scales", torch.rand(3) + 0.5)


class Model(nn.Module):
    """A layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = Tables()
        self.group = nn.Linear(64, 6)
        self.channel = nn.Linear(64, 6, bias=False)
        self.plain = nn.Linear(64, 6)
        self.twin = nn.Linear(64, 6, bias=False)
        self.twice = nn.Linear(64, 6, bias=False)
        self.twice.weight.data = 2 * self.twin.weight.data
        self.norm = nn.Parameter(torch.rand(6))
        self.convolution = nn.Conv2d(1, 2, 3)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        """(2,) tokens and a (1, 1, 4, 5) image -> (2, 3)."""
        tables = self.tables
        x = OPERATORS.embedding_4bit(tables.codes, tables.scales, None, -8, 7, tokens)
        twins = self.twin(x) + self.twice(x)
        x = self.norm * (self.group(x) + self.channel(x)) + self.plain(x) + twins
        x = x + self.convolution(image).reshape(2, 6)
        return OPERATORS.mixed_linear(x, tables.head, tables.head_scales, None, None)


class Again(nn.Module):
    """Another method over two of the layers."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.group, self.plain = model.group, model.plain

    def forward(self, x: Tensor) -> Tensor:
        """(2, 64) -> (2, 6)."""
        return self.group(x) - self.plain(x)


class NamedConstants(MemoryPlanningPass):
    """Memory planning that also gives each constant its name in the module."""

    def run(self, graph_module: Any, graph_signature: Any = None) -> Any:
        """Set the names, then plan."""
        names = {**graph_signature.inputs_to_parameters, **graph_signature.inputs_to_buffers}
        for node in graph_module.graph.nodes:
            if node.op == "placeholder" and node.target in names:
                node.meta["spec"].extra_tensor_info = ExtraTensorInfo(
                    fully_qualified_name=names[node.target], location=TensorDataLocation.SEGMENT
                )
        return super().run(graph_module, graph_signature)


def main() -> None:
    """Export the program, name its weights, and store what they are."""
    # It has no shape function of its own.
    library = torch.library.Library("quantized_decomposed", "FRAGMENT")
    library.impl("mixed_linear", lambda x, w, *_: x.new_empty(x.shape[0], w.shape[0]), "Meta")
    torch.manual_seed(11)
    model = Model().eval()
    quantize_(model.group, INT4)
    for layer in (model.channel, model.twin, model.twice):
        quantize_(layer, INT8)
    inputs = {
        "forward": (torch.tensor([1, 4]), torch.rand(1, 1, 4, 5)),
        "again": (torch.rand(2, 64),),
    }
    modules = {"forward": model, "again": Again(model).eval()}
    edge = to_edge_transform_and_lower(
        {name: torch.export.export(modules[name], inputs[name]) for name in modules},
        partitioner=[
            XnnpackPartitioner(
                config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True
            ),
            XnnpackPartitioner(),
        ],
        compile_config=EdgeCompileConfig(
            preserve_ops=[torch.ops.aten.linear.default], _check_ir_validity=False
        ),
        constant_methods={"shira_packed_weights": names_of(model)},
    )
    program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=NamedConstants()))
    (HERE / "weights.pte").write_bytes(program.buffer)
    (HERE / "weights.json").write_text(json.dumps(digests_of(model), indent=1) + "\n")


def codes_of(layer: nn.Linear) -> Tensor:
    """The layer's codes, or its floats."""
    return getattr(layer.weight, "qdata", layer.weight).detach()


def names_of(model: Model) -> str:
    """The lines of the constant method that names packed weights."""
    lines = []
    for name in ("channel", "group", "twice", "twin"):
        codes = codes_of(getattr(model, name))
        if name == "group":
            stored = codes.to(torch.uint8) + 8
            codes = stored[:, ::2] | stored[:, 1::2] << 4
        lines.append(f"{name}.weight\t{digest(codes)}\n")
    return "".join(lines)


def digests_of(model: Model) -> dict[str, Any]:
    """SHA-256 of the int8 or float32 bytes of each weight's codes, scales and bias."""
    arrays: dict[str, list[Tensor | None]] = {}
    for name in ("channel", "group", "plain", "twin", "twice"):
        layer = getattr(model, name)
        scales = getattr(layer.weight, "scale", None)
        if scales is not None and name == "group":
            scales = scales.to(torch.bfloat16).float()
        arrays[name + ".weight"] = [codes_of(layer), scales, layer.bias]
    tables = model.tables
    nibbles = torch.stack([tables.codes >> 4, tables.codes & 15], 2).to(torch.int8) - 8
    arrays["tables.codes"] = [nibbles, tables.scales, None]
    arrays["tables.head"] = [tables.head, tables.head_scales, None]
    return {
        name: [None if each is None else digest(each.detach()) for each in parts]
        for name, parts in arrays.items()
    }


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, in hex."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main()

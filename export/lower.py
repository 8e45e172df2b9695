# SPDX-License-Identifier: Apache-2.0
"""Lowers a PyTorch module to the files of an ExecuTorch program, and keeps track of its names."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    to_edge_transform_and_lower,
)
from executorch.exir.lowered_backend_module import get_lowered_submodules
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.schema import ExtraTensorInfo, TensorDataLocation
from torch import Tensor, nn

from .faster_lowering import faster_lowering
from .program_checks import named_tensors
from .program_file import NAME_MAP_METHOD, PACKED_KEYS_METHOD, PackedWeight
from .quantize import weight_codes

Backend = Literal["portable", "xnnpack"]

#: The name, without its ending, that ExecuTorch gives the file of external weights.
EXTERNAL_TAG = "weights"

# Decomposed, a linear layer copies its transposed weight in every forward, and a reflection padding
# becomes eight operators and six constants. ExecuTorch has kernels for both as they are.
_PRESERVED_OPERATORS = [
    torch.ops.aten.linear.default,
    torch.ops.aten.reflection_pad1d.default,
    torch.ops.aten.reflection_pad2d.default,
    torch.ops.aten.reflection_pad3d.default,
]

# How torch.export calls the parts of a quantized parameter.
_PART_OF_PARAMETER = re.compile(r"parametrizations\.([^.]+)\.original\d*$")


@dataclass(frozen=True)
class Lowered:
    """What became of the module's parameters and buffers.

    Attributes:
        delegated: names of those that a delegate has consumed.
        packed: names and keys, for the weights of linear layers among them that nothing outside of
            the delegate uses, and for their biases.
        unused: parameters that no output depends on.
    """

    delegated: tuple[str, ...]
    packed: tuple[PackedWeight, ...]
    unused: tuple[str, ...]


class _NamedConstants(MemoryPlanningPass):  # type: ignore[misc]
    """Memory planning that also gives each constant of the graph its name in the module.

    The name is what get_attribute and readers of the file look for. It is set here because tensor
    specifications exist only late, and this is the last pass before the program is emitted.
    """

    def __init__(self, hidden: frozenset[str]) -> None:
        super().__init__()
        self._hidden = hidden

    def run(self, graph_module: Any, graph_signature: Any = None) -> Any:
        names = _module_names(graph_signature)
        # The runtime copies the buffers that forward changes; their bytes in the file are dead.
        unnamed = self._hidden | set(graph_signature.buffers_to_mutate.values())
        for node in graph_module.graph.nodes:
            name = names.get(node.target) if node.op == "placeholder" else None
            if name is None or name in unnamed:
                continue
            specification = node.meta["spec"]
            if specification.extra_tensor_info is None:  # else it goes to the .ptd, named already
                specification.extra_tensor_info = ExtraTensorInfo(
                    fully_qualified_name=name, location=TensorDataLocation.SEGMENT
                )
        return super().run(graph_module, graph_signature)


def lower(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    program_path: Path,
    backend: Backend,
    dynamic_shapes: Any,
    name_map: Mapping[str, str],
    is_external: bool,
) -> Lowered:
    """Write program.pte, and weights.ptd beside it if `is_external`."""
    with warnings.catch_warnings(), torch.no_grad(), faster_lowering():
        # What torch and executorch deprecate in each other is nothing to the user of this function.
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, example_inputs, dynamic_shapes=dynamic_shapes)
        placeholders = {
            node.target for node in exported.graph.nodes if node.op == "placeholder" and node.users
        }
        parameters = exported.graph_signature.inputs_to_parameters
        unused = tuple(name for node, name in parameters.items() if node not in placeholders)
        edge = to_edge_transform_and_lower(
            exported,
            partitioner=_partitioners() if backend == "xnnpack" else None,
            compile_config=EdgeCompileConfig(
                preserve_ops=_PRESERVED_OPERATORS, _check_ir_validity=False
            ),
            constant_methods={NAME_MAP_METHOD: json.dumps(name_map)} if name_map else None,
        )
        remaining = edge.exported_program()
        parts = [part for _, part, _ in get_lowered_submodules(remaining.graph_module)]
        delegated = frozenset(
            name
            for part in parts
            for name in _module_names(part.original_module.graph_signature).values()
        )
        outside = frozenset(_module_names(remaining.graph_signature).values())
        packed = _packed_weights(module, parts, outside)
        if packed:
            # The keys are known only now, and the manager takes constant methods at its creation.
            lines = "".join(weight.line for weight in packed)
            edge._config_methods = {**(edge._config_methods or {}), PACKED_KEYS_METHOD: lines}
        # A weight that a delegate has packed may also be used outside of it. Nobody may patch that
        # half alone, so it stays in the program without a name.
        names = _module_names(remaining.graph_signature)
        # ExecuTorch turns a reshape into a view without a copy, but fails at that (or records the
        # shape of the view for the parameter) where the reshaped constant goes to a .ptd.
        reshapes_constant = any(
            "view_copy" in str(node.target) and node.args[0].name in names
            for node in remaining.graph.nodes
            if node.op == "call_function"
        )
        program = edge.to_executorch(
            ExecutorchBackendConfig(
                remove_view_copy=not (is_external and reshapes_constant),
                memory_planning_pass=_NamedConstants(delegated),
                external_constants=(
                    (lambda node: None if names.get(node.name) in delegated else EXTERNAL_TAG)
                    if is_external
                    else False
                ),
            )
        )
        with program_path.open("wb") as stream:
            program.write_to_file(stream)
        if is_external:
            program.write_tensor_data_to_file(str(program_path.parent))
    return Lowered(tuple(sorted(delegated)), packed, unused)


def _partitioners() -> list[XnnpackPartitioner]:
    """What computes in integers goes first, a layer at a time, as ExecuTorch's own exports do."""
    integers = XnnpackPartitioner(
        config_precisions=ConfigPrecisionType.DYNAMIC_QUANT, per_op_mode=True
    )
    return [integers, XnnpackPartitioner()]


def _module_names(signature: Any) -> dict[str, str]:
    """Placeholder -> name in the module, for parameters and buffers."""
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {node: _PART_OF_PARAMETER.sub(r"\1", name) for node, name in names.items()}


def _packed_weights(
    module: nn.Module, parts: Sequence[Any], outside: frozenset[str]
) -> tuple[PackedWeight, ...]:
    """Find the keys under which XNNPACK keeps weights of linear layers and their biases, sorted.

    XNNPACK knows its data by the SHA-256 of its bytes only, so each tensor is serialized here as it
    is there. A weight that also lies in the program outside of the delegate is left out, and such a
    bias, or one that is used as anything else, gets no name: nobody may patch either half alone.
    """
    tensors = dict(named_tensors(module))
    unnamed = outside.union(*(_other_uses(part.original_module) for part in parts))
    found = set()
    for part in parts:
        stored = part.named_data_store_output.pte_data
        for name, bias in _linear_layers(part.original_module):
            if name in outside or name not in tensors:
                continue
            key = _stored_key(weight_codes(tensors[name]), stored)
            if key is None:
                continue
            bias_key: str | None = ""
            if bias != "":
                bias_key = _stored_key(tensors[bias], stored) if bias in tensors else None
            if not bias or bias in unnamed or not bias_key:
                bias = ""
            found.add(PackedWeight(name, key, bias, bias_key))
    return tuple(sorted(found, key=lambda weight: weight.line))


def _stored_key(tensor: Tensor, stored: Mapping[str, Any]) -> str | None:
    keys = [hashlib.sha256(content).hexdigest() for content in _serializations(tensor)]
    return next((key for key in reversed(keys) if key in stored), None)


def _linear_layers(program: Any) -> Iterator[tuple[str, str | None]]:
    """Names of the constants that a linear layer takes as its weight, as it is or scaled, and bias.

    The bias is "" where there is none, and None where it is not a constant as it is.
    """
    names = _module_names(program.graph_signature)
    for node in program.graph.nodes:
        if _is_linear(node):
            weight = node.args[1]
            while weight.op == "call_function":
                weight = weight.args[0]
            bias = _bias_of(node)
            if weight.name in names:
                yield names[weight.name], "" if bias is None else names.get(bias.name)


def _other_uses(program: Any) -> Iterator[str]:
    """Names of the constants that are used as anything but a linear layer's bias."""
    names = _module_names(program.graph_signature)
    for node in program.graph.nodes:
        if node.name not in names:
            continue
        if any(
            not _is_linear(user) or node is not _bias_of(user) or node in user.args[:2]
            for user in node.users
        ):
            yield names[node.name]


def _is_linear(node: Any) -> bool:
    return node.op == "call_function" and "aten.linear." in str(node.target)


def _bias_of(linear: Any) -> Any:
    return linear.args[2] if len(linear.args) > 2 else linear.kwargs.get("bias")


def _serializations(weight: Tensor) -> Iterator[bytes]:
    """What XNNPACK may write for a weight: its bytes, or for int4 two codes in a byte."""
    weight = weight.detach().cpu().contiguous()
    yield weight.flatten().view(torch.uint8).numpy().tobytes()
    if weight.dtype == torch.int8 and weight.dim() == 2 and weight.min() >= -8 and weight.max() < 8:
        padded = nn.functional.pad(weight, (0, weight.shape[1] % 2))
        unsigned = (padded + 8).to(torch.uint8)
        yield (unsigned[:, 1::2] << 4 | unsigned[:, ::2]).contiguous().numpy().tobytes()

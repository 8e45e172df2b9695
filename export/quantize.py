# SPDX-License-Identifier: Apache-2.0
"""Quantizes a module's linear layers and embeddings in the forms that ExecuTorch programs run.

The module keeps the names of its weights: `layers.0.q.weight` is what an adapter names, whether it
holds floats or integer codes. All grids are symmetric: a weight is its code times a scale.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .errors import ExportError

Quantize = Literal["8da8w", "8da4w", "8da4w-channel", "8w"]
EmbeddingBits = Literal[4, 8]

QUANTIZE_CHOICES: tuple[str, ...] = get_args(Quantize)

#: Columns that share a scale in "8da4w", unless something else is asked for.
DEFAULT_GROUP_SIZE = 32

#: XNNPACK's groups are multiples of so many columns.
_GROUP_MULTIPLE = 32

_CODE_LIMITS = {4: (-8, 7), 8: (-128, 127)}


def quantize_module(
    module: nn.Module,
    example_inputs: tuple[Any, ...],
    quantize: Quantize | None,
    *,
    group_size: int = DEFAULT_GROUP_SIZE,
    embedding_bits: EmbeddingBits | None = None,
    dynamic_shapes: Any = None,
) -> nn.Module:
    """Give a quantized copy of a module, in eval mode; the module itself stays as it is.

    Args:
        module: in eval mode.
        example_inputs: for one call of `forward`.
        quantize: what becomes of linear layers. "8da8w": int8 weights with a scale per row;
            "8da4w": int4 weights with a scale per row and `group_size` columns; "8da4w-channel":
            int4 weights with a scale per row. These three compute in integers, with activations
            quantized to int8 as they come, and are XNNPACK's. "8w": int8 weights with a scale per
            row and float activations, which the portable operator mixed_linear computes.
        group_size: a multiple of 32 that divides the columns of each weight with groups.
        embedding_bits: 8 for embeddings of int8 codes with a scale per row, 4 for int4 codes with
            a scale per row and `group_size` columns; None leaves them as they are.
        dynamic_shapes: as for torch.export.export.

    Raises:
        ExportError: a choice is unknown, or a layer does not fit it.
    """
    if quantize is not None and quantize not in QUANTIZE_CHOICES:
        raise ExportError(
            f"unknown quantization {quantize!r}, expected one of {', '.join(QUANTIZE_CHOICES)}"
        )
    if embedding_bits not in (None, *_CODE_LIMITS):
        raise ExportError(f"embeddings have 4 or 8 bits, not {embedding_bits}")
    if group_size < 1 or group_size % _GROUP_MULTIPLE:
        raise ExportError(f"a group of {group_size} columns is not a multiple of {_GROUP_MULTIPLE}")
    copied = copy.deepcopy(module)
    if embedding_bits is not None:
        group = group_size if embedding_bits == 4 else None
        _replace(copied, nn.Embedding, lambda layer, at: _CodedEmbedding(layer, group, at))
    if quantize == "8w":
        _replace(copied, nn.Linear, _CodedLinear)
    elif quantize == "8da4w-channel":
        return _per_channel(copied, example_inputs, dynamic_shapes)
    elif quantize is not None:
        _quantize_dynamic(copied, quantize, group_size)
    return copied


def weight_codes(tensor: Tensor) -> Tensor:
    """Give the integer codes of a weight that torchao has quantized; any other tensor is itself."""
    codes = getattr(tensor, "qdata", None)
    return codes if isinstance(codes, Tensor) else tensor


def _quantize_dynamic(module: nn.Module, quantize: Quantize, group_size: int) -> None:
    from torchao.quantization import (
        Int8DynamicActivationIntxWeightConfig,
        PerAxis,
        PerGroup,
        quantize_,
    )

    if quantize == "8da8w":
        quantize_(
            module,
            Int8DynamicActivationIntxWeightConfig(
                weight_dtype=torch.int8, weight_granularity=PerAxis(0)
            ),
        )
        return
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            _check_groups(name, layer.in_features, group_size)
    four_bits = torch.int4  # type: ignore[attr-defined]
    granularity = PerGroup(group_size)
    quantize_(
        module,
        Int8DynamicActivationIntxWeightConfig(
            weight_dtype=four_bits, weight_granularity=granularity
        ),
    )


def _per_channel(
    module: nn.Module, example_inputs: tuple[Any, ...], dynamic_shapes: Any
) -> nn.Module:
    """Quantize to int4 with one scale per row, which only the quantizer of the backend offers."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    lowest, highest = _CODE_LIMITS[4]
    quantizer = XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(
            is_per_channel=True, is_dynamic=True, weight_qmin=lowest, weight_qmax=highest
        )
    )
    graph = torch.export.export(module, example_inputs, dynamic_shapes=dynamic_shapes).module()
    prepared = prepare_pt2e(graph, quantizer)
    prepared(*example_inputs)
    converted = convert_pt2e(prepared, fold_quantize=False)
    _fold_weights(converted)
    return converted  # type: ignore[no-any-return]


def _fold_weights(module: torch.fx.GraphModule) -> None:
    """Put codes in the place of each weight that the graph quantizes, under the weight's name."""
    quantize = torch.ops.quantized_decomposed.quantize_per_channel
    folded: dict[str, list[torch.fx.Node]] = {}
    for node in module.graph.nodes:
        is_weight = node.target == quantize.default and node.args[0].op == "get_attr"
        if is_weight and node.args[1].op == "get_attr":  # else it quantizes what is computed
            folded.setdefault(node.args[0].target, []).append(node)
    for name, nodes in folded.items():
        arguments: list[Any] = [node.args for node in nodes]
        constants = [[_attribute(module, node.target) for node in args[:3]] for args in arguments]
        codes = [
            quantize(*found, *args[3:]) for found, args in zip(constants, arguments, strict=True)
        ]
        users = {user for args in arguments for user in args[0].users}
        if users != set(nodes) or any(not torch.equal(codes[0], other) for other in codes):
            raise ExportError(
                f"{name}: cannot be quantized, because it is also used in another way"
            )
        _put_codes(module, name, codes[0])
        for node, args in zip(nodes, arguments, strict=True):
            node.replace_all_uses_with(args[0])
            module.graph.erase_node(node)
    module.recompile()


def name_folded_weights(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Give folded weights of a graph that a quantizer converted the names that they had before.

    `convert_pt2e` puts codes into constants of its own, `_frozen_param0` and so on, and leaves the
    float weights beside them. Codes take the name of the weight of the linear layer that they are
    multiplied in, if that weight is still there and quantizing it gives exactly these codes.

    Returns:
        A copy with the new names, or the module itself if there is nothing to name.
    """
    if not any(name.startswith("_frozen_param") for name, _ in module.named_buffers()):
        return module
    copied = copy.deepcopy(module)
    operators = torch.ops.quantized_decomposed
    names: dict[str, str] = {}
    for node in copied.graph.nodes:
        codes = node.args[0] if node.target == operators.dequantize_per_channel.default else None
        if codes is None or codes.op != "get_attr" or codes.target in names:
            continue
        for layer in node.users:
            name = _layer_weight(copied, layer)
            if name is None or name in names.values():
                continue
            constants = [_attribute(copied, arg.target) for arg in node.args[:3]]
            expected = operators.quantize_per_channel(
                _attribute(copied, name), *constants[1:], *node.args[3:7]
            )
            if torch.equal(expected, constants[0]):
                names[codes.target] = name
                break
    for old, name in names.items():
        _put_codes(copied, name, _attribute(copied, old))
        delattr(copied, old)
    for node in copied.graph.nodes:
        if node.op == "get_attr" and node.target in names:
            node.target = names[node.target]
    copied.recompile()
    return copied


def _layer_weight(module: torch.fx.GraphModule, node: torch.fx.Node) -> str | None:
    """The name of the float weight of the layer that `node` computes, if the module has it."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if node.target != torch.ops.aten.linear.default or not stack:
        return None
    name = f"{stack[-1][0]}.weight"
    return name if name in dict(module.named_parameters(remove_duplicate=False)) else None


def _put_codes(module: nn.Module, name: str, codes: Tensor) -> None:
    """Register codes as a buffer in the place of a weight."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    delattr(owner, leaf)
    owner.register_buffer(leaf, codes)


def _attribute(module: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    found: Tensor = getattr(module.get_submodule(path), leaf)
    return found


def _check_groups(name: str, column_count: int, group_size: int) -> None:
    if column_count % group_size:
        raise ExportError(
            f"{name}: its {column_count} columns cannot be cut into groups of {group_size}"
        )


def _replace(module: nn.Module, kind: type[nn.Module], make: Any) -> None:
    """Put make(layer, name) in the place of each layer of a kind."""
    made: dict[nn.Module, nn.Module] = {}
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if type(layer) is kind:
            if not name:
                raise ExportError("the module is itself the layer to quantize; put it into another")
            if layer not in made:
                made[layer] = make(layer, name)
            module.set_submodule(name, made[layer])


def _codes(weight: Tensor, bits: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Round a matrix to codes: (rows, columns) int8 and (rows, columns / group_size) scales."""
    highest = _CODE_LIMITS[bits][1]
    groups = weight.detach().float().unflatten(1, (-1, group_size))
    scales = (groups.abs().amax(dim=2) / highest).clamp(min=torch.finfo(torch.float16).tiny)
    scales = scales.to(weight.dtype)
    codes = torch.round(groups / scales.float()[..., None]).clamp(-highest - 1, highest)
    return codes.flatten(1).to(torch.int8), scales


class _CodedEmbedding(nn.Module):
    """An embedding of integer codes, looked up by embedding_4bit (in groups) or embedding_byte."""

    def __init__(self, layer: nn.Embedding, group_size: int | None, name: str) -> None:
        super().__init__()
        self.bits = 8 if group_size is None else 4
        group_size = group_size or layer.embedding_dim
        _check_groups(name, layer.embedding_dim, group_size)
        if layer.max_norm is not None:
            raise ExportError(f"{name}: an embedding with max_norm changes its weights")
        codes, scales = _codes(layer.weight, self.bits, group_size)
        if self.bits == 4:  # two in a byte, the even column above, as the operator reads them
            unsigned = (codes + 8).to(torch.uint8)
            codes = (unsigned[:, ::2] << 4 | unsigned[:, 1::2]).contiguous()
        _load_operators()
        self.register_buffer("weight", codes)
        self.register_buffer("scales", scales.squeeze(1))

    def forward(self, indices: Tensor) -> Tensor:
        operators = torch.ops.quantized_decomposed
        look_up = operators.embedding_4bit if self.bits == 4 else operators.embedding_byte
        found: Tensor = look_up(self.weight, self.scales, None, *_CODE_LIMITS[self.bits], indices)
        return found


class _CodedLinear(nn.Module):
    """A linear layer of int8 codes and float activations, computed by mixed_linear."""

    def __init__(self, layer: nn.Linear, name: str) -> None:
        super().__init__()
        codes, scales = _codes(layer.weight, 8, layer.in_features)
        self.register_buffer("weight", codes)
        self.register_buffer("scales", scales.squeeze(1))
        self.bias = layer.bias
        _load_operators()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        mixed_linear = torch.ops.quantized_decomposed.mixed_linear
        y: Tensor = mixed_linear(rows, self.weight, self.scales, None, None)
        y = y.reshape(*x.shape[:-1], y.shape[-1])
        return y if self.bias is None else y + self.bias


def _load_operators() -> None:
    """Make executorch's quantized operators known to torch."""
    import executorch.exir.passes._quant_patterns_and_replacements
    import executorch.kernels.quantized  # noqa: F401

    # It defines this one without saying what the result looks like.
    name = "quantized_decomposed::mixed_linear"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta"):
        torch.library.register_fake(name, _mixed_linear_result)


def _mixed_linear_result(
    rows: Tensor, weight: Tensor, scales: Tensor, zero_points: Any = None, dtype: Any = None
) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[0])

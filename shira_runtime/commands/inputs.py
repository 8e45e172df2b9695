# SPDX-License-Identifier: Apache-2.0
"""Inputs for an ExecuTorch program when the user names none."""

from __future__ import annotations

import importlib
from typing import Any

from shira_runtime.commands.output import Misuse
from shira_runtime.program import Program
from shira_runtime.sources import ExecutorchSource

# ScalarType code, as ExecuTorch's tensor metadata gives it -> torch dtype
_TORCH_TYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
    11: "bool",
    15: "bfloat16",
}


def example_inputs(program: Program) -> list[Any]:
    """Make tensors of ones, in the shapes and dtypes that the program's method declares.

    Ones are a valid token id and a mask that hides nothing.

    Raises:
        Misuse: the method takes something that is not a tensor of a known dtype.
    """
    source = program._source
    assert isinstance(source, ExecutorchSource), "made by load_program"
    torch = importlib.import_module("torch")
    metadata = source.method.metadata
    inputs = []
    for index in range(metadata.num_inputs()):
        try:
            tensor = metadata.input_tensor_meta(index)
            dtype = getattr(torch, _TORCH_TYPES[tensor.dtype()])
        except (KeyError, RuntimeError):
            raise Misuse(f"input {index} has no simple tensor type: name it with --input") from None
        inputs.append(torch.ones(tuple(tensor.sizes()), dtype=dtype))
    return inputs

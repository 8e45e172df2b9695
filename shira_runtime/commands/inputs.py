# SPDX-License-Identifier: Apache-2.0
"""Inputs for an ExecuTorch program: the user's .npy files, or tensors of ones."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

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


Inputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE.npy",
        help="A .npy file per input, in order; by default all ones.",
    ),
]


def read_inputs(paths: Sequence[Path] | None, program: Program) -> list[Any]:
    """Read the files, or make tensors of ones in the shapes that the program's method declares.

    Ones are a valid token id and a mask that hides nothing. Where a shape is dynamic, the largest
    that the program allows is declared.

    Raises:
        Misuse: without files, a method with an input that is not a tensor of a known dtype.
        OSError, ValueError: a file that cannot be read, or is no array of numbers.
    """
    if paths:
        return [read_array(path) for path in paths]
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


def read_array(path: Path) -> NDArray[Any]:
    """Read one .npy file.

    Raises:
        OSError, ValueError: it cannot be read, or holds something else than one array of numbers.
    """
    with path.open("rb") as stream:
        try:
            return np.lib.format.read_array(stream, allow_pickle=False)
        except ValueError:  # its words name no file, and propose to run code that is in it
            raise ValueError(f"{path}: is no .npy file of numbers") from None

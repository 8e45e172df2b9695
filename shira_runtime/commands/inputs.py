# SPDX-License-Identifier: Apache-2.0
"""Inputs for an ExecuTorch program: the user's .npy files, or arrays of ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from shira_runtime.commands.output import Misuse
from shira_runtime.engine import EngineSource, bfloat16
from shira_runtime.program import Program

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
    """Read the files, or make arrays of ones in the shapes that the program's method declares.

    Ones are a valid token id and a mask that hides nothing. Where a shape is dynamic, the largest
    that the program allows is declared.

    Raises:
        Misuse: without files, a method with an input that is not a tensor of a known dtype.
        OSError, ValueError: a file that cannot be read, or is no array of numbers.
    """
    if paths:
        return [read_array(path) for path in paths]
    source = program._source
    assert isinstance(source, EngineSource), "made by load_program"
    inputs: list[Any] = []
    for index, slot in enumerate(source.inputs()):
        if slot.kind != "tensor":
            raise Misuse(f"input {index} has no simple tensor type: name it with --input")
        dtype = bfloat16() if slot.dtype == "bfloat16" else np.dtype(slot.dtype)
        inputs.append(np.ones(slot.shape, dtype))
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

# SPDX-License-Identifier: Apache-2.0
"""The weights of an ExecuTorch program that are no plain float constants, read from its files.

They are what the XNNPACK delegate packs when a method is loaded, and the integer codes that
quantized operators read. Needs numpy only: ExecuTorch is not imported, and nothing is loaded.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shira_runtime import _core
from shira_runtime.errors import error_of

__all__ = ["ProgramWeight", "program_weights"]


class ProgramWeight:
    """One weight of a program.

    Its numbers are read from the file each time they are asked for. A value is a code (minus a zero
    point, if there are any) times the scale of its row, or of its row and group.

    Attributes:
        name: what adapters call it: the name in the module, if the program has it. Otherwise
            "xnnpack:" and the first 16 digits of `key`.
        owner: "XnnpackBackend", another delegate, or the operator that reads the weight.
        node: the kind of node inside of a delegate, such as "XNNFullyConnected", or "".
        storage: "packed" by the delegate when a method is loaded, a "packed bias" beside another
            weight, "byte table" or "nibble table" (read where they lie in the file), or "unknown".
        dtype: "f32", "f16", "int8" or "int4"; None where it is something else.
        shape: (rows, columns) of what can be switched: outputs and inputs of a layer; (rows,) of a
            bias.
        group_length: columns that share a scale; 0 where the whole row does.
        key: what XNNPACK calls the codes, or a bias, SHA-256 in hex; "" outside of the delegate.
        scale_key: the same of the scales, with "scale_" in front.
        bias_key: the same of the bias.
        packed_name: what XNNPACK calls what it packs: weights of one name it packs once. "" outside
            of the delegate, and of a bias.
        methods: the program's methods that use it.
        why_not: why no adapter can change it; "" if one can.
        beside: of a packed bias, the weight that it is packed beside; else "".
        shares_storage_with: another name for what is stored in the same bytes, or "".
    """

    def __init__(self, core: _core.ProgramWeight) -> None:
        self._core = core
        self.name = core.name
        self.owner = core.owner
        self.node = core.node
        self.storage = core.storage
        self.dtype = core.dtype
        self.shape = core.shape
        self.group_length = core.group_length
        self.key = core.key
        self.scale_key = core.scale_key
        self.bias_key = core.bias_key
        self.packed_name = core.packed_name
        self.methods = core.methods
        self.why_not = core.why_not
        self.beside = core.beside
        self.shares_storage_with = core.shares_storage_with

    def codes(self) -> NDArray[Any]:
        """The elements, shaped as `shape`: int8, one for each code, or float32 or float16.

        Raises:
            UsageError: NOT_SUPPORTED: `why_not` keeps them from being understood.
            FormatError: the file has become shorter.
            FileError: it cannot be read.
        """
        return self._core.codes()

    def scales(self) -> NDArray[np.float32] | None:
        """The scales, (rows, groups), with one group where the whole row has one; None of floats.

        Those that are stored in 16 bits are widened. Raises as `codes`.
        """
        return self._core.scales()

    def zero_points(self) -> NDArray[np.float32] | None:
        """What is subtracted from a code before it is scaled, as `scales`; None where it is 0."""
        return self._core.zero_points()

    def bias(self) -> NDArray[np.float32] | None:
        """The bias that is packed beside the weight, (rows,); None where there is none."""
        return self._core.bias()

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"<ProgramWeight {self.name!r} {self.dtype} {shape} of {self.owner}>"


def program_weights(
    path: str | os.PathLike[str], *data_paths: str | os.PathLike[str]
) -> dict[str, ProgramWeight]:
    """List what a program's delegates and quantized operators have as weights, by name.

    Those that cannot be switched are listed with the reason. A weight with several names is listed
    under each. Float constants that are not delegated are not listed here.

    Args:
        path: a .pte file.
        data_paths: the .ptd files that it keeps its weights in, if it does.

    Raises:
        FormatError: a file is malformed, or of another kind.
        FileError: a file cannot be read.
    """
    encoded = [os.fsencode(each) for each in (path, *data_paths)]
    if any(b"\0" in each for each in encoded):
        raise error_of("INVALID_ARGUMENT", "a path holds a zero byte")
    weights = _core.program_weights(encoded[0], encoded[1:])
    return {weight.name: ProgramWeight(weight) for weight in weights}

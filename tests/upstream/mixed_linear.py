# SPDX-License-Identifier: Apache-2.0
"""Exports a layer of int8 codes that ExecuTorch has a kernel for: python mixed_linear.py [fake].

With "fake" torch is told first what the result looks like, and the export works.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import executorch.exir.passes._quant_patterns_and_replacements  # names operators
import executorch.kernels.quantized  # noqa: F401  # has their kernels
import torch
from torch import nn

NAME = "quantized_decomposed::mixed_linear"


class CodedLinear(nn.Module):
    """(2, 8) f32 -> (2, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.ones(4, 8, dtype=torch.int8))
        self.register_buffer("scales", torch.ones(4))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        operator = torch.ops.quantized_decomposed.mixed_linear
        result: torch.Tensor = operator(states, self.codes, self.scales, None, None)
        return result


def export(with_fake: bool) -> None:
    """Raises (UnsupportedOperatorException, below what torch wraps around it) with 1.5.1."""

    def result(states: torch.Tensor, codes: torch.Tensor, *rest: Any) -> torch.Tensor:
        return states.new_empty(states.shape[0], codes.shape[0])

    if with_fake:
        torch.library.register_fake(NAME, result)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.export(CodedLinear().eval(), (torch.ones(2, 8),))


if __name__ == "__main__":
    export("fake" in sys.argv)
    print("exported")

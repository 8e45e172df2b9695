# SPDX-License-Identifier: Apache-2.0
"""Unfused LoRA, for comparison: two more products beside every linear layer, in every pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.smollm2.adapters import RANK, is_target
from examples.smollm2.model import Decoder


class LoraLinear(nn.Module):
    """A linear layer plus up(down(x)); with random factors, since only its cost is looked at.

    Args:
        base: the layer, quantized or not.
        rank: rows of the one factor and columns of the other.
        generator: draws the factors.
    """

    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        for factor in (self.down, self.up):
            factor.weight.data = 1e-3 * torch.randn(factor.weight.shape, generator=generator)

    def forward(self, states: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        output: Tensor = self.base(states) + self.up(self.down(states))
        return output


def add_lora(decoder: Decoder, rank: int = RANK, seed: int = 0) -> None:
    """Puts a LoRA beside every layer that the adapters change, in place.

    It has as many parameters as an adapter has entries.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, layer in list(decoder.named_modules()):
        if isinstance(layer, nn.Linear) and is_target(f"{name}.weight"):
            decoder.set_submodule(name, LoraLinear(layer, rank, generator))
    decoder.eval().requires_grad_(False)

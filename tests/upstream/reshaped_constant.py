# SPDX-License-Identifier: Apache-2.0
"""Exports a parameter that is only used reshaped, to a .ptd: python reshaped_constant.py [keep].

With "keep" the reshape stays a copy (remove_view_copy=False), and the export works.
"""

from __future__ import annotations

import sys
import warnings

import torch
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from torch import nn


class Scaled(nn.Module):
    """(2, 8) f32 -> (2, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states * self.scale.view(1, 8)


def export(keeps_copy: bool) -> None:
    """Raises executorch.exir.error.InternalError with 1.5.1, unless `keeps_copy`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(Scaled().eval(), (torch.ones(2, 8),))
        to_edge_transform_and_lower(exported).to_executorch(
            ExecutorchBackendConfig(external_constants=True, remove_view_copy=not keeps_copy)
        )


if __name__ == "__main__":
    export("keep" in sys.argv)
    print("exported")

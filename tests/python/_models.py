# SPDX-License-Identifier: Apache-2.0
"""Small PyTorch modules and ExecuTorch helpers; importing this skips where either is missing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

with warnings.catch_warnings():  # executorch's own imports use what Python deprecates
    warnings.simplefilter("ignore")
    pytest.importorskip("executorch.exir")
    from executorch.runtime import Runtime

    import shira_runtime.export.program  # noqa: F401

from torch import Tensor, nn  # noqa: E402


class TinyEncoder(nn.Module):
    """(batch, tokens) int64 ids below 40 -> (batch, tokens, 12): each kind of constant once."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(40, 16)
        self.norm = nn.LayerNorm(16)
        self.wide = nn.Linear(16, 24)
        self.narrow = nn.Linear(24, 12, bias=False)
        self.register_buffer("offset", torch.empty(12))
        self.register_buffer("step", torch.tensor([3, 5], dtype=torch.int64))
        for tensor in [*self.parameters(), self.offset]:
            tensor.data = torch.randn(tensor.shape, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        states = torch.relu(self.wide(self.norm(self.embedding(ids))))
        return self.narrow(states) * self.step[0] + self.offset


def tiny_encoder(dtype: torch.dtype = torch.float32, seed: int = 0) -> TinyEncoder:
    return TinyEncoder(seed).to(dtype).eval().requires_grad_(False)


def tiny_ids() -> Tensor:
    return torch.tensor([[1, 2, 3, 39, 0]])


def tensor_bytes(tensor: Tensor) -> bytes:
    """The values of a tensor in row-major order."""
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    return bytes(flat.numpy().tobytes())


def load_forward(program_path: Path, data_path: Path | None = None) -> Any:
    """Load the method `forward` of a program; the tensors it gives out live as long as it does."""
    return Runtime.get().load_program(program_path, data_path=data_path).load_method("forward")

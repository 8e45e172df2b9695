# SPDX-License-Identifier: Apache-2.0
"""The stored adapters: differences in float16, at positions that a seed gives again.

A file in ``adapters/`` holds for each weight the differences in the order of their positions, and
the rule of the positions in its metadata: `seeded_random_mask` over the published weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from shira_runtime.export.masks import seeded_random_mask

ADAPTERS_FOLDER = Path(__file__).parent / "adapters"
RANK = 4
"""Each weight has as many trained entries as a LoRA of this rank has parameters."""
RUN_LENGTH = 16
"""Entries stand in aligned runs of this many along a row."""
GROUP = 32
"""Weights along a row that share a step of the 4-bit grid."""


def is_target(name: str) -> bool:
    """Whether adapters change the weight of this name: every linear layer but the last."""
    return name.endswith("_proj.weight")


def grid_steps(weight: Tensor) -> Tensor:
    """The step of each group of a weight's 4-bit grid, as the 4-bit program has it.

    Args:
        weight: (rows, columns) float32.

    Returns:
        (rows * columns / GROUP,) float32.
    """
    return (weight.view(-1, GROUP).abs().amax(dim=1) / 7.5).clamp(min=1e-12)


def positions(weight: Tensor, seed: int, rank: int = RANK) -> Tensor:
    """Flat positions that an adapter of this seed may change, ascending.

    Args:
        weight: (rows, columns), as published.
        seed: of the adapter.
        rank: see `RANK`.

    Returns:
        (rank * (rows + columns),) int64.
    """
    layer = nn.Module()
    layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    mask = seeded_random_mask(layer, rank, random_seed=seed, block_length=RUN_LENGTH)
    return mask.flatten().nonzero().flatten()


def save_adapter(path: Path, differences: Mapping[str, Tensor], seed: int) -> None:
    """Stores an adapter; each tensor in the order of `positions`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in differences.items()}
    rule = {"seed": str(seed), "rank": str(RANK), "run_length": str(RUN_LENGTH)}
    save_file(tensors, path, metadata=rule)


def load_entries(path: Path, state: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Reads an adapter into the form that ``shira-export`` takes from a .pt file.

    Args:
        path: of a stored adapter.
        state: the published weights, from which the positions follow.

    Returns:
        Name -> indices (entries,) int64, values (entries,) float32 differences, shape.

    Raises:
        ValueError: the file's rule is another one than this code's.
    """
    with safe_open(path, framework="pt") as file:
        rule = SimpleNamespace(**file.metadata())
        if (rule.rank, rule.run_length) != (str(RANK), str(RUN_LENGTH)):
            raise ValueError(f"{path}: made for rank {rule.rank} and runs of {rule.run_length}")
        return {
            name: {
                "indices": positions(state[name], int(rule.seed)),
                "values": file.get_tensor(name).float(),
                "shape": tuple(state[name].shape),
            }
            for name in file.keys()  # noqa: SIM118 - not a mapping
        }


def merged(state: Mapping[str, Tensor], members: Mapping[str, float]) -> dict[str, Tensor]:
    """The weights with stored adapters added at the given scales; untouched ones are not copied."""
    result = dict(state)
    for name, scale in members.items():
        for weight_name, entry in load_entries(adapter_path(name), state).items():
            if result[weight_name] is state[weight_name]:
                result[weight_name] = state[weight_name].clone()
            flat = result[weight_name].view(-1)
            flat[entry["indices"]] += scale * entry["values"]
    return result


def adapter_path(name: str) -> Path:
    """Where the adapter of this name is stored."""
    return ADAPTERS_FOLDER / f"{name}.safetensors"
